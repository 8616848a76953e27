"""The one fault barrier: whatever goes wrong in a stage becomes a value in the ledger, and the node goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from npc_rtnode import log
from npc_rtnode.domain import retry
from npc_rtnode.domain.records import Lease
from npc_rtnode.errors import LeaseLost, LedgerUnavailable
from npc_rtnode.ports import Clock, WorkPages

logger = log.get(__name__)


@contextmanager
def fault_barrier(record: Callable[[Exception], object]) -> Iterator[None]:
    """Hand any failure to `record`. A lost lease or a ledger that is away is not recorded: the work is found again."""
    try:
        with contained(record):
            yield
    except (LeaseLost, LedgerUnavailable) as error:
        logger.warning("abandoned for now", because=retry.code_of(error))


@contextmanager
def contained(record: Callable[[Exception], object]) -> Iterator[None]:
    """The barrier around a part of the work: with the ledger away or the lease lost the whole is abandoned."""
    try:
        yield
    except (LeaseLost, LedgerUnavailable):
        raise
    except Exception as error:  # noqa: BLE001 - the pipeline's only broad except: no input may end a lane or block its neighbours
        logger.warning("failed", because=retry.code_of(error), where=log.where(error))
        with _unrecorded():
            record(error)


@contextmanager
def _unrecorded() -> Iterator[None]:
    try:
        yield
    except (LeaseLost, LedgerUnavailable) as error:
        logger.warning("failure not recorded", because=retry.code_of(error))


@dataclass(frozen=True)
class Barrier:
    """The barrier around leased work: where failures go and how patiently they are retried."""

    pages: WorkPages
    policy: retry.RetryPolicy
    clock: Clock
    in_hand: dict[str, str] = field(default_factory=dict)  # lease tokens of attempts under way here, with their stages
    lease_s: float = 45.0  # a lease unrenewed for so long is forsaken
    cause: Callable[[Exception], Exception] = lambda error: error  # what lies behind a failure, as the role knows it

    @contextmanager
    def attempt(self, lease: Lease, study: str) -> Iterator[None]:
        """Run one attempt; its failure is recorded as a postponement or as the end."""
        say = logger.bind(
            study=study, stage=lease.stage, subject=f"{lease.subject} {lease.subject_id}", attempt=lease.attempts
        )
        say.info("attempt begun")
        self.in_hand[lease.token] = lease.stage
        try:
            with fault_barrier(lambda error: self._record(lease, error)):
                yield
                say.info("attempt done")
        finally:  # also when the failure itself could not be recorded: or the work is never found again
            self.in_hand.pop(lease.token, None)

    def _record(self, lease: Lease, error: Exception) -> None:
        now = self.clock()
        decision = retry.decide(self.cause(error), lease.attempts, lease.first_due_at, now, self.policy, lease.token)
        self.pages.failed(lease, decision, now)
