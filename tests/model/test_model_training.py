"""Training learns, resumes, and its windows are what the clinic would compute."""

from __future__ import annotations

import csv
import json
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from model import cohort, data, evaluate, preprocess, train
from model.bundle import Bundle, Recipe, make_bundle
from model.cohort import Entry
from model.curves import History
from model.data import Source
from model.manifest import GridSpec
from model.network import PRESETS
from model.phantom import make_case, small_profile, write_dicom_series
from model.phantom.structure import write_structure_set
from model.trainer import TrainConfig, Trainer, cosine

TINY = PRESETS["tiny"]
GRID = data.grid_of(TINY)
PLUS = replace(TINY, levels=5, invaded=20, ordinal=True)


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


def config(**changes: object) -> TrainConfig:
    """A short cosine run."""
    return replace(TrainConfig(schedule="cosine", lr=1e-2, weight_lr=1e-2, epochs=10**6), **changes)


def test_map_is_learned(cases):
    """Segmentation alone: forty steps on two cases take a quarter off the loss."""
    trainer = Trainer(TINY, GRID, config(steps=40, stage_from=2.0, smooth=1.0))
    batch = data.stack([data.centred(case, GRID) for case in (cases[1], cases[2])])
    losses = [trainer.update(batch)[0] for _ in range(40)]
    assert losses[-1] < 0.78 * losses[0]


def test_stages_are_overfitted(cases):
    """A7: staging learns four cases by heart from product and shared features (a T-net of one block a stage)."""
    small = replace(TINY, stage_blocks=(1, 1, 1, 3))
    trainer = Trainer(small, GRID, config(lr=5e-3, steps=40, freeze_unet=True))
    batch = data.stack([data.centred(case, GRID) for case in cases])
    losses = [trainer.update(batch)[1] for _ in range(40)]
    assert losses[-1] < 0.3 * losses[0]
    with torch.no_grad():
        _, stage = trainer.net.train()(batch.image)
    assert stage.argmax(1).tolist() == [0, 1, 2, 3]


