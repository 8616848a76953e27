"""Seeded ways to get DICOM's upper layer and a data set wrong: a seed and a number make the same case for ever.

A case is what a caller sends: an association request, then PDUs. `data` is the data set that they carry where the
message around it is untouched: then a Success must mean that these very bytes are kept. Of the rest only that what was
kept is readable and has the right name can be asked.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Final

from pydicom.encaps import encapsulate
from pydicom.uid import UID

from tests.builders import pdu
from tests.builders.mr_series import SeriesSpec, slice_dataset
from tests.builders.pdu import COMMAND, LAST, encoded, p_data, pdv

_PLACEHOLDER: Final = "2.25." + "1" * 38
_EXPLICIT, _IMPLICIT, _RLE = 1, 3, 7
"""Contexts of `pdu.CONTEXTS`."""


@dataclass(frozen=True)
class Case:
    """One call. `stalls`: the caller goes silent in the end instead of hanging up."""

    name: str
    request: bytes
    pdus: tuple[bytes, ...] = ()
    sop_uid: str = ""
    data: bytes | None = field(default=None, repr=False)
    stalls: bool = False


def case(seed: int, number: int) -> Case:
    """The case of that number."""
    rng = random.Random(f"{seed}/{number}")
    sop_uid = f"2.25.{rng.randrange(10**37, 10**38)}"
    made = rng.choice(_KINDS)(rng, sop_uid)
    return Case(
        f"{seed}/{number} {made.name}", made.request, made.pdus, made.sop_uid, made.data, stalls=rng.random() < 0.02
    )


# --- healthy messages to begin with -----------------------------------------------------------------------------------


def healthy(sop_uid: str, context: int = _EXPLICIT) -> bytes:
    """A whole small slice in that context's transfer syntax."""
    return _template(context).replace(_PLACEHOLDER.encode(), sop_uid.encode().ljust(len(_PLACEHOLDER), b"\0"))


@cache
def _template(context: int) -> bytes:
    ds = slice_dataset(SeriesSpec(rows=8, columns=8), 0)
    ds.SOPInstanceUID = _PLACEHOLDER
    if context == _RLE:
        frame = struct.pack("<16L", 1, 64, *[0] * 14) + bytes((127, 0)) * 64
        ds.PixelData = encapsulate([frame])
        ds["PixelData"].is_undefined_length = True
        ds.file_meta.TransferSyntaxUID = UID(pdu.RLE)
    return encoded(ds, implicit=context == _IMPLICIT)


# --- bytes ------------------------------------------------------------------------------------------------------------


