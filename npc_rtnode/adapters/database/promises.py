"""The promises that the ledger can answer for alone, one look each (domain/invariants.py says them).

What a look says of a breach names numbers of rows, states and UIDs of ours, never a patient.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from sqlalchemy import Select, String, exists, func, select
from sqlalchemy import cast as sql_cast
from sqlalchemy.orm import Session

from npc_rtnode.adapters.database.journal import first_broken_link
from npc_rtnode.adapters.database.removals import PURGED, removed
from npc_rtnode.adapters.database.tables import (
    AssociationRow,
    AttemptRow,
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
from npc_rtnode.domain.invariants import Looked, looked
from npc_rtnode.domain.lifecycle import LIVES, WORKING, DeliveryState, Event, JobState, SeriesState
from npc_rtnode.domain.retention import Place
from npc_rtnode.domain.retry import COMPUTE, CRASH_LIMIT

_ASSEMBLING = {SeriesState.RECEIVING, SeriesState.STALLED}
_AT_WORK = {SeriesState.COMPLETE, SeriesState.SELECTED, SeriesState.HELD}
_CURRENT = {JobState.QUEUED, JobState.PREDICTED, JobState.WRITTEN, JobState.HELD}
"""Of these a series has one at most; an older one in a worker's hand is called off when it wants to commit."""
_UNFINISHED = _CURRENT | {JobState.PREDICTING, JobState.WRITING}
_NEEDS_INPUTS = {JobState.QUEUED, JobState.PREDICTING, JobState.PREDICTED, JobState.WRITING}
_LIVING = (("series", SeriesRow), ("job", JobRow), ("delivery", DeliveryRow))


def places(session: Session) -> Looked:
    """I3: every instance in one place."""
    counts: Counter[str] = Counter()
    said: list[str] = []
    for states, number in _states_of_instances(session).items():
        place, wrong = _place_of(*states)
        counts[place] += number
        said += [wrong] * number
    return looked("I3", [*said, *_kept_twice(session), *_removed_too_soon(session)], **counts)


def current_jobs(session: Session) -> Looked:
    """I4: one current job of a selected series, none of another."""
    rows = session.scalars(select(SeriesRow).order_by(SeriesRow.id))
    return looked("I4", [_wrong_jobs(row) for row in rows])


def structure_sets(session: Session) -> Looked:
    """I5: one structure set a work key and destination."""
    query = (
        select(JobRow.work_key, DeliveryRow.destination, func.count(func.distinct(ObjectRow.sop_uid)))
        .join(ObjectRow, ObjectRow.job_id == JobRow.id)
        .join(DeliveryRow, DeliveryRow.object_id == ObjectRow.id)
        .where(ObjectRow.kind == "RTSTRUCT", DeliveryRow.sent_at.is_not(None))
        .group_by(JobRow.work_key, DeliveryRow.destination)
    )
    rows = session.execute(query).all()
    return looked(
        "I5",
        [f"work key {key[:12]}: {number} at {name}" if number > 1 else "" for key, name, number in rows],
    )


def sent(session: Session) -> Looked:
    """I7: SENT only after an acceptance of that very object; DELIVERED only when all is sent."""
    made = [_wrong_delivery(session, row) for row in session.scalars(select(DeliveryRow))]
    jobs = session.scalars(select(JobRow).where(JobRow.state == JobState.DELIVERED))
    return looked("I7", [*made, *(_wrongly_delivered(job) for job in jobs)])


def leases(session: Session, now: datetime) -> Looked:
    """I8: who has something in hand has a lease on it, and it is not old."""
    return looked("I8", [_wrong_lease(session, subject, row, now) for subject, row in _leased(session)])


def limits(session: Session) -> Looked:
    """I9: attempts and crashes within their limits, and a reason at whatever was set apart."""
    jobs = [_beyond(session, job) for job in session.scalars(select(JobRow))]
    series = [_troubled(row) for row in session.scalars(select(SeriesRow))]
    return looked("I9", [*jobs, *series])


