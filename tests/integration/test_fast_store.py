"""The fast road of a C-STORE against the plain one: the same traffic leaves the same answers, files and rows."""

from __future__ import annotations

import queue
import socket
import sqlite3
import struct
import threading
from collections.abc import Iterator
from contextlib import closing
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pynetdicom.dimse_messages import C_STORE_RSP
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu import P_DATA_TF

from npc_rtnode.adapters.dicom.listener import fast_store
from npc_rtnode.adapters.dicom.listener.guarded_socket import GuardedSocket
from npc_rtnode.domain.identifiers import derived_uid
from tests.builders import pdu
from tests.builders.mr_series import SeriesSpec, slice_dataset
from tests.builders.pdu import COMMAND, LAST, MR, encoded, p_data, pdv
from tests.fakes.raw_peer import ACCEPTED, DATA, GONE, RawPeer
from tests.fakes.receiver import Receiver

CT: Final = "1.2.840.10008.5.1.4.1.1.2"


def a_slice(number: int, pixels: bytes = b"") -> tuple[bytes, str]:
    """A whole slice; the same number is the same instance."""
    ds = slice_dataset(SeriesSpec(rows=8, columns=8), 0)
    ds.SOPInstanceUID = derived_uid(f"fast {number}", "fast store")
    if pixels:
        ds.PixelData = pixels
    return encoded(ds), str(ds.SOPInstanceUID)


def pieces(data: bytes, *sizes: int) -> list[bytes]:
    """The fragments of a data set, cut at these sizes and the rest whole."""
    cuts, at = [], 0
    for size in sizes:
        cuts.append(data[at : at + size])
        at += size
    return [*cuts, data[at:]]


def in_pdus(head: bytes, cut: list[bytes], together: int) -> list[bytes]:
    """Command and data set as P-DATA of so many fragments each."""
    parts = [pdv(1, COMMAND | LAST, head)]
    parts += [pdv(1, LAST if at == len(cut) - 1 else 0, piece) for at, piece in enumerate(cut)]
    return [p_data(*parts[at : at + together]) for at in range(0, len(parts), together)]


def split_command(head: bytes) -> list[bytes]:
    """A command in two fragments."""
    return [pdv(1, COMMAND, head[:20]), pdv(1, COMMAND | LAST, head[20:])]


def in_pieces(message: list[bytes], *sizes: int) -> list[bytes]:
    """The bytes of all its PDUs, cut at these sizes and the rest whole, whatever they are."""
    return pieces(b"".join(message), *sizes)


def traffic() -> dict[str, list[list[bytes]]]:
    """By name: messages to be sent one after the other over one association."""
    (first, uid), (second, other), (third, last) = a_slice(1), a_slice(2), a_slice(3)
    head = pdu.store_command(uid)
    odd = pieces(first, 1, 0, 7, 0, 255)
    return {
        "good": [pdu.store(first, uid), pdu.store(second, other, message_id=2)],
        "again and changed": [pdu.store(first, uid), pdu.store(first, uid), pdu.store(a_slice(1, bytes(128))[0], uid)],
        "cut at odd places": [in_pdus(head, odd, 1), in_pdus(pdu.store_command(other), pieces(second, 3, 0), 2)],
        "all in one": [in_pdus(head, odd, 99)],
        "in one write": [in_pieces(pdu.store(first, uid)), in_pieces(pdu.store(second, other, message_id=2))],
        "cut within headers": [in_pieces(pdu.store(first, uid), 3, 8, 120, 1, 2, 40, 7)],
        "two in one write": [in_pieces([*pdu.store(first, uid), *pdu.store(second, other, message_id=2)], 9)],
        "command in two": [[p_data(*split_command(head)), *pdu.store(first, uid)[1:]]],
        "echo between": [pdu.store(first, uid), [pdu.echo(2)], pdu.store(second, other, message_id=3)],
        "echo within": [[pdu.store(first, uid)[0], pdu.echo(2)]],
        "another instance": [pdu.store(first, other), pdu.store(third, last, message_id=2)],
        "another class": [pdu.store(first, uid, sop_class=CT), pdu.store(third, last, message_id=2)],
        "no uid": [pdu.store(first, "../../x"), pdu.store(third, last, message_id=2)],
        "truncated": [pdu.store(first[:-40], uid), pdu.store(third, last, message_id=2)],
        "nothing": [pdu.store(b"", uid), pdu.store(third, last, message_id=2)],
        "no data set": [[p_data(pdv(1, COMMAND | LAST, pdu.store_command(uid, data_set=0x0101)))]],
        "no context": [pdu.store(first, uid, 99)],
        "empty fragment": [[pdu.store(first, uid)[0], p_data(struct.pack(">LB", 1, 1))]],
        "length beyond": [[pdu.store(first, uid)[0], p_data(struct.pack(">LBB", 5000, 1, 0))]],
        "data first": [pdu.store(first, uid)[1:]],
        "large": [pdu.store(a_slice(4, bytes(3 << 20))[0], a_slice(4)[1]), pdu.store(first, uid, message_id=2)],
    }


