"""One association: a connection put together from its gate, its meter and its wire, and the requests it serves."""

from __future__ import annotations

from typing import Any

from pynetdicom import AE
from pynetdicom.acse import ACSE
from pynetdicom.dimse_primitives import C_ECHO, C_STORE, N_ACTION, DimseServiceType
from pynetdicom.pdu_primitives import A_P_ABORT
from pynetdicom.presentation import PresentationContextTuple

from npc_rtnode import log
from npc_rtnode.adapters.dicom.commitment import PUSH_MODEL
from npc_rtnode.adapters.dicom.listener.access import Refusal
from npc_rtnode.adapters.dicom.listener.answers import Answer, command_fault
from npc_rtnode.adapters.dicom.listener.connection import LAST_WORDS_S, STUMBLES, Connection
from npc_rtnode.adapters.dicom.listener.door import Door
from npc_rtnode.adapters.dicom.listener.guarded_socket import GuardedSocket
from npc_rtnode.adapters.dicom.listener.meter import Meter
from npc_rtnode.adapters.dicom.listener.offer import role_for
from npc_rtnode.adapters.dicom.listener.wire import Wire
from npc_rtnode.domain.records import AssociationInfo
from npc_rtnode.ports import Incoming

logger = log.get(__name__)


class AcceptedAssociation(Connection):
    """One connection: pynetdicom's association with a gate, a meter and an end that always comes."""

    dimse: Meter

    def __init__(self, ae: AE, door: Door, peer_ip: str) -> None:
        super().__init__(ae, door, peer_ip)
        self.acse = _Gate(self)
        self.dimse = Meter(self)
        self.dul = Wire(self, self.dimse)
        self.acse_timeout, self.network_timeout = ae.acse_timeout, ae.network_timeout  # setting them sets its timers

    def run_reactor(self) -> None:
        """From the first byte to the last; however it ends, the connection is closed and the slot is free."""
        try:
            super().run_reactor()
        finally:
            self.cut()
            self.closed = True
            self.dul.join(LAST_WORDS_S)  # it may be storing: that comes before the association's end
            if isinstance(self.dul.socket, GuardedSocket) and not self.dul.is_alive():
                self.dul.socket.forget()
            self.dimse.discard()
            self.door.ended(self)

    def arrived(self, request: C_STORE, context: PresentationContextTuple) -> Incoming:
        """The instance of that request; one without any byte where it came without a data set (row 19)."""
        return self.dimse.arrived(request.MessageID) or self.announce(request, str(context.transfer_syntax))

    def _serve_request(self, msg: DimseServiceType, context_id: int) -> None:
        """Only C-STORE, C-ECHO and N-ACTION, each in a context negotiated for it; everything else is an abort."""
        context = self._accepted_cx.get(context_id)
        if context is None or not _is_ours(msg, str(context.abstract_syntax)):
            self.abort(block=False)
            return
        fault = command_fault(msg, context) if isinstance(msg, C_STORE) else None
        with self.at_work():
            if fault:
                self._answer(msg.MessageID or 0, context_id, fault)
            else:
                super()._serve_request(msg, context_id)

    def _answer(self, message_id: int, context_id: int, answer: Answer) -> None:
        """A C-STORE-RSP of our own; the UIDs of a faulty command are not repeated."""
        logger.warning("command refused", because=answer.comment, peer_ip=self.peer_ip)
        response = C_STORE()
        response.MessageIDBeingRespondedTo = message_id
        response.Status = answer.status
        response.ErrorComment = answer.comment  # type: ignore[assignment]  # the library's None is a default, not a type
        self.dimse.send_msg(response, context_id)


class _Gate(ACSE):
    """Association control that asks the door first. A notification handler could not: pynetdicom swallows its errors
    and accepts (RadDeploy's whitelist, pipelines.md), so that a fault here must end in a refusal."""

    assoc: Connection

    def _negotiate_as_acceptor(self) -> None:
        try:
            refusal = self._judge()
            if refusal is None:
                self._offer_by_role()
                super()._negotiate_as_acceptor()
        except STUMBLES as error:
            logger.warning("association request not understood", because=type(error).__name__)
            self.assoc.abort(block=False)
            return
        if refusal:
            self.send_reject(refusal.result, refusal.source, refusal.diagnostic)
            self.assoc.kill()  # returns once the A-ASSOCIATE-RJ is on the wire and the connection closed
        elif self.assoc.is_established:
            self.assoc.door.opened(self.assoc)

    def _offer_by_role(self) -> None:
        """What its roles allow: storage, commitment; C-ECHO for everybody who was let in."""
        roles = self.assoc.peer.roles if self.assoc.peer else ()
        offered = self.acceptor.supported_contexts
        self.acceptor.supported_contexts = [c for c in offered if role_for(str(c.abstract_syntax)) in {"", *roles}]

    def _judge(self) -> Refusal | None:
        request = self.requestor.primitive
        if request is None:
            raise ValueError("no A-ASSOCIATE request")
        self.assoc.info = AssociationInfo(
            association_id=self.assoc.info.association_id,
            calling_ae=str(request.calling_ae_title).strip(" "),
            called_ae=str(request.called_ae_title).strip(" "),
            peer_ip=self.assoc.peer_ip,
        )
        return self.assoc.door.judge(self.assoc)


def _is_ours(msg: DimseServiceType, abstract_syntax: str) -> bool:
    if not isinstance(msg, (C_STORE, C_ECHO, N_ACTION)) or msg.MessageID is None:
        return False
    return isinstance(msg, N_ACTION) == (abstract_syntax == PUSH_MODEL)


def note_loss(event: Any) -> None:
    """An A-P-ABORT that we did not cause means that the connection is gone."""
    event.assoc.connection_lost |= isinstance(event.primitive, A_P_ABORT)
