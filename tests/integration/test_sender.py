"""The sender on the wire: what counts as delivered, what each refusal is called, and that no peer holds it for ever."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread, uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ

from npc_rtnode.adapters.dicom.calling import make_ready
from npc_rtnode.adapters.dicom.sender import SOP_CLASSES, DicomSender, refusal_of, send_files
from npc_rtnode.domain.records import ObjectKind, WrittenObject
from npc_rtnode.errors import (
    AssociationRejected,
    ContextRefused,
    ObjectRefused,
    PeerBusy,
    PeerConfused,
    PeerError,
    PeerStalled,
    Unreachable,
    Unreadable,
)
from npc_rtnode.settings import Destination
from tests.builders.mr_series import make_series
from tests.fakes.scp import Faults, FaultySCP, dripping, raw_peer, silent

EXPLICIT, IMPLICIT = str(uid.ExplicitVRLittleEndian), str(uid.ImplicitVRLittleEndian)
SR = SOP_CLASSES[ObjectKind.SR]
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
SENDER = DicomSender(now=lambda: NOW)


def rtstruct(implicit: bool = False, padding: int = 0) -> WrittenObject:
    """A small object of ours as a DICOM file, with a private element that only its own VR tells about."""
    ds, sop_class = Dataset(), SOP_CLASSES[ObjectKind.RTSTRUCT]
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, "2.25.1234"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.Modality = "2.25.1", "2.25.2", "RTSTRUCT"
    ds.PatientName, ds.PatientID = "TEST^PHANTOM", "PHANTOM-1"
    ds.StructureSetLabel = "AI DRAFT GTVp"
    ds.add_new(0x00091010, "OB", bytes(padding))
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = IMPLICIT if implicit else EXPLICIT
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = sop_class, ds.SOPInstanceUID
    buffer = BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    return WrittenObject(ObjectKind.RTSTRUCT, sop_class, ds.SOPInstanceUID, buffer.getvalue())


def destination(port: int, **wishes: Any) -> Destination:
    usual = {"name": "tps", "ae_title": "FAULTY", "host": "127.0.0.1", "port": port, "timeout_s": 3, "wall_clock_s": 8}
    return Destination(**{**usual, **wishes})


@pytest.fixture
def scp(tmp_path: Path) -> Iterator[Callable[..., tuple[FaultySCP, int]]]:
    """Starts destinations with the faults wished for, and stops them."""
    with contextlib.ExitStack() as stack:

        def start(**faults: Any) -> tuple[FaultySCP, int]:
            wishes = {name: faults.pop(name) for name in ("storage_classes",) if name in faults}
            one = FaultySCP(tmp_path / "stored", Faults(**faults), **wishes)
            stack.callback(one.stop)
            return one, one.start()

        yield start


def dataset_bytes(item: WrittenObject) -> bytes:
    meta = dcmread(BytesIO(item.encoded)).file_meta
    return item.encoded[144 + meta.FileMetaInformationGroupLength :]


# --- delivered --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("implicit", [False, True])
def test_the_stored_bytes_are_the_bytes_sent(scp: Callable[..., tuple[FaultySCP, int]], implicit: bool) -> None:
    """Where the peer takes the file's own VR encoding first, not a byte of the data set is changed."""
    peer, port = scp()
    item = rtstruct(implicit)
    receipt = SENDER.send(item, destination(port, transfer_syntax="implicit" if implicit else "explicit"))
    assert (receipt.status, receipt.warning, receipt.at) == (0, False, NOW)
    assert peer.received[0].encoded == dataset_bytes(item)
    assert peer.received[0].calling_ae == "NPC_RTNODE"


@pytest.mark.parametrize("implicit", [False, True])
def test_the_other_vr_encoding_on_wish(scp: Callable[..., tuple[FaultySCP, int]], implicit: bool) -> None:
    """A destination that is to get the other VR encoding gets it, with the same elements and values."""
    peer, port = scp()
    item = rtstruct(implicit, padding=8)
    SENDER.send(item, destination(port, transfer_syntax="explicit" if implicit else "implicit"))
    assert peer.received[0].transfer_syntax_uid == (EXPLICIT if implicit else IMPLICIT)
    sent, stored = dcmread(BytesIO(item.encoded)), dcmread(peer.received[0].path)
    assert [(e.tag, e.value) for e in sent] == [(e.tag, e.value) for e in stored]


