"""The one way to change a state: the life table is asked, the row is changed, an event is chained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from npc_rtnode.adapters.database.carrier import remember
from npc_rtnode.adapters.database.tables import DeliveryRow, EventRow, JobRow, SeriesRow
from npc_rtnode.domain.identifiers import digest_of
from npc_rtnode.domain.lifecycle import Event, after

Living = SeriesRow | JobRow | DeliveryRow
_SUBJECTS: Mapping[type[Living], str] = {SeriesRow: "series", JobRow: "job", DeliveryRow: "delivery"}
GENESIS = "0" * 64


@dataclass(frozen=True)
class Note:
    """When something happened, by whom, and what else is worth keeping (no patient identity)."""

    at: datetime
    actor: str = "node"
    detail: Mapping[str, Any] | None = None


BORN = "BORN"


def move(session: Session, row: Living, event: Event, note: Note) -> None:
    """Let `event` happen to the row; raises IllegalTransition where its life has no such row."""
    subject = _SUBJECTS[type(row)]
    before, then = row.state, str(after(subject, row.state, event))
    row.state = then
    remember(session, row)
    append(
        session, EventRow(subject=subject, subject_id=str(row.id), event=event, from_state=before, to_state=then), note
    )


def born(session: Session, row: Living, note: Note) -> None:
    """Journal a new row's first state."""
    session.flush()
    subject = _SUBJECTS[type(row)]
    remember(session, row)
    append(session, EventRow(subject=subject, subject_id=str(row.id), event=BORN, to_state=row.state), note)


def tell(session: Session, subject: str, subject_id: str, event: str, note: Note) -> None:
    """Journal something that changes no state: a refused caller, our own object coming back, an operator's look."""
    append(session, EventRow(subject=subject, subject_id=subject_id, event=event), note)


def append(session: Session, row: EventRow, note: Note) -> None:
    """Chain one event on. Nobody else does at this moment: writers stand in line from their beginning (engine.py)."""
    row.at, row.actor, row.detail = note.at, note.actor, dict(note.detail or {})
    session.flush()
    row.previous_hash = session.scalar(select(EventRow.hash).order_by(EventRow.seq.desc()).limit(1)) or GENESIS
    row.hash = event_hash(row)
    session.add(row)
    session.flush()


def event_hash(row: EventRow) -> str:
    """SHA-256 over the row and the hash before it."""
    return digest_of(
        [
            row.previous_hash,
            row.at.isoformat(),
            row.actor,
            row.subject,
            row.subject_id,
            row.event,
            row.from_state,
            row.to_state,
            row.detail,
        ]
    )


def first_broken_link(session: Session) -> int | None:
    """The `seq` of the first event whose hash does not follow from the one before; None when the chain holds."""
    previous = GENESIS
    with session.scalars(select(EventRow).order_by(EventRow.seq).execution_options(yield_per=1000)) as rows:
        for row in rows:
            if row.previous_hash != previous or row.hash != event_hash(row):
                return row.seq
            previous = row.hash
    return None
