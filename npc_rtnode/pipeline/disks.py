"""Disks: the clock looks at each, whether anything comes or not; one that runs low, or has room again, is told once.

The spool of a node is left to its door (pipeline/admit), which looks at it every two seconds and turns senders away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from npc_rtnode import log
from npc_rtnode.domain.disks import Room, is_low
from npc_rtnode.domain.retry import code_of
from npc_rtnode.errors import LedgerUnavailable
from npc_rtnode.ports import Clock, DiskPages

logger = log.get(__name__)
_MEGABYTE = 1 << 20


class DiskWatch:
    """Remembers how each disk stood. What a full disk keeps out of the ledger is said in the log, recorded later."""

    def __init__(self, pages: DiskPages, rooms: Callable[[], Sequence[Room]], clock: Clock) -> None:
        self._pages = pages
        self._rooms = rooms
        self._clock = clock
        self._recorded: set[str] | None = None  # the low ones; a restart goes on from what the ledger says
        self._low: set[str] = set()

    def look(self) -> int:
        """At each beat; how many disks have come to stand otherwise."""
        rooms = self._rooms()
        try:
            if self._recorded is None:
                self._recorded = self._pages.low()
                self._low = set(self._recorded)
            return self._judge(rooms, self._recorded)
        except LedgerUnavailable as error:
            logger.warning("how a disk stands could not be recorded", because=code_of(error))
            return 0

    def _judge(self, rooms: Sequence[Room], recorded: set[str]) -> int:
        for room in rooms:
            self._notice(room)
        changed = [room for room in rooms if (room.name in self._low) is not (room.name in recorded)]
        for room in changed:
            self._pages.disk_changed(room, room.name in self._low, self._clock())
            recorded ^= {room.name}
        return len(changed)

    def _notice(self, room: Room) -> None:
        before = room.name in self._low
        if is_low(before, room) is before:
            return
        self._low ^= {room.name}
        numbers = {"free_mb": room.free_bytes // _MEGABYTE, "wanted_mb": room.wanted_bytes // _MEGABYTE}
        if before:
            logger.info("a disk has room again", disk=room.name, **numbers)
        else:
            logger.error("a disk is low", disk=room.name, **numbers)