def journal(session: Session) -> Looked:
    """I10: the chain is whole, and every row stands where its last event put it."""
    broken = first_broken_link(session)
    chain = f"the chain of events breaks at number {broken}" if broken is not None else ""
    stands = [words for subject, table in _LIVING for words in _off_the_record(session, subject, table)]
    return looked("I10", [chain, *stands, *_unrecorded(session)])


def overdue(session: Session, limit: datetime) -> Looked:
    """I13: nothing that the node would do by itself is longer due than the bound."""
    return looked("I13", list(_waiting(session, limit)))


# --- I3, I4 -----------------------------------------------------------------------------------------------------------


def _states_of_instances(session: Session) -> dict[tuple[str, str, bool], int]:
    gone = exists(removed(Place.SPOOL).where(RemovalRow.name == InstanceRow.sha256))
    query = select(InstanceRow.state, SeriesRow.state, gone, func.count()).join(
        SeriesRow, SeriesRow.id == InstanceRow.series_id
    )
    rows = session.execute(query.group_by(InstanceRow.state, SeriesRow.state, gone))
    return {(instance, series, bool(is_gone)): number for instance, series, is_gone, number in rows}


def _place_of(instance: str, series: str, is_gone: bool) -> tuple[str, str]:
    """Where an instance is, and what is wrong with that."""
    if instance not in set(InstanceState):
        return "nowhere", f"an instance is {instance[:16]}, which is no state of one"
    if series not in LIVES["series"]:
        return "nowhere", f"a series is {series[:16]}, which is no state of one"
    if is_gone:
        return "removed", ""
    if series == SeriesState.QUARANTINED:
        return "quarantined", ""
    return "assembling" if series in _ASSEMBLING else "work" if series in _AT_WORK else "set_aside", ""


def _kept_twice(session: Session) -> list[str]:
    """One SOP Instance UID counts once in a series: two contents of it would be two slices in one place."""
    query = (
        select(SeriesRow.series_uid, InstanceRow.sop_uid)
        .join(SeriesRow, SeriesRow.id == InstanceRow.series_id)
        .where(InstanceRow.state == InstanceState.KEPT)
        .group_by(SeriesRow.series_uid, InstanceRow.sop_uid)
        .having(func.count() > 1)
    )
    return [f"instance {uid} has two contents that count in one series" for _, uid in session.execute(query)]


def _removed_too_soon(session: Session) -> list[str]:
    """Removed, and needed: a job would read it, or a destination is owed it."""
    family = select(SeriesRow.series_uid).join(RemovalRow, RemovalRow.series_id == SeriesRow.id)
    inputs = family.where(RemovalRow.place == Place.SPOOL, RemovalRow.restored_at.is_(None))
    jobs = select(JobRow.id).join(SeriesRow).where(SeriesRow.series_uid.in_(inputs), JobRow.state.in_(_NEEDS_INPUTS))
    owed = (
        select(ObjectRow.id)
        .join(DeliveryRow)
        .join(JobRow, JobRow.id == ObjectRow.job_id)
        .where(
            ObjectRow.sha256.in_(removed(Place.OUTBOX)),
            DeliveryRow.state.in_([DeliveryState.PENDING, DeliveryState.SENDING]),
            JobRow.state == JobState.WRITTEN,
        )
    )
    return [
        *(f"job {number} needs inputs whose bytes were removed" for number in session.scalars(jobs)),
        *(f"object {number} is owed, and its bytes were removed" for number in session.scalars(owed.distinct())),
    ]


def _wrong_jobs(row: SeriesRow) -> str:
    current = [job for job in row.jobs if job.state in _CURRENT]
    keys = Counter((job.bundle_hash, job.settings_hash, job.input_digest) for job in row.jobs)
    if row.state == SeriesState.SELECTED and not row.jobs:
        return f"series {row.id} is selected and has no job"
    if len(current) > 1:
        return f"series {row.id} has {len(current)} current jobs"
    if any(number > 1 for number in keys.values()):
        return f"series {row.id} has two jobs for one bundle, settings and inputs"
    if current and row.state not in {SeriesState.SELECTED, SeriesState.COMPLETE}:
        return f"series {row.id} is {row.state}, and job {current[0].id} of it is {current[0].state}"
    return ""


