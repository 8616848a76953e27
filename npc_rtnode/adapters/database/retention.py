"""The ledger's keeping pages: what of a study may go, which bytes were removed, and which of them came again.

A study is weighed and its files are removed inside one writing transaction. Writers stand in line (engine.py), so no
instance can be recorded, and no work taken, between the look and the deed: whoever records a copy afterwards sees that
the file is gone and writes it anew (pipeline/receive.py, ADR 0016).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, exists, func, or_, select, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session

from npc_rtnode.adapters.database.conflicts import CONFLICT
from npc_rtnode.adapters.database.desk import series_of
from npc_rtnode.adapters.database.engine import Sessions
from npc_rtnode.adapters.database.journal import Note, tell
from npc_rtnode.adapters.database.removals import PURGED, removed
from npc_rtnode.adapters.database.series import codes_of
from npc_rtnode.adapters.database.tables import (
    CommitmentRow,
    CommitmentState,
    DeliveryRow,
    EventRow,
    InstanceRow,
    InstanceState,
    JobRow,
    ObjectRow,
    RemovalRow,
    SeriesRow,
    StudyRow,
)
from npc_rtnode.domain.lifecycle import DeliveryState, JobState, SeriesState
from npc_rtnode.domain.retention import KeptFile, Parcel, Place, PurgeOrder, SeriesStanding, StudyStanding

Choose = Callable[[StudyStanding], Sequence[Parcel]]
Unlink = Callable[[Place, str], object]
_OWED = {DeliveryState.PENDING, DeliveryState.SENDING}


class RetentionLedger:
    """Weighs studies and records what is removed of them."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def aged(self, before: datetime) -> list[str]:
        """References of studies first received before then of which some file may still be there; oldest first."""
        query = select(StudyRow.reference).where(StudyRow.first_received_at <= before, _has_files())
        with self._sessions.reading() as session:
            return list(session.scalars(query.order_by(StudyRow.id)))

    def weigh(self, study: str) -> StudyStanding:
        """How a study stands now, by its reference or UID; raises NotFound."""
        with self._sessions.reading() as session:
            return _standing(session, series_of(session, study))

    def purge(self, study: str, choose: Choose, unlink: Unlink, order: PurgeOrder) -> tuple[Parcel, ...]:
        """Remove what `choose` says of the study as it stands now, and record it; what it came to."""
        if order.dry_run:
            return tuple(choose(self.weigh(study)))
        with self._sessions.writing() as session:
            parcels = tuple(choose(_standing(session, series_of(session, study))))
            for parcel in parcels:
                _record(session, parcel, order)
            for parcel in parcels:  # the rows are ready to be committed: a crash from here on repeats the removal
                for file in parcel.files:
                    unlink(parcel.place, file.name)
            return parcels

    def finish(self, since: datetime, unlink: Unlink) -> int:
        """Remove again what of the spool was removed since then: power loss may have brought a name back; how many.

        Of the spool alone: a prediction or an object under a name of before may just be being made anew.
        """
        gone = removed(Place.SPOOL).where(RemovalRow.removed_at >= since)
        with self._sessions.writing() as session:
            return sum(bool(unlink(Place.SPOOL, name)) for name in session.scalars(gone).all())

    def unnamed(self, work_keys: Sequence[str]) -> list[str]:
        """Of these work keys, the ones that no job has."""
        with self._sessions.reading() as session:
            known = set(session.scalars(select(JobRow.work_key)))
            return [key for key in work_keys if key not in known]


def _has_files() -> ColumnElement[bool]:
    """Some file of the study is named by the ledger and not said to be removed."""
    received = select(InstanceRow.id).join(SeriesRow, SeriesRow.id == InstanceRow.series_id)
    inferred = select(JobRow.id).join(SeriesRow, SeriesRow.id == JobRow.series_id)
    written = select(ObjectRow.id).join(JobRow).join(SeriesRow, SeriesRow.id == JobRow.series_id)
    return or_(
        exists(received.where(_of_study(), ~_removed(Place.SPOOL, InstanceRow.sha256))),
        exists(inferred.where(_of_study(), ~_removed(Place.WORK, JobRow.work_key))),
        exists(written.where(_of_study(), ~_removed(Place.OUTBOX, ObjectRow.sha256))),
    )


def _of_study() -> ColumnElement[bool]:
    return SeriesRow.study_id == StudyRow.id


def _removed(place: Place, name: ColumnElement[str] | InstrumentedAttribute[str]) -> ColumnElement[bool]:
    return exists().where(RemovalRow.place == place, RemovalRow.name == name, RemovalRow.restored_at.is_(None))


