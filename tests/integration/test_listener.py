"""The listener on the wire: what is taken untouched, who is refused, and what no peer can do to it.

Row numbers are those of intake.md 1.2 (pynetdicom 3.0.4, observed by default).
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread, uid
from pydicom.dataset import Dataset
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import split_dataset
from pynetdicom.pdu import A_ASSOCIATE_RQ

from npc_rtnode.adapters.dicom.listener import guarded_socket, offer
from npc_rtnode.adapters.dicom.listener.access import AccessList
from npc_rtnode.adapters.dicom.listener.answers import STATUS
from npc_rtnode.adapters.dicom.listener.connection import Connection
from npc_rtnode.adapters.dicom.listener.offer import STORAGE_CLASSES
from npc_rtnode.adapters.dicom.listener.server import Listener
from npc_rtnode.domain.records import AssociationInfo, ReceivedInstance, StoreOutcome, StoreRequest
from npc_rtnode.errors import CannotListen, LedgerUnavailable
from npc_rtnode.settings import CalledAE, ListenerSettings, Peer
from tests.builders import pdu
from tests.builders.mr_series import make_series
from tests.builders.pdu import COMMAND, LAST
from tests.fakes.raw_peer import DATA, RawPeer

MR = str(uid.MRImageStorage)
EXPLICIT, IMPLICIT = str(uid.ExplicitVRLittleEndian), str(uid.ImplicitVRLittleEndian)
SCANNER = Peer(ae_title="SCANNER", networks=("127.0.0.1/32",))
HALF_A_HEADER = b"\x01\x00\x00"


class RecordingIncoming:
    """One instance on its way into a RecordingSink."""

    def __init__(self, sink: RecordingSink, request: StoreRequest) -> None:
        self.sink, self.request, self.data = sink, request, b""
        sink.begun.append(self)
        self.discarded = False

    def write(self, data: bytes) -> None:
        self.data += data

    def store(self) -> StoreOutcome:
        time.sleep(self.sink.pause_s)
        request = self.request
        self.sink.received.append(
            ReceivedInstance(
                request.association, request.sop_class_uid, request.sop_uid, request.transfer_syntax_uid, self.data
            )
        )
        if isinstance(self.sink.outcome, Exception):
            raise self.sink.outcome
        return self.sink.outcome

    def discard(self) -> None:
        self.discarded = True


class RecordingSink:
    """An InstanceSink that remembers, and answers what it is told to."""

    def __init__(self) -> None:
        self.events: list[tuple[str, AssociationInfo, str]] = []
        self.begun: list[RecordingIncoming] = []
        self.received: list[ReceivedInstance] = []
        self.outcome: StoreOutcome | Exception = StoreOutcome.STORED
        self.pause_s = 0.0

    def opened(self, association: AssociationInfo) -> None:
        self.events.append(("opened", association, ""))

    def rejected(self, association: AssociationInfo, reason: str) -> None:
        self.events.append(("rejected", association, reason))

    def begin(self, request: StoreRequest) -> RecordingIncoming:
        return RecordingIncoming(self, request)

    def closed(self, association: AssociationInfo, how: str) -> None:
        self.events.append(("closed", association, how))

    def told(self, what: str) -> list[str]:
        return [detail for event, _, detail in self.events if event == what]


class Node:
    """A running listener with its sink."""

    def __init__(self, **wishes: Any) -> None:
        self.sink = RecordingSink()
        self.settings = ListenerSettings(**{"port": 0, "peers": (SCANNER,), **wishes})
        self.listener = Listener(self.settings, self.sink)
        self.port = self.listener.start()
        self.sockets: list[socket.socket] = []

    def call(self, calling: str = "SCANNER", called: str = "NPC_RTNODE", **wishes: Any) -> Association:
        ae = AE(calling)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 5
        for context in wishes.get("contexts", (MR, "1.2.840.10008.1.1")):
            ae.add_requested_context(context, wishes.get("syntaxes", [EXPLICIT]))
        assoc = ae.associate("127.0.0.1", self.port, ae_title=called, evt_handlers=[(evt.EVT_CONN_OPEN, self._opened)])
        assert eventually(lambda: assoc.is_established or not assoc.dul.is_alive())
        return assoc

    def _opened(self, event: Any) -> None:
        self.sockets.append(event.assoc.dul.socket.socket)

    def connect(self, sends: bytes = b"") -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=5)
        connection.sendall(sends)
        self.sockets.append(connection)
        return connection

    def stop(self) -> None:
        """Stop, and close what pynetdicom's SCU side leaves open when the listener was first to close."""
        self.listener.stop(0.2)
        for connection in self.sockets:
            connection.close()


