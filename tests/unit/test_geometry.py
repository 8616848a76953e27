"""One even stack, or the reasons why not: what a physicist would check with pencil and paper."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npc_rtnode.domain import geometry
from npc_rtnode.domain.geometry import axes_of, judge_stack, plane_of, stack_of, usual_step_mm
from npc_rtnode.errors import GeometryRefused
from tests.builders.headers import AXIAL, CORONAL, FEET_FIRST, OBLIQUE, SAGITTAL, change_one, make_headers

ORIENTATIONS = st.sampled_from([AXIAL, FEET_FIRST, SAGITTAL, CORONAL, OBLIQUE])


def codes(headers):
    """The codes that a judgement comes to."""
    return judge_stack(headers).codes


def test_affine_puts_each_first_pixel_at_its_own_position():
    """Index [slice, 0, 0] through the affine is that slice's ImagePositionPatient, in an oblique stack too."""
    stack = stack_of(make_headers(orientation=OBLIQUE))
    for k, header in enumerate(stack.slices):
        np.testing.assert_allclose(stack.grid.affine @ [k, 0, 0, 1], [*header.position, 1], atol=1e-9)


def test_affine_follows_the_equation_of_the_standard():
    """PS3.3 C.7.6.2.1.1: a column index moves along the row direction by the column spacing, and vice versa."""
    stack = stack_of(make_headers(spacing_mm=(0.75, 0.5)))
    origin = stack.grid.affine @ [0, 0, 0, 1]
    np.testing.assert_allclose(stack.grid.affine @ [0, 1, 0, 1] - origin, [0, 0.75, 0, 0])
    np.testing.assert_allclose(stack.grid.affine @ [0, 0, 1, 1] - origin, [0.5, 0, 0, 0])


def test_grid_knows_shape_spacing_and_voxel_volume():
    """Shape is slices, rows, columns; spacings are in mm in the same order; one voxel is their product."""
    grid = stack_of(make_headers(slices=12, step_mm=4.0)).grid
    assert grid.shape == (12, 256, 320)
    assert grid.spacing_mm == pytest.approx((4.0, 0.75, 0.5))
    assert grid.voxel_cc == pytest.approx(4.0 * 0.75 * 0.5 / 1000)


@given(ORIENTATIONS, st.integers(8, 40), st.randoms())
def test_order_of_arrival_does_not_matter(orientation, slices, rng: random.Random):
    """Shuffled slices give the very same stack."""
    headers = make_headers(slices=slices, orientation=orientation)
    shuffled = list(headers)
    rng.shuffle(shuffled)
    one, other = stack_of(headers), stack_of(shuffled)
    assert one.slices == other.slices
    np.testing.assert_array_equal(one.grid.affine, other.grid.affine)


@given(ORIENTATIONS)
def test_slices_ascend_along_the_normal(orientation):
    """Whatever the direction of scanning, the affine is right-handed: its determinant's sign never flips."""
    stack = stack_of(make_headers(orientation=orientation)[::-1])
    heights = [np.array(header.position) @ axes_of(orientation)[2] for header in stack.slices]
    assert heights == sorted(heights)
    assert np.linalg.det(stack.grid.affine[:3, [2, 1, 0]]) > 0


def test_flipping_the_row_direction_reverses_the_stack():
    """Feet-first rows turn the normal round: the same places come in the opposite order."""
    head = stack_of(make_headers(orientation=AXIAL))
    turned = stack_of([replace(header, orientation=FEET_FIRST) for header in head.slices])
    assert turned.slices == tuple(replace(header, orientation=FEET_FIRST) for header in head.slices[::-1])
    assert turned.grid.affine[2, 0] == -3.0


@pytest.mark.parametrize(("jitter", "step"), [(0.045, 3.0), (0.06, 6.97), (0.045, 0.67)])
def test_jitter_of_a_real_scanner_passes(jitter, step):
    """Positions jittering below the tolerance make one stack: contours lie at each slice's own position anyway."""
    assert codes(make_headers(jitter_mm=jitter, step_mm=step)) == ()


def test_uneven_spacing_is_named_with_its_numbers():
    """A slice 0.3 mm off in a 3 mm stack is refused, with the deviation and the limit as numbers."""
    (finding,) = judge_stack(make_headers(jitter_mm=[0.0] * 9 + [0.3] + [0.0] * 10)).findings
    assert finding.code == "UNEVEN_SPACING"
    assert finding.value == pytest.approx(0.3)
    assert finding.limit == pytest.approx(0.1)


def test_small_steps_that_add_up_are_uneven():
    """Each step within tolerance, the sum half a millimetre off an even grid: UNEVEN_SPACING."""
    drift = [0.0] * 20 + [0.055 * k for k in range(20)]
    assert codes(make_headers(slices=40, jitter_mm=drift)) == ("UNEVEN_SPACING",)


