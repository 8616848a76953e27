"""From a mask to closed planar contours, exact: every pixel centre stays on its side of the line.

domain/outline says where the line runs; here it gets fewer points and becomes contours. The polygons' volume is the
voxels' volume, and nothing that is done to the line may bring it nearer to a pixel centre than outline.MARGIN_PX.
Holes are joined to their outer ring by a zero-width channel ("keyhole", PS3.3 C.8.8.6.3); separate parts stay separate
contours. Plane points are `(column, row)` in pixels, patient points LPS millimetres.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from npc_rtnode.domain.geometry import Array, Stack
from npc_rtnode.domain.outline import Gates, Probabilities, gates_of, strays
from npc_rtnode.domain.records import SliceHeader
from npc_rtnode.errors import GeometryRefused

Mask = NDArray[np.bool_]

THINNING_PX: Final = 0.05  # Douglas-Peucker tolerance; the level makes up for the corners it cuts


@dataclass(frozen=True)
class Contour:
    """One closed ring on one slice; the first point is not repeated.

    points_px: float64 `[point, (column, row)]`; points_mm: float64 `[point, (x, y, z)]`, LPS.
    """

    slice_index: int
    points_px: Array
    points_mm: Array


def contours_of(mask: Mask, stack: Stack, probabilities: Probabilities | None = None) -> tuple[Contour, ...]:
    """All contours of a mask `[slice, row, column]`, each placed by the position of its own slice.

    With probabilities on the same grid the contours run between pixels where these say (outline.gates_of); without
    them they are the mask's own boundary. Either way they enclose the mask's pixel centres and the mask's volume.
    """
    return tuple(
        _placed(index, points, stack.slices[index])
        for index, points in _polygons(gates_of(mask, probabilities), int(np.count_nonzero(mask)))
    )


def _placed(index: int, points_px: Array, header: SliceHeader) -> Contour:
    """A contour that starts where its closing edge is longest in patient x and y.

    plastimatch takes the last point for a repeated first one, and drops it, if the two differ in z alone: on a sagittal
    series it then sees a thin crescent with Dice 0.996.
    """
    points_mm = to_patient(points_px, header)
    closing = np.linalg.norm((points_mm - np.roll(points_mm, 1, axis=0))[:, :2], axis=1)
    start = int(np.argmax(np.round(closing, 3)))
    return Contour(index, np.roll(points_px, -start, axis=0), np.roll(points_mm, -start, axis=0))


def polygons_of(plane: Mask) -> list[Array]:
    """Closed polygons `(column, row)` of one mask slice `[row, column]`, with its area; holes keyholed."""
    if not plane.any():
        return []
    return [points for _, points in _polygons(gates_of(plane[None]), int(np.count_nonzero(plane)))]


def _polygons(gates: Gates, pixels: int) -> list[tuple[int, Array]]:
    """Slice and polygon of every region, slices ascending."""
    thinned, points = _thinned(gates, pixels)
    polygons = []
    for region in np.split(np.arange(len(points)), np.flatnonzero(np.diff(thinned.region)) + 1):
        rings = np.split(points[region], np.flatnonzero(np.diff(thinned.ring[region])) + 1)
        polygons.append((int(thinned.plane[region[0]]), join_holes(rings)))
    return polygons


def _thinned(gates: Gates, pixels: int) -> tuple[Gates, Array]:
    """As few gates as thin leaves, and the line through them at the level that has the volume.

    The level is looked for again after thinning; a gate that the new line would miss comes back.
    """
    points = gates.points(gates.level(pixels))
    kept = np.concatenate([thin(ring) for ring in np.split(points, np.flatnonzero(np.diff(gates.ring)) + 1)])
    while True:
        level = gates.some(kept).level(pixels)
        missed = strays(gates, kept, gates.points(level)[kept]) & ~kept
        if not missed.any():
            return gates.some(kept), gates.points(level)[kept]
        kept |= missed


def thin(ring: Array, tolerance_px: float = THINNING_PX) -> Mask:
    """Douglas-Peucker on a closed ring: which points stay; none of the others is farther than the tolerance."""
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
    return np.asarray(keep[:-1])


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
