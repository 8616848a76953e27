"""A caller that puts bytes on the wire as they are, and hears what is answered: no library between it and the node."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterable, Sequence
from typing import Final

from tests.builders import pdu
from tests.builders.pdu import CONTEXTS, Context

ACCEPTED, REJECTED, DATA, RELEASED, ABORTED = 2, 3, 4, 6, 7
GONE: Final = -1
"""Stands for a PDU type where the connection was closed instead."""


class RawPeer:
    """One connection."""

    def __init__(self, port: int, source: str = "127.0.0.1", patience_s: float = 20.0) -> None:
        """Connect from that address; nothing is waited for longer than `patience_s`."""
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=patience_s, source_address=(source, 0))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.body = b""

    def __enter__(self) -> RawPeer:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Hang up."""
        self.socket.close()

    def send(self, *data: bytes) -> RawPeer:
        """Put it on the wire; a node that has hung up is no fault here."""
        with contextlib.suppress(ConnectionError):
            for piece in data:
                self.socket.sendall(piece)
        return self

    def finish(self) -> None:
        """Nothing more comes from this side; what the node says can still be heard."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def hear(self) -> int:
        """The type of the next PDU, its body in `body`; GONE when the node hung up. TimeoutError when it is silent."""
        try:
            kind, _, length = struct.unpack(">BBL", self._exactly(6))
            self.body = self._exactly(length)
        except (ConnectionError, EOFError):
            return GONE
        return int(kind)

    def associate(
        self, contexts: Sequence[Context] = CONTEXTS, calling: bytes = b"PACS", called: bytes = b"NPC_RTNODE"
    ) -> int:
        """Ask for an association; the type of the answer."""
        return self.send(pdu.associate_rq(contexts, calling, called)).hear()

    def accepted(self) -> dict[int, int]:
        """After `associate`: result of each context (0 accepted, 4 transfer syntaxes not supported)."""
        found, at = {}, 68
        while at + 4 <= len(self.body):
            kind, _, length = struct.unpack_from(">BBH", self.body, at)
            if kind == 0x21:
                found[self.body[at + 4]] = self.body[at + 6]
            at += 4 + length
        return found

    def store(self, data: bytes, sop_uid: str, context: int = 1, **command: str | int) -> int | None:
        """C-STORE; the status, None when the association ended instead."""
        return self.answer(pdu.store(data, sop_uid, context, **command))

    def answer(self, pdus: Iterable[bytes]) -> int | None:
        """Send these; the status of the response, None when the association ended instead."""
        self.send(*pdus)
        return pdu.status_of(self.body) if self.hear() == DATA else None

    def echo(self) -> int | None:
        """C-ECHO; the status, None when the association ended instead."""
        return self.answer([pdu.echo()])

    def release(self) -> int:
        """Release; the type of the answer."""
        return self.send(pdu.RELEASE).hear()

    def heard_the_end(self) -> bool:
        """Whether the node ends it within our patience; what it says before is passed over."""
        try:
            while self.hear() not in (GONE, ABORTED):
                pass
        except TimeoutError:
            return False
        return True

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.socket.recv(size - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data
