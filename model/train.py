"""Train the joint network: on a hospital's own patients, or on phantoms. Resumable at any kill, on one or many GPUs.

    python -m model.train --table patients.csv --preset paper --fold 0 --amp --device cuda --out runs/fold0
    torchrun --nproc-per-node 2 -m model.train --table patients.csv ...          # the same on two GPUs
    python -m model.train --schedule cosine --minutes 90 --preset plus --lr 1.5e-3 --cases 600 --out runs/plus

Everything is read and checked first; the data report lies beside the run. Then every epoch leaves ``last.pt`` (the same
command goes on from it), ``best.safetensors`` with ``best.json`` (for ``python -m model.bundle make``) and the curves
``history.jsonl``, ``.csv``, ``.png``. The rate and the best weights are chosen on an inner split of the training part;
``--monitor fold`` does it on the held-out fold, as the paper seems to have done, and is optimistic (A19).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import distributed

from model import cohort
from model.cohort import CohortError, Entry
from model.curves import History
from model.data import (
    Case,
    Cases,
    Source,
    cache_folder,
    cohort_folder,
    fill_cache,
    grid_of,
    load_case,
    prepare,
    save_case,
)
from model.labels import STATEMENT
from model.losses import WEIGHTS
from model.manifest import GridSpec
from model.network import PRESETS, WIRINGS
from model.preprocess import InputError
from model.trainer import TrainConfig, Trainer, Tuned, measure

FOLDS: Final = 3
INNER: Final = 10
"""One in so many training patients is the inner split."""


@dataclass(frozen=True)
class Place:
    """Which process of how many this is; the first alone writes and speaks."""

    rank: int = 0
    world: int = 1

    @property
    def speaks(self) -> bool:
        """True for the one that writes."""
        return self.rank == 0


# --- patients ---------------------------------------------------------------------------------------------------


def split(entries: Sequence[Entry], fold: int, seed: int, monitor: str = "inner") -> tuple[list[Entry], list[Entry]]:
    """Patients to train on and to watch. ``fold`` is held out (-1: none); folds not in the table are drawn by ``seed``.

    Raises ``CohortError`` for a fold without patients or a training part too small to split.
    """
    where = [e.fold for e in entries] if all(e.fold >= 0 for e in entries) else drawn_folds(entries, FOLDS, seed)
    held = [e for e, f in zip(entries, where, strict=True) if f == fold]
    rest = [e for e, f in zip(entries, where, strict=True) if f != fold]
    if fold >= 0 and not held:
        raise CohortError(f"no patient is in fold {fold}: the folds are {sorted(set(where))}")
    if monitor == "fold":
        return rest, held
    inner = drawn_folds(rest, min(INNER, len(rest)), seed)
    watched = [e for e, f in zip(rest, inner, strict=True) if f == 0]
    train = [e for e, f in zip(rest, inner, strict=True) if f != 0]
    if not train or not watched:
        raise CohortError(f"{len(rest)} patients are too few to keep some apart for the learning rate")
    return train, watched


def drawn_folds(entries: Sequence[Entry], count: int, seed: int) -> list[int]:
    """A fold for every patient, the stages spread evenly, the same for one seed."""
    rng = np.random.default_rng(seed)
    order = sorted(range(len(entries)), key=lambda k: (entries[k].stage, rng.random()))
    folds = np.empty(len(entries), int)
    folds[order] = np.arange(len(entries)) % count
    return [int(f) for f in folds]


def prepare_patients(entries: Iterable[Entry], folder: Path, grid: GridSpec, roi: str) -> None:
    """Cache every patient's window. Raises ``CohortError`` naming the patient whose volume cannot be used."""
    folder.mkdir(parents=True, exist_ok=True)
    for entry in entries:
        path = folder / f"{entry.patient}.npz"
        if not path.exists():
            try:
                case = prepare(Source.of_subject(cohort.load(entry, roi)), grid)
            except InputError as error:
                raise CohortError(f"{entry.patient}: {error} ({error.code})") from error
            part = folder / f"{entry.patient}.part.npz"
            save_case(part, case, grid)
            part.rename(path)


