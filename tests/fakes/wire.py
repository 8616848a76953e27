"""A wire that misbehaves between the node and a real SCP: PDU by PDU (PS3.8 9.3), each behaviour a few lines.

    wire = Wire(scp_port, dripping_answer)   # the node sends to wire.port
    wire.behave = well                       # from the next association on

What reaches the SCP is what the node sent; what comes back is the SCP's own answer, late, cut, or not at all.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

DRIP_S = 1.0
"""Between two bytes of an answer that drips."""
_P_DATA = 4
_ABORT = struct.pack(">BBLBBBB", 7, 0, 4, 0, 0, 2, 0)  # A-ABORT by the service provider, no reason (PS3.8 9.3.8)


class Line:
    """One connection of the node, and ours to the SCP behind."""

    def __init__(self, node: socket.socket, scp: socket.socket) -> None:
        self.node = node
        self.scp = scp

    def request(self) -> bytes:
        """The next PDU of the node, passed on."""
        pdu = read_pdu(self.node)
        self.scp.sendall(pdu)
        return pdu

    def answer(self) -> bytes:
        """The next PDU of the SCP, not yet passed back."""
        return read_pdu(self.scp)

    def associate(self) -> None:
        """A-ASSOCIATE, as it should be."""
        self.request()
        self.node.sendall(self.answer())

    def take_object(self) -> None:
        """All of one C-STORE request, passed on."""
        while not ends_the_data_set(self.request()):
            pass

    def drip(self, data: bytes) -> None:
        """One byte, a pause, one byte."""
        for value in data:
            self.node.sendall(bytes([value]))
            time.sleep(DRIP_S)

    def silence(self) -> None:
        """Read, say nothing, until the node has gone."""
        while self.node.recv(65536):
            pass

    def reset(self) -> None:
        """Close with a TCP reset."""
        self.node.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.node.close()


def read_pdu(connection: socket.socket) -> bytes:
    """One whole PDU; ConnectionError when it ends before."""
    header = _exactly(connection, 6)
    return header + _exactly(connection, struct.unpack(">L", header[2:])[0])


def ends_the_data_set(pdu: bytes) -> bool:
    """Whether this P-DATA-TF has the last fragment of a data set (PS3.8 9.3.5.1, E.2)."""
    if pdu[0] != _P_DATA:
        raise ConnectionError(f"a PDU of type {pdu[0]} in the middle of an object")
    at = 6
    while at < len(pdu):
        (length,) = struct.unpack_from(">L", pdu, at)
        if pdu[at + 5] & 0b11 == 0b10:
            return True
        at += 4 + length
    return False


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise ConnectionError("the connection ended in the middle of a PDU")
        data += piece
    return data


# --- behaviours -------------------------------------------------------------------------------------------------------

Behaviour = Callable[[Line], None]


def well(line: Line) -> None:
    """Everything as it should be, to the release."""
    line.associate()
    line.take_object()
    line.node.sendall(line.answer())
    line.request()
    line.node.sendall(line.answer())


def mute(line: Line) -> None:
    """The connection is accepted, and nothing is ever said."""
    line.silence()


def dripping_association(line: Line) -> None:
    """The answer to the association request comes byte by byte."""
    line.request()
    line.drip(line.answer())


def unanswered(line: Line) -> None:
    """The object is taken and stored, and never answered."""
    line.associate()
    line.take_object()
    line.answer()
    line.silence()


def not_reading(line: Line) -> None:
    """After the association nothing is read any more."""
    line.node.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    line.associate()
    time.sleep(12)


def dripping_answer(line: Line) -> None:
    """The object is stored, its answer comes byte by byte."""
    line.associate()
    line.take_object()
    line.drip(line.answer())


def half_an_answer_then_silence(line: Line) -> None:
    """Half of the response PDU, and no more."""
    line.associate()
    line.take_object()
    answer = line.answer()
    line.node.sendall(answer[: len(answer) // 2])
    line.silence()


def half_an_answer_then_gone(line: Line) -> None:
    """Half of the response PDU, then the connection is closed."""
    line.associate()
    line.take_object()
    answer = line.answer()
    line.node.sendall(answer[: len(answer) // 2])


def gone_in_the_object(line: Line) -> None:
    """The connection is closed after the first part of the object."""
    line.associate()
    line.request()


def reset_in_the_object(line: Line) -> None:
    """The same, by a TCP reset."""
    line.associate()
    line.request()
    line.reset()


def aborting(line: Line) -> None:
    """A-ABORT in place of the answer, though the object is stored."""
    line.associate()
    line.take_object()
    line.answer()
    line.node.sendall(_ABORT)


# --- the wire ---------------------------------------------------------------------------------------------------------


class Wire:
    """Listens for the node on `port`, and behaves towards each connection as `behave` says at that time."""

    def __init__(self, scp_port: int, behave: Behaviour = well) -> None:
        self.behave = behave
        self.calls = 0
        """Connections so far."""
        self._scp_port = scp_port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.settimeout(0.1)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="wire", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where the node finds the TPS."""
        return int(self._listening.getsockname()[1])

    def close(self) -> None:
        """No more."""
        self._over.set()
        self._thread.join(30)
        self._listening.close()

    def _serve(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(TimeoutError):
                node = self._listening.accept()[0]
                self.calls += 1
                threading.Thread(target=self._carry, args=(node, self.behave), daemon=True).start()

    def _carry(self, node: socket.socket, behave: Behaviour) -> None:
        with node, self._to_scp() as scp, contextlib.suppress(OSError):
            node.settimeout(20)
            behave(Line(node, scp))

    @contextlib.contextmanager
    def _to_scp(self) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self._scp_port), timeout=20) as scp:
            yield scp
