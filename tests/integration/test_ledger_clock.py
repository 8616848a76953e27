"""The clock of all who share a ledger: the server's, whatever a host's own clock says."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select

from npc_rtnode.adapters.database import clock as room
from npc_rtnode.adapters.database.clock import LOOK_S, LedgerClock
from npc_rtnode.adapters.database.tables import JobRow
from npc_rtnode.domain.lifecycle import JobState
from npc_rtnode.domain.retry import GiveUp
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


@pytest.mark.parametrize("backend", [pytest.param("postgresql", marks=pytest.mark.postgres)])
def test_a_node_whose_clock_is_ahead_delays_nothing(ledger: Ledger) -> None:
    """What it orders, owes and begins anew is due at once by the server's clock, by which all claim."""
    clock = LedgerClock(ledger.sessions)
    ledger.now = datetime.now(UTC) + timedelta(hours=1)
    ledger.queued_job()
    job = ledger.work.claim_job(JobState.QUEUED, "infer", clock(), 60)
    assert job is not None
    ledger.work.failed(job.lease, GiveUp("the test says so"), clock())
    ledger.desk.retry(ledger.study(), ledger.word())
    again = ledger.work.claim_job(JobState.QUEUED, "infer", clock(), 60)
    assert again is not None
    ledger.work.predicted(again.lease, {}, clock())
    ledger.work.commit_result(ledger.in_hand(JobState.PREDICTED, "write").lease, ledger.result(again), ledger.now)
    assert ledger.work.claim_delivery("tps", clock(), 60) is not None
    with ledger.sessions.reading() as session:
        assert all(row.rank_at <= row.first_due_at <= clock() for row in session.scalars(select(JobRow)))


@contextmanager
def _away() -> Any:
    raise LedgerUnavailable("the test says so")
    yield