def patients(options: argparse.Namespace, grid: GridSpec, place: Place) -> tuple[list[Case], list[Case]]:
    """Training and watched cases of a table; the first process checks, reports and prepares for all."""
    folder = cohort_folder(options.cache, options.table, grid)
    entries: Sequence[Entry] = cohort.read_table(options.table)
    if place.speaks:
        usable, report = cohort.survey(entries, options.roi)
        (options.out / "data_report.txt").write_text(report.text() + "\n", encoding="utf-8")
        print(report.text(), flush=True)
        if report.refused and not options.skip_refused:
            raise CohortError(
                f"{len(report.refused)} patients are refused: mend them, or leave them with --skip-refused"
            )
        prepare_patients(usable, folder, grid, options.roi)
    _wait(place)
    entries = [entry for entry in entries if (folder / f"{entry.patient}.npz").exists()]
    train, watched = split(entries, options.fold, options.seed, options.monitor)
    load = [[load_case(folder / f"{e.patient}.npz", grid) for e in part] for part in (train, watched)]
    return load[0], load[1]


def phantoms(options: argparse.Namespace, grid: GridSpec, place: Place) -> tuple[list[Case], list[Case]]:
    """Training and watched phantoms; missing ones are made first."""
    folder = cache_folder(options.cache, grid)
    found = []
    for name, count in (("train", options.cases), ("tune", options.tune_cases)):
        if place.speaks:
            for _ in fill_cache(folder, name, range(count), grid):
                pass
        _wait(place)
        cases = Cases(folder, name, grid)
        cases.refresh()
        found.append(cases.all()[:count])
    return found[0], found[1]


# --- the run ----------------------------------------------------------------------------------------------------


def run(trainer: Trainer, train: list[Case], watched: list[Case], history: History, place: Place = Place()) -> None:
    """Epochs until the trainer is done."""
    if len(train) < trainer.config.batch * place.world:
        raise CohortError(f"{len(train)} cases do not fill one batch of {trainer.config.batch} a process")
    while not trainer.done:
        losses = _epoch(trainer, train, place)
        trainer.epoch += 1
        tuned = _watch(trainer, watched)
        if tuned and trainer.config.schedule == "plateau":
            trainer.plateau.step(tuned.loss)
        trainer.tick()
        if place.speaks:
            _record(trainer, losses, tuned, history)
        _wait(place)


