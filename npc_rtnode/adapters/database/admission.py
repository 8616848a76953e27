"""The ledger's admission page: how much work waits, and when the door was shut and opened."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import func, select

from npc_rtnode.adapters.database.engine import Sessions
from npc_rtnode.adapters.database.journal import Note, tell
from npc_rtnode.adapters.database.tables import EventRow, JobRow, SeriesRow, StudyRow
from npc_rtnode.domain.admission import Level, Standing
from npc_rtnode.domain.lifecycle import JobState, SeriesState

_WAITING = {JobState.QUEUED, JobState.PREDICTING, JobState.PREDICTED, JobState.WRITING}
_SUBJECT, _DOOR = "admission", "listener"


class AdmissionLedger:
    """Fulfils ports.AdmissionPages."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def backlog(self) -> int:
        """Jobs that wait for inference or writing, or are at it; not those that a person keeps back."""
        query = (
            select(func.count(JobRow.id))
            .join(SeriesRow, SeriesRow.id == JobRow.series_id)
            .join(StudyRow, StudyRow.id == SeriesRow.study_id)
            .where(JobRow.state.in_(_WAITING), SeriesRow.state == SeriesState.SELECTED, StudyRow.hold.is_(None))
        )
        with self._sessions.reading() as session:
            return session.scalar(query) or 0

    def admission_changed(self, standing: Standing, now: datetime) -> None:
        """The door was opened, shut, or people were warned."""
        finding = standing.finding
        detail = {"code": finding.code, "value": finding.value, "limit": finding.limit} if finding else {}
        with self._sessions.writing() as session:
            tell(session, _SUBJECT, _DOOR, standing.level, Note(now, detail=detail))

    def last(self) -> Level:
        """The level that was recorded last."""
        query = select(EventRow.event).where(EventRow.subject == _SUBJECT).order_by(EventRow.seq.desc()).limit(1)
        with self._sessions.reading() as session:
            return Level(session.scalar(query) or Level.OPEN)

    def changes(self) -> dict[str, int]:
        """How often the door came to stand at each level."""
        query = select(EventRow.event, func.count()).where(EventRow.subject == _SUBJECT).group_by(EventRow.event)
        with self._sessions.reading() as session:
            return {str(event): number for event, number in session.execute(query)}
