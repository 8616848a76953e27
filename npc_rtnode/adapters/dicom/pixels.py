"""Pixels as voxels: one slice of a file, decoded by SimpleITK and believed about its place only after a check.

Its corners of every slice must lie where our own header arithmetic puts them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom import Dataset

from npc_rtnode.adapters.dicom.elements import uid_of, value_of, whole_of
from npc_rtnode.domain.geometry import axes_of
from npc_rtnode.domain.records import SliceHeader
from npc_rtnode.errors import GeometryRefused, InputFault, Unreadable

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
