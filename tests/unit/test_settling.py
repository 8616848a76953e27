"""When a study has settled: quiet, nothing under way, and never waited for without end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from npc_rtnode.domain.settling import LONGEST_S, Calm

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def later(seconds: float) -> datetime:
    """Seconds after noon, when the oldest complete series was closed."""
    return NOON + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("last_s", "receiving", "quiet_s", "settles_s"),
    [
        (-30, (), 60, 30),  # the last image 30 s before the series was closed
        (-90, (), 60, -30),  # quiet long enough already
        (100, (), 60, 160),  # more came since
        (-30, (7,), 60, LONGEST_S),  # another series is under way
        (LONGEST_S + 5, (), 60, LONGEST_S),  # a sender that never pauses
        (100, (7,), 0, 0),  # each series at once
    ],
)
def test_a_study_settles(last_s: float, receiving: tuple[int, ...], quiet_s: float, settles_s: float) -> None:
    """Quiet for the set time after its last image, none under way, at most an hour, or at once."""
    assert Calm(NOON, later(last_s), receiving).settles_at(quiet_s) == later(settles_s)


def test_people_are_told_what_is_waited_for() -> None:
    """The time for a quiet study, the series for one that is still coming in."""
    assert Calm(NOON, NOON).words(60) == "waiting for the study to settle until 12:01:00 UTC"
    told = Calm(NOON, NOON, (3, 4)).words(60)
    assert told == "waiting for series 3, 4 of the study, still being received; at the latest until 13:00:00 UTC"