def _standing(session: Session, rows: list[SeriesRow]) -> StudyStanding:
    uids = dict.fromkeys(row.series_uid for row in rows)
    families = [[row for row in rows if row.series_uid == uid] for uid in uids]
    study = rows[0].study
    return StudyStanding(study.reference, study.hold, tuple(_family(session, family) for family in families))


def _family(session: Session, family: list[SeriesRow]) -> SeriesStanding:
    """All revisions of one series: a later one uses the instances of those before it, so they stay and go together."""
    newest = max(family, key=lambda row: row.revision)
    jobs = [job for row in family for job in row.jobs]
    owed = [item for job in jobs for stored in job.objects for item in stored.deliveries]
    return SeriesStanding(
        series_id=newest.id,
        state=SeriesState(newest.state),
        conflict=_in_conflict(session, family),
        jobs=tuple(JobState(job.state) for job in jobs),
        owed=sum(item.state in _OWED for item in owed if item.object.job.state != JobState.CANCELLED),
        leases=sum(job.lease_token is not None for job in jobs) + sum(one.lease_token is not None for one in owed),
        last_at=_last_at(session, family, jobs, owed),
        files=_files(session, family, jobs),
        commitments=_asked_for(session, family),
    )


def _asked_for(session: Session, family: list[SeriesRow]) -> int:
    """How many storage commitments that are owed their report name an instance of it."""
    pending = select(CommitmentRow.wanted).where(CommitmentRow.state == CommitmentState.PENDING)
    wanted = [{str(sop_uid) for _, sop_uid in names} for names in session.scalars(pending)]
    mine = select(InstanceRow.sop_uid).where(InstanceRow.series_id.in_([row.id for row in family]))
    received = set(session.scalars(mine)) if wanted else set()
    return sum(not received.isdisjoint(names) for names in wanted)


def _in_conflict(session: Session, family: list[SeriesRow]) -> bool:
    rivals = select(InstanceRow.id).where(
        InstanceRow.series_id.in_([row.id for row in family]), InstanceRow.state == InstanceState.CONFLICTING
    )
    newest = max(family, key=lambda row: row.revision)
    quarantined = newest.state == SeriesState.QUARANTINED and CONFLICT in codes_of(newest)
    return quarantined or session.scalar(rivals.limit(1)) is not None


def _last_at(
    session: Session, family: list[SeriesRow], jobs: Iterable[JobRow], owed: Iterable[DeliveryRow]
) -> datetime:
    """When something last happened: an instance, a decision, a delivery, an operator's deed, bytes that came again."""
    subjects = [
        *(("series", str(row.id)) for row in family),
        *(("job", str(row.id)) for row in jobs),
        *(("delivery", str(row.id)) for row in owed),
    ]
    here = tuple_(EventRow.subject, EventRow.subject_id).in_(subjects)
    told = session.scalar(select(func.max(EventRow.at)).where(here, EventRow.event != PURGED))
    restored = session.scalar(
        select(func.max(RemovalRow.restored_at)).where(RemovalRow.series_id.in_([row.id for row in family]))
    )
    times = [*(row.last_received_at for row in family), told, restored]
    return max(at for at in times if at is not None)


def _files(session: Session, family: list[SeriesRow], jobs: Sequence[JobRow]) -> dict[Place, tuple[KeptFile, ...]]:
    instances = session.execute(
        select(InstanceRow.sha256, func.max(InstanceRow.size))
        .where(InstanceRow.series_id.in_([row.id for row in family]))
        .group_by(InstanceRow.sha256)
        .order_by(func.min(InstanceRow.id))
    )
    named = {
        Place.SPOOL: [KeptFile(sha256, size) for sha256, size in instances],
        Place.WORK: [KeptFile(job.work_key, 0) for job in jobs],
        Place.OUTBOX: [KeptFile(item.sha256, item.size) for job in jobs for item in job.objects],
    }
    gone = {place: _gone(session, family, place) for place in Place}
    return {place: tuple(file for file in files if file.name not in gone[place]) for place, files in named.items()}


def _gone(session: Session, family: list[SeriesRow], place: Place) -> set[str]:
    """Names of files of these revisions that are recorded as removed."""
    query = removed(place).where(RemovalRow.series_id.in_([row.id for row in family]))
    return set(session.scalars(query))


def _record(session: Session, parcel: Parcel, order: PurgeOrder) -> None:
    reason = f"{order.reason}; {parcel.because}"
    session.add_all(
        RemovalRow(
            series_id=parcel.series_id,
            place=parcel.place,
            name=file.name,
            size=file.size,
            removed_at=order.at,
            actor=order.actor[:64],
            reason=reason,
        )
        for file in parcel.files
    )
    detail = {"place": parcel.place, "files": len(parcel.files), "bytes": parcel.size, "reason": reason}
    tell(session, "series", str(parcel.series_id), PURGED, Note(order.at, order.actor[:64], detail))
