"""The Storage SCU: one object, one association, one child process that can be killed.

pynetdicom 3.0.4 as a sender hangs for ever on a dripped answer, on half a response PDU and on a peer that stops
reading, and it takes a response with a wrong Message ID or for another object as Success (intake.md 1.3). So every
attempt runs in a process of its own with a wall clock, and an answer counts only if it is for this very message and
this very SOP Instance. The bytes sent are the bytes stored; at most the VR encoding is changed, where the peer takes
no other.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, NoReturn

from pydicom import dcmread, uid
from pydicom.errors import InvalidDicomError
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_ECHO, C_STORE
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made by pynetdicom at import

from npc_rtnode.adapters.dicom.kinds import KINDS
from npc_rtnode.domain.records import ObjectKind, SendReceipt, WrittenObject
from npc_rtnode.errors import (
    AssociationRejected,
    ContextRefused,
    MomentFault,
    NodeError,
    ObjectRefused,
    PeerBusy,
    PeerConfused,
    PeerError,
    PeerStalled,
    Unreachable,
    Unreadable,
)
from npc_rtnode.kinship import die_with
from npc_rtnode.settings import Destination

SOP_CLASSES: Final = {kind: facts.sop_class_uid for kind, facts in KINDS.items()}
_IMPLICIT, _EXPLICIT = str(uid.ImplicitVRLittleEndian), str(uid.ExplicitVRLittleEndian)
_NATIVE: Final = (_IMPLICIT, _EXPLICIT)

# PS3.7 C, of the 01xx and 02xx failures: those that no waiting will heal. The rest of 01xx may be tried again.
_HOPELESS: Final = frozenset({0x0111, 0x0112, 0x0117, 0x0118, 0x0119, 0x0122, 0x0124})
_RESOURCE_LIMITATION: Final = 0x0213
_CONTEXT_LIMIT: Final = 128  # presentation contexts in one association, PS3.8 9.3.2.2
_CONNECT_TIMEOUT_S: Final = 10.0
_PARTING_S: Final = 5.0  # for the release, once the answer is here

_KNOWN: Final[dict[str, type[NodeError]]] = {
    kind.code: kind
    for kind in (
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
}


@dataclass(frozen=True)
class FileOutcome:
    """What became of one file of `send_files`: the peer's status, or the code of what kept it from answering."""

    path: Path
    status: int | None
    error: str = ""

    @property
    def stored(self) -> bool:
        """Whether the peer has it: Success, or stored with a warning."""
        return self.status is not None and refusal_of(self.status) is None


def refusal_of(status: int) -> type[PeerError] | None:
    """What a C-STORE status means (PS3.4 B.2.3, PS3.7 C): None is stored, with or without a warning (Bxxx)."""
    if status == 0x0000 or 0xB000 <= status <= 0xBFFF:
        return None
    passing = 0xA700 <= status <= 0xA7FF or 0x0100 <= status <= 0x01FF or status == _RESOURCE_LIMITATION
    return PeerBusy if passing and status not in _HOPELESS else ObjectRefused


class DicomSender:
    """Fulfils ports.Sender; every method may take `wall_clock_s` and then raises PeerStalled."""

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """`now` stamps the receipts."""
        self._now = now

    def send(self, item: WrittenObject, destination: Destination) -> SendReceipt:
        """C-STORE; returns only when the peer accepted that very message and object, else raises a PeerError."""
        order = (_call(destination), item.encoded, item.sop_uid, _offered(destination))
        status = int(_one_answer(_send_one, order, destination.wall_clock_s))
        refusal = refusal_of(status)
        if refusal:
            raise refusal(f"Status {status:04X}.")
        return SendReceipt(status=status, warning=status != 0, at=self._now())

    def echo(self, destination: Destination) -> float:
        """C-ECHO; seconds from connecting to the answer, else raises a PeerError."""
        return float(_one_answer(_echo, (_call(destination),), destination.wall_clock_s))

    def negotiate(self, destination: Destination) -> dict[ObjectKind, bool]:
        """Which of our objects it would take, by presentation context alone; nothing is sent."""
        classes = tuple(SOP_CLASSES.values())
        try:
            accepted = _one_answer(_negotiate, (_call(destination), classes), destination.wall_clock_s)
        except ContextRefused:
            accepted = ()
        return {kind: sop_class in accepted for kind, sop_class in SOP_CLASSES.items()}


