"""Training learns, resumes, and its windows are what the clinic would compute."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from model import data, evaluate, preprocess, train
from model.bundle import Bundle, Recipe, make_bundle
from model.data import Source
from model.manifest import GridSpec
from model.network import PRESETS
from model.phantom import make_case, small_profile

TINY = PRESETS["tiny"]
GRID = data.grid_of(TINY)


@pytest.fixture(scope="module")
def cases(small_phantom):
    """One case of each stage on the tiny window."""
    return [
        data.prepare(Source.of_phantom(small_phantom(10 + index, stage)), GRID)
        for index, stage in enumerate(("T1", "T2", "T3", "T4"))
    ]


def test_a_shifted_training_window_is_the_clinic_window(small_phantom):
    """Cutting whole voxels from the wide cached window equals preprocessing at the shifted centre."""
    phantom = small_phantom(0)
    volume = preprocess.orient(phantom.voxels.astype(np.float32), phantom.affine)
    body, steps = preprocess.body_mask(volume)
    scaled = preprocess.normalise(volume, body, steps)
    centre = (60.0, 120.0, 118.0)
    grid = GridSpec()
    wide = preprocess.cut(scaled, centre, data.wide(grid)).values
    shift = (2, -3, 5)
    moved = tuple(c + s * mm for c, s, mm in zip(centre, shift, grid.spacing_mm, strict=True))
    window = preprocess.cut(scaled, moved, grid).values
    part = tuple(slice(m + s, m + s + n) for m, s, n in zip(data.margin(grid), shift, grid.shape, strict=True))
    assert np.abs(wide[part] - window).max() < 1e-4


def test_windows_of_one_epoch_are_reproducible(cases):
    """The same generator seed gives the same augmented batches."""
    one, other = (next(data.batches(cases, GRID, np.random.default_rng(5), 4)) for _ in range(2))
    assert torch.equal(one.image, other.image)
    assert torch.equal(one.target, other.target)


def test_augmentation_keeps_image_and_mask_together(cases):
    """Where the mask moves the image moves: the tumour of a noiseless painted case stays bright after augmentation."""
    case = cases[1]
    painted = replace(case, image=(case.mask / 255 * 4).astype(np.float16))
    for seed in range(6):
        sample = data.augmented(painted, GRID, np.random.default_rng(seed))
        image, target = sample.image, sample.target
        if target.sum() > 20:
            assert float(image[target > 0].mean()) > float(image[target == 0].mean()) + 1


def test_a_window_that_cuts_the_tumour_teaches_no_stage(cases):
    """``whole`` is true where all of the tumour is in the window, whatever the scale, and false where it is cut."""
    case = cases[1]
    for seed in range(12):
        sample = data.augmented(case, GRID, np.random.default_rng(seed))
        touches = bool(sample.target[0].any() or sample.target[-1].any())
        assert not (sample.whole and touches and sample.target.sum() < 0.8 * (case.mask >= 128).sum())
    far = replace(case, mask=np.roll(case.mask, case.mask.shape[2] // 2, axis=2))
    assert not any(data.augmented(far, GRID, np.random.default_rng(seed)).whole for seed in range(6))


def test_stages_are_drawn_equally_often():
    """Of a cohort with few T1 every category is drawn as often, heads without tumour as often as they come."""
    stages = [0] * 5 + [1] * 50 + [2] * 25 + [3] * 20 + [-1] * 10
    drawn = np.array(stages)[np.concatenate([data.balanced_order(stages, np.random.default_rng(k)) for k in range(60)])]
    shares = [float((drawn == k).mean()) for k in (-1, 0, 1, 2, 3)]
    assert shares[0] == pytest.approx(10 / 110, abs=0.02)
    assert shares[1:] == pytest.approx([25 / 110] * 4, abs=0.02)


def test_a_head_without_tumour_is_a_case(tmp_path):
    """It has an empty mask, no stage, an anatomy to learn, and survives the disk."""
    phantom = make_case("test", 5, profile=small_profile(), tumour=False)
    case = data.prepare(Source.of_phantom(phantom), GRID)
    assert (case.stage, int(case.mask.sum()), bool(case.invaded.any())) == (-1, 0, False)
    assert set(np.unique(case.levels)) == {0, 1, 2, 3, 4}
    data.save_case(tmp_path / "a.npz", case, GRID)
    again = data.load_case(tmp_path / "a.npz", GRID)
    assert np.array_equal(again.levels, case.levels)
    assert again.body == pytest.approx(case.body)


def test_map_is_learned(cases):
    """Segmentation alone: forty steps on two cases take a quarter off the loss."""
    config = train.TrainConfig(lr=1e-2, minutes=1e9, steps=40, stage_from=2.0)
    trainer = train.Trainer(TINY, GRID, config)
    batch = data.stack([data.centred(case, GRID) for case in (cases[1], cases[2])])
    losses = [trainer.update(batch)[0] for _ in range(config.steps)]
    assert losses[-1] < 0.78 * losses[0]


def test_stages_are_overfitted(cases):
    """A7: staging learns four cases by heart from product and shared features (a T-net of one block a stage)."""
    small = replace(TINY, stage_blocks=(1, 1, 1, 3))
    config = train.TrainConfig(lr=5e-3, minutes=1e9, steps=40, freeze_unet=True)
    trainer = train.Trainer(small, GRID, config)
    batch = data.stack([data.centred(case, GRID) for case in cases])
    losses = [trainer.update(batch)[1] for _ in range(config.steps)]
    assert losses[-1] < 0.3 * losses[0]
    with torch.no_grad():
        _, stage = trainer.net.train()(batch.image)
    assert stage.argmax(1).tolist() == [0, 1, 2, 3]


def test_a_frozen_unet_does_not_move(cases):
    """Teaching staging alone leaves every weight of the U-Net as it was."""
    trainer = train.Trainer(TINY, GRID, train.TrainConfig(steps=5, freeze_unet=True))
    before = {name: value.clone() for name, value in trainer.net.state_dict().items()}
    trainer.update(data.stack([data.centred(case, GRID) for case in cases]))
    after = trainer.net.state_dict()
    moved = {name.split(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}
    assert "unet" not in moved
    assert {"stager", "fusion"} <= moved


def test_learning_rate_warms_up_and_falls():
    """The rate rises, peaks at the set value and ends at a hundredth of it."""
    trainer = train.Trainer(TINY, GRID, train.TrainConfig(lr=1.0, steps=100, minutes=1e9))
    rates = []
    for trainer.step in (0, 2, 50, 100):
        rates.append(trainer.lr())
    assert rates[0] < rates[1] == pytest.approx(1.0)
    assert rates[2] == pytest.approx(0.5, abs=0.05)
    assert rates[3] == pytest.approx(0.01)


def test_a_run_resumes_and_becomes_a_bundle(cases, tmp_path):
    """Stopping after an epoch and going on keeps step, best and weights; the best weights make a bundle that opens."""
    folder = tmp_path / "cache"
    folder.mkdir()
    for cohort in ("train", "tune"):
        for index, case in enumerate(cases):
            data.save_case(folder / f"{cohort}-{index:05d}.npz", case, GRID)
    config = train.TrainConfig(steps=1, minutes=1e9)
    first = train.Trainer(TINY, GRID, config)
    train.run(first, data.Cases(folder, "train", GRID), data.Cases(folder, "tune", GRID), tmp_path / "run")
    again = train.Trainer(TINY, GRID, replace(config, steps=2))
    again.restore(torch.load(tmp_path / "run" / "last.pt", weights_only=True))
    assert (again.step, again.epoch, again.best) == (1, 1, first.best)
    train.run(again, data.Cases(folder, "train", GRID), data.Cases(folder, "tune", GRID), tmp_path / "run")
    with (tmp_path / "run" / "log.csv").open() as stream:
        assert [row["step"] for row in csv.DictReader(stream)] == ["1", "2"]
    facts = json.loads((tmp_path / "run" / "best.json").read_text())
    assert facts["statement"] == "synthetic phantom - not for clinical use"
    recipe = Recipe("tiny", "0", TINY, GRID, 1.0, facts["training"], (0.0, 0.0, 0.0))
    made = make_bundle(tmp_path / "bundle", load_file(tmp_path / "run" / "best.safetensors"), recipe)
    assert isinstance(made, Bundle)
    assert made.verify().agrees


def test_temperature_repairs_overconfidence():
    """Logits three times too large are answered with a temperature near three."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1.5, (4000, 4))
    truth = np.array([rng.choice(4, p=row) for row in evaluate.softmax(logits, 1.0)])
    assert evaluate.fit_temperature(3 * logits, truth) == pytest.approx(3, rel=0.15)


