"""The smallest callers that pynetdicom 3.0.4, pydicom 3.0.2 or this node once answered wrongly, or not at all.

Made by hand from what the fuzz and intake.md 1.2 found; each says what it once did. None of them may be told Success.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from tests.builders import pdu
from tests.builders.mutants import Case, healthy
from tests.builders.pdu import COMMAND, LAST, MR, NO_DATA_SET, command_set, p_data, pdv

_UID: Final = "2.25." + "7" * 38
_WHOLE: Final = healthy(_UID)
_HEAD: Final = p_data(pdv(1, COMMAND | LAST, pdu.store_command(_UID)))
_BODY: Final = tuple(pdu.fragments(1, _WHOLE))


class Offender(NamedTuple):
    """A caller, and what it once did."""

    case: Case
    once: str


def _says(once: str, *pdus: bytes, request: bytes = b"") -> Offender:
    return Offender(Case(once, request or pdu.associate_rq(), pdus, _UID), once)


def _sends(once: str, data: bytes, context: int = 1) -> Offender:
    return Offender(Case(once, pdu.associate_rq(), tuple(pdu.store(data, _UID, context)), _UID, data), once)


def _command(*elements: tuple[int, bytes | int]) -> bytes:
    return p_data(pdv(1, COMMAND | LAST, command_set(*elements)))


_NAMES: Final = ((0x0002, MR.encode()), (0x1000, _UID.encode()))


def _charset(vr: bytes, value: bytes) -> bytes:
    """A healthy slice whose first element says this."""
    assert _WHOLE.startswith(b"\x08\x00\x05\x00CS\n\x00ISO_IR 100")
    return struct.pack("<HH2sH", 8, 5, vr, len(value)) + value + _WHOLE[18:]


def _with_vr(element: int, own: bytes, other: bytes) -> bytes:
    """A healthy slice in which one element of group 0008 has another VR of as short a length."""
    head = struct.pack("<HH", 8, element)
    assert _WHOLE.count(head + own) == 1
    return _WHOLE.replace(head + own, head + other)


OFFENDERS: Final = (
    # --- fragments
    _says("no context 99: KeyError, a dead thread and no answer", _HEAD, p_data(pdv(99, LAST, _WHOLE))),
    _says("an empty fragment: IndexError", _HEAD, p_data(struct.pack(">LB", 1, 1))),
    _says("a fragment of no length at all", _HEAD, p_data(struct.pack(">L", 0))),
    _says(
        "a fragment longer than its PDU: taken for shorter", _HEAD, pdu.pdu(4, struct.pack(">LBB", 5000, 1, 2) + b"x")
    ),
    _says("a P-DATA without fragments", _HEAD, p_data()),
    _says("a data set before any command: collected, then AttributeError", _BODY[0]),
    _says("the command again within the data set: decoded anew", _HEAD, p_data(pdv(1, 0, _WHOLE[:100])), _HEAD),
    _says(
        "the data set goes on in another context", _HEAD, p_data(pdv(1, 0, _WHOLE[:100])), p_data(pdv(3, LAST, b"xx"))
    ),
    _says(
        "the rest of a PDU after a message's end: dropped without a word", p_data(pdv(1, LAST, b""), pdv(1, LAST, b""))
    ),
    # --- commands
    _says("no CommandField: AttributeError", _command(*_NAMES, (0x0110, 1), (0x0800, 0)), *_BODY),
    _says("an unknown CommandField: KeyError", _command(*_NAMES, (0x0100, 0xBEEF), (0x0110, 1), (0x0800, 0)), *_BODY),
    _says("no MessageID: answered to nobody", _command(*_NAMES, (0x0100, 1), (0x0800, 0)), *_BODY),
    _says("two MessageIDs", _command(*_NAMES, (0x0100, 1), (0x0110, b"\1\0\2\0"), (0x0800, 0)), *_BODY),
    _says("an empty MessageID", _command(*_NAMES, (0x0100, 1), (0x0110, b""), (0x0800, 0)), *_BODY),
    _says("no CommandDataSetType: AttributeError", _command(*_NAMES, (0x0100, 1), (0x0110, 1)), *_BODY),
    _says("a command of one byte", p_data(pdv(1, COMMAND | LAST, b"\0"))),
    _says(
        "a response to nothing", _command(*_NAMES, (0x0100, 0x8001), (0x0120, 1), (0x0800, NO_DATA_SET), (0x0900, 0))
    ),
    _says("C-CANCEL of nothing", _command((0x0100, 0x0FFF), (0x0120, 1), (0x0800, NO_DATA_SET))),
    _says(
        "N-EVENT-REPORT: a thread of its own each",
        *[
            _command(
                (0x0002, MR.encode()),
                (0x0100, 0x0100),
                (0x0110, 1),
                (0x0800, NO_DATA_SET),
                (0x1000, b"1.2"),
                (0x1002, 1),
            )
        ]
        * 5,
    ),  # one line a case
    _says(
        "a data set of C-ECHO without end: collected",
        p_data(
            pdv(
                5, COMMAND | LAST, command_set((0x0002, b"1.2.840.10008.1.1"), (0x0100, 0x30), (0x0110, 1), (0x0800, 0))
            )
        ),
        *[p_data(pdv(5, 0, bytes(16000)))] * 10,
    ),  # one line a case
    _says(
        "two UIDs for one instance",
        _command((0x0002, MR.encode()), (0x0100, 1), (0x0110, 1), (0x0800, 0), (0x1000, b"1.2\\1.3 ")),
        *_BODY,
    ),  # one line a case
    # --- association
    _says("an A-ASSOCIATE-RQ of nothing", request=pdu.pdu(1, b"")),
    _says("a second request inside an association", pdu.associate_rq()),
    _says("an A-ASSOCIATE-AC to whom nothing was asked", request=pdu.pdu(2, bytes(68))),
    _says("a release before any association", request=pdu.RELEASE),
    _says("even context IDs", request=pdu.associate_rq([pdu.Context(2, MR, (pdu.EXPLICIT,))])),
    _says(
        "one context ID twice", request=pdu.associate_rq([pdu.CONTEXTS[0], pdu.CONTEXTS[0]._replace(abstract="1.2")])
    ),
    _says("no transfer syntax", request=pdu.associate_rq([pdu.Context(1, MR, ())])),
    _says("a syntax of a hundred characters", request=pdu.associate_rq([pdu.Context(1, MR, ("1" * 100,))])),
    _says("no context at all", request=pdu.associate_rq([])),
    # --- data sets
    _sends("zero bytes", b""),
    _sends("cut before its pixels end: 0000", _WHOLE[:-1]),
    _sends("the other VR encoding: 0000", healthy(_UID, 3)),
    _sends("native pixels in an encapsulated syntax", _WHOLE, 7),
    _sends("an offset table that never ends", healthy(_UID, 7)[:-8], 7),
    _sends("two slices in a row: a second SOPInstanceUID", _WHOLE + _WHOLE),
    _sends("a SOPInstanceUID of tags: 0000, and another instance to every other reader", _with_vr(0x18, b"UI", b"AT")),
    _sends("a SpecificCharacterSet of tags: 0000, and no reader opened it", _charset(b"AT", b"ISO_IR 100")),
    _sends(
        "a SpecificCharacterSet that is no text encoding: 0000, and no name could be read", _charset(b"CS", b"bz2 ")
    ),
    _sends("a file, not a data set: meta group within", b"\x02\x00\x10\x00UI\x12\x001.2.840.10008.1.2\0" + _WHOLE),
)
