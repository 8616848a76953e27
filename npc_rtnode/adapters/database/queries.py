"""The ledger's reading room: what the CLI and the page tell, as plain JSON-able values. No patient identity is here."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Select, Text, cast, func, select, tuple_
from sqlalchemy.orm import Session

from npc_rtnode.adapters.database.conflicts import conflicting_copies, in_conflict
from npc_rtnode.adapters.database.desk import series_of
from npc_rtnode.adapters.database.engine import Sessions
from npc_rtnode.adapters.database.journal import first_broken_link
from npc_rtnode.adapters.database.studies import calm_of
from npc_rtnode.adapters.database.tables import (
    AssociationRow,
    AttemptRow,
    DeliveryRow,
    EventRow,
    InstanceRow,
    InstanceState,
    IntakePositionRow,
    JobRow,
    ObjectRow,
    RemovalRow,
    SeriesRow,
    StudyRow,
)
from npc_rtnode.domain.lifecycle import SeriesState

View = dict[str, Any]


class Queries:
    """Reads; never changes anything."""

    def __init__(self, sessions: Sessions, study_quiet_s: float = 0.0) -> None:
        self._sessions = sessions
        self._study_quiet_s = study_quiet_s

    def studies(self, limit: int = 50, state: str | None = None) -> list[View]:
        """Studies, newest first; with `state`, those where a series or a job is in it."""
        with self._sessions.reading() as session:
            rows = session.scalars(select(StudyRow).order_by(StudyRow.id.desc()).limit(limit * 10 if state else limit))
            views = [_study_line(session, row) for row in rows]
        return [v for v in views if state is None or state in v["states"]][:limit]

    def study(self, reference: str) -> View:
        """All that is known of one study; raises NotFound."""
        with self._sessions.reading() as session:
            rows = series_of(session, reference)
            study = rows[0].study
            return {
                "study": study.reference,
                "study_uid": study.study_uid,
                "hold": study.hold,
                "first_received_at": _time(study.first_received_at),
                "series": [{**_series(session, row), "waits": self._waits(row)} for row in rows],
            }

    def _waits(self, row: SeriesRow) -> str | None:
        """What a complete series waits for before it is judged."""
        return calm_of(row.study).words(self._study_quiet_s) if row.state == SeriesState.COMPLETE else None

    def history(self, reference: str) -> list[View]:
        """Every event of a study's series, jobs and deliveries, in order."""
        with self._sessions.reading() as session:
            subjects = sorted(_subjects(series_of(session, reference)))
            named = tuple_(EventRow.subject, EventRow.subject_id).in_(subjects)
            return [_event(row) for row in session.scalars(select(EventRow).where(named).order_by(EventRow.seq))]

    def indication(self, series_id: int) -> str:
        """What the newest job of a series was ordered on."""
        newest = select(JobRow.indication).where(JobRow.series_id == series_id).order_by(JobRow.id.desc()).limit(1)
        with self._sessions.reading() as session:
            return session.scalar(newest) or ""

    def counts(self) -> View:
        """How many of what, by state."""
        with self._sessions.reading() as session:
            return {
                "instances": session.scalar(select(func.count(InstanceRow.id))) or 0,
                "series": _by_state(session, SeriesRow),
                "jobs": _by_state(session, JobRow),
                "deliveries": _by_state(session, DeliveryRow),
                "removed_files": session.scalar(select(func.count(RemovalRow.id))) or 0,
                "refused_for_now": session.scalar(
                    select(func.count(AssociationRow.id)).where(AssociationRow.how.startswith("rejected: for now"))
                )
                or 0,
                "images_refused": _images_refused(session),
                "came_back": session.scalar(select(func.coalesce(func.sum(ObjectRow.came_back), 0))) or 0,
                "rejected_associations": session.scalar(
                    select(func.count(AssociationRow.id)).where(AssociationRow.how.startswith("rejected"))
                )
                or 0,
            }

    def entered(self) -> int:
        """The number of the last record of the intake journal that stands here."""
        with self._sessions.reading() as session:
            return session.scalar(select(IntakePositionRow.applied)) or 0

    def without_row(self) -> int:
        """How many contents came, could not be entered, and are named by no instance since."""
        set_aside = select(EventRow.detail).where(EventRow.subject == "intake", EventRow.event == "RECORD_SET_ASIDE")
        with self._sessions.reading() as session:
            digests = {detail["sha256"] for detail in session.scalars(set_aside) if "sha256" in detail}
            named = select(InstanceRow.sha256).distinct().where(InstanceRow.sha256.in_(digests))
            return len(digests.difference(session.scalars(named)))

    def instances_of(self, series_uid: str) -> int:
        """How many instances of that series stand here, in whichever of its revisions."""
        named = select(func.count(InstanceRow.sop_uid.distinct())).join(SeriesRow)
        with self._sessions.reading() as session:
            return session.scalar(named.where(SeriesRow.series_uid == series_uid)) or 0

    def chain_is_whole(self) -> bool:
        """Whether every event follows from the one before."""
        with self._sessions.reading() as session:
            return first_broken_link(session) is None


