"""From a mask to closed planar contours, exact: every pixel centre stays on its side of the line.

Vertices lie on half-pixel positions (the 0.5 iso-line of the mask, in units where pixel centres are whole numbers), so
a centre is never closer to the line than 0.35 px; thinning moves the line by at most 0.25 px, the sidestep by 0.02 px,
and so neither can lose one.
Holes are joined to their outer ring by a zero-width channel ("keyhole", PS3.3 C.8.8.6.3); separate parts stay separate
contours. Plane points are `(column, row)` in pixels, patient points LPS millimetres.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, cast

import numpy as np
from contourpy import FillType, contour_generator
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from npc_rtnode.domain.geometry import Array, Stack
from npc_rtnode.domain.records import SliceHeader
from npc_rtnode.errors import GeometryRefused

Mask = NDArray[np.bool_]

THINNING_PX: Final = 0.25  # Douglas-Peucker tolerance; 0.4 px starts to cost pixels (outputs.md 1.2)
SIDESTEP_PX: Final = 0.02
MAX_POINTS: Final = 1500  # in one contour; above 64 KiB ContourData has no length field in Explicit VR (PS3.5 7.1.2)


@dataclass(frozen=True)
class Contour:
    """One closed ring on one slice; the first point is not repeated.

    points_px: float64 `[point, (column, row)]`; points_mm: float64 `[point, (x, y, z)]`, LPS.
    """

    slice_index: int
    points_px: Array
    points_mm: Array


def contours_of(mask: Mask, stack: Stack) -> tuple[Contour, ...]:
    """All contours of a mask `[slice, row, column]`, each placed by the position of its own slice."""
    found = []
    for index in np.flatnonzero(mask.any(axis=(1, 2))):
        for points in polygons_of(mask[index]):
            found.append(Contour(int(index), points, to_patient(points, stack.slices[index])))
    return tuple(found)


def polygons_of(plane: Mask) -> list[Array]:
    """Closed polygons `(column, row)` of one mask slice `[row, column]`; holes keyholed, at most MAX_POINTS each."""
    labels, count = ndimage.label(plane, structure=np.ones((3, 3), dtype=bool))
    polygons: list[Array] = []
    for label, (rows, columns) in enumerate(ndimage.find_objects(labels, count), start=1):
        corner = np.array([columns.start, rows.start], dtype=np.float64)
        polygons.extend(polygon + corner for polygon in _part_polygons(labels[rows, columns] == label))
    return polygons


def _part_polygons(part: Mask) -> list[Array]:
    """Polygons of one cropped part; a polygon that would be too long is made of two halves that share an edge."""
    regions = [[off_the_lines(thin(ring)) for ring in rings] for rings in _rings(part)]
    if all(_joined_length(rings) <= MAX_POINTS for rings in regions):
        return [join_holes(rings) for rings in regions]
    axis = int(np.argmax(part.shape))
    middle = part.shape[axis] // 2
    low, high = np.split(part, [middle], axis=axis)
    shift = np.array([0.0, middle] if axis == 0 else [middle, 0.0])
    return polygons_of(low) + [polygon + shift for polygon in polygons_of(high)]


def _rings(part: Mask) -> list[list[Array]]:
    """For each connected region its outer ring, then its holes, wound the other way; first point not repeated."""
    padded = np.pad(part, 1).astype(np.float64)
    generator = contour_generator(z=padded, name="serial", fill_type=FillType.OuterOffset)
    points, offsets = cast("tuple[list[Array], list[NDArray[np.uint32]]]", generator.filled(0.5, 2.0))
    return [
        [ring[:-1] - 1.0 for ring in np.split(region, cuts[1:-1].astype(int))]
        for region, cuts in zip(points, offsets, strict=True)
    ]


def thin(ring: Array, tolerance_px: float = THINNING_PX) -> Array:
    """Douglas-Peucker on a closed ring: fewer points, none of the left-out ones farther than the tolerance."""
    far = int(np.argmax(np.sum((ring - ring[0]) ** 2, axis=1)))
    closed = np.vstack([ring, ring[:1]])
    keep = np.zeros(len(closed), dtype=bool)
    keep[[0, far]] = True
    spans = [(0, far), (far, len(ring))]
    while spans:
        first, last = spans.pop()
        worst = _worst(closed, first, last, tolerance_px)
        if worst is not None:
            keep[worst] = True
            spans += [(first, worst), (worst, last)]
    return np.asarray(ring[keep[:-1]])


def _worst(points: Array, first: int, last: int, tolerance_px: float) -> int | None:
    """The point between two others that lies farthest from their chord, if beyond the tolerance."""
    if last - first < 2:
        return None
    chord = points[last] - points[first]
    offsets = points[first + 1 : last] - points[first]
    along = np.clip(offsets @ chord / max(float(chord @ chord), 1e-12), 0.0, 1.0)
    distance = np.linalg.norm(offsets - along[:, None] * chord, axis=1)
    worst = int(np.argmax(distance))
    return first + 1 + worst if distance[worst] > tolerance_px else None


def off_the_lines(ring: Array) -> Array:
    """Every point a little further along the ring, off the lines through pixel centres.

    There a reader's scanline would meet the point itself: plastimatch loses pixels so (Dice 0.996 on a thin crescent).
    """
    steps = np.roll(ring, -1, axis=0) - ring
    lengths = np.linalg.norm(steps, axis=1, keepdims=True)
    return np.asarray(ring + steps * (SIDESTEP_PX / lengths))


def _joined_length(rings: list[Array]) -> int:
    """Points of the one ring that join_holes makes: a keyhole repeats two of them."""
    return sum(len(ring) for ring in rings) + 2 * (len(rings) - 1)


def join_holes(rings: list[Array]) -> Array:
    """One ring from an outer ring and its holes: each is entered and left over the same nearest vertex pair."""
    merged, holes = rings[0], list(rings[1:])
    while holes:
        distances, indices = cKDTree(merged).query(np.vstack(holes))
        nearest = int(np.argmin(distances))
        ends = np.cumsum([len(hole) for hole in holes])
        chosen = int(np.searchsorted(ends, nearest, side="right"))
        hole = holes.pop(chosen)
        merged = _with_keyhole(merged, int(indices[nearest]), np.roll(hole, int(ends[chosen]) - nearest, axis=0))
    return merged


def _with_keyhole(ring: Array, at: int, hole: Array) -> Array:
    """The ring, a step to the hole's first vertex, round the hole, and the same step back."""
    return np.vstack([ring[: at + 1], hole, hole[:1], ring[at : at + 1], ring[at + 1 :]])


def to_patient(points_px: Array, header: SliceHeader) -> Array:
    """`(column, row)` pixels to LPS mm by the slice's own position (PS3.3 C.7.6.2.1.1, equation C.7.6.2.1-1)."""
    position, orientation, spacing_mm = header.position, header.orientation, header.spacing_mm
    if position is None or orientation is None or spacing_mm is None:
        raise GeometryRefused("a slice does not say where it is")
    between_rows, between_columns = spacing_mm
    along_row = np.array(orientation[:3], dtype=np.float64) * between_columns
    along_column = np.array(orientation[3:], dtype=np.float64) * between_rows
    return np.asarray(np.array(position) + points_px[:, :1] * along_row + points_px[:, 1:] * along_column)
