"""The ledger's work pages: who holds what, until when, and what came of it.

A lease is taken, and its attempt committed, before any data are touched; whatever ends an attempt carries the token, so
a worker that overslept its lease changes nothing (intake.md 2.4 rule 4).
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from npc_rtnode.adapters.database.engine import Sessions
from npc_rtnode.adapters.database.journal import Note, born, move
from npc_rtnode.adapters.database.series import open_series
from npc_rtnode.adapters.database.tables import AttemptRow, DeliveryRow, JobRow, ObjectRow, SeriesRow
from npc_rtnode.domain.lifecycle import WORKING, DeliveryState, Event, JobState, SeriesState
from npc_rtnode.domain.records import (
    DeliveryInHand,
    Finding,
    JobInHand,
    Lease,
    ObjectKind,
    ResultToCommit,
    SendReceipt,
)
from npc_rtnode.domain.retry import CRASH_LIMIT, Decision, GiveUp, Postpone, Quarantine
from npc_rtnode.errors import LeaseLost

WorkRow = JobRow | DeliveryRow
_ENDS: Mapping[type[Decision], Event] = {
    Postpone: Event.POSTPONED,
    GiveUp: Event.FAILED,
    Quarantine: Event.QUARANTINED,
}
_SUPERSEDED = "SUPERSEDED: the series has a later revision; this result may not be sent"


class WorkLedger:
    """Claims, outcomes and recovery of jobs and deliveries."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    # --- claiming -----------------------------------------------------------------------------------------------------

    def claim_job(self, state: JobState, stage: str, now: datetime, lease_s: float) -> JobInHand | None:
        """Take the oldest due job in this state; None when there is none."""
        due = select(JobRow).where(JobRow.state == state, JobRow.due_at <= now).order_by(JobRow.due_at, JobRow.id)
        with self._sessions.writing() as session:
            row = session.scalar(due.limit(1).with_for_update(skip_locked=True))
            if row is None:
                return None
            lease = _take(session, row, stage, now, lease_s)
            return _job_in_hand(session, row, lease)

    def claim_delivery(self, destination: str, now: datetime, lease_s: float) -> DeliveryInHand | None:
        """Take the oldest due delivery to this destination whose job is cleared for sending."""
        due = (
            select(DeliveryRow)
            .join(ObjectRow)
            .join(JobRow)
            .where(
                DeliveryRow.state == DeliveryState.PENDING,
                DeliveryRow.destination == destination,
                DeliveryRow.due_at <= now,
                JobRow.state == JobState.WRITTEN,
            )
            .order_by(DeliveryRow.due_at, DeliveryRow.id)
        )
        with self._sessions.writing() as session:
            row = session.scalar(due.limit(1).with_for_update(skip_locked=True, of=DeliveryRow))
            if row is None:
                return None
            return _delivery_in_hand(row, _take(session, row, "deliver", now, lease_s))

    # --- outcomes -----------------------------------------------------------------------------------------------------

    def predicted(self, lease: Lease, results: dict[str, Any], now: datetime) -> None:
        """Inference is done; `results` is what the report and `why` will say of it."""
        with self._sessions.writing() as session:
            row = _fenced_job(session, lease)
            row.results = {**row.results, **results}
            row.due_at, row.attempts = now, 0
            _end(session, row, lease, Event.DONE, Note(now))

    def held(self, lease: Lease, holds: Sequence[Finding], results: dict[str, Any], now: datetime) -> None:
        """The work stops here until a person decides; no object exists, so none can be released."""
        with self._sessions.writing() as session:
            row = _fenced_job(session, lease)
            row.results = {**row.results, **results}
            row.reasons, row.releasable = [str(hold) for hold in holds], False
            _end(session, row, lease, Event.HELD, Note(now, detail={"reasons": row.reasons}))

    def commit_result(self, lease: Lease, result: ResultToCommit, now: datetime) -> JobState:
        """Objects, what is owed, and the job's state in one transaction; WRITTEN or HELD."""
        with self._sessions.writing() as session:
            row = _fenced_job(session, lease)
            _store_result(session, row, result, now)
            holds = [str(hold) for hold in result.holds]
            if row.series.state != SeriesState.SELECTED:
                holds, row.releasable = [*holds, _SUPERSEDED], False
            row.reasons = holds
            event = Event.HELD if holds else Event.DONE
            _end(session, row, lease, event, Note(now, detail={"reasons": holds}))
            settle(session, row, now)
            return JobState(row.state)

    def sent(self, lease: Lease, receipt: SendReceipt) -> None:
        """The destination accepted that very object; with the last one the job is delivered."""
        detail = {"status": f"0x{receipt.status:04X}", "warning": receipt.warning}
        with self._sessions.writing() as session:
            row = _fenced_delivery(session, lease)
            row.status, row.warning, row.sent_at, row.last_error = receipt.status, receipt.warning, receipt.at, None
            _end(session, row, lease, Event.DONE, Note(receipt.at, detail=detail))
            settle(session, row.object.job, receipt.at)

    def failed(self, lease: Lease, decision: Decision, now: datetime) -> None:
        """Postpone or give up, as the retry policy said."""
        with self._sessions.writing() as session:
            row = _fenced(session, lease)
            row.last_error = decision.because
            event = _ENDS[type(decision)]
            if isinstance(decision, Postpone):
                row.due_at = decision.until
            _end(session, row, lease, event, Note(now, detail={"because": decision.because}))
            if isinstance(row, DeliveryRow):
                settle(session, row.object.job, now)

    # --- recovery -----------------------------------------------------------------------------------------------------

    def recover(self, now: datetime, all_leases: bool = False) -> int:
        """Take back work whose lease ran out, or (at start, with the node's lock held) every lease; how many."""
        with self._sessions.writing() as session:
            lost = [*session.scalars(_leased(JobRow, "job")), *session.scalars(_leased(DeliveryRow, "delivery"))]
            gone = [row for row in lost if all_leases or row.lease_until is None or row.lease_until <= now]
            for row in gone:
                _interrupt(session, row, now)
            return len(gone)


