"""When a lease is forsaken: its watcher has seen no sign of life for so long, by no wall clock (ADR 0021).

Whoever works renews the lease; whoever watches counts the time for which it stayed the same. Only time in which the
watcher could look counts: a ledger that was away, a frozen watcher or a clock that was set take nothing from anybody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True)
class Sighting:
    """What a lease looked like when it was seen last, and for how many seconds it has looked so."""

    sign: datetime | None
    silent_s: float


@dataclass
class LeaseWatch:
    """Remembers what it saw; `silent_s` without a sign of life forsake a lease."""

    silent_s: float
    seen: dict[str, Sighting] = field(default_factory=dict)
    looked_at_s: float | None = None

    def look(self, signs: Mapping[str, datetime | None], at_s: float) -> frozenset[str]:
        """The forsaken ones. `signs`: by token, the time that its holder has put there; `at_s`: monotonic seconds.

        One look counts for a third of `silent_s` at most: it takes three that see the same.
        """
        passed_s = 0.0 if self.looked_at_s is None else min(max(at_s - self.looked_at_s, 0.0), self.silent_s / 3)
        self.looked_at_s = at_s
        self.seen = {token: self._again(token, sign, passed_s) for token, sign in signs.items()}
        return frozenset(token for token, sighting in self.seen.items() if sighting.silent_s >= self.silent_s - 1e-6)

    def _again(self, token: str, sign: datetime | None, passed_s: float) -> Sighting:
        before = self.seen.get(token)
        if before is None or before.sign != sign:
            return Sighting(sign, 0.0)
        return Sighting(sign, before.silent_s + passed_s)
