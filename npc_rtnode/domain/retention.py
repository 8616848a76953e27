"""How long bytes are kept: a judgement over a whole study, so that nothing goes that anybody may still need.

Two questions, in this order. May anything of this study go at all (`kept_because`)? And if so, what of it has been kept
long enough (`due`)? A study is let go of only at rest: nothing under way, held, owed or undelivered, no conflict that
nobody has settled. The ledger's rows are never removed, only the bytes that they name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from npc_rtnode.domain.lifecycle import JobState, SeriesState
from npc_rtnode.domain.records import Finding


class Place(StrEnum):
    """Where bytes lie below the node's home, by the folder's name."""

    SPOOL = "spool"  # what was received
    WORK = "work"  # predictions, by work key
    OUTBOX = "outbox"  # the objects that are sent


@dataclass(frozen=True, slots=True)
class KeptFile:
    """A file that the ledger names and has not said to be removed; `name` is a digest or a work key."""

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class SeriesStanding:
    """One series with all its revisions: how the newest stands, its jobs, and what is still owed of them."""

    series_id: int
    state: SeriesState
    conflict: bool
    jobs: tuple[JobState, ...]
    owed: int  # deliveries that are pending or being sent
    leases: int
    last_at: datetime  # when anything last happened to it
    files: Mapping[Place, tuple[KeptFile, ...]]
    commitments: int = 0  # requests for storage commitment that name an instance of it and are owed their report


@dataclass(frozen=True, slots=True)
class StudyStanding:
    """One study as retention sees it."""

    reference: str
    hold: str | None
    series: tuple[SeriesStanding, ...]


@dataclass(frozen=True, slots=True)
class Days:
    """How many days after the last event each thing is kept; 0 keeps it until a person purges the study."""

    delivered: float
    set_aside: float
    stalled: float
    quarantined: float
    predictions: float
    objects: float

    @property
    def shortest(self) -> float | None:
        """Nothing younger can be due; None where everything is kept."""
        limits = (self.delivered, self.set_aside, self.stalled, self.quarantined, self.predictions, self.objects)
        return min((limit for limit in limits if limit), default=None)


@dataclass(frozen=True, slots=True)
class Parcel:
    """Files of one series that go together, and the rule that lets them go."""

    series_id: int
    place: Place
    files: tuple[KeptFile, ...]
    because: str

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True, slots=True)
class PurgeOrder:
    """Who removes bytes, why, when; with `dry_run` nothing is changed and the plan alone is told."""

    actor: str
    reason: str
    at: datetime
    dry_run: bool = False


_ENDED = {JobState.DELIVERED, JobState.CANCELLED}
_WAITS = {SeriesState.RECEIVING, SeriesState.COMPLETE}


def kept_because(study: StudyStanding) -> Finding | None:
    """Why nothing of this study may be removed, or None: the first of the reasons that hold."""
    return next(_reasons(study), None)


def _reasons(study: StudyStanding) -> Iterator[Finding]:
    if study.hold:
        yield Finding("HELD", f"the study is held by {study.hold}")
    for series in study.series:
        yield from _reasons_of(series)


def _reasons_of(series: SeriesStanding) -> Iterator[Finding]:
    name = f"series {series.series_id}"
    if series.conflict:
        yield Finding("CONFLICT", f"{name} has conflicting contents that nobody has settled")
    if series.state is SeriesState.HELD:
        yield Finding("HELD", f"{name} waits for a person")
    if series.state in _WAITS:
        yield Finding("UNDER_WAY", f"{name} is {series.state}")
    if series.leases:
        yield Finding("LEASED", f"{series.leases} leases on work of {name}", series.leases, 0.0)
    if series.owed:
        yield Finding("OWED", f"{series.owed} deliveries of {name} have not been made", series.owed, 0.0)
    if asked := series.commitments:
        yield Finding("COMMITMENT", f"{asked} storage commitments of {name} have not been reported", asked, 0.0)
    if unfinished := sorted(set(series.jobs) - _ENDED):
        code = "HELD" if unfinished == [JobState.HELD] else "UNDELIVERED"
        yield Finding(code, f"a job of {name} is {', '.join(unfinished)}")


def due(study: StudyStanding, days: Days, now: datetime) -> tuple[Parcel, ...]:
    """What of a study has been kept long enough; nothing at all while anything of it is needed."""
    if kept_because(study):
        return ()
    found = [parcel for series in study.series for parcel in _due_of(series, days, now)]
    return tuple(parcel for parcel in found if parcel.files)


def _due_of(series: SeriesStanding, days: Days, now: datetime) -> Iterator[Parcel]:
    limits = {Place.SPOOL: _input_rule(series), Place.WORK: "predictions", Place.OUTBOX: "objects"}
    for place, rule in limits.items():
        limit = getattr(days, rule) if rule else 0.0
        if limit and now - series.last_at >= timedelta(days=limit):
            age = (now - series.last_at) / timedelta(days=1)
            because = f"retain.{rule}_days = {limit:g}: nothing has happened to it for {age:.1f} days"
            yield Parcel(series.series_id, place, series.files[place], because)


def _input_rule(series: SeriesStanding) -> str:
    """Which of the settings speaks of its inputs; none of a selected series of which nothing was delivered."""
    if series.state is SeriesState.SELECTED:
        return "delivered" if JobState.DELIVERED in series.jobs else ""
    return {
        SeriesState.SET_ASIDE: "set_aside",
        SeriesState.STALLED: "stalled",
        SeriesState.QUARANTINED: "quarantined",
    }.get(series.state, "")


def everything(study: StudyStanding) -> tuple[Parcel, ...]:
    """All files of a study, by a person's word; whether any may go is `kept_because`'s to say."""
    parcels = [
        Parcel(series.series_id, place, files, "the study was named")
        for series in study.series
        for place, files in series.files.items()
    ]
    return tuple(parcel for parcel in parcels if parcel.files)


def told(study: str, parcels: Sequence[Parcel]) -> list[str]:
    """One line for each parcel."""
    return [
        f"study {study}, series {parcel.series_id}: {len(parcel.files)} files of the {parcel.place} folder "
        f"({parcel.size / 1e6:.1f} MB) removed; {parcel.because}"
        for parcel in parcels
    ]
