"""The socket of one connection: a PDU, once begun, arrives in time and within its cap, or the connection ends.

It never blocks in reading: what is there is read at once and as much as there is, and only where nothing is does it
wait. Each call into the system lets another association have the interpreter; there were thirty an instance.
"""

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
_NOTHING_NOW: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
LOOK_S: Final = 0.05  # threads that wait for something to happen look at their timers this often …
_SHORT_LOOK_S: Final = (
    0.001  # … and before and after an association, where the library waits for the socket to be still
)


class _Stock:
    """What was read and nobody has taken yet, in one buffer that is used again and again."""

    def __init__(self, capacity: int) -> None:
        """`capacity` in bytes: as much is looked at together at most."""
        self._bytes = memoryview(bytearray(capacity))
        self._begin = self._end = 0

    def __len__(self) -> int:
        return self._end - self._begin

    def room(self, size: int) -> memoryview:
        """Where more can be read to, all of it if the first `size` bytes are to be looked at together."""
        if self._begin + size > len(self._bytes) or not self:
            self._bytes[: len(self)] = self._bytes[self._begin : self._end]
            self._begin, self._end = 0, len(self)
        return self._bytes[self._end :]

    def add(self, count: int) -> None:
        """So many bytes were read there."""
        self._end += count

    def head(self, size: int) -> memoryview:
        """The first bytes, good until more are read."""
        return self._bytes[self._begin : min(self._begin + size, self._end)]

    def take(self, size: int) -> memoryview:
        """The first bytes, which are gone then; good until more are read."""
        taken = self.head(size)
        self._begin += len(taken)
        return taken

    def put_back(self, size: int) -> None:
        """As many as were taken last."""
        self._begin -= size