def _epoch(trainer: Trainer, cases: list[Case], place: Place) -> list[tuple[float, float]]:
    from tqdm import tqdm

    losses: list[tuple[float, float]] = []
    steps = min(trainer.config.epoch_steps, len(cases) // trainer.config.batch // place.world)
    quiet = not (place.speaks and sys.stderr.isatty())
    for batch in tqdm(trainer.batches(cases, place.rank, place.world), f"epoch {trainer.epoch}", steps, disable=quiet):
        losses.append(trainer.update(batch))
        trainer.tick()
        if trainer.config.schedule == "cosine" and trainer.progress >= 1 and place.world == 1:
            break
    return losses


def _watch(trainer: Trainer, watched: list[Case]) -> Tuned | None:
    """Every process measures the same, so that every plateau falls at the same epoch."""
    due = trainer.epoch % trainer.config.measure_every == 0 or trainer.progress >= 1
    return measure(trainer.average, watched, trainer.grid, amp=trainer.config.amp) if due else None


def _record(trainer: Trainer, losses: list[tuple[float, float]], tuned: Tuned | None, history: History) -> None:
    seg, stage = (_mean(column) for column in zip(*losses, strict=True))
    lambdas = trainer.objective.weights.weights()
    row = {"epoch": trainer.epoch, "step": trainer.step, "minutes": trainer.spent_s / 60, "lr": trainer.lr()}
    row |= {"seg": seg, "stage": stage, "lambda_seg": lambdas[0], "lambda_stage": lambdas[1]}
    known = dataclasses.asdict(tuned) if tuned else dict.fromkeys(f.name for f in dataclasses.fields(Tuned))
    row |= {f"tune_{name}": np.nan if value is None else value for name, value in known.items()}
    history.add(row)
    print(" ".join(f"{name} {value:.4g}" for name, value in row.items()), flush=True)
    if tuned and -tuned.loss > trainer.best:
        trainer.best = -tuned.loss
        save_best(trainer, history.folder, tuned)
    keep(trainer.state(), history.folder / "last.pt")
    history.draw()


def _mean(values: Iterable[float]) -> float:
    """Mean of what was measured; NaN where staging never took part."""
    known = [value for value in values if np.isfinite(value)]
    return sum(known) / len(known) if known else float("nan")


def keep(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint whole or not at all."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.rename(path)


def save_best(trainer: Trainer, out: Path, tuned: Tuned) -> None:
    """The averaged weights and the facts a bundle needs."""
    weights = {name: tensor.contiguous().cpu() for name, tensor in trainer.average.state_dict().items()}
    save_file(weights, out / "best.safetensors")
    figures = {f"tune_{name}": value for name, value in dataclasses.asdict(tuned).items()}
    facts = {
        "statement": STATEMENT,
        "network": trainer.net.config.to_dict(),
        "grid": dataclasses.asdict(trainer.grid),
        "centre_offset_mm": (0.0, 0.0, 0.0),
        "training": {
            "steps": trainer.step,
            "epochs": trainer.epoch,
            "minutes": round(trainer.spent_s / 60, 1),
            **figures,
        },
        "config": dataclasses.asdict(trainer.config),
    }
    (out / "best.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


# --- command ----------------------------------------------------------------------------------------------------


def join() -> Place:
    """This process's place among those that torchrun started; alone without torchrun."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1:
        distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        return Place(distributed.get_rank(), world)
    return Place()


def _wait(place: Place) -> None:
    if place.world > 1:
        distributed.barrier()


def _device(name: str, place: Place) -> str:
    if name == "cuda" and place.world > 1:
        local = int(os.environ.get("LOCAL_RANK", place.rank))
        torch.cuda.set_device(local)
        return f"cuda:{local}"
    return name


def main(arguments: list[str] | None = None) -> int:
    """Train, or go on with a run whose ``last.pt`` is there."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    place = join()
    options.out.mkdir(parents=True, exist_ok=True)
    network = dataclasses.replace(PRESETS[options.preset], wiring=options.wiring)
    grid = grid_of(network)
    try:
        train, watched = (patients if options.table else phantoms)(options, grid, place)
        trainer = Trainer(network, grid, _config(options), device=_device(options.device, place), world=place.world)
        _resume(trainer, options)
        run(trainer, train, watched, History(options.out, tensorboard=options.tensorboard and place.speaks), place)
    except CohortError as error:
        print(f"cohort error: {error}", file=sys.stderr)
        return 1
    finally:
        if place.world > 1:
            distributed.destroy_process_group()
    return 0


def _resume(trainer: Trainer, options: argparse.Namespace) -> None:
    last = options.out / "last.pt"
    if last.exists():
        trainer.restore(torch.load(last, map_location=trainer.device, weights_only=True))
    elif options.start:
        trainer.start(load_file(options.start))


def _config(options: argparse.Namespace) -> TrainConfig:
    """The options that are fields of the configuration, by their names."""
    return TrainConfig(
        **{f.name: getattr(options, f.name) for f in dataclasses.fields(TrainConfig) if f.name in options}
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model.train", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/joint"))
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    parser.add_argument("--preset", choices=sorted(PRESETS), default="paper")
    parser.add_argument("--wiring", choices=WIRINGS, default="joint")
    parser.add_argument("--start", type=Path, help="begin with these weights (best.safetensors of another run)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tensorboard", action="store_true")
    _add_data(parser.add_argument_group("data"))
    _add_schedule(parser.add_argument_group("schedule"))
    return parser


def _add_data(group: Any) -> None:
    group.add_argument("--table", type=Path, help="CSV: patient,image,contours,stage[,fold]; without it phantoms")
    group.add_argument("--roi", default=cohort.GTV_NAMES, help="regular expression of the tumour's ROI name")
    group.add_argument("--fold", type=int, default=-1, help="fold to hold out; -1 trains on all patients")
    group.add_argument("--monitor", choices=("inner", "fold"), default="inner")
    group.add_argument("--skip-refused", action="store_true", help="train without the patients that were refused")
    group.add_argument("--cases", type=int, default=24, help="training phantoms")
    group.add_argument("--tune-cases", type=int, default=12)


def _add_schedule(group: Any) -> None:
    default = TrainConfig
    group.add_argument("--schedule", choices=("plateau", "cosine"), default=default.schedule)
    group.add_argument("--weights", choices=sorted(WEIGHTS), default=default.weights)
    group.add_argument("--batch", type=int, default=default.batch)
    group.add_argument("--lr", type=float, default=default.lr)
    group.add_argument("--weight-lr", type=float, default=default.weight_lr)
    group.add_argument("--decay", type=float, default=default.decay)
    group.add_argument("--patience", type=int, default=default.patience)
    group.add_argument("--epochs", type=int, default=default.epochs)
    group.add_argument("--minutes", type=float, default=default.minutes)
    group.add_argument("--steps", type=int, default=default.steps)
    group.add_argument("--epoch-steps", type=int, default=default.epoch_steps)
    group.add_argument("--measure-every", type=int, default=default.measure_every, help="epochs")
    group.add_argument("--stage-from", type=float, default=default.stage_from)
    group.add_argument("--freeze-unet", action="store_true", help="teach staging only")
    group.add_argument("--amp", action="store_true", help="bfloat16 where it is safe")
    group.add_argument("--seed", type=int, default=default.seed)


if __name__ == "__main__":
    sys.exit(main())
