"""Pixels as voxels: what the numbers mean is read here and judged in domain/pixels.

An instance is decoded by SimpleITK and believed about its place only after a check: its corners must lie where our own
header arithmetic puts them. Frames of Enhanced MR are decoded by pydicom, one by one.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom import Dataset, FileDataset, dcmread, dcmwrite
from pydicom.multival import MultiValue
from pydicom.pixels.utils import iter_pixels
from pydicom.tag import Tag

from npc_rtnode.adapters.dicom.elements import UNREADABLE, quietly, raw_of, value_of, whole_of
from npc_rtnode.domain.geometry import axes_of
from npc_rtnode.domain.pixels import PixelForm, stored_bits, voxels_of
from npc_rtnode.domain.records import SliceHeader
from npc_rtnode.errors import GeometryRefused, Unreadable

FORM_KEYWORDS = (
    "PhotometricInterpretation",
    "SamplesPerPixel",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
)
"""What `form_of` reads."""

_BARE_KEYWORDS = (
    "SOPClassUID",
    "SOPInstanceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelData",
)
"""What GDCM is shown: no rescale, no overlay, no private element."""

CORNER_TOLERANCE_MM = 0.01
"""SimpleITK and our headers must put every slice corner at the same place within this: only rounding may differ."""


def form_of(ds: Dataset) -> PixelForm:
    """What one image says about its grey values: its elements FORM_KEYWORDS, read leniently, judged elsewhere."""
    return PixelForm(
        photometric=_code_of(ds, "PhotometricInterpretation"),
        samples=whole_of(ds, "SamplesPerPixel"),
        allocated=whole_of(ds, "BitsAllocated"),
        stored=whole_of(ds, "BitsStored"),
        high_bit=whole_of(ds, "HighBit"),
        representation=whole_of(ds, "PixelRepresentation"),
        slope=_rescale(ds, "RescaleSlope", 1.0),
        intercept=_rescale(ds, "RescaleIntercept", 0.0),
        lookup_table=bool(value_of(ds, "ModalityLUTSequence")),
        padding=_padding(ds),
        lossy_ratio=_lossy_ratio(ds),
    )


def _code_of(ds: Dataset, keyword: str) -> str | None:
    value = value_of(ds, keyword)
    return value if isinstance(value, str) else None


def _rescale(ds: Dataset, keyword: str, unstated: float) -> float:
    """The element's number, `unstated` where neither of the pair is there, NaN where it is no number or half a pair."""
    if not any(raw_of(ds, word) for word in ("RescaleSlope", "RescaleIntercept")):
        return unstated
    value = value_of(ds, keyword)
    return float(value) if isinstance(value, int | float) else math.nan


def _padding(ds: Dataset) -> tuple[int, int] | None:
    """PS3.3 C.7.5.1.1.2: PixelPaddingValue, or all from there to PixelPaddingRangeLimit; in stored values."""
    value = whole_of(ds, "PixelPaddingValue")
    if value is None:
        return None
    limit = whole_of(ds, "PixelPaddingRangeLimit")
    ends = sorted(_as_stored(ds, end) for end in (value, value if limit is None else limit))
    return ends[0], ends[1]


def _as_stored(ds: Dataset, value: int) -> int:
    """63536 for -2000: scanners write the padding of signed pixels as US; the VR should follow PixelRepresentation."""
    bits = whole_of(ds, "BitsAllocated") or 16
    signed = whole_of(ds, "PixelRepresentation") == 1
    return value - (1 << bits) if signed and value >= 1 << (bits - 1) else value


def _lossy_ratio(ds: Dataset) -> float:
    """0 unless LossyImageCompression is 01; then the ratio (of the last of several compressions), or NaN."""
    if value_of(ds, "LossyImageCompression") != "01":
        return 0.0
    ratio = value_of(ds, "LossyImageCompressionRatio")
    last = ratio[-1] if isinstance(ratio, MultiValue) and ratio else ratio
    return float(last) if isinstance(last, int | float) and last > 0 else math.nan


def decoded(path: Path, header: SliceHeader, form: PixelForm) -> NDArray[np.float32]:
    """One slice, `[row, column]`, with RescaleSlope and RescaleIntercept applied; float32, NaN where it is padding.

    `form` must have been judged: GDCM takes a HighBit elsewhere for none. Raises Unreadable or GeometryRefused.
    """
    try:
        with _bare_copy(path) as copy:
            image = _read(copy)
    except (RuntimeError, *UNREADABLE):
        raise Unreadable(f"The pixels of SOP Instance {header.sop_uid} do not decode.") from None
    _check_place(image, header)
    stored = np.asarray(sitk.GetArrayViewFromImage(image)).reshape(header.rows or 0, header.columns or 0)
    return voxels_of(stored, form)


