"""Closing by the sender's release and by the source's count: in the ledger, on both databases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from npc_rtnode.adapters.database.intake import IntakeLedger
from npc_rtnode.cli.studies import _series_story
from npc_rtnode.domain.closing import Patience
from npc_rtnode.domain.records import SliceHeader
from npc_rtnode.errors import NodeError, Unreachable
from npc_rtnode.pipeline.assemble import Assembler
from tests.builders.ledger import QUIET_S, Ledger
from tests.fakes.pipeline import FakeReader, FakeSpool, header

STACK = [header(n) for n in range(1, 13)]
PATIENCE = Patience(QUIET_S, 5, 5)


@dataclass
class FakeSources:
    """A PACS that answers for PACS, and says one after the other what it is told to."""

    answers: list[int | NodeError | None] = field(default_factory=list)
    asked: list[tuple[str, str, str]] = field(default_factory=list)

    def answers_for(self, calling_ae: str) -> bool:
        """For PACS alone."""
        return calling_ae == "PACS"

    def name(self, calling_ae: str) -> str:
        """Its name."""
        return "pacs"

    def count(self, calling_ae: str, study_uid: str, series_uid: str) -> int | None:
        """The next answer."""
        self.asked.append((calling_ae, study_uid, series_uid))
        answer = self.answers.pop(0)
        if isinstance(answer, NodeError):
            raise answer
        return answer


@pytest.fixture(autouse=True)
def early(ledger: Ledger) -> None:
    """A ledger that has a series looked at five seconds after a release."""
    ledger.intake = IntakeLedger(ledger.sessions, "site-key", QUIET_S, 5)


def receive(ledger: Ledger, slices: Sequence[SliceHeader] = STACK, each: bool = False, how: str = "released") -> None:
    """All slices over one association, or each over its own; how the last one ended."""
    for number, one in enumerate(slices, 1):
        ledger.receive(one.sop_uid)
        if each or number == len(slices):
            ledger.end(how)


def look(ledger: Ledger, slices: Sequence[SliceHeader] = STACK, sources: FakeSources | None = None) -> int:
    """One look of the assembler now; how many series were due."""
    return Assembler(ledger.series, FakeSpool(), FakeReader(list(slices)), lambda: ledger.now, PATIENCE, sources).run()


def series(ledger: Ledger) -> dict[str, Any]:
    """The one series, as `why` has it."""
    return dict(ledger.queries.study(ledger.study())["series"][-1])


def test_a_released_whole_series_is_complete_after_five_seconds(ledger: Ledger) -> None:
    """Not before, and the ledger says why."""
    receive(ledger)
    ledger.later(4)
    assert look(ledger) == 0
    ledger.later(2)
    assert look(ledger) == 1
    assert series(ledger)["state"] == "COMPLETE"
    assert series(ledger)["closed_because"].startswith("the one association that brought it was released")


def test_a_gap_waits_for_the_rest_of_the_time(ledger: Ledger) -> None:
    """A release with a hole in the stack is no end; after the quiet time the series stalls."""
    holed = [one for one in STACK if one.sop_uid != "1.2.3.6"]
    receive(ledger, holed)
    ledger.later(6)
    assert look(ledger, holed) == 1
    assert look(ledger, holed) == 0
    assert series(ledger)["state"] == "RECEIVING"
    assert ledger.series.next_due(ledger.now) is not None
    ledger.later(QUIET_S)
    look(ledger, holed)
    assert series(ledger)["state"] == "STALLED"


def test_slices_by_associations_of_their_own_wait_for_time(ledger: Ledger) -> None:
    """Eleven releases were followed by another slice; the twelfth is no better."""
    receive(ledger, each=True)
    ledger.later(6)
    look(ledger)
    assert series(ledger)["state"] == "RECEIVING"
    ledger.later(QUIET_S)
    look(ledger)
    assert series(ledger)["closed_because"].startswith("quiet and geometrically whole")


@pytest.mark.parametrize("how", ["aborted", "lost"])
def test_an_aborted_half_is_never_closed_early_nor_asked_about(ledger: Ledger, how: str) -> None:
    """It stalls when time is over, whatever its source would say."""
    sources = FakeSources()
    receive(ledger, STACK[:6], how=how)
    ledger.later(6)
    assert look(ledger, STACK[:6], sources) == 0
    ledger.later(QUIET_S)
    assert look(ledger, STACK[:6], sources) == 1
    assert series(ledger)["state"] == "STALLED"
    assert sources.asked == []


def test_the_sources_count_said_twice_closes_the_series(ledger: Ledger) -> None:
    """Both answers and the reason stand in the ledger and in the story that `why` tells."""
    sources = FakeSources([12, 12])
    receive(ledger, each=True)
    for _ in range(2):
        ledger.later(5.5)
        assert look(ledger, sources=sources) == 1
    found = series(ledger)
    assert (found["state"], [one["instances"] for one in found["asked"]]) == ("COMPLETE", [12, 12])
    assert sources.asked == [("PACS", "1.2", "1.2.3")] * 2
    story = "\n".join(_series_story(found))
    assert story.count("source said       pacs at") == 2
    assert "pacs has 12 instances, and had" in story
    assert [e["event"] for e in ledger.queries.history(ledger.study())].count("SOURCE_ASKED") == 2


def test_a_source_that_is_still_filling_keeps_the_series_open(ledger: Ledger) -> None:
    """It has fifteen, then twenty: twelve are not closed as whole; with the rest here and said twice they are."""
    sources, more = FakeSources([15, 20, 20, 20]), [header(n) for n in range(1, 21)]
    receive(ledger)
    for _ in range(2):
        ledger.later(5.5)
        look(ledger, sources=sources)
    assert series(ledger)["state"] == "RECEIVING"
    receive(ledger, more[12:])
    for _ in range(2):
        ledger.later(5.5)
        look(ledger, more, sources)
    assert (series(ledger)["state"], series(ledger)["instances"]) == ("COMPLETE", 20)


def test_a_source_that_keeps_the_rest_to_itself_stalls_the_series(ledger: Ledger) -> None:
    """With both numbers; the rest opens it again, or a person says that it is all."""
    sources = FakeSources([20] * 20)
    receive(ledger)
    for _ in range(9):
        ledger.later(5.5)
        look(ledger, sources=sources)
    assert series(ledger)["state"] == "STALLED"
    assert series(ledger)["reasons"] == ["SOURCE_HAS_MORE: pacs has 20 instances, 12 are here"]
    assert "released on the word of" in ledger.desk.release(ledger.study(), ledger.word())[0]


def test_a_source_that_is_away_is_asked_once_and_time_decides(ledger: Ledger) -> None:
    """Neither lost nor held up; what it was is told by its code."""
    sources = FakeSources([Unreachable("secret host"), Unreachable("secret host")])
    receive(ledger)
    ledger.later(6)
    look(ledger, sources=sources)
    ledger.later(QUIET_S)
    look(ledger, sources=sources)
    assert series(ledger)["state"] == "COMPLETE"
    assert series(ledger)["closed_because"].startswith("quiet (pacs could not be asked: UNREACHABLE)")
    assert len(sources.asked) == 1


def test_an_instance_that_comes_while_the_source_is_asked_wins(ledger: Ledger) -> None:
    """The look was at twelve; the thirteenth has set its own time, and nothing is closed."""
    sources = FakeSources([13, 12])
    receive(ledger)
    ledger.later(6)
    (due,) = ledger.series.quiet(ledger.now)
    ledger.receive("1.2.3.13")
    before = ledger.series.next_due(ledger.now)
    ledger.series.wait(due, ledger.now)
    assert ledger.series.next_due(ledger.now) == before
    assert look(ledger, sources=sources) == 0
