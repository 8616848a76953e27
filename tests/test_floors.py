"""The floors hold, and each contract bites: a planted violation turns exactly that contract red."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def lint(tree: Path, contract: str | None = None) -> subprocess.CompletedProcess[str]:
    """import-linter over the packages of that tree."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-logo", "--no-cache"]
    chosen = ["--contract", contract] if contract else []
    environment = os.environ | {"PYTHONPATH": str(tree), "COLUMNS": "200"}
    return subprocess.run([*command, *chosen], cwd=tree, env=environment, capture_output=True, text=True, check=False)


@dataclass(frozen=True)
class Planted:
    """One line in one room that the named contract must refuse."""

    contract: str
    room: str
    line: str


PLANTED = [
    Planted("node-floors", "npc_rtnode/domain/retry.py", "import npc_rtnode.settings"),
    Planted("node-floors", "npc_rtnode/pipeline/receive.py", "import npc_rtnode.adapters.spool"),
    Planted("node-floors", "npc_rtnode/ports.py", "import npc_rtnode.app"),
    Planted("node-floors", "npc_rtnode/drawing/views.py", "import npc_rtnode.settings"),
    Planted("node-floors", "npc_rtnode/drawer.py", "# a room that no floor names"),
    Planted("adapters-are-strangers", "npc_rtnode/adapters/spool.py", "import npc_rtnode.adapters.database.engine"),
    Planted("stages-meet-in-the-ledger", "npc_rtnode/pipeline/receive.py", "import npc_rtnode.pipeline.planted"),
    Planted("domain-is-pure", "npc_rtnode/domain/retry.py", "import time"),
    Planted("domain-is-pure", "npc_rtnode/domain/identifiers.py", "def read() -> None:\n    import pydicom"),
    Planted("domain-is-pure", "npc_rtnode/domain/measuring.py", "from PIL import Image"),
    Planted("receiver-without-torch", "npc_rtnode/adapters/dicom/listener/server.py", "import highdicom"),
    Planted("receiver-without-torch", "npc_rtnode/domain/records.py", "import torch"),
    Planted("one-door", "npc_rtnode/adapters/spool.py", "import model.bundle"),
    Planted("model-stands-alone", "model/labels.py", "import npc_rtnode.errors"),
    Planted("model-floors", "model/labels.py", "import model.bundle"),
    Planted("no-cycles", "npc_rtnode/domain/records.py", "import npc_rtnode.domain.identifiers"),
]


@pytest.fixture
def copied_tree(tmp_path: Path) -> Path:
    """The code alone, where it may be spoiled."""
    for package in ("npc_rtnode", "model"):
        python_only = shutil.ignore_patterns("__pycache__", "*.safetensors", "*.npz", "bundles", "runs")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=python_only)
    shutil.copy(ROOT / ".importlinter", tmp_path)
    (tmp_path / "npc_rtnode" / "pipeline" / "planted.py").write_text('"""A stage."""\n')
    return tmp_path


def test_the_floors_hold() -> None:
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: f"{planted.contract}:{planted.room}")
def test_a_planted_violation_is_refused(planted: Planted, copied_tree: Path) -> None:
    assert lint(copied_tree, planted.contract).returncode == 0, "broken before anything was planted"
    with (copied_tree / planted.room).open("a") as room:
        room.write(f"\n{planted.line}\n")
    result = lint(copied_tree, planted.contract)
    assert "Contracts: 0 kept, 1 broken." in result.stdout, result.stdout + result.stderr
    assert result.returncode == 1


def test_every_contract_has_a_planted_violation() -> None:
    sections = (ROOT / ".importlinter").read_text().split("[importlinter:contract:")[1:]
    assert {section.split("]")[0] for section in sections} == {planted.contract for planted in PLANTED}


def test_what_the_receiver_imports_at_start_is_light() -> None:
    heavy = ("torch", "monai", "rt_utils", "cv2", "SimpleITK", "highdicom")
    rooms = "npc_rtnode.app, npc_rtnode.cli, npc_rtnode.adapters.dicom.listener.server, npc_rtnode.pipeline.receive"
    program = f"import sys, {rooms}; print(*(name for name in {heavy} if name in sys.modules))"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