def _leased(table: type[Any], subject: str) -> Select[Any]:
    return select(table).where(table.state.in_(sorted(WORKING[subject])))


def _take(session: Session, row: WorkRow, stage: str, now: datetime, lease_s: float) -> Lease:
    token = str(uuid.uuid4())
    subject = "job" if isinstance(row, JobRow) else "delivery"
    row.lease_token, row.lease_until = token, now + timedelta(seconds=lease_s)
    row.attempts += 1
    move(session, row, Event.BEGUN, Note(now, detail={"attempt": row.attempts}))
    session.add(AttemptRow(subject=subject, subject_id=row.id, stage=stage, lease_token=token, started_at=now))
    return Lease(subject, row.id, stage, token, row.attempts, row.first_due_at)


def _fenced(session: Session, lease: Lease) -> WorkRow:
    return _fenced_job(session, lease) if lease.subject == "job" else _fenced_delivery(session, lease)


def _fenced_job(session: Session, lease: Lease) -> JobRow:
    row = session.get(JobRow, lease.subject_id, with_for_update=True)
    if row is None or row.lease_token != lease.token:
        raise LeaseLost(f"job {lease.subject_id}")
    return row


def _fenced_delivery(session: Session, lease: Lease) -> DeliveryRow:
    row = session.get(DeliveryRow, lease.subject_id, with_for_update=True)
    if row is None or row.lease_token != lease.token:
        raise LeaseLost(f"delivery {lease.subject_id}")
    return row


def _end(session: Session, row: WorkRow, lease: Lease, event: Event, note: Note) -> None:
    move(session, row, event, note)
    row.lease_token, row.lease_until = None, None
    attempt = session.scalars(select(AttemptRow).where(AttemptRow.lease_token == lease.token)).one()
    attempt.ended_at, attempt.outcome = note.at, event
    attempt.detail = row.last_error if event in _ENDS.values() else None