class GuardedSocket(AssociationSocket):
    """A socket on which a PDU, once begun, must arrive in time and within its cap (pynetdicom #272, #979, #331)."""

    assoc: Connection

    def __init__(self, assoc: Connection, connection: socket.socket) -> None:
        super().__init__(assoc, client_socket=connection)
        self._deadline = 0.0  # monotonic seconds, of the PDU being read
        self._in_body = False
        self._waking = threading.Lock()
        self._wakener = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        p_data_limit = assoc.door.settings.max_pdu_bytes + PDU_SLACK
        self._stock = _Stock(_PDU_HEADER + p_data_limit)
        self._limits = {P_DATA_TF: p_data_limit, 5: _CONTROL_LIMIT, 6: _CONTROL_LIMIT, 7: _CONTROL_LIMIT}

    @property
    def ready(self) -> bool:
        """Whether something can be read, waited for a little or until `poke`. The library sleeps and asks `select`,
        which no descriptor above 1023 can be told (row 12: the listener then answered nobody)."""
        if self.socket is None or not self._is_connected:
            time.sleep(_SHORT_LOOK_S)
            return False
        return self.readable(LOOK_S if self.assoc.dul.state_machine.current_state == "Sta6" else _SHORT_LOOK_S)

    def readable(self, within_s: float) -> bool:
        """Whether something can be read, at the latest then."""
        try:
            return bool(self._stock) or self._draw() or (self._hears(within_s) and self._draw())
        except (OSError, ValueError):
            self.assoc.wake()
            self.event_queue.put("Evt17")  # transport connection closed
            return False

    def has_more(self) -> bool:
        """Whether the peer has sent more already. Nothing is read: what was read last may still be in use."""
        connection = self._connection()
        if self._stock or (isinstance(connection, ssl.SSLSocket) and connection.pending()):
            return True
        watch = select.poll()
        watch.register(connection, select.POLLIN)
        return bool(watch.poll(0))

    def _draw(self) -> bool:
        """Whether something was read, or the end was: whoever reads next will find it."""
        try:
            count = _read_at_once(self._connection(), self._stock.room(_PDU_HEADER))
        except _NOTHING_NOW:
            return False
        self._stock.add(count)
        return True

    def _hears(self, within_s: float) -> bool:
        connection = self._connection()
        watch = select.poll()
        watch.register(connection, select.POLLIN)
        watch.register(self._wakener, select.POLLIN)
        heard = {handle for handle, _ in watch.poll(within_s * 1000)}
        if self._wakener in heard:
            os.eventfd_read(self._wakener)
        return connection.fileno() in heard

    def poke(self) -> None:
        """End a wait in `ready`: there is something to send, or nothing more to wait for."""
        with self._waking:
            if self._wakener >= 0:
                os.eventfd_write(self._wakener, 1)

    def forget(self) -> None:
        """Nobody reads, writes or waits any more; its numbers may soon be other files'."""
        self._shutdown_socket()
        with self._waking:
            if self._wakener >= 0:
                os.close(self._wakener)
            self._wakener = -1

    def read_p_data(self) -> memoryview | None:
        """The body of a whole P-DATA-TF, good until more is read. None where something else came, or not all of it
        before the peer closed: it is the library's, which reads it anew."""
        self._deadline = time.monotonic() + PDU_GRACE_S
        try:
            if not self._have(_PDU_HEADER):
                return None
            kind, size = self._checked(self._stock.head(_PDU_HEADER))
            self._deadline += size / PDU_BYTES_PER_S
            if kind != P_DATA_TF or not self._have(_PDU_HEADER + size):
                return None
        except OSError as error:
            self._cut(error)
            raise
        return self._stock.take(_PDU_HEADER + size)[_PDU_HEADER:]

    def leave(self, body: memoryview) -> None:
        """What `read_p_data` gave is the library's after all."""
        self._stock.put_back(_PDU_HEADER + len(body))

    def recv(self, nr_bytes: int) -> bytearray:
        """The bytes asked for, fewer only when the peer closed; OSError ends the connection.

        pynetdicom reads each PDU as 6 bytes of header, then its body, and only once the socket has something to read.
        """
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
            kind, _ = self._checked(header)
            self._in_body = kind in _PDU_TYPES  # pynetdicom aborts at any other, and reads no body
        return header

    def _recv_body(self, size: int) -> bytearray:
        self._in_body = False
        self._deadline += size / PDU_BYTES_PER_S
        return self._read(size)

    def send(self, bytestream: bytes) -> None:
        """As the library's, but a peer that does not read holds this up for a bounded time only."""
        if self.socket is not None and (sent := _sent_at_once(self.socket, bytestream)) < len(bytestream):
            self.socket.settimeout(_SEND_TIMEOUT_S)
            super().send(bytestream[sent:])

    def _read(self, size: int) -> bytearray:
        data = bytearray(self._stock.take(size))
        got = len(data)
        data.extend(bytes(size - got))
        with memoryview(data) as view:
            while got < size and (count := self._receive(view[got:])):
                got += count
        del data[got:]
        return data

    def _have(self, size: int) -> bool:
        """Whether the stock has so many bytes; not if the peer closed before."""
        while len(self._stock) < size:
            count = self._receive(self._stock.room(size))
            if count == 0:
                return False
            self._stock.add(count)
        return True

    def _receive(self, view: memoryview) -> int:
        """As many bytes as there are now, waited for until the deadline; none when the peer has closed."""
        connection = self._connection()
        while (count := self._received(connection, view)) is None:
            pass
        if count == 0:
            self.assoc.wake()
        return count

    def _received(self, connection: socket.socket, view: memoryview) -> int | None:
        """As many bytes as there are; None after waiting for some."""
        try:
            return _read_at_once(connection, view)
        except ssl.SSLWantWriteError:
            self._wait(connection, select.POLLOUT)
        except _NOTHING_NOW:
            self._wait(connection, select.POLLIN)
        return None

    def _wait(self, connection: socket.socket, what: int) -> None:
        if connection.fileno() < 0:
            raise OSError("the connection is closed")
        watch = select.poll()
        watch.register(connection, what)
        if not watch.poll(max(self._deadline - time.monotonic(), 0.001) * 1000):
            raise TimeoutError("timed out")

    def _checked(self, header: bytes | bytearray | memoryview) -> tuple[int, int]:
        """Type and length of a PDU (PS3.8 9.3.1); OSError when it announces more than it may."""
        kind, _, length = struct.unpack(">BBL", header)
        if kind in _PDU_TYPES and length > self._limits.get(kind, _ASSOCIATE_LIMIT):
            raise OSError(f"a PDU of type {kind} announces {length} bytes")
        return kind, length

    def _connection(self) -> socket.socket:
        if self.socket is None:
            raise OSError("the connection is closed")
        return self.socket

    def _shutdown_socket(self) -> None:
        """The end of the connection, which whoever reads or writes hears at once; only they close it. A TLS socket that
        is shut down or closed under them would go on with what is on the wire, as it is, and the number of its
        descriptor would be another connection's."""
        connection = self.socket  # the DUL thread may be letting go of it at this very moment
        if connection is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
            if not self.assoc.dul.is_alive() or self.assoc.dul is threading.current_thread():
                connection.close()


def _not_waiting(connection: socket.socket) -> socket.socket:
    if connection.gettimeout() != 0:
        connection.settimeout(0)
    return connection


def _read_at_once(connection: socket.socket, view: memoryview) -> int:
    """How many bytes were there; 0 at the end, one of _NOTHING_NOW where there were none."""
    count = _not_waiting(connection).recv_into(view)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)  # Linux forgets it; set anew each time
    return count


def _sent_at_once(connection: socket.socket, data: bytes) -> int:
    """How many bytes of it went without waiting; what else there is to say the next try will hear."""
    try:
        return _not_waiting(connection).send(data)
    except OSError:
        return 0
