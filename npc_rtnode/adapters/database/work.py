"""The ledger's work pages: who holds what, until when, and what came of it.

A lease is taken, and its attempt committed, before any data are touched; whatever ends an attempt carries the token, so
a worker that overslept its lease changes nothing (intake.md 2.4 rule 4).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from npc_rtnode.adapters.database.carrier import waits
from npc_rtnode.adapters.database.clock import due
from npc_rtnode.adapters.database.engine import Sessions
from npc_rtnode.adapters.database.journal import Note, born, move
from npc_rtnode.adapters.database.recovered import found_again
from npc_rtnode.adapters.database.removals import bring_back
from npc_rtnode.adapters.database.series import by_order, open_series
from npc_rtnode.adapters.database.tables import AttemptRow, DeliveryRow, JobRow, ObjectRow, SeriesRow
from npc_rtnode.adapters.database.waiting import by_recipe, claimable_deliveries, claimable_jobs
from npc_rtnode.domain.lifecycle import WORKING, DeliveryState, Event, JobState, SeriesState
from npc_rtnode.domain.priority import rank_at
from npc_rtnode.domain.recipe import Recipe
from npc_rtnode.domain.records import (
    DeliveryInHand,
    Finding,
    JobInHand,
    Lease,
    ObjectKind,
    ResultToCommit,
    SendReceipt,
    SentBefore,
    WrittenObject,
)
from npc_rtnode.domain.retention import Place
from npc_rtnode.domain.retry import CRASH_LIMIT, Decision, GiveUp, Postpone, Quarantine
from npc_rtnode.domain.windows import OffPeak
from npc_rtnode.errors import LeaseLost

WorkRow = JobRow | DeliveryRow
_ENDS: Mapping[type[Decision], Event] = {
    Postpone: Event.POSTPONED,
    GiveUp: Event.FAILED,
    Quarantine: Event.QUARANTINED,
}
_SUPERSEDES_DELIVERED = (
    "SUPERSEDES_DELIVERED: another result of this study was delivered, or may have been: a person decides on this one"
)


class WorkLedger:
    """Claims, outcomes and recovery of jobs and deliveries."""

    def __init__(
        self,
        sessions: Sessions,
        owner: str = "node",
        off_peak: OffPeak | None = None,
        recipe: Callable[[], Recipe] | None = None,
    ) -> None:
        """`owner`: the host that works here; one process of a host works at a time (its lock file).

        `recipe`: a worker host's own, whose jobs alone it claims. The node claims all, to order anew what has another.
        """
        self._sessions = sessions
        self._recipe = recipe
        self._off_peak = off_peak
        self._owner = owner

    # --- claiming -----------------------------------------------------------------------------------------------------

    def claim_job(
        self, state: JobState, stage: str, now: datetime, lease_s: float, only: int | None = None
    ) -> JobInHand | None:
        """Take the first due job in this state by rank, or that very one; None when there is none to begin."""
        waiting = claimable_jobs(now, self._off_peak).where(JobRow.state == state)
        if self._recipe:
            waiting = waiting.where(by_recipe(self._recipe()))
        with self._sessions.writing() as session:
            first = _narrowed(waiting, JobRow, only).order_by(JobRow.rank_at, JobRow.id).limit(1)
            row = session.scalar(first.with_for_update(skip_locked=True, of=JobRow))
            if row is None:
                return None
            lease = self._take(session, row, stage, now, lease_s)
            return _job_in_hand(session, row, lease)

    def claim_delivery(
        self, destination: str, now: datetime, lease_s: float, only: int | None = None
    ) -> DeliveryInHand | None:
        """Take the first due delivery to this destination whose job is cleared for sending, or that very one."""
        waiting = claimable_deliveries(now).where(DeliveryRow.destination == destination)
        with self._sessions.writing() as session:
            first = _narrowed(waiting, DeliveryRow, only).order_by(DeliveryRow.rank_at, DeliveryRow.id).limit(1)
            row = session.scalar(first.with_for_update(skip_locked=True, of=DeliveryRow))
            if row is None:
                return None
            return _delivery_in_hand(row, self._take(session, row, "deliver", now, lease_s))

    def _take(self, session: Session, row: WorkRow, stage: str, now: datetime, lease_s: float) -> Lease:
        token = str(uuid.uuid4())
        subject = "job" if isinstance(row, JobRow) else "delivery"
        row.lease_token, row.lease_until, row.lease_owner = token, now + timedelta(seconds=lease_s), self._owner
        row.attempts += 1
        move(session, row, Event.BEGUN, Note(now, detail={"attempt": row.attempts, "worker": self._owner}))
        session.add(AttemptRow(subject=subject, subject_id=row.id, stage=stage, lease_token=token, started_at=now))
        return Lease(subject, row.id, stage, token, row.attempts, row.first_due_at)

    # --- outcomes -----------------------------------------------------------------------------------------------------

    def predicted(self, lease: Lease, results: dict[str, Any], now: datetime) -> None:
        """Inference is done; `results` is what the report and `why` will say of it."""
        with self._sessions.writing() as session:
            row = _fenced_job(session, lease)
            row.results = {**row.results, **results}
            row.due_at, row.attempts, row.crashes = now, 0, 0
            bring_back(session, Place.WORK, row.work_key, now)
            _end(session, row, lease, Event.DONE, Note(now, detail=_where(results)))
            _call_off_unwanted(session, row, now)

    def held(self, lease: Lease, holds: Sequence[Finding], results: dict[str, Any], now: datetime) -> None:
        """The work stops here until a person decides; no object exists, so none can be released."""
        with self._sessions.writing() as session:
            row = _fenced_job(session, lease)
            row.results = {**row.results, **results}
            row.reasons, row.releasable = [str(hold) for hold in holds], False
            _end(session, row, lease, Event.HELD, Note(now, detail={"reasons": row.reasons, **_where(results)}))

    def commit_result(self, lease: Lease, result: ResultToCommit, now: datetime) -> JobState:
        """Objects, what is owed, and the job's state in one transaction; WRITTEN or HELD."""
        with self._sessions.writing() as session:
            row = _fenced_job(session, lease)
            if gone := _no_longer_wanted(session, row):
                row.reasons = [gone]
                _end(session, row, lease, Event.CANCELLED, Note(now, detail={"reasons": [gone]}))
                return JobState(row.state)
            _store_result(session, row, result, now)
            row.reasons = [str(hold) for hold in result.holds]
            if result.releasable and _may_have_been_delivered(session, row):
                row.reasons = [*row.reasons, _SUPERSEDES_DELIVERED]
            event = Event.HELD if row.reasons else Event.DONE
            _end(session, row, lease, event, Note(now, detail={"reasons": row.reasons}))
            settle(session, row, now)
            return JobState(row.state)

    def replace(self, lease: Lease, because: str, now: datetime) -> None:
        """This job can no longer become what it was queued as; its series is judged, and ordered, anew."""
        with self._sessions.writing() as session:
            row = _fenced_job(session, lease)
            row.reasons = [because]
            _end(session, row, lease, Event.CANCELLED, Note(now, detail={"because": because}))
            if row.series.state == SeriesState.SELECTED:
                move(session, row.series, Event.RECONSIDERED, Note(now, detail={"because": because}))

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
                row.due_at, row.attempts = decision.until, row.attempts - (not decision.counts)
            _end(session, row, lease, event, Note(now, detail={"because": decision.because}))
            _call_off_unwanted(session, row, now)
            if isinstance(row, DeliveryRow):
                settle(session, row.object.job, now)

    # --- recovery -----------------------------------------------------------------------------------------------------

    def recover_all(self, now: datetime, died: bool = True) -> int:
        """At start, with this host's lock held: whatever this host had in hand, its worker is gone; how many.

        That is a crash of the input only if it `died`, and had not been told to stop.
        """
        with self._sessions.writing() as session:
            lost = [row for row in _in_work(session) if row.lease_owner in {self._owner, None}]
            for row in lost:
                row.crashes += died
                _interrupt(session, row, now)
            return len(lost)

    def renew(self, tokens: Collection[str], now: datetime, lease_s: float) -> frozenset[str]:
        """A sign of life: these are being worked on. Returns the ones that others have taken over, or called off."""
        until, held = now + timedelta(seconds=lease_s), set()
        with self._sessions.writing() as session:
            for row in _in_work(session):
                if row.lease_token in tokens:
                    row.lease_until = until
                    held.add(row.lease_token)
        return frozenset(set(tokens) - held)

    def leases(self) -> dict[str, datetime | None]:
        """Every lease that is held, by token, with what its holder last said."""
        with self._sessions.reading() as session:
            return {row.lease_token: row.lease_until for row in _in_work(session) if row.lease_token}

    def recover(self, now: datetime, forsaken: Collection[str]) -> int:
        """While running: take back work whose holder is not heard of; how many.

        Of another host that is a crash. Of this one it is a claim or an end that could not be recorded.
        """
        if not forsaken:
            return 0
        with self._sessions.writing() as session:
            gone = [row for row in _in_work(session) if row.lease_token in forsaken]
            for row in gone:
                row.crashes += row.lease_owner != self._owner
                _interrupt(session, row, now)
            return len(gone)

    def cancel_unknown(self, destinations: Collection[str], now: datetime) -> int:
        """At start: deliveries to destinations that the settings no longer name; nobody would ever send them."""
        orphaned = select(DeliveryRow).where(
            DeliveryRow.state == DeliveryState.PENDING, DeliveryRow.destination.not_in(destinations)
        )
        with self._sessions.writing() as session:
            rows = session.scalars(orphaned).all()
            for row in rows:
                row.last_error = "UNKNOWN_DESTINATION: the settings no longer name it"
                move(session, row, Event.CANCELLED, Note(now))
                settle(session, row.object.job, now)
            return len(rows)


