"""The ledger's series pages: what is quiet, how it was closed, and which job a choice makes of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from npc_rtnode.adapters.database.clock import due
from npc_rtnode.adapters.database.engine import Sessions
from npc_rtnode.adapters.database.journal import BORN, Note, born, move, tell
from npc_rtnode.adapters.database.removals import gone
from npc_rtnode.adapters.database.tables import AssociationRow, EventRow, InstanceRow, JobRow, SeriesRow
from npc_rtnode.domain.completeness import transfer_doubts
from npc_rtnode.domain.identifiers import input_digest
from npc_rtnode.domain.lifecycle import DeliveryState, Event, JobState, SeriesState
from npc_rtnode.domain.priority import rank_at
from npc_rtnode.domain.records import Asked, Closing, Finding, OpenSeries, WorkOrder
from npc_rtnode.domain.retention import Place
from npc_rtnode.domain.retry import CRASH_LIMIT
from npc_rtnode.domain.selection import BEHIND

UNFINISHED = {JobState.QUEUED, JobState.PREDICTED, JobState.HELD, JobState.WRITTEN}
"""Jobs that can be called off at once; one that a worker has in hand is called off when it wants to commit."""

FALLEN = {SeriesState.STALLED, SeriesState.QUARANTINED}
"""No result comes of these by itself."""

OPEN_LIMIT_S = 600
"""An association that stays open (some peers keep one alive by C-ECHO) is not waited for longer than this."""

ANSWERS_KEPT = 8
"""So many answers of a source stand at a series."""

TROUBLE_PAUSE_S = 60
"""A series that could not be judged is looked at again after this, and four times this, and then set apart."""


class SeriesLedger:
    """Reads open series and records what assemble decided."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def quiet(self, now: datetime) -> list[OpenSeries]:
        """Series that are receiving, whose quiet time has run out and whose sender has moved on; oldest first."""
        waiting = (
            select(SeriesRow)
            .join(AssociationRow, AssociationRow.id == SeriesRow.last_association_id)
            .where(SeriesRow.state == SeriesState.RECEIVING, SeriesRow.due_at <= now)
            .where(
                AssociationRow.ended_at.is_not(None)
                | (AssociationRow.last_series_id != SeriesRow.id)
                | (SeriesRow.last_received_at <= now - timedelta(seconds=OPEN_LIMIT_S))
            )
            .order_by(SeriesRow.due_at)
        )
        return self._opened(waiting)

    def next_due(self, now: datetime) -> datetime | None:
        """When the next quiet time runs out; None with nothing waiting for one."""
        waiting = select(func.min(SeriesRow.due_at)).where(
            SeriesRow.state == SeriesState.RECEIVING, SeriesRow.due_at > now
        )
        with self._sessions.reading() as session:
            return session.scalar(waiting)

    def _opened(self, query: Select[Any]) -> list[OpenSeries]:
        with self._sessions.reading() as session:
            return [open_series(session, row) for row in session.scalars(query)]

    def asked(self, series: OpenSeries, answer: Asked) -> None:
        """Record what the source said; of many answers the last ones are kept, the journal has all."""
        said = {"source": answer.source, "instances": answer.instances, "because": answer.because}
        with self._sessions.writing() as session:
            row = session.get_one(SeriesRow, series.series_id, with_for_update=True)
            row.asked = [*row.asked, {"at": answer.at.isoformat(), **said}][-ANSWERS_KEPT:]
            tell(session, "series", str(row.id), "SOURCE_ASKED", Note(answer.at, detail=said))

    def wait(self, series: OpenSeries, until: datetime) -> None:
        """Look again then, unless an instance has come since: that has set its own time."""
        with self._sessions.writing() as session:
            row = session.get_one(SeriesRow, series.series_id, with_for_update=True)
            if row.state == SeriesState.RECEIVING and len(inputs_of(session, row)) == series.seen:
                row.due_at = until

    def close(self, series: OpenSeries, closing: Closing, now: datetime) -> bool:
        """Record the judgement; False when an instance has come since, and the series stays open."""
        with self._sessions.writing() as session:
            row = session.get_one(SeriesRow, series.series_id, with_for_update=True)
            inputs = inputs_of(session, row)
            if row.state != SeriesState.RECEIVING or len(inputs) != series.seen:
                return False
            row.closed_at, row.closed_because, row.due_at = now, closing.because, None
            row.input_digest, row.reasons, row.troubles = input_digest(inputs), list(closing.reasons), 0
            move(session, row, closing.event, Note(now, detail={"because": closing.because, "reasons": row.reasons}))
            fall_back(session, row, now)
            return True

    def trouble(self, series: OpenSeries, because: str, now: datetime) -> None:
        """Judging it went wrong: look again later, and set it apart at the third time."""
        with self._sessions.writing() as session:
            row = session.get_one(SeriesRow, series.series_id, with_for_update=True)
            if row.state != SeriesState.RECEIVING:
                return
            row.troubles += 1
            row.due_at, row.reasons = now + timedelta(seconds=TROUBLE_PAUSE_S * 4 ** (row.troubles - 1)), [because]
            over = row.troubles >= CRASH_LIMIT
            move(session, row, Event.QUARANTINED if over else Event.POSTPONED, Note(now, detail={"because": because}))
            fall_back(session, row, now)