@pytest.fixture
def start() -> Iterator[Callable[..., Node]]:
    """Starts nodes with the settings wished for, and stops them."""
    with contextlib.ExitStack() as stack:

        def start_one(**wishes: Any) -> Node:
            node = Node(**wishes)
            stack.callback(node.stop)
            return node

        yield start_one


@pytest.fixture
def node(start: Callable[..., Node]) -> Node:
    """A node with the usual settings."""
    return start()


@pytest.fixture
def slice_file(tmp_path: Path) -> Path:
    """One MR slice."""
    return make_series(tmp_path, slices=1)[0]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """PDU and association deadlines of half a second."""
    monkeypatch.setattr(guarded_socket, "PDU_GRACE_S", 0.5)
    monkeypatch.setattr(offer, "ASSOCIATE_TIMEOUT_S", 0.5)


def eventually(holds: Callable[[], bool], seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.02)
    return True


def closed_by_peer(connection: socket.socket) -> bool:
    """Whether the other side closes within the socket's timeout; what it says before is passed over."""
    with connection:
        try:
            while connection.recv(4096):
                pass
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        return True


def association_request(node: Node) -> bytes:
    """The A-ASSOCIATE-RQ of an admissible caller, as bytes."""
    assoc = node.call()
    assoc.release()
    return bytes(A_ASSOCIATE_RQ(assoc.requestor.primitive).encode())


def raw_store(assoc: Association, **elements: Any) -> Any:
    """A C-STORE with any command elements, past pynetdicom's own checks; its response."""
    request = C_STORE()
    request.MessageID, request.Priority = 7, 2
    for keyword, value in {"AffectedSOPClassUID": MR, "AffectedSOPInstanceUID": "1.2.3", **elements}.items():
        setattr(request, keyword, value)
    assoc._reactor_checkpoint.clear()
    context = next(cx for cx in assoc.accepted_contexts if cx.abstract_syntax == MR)
    assoc.dimse.send_msg(request, context.context_id)
    response = assoc.dimse.get_msg(block=True)[1]
    assoc._reactor_checkpoint.set()
    return response


# --- what is taken ----------------------------------------------------------------------------------------------------


@pytest.mark.peer("storescu")
@pytest.mark.parametrize("implicit", [False, True])
def test_dcmtk_sends_a_series_and_every_byte_arrives(
    node: Node, tmp_path: Path, peer: Callable[[str], str], implicit: bool
) -> None:
    """DCMTK's storescu sends slices in either VR; the encoded bytes reach the sink as they lie in the files."""
    files = make_series(tmp_path, slices=5, implicit=implicit)
    command = [peer("storescu"), "-xi" if implicit else "-xe", "-aet", "SCANNER", "-aec", "NPC_RTNODE"]
    subprocess.run([*command, "127.0.0.1", str(node.port), *map(str, files)], check=True, timeout=30)
    sent = {dcmread(path).SOPInstanceUID: path.read_bytes()[split_dataset(path)[1] :] for path in files}
    assert {got.sop_uid: got.encoded for got in node.sink.received} == sent
    assert {got.transfer_syntax_uid for got in node.sink.received} == {IMPLICIT if implicit else EXPLICIT}
    assert eventually(lambda: node.sink.told("closed") == ["released"])
    assert node.sink.told("opened") == [""]


