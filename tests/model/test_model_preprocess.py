"""Preprocessing: one path there and back, the same for every way a head can lie in an array."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from model import preprocess
from model.manifest import GridSpec, Limit
from model.preprocess import InputError

PAPER = GridSpec((21, 224, 224), (6.0, 0.46875, 0.46875), 1)


def axial(spacing=(6.0, 1.0, 1.0), origin=(-80.0, -90.0, -60.0)) -> np.ndarray:
    """Affine of a head-first supine axial stack."""
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2] = spacing
    affine[:, 3] = (*origin, 1)
    return affine


def ball(shape=(20, 160, 160), centre=(10, 80, 70), spacing=(6.0, 1.0, 1.0), radius=25.0) -> np.ndarray:
    """A smooth bright ball."""
    z, y, x = ((np.arange(n) - c) * s for n, c, s in zip(shape, centre, spacing, strict=True))
    distance = np.sqrt(z[:, None, None] ** 2 + y[None, :, None] ** 2 + x[None, None, :] ** 2)
    return (1 / (1 + np.exp((distance - radius) / 3))).astype(np.float32)


def test_in_plane_spline_agrees_with_simpleitk():
    """The cubic B-spline of a slice is SimpleITK's within 1e-4 of the range."""
    rng = np.random.default_rng(0)
    voxels = rng.normal(size=(20, 128, 128)).astype(np.float32)
    volume = preprocess.orient(voxels, axial((6.0, 1.1, 1.1)))
    window = preprocess.cut(volume, (60.0, 70.0, 70.0), replace(PAPER, shape=(21, 96, 96)))
    image = sitk.GetImageFromArray(voxels[10].astype(np.float64))
    image.SetSpacing((1.1, 1.1))
    start = 70.0 - 95 / 2 * 0.46875
    frame = ([96, 96], sitk.Transform(), sitk.sitkBSpline, (start, start), (0.46875, 0.46875), (1, 0, 0, 1), 0.0)
    expected = sitk.GetArrayFromImage(sitk.Resample(image, *frame))
    assert np.abs(window.values[10] - expected).max() < 1e-4 * np.ptp(voxels)


def test_reduced_grid_is_the_block_mean_of_the_paper_grid():
    """Oversample 4 gives exactly the 4 x 4 averages of the 0.46875 mm window."""
    volume = preprocess.orient(ball(), axial())
    fine = preprocess.cut(volume, (60.0, 80.0, 70.0), PAPER).values
    coarse = preprocess.cut(volume, (60.0, 80.0, 70.0), GridSpec()).values
    assert np.abs(fine.reshape(21, 56, 4, 56, 4).mean(axis=(2, 4)) - coarse).max() < 1e-5


def test_slices_are_nearest_and_padding_is_the_minimum():
    """Through-plane a window slice is a native slice; beyond the stack it is the minimum and not valid (A22, A24)."""
    voxels = ball(shape=(10, 160, 160), centre=(5, 80, 80))
    volume = preprocess.orient(voxels, axial())
    window = preprocess.cut(volume, (27.0, 80.0, 80.0), GridSpec())
    assert window.valid.sum() == 11
    assert window.source[window.valid].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9]
    assert np.all(window.values[~window.valid] == voxels.min())


@pytest.mark.parametrize("thickness", [3.5, 5.0, 6.0, 7.0])
def test_mask_survives_the_round_trip(thickness):
    """A ball cut to the window and pasted back keeps its place: Dice at least .93 at every slice thickness."""
    slices = int(120 / thickness)
    soft = ball((slices, 160, 160), (slices / 2, 80, 70), (thickness, 1.0, 1.0))
    truth = soft > 0.5
    volume = preprocess.orient(soft, axial((thickness, 1.0, 1.0)))
    centre = (slices / 2 * thickness, 82.0, 75.0)
    window = preprocess.cut(volume, centre, GridSpec())
    back = preprocess.paste(volume, window, preprocess.cut_mask(volume, truth, centre, GridSpec())) >= 0.5
    assert 2 * (back & truth).sum() / (back.sum() + truth.sum()) >= 0.93


