"""The ledger's series pages: what is quiet, what was decided on it, and an operator's word about it."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from npc_rtnode.adapters.database.engine import Sessions
from npc_rtnode.adapters.database.journal import Note, born, move
from npc_rtnode.adapters.database.tables import InstanceRow, JobRow, SeriesRow, VerdictRow
from npc_rtnode.domain.identifiers import input_digest
from npc_rtnode.domain.lifecycle import Event, JobState, SeriesState
from npc_rtnode.domain.records import Choice, Closing, OpenSeries, Verdict, WorkOrder

CAN_CANCEL = {JobState.QUEUED, JobState.PREDICTED, JobState.HELD}


class SeriesLedger:
    """Reads open series and records what assemble and select decided."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def quiet(self, now: datetime) -> list[OpenSeries]:
        """Series that are receiving and whose quiet time has run out, oldest first."""
        due = (
            select(SeriesRow)
            .where(SeriesRow.state == SeriesState.RECEIVING, SeriesRow.due_at <= now)
            .order_by(SeriesRow.due_at)
        )
        return self._opened(due)

    def next_due(self) -> datetime | None:
        """When the next quiet time runs out; None with nothing receiving."""
        with self._sessions.reading() as session:
            return session.scalar(select(func.min(SeriesRow.due_at)).where(SeriesRow.state == SeriesState.RECEIVING))

    def complete(self) -> list[OpenSeries]:
        """Series that are complete and not yet judged, oldest first."""
        return self._opened(
            select(SeriesRow).where(SeriesRow.state == SeriesState.COMPLETE).order_by(SeriesRow.closed_at)
        )

    def _opened(self, query: object) -> list[OpenSeries]:
        with self._sessions.reading() as session:
            return [open_series(session, row) for row in session.scalars(query)]  # type: ignore[call-overload]

    def close(self, series: OpenSeries, closing: Closing, now: datetime) -> bool:
        """Record the judgement; False when an instance has come since, and the series stays open."""
        with self._sessions.writing() as session:
            row = session.get_one(SeriesRow, series.series_id, with_for_update=True)
            inputs = inputs_of(session, row)
            if row.state != SeriesState.RECEIVING or len(inputs) != series.seen:
                return False
            row.closed_at, row.closed_because, row.due_at = now, closing.because, None
            row.input_digest, row.reasons = input_digest(inputs), list(closing.reasons)
            self._close(session, row, closing, now)
            return True

    def _close(self, session: Session, row: SeriesRow, closing: Closing, now: datetime) -> None:
        note = Note(now, detail={"because": closing.because})
        if closing.event is Event.QUARANTINED:
            move(session, row, Event.CLOSED_WHOLE, note)
        move(session, row, closing.event, note)

    def choose(self, series: OpenSeries, choice: Choice, now: datetime) -> int | None:
        """Record verdicts and decision in one transaction; the id of the job when one was queued or found."""
        with self._sessions.writing() as session:
            row = session.get_one(SeriesRow, series.series_id, with_for_update=True)
            if row.state != SeriesState.COMPLETE:
                return None
            row.rules_hash, row.reasons = choice.rules_hash, list(choice.reasons)
            session.add_all(_verdict(row, verdict, now) for verdict in choice.verdicts)
            move(session, row, choice.event, Note(now, detail={"rules": choice.rules_hash}))
            if choice.order is None:
                call_off(session, row, f"{choice.event}: the series was judged anew", now)
                return None
            return queue_job(session, row, choice.order, now)


def open_series(session: Session, row: SeriesRow) -> OpenSeries:
    """A row as the stages see it."""
    return OpenSeries(
        series_id=row.id,
        study_reference=row.study.reference,
        series_uid=row.series_uid,
        revision=row.revision,
        called_ae=row.called_ae,
        modality=row.modality,
        inputs=tuple(inputs_of(session, row)),
        last_received_at=row.last_received_at,
        operators_word=row.operators_word,
    )


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
    """Queue the job of this work key, unless that key has one already (ADR 0003); its id."""
    known = session.scalar(select(JobRow).where(JobRow.work_key == order.work_key))
    if known is not None:
        return known.id
    revisions = select(func.coalesce(func.max(JobRow.result_revision), 0)).where(JobRow.series_id == row.id)
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
        due_at=now,
        first_due_at=now,
    )
    session.add(job)
    born(session, job, Note(now, detail={"work_key": order.work_key, "result_revision": job.result_revision}))
    return job.id


def call_off(session: Session, series: SeriesRow, because: str, now: datetime) -> None:
    """Stop what has not left the house yet; what was delivered stays delivered, and is named by the new revision."""
    for job in session.scalars(select(JobRow).where(JobRow.series_id == series.id)):
        if job.state in CAN_CANCEL:
            job.reasons = [*job.reasons, because]
            move(session, job, Event.CANCELLED, Note(now))
        elif job.state == JobState.WRITTEN:
            job.reasons, job.releasable = [*job.reasons, because], False
            move(session, job, Event.HELD, Note(now))


def _verdict(row: SeriesRow, verdict: Verdict, now: datetime) -> VerdictRow:
    return VerdictRow(series_id=row.id, rule=verdict.rule[:200], truth=verdict.truth, because=verdict.because, at=now)