@pytest.mark.peer("echoscu")
def test_dcmtk_echo(node: Node, peer: Callable[[str], str]) -> None:
    """DCMTK's echoscu gets its answer."""
    subprocess.run([peer("echoscu"), "-aet", "SCANNER", "-aec", "NPC_RTNODE", "127.0.0.1", str(node.port)], check=True)


def test_instances_say_who_sent_them(node: Node, slice_file: Path) -> None:
    """The received instance carries the association: both AE titles and the address."""
    assoc = node.call()
    assoc.send_c_store(dcmread(slice_file))
    assoc.release()
    info = node.sink.received[0].association
    assert (info.calling_ae, info.called_ae, info.peer_ip) == ("SCANNER", "NPC_RTNODE", "127.0.0.1")
    assert info.association_id == node.sink.events[0][1].association_id


def test_every_storage_class_and_lossless_syntax_is_offered(node: Node) -> None:
    """All classes are accepted in all listed syntaxes; deflated, big endian and lossy JPEG never."""
    assoc = node.call(contexts=STORAGE_CLASSES)
    assert len(assoc.accepted_contexts) == len(STORAGE_CLASSES)
    assoc.release()
    refused = ["1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.91"]
    assert node.call(contexts=[MR], syntaxes=refused).accepted_contexts == []


@pytest.mark.parametrize("outcome", list(StoreOutcome))
def test_each_outcome_has_its_status(node: Node, slice_file: Path, outcome: StoreOutcome) -> None:
    """The sink's verdict becomes the status of the table, and the association goes on."""
    node.sink.outcome = outcome
    assoc = node.call()
    status = assoc.send_c_store(dcmread(slice_file))
    assert status.Status == STATUS[outcome].status
    assert status.get("ErrorComment", "") == STATUS[outcome].comment
    assert assoc.send_c_echo().Status == 0
    assoc.release()


@pytest.mark.parametrize("fault", [OSError("disk"), LedgerUnavailable()])
def test_a_failing_sink_is_never_success(node: Node, slice_file: Path, fault: Exception) -> None:
    """A sink that raises against its contract means A700: send again (row 29)."""
    node.sink.outcome = fault
    assoc = node.call()
    assert assoc.send_c_store(dcmread(slice_file)).Status == 0xA700
    assoc.release()


# --- who is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("calling", "called", "diagnostic"),
    [("SCANNER", "OTHER", 7), ("STRANGER", "NPC_RTNODE", 3), ("scanner", "NPC_RTNODE", 3), ("STRANGER", "OTHER", 7)],
)
def test_wrong_titles_are_rejected_on_the_wire(node: Node, calling: str, called: str, diagnostic: int) -> None:
    """An A-ASSOCIATE-RJ, permanent, from the service user, with its diagnostic; the sink hears of it (row 16)."""
    assoc = node.call(calling, called)
    answer = assoc.acceptor.primitive
    assert assoc.is_rejected
    assert (answer.result, answer.result_source, answer.diagnostic) == (1, 1, diagnostic)
    assert eventually(lambda: len(node.sink.told("rejected")) == 1)
    assert node.sink.told("opened") == []


def test_a_refused_peer_that_goes_on_regardless_stores_nothing(node: Node, slice_file: Path) -> None:
    """After the rejection the connection is closed: a P-DATA with a whole C-STORE gets no answer and no sink."""
    recorded: list[bytes] = []
    request = association_request(node)
    assoc = node.call()
    assoc.bind(evt.EVT_DATA_SENT, lambda event: recorded.append(event.data))
    assoc.send_c_store(dcmread(slice_file))
    assoc.release()
    node.sink.received.clear()
    connection = node.connect(request.replace(b"SCANNER".ljust(16), b"STRANGER".ljust(16)))
    answer = connection.recv(10)
    assert answer[0] == 3
    with contextlib.suppress(ConnectionError):
        connection.sendall(b"".join(pdu for pdu in recorded if pdu[0] == 4))
    assert closed_by_peer(connection)
    assert node.sink.received == []


