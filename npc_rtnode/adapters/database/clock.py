"""One clock for all who share a ledger: the database server's, carried on by a monotonic one between two looks at it.

A host whose own clock is wrong, or is set, works and watches like the others. SQLite has one host, whose clock it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import text
from sqlalchemy.orm import Session

from npc_rtnode.adapters.database.engine import Sessions
from npc_rtnode.errors import LedgerUnavailable

LOOK_S: Final = 30.0
"""How long a look at the server's clock is good for; quartz drifts some microseconds in that time."""


class LedgerClock:
    """Fulfils ports.Clock; with the server away the last look goes on, without any the host's clock is all there is."""

    def __init__(self, sessions: Sessions, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._sessions = sessions
        self._monotonic = monotonic
        self._shared = sessions.engine.dialect.name == "postgresql"
        self._seen: tuple[float, datetime] | None = None
        self._look_again_s = float("-inf")

    def __call__(self) -> datetime:
        """Now, aware, UTC."""
        if self._shared and self._monotonic() >= self._look_again_s:
            self._look()
        if self._seen is None:
            return datetime.now(UTC)
        at_s, said = self._seen
        return said + timedelta(seconds=self._monotonic() - at_s)

    def _look(self) -> None:
        self._look_again_s = self._monotonic() + LOOK_S
        try:
            with self._sessions.reading() as session:
                asked_s = self._monotonic()
                said: datetime = session.scalar(text("SELECT clock_timestamp()"))
                self._seen = ((asked_s + self._monotonic()) / 2, said.astimezone(UTC))
        except LedgerUnavailable:
            return


def due(session: Session, now: datetime) -> datetime:
    """When work that is due at once is due, by the clock that claims go by: a node's own may be ahead of the server's.

    The server's is that of the transaction's beginning, so that whoever hears of the work never comes too early.
    """
    if session.get_bind().dialect.name != "postgresql":
        return now
    said: datetime = session.scalars(text("SELECT transaction_timestamp()")).one()
    return min(now, said.astimezone(UTC))
