"""Is there room on a disk? Free bytes against what is wanted, with hysteresis, so that an alarm does not flap."""

from __future__ import annotations

from dataclasses import dataclass

EASED = 1.5
"""A disk that was low counts as having room again above so many times what is wanted."""


@dataclass(frozen=True, slots=True)
class Room:
    """A file system by the folder that lies on it (of a further host: `folder@host`), and its bytes."""

    name: str
    free_bytes: int
    wanted_bytes: int


def is_low(before: bool, room: Room) -> bool:
    """Whether somebody should make space, as the disk stands now, having been low before or not."""
    return room.free_bytes < room.wanted_bytes * (EASED if before else 1)
