"""Where an outline runs: between which pixels the mask says, how far between them the probabilities say.

Each step from a pixel inside to a neighbour outside is a *gate*, and the line passes every gate once: so the mask alone
decides topology and sides, and no probability can lose or win a pixel centre. Within its gate the line lies where the
logit reaches one *level*, the same for the whole ROI, chosen so that polygons and voxels have the same volume. Where
the probabilities do not bear the mask out, the line is the mask's own boundary, midway between two pixels.

Pixel centres are whole numbers; points are `(column, row)`; inside is to the left of the line (in axes x, y).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Final, cast

import numpy as np
from contourpy import FillType, contour_generator
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import brentq

from npc_rtnode.domain.geometry import Array

Mask = NDArray[np.bool_]
Index = NDArray[np.int64]

MAX_POINTS: Final = 1500  # in one contour; above 64 KiB ContourData has no length field in Explicit VR (PS3.5 7.1.2)
NEAREST_PX: Final = 0.1  # of the line to a pixel centre, along the gate
SIDESTEP_PX: Final = 0.02
MARGIN_PX: Final = 0.01  # of a thinned line to a pixel centre; three decimals of a millimetre are 0.003 px at most
SURE: Final = 4.0  # logits beyond this tell nothing of where the line is (outputs.md 1.2)
MOST_SHIFT_PX: Final = 0.1  # of the threshold's line from the mask's own boundary, on average over the gates
TRACED_PX: Final = 0.375  # how far from the inner pixel _rings puts its points: the nearest pixel is the inner one


@dataclass(frozen=True)
class Probabilities:
    """What a mask was cut from: values 0-1, `[slice, row, column]`, and the threshold it was cut at."""

    values: NDArray[np.float32]
    threshold: float

    def above_threshold(self, at: tuple[Index, ...]) -> Array:
        """Logit over the threshold's logit at these voxels, within SURE."""
        return np.clip(_logit(self.values[at]) - _logit(np.array(self.threshold)), -SURE, SURE)


def _logit(probability: NDArray[np.floating]) -> Array:
    inner = np.clip(probability.astype(np.float64), 1e-6, 1 - 1e-6)
    return np.asarray(np.log(inner / (1 - inner)))


@dataclass(frozen=True)
class Gates:
    """The gates of one ROI, ring after ring, each ring in order and its region's outer ring first; one row a gate.

    inside, outward: `[gate, (column, row)]`, the inner pixel and the step to the outer one. high, low: logits there,
    over the threshold's. fixed: the line passes midway whatever the logits (at the image's edge, at a cut between
    halves). ring, region, plane: to which of these the gate belongs, by number.
    """

    inside: Index
    outward: Index
    high: Array
    low: Array
    fixed: Mask
    ring: Index
    region: Index
    plane: Index

    @cached_property
    def following(self) -> Index:
        """The next gate on the same ring."""
        last = np.flatnonzero(np.diff(self.ring, append=-1))
        following = np.arange(1, len(self.ring) + 1)
        following[last] = np.concatenate([[0], last[:-1] + 1])
        return following

    def some(self, kept: Mask) -> Gates:
        """These gates alone."""
        return Gates(*(getattr(self, column.name)[kept] for column in fields(self)))

    def points(self, level: float) -> Array:
        """Where the line at a level passes: `[gate, (column, row)]`.

        Every point is a little past its gate, off the lines through pixel centres: there a reader's scanline would meet
        the point itself, and one that counts such a point twice or not at all loses the row.
        """
        above, below = np.maximum(self.high - level, 1e-3), np.maximum(level - self.low, 1e-3)
        along = np.clip(above / (above + below), NEAREST_PX, 1 - NEAREST_PX)
        along[self.fixed] = 0.5
        travel = np.column_stack([-self.outward[:, 1], self.outward[:, 0]])
        return np.asarray(self.inside + self.outward * along[:, None] + SIDESTEP_PX * travel)

    def area(self, level: float) -> float:
        """Pixels that the line at a level encloses; holes count against it.

        A plain sum, for a dot product's last bits differ with the number of threads.
        """
        x, y = (self.points(level) - self.inside[0]).T
        return float(np.sum(x * y[self.following] - y * x[self.following])) / 2.0

    def level(self, pixels: int) -> float:
        """The level at which the line encloses so many pixels; the nearest one where none does."""
        ends = (-3 * SURE, 3 * SURE)
        over, under = (self.area(end) - pixels for end in ends)
        if over <= 0 or under >= 0:
            return ends[0] if over <= 0 else ends[1]
        return float(brentq(lambda level: self.area(level) - pixels, *ends, xtol=1e-9))


def gates_of(mask: Mask, probabilities: Probabilities | None = None) -> Gates:
    """All gates of a mask `[slice, row, column]`; without probabilities, or against them, the line is the mask's own.

    The probabilities are against a mask if their line at the threshold encloses so much less or more than the mask's
    boundary that it lies further than MOST_SHIFT_PX from it: the polygons' volume would then have to be forced. They
    are against one gate if they do not fall from its inside to its outside.
    """
    own = _own_gates(mask)
    if probabilities is None:
        return own
    seen = _seen(own, probabilities)
    shift_px = (own.area(0.0) - seen.area(0.0)) / len(own.ring)
    return seen if abs(shift_px) <= MOST_SHIFT_PX else own