def told(port: int, messages: list[list[bytes]]) -> list[tuple[int, bytes]]:
    """What comes back: type and body of each PDU, to the end of the association."""
    heard = []
    with RawPeer(port) as peer:
        assert peer.associate() == ACCEPTED
        for message in messages:
            heard.append((peer.send(*message).hear(), peer.body))
            if heard[-1][0] != DATA:
                return [*heard[:-1], (GONE, b"")]  # an A-ABORT may be overtaken by the end of the connection
        heard.append((peer.release(), b""))
    return heard


def left(receiver: Receiver) -> dict[str, list[tuple[Any, ...]]]:
    """Rows, without numbers and times, and the files of the spool."""
    receiver.rows()
    queries = {
        "instances": "SELECT sop_uid, sop_class_uid, transfer_syntax_uid, sha256, size, state FROM instances",
        "series": "SELECT series_uid, revision, modality, called_ae, state, reasons FROM series ORDER BY id",
        "associations": "SELECT calling_ae, called_ae, peer_ip, how, refused FROM associations ORDER BY opened_at",
        "events": "SELECT subject, event, from_state, to_state FROM events ORDER BY seq",
    }
    with closing(sqlite3.connect(receiver.home / "ledger.db")) as ledger:
        rows = {name: ledger.execute(query).fetchall() for name, query in queries.items()}
    spool = receiver.home / "spool"
    return {**rows, "files": sorted((path.name,) for path in spool.glob("[0-9a-f][0-9a-f]/*"))}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    """The library's road."""
    with Receiver(tmp_path_factory.mktemp("plain"), fast_store=False) as running:
        yield running


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    """Ours."""
    with Receiver(tmp_path_factory.mktemp("fast")) as running:
        yield running


@pytest.mark.parametrize("name", list(traffic()))
def test_both_roads_lead_to_the_same(plain: Receiver, fast: Receiver, name: str) -> None:
    """Every byte of every answer, every file and every row, for good and for bad traffic."""
    messages = traffic()[name]
    by_plain, by_fast = told(plain.port, messages), told(fast.port, messages)
    assert by_fast == by_plain
    assert left(fast) == left(plain)


def test_the_response_is_the_librarys(tmp_path: Path) -> None:
    """Byte for byte what pynetdicom would write, with and without a comment."""
    for status, comment in ((0x0000, ""), (0xA700, "Out of resources for now, please send again")):
        response = C_STORE()
        response.MessageIDBeingRespondedTo, response.Status = 7, status
        response.AffectedSOPClassUID, response.AffectedSOPInstanceUID = MR, "1.2.34"
        if comment:
            response.ErrorComment = comment  # type: ignore[assignment]
        message = C_STORE_RSP()
        message.primitive_to_message(response)
        (primitive,) = message.encode_msg(5, 16384)
        data_tf = P_DATA_TF()
        data_tf.from_primitive(primitive)
        request = fast_store.StoreCommand(7, MR, "1.2.34")
        assert fast_store.store_response(5, request, status, comment) == data_tf.encode()


def test_an_ordinary_command_takes_the_fast_road() -> None:
    """Or this file would compare the plain road with itself."""
    assert fast_store.read_store_request(pdu.store_command("1.2.3")) == fast_store.StoreCommand(1, MR, "1.2.3")


