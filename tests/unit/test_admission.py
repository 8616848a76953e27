"""The door's judgement: marks, hysteresis, the number that decided it; and that each change is told once."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from npc_rtnode.domain.admission import MEGABYTE, Level, Marks, Standing, judge
from npc_rtnode.errors import LedgerUnavailable
from npc_rtnode.pipeline.admit import Gatekeeper

MARKS = Marks(warn_bytes=500 * MEGABYTE, refuse_bytes=200 * MEGABYTE, reopen_bytes=300 * MEGABYTE, max_backlog=10)


@pytest.mark.parametrize(
    ("before", "free_mb", "backlog", "level", "code"),
    [
        (Level.OPEN, 500, 0, Level.OPEN, None),
        (Level.OPEN, 499, 0, Level.LOW, "DISK_LOW"),
        (Level.OPEN, 200, 0, Level.LOW, "DISK_LOW"),
        (Level.OPEN, 199, 0, Level.SHUT, "DISK_LOW"),
        (Level.SHUT, 299, 0, Level.SHUT, "DISK_LOW"),
        (Level.SHUT, 300, 0, Level.LOW, "DISK_LOW"),
        (Level.LOW, 299, 0, Level.LOW, "DISK_LOW"),
        (Level.OPEN, 900, 8, Level.OPEN, None),
        (Level.OPEN, 900, 9, Level.LOW, "BACKLOG"),
        (Level.OPEN, 900, 10, Level.LOW, "BACKLOG"),
        (Level.OPEN, 900, 11, Level.SHUT, "BACKLOG"),
        (Level.SHUT, 900, 9, Level.SHUT, "BACKLOG"),
        (Level.SHUT, 900, 8, Level.OPEN, None),
        (Level.SHUT, 100, 99, Level.SHUT, "DISK_LOW"),
    ],
)
def test_the_level_follows_from_marks_and_the_level_before(
    before: Level, free_mb: int, backlog: int, level: Level, code: str | None
) -> None:
    """Shut below one mark, open above another; between the two it stays what it was."""
    standing = judge(before, free_mb * MEGABYTE, backlog, MARKS)
    assert (standing.level, standing.finding and standing.finding.code) == (level, code)


def test_zero_sets_no_limit() -> None:
    """A site that wants neither mark nor backlog is never shut; the reserve itself is the spool's to hold."""
    marks = Marks(0, 0, 0, 0)
    assert judge(Level.OPEN, 0, 10**6, marks) == Standing(Level.OPEN)
    assert judge(Level.SHUT, 0, 10**6, Marks(5, 0, 5, 0)).level is Level.LOW


class FakePages:
    """Remembers what was recorded."""

    def __init__(self, waiting: int = 0, last: Level = Level.OPEN) -> None:
        self.waiting, self.before, self.away = waiting, last, False
        self.told: list[Level] = []

    def backlog(self) -> int:
        if self.away:
            raise LedgerUnavailable("the test says so")
        return self.waiting

    def admission_changed(self, standing: Standing, now: datetime) -> None:
        self.told.append(standing.level)

    def last(self) -> Level:
        return self.before


class Disk:
    """Free megabytes, as told."""

    def __init__(self, free_mb: int) -> None:
        self.free_mb = free_mb

    def __call__(self) -> int:
        return self.free_mb * MEGABYTE


def gatekeeper(pages: FakePages, disk: Disk) -> Gatekeeper:
    """At the door, with the marks above."""
    return Gatekeeper(pages, disk, MARKS, lambda: datetime(2026, 11, 25, tzinfo=UTC))


def test_the_disk_is_looked_at_for_each_caller_and_the_reason_has_its_numbers() -> None:
    """No beat has to pass between a disk that fills and a caller who is refused; nor the other way."""
    disk = Disk(900)
    door = gatekeeper(FakePages(), disk)
    assert door.refusal() is None
    disk.free_mb = 150
    assert door.refusal() == "for now: DISK_LOW: 150 MB free, 200 MB wanted"
    disk.free_mb = 250
    assert door.refusal() == "for now: DISK_LOW: 250 MB free, 300 MB wanted", "it opens above its own mark"
    disk.free_mb = 300
    assert door.refusal() is None


def test_the_backlog_is_asked_for_at_each_beat() -> None:
    """Too much work shuts the door; four fifths of it open it again."""
    pages = FakePages(waiting=11)
    door = gatekeeper(pages, Disk(900))
    assert door.refusal() is None
    door.look()
    assert door.refusal() == "for now: BACKLOG: 11 jobs wait, at most 8 may", "what opens it again"
    pages.waiting = 8
    door.look()
    assert door.refusal() is None


def test_each_change_is_recorded_once_and_a_restart_goes_on() -> None:
    """One event a change of level; a new process knows from the ledger what was told last."""
    pages, disk = FakePages(), Disk(100)
    door = gatekeeper(pages, disk)
    assert [door.look() for _ in range(3)] == [True, False, False]
    disk.free_mb = 900
    assert [door.look() for _ in range(2)] == [True, False]
    assert pages.told == [Level.SHUT, Level.OPEN]
    disk.free_mb = 100
    again = FakePages(last=Level.SHUT)
    assert gatekeeper(again, disk).look() is False
    assert again.told == []


def test_with_the_ledger_away_the_last_backlog_stands() -> None:
    """Nobody is let in, or kept out, because a question was not answered."""
    pages = FakePages(waiting=11)
    door = gatekeeper(pages, Disk(900))
    door.look()
    pages.away = True
    assert door.look() is False
    assert door.refusal() is not None


def test_a_persons_pause_shuts_the_door_from_the_next_beat_on() -> None:
    """Whatever the disk says; callers hear who and why, as something that will pass."""
    words: list[str | None] = [None]
    door = Gatekeeper(FakePages(), Disk(900), MARKS, lambda: datetime(2026, 11, 25, tzinfo=UTC), lambda: words[0])
    words[0] = "by operator:ada since noon: new switch"
    assert door.refusal() is None
    door.look()
    assert door.refusal() == "for now: PAUSED by operator:ada since noon: new switch"
    words[0] = None
    door.look()
    assert door.refusal() is None
