"""Deliver: one stored object to one destination, from a child that can be killed; failure never counts as sent."""

from __future__ import annotations

from dataclasses import dataclass

from npc_rtnode.domain.gates import may_send, may_show
from npc_rtnode.domain.records import DeliveryInHand, WrittenObject
from npc_rtnode.errors import Forbidden
from npc_rtnode.pipeline.attempt import Barrier
from npc_rtnode.ports import Sender, Spool, WorkPages
from npc_rtnode.settings import Destination


@dataclass(frozen=True)
class Deliverer:
    """Sends what is owed to one destination; each destination has a lane of its own."""

    pages: WorkPages
    outbox: Spool
    sender: Sender
    destination: Destination
    barrier: Barrier

    def run(self, only: int | None = None) -> bool:
        """Do one delivery, or that very one; False when there is none to begin."""
        barrier = self.barrier
        delivery = self.pages.claim_delivery(self.destination.name, barrier.clock(), barrier.lease_s, only)
        if delivery is None:
            return False
        with self.barrier.attempt(delivery.lease, delivery.study_reference):
            self._deliver(delivery)
        return True

    def _deliver(self, delivery: DeliveryInHand) -> None:
        if not may_send(delivery.synthetic, delivery.phantom, self.destination.test):
            raise Forbidden(f"a result of synthetic weights may not go to {self.destination.name}")
        if not may_show(delivery.enhanced_mr, self.destination.enhanced_mr):
            raise Forbidden(f"the source is Enhanced MR, which {self.destination.name} does not declare (enhanced_mr)")
        if delivery.constancy and not self.destination.test:
            raise Forbidden(f"a constancy result may not go to {self.destination.name}, which is no test system")
        encoded = self.outbox.read(delivery.sha256)
        item = WrittenObject(delivery.kind, delivery.sop_class_uid, delivery.sop_uid, encoded)
        self.pages.sent(delivery.lease, self.sender.send(item, self.destination))
