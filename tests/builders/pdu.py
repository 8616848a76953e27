"""DICOM's upper layer written by hand (PS3.8 9.3, PS3.7 annex E): every field may lie, nothing is checked.

Not made with pynetdicom on purpose: the listener stands on it, and two who share a mistake do not see it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

MR: Final = "1.2.840.10008.5.1.4.1.1.4"
VERIFICATION: Final = "1.2.840.10008.1.1"
IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
DEFLATED, RLE = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5"
COMMAND, LAST = 1, 2
NO_DATA_SET: Final = 0x0101


class Context(NamedTuple):
    """A proposed presentation context."""

    number: int
    abstract: str
    syntaxes: tuple[str, ...]


CONTEXTS: Final = (
    Context(1, MR, (EXPLICIT,)),
    Context(3, MR, (IMPLICIT,)),
    Context(5, VERIFICATION, (IMPLICIT,)),
    Context(7, MR, (RLE,)),
)
"""What every raw caller proposes unless told otherwise."""


def pdu(kind: int, body: bytes, length: int | None = None) -> bytes:
    """A PDU; `length` may announce something else than what follows."""
    return struct.pack(">BBL", kind, 0, len(body) if length is None else length) + body


def item(kind: int, body: bytes) -> bytes:
    """An item of an association PDU."""
    return struct.pack(">BBH", kind, 0, len(body)) + body


def associate_rq(
    contexts: Sequence[Context] = CONTEXTS, calling: bytes = b"PACS", called: bytes = b"NPC_RTNODE"
) -> bytes:
    """A-ASSOCIATE-RQ (PS3.8 9.3.2)."""
    user = item(0x51, struct.pack(">L", 16384)) + item(0x52, b"1.2.826.0.1.3680043.9.1") + item(0x55, b"RAW")
    body = struct.pack(">HH16s16s32x", 1, 0, called.ljust(16), calling.ljust(16))
    return pdu(1, body + item(0x10, b"1.2.840.10008.3.1.1.1") + b"".join(map(_proposed, contexts)) + item(0x50, user))


def _proposed(context: Context) -> bytes:
    syntaxes = b"".join(item(0x40, syntax.encode()) for syntax in context.syntaxes)
    return item(0x20, struct.pack(">BBBB", context.number, 0, 0, 0) + item(0x30, context.abstract.encode()) + syntaxes)


def pdv(context: int, control: int, data: bytes) -> bytes:
    """One fragment (PS3.8 annex E)."""
    return struct.pack(">LBB", len(data) + 2, context, control) + data


def p_data(*fragments: bytes) -> bytes:
    """A P-DATA-TF PDU of these fragments."""
    return pdu(4, b"".join(fragments))


RELEASE: Final = pdu(5, bytes(4))
ABORT: Final = pdu(7, bytes(4))


def element(tag: int, value: bytes) -> bytes:
    """An element of implicit VR."""
    return struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(value)) + value


def command_set(*elements: tuple[int, bytes | int]) -> bytes:
    """Group 0000 with its length in front; numbers are US, texts are padded to even length."""
    body = b"".join(element(tag, _value(value)) for tag, value in elements)
    return element(0x00000000, struct.pack("<L", len(body))) + body


def _value(value: bytes | int) -> bytes:
    return struct.pack("<H", value) if isinstance(value, int) else value + b"\0" * (len(value) % 2)


def store_command(sop_uid: str, sop_class: str = MR, message_id: int = 1, data_set: int = 0) -> bytes:
    """C-STORE-RQ (PS3.7 9.3.1.1); `data_set` 0x0101 says that none follows."""
    return command_set(
        (0x00000002, sop_class.encode()),
        (0x00000100, 0x0001),
        (0x00000110, message_id),
        (0x00000700, 2),
        (0x00000800, data_set),
        (0x00001000, sop_uid.encode()),
    )


def echo(message_id: int = 1, context: int = 5) -> bytes:
    """A whole C-ECHO-RQ."""
    command = command_set((2, VERIFICATION.encode()), (0x100, 0x0030), (0x110, message_id), (0x800, NO_DATA_SET))
    return p_data(pdv(context, COMMAND | LAST, command))


def fragments(context: int, data: bytes, size: int = 16000) -> Iterator[bytes]:
    """A data set in P-DATA PDUs of one fragment each."""
    for at in range(0, len(data) or 1, size):
        yield p_data(pdv(context, LAST if at + size >= len(data) else 0, data[at : at + size]))


def store(data: bytes, sop_uid: str, context: int = 1, **command: str | int) -> list[bytes]:
    """A whole C-STORE-RQ, PDU by PDU."""
    head = p_data(pdv(context, COMMAND | LAST, store_command(sop_uid, **command)))  # type: ignore[arg-type]
    return [head, *fragments(context, data)]


def status_of(body: bytes) -> int | None:
    """(0000,0900) of the response in a P-DATA PDU's body."""
    at = body.find(struct.pack("<HHL", 0, 0x0900, 2))
    return None if at < 0 else int(struct.unpack_from("<H", body, at + 8)[0])


def is_store_response(body: bytes) -> bool:
    """Whether a P-DATA PDU's body holds a C-STORE-RSP."""
    return struct.pack("<HHLH", 0, 0x0100, 2, 0x8001) in body


def encoded(ds: Dataset, implicit: bool = False) -> bytes:
    """A data set as it goes over the wire."""
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, implicit
    write_dataset(buffer, ds)
    return buffer.getvalue()


def pieces(pdus: Iterable[bytes]) -> bytes:
    """Joined, as they go out together."""
    return b"".join(pdus)
