"""Which work could be begun now: due, of a series that is still selected, kept back by nobody and in no paused lane."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Select, func, select

from npc_rtnode.adapters.database.carrier import RESOURCES
from npc_rtnode.adapters.database.tables import DeliveryRow, JobRow, ObjectRow, PauseRow, SeriesRow, StudyRow
from npc_rtnode.domain.lifecycle import DeliveryState, JobState, SeriesState
from npc_rtnode.domain.recipe import Recipe
from npc_rtnode.domain.windows import OffPeak


def claimable_jobs(now: datetime, off_peak: OffPeak | None = None) -> Select[JobRow]:
    """Jobs that wait for inference or writing; inference that is not urgent waits for its window too."""
    due = free(select(JobRow)).where(JobRow.state.in_(sorted(RESOURCES)), _is_due(JobRow.due_at, now))
    due = due.where((JobRow.state != JobState.QUEUED) | running("infer"))
    if off_peak is None or off_peak.window.is_open(now):
        return due
    lets = (JobRow.priority >= off_peak.below) | (JobRow.first_due_at <= now - off_peak.deadline)
    return due.where((JobRow.state != JobState.QUEUED) | lets)


def claimable_deliveries(now: datetime) -> Select[DeliveryRow]:
    """Deliveries whose job is cleared for sending."""
    due = free(select(DeliveryRow).join(ObjectRow).join(JobRow)).where(
        DeliveryRow.state == DeliveryState.PENDING, _is_due(DeliveryRow.due_at, now), JobRow.state == JobState.WRITTEN
    )
    return due.where(running("send"), running_to())


def _is_due(column: Any, now: datetime) -> Any:
    """Spelled so that no index on it is used: the one on the rank gives the first without sorting all that waits."""
    return func.coalesce(column, now) <= now


def free(query: Select[Any]) -> Select[Any]:
    """Only work of a series that is still selected, in a study that nobody keeps back."""
    return (
        query.join(SeriesRow, SeriesRow.id == JobRow.series_id)
        .join(StudyRow, StudyRow.id == SeriesRow.study_id)
        .where(SeriesRow.state == SeriesState.SELECTED, StudyRow.hold.is_(None))
    )


def by_recipe(recipe: Recipe) -> Any:
    """Whether a job that waits would become by this recipe what its work key says (domain/recipe)."""
    same_bundle = (JobRow.state != JobState.QUEUED) | (JobRow.bundle_hash == recipe.bundle_hash)
    return (JobRow.settings_hash == recipe.settings_hash) & same_bundle


def running(lane: str) -> Any:
    """Whether nobody has paused this lane."""
    return ~select(PauseRow.id).where(PauseRow.lane == lane, PauseRow.ended_at.is_(None)).exists()


def running_to() -> Any:
    """Whether nobody has paused sending to the delivery's destination."""
    paused = select(PauseRow.id).where(PauseRow.lane == "send:" + DeliveryRow.destination, PauseRow.ended_at.is_(None))
    return ~paused.correlate(DeliveryRow).exists()