def _where(results: Mapping[str, Any]) -> dict[str, Any]:
    """On what it was computed, for the journal: the results themselves may be overwritten by a later try."""
    return {"ran_on": results["ran_on"]} if results.get("ran_on") else {}


def _narrowed(query: Select[Any], table: type[WorkRow], only: int | None) -> Select[Any]:
    return query if only is None else query.where(table.id == only)


def _in_work(session: Session) -> list[WorkRow]:
    jobs = session.scalars(select(JobRow).where(JobRow.state.in_(sorted(WORKING["job"]))))
    sending = session.scalars(select(DeliveryRow).where(DeliveryRow.state.in_(sorted(WORKING["delivery"]))))
    return [*jobs, *sending]


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
    row.lease_token, row.lease_until, row.lease_owner = None, None, None
    attempt = session.scalars(select(AttemptRow).where(AttemptRow.lease_token == lease.token)).one()
    attempt.ended_at, attempt.outcome = note.at, event
    attempt.detail = row.last_error if event in _ENDS.values() else None


def take_away(session: Session, row: WorkRow, now: datetime) -> None:
    """From whoever has it in hand: its lease counts no more, and its attempt has ended."""
    token, row.lease_token, row.lease_until, row.lease_owner = row.lease_token, None, None, None
    for attempt in session.scalars(select(AttemptRow).where(AttemptRow.lease_token == token)):
        attempt.ended_at, attempt.outcome = now, Event.CANCELLED