@given(st.integers(8, 30), st.data(), st.sampled_from([0.5, 3.0, 6.97]))
def test_a_missing_inner_slice_is_a_gap(slices, data, step):
    """Whichever inner slice is missing, the finding is GAP and there is no stack."""
    inner = data.draw(st.integers(1, slices - 2))
    judgement = judge_stack(make_headers(slices=slices, gap_at=(inner,), step_mm=step))
    assert judgement.stack is None
    assert "GAP" in judgement.codes


def test_a_gap_tells_how_much_is_missing_and_where():
    """Two slices missing after the fifth: the message says so in counts and millimetres."""
    (finding,) = judge_stack(make_headers(gap_at=(5, 6))).findings
    assert str(finding) == "GAP: about 2 slices missing: steps of up to 9.00 mm after slice 5; usual 3.00 mm"


def test_the_usual_step_is_the_small_one_where_most_slices_are_missing():
    """With more gaps than slices the plain median would be the gap."""
    assert usual_step_mm(np.array([2.0, 6.0, 6.0, 6.0])) == 2.0


CHANGES = [
    ("NO_FRAME_OF_REFERENCE", {"frame_of_reference_uid": None}),
    ("MIXED_FRAME_OF_REFERENCE", {"frame_of_reference_uid": "2.25.99"}),
    ("NO_POSITION", {"position": None}),
    ("NO_POSITION", {"orientation": None}),
    ("NO_POSITION", {"position": (0.0, float("nan"), 0.0)}),
    ("NO_SPACING", {"spacing_mm": None}),
    ("NO_SPACING", {"spacing_mm": (0.0, 0.5)}),
    ("MIXED_ORIENTATION", {"orientation": CORONAL}),
    ("MIXED_MATRIX", {"rows": 192}),
    ("MIXED_SPACING", {"spacing_mm": (0.76, 0.5)}),
    ("MIXED_PATIENT", {"patient_key": "b" * 64}),
    ("MIXED_STUDY", {"study_uid": "2.25.70"}),
    ("MULTIFRAME", {"frames": 24}),
    ("NOT_ORTHONORMAL", {"orientation": (1.0, 0.0, 0.0, 0.1, 1.0, 0.0)}),
    ("DUPLICATE_POSITION", {"position": (-110.0, -95.5, 40.25)}),
]


@pytest.mark.parametrize(("code", "fields"), CHANGES, ids=[f"{code}-{next(iter(f))}" for code, f in CHANGES])
def test_one_odd_slice_is_named(code, fields):
    """One slice that is different in one respect costs the stack, and the respect is named."""
    judgement = judge_stack(change_one(make_headers(), 9, **fields))
    assert judgement.stack is None
    assert code in judgement.codes


def test_shear_is_named():
    """Slices drifting 0.25 mm sideways for each mm of step: a tilted gantry."""
    assert codes(make_headers(shear_mm=0.75)) == ("SHEARED",)


def test_too_few_slices():
    """One slice fewer than the named constant is no volume; exactly that many are."""
    assert codes(make_headers(slices=geometry.FEWEST_SLICES - 1)) == ("TOO_FEW_SLICES",)
    assert codes(make_headers(slices=geometry.FEWEST_SLICES)) == ()


@pytest.mark.parametrize("slices", [0, 1])
def test_nothing_and_a_single_slice_are_judged_without_a_crash(slices):
    """No header at all, and one, come to a finding, not to an exception of NumPy."""
    assert codes(make_headers(slices=slices)) == ("TOO_FEW_SLICES",)


def test_a_hostile_matrix_is_refused_before_decoding():
    """65535 by 65535 pixels are refused from the header alone."""
    assert "TOO_LARGE" in codes(make_headers(rows=65535, columns=65535))


@pytest.mark.parametrize(("said", "expected"), [(25, ("COUNT_SHORT",)), (20, ()), (1, ()), (0, ()), (None, ())])
def test_images_in_acquisition_is_a_hint(said, expected):
    """Only a count larger than what came is a finding (GE writes 1); it leaves the stack standing."""
    judgement = judge_stack(make_headers(images_in_acquisition=said))
    assert judgement.codes == expected
    assert judgement.stack is not None


def test_stack_of_raises_with_every_finding():
    """GeometryRefused names all that is wrong, not only the first."""
    headers = change_one(make_headers(gap_at=(4,)), 3, study_uid="2.25.70")
    with pytest.raises(GeometryRefused, match=r"MIXED_STUDY: .*GAP: "):
        stack_of(headers)


@pytest.mark.parametrize(
    ("degrees", "expected"), [(0, "axial"), (29, "axial"), (31, "oblique"), (59, "oblique"), (61, "coronal")]
)
def test_plane_by_angle(degrees, expected):
    """A stack tilted about the left-right axis is axial up to 30 degrees, coronal from 60, oblique between."""
    turn = np.radians(degrees)
    plane, angle = plane_of((1, 0, 0, 0, np.cos(turn), np.sin(turn)))
    assert plane == expected
    assert angle == pytest.approx(min(degrees, 90 - degrees))


def test_sagittal_plane():
    """A normal along the left-right axis is sagittal."""
    assert plane_of(SAGITTAL) == ("sagittal", 0.0)