def _by_state(session: Session, table: Any) -> dict[str, int]:
    rows = session.execute(select(table.state, func.count()).group_by(table.state))
    return {row[0]: row[1] for row in rows}


def _images_refused(session: Session) -> int:
    """Images that a sender was told to send again, or that could not be read."""
    some = select(AssociationRow.refused).where(cast(AssociationRow.refused, Text) != "[]")
    return sum(len(refused) for refused in session.scalars(some))


def _removed(session: Session, row: SeriesRow) -> list[View]:
    """Each removal of bytes: how many files from where, when, by whom, why, and whether they came again."""
    what = (RemovalRow.place, RemovalRow.removed_at, RemovalRow.actor, RemovalRow.reason)
    files = select(*what, func.count(RemovalRow.id), func.count(RemovalRow.restored_at))
    rows = session.execute(files.where(RemovalRow.series_id == row.id).group_by(*what).order_by(RemovalRow.removed_at))
    return [
        {"place": place, "files": number, "at": _time(at), "by": actor, "because": why, "came_again": again}
        for place, at, actor, why, number, again in rows
    ]


def _time(at: datetime | None) -> str | None:
    return at.isoformat(timespec="milliseconds") if at else None


def _study_line(session: Session, row: StudyRow) -> View:
    jobs = [job for series in row.series for job in series.jobs]
    said: View = next((job.results for job in reversed(jobs) if "stage" in job.results), {})
    instances = _received().join(SeriesRow).where(SeriesRow.study_id == row.id)
    return {
        "study": row.reference,
        "first_received_at": _time(row.first_received_at),
        "series": len(row.series),
        "instances": session.scalar(instances) or 0,
        "states": sorted({*(s.state for s in row.series), *(j.state for j in jobs)}),
        "stage": said.get("stage"),
        "stage_probability": max(said.get("stage_probabilities", ()), default=None),
        "volume_cc": said.get("volume_cc"),
    }


def _series(session: Session, row: SeriesRow) -> View:
    return {
        "series": row.id,
        "series_uid": row.series_uid,
        "revision": row.revision,
        "modality": row.modality,
        "state": row.state,
        "reasons": list(row.reasons),
        "instances": session.scalar(_received().where(InstanceRow.series_id == row.id)) or 0,
        "conflicts": _conflicts(session, row),
        "associations": _associations(session, row),
        "called_ae": row.called_ae,
        "first_received_at": _time(row.first_received_at),
        "last_received_at": _time(row.last_received_at),
        "closed_at": _time(row.closed_at),
        "closed_because": row.closed_because,
        "asked": list(row.asked),
        "input_digest": row.input_digest,
        "rules_hash": row.rules_hash,
        "operators_word": row.operators_word,
        "verdicts": _verdicts(row),
        "removed": _removed(session, row),
        "jobs": [_job(session, job) for job in row.jobs],
    }


def _received() -> Select[int]:
    """How many instances: another encoding of one that is here is no other instance."""
    return select(func.count(InstanceRow.id)).where(InstanceRow.state != InstanceState.REENCODED)