@given(st.binary(max_size=200), st.integers(0, 90), st.binary(max_size=8))
def test_no_bytes_trip_it(noise: bytes, at: int, patch: bytes) -> None:
    """Any bytes are read as a command, as fragments, or as None."""
    command = pdu.store_command("1.2.3")
    for data in (noise, command[:at] + patch + command[at + len(patch) :]):
        found = fast_store.read_store_request(data)
        assert found is None or found.MessageID >= 0
        parts = fast_store.fragments(memoryview(BytesIO(data).getvalue()))
        assert parts is None or sum(len(part) + 5 for _, part in parts) == len(data)


class _Half:
    """What a socket needs to know of its association."""

    def __init__(self) -> None:
        self.dul = SimpleNamespace(
            event_queue=queue.Queue(), state_machine=SimpleNamespace(current_state="Sta6"), is_alive=lambda: self.reads
        )
        self.reads, self.woken = True, 0
        self.door = SimpleNamespace(settings=SimpleNamespace(max_pdu_bytes=4096))
        self.peer_ip = "127.0.0.1"

    def wake(self) -> None:
        """Nobody waits."""
        self.woken += 1


def connected() -> tuple[socket.socket, socket.socket]:
    """Both ends of a connection."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        theirs = socket.create_connection(server.getsockname())
        return server.accept()[0], theirs


@settings(max_examples=60, deadline=2000)
@given(
    sizes=st.lists(st.integers(0, 8192), min_size=1, max_size=6),
    cuts=st.lists(st.integers(1, 9000), max_size=6),
    by_library=st.sets(st.integers(0, 5)),
)
def test_no_byte_is_lost_between_the_two_roads(sizes: list[int], cuts: list[int], by_library: set[int]) -> None:
    """PDUs of any size in pieces of any size, several at once, some read by us, some left to the library, and at the
    end one that is not ours."""
    bodies = [bytes([number]) * size for number, size in enumerate(sizes, 1)]
    sent = [struct.pack(">BBL", DATA, 0, len(body)) + body for body in bodies] + [struct.pack(">BBLL", 5, 0, 4, 7)]
    ours, theirs = connected()
    with closing(ours), closing(theirs):
        guarded = GuardedSocket(_Half(), ours)  # type: ignore[arg-type]  # half an association
        sender = threading.Thread(target=lambda: [theirs.sendall(one) for one in in_pieces(sent, *cuts)])
        sender.start()
        read = []
        for number in range(len(bodies)):
            assert guarded.readable(5)
            body = guarded.read_p_data()
            assert body is not None
            read.append(bytes(body))
            if number in by_library:
                guarded.leave(body)
                read[-1] = bytes(guarded.recv(struct.unpack(">BBL", guarded.recv(6))[2]))
        assert read == bodies
        assert guarded.read_p_data() is None
        assert (guarded.recv(6), guarded.recv(4)) == (sent[-1][:6], sent[-1][6:])
        sender.join()
        guarded.forget()


def test_whoever_waits_for_a_request_hears_of_a_reset_at_once() -> None:
    """A health check that resets the connection keeps no place in the waiting room."""
    ours, theirs = connected()
    with closing(ours):
        half = _Half()
        guarded = GuardedSocket(half, ours)  # type: ignore[arg-type]  # half an association
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        theirs.close()
        assert not guarded.readable(5)
        assert (half.woken, half.dul.event_queue.get(), half.dul.event_queue.get()) == (1, "Evt5", "Evt17")
        guarded.forget()


def test_a_connection_is_closed_only_once_nobody_reads() -> None:
    """Another thread may end it, the reader hears that at once, and its descriptor is nobody else's meanwhile."""
    ours, theirs = connected()
    with closing(theirs):
        half = _Half()
        guarded = GuardedSocket(half, ours)  # type: ignore[arg-type]  # half an association
        guarded._shutdown_socket()
        assert guarded.readable(5)
        assert guarded.read_p_data() is None
        assert ours.fileno() >= 0
        half.reads = False
        guarded.forget()
        assert ours.fileno() == -1
