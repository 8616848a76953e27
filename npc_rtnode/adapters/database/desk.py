"""The ledger's desk: what an operator may do, each with a reason and a name, each journalled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from npc_rtnode.adapters.database.conflicts import CONFLICT, Keep, in_conflict, settle_conflict
from npc_rtnode.adapters.database.engine import Sessions
from npc_rtnode.adapters.database.journal import Note, move, tell
from npc_rtnode.adapters.database.removals import require_bytes
from npc_rtnode.adapters.database.series import by_order, codes_of, inputs_of, open_series, queue_job, requeue
from npc_rtnode.adapters.database.tables import DeliveryRow, JobRow, ObjectRow, SeriesRow, StudyRow
from npc_rtnode.adapters.database.work import owe, settle, take_away
from npc_rtnode.domain.completeness import IDENTITY_CODES, RELEASABLE_CODES
from npc_rtnode.domain.identifiers import study_reference
from npc_rtnode.domain.lifecycle import DeliveryState, Event, JobState, SeriesState
from npc_rtnode.domain.profiles import ObjectOrder
from npc_rtnode.domain.records import OpenSeries, WorkOrder
from npc_rtnode.domain.retention import Place
from npc_rtnode.domain.selection import OUTRANKED
from npc_rtnode.errors import Forbidden, NotFound

RETRYABLE = {JobState.FAILED, JobState.QUARANTINED, JobState.CANCELLED}
RESENDABLE = {JobState.DELIVERED, JobState.FAILED, JobState.WRITTEN}
RECONSIDERABLE = {SeriesState.SELECTED, SeriesState.HELD, SeriesState.SET_ASIDE, SeriesState.QUARANTINED}
ABANDONABLE = {JobState.HELD, JobState.FAILED, JobState.QUARANTINED}
CANCELLABLE = {
    JobState.QUEUED,
    JobState.PREDICTING,
    JobState.PREDICTED,
    JobState.WRITING,
    JobState.WRITTEN,
}
CANCELLED = "CANCELLED"
"""The code of work that a person has called off."""
ABANDONED = "ABANDONED"
"""The code of work that a person has ended."""
NEVER_AGAIN = IDENTITY_CODES | {CONFLICT}
"""Reasons of a quarantine that another look cannot mend."""

Deed = Callable[[], str]


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
class Only:
    """One thing among those of a study: a series or a job by its number; nothing stated means whatever there is."""

    series: int | None = None
    job: int | None = None

    @property
    def stated(self) -> bool:
        """Whether one was named."""
        return self.series is not None or self.job is not None


@dataclass(frozen=True)
class Resending:
    """What to send again: the destinations with what each wants, and what forbids sending a result there."""

    wanted: tuple[tuple[str, tuple[ObjectOrder, ...]], ...]
    forbidden: Callable[[dict[str, object], str], str]  # why a job with these results may not go there, or nothing


class Desk:
    """Hold, release, retry, resend, reconsider. Each returns one line for every thing it did (or would do)."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def release(self, study: str, word: Word, only: Only = Only()) -> list[str]:
        """Let go one thing that waits for a person; with several waiting, one must be named."""
        with self._sessions.writing() as session:
            rows = series_of(session, study)
            if rows[0].study.hold and not only.stated:
                return _told(session, [_lift_hold(session, rows[0].study, word)], word, "")
            waiting = [*_held_series(session, rows, only, word), *_held_jobs(session, rows, only, word)]
            if len(waiting) > 1:
                names = ", ".join(name for name, _ in waiting)
                raise Forbidden(f"{len(waiting)} things of study {study} wait: name one by --series or --job: {names}")
            refused = _never(rows, only)
            if not waiting and refused:
                raise Forbidden("; ".join(refused))
            return _told(session, [deed() for _, deed in waiting], word, f"nothing of study {study} is held")

    def settle(self, study: str, keep: Keep, word: Word, only: Only = Only()) -> list[str]:
        """Say which of the conflicting contents of one series counts; with several such series, one must be named."""
        with self._sessions.writing() as session:
            rows = [row for row in series_of(session, study) if in_conflict(row) and only.series in {None, row.id}]
            if len(rows) > 1:
                names = ", ".join(f"series {row.id}" for row in rows)
                raise Forbidden(f"{len(rows)} series of study {study} have conflicting contents: name one: {names}")
            done = [settle_conflict(session, row, keep, word.note) for row in rows]
            return _told(session, done, word, f"no series of study {study} has conflicting contents")

    def pull(self, study_uid: str, site_key: str, word: Word, detail: Mapping[str, object]) -> str:
        """Journal that a study is fetched, or has come; its reference, known here or not yet."""
        with self._sessions.writing() as session:
            known = session.scalar(select(StudyRow.reference).where(StudyRow.study_uid == study_uid))
            reference = known or study_reference(study_uid, site_key)
            note = Note(word.at, word.note.actor, {"reason": word.reason, **detail})
            tell(session, "study", reference, "PULLED" if "came" in detail else "PULL_ASKED", note)
            return reference

    def hold(self, study: str, word: Word) -> list[str]:
        """Keep a study back at every stage: what is under way is finished, nothing more is begun or sent."""
        with self._sessions.writing() as session:
            row = series_of(session, study)[0].study
            row.hold = f"{word.actor}: {word.reason}"
            tell(session, "study", row.reference, "HELD", word.note)
            return _told(session, [f"study {row.reference} is held; what was sent before stays sent"], word, "")

    def retry(self, study: str, word: Word) -> list[str]:
        """Try the newest job of each selected series again: failed, called off, or owed to nobody."""
        with self._sessions.writing() as session:
            rows = series_of(session, study)
            jobs = [job for job in _newest_jobs(session, rows) if job.state in RETRYABLE or _owed_to_nobody(job)]
            return _told(session, [_retry_job(session, job, word) for job in jobs], word, _nothing(rows, "has failed"))

    def resend(self, study: str, word: Word, resending: Resending) -> list[str]:
        """Send the stored bytes of the newest result again. A held result is released first, or not at all."""
        with self._sessions.writing() as session:
            rows = series_of(session, study)
            jobs = [job for job in _newest_jobs(session, rows) if job.objects]
            if held := [job for job in jobs if job.state == JobState.HELD]:
                raise Forbidden(f"job {held[0].id} is HELD: {'; '.join(held[0].reasons)}")
            cleared = [job for job in jobs if job.state in RESENDABLE and _judged(job)]
            done = [line for job in cleared for line in _resend(session, job, word, resending)]
            if not done and any(row.jobs for row in rows):
                raise Forbidden(_nothing(rows, "may be sent"))
            return _told(session, done, word, "no stored object there")

    def reconsider(self, study: str, word: Word) -> list[str]:
        """Judge the latest revision of each series anew, by the rules in force now."""
        with self._sessions.writing() as session:
            rows = [row for row in series_of(session, study) if _can_be_reconsidered(row)]
            return _told(
                session, [_reconsider(session, row, word) for row in rows], word, "nothing there can be judged"
            )

    def abandon(self, study: str, word: Word) -> list[str]:
        """End what of a study is held, failed or quarantined: nothing comes of it any more, and its bytes may age."""
        with self._sessions.writing() as session:
            rows = series_of(session, study)
            jobs = [job for row in rows for job in row.jobs if job.state in ABANDONABLE]
            done = [_abandon_job(session, job, word) for job in jobs]
            done += [_abandon_series(session, row, word) for row in rows if row.state == SeriesState.HELD]
            return _told(session, done, word, _nothing(rows, "waits for a person"))

    def cancel(self, study: str, word: Word) -> list[str]:
        """Call off what of a study waits, is under way or is still to be sent; whose lease it was learns it."""
        with self._sessions.writing() as session:
            rows = series_of(session, study)
            jobs = [job for row in rows for job in row.jobs if job.state in CANCELLABLE]
            done = [_cancel_job(session, job, word) for job in jobs]
            return _told(session, done, word, _nothing(rows, "is under way"))

    def selected(self, study: str) -> list[OpenSeries]:
        """The selected series of a study: what can be inferred anew."""
        with self._sessions.reading() as session:
            rows = series_of(session, study)
            return [open_series(session, row) for row in rows if row.state == SeriesState.SELECTED]

    def order(self, series_id: int, order: WorkOrder, word: Word) -> str:
        """Queue a job for this order unless its work key has one: then the stored result stands."""
        with self._sessions.writing() as session:
            known = session.scalar(select(JobRow).where(JobRow.work_key == order.work_key))
            if known is not None and known.state != JobState.CANCELLED:
                return f"job {known.id} stands ({known.state}): nothing that shapes its objects has changed; see resend"
            _require_inputs(session, session.get_one(SeriesRow, series_id))
            if word.dry_run:
                return f"series {series_id} would be inferred as a new result revision by {order.bundle_name}"
            job = queue_job(session, session.get_one(SeriesRow, series_id), order, word.at)
            tell(session, "job", str(job), "ORDERED", word.note)
            return f"job {job} queued: a new result revision by {order.bundle_name}"


