"""Many processes and threads at one ledger: nothing twice, nothing lost, one chain, on SQLite and on PostgreSQL."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import func, select, update

from npc_rtnode.adapters.database.engine import Sessions, open_engine
from npc_rtnode.adapters.database.intake import IntakeLedger
from npc_rtnode.adapters.database.tables import DeliveryRow, EventRow, InstanceRow, JobRow, SeriesRow, StudyRow
from npc_rtnode.domain.lifecycle import JobState
from npc_rtnode.domain.records import Lease, StoreOutcome
from npc_rtnode.domain.retry import GiveUp
from npc_rtnode.errors import LeaseLost, LedgerUnavailable
from tests.builders.crowd import (
    EVENTS_EACH,
    MANY,
    Crowd,
    claim_deliveries,
    claim_jobs,
    receive_another,
    receive_other_bytes,
    receive_the_same,
    reject_callers,
)
from tests.builders.ledger import NOON, QUIET_S, Ledger


@pytest.fixture(scope="module")
def crowd() -> Iterator[Crowd]:
    """Three processes of four threads."""
    with Crowd() as processes:
        yield processes


def count(ledger: Ledger, table: type[Any]) -> int:
    """How many rows."""
    with ledger.sessions.reading() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def all_due_at_noon(ledger: Ledger) -> None:
    """Noon is what the crowd's clock shows."""
    with ledger.sessions.writing() as session:
        for table in (JobRow, DeliveryRow):
            session.execute(update(table).values(due_at=NOON))


def test_each_job_is_claimed_once(ledger: Ledger, database_url: str, crowd: Crowd) -> None:
    """Workers in several processes that claim at once share the queue without a double and without a rest."""
    jobs = [ledger.queued_job(series_uid=f"1.2.3{number}") for number in range(10)]
    all_due_at_noon(ledger)
    taken = [job for worker in crowd.do(claim_jobs, database_url) for job in worker]
    assert sorted(taken) == sorted(jobs)
    assert ledger.queries.chain_is_whole()


def test_each_delivery_is_claimed_once(ledger: Ledger, database_url: str, crowd: Crowd) -> None:
    """The same of what is owed to a destination."""
    for number in range(4):
        ledger.queued_job(series_uid=f"1.2.3{number}")
        ledger.predicted()
        job = ledger.in_hand(JobState.PREDICTED, "write")
        ledger.work.commit_result(job.lease, ledger.result(job), ledger.now)
    all_due_at_noon(ledger)
    taken = [delivery for worker in crowd.do(claim_deliveries, database_url) for delivery in worker]
    assert len(taken) == len(set(taken)) == 4


def test_the_same_instance_from_all_sides_is_stored_once(ledger: Ledger, database_url: str, crowd: Crowd) -> None:
    """One STORED, all others DUPLICATE; one row, one series, one study."""
    outcomes = Counter(crowd.do(receive_the_same, database_url))
    assert outcomes == {StoreOutcome.STORED: 1, StoreOutcome.DUPLICATE: MANY - 1}
    assert [count(ledger, table) for table in (InstanceRow, SeriesRow, StudyRow)] == [1, 1, 1]


def test_other_bytes_from_all_sides_are_a_conflict(ledger: Ledger, database_url: str, crowd: Crowd) -> None:
    """Of different contents under one UID the first is stored, every other one is a CONFLICT; none slips through."""
    outcomes = Counter(crowd.do(receive_other_bytes, database_url))
    assert outcomes == {StoreOutcome.STORED: 1, StoreOutcome.CONFLICT: MANY - 1}
    assert ledger.series_states() == ["QUARANTINED"]
    assert ledger.queries.chain_is_whole()


def test_a_new_series_from_all_sides_is_one_series(ledger: Ledger, database_url: str, crowd: Crowd) -> None:
    """First instances of one new study and series that come at once make one study, one series, and are all kept."""
    assert crowd.do(receive_another, database_url) == [StoreOutcome.STORED] * MANY
    assert [count(ledger, table) for table in (InstanceRow, SeriesRow, StudyRow)] == [MANY, 1, 1]
    assert ledger.queries.chain_is_whole()


def test_many_writers_keep_one_chain(ledger: Ledger, database_url: str, crowd: Crowd) -> None:
    """Processes with engines of their own, as receiver and worker have, write events without a fork in the chain."""
    assert sum(crowd.do(reject_callers, database_url)) == MANY * EVENTS_EACH
    assert ledger.queries.chain_is_whole()
    assert count(ledger, EventRow) == MANY * EVENTS_EACH


STALE: dict[str, Callable[[Ledger, Lease], object]] = {
    "predicted": lambda ledger, lease: ledger.work.predicted(lease, {"stage": "T4"}, ledger.now),
    "held": lambda ledger, lease: ledger.work.held(lease, (), {}, ledger.now),
    "failed": lambda ledger, lease: ledger.work.failed(lease, GiveUp("too late"), ledger.now),
    "replaced": lambda ledger, lease: ledger.work.replace(lease, "too late", ledger.now),
}


@pytest.mark.parametrize("late", STALE)
def test_a_stale_token_changes_nothing(ledger: Ledger, late: str) -> None:
    """Whatever a worker that overslept wants to record is refused, and no row and no event is other than before."""
    ledger.queued_job()
    asleep = ledger.in_hand(JobState.QUEUED, "infer").lease
    ledger.work.recover_all(ledger.now)
    ledger.in_hand(JobState.QUEUED, "infer")
    before = ledger.queries.study(ledger.study()), ledger.queries.history(ledger.study())
    with pytest.raises(LeaseLost):
        STALE[late](ledger, asleep)
    assert (ledger.queries.study(ledger.study()), ledger.queries.history(ledger.study())) == before


def test_more_callers_than_connections_are_told_to_come_again(
    ledger: Ledger, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the ledger held up and every connection waiting, the rest hear LedgerUnavailable too, and soon."""
    monkeypatch.setattr("npc_rtnode.adapters.database.engine.BUSY_TIMEOUT_S", 1)
    engine = open_engine(database_url)
    intake, said = IntakeLedger(Sessions(engine), "site-key", QUIET_S), []

    def call(number: int) -> None:
        try:
            intake.close_lost_associations(NOON)
        except LedgerUnavailable as error:
            said.append(error.code)

    callers = [threading.Thread(target=call, args=(number,)) for number in range(20)]
    with ledger.engine.begin():
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(10)
    assert said == ["LEDGER_UNAVAILABLE"] * 20
    engine.dispose()