def _interrupt(session: Session, row: WorkRow, now: datetime) -> None:
    token, row.lease_token, row.lease_until, row.lease_owner = row.lease_token, None, None, None
    row.due_at = now
    for attempt in session.scalars(select(AttemptRow).where(AttemptRow.lease_token == token)):
        attempt.ended_at, attempt.outcome = now, Event.INTERRUPTED
    poison = isinstance(row, JobRow) and row.crashes >= CRASH_LIMIT
    if poison:
        row.last_error = (
            f"WORKER_DIED: the worker died {row.crashes} times on this input; it is not tried again by itself"
        )
    move(session, row, Event.QUARANTINED if poison else Event.INTERRUPTED, Note(now, detail={"crashes": row.crashes}))
    _call_off_unwanted(session, row, now)


def _call_off_unwanted(session: Session, row: WorkRow, now: datetime) -> None:
    """What waits again, but was replaced or called off while it was in hand, nobody would ever take."""
    because = _no_longer_wanted(session, row) if isinstance(row, JobRow) else _no_longer_owed(row)
    if because is None or not waits(row):
        return
    if isinstance(row, JobRow):
        row.reasons = [because]
    else:
        row.last_error = because
    move(session, row, Event.CANCELLED, Note(now, detail={"because": because}))


def _no_longer_owed(row: DeliveryRow) -> str | None:
    job = row.object.job
    return "; ".join(map(str, job.reasons)) if job.state == JobState.CANCELLED else None


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
        supersedes=_superseded(session, row),
    )


def _superseded(session: Session, row: JobRow) -> tuple[SentBefore, ...]:
    """What somebody was sent of the other results of this series, of whichever revision, the newest first: what is
    written now comes after them, though with a bundle that was taken back its job may be older."""
    sent = (
        select(ObjectRow.kind, ObjectRow.variant, JobRow.work_key, ObjectRow.sop_uid)
        .join(JobRow, JobRow.id == ObjectRow.job_id)
        .join(SeriesRow)
        .where(SeriesRow.series_uid == row.series.series_uid, JobRow.id != row.id)
        .where(ObjectRow.deliveries.any(DeliveryRow.sent_at.is_not(None)))
        .order_by(JobRow.id.desc(), ObjectRow.id)
    )
    return tuple(SentBefore(ObjectKind(kind), *others) for kind, *others in session.execute(sent))


def _no_longer_wanted(session: Session, row: JobRow) -> str | None:
    """Why this result comes too late: its series was replaced or set apart, or a newer order was placed."""
    if row.series.state not in {SeriesState.SELECTED, SeriesState.COMPLETE}:
        return f"its series is {row.series.state} by now: {'; '.join(row.series.reasons)}"
    living = [job for job in row.series.jobs if job.state != JobState.CANCELLED or job is row]
    if by_order(session, living)[-1] is not row:
        return "a newer order for the series took its place"
    return None