def fall_back(session: Session, fallen: SeriesRow, now: datetime) -> None:
    """A series is stalled or quarantined: with none selected in its study, those behind one are judged again.

    Not when it is merely superseded: then its next revision is judged first, together with them.
    """
    siblings = fallen.study.series
    if fallen.state not in FALLEN or any(row.state == SeriesState.SELECTED for row in siblings):
        return
    for row in siblings:
        if row.state in {SeriesState.SET_ASIDE, SeriesState.HELD} and codes_of(row) & BEHIND:
            because = f"series {fallen.id} is {fallen.state}: nothing of the study is selected"
            move(session, row, Event.RECONSIDERED, Note(now, detail={"because": because}))


def codes_of(row: SeriesRow) -> set[str]:
    """The codes of the reasons that stand at a series."""
    return {str(reason).split(":")[0] for reason in row.reasons}


def open_series(session: Session, row: SeriesRow) -> OpenSeries:
    """A row as the stages see it."""
    inputs = tuple(inputs_of(session, row))
    return OpenSeries(
        series_id=row.id,
        state=SeriesState(row.state),
        study_reference=row.study.reference,
        series_uid=row.series_uid,
        revision=row.revision,
        called_ae=row.called_ae,
        modality=row.modality,
        inputs=inputs,
        last_received_at=row.last_received_at,
        operators_word=row.operators_word,
        waived=tuple(str(reason) for reason in row.waived),
        doubts=(*_transfer_doubts(session, row, {sop_uid for sop_uid, _ in inputs}), *_removed(session, row, inputs)),
        calling_ae=session.get_one(AssociationRow, row.last_association_id).calling_ae,
        released_alone=_released_alone(session, row),
        asked=tuple(_asked(one) for one in row.asked),
    )


def _released_alone(session: Session, row: SeriesRow) -> bool:
    """Whether one association brought the whole series, and its sender ended it; late slices are never that."""
    last = session.get_one(AssociationRow, row.last_association_id)
    other = select(InstanceRow.id).where(InstanceRow.series_id == row.id, InstanceRow.association_id != last.id)
    return row.revision == 1 and last.how == "released" and session.scalar(other.limit(1)) is None


def _asked(said: dict[str, Any]) -> Asked:
    return Asked(datetime.fromisoformat(said["at"]), said["source"], said["instances"], said["because"])


def _transfer_doubts(session: Session, row: SeriesRow, known: set[str]) -> list[Finding]:
    last = session.get_one(AssociationRow, row.last_association_id)
    fed = select(InstanceRow.association_id).where(InstanceRow.series_id == row.id)
    refused = session.scalars(select(AssociationRow.refused).where(AssociationRow.id.in_(fed)))
    missing = {str(sop_uid) for refusals in [*refused, last.refused] for sop_uid in refusals} - known
    cut_short = last.how if last.last_series_id == row.id and last.how in {"aborted", "lost"} else None
    return transfer_doubts(cut_short, len(missing))


def _removed(session: Session, row: SeriesRow, inputs: Sequence[tuple[str, str]]) -> list[Finding]:
    finding = gone(session, row, Place.SPOOL, {sha256 for _, sha256 in inputs})
    return [finding] if finding else []