def test_a_warning_is_stored_with_a_warning(scp: Callable[..., tuple[FaultySCP, int]]) -> None:
    """B000 means that the peer has it, with elements coerced."""
    receipt = SENDER.send(rtstruct(), destination(scp(statuses=[0xB000])[1]))
    assert (receipt.status, receipt.warning) == (0xB000, True)


def test_busy_twice_then_accepted(scp: Callable[..., tuple[FaultySCP, int]]) -> None:
    """A700 is transient: the same object goes through on the third attempt."""
    peer, port = scp(statuses=[0xA700, 0xA700])
    for _ in range(2):
        with pytest.raises(PeerBusy, match="A700"):
            SENDER.send(rtstruct(), destination(port))
    assert SENDER.send(rtstruct(), destination(port)).status == 0
    assert len(peer.received) == 1


@pytest.mark.peer("storescp")
def test_dcmtk_stores_what_we_send(tmp_path: Path, peer: Callable[[str], str]) -> None:
    """DCMTK's storescp keeps the very data set."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    scp = subprocess.Popen([peer("storescp"), "+B", "-od", str(tmp_path), str(port)])
    try:
        item = rtstruct()
        for _ in range(20):
            with contextlib.suppress(Unreachable):
                assert SENDER.send(item, destination(port, transfer_syntax="explicit")).status == 0
                break
        (stored,) = tmp_path.iterdir()
        assert stored.read_bytes().endswith(dataset_bytes(item))
    finally:
        scp.terminate()
        scp.wait(10)


# --- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (0x0000, None), (0xB000, None), (0xB006, None), (0xB007, None), (0xBFFF, None),
        (0xA700, PeerBusy), (0xA701, PeerBusy), (0x0110, PeerBusy), (0x0213, PeerBusy),
        (0x0111, ObjectRefused), (0x0117, ObjectRefused), (0x0122, ObjectRefused), (0x0124, ObjectRefused),
        (0x0210, ObjectRefused), (0x0211, ObjectRefused), (0xA800, ObjectRefused), (0xA900, ObjectRefused),
        (0xC000, ObjectRefused), (0xC123, ObjectRefused), (0xFE00, ObjectRefused), (0xFF00, ObjectRefused),
        (0x0001, ObjectRefused),
    ],
)  # fmt: skip
def test_each_status_has_its_meaning(status: int, kind: type[PeerError] | None) -> None:
    """PS3.4 B.2.3 and PS3.7 C: stored, to be tried again, or refused for good."""
    assert refusal_of(status) is kind


@pytest.mark.parametrize(("status", "kind"), [(0xC000, ObjectRefused), (0x0122, ObjectRefused), (0xA702, PeerBusy)])
def test_a_refusal_names_its_status(
    scp: Callable[..., tuple[FaultySCP, int]], status: int, kind: type[PeerError]
) -> None:
    """The error carries the status word for the ledger."""
    with pytest.raises(kind, match=f"{status:04X}"):
        SENDER.send(rtstruct(), destination(scp(statuses=[status])[1]))


@pytest.mark.parametrize("fault", ["wrong_message_id", "wrong_sop_uid"])
def test_an_answer_for_something_else_counts_for_nothing(scp: Callable[..., tuple[FaultySCP, int]], fault: str) -> None:
    """pynetdicom takes it for Success; here it is PeerConfused (intake.md 1.3)."""
    with pytest.raises(PeerConfused):
        SENDER.send(rtstruct(), destination(scp(**{fault: True})[1]))


@pytest.mark.parametrize("fault", ["hang_up", "cut"])
def test_a_peer_that_goes_away(scp: Callable[..., tuple[FaultySCP, int]], fault: str) -> None:
    """An abort or a closed connection before the answer is an error, never Success."""
    with pytest.raises(PeerError):
        SENDER.send(rtstruct(), destination(scp(**{fault: True})[1]))


def test_a_class_that_the_peer_does_not_take(scp: Callable[..., tuple[FaultySCP, int]]) -> None:
    """No presentation context: ContextRefused, which no waiting heals."""
    with pytest.raises(ContextRefused) as caught:
        SENDER.send(rtstruct(), destination(scp(storage_classes=(SR,))[1]))
    assert not caught.value.transient


@pytest.mark.parametrize("reject", [(1, 1, 7), (2, 3, 2)])
def test_a_rejected_association(scp: Callable[..., tuple[FaultySCP, int]], reject: tuple[int, int, int]) -> None:
    """Permanent or transient, the reason is in the error."""
    with pytest.raises(AssociationRejected, match=r"(?i)rejected"):
        SENDER.send(rtstruct(), destination(scp(reject=reject)[1]))


def test_nobody_there() -> None:
    """A closed port, and a name that does not exist, are Unreachable."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(Unreachable):
        SENDER.send(rtstruct(), destination(port))
    with pytest.raises(Unreachable):
        SENDER.echo(destination(port, host="no-such-host.invalid"))


