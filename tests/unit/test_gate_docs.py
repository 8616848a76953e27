"""docs/gates.md names every gate that the code has, and no gate that it has not."""

from __future__ import annotations

import re
from pathlib import Path

from npc_rtnode.domain.plausibility import DISTANCE, GAUGES, REFERENCE

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "gates.md").read_text("utf-8")
SOURCES = [(ROOT / "npc_rtnode" / "domain" / f"{name}.py").read_text("utf-8") for name in ("gates", "plausibility")]
NAME = re.compile(r'(?:GateResult|_at_most|_at_least|_equal|_holds_if|_judge_\w+|unjudged)\(\s*"([A-Z][A-Z_]+)"')


def named_in_code() -> set[str]:
    """Every literal name that a gate's answer is made with, and the gauges'."""
    return {name for text in SOURCES for name in NAME.findall(text)} | {
        gauge.code for gauge in (*GAUGES, REFERENCE, DISTANCE)
    }


def test_the_page_names_every_gate() -> None:
    """A gate that is added must be explained."""
    assert len(named_in_code()) > 45
    assert sorted(name for name in named_in_code() if f"`{name}`" not in PAGE) == []


def test_the_page_names_no_other() -> None:
    """A gate that is gone must go from the page."""
    rows = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    told = {name for row in rows for name in re.findall(r"`([A-Z][A-Z_]+)`", row)}
    assert sorted(told - named_in_code() - {"FAR_OUTSIDE_TRAINING"}) == []
