"""The ledger's desk: what an operator may do, each with a reason and a name, each journalled."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from npc_rtnode.adapters.database.engine import Sessions
from npc_rtnode.adapters.database.journal import Note, move
from npc_rtnode.adapters.database.series import open_series, queue_job
from npc_rtnode.adapters.database.tables import DeliveryRow, JobRow, ObjectRow, SeriesRow, StudyRow
from npc_rtnode.adapters.database.work import owe, settle
from npc_rtnode.domain.lifecycle import DeliveryState, Event, JobState, SeriesState
from npc_rtnode.domain.records import ObjectKind, OpenSeries, WorkOrder
from npc_rtnode.errors import Forbidden, NotFound

HOLDABLE = {JobState.QUEUED, JobState.PREDICTED, JobState.WRITTEN}
RETRYABLE = {JobState.FAILED, JobState.QUARANTINED, JobState.CANCELLED}
RESENDABLE = {JobState.DELIVERED, JobState.FAILED, JobState.WRITTEN}
RECONSIDERABLE = {SeriesState.SELECTED, SeriesState.HELD, SeriesState.SET_ASIDE}
COUNT_SHORT_ALONE = "COUNT_SHORT"


@dataclass(frozen=True)
class Word:
    """An operator's word: who, why, when; with `dry_run` nothing is changed and the plan alone is told."""

    actor: str
    reason: str
    at: datetime
    dry_run: bool = False

    @property
    def note(self) -> Note:
        """As the journal keeps it."""
        return Note(self.at, actor=self.actor[:64], detail={"reason": self.reason})


@dataclass(frozen=True)
class Resending:
    """What to send again: the destinations with the kinds each wants, and whether the release rule lets it go there."""

    wanted: tuple[tuple[str, tuple[ObjectKind, ...]], ...]
    may_send: Callable[[dict[str, object], str], bool]