# --- I7, I8, I9 -------------------------------------------------------------------------------------------------------


def _wrong_delivery(session: Session, row: DeliveryRow) -> str:
    if row.state != DeliveryState.SENT:
        return ""
    accepted = row.status is not None and (row.status == 0 or row.status >> 12 == 0xB)
    if not accepted or row.sent_at is None:
        return f"delivery {row.id} is SENT on status {'none' if row.status is None else f'0x{row.status:04X}'}"
    done = select(AttemptRow.id).where(
        AttemptRow.subject == "delivery", AttemptRow.subject_id == row.id, AttemptRow.outcome == Event.DONE
    )
    return "" if session.scalar(done.limit(1)) else f"delivery {row.id} is SENT, and no attempt at it was DONE"


def _wrongly_delivered(job: JobRow) -> str:
    owed = [row.state for item in job.objects for row in item.deliveries]
    if owed and set(owed) == {DeliveryState.SENT}:
        return ""
    return f"job {job.id} is DELIVERED, and its deliveries are {', '.join(sorted(set(owed))) or 'none'}"


def _leased(session: Session) -> Iterator[tuple[str, JobRow | DeliveryRow]]:
    """Whatever is at work, or says that it is."""
    jobs = select(JobRow).where(JobRow.lease_token.is_not(None) | JobRow.state.in_(sorted(WORKING["job"])))
    at_work = DeliveryRow.state.in_(sorted(WORKING["delivery"]))
    deliveries = select(DeliveryRow).where(DeliveryRow.lease_token.is_not(None) | at_work)
    yield from (("job", row) for row in session.scalars(jobs))
    yield from (("delivery", row) for row in session.scalars(deliveries))


def _wrong_lease(session: Session, subject: str, row: JobRow | DeliveryRow, now: datetime) -> str:
    name = f"{subject} {row.id}"
    if row.state not in WORKING[subject]:
        return f"{name} is {row.state} and has a lease"
    begun = session.scalar(select(AttemptRow.started_at).where(AttemptRow.lease_token == row.lease_token))
    if row.lease_until is None or begun is None:
        return f"{name} is {row.state} without a lease that an attempt was begun with"
    old = now > begun + 2 * (row.lease_until - begun)
    return f"the lease on {name} ran out {(now - row.lease_until).total_seconds():.0f} s ago" if old else ""


def _beyond(session: Session, job: JobRow) -> str:
    apart = job.state in {JobState.QUARANTINED, JobState.CANCELLED}
    if job.crashes >= CRASH_LIMIT and not apart:
        return f"job {job.id} has crashed {job.crashes} times and is {job.state}"
    if job.state == JobState.QUARANTINED and not (job.last_error or job.reasons):
        return f"job {job.id} is QUARANTINED without a reason"
    interrupted = select(func.count(AttemptRow.id)).where(
        AttemptRow.subject == "job", AttemptRow.subject_id == job.id, AttemptRow.outcome == Event.INTERRUPTED
    )
    tried = job.attempts - (session.scalar(interrupted) or 0)
    limit = COMPUTE.attempts or tried
    return f"job {job.id} was tried {tried} times, at most {limit}" if tried > limit else ""


def _troubled(row: SeriesRow) -> str:
    if row.troubles >= CRASH_LIMIT and row.state == SeriesState.RECEIVING:
        return f"series {row.id} could not be judged {row.troubles} times and is {row.state}"
    if row.state == SeriesState.QUARANTINED and not row.reasons:
        return f"series {row.id} is QUARANTINED without a reason"
    return ""


# --- I10, I13 ---------------------------------------------------------------------------------------------------------


