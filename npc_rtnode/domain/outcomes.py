"""What a gate came to, and how a number is held against the ends of a band."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from math import isfinite
from typing import Final

from npc_rtnode.domain.prediction import Band
from npc_rtnode.domain.records import Finding


class Outcome(StrEnum):
    """What a gate came to."""

    PASS = "pass"
    WARN = "warn"
    HOLD = "hold"


@dataclass(frozen=True, slots=True)
class GateResult:
    """One gate's answer; `value` and `limit` are the numbers that decided it. The message names no patient."""

    name: str
    outcome: Outcome
    message: str
    value: float | None = None
    limit: float | None = None

    @property
    def finding(self) -> Finding:
        """The same as a finding, for the ledger and the page."""
        return Finding(self.name, self.message, self.value, self.limit)


def gate_error(name: str, error: Exception) -> GateResult:
    """A gate that could not come to an answer holds; the error's text may hold patient data and is left out."""
    return unjudged(name, type(error).__name__)


GATE_FAULTS: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What a gate can fail with, on numbers or objects that nobody thought of: no answer, so it holds."""


def answered(name: str, judge: Callable[[], Iterable[GateResult]]) -> tuple[GateResult, ...]:
    """What these gates say; where one of them fails, that it came to no answer."""
    try:
        return tuple(judge())
    except GATE_FAULTS as error:
        return (gate_error(name, error),)


def unjudged(name: str, because: str) -> GateResult:
    """A gate without an answer holds, whatever the reason."""
    return GateResult("GATE_ERROR", Outcome.HOLD, f"{name} could not be judged: {because}")


def within(name: str, said: str, value: float, band: Band) -> GateResult:
    """A number against its band: the first end that it is beyond decides, those that hold come first."""
    if not isfinite(value):
        return unjudged(name, "its number is not finite")
    for outcome, low, high in (
        (Outcome.HOLD, band.hold_low, band.hold_high),
        (Outcome.WARN, band.warn_low, band.warn_high),
    ):
        if low is not None and value < low:
            return GateResult(name, outcome, _beyond(said, value, band.unit, f"at least {low:.4g}"), value, low)
        if high is not None and value > high:
            return GateResult(name, outcome, _beyond(said, value, band.unit, f"at most {high:.4g}"), value, high)
    return GateResult(name, Outcome.PASS, said, value, _nearest(value, band))


def _beyond(said: str, value: float, unit: str, wanted: str) -> str:
    number = f"{value:.4g} {unit}".rstrip()
    return f"{said}: {number}, expected {wanted}"


def _nearest(value: float, band: Band) -> float | None:
    """The end that a number inside its band would meet first."""
    ends = [end for end in (band.warn_low, band.warn_high, band.hold_low, band.hold_high) if end is not None]
    return min(ends, key=lambda end: abs(end - value), default=None)