class Desk:
    """Hold, release, retry, resend, reconsider. Each returns one line for every thing it did (or would do)."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def release(self, study: str, word: Word) -> list[str]:
        """Let go what waits for a person. What may never be released says why, and nothing at all is changed."""
        with self._sessions.writing() as session:
            rows = series_of(session, study)
            done = [_release_series(session, row, word) for row in rows if row.state == SeriesState.HELD]
            done += [_release_stalled(session, row, word) for row in rows if row.state == SeriesState.STALLED]
            done += [_release_job(session, job, word) for job in _jobs(rows) if job.state == JobState.HELD]
            return _told(session, done, word, f"nothing of study {study} is held")

    def hold(self, study: str, word: Word) -> list[str]:
        """Keep back whatever has not been sent."""
        with self._sessions.writing() as session:
            jobs = [job for job in _jobs(series_of(session, study)) if job.state in HOLDABLE]
            return _told(session, [_hold_job(session, job, word) for job in jobs], word, "nothing there can be held")

    def retry(self, study: str, word: Word) -> list[str]:
        """Try failed, quarantined or cancelled jobs again, from the stage where they stand."""
        with self._sessions.writing() as session:
            jobs = [job for job in _jobs(series_of(session, study)) if job.state in RETRYABLE]
            return _told(session, [_retry_job(session, job, word) for job in jobs], word, "nothing there has failed")

    def resend(self, study: str, word: Word, resending: Resending) -> list[str]:
        """Send the stored bytes again. A held result is released first, or not at all."""
        with self._sessions.writing() as session:
            jobs = [job for job in _jobs(series_of(session, study)) if job.objects]
            if held := [job for job in jobs if job.state == JobState.HELD]:
                raise Forbidden(f"job {held[0].id} is HELD: {'; '.join(held[0].reasons)}")
            done = [line for job in jobs if job.state in RESENDABLE for line in _resend(session, job, word, resending)]
            return _told(session, done, word, "no stored object there can be sent")

    def reconsider(self, study: str, word: Word) -> list[str]:
        """Judge the latest revision of each series anew, by the rules in force now."""
        with self._sessions.writing() as session:
            rows = [row for row in series_of(session, study) if row.state in RECONSIDERABLE]
            return _told(
                session, [_reconsider(session, row, word) for row in rows], word, "nothing there can be judged"
            )

    def selected(self, study: str) -> list[OpenSeries]:
        """The selected series of a study: what can be inferred anew."""
        with self._sessions.reading() as session:
            rows = series_of(session, study)
            return [open_series(session, row) for row in rows if row.state == SeriesState.SELECTED]

    def order(self, series_id: int, order: WorkOrder, word: Word) -> str:
        """Queue a job for this order unless its work key has one: then the stored result stands."""
        with self._sessions.writing() as session:
            known = session.scalar(select(JobRow).where(JobRow.work_key == order.work_key))
            if known is not None:
                return f"job {known.id} stands ({known.state}): nothing that shapes its objects has changed; see resend"
            if word.dry_run:
                return f"series {series_id} would be inferred as a new result revision by {order.bundle_name}"
            job = queue_job(session, session.get_one(SeriesRow, series_id), order, word.at)
            return f"job {job} queued: a new result revision by {order.bundle_name}"


def series_of(session: Session, study: str) -> list[SeriesRow]:
    """The series of a study, by its reference or its UID; NotFound names what was asked for."""
    wanted = or_(StudyRow.reference == study.upper(), StudyRow.study_uid == study)
    row = session.scalar(select(StudyRow).where(wanted))
    if row is None:
        raise NotFound(f"no study {study}; `npc-rtnode studies list` shows the ones that are known")
    return list(row.series)


def _jobs(rows: Iterable[SeriesRow]) -> list[JobRow]:
    return [job for row in rows for job in row.jobs]


def _told(session: Session, done: list[str], word: Word, otherwise: str) -> list[str]:
    if not done:
        raise NotFound(otherwise)
    if word.dry_run:
        session.rollback()
    return done


def _release_series(session: Session, row: SeriesRow, word: Word) -> str:
    row.operators_word = f"{word.actor}: {word.reason}"
    move(session, row, Event.RELEASED, word.note)
    doubts = "; ".join(str(reason) for reason in row.reasons)
    return f"series {row.id} released on the word of {word.actor}, as indicated for NPC and against: {doubts}"


def _release_stalled(session: Session, row: SeriesRow, word: Word) -> str:
    if not row.reasons or not all(str(reason).startswith(COUNT_SHORT_ALONE) for reason in row.reasons):
        raise Forbidden(f"series {row.id} is not whole ({'; '.join(row.reasons)}): it is never inferred; send the rest")
    row.operators_word = f"{word.actor}: {word.reason}"
    move(session, row, Event.RELEASED, word.note)
    return f"series {row.id} released: taken as complete on the word of {word.actor}"


def _release_job(session: Session, job: JobRow, word: Word) -> str:
    if not job.releasable:
        raise Forbidden(f"job {job.id} can be released by nobody: {'; '.join(job.reasons)}")
    if not job.objects:
        return _requeue(session, job, word)
    job.reasons = []
    move(session, job, Event.RELEASED, word.note)
    settle(session, job, word.at)
    return f"job {job.id} released for sending on the word of {word.actor}"


def _hold_job(session: Session, job: JobRow, word: Word) -> str:
    job.reasons = [f"OPERATOR: held by {word.actor}: {word.reason}"]
    move(session, job, Event.HELD, word.note)
    return f"job {job.id} held; what was sent before stays sent"


def _retry_job(session: Session, job: JobRow, word: Word) -> str:
    if job.series.state != SeriesState.SELECTED:
        raise Forbidden(f"job {job.id}: its series is {job.series.state}: {'; '.join(job.series.reasons)}")
    if not job.objects:
        return _requeue(session, job, word)
    if job.state == JobState.CANCELLED:
        raise Forbidden(f"job {job.id} was cancelled: {'; '.join(job.reasons)}")
    move(session, job, Event.RESENT, word.note)
    failed = [d for item in job.objects for d in item.deliveries if d.state == DeliveryState.FAILED]
    for delivery in failed:
        _again(session, delivery, word)
    return f"job {job.id}: {len(failed)} deliveries are tried again"


def _requeue(session: Session, job: JobRow, word: Word) -> str:
    job.reasons, job.attempts, job.crashes, job.last_error = [], 0, 0, None
    job.due_at = job.first_due_at = word.at
    move(session, job, Event.RETRIED, word.note)
    return f"job {job.id} is queued again"


def _again(session: Session, delivery: DeliveryRow, word: Word) -> None:
    delivery.attempts, delivery.due_at, delivery.first_due_at = 0, word.at, word.at
    move(session, delivery, Event.RESENT, word.note)


def _resend(session: Session, job: JobRow, word: Word, resending: Resending) -> list[str]:
    done = []
    for destination, kinds in resending.wanted:
        if not resending.may_send(job.results, destination):
            raise Forbidden(
                f"job {job.id} may not go to {destination}: synthetic weights, and no phantom, no test system"
            )
        items = [item for item in job.objects if item.kind in kinds]
        done += [_resend_object(session, item, destination, word) for item in items]
    if done:
        move(session, job, Event.RESENT, word.note)
        settle(session, job, word.at)
    return done


def _resend_object(session: Session, item: ObjectRow, destination: str, word: Word) -> str:
    delivery = next((d for d in item.deliveries if d.destination == destination), None)
    if delivery is None:
        owe(session, item, destination, word.at)
    elif delivery.state in {DeliveryState.PENDING, DeliveryState.SENDING}:
        return f"{item.kind} to {destination} is already on its way"
    else:
        _again(session, delivery, word)
    return f"{item.kind} {item.sop_uid} goes to {destination}: the stored bytes"


def _reconsider(session: Session, row: SeriesRow, word: Word) -> str:
    row.operators_word = None if row.state != SeriesState.SELECTED else row.operators_word
    move(session, row, Event.RECONSIDERED, word.note)
    return f"series {row.id} is judged again by the rules in force"
