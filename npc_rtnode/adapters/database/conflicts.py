"""Settling a conflict: a person says which of two contents under one SOP Instance UID counts.

Every byte stays in the spool and every row in the ledger; only what is an input of the series changes, and the series
is judged anew from its beginning.
"""

from __future__ import annotations

from collections import defaultdict
from enum import StrEnum

from sqlalchemy import select
from sqlalchemy.orm import Session

from npc_rtnode.adapters.database.journal import Note, move
from npc_rtnode.adapters.database.tables import InstanceRow, InstanceState, SeriesRow
from npc_rtnode.domain.lifecycle import Event, SeriesState
from npc_rtnode.errors import Forbidden

CONFLICT = "CONFLICT"
"""The code of a quarantine for conflicting contents."""
_RIVALS = (InstanceState.KEPT, InstanceState.CONFLICTING)


class Keep(StrEnum):
    """Which of the conflicting contents counts, in the order in which they came."""

    FIRST = "first"
    LAST = "last"


def in_conflict(row: SeriesRow) -> bool:
    """Whether the series is quarantined because of conflicting contents."""
    codes = {str(reason).split(":")[0] for reason in row.reasons}
    return row.state == SeriesState.QUARANTINED and CONFLICT in codes


def settle_conflict(session: Session, row: SeriesRow, keep: Keep, note: Note) -> str:
    """Of every instance in conflict the first or the last content counts; the series waits to be judged again."""
    copies = conflicting_copies(session, row)
    if any(_is_elsewhere(session, row, sop_uid) for sop_uid in copies):
        raise Forbidden(
            f"the contents in conflict came under different series, series {row.id} among them: no choice makes either "
            "whole; the sender must send a new series"
        )
    for rivals in copies.values():
        _choose(rivals, keep)
    row.reasons, row.troubles, row.due_at = [], 0, note.at
    detail = {**(note.detail or {}), "keep": keep, "instances": len(copies)}
    move(session, row, Event.CONFLICT_SETTLED, Note(note.at, note.actor, detail))
    return f"series {row.id}: of {len(copies)} instances in conflict the {keep} content counts; it is judged again"


def conflicting_copies(session: Session, row: SeriesRow) -> dict[str, list[InstanceRow]]:
    """The contents of this series UID that are in conflict with any, by SOP Instance UID, in order of arrival."""
    under = InstanceRow.series_id.in_(select(SeriesRow.id).where(SeriesRow.series_uid == row.series_uid))
    here = select(InstanceRow.sop_uid).where(under)
    doubtful = select(InstanceRow.sop_uid).where(
        InstanceRow.sop_uid.in_(here), InstanceRow.state == InstanceState.CONFLICTING
    )
    rivals = select(InstanceRow).where(under, InstanceRow.sop_uid.in_(doubtful), InstanceRow.state.in_(_RIVALS))
    found: defaultdict[str, list[InstanceRow]] = defaultdict(list)
    for copy in session.scalars(rivals.order_by(InstanceRow.id)):
        found[copy.sop_uid].append(copy)
    return dict(found)


def _choose(rivals: list[InstanceRow], keep: Keep) -> None:
    chosen = rivals[0] if keep is Keep.FIRST else rivals[-1]
    for copy in rivals:
        copy.state = InstanceState.KEPT if copy is chosen else InstanceState.REPLACED


def _is_elsewhere(session: Session, row: SeriesRow, sop_uid: str) -> bool:
    others = (
        select(InstanceRow.id)
        .join(SeriesRow, SeriesRow.id == InstanceRow.series_id)
        .where(InstanceRow.sop_uid == sop_uid, InstanceRow.state.in_(_RIVALS), SeriesRow.series_uid != row.series_uid)
    )
    return session.scalar(others.limit(1)) is not None
