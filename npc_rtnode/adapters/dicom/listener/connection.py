"""What the parts of one connection know of the whole: who calls, how far it has come, and how it ends.

Gate, meter, socket and wire ask it for what they need to know; `association` puts them together.
"""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Iterator
from typing import Any, Final

from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pynetdicom import AE
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE

from npc_rtnode.adapters.dicom.listener.access import unknown_caller
from npc_rtnode.adapters.dicom.listener.answers import said
from npc_rtnode.adapters.dicom.listener.door import Door
from npc_rtnode.adapters.dicom.listener.fast_store import StoreCommand
from npc_rtnode.adapters.dicom.tls import Shown
from npc_rtnode.domain.records import StoreRequest
from npc_rtnode.ports import Incoming
from npc_rtnode.settings import Peer

LAST_WORDS_S: Final = 12.0  # for a rejection or abort to be sent and the peer to hang up; pynetdicom's ARTIM has 10
STUMBLES: Final = (  # what pynetdicom raises over malformed PDUs (row 15); each ends the association
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RecursionError,
    TypeError,
    ValueError,
    EOFError,
    struct.error,
    BytesLengthException,
)


class Connection(Association):
    """One connection from the first byte to the last; fulfils door.Guest."""

    def __init__(self, ae: AE, door: Door, peer_ip: str) -> None:
        """Of a caller who has said nothing yet."""
        super().__init__(ae, MODE_ACCEPTOR)
        self.door = door
        self.peer_ip = peer_ip
        self.info = unknown_caller(peer_ip)
        self.name = f"AcceptorThread@{self.info.association_id}"  # pynetdicom finds its threads by that name
        self.shown: Shown | None = None  # of the certificate; None without TLS
        self.peer: Peer | None = None
        self.serving = False
        self.admitted = self.announced = self.connection_lost = self.condemned = self.idle = self.closed = False

    def announce(self, command: C_STORE | Dataset | StoreCommand, transfer_syntax_uid: str) -> Incoming:
        """Tell the sink which instance is about to come."""
        sop_class, sop_instance = said(command, "AffectedSOPClassUID"), said(command, "AffectedSOPInstanceUID")
        return self.door.begins(StoreRequest(self.info, sop_class, sop_instance, transfer_syntax_uid))

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """A request is being served: the time that the sink takes is not silence of the peer."""
        self.serving = True
        try:
            yield
        finally:
            self.dul._idle_timer.restart()
            self.serving = False

    def wake(self) -> None:
        """End the wait for an association request (`acse_timeout`) of a connection that is gone."""
        if not self.admitted:
            answers: Any = self.dul.to_user_queue  # of primitives, says its type, and None means 'timed out'
            answers.put(None)

    def abort(self, block: bool = True) -> None:
        """pynetdicom's reactor calls this, blocking, when `network_timeout` has run out between two messages."""
        self.idle = block and self.is_established
        super().abort(block)

    def kill(self) -> None:
        """The library's waits for its state machine to come to rest, without end: a request whose header came before
        `acse_timeout` and whose body came after it held thread and connection for good (rows 1, 4)."""
        self._reactor_checkpoint.set()
        self._kill = self._is_paused = True
        self.is_established = False
        words_are_due = self.requestor.primitive is not None  # an answer is on its way
        deadline = time.monotonic() + (LAST_WORDS_S if words_are_due else 0)
        while self.dul.is_alive() and not self.dul.stop_dul():
            if time.monotonic() > deadline:
                self.cut()
            time.sleep(0.01)

    def cut(self) -> None:
        """End the connection and let both threads go."""
        self._kill = True
        self.wake()
        self.dul.kill_dul()
        if self.dul.socket is not None:
            self.dul.socket._shutdown_socket()

    def see_off(self, seconds: float) -> None:
        """Wait for both of its threads to end, that long for each."""
        self.join(seconds)
        self.dul.join(seconds)

    def how_it_ended(self) -> str:
        """released, idle (we let go of a peer that was silent between messages), aborted (by either side) or lost."""
        if self.is_released:
            return "released"
        if self.idle and not self.condemned:
            return "idle"
        return "lost" if self.connection_lost and not self.condemned else "aborted"