def _may_have_been_delivered(session: Session, row: JobRow) -> bool:
    """Whether another result of the same study reached, or may have reached, some destination.

    Of whichever of its series: two would be two structure sets of one tumour. An attempt that ended in silence or
    confusion, or with its worker, may have stored the object at the peer.
    """
    others = (
        select(DeliveryRow.id, DeliveryRow.sent_at)
        .join(ObjectRow)
        .join(JobRow)
        .join(SeriesRow)
        .where(SeriesRow.study_id == row.series.study_id, JobRow.id != row.id)
    )
    deliveries = {row.id: row.sent_at for row in session.execute(others)}
    unsure = select(AttemptRow.id).where(
        AttemptRow.subject == "delivery",
        AttemptRow.subject_id.in_(deliveries),
        AttemptRow.ended_at.is_(None)
        | (AttemptRow.outcome == Event.INTERRUPTED)
        | AttemptRow.detail.startswith("PEER_STALLED")
        | AttemptRow.detail.startswith("PEER_CONFUSED"),
    )
    return any(deliveries.values()) or session.scalar(unsure.limit(1)) is not None


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
        constancy=bool(item.job.results.get("constancy", False)),
        enhanced_mr=bool(item.job.results.get("enhanced_mr", False)),  # results of before ADR 0009 say nothing of it
    )


def _store_result(session: Session, row: JobRow, result: ResultToCommit, now: datetime) -> None:
    row.results = {**row.results, **result.results}
    row.releasable = result.releasable
    first = {item.sop_uid: item for item in row.objects}  # committed by an earlier attempt
    for item, sha256 in result.objects:
        stored = first.get(item.sop_uid) or _new_object(session, row, item, sha256, now)
        if stored.sha256 != sha256 and not _is_out(session, stored):
            stored.sha256, stored.size, stored.created_at = sha256, len(item.encoded), now
        bring_back(session, Place.OUTBOX, sha256, now)
        for sop_uid, destination in result.owed:
            if sop_uid == item.sop_uid:
                owe(session, stored, destination, Note(now))


def _is_out(session: Session, item: ObjectRow) -> bool:
    """Whether anybody may have an object: then its first bytes stand (ADR 0003). Until then those stand that the gates
    judged last: an earlier try's, which they held, would travel under a later try's verdict. Of what was found again
    after a restore nobody knows (ADR 0023); it is of the same work key, so of the same series, bundle and settings."""
    if found_again(session, item.sop_uid):
        return True
    begun = select(AttemptRow.id).where(
        AttemptRow.subject == "delivery", AttemptRow.subject_id.in_([row.id for row in item.deliveries])
    )
    return session.scalar(begun.limit(1)) is not None


def _new_object(session: Session, row: JobRow, item: WrittenObject, sha256: str, now: datetime) -> ObjectRow:
    bytes_of = found_again(session, item.sop_uid) or (sha256, len(item.encoded))
    stored = ObjectRow(
        kind=item.kind,
        variant=item.variant,
        sop_class_uid=item.sop_class_uid,
        sop_uid=item.sop_uid,
        sha256=bytes_of[0],
        size=bytes_of[1],
        created_at=now,
    )
    row.objects.append(stored)
    session.flush()
    return stored


def owe(session: Session, item: ObjectRow, destination: str, note: Note) -> DeliveryRow:
    """A delivery of this object to this destination: a new one, or the one that ended before, due again."""
    known = next((row for row in item.deliveries if row.destination == destination), None)
    due_at = due(session, note.at)
    if known is None:
        known = DeliveryRow(destination=destination, state=DeliveryState.PENDING, due_at=due_at, first_due_at=due_at)
        known.rank_at = rank_at(due_at, item.job.priority)
        item.deliveries.append(known)
        born(session, known, Note(note.at, note.actor, {"destination": destination, "kind": item.kind}))
    elif known.state not in {DeliveryState.PENDING, DeliveryState.SENDING}:
        known.attempts, known.due_at, known.first_due_at = 0, due_at, due_at
        known.rank_at = rank_at(due_at, item.job.priority)
        move(session, known, Event.RESENT, note)
    return known


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
    elif failed := [row for row in owed if row.state != DeliveryState.SENT]:
        job.reasons = [f"NOT_DELIVERED to {row.destination}: {row.last_error}" for row in failed]
        move(session, job, Event.FAILED, Note(now))
    else:
        job.reasons = []
        move(session, job, Event.ALL_SENT, Note(now))