def _conflicts(session: Session, row: SeriesRow) -> list[list[View]]:
    """Of every instance in conflict its contents in order of arrival: when, from whom, which bytes."""
    if not in_conflict(row):
        return []
    return [[_copy(session, copy) for copy in copies] for copies in conflicting_copies(session, row).values()]


def _copy(session: Session, row: InstanceRow) -> View:
    return {
        "received_at": _time(row.received_at),
        "calling_ae": session.get_one(AssociationRow, row.association_id).calling_ae,
        "transfer_syntax_uid": row.transfer_syntax_uid,
        "size": row.size,
        "sha256": row.sha256,
    }


def _associations(session: Session, row: SeriesRow) -> list[View]:
    fed = select(InstanceRow.association_id).where(InstanceRow.series_id == row.id)
    wanted = AssociationRow.id.in_(fed) | (AssociationRow.id == row.last_association_id)
    return [
        {
            "calling_ae": one.calling_ae,
            "peer_ip": one.peer_ip,
            "opened_at": _time(one.opened_at),
            "ended": one.how or "open",
            "images_refused": len(one.refused or []),
        }
        for one in session.scalars(select(AssociationRow).where(wanted).order_by(AssociationRow.opened_at))
    ]


def _verdicts(row: SeriesRow) -> list[View]:
    """The verdicts of the latest judgement; earlier ones stay in the table."""
    latest = max((verdict.at for verdict in row.verdicts), default=None)
    return [{"rule": v.rule, "truth": v.truth, "because": v.because} for v in row.verdicts if v.at == latest]


def _job(session: Session, row: JobRow) -> View:
    return {
        "job": row.id,
        "state": row.state,
        "reasons": list(row.reasons),
        "releasable": row.releasable,
        "result_revision": row.result_revision,
        "work_key": row.work_key,
        "bundle": row.bundle_name,
        "bundle_hash": row.bundle_hash,
        "settings_hash": row.settings_hash,
        "indication": row.indication,
        "attempts": _attempts(session, "job", row.id),
        "last_error": row.last_error,
        "results": row.results,
        "objects": [_object(session, item) for item in row.objects],
    }


def _object(session: Session, row: ObjectRow) -> View:
    return {
        "kind": row.kind,
        "variant": row.variant,
        "sop_uid": row.sop_uid,
        "sha256": row.sha256,
        "size": row.size,
        "came_back": row.came_back,
        "deliveries": [_delivery(session, delivery) for delivery in row.deliveries],
    }


def _delivery(session: Session, row: DeliveryRow) -> View:
    return {
        "delivery": row.id,
        "destination": row.destination,
        "state": row.state,
        "status": None if row.status is None else f"0x{row.status:04X}",
        "warning": row.warning,
        "sent_at": _time(row.sent_at),
        "due_at": _time(row.due_at),
        "last_error": row.last_error,
        "attempts": _attempts(session, "delivery", row.id),
    }


def _attempts(session: Session, subject: str, subject_id: int) -> list[View]:
    query = select(AttemptRow).where(AttemptRow.subject == subject, AttemptRow.subject_id == subject_id)
    return [
        {
            "stage": row.stage,
            "started_at": _time(row.started_at),
            "ended_at": _time(row.ended_at),
            "outcome": row.outcome,
            "detail": row.detail,
        }
        for row in session.scalars(query.order_by(AttemptRow.id))
    ]


def _subjects(rows: list[SeriesRow]) -> set[tuple[str, str]]:
    jobs = [job for row in rows for job in row.jobs]
    items = [item for job in jobs for item in job.objects]
    deliveries = [d for item in items for d in item.deliveries]
    return {
        ("study", rows[0].study.reference),
        *(("association", row.last_association_id) for row in rows),
        *(("series", str(row.id)) for row in rows),
        *(("job", str(row.id)) for row in jobs),
        *(("object", str(row.id)) for row in items),
        *(("delivery", str(row.id)) for row in deliveries),
    }


def _event(row: EventRow) -> View:
    return {
        "seq": row.seq,
        "at": _time(row.at),
        "actor": row.actor,
        "subject": f"{row.subject} {row.subject_id}",
        "event": row.event,
        "from": row.from_state,
        "to": row.to_state,
        "detail": row.detail,
    }