def test_an_unknown_address_is_dropped_before_a_byte_is_read(start: Callable[..., Node]) -> None:
    """An address of no peer gets no answer at all; the sink hears of it once, not once a connection."""
    node = start(peers=(Peer(ae_title="SCANNER", networks=("10.1.2.3/32",)),))
    for _ in range(5):
        with contextlib.suppress(ConnectionError):
            assert closed_by_peer(node.connect(HALF_A_HEADER))
    assert eventually(lambda: node.sink.told("rejected") == ["address not recognised"])


def test_nobody_named_means_nobody(start: Callable[..., Node]) -> None:
    """An empty list of peers admits nobody, not even from this machine."""
    assoc = start(peers=()).call()
    assert not assoc.is_established
    assert assoc.accepted_contexts == []


def test_several_called_titles_on_one_port(start: Callable[..., Node]) -> None:
    """Each configured title is answered, and told apart by the sink."""
    node = start(called=(CalledAE(ae_title="NPC"), CalledAE(ae_title="OTHER")))
    for title in ("NPC", "OTHER"):
        node.call(called=title).release()
    assert eventually(lambda: len(node.sink.told("closed")) == 2)
    assert [info.called_ae for event, info, _ in node.sink.events if event == "opened"] == ["NPC", "OTHER"]


@pytest.mark.parametrize(
    ("title", "ip", "admitted"),
    [
        ("A", "10.1.2.3", True),
        ("A", "10.1.2.30", False),
        ("A", "10.1.2.4", False),
        ("B", "10.9.8.7", True),
        ("B", "10.1.2.3", False),
        ("B", "::ffff:10.9.8.7", True),
        ("B", "2001:db8::1", False),
        ("B", "no address", False),
    ],
)
def test_title_and_address_belong_together(title: str, ip: str, admitted: bool) -> None:
    """A title counts only from its own networks; 10.1.2.3 is no prefix of 10.1.2.30."""
    peers = (Peer(ae_title="A", networks=("10.1.2.3/32",)), Peer(ae_title="B", networks=("10.9.0.0/16",)))
    access = AccessList(ListenerSettings(peers=peers))
    assert (access.refusal(AssociationInfo("x", title, "NPC_RTNODE", ip)) is None) is admitted


def test_more_associations_than_allowed_are_rejected_for_now(start: Callable[..., Node]) -> None:
    """The one too many gets a transient rejection, local limit exceeded; a released place is free again (row 10)."""
    node = start(max_associations=2)
    first, second, third = node.call(), node.call(), node.call()
    answer = third.acceptor.primitive
    assert (answer.result, answer.result_source, answer.diagnostic) == (2, 3, 2)
    first.release()
    assert eventually(lambda: node.listener.associations == 1)
    fourth = node.call()
    assert fourth.is_established
    second.release()
    fourth.release()


# --- what a command may say -------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*for VR UI")
@pytest.mark.parametrize("hostile", ["../../../var/pwn", "/var/pwn", "1.2\n3", "1.2;$(id)"])
def test_hostile_instance_uids_are_refused(node: Node, hostile: str) -> None:
    """C000, the sink never sees the text, and the association lives on (row 18)."""
    assoc = node.call()
    assert raw_store(assoc, AffectedSOPInstanceUID=hostile, DataSet=io.BytesIO(bytes(8))).Status == 0xC000
    assert assoc.send_c_echo().Status == 0
    assoc.release()
    assert node.sink.received == node.sink.begun == []