def inputs_of(session: Session, row: SeriesRow) -> list[tuple[str, str]]:
    """(SOP Instance UID, SHA-256) of every instance of the series up to this revision, in order of arrival."""
    query = (
        select(InstanceRow.sop_uid, InstanceRow.sha256)
        .join(SeriesRow, SeriesRow.id == InstanceRow.series_id)
        .where(SeriesRow.series_uid == row.series_uid, SeriesRow.revision <= row.revision, InstanceRow.state == "KEPT")
        .order_by(InstanceRow.id)
    )
    return [(sop_uid, sha256) for sop_uid, sha256 in session.execute(query)]


def queue_job(session: Session, row: SeriesRow, order: WorkOrder, now: datetime) -> int:
    """Queue the job of this work key; a key that has one already keeps it (ADR 0003), called back if it was called off.

    Older jobs of the series are called off: two results of one series never travel together.
    """
    known = session.scalar(select(JobRow).where(JobRow.work_key == order.work_key))
    call_off(
        session, (job for job in row.jobs if job is not known), f"a newer order for series {row.id} took its place", now
    )
    if known is None:
        return _new_job(session, row, order, now)
    if known.state == JobState.CANCELLED:
        requeue(session, known, Note(now, detail={"because": "the series was selected again"}))
    return known.id


def requeue(session: Session, job: JobRow, note: Note) -> None:
    """Begin a job anew; its work key, UIDs and dates stay what they were.

    What an earlier try came to is no longer said of it: until the gates have judged again nothing of it may be sent.
    """
    job.results = {}
    job.reasons, job.releasable, job.attempts, job.crashes, job.last_error = [], True, 0, 0, None
    job.due_at = job.first_due_at = due(session, note.at)
    job.rank_at = rank_at(job.first_due_at, job.priority)
    move(session, job, Event.RETRIED, note)


def _new_job(session: Session, row: SeriesRow, order: WorkOrder, now: datetime) -> int:
    revisions = select(func.coalesce(func.max(JobRow.result_revision), 0)).where(JobRow.series_id == row.id)
    due_at = due(session, now)
    job = JobRow(
        series_id=row.id,
        work_key=order.work_key,
        result_revision=(session.scalar(revisions) or 0) + 1,
        input_digest=order.work.input_digest,
        bundle_hash=order.work.bundle_hash,
        bundle_name=order.bundle_name,
        settings_hash=order.work.settings_hash,
        indication=order.indication,
        state=JobState.QUEUED,
        reasons=[],
        content_at=now,
        results={},
        created_at=now,
        due_at=due_at,
        first_due_at=due_at,
        priority=order.priority,
        rank_at=rank_at(due_at, order.priority),
    )
    session.add(job)
    born(session, job, Note(now, detail={"work_key": order.work_key, "result_revision": job.result_revision}))
    return job.id


def by_order(session: Session, jobs: Iterable[JobRow]) -> list[JobRow]:
    """As their work was ordered last, the newest order at the end. With a bundle that is taken back an older job is
    ordered again and keeps its result revision, which is in its objects; and a clock may have been set back."""
    found = {str(job.id): job for job in jobs}
    if len(found) < 2:
        return list(found.values())
    said = (
        select(EventRow.subject_id, func.max(EventRow.seq))
        .where(EventRow.subject == "job", EventRow.subject_id.in_(found), EventRow.event.in_((BORN, Event.RETRIED)))
        .group_by(EventRow.subject_id)
    )
    last = {str(job_id): int(seq) for job_id, seq in session.execute(said)}
    return sorted(found.values(), key=lambda job: last[str(job.id)])


def call_off(session: Session, jobs: Iterable[JobRow], because: str, now: datetime) -> None:
    """Stop what has not left the house yet; what was delivered stays delivered."""
    for job in jobs:
        if job.state in UNFINISHED:
            job.reasons = [*job.reasons, because]
            move(session, job, Event.CANCELLED, Note(now, detail={"because": because}))
            _call_off_deliveries(session, job, because, now)


def _call_off_deliveries(session: Session, job: JobRow, because: str, now: datetime) -> None:
    for delivery in (d for item in job.objects for d in item.deliveries):
        if delivery.state == DeliveryState.PENDING:
            delivery.last_error = because
            move(session, delivery, Event.CANCELLED, Note(now))
