"""Off-peak windows: work that is not urgent may wait for the night, but never longer than its deadline.

A predicate that is asked at each look, not an alarm at each edge: whoever was asleep at an edge, was restarted, or went
through a night with an hour too many or too few finds the window as the clock on the wall says it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, time, timedelta, tzinfo


@dataclass(frozen=True)
class Window:
    """From `begin` until `end` by the wall clock of `zone`, over midnight where `end` is earlier; equal: always."""

    begin: time
    end: time
    zone: tzinfo

    def is_open(self, now: datetime) -> bool:
        """Whether the wall clock shows a time within."""
        shown = now.astimezone(self.zone).time()
        if self.begin < self.end:
            return self.begin <= shown < self.end
        return shown >= self.begin or shown < self.end


@dataclass(frozen=True)
class OffPeak:
    """Work below priority `below` waits for the window; whatever has waited for `deadline` does not."""

    window: Window
    below: int
    deadline: timedelta

    def lets(self, priority: int, first_due_at: datetime, now: datetime) -> bool:
        """Whether such work may begin now."""
        return self.window.is_open(now) or priority >= self.below or first_due_at <= now - self.deadline