def decoded_frames(
    path: Path, headers: Sequence[SliceHeader], forms: Sequence[PixelForm]
) -> Iterator[NDArray[np.float32]]:
    """Frames of one multi-frame instance, each `[row, column]`, in the order asked for; as `decoded`, frame by frame.

    pydicom decodes here: GDCM applies one rescale to all frames, and only if they share it.
    """
    for header, form, words in zip(headers, forms, _words(path, headers), strict=True):
        if words.shape != (header.rows, header.columns):
            raise GeometryRefused(
                f"SOP Instance {header.sop_uid} does not decode to {header.rows} rows and {header.columns} columns."
            )
        yield voxels_of(stored_bits(words, form), form)


def _words(path: Path, headers: Sequence[SliceHeader]) -> Iterator[NDArray[Any]]:
    """The words of the frames asked for, as they are; the file is opened once."""
    frames = iter_pixels(path, indices=[(header.frame or 1) - 1 for header in headers], raw=True)
    for header in headers:
        try:
            with quietly():
                words = next(frames)
        except (*UNREADABLE, RuntimeError, StopIteration):
            raise Unreadable(f"The pixels of SOP Instance {header.sop_uid} do not decode.") from None
        yield words


@contextmanager
def _bare_copy(path: Path) -> Iterator[str]:
    """The pixels as they were encoded and where they lie, in memory, and nothing that GDCM could apply to them.

    With a rescale in the file it refuses signed pixels of fewer bits than their word whose values all rise above 0.
    """
    with quietly():
        ds = dcmread(path, specific_tags=[Tag(word) for word in _BARE_KEYWORDS])
    _refuse_cut_short(ds)
    with _unseen_file() as (memory, place), quietly():
        dcmwrite(memory, ds)
        memory.flush()
        yield place


@contextmanager
def _unseen_file() -> Iterator[tuple[IO[bytes], str]]:
    """A file in memory where the system has such, and the name by which another library opens it."""
    if sys.platform == "linux":
        with os.fdopen(os.memfd_create("npc-rtnode-pixels"), "w+b") as memory:
            yield memory, f"/proc/self/fd/{memory.fileno()}"
    else:
        with NamedTemporaryFile() as file:
            yield file, file.name


def _refuse_cut_short(ds: FileDataset) -> None:
    """Neither pydicom nor GDCM says so where uncompressed pixels end before the last row does."""
    needed = ds.Rows * ds.Columns * ds.BitsAllocated // 8
    if not ds.file_meta.TransferSyntaxUID.is_encapsulated and len(ds.PixelData) < needed:
        raise ValueError("fewer bytes than pixels")


def _read(file: str) -> sitk.Image:
    reader = sitk.ImageFileReader()
    reader.SetGlobalWarningDisplay(False)  # ITK warns on stderr, past our log
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(file)
    image: sitk.Image = reader.Execute()
    return image


def _check_place(image: sitk.Image, header: SliceHeader) -> None:
    """Refuse where SimpleITK sees another size, or puts a corner of the slice elsewhere than the header does."""
    rows, columns = header.rows or 0, header.columns or 0
    if image.GetNumberOfComponentsPerPixel() != 1 or tuple(image.GetSize()) not in _sizes(rows, columns):
        raise GeometryRefused(f"SOP Instance {header.sop_uid} does not decode to {rows} rows and {columns} columns.")
    corners = ((0, 0), (rows - 1, 0), (0, columns - 1))
    away = max(_apart(image, header, row, column) for row, column in corners)
    if not away <= CORNER_TOLERANCE_MM:
        raise GeometryRefused(
            f"SOP Instance {header.sop_uid}: SimpleITK puts a corner {away:.3f} mm away from the header."
        )


def _sizes(rows: int, columns: int) -> tuple[tuple[int, ...], ...]:
    return (columns, rows), (columns, rows, 1)


def _apart(image: sitk.Image, header: SliceHeader, row: int, column: int) -> float:
    """Millimetres between the two opinions about the centre of one pixel."""
    index = (column, row, 0)[: image.GetDimension()]
    theirs = np.array(image.TransformIndexToPhysicalPoint(index))
    return float(np.linalg.norm(theirs - _placed(header, row, column)[: len(theirs)]))


def _placed(header: SliceHeader, row: int, column: int) -> NDArray[np.float64]:
    """Centre of a pixel in LPS mm by PS3.3 C.7.6.2.1.1, equation C.7.6.2.1-1, from this header alone."""
    along_row, along_column, _ = axes_of(header.orientation or ())
    between_rows, between_columns = header.spacing_mm or (0.0, 0.0)
    placed = np.array(header.position) + along_row * between_columns * column + along_column * between_rows * row
    return np.asarray(placed, dtype=np.float64)
