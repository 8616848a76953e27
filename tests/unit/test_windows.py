"""Off-peak windows by the wall clock, also in the two nights when it is set, and the deadline that overrides them."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest

from npc_rtnode.domain.windows import OffPeak, Window

PARIS = ZoneInfo("Europe/Paris")
NIGHT = Window(time(20), time(6), PARIS)
SMALL_HOURS = Window(time(2, 15), time(2, 45), PARIS)


def minutes_open(window: Window, begin: datetime, hours: int) -> int:
    """For how many minutes it is open from then on."""
    return sum(window.is_open(begin + timedelta(minutes=minute)) for minute in range(hours * 60))


@pytest.mark.parametrize(
    ("shown", "is_open"), [("19:59", False), ("20:00", True), ("23:59", True), ("00:00", True), ("05:59", True)]
)
def test_a_window_over_midnight(shown: str, is_open: bool) -> None:
    """Begin belongs to it, end does not."""
    hour, minute = map(int, shown.split(":"))
    assert NIGHT.is_open(datetime(2026, 11, 23, hour, minute, tzinfo=PARIS)) is is_open
    assert not NIGHT.is_open(datetime(2026, 11, 23, 6, 0, tzinfo=PARIS))


@pytest.mark.parametrize(
    ("noon_before", "minutes"),
    [
        (datetime(2026, 1, 10, 11, tzinfo=UTC), 600),
        (datetime(2026, 3, 28, 11, tzinfo=UTC), 540),  # the hour from two to three is left out
        (datetime(2026, 10, 24, 10, tzinfo=UTC), 660),  # the hour from two to three comes twice
    ],
)
def test_the_nights_when_the_clock_is_set(noon_before: datetime, minutes: int) -> None:
    """From 20 to 6 on the wall: ten hours, nine in spring, eleven in autumn; open without a gap."""
    assert minutes_open(NIGHT, noon_before, 24) == minutes


def test_a_window_within_the_hour_that_is_left_out() -> None:
    """In that night it is not there, and in autumn it is there twice; the deadline sees to what waits for it."""
    assert minutes_open(SMALL_HOURS, datetime(2026, 3, 28, 11, tzinfo=UTC), 24) == 0
    assert minutes_open(SMALL_HOURS, datetime(2026, 10, 24, 10, tzinfo=UTC), 24) == 60
    rule = OffPeak(SMALL_HOURS, 50, timedelta(hours=12))
    due = datetime(2026, 3, 28, 20, tzinfo=UTC)
    begins = next(due + timedelta(minutes=m) for m in range(10_000) if rule.lets(0, due, due + timedelta(minutes=m)))
    assert begins == due + rule.deadline


def test_the_urgent_waits_for_no_window() -> None:
    """From `below` on work begins at any time; below it at night, or after the deadline."""
    rule, noon = OffPeak(NIGHT, 50, timedelta(hours=24)), datetime(2026, 11, 23, 12, tzinfo=UTC)
    assert rule.lets(50, noon, noon)
    assert not rule.lets(49, noon, noon)
    assert rule.lets(49, noon, noon + timedelta(hours=9))
    assert not rule.lets(49, noon - timedelta(hours=23), noon)
    assert rule.lets(49, noon - timedelta(hours=24), noon)