def _off_the_record(session: Session, subject: str, table: Any) -> list[str]:
    """Rows whose state is not the one that their last event led to."""
    last = (
        select(func.max(EventRow.seq).label("seq"))
        .where(EventRow.subject == subject, EventRow.to_state.is_not(None))
        .group_by(EventRow.subject_id)
    )
    stands = select(EventRow.subject_id, EventRow.to_state).where(EventRow.seq.in_(last))
    told = {int(number): state for number, state in session.execute(stands)}
    rows = session.execute(select(table.id, table.state))
    return [
        "" if told.get(number) == state else f"{subject} {number} is {state}; its events say {told.get(number)}"
        for number, state in rows
    ]


def _unrecorded(session: Session) -> list[str]:
    """Refusals and removals without their event, and instances that nobody sent."""
    told = select(EventRow.subject_id).where(EventRow.subject == "association", EventRow.event == "REJECTED")
    refused = select(AssociationRow.id).where(AssociationRow.how.startswith("rejected"), AssociationRow.id.not_in(told))
    purged = {
        (int(number), at)
        for number, at in session.execute(select(EventRow.subject_id, EventRow.at).where(EventRow.event == PURGED))
    }
    removals = session.execute(select(RemovalRow.series_id, RemovalRow.removed_at).distinct())
    return [
        *(f"association {number} was rejected, and no event says so" for number in session.scalars(refused)),
        *(
            f"bytes of series {number} were removed, and no event says so"
            for number, at in removals
            if (number, at) not in purged
        ),
    ]


def _waiting(session: Session, limit: datetime) -> Iterator[str]:
    """One entry for everything that goes on by itself: empty, or for how long it has been due."""
    for number, due in session.execute(_receiving()):
        yield f"series {number} is RECEIVING, due since {due:%F %T}" if due is not None and due < limit else ""
    for number, closed in session.execute(_complete()):
        yield f"series {number} is COMPLETE since {closed:%F %T}" if closed is not None and closed < limit else ""
    for number, state, due, until in session.execute(_jobs_under_way()):
        since = until if state in WORKING["job"] else due
        yield f"job {number} is {state}, due since {since:%F %T}" if since is not None and since < limit else ""
    for number, destination, due in session.execute(_deliveries_owed()):
        yield f"delivery {number} to {destination} is due since {due:%F %T}" if due < limit else ""


def _receiving() -> Select[*tuple[Any, ...]]:
    return select(SeriesRow.id, SeriesRow.due_at).where(SeriesRow.state == SeriesState.RECEIVING)


def _complete() -> Select[*tuple[Any, ...]]:
    """With the moment at which each became so."""
    told = EventRow.subject_id == sql_cast(SeriesRow.id, String)
    since = select(func.max(EventRow.at)).where(EventRow.subject == "series", told).scalar_subquery()
    return select(SeriesRow.id, since).where(SeriesRow.state == SeriesState.COMPLETE)


def _free(query: Select[*tuple[Any, ...]]) -> Select[*tuple[Any, ...]]:
    """Work that nobody keeps back."""
    return (
        query.join(SeriesRow, SeriesRow.id == JobRow.series_id)
        .join(StudyRow, StudyRow.id == SeriesRow.study_id)
        .where(StudyRow.hold.is_(None), SeriesRow.state == SeriesState.SELECTED)
    )


def _jobs_under_way() -> Select[*tuple[Any, ...]]:
    going = sorted(_UNFINISHED - {JobState.HELD, JobState.WRITTEN})
    return _free(select(JobRow.id, JobRow.state, JobRow.due_at, JobRow.lease_until)).where(JobRow.state.in_(going))


def _deliveries_owed() -> Select[*tuple[Any, ...]]:
    query = select(DeliveryRow.id, DeliveryRow.destination, DeliveryRow.due_at).join(ObjectRow).join(JobRow)
    return _free(query).where(DeliveryRow.state == DeliveryState.PENDING, JobRow.state == JobState.WRITTEN)
