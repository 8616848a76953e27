"""The ledger's recovery pages: what lies on disk and no row names, after an older copy of the ledger was put back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import InstrumentedAttribute, Session

from npc_rtnode.adapters.database.engine import Sessions
from npc_rtnode.adapters.database.journal import Note, tell
from npc_rtnode.adapters.database.removals import removed
from npc_rtnode.adapters.database.tables import InstanceRow, ObjectRow, RecoveredObjectRow
from npc_rtnode.domain.records import FoundObject
from npc_rtnode.domain.retention import Place

_NAMED: Mapping[Place, tuple[InstrumentedAttribute[str], ...]] = {
    Place.SPOOL: (InstanceRow.sha256,),
    Place.OUTBOX: (ObjectRow.sha256, RecoveredObjectRow.sha256),
}
_SUBJECT, _THE_LEDGER = "restore", "ledger"


class RecoveryLedger:
    """Fulfils ports.RecoveryPages."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def unknown(self, place: Place, names: Sequence[str]) -> list[str]:
        """Of these files, the ones that no row names, in their order."""
        with self._sessions.reading() as session:
            named = set(_named(session, place))
        return [name for name in names if name not in named]

    def missing(self, there: Callable[[Place, str], bool]) -> dict[Place, int]:
        """How many files a row names, and says nothing of their removal, that are not there."""
        with self._sessions.reading() as session:
            wanted = {place: set(_named(session, place)) - set(session.scalars(removed(place))) for place in _NAMED}
        return {place: sum(not there(place, name) for name in names) for place, names in wanted.items()}

    def keep(self, found: FoundObject, now: datetime) -> None:
        """These bytes stand for this SOP Instance UID (ADR 0003); the first that were found stay."""
        with self._sessions.writing() as session:
            if session.get(RecoveredObjectRow, found.sop_uid) is None:
                session.add(
                    RecoveredObjectRow(sop_uid=found.sop_uid, sha256=found.sha256, size=found.size, found_at=now)
                )

    def told(self, what: str, detail: dict[str, Any], word: tuple[str, str], now: datetime) -> None:
        """Journal what was done to the ledger, with who and why."""
        actor, reason = word
        with self._sessions.writing() as session:
            tell(session, _SUBJECT, _THE_LEDGER, what, Note(now, actor[:64], {"reason": reason, **detail}))


def found_again(session: Session, sop_uid: str) -> tuple[str, int] | None:
    """SHA-256 and size of the bytes that went out under this UID before the ledger forgot them; None for none."""
    row = session.get(RecoveredObjectRow, sop_uid)
    return (row.sha256, row.size) if row else None


def _named(session: Session, place: Place) -> Iterator[str]:
    for column in _NAMED[place]:
        yield from session.scalars(select(column))
