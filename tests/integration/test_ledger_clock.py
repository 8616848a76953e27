"""The clock of all who share a ledger: the server's, whatever a host's own clock says."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from npc_rtnode.adapters.database import clock as room
from npc_rtnode.adapters.database.clock import LOOK_S, LedgerClock
from npc_rtnode.errors import LedgerUnavailable
from tests.builders.ledger import Ledger


class Stopped(datetime):
    """A host whose own clock stands in another century."""

    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        """Wrong."""
        return datetime(1999, 1, 1, tzinfo=UTC)


def test_a_wrong_clock_is_not_asked(ledger: Ledger, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On PostgreSQL the server says what time it is; on SQLite there is one host, and its clock is all there is."""
    monkeypatch.setattr(room, "datetime", Stopped)
    off = abs(LedgerClock(ledger.sessions)() - datetime.now(UTC))
    assert (off < timedelta(minutes=1)) is (backend == "postgresql")


def test_between_looks_and_without_a_server_time_goes_on(
    ledger: Ledger, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the monotonic clock, to the second, also when the server cannot be asked again."""
    if backend != "postgresql":  # SQLite has no clock of its own: it is the host's
        assert abs(LedgerClock(ledger.sessions)() - datetime.now(UTC)) < timedelta(minutes=1)
        return
    seconds = [100.0]
    clock = LedgerClock(ledger.sessions, lambda: seconds[0])
    first = clock()
    seconds[0] += LOOK_S - 1
    assert clock() - first == timedelta(seconds=LOOK_S - 1)
    monkeypatch.setattr(ledger.sessions, "reading", _away)
    seconds[0] += 3600
    assert clock() - first == timedelta(seconds=3600 + LOOK_S - 1)


@contextmanager
def _away() -> Any:
    raise LedgerUnavailable("the test says so")
    yield
