"""The Storage SCU: one object, one association, one child process that can be killed.

pynetdicom 3.0.4 as a sender takes a response with a wrong Message ID or for another object as Success (intake.md 1.3).
So an answer counts only if it is for this very message and this very SOP Instance. The bytes sent are the bytes stored;
at most the VR encoding is changed, where the peer takes no other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any, Final

from pydicom import dcmread, uid
from pydicom.errors import InvalidDicomError
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_ECHO, C_STORE
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made by pynetdicom at import

from npc_rtnode.adapters.dicom.calling import Call, associate, call_to, exchange, in_a_child, one_answer
from npc_rtnode.adapters.dicom.kinds import KINDS
from npc_rtnode.domain.records import ObjectKind, SendReceipt, WrittenObject
from npc_rtnode.errors import (
    ContextRefused,
    NodeError,
    ObjectRefused,
    PeerBusy,
    PeerConfused,
    PeerError,
    Unreadable,
)
from npc_rtnode.settings import NO_TLS, Destination, TlsSettings

SOP_CLASSES: Final = {kind: facts.sop_class_uid for kind, facts in KINDS.items()}
_IMPLICIT, _EXPLICIT = str(uid.ImplicitVRLittleEndian), str(uid.ExplicitVRLittleEndian)
_NATIVE: Final = (_IMPLICIT, _EXPLICIT)

# PS3.7 C, of the 01xx and 02xx failures: those that no waiting will heal. The rest of 01xx may be tried again.
_HOPELESS: Final = frozenset({0x0111, 0x0112, 0x0117, 0x0118, 0x0119, 0x0122, 0x0124})
_RESOURCE_LIMITATION: Final = 0x0213
_CONTEXT_LIMIT: Final = 128  # presentation contexts in one association, PS3.8 9.3.2.2


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

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC), tls: TlsSettings = NO_TLS) -> None:
        """`now` stamps the receipts; `tls` has the certificates for destinations that are called by TLS."""
        self._now = now
        self._tls = tls

    def send(self, item: WrittenObject, destination: Destination) -> SendReceipt:
        """C-STORE; returns only when the peer accepted that very message and object, else raises a PeerError."""
        order = (call_to(destination, self._tls), item.encoded, item.sop_uid, _offered(destination))
        status = int(one_answer(_send_one, order, destination.wall_clock_s))
        refusal = refusal_of(status)
        if refusal:
            raise refusal(f"Status {status:04X}.")
        return SendReceipt(status=status, warning=status != 0, at=self._now())

    def echo(self, destination: Destination) -> float:
        """C-ECHO; seconds from connecting to the answer, else raises a PeerError."""
        return float(one_answer(_echo, (call_to(destination, self._tls),), destination.wall_clock_s))

    def negotiate(self, destination: Destination) -> dict[ObjectKind, bool]:
        """Which of our objects it would take, by presentation context alone; nothing is sent."""
        classes = tuple(SOP_CLASSES.values())
        try:
            accepted = one_answer(_negotiate, (call_to(destination, self._tls), classes), destination.wall_clock_s)
        except ContextRefused:
            accepted = ()
        return {kind: sop_class in accepted for kind, sop_class in SOP_CLASSES.items()}


def send_files(
    paths: Sequence[Path], destination: Destination, calling_ae: str | None = None, tls: TlsSettings = NO_TLS
) -> list[FileOutcome]:
    """Send DICOM files in one association; one outcome a file, in order.

    `wall_clock_s` holds for each file. Raises a PeerError when there is no association, and Unreadable for a path that
    is no DICOM file, before anything is sent; what comes to grief on the way is in the outcomes.
    """
    call = call_to(destination, tls, calling_ae)
    outcomes: list[FileOutcome] = []
    try:
        for status, error in in_a_child(_send_many, (call, tuple(paths)), destination.wall_clock_s):
            outcomes.append(FileOutcome(paths[len(outcomes)], status, error))
    except NodeError as error:
        if not outcomes:
            raise
        outcomes += [FileOutcome(path, None, error.code) for path in paths[len(outcomes) :]]
    return outcomes


def _offered(destination: Destination) -> tuple[str, str]:
    """Both VR encodings, the destination's wish first."""
    return (_IMPLICIT, _EXPLICIT) if destination.encoding == "implicit" else (_EXPLICIT, _IMPLICIT)


# --- there: in the child ----------------------------------------------------------------------------------------------


def _send_one(say: Callable[[Any], None], call: Call, encoded: bytes, sop_uid: str, offered: tuple[str, str]) -> None:
    item = _parts(encoded)
    if item.sop_uid != sop_uid:
        raise Unreadable("The file's MediaStorageSOPInstanceUID is not that of the object.")
    syntaxes = offered if item.transfer_syntax in _NATIVE else (item.transfer_syntax,)
    assoc = associate(call, [build_context(item.sop_class, syntax) for syntax in syntaxes])
    say(_store(assoc, item, _context(assoc, item.sop_class, syntaxes), message_id=1))
    assoc.release()


def _send_many(say: Callable[[Any], None], call: Call, paths: tuple[Path, ...]) -> None:
    wanted = sorted({(item.sop_class, item.transfer_syntax) for item in map(_read, paths)})
    if not 0 < len(wanted) <= _CONTEXT_LIMIT:
        raise Unreadable(f"{len(wanted)} kinds of object; one association takes 1 to {_CONTEXT_LIMIT}.")
    assoc = associate(call, [build_context(*kind) for kind in wanted])
    for number, path in enumerate(paths, 1):
        item = _read(path)
        try:
            context = _context(assoc, item.sop_class, (item.transfer_syntax,))
            say((_store(assoc, item, context, message_id=(number - 1) % 65535 + 1), ""))
        except ContextRefused as error:
            say((None, error.code))
    assoc.release()


def _echo(say: Callable[[Any], None], call: Call) -> None:
    begun = time.monotonic()
    assoc = associate(call, [build_context(Verification)])
    request = C_ECHO()
    request.MessageID, request.AffectedSOPClassUID = 1, Verification
    status = exchange(assoc, request, assoc.accepted_contexts[0]).Status
    if status != 0:
        raise PeerError(f"C-ECHO was answered with status {status:04X}.")
    say(time.monotonic() - begun)
    assoc.release()


def _negotiate(say: Callable[[Any], None], call: Call, classes: tuple[str, ...]) -> None:
    contexts = [build_context(sop_class, syntax) for sop_class in classes for syntax in _NATIVE]
    assoc = associate(call, contexts)
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
    answer = exchange(assoc, request, context)
    if answer.AffectedSOPInstanceUID not in (None, item.sop_uid):
        raise PeerConfused("The answer is for another SOP Instance.")
    return int(answer.Status)
