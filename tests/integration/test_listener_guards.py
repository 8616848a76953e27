"""Every row of intake.md 1.2 against a living receiver with its ledger and its spool: what pynetdicom 3.0.4 does by
default, and what this node does. The peers are written by hand, byte for byte (tests/builders/pdu.py).

After each test the same is asked: the process lives, threads, descriptors and part files are as before, and an ordinary
sender is served and finds its slice in ledger and spool. `tests/integration/test_listener.py` holds the same guards in
one process, where a fake sink can watch them.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, CTImageStorage

from npc_rtnode.domain.identifiers import derived_uid
from npc_rtnode.pipeline.receive import HELD_BYTES
from npc_rtnode.supervisor import STOP_S
from tests.builders import pdu
from tests.builders.mr_series import SeriesSpec, slice_dataset
from tests.builders.pdu import COMMAND, EXPLICIT, LAST, MR, VERIFICATION, Context, encoded, p_data, pdv
from tests.fakes.disk import MEGABYTE, SmallDisk
from tests.fakes.raw_peer import ABORTED, ACCEPTED, DATA, GONE, REJECTED, RELEASED, RawPeer
from tests.fakes.receiver import ROOT, Receiver, Use, eventually

SUCCESS, NOT_UNDERSTOOD, NO_RESOURCES, MISMATCH = 0x0000, 0xC000, 0xA700, 0xA900
PDU_S, ASSOCIATE_S, IDLE_S = 1.0, 1.5, 6.0
"""The receiver's deadlines here; in the clinic 4 s, 10 s, 60 s."""
OBJECT_MB = 48
THREADS_OF_ITS_OWN = 3
"""The scheduler's pool may grow by these; a leak grows with every probe."""
DESCRIPTORS_OF_ITS_OWN = 45
"""Fifteen connections that the ledger's pool may open, of three files each; SQLite keeps those of a closed one for a
while."""
CANARIES = ("EVIL", "ROENTGEN", "PID778899", "Traceback")


class Row(NamedTuple):
    """A row of intake.md 1.2."""

    probe: str
    by_default: str
    here: str


ROWS: Final = {
    1: Row("3 of the 6 header bytes", "10 slots and 20 threads held for ever, SIGTERM in vain", "cut at the deadline"),
    2: Row("half a PDU, before and inside an association", "the same permanent loss", "cut at the deadline"),
    3: Row("one byte now and then", "slot held after 24 s", "the deadline is the PDU's, not the byte's"),
    4: Row("silence", "released by acse_timeout, a slot meanwhile", "closed; takes no association's place"),
    5: Row("unknown PDU type and more", "no A-ABORT, waits in a read", "ended at once"),
    6: Row("A-ASSOCIATE-RQ of 4 GiB", "buffered: 566 MB peak", "cut at its header"),
    7: Row("P-DATA far beyond what was advertised", "accepted, 310 MB peak", "cut at its header"),
    8: Row("endless data set, endless command set", "grows at 335 MB/s", "A-ABORT at max_object_mb and at 64 kB"),
    9: Row("200 requests without waiting", "all queued, no backpressure", "A-ABORT after a few"),
    10: Row("40 associations, 10 allowed", "10 accepted, 30 rejected 2/3/2", "the same, and only associations count"),
    11: Row("150 silent connections", "23 s until the next is accepted", "capped per address; another is served"),
    12: Row("descriptors above 1024", "answers nobody", "served (poll, not select)"),
    13: Row("idle associations", "24 % of a core for ten", "aborted after idle_timeout_s"),
    14: Row("a TLS port, and no handshake", "accepts nobody for ever", "cut after 4 s; others are served meanwhile"),
    15: Row(
        "mutated PDUs and data sets", "tracebacks; 70 of 250 changed stores were 0000", "the fuzz: no false Success"
    ),
    16: Row("no or wrong AE titles", "accepted", "A-ASSOCIATE-RJ 1/1/7 or 1/1/3"),
    17: Row("a class that is not the context's", "0000", "A900"),
    18: Row("UIDs that are paths or commands", "handed to the handler", "C000, no such name anywhere"),
    19: Row("no data set, nothing in it, noise, other VR", "0000", "C000"),
    20: Row("data set and command disagree", "0000", "A900"),
    21: Row("500 000 bytes of pixels announced, 1 000 there", "0000, dcmread silent", "C000"),
    22: Row("a deflated bomb", "1 078 MB", "syntax refused; as bytes of another syntax C000"),
    23: Row("300 and 60 000 nested sequences", "RecursionError, C211", "C000 at 32"),
    24: Row("a million empty items", "725 MB and 14 s", "C000 at 250 000"),
    25: Row("65535 x 65535 pixels of RLE", "8 GiB asked for", "C000 before anybody decodes"),
    26: Row("a large object", "held in memory once or twice", "in its part file: memory does not grow with it"),
    27: Row("cut in mid-transfer, a context never negotiated", "temporary files stay; a dead thread", "no part stays"),
    28: Row("disk full in mid-transfer", "the partial file stays, all later stores fail", "A700; with room it goes on"),
    29: Row("the handler fails", "C211, which some never send again", "A700"),
    30: Row("logs", "DEBUG prints passwords", "no text of a peer, no traceback"),
}
ELSEWHERE: Final = {  # rows whose test is in another file
    14: "tests/integration/test_tls.py::test_silence_before_the_handshake_holds_up_nobody",
    15: "tests/integration/test_fuzz.py::test_500_seeded_cases",
}
_TESTED: Final[set[int]] = set()


