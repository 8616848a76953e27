"""What the ledger says of bytes that were removed: which, and whether they came again; and the refusal of whoever asks
for work on them. The rows of the instances and objects themselves are never touched.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from npc_rtnode.adapters.database.tables import RemovalRow, SeriesRow
from npc_rtnode.domain.records import Finding
from npc_rtnode.domain.retention import Place
from npc_rtnode.errors import Forbidden

PURGED = "PURGED"
"""The code of a series, or of an object, whose bytes are no longer here."""


def removed(place: Place) -> Select[str]:
    """The names of files there whose bytes were removed and have not come again."""
    return select(RemovalRow.name).where(RemovalRow.place == place, RemovalRow.restored_at.is_(None))


def bring_back(session: Session, place: Place, name: str, now: datetime) -> None:
    """The bytes of a file lie there again, received or made anew: what was said of their removal is history."""
    query = select(RemovalRow).where(
        RemovalRow.place == place, RemovalRow.name == name, RemovalRow.restored_at.is_(None)
    )
    for row in session.scalars(query):
        row.restored_at = now


def gone(session: Session, row: SeriesRow, place: Place, names: Collection[str]) -> Finding | None:
    """How many of these files of a series, its other revisions included, are no longer there; None where all are."""
    family = select(SeriesRow.id).where(SeriesRow.series_uid == row.series_uid)
    removals = select(func.max(RemovalRow.removed_at), RemovalRow.name).where(
        RemovalRow.place == place, RemovalRow.restored_at.is_(None), RemovalRow.series_id.in_(family)
    )
    found = [at for at, name in session.execute(removals.group_by(RemovalRow.name)) if name in names]
    if not found:
        return None
    said = f"the bytes of {len(found)} of {len(names)} files in the {place} were removed, the last on {max(found):%F}"
    return Finding(PURGED, said, float(len(found)), 0.0)


def require_bytes(session: Session, row: SeriesRow, place: Place, names: Collection[str]) -> None:
    """Forbidden, with what to do, where some of these files of a series are no longer there."""
    if finding := gone(session, row, place, names):
        todo = "have all of it sent again" if place is Place.SPOOL else "they were delivered before; ask there"
        raise Forbidden(f"series {row.id}, {finding}: {todo}")
