"""Phantoms: same seed same bytes, the stage follows from what is invaded, and size does not give it away."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from model import labels
from model.labels import NO_TUMOUR, STAGES, STRUCTURE_STAGE, STRUCTURES, stage_of
from model.phantom import draw_anatomy, draw_profile, golden_profile, guards, make_case, seed_of, small_profile
from model.phantom.tumour import allowed


def test_same_case_same_bytes():
    """One (cohort, index) is one head, to the last bit."""
    one, other = (make_case("test", 7, profile=golden_profile()) for _ in range(2))
    assert one.voxels.tobytes() == other.voxels.tobytes()
    assert one.mask.tobytes() == other.mask.tobytes()
    assert (one.stage, one.invaded) == (other.stage, other.invaded)


def test_cohorts_do_not_share_seeds():
    """Training, tuning, evaluation and demonstration never meet."""
    seeds = {seed_of(cohort, index) for cohort in ("train", "tune", "eval", "demo", "golden") for index in range(2000)}
    assert len(seeds) == 10000


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("index", [0, 1])
def test_stage_is_the_rule_over_invaded_structures(stage, index):
    """The wanted stage is what the TNM rule reads off the painted head, inside tissues allowed up to it."""
    head, tumour = draw_anatomy("test", index, stage=stage)
    counted = {
        name: float(np.isin(head.labels[tumour.mask], tissues).sum() * 2.0 * 1.4 * 1.4)
        for name, tissues in STRUCTURES.items()
    }
    assert {name: mm3 for name, mm3 in counted.items() if mm3} == pytest.approx(tumour.invaded)
    assert tumour.stage == stage == stage_of(tumour.invaded)
    inside = tumour.mask & ~allowed(head.labels, stage)
    assert inside.sum() <= 1


def test_tumour_is_one_piece(small_phantom):
    """The grown mask is connected."""
    _, tumour = draw_anatomy("test", 3)
    assert ndimage.label(tumour.mask)[1] == 1


def test_rule_takes_the_highest_category_from_150_cubic_millimetres():
    """149 mm3 in the clivus is not T3, 150 is; nothing at all is T1."""
    assert stage_of({"parapharyngeal space": 900.0, "clivus": 149.0}) == "T2"
    assert stage_of({"parapharyngeal space": 900.0, "clivus": 150.0}) == "T3"
    assert stage_of({}) == "T1"


def test_every_structure_has_a_category_and_its_own_tissues():
    """The two tables name the same structures and no tissue counts twice."""
    assert set(STRUCTURES) == set(STRUCTURE_STAGE)
    tissues = [tissue for group in STRUCTURES.values() for tissue in group]
    assert len(tissues) == len(set(tissues))
    assert labels.Tissue.CAROTID not in tissues


@pytest.fixture(scope="module")
def shapes():
    """Shape and position of 24 true masks, six of each stage."""
    return [guards.shape_of("guard", index, stage) for index in range(6) for stage in STAGES]


def test_size_does_not_give_the_stage_away(shapes):
    """Volume alone separates early from advanced with an AUC of at most .80 (6.3; .53 on 300 heads)."""
    assert guards.volume_auc(shapes) <= guards.VOLUME_AUC


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_shape_and_position_do_not_give_the_stage_away():
    """A classifier that has the true mask and no image stages with a macro AUC of at most .88 (6.3)."""
    with ProcessPoolExecutor(2) as pool:
        held = list(pool.map(guards.shape_of, ["guard"] * 96, range(96), [*STAGES] * 24, chunksize=12))
    assert guards.volume_auc(held) <= guards.VOLUME_AUC
    assert 0.5 < guards.shape_auc(held) <= guards.SHAPE_AUC


def test_the_guard_sees_a_shortcut(shapes):
    """The measuring itself can fail: masks whose size follows the stage are found out."""
    grown = [replace(s, volume_cc=s.volume_cc * 3**s.stage, features=s.features + 9 * s.stage) for s in shapes]
    assert guards.volume_auc(grown) > guards.VOLUME_AUC
    assert guards.shape_auc(grown) > guards.SHAPE_AUC


def test_no_threshold_draws_the_tumour():
    """The best threshold, chosen case by case with the truth at hand, stays at a median Dice of at most .5."""
    dice = [guards.threshold_dice("guard", index) for index in range(4)]
    assert 0 < np.median(dice) <= guards.THRESHOLD_DICE


def test_a_phantom_without_tumour_is_the_same_head(small_phantom):
    """Only the tumour is missing: the mask is empty, the stage says so, the tissue beyond it is where it was."""
    one, free = small_phantom(0), make_case("test", 0, profile=small_profile(), tumour=False)
    assert (free.stage, int(free.mask.sum()), free.invaded) == (NO_TUMOUR, 0, {})
    assert np.array_equal(one.levels, free.levels)
    away = ~ndimage.binary_dilation(one.mask, iterations=6)
    assert np.corrcoef(one.voxels[away], free.voxels[away])[0, 1] > 0.95


def test_levels_under_the_mask_are_those_of_the_stage(small_phantom):
    """On the native grid too, tumour of a T2 lies in tissue of T1 and T2 alone (partial volume left aside)."""
    phantom = small_phantom(1, "T2")
    assert (phantom.levels[phantom.mask] <= 2).mean() > 0.9
    assert (phantom.levels[phantom.mask] == 2).sum() * np.prod(phantom.spacing_mm) > 100


def test_native_truth_covers_the_tumour(small_phantom):
    """The native mask has the volume of the grown one, give or take partial volume."""
    phantom = small_phantom(0)
    grown = sum(phantom.invaded.values()) / 1000
    assert phantom.volume_cc == pytest.approx(grown, rel=0.25)
    assert phantom.voxels.shape == (20, 256, 256)
    assert phantom.voxels.dtype == np.int16


def test_affine_is_lps_with_voxel_centres(small_phantom):
    """Slices go up, rows to posterior, columns to left, and the stack's centre is where the profile says."""
    phantom = small_phantom(0)
    middle = phantom.affine @ (*((n - 1) / 2 for n in phantom.voxels.shape), 1)
    assert middle[:3] == pytest.approx(phantom.profile.centre_mm)
    assert np.linalg.norm(phantom.affine[:3, :3], axis=0) == pytest.approx(phantom.spacing_mm)


def test_scanners_keep_to_the_paper_ranges():
    """Drawn series stay in the paper's matrix, pixel, slice and count ranges and reach 34 mm beyond the nasopharynx."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        profile = draw_profile(rng)
        assert 256 <= profile.matrix <= 672
        assert 0.34 <= profile.pixel_mm <= 1.09
        assert 3.5 <= profile.spacing_mm <= 7.0
        assert 16 <= profile.slices <= 120
        assert profile.slices * profile.spacing_mm / 2 - abs(profile.centre_mm[2]) > 34


def test_unknown_stage_is_refused():
    """T0, Tis and TX are not drawn."""
    with pytest.raises(ValueError, match="stage must be"):
        make_case("test", 0, stage="TX", profile=small_profile())
