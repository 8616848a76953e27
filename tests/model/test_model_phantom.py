"""Phantoms: same seed same bytes, the stage follows from what is invaded, and size does not give it away."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from scipy.stats import mannwhitneyu

from model import labels
from model.labels import STAGES, STRUCTURE_STAGE, STRUCTURES, stage_of
from model.phantom import draw_anatomy, draw_profile, golden_profile, make_case, seed_of, small_profile
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


def test_size_does_not_give_the_stage_away():
    """Volume alone separates early from advanced with an AUC below .80 (6.3)."""
    early, advanced = [], []
    for index in range(5):
        for stage, group in (("T1", early), ("T2", early), ("T3", advanced), ("T4", advanced)):
            group.append(int(draw_anatomy("volume", index, stage=stage)[1].mask.sum()))
    auc = mannwhitneyu(advanced, early).statistic / (len(early) * len(advanced))
    assert 0.3 < auc < 0.85


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
