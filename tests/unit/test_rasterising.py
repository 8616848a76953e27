"""The second opinion: known polygons cover known pixels."""

from __future__ import annotations

import numpy as np
import pytest

from npc_rtnode.domain.contouring import contours_of
from npc_rtnode.domain.rasterising import PlacedRing, cover, dice, polygon_area, rasterise
from tests.builders.outputs import GEOMETRIES, SHAPES, stack_for


def test_a_square_covers_the_centres_inside_it() -> None:
    """Corners on half pixels leave no doubt."""
    times = np.zeros((5, 6), dtype=np.int32)
    cover(times, np.array([(0.5, 1.5), (3.5, 1.5), (3.5, 3.5), (0.5, 3.5)]))
    assert {(int(r), int(c)) for r, c in np.argwhere(times)} == {(r, c) for r in (2, 3) for c in (1, 2, 3)}


def test_ties_are_half_open() -> None:
    """A centre on the left or upper edge is in, on the right or lower out: tiles neither overlap nor leave gaps."""
    times = np.zeros((4, 4), dtype=np.int32)
    for c in (0.0, 2.0):
        cover(times, np.array([(c, 0), (c + 2, 0), (c + 2, 4), (c, 4)], dtype=float))
    assert (times == 1).all()


def test_a_ring_beyond_the_image_is_cut_off() -> None:
    """Points outside the image neither fail nor wrap round."""
    times = np.zeros((3, 3), dtype=np.int32)
    cover(times, np.array([(-9.0, -9.0), (9.0, -9.0), (9.0, 1.5), (-9.0, 1.5)]))
    assert times.tolist() == [[1, 1, 1], [1, 1, 1], [0, 0, 0]]


def test_a_keyhole_cancels_even_through_pixel_centres() -> None:
    """A channel that runs along centres leaves no trace."""
    outer = [(-0.5, -0.5), (6.5, -0.5), (6.5, 6.5), (-0.5, 6.5), (-0.5, 3.0)]
    hole = [(2.5, 3.0), (3.0, 3.5), (3.5, 3.0), (3.0, 2.5), (2.5, 3.0)]
    times = np.zeros((7, 7), dtype=np.int32)
    cover(times, np.array([*outer, *hole, outer[-1]]))
    assert times.sum() == 48
    assert times[3, 3] == 0


def test_area_of_a_triangle() -> None:
    """Half base times height, wherever it lies."""
    assert polygon_area(np.array([(100.0, 50.0), (104.0, 50.0), (100.0, 53.0)])) == pytest.approx(6.0)


@pytest.mark.parametrize(("one", "other", "wanted"), [([1, 1, 0], [1, 0, 0], 2 / 3), ([0, 0, 0], [0, 0, 0], 1.0)])
def test_dice(one: list[int], other: list[int], wanted: float) -> None:
    """Twice the overlap over the sizes; two empty masks agree."""
    assert dice(np.array(one, dtype=bool), np.array(other, dtype=bool)) == pytest.approx(wanted)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("shape", SHAPES)
def test_contour_and_raster_agree_in_every_geometry(shape: str, geometry: str) -> None:
    """Out to patient space and back is the same mask, on the plane, with the volume that polygons should have."""
    stack = stack_for(**GEOMETRIES[geometry])
    mask = SHAPES[shape](stack.grid.shape)
    raster = rasterise([PlacedRing(c.slice_index, c.points_mm) for c in contours_of(mask, stack)], stack)
    assert np.array_equal(raster.mask, mask)
    assert raster.overlapping == 0
    assert raster.off_plane_mm < 1e-9
    assert raster.polygon_cc == pytest.approx(int(mask.sum()) * stack.grid.voxel_cc, rel=1e-5)


def test_a_ring_off_its_plane_is_measured() -> None:
    """Two millimetres along the normal are two millimetres off the plane."""
    stack = stack_for(orientation="oblique")
    contour = contours_of(SHAPES["ball"](stack.grid.shape), stack)[0]
    normal = stack.grid.affine[:3, 0] / stack.grid.spacing_mm[0]
    raster = rasterise([PlacedRing(contour.slice_index, contour.points_mm + 2.0 * normal)], stack)
    assert raster.off_plane_mm == pytest.approx(2.0, abs=1e-6)


def test_two_rings_over_one_pixel_are_counted() -> None:
    """Overlap is seen, since readers disagree what it means."""
    stack = stack_for()
    contour = contours_of(SHAPES["ball"](stack.grid.shape), stack)[0]
    ring = PlacedRing(contour.slice_index, contour.points_mm)
    assert rasterise([ring, ring], stack).overlapping > 0