def test_a_frozen_unet_does_not_move(cases):
    """Teaching staging alone leaves every weight of the U-Net as it was."""
    trainer = Trainer(TINY, GRID, config(steps=5, freeze_unet=True))
    before = {name: value.clone() for name, value in trainer.net.state_dict().items()}
    trainer.update(data.stack([data.centred(case, GRID) for case in cases]))
    after = trainer.net.state_dict()
    moved = {name.split(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}
    assert "unet" not in moved
    assert {"stager", "fusion"} <= moved


def test_patients_without_tissue_truth_teach_map_and_stage(cases):
    """What only a phantom knows is left out of the loss of a patient: it is finite and no head for it moves."""
    trainer = Trainer(PLUS, GRID, config(steps=5))
    before = {name: value.clone() for name, value in trainer.net.named_parameters()}
    trainer.update(data.stack([data.centred(replace(case, told=False), GRID) for case in cases]))
    after = dict(trainer.net.named_parameters())
    still = {name for name, value in after.items() if torch.equal(value, before[name])}
    assert {"invaded.weight", "invaded.bias"} <= still
    assert "classifier.weight" not in still
    assert all(torch.isfinite(value).all() for value in after.values())


def test_learning_rate_warms_up_and_falls():
    """The rate rises, peaks at the set value and ends at a hundredth of it."""
    rates = [cosine(done, config(lr=1.0)) for done in (0, 0.02, 0.51, 1)]
    assert rates[0] < rates[1] == pytest.approx(1.0)
    assert rates[2] == pytest.approx(0.5, abs=0.05)
    assert rates[3] == pytest.approx(0.01)


def test_a_plateau_lowers_the_rate_and_ends_the_run():
    """The paper's schedule: Adam 2e-4, a fifth after every patience without gain, over below 1e-6 (A18)."""
    trainer = Trainer(TINY, GRID, TrainConfig(patience=2))
    assert (trainer.lr(), trainer.done) == (2e-4, False)
    epochs = 0
    while not trainer.done:
        trainer.plateau.step(1.0)
        epochs += 1
    assert trainer.lr() < 1e-6
    assert epochs == 1 + 4 * 3


@pytest.fixture
def cached(cases, tmp_path):
    """A folder with the cases as training and tuning phantoms."""
    for name in ("train", "tune"):
        for index, case in enumerate(cases):
            data.save_case(tmp_path / f"{name}-{index:05d}.npz", case, GRID)
    return tmp_path


def weights_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {**trainer.net.state_dict(), **{f"average.{n}": v for n, v in trainer.average.state_dict().items()}}


def test_a_killed_run_goes_on_to_the_same_weights(cases, tmp_path):
    """Two epochs in one go, or one, a kill, and one more from last.pt: the same weights to the last bit."""
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    two = config(epochs=2)
    whole = Trainer(PLUS, GRID, two)
    train.run(whole, cases, cases, History(tmp_path / "whole"))
    first = Trainer(PLUS, GRID, two)
    next(iter([first.update(b) for b in first.batches(cases)]))
    first.epoch = 1
    train.keep(first.state(), tmp_path / "parts" / "last.pt")
    again = Trainer(PLUS, GRID, two)
    again.restore(torch.load(tmp_path / "parts" / "last.pt", weights_only=True))
    train.run(again, cases, cases, History(tmp_path / "parts"))
    assert (again.step, again.epoch) == (whole.step, whole.epoch) == (2, 2)
    for name, value in weights_of(whole).items():
        assert torch.equal(value, weights_of(again)[name]), name


def test_a_run_leaves_curves_and_a_bundle(cases, tmp_path):
    """Every epoch is a row of JSONL and CSV, the picture is drawn, the best weights make a bundle that opens."""
    trainer = Trainer(TINY, GRID, config(epochs=2))
    train.run(trainer, cases, cases, History(tmp_path))
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    with (tmp_path / "history.csv").open() as stream:
        assert [row["step"] for row in csv.DictReader(stream)] == ["1", "2"]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert {"seg", "stage", "lambda_seg", "tune_dice", "tune_auc"} <= set(rows[0])
    assert (tmp_path / "history.png").read_bytes().startswith(b"\x89PNG")
    facts = json.loads((tmp_path / "best.json").read_text())
    assert facts["statement"] == "synthetic phantom - not for clinical use"
    recipe = Recipe("tiny", "0", TINY, GRID, 1.0, facts["training"], (0.0, 0.0, 0.0))
    made = make_bundle(tmp_path / "bundle", load_file(tmp_path / "best.safetensors"), recipe)
    assert isinstance(made, Bundle)
    assert made.verify().agrees


def test_the_inner_split_is_honest():
    """A19: the watched patients come from the training part, of every stage, and never from the held-out fold."""
    entries = [Entry(f"p{k}", Path("x"), None, f"T{1 + k % 4}", fold=k % 3) for k in range(90)]
    watch_inner, watch_fold = (train.split(entries, 1, 0, monitor)[1] for monitor in ("inner", "fold"))
    taught, watched = train.split(entries, 1, 0)
    assert len(taught) + len(watched) == 60
    assert not {e.patient for e in taught} & {e.patient for e in watched}
    assert {e.fold for e in watch_inner} == {0, 2}
    assert {e.fold for e in watch_fold} == {1}
    assert {e.stage for e in watched} == {"T1", "T2", "T3", "T4"}
    with pytest.raises(cohort.CohortError, match="no patient is in fold 7"):
        train.split(entries, 7, 0)


def patients_table(folder: Path, count: int) -> Path:
    """A cohort on disk: phantoms as DICOM with structure sets, and a table."""
    rows = ["patient,image,contours,stage"]
    for index in range(count):
        phantom = make_case("test", 30 + index, profile=small_profile())
        files = write_dicom_series(phantom, folder / f"p{index}" / "t1c")
        write_structure_set(phantom, files, folder / f"p{index}" / "rs.dcm")
        rows.append(f"p{index},p{index},,{phantom.stage}")
    table = folder / "table.csv"
    table.write_text("\n".join(rows) + "\n")
    return table


QUICK = ("--preset", "tiny", "--batch", "2", "--epochs", "2", "--patience", "0")


@pytest.mark.slow
def test_a_hospital_trains_with_one_command(tmp_path, capsys):
    """DICOM and structure sets in, report, curves and weights out; a patient that cannot be used stops it by name."""
    table = patients_table(tmp_path, 4)
    command = [*QUICK, "--table", str(table), "--out", str(tmp_path / "run"), "--cache", str(tmp_path / "cache")]
    assert train.main(command) == 0
    assert {"data_report.txt", "history.png", "best.safetensors", "best.json", "last.pt"} <= {
        path.name for path in (tmp_path / "run").iterdir()
    }
    assert "usable 4" in (tmp_path / "run" / "data_report.txt").read_text()
    table.write_text(table.read_text() + "p9,nowhere,,T2\n")
    assert train.main([*command[:-1], str(tmp_path / "other")]) == 1
    caught = capsys.readouterr()
    assert "REFUSED p9: the image nowhere does not exist" in caught.out
    assert "1 patients are refused" in caught.err


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_train_one_network(cached):
    """torchrun with two gloo processes: one run, half the steps each, and one process can go on from its checkpoint."""
    grid_folder = data.cache_folder(cached, GRID)
    grid_folder.mkdir()
    for path in cached.glob("*.npz"):
        path.rename(grid_folder / path.name)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1"]
    command += ["--master-port", str(free_port()), "-m", "model.train", *QUICK, "--batch", "1", "--cases", "4"]
    command += ["--tune-cases", "4", "--cache", str(cached), "--out", str(cached / "run")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(train.__file__).parents[1], timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in (cached / "run" / "history.jsonl").read_text().splitlines()]
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, 2), (2, 4)]
    alone = Trainer(TINY, GRID, config())
    alone.restore(torch.load(cached / "run" / "last.pt", weights_only=True))
    assert alone.step == 4


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def test_processes_share_an_epoch_without_meeting(cases):
    """Of one epoch's batches every process takes its own, as many each, and together they are the epoch of one."""
    trainer = Trainer(TINY, GRID, config(batch=1))
    alone = [batch.stage.item() for batch in trainer.batches(cases)]
    shared = [[batch.stage.item() for batch in trainer.batches(cases, rank, 2)] for rank in (0, 1)]
    assert [stage for pair in zip(*shared, strict=True) for stage in pair] == alone


def drawn(count: int, factor: float, offset: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Logits that are ``factor`` too large and lack ``offset``, and stages drawn from what they should have said."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1.5, (count, 4))
    truth = np.array([rng.choice(4, p=row) for row in evaluate.softmax(logits, 1.0, offset)])
    return factor * logits, truth


def test_calibration_repairs_overconfidence_and_favour():
    """Logits three times too large that favour two stages are answered with both, up to a constant."""
    favour = np.array((0.6, -0.6, 0.5, -0.5))
    temperature, offset = evaluate.fit_calibration(*drawn(4000, 3.0, favour))
    assert temperature == pytest.approx(3, rel=0.15)
    assert offset - offset.mean() == pytest.approx(favour, abs=0.15)


def test_a_stage_that_tuning_lacks_is_not_ruled_out():
    """A dozen cases of one stage alone move the offset by a little, not without end."""
    prior = np.array((-1.0, 0.5, 0.5, 0.0))
    logits = np.random.default_rng(1).normal(0, 1.5, (12, 4))
    _, offset = evaluate.fit_calibration(logits, np.ones(12, dtype=np.intp), prior)
    assert (offset - prior)[1] > 0.3
    assert np.abs(offset - prior).max() < 2


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