def series_of(session: Session, study: str) -> list[SeriesRow]:
    """The series of a study, by its reference or its UID; NotFound names what was asked for."""
    wanted = or_(StudyRow.reference == study.upper(), StudyRow.study_uid == study)
    row = session.scalar(select(StudyRow).where(wanted))
    if row is None:
        raise NotFound(f"no study {study}; `npc-rtnode studies list` shows the ones that are known")
    return list(row.series)


def _newest_jobs(session: Session, rows: Iterable[SeriesRow]) -> list[JobRow]:
    """The newest job of every series that is selected now: older ones, and those of replaced series, are history."""
    jobs = [[job for job in row.jobs if job.state != JobState.CANCELLED] or row.jobs for row in rows if _selected(row)]
    return [by_order(session, found)[-1] for found in jobs if found]


def _selected(row: SeriesRow) -> bool:
    return row.state == SeriesState.SELECTED


def _nothing(rows: Iterable[SeriesRow], what: str) -> str:
    stands = "; ".join(f"series {row.id} is {row.state} {' '.join(map(str, row.reasons))}".strip() for row in rows)
    return f"nothing there {what}: {stands}"


def _require_inputs(session: Session, row: SeriesRow) -> None:
    """Nothing is worked on anew whose bytes are no longer here."""
    require_bytes(session, row, Place.SPOOL, {sha256 for _, sha256 in inputs_of(session, row)})


