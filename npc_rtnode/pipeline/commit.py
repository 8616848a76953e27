"""Commit: tell who asked which of its instances are safe here: in the ledger, on the disk, with the digest recorded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from npc_rtnode import log
from npc_rtnode.domain import retry
from npc_rtnode.domain.commitment import Failure, report_on
from npc_rtnode.domain.records import CommitmentInHand, CommitmentRequest
from npc_rtnode.errors import NotFound, Unreadable
from npc_rtnode.pipeline.attempt import fault_barrier
from npc_rtnode.ports import Clock, CommitmentPages, Reporter, Spool

logger = log.get(__name__)

INSIST = retry.RetryPolicy(first_s=10, longest_s=3600, horizon_s=24 * 3600)
"""A requester that is away is told for a day."""


@dataclass(frozen=True)
class Requests:
    """Fulfils ports.CommitmentSink: what is asked for is kept, and answered by the worker."""

    pages: CommitmentPages
    clock: Clock
    enter: Callable[[], object] = lambda: None
    """Bring the ledger up to what was acknowledged before this moment; raises LedgerUnavailable."""

    def request(self, request: CommitmentRequest) -> None:
        """Durable before it returns."""
        self.enter()
        self.pages.request(request, self.clock())


@dataclass(frozen=True)
class Committer:
    """Answers requests for storage commitment, one at a time."""

    pages: CommitmentPages
    spool: Spool
    reporter: Reporter
    clock: Clock

    def run(self) -> bool:
        """Answer one; False when none is due."""
        commitment = self.pages.due(self.clock())
        if commitment is None:
            return False
        with fault_barrier(partial(self._failed, commitment)):
            self._answer(commitment)
        return True

    def _answer(self, commitment: CommitmentInHand) -> None:
        held = self.pages.held([sop_uid for _, sop_uid in commitment.wanted])
        report = report_on(commitment.wanted, held, self._whole)
        self.reporter.report(commitment.calling_ae, commitment.transaction_uid, report)
        self.pages.reported(commitment, report, self.clock())
        counts = {"committed": len(report.committed), "refused": len(report.refused)}
        logger.info("commitment reported", commitment=commitment.commitment_id, **counts)

    def _whole(self, sha256: str) -> Failure | None:
        try:
            self.spool.read(sha256)
        except NotFound:
            return Failure.NO_SUCH_INSTANCE
        except Unreadable:
            logger.error("an instance's bytes are damaged, it is not committed", sha256=sha256)
            return Failure.PROCESSING
        return None

    def _failed(self, commitment: CommitmentInHand, error: Exception) -> None:
        now = self.clock()
        decision = retry.decide(error, commitment.attempts, commitment.requested_at, now, INSIST)
        self.pages.failed(commitment, decision, now)
