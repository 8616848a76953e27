"""A machine without X: nothing that this environment would load there asks for a window system.

rt-utils wants opencv-python, whose wheels link X libraries; deploy/shims puts opencv-python-headless in its place. What
is read here is what the dynamic linker reads: the libraries that every shared object asks for, all the way down.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

SITE = Path(sysconfig.get_path("purelib"))
WINDOWS = re.compile(r"^\s*(lib(X11|Xext|Xrender|xcb|GL|GLX|EGL|OpenGL|gtk|gdk|Qt\d|wayland)[\w.+-]*)", re.MULTILINE)
LINKED = ("cv2", "SimpleITK", "torch", "scipy", "numpy", "contourpy", "pylibjpeg", "safetensors", "sqlalchemy")
LOADED = "import cv2, rt_utils, SimpleITK, torch, highdicom, contourpy, npc_rtnode.adapters.dicom.objects"


def asked_for(library: Path) -> str:
    """What the dynamic linker would look for."""
    ldd = shutil.which("ldd")
    assert ldd, "ldd belongs to the C library"
    return subprocess.run([ldd, str(library)], capture_output=True, text=True, check=False).stdout


@pytest.mark.slow
@pytest.mark.parametrize("package", LINKED)
def test_no_shared_object_links_a_window_system(package: str) -> None:
    """Every shared object of the package, and whatever those link in turn."""
    libraries = sorted(path for path in (SITE / package).rglob("*.so*") if path.is_file())
    assert libraries or package not in {"cv2", "SimpleITK", "torch"}
    windows = {str(path.relative_to(SITE)): WINDOWS.findall(asked_for(path)) for path in libraries}
    assert {name: found for name, found in windows.items() if found} == {}


def test_no_window_system_is_loaded() -> None:
    """With all of the node's heavy libraries imported, no such library of the machine is mapped into the process.

    Pillow's wheel brings a libxcb of its own, beside itself; that needs nothing of the machine.
    """
    code = f"{LOADED}\nprint(open('/proc/self/maps').read())"
    maps = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    mapped = {Path(line.split(maxsplit=5)[5]) for line in maps.splitlines() if ".so" in line}
    assert any("cv2" in path.name for path in mapped)
    ours = "\n".join(path.name for path in mapped if not path.is_relative_to(SITE))
    assert "libc.so" in ours
    assert WINDOWS.findall(ours) == []


def test_the_pattern_would_find_one() -> None:
    """As ldd writes them."""
    said = (
        "\tlibGL.so.1 => not found\n\tlibX11-xcb.so.1 => /usr/lib/libX11-xcb.so.1 (0x00)\n\tlibc.so.6 => /lib/libc.so.6"
    )
    assert [found[0] for found in WINDOWS.findall(said)] == ["libGL.so.1", "libX11-xcb.so.1"]
