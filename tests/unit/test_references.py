"""A structure set is never an input, and the verdict says how many of its images are here, and where."""

from __future__ import annotations

import pytest

from npc_rtnode.domain.records import Truth
from npc_rtnode.domain.references import judge_references

HERE = {"1.1": 7, "1.2": 7, "1.3": 9}


@pytest.mark.parametrize(
    ("named", "said"),
    [
        (["1.1", "1.2"], "matched 2 of 2 referenced images, in series 7"),
        (["1.1", "1.3"], "matched 2 of 2 referenced images, in series 7, 9"),
        (["1.1", "2.1", "2.2"], "matched 1 of 3 referenced images, in series 7; 2 not here"),
        (["2.1", "2.2"], "matched 0 of 2 referenced images; 2 not here"),
        ([], "it references no image"),
    ],
)
def test_what_is_here_is_counted_against_what_is_named(named: list[str], said: str) -> None:
    """Counts and series numbers alone: no UID stands in the reason."""
    verdict = judge_references(named, HERE)
    assert (verdict.rule, verdict.truth, verdict.because) == ("structure set", Truth.FALSE, said)
