"""Constancy: the same phantom through the whole chain, day after day. When a run is due, and what its numbers come to.

Same in, same out is a check of its own: while phantom, bundle and settings are what they were, Dice, volume and
probabilities must be what they were. Times vary; they are held to the spread of the first runs (mean + k sigma, as a
Shewhart chart for individuals).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from enum import StrEnum
from math import nan
from statistics import fmean, stdev

SAME: float = 1e-6
"""Numbers of two runs further apart than this differ; the ledger keeps probabilities to six decimals."""
LEAST_SPREAD: float = 0.1
"""A time's sigma is taken as at least this share of its mean: twenty quiet nights say little of a busy one."""
SECONDS = "seconds_"
"""How the name of a time begins; all other measures are content."""


class RunState(StrEnum):
    """What a run has come to."""

    RUNNING = "RUNNING"  # asked for or under way
    PASSED = "PASSED"
    ALARM = "ALARM"


@dataclass(frozen=True)
class Made:
    """What a result depends on: while all three stay, the result must."""

    phantom_sha256: str
    bundle_hash: str = ""
    settings_hash: str = ""


@dataclass(frozen=True)
class ConstancyRun:
    """One run; `day` is the site's date, `measures` the numbers by name (Dice, cc, probabilities, seconds)."""

    run_id: int
    study_uid: str
    day: str
    asked_by: str
    made: Made
    state: RunState
    started_at: datetime
    ended_at: datetime | None = None
    measures: Mapping[str, float] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class ChainOutcome:
    """How far the chain is with a run's series: `ended` when nothing of it is under way any more."""

    ended: bool
    said: str
    made: Made
    measures: Mapping[str, float]
    structure: str = ""  # SHA-256 of the RTSTRUCT in the outbox
    inputs: tuple[str, ...] = ()  # SHA-256 of the received files
    kept_for_nobody: bool = False  # the job is held for want of a destination: as meant where none is configured


@dataclass(frozen=True)
class Limits:
    """What a run is held to: the first `baseline_runs` of the same make give the spread of the times."""

    baseline_runs: int
    sigma: float
    dice_least: float


@dataclass(frozen=True)
class Control:
    """One measure's centre and limits, from the baseline."""

    mean: float
    low: float
    high: float
    runs: int


def site_zone(utc_offset: str) -> timezone:
    """`+0800` as a zone."""
    sign = -1 if utc_offset.startswith("-") else 1
    return timezone(sign * timedelta(hours=int(utc_offset[1:3]), minutes=int(utc_offset[3:5])))


def due_day(now: datetime, at: str, zone: timezone, done: Iterable[str]) -> str | None:
    """The site's date, if its run is due and not there yet; a node that was down at the hour makes it up that day."""
    local = now.astimezone(zone)
    day = local.date().isoformat()
    return day if at and local.strftime("%H:%M") >= at and day not in set(done) else None


def control(name: str, history: Sequence[ConstancyRun], limits: Limits) -> Control | None:
    """The limits of a measure by the first runs of this make that passed; None before there are enough."""
    values = [run.measures[name] for run in history if name in run.measures][: limits.baseline_runs]
    if len(values) < limits.baseline_runs:
        return None
    mean, spread = fmean(values), stdev(values) * limits.sigma
    if name.startswith(SECONDS):
        return Control(mean, 0.0, mean + max(spread, limits.sigma * LEAST_SPREAD * mean), len(values))
    return Control(mean, mean - max(spread, SAME), mean + max(spread, SAME), len(values))


def judge(made: Made, measures: Mapping[str, float], past: Sequence[ConstancyRun], limits: Limits) -> tuple[str, ...]:
    """Why a run that came to its end is an alarm; empty when all of it is as it was. `past` is oldest first."""
    same = [run for run in past if run.made == made and run.state is RunState.PASSED]
    return (*_too_low(measures, limits), *_changed(measures, same), *_beyond(measures, same, limits))


def _too_low(measures: Mapping[str, float], limits: Limits) -> list[str]:
    dice = measures["dice"]
    if dice >= limits.dice_least:  # not a number is too low as well
        return []
    return [f"DICE_LOW: Dice {dice:.4f} against the phantom's truth, at least {limits.dice_least:g} is wanted"]


def _changed(measures: Mapping[str, float], same: Sequence[ConstancyRun]) -> list[str]:
    """Against the first run of the same make: a slow drift is a change too."""
    if not same:
        return []
    first = same[0].measures
    now = {name: measures.get(name, nan) for name in first if not name.startswith(SECONDS)}
    return [
        f"NOT_CONSTANT: {name} is {value:.6g}, it was {first[name]:.6g} on {same[0].day} with the same phantom, bundle "
        "and settings"
        for name, value in now.items()
        if not abs(value - first[name]) <= SAME
    ]


def _beyond(measures: Mapping[str, float], same: Sequence[ConstancyRun], limits: Limits) -> list[str]:
    said = []
    for name, value in measures.items():
        band = control(name, same, limits) if name.startswith(SECONDS) else None
        if band and value > band.high:
            said.append(
                f"BEYOND_LIMITS: {name} is {value:.3g}, at most {band.high:.3g} is expected (mean {band.mean:.3g} of "
                f"{band.runs} runs)"
            )
    return said
