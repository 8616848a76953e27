"""Many at one ledger at once: processes with threads in each, let go together, on engines of their own.

    with Crowd() as crowd:
        crowd.do(claim_jobs, url)      # what each of 3 x 4 got, in any order

Deeds are plain functions of this module, so that a spawned process finds them.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing.synchronize import Barrier
from types import TracebackType
from typing import TypeVar

from npc_rtnode.adapters.database.engine import Sessions, open_engine
from npc_rtnode.adapters.database.intake import IntakeLedger
from npc_rtnode.adapters.database.journal import Note, tell
from npc_rtnode.adapters.database.work import WorkLedger
from npc_rtnode.domain.identifiers import digest_of
from npc_rtnode.domain.lifecycle import JobState
from npc_rtnode.domain.records import Arrival, AssociationInfo, InstanceIdentity, ReceivedInstance, StoreOutcome
from tests.builders.ledger import MR, NOON, QUIET_S

PROCESSES, THREADS = 3, 4
MANY = PROCESSES * THREADS
EVENTS_EACH = 10
T = TypeVar("T")
Deed = Callable[[Sessions, int], T]

_start: Barrier | None = None


class Crowd:
    """Processes that stay, because starting them takes longer than what they do."""

    def __init__(self) -> None:
        """Spawned, so that none inherits another's connections."""
        context = multiprocessing.get_context("spawn")
        barrier = context.Barrier(PROCESSES)
        self._pool = ProcessPoolExecutor(PROCESSES, context, initializer=_remember, initargs=(barrier,))

    def __enter__(self) -> Crowd:
        """The processes come with the first deed."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """They end."""
        self._pool.shutdown()

    def do(self, deed: Deed[T], url: str) -> list[T]:
        """What every one of them came home with; whatever one of them raised is raised here."""
        teams = self._pool.map(partial(_team, deed, url), range(PROCESSES))
        return [result for team in teams for result in team]


def _remember(barrier: Barrier) -> None:
    global _start
    _start = barrier


def _team(deed: Deed[T], url: str, process: int) -> list[T]:
    assert _start is not None
    engine = open_engine(url)
    sessions = Sessions(engine)
    _start.wait(60)
    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(partial(deed, sessions), range(process * THREADS, (process + 1) * THREADS)))
    engine.dispose()
    return results


# --- deeds ------------------------------------------------------------------------------------------------------------


def claim_jobs(sessions: Sessions, _number: int) -> list[int]:
    """The ids of all the jobs that one worker got."""
    work, taken = WorkLedger(sessions), []
    while job := work.claim_job(JobState.QUEUED, "infer", NOON, 60):
        taken.append(job.lease.subject_id)
    return taken


def claim_deliveries(sessions: Sessions, _number: int) -> list[int]:
    """The ids of all the deliveries to the TPS that one worker got."""
    work, taken = WorkLedger(sessions), []
    while delivery := work.claim_delivery("tps", NOON, 60):
        taken.append(delivery.lease.subject_id)
    return taken


def receive(sessions: Sessions, number: int, sop_uid: str, content: str) -> StoreOutcome:
    """One instance of series 1.2.3, on an association of one's own that nobody has announced."""
    association = AssociationInfo(f"crowd-{number}", "PACS", "NPC_RTNODE", "127.0.0.1")
    received = ReceivedInstance(association, MR, sop_uid, "1.2.840.10008.1.2.1", b"")
    identity = InstanceIdentity(MR, sop_uid, "1.2", "1.2.3", "MR")
    intake = IntakeLedger(sessions, "site-key", QUIET_S)
    return intake.record(Arrival(identity, received, digest_of([sop_uid, content]), 100), NOON)


def receive_the_same(sessions: Sessions, number: int) -> StoreOutcome:
    """All send one instance with the same bytes."""
    return receive(sessions, number, "1.2.3.1", "the same")


def receive_other_bytes(sessions: Sessions, number: int) -> StoreOutcome:
    """All send one instance, each with bytes of its own."""
    return receive(sessions, number, "1.2.3.1", f"content {number}")


def receive_another(sessions: Sessions, number: int) -> StoreOutcome:
    """Each sends an instance of its own, all of one series that nobody knows yet."""
    return receive(sessions, number, f"1.2.3.{number + 1}", "")


def reject_callers(sessions: Sessions, number: int) -> int:
    """Ten events from each."""
    for turn in range(EVENTS_EACH):
        with sessions.writing() as session:
            tell(session, "association", f"r-{number}-{turn}", "REJECTED", Note(NOON))
    return EVENTS_EACH
