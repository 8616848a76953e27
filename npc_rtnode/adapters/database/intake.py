"""The ledger's intake pages: associations, instances, and the revisions of a series as they come."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import count

from sqlalchemy import select
from sqlalchemy.orm import Session

from npc_rtnode.adapters.database.conflicts import CONFLICT
from npc_rtnode.adapters.database.engine import Sessions
from npc_rtnode.adapters.database.journal import Note, born, move, tell
from npc_rtnode.adapters.database.removals import bring_back
from npc_rtnode.adapters.database.series import call_off, fall_back
from npc_rtnode.adapters.database.tables import (
    AssociationRow,
    InstanceRow,
    InstanceState,
    ObjectRow,
    SeriesRow,
    StudyRow,
)
from npc_rtnode.domain.identifiers import study_reference
from npc_rtnode.domain.lifecycle import Event, SeriesState
from npc_rtnode.domain.records import Arrival, AssociationInfo, StoreOutcome, StoreRequest
from npc_rtnode.domain.retention import Place

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

    def association_opened(self, info: AssociationInfo, now: datetime) -> None:
        """An association was accepted."""
        with self._sessions.writing() as session:
            session.add(_association(info, now))

    def association_ended(self, info: AssociationInfo, how: str, refused: Sequence[str], now: datetime) -> None:
        """It was released, aborted, lost or let go for idleness; `refused` are the images of it that were not taken."""
        with self._sessions.writing() as session:
            _know_association(session, info, now)
            row = session.get_one(AssociationRow, info.association_id)
            row.ended_at, row.how, row.refused = now, how[:200], list(refused)
            if how == "released":
                self._look_soon(session, info.association_id, now)

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

    def association_rejected(self, info: AssociationInfo, reason: str, now: datetime) -> None:
        """A caller was refused: kept as a row and as an event."""
        with self._sessions.writing() as session:
            row = _association(info, now)
            row.ended_at, row.how = now, f"rejected: {reason}"[:200]
            session.add(row)
            detail = {"calling_ae": info.calling_ae, "peer_ip": info.peer_ip, "reason": reason}
            tell(session, "association", info.association_id, "REJECTED", Note(now, detail=detail))

    def not_kept(self, received: StoreRequest, outcome: StoreOutcome, reason: str, now: datetime) -> None:
        """An instance was refused: who sent it and why; nothing of it was acknowledged."""
        with self._sessions.writing() as session:
            detail = {"outcome": outcome, "reason": reason, "calling_ae": received.association.calling_ae}
            tell(
                session,
                "association",
                received.association.association_id,
                "INSTANCE_REFUSED",
                Note(now, detail=detail),
            )

    def own_object_came_back(self, sop_uid: str, now: datetime) -> bool:
        """Whether this UID is one of our own results; if so the return is counted."""
        with self._sessions.reading() as session:
            if session.scalar(select(ObjectRow.id).where(ObjectRow.sop_uid == sop_uid)) is None:
                return False
        with self._sessions.writing() as session:
            row = session.scalars(select(ObjectRow).where(ObjectRow.sop_uid == sop_uid)).one()
            row.came_back += 1
            tell(session, "object", str(row.id), "CAME_BACK", Note(now, detail={"times": row.came_back}))
        return True

    def copies(self, sop_uid: str) -> tuple[str, ...]:
        """The SHA-256 of every content that is kept under this SOP Instance UID, in order of arrival."""
        query = select(InstanceRow.sha256).where(InstanceRow.sop_uid == sop_uid).order_by(InstanceRow.id)
        with self._sessions.reading() as session:
            return tuple(session.scalars(query))

    def record(self, arrival: Arrival, now: datetime) -> StoreOutcome:
        """One transaction: the instance, its series revision, its study; STORED, DUPLICATE or CONFLICT."""
        with self._sessions.writing() as session:
            _know_association(session, arrival.received.association, now)
            known = session.scalars(select(InstanceRow).where(InstanceRow.sop_uid == arrival.identity.sop_uid)).all()
            if any(row.sha256 == arrival.sha256 for row in known):
                bring_back(session, Place.SPOOL, arrival.sha256, now)
                self._feed_again(session, arrival, now)
                return StoreOutcome.DUPLICATE
            if twin := next((row for row in known if row.sha256 == arrival.same_as), None):
                session.add(_instance(twin.series_id, arrival, InstanceState.REENCODED, now))
                self._feed_again(session, arrival, now)
                return StoreOutcome.DUPLICATE
            if known:
                return self._conflict(session, known, arrival, now)
            self._keep(session, arrival, now)
            return StoreOutcome.STORED

    def _conflict(
        self, session: Session, known: Sequence[InstanceRow], arrival: Arrival, now: datetime
    ) -> StoreOutcome:
        """Quarantine the series that has the instance, and the one that it came under now."""
        held = session.get_one(SeriesRow, known[0].series_id)
        own = self._open_revision(session, arrival, now)
        session.add(_instance(own.id, arrival, InstanceState.CONFLICTING, now))
        reason = _conflict_reason(arrival.differs_in)
        for row in {own.id: own, held.id: _latest(session, held.series_uid) or held}.values():
            row.reasons = [*row.reasons, *([] if reason in row.reasons else [reason])]
            if row.state != SeriesState.QUARANTINED:
                move(session, row, Event.CONFLICT_FOUND, Note(now, detail={"sha256": arrival.sha256}))
            call_off(session, row.jobs, "the series is quarantined: conflicting contents", now)
            fall_back(session, row, now)
        return StoreOutcome.CONFLICT

    def _keep(self, session: Session, arrival: Arrival, now: datetime) -> None:
        latest = _latest(session, arrival.identity.series_uid)
        if latest is not None and latest.state not in _STILL_OPEN | {SeriesState.QUARANTINED}:
            latest = self._next_revision(session, latest, arrival, now)
        series = latest or self._open_revision(session, arrival, now)
        self._feed(session, series, arrival, now)
        session.add(_instance(series.id, arrival, InstanceState.KEPT, now))

    def _feed_again(self, session: Session, arrival: Arrival, now: datetime) -> None:
        """A re-send of what is here counts as life of a series that is still open: its transfer may now end well."""
        series = _latest(session, arrival.identity.series_uid)
        if series is not None and series.state in _STILL_OPEN:
            self._feed(session, series, arrival, now)

    def _feed(self, session: Session, series: SeriesRow, arrival: Arrival, now: datetime) -> None:
        association = session.get_one(AssociationRow, arrival.received.association.association_id)
        association.last_series_id, series.last_association_id = series.id, association.id
        series.last_received_at, series.due_at = now, now + self._quiet
        if series.state == SeriesState.STALLED:
            move(session, series, Event.INSTANCE_STORED, Note(now))

    def _open_revision(self, session: Session, arrival: Arrival, now: datetime) -> SeriesRow:
        """The latest revision of the series, or its first."""
        latest = _latest(session, arrival.identity.series_uid)
        return latest or self._new_series(session, self._study(session, arrival, now), arrival, now, revision=1)

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

    def _new_series(
        self, session: Session, study: StudyRow, arrival: Arrival, now: datetime, revision: int
    ) -> SeriesRow:
        row = SeriesRow(
            study_id=study.id,
            series_uid=arrival.identity.series_uid,
            revision=revision,
            modality=arrival.identity.modality[:16],
            called_ae=arrival.received.association.called_ae[:16],
            state=SeriesState.RECEIVING,
            reasons=[],
            last_association_id=arrival.received.association.association_id,
            first_received_at=now,
            last_received_at=now,
        )
        session.add(row)
        born(session, row, Note(now, detail={"revision": revision, "study": study.reference}))
        return row

    def _next_revision(self, session: Session, old: SeriesRow, arrival: Arrival, now: datetime) -> SeriesRow:
        because = f"SUPERSEDED: an instance came after the series was closed; revision {old.revision + 1} replaces it"
        old.reasons = [*old.reasons, because]
        move(session, old, Event.SUPERSEDED, Note(now))
        call_off(session, old.jobs, because, now)
        return self._new_series(session, old.study, arrival, now, revision=old.revision + 1)


def _know_association(session: Session, info: AssociationInfo, now: datetime) -> None:
    """The ledger may have been away when the association opened: its row is then made with its first instance."""
    if session.get(AssociationRow, info.association_id) is None:
        session.add(_association(info, now))
        session.flush()


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
