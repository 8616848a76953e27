"""What a ruler says of an outline: extents along the patient's axes, longest diameter, centroid.

Extents and diameter come from the rings of the written structure set, LPS millimetres; each ring stands for a slab as
thick as the distance between slices, as every reader of a structure set takes it. The centroid is the voxels', as the
volume is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import pdist

from npc_rtnode.domain.geometry import Grid, Stack
from npc_rtnode.domain.rasterising import PlacedRing

DIRECTIONS = ("LR", "PA", "HF")
"""Patient letters towards plus and minus x, y and z."""


@dataclass(frozen=True)
class Measures:
    """extent_mm: along x (left), y (posterior), z (head); diameter_mm: the longest within one ring; centroid_mm: LPS.

    centroid_slice: the index of the slice nearest to it; slices: how many carry an outline; contours: how many rings.
    """

    extent_mm: tuple[float, float, float]
    diameter_mm: float
    centroid_mm: tuple[float, float, float]
    centroid_slice: int
    slices: int
    contours: int


def measures_of(rings: Sequence[PlacedRing], mask: NDArray[np.bool_], stack: Stack) -> Measures:
    """Measure rings, and the mask `[slice, row, column]` that they outline; neither may be empty."""
    index = np.argwhere(mask).mean(axis=0)
    x, y, z = stack.grid.affine[:3] @ np.append(index, 1.0)
    return Measures(
        extent_mm=_extent_mm(rings, stack.grid),
        diameter_mm=max(float(pdist(ring.points_mm).max()) for ring in rings),
        centroid_mm=(float(x), float(y), float(z)),
        centroid_slice=round(float(index[0])),
        slices=len({ring.slice_index for ring in rings}),
        contours=len(rings),
    )


def _extent_mm(rings: Sequence[PlacedRing], grid: Grid) -> tuple[float, float, float]:
    """From the lowest to the highest corner of all slabs, along each axis."""
    points = np.vstack([ring.points_mm for ring in rings])
    half = grid.affine[:3, 0] / 2
    x, y, z = np.ptp(np.vstack([points - half, points + half]), axis=0)
    return float(x), float(y), float(z)


def place_of(grid: Grid, index: int) -> str:
    """Where a slice lies, as `H 24.0 mm`: the coordinate of its middle along the patient's axis nearest the normal."""
    _, rows, columns = grid.shape
    middle = grid.affine[:3] @ np.array([index, (rows - 1) / 2, (columns - 1) / 2, 1.0])
    axis = int(np.argmax(np.abs(grid.affine[:3, 0])))
    return side_of(float(middle[axis]), axis)


def side_of(coordinate_mm: float, axis: int) -> str:
    """A coordinate on the x, y or z axis of LPS, as letter and millimetres: `R 3.5 mm`."""
    return f"{DIRECTIONS[axis][0 if coordinate_mm >= 0 else 1]} {abs(coordinate_mm):.1f} mm"