def send_files(paths: Sequence[Path], destination: Destination, calling_ae: str | None = None) -> list[FileOutcome]:
    """Send DICOM files in one association; one outcome a file, in order.

    `wall_clock_s` holds for each file. Raises a PeerError when there is no association, and Unreadable for a path that
    is no DICOM file, before anything is sent; what comes to grief on the way is in the outcomes.
    """
    call = _call(destination, calling_ae)
    outcomes: list[FileOutcome] = []
    try:
        for status, error in _in_a_child(_send_many, (call, tuple(paths)), destination.wall_clock_s):
            outcomes.append(FileOutcome(paths[len(outcomes)], status, error))
    except NodeError as error:
        if not outcomes:
            raise
        outcomes += [FileOutcome(path, None, error.code) for path in paths[len(outcomes) :]]
    return outcomes


# --- here: the child and its clock ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Call:
    host: str
    port: int
    called_ae: str
    calling_ae: str
    timeout_s: float


def _call(destination: Destination, calling_ae: str | None = None) -> _Call:
    calling = calling_ae or destination.calling_ae
    return _Call(destination.host, destination.port, destination.ae_title, calling, destination.timeout_s)


def _offered(destination: Destination) -> tuple[str, str]:
    """Both VR encodings, the destination's wish first."""
    return (_IMPLICIT, _EXPLICIT) if destination.encoding == "implicit" else (_EXPLICIT, _IMPLICIT)


def _one_answer(work: Callable[..., None], order: tuple[Any, ...], wall_clock_s: float) -> Any:
    """The child's only answer: it counts as soon as it is here, however the peer takes its leave."""
    with contextlib.closing(_in_a_child(work, order, wall_clock_s)) as answers:
        return next(answers)


def _in_a_child(work: Callable[..., None], order: tuple[Any, ...], wall_clock_s: float) -> Generator[Any, None, None]:
    """What the child says while doing `work(say, *order)`; the wall clock starts anew with each answer."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe(duplex=False)
    child = spawn.Process(target=_child, args=(theirs, os.getpid(), work, order), daemon=True)
    child.start()
    theirs.close()
    parting_s = 0.0
    try:
        for answer in _answers(ours, wall_clock_s):
            parting_s = _PARTING_S
            yield answer
    except PeerStalled:
        parting_s = 0.0
        raise
    finally:
        child.join(parting_s)
        ours.close()
        child.kill()
        child.join()
        child.close()


def _answers(pipe: Connection, wall_clock_s: float) -> Iterator[Any]:
    while True:
        if not pipe.poll(wall_clock_s):
            raise PeerStalled(f"No result within {wall_clock_s:g} s; the sending process was killed.")
        try:
            code, content = pipe.recv()
        except EOFError:
            raise MomentFault("The sending process ended without an answer.") from None
        if code == "done":
            return
        if code:
            raise _KNOWN[code](content)
        yield content


# --- there: in the child ----------------------------------------------------------------------------------------------


def _child(pipe: Connection, parent: int, work: Callable[..., None], order: tuple[Any, ...]) -> None:
    """The child's whole life; it prints nothing at all: libraries put values of the data set in what they say."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    die_with(parent)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        work(lambda content: pipe.send(("", content)), *order)
    except NodeError as error:
        pipe.send((error.code, error.detail))
    else:
        pipe.send(("done", None))


def _send_one(say: Callable[[Any], None], call: _Call, encoded: bytes, sop_uid: str, offered: tuple[str, str]) -> None:
    item = _parts(encoded)
    if item.sop_uid != sop_uid:
        raise Unreadable("The file's MediaStorageSOPInstanceUID is not that of the object.")
    syntaxes = offered if item.transfer_syntax in _NATIVE else (item.transfer_syntax,)
    assoc = _associate(call, [build_context(item.sop_class, syntax) for syntax in syntaxes])
    say(_store(assoc, item, _context(assoc, item.sop_class, syntaxes), message_id=1))
    assoc.release()


