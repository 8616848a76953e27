"""Masks become contours, and no pixel changes sides."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npc_rtnode.domain import contouring
from npc_rtnode.domain.contouring import contours_of, polygons_of, thin, to_patient
from npc_rtnode.domain.geometry import Array
from npc_rtnode.domain.outline import MAX_POINTS, SIDESTEP_PX, Probabilities
from npc_rtnode.domain.rasterising import cover, polygon_area
from npc_rtnode.errors import GeometryRefused
from tests.builders.outputs import SHAPES, Mask, stack_for


def covered(polygons: list[Array], shape: tuple[int, ...]) -> np.ndarray:
    """How many polygons lie over each pixel centre."""
    times = np.zeros(shape, dtype=np.int32)
    for polygon in polygons:
        cover(times, polygon)
    return times


def drawn(*rows: str) -> Mask:
    """A mask drawn with # and dots."""
    return np.array([[letter == "#" for letter in row] for row in rows])


def test_one_pixel_is_a_diamond_with_the_area_of_a_pixel() -> None:
    """The smallest outline has its points on the four lines to the neighbours, as far out as one pixel's area needs."""
    (polygon,) = polygons_of(drawn("....", "....", "..#.", "...."))
    half = np.sqrt(0.5)
    wanted = [(2 - half, 2.0), (2.0, 2 - half), (2.0, 2 + half), (2 + half, 2.0)]
    assert np.array(sorted(map(tuple, polygon), key=lambda point: (round(point[0]), point[1]))) == pytest.approx(
        np.array(wanted), abs=SIDESTEP_PX + 0.001
    )
    assert polygon_area(polygon) == pytest.approx(1.0)


def test_a_block_is_outlined_half_a_pixel_outside_its_centres() -> None:
    """The outline runs on pixel edges, not through centres as rt-utils' does."""
    (polygon,) = polygons_of(drawn(".....", ".###.", ".###.", "....."))
    assert (polygon.min(axis=0), polygon.max(axis=0)) == (
        pytest.approx([0.5, 0.5], abs=0.07),
        pytest.approx([3.5, 2.5], abs=0.07),
    )


def test_a_hole_is_reached_by_a_zero_width_channel() -> None:
    """A ring-shaped mask is one contour that has the ring's area and goes one edge there and back."""
    ring = drawn(".......", ".#####.", ".#...#.", ".#...#.", ".#####.", ".......")
    (polygon,) = polygons_of(ring)
    assert polygon_area(polygon) == pytest.approx(int(ring.sum()))
    steps = [tuple(map(tuple, edge)) for edge in zip(polygon, np.roll(polygon, -1, axis=0), strict=True)]
    assert sum((end, start) in steps for start, end in steps) == 2


def test_a_hole_is_wound_against_its_outer_ring() -> None:
    """Opposite winding: non-zero readers and even-odd readers see the same hole."""
    ring = drawn("......", ".####.", ".#..#.", ".####.", "......")
    (polygon,) = polygons_of(ring)
    x, y = polygon.T
    signed = float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
    filled = ring | drawn("......", "......", "..##..", "......", "......")
    assert abs(signed) < polygon_area(polygons_of(filled)[0])


def test_two_parts_are_two_contours_and_an_island_in_a_hole_is_its_own() -> None:
    """Separate parts stay separate, wherever they lie."""
    plane = drawn("#.......", "...#####", "...#...#", "...#.#.#", "...#...#", "...#####")
    assert len(polygons_of(plane)) == 3


@pytest.mark.parametrize("corner", [("#.", ".#"), (".#", "#.")])
def test_pixels_that_touch_at_a_corner_come_back_as_they_were(corner: tuple[str, str]) -> None:
    """A diagonal touch neither merges its empty neighbours nor loses a pixel."""
    plane = np.pad(drawn(*corner), 1)
    times = covered(polygons_of(plane), plane.shape)
    assert np.array_equal(times, plane.astype(int))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.03, 0.97))
