"""May new senders come in? Free space and backlog against their marks, with hysteresis so that the door does not flap.

Three floors of caution (ADR 0016): below the warning mark people are told; below the refusing mark new associations are
rejected as a transient condition, while those that stand go on; below the reserve itself every instance is answered
A700 (the spool does that). The door opens again only above the reopening mark.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from npc_rtnode.domain.records import Finding

EASED = 0.8
"""A backlog that has shut the door opens it again at this share of its limit."""
MEGABYTE = 1 << 20


class Level(StrEnum):
    """How the door stands."""

    OPEN = "OPEN"
    LOW = "LOW"  # open, and a person should look
    SHUT = "SHUT"  # new associations are rejected for now


@dataclass(frozen=True, slots=True)
class Marks:
    """Free bytes, and jobs that wait; a backlog of 0 sets no limit."""

    warn_bytes: float
    refuse_bytes: float
    reopen_bytes: float
    max_backlog: int


@dataclass(frozen=True, slots=True)
class Standing:
    """The level, and the number that decided it; no finding where the door is open."""

    level: Level
    finding: Finding | None = None


def judge(before: Level, free_bytes: int, backlog: int, marks: Marks) -> Standing:
    """How the door stands now, having stood as `before`."""
    shut = before is Level.SHUT
    if finding := _disk(free_bytes, marks.reopen_bytes if shut and marks.refuse_bytes else marks.refuse_bytes):
        return Standing(Level.SHUT, finding)
    if finding := _backlog(backlog, marks.max_backlog * (EASED if shut else 1)):
        return Standing(Level.SHUT, finding)
    if finding := _disk(free_bytes, marks.warn_bytes) or _backlog(backlog, marks.max_backlog * EASED):
        return Standing(Level.LOW, finding)
    return Standing(Level.OPEN)


def _disk(free_bytes: int, mark: float) -> Finding | None:
    if free_bytes >= mark:
        return None
    free, wanted = free_bytes / MEGABYTE, mark / MEGABYTE
    return Finding("DISK_LOW", f"{free:.0f} MB free, {wanted:.0f} MB wanted", round(free), round(wanted))


def _backlog(backlog: int, limit: float) -> Finding | None:
    if not limit or backlog <= limit:
        return None
    return Finding("BACKLOG", f"{backlog} jobs wait, at most {limit:.0f} may", backlog, limit)