def _told(session: Session, done: list[str], word: Word, otherwise: str) -> list[str]:
    if not done:
        raise NotFound(otherwise)
    if word.dry_run:
        session.rollback()
    return done


# --- release ----------------------------------------------------------------------------------------------------------


def _lift_hold(session: Session, study: StudyRow, word: Word) -> str:
    was, study.hold = study.hold, None
    tell(session, "study", study.reference, "RELEASED", word.note)
    return f"study {study.reference} goes on; it was held by {was}"


def _held_series(session: Session, rows: Iterable[SeriesRow], only: Only, word: Word) -> list[tuple[str, Deed]]:
    def deed(row: SeriesRow) -> Deed:
        return lambda: _release_series(session, row, word)

    wanted = [row for row in rows if only.job is None and only.series in {None, row.id}]
    waiting = [row for row in wanted if row.state == SeriesState.HELD or _short_alone(row) or _named(row, only)]
    return [(f"series {row.id}", deed(row)) for row in waiting]


def _held_jobs(session: Session, rows: Iterable[SeriesRow], only: Only, word: Word) -> list[tuple[str, Deed]]:
    def deed(job: JobRow) -> Deed:
        return lambda: _release_job(session, job, word)

    wanted = [job for row in rows for job in row.jobs if only.series is None and only.job in {None, job.id}]
    return [(f"job {job.id}", deed(job)) for job in wanted if job.state == JobState.HELD and job.releasable]


def _never(rows: Iterable[SeriesRow], only: Only) -> list[str]:
    """What waits there and can be released by nobody, and why."""
    stalled = [row for row in rows if row.state == SeriesState.STALLED and not _short_alone(row)]
    apart = [row for row in rows if row.state == SeriesState.QUARANTINED and only.series in {None, row.id}]
    jobs = [job for row in rows for job in row.jobs if job.state == JobState.HELD and not job.releasable]
    return [
        *(f"series {row.id} is not whole ({_reasons(row)}): it is never inferred; send the rest" for row in stalled),
        *(f"series {row.id} is QUARANTINED ({_reasons(row)}): {_way_out(row)}" for row in apart),
        *(f"job {job.id} can be released by nobody: {_reasons(job)}" for job in jobs if only.job in {None, job.id}),
    ]


def _way_out(row: SeriesRow) -> str:
    """What a person can do about a quarantine."""
    if codes_of(row) & IDENTITY_CODES:
        return "it is never used; the sender must send it anew as series of their own"
    if in_conflict(row):
        return "choose by --keep first or --keep last"
    return "`npc-rtnode reprocess --from select` looks at it again"


def _reasons(row: SeriesRow | JobRow) -> str:
    return "; ".join(str(reason) for reason in row.reasons)


def _named(row: SeriesRow, only: Only) -> bool:
    """Whether it waits for nothing, but was named, and only another series of the study stands before it."""
    return row.state == SeriesState.SET_ASIDE and only.series == row.id and codes_of(row) == {OUTRANKED}


def _short_alone(row: SeriesRow) -> bool:
    return row.state == SeriesState.STALLED and bool(row.reasons) and codes_of(row) <= RELEASABLE_CODES


def _release_series(session: Session, row: SeriesRow, word: Word) -> str:
    """The word covers the doubts that stand there now, and no others."""
    _require_inputs(session, row)
    doubts = _reasons(row)
    row.operators_word, row.waived = f"{word.actor}: {word.reason}", [*row.waived, *row.reasons]
    move(session, row, Event.RELEASED, Note(word.at, word.note.actor, {"reason": word.reason, "against": row.reasons}))
    return f"series {row.id} released on the word of {word.actor}, against: {doubts}"