def _send_many(say: Callable[[Any], None], call: _Call, paths: tuple[Path, ...]) -> None:
    wanted = sorted({(item.sop_class, item.transfer_syntax) for item in map(_read, paths)})
    if not 0 < len(wanted) <= _CONTEXT_LIMIT:
        raise Unreadable(f"{len(wanted)} kinds of object; one association takes 1 to {_CONTEXT_LIMIT}.")
    assoc = _associate(call, [build_context(*kind) for kind in wanted])
    for number, path in enumerate(paths, 1):
        item = _read(path)
        try:
            context = _context(assoc, item.sop_class, (item.transfer_syntax,))
            say((_store(assoc, item, context, message_id=(number - 1) % 65535 + 1), ""))
        except ContextRefused as error:
            say((None, error.code))
    assoc.release()


def _echo(say: Callable[[Any], None], call: _Call) -> None:
    begun = time.monotonic()
    assoc = _associate(call, [build_context(Verification)])
    request = C_ECHO()
    request.MessageID, request.AffectedSOPClassUID = 1, Verification
    status = _exchange(assoc, request, assoc.accepted_contexts[0]).Status
    if status != 0:
        raise PeerError(f"C-ECHO was answered with status {status:04X}.")
    say(time.monotonic() - begun)
    assoc.release()


def _negotiate(say: Callable[[Any], None], call: _Call, classes: tuple[str, ...]) -> None:
    contexts = [build_context(sop_class, syntax) for sop_class in classes for syntax in _NATIVE]
    assoc = _associate(call, contexts)
    say(tuple(str(context.abstract_syntax) for context in assoc.accepted_contexts))
    assoc.release()


@dataclass(frozen=True)
class _File:
    sop_class: str
    sop_uid: str
    transfer_syntax: str
    encoded: bytes  # the whole file
    offset: int  # of the data set

    def in_syntax(self, transfer_syntax: str) -> bytes:
        """The data set's bytes: as they lie there, or with the other VR encoding."""
        if transfer_syntax == self.transfer_syntax:
            return self.encoded[self.offset :]
        buffer = DicomBytesIO()
        buffer.is_little_endian, buffer.is_implicit_VR = True, transfer_syntax == _IMPLICIT
        write_dataset(buffer, dcmread(BytesIO(self.encoded)))
        return buffer.getvalue()


def _read(path: Path) -> _File:
    try:
        return _parts(path.read_bytes())
    except OSError as error:
        raise Unreadable(f"{path.name}: {error.strerror}.") from None


def _parts(encoded: bytes) -> _File:
    """Take a DICOM file apart at the end of its meta group (PS3.10 7.1)."""
    try:
        meta = dcmread(BytesIO(encoded), stop_before_pixels=True, specific_tags=["SOPInstanceUID"]).file_meta
        return _File(
            sop_class=str(meta.MediaStorageSOPClassUID),
            sop_uid=str(meta.MediaStorageSOPInstanceUID),
            transfer_syntax=str(meta.TransferSyntaxUID),
            encoded=encoded,
            offset=132 + 12 + int(meta.FileMetaInformationGroupLength),
        )
    except (InvalidDicomError, AttributeError, EOFError, ValueError):
        raise Unreadable("It is no DICOM file with a whole meta group.") from None


# --- there: the wire --------------------------------------------------------------------------------------------------


def _associate(call: _Call, contexts: list[PresentationContext]) -> Association:
    """An established association, or the reason why there is none."""
    ae = AE(call.calling_ae)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = call.timeout_s
    ae.connection_timeout = min(call.timeout_s, _CONNECT_TIMEOUT_S)
    connected: list[bool] = []
    begun = time.monotonic()
    handlers: list[Any] = [(evt.EVT_CONN_OPEN, _on_connected, [call.timeout_s, connected])]
    try:
        assoc = ae.associate(call.host, call.port, contexts=contexts, ae_title=call.called_ae, evt_handlers=handlers)
    except OSError:
        raise Unreachable(f"{call.host} is not the name of a host that can be found.") from None
    if assoc.is_established:
        return assoc
    if not connected:
        raise Unreachable(f"No connection to {call.host} port {call.port}.")
    _explain(assoc, time.monotonic() - begun)


