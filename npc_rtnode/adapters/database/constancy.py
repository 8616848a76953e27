"""The ledger's constancy pages: runs of the phantom, how far the chain is with one, and the alarm when it is one."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from npc_rtnode.adapters.database.engine import Sessions
from npc_rtnode.adapters.database.journal import Note, tell
from npc_rtnode.adapters.database.series import inputs_of
from npc_rtnode.adapters.database.tables import AttemptRow, ConstancyRow, DeliveryRow, JobRow, SeriesRow, StudyRow
from npc_rtnode.domain.constancy import SECONDS, ChainOutcome, ConstancyRun, Made, RunState
from npc_rtnode.domain.lifecycle import DeliveryState, Event, JobState, SeriesState

_UNDER_WAY = {JobState.QUEUED, JobState.PREDICTING, JobState.PREDICTED, JobState.WRITING, JobState.WRITTEN}
_SUBJECT = "constancy"


class ConstancyLedger:
    """Fulfils ports.ConstancyPages."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def runs(self, last: int = 0) -> list[ConstancyRun]:
        """Oldest first; the last so many, or all."""
        newest = select(ConstancyRow).order_by(ConstancyRow.id.desc())
        with self._sessions.reading() as session:
            return [_run(row) for row in session.scalars(newest.limit(last) if last else newest)][::-1]

    def begin(self, study_uid: str, day: str, asked_by: str, now: datetime) -> ConstancyRun:
        """A run is asked for; whoever was faster with this UID keeps it."""
        with self._sessions.writing() as session:
            known = session.scalar(select(ConstancyRow).where(ConstancyRow.study_uid == study_uid))
            if known is None:
                known = ConstancyRow(
                    study_uid=study_uid,
                    day=day,
                    asked_by=asked_by[:64],
                    phantom_sha256="",
                    bundle_hash="",
                    settings_hash="",
                    state=RunState.RUNNING,
                    started_at=now,
                )
                session.add(known)
                session.flush()
                tell(session, _SUBJECT, str(known.id), "ASKED", Note(now, asked_by[:64], {"day": day}))
            return _run(known)

    def outcome(self, run: ConstancyRun) -> ChainOutcome | None:
        """How far the chain is with it; None before its first instance."""
        newest = (
            select(SeriesRow)
            .join(StudyRow)
            .where(StudyRow.study_uid == run.study_uid)
            .order_by(SeriesRow.id.desc())
            .limit(1)
        )
        with self._sessions.reading() as session:
            series = session.scalar(newest)
            return _outcome(session, series) if series else None

    def ended(self, run: ConstancyRun, now: datetime) -> None:
        """What it came to, in its row and in the journal; an alarm is an event that people look for."""
        with self._sessions.writing() as session:
            row = session.get_one(ConstancyRow, run.run_id, with_for_update=True)
            if row.state != RunState.RUNNING:
                return
            row.state, row.ended_at = run.state, now
            row.phantom_sha256, row.bundle_hash = run.made.phantom_sha256, run.made.bundle_hash
            row.settings_hash = run.made.settings_hash
            row.measures, row.reasons = dict(run.measures), list(run.reasons)
            tell(session, _SUBJECT, str(row.id), run.state, Note(now, detail={"reasons": row.reasons}))


def _run(row: ConstancyRow) -> ConstancyRun:
    return ConstancyRun(
        row.id,
        row.study_uid,
        row.day,
        row.asked_by,
        Made(row.phantom_sha256, row.bundle_hash, row.settings_hash),
        RunState(row.state),
        row.started_at,
        row.ended_at,
        row.measures,
        tuple(str(reason) for reason in row.reasons),
    )


def _outcome(session: Session, series: SeriesRow) -> ChainOutcome:
    job = series.jobs[-1] if series.jobs else None
    inputs = tuple(sha256 for _, sha256 in inputs_of(session, series))
    if job is None:
        waiting = series.state in {SeriesState.RECEIVING, SeriesState.COMPLETE}
        said = f"the series is {series.state}: {'; '.join(map(str, series.reasons)) or 'no reason is told'}"
        return ChainOutcome(not waiting, said, Made(""), {}, inputs=inputs)
    structure = next((item.sha256 for item in job.objects if (item.kind, item.variant) == ("RTSTRUCT", "")), "")
    return ChainOutcome(
        ended=job.state not in _UNDER_WAY,
        said=f"the job is {job.state}: {'; '.join(map(str, job.reasons)) or job.last_error or 'no reason is told'}",
        made=Made("", job.bundle_hash, job.settings_hash),
        measures={**_content(job), **_times(session, series, job)},
        structure=structure,
        inputs=inputs,
        kept_for_nobody=job.state == JobState.HELD
        and [str(r).split(":")[0] for r in job.reasons] == ["NO_DESTINATION"],
    )


def _content(job: JobRow) -> dict[str, float]:
    stages = {
        f"p_t{number}": float(share) for number, share in enumerate(job.results.get("stage_probabilities", ()), 1)
    }
    return stages


def _times(session: Session, series: SeriesRow, job: JobRow) -> dict[str, float]:
    """Seconds of each stage, by the rows that it left."""
    deliveries = [delivery for item in job.objects for delivery in item.deliveries]
    sent = [row.sent_at for row in deliveries if row.sent_at and row.state == DeliveryState.SENT]
    attempts = _done(session, job, deliveries)
    marks = {
        "receive": (series.first_received_at, series.last_received_at),
        "close": (series.last_received_at, series.closed_at),
        "select": (series.closed_at, job.created_at),
        "total": (series.first_received_at, max(sent, default=None)),
    }
    told = {name: (end - begin).total_seconds() for name, (begin, end) in marks.items() if begin and end}
    return {f"{SECONDS}{name}": round(value, 3) for name, value in {**told, **attempts}.items()}


def _done(session: Session, job: JobRow, deliveries: list[DeliveryRow]) -> dict[str, float]:
    """Inference, writing, and all deliveries together: the attempts that ended well."""
    mine = select(AttemptRow).where(AttemptRow.outcome == Event.DONE, AttemptRow.ended_at.is_not(None))
    of_job = mine.where(AttemptRow.subject == "job", AttemptRow.subject_id == job.id)
    ids = [row.id for row in deliveries]
    of_deliveries = mine.where(AttemptRow.subject == "delivery", AttemptRow.subject_id.in_(ids))
    told: dict[str, float] = {}
    for row in [*session.scalars(of_job), *session.scalars(of_deliveries)]:
        lasted = (row.ended_at or row.started_at) - row.started_at
        told[row.stage] = told.get(row.stage, 0.0) + lasted.total_seconds()
    return told
