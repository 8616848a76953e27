"""The built wheel alone, installed away from the checkout, in an empty folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.acceptance, pytest.mark.slow, pytest.mark.timeout(600)]


def run(*command: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """A command in a folder, with nothing of ours in its environment."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "NPC_RTNODE", "VIRTUAL_ENV"))}
    return subprocess.run(list(command), cwd=folder, env=clean, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment's bin folder: our wheel is its own, the libraries are lent by this environment."""
    folder = tmp_path_factory.mktemp("installed")
    build = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run([sys.executable, "-m", "pip", *build], check=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    python = folder / "venv" / "bin" / "python"
    install = ["install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", "--python", str(python), *install], check=True)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    # A .pth adds the folder but not the .pth files in it, so the checkout's editable install is not seen through it.
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n", "utf-8")
    return python.parent


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """An empty folder."""
    return tmp_path


def test_it_is_the_wheel_that_runs(installed: Path, empty: Path) -> None:
    """Both packages are imported from the fresh environment, none from the checkout."""
    tell = "import npc_rtnode, model; print(npc_rtnode.__file__); print(model.__file__)"
    said = run(installed / "python", "-c", tell, folder=empty)
    assert said.returncode == 0, said.stderr
    for line in said.stdout.splitlines():
        assert Path(line).is_relative_to(installed.parent), line


def test_the_demo_works_in_an_empty_folder(installed: Path, empty: Path) -> None:
    """Migrations, rules, templates and the default bundle come from the wheel: the demo holds, exit 0."""
    said = run(installed / "npc-rtnode", "demo", "--json", folder=empty)
    assert said.stdout, said.stderr
    report = json.loads(said.stdout)
    assert [check for check in report["checks"] if not check["holds"]] == []
    assert (said.returncode, report["ok"]) == (0, True)
    assert {path.name for path in empty.iterdir()} == {"demo-result"}
