"""The fast road of a C-STORE: what stands in its bytes, read and written in place (PS3.7 9.3.1, PS3.8 9.3.5).

Pure functions. Whatever is not exactly what an ordinary sender sends is None here, and goes pynetdicom's way; so these
need to know one form of each thing, and no fault of a peer.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

P_DATA_TF: Final = 4  # PDU type, PS3.8 9.3.5
_FRAGMENT: Final = struct.Struct(">LB")  # length, presentation context ID; then the message control header
_ELEMENT: Final = struct.Struct("<HHL")  # implicit VR, little endian: all command sets are (PS3.7 6.3.1)
_COMMAND_AND_LAST: Final = 3
_C_STORE_RQ, _C_STORE_RSP, _NO_DATA_SET = 0x0001, 0x8001, 0x0101
_NUMBERS: Final = {0x0100, 0x0110, 0x0700, 0x0800, 0x1031}
_TEXTS: Final = {0x0002, 0x1000, 0x1030}
_NEEDED: Final = {0x0002, 0x0100, 0x0110, 0x0800, 0x1000}


class StoreCommand(NamedTuple):
    """A C-STORE-RQ, under the names that the library gives its elements."""

    MessageID: int
    AffectedSOPClassUID: str
    AffectedSOPInstanceUID: str


def fragments(body: memoryview) -> list[tuple[int, memoryview]] | None:
    """(presentation context, message control header and data) of each PDV of a P-DATA-TF; None where it has no such
    form. The data are views into `body`."""
    found, at, size = [], 0, len(body)
    while at < size:
        if size - at < 6:
            return None
        length, context_id = _FRAGMENT.unpack_from(body, at)
        end = at + 4 + length
        if length < 2 or end > size:
            return None
        found.append((context_id, body[at + 5 : end]))
        at = end
    return found


def read_store_request(command: bytes | memoryview) -> StoreCommand | None:
    """The C-STORE-RQ, with a data set to follow, that these bytes are to the last one; None where they are not."""
    values, at, last = {}, 0, -1
    while at < len(command):
        if len(command) - at < _ELEMENT.size:
            return None
        group, element, length = _ELEMENT.unpack_from(command, at)
        at += _ELEMENT.size
        value = _value(element, bytes(command[at : at + length]))
        if group or element <= last or length > len(command) - at or value is None:
            return None
        values[element], at, last = value, at + length, element
    if not values.keys() >= _NEEDED or values[0x0100] != _C_STORE_RQ or values[0x0800] == _NO_DATA_SET:
        return None
    if values.get(0, len(command) - 12) != len(command) - 12:
        return None
    return StoreCommand(int(values[0x0110]), str(values[0x0002]), str(values[0x1000]))


def _value(element: int, value: bytes) -> int | str | None:
    if element == 0 and len(value) == 4:
        return int.from_bytes(value, "little")
    if element in _NUMBERS and len(value) == 2:
        return int.from_bytes(value, "little")
    if element in _TEXTS and value.isascii() and len(value) <= 64:
        return value.decode("ascii").rstrip("\0 ")
    return None


def store_response(context_id: int, request: StoreCommand, status: int, comment: str) -> bytes:
    """A whole P-DATA-TF with the C-STORE-RSP to that request (PS3.7 9.3.1.2)."""
    rest = b"".join(
        (
            _element(0x0002, _uid(request.AffectedSOPClassUID)),
            _element(0x0100, struct.pack("<H", _C_STORE_RSP)),
            _element(0x0120, struct.pack("<H", request.MessageID)),
            _element(0x0800, struct.pack("<H", _NO_DATA_SET)),
            _element(0x0900, struct.pack("<H", status)),
            _element(0x0902, _padded(comment, b" ")) if comment else b"",
            _element(0x1000, _uid(request.AffectedSOPInstanceUID)),
        )
    )
    command = _element(0, struct.pack("<L", len(rest))) + rest
    fragment = struct.pack(">LBB", len(command) + 2, context_id, _COMMAND_AND_LAST) + command
    return struct.pack(">BBL", P_DATA_TF, 0, len(fragment)) + fragment


def _element(element: int, value: bytes) -> bytes:
    return _ELEMENT.pack(0, element, len(value)) + value


def _uid(text: str) -> bytes:
    return _padded(text, b"\0")


def _padded(text: str, with_: bytes) -> bytes:
    value = text.encode("ascii")
    return value + with_ * (len(value) % 2)
