"""MR slices made in advance: one header and one noise picture, with UIDs of a fixed length put in.

What a sender costs must not be measured as a receiver's slowness, so everything is bytes before the clock runs. The
pixels are 12 bits of noise in 16 (nothing compresses or deduplicates them); every slice has a SOP Instance UID
of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from pydicom.filewriter import dcmwrite

from tests.builders import pdu
from tests.builders.mr_series import SeriesSpec, slice_dataset

_STUDY, _SERIES, _INSTANCE = (f"2.25.{number}{'0' * 38}" for number in (1, 2, 3))
LARGEST_PDU: Final = 131072


class Shipment(NamedTuple):
    """What one sender brings: so many slices of side x side pixels, one series; the seed makes its UIDs."""

    seed: str
    count: int
    side: int

    @property
    def pixel_bytes(self) -> int:
        """The least that a receiver must have of it."""
        return self.count * 2 * self.side**2


class Slice(NamedTuple):
    """One slice: its UID, data set and file head (both up to the pixels), and the element of the pixels."""

    sop_uid: str
    data_set: bytes
    file: bytes
    pixels: bytes


def fixed_uid(seed: str) -> str:
    """A UID below 2.25 of 44 characters, whatever the seed."""
    return f"2.25.{10**38 + int.from_bytes(hashlib.sha256(seed.encode()).digest()[:15], 'big')}"


@lru_cache(maxsize=4)
def _template(side: int) -> tuple[bytes, bytes, bytes]:
    """File head and data set head with UIDs to replace, and the pixel element (explicit VR, little endian)."""
    noise = np.random.default_rng(side).integers(0, 4096, (1, side, side), dtype=np.uint16)
    ds = slice_dataset(SeriesSpec(slices=1, rows=side, columns=side, voxels=noise), 0)
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = _STUDY, _SERIES, _INSTANCE
    ds.file_meta.MediaStorageSOPInstanceUID = _INSTANCE
    whole, buffer = pdu.encoded(ds), BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    pixels = whole[-(12 + 2 * side**2) :]
    if not pixels.startswith(b"\xe0\x7f\x10\x00OW"):
        raise ValueError("the pixels are not the last element of the data set")
    return buffer.getvalue()[: -len(pixels)], whole[: -len(pixels)], pixels


def slices(shipment: Shipment) -> Iterator[Slice]:
    """Every slice of it."""
    file, data_set, pixels = _template(shipment.side)
    study, series = fixed_uid(f"{shipment.seed} study"), fixed_uid(f"{shipment.seed} series")
    for number in range(shipment.count):
        sop_uid = fixed_uid(f"{shipment.seed} {number}")
        heads = [_put_in(head, study, series, sop_uid) for head in (data_set, file)]
        yield Slice(sop_uid, *heads, pixels)


def _put_in(head: bytes, study: str, series: str, sop_uid: str) -> bytes:
    for placeholder, uid in ((_STUDY, study), (_SERIES, series), (_INSTANCE, sop_uid)):
        head = head.replace(placeholder.encode(), uid.encode())
    return head


def messages(shipment: Shipment, max_pdu: int, context: int = 1) -> list[bytes]:
    """Every C-STORE-RQ of it as it goes over the wire, in the largest PDUs that the peer takes, up to 128 KiB."""
    size = min(max_pdu or LARGEST_PDU, LARGEST_PDU) - 6
    return [pdu.pieces(_store(one, size, context)) for one in slices(shipment)]


def _store(one: Slice, size: int, context: int) -> Iterator[bytes]:
    yield pdu.p_data(pdu.pdv(context, pdu.COMMAND | pdu.LAST, pdu.store_command(one.sop_uid)))
    yield from pdu.fragments(context, one.data_set + one.pixels, size)


def write_files(shipment: Shipment, folder: Path) -> list[Path]:
    """The shipment as DICOM files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, one in enumerate(slices(shipment)):
        paths.append(folder / f"{number:05d}.dcm")
        paths[-1].write_bytes(one.file + one.pixels)
    return paths
