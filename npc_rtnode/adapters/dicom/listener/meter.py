"""The meter: messages fragment by fragment, counted and capped, a C-STORE's data set handed on as it comes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable
from typing import Any, Final, cast

from pydicom.dataset import Dataset
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import C_STORE_RQ, DIMSEMessage
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.presentation import PresentationContext

from npc_rtnode import log
from npc_rtnode.adapters.dicom.listener import fast_store
from npc_rtnode.adapters.dicom.listener.answers import command_fault
from npc_rtnode.adapters.dicom.listener.connection import STUMBLES, Connection
from npc_rtnode.adapters.dicom.listener.guarded_socket import LOOK_S, GuardedSocket
from npc_rtnode.ports import Incoming

logger = log.get(__name__)

_COMMAND_LIMIT: Final = 64 * 1024  # bytes of one command set (row 8)
_OTHER_LIMIT: Final = 4 << 20  # bytes of a data set that is no C-STORE's (a commitment of 30 000 instances)
_OUTSTANDING_LIMIT: Final = 2  # requests before their answer; no async window is ever negotiated (row 9)
_COMMAND, _LAST = 1, 2  # bits of a fragment's message control header, PS3.8 E.2


class Meter(DIMSEServiceProvider):
    """Message exchange that counts what it is given (rows 8, 9), survives what cannot be decoded (row 15), and hands
    the data set of a C-STORE on as it comes (row 26) where pynetdicom would collect it."""

    assoc: Connection
    _command_bytes = 0
    _object_bytes = 0
    _context_id: int | None = None  # of the message being received
    _message_id: int | None = None
    _storing = False  # it is a C-STORE request whose command is complete

    def __init__(self, assoc: Connection) -> None:
        super().__init__(assoc)
        self._at_once: fast_store.StoreCommand | None = None  # being received, and answered in the same thread
        self._ahead = 0  # requests on end whose sender had gone on before it was answered
        self._lock = threading.Lock()  # the association's thread ends what the DUL thread receives
        self._incoming: Incoming | None = None  # being received; None also where its command was at fault
        self._arrived: dict[int | None, Incoming] = {}  # received whole, by Message ID, not answered yet
        self._over = False

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Called in the DUL thread for every P-DATA PDU that went the library's way."""
        self.take(primitive.presentation_data_value_list)

    def take(self, parts: Iterable[tuple[int, bytes | memoryview]]) -> None:
        """The fragments of one PDU, in the DUL thread."""
        try:
            for context_id, data in parts:
                if not self.assoc.condemned:
                    self._receive(context_id, data)
        except STUMBLES as error:
            self._condemn(f"message not understood ({type(error).__name__})")

    def get_msg(self, block: bool = False) -> tuple[Any, Any]:
        """As the library's; instead of 'nothing' a thousand times a second it waits a little, or for `poke`."""
        try:
            return self.msg_queue.get(block=True, timeout=None if block else LOOK_S)
        except queue.Empty:
            return None, None

    def poke(self) -> None:
        """End a wait in `get_msg`: something else has happened."""
        self.msg_queue.put((None, None))

    def arrived(self, message_id: int | None) -> Incoming | None:
        """What was received whole under that Message ID; None where no data set came."""
        return self._arrived.pop(message_id, None)

    def discard(self) -> None:
        """Nothing more is received; what is not stored by now never will be (row 27)."""
        with self._lock:
            self._over = True
            for incoming in (self._incoming, *self._arrived.values()):
                if incoming:
                    incoming.discard()

    def _receive(self, context_id: int, data: bytes | memoryview) -> None:
        """One fragment (PS3.8 annex E)."""
        if self._goes_on(context_id, data):
            self._store(context_id, data)
            return
        if self.message is None:
            self._command_bytes = self._object_bytes = 0
            self._context_id, self._storing = context_id, False
        fault = self._fault(context_id, data)
        if fault:
            self._condemn(fault)
        elif self._storing:
            self._store(context_id, data)
        elif not self._begin_at_once(context_id, data):
            self._collect(context_id, bytes(data))

    def _goes_on(self, context_id: int, data: bytes | memoryview) -> bool:
        """Whether it is the next fragment of a data set that is stored in this thread, and within its cap: so nothing
        that `_fault` asks is wrong with it."""
        if self._at_once is None or context_id != self._context_id or not data or data[0] & _COMMAND:
            return False
        size = self._object_bytes + len(data) - 1
        if size > self.assoc.door.object_limit:
            return False
        self._object_bytes = size
        return True

    def _collect(self, context_id: int, data: bytes) -> None:
        """A fragment that pynetdicom may keep: of a command, of which a data set may follow."""
        fragment = P_DATA()
        fragment.presentation_data_value_list = [[context_id, data]]  # type: ignore[list-item]  # it wants lists
        super().receive_primitive(fragment)
        if isinstance(self.message, C_STORE_RQ) and data[0] & _COMMAND:
            self._begin(self.message.command_set, self.assoc._accepted_cx[context_id])

    def _begin_at_once(self, context_id: int, data: bytes | memoryview) -> bool:
        """Whether it is a C-STORE that can be answered in this thread: nothing odd in it, nothing waiting before it."""
        waiting = self.message is not None or self.assoc.serving or self._arrived or self.msg_queue.qsize()
        if waiting or data[0] != _COMMAND | _LAST or not self.assoc.door.settings.fast_store:
            return False
        command, context = fast_store.read_store_request(data[1:]), self.assoc._accepted_cx[context_id]
        if command is None or command_fault(command, context):
            return False
        self.message, self._at_once = DIMSEMessage(), command
        self.message.context_id = context_id
        self._begin(command, context)
        return True

    def _begin(self, command: Dataset | fast_store.StoreCommand, context: PresentationContext) -> None:
        self._storing, self._message_id = True, command.MessageID
        if self._message_id in self._arrived:
            self._condemn("two requests under one Message ID")
        elif not command_fault(command, context):
            with self._lock:
                self._incoming = None if self._over else self.assoc.announce(command, str(context.transfer_syntax[0]))

    def _store(self, context_id: int, data: bytes | memoryview) -> None:
        with self._lock:
            if self._incoming and not self._over:
                self._incoming.write(data[1:])
        if data[0] & _LAST:
            self._end(context_id)

    def _end(self, context_id: int) -> None:
        with self._lock:
            incoming, self._incoming = self._incoming, None
            if incoming and self._at_once is None:
                self._arrived[self._message_id] = incoming
        self._storing = False
        if self._at_once is None:
            self._collect(context_id, bytes([_LAST]))  # the library's turn, with nothing left to keep
            return
        command, self._at_once, self.message = self._at_once, None, None
        if incoming:
            self._answer_at_once(context_id, command, incoming)

    def _answer_at_once(self, context_id: int, command: fast_store.StoreCommand, incoming: Incoming) -> None:
        with self.assoc.at_work():
            answer = self.assoc.door.stored(incoming)
        connection = cast("GuardedSocket", self.dul.socket)
        self._ahead = self._ahead + 1 if connection.has_more() else 0
        if self._ahead > _OUTSTANDING_LIMIT:
            self._condemn("too many unanswered requests")
        else:
            connection.send(fast_store.store_response(context_id, command, *answer))

    def _fault(self, context_id: int, data: bytes | memoryview) -> str:
        if context_id not in self.assoc._accepted_cx or not data:
            return "a fragment outside any negotiated context"
        if context_id != self._context_id or bool(data[0] & _COMMAND) is self._command_is_complete():
            return "a fragment of another message before the last of this one"
        self._count(data[0], len(data) - 1)
        if self._command_bytes > _COMMAND_LIMIT:
            return f"a command set of more than {_COMMAND_LIMIT} bytes"
        if self._object_bytes > self._object_limit():
            return f"an object of more than {self._object_limit() >> 20} MB"
        return "too many unanswered requests" if self.msg_queue.qsize() > _OUTSTANDING_LIMIT else ""

    def _command_is_complete(self) -> bool:
        return self.message is not None and self.message.context_id is not None

    def _object_limit(self) -> int:
        """Only a C-STORE has a large data set; pynetdicom keeps any other one in memory."""
        return self.assoc.door.object_limit if self._storing else _OTHER_LIMIT

    def _count(self, control: int, size: int) -> None:
        if control & _COMMAND:
            self._command_bytes += size
        else:
            self._object_bytes += size

    def _condemn(self, fault: str) -> None:
        """Drop what was collected and have the state machine send an A-ABORT (event 19, PS3.8 table 9-10)."""
        logger.warning("association aborted", because=fault, peer_ip=self.assoc.peer_ip)
        self.assoc.condemned = True
        self.message = self._at_once = None
        self.dul.event_queue.put("Evt19")