@pytest.mark.parametrize("other", [str(uid.CTImageStorage), "1.2.840.10008.1.1", "1.2.3.4"])
def test_a_class_other_than_the_contexts_is_refused(node: Node, other: str) -> None:
    """CT, Verification or a private class in an MR context: A900, nothing stored (row 17)."""
    assoc = node.call()
    assert raw_store(assoc, AffectedSOPClassUID=other, DataSet=io.BytesIO(bytes(8))).Status == 0xA900
    assoc.release()
    assert node.sink.received == []


def test_random_bytes_reach_the_sink_as_they_are(node: Node) -> None:
    """Judging the data set is the sink's work; the listener hands on what came (row 19)."""
    node.sink.outcome = StoreOutcome.UNREADABLE
    assoc = node.call()
    noise = bytes(range(256)) * 4
    assert raw_store(assoc, DataSet=io.BytesIO(noise)).Status == 0xC000
    assert node.sink.received[0].encoded == noise
    assoc.release()


# --- what no peer can do ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "stub", [HALF_A_HEADER, b"\x01\x00\x00\x00\x01\x00" + bytes(10), b"\x55\x00\x00\x00\x00\x10ab"]
)
def test_half_open_connections_free_themselves(start: Callable[..., Node], stub: bytes) -> None:
    """Ten stalled beginnings hold nobody up and are gone after their deadline (rows 1, 2, 5)."""
    node = start(max_associations=2)
    stalled = [node.connect(stub) for _ in range(10)]
    assoc = node.call()
    assert assoc.is_established
    assoc.release()
    assert all(map(closed_by_peer, stalled))
    assert eventually(node.listener._door.empty)


@pytest.mark.usefixtures("quick")
def test_a_pdu_half_sent_inside_an_association_frees_the_slot(node: Node) -> None:
    """A P-DATA that never ends is cut after its deadline, and the sink hears that the connection went (row 2)."""
    assoc = node.call()
    assoc.dul.socket.socket.sendall(struct.pack(">BBL", 4, 0, 1000) + b"x" * 10)
    assert eventually(lambda: node.sink.told("closed") == ["lost"])
    assert eventually(node.listener._door.empty)
    assert eventually(lambda: not assoc.dul.is_alive())


@pytest.mark.usefixtures("quick")
def test_dripping_is_cut(node: Node) -> None:
    """One byte now and then does not reset the deadline of a PDU (row 3)."""
    connection = node.connect()
    begun = time.monotonic()
    with contextlib.suppress(ConnectionError):
        for byte in b"\x01\x00\x00\x00\x00\x40" + bytes(64):
            connection.sendall(bytes([byte]))
            time.sleep(0.1)
    assert time.monotonic() - begun < 4
    assert closed_by_peer(connection)


@pytest.mark.usefixtures("quick")
def test_saying_nothing_is_cut(node: Node) -> None:
    """A connection without a request is closed, and while it lasts it takes no association's place (row 4)."""
    silent = node.connect()
    assert node.listener.associations == 0
    assert closed_by_peer(silent)


def test_who_hangs_up_before_asking_is_gone_at_once(node: Node) -> None:
    """A caller that went away unheard does not wait out the ten seconds that a request may take (row 4)."""
    node.connect().close()
    half = node.connect(HALF_A_HEADER)
    assert eventually(lambda: not node.listener._door.empty())
    half.close()
    assert eventually(node.listener._door.empty)


def test_a_closed_connection_has_left_its_place(start: Callable[..., Node]) -> None:
    """Its place is free while the sink still writes down how it ended."""
    node, written = start(max_associations=1), threading.Event()
    node.sink.closed = lambda *_: written.wait(20)  # type: ignore[method-assign]
    node.call().release()
    assert eventually(lambda: node.listener.associations == 0)
    second = node.call()
    assert second.is_established
    assert not written.is_set()
    written.set()
    second.release()