def test_any_mask_comes_back_exactly_and_no_rings_overlap(seed: int, share: float) -> None:
    """Random noise, the worst mask there is, survives pixel for pixel with at least three points a contour."""
    plane = np.random.default_rng(seed).random((17, 23)) < share
    polygons = polygons_of(plane)
    assert np.array_equal(covered(polygons, plane.shape), plane.astype(int))
    assert all(3 <= len(polygon) <= MAX_POINTS for polygon in polygons)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.03, 0.97), st.floats(0.1, 0.9))
def test_no_probability_can_move_a_pixel(seed: int, share: float, threshold: float) -> None:
    """Probabilities that have nothing to do with the mask, certain and unknown ones among them: same pixels, volume."""
    noise = np.random.default_rng(seed)
    mask = np.pad(noise.random((2, 13, 19)) < share, ((0, 0), (1, 1), (1, 1)))
    values = noise.choice([0.0, 1.0, np.nan, *noise.random(5)], mask.shape).astype(np.float32)
    contours = contours_of(mask, stack_for(), Probabilities(values, threshold))
    for index, plane in enumerate(mask):
        rings = [contour.points_px for contour in contours if contour.slice_index == index]
        assert np.array_equal(covered(rings, plane.shape), plane.astype(int))
    assert sum(polygon_area(contour.points_px) for contour in contours) == pytest.approx(int(mask.sum()))