def test_paste_is_zero_outside_the_window():
    """Nothing is ever said about tissue the network did not see."""
    volume = preprocess.orient(ball((40, 200, 200), (20, 100, 100)), axial())
    window = preprocess.cut(volume, (120.0, 100.0, 100.0), GridSpec())
    pasted = preprocess.paste(volume, window, np.ones(GridSpec().shape, dtype=np.float32))
    assert pasted[20, 100, 100] == 1
    assert pasted[:, :40].max() == 0
    assert pasted[:8].max() == 0


@pytest.mark.parametrize("flips", [(), (0,), (1,), (2,), (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("swap", [False, True])
def test_every_array_order_gives_the_same_canonical_volume(flips, swap):
    """Feet-first, mirrored and row/column-swapped arrays of one head are one canonical volume, and back again."""
    voxels, affine = ball(), axial()
    turned, matrix = voxels, affine.copy()
    for axis in flips:
        turned = np.flip(turned, axis)
        matrix[:3, 3] += matrix[:3, axis] * (voxels.shape[axis] - 1)
        matrix[:3, axis] *= -1
    if swap:
        turned, matrix = turned.transpose(0, 2, 1), matrix[:, [0, 2, 1, 3]]
    volume = preprocess.orient(np.ascontiguousarray(turned), matrix)
    assert np.array_equal(volume.voxels, voxels)
    assert np.array_equal(volume.to_native(volume.voxels), turned)


def test_oblique_stack_is_accepted_in_its_own_frame():
    """A stack tilted by 15 degrees is read as it lies and its tilt is measured."""
    angle = np.radians(15)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    affine = axial()
    affine[:3, :3] = turn @ affine[:3, :3]
    volume = preprocess.orient(ball(), affine)
    assert volume.tilt_degrees == pytest.approx(15)
    assert {f.name for f in preprocess.outside(preprocess.measure(volume), preprocess.TRAINED_LIMITS)} >= {
        "tilt_degrees"
    }


def _sagittal() -> np.ndarray:
    affine = np.zeros((4, 4))
    affine[0, 0], affine[1, 2], affine[2, 1], affine[3, 3] = 5.0, 1.0, -1.0, 1
    return affine


def _sheared() -> np.ndarray:
    affine = axial()
    affine[1, 0] = 1.5
    return affine


REFUSED = {
    "NOT_3D": (ball()[0], axial()),
    "NOT_3D (a series of volumes)": (np.stack((ball(), ball())), axial()),
    "TOO_FEW_SLICES (one)": (ball()[:1], axial()),
    "TOO_MANY_VOXELS": (np.broadcast_to(np.float32(0), (300, 1024, 1024)), axial((0.6, 1.0, 1.0))),
    "NOT_FINITE": (np.where(ball() > 0.5, np.nan, 0).astype(np.float32), axial()),
    "CONSTANT": (np.full((20, 160, 160), 7, np.float32), axial()),
    "TOO_FEW_SLICES": (ball()[:5], axial()),
    "MATRIX_TOO_SMALL": (ball()[:, :40], axial()),
    "MATRIX_TOO_LARGE": (np.broadcast_to(np.float32(0), (20, 128, 4096)), axial()),
    "TOO_MANY_SLICES": (np.broadcast_to(np.float32(0), (500, 128, 128)), axial()),
    "SLICE_SPACING": (ball(), axial((12.0, 1.0, 1.0))),
    "PIXEL_SPACING": (ball(), axial((6.0, 2.5, 2.5))),
    "FIELD_TOO_SMALL": (ball()[:, :100, :100], axial()),
    "ORIENTATION": (ball(), _sagittal()),
    "SHEAR": (ball(), _sheared()),
    "AFFINE": (ball(), np.full((4, 4), np.nan)),
    "OVERFLOW": (ball() * 2.0**31, axial()),
    "NOT_NUMERIC": (ball().astype(np.complex64), axial()),
}


@pytest.mark.parametrize("code", sorted(REFUSED))
def test_unusable_input_is_refused_by_name(code):
    """Every refusal carries its code and a message with the value and the limit."""
    with pytest.raises(InputError) as caught:
        preprocess.orient(*REFUSED[code])
    assert caught.value.code == code.split()[0]
    assert len(str(caught.value)) > 20


def test_inputs_outside_training_are_reported():
    """A measured value beyond its limit becomes a finding; one at the limit does not."""
    limits = {"slices": Limit(16, 120, "slices"), "pixel_mm": Limit(0.34, 1.09, "mm")}
    found = preprocess.outside({"slices": 12, "pixel_mm": 1.09}, limits)
    assert [(f.name, f.value, f.low) for f in found] == [("slices", 12, 16)]


def test_z_score_ignores_how_much_air_there_is(small_phantom):
    """The same head in twice the air keeps its grey values (A23)."""
    phantom = small_phantom(0)
    voxels = phantom.voxels.astype(np.float32)
    wide = np.pad(voxels, ((0, 0), (60, 60), (60, 60)), mode="reflect")
    wide[:, :60] = wide[:, -60:] = wide[:, :, :60] = wide[:, :, -60:] = 20
    images = []
    for array in (voxels, wide):
        volume = preprocess.orient(array, phantom.affine)
        body, steps = preprocess.body_mask(volume)
        images.append(preprocess.normalise(volume, body, steps).voxels)
    inner = images[1][:, 60:-60, 60:-60]
    assert np.abs(np.median(inner - images[0])) < 0.1


def test_the_paper_crop_is_the_middle_of_the_image():
    """A21: image centre whatever the head does; body centroid follows the head in-plane, not along the stack."""
    volume = preprocess.orient(ball((21, 160, 180), (6, 50, 120)), axial())
    body, steps = preprocess.body_mask(volume)
    assert preprocess.image_centre_mm(volume) == pytest.approx((60, 79.5, 89.5))
    z, y, x = preprocess.body_centre_mm(volume, body, steps)
    assert (z, y, x) == pytest.approx((60, 50, 120), abs=3)


def test_the_paper_z_score_counts_air():
    """A23: over all voxels mean 0 and SD 1, nothing clipped."""
    scaled = preprocess.normalise_whole(preprocess.orient(ball() * 900 + 30, axial())).voxels
    assert float(scaled.mean()) == pytest.approx(0, abs=1e-3)
    assert float(scaled.std()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(("slices", "spacing"), [(16, 3.5), (10, 6.0), (60, 2.0), (120, 1.5)])
def test_short_and_thin_stacks_are_read_and_answered(slices, spacing):
    """16 slices of 3.5 mm are padded and told apart from real ones; of 1.5 mm slices every one gets its share back."""
    soft = ball((slices, 128, 128), ((slices - 1) / 2, 64, 64), (spacing, 1.0, 1.0), radius=15.0)
    volume = preprocess.orient(soft, axial((spacing, 1.0, 1.0)))
    centre = ((slices - 1) / 2 * spacing, 64.0, 64.0)
    window = preprocess.cut(volume, centre, GridSpec())
    assert abs(window.valid.sum() - min(21, slices * spacing / 6)) <= 1.01
    truth = soft > 0.5
    back = preprocess.paste(volume, window, preprocess.cut_mask(volume, truth, centre, GridSpec())) >= 0.5
    drawn, wanted = (np.flatnonzero(mask.any(axis=(1, 2))) for mask in (back, truth))
    assert 2 * (back & truth).sum() / (back.sum() + truth.sum()) >= 0.9
    assert np.all(np.diff(drawn) == 1)
    assert np.abs((drawn[[0, -1]] - wanted[[0, -1]]) * spacing).max() <= 6


def test_labels_are_cut_where_the_mask_is():
    """Nearest labels lie on the same window as the mask, and what is beyond the stack is filled."""
    truth = ball() > 0.5
    volume = preprocess.orient(ball(), axial())
    centre = (30.0, 80.0, 70.0)
    share = preprocess.cut_mask(volume, truth, centre, GridSpec())
    labels = preprocess.cut_labels(volume, truth.astype(np.uint8), centre, GridSpec(), fill=9)
    valid = preprocess.cut(volume, centre, GridSpec()).valid
    assert ((labels[valid] == 1) != (share[valid] > 0.5)).mean() < 0.01
    assert np.all(labels[~valid] == 9)
