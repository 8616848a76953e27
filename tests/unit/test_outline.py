"""Where a line runs between two pixels, and at which level."""

from __future__ import annotations

import time

import numpy as np
import pytest

from npc_rtnode.domain.contouring import contours_of
from npc_rtnode.domain.geometry import Array
from npc_rtnode.domain.outline import MOST_SHIFT_PX, NEAREST_PX, SURE, Gates, Probabilities, gates_of, traced
from npc_rtnode.domain.rasterising import polygon_area
from tests.builders.outputs import Mask, stack_for

CENTRE = (10.0, 23.3, 27.6)
RADII = (6.3, 15.2, 11.8)


def depth_px(slice_index: Array, row: Array, column: Array) -> Array:
    """About how deep a point lies in an ellipsoid, in pixels; negative outside."""
    scaled = [(v - c) / r for v, c, r in zip((slice_index, row, column), CENTRE, RADII, strict=True)]
    distance = np.sqrt(sum(s**2 for s in scaled))
    slope = np.hypot(scaled[1] / RADII[1], scaled[2] / RADII[2]) / np.maximum(distance, 1e-9)
    return np.asarray((1 - distance) / np.maximum(slope, 1e-9))


def ellipsoid(threshold: float = 0.5) -> tuple[Mask, Probabilities]:
    """A smooth body on 20 slices of 48 x 56 and the probabilities that it was cut from."""
    logit = np.log(threshold / (1 - threshold)) + 2.0 * depth_px(*np.indices((20, 48, 56)).astype(float))
    values = (1 / (1 + np.exp(-np.clip(logit, -30, 30)))).astype(np.float32)
    return values >= threshold, Probabilities(values, threshold)


def off_the_surface(mask: Mask, probabilities: Probabilities | None) -> float:
    """Mean distance of the contours' points from the body's true outline on their slices, in pixels."""
    off = [
        np.abs(depth_px(np.array(float(c.slice_index)), c.points_px[:, 1], c.points_px[:, 0]))
        for c in contours_of(mask, stack_for(), probabilities)
        if 6 <= c.slice_index <= 14  # nearer the poles a pixel is no measure of depth
    ]
    return float(np.concatenate(off).mean())


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_probabilities_bring_the_line_to_the_surface(threshold: float) -> None:
    """The line is within 0.05 px of the true outline on average, at least three times nearer than the mask's own."""
    mask, probabilities = ellipsoid(threshold)
    near, far = off_the_surface(mask, probabilities), off_the_surface(mask, None)
    assert near < 0.05
    assert far > 3 * near


def test_polygons_have_the_volume_of_the_voxels_wherever_the_line_runs() -> None:
    """Sub-pixel contours have the mask's volume to a millionth: the level moves by less than a hundredth of a pixel."""
    mask, probabilities = ellipsoid()
    areas = [polygon_area(contour.points_px) for contour in contours_of(mask, stack_for(), probabilities)]
    assert sum(areas) == pytest.approx(int(mask.sum()), rel=1e-6)
    assert abs(gates_of(mask, probabilities).level(int(mask.sum()))) < 2.0 * 0.05


def crossings(inner: float, outer: float) -> Gates:
    """The gates of a block of 5 x 5 pixels, sure but for the middle of its right side and the pixel next to that."""
    mask = np.zeros((1, 9, 9), bool)
    mask[0, 2:7, 2:7] = True
    values = np.where(mask, 0.98, 0.02).astype(np.float32)
    values[0, 4, 6:8] = inner, outer
    return gates_of(mask, Probabilities(values, 0.5))


def to_the_right(gates: Gates) -> float:
    """How far from the inner pixel of that side the threshold's line passes on its way to the next column."""
    at = _right(gates)
    return float(gates.points(0.0)[at, 0] - gates.inside[at, 0])


def _right(gates: Gates) -> int:
    (at,) = np.flatnonzero((gates.outward == [1, 0]).all(axis=1) & (gates.inside == [6, 4]).all(axis=1))
    return int(at)


def test_the_line_is_where_the_logit_passes_the_threshold() -> None:
    """Half way between equal logits, a third of the way where the inner one is half of the outer one."""
    sure, half = 1 / (1 + np.exp(-2.0)), 1 / (1 + np.exp(-1.0))
    assert to_the_right(crossings(sure, 1 - sure)) == pytest.approx(0.5, abs=1e-6)
    assert to_the_right(crossings(half, 1 - sure)) == pytest.approx(1 / 3, abs=1e-6)


def test_the_line_keeps_away_from_pixel_centres() -> None:
    """A pixel that was cut by a hair stays a tenth of a pixel inside or outside."""
    assert to_the_right(crossings(0.5001, 0.02)) == pytest.approx(NEAREST_PX)
    assert to_the_right(crossings(0.98, 0.4999)) == pytest.approx(1 - NEAREST_PX)


def test_a_gate_that_the_probabilities_contradict_is_passed_midway() -> None:
    """A pixel kept or left out against its probability: there the line is the mask's own boundary."""
    gates = crossings(0.6, 0.9)
    assert (gates.high[_right(gates)], gates.low[_right(gates)]) == (SURE, -SURE)
    assert to_the_right(gates) == 0.5


def test_probabilities_of_another_body_are_not_followed() -> None:
    """Where the threshold's line lies further than a tenth of a pixel off on average, the mask's own boundary it is."""
    mask, probabilities = ellipsoid()
    small = Probabilities(np.where(mask, 0.5001, 0.02).astype(np.float32), 0.5)
    own, seen = gates_of(mask), gates_of(mask, probabilities)
    assert np.array_equal(gates_of(mask, small).high, own.high)
    assert not np.array_equal(seen.high, own.high)
    assert abs(own.area(0.0) - mask.sum()) / len(own.ring) < MOST_SHIFT_PX


def test_a_volume_that_no_line_has_gives_the_nearest_line() -> None:
    """Between one tenth and nine tenths of every gate lies all there is."""
    mask, _ = ellipsoid()
    gates = gates_of(mask)
    wanted = int(mask.sum())
    assert gates.area(gates.level(10**9)) > 1.05 * wanted
    assert gates.area(gates.level(0)) < 0.95 * wanted
    assert gates.area(gates.level(wanted)) == pytest.approx(wanted)


def test_pixels_that_touch_at_a_corner_are_apart() -> None:
    """A checkerboard is as many regions as it has black fields; nothing but the mask decides that."""
    assert len(traced(np.indices((6, 7)).sum(axis=0) % 2 == 0)) == 21


def test_contours_are_the_same_every_time() -> None:
    """Same mask, same probabilities, same points to the last bit."""
    first, second = (contours_of(mask, stack_for(), seen) for mask, seen in (ellipsoid(), ellipsoid()))
    assert all(np.array_equal(a.points_mm, b.points_mm) for a, b in zip(first, second, strict=True))


def test_a_slice_takes_milliseconds() -> None:
    """A tumour of 40 mm on a 512 x 512 matrix: at most 15 ms of processor time a slice, the best of three."""
    rows, columns = np.indices((512, 512)) - np.array([250.4, 260.2])[:, None, None]
    depth = 42 + 3 * np.sin(9 * np.arctan2(rows, columns)) - np.hypot(rows, columns)
    values = np.repeat((1 / (1 + np.exp(-depth)))[None].astype(np.float32), 8, axis=0)
    took = []
    for _ in range(3):
        began = time.process_time()
        contours_of(values >= 0.5, stack_for(), Probabilities(values, 0.5))
        took.append((time.process_time() - began) / len(values))
    assert min(took) < 0.015
