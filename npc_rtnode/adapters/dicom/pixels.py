"""Pixels as voxels: one slice of a file, decoded by SimpleITK and believed about its place only after a check.

Its corners of every slice must lie where our own header arithmetic puts them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.pixels.utils import iter_pixels

from npc_rtnode.adapters.dicom.elements import UNREADABLE, quietly, uid_of, value_of, whole_of
from npc_rtnode.domain.geometry import axes_of
from npc_rtnode.domain.records import SliceHeader
from npc_rtnode.errors import GeometryRefused, InputFault, Unreadable

Array = NDArray[Any]

_GREY_OR_COLOUR = (
    "MONOCHROME1",
    "MONOCHROME2",
    "PALETTE COLOR",
    "RGB",
    "YBR_FULL",
    "YBR_FULL_422",
    "YBR_ICT",
    "YBR_RCT",
)

CORNER_TOLERANCE_MM = 0.01
"""SimpleITK and our headers must put every slice corner at the same place within this: only rounding may differ."""


def refuse_other_than_plain_grey(ds: Dataset) -> None:
    """PS3.3 C.7.6.3.1.2: MONOCHROME2 alone means that more signal is a larger number, as the model was shown it."""
    photometric = value_of(ds, "PhotometricInterpretation")
    samples = whole_of(ds, "SamplesPerPixel")
    if photometric == "MONOCHROME2" and samples in (1, None):
        return
    said = photometric if photometric in _GREY_OR_COLOUR else "unknown"
    uid = uid_of(ds, "SOPInstanceUID")
    raise InputFault(
        f"SOP Instance {uid}: PhotometricInterpretation {said}, {samples} samples a pixel; MONOCHROME2 needed"
    )


def decoded(path: Path, header: SliceHeader) -> NDArray[np.float32]:
    """One slice, `[row, column]`, with RescaleSlope and RescaleIntercept applied; float32."""
    reader = sitk.ImageFileReader()
    reader.SetGlobalWarningDisplay(False)  # ITK warns on stderr, past our log
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    try:
        image = reader.Execute()
    except RuntimeError:
        raise Unreadable(f"The pixels of SOP Instance {header.sop_uid} do not decode.") from None
    _check_place(image, header)
    voxels = np.asarray(sitk.GetArrayViewFromImage(image), dtype=np.float32)
    return voxels.reshape(header.rows or 0, header.columns or 0)


def decoded_frames(path: Path, headers: Sequence[SliceHeader]) -> Iterator[NDArray[np.float32]]:
    """Frames of one multi-frame instance, each `[row, column]`, in the order asked for, each with its own rescale.

    pydicom decodes here, frame by frame: GDCM applies one rescale to all frames, and only if they share it.
    """
    for header, stored in zip(headers, _stored(path, headers), strict=True):
        if stored.shape != (header.rows, header.columns):
            raise GeometryRefused(
                f"SOP Instance {header.sop_uid} does not decode to {header.rows} rows and {header.columns} columns."
            )
        yield _rescaled(stored, header)


def _stored(path: Path, headers: Sequence[SliceHeader]) -> Iterator[Array]:
    """Stored values of the frames asked for; the file is opened once."""
    frames = iter_pixels(path, indices=[(header.frame or 1) - 1 for header in headers], raw=True)
    for header in headers:
        try:
            with quietly():
                stored = next(frames)
        except (*UNREADABLE, RuntimeError, StopIteration):
            raise Unreadable(f"The pixels of SOP Instance {header.sop_uid} do not decode.") from None
        yield stored


def _rescaled(stored: Array, header: SliceHeader) -> NDArray[np.float32]:
    """Values by the Pixel Value Transformation of that very frame (PS3.3 C.7.6.16.2.9)."""
    if header.traits.rescale is None:
        where = f"SOP Instance {header.sop_uid}, frame {header.frame}"
        raise InputFault(f"{where}: RescaleSlope and RescaleIntercept are no usable numbers")
    slope, intercept = header.traits.rescale
    return np.asarray(stored.astype(np.float64) * slope + intercept, dtype=np.float32)


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