@pytest.mark.parametrize(("kind", "size"), [(1, 0xFFFFFFFF), (1, 300_000), (4, 200_000), (7, 4096)])
def test_giant_pdus_are_cut_at_their_header(node: Node, kind: int, size: int) -> None:
    """A PDU that announces more than its cap is cut before a byte of it is buffered (row 6)."""
    connection = node.connect(struct.pack(">BBL", kind, 0, size))
    begun = time.monotonic()
    assert closed_by_peer(connection)
    assert time.monotonic() - begun < 2


def test_a_p_data_beyond_what_we_advertised_is_cut(start: Callable[..., Node]) -> None:
    """16 kB advertised, 64 MB announced inside an association: cut (row 7)."""
    node = start(max_pdu_bytes=16384)
    assoc = node.call()
    with contextlib.suppress(OSError):
        assoc.dul.socket.socket.sendall(struct.pack(">BBL", 4, 0, 64 << 20) + bytes(1 << 20))
    assert eventually(lambda: node.sink.told("closed") != [])
    assert eventually(lambda: not assoc.dul.is_alive())


@pytest.mark.parametrize(("control", "enough"), [(0x01, 70_000), (0x00, 1_100_000)])
def test_endless_messages_are_aborted(start: Callable[..., Node], control: int, enough: int) -> None:
    """A command set beyond 64 kB or an object beyond max_object_mb ends in an A-ABORT (row 8)."""
    node = start(max_object_mb=1)
    assoc = node.call()
    context = assoc.accepted_contexts[0].context_id
    fragment = bytes([context, control]) + bytes(16_000)
    pdv = struct.pack(">L", len(fragment)) + fragment
    pdu = struct.pack(">BBL", 4, 0, len(pdv)) + pdv
    connection = assoc.dul.socket.socket  # the peer's own thread may let go of it at any moment
    with contextlib.suppress(OSError):
        for _ in range(enough // 16_000 + 1):
            connection.sendall(pdu)
    assert eventually(lambda: node.sink.told("closed") == ["aborted"])
    assert eventually(lambda: assoc.is_aborted)
    assert node.sink.received == []


def test_pipelining_without_leave_is_aborted(node: Node, slice_file: Path) -> None:
    """Requests sent without waiting for answers do not pile up in memory (row 9)."""
    node.sink.pause_s = 0.2
    assoc = node.call()
    request = C_STORE()
    request.Priority, request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = 2, MR, "1.2.3"
    assoc._reactor_checkpoint.clear()
    for number in range(1, 30):
        request.MessageID, request.DataSet = number, io.BytesIO(b"x" * 1000)
        assoc.dimse.send_msg(request, assoc.accepted_contexts[0].context_id)
    assert eventually(lambda: node.sink.told("closed") == ["aborted"])
    assert len(node.sink.received) < 10
    assoc._reactor_checkpoint.set()
    assert eventually(lambda: not assoc.dul.is_alive())


def test_a_message_behind_another_in_one_pdu_keeps_its_bytes(node: Node) -> None:
    """The end of one, the command and the beginning of the next in one PDU, and more comes while the first is stored:
    each is stored as it was sent, under its own name."""
    node.sink.pause_s = 0.2
    sent = {f"1.2.3.{number}": bytes([number]) * 9000 for number in range(1, 4)}
    command = [
        pdu.pdv(1, COMMAND | LAST, pdu.store_command(uid, message_id=number)) for number, uid in enumerate(sent, 1)
    ]
    begun = [pdu.pdv(1, 0, data[:6000]) for data in sent.values()]
    ended = [pdu.pdv(1, LAST, data[6000:]) for data in sent.values()]
    with RawPeer(node.port) as peer:
        peer.associate(calling=b"SCANNER")
        assert peer.store(bytes(10), "1.2.3.9") == 0  # an association's first may go another way
        node.sink.received.clear()
        peer.send(pdu.p_data(command[0], begun[0]), pdu.p_data(ended[0], command[1], begun[1]))
        time.sleep(0.1)
        peer.send(pdu.p_data(ended[1], command[2], begun[2]), pdu.p_data(ended[2]))
        assert [(peer.hear(), pdu.status_of(peer.body)) for _ in sent] == [(DATA, 0)] * 3
    assert [(received.sop_uid, bytes(received.encoded)) for received in node.sink.received] == list(sent.items())


def test_a_data_set_may_take_longer_than_silence_may(start: Callable[..., Node]) -> None:
    """A large object over a slow line is no silence between messages (row 10), however small the gaps."""
    node = start(idle_timeout_s=1)
    with RawPeer(node.port) as peer:
        peer.associate(calling=b"SCANNER")
        peer.send(pdu.p_data(pdu.pdv(1, COMMAND | LAST, pdu.store_command("1.2.3"))))
        for _ in range(120):
            peer.send(pdu.p_data(pdu.pdv(1, 0, bytes(100))))
            time.sleep(0.015)
        assert (peer.send(pdu.p_data(pdu.pdv(1, LAST, bytes(2)))).hear(), pdu.status_of(peer.body)) == (DATA, 0)
    assert len(node.sink.received[0].encoded) == 12_002


def test_an_instance_that_does_not_come_whole_is_discarded(node: Node) -> None:
    """What had come of it went to the sink at once, and the sink hears that the rest will not come (rows 26, 27)."""
    assoc = node.call()
    number = assoc.accepted_contexts[0].context_id
    command, fragment = pdu.store_command("1.2.3"), bytes(1000)
    assoc.dul.socket.socket.sendall(pdu.p_data(pdu.pdv(number, 3, command), pdu.pdv(number, 0, fragment)))
    assert eventually(lambda: [len(incoming.data) for incoming in node.sink.begun] == [1000])
    assert not node.sink.begun[0].discarded
    assoc.dul.socket.socket.shutdown(socket.SHUT_RDWR)
    assert eventually(lambda: node.sink.begun[0].discarded)
    assert node.sink.received == []


def test_a_context_never_negotiated_is_aborted(node: Node) -> None:
    """A fragment for context 99 ends in an A-ABORT, not in a dead thread (row 27)."""
    assoc = node.call()
    fragment = bytes([99, 0x03]) + bytes(10)
    pdv = struct.pack(">L", len(fragment)) + fragment
    assoc.dul.socket.socket.sendall(struct.pack(">BBL", 4, 0, len(pdv)) + pdv)
    assert eventually(lambda: assoc.is_aborted)
    assert node.sink.told("closed") == ["aborted"]


@pytest.mark.parametrize("how", ["released", "aborted", "lost"])
def test_the_sink_hears_how_an_association_ended(node: Node, how: str) -> None:
    """Released, aborted by the peer, or the connection simply gone."""
    assoc = node.call()
    if how == "released":
        assoc.release()
    elif how == "aborted":
        assoc.abort()
    else:
        assoc.dul.socket.socket.shutdown(socket.SHUT_RDWR)
    assert eventually(lambda: node.sink.told("closed") == [how])


def test_an_idle_association_is_aborted(start: Callable[..., Node]) -> None:
    """Silence longer than idle_timeout_s ends in an A-ABORT (row 13)."""
    node = start(idle_timeout_s=0.3)
    assoc = node.call()
    assert eventually(lambda: assoc.is_aborted)
    assert eventually(lambda: node.sink.told("closed") == ["aborted"])


def test_a_slow_sink_is_not_the_peers_silence(start: Callable[..., Node], slice_file: Path) -> None:
    """The time that storing took does not count against the peer."""
    node = start(idle_timeout_s=0.3)
    node.sink.pause_s = 0.6
    assoc = node.call()
    assert assoc.send_c_store(dcmread(slice_file)).Status == 0
    assert assoc.send_c_echo().Status == 0
    assoc.release()


def test_stop_does_not_wait_for_stalled_peers(start: Callable[..., Node]) -> None:
    """Half-open, half-sent and idle peers are cut when the grace is over, and the port is free again."""
    node = start()
    half_open, silent, idle, half_sent = node.connect(HALF_A_HEADER), node.connect(), node.call(), node.call()
    half_sent.dul.socket.socket.sendall(struct.pack(">BBL", 4, 0, 1000) + b"x")
    time.sleep(0.1)
    begun = time.monotonic()
    node.listener.stop(grace_s=0.3)
    assert time.monotonic() - begun < 3
    assert closed_by_peer(half_open)
    assert closed_by_peer(silent)
    assert eventually(lambda: not idle.is_established and not half_sent.is_established)
    assert [thread for thread in threading.enumerate() if isinstance(thread, Connection)] == []
    with pytest.raises(ConnectionRefusedError):
        node.connect()


def test_stop_lets_a_store_finish(node: Node, slice_file: Path) -> None:
    """Within the grace, a running store is answered before the association ends."""
    node.sink.pause_s = 0.4
    assoc = node.call()
    answers: list[Dataset] = []

    def send() -> None:
        answers.append(assoc.send_c_store(dcmread(slice_file)))
        assoc.release()

    sender = threading.Thread(target=send)
    sender.start()
    time.sleep(0.1)
    node.listener.stop(grace_s=5)
    sender.join()
    assert answers[0].Status == 0
    assert node.sink.told("closed") == ["released"]


def test_a_port_in_use_is_said_at_once(start: Callable[..., Node]) -> None:
    """start names the setting, the port, what is kept and what to do; another start works."""
    taken = start().port
    said = rf"listener\.port, 127\.0\.0\.1:{taken}: Address already in use\. All that was received is kept.*ss -ltnp"
    with pytest.raises(CannotListen, match=said):
        start(port=taken)


# --- the rest ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
def test_nothing_of_a_peer_is_printed(node: Node, capfd: pytest.CaptureFixture[str]) -> None:
    """Escape sequences and line breaks of a title, malformed PDUs, stalls: no peer text, no traceback (row 30)."""
    request = association_request(node)
    for title in (b"EVIL\x1b[31m", b"EVIL\nroot:x", b"EVIL'%s%d"):
        assert closed_by_peer(node.connect(request.replace(b"SCANNER".ljust(16), title.ljust(16))))
    assert closed_by_peer(node.connect(HALF_A_HEADER))
    assert closed_by_peer(node.connect(b"\x01\x00\x00\x00\x00\x04EVIL"))
    said: list[str] = []

    def cut_is_told() -> bool:  # just after the peer is let go
        said.extend(capfd.readouterr())
        return "connection cut" in "".join(said)

    assert eventually(cut_is_told)
    printed = "".join([*said, *capfd.readouterr()])
    assert "EVIL" not in printed
    assert "Traceback" not in printed
    assert node.sink.told("rejected") == ["calling AE title not recognised for this address"]


def test_the_listener_stays_small() -> None:
    """Its process never loads torch, MONAI, rt_utils, SimpleITK, highdicom or a pixel codec."""
    heavy = ["torch", "monai", "rt_utils", "SimpleITK", "highdicom", "cv2", "scipy", "sqlalchemy"]
    code = (
        f"import npc_rtnode.adapters.dicom.listener.server, sys; sys.exit(sum(name in sys.modules for name in {heavy}))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env={**os.environ, "PYTHONPATH": "."})


def test_pynetdicom_is_put_back(start: Callable[..., Node]) -> None:
    """After the last listener the library's process-wide settings are as before."""
    before = _config.LOG_HANDLER_LEVEL, logging.getLogger("pynetdicom").level
    one, two = Node(), Node()
    assert _config.LOG_HANDLER_LEVEL == "none"
    one.listener.stop(0)
    assert _config.LOG_HANDLER_LEVEL == "none"
    two.listener.stop(0)
    assert (_config.LOG_HANDLER_LEVEL, logging.getLogger("pynetdicom").level) == before
