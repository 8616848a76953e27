"""The ledger's study pages: studies whose series can be compared, and what was decided on all of them at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from npc_rtnode.adapters.database.engine import Sessions
from npc_rtnode.adapters.database.journal import Note, move
from npc_rtnode.adapters.database.series import call_off, codes_of, open_series, queue_job
from npc_rtnode.adapters.database.tables import InstanceRow, SeriesRow, StudyRow, VerdictRow
from npc_rtnode.domain.lifecycle import Event, JobState, SeriesState
from npc_rtnode.domain.records import Choice, OpenSeries, OpenStudy, Verdict
from npc_rtnode.domain.selection import COMPARED, OUTRANKED
from npc_rtnode.domain.settling import Calm

ASKED_AT_ONCE = 500
"""Instances that one statement looks for: it takes a limited number of parameters."""

JUDGED = {SeriesState.SELECTED, SeriesState.HELD, SeriesState.SET_ASIDE}
"""What a choice makes of a series."""

ENDED_BADLY = {JobState.FAILED, JobState.CANCELLED, JobState.QUARANTINED}
"""Jobs that keep no other series of the study from being taken."""


class StudyLedger:
    """Reads studies that wait for a choice among their series, and records it."""

    def __init__(self, sessions: Sessions, quiet_s: float = 0.0) -> None:
        self._sessions = sessions
        self._quiet_s = quiet_s

    def settled(self, now: datetime) -> list[OpenStudy]:
        """Studies with a complete series of which nothing more is coming; the longest waiting first."""
        with self._sessions.reading() as session:
            waiting = [(calm_of(row).settles_at(self._quiet_s), row) for row in _waiting(session)]
            due = [(at, row.id, row) for at, row in waiting if at <= now]
            return [_open_study(session, row) for _, _, row in sorted(due, key=lambda item: item[:2])]

    def next_settling(self, now: datetime) -> datetime | None:
        """When the next study will have settled if nothing more comes; None with none waiting for it."""
        with self._sessions.reading() as session:
            times = [calm_of(row).settles_at(self._quiet_s) for row in _waiting(session)]
            return min((at for at in times if at > now), default=None)

    def whereabouts(self, sop_uids: Sequence[str]) -> dict[str, int]:
        """Of these instances, each that was received, with the newest series revision that took it in."""
        with self._sessions.reading() as session:
            return {uid: series for part in _portions(sop_uids) for uid, series in session.execute(_homes(part))}

    def judged(self, since: datetime) -> list[OpenStudy]:
        """Studies first received since then, with every series that was judged as if it still had to be."""
        with self._sessions.reading() as session:
            rows = session.scalars(select(StudyRow).where(StudyRow.first_received_at >= since).order_by(StudyRow.id))
            found = [(row.reference, [one for one in row.series if one.state in JUDGED]) for row in rows]
            return [
                OpenStudy(reference, tuple(open_series(session, one) for one in series))
                for reference, series in found
                if series
            ]

    def choose(self, judged: Sequence[tuple[OpenSeries, Choice]], now: datetime) -> bool:
        """Record the choice among a study's series in one transaction; False, and nothing, if one of them has changed.

        One that stays what it was, for the same reasons, is left alone. Rows are locked in the order of their numbers.
        """
        by_number = sorted(judged, key=lambda item: item[0].series_id)
        with self._sessions.writing() as session:
            rows = [session.get_one(SeriesRow, series.series_id, with_for_update=True) for series, _ in by_number]
            if any(row.state != series.state for row, (series, _) in zip(rows, by_number, strict=True)):
                return False
            for row, (_, choice) in zip(rows, by_number, strict=True):
                _record(session, row, choice, now)
            return True


def calm_of(study: StudyRow) -> Calm:
    """How quiet a study with a complete series is. A series that could not be looked at is not waited for."""
    closed = [row.closed_at for row in _in_state(study, SeriesState.COMPLETE) if row.closed_at]
    receiving = [row.id for row in _in_state(study, SeriesState.RECEIVING) if not row.troubles]
    last = max(row.last_received_at for row in study.series)
    return Calm(min(closed, default=last), last, tuple(receiving))


def _waiting(session: Session) -> Iterable[StudyRow]:
    return session.scalars(select(StudyRow).where(StudyRow.series.any(SeriesRow.state == SeriesState.COMPLETE)))


def _in_state(study: StudyRow, state: SeriesState) -> list[SeriesRow]:
    return [row for row in study.series if row.state == state]


def _open_study(session: Session, row: StudyRow) -> OpenStudy:
    def opened(rows: Iterable[SeriesRow]) -> tuple[OpenSeries, ...]:
        return tuple(open_series(session, series) for series in rows)

    selected = [series for series in _in_state(row, SeriesState.SELECTED) if not _came_to_nothing(series)]
    return OpenStudy(
        reference=row.reference,
        complete=opened(_in_state(row, SeriesState.COMPLETE)),
        again=opened(series for series in row.series if _is_open(series, beside=selected)),
        selected=opened(selected),
    )


def _is_open(row: SeriesRow, beside: Sequence[SeriesRow]) -> bool:
    """Whether the series is compared again, beside the `selected` ones that keep their job."""
    if row.state == SeriesState.HELD:
        return bool(codes_of(row) & COMPARED)
    if row.state == SeriesState.SET_ASIDE:
        return codes_of(row) == {OUTRANKED} and not beside
    return row.state == SeriesState.SELECTED and _came_to_nothing(row)


def _came_to_nothing(row: SeriesRow) -> bool:
    """Whether every job of a selected series ended without a result that may leave the house."""
    return all(job.state in ENDED_BADLY or (job.state == JobState.HELD and not job.releasable) for job in row.jobs)


def _record(session: Session, row: SeriesRow, choice: Choice, now: datetime) -> None:
    if row.state != SeriesState.COMPLETE:
        if choice.event == row.state and list(choice.reasons) == row.reasons:
            return
        move(session, row, Event.RECONSIDERED, Note(now, detail={"because": "another series of the study was judged"}))
    row.rules_hash, row.reasons = choice.rules_hash, list(choice.reasons)
    session.add_all(_verdict(row, verdict, now) for verdict in choice.verdicts)
    move(session, row, choice.event, Note(now, detail={"rules": choice.rules_hash, "reasons": row.reasons}))
    if choice.order is None:
        call_off(session, row.jobs, f"{choice.event}: the series was judged anew", now)
    else:
        queue_job(session, row, choice.order, now)


def _verdict(row: SeriesRow, verdict: Verdict, now: datetime) -> VerdictRow:
    return VerdictRow(series_id=row.id, rule=verdict.rule[:200], truth=verdict.truth, because=verdict.because, at=now)


def _homes(sop_uids: Sequence[str]) -> Select[str, int]:
    newest = func.max(InstanceRow.series_id)
    return select(InstanceRow.sop_uid, newest).where(InstanceRow.sop_uid.in_(sop_uids)).group_by(InstanceRow.sop_uid)


def _portions(sop_uids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (sop_uids[start : start + ASKED_AT_ONCE] for start in range(0, len(sop_uids), ASKED_AT_ONCE))
