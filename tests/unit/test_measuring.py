"""A ruler laid on outlines with truth known."""

from __future__ import annotations

import numpy as np
import pytest

from npc_rtnode.domain.contouring import contours_of
from npc_rtnode.domain.measuring import measures_of, place_of, side_of
from npc_rtnode.domain.rasterising import PlacedRing
from tests.builders.outputs import Mask, stack_for


def box(shape: tuple[int, int, int]) -> Mask:
    """Four slices, ten rows, twelve columns."""
    mask = np.zeros(shape, dtype=bool)
    mask[3:7, 10:20, 30:42] = True
    return mask


def rings(mask: Mask, **wishes: object) -> list[PlacedRing]:
    """What the RTSTRUCT of a mask holds."""
    return [PlacedRing(c.slice_index, c.points_mm) for c in contours_of(mask, stack_for(**wishes))]


def test_a_box_has_its_own_measures() -> None:
    """12 columns, 10 rows and 4 slices of known size: extents, diagonal, centroid, slices, contours."""
    stack = stack_for()
    mask = box(stack.grid.shape)
    measures = measures_of(rings(mask), mask, stack)
    pixel = 0.9375
    assert measures.extent_mm == pytest.approx((12 * pixel, 10 * pixel, 4 * 3.0), abs=0.3)
    assert measures.diameter_mm == pytest.approx(np.hypot(12, 10) * pixel, abs=0.8)
    assert measures.centroid_mm == pytest.approx((-21.5 + 35.5 * pixel, -17.25 + 14.5 * pixel, 33.125 + 4.5 * 3.0))
    assert (measures.centroid_slice, measures.slices, measures.contours) == (4, 4, 4)


@pytest.mark.parametrize("orientation", ["sagittal", "coronal", "feet_first", "prone", "decubitus_left"])
def test_extents_follow_the_patient_and_not_the_array(orientation: str) -> None:
    """However the series lies, the extent along x, y and z is that of the box in the patient."""
    stack = stack_for(orientation=orientation)
    mask = box(stack.grid.shape)
    measures = measures_of(rings(mask, orientation=orientation), mask, stack)
    sides = np.abs(stack.grid.affine[:3, :3]) @ [4, 10, 12]
    assert measures.extent_mm == pytest.approx(tuple(sides), abs=0.3)


def test_two_parts_are_not_one_diameter() -> None:
    """The longest line is within one ring; the extent is over all of them."""
    stack = stack_for()
    mask = np.zeros(stack.grid.shape, dtype=bool)
    mask[5, 5:8, 5:8] = mask[5, 40:43, 45:48] = True
    measures = measures_of(rings(mask), mask, stack)
    assert measures.diameter_mm < 5
    assert measures.extent_mm[0] > 38


def test_places_are_letters_and_millimetres() -> None:
    """Left, posterior and head are positive in LPS; a slice is named along the axis nearest its normal."""
    assert [side_of(3.46, 0), side_of(-3.46, 0)] == ["L 3.5 mm", "R 3.5 mm"]
    assert [side_of(2.0, 1), side_of(-2.0, 1), side_of(0.0, 2)] == ["P 2.0 mm", "A 2.0 mm", "H 0.0 mm"]
    assert place_of(stack_for().grid, 2) == "H 39.1 mm"
    assert place_of(stack_for(orientation="sagittal").grid, 0)[0] in "LR"
    assert place_of(stack_for(orientation="coronal").grid, 0)[0] in "PA"