def test_staging_figures_of_a_perfect_reader():
    """All right is accuracy 1, AUC 1 and a diagonal table; a flat answer is AUC .5."""
    truth = np.array([0, 1, 1, 2, 3])
    perfect = evaluate.staging_figures(np.eye(4)[truth] * 0.97 + 0.01 * (1 - np.eye(4)[truth]), truth)
    assert (perfect["acc"], perfect["auc_micro"], perfect["auc_macro"]) == (1, 1, 1)
    assert np.trace(perfect["confusion"]) == 5
    assert evaluate.staging_figures(np.full((5, 4), 0.25), truth)["auc_micro"] == 0.5


def test_surface_distance_of_shifted_cubes():
    """Two cubes one slice of 6 mm apart lie between 0 and 6 mm from each other; an empty mask has no distance."""
    a = np.zeros((10, 20, 20), dtype=bool)
    a[2:6, 5:15, 5:15] = True
    b = np.roll(a, 1, axis=0)
    assert evaluate.surface_distance_mm(a, a, (6.0, 1.0, 1.0)) == 0
    assert 0 < evaluate.surface_distance_mm(a, b, (6.0, 1.0, 1.0)) < 6
    assert np.isnan(evaluate.surface_distance_mm(a, np.zeros_like(a), (6.0, 1.0, 1.0)))