def _interrupt(session: Session, row: WorkRow, now: datetime) -> None:
    token, row.lease_token, row.lease_until = row.lease_token, None, None
    row.crashes += 1
    row.due_at = now
    for attempt in session.scalars(select(AttemptRow).where(AttemptRow.lease_token == token)):
        attempt.ended_at, attempt.outcome = now, Event.INTERRUPTED
    poison = isinstance(row, JobRow) and row.crashes >= CRASH_LIMIT
    if poison:
        row.last_error = (
            f"WORKER_DIED: the worker died {row.crashes} times on this input; it is not tried again by itself"
        )
    move(session, row, Event.QUARANTINED if poison else Event.INTERRUPTED, Note(now, detail={"crashes": row.crashes}))


def _job_in_hand(session: Session, row: JobRow, lease: Lease) -> JobInHand:
    return JobInHand(
        lease=lease,
        series=open_series(session, row.series),
        work_key=row.work_key,
        result_revision=row.result_revision,
        bundle_hash=row.bundle_hash,
        settings_hash=row.settings_hash,
        indication=row.indication,
        content_at=row.content_at,
        supersedes_delivered=_supersedes_delivered(session, row),
    )


def _supersedes_delivered(session: Session, row: JobRow) -> bool:
    """Whether another result of the same series UID has reached some destination already."""
    query = (
        select(DeliveryRow.id)
        .join(ObjectRow)
        .join(JobRow)
        .join(SeriesRow)
        .where(SeriesRow.series_uid == row.series.series_uid, JobRow.id != row.id, DeliveryRow.sent_at.is_not(None))
    )
    return session.scalar(query.limit(1)) is not None


def _delivery_in_hand(row: DeliveryRow, lease: Lease) -> DeliveryInHand:
    item = row.object
    return DeliveryInHand(
        lease=lease,
        study_reference=item.job.series.study.reference,
        job_id=item.job_id,
        work_key=item.job.work_key,
        destination=row.destination,
        kind=ObjectKind(item.kind),
        sop_class_uid=item.sop_class_uid,
        sop_uid=item.sop_uid,
        sha256=item.sha256,
        synthetic=bool(item.job.results["synthetic"]),
        phantom=bool(item.job.results["phantom"]),
    )


def _store_result(session: Session, row: JobRow, result: ResultToCommit, now: datetime) -> None:
    row.results = {**row.results, **result.results}
    row.releasable = result.releasable
    for item, sha256 in result.objects:
        stored = ObjectRow(
            job_id=row.id,
            kind=item.kind,
            sop_class_uid=item.sop_class_uid,
            sop_uid=item.sop_uid,
            sha256=sha256,
            size=len(item.encoded),
            created_at=now,
        )
        session.add(stored)
        session.flush()
        for kind, destination in result.owed:
            if kind == item.kind:
                owe(session, stored, destination, now)


def owe(session: Session, item: ObjectRow, destination: str, now: datetime) -> DeliveryRow:
    """A new delivery of this object to this destination."""
    row = DeliveryRow(
        object_id=item.id, destination=destination, state=DeliveryState.PENDING, due_at=now, first_due_at=now
    )
    session.add(row)
    born(session, row, Note(now, detail={"destination": destination, "kind": item.kind}))
    return row


def _deliveries(session: Session, job: JobRow) -> list[DeliveryRow]:
    return list(session.scalars(select(DeliveryRow).join(ObjectRow).where(ObjectRow.job_id == job.id)))


def settle(session: Session, job: JobRow, now: datetime) -> None:
    """Say what the deliveries of a written job have come to, once none is under way."""
    if job.state != JobState.WRITTEN:
        return
    owed = _deliveries(session, job)
    if not owed:
        job.reasons = ["NO_DESTINATION: no destination wants any object of this job"]
        move(session, job, Event.HELD, Note(now))
    elif any(row.state in {DeliveryState.PENDING, DeliveryState.SENDING} for row in owed):
        return
    elif failed := [row for row in owed if row.state == DeliveryState.FAILED]:
        job.reasons = [f"NOT_DELIVERED to {row.destination}: {row.last_error}" for row in failed]
        move(session, job, Event.FAILED, Note(now))
    else:
        job.reasons = []
        move(session, job, Event.ALL_SENT, Note(now))
