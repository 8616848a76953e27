"""The thread of one connection that reads and writes (pynetdicom's DUL): its faults end that connection alone."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Any, cast

from pynetdicom.dul import DULServiceProvider
from pynetdicom.fsm import InvalidEventError

from npc_rtnode import log
from npc_rtnode.adapters.dicom.listener import fast_store
from npc_rtnode.adapters.dicom.listener.connection import STUMBLES, Connection
from npc_rtnode.adapters.dicom.listener.guarded_socket import LOOK_S, GuardedSocket
from npc_rtnode.adapters.dicom.listener.meter import Meter

logger = log.get(__name__)


class _Mailbox(queue.Queue[Any]):
    """What the state machine has for the association's thread, which is told at once."""

    def __init__(self, tell: Callable[[], object]) -> None:
        super().__init__()
        self._tell = tell

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """As the library's queue does."""
        super().put(item, block, timeout)
        self._tell()


class Wire(DULServiceProvider):
    """The thread that reads and writes, whose faults end the connection and not with a traceback (row 15)."""

    def __init__(self, assoc: Connection, meter: Meter) -> None:
        super().__init__(assoc)
        self._association, self._meter = assoc, meter
        self._run_loop_delay = 0  # the socket waits instead, and hears of everything that is to be done
        self.to_user_queue = _Mailbox(meter.poke)
        self.daemon = True  # or one stalled peer keeps the process from ending (row 1)

    def send_pdu(self, primitive: Any) -> None:
        """As the library's, and at once."""
        super().send_pdu(primitive)
        if isinstance(self.socket, GuardedSocket):
            self.socket.poke()

    def idle_timer_expired(self) -> bool:
        """As the library's, but never while one of the two threads has a request in hand."""
        return not self._association.serving and super().idle_timer_expired()

    def kill_dul(self) -> None:
        """As the library's, and at once."""
        super().kill_dul()
        if isinstance(self.socket, GuardedSocket):
            self.socket.poke()

    def _read_pdu_data(self) -> None:
        """In an association, P-DATA are taken apart in place; everything else, and what is odd, is the library's."""
        if self._association.door.settings.fast_store and self.state_machine.current_state == "Sta6":
            try:
                while self._take():
                    pass
            except OSError:
                self.event_queue.put("Evt17")  # transport connection closed
        else:
            super()._read_pdu_data()

    def _take(self) -> bool:
        """One PDU; whether the next one can be read, waited for a little, and nothing else is to be done before."""
        connection = cast("GuardedSocket", self.socket)
        body = connection.read_p_data()
        parts = None if body is None else fast_store.fragments(body)
        if parts is None:
            if body is not None:
                connection.leave(body)
            super()._read_pdu_data()
            return False
        self._meter.take(parts)
        self._idle_timer.restart()
        return self.event_queue.empty() and not self._kill_thread and connection.readable(LOOK_S)

    def run_reactor(self) -> None:
        """A state machine that is asked for the impossible (an answer to a peer who has gone on) raises."""
        try:
            super().run_reactor()
        except (InvalidEventError, OSError, *STUMBLES) as error:
            logger.warning("connection cut", because=type(error).__name__, peer_ip=self._association.peer_ip)
            self._association.cut()