def flipped(rng: random.Random, data: bytes) -> bytes:
    """One to eight bits the other way."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def truncated(rng: random.Random, data: bytes) -> bytes:
    """Some of the beginning."""
    return data[: rng.randrange(len(data))]


def grown(rng: random.Random, data: bytes) -> bytes:
    """Noise, or zeros, or a piece of itself put in somewhere."""
    at, size = rng.randrange(len(data)), rng.randint(1, 64)
    extra = rng.choice((rng.randbytes(size), bytes(size), data[at : at + size]))
    return data[:at] + extra + data[at:]


def shrunk(rng: random.Random, data: bytes) -> bytes:
    """A piece taken out of the middle."""
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.randint(1, 64) :]


def lying(rng: random.Random, data: bytes) -> bytes:
    """A number somewhere says something else, as lengths do: nothing, all, one more, the largest that fits."""
    size = rng.choice((2, 4))
    at = rng.randrange(max(len(data) - size, 1))
    value = rng.choice((0, 1, 2**15, 2**31, 2 ** (8 * size) - 1, 2 ** (8 * size) - 2, len(data), len(data) - at))
    lie = (value % 2 ** (8 * size)).to_bytes(size, rng.choice(("big", "little")))
    return data[:at] + lie + data[at + size :]


def swapped(rng: random.Random, data: bytes) -> bytes:
    """Two neighbouring pieces in the other order."""
    first, second, third = sorted(rng.randrange(len(data)) for _ in range(3))
    return data[:first] + data[second:third] + data[first:second] + data[third:]


_BYTES: Final = (flipped, truncated, grown, shrunk, lying, swapped)


def any_bytes(rng: random.Random, data: bytes) -> bytes:
    """One of these, seldom two."""
    for _ in range(rng.choice((1, 1, 1, 2))):
        data = rng.choice(_BYTES)(rng, data) if data else data
    return data


# --- data sets --------------------------------------------------------------------------------------------------------

_VRS: Final = (
    b"AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR US UT UV ZZ"
)


def with_wrong_vr(rng: random.Random, data: bytes) -> bytes:
    """An element of the first level says that it has another VR; its length field may be another one then."""
    at = _an_element(rng, data)
    return data[: at + 4] + rng.choice(_VRS.split()) + data[at + 6 :]


def with_wrong_length(rng: random.Random, data: bytes) -> bytes:
    """An element says another length."""
    at = _an_element(rng, data)
    return (
        data[: at + 6] + struct.pack("<H", rng.choice((0, 1, 3, 0xFFFE, 0xFFFF, rng.randrange(65536)))) + data[at + 8 :]
    )


def with_elements_swapped(rng: random.Random, data: bytes) -> bytes:
    """Two elements have changed places, or one is there twice."""
    first, second = sorted((_an_element(rng, data), _an_element(rng, data)))
    return data[:second] + data[first:second] + data[second:] if rng.random() < 0.5 else data[:first] + data[second:]


def nested(rng: random.Random, data: bytes) -> bytes:
    """A sequence of sequences, some deep, with or without lengths, closed or not."""
    depth, at = rng.choice((1, 5, 31, 32, 33, 200, 2000)), _an_element(rng, data)
    tag = data[at : at + 4]
    opening = (tag + b"SQ\0\0" + b"\xff" * 4 + b"\xfe\xff\x00\xe0" + b"\xff" * 4) * depth
    closing = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0" * (depth - rng.choice((0, 0, 0, 1)))
    return data[:at] + opening + closing + data[at:]


def with_a_wrong_fragment_table(rng: random.Random, data: bytes) -> bytes:
    """Something is wrong from the offset table of the encapsulated pixels on."""
    at = data.rfind(b"\xe0\x7f\x10\x00")
    return data[: at + 8] + any_bytes(rng, data[at + 8 :])


def _an_element(rng: random.Random, data: bytes) -> int:
    """Where one of the first level begins (explicit VR)."""
    places, at = [], 0
    while at + 8 <= len(data):
        places.append(at)
        long = data[at + 4 : at + 6] in (b"OB", b"OW", b"SQ", b"UN", b"UT")
        size = struct.unpack_from("<L", data, at + 8)[0] + 12 if long else struct.unpack_from("<H", data, at + 6)[0] + 8
        at += size
    return rng.choice(places)


_DATA_SETS: Final = (any_bytes, with_wrong_vr, with_wrong_length, with_elements_swapped, nested)


def _wrong_data_set(rng: random.Random, sop_uid: str) -> Case:
    how = rng.choice(_DATA_SETS)
    return _store(how.__name__, how(rng, healthy(sop_uid)), sop_uid, _EXPLICIT, rng)


def _wrong_implicit_data_set(rng: random.Random, sop_uid: str) -> Case:
    return _store("implicit", any_bytes(rng, healthy(sop_uid, _IMPLICIT)), sop_uid, _IMPLICIT, rng)


def _wrong_fragments(rng: random.Random, sop_uid: str) -> Case:
    return _store("fragment table", with_a_wrong_fragment_table(rng, healthy(sop_uid, _RLE)), sop_uid, _RLE, rng)


def _store(name: str, data: bytes, sop_uid: str, context: int, rng: random.Random) -> Case:
    head = p_data(pdv(context, COMMAND | LAST, pdu.store_command(sop_uid)))
    pdus = (head, *pdu.fragments(context, data, rng.choice((100, 1000, 16000))))
    return Case(f"data set: {name}", pdu.associate_rq(), pdus, sop_uid, data)


# --- messages and PDUs ------------------------------------------------------------------------------------------------


def _wrong_command(rng: random.Random, sop_uid: str) -> Case:
    """The command set is wrong in its bytes, or says what does not fit."""
    command = pdu.store_command(sop_uid)
    if rng.random() < 0.6:
        command = any_bytes(rng, command)
    else:
        field_of = rng.choice((0x0001, 0x8001, 0x0010, 0x0020, 0x0021, 0x0030, 0x0100, 0x0130, 0x0140, 0x0FFF, 0xBEEF))
        command = command.replace(struct.pack("<HHLH", 0, 0x100, 2, 1), struct.pack("<HHLH", 0, 0x100, 2, field_of))
    pdus = (p_data(pdv(_EXPLICIT, COMMAND | LAST, command)), *pdu.fragments(_EXPLICIT, healthy(sop_uid)))
    return Case("command", pdu.associate_rq(), pdus, sop_uid)


def _wrong_fragment_headers(rng: random.Random, sop_uid: str) -> Case:
    """Context, control header or length of a fragment is wrong; several may share a PDU."""
    parts = [(_EXPLICIT, COMMAND | LAST, pdu.store_command(sop_uid))]
    data = healthy(sop_uid)
    parts += [(_EXPLICIT, LAST if at + 300 >= len(data) else 0, data[at : at + 300]) for at in range(0, len(data), 300)]
    at = rng.randrange(len(parts))
    context, control, content = parts[at]
    parts[at] = rng.choice(
        (
            (rng.randrange(256), control, content),
            (context, rng.randrange(256), content),
            (context, control, b""),
            (context, control, rng.randbytes(20)),
        )
    )
    pieces = [pdv(*part) for part in parts]
    if rng.random() < 0.3:
        pieces[at] = lying(rng, pieces[at][:6]) + pieces[at][6:]
    together = rng.choice((1, 2, len(pieces)))
    pdus = tuple(p_data(*pieces[at : at + together]) for at in range(0, len(pieces), together))
    return Case("fragment headers", pdu.associate_rq(), pdus, sop_uid)


def _wrong_order(rng: random.Random, sop_uid: str) -> Case:
    """PDUs missing, twice, or in another order; releases, aborts and echoes among them."""
    head = p_data(pdv(_EXPLICIT, COMMAND | LAST, pdu.store_command(sop_uid)))
    pdus = [head, *pdu.fragments(_EXPLICIT, healthy(sop_uid), 300)]
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(pdus))
        _REORDER[rng.randrange(len(_REORDER))](rng, pdus, at)
        if not pdus:
            break
    return Case("order", pdu.associate_rq(), tuple(pdus), sop_uid)


def _swap(rng: random.Random, pdus: list[bytes], at: int) -> None:
    other = rng.randrange(len(pdus))
    pdus[at], pdus[other] = pdus[other], pdus[at]


def _intrude(rng: random.Random, pdus: list[bytes], at: int) -> None:
    pdus.insert(at, rng.choice((pdu.RELEASE, pdu.ABORT, pdu.echo(), pdu.associate_rq(), pdu.pdu(6, bytes(4)))))


_REORDER: Final[tuple[Callable[[random.Random, list[bytes], int], object], ...]] = (
    _swap,
    _intrude,
    lambda _rng, pdus, at: pdus.pop(at),
    lambda _rng, pdus, at: pdus.insert(at, pdus[at]),
)


def _wrong_pdus(rng: random.Random, sop_uid: str) -> Case:
    """The stream itself: one PDU's bytes are wrong, lengths included, and what follows is read from there."""
    head = p_data(pdv(_EXPLICIT, COMMAND | LAST, pdu.store_command(sop_uid)))
    pdus = [head, *pdu.fragments(_EXPLICIT, healthy(sop_uid), 1000)]
    at = rng.randrange(len(pdus))
    pdus[at] = lying(rng, pdus[at][:12]) + pdus[at][12:] if rng.random() < 0.5 else any_bytes(rng, pdus[at])
    return Case("PDU", pdu.associate_rq(), tuple(pdus), sop_uid)


def _wrong_request(rng: random.Random, sop_uid: str) -> Case:
    """The association request; if it is accepted all the same, a healthy slice follows."""
    data = healthy(sop_uid)
    request = any_bytes(rng, pdu.associate_rq())
    return Case("request", request, tuple(pdu.store(data, sop_uid)), sop_uid, data)


_KINDS: Final[tuple[Callable[[random.Random, str], Case], ...]] = (
    _wrong_data_set,
    _wrong_data_set,
    _wrong_implicit_data_set,
    _wrong_fragments,
    _wrong_command,
    _wrong_fragment_headers,
    _wrong_order,
    _wrong_pdus,
    _wrong_request,
    _wrong_request,
)