def _on_connected(event: Any, timeout_s: float, connected: list[bool]) -> None:
    """Small messages go at once, and no read or write blocks for longer than the timeout."""
    connection = event.assoc.dul.socket.socket
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.settimeout(timeout_s)
    connected.append(True)


def _explain(assoc: Association, waited_s: float) -> NoReturn:
    """Why a connected peer gave no association."""
    answer = assoc.acceptor.primitive
    if assoc.is_rejected and answer is not None:
        raise AssociationRejected(f"{answer.result_str}, {answer.source_str}: {answer.reason_str}.")
    if answer is not None:
        raise ContextRefused("None of the presentation contexts was accepted.")
    _lost(assoc, waited_s)


def _lost(assoc: Association, waited_s: float) -> NoReturn:
    """No answer came: the peer was silent, or it went away."""
    timeout_s = assoc.acse_timeout or 0.0
    if waited_s >= 0.95 * timeout_s:
        raise PeerStalled(f"Nothing for {timeout_s:g} s.")
    raise PeerError("It ended the association without an answer.")


def _context(assoc: Association, sop_class: str, syntaxes: Sequence[str]) -> PresentationContext:
    """The accepted context for the class, the earlier syntax before the later."""
    for syntax in syntaxes:
        for context in assoc.accepted_contexts:
            if context.abstract_syntax == sop_class and context.transfer_syntax[0] == syntax:
                return context
    raise ContextRefused(f"{uid.UID(sop_class).name}.")


def _store(assoc: Association, item: _File, context: PresentationContext, message_id: int) -> int:
    """C-STORE one object; the status of the answer that is ours."""
    request = C_STORE()
    request.MessageID, request.Priority = message_id, 0
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = uid.UID(item.sop_class), uid.UID(item.sop_uid)
    request.DataSet = BytesIO(item.in_syntax(str(context.transfer_syntax[0])))
    answer = _exchange(assoc, request, context)
    if answer.AffectedSOPInstanceUID not in (None, item.sop_uid):
        raise PeerConfused("The answer is for another SOP Instance.")
    return int(answer.Status)


def _pause_reactor(assoc: Association) -> None:
    """As send_c_store does, or the reactor takes the answer from us; but for good, to the release.

    pynetdicom says `_is_paused` shortly before it is: pausing anew for every message loses an answer now and then on a
    busy machine ("Received unexpected C-STORE service message"). So it is asked for once, and believed when it lasts.
    """
    if not assoc._reactor_checkpoint.is_set():
        return
    assoc._reactor_checkpoint.clear()
    lasted = 0
    while lasted < 5:
        time.sleep(0.002)
        lasted = lasted + 1 if assoc._is_paused else 0


def _exchange(assoc: Association, request: Any, context: PresentationContext) -> Any:
    """Send one request and wait for its own answer; pynetdicom's send_c_store takes any."""
    _pause_reactor(assoc)
    begun = time.monotonic()
    assoc.dimse.send_msg(request, context.context_id or 0)
    while assoc.dul.is_alive() and not assoc.dul.to_provider_queue.empty():
        time.sleep(0.005)  # what takes long to send is no silence; a peer that stops reading meets the socket's timeout
    _, answer = assoc.dimse.get_msg(block=True)
    if answer is None:
        assoc._reactor_checkpoint.set()  # it has an abort to take note of
        _lost(assoc, time.monotonic() - begun)
    if not isinstance(answer, type(request)) or answer.MessageIDBeingRespondedTo != request.MessageID:
        raise PeerConfused("The answer is for another message.")
    if answer.Status is None:
        raise PeerConfused("The answer has no status.")
    return answer
