"""Masks become contours, and no pixel changes sides."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npc_rtnode.domain.contouring import MAX_POINTS, SIDESTEP_PX, contours_of, polygons_of, thin, to_patient
from npc_rtnode.domain.geometry import Array
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


def test_one_pixel_is_a_diamond_of_four_half_pixel_points() -> None:
    """The smallest outline has its points on half pixels round the centre and encloses it."""
    (polygon,) = polygons_of(drawn("...", "..#", "..."))
    wanted = [(1.5, 1.0), (2.0, 0.5), (2.0, 1.5), (2.5, 1.0)]
    assert np.array(sorted(map(tuple, polygon.round(1)))) == pytest.approx(np.array(wanted))


def test_a_block_is_outlined_half_a_pixel_outside_its_centres() -> None:
    """The outline runs on pixel edges, not through centres as rt-utils' does."""
    (polygon,) = polygons_of(drawn(".....", ".###.", ".###.", "....."))
    assert (polygon.min(axis=0), polygon.max(axis=0)) == (
        pytest.approx([0.5, 0.5], abs=SIDESTEP_PX),
        pytest.approx([3.5, 2.5], abs=SIDESTEP_PX),
    )


def test_a_hole_is_reached_by_a_zero_width_channel() -> None:
    """A ring-shaped mask is one contour whose area is the outer area less the hole's."""
    ring = drawn(".......", ".#####.", ".#...#.", ".#...#.", ".#####.", ".......")
    (polygon,) = polygons_of(ring)
    outer = polygon_area(polygons_of(ring | drawn(*["......."] * 2, "..###..", "..###..", *["......."] * 2))[0])
    assert polygon_area(polygon) == pytest.approx(outer - polygon_area(polygons_of(~ring[2:4, 2:5])[0]), abs=0.51)
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


def test_a_contour_that_would_be_too_long_is_made_of_parts() -> None:
    """Checked noise over a whole slice stays below 1,500 points a contour and still comes back exactly."""
    rows, columns = np.mgrid[:96, :96]
    plane = (rows % 2 == 0) | (columns % 2 == 0)
    polygons = polygons_of(plane)
    assert len(polygons) > 1
    assert max(map(len, polygons)) <= MAX_POINTS
    assert np.array_equal(covered(polygons, plane.shape), plane.astype(int))


def test_thinning_drops_points_on_a_line_and_keeps_corners() -> None:
    """A square with points along its sides thins to its four corners."""
    side = np.arange(4.0)
    ring = np.array(
        [(x, 0) for x in side] + [(4, y) for y in side] + [(4 - x, 4) for x in side] + [(0, 4 - y) for y in side]
    )
    assert sorted(map(tuple, thin(ring))) == [(0, 0), (0, 4), (4, 0), (4, 4)]


def test_no_point_lies_on_a_line_through_pixel_centres() -> None:
    """A reader's scanline never meets a vertex: half of them would otherwise lie on one."""
    plane = SHAPES["ragged"]((3, 48, 56))[1]
    points = np.vstack(polygons_of(plane))
    assert np.abs(points - np.rint(points)).min() > 1e-3


def test_a_slice_places_its_contours_by_its_own_header() -> None:
    """Column steps go along the row direction with the column spacing, from the slice's own position."""
    stack = stack_for(spacing_mm=(2.0, 0.5), orientation="sagittal")
    header = stack.slices[3]
    assert header.position is not None
    placed = to_patient(np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 1.0]]), header)
    assert placed - np.array(header.position) == pytest.approx(np.array([[0, 0, 0], [0, 2.0, 0], [0, 0, -2.0]]))


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