def _release_job(session: Session, job: JobRow, word: Word) -> str:
    against = _reasons(job)
    note = Note(word.at, word.note.actor, {"reason": word.reason, "against": job.reasons})
    if not any(item.deliveries for item in job.objects):
        _require_inputs(session, job.series)
        requeue(session, job, note)
        return f"job {job.id} is done again: {against}"
    job.reasons = []
    move(session, job, Event.RELEASED, note)
    settle(session, job, word.at)
    return f"job {job.id} released for sending on the word of {word.actor}, against: {against}"


# --- retry, resend, reconsider ----------------------------------------------------------------------------------------


def _owed_to_nobody(job: JobRow) -> bool:
    """Held with good objects, for want of a destination: other settings may have one."""
    return job.state == JobState.HELD and job.releasable and not any(item.deliveries for item in job.objects)


def _retry_job(session: Session, job: JobRow, word: Word) -> str:
    failed = [d for item in job.objects for d in item.deliveries if d.state == DeliveryState.FAILED]
    if not failed or job.state == JobState.CANCELLED:
        _require_inputs(session, job.series)
        requeue(session, job, word.note)
        return f"job {job.id} is queued again"
    move(session, job, Event.RESENT, word.note)
    for delivery in failed:
        owe(session, delivery.object, delivery.destination, word.note)
    return f"job {job.id}: {len(failed)} deliveries are tried again"


def _judged(job: JobRow) -> bool:
    """Whether the gates judged its latest try: one that failed before that may lie over objects that they had held."""
    return "synthetic" in job.results


def _resend(session: Session, job: JobRow, word: Word, resending: Resending) -> list[str]:
    done = []
    for destination, orders in resending.wanted:
        if because := resending.forbidden(job.results, destination):
            raise Forbidden(f"job {job.id} may not go to {destination}: {because}")
        found = [_stored_for(job, order, destination) for order in orders]
        items = [item for item in found if item is not None]
        require_bytes(session, job.series, Place.OUTBOX, {item.sha256 for item in items})
        done += [_resend_object(session, item, destination, word) for item in items]
    if done:
        move(session, job, Event.RESENT, word.note)
        settle(session, job, word.at)
    return done


def _stored_for(job: JobRow, order: ObjectOrder, destination: str) -> ObjectRow | None:
    """The object of that kind that this destination was owed before, else the one in the form that it wants now."""
    items = [item for item in job.objects if item.kind == order.kind]
    owed = [item for item in items if any(delivery.destination == destination for delivery in item.deliveries)]
    return next(iter([*owed, *(item for item in items if item.variant == order.variant)]), None)


def _resend_object(session: Session, item: ObjectRow, destination: str, word: Word) -> str:
    before: DeliveryRow | None = next((d for d in item.deliveries if d.destination == destination), None)
    if before is not None and before.state in {DeliveryState.PENDING, DeliveryState.SENDING}:
        return f"{item.kind} to {destination} is already on its way"
    owe(session, item, destination, word.note)
    return f"{item.kind} {item.sop_uid} goes to {destination}: the stored bytes"


def _cancel_job(session: Session, job: JobRow, word: Word) -> str:
    was, because = job.state, f"{CANCELLED}: by {word.actor}: {word.reason}"
    for delivery in (d for item in job.objects for d in item.deliveries if d.state == DeliveryState.PENDING):
        delivery.last_error = because
        move(session, delivery, Event.CANCELLED, word.note)
    job.reasons = [*job.reasons, because]
    take_away(session, job, word.at)
    move(session, job, Event.CANCELLED, word.note)
    return f"job {job.id}, {was}, is called off"


def _abandon_job(session: Session, job: JobRow, word: Word) -> str:
    was, because = job.state, f"{ABANDONED}: by {word.actor}: {word.reason}"
    for delivery in (d for item in job.objects for d in item.deliveries if d.state == DeliveryState.PENDING):
        delivery.last_error = because
        move(session, delivery, Event.CANCELLED, word.note)
    job.reasons = [*job.reasons, because]
    move(session, job, Event.CANCELLED, word.note)
    return f"job {job.id}, {was}, is called off"


def _abandon_series(session: Session, row: SeriesRow, word: Word) -> str:
    move(session, row, Event.RECONSIDERED, word.note)
    row.reasons = [*row.reasons, f"{ABANDONED}: by {word.actor}: {word.reason}"]
    move(session, row, Event.SET_ASIDE, word.note)
    return f"series {row.id}, held, is set aside"


def _can_be_reconsidered(row: SeriesRow) -> bool:
    return row.state in RECONSIDERABLE and not (row.state == SeriesState.QUARANTINED and codes_of(row) & NEVER_AGAIN)


def _reconsider(session: Session, row: SeriesRow, word: Word) -> str:
    _require_inputs(session, row)
    row.troubles, row.due_at = 0, word.at
    if row.state != SeriesState.SELECTED:
        row.operators_word, row.waived = None, []
    move(session, row, Event.RECONSIDERED, word.note)
    return f"series {row.id} is judged again by the rules in force"
