"""The wheel carries what an installed node needs, and nothing that would clash with another package."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names in a freshly built wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    build = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run([sys.executable, "-m", "pip", *build], check=True)
    (wheel,) = folder.glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "pattern", "place"),
    [
        ("alembic", "**/*.py", "npc_rtnode/_alembic"),
        ("alembic", "script.py.mako", "npc_rtnode/_alembic"),
        ("npc_rtnode", "**/*.py", "npc_rtnode"),
        ("npc_rtnode/rules", "*.toml", "npc_rtnode/rules"),
        ("model", "**/*.py", "model"),
        ("model/bundles/default", "**/*.*", "model/bundles/default"),
    ],
)
def test_the_wheel_carries(content: set[str], source: str, pattern: str, place: str) -> None:
    here = {f"{place}/{path.relative_to(ROOT / source).as_posix()}" for path in (ROOT / source).glob(pattern)}
    here = {name for name in here if "__pycache__" not in name and "/runs/" not in name}
    assert here, f"nothing matches {source}/{pattern}"
    assert here <= content


@pytest.mark.slow
def test_the_wheel_installs_two_packages_only(content: set[str]) -> None:
    top = {name.split("/")[0] for name in content}
    assert {name for name in top if not name.endswith(".dist-info")} == {"npc_rtnode", "model"}