@pytest.mark.parametrize("shape", SHAPES)
def test_polygons_have_the_volume_of_the_voxels(shape: str) -> None:
    """A mask's own boundary, thinned and its corners cut, still has the mask's area to a millionth."""
    mask = SHAPES[shape]((20, 48, 56))
    areas = [polygon_area(contour.points_px) for contour in contours_of(mask, stack_for())]
    assert sum(areas) == pytest.approx(int(mask.sum()), rel=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_mask_is_never_near_a_line(shape: str) -> None:
    """Every pixel centre keeps 0.01 px from the line, which writing three decimals of a millimetre cannot bridge."""
    plane = SHAPES[shape]((3, 48, 56))[1]
    centres = np.argwhere(np.ones_like(plane))[:, ::-1].astype(float)
    for polygon in polygons_of(plane):
        ring = polygon[np.any(polygon != np.roll(polygon, 1, axis=0), axis=1)]
        assert channel_free_distance(ring, centres) > 0.01


def channel_free_distance(ring: Array, centres: Array) -> float:
    """Least distance of points to a closed ring, its edges there and back (keyholes) left out."""
    edges = list(zip(map(tuple, ring), map(tuple, np.roll(ring, -1, axis=0)), strict=True))
    least = np.inf
    for start, end in edges:
        if (end, start) not in edges:
            chord = np.subtract(end, start)
            along = np.clip((centres - start) @ chord / (chord @ chord), 0, 1)
            least = min(least, float(np.linalg.norm(centres - start - along[:, None] * chord, axis=1).min()))
    return least


@pytest.mark.parametrize("plane", [np.ones((12, 9), bool), np.indices((12, 9)).sum(axis=0) % 2 == 0])
def test_a_mask_that_fills_the_image_stays_inside_it(plane: Mask) -> None:
    """At the image's edge the line runs along the edge, half a pixel outside the last centres and no further."""
    points = np.vstack(polygons_of(plane))
    assert np.array_equal(covered(polygons_of(plane), plane.shape), plane.astype(int))
    assert points.min() >= -0.5 - SIDESTEP_PX
    assert (points.max(axis=0) <= np.array(plane.shape)[::-1] - 0.5 + SIDESTEP_PX).all()


def test_holes_in_holes_are_kept() -> None:
    """Four rings one in the other: two contours, each an outer ring with its hole."""
    rows, columns = np.indices((21, 21)) - 10
    plane = np.isin(np.maximum(abs(rows), abs(columns)), [1, 2, 6, 7, 8])
    polygons = polygons_of(plane)
    assert len(polygons) == 2
    assert np.array_equal(covered(polygons, plane.shape), plane.astype(int))
    assert sum(map(polygon_area, polygons)) == pytest.approx(int(plane.sum()))


def test_a_contour_that_would_be_too_long_is_made_of_parts() -> None:
    """Checked noise over a whole slice stays below 1,500 points a contour and still comes back exactly."""
    rows, columns = np.mgrid[:96, :96]
    plane = (rows % 2 == 0) | (columns % 2 == 0)
    polygons = polygons_of(plane)
    assert len(polygons) > 1
    assert max(map(len, polygons)) <= MAX_POINTS
    assert np.array_equal(covered(polygons, plane.shape), plane.astype(int))


def test_thinning_drops_points_on_a_line_and_keeps_corners() -> None:
    """A square with points along its sides is thinned to its four corners."""
    side = np.arange(4.0)
    ring = np.array(
        [(x, 0) for x in side] + [(4, y) for y in side] + [(4 - x, 4) for x in side] + [(0, 4 - y) for y in side]
    )
    assert sorted(map(tuple, ring[thin(ring)])) == [(0, 0), (0, 4), (4, 0), (4, 4)]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_thinning_that_goes_too_far_is_taken_back(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thinned within a whole pixel, lines would lose pixels: every gate that they would miss comes back instead."""
    plane = SHAPES[shape]((3, 48, 56))[1]
    monkeypatch.setattr(contouring, "thin", partial(thin, tolerance_px=1.0))
    polygons = polygons_of(plane)
    assert np.array_equal(covered(polygons, plane.shape), plane.astype(int))
    assert sum(map(polygon_area, polygons)) == pytest.approx(int(plane.sum()))


def test_no_point_lies_on_a_line_through_pixel_centres() -> None:
    """A reader's scanline never meets a vertex, not even after rounding: half of them would otherwise lie on one."""
    plane = SHAPES["ragged"]((3, 48, 56))[1]
    points = np.vstack(polygons_of(plane))
    assert np.abs(points - np.rint(points)).min() > 0.019


def test_a_slice_places_its_contours_by_its_own_header() -> None:
    """Column steps go along the row direction with the column spacing, from the slice's own position."""
    stack = stack_for(spacing_mm=(2.0, 0.5), orientation="sagittal")
    header = stack.slices[3]
    assert header.position is not None
    placed = to_patient(np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 1.0]]), header)
    assert placed - np.array(header.position) == pytest.approx(np.array([[0, 0, 0], [0, 2.0, 0], [0, 0, -2.0]]))


@pytest.mark.parametrize("orientation", ["sagittal", "coronal", "oblique"])
def test_the_closing_edge_is_seen_from_above(orientation: str) -> None:
    """First and last point differ in patient x or y: plastimatch would drop a last point that differs in z alone."""
    stack = stack_for(orientation=orientation)
    for contour in contours_of(SHAPES["ragged"](stack.grid.shape), stack):
        assert np.abs(contour.points_mm[0] - contour.points_mm[-1])[:2].max() > 0.1
        assert to_patient(contour.points_px, stack.slices[contour.slice_index]) == pytest.approx(contour.points_mm)


def test_a_slice_without_a_place_is_refused() -> None:
    """No position, no contour: nothing is guessed."""
    from dataclasses import replace

    header = replace(stack_for().slices[0], position=None)
    with pytest.raises(GeometryRefused):
        to_patient(np.zeros((3, 2)), header)


def test_contours_lie_on_the_slices_that_the_mask_fills() -> None:
    """Every non-empty slice has contours, no other has any."""
    stack = stack_for()
    mask = SHAPES["ball"](stack.grid.shape)
    slices = {contour.slice_index for contour in contours_of(mask, stack)}
    assert slices == set(np.flatnonzero(mask.any(axis=(1, 2))))