def _own_gates(mask: Mask) -> Gates:
    """The gates as the mask has them: as sure of every pixel inside as of every pixel outside."""
    regions = [(plane, rings) for plane in np.flatnonzero(mask.any(axis=(1, 2))) for rings in traced(mask[plane])]
    rings = [(plane, region, ring) for region, (plane, rings) in enumerate(regions) for ring in rings]
    points = np.vstack([ring for _, _, ring in rings])
    lengths = [len(ring) for _, _, ring in rings]
    inside = np.rint(points).astype(np.int64)
    outward = np.rint((points - inside) / TRACED_PX).astype(np.int64)
    plane = np.repeat([plane for plane, _, _ in rings], lengths)
    sure = np.full(len(points), SURE)
    return Gates(
        inside,
        outward,
        high=sure,
        low=-sure,
        fixed=_inside_or_off(mask, plane, inside + outward),
        ring=np.repeat(np.arange(len(rings)), lengths),
        region=np.repeat([region for _, region, _ in rings], lengths),
        plane=plane,
    )


def _inside_or_off(mask: Mask, plane: Index, pixels: Index) -> Mask:
    """Which pixels `(column, row)` are in the mask or off the image."""
    columns, rows = pixels.T
    off = (columns < 0) | (rows < 0) | (columns >= mask.shape[2]) | (rows >= mask.shape[1])
    return np.asarray(off | mask[plane, np.where(off, 0, rows), np.where(off, 0, columns)])


def _seen(own: Gates, probabilities: Probabilities) -> Gates:
    """The gates with the probabilities' logits, wherever these fall from inside to outside."""
    outside = np.where(own.fixed[:, None], own.inside, own.inside + own.outward)
    high, low = (probabilities.above_threshold((own.plane, *pixels.T[::-1])) for pixels in (own.inside, outside))
    falls = high > low
    return replace(own, high=np.where(falls, high, own.high), low=np.where(falls, low, own.low))


# --- tracing ----------------------------------------------------------------------------------------------------------


def traced(plane: Mask) -> list[list[Array]]:
    """For each region of a slice `[row, column]` its outer ring, then its holes, wound the other way; not closed.

    Pixels that touch at a corner alone are apart. A region whose rings would make one contour of more than MAX_POINTS
    is made of two halves that share an edge.
    """
    (rows, columns), corner = _box(plane)
    regions = [[ring + corner for ring in rings] for rings in _rings(plane[rows, columns])]
    if all(joined_length(rings) <= MAX_POINTS for rings in regions):
        return regions
    labels = ndimage.label(plane)[0]
    return [part for rings in regions for part in _short(rings, labels)]


def _box(plane: Mask) -> tuple[tuple[slice, slice], Array]:
    """The rows and columns that the mask fills, and their corner `(column, row)`."""
    box = ndimage.find_objects(plane.astype(np.int8))[0]
    return box, np.array([box[1].start, box[0].start], dtype=np.float64)


def _rings(part: Mask) -> list[list[Array]]:
    """Points on the gates of a cropped mask, TRACED_PX from the inner pixel.

    That level is above the mean of a cell of which two opposite corners are inside: so contourpy parts these.
    """
    padded = np.pad(np.where(part, 1.0, -1.0), 1, constant_values=-1.0)
    generator = contour_generator(z=padded, name="serial", fill_type=FillType.OuterOffset)
    points, offsets = cast("tuple[list[Array], list[NDArray[np.uint32]]]", generator.filled(1 - 2 * TRACED_PX, 2.0))
    return [
        [ring[:-1] - 1.0 for ring in np.split(region, cuts[1:-1].astype(int))]
        for region, cuts in zip(points, offsets, strict=True)
    ]


def _short(rings: list[Array], labels: NDArray[np.int32]) -> list[list[Array]]:
    """The region as it is, or the regions of its halves across its longer side."""
    if joined_length(rings) <= MAX_POINTS:
        return [rings]
    column, row = np.rint(rings[0][0]).astype(int)
    region = labels == labels[row, column]
    box, _ = _box(region)
    axis = int(np.argmax([side.stop - side.start for side in box]))
    middle = (box[axis].start + box[axis].stop) // 2
    low = region & (np.indices(region.shape)[axis] < middle)
    return traced(low) + traced(region & ~low)


def joined_length(rings: Sequence[Array]) -> int:
    """Points of the one ring that a region's rings make: a keyhole repeats two of them."""
    return sum(len(ring) for ring in rings) + 2 * (len(rings) - 1)


# --- fewer points -----------------------------------------------------------------------------------------------------


def strays(gates: Gates, kept: Mask, points: Array) -> Mask:
    """Gates that a thinned line, through the points of the kept gates alone, does not pass with MARGIN_PX to spare."""
    end = _end_of_chord(gates.ring, kept)
    last = np.cumsum(kept)[end] - 1
    first = _previous(gates.some(kept).following)[last]
    chord = points[last] - points[first]
    chord /= np.linalg.norm(chord, axis=1, keepdims=True)
    inner, outer = (_left_of(chord, pixel - points[first]) for pixel in (gates.inside, gates.inside + gates.outward))
    return np.asarray((inner < MARGIN_PX) | (outer > -MARGIN_PX))


def _left_of(chord: Array, offset: Array) -> Array:
    return np.asarray(chord[:, 0] * offset[:, 1] - chord[:, 1] * offset[:, 0])


def _previous(following: Index) -> Index:
    previous = np.empty_like(following)
    previous[following] = np.arange(len(following))
    return previous


def _end_of_chord(ring: Index, kept: Mask) -> Index:
    """For each gate the first kept one at or after it on its ring, round past the ring's end if need be."""
    where = np.flatnonzero(kept)
    at = np.searchsorted(where, np.arange(len(kept)))
    first_of_ring = where[np.searchsorted(ring[where], ring)]
    found = where[np.minimum(at, len(where) - 1)]
    runs_on = (at < len(where)) & (ring[found] == ring)
    return np.asarray(np.where(runs_on, found, first_of_ring))
