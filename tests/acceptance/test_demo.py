"""The demo: exit 0 only if what arrived at TPS and archive agrees with the phantom's truth."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.acceptance.node import run_cli

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(400)]


def test_the_demo_holds(tmp_path: Path) -> None:
    """One JSON document, every check of it true, page, picture and objects kept, exit 0."""
    said = run_cli("demo", "--json", "--output", str(tmp_path / "kept"))
    report = json.loads(said.stdout)
    assert [check for check in report["checks"] if not check["holds"]] == []
    assert {"GTV Dice against truth", "T-stage in the SR", "RTSTRUCT bytes TPS = PACS"} <= {
        check["check"] for check in report["checks"]
    }
    assert (said.returncode, report["ok"]) == (0, True)
    kept = {str(path.relative_to(tmp_path / "kept").parent) for path in (tmp_path / "kept").rglob("*.dcm")}
    assert kept == {"tps", "pacs"}
    assert "computed on cpu" in (tmp_path / "kept" / "study.html").read_text("utf-8")
    assert (tmp_path / "kept" / "study.png").read_bytes().startswith(b"\x89PNG")
