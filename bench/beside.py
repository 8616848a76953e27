"""A second opinion on where an outline lies: SimpleITK's geometry of the image files, and its own filling of contours.

Nothing of the node is used here. The images are sorted and placed by GDCM, contours are read with pydicom and brought
into index space by SimpleITK, and filled row by row.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom import dcmread

Mask = NDArray[np.bool_]


def image_of(folder: Path) -> sitk.Image:
    """The series in a folder as SimpleITK stacks it."""
    reader = sitk.ImageSeriesReader()
    reader.SetGlobalWarningDisplay(False)
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


def drawn(encoded: bytes, image: sitk.Image) -> Mask:
    """What an RTSTRUCT outlines on the image's grid, ``[slice, row, column]``; contours off the stack draw nothing."""
    columns, rows, slices = image.GetSize()
    mask = np.zeros((slices, rows, columns), dtype=bool)
    for item in dcmread(BytesIO(encoded)).ROIContourSequence[0].ContourSequence:
        points = np.array(item.ContourData, dtype=float).reshape(-1, 3)
        index = np.array([image.TransformPhysicalPointToContinuousIndex(point) for point in points.tolist()])
        k = round(float(index[:, 2].mean()))
        if 0 <= k < slices:
            _fill(mask[k], index[:, 0], index[:, 1])
    return mask


def _fill(plane: Mask, x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
    """Turn over every pixel whose centre lies inside the ring (even-odd)."""
    x1, y1 = np.roll(x, -1), np.roll(y, -1)
    for row in range(max(0, int(np.ceil(y.min()))), min(plane.shape[0] - 1, int(np.floor(y.max()))) + 1):
        crossed = (y <= row) != (y1 <= row)
        at = np.sort(x[crossed] + (row - y[crossed]) * (x1 - x)[crossed] / (y1 - y)[crossed])
        for left, right in zip(at[::2], at[1::2], strict=True):
            first, last = max(0, int(np.ceil(left))), min(plane.shape[1], int(np.ceil(right)))
            plane[row, first:last] ^= True


def placed(mask: Mask, affine: NDArray[np.float64], image: sitk.Image) -> Mask:
    """A mask on its own grid (index -> LPS mm), voxel by voxel on the image's grid."""
    direction = np.array(image.GetDirection()).reshape(3, 3) @ np.diag(image.GetSpacing())
    points = (affine @ np.vstack([np.array(mask.nonzero()), np.ones(int(mask.sum()))]))[:3]
    x, y, z = np.rint(np.linalg.solve(direction, points - np.array(image.GetOrigin())[:, None])).astype(int)
    out = np.zeros(image.GetSize()[::-1], dtype=bool)
    there = (z >= 0) & (z < out.shape[0]) & (y >= 0) & (y < out.shape[1]) & (x >= 0) & (x < out.shape[2])
    out[z[there], y[there], x[there]] = True
    return out


def dice(a: Mask, b: Mask) -> float:
    """Dice coefficient; 1 for two empty masks."""
    total = int(a.sum()) + int(b.sum())
    return 1.0 if total == 0 else 2.0 * int((a & b).sum()) / total