def test_an_object_that_is_not_what_it_says() -> None:
    """The file's own UID must be the object's."""
    item = rtstruct()
    with pytest.raises(Unreadable):
        SENDER.send(WrittenObject(item.kind, item.sop_class_uid, "2.25.9", item.encoded), destination(1))


# --- stalled ----------------------------------------------------------------------------------------------------------


def test_a_scp_that_does_not_answer(scp: Callable[..., tuple[FaultySCP, int]]) -> None:
    """Silence longer than timeout_s ends the attempt."""
    begun = time.monotonic()
    with pytest.raises(PeerStalled):
        SENDER.send(rtstruct(), destination(scp(stall_s=30)[1], timeout_s=0.7))
    assert time.monotonic() - begun < 6


@pytest.mark.parametrize("behave", [silent, dripping])
def test_the_wall_clock_ends_what_pynetdicom_would_not(behave: Callable[[socket.socket], None]) -> None:
    """A silent peer and one that drips its answer: PeerStalled within the wall clock (intake.md 1.3)."""
    begun = time.monotonic()
    with raw_peer(behave) as port, pytest.raises(PeerStalled):
        SENDER.send(rtstruct(), destination(port, timeout_s=60, wall_clock_s=2))
    assert time.monotonic() - begun < 8


def test_a_peer_that_stops_reading(tmp_path: Path) -> None:
    """An object of 40 MB to a peer that accepts the association and then reads no more: PeerStalled."""

    def accept_then_sleep(connection: socket.socket) -> None:
        request = A_ASSOCIATE_RQ()
        request.decode(connection.recv(65536))
        primitive = request.to_primitive()
        for context in primitive.presentation_context_definition_list:
            context.result, context.transfer_syntax = 0, context.transfer_syntax[:1]
        primitive.presentation_context_definition_results_list = primitive.presentation_context_definition_list
        primitive.result, primitive.result_source = 0, 1
        connection.sendall(A_ASSOCIATE_AC(primitive).encode())
        time.sleep(6)

    with raw_peer(accept_then_sleep) as port, pytest.raises(PeerStalled):
        SENDER.send(rtstruct(padding=40 << 20), destination(port, timeout_s=1, wall_clock_s=5))


def test_no_child_is_left_behind(scp: Callable[..., tuple[FaultySCP, int]]) -> None:
    """After a success and after a kill, the server of children has none."""
    SENDER.echo(destination(scp()[1]))
    with pytest.raises(PeerStalled):
        SENDER.send(rtstruct(), destination(scp(stall_s=30)[1], wall_clock_s=1.5))
    ours = children_of(os.getpid())
    (server,) = [pid for pid in ours if b"forkserver" in cmdline(pid)]
    assert children_of(server) == []


def children_of(pid: int) -> list[int]:
    """The children of all threads of a process."""
    said = [path.read_text("ascii").split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(child) for children in said for child in children]


def test_a_second_call_needs_no_second_server(scp: Callable[..., tuple[FaultySCP, int]]) -> None:
    """The server is started once; a call after its death starts another."""
    there = destination(scp()[1])
    make_ready()
    servers = set()
    for _ in range(2):
        SENDER.echo(there)
        servers |= {pid for pid in children_of(os.getpid()) if b"forkserver" in cmdline(pid)}
    (server,) = servers
    os.kill(server, signal.SIGKILL)
    SENDER.echo(there)


def cmdline(pid: int) -> bytes:
    """What a process was started as."""
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_the_child_dies_with_its_parent(tmp_path: Path) -> None:
    """A parent killed with SIGKILL takes its sending child with it, and the server that made the child."""
    script = tmp_path / "parent.py"
    script.write_text(
        "import sys\n"
        "from npc_rtnode.adapters.dicom.sender import DicomSender\n"
        "from npc_rtnode.settings import Destination\n"
        "if __name__ == '__main__':\n"
        "    DicomSender().echo(Destination(name='tps', ae_title='X', host='127.0.0.1', port=int(sys.argv[1]),\n"
        "                                   timeout_s=60, wall_clock_s=60))\n"
    )
    arrived: list[float] = []

    descendants: list[int] = []

    def behave(connection: socket.socket) -> None:
        connection.recv(65536)
        descendants.extend(pid for child in children_of(parent.pid) for pid in (child, *children_of(child)))
        parent.send_signal(signal.SIGKILL)
        with contextlib.suppress(ConnectionError):
            assert connection.recv(1) == b""
        arrived.append(time.monotonic())

    with raw_peer(behave) as port:
        parent = subprocess.Popen([sys.executable, str(script), str(port)], env={**os.environ, "PYTHONPATH": "."})
        parent.wait(20)
        begun = time.monotonic()
        while not (arrived and gone(descendants)) and time.monotonic() - begun < 10:
            time.sleep(0.05)
    assert arrived
    assert len(descendants) >= 2
    assert gone(descendants)


