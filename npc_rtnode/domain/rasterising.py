"""From contours in patient space back to a mask: the second opinion on what was written.

Shares no formula with contouring: points are projected onto each slice's plane by least squares, filled by an even-odd
scanline over pixel centres. Volumes are areas times slice distance, in cubic centimetres.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from npc_rtnode.domain.geometry import Array, Stack
from npc_rtnode.domain.records import SliceHeader
from npc_rtnode.errors import GeometryRefused


@dataclass(frozen=True)
class PlacedRing:
    """One closed ring as a reader finds it: the slice it says it lies on, and LPS mm points `[point, (x, y, z)]`."""

    slice_index: int
    points_mm: Array


@dataclass(frozen=True)
class Raster:
    """What contours cover: `times` counts the rings over each pixel centre, `off_plane_mm` is the worst distance."""

    times: NDArray[np.int32]
    off_plane_mm: float
    polygon_cc: float

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Covered by any ring."""
        return np.asarray(self.times > 0)

    @property
    def overlapping(self) -> int:
        """Pixels covered more than once: readers disagree whether those are in or out."""
        return int(np.count_nonzero(self.times > 1))


@dataclass(frozen=True)
class _Plane:
    """A slice's plane as one matrix: columns are a step of one column, one row and one millimetre off the plane."""

    origin: Array
    steps: Array

    def project(self, points_mm: Array) -> Array:
        """LPS mm to (column, row, mm off plane)."""
        return np.asarray(np.linalg.lstsq(self.steps, (points_mm - self.origin).T, rcond=None)[0].T)

    @property
    def pixel_mm2(self) -> float:
        return abs(float(np.linalg.det(self.steps)))


def rasterise(rings: Iterable[PlacedRing], stack: Stack) -> Raster:
    """Cover the stack's pixels with rings; each ring is even-odd by itself, rings add up."""
    times = np.zeros(stack.grid.shape, dtype=np.int32)
    off_plane_mm, polygon_cc = 0.0, 0.0
    for ring in rings:
        plane = _plane_of(stack.slices[ring.slice_index])
        flat = plane.project(ring.points_mm)
        off_plane_mm = max(off_plane_mm, float(np.abs(flat[:, 2]).max()))
        polygon_cc += polygon_area(flat[:, :2]) * plane.pixel_mm2 * stack.grid.spacing_mm[0] / 1000.0
        cover(times[ring.slice_index], flat[:, :2])
    return Raster(times, off_plane_mm, polygon_cc)


def _plane_of(header: SliceHeader) -> _Plane:
    if header.position is None or header.orientation is None or header.spacing_mm is None:
        raise GeometryRefused("a slice does not say where it is")
    directions = np.array(header.orientation, dtype=np.float64).reshape(2, 3)
    normal = np.cross(directions[0], directions[1])
    steps = np.column_stack(
        [directions[0] * header.spacing_mm[1], directions[1] * header.spacing_mm[0], normal / np.linalg.norm(normal)]
    )
    return _Plane(np.array(header.position, dtype=np.float64), steps)


def cover(times: NDArray[np.int32], ring: Array) -> None:
    """Add one to every pixel `[row, column]` whose centre (whole numbers) lies inside a ring of `(column, row)` points.

    Even-odd, half-open at ties.
    """
    rows, columns = times.shape
    top, bottom = np.clip([np.ceil(ring[:, 1].min()), np.ceil(ring[:, 1].max())], 0, rows).astype(int)
    crossings = np.zeros((bottom - top, columns + 1), dtype=np.int32)
    for start, end in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        centres, at = _crossings(start, end, top, bottom)
        np.add.at(crossings, (centres - top, np.clip(np.ceil(at), 0, columns).astype(int)), 1)
    times[top:bottom] += np.cumsum(crossings, axis=1)[:, :columns] % 2


def _crossings(start: Array, end: Array, top: int, bottom: int) -> tuple[NDArray[np.int64], Array]:
    """The rows of pixel centres that an edge crosses, and the columns where it does.

    Edges are taken downwards only: both sides of a keyhole then cross at the very same numbers and cancel.
    """
    (x0, y0), (x1, y1) = (start, end) if start[1] <= end[1] else (end, start)
    centres = np.arange(max(int(np.ceil(y0)), top), min(int(np.ceil(y1)), bottom), dtype=np.int64)
    if not len(centres):
        return centres, np.zeros(0)
    return centres, x0 + (centres - y0) * ((x1 - x0) / (y1 - y0))


def polygon_area(ring: Array) -> float:
    """Area by the shoelace formula, in the square of the points' unit; a keyhole's hole counts against it."""
    x, y = (ring - ring[0]).T
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2.0


def dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Twice the overlap over the sum of sizes; two empty masks agree (1.0)."""
    total = int(one.sum()) + int(other.sum())
    return 2.0 * int((one & other).sum()) / total if total else 1.0
