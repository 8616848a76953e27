"""The ledger's page of disks: which is low, and when each became so and had room again."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import func, select

from npc_rtnode.adapters.database.engine import Sessions
from npc_rtnode.adapters.database.journal import Note, tell
from npc_rtnode.adapters.database.tables import EventRow
from npc_rtnode.domain.disks import Room

_SUBJECT, _LOW, _ROOM = "disk", "LOW", "ROOM"
_MEGABYTE = 1 << 20


class DiskLedger:
    """Fulfils ports.DiskPages."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def disk_changed(self, room: Room, low: bool, now: datetime) -> None:
        """It has become low, or has room again."""
        detail = {"free_mb": room.free_bytes // _MEGABYTE, "wanted_mb": room.wanted_bytes // _MEGABYTE}
        with self._sessions.writing() as session:
            tell(session, _SUBJECT, room.name, _LOW if low else _ROOM, Note(now, detail=detail))

    def low(self) -> set[str]:
        """The disks of which that was told last."""
        return set(self.told())

    def told(self) -> dict[str, str]:
        """The low ones, each with its numbers in words."""
        newest = select(func.max(EventRow.seq)).where(EventRow.subject == _SUBJECT).group_by(EventRow.subject_id)
        with self._sessions.reading() as session:
            rows = session.scalars(select(EventRow).where(EventRow.seq.in_(newest), EventRow.event == _LOW)).all()
        return {row.subject_id: "{free_mb} MB free, {wanted_mb} MB wanted".format(**row.detail) for row in rows}