def row(*numbers: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Says which rows a test is for."""

    def mark(test: Callable[..., None]) -> Callable[..., None]:
        _TESTED.update(numbers)
        return test

    return mark


# --- the receiver, and what must hold after each test -----------------------------------------------------------------


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    """One process for all rows; at the end it goes by itself when told and has said nothing of a peer."""
    folder = tmp_path_factory.mktemp("receiver")
    wishes = {"max_object_mb": OBJECT_MB, "idle_timeout_s": IDLE_S, "max_associations": 10, "max_pdu_bytes": 16384}
    with Receiver(folder, (PDU_S, ASSOCIATE_S), **wishes) as running:
        serve_one(running)
        yield running
        code, seconds = running.terminate()
        assert (code, seconds < STOP_S) == (0, True), running.said()
        assert [word for word in CANARIES if word in running.said()] == []


@pytest.fixture(scope="module")
def rest(receiver: Receiver) -> Use:
    """What it uses when nobody is there."""
    time.sleep(2.5)  # the scheduler has had its first beat
    return receiver.use()


@pytest.fixture(autouse=True)
def _unhurt(request: pytest.FixtureRequest) -> Iterator[None]:
    """The process lives, gives everything back and serves whoever comes."""
    if "receiver" not in request.fixturenames:
        yield
        return
    running, rest = request.getfixturevalue("receiver"), request.getfixturevalue("rest")
    yield
    assert running.alive, running.said()
    assert eventually(lambda: at_rest(running, rest), 15), f"{running.use()}, at rest {rest}"
    serve_one(running)


def at_rest(running: Receiver, rest: Use) -> bool:
    use, most_descriptors = running.use(), rest.descriptors + DESCRIPTORS_OF_ITS_OWN
    return use.threads <= rest.threads + THREADS_OF_ITS_OWN and use.descriptors <= most_descriptors and not use.parts


_names = count()


def one_slice(**changes: object) -> tuple[bytes, str]:
    """A whole MR slice that nobody has sent before, and its SOP Instance UID."""
    ds = slice_dataset(SeriesSpec(rows=8, columns=8, patient_name_bytes=b"ROENTGEN^WILHELM"), 0)
    ds.SOPInstanceUID = derived_uid(f"guard {os.getpid()} {next(_names)}", "guards")
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    return encoded(ds), str(ds.SOPInstanceUID)


def serve_one(running: Receiver, source: str = "127.0.0.1") -> None:
    """An ordinary sender: associate, store, echo, release; then row and file are there."""
    data, sop_uid = one_slice()
    with RawPeer(running.port, source) as peer:
        assert peer.associate() == ACCEPTED
        assert peer.store(data, sop_uid) == SUCCESS
        assert peer.echo() == SUCCESS
        assert peer.release() == RELEASED
    (kept,) = running.kept(sop_uid)
    assert kept.endswith(data)


@pytest.fixture
def peer(receiver: Receiver) -> Iterator[RawPeer]:
    """A raw caller with an association."""
    with RawPeer(receiver.port) as made:
        assert made.associate() == ACCEPTED
        yield made


@pytest.fixture
def callers(receiver: Receiver) -> Iterator[Callable[..., RawPeer]]:
    """Makes raw connections, and hangs up at the end."""
    with ExitStack() as stack:
        yield lambda source="127.0.0.1": stack.enter_context(RawPeer(receiver.port, source))


# --- who stalls -------------------------------------------------------------------------------------------------------

HALF_A_HEADER, HALF_A_PDU = b"\x01\x00\x00", b"\x01\x00\x00\x00\x01\x00" + bytes(10)


@row(1, 2, 5)
@pytest.mark.parametrize("stub", [HALF_A_HEADER, HALF_A_PDU, b"\x55\x00\x00\x00\x00\x10ab"])
def test_a_beginning_that_never_ends(receiver: Receiver, callers: Callable[..., RawPeer], stub: bytes) -> None:
    """Ten of them hold nobody up, and each is gone after its deadline."""
    stalled = [callers().send(stub) for _ in range(10)]
    serve_one(receiver)
    assert all(peer.heard_the_end() for peer in stalled)


@row(2)
def test_a_fragment_that_never_ends(receiver: Receiver, callers: Callable[..., RawPeer]) -> None:
    """Ten associations, each with half a P-DATA inside a data set: cut, their places are free and their parts gone."""
    stalled = [callers() for _ in range(10)]
    for peer in stalled:
        assert peer.associate() == ACCEPTED
        head, body = pdu.store(bytes(4000), "1.2.3")
        peer.send(head, pdu.p_data(pdv(1, 0, bytes(100))), body[:2000])
    assert all(peer.heard_the_end() for peer in stalled)


@row(3)
def test_a_byte_now_and_then(callers: Callable[..., RawPeer]) -> None:
    """Bytes that keep coming do not move the deadline."""
    peer, begun, request = callers(), time.monotonic(), pdu.associate_rq()
    for byte in request[:60]:
        peer.send(bytes([byte]))
        time.sleep(0.1)
    assert peer.heard_the_end()
    assert time.monotonic() - begun < 60 * 0.1 + 3


@row(1, 4)
def test_a_request_that_comes_just_when_the_wait_is_over(callers: Callable[..., RawPeer]) -> None:
    """Its header in time for the association, its body too late: pynetdicom then waits for itself, for ever."""
    peer, request = callers(), pdu.associate_rq()
    time.sleep(ASSOCIATE_S - 0.4)
    peer.send(request[:20])
    time.sleep(0.7)
    peer.send(request[20:])
    assert peer.heard_the_end()


@row(4)
def test_silence_before_an_association(receiver: Receiver, callers: Callable[..., RawPeer]) -> None:
    """Ten silent callers beside ten associations at most: an eleventh caller is served, the silent ones are let go."""
    silent = [callers() for _ in range(10)]
    serve_one(receiver)
    assert all(peer.heard_the_end() for peer in silent)


@row(4, 13)
def test_silence_inside_an_association(peer: RawPeer) -> None:
    """After idle_timeout_s the node aborts."""
    begun = time.monotonic()
    assert peer.hear() == ABORTED
    assert time.monotonic() - begun < IDLE_S + 5


@row(1)
def test_sigterm_with_stalled_peers(tmp_path: Path) -> None:
    """Half a header, half a request, half an object, silence, idleness: it ends by itself before it would be killed."""
    with Receiver(tmp_path, (60.0, 60.0)) as running, ExitStack() as stack:
        for stub in (HALF_A_HEADER, HALF_A_PDU, b"", pdu.associate_rq()):
            stack.enter_context(RawPeer(running.port)).send(stub)
        storing = stack.enter_context(RawPeer(running.port))
        assert storing.associate() == ACCEPTED
        storing.send(*pdu.store(bytes(HELD_BYTES + 100_000), "1.2.3")[:-1])
        assert eventually(lambda: len(running.parts()) == 1)
        code, seconds = running.terminate()
        assert (code, seconds < STOP_S) == (0, True), running.said()
        assert running.parts() == []


# --- who sends too much -----------------------------------------------------------------------------------------------


@row(6, 7)
@pytest.mark.parametrize(
    ("inside", "kind", "length"), [(False, 1, 0xFFFFFFFF), (False, 4, 64 << 20), (True, 4, 64 << 20)]
)
def test_a_giant_pdu(receiver: Receiver, callers: Callable[..., RawPeer], inside: bool, kind: int, length: int) -> None:
    """Cut at its header: the sender cannot push more than the sockets hold, and memory does not grow."""
    peer = callers()
    assert not inside or peer.associate() == ACCEPTED
    receiver.forget_peak()
    before = receiver.use().rss_mb
    peer.send(pdu.pdu(kind, bytes(1 << 20), length), *[bytes(1 << 20)] * 63)
    assert peer.heard_the_end()
    assert receiver.peak_mb() - before < 16


@row(8)
def test_an_endless_data_set_of_an_echo(receiver: Receiver, peer: RawPeer) -> None:
    """What pynetdicom would collect in memory ends at 4 MB."""
    receiver.forget_peak()
    before = receiver.use().rss_mb
    command = pdu.command_set((2, VERIFICATION.encode()), (0x100, 0x30), (0x110, 1), (0x800, 0))
    peer.send(p_data(pdv(5, COMMAND | LAST, command)), *[p_data(pdv(5, 0, bytes(16000)))] * 4000)
    assert peer.heard_the_end()
    assert receiver.peak_mb() - before < 24


@row(8)
@pytest.mark.parametrize("control", [COMMAND, 0])
def test_an_endless_message(receiver: Receiver, peer: RawPeer, control: int) -> None:
    """A command set ends at 64 kB and an object at max_object_mb, both in an abort; the part goes, memory stays."""
    receiver.forget_peak()
    before = receiver.use().rss_mb
    if not control:
        peer.send(p_data(pdv(1, COMMAND | LAST, pdu.store_command("1.2.3"))))
    piece = p_data(pdv(1, control, bytes(16000)))
    peer.send(*[piece] * ((OBJECT_MB + 8) * MEGABYTE // 16000))
    assert peer.heard_the_end()
    assert receiver.peak_mb() - before < 24
    assert receiver.kept("1.2.3") == []


@row(9)
def test_requests_without_waiting(receiver: Receiver, peer: RawPeer) -> None:
    """Two hundred at once are more than anybody agreed on: aborted, and whatever was told Success is there."""
    sent = [one_slice() for _ in range(200)]
    said: list[int] = []

    def listen() -> None:
        while peer.hear() == DATA:
            said.append(pdu.status_of(peer.body) or 0)

    ear = threading.Thread(target=listen)
    ear.start()
    peer.send(*(pdu.pieces(pdu.store(data, uid, message_id=at)) for at, (data, uid) in enumerate(sent, 1)))
    ear.join(30)
    assert not ear.is_alive()
    assert len(said) < 200
    assert all(receiver.kept(uid) for (_, uid), status in zip(sent, said, strict=False) if status == SUCCESS)


@row(9)
def test_two_requests_of_one_message_id(peer: RawPeer) -> None:
    """The first is not answered yet when the second begins: nobody could tell the answers apart."""
    first, second = one_slice(), one_slice()
    peer.send(pdu.pieces(pdu.store(*first) + pdu.store(*second)))
    heard = [peer.hear(), peer.hear()]
    if ABORTED not in heard and GONE not in heard:
        assert heard == [DATA, DATA], "the first was answered before the second had begun: nothing is wrong with that"


@row(10)
def test_more_associations_than_allowed(receiver: Receiver, callers: Callable[..., RawPeer]) -> None:
    """Forty ask, ten are taken, thirty are told: transient, presentation, local limit exceeded."""
    assert eventually(lambda: receiver.talking() == 0)
    asking = [callers().send(pdu.associate_rq()) for _ in range(40)]
    answers = [(peer.hear(), peer.body[1:4]) for peer in asking]
    assert [kind for kind, _ in answers].count(ACCEPTED) == 10
    assert {said for kind, said in answers if kind == REJECTED} == {bytes((2, 3, 2))}


@row(11)
def test_a_flood_of_silent_connections(receiver: Receiver, callers: Callable[..., RawPeer]) -> None:
    """A hundred and fifty from one address are capped; a sender from another one is served at once."""
    flood = [callers() for _ in range(150)]
    begun = time.monotonic()
    serve_one(receiver, source="127.0.0.2")
    assert time.monotonic() - begun < 10
    assert receiver.use().threads < 120
    assert all(peer.heard_the_end() for peer in flood)


@row(12)
def test_descriptors_above_1024(tmp_path: Path) -> None:
    """A process that has more than select can count still answers."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4096:
        pytest.skip("this machine does not allow so many descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(1200)]
    try:
        crowded = Receiver(tmp_path)
        crowded.descriptors_before = tuple(held)
        with crowded as running:
            assert running.use().descriptors > 1200
            serve_one(running)
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# --- who is not who he says -------------------------------------------------------------------------------------------


@row(16)
@pytest.mark.parametrize(
    ("calling", "called", "diagnostic"),
    [(b"PACS", b"EVIL", 7), (b"EVIL", b"NPC_RTNODE", 3), (b"pacs", b"NPC_RTNODE", 3)],
)
def test_wrong_titles(callers: Callable[..., RawPeer], calling: bytes, called: bytes, diagnostic: int) -> None:
    """Rejected for good, by the service user, with its diagnostic."""
    peer = callers()
    assert peer.associate(calling=calling, called=called) == REJECTED
    assert peer.body[1:4] == bytes((1, 1, diagnostic))
    assert peer.heard_the_end()


@row(16)
def test_no_titles(callers: Callable[..., RawPeer]) -> None:
    """Sixteen spaces name nobody: no association."""
    peer = callers()
    assert peer.associate(calling=b"", called=b"") in (REJECTED, ABORTED)
    assert peer.heard_the_end()


@row(17)
@pytest.mark.parametrize("sop_class", [str(CTImageStorage), VERIFICATION, "1.2.3.4"])
def test_a_class_that_is_not_the_contexts(receiver: Receiver, peer: RawPeer, sop_class: str) -> None:
    """A900, the association lives, nothing is kept."""
    data, sop_uid = one_slice(SOPClassUID=sop_class)
    assert peer.store(data, sop_uid, sop_class=sop_class) == MISMATCH
    assert peer.echo() == SUCCESS
    assert receiver.kept(sop_uid) == []


@row(18)
@pytest.mark.parametrize("hostile", ["../../../tmp/EVIL", "/tmp/EVIL", "1.2\n3", "1.2;$(id)EVIL", ""])
def test_uids_that_are_no_uids(receiver: Receiver, peer: RawPeer, hostile: str) -> None:
    """C000, and every name below the home is one of ours."""
    data, _ = one_slice()
    assert peer.store(data, hostile) == NOT_UNDERSTOOD
    assert peer.echo() == SUCCESS
    assert [path for path in receiver.home.rglob("*") if "EVIL" in path.name] == []
    assert not Path("/tmp/EVIL").exists()


# --- what is no slice -------------------------------------------------------------------------------------------------


@row(19)
@pytest.mark.parametrize("what", ["nothing", "no data set", "noise", "other VR"])
def test_no_data_set_to_speak_of(receiver: Receiver, peer: RawPeer, what: str) -> None:
    """C000 and nothing kept, whether it is missing, empty, noise or encoded otherwise than agreed."""
    data, sop_uid = one_slice()
    if what == "no data set":
        head = p_data(pdv(1, COMMAND | LAST, pdu.store_command(sop_uid, data_set=pdu.NO_DATA_SET)))
        assert peer.answer([head]) == NOT_UNDERSTOOD
    else:
        sent = {"nothing": b"", "noise": bytes(range(256)) * 4, "other VR": data}[what]
        assert peer.store(sent, sop_uid, context=3 if what == "other VR" else 1) == NOT_UNDERSTOOD
    assert peer.echo() == SUCCESS
    assert receiver.kept(sop_uid) == []


@row(20)
@pytest.mark.parametrize("wrong", ["SOPInstanceUID", "SOPClassUID"])
def test_command_and_data_set_disagree(receiver: Receiver, peer: RawPeer, wrong: str) -> None:
    """A900 as from Orthanc and DCMTK, and neither name is kept."""
    data, inside = one_slice(**({"SOPClassUID": str(CTImageStorage)} if wrong == "SOPClassUID" else {}))
    announced = "1.2.3.4.5" if wrong == "SOPInstanceUID" else inside
    assert peer.store(data, announced) == MISMATCH
    assert receiver.kept(announced) == receiver.kept(inside) == []


@row(21)
@pytest.mark.parametrize("missing", [1, 2, 100])
def test_pixels_that_are_not_all_there(receiver: Receiver, peer: RawPeer, missing: int) -> None:
    """One byte less than announced is as little a slice as half of it."""
    data, sop_uid = one_slice()
    assert peer.store(data[:-missing], sop_uid) == NOT_UNDERSTOOD
    assert receiver.kept(sop_uid) == []


@row(21)
def test_pixels_of_another_size(peer: RawPeer) -> None:
    """Structurally whole, and yet not Rows x Columns."""
    data, sop_uid = one_slice(Rows=9)
    assert peer.store(data, sop_uid) == NOT_UNDERSTOOD


@row(22)
def test_a_deflated_bomb(receiver: Receiver, callers: Callable[..., RawPeer]) -> None:
    """Deflate is never agreed to, data on that context end in an abort, and elsewhere they are only noise."""
    bomb = zlib.compress(bytes(256 << 20), 1)
    receiver.forget_peak()
    before, peer = receiver.use().rss_mb, callers()
    assert peer.associate() == ACCEPTED
    assert peer.store(bomb, "1.2.3") == NOT_UNDERSTOOD
    other = callers()
    assert other.associate([Context(1, MR, (pdu.DEFLATED,)), Context(3, MR, (EXPLICIT,))]) == ACCEPTED
    assert other.accepted() == {1: 4, 3: 0}
    assert other.store(bomb, "1.2.3", context=1) is None
    assert receiver.peak_mb() - before < 16


@row(23)
@pytest.mark.parametrize("depth", [33, 300, 60_000])
def test_sequences_within_sequences(peer: RawPeer, depth: int) -> None:
    """C000, however deep; the association goes on."""
    data, sop_uid = one_slice()
    tag, undefined = struct.pack("<HH", 0x0008, 0x1140), b"\xff" * 4
    opening = (tag + b"SQ\0\0" + undefined + b"\xfe\xff\x00\xe0" + undefined) * depth
    closing = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0" * depth
    at = data.index(struct.pack("<HH", 0x0010, 0x0010))
    assert peer.store(data[:at] + opening + closing + data[at:], sop_uid) == NOT_UNDERSTOOD
    assert peer.echo() == SUCCESS


@row(24)
def test_a_million_empty_items(receiver: Receiver, peer: RawPeer) -> None:
    """C000 after a quarter of them, in seconds and without memory for them."""
    data, sop_uid = one_slice()
    items = b"\xfe\xff\x00\xe0\0\0\0\0" * 1_000_000
    sequence = struct.pack("<HH2sHL", 0x0008, 0x1140, b"SQ", 0, len(items)) + items
    at, begun = data.index(struct.pack("<HH", 0x0010, 0x0010)), time.monotonic()
    receiver.forget_peak()
    before = receiver.use().rss_mb
    assert peer.store(data[:at] + sequence + data[at:], sop_uid) == NOT_UNDERSTOOD
    assert time.monotonic() - begun < 10
    assert receiver.peak_mb() - before < 32, "its pages of the part file, mapped"


@row(25)
def test_an_image_too_large_to_decode(peer: RawPeer) -> None:
    """Refused by its geometry, before anybody asks for 8 GiB."""
    ds = slice_dataset(SeriesSpec(rows=8, columns=8), 0)
    ds.Rows = ds.Columns = 65535
    ds.PixelData = encapsulate([bytes(64)])
    ds["PixelData"].is_undefined_length = True
    ds.file_meta.TransferSyntaxUID = UID(pdu.RLE)
    assert peer.store(encoded(ds), str(ds.SOPInstanceUID), context=7) == NOT_UNDERSTOOD


# --- what is large, cut, or finds no room -----------------------------------------------------------------------------


def large(megabytes: int) -> tuple[Dataset, bytes]:
    """A slice of so many MB."""
    ds = slice_dataset(SeriesSpec(rows=8, columns=8), 0)
    ds.SOPInstanceUID = derived_uid(f"large {os.getpid()} {next(_names)}", "guards")
    ds.Rows, ds.Columns = megabytes * 512, 1024
    ds.PixelData = os.urandom(1 << 20) * megabytes
    return ds, encoded(ds)


@row(26)
def test_a_large_object_is_not_held_in_memory(receiver: Receiver, peer: RawPeer) -> None:
    """Forty megabytes arrive whole while the process grows by a few."""
    ds, data = large(40)
    receiver.forget_peak()
    before = receiver.use().rss_mb
    assert peer.store(data, ds.SOPInstanceUID) == SUCCESS
    assert receiver.peak_mb() - before < 20
    (kept,) = receiver.kept(ds.SOPInstanceUID)
    assert kept.endswith(data)


@row(27)
@pytest.mark.parametrize("how", ["hang up", "abort", "release", "another context", "command again", "no command"])
@pytest.mark.parametrize("megabytes", [1, 3])
def test_cut_in_mid_transfer(receiver: Receiver, peer: RawPeer, how: str, megabytes: int) -> None:
    """However it ends early, held in memory or in its part file already: no part, no row and no thread is left, and
    nobody was told Success."""
    data, sop_uid = one_slice()
    head, *rest = pdu.store(data + bytes(megabytes << 20), sop_uid)
    if how != "no command":
        peer.send(head, *rest[:-1])
        assert eventually(lambda: len(receiver.parts()) == (megabytes << 20 > HELD_BYTES))
    cuts = {
        "abort": pdu.ABORT,
        "release": pdu.RELEASE,
        "another context": p_data(pdv(99, 0, bytes(10))),
        "command again": head,
        "no command": rest[0],
    }
    if how == "hang up":
        peer.socket.close()
    else:
        peer.send(cuts[how])
        assert peer.heard_the_end()
    assert eventually(lambda: receiver.parts() == [])
    assert receiver.kept(sop_uid) == []


@row(27)
def test_fragments_of_two_contexts_in_one_message(receiver: Receiver, peer: RawPeer) -> None:
    """A data set that goes on in another, agreed context is nobody's: aborted."""
    data, sop_uid = one_slice()
    head, *_ = pdu.store(data, sop_uid)
    peer.send(head, p_data(pdv(1, 0, data[:100])), p_data(pdv(3, LAST, data[100:])))
    assert peer.heard_the_end()
    assert receiver.kept(sop_uid) == []


@row(28)
def test_a_disk_that_fills_in_mid_transfer(tmp_path: Path) -> None:
    """A700 while there is no room, the association lives, no part keeps the disk full; with room it is taken."""
    disk = SmallDisk(tmp_path / "home" / "spool", 64 * MEGABYTE)
    try:
        with Receiver(tmp_path) as running, RawPeer(running.port) as peer:
            assert peer.associate() == ACCEPTED
            ds, data = large(20)
            disk.leave(8 * MEGABYTE)
            assert peer.store(data, ds.SOPInstanceUID) == NO_RESOURCES
            assert running.parts() == []
            assert peer.echo() == SUCCESS
            disk.leave(64 * MEGABYTE)
            assert peer.store(data, ds.SOPInstanceUID) == SUCCESS
            assert len(running.kept(ds.SOPInstanceUID)) == 1
    finally:
        disk.close()


@row(29)
def test_a_spool_that_cannot_be_written(receiver: Receiver, peer: RawPeer) -> None:
    """Whatever the fault, the sender is asked to send again, on the same association; what the intake journal could
    take all the same waits there, and has its file and its row as soon as the spool can be written."""
    (ds, data), (small, sop_uid) = large(3), one_slice()
    place = receiver.home / "spool" / "incoming"
    place.rename(place.with_name("away"))
    try:
        assert peer.store(data, ds.SOPInstanceUID) == NO_RESOURCES
        assert peer.store(small, sop_uid) == SUCCESS
        time.sleep(1)
        assert receiver.waiting() > 0
    finally:
        place.with_name("away").rename(place)
    assert peer.store(data, ds.SOPInstanceUID) == SUCCESS
    assert len(receiver.kept(sop_uid)) == len(receiver.kept(ds.SOPInstanceUID)) == 1


# --- the rest ---------------------------------------------------------------------------------------------------------


@row(30)
def test_nothing_of_a_peer_is_logged(receiver: Receiver, callers: Callable[..., RawPeer]) -> None:
    """Titles with escape sequences and line breaks, a malformed request: none of it is in the log."""
    for title in (b"EVIL\x1b[31m", b"EVIL\nroot:x", b"EVIL'%s%d"):
        assert callers().associate(calling=title) in (REJECTED, ABORTED)
    assert callers().send(b"\x01\x00\x00\x00\x00\x04EVIL").heard_the_end()
    assert [word for word in CANARIES if word in receiver.said()] == []


def test_the_receivers_process_stays_small() -> None:
    """All that `serve --only receive` loads: no torch, MONAI, SimpleITK, scipy, rt_utils, highdicom or pixel codec."""
    heavy = ["torch", "monai", "rt_utils", "SimpleITK", "highdicom", "cv2", "scipy", "skimage", "rtree"]
    code = f"""
import sys
from npc_rtnode.cli import app
import npc_rtnode.app, npc_rtnode.adapters.dicom.listener.server
found = [name for name in {heavy} if name in sys.modules]
sys.exit(f"loaded: {{found}}" if found else 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60, check=False
    )
    assert done.returncode == 0


def test_every_row_has_its_test() -> None:
    """No row of the catalogue without a test here or a named one elsewhere."""
    assert sorted(_TESTED | set(ELSEWHERE)) == sorted(ROWS)
    for place in ELSEWHERE.values():
        file, test = place.split("::")
        assert f"def {test}(" in (ROOT / file).read_text("utf-8")
