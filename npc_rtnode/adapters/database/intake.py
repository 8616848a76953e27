"""The ledger's intake pages: associations, instances, and the revisions of a series as they come."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from itertools import count
from typing import Any, TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from npc_rtnode.adapters.database.conflicts import CONFLICT
from npc_rtnode.adapters.database.engine import Sessions
from npc_rtnode.adapters.database.journal import Note, born, move, tell
from npc_rtnode.adapters.database.removals import bring_back, removed
from npc_rtnode.adapters.database.series import call_off, fall_back
from npc_rtnode.adapters.database.tables import (
    AssociationRow,
    InstanceRow,
    InstanceState,
    IntakePositionRow,
    ObjectRow,
    RemovalRow,
    SeriesRow,
    StudyRow,
)
from npc_rtnode.domain.identifiers import study_reference
from npc_rtnode.domain.lifecycle import Event, SeriesState
from npc_rtnode.domain.records import (
    Arrival,
    Arrived,
    AssociationInfo,
    Ended,
    IntakeEntry,
    Opened,
    Refused,
    Rejected,
    StoreOutcome,
    StoreRequest,
)
from npc_rtnode.domain.retention import Place

_T = TypeVar("_T")
_POSITION = 1
"""The one row of `intake_position`."""

_STILL_OPEN = {SeriesState.RECEIVING, SeriesState.STALLED}
_NAMED = 8
"""So many differing elements are named in a reason; a file may differ in hundreds."""


class IntakeLedger:
    """Records what the listener received. `site_key` keys the short study references."""

    def __init__(self, sessions: Sessions, site_key: str, quiet_s: float, released_s: float | None = None) -> None:
        """A series is looked at `quiet_s` after its last instance, or `released_s` after its association's release."""
        self._sessions = sessions
        self._site_key = site_key
        self._quiet = timedelta(seconds=quiet_s)
        self._released = timedelta(seconds=quiet_s if released_s is None else released_s)

    # --- from the intake journal --------------------------------------------------------------------------------------

    def position(self) -> tuple[int, int]:
        """Up to which number records stand here, and up to which their files are durable by themselves."""
        with self._sessions.reading() as session:
            row = session.get(IntakePositionRow, _POSITION)
            return (row.applied, row.secured) if row else (0, 0)

    def secured(self, number: int) -> None:
        """The files of all records up to that number are durable by themselves."""
        with self._sessions.writing() as session:
            row = _position(session)
            row.secured = max(row.secured, min(number, row.applied))

    def replay(
        self, records: Sequence[tuple[int, IntakeEntry]], now: datetime, keep: Callable[[str], object]
    ) -> dict[int, StoreOutcome]:
        """One transaction: every record that does not stand here yet, in order; what became of each instance.

        `keep` is called with the digest of each instance that counts, while nobody else writes here: retention cannot
        come between. `now` is when it is recorded; quiet times count from then, or a series of which the journal has
        more would be over before it is here.
        """
        with self._sessions.writing() as session:
            position = _position(session)
            new = [(number, entry) for number, entry in records if number > position.applied]
            batch = _Batch(session, [e.arrival for _, e in new if isinstance(e, Arrived)], now)
            outcomes = {number: self._enter(batch, entry) for number, entry in new}
            for number, entry in new:
                if isinstance(entry, Arrived) and outcomes[number] is not StoreOutcome.OWN_OBJECT:
                    keep(entry.arrival.sha256)
            position.applied = max([position.applied, *(number for number, _ in new)])
            return {number: outcome for number, outcome in outcomes.items() if outcome is not None}

    def set_aside(self, number: int, entry: IntakeEntry, reason: str, now: datetime) -> None:
        """A record that cannot be entered is told in the journal of events, and does not come again."""
        with self._sessions.writing() as session:
            detail = {"number": number, "kind": type(entry).__name__, "reason": reason}
            if isinstance(entry, Arrived):
                detail["sha256"] = entry.arrival.sha256
            tell(session, "intake", str(number), "RECORD_SET_ASIDE", Note(now, detail=detail))
            position = _position(session)
            position.applied = max(position.applied, number)

    def gone(self, names: Sequence[str]) -> set[str]:
        """Of these digests, those whose bytes were removed from the spool and have not come again."""
        with self._sessions.reading() as session:
            return set(session.scalars(removed(Place.SPOOL).where(RemovalRow.name.in_(names))))

    def known(self, sop_uids: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Of these SOP Instance UIDs, each that is here with the SHA-256 of its contents in order of arrival."""
        query = select(InstanceRow.sop_uid, InstanceRow.sha256).where(InstanceRow.sop_uid.in_(sop_uids))
        found: dict[str, tuple[str, ...]] = {}
        with self._sessions.reading() as session:
            for sop_uid, sha256 in session.execute(query.order_by(InstanceRow.id)):
                found[sop_uid] = (*found.get(sop_uid, ()), sha256)
        return found

    def _enter(self, batch: _Batch, entry: IntakeEntry) -> StoreOutcome | None:
        match entry:
            case Arrived(at, arrival):
                return self._arrived(batch, arrival, at)
            case Opened(at, association):
                batch.association(association, at)
            case Ended(at, association, how, refused):
                self._ended(batch, association, how, refused, at)
            case Refused(at, request, outcome, reason):
                _tell_refusal(batch.session, request, outcome, reason, at)
            case Rejected(at, association, reason):
                _tell_rejection(batch, association, reason, at)
        return None

    # --- one by one ---------------------------------------------------------------------------------------------------

    def association_opened(self, info: AssociationInfo, now: datetime) -> None:
        """An association was accepted."""
        with self._sessions.writing() as session:
            _Batch(session, (), now).association(info, now)

    def association_ended(self, info: AssociationInfo, how: str, refused: Sequence[str], now: datetime) -> None:
        """It was released, aborted, lost or let go for idleness; `refused` are the images of it that were not taken."""
        with self._sessions.writing() as session:
            self._ended(_Batch(session, (), now), info, how, refused, now)

    def _ended(self, batch: _Batch, info: AssociationInfo, how: str, refused: Sequence[str], at: datetime) -> None:
        row = batch.association(info, at)
        row.ended_at, row.how, row.refused = at, how[:200], list(refused)
        if how == "released":
            self._look_soon(batch.session, info.association_id, batch.now)

    def _look_soon(self, session: Session, association_id: str, now: datetime) -> None:
        """The sender's own end is a hint that its series are over; whether they are is for assemble to judge."""
        fed = select(SeriesRow).where(
            SeriesRow.last_association_id == association_id, SeriesRow.state == SeriesState.RECEIVING
        )
        for row in session.scalars(fed.with_for_update()):
            row.due_at = min(row.due_at or now + self._released, now + self._released)

    def close_lost_associations(self, now: datetime) -> int:
        """At the receiver's start: associations that its last process left open were lost; how many."""
        with self._sessions.writing() as session:
            left = session.scalars(select(AssociationRow).where(AssociationRow.ended_at.is_(None))).all()
            for row in left:
                row.ended_at, row.how = now, "lost"
            return len(left)

    def record(self, arrival: Arrival, now: datetime) -> StoreOutcome:
        """One transaction: the instance, its series revision, its study; STORED, DUPLICATE, CONFLICT or OWN_OBJECT."""
        with self._sessions.writing() as session:
            return self._arrived(_Batch(session, [arrival], now), arrival, now)

    def _arrived(self, batch: _Batch, arrival: Arrival, at: datetime) -> StoreOutcome:
        if own := batch.own.get(arrival.identity.sop_uid):
            own.came_back += 1
            tell(batch.session, "object", str(own.id), "CAME_BACK", Note(at, detail={"times": own.came_back}))
            return StoreOutcome.OWN_OBJECT
        batch.association(arrival.received.association, at)
        known = batch.known[arrival.identity.sop_uid]
        if any(row.sha256 == arrival.sha256 for row in known):
            bring_back(batch.session, Place.SPOOL, arrival.sha256, at)
            self._feed_again(batch, arrival, at)
            return StoreOutcome.DUPLICATE
        if twin := next((row for row in known if row.sha256 == arrival.same_as), None):
            batch.add(_instance(twin.series_id, arrival, InstanceState.REENCODED, at))
            self._feed_again(batch, arrival, at)
            return StoreOutcome.DUPLICATE
        if known:
            return self._conflict(batch, known, arrival, at)
        self._keep(batch, arrival, at)
        return StoreOutcome.STORED

    def _conflict(self, batch: _Batch, known: Sequence[InstanceRow], arrival: Arrival, at: datetime) -> StoreOutcome:
        """Quarantine the series that has the instance, and the one that it came under now."""
        session = batch.session
        held = session.get_one(SeriesRow, known[0].series_id)
        own = self._open_revision(batch, arrival, at)
        batch.add(_instance(own.id, arrival, InstanceState.CONFLICTING, at))
        reason = _conflict_reason(arrival.differs_in)
        for row in {own.id: own, held.id: batch.latest(held.series_uid) or held}.values():
            row.reasons = [*row.reasons, *([] if reason in row.reasons else [reason])]
            if row.state != SeriesState.QUARANTINED:
                move(session, row, Event.CONFLICT_FOUND, Note(at, detail={"sha256": arrival.sha256}))
            call_off(session, row.jobs, "the series is quarantined: conflicting contents", at)
            fall_back(session, row, at)
        return StoreOutcome.CONFLICT

    def _keep(self, batch: _Batch, arrival: Arrival, at: datetime) -> None:
        latest = batch.latest(arrival.identity.series_uid)
        if latest is not None and latest.state not in _STILL_OPEN | {SeriesState.QUARANTINED}:
            latest = self._next_revision(batch, latest, arrival, at)
        series = latest or self._open_revision(batch, arrival, at)
        self._feed(batch, series, arrival, at)
        batch.add(_instance(series.id, arrival, InstanceState.KEPT, at))

    def _feed_again(self, batch: _Batch, arrival: Arrival, at: datetime) -> None:
        """A re-send of what is here counts as life of a series that is still open: its transfer may now end well."""
        series = batch.latest(arrival.identity.series_uid)
        if series is not None and series.state in _STILL_OPEN:
            self._feed(batch, series, arrival, at)

    def _feed(self, batch: _Batch, series: SeriesRow, arrival: Arrival, at: datetime) -> None:
        association = batch.association(arrival.received.association, at)
        association.last_series_id, series.last_association_id = series.id, association.id
        series.last_received_at, series.due_at = at, batch.now + self._quiet
        if series.state == SeriesState.STALLED:
            move(batch.session, series, Event.INSTANCE_STORED, Note(at))

    def _open_revision(self, batch: _Batch, arrival: Arrival, at: datetime) -> SeriesRow:
        """The latest revision of the series, or its first."""
        latest = batch.latest(arrival.identity.series_uid)
        return latest or self._new_series(batch, self._study(batch.session, arrival, at), arrival, at, revision=1)

    def _study(self, session: Session, arrival: Arrival, now: datetime) -> StudyRow:
        uid = arrival.identity.study_uid
        row = session.scalar(select(StudyRow).where(StudyRow.study_uid == uid))
        if row is None:
            row = StudyRow(study_uid=uid, reference=self._unused_reference(session, uid), first_received_at=now)
            session.add(row)
            session.flush()
        return row

    def _unused_reference(self, session: Session, study_uid: str) -> str:
        """References are short, so two studies may fall on one: the later one takes the next."""
        for turn in count():
            reference = study_reference(f"{study_uid}/{turn}" if turn else study_uid, self._site_key)
            if session.scalar(select(StudyRow.id).where(StudyRow.reference == reference)) is None:
                return reference
        raise AssertionError  # count() does not end

    def _new_series(self, batch: _Batch, study: StudyRow, arrival: Arrival, at: datetime, revision: int) -> SeriesRow:
        row = SeriesRow(
            study_id=study.id,
            series_uid=arrival.identity.series_uid,
            revision=revision,
            modality=arrival.identity.modality[:16],
            called_ae=arrival.received.association.called_ae[:16],
            state=SeriesState.RECEIVING,
            reasons=[],
            last_association_id=arrival.received.association.association_id,
            first_received_at=at,
            last_received_at=at,
        )
        batch.session.add(row)
        born(batch.session, row, Note(at, detail={"revision": revision, "study": study.reference}))
        batch.newest[row.series_uid] = row
        return row

    def _next_revision(self, batch: _Batch, old: SeriesRow, arrival: Arrival, at: datetime) -> SeriesRow:
        because = f"SUPERSEDED: an instance came after the series was closed; revision {old.revision + 1} replaces it"
        old.reasons = [*old.reasons, because]
        move(batch.session, old, Event.SUPERSEDED, Note(at))
        call_off(batch.session, old.jobs, because, at)
        return self._new_series(batch, old.study, arrival, at, revision=old.revision + 1)


class _Batch:
    """One transaction's view of what its records are about: each row is looked for once."""

    def __init__(self, session: Session, arrivals: Sequence[Arrival], now: datetime) -> None:
        """`now` is when it is recorded."""
        self.session, self.now = session, now
        uids = {arrival.identity.sop_uid for arrival in arrivals}
        self.known: defaultdict[str, list[InstanceRow]] = defaultdict(list)
        for row in self._of(InstanceRow, InstanceRow.sop_uid, uids, InstanceRow.id):
            self.known[row.sop_uid].append(row)
        self.own = {row.sop_uid: row for row in self._of(ObjectRow, ObjectRow.sop_uid, uids, ObjectRow.id)}
        self.newest: dict[str, SeriesRow | None] = {}
        self._associations: dict[str, AssociationRow] = {}

    def _of(self, table: type[_T], column: Any, wanted: Collection[str], order: Any) -> Sequence[_T]:
        query = select(table).where(column.in_(sorted(wanted))).order_by(order)
        return self.session.scalars(query).all() if wanted else ()

    def association(self, info: AssociationInfo, at: datetime) -> AssociationRow:
        """Its row, made where it is not there yet: a part of the journal may have been lost with a ledger."""
        key = info.association_id
        if key not in self._associations:
            row = self.session.get(AssociationRow, key)
            if row is None:
                row = _association(info, at)
                self.session.add(row)
                self.session.flush()
            self._associations[key] = row
        return self._associations[key]

    def latest(self, series_uid: str) -> SeriesRow | None:
        """The newest revision of a series."""
        if series_uid not in self.newest:
            self.newest[series_uid] = _latest(self.session, series_uid)
        return self.newest[series_uid]

    def add(self, row: InstanceRow) -> None:
        """An instance more."""
        self.session.add(row)
        self.known[row.sop_uid].append(row)


def _position(session: Session) -> IntakePositionRow:
    row = session.get(IntakePositionRow, _POSITION)
    if row is None:
        row = IntakePositionRow(id=_POSITION, applied=0, secured=0)
        session.add(row)
    return row


def _tell_rejection(batch: _Batch, info: AssociationInfo, reason: str, at: datetime) -> None:
    row = batch.association(info, at)
    row.ended_at, row.how = at, f"rejected: {reason}"[:200]
    detail = {"calling_ae": info.calling_ae, "peer_ip": info.peer_ip, "reason": reason}
    tell(batch.session, "association", info.association_id, "REJECTED", Note(at, detail=detail))


def _tell_refusal(session: Session, received: StoreRequest, outcome: StoreOutcome, reason: str, at: datetime) -> None:
    detail = {"outcome": outcome, "reason": reason, "calling_ae": received.association.calling_ae}
    key = received.association.association_id
    tell(session, "association", key, "INSTANCE_REFUSED", Note(at, detail=detail))


def _association(info: AssociationInfo, now: datetime) -> AssociationRow:
    return AssociationRow(
        id=info.association_id,
        calling_ae=info.calling_ae[:64],
        called_ae=info.called_ae[:64],
        peer_ip=info.peer_ip[:45],
        opened_at=now,
    )


def _conflict_reason(differs_in: Sequence[str]) -> str:
    """What was found, by the names of the elements; no value of any."""
    named = ", ".join(differs_in[:_NAMED]) or "their bytes; they came at the same moment"
    more = f" and {len(differs_in) - _NAMED} more" if len(differs_in) > _NAMED else ""
    said = "one SOP Instance UID came with two different contents; both are kept, neither is used"
    return f"{CONFLICT}: {said}. They differ in {named}{more}"


def _instance(series_id: int, arrival: Arrival, state: InstanceState, now: datetime) -> InstanceRow:
    return InstanceRow(
        series_id=series_id,
        association_id=arrival.received.association.association_id,
        sop_uid=arrival.identity.sop_uid,
        sop_class_uid=arrival.identity.sop_class_uid,
        transfer_syntax_uid=arrival.received.transfer_syntax_uid,
        sha256=arrival.sha256,
        size=arrival.size,
        state=state,
        received_at=now,
    )


def _latest(session: Session, series_uid: str) -> SeriesRow | None:
    newest = select(SeriesRow).where(SeriesRow.series_uid == series_uid).order_by(SeriesRow.revision.desc()).limit(1)
    return session.scalar(newest.with_for_update())
