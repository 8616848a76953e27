"""Destinations that misbehave: a real SCP on the wire, bent in one place, and raw sockets for what no SCP would do."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pynetdicom import evt

from npc_rtnode.adapters.dicom.simulator import StoringSCP


@dataclass
class Faults:
    """What a FaultySCP does wrong; every field alone, units in the names."""

    statuses: list[int] = field(default_factory=list)  # answered first, one an object; then Success
    stall_s: float = 0.0  # before the answer
    stall_after: int = 0  # … but only once this many objects are stored
    hang_up: bool = False  # A-ABORT instead of an answer
    cut: bool = False  # close the connection instead of an answer
    wrong_message_id: bool = False
    wrong_sop_uid: bool = False
    reject: tuple[int, int, int] | None = None  # A-ASSOCIATE-RJ: result, source, diagnostic


class FaultySCP(StoringSCP):
    """A StoringSCP with faults; `received` holds what was stored, faulty or not."""

    def __init__(self, folder: Path, faults: Faults, **wishes: Any) -> None:
        super().__init__("FAULTY", folder, **wishes)
        self.faults = faults
        self._released = threading.Event()

    def stop(self) -> None:
        """Let stalled handlers go, then stop."""
        self._released.set()
        super().stop()

    def handlers(self) -> list[Any]:
        """The plain ones, and those that bend the answer or the association."""
        return [*super().handlers(), (evt.EVT_DIMSE_SENT, self.on_answer), (evt.EVT_REQUESTED, self.on_request)]

    def on_request(self, event: Any) -> None:
        """Refuse the association."""
        if self.faults.reject:
            event.assoc.acse.send_reject(*self.faults.reject)
            event.assoc.kill()

    def on_store(self, event: Any) -> int:
        """Store, unless a fault says otherwise."""
        if self.faults.statuses:
            return self.faults.statuses.pop(0)
        if len(self.received) >= self.faults.stall_after:
            self._released.wait(self.faults.stall_s)
        if self.faults.hang_up:
            event.assoc.abort()
        if self.faults.cut:
            event.assoc.dul.socket.socket.shutdown(socket.SHUT_RDWR)
        return super().on_store(event)

    def on_answer(self, event: Any) -> None:
        """Bend the command set of the response before it is encoded."""
        command = event.message.command_set
        if self.faults.wrong_message_id:
            command.MessageIDBeingRespondedTo += 1
        if self.faults.wrong_sop_uid and "AffectedSOPInstanceUID" in command:
            command.AffectedSOPInstanceUID = "1.2.3.4.5"


@contextlib.contextmanager
def raw_peer(behave: Callable[[socket.socket], None]) -> Iterator[int]:
    """A TCP server that hands each connection to `behave`; yields its port."""
    listening = socket.create_server(("127.0.0.1", 0))
    listening.settimeout(0.1)
    over = threading.Event()

    def serve() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError), listening.accept()[0] as connection:
                connection.settimeout(5)
                behave(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield int(listening.getsockname()[1])
    finally:
        over.set()
        thread.join(10)
        listening.close()


def silent(connection: socket.socket) -> None:
    """Take everything, say nothing, until the other side closes."""
    while connection.recv(65536):
        pass


def dripping(connection: socket.socket) -> None:
    """Answer the association request one byte every fifth of a second, for ever."""
    connection.recv(65536)
    for byte in b"\x02\x00\x00\x00\x10\x00" + bytes(4096):
        connection.sendall(bytes([byte]))
        time.sleep(0.2)
