"""The socket of one connection: a PDU, once begun, arrives in time and within its cap, or the connection ends."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import struct
import threading
import time
from typing import Final

from pynetdicom.transport import AssociationSocket

from npc_rtnode import log
from npc_rtnode.adapters.dicom.listener.connection import Connection
from npc_rtnode.adapters.dicom.listener.fast_store import P_DATA_TF

logger = log.get(__name__)

_ASSOCIATE_LIMIT: Final = 256 * 1024  # bytes of one A-ASSOCIATE PDU (row 6); 128 contexts take about 90 kB
_CONTROL_LIMIT: Final = 1024  # bytes of a release or abort PDU; they have 4
PDU_SLACK: Final = 4096  # bytes above the length we advertised (row 7)
_PDU_HEADER: Final = 6  # bytes: type, reserved, length
_PDU_TYPES: Final = range(1, 8)

PDU_GRACE_S: Final = 4.0  # a PDU, once begun, has this long …
PDU_BYTES_PER_S: Final = 16 * 1024  # … plus its size at this rate (rows 1, 2, 3, 5)
_SEND_TIMEOUT_S: Final = 10.0
LOOK_S: Final = 0.05  # threads that wait for something to happen look at their timers this often …
_SHORT_LOOK_S: Final = (
    0.001  # … and before and after an association, where the library waits for the socket to be still
)


class GuardedSocket(AssociationSocket):
    """A socket on which a PDU, once begun, must arrive in time and within its cap (pynetdicom #272, #979, #331)."""

    assoc: Connection

    def __init__(self, assoc: Connection, connection: socket.socket) -> None:
        super().__init__(assoc, client_socket=connection)
        self._deadline = 0.0  # monotonic seconds, of the PDU being read
        self._in_body = False
        self._unread = b""  # read already, and left to the library
        self._waking = threading.Lock()
        self._wakener = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        p_data_limit = assoc.door.settings.max_pdu_bytes + PDU_SLACK
        self._limits = {P_DATA_TF: p_data_limit, 5: _CONTROL_LIMIT, 6: _CONTROL_LIMIT, 7: _CONTROL_LIMIT}

    @property
    def ready(self) -> bool:
        """Whether something can be read, waited for a little or until `poke`. The library sleeps and asks `select`,
        which no descriptor above 1023 can be told (row 12: the listener then answered nobody)."""
        if self.socket is None or not self._is_connected:
            time.sleep(_SHORT_LOOK_S)
            return False
        return self.readable(LOOK_S if self.assoc.dul.state_machine.current_state == "Sta6" else _SHORT_LOOK_S)

    def readable(self, within_s: float = 0.0) -> bool:
        """Whether something can be read, at the latest then."""
        connection = self._connection()
        try:
            if _has_decrypted(connection):
                return True
            watch = select.poll()
            watch.register(connection, select.POLLIN)
            watch.register(self._wakener, select.POLLIN)
            heard = {handle for handle, _ in watch.poll(within_s * 1000)}
            if self._wakener in heard:
                os.eventfd_read(self._wakener)
            return connection.fileno() in heard
        except (OSError, ValueError):
            self.event_queue.put("Evt17")  # transport connection closed
            return False

    def poke(self) -> None:
        """End a wait in `ready`: there is something to send, or nothing more to wait for."""
        with self._waking:
            if self._wakener >= 0:
                os.eventfd_write(self._wakener, 1)

    def forget(self) -> None:
        """Nobody waits any more; its number may soon be another file's."""
        with self._waking:
            if self._wakener >= 0:
                os.close(self._wakener)
            self._wakener = -1

    def read_pdu(self, buffer: bytearray) -> tuple[int, memoryview] | None:
        """A whole PDU into `buffer`, its type and a view of its body; None where the peer closed before its end."""
        try:
            header = self._recv_header(_PDU_HEADER)
            if len(header) < _PDU_HEADER or not self._in_body:
                self._unread = bytes(header)  # nothing follows it: the library knows what to do
                return None
            self._in_body = False
            size = struct.unpack_from(">L", header, 2)[0]
            self._deadline += size / PDU_BYTES_PER_S
            body = memoryview(buffer if size <= len(buffer) else bytearray(size))[:size]
            got = self._read_into(body)
        except OSError as error:
            self._cut(error)
            raise
        if got < size:
            self._unread = bytes(header) + bytes(body[:got])
            return None
        return header[0], body

    def leave(self, kind: int, body: memoryview) -> None:
        """The PDU that was read is the library's after all."""
        self._unread = struct.pack(">BBL", kind, 0, len(body)) + bytes(body)

    def recv(self, nr_bytes: int) -> bytearray:
        """The bytes asked for, fewer only when the peer closed; OSError ends the connection.

        pynetdicom reads each PDU as 6 bytes of header, then its body, and only once the socket has something to read.
        """
        if self._unread:
            data, self._unread = bytearray(self._unread[:nr_bytes]), self._unread[nr_bytes:]
            return data
        try:
            return self._recv_body(nr_bytes) if self._in_body else self._recv_header(nr_bytes)
        except OSError as error:
            self._cut(error)
            raise

    def _cut(self, error: OSError) -> None:
        logger.warning("connection cut", because=str(error), peer_ip=self.assoc.peer_ip)
        self.assoc.wake()

    def _recv_header(self, size: int) -> bytearray:
        self._deadline = time.monotonic() + PDU_GRACE_S
        header = self._read(size)
        if len(header) == size:
            self._check_header(header)
        return header

    def _recv_body(self, size: int) -> bytearray:
        self._in_body = False
        self._deadline += size / PDU_BYTES_PER_S
        return self._read(size)

    def send(self, bytestream: bytes) -> None:
        """As the library's, but a peer that does not read holds this up for a bounded time only."""
        if self.socket is not None:
            self.socket.settimeout(_SEND_TIMEOUT_S)
            super().send(bytestream)

    def _read(self, size: int) -> bytearray:
        data = bytearray(size)
        with memoryview(data) as view:
            got = self._read_into(view)
        del data[got:]
        return data

    def _read_into(self, view: memoryview) -> int:
        connection, got = self._connection(), 0
        while got < len(view):
            connection.settimeout(max(self._deadline - time.monotonic(), 0.001))
            count = connection.recv_into(view[got:])
            if count == 0:
                self.assoc.wake()
                break
            got += count
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)  # Linux forgets it; set anew each time
        return got

    def _check_header(self, header: bytearray) -> None:
        kind, _, length = struct.unpack(">BBL", header)
        if kind not in _PDU_TYPES:
            return  # pynetdicom aborts and reads no body
        if length > self._limits.get(kind, _ASSOCIATE_LIMIT):
            raise OSError(f"a PDU of type {kind} announces {length} bytes")
        self._in_body = True

    def _connection(self) -> socket.socket:
        if self.socket is None:
            raise OSError("the connection is closed")
        return self.socket

    def _shutdown_socket(self) -> None:
        """The library's forgets to close when the peer was first."""
        connection = self.socket  # the DUL thread may be letting go of it at this very moment
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()


def _has_decrypted(connection: socket.socket) -> bool:
    return isinstance(connection, ssl.SSLSocket) and connection.pending() > 0
