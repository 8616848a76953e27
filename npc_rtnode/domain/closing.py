"""When to close a series: the sender's own release, the source's count, and time, which is the last resort.

DICOM has no word for "the end". In order of what they are worth: the source knows as many instances as are here, said
twice some seconds apart (a source that is still filling says another number), or once if it is also the number that the
scanner stated (ImagesInAcquisition); one association that brought everything was released, and the slices are one even
stack; nothing more has come for long enough. A transfer that was cut short waits out the whole time, and is never
closed as whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from npc_rtnode.domain.completeness import Completeness, Kind, doubted
from npc_rtnode.domain.records import Asked, Finding, OpenSeries, SliceHeader

SOURCE_HAS_MORE: Final = "SOURCE_HAS_MORE"
_SETTLED: Final = frozenset({Kind.WHOLE, Kind.NOT_A_STACK})
_SHAPES: Final = {
    Kind.WHOLE: "geometrically whole",
    Kind.NOT_A_STACK: "it will never be one even stack",
    Kind.PARTIAL: "not whole",
    Kind.UNUSABLE: "unusable",
}


@dataclass(frozen=True)
class Patience:
    """Seconds: without an instance, after a release, and between two questions to the source."""

    quiet_s: float = 0.0
    released_s: float = 0.0
    apart_s: float = 5.0


BY_QUIET: Final = Patience()
"""No hint is taken: whatever is looked at has been quiet for long enough."""


@dataclass(frozen=True)
class Close:
    """Close it now, with this judgement, and say why now."""

    completeness: Completeness
    because: str


@dataclass(frozen=True)
class Ask:
    """Ask the source how many instances it has."""


@dataclass(frozen=True)
class Wait:
    """Look again then."""

    until: datetime


@dataclass(frozen=True)
class Look:
    """What is known of an open series at one moment; `doubts` of its transfer are in the completeness already."""

    series: OpenSeries
    completeness: Completeness
    stated: int | None  # ImagesInAcquisition, where all slices agree on one
    source: bool  # whether there is a system that can be asked
    patience: Patience
    now: datetime

    @property
    def quiet_until(self) -> datetime:
        """When nothing will have come for long enough."""
        return self.series.last_received_at + timedelta(seconds=self.patience.quiet_s)

    @property
    def answers(self) -> Sequence[Asked]:
        """What the source has said since the last instance came."""
        return [one for one in self.series.asked if one.at >= self.series.last_received_at]


def stated_count(headers: Sequence[SliceHeader]) -> int | None:
    """ImagesInAcquisition, where every slice states the same one."""
    stated = {header.images_in_acquisition for header in headers}
    return stated.pop() if len(stated) == 1 else None


def next_step(look: Look) -> Close | Ask | Wait:
    """Close it, ask first, or wait."""
    if look.source and not look.series.doubts and look.completeness.kind in _SETTLED and (step := _by_source(look)):
        return step
    if look.now >= look.quiet_until:
        return _by_quiet(look)
    if _released_whole(look):
        return _close(look, "the one association that brought it was released")
    return Wait(look.quiet_until)


def _by_source(look: Look) -> Close | Ask | Wait | None:
    """By what the source says; None where it says nothing that helps."""
    if confirmed := _confirmed(look):
        return _close(look, confirmed)
    if not look.answers:
        return Ask()
    last = look.answers[-1]
    again = last.at + timedelta(seconds=look.patience.apart_s)
    undecided = last.instances == look.series.seen or (last.instances is not None and last.at < look.quiet_until)
    if not undecided:
        return None
    return Ask() if look.now >= again else Wait(again)


def _confirmed(look: Look) -> str:
    """In words, that the source has what we have and no more; empty where it is not sure."""
    same = [one for one in look.answers if one.instances == look.series.seen]
    if not same or same[-1] is not look.answers[-1]:
        return ""
    if look.stated == look.series.seen:
        return f"{same[-1].source} has {look.series.seen} instances, as many as ImagesInAcquisition states"
    if len(same) < 2 or look.answers[-2] is not same[-2]:
        return ""
    apart = (same[-1].at - same[-2].at).total_seconds()
    return f"{same[-1].source} has {look.series.seen} instances, and had {apart:.0f} s before"


def _released_whole(look: Look) -> bool:
    return look.series.released_alone and not look.source and look.completeness.kind is Kind.WHOLE


def _by_quiet(look: Look) -> Close:
    """Time has run out: as it is, unless the source has said that it has more."""
    last = look.answers[-1] if look.answers else None
    if last is None:
        return _close(look, "quiet")
    if last.instances is None:
        return _close(look, f"quiet ({last.source} could not be asked: {last.because})")
    more = _more(last, look.series.seen)
    return _close(look, f"quiet ({last.source} has {last.instances} instances)", more)


def _more(last: Asked, seen: int) -> list[Finding]:
    if last.instances is None or last.instances <= seen:
        return []
    said = f"{last.source} has {last.instances} instances, {seen} are here"
    return [Finding(SOURCE_HAS_MORE, said, float(seen), float(last.instances))]


def _close(look: Look, because: str, doubts: Sequence[Finding] = ()) -> Close:
    judged = doubted(look.completeness, doubts)
    return Close(judged, f"{because} and {_SHAPES[judged.kind]}; {look.series.seen} instances")