def gone(pids: list[int]) -> bool:
    """Whether none of them runs any more."""
    states = [Path(f"/proc/{pid}/stat") for pid in pids]
    return all(not path.exists() or path.read_text("ascii").rsplit(")", 1)[1].split()[0] == "Z" for path in states)


# --- echo, negotiate, files -------------------------------------------------------------------------------------------


def test_echo_takes_its_time(scp: Callable[..., tuple[FaultySCP, int]]) -> None:
    """Seconds from connecting to the answer."""
    assert 0 < SENDER.echo(destination(scp()[1])) < 3


def test_echo_answer_must_be_ours(scp: Callable[..., tuple[FaultySCP, int]]) -> None:
    """A wrong Message ID counts for nothing here either."""
    with pytest.raises(PeerConfused):
        SENDER.echo(destination(scp(wrong_message_id=True)[1]))


@pytest.mark.parametrize(
    ("classes", "expected"), [(tuple(SOP_CLASSES.values()), (True, True)), ((SR,), (False, True)), ((), (False, False))]
)
def test_negotiate_says_which_objects_it_would_take(
    scp: Callable[..., tuple[FaultySCP, int]], classes: tuple[str, ...], expected: tuple[bool, bool]
) -> None:
    """For `doctor`: which of our SOP Classes are accepted, nothing sent."""
    peer, port = scp(storage_classes=classes)
    taken = SENDER.negotiate(destination(port))
    assert (taken[ObjectKind.RTSTRUCT], taken[ObjectKind.SR]) == expected
    assert peer.received == []


def test_many_files_in_one_association(scp: Callable[..., tuple[FaultySCP, int]], tmp_path: Path) -> None:
    """Each file has its own status, and a failure in between does not stop the rest."""
    peer, port = scp(statuses=[0x0000, 0xC000])
    files = make_series(tmp_path / "series", slices=4)
    outcomes = send_files(files, destination(port), calling_ae="SCANNER")
    assert [(one.path, one.status, one.stored) for one in outcomes] == [
        (files[0], 0, True), (files[1], 0xC000, False), (files[2], 0, True), (files[3], 0, True)
    ]  # fmt: skip
    sent = {hashlib.sha256(path.read_bytes()).hexdigest() for path in files[2:]}
    assert {one.calling_ae for one in peer.received} == {"SCANNER"}
    assert len(sent) == len({one.sop_uid for one in peer.received}) == 2


def test_files_of_a_refused_class_say_so(scp: Callable[..., tuple[FaultySCP, int]], tmp_path: Path) -> None:
    """MR and RTSTRUCT to a peer without MR: the one says CONTEXT_REFUSED, the other is stored."""
    _, port = scp(storage_classes=(SOP_CLASSES[ObjectKind.RTSTRUCT],))
    (tmp_path / "rs.dcm").write_bytes(rtstruct().encoded)
    files = [*make_series(tmp_path / "series", slices=1), tmp_path / "rs.dcm"]
    outcomes = send_files(files, destination(port))
    assert [(one.status, one.error) for one in outcomes] == [(None, "CONTEXT_REFUSED"), (0, "")]


def test_files_after_a_stall_are_not_sent(scp: Callable[..., tuple[FaultySCP, int]], tmp_path: Path) -> None:
    """What was answered stays answered; the rest carries the reason."""
    _, port = scp(stall_s=30, stall_after=1)
    outcomes = send_files(make_series(tmp_path / "series", slices=3), destination(port, timeout_s=1))
    assert [one.error for one in outcomes] == ["", "PEER_STALLED", "PEER_STALLED"]


def test_no_dicom_file(tmp_path: Path) -> None:
    """A path that is no DICOM file is refused before anything is sent."""
    (tmp_path / "x").write_bytes(b"no")
    with pytest.raises(Unreadable):
        send_files([tmp_path / "x"], destination(1))
