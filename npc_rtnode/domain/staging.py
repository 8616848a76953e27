"""The TStage as it is said: four probabilities that add up, one stage or an honest set, and whose edition."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from npc_rtnode.domain.prediction import T_STAGES
from npc_rtnode.errors import BundleFault

_STEPS: Final = 10_000  # four decimals


@dataclass(frozen=True, slots=True)
class TStaging:
    """What is said of the TStage: `ten_thousandths` are T1-T4, summing to exactly 10,000."""

    ten_thousandths: tuple[int, ...]
    top: str
    uncertain: bool
    candidates: tuple[str, ...]  # the top stage alone, or the likeliest few when uncertain, in order of stage
    edition: str

    @property
    def probabilities(self) -> dict[str, float]:
        """Stage to probability, four decimals."""
        return {stage: share / _STEPS for stage, share in zip(T_STAGES, self.ten_thousandths, strict=True)}

    @property
    def hundredths(self) -> dict[str, int]:
        """Stage to percent for lines that have no room for more: rounded together, so that they sum to 100."""
        return dict(zip(T_STAGES, rounded(tuple(self.probabilities.values()), 100), strict=True))

    @property
    def top_probability(self) -> float:
        """Of the top stage."""
        return self.probabilities[self.top]

    @property
    def text(self) -> str:
        """`cT3`, or `uncertain: cT2 or cT3`."""
        said = " or ".join(f"c{stage}" for stage in self.candidates)
        return f"uncertain: {said}" if self.uncertain else said


def staging_of(probabilities: Sequence[float], edition: str, uncertain_below: float) -> TStaging:
    """State the stage. Uncertain when the top probability is below the limit (0-1)."""
    shares = rounded(probabilities)
    top = T_STAGES[max(range(len(T_STAGES)), key=lambda i: probabilities[i])]
    uncertain = max(probabilities) < uncertain_below
    candidates = likeliest(probabilities, uncertain_below) if uncertain else (top,)
    return TStaging(shares, top, uncertain, candidates, edition)


def rounded(probabilities: Sequence[float], steps: int = _STEPS) -> tuple[int, ...]:
    """Shares of so many steps that sum to exactly all: rounded down, the rest given to the largest remainders."""
    _check(probabilities)
    exact = [p / math.fsum(probabilities) * steps for p in probabilities]
    floors = [math.floor(e) for e in exact]
    missing = steps - sum(floors)
    by_remainder = sorted(range(len(exact)), key=lambda i: (floors[i] - exact[i], i))
    return tuple(floor + (i in by_remainder[:missing]) for i, floor in enumerate(floors))


def likeliest(probabilities: Sequence[float], reach: float) -> tuple[str, ...]:
    """The fewest stages, at least two, whose probabilities together reach `reach`; in order of stage."""
    order = sorted(range(len(T_STAGES)), key=lambda i: (-probabilities[i], i))
    count = 2
    while count < len(order) and math.fsum(probabilities[i] for i in order[:count]) < reach:
        count += 1
    return tuple(T_STAGES[i] for i in sorted(order[:count]))


def _check(probabilities: Sequence[float]) -> None:
    usable = len(probabilities) == len(T_STAGES) and all(math.isfinite(p) and p >= 0 for p in probabilities)
    if not usable or abs(math.fsum(probabilities) - 1.0) > 1e-3:
        raise BundleFault(f"stage probabilities {tuple(probabilities)} are no distribution over {T_STAGES}")
