"""When the series of a study are compared: not while more of them are coming, and not much later.

The series of a study arrive one after another. A choice made at the first one would be made without the better one that
arrives a minute later; a choice that waits for ever is none. So a complete series waits until nothing of its study is
still being received and nothing has come for `quiet_s`, and never longer than LONGEST_S.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

LONGEST_S = 3600
"""A series that has been complete for this long is judged though its study is not quiet: some senders never pause."""


@dataclass(frozen=True)
class Calm:
    """How quiet a study is: when its oldest complete series closed, when its last image came, which series come in."""

    closed_at: datetime
    last_received_at: datetime
    receiving: tuple[int, ...] = ()

    def settles_at(self, quiet_s: float) -> datetime:
        """From when on the complete series of the study are judged; with `quiet_s` 0 each is judged at once."""
        if quiet_s == 0:
            return self.closed_at
        latest = self.closed_at + timedelta(seconds=LONGEST_S)
        return latest if self.receiving else min(latest, self.last_received_at + timedelta(seconds=quiet_s))

    def words(self, quiet_s: float) -> str:
        """What a complete series waits for, for people."""
        until = f"{self.settles_at(quiet_s):%H:%M:%S} UTC"
        if self.receiving and quiet_s:
            names = ", ".join(map(str, self.receiving))
            return f"waiting for series {names} of the study, still being received; at the latest until {until}"
        return f"waiting for the study to settle until {until}"
