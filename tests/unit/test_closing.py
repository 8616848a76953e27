"""When a series is closed: what each hint is worth, and that no hint closes what is not whole."""

from __future__ import annotations

from datetime import timedelta

import pytest

from npc_rtnode.domain.closing import Ask, Close, Look, Patience, Wait, next_step, stated_count
from npc_rtnode.domain.completeness import Completeness, Kind
from npc_rtnode.domain.records import Asked, Finding, OpenSeries
from tests.builders.ledger import NOON
from tests.fakes.pipeline import header

PATIENCE = Patience(quiet_s=30, released_s=5, apart_s=5)
WHOLE, NO_STACK = Completeness(Kind.WHOLE), Completeness(Kind.NOT_A_STACK)
PARTIAL = Completeness(Kind.PARTIAL, (Finding("GAP", "one is missing"),))


def series(alone: bool = False, **answers: int | None) -> OpenSeries:
    """Twelve instances, the last at noon; `answers` by the second at which they were given: `s5=12`."""
    asked = tuple(
        Asked(NOON + timedelta(seconds=int(at[1:])), "pacs", count, "" if count is not None else "UNREACHABLE")
        for at, count in answers.items()
    )
    inputs = tuple((f"1.2.{n}", "0" * 64) for n in range(12))
    return OpenSeries(1, "R7Q-4KD", "1.2", 1, "NODE", "MR", inputs, NOON, released_alone=alone, asked=asked)


def look(at_s: float, one: OpenSeries, judged: Completeness = WHOLE, source: bool = True, stated: int = 0) -> Look:
    """`at_s` seconds after the last instance."""
    return Look(one, judged, stated or None, source, PATIENCE, NOON + timedelta(seconds=at_s))


def closed(step: object) -> tuple[Kind, str]:
    """What it was closed as, and why."""
    assert isinstance(step, Close), step
    return step.completeness.kind, step.because


def until(step: object) -> float:
    """Seconds after noon that are waited."""
    assert isinstance(step, Wait), step
    return (step.until - NOON).total_seconds()


# --- the source's count -----------------------------------------------------------------------------------------------


def test_a_source_is_asked_before_anything_else() -> None:
    """As soon as the series is looked at, whatever the sender's release says."""
    assert isinstance(next_step(look(5, series(alone=True))), Ask)


def test_the_same_number_twice_closes_at_once() -> None:
    """Equal to what is here, five seconds apart: nothing more is coming, and the reason says it."""
    assert until(next_step(look(5, series(s5=12)))) == 10
    assert isinstance(next_step(look(10, series(s5=12))), Ask)
    kind, because = closed(next_step(look(10, series(s5=12, s10=12))))
    assert (kind, because) == (
        Kind.WHOLE,
        "pacs has 12 instances, and had 5 s before and geometrically whole; 12 instances",
    )


def test_once_is_enough_where_the_scanner_stated_the_same_number() -> None:
    """ImagesInAcquisition, the source and the spool agree."""
    assert "ImagesInAcquisition" in closed(next_step(look(5, series(s5=12), stated=12)))[1]
    assert until(next_step(look(5, series(s5=12), stated=20))) == 10


def test_a_source_that_is_still_filling_is_waited_for() -> None:
    """Another number than before, or more than is here, is asked again until the quiet time is over."""
    assert until(next_step(look(5, series(s5=15)))) == 10
    assert isinstance(next_step(look(10, series(s5=15))), Ask)
    assert until(next_step(look(10, series(s5=15, s10=12)))) == 15


def test_a_source_that_has_more_leaves_the_series_open_for_the_rest() -> None:
    """When time has run out it is partial, with both numbers, and never inferred."""
    one = series(s5=15, s30=15)
    assert closed(next_step(look(35, one)))[0] is Kind.PARTIAL
    step = next_step(look(35, one))
    assert isinstance(step, Close)
    (finding,) = step.completeness.findings
    assert (finding.code, finding.value, finding.limit) == ("SOURCE_HAS_MORE", 12.0, 15.0)


@pytest.mark.parametrize(("count", "said"), [(0, "pacs has 0 instances"), (None, "could not be asked: UNREACHABLE")])
def test_a_source_that_cannot_tell_leaves_it_to_time(count: int | None, said: str) -> None:
    """One that has fewer than are here, or does not answer, neither closes the series nor holds it up."""
    assert until(next_step(look(5, series(s5=count)))) in {10, 30}
    kind, because = closed(next_step(look(36, series(s5=count, s31=count))))
    assert kind is Kind.WHOLE
    assert because.startswith("quiet")
    assert said in because


def test_answers_of_before_the_last_instance_count_for_nothing() -> None:
    """What the source had then is no word about now."""
    one = series(s5=12, s10=12)
    later = OpenSeries(
        **{**{f: getattr(one, f) for f in one.__slots__}, "last_received_at": NOON + timedelta(seconds=11)}
    )
    assert isinstance(next_step(look(16, later)), Ask)


def test_a_source_closes_what_will_never_be_a_stack_too() -> None:
    """A localizer need not wait for time."""
    assert closed(next_step(look(10, series(s5=12, s10=12), NO_STACK)))[0] is Kind.NOT_A_STACK


# --- the sender's release ---------------------------------------------------------------------------------------------


def test_a_released_whole_stack_is_closed_without_waiting() -> None:
    """One association brought all of it and ended as it should; no source could be asked."""
    kind, because = closed(next_step(look(5, series(alone=True), source=False)))
    assert kind is Kind.WHOLE
    assert because.startswith("the one association that brought it was released")


@pytest.mark.parametrize("judged", [PARTIAL, NO_STACK])
def test_a_release_closes_nothing_that_is_not_whole(judged: Completeness) -> None:
    """The hint is a hint: a gap, or what is no stack, waits for time."""
    assert until(next_step(look(5, series(alone=True), judged, source=False))) == 30


def test_several_associations_wait_for_time() -> None:
    """Where each slice comes by its own association, a release says nothing."""
    assert until(next_step(look(5, series(), source=False))) == 30


# --- time -------------------------------------------------------------------------------------------------------------


def test_a_doubtful_transfer_is_never_closed_early_nor_as_whole() -> None:
    """An aborted half is not asked about: a source that was filled by the same transfer has the same half."""
    for at_s in (5, 29):
        assert until(next_step(look(at_s, series(alone=True, s5=12, s10=12), PARTIAL))) == 30
    assert closed(next_step(look(30, series(alone=True, s5=12, s10=12), PARTIAL)))[0] is Kind.PARTIAL


def test_quiet_is_the_last_resort() -> None:
    """Without source and release nothing happens before, and the reason says that it was time."""
    assert until(next_step(look(29, series(), source=False))) == 30
    assert closed(next_step(look(30, series(), source=False)))[1] == "quiet and geometrically whole; 12 instances"


def test_a_stated_count_is_one_that_all_slices_state() -> None:
    """Two different ones, or none on some, are none."""
    assert stated_count([header(1, images_in_acquisition=2), header(2, images_in_acquisition=2)]) == 2
    assert stated_count([header(1, images_in_acquisition=2), header(2)]) is None
    assert stated_count([header(1)]) is None
