"""Train the joint network on phantoms: resumable, on a clock, one thread by default.

    python -m model.data --count 1000 &        # cases appear in runs/cache; training takes them up as they come
    python -m model.train --out runs/small --minutes 60

The learning rate warms up, then falls along a cosine over the budget (minutes or steps, whichever ends first). Written
at every epoch: ``last.pt`` (to resume) and ``best.safetensors`` + ``best.json`` (the averaged weights, for
``python -m model.bundle make``), ``log.csv``.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from model import statistics
from model.data import Batch, Case, Cases, batches, cache_folder, centred, fill_cache, grid_of, stack
from model.labels import STATEMENT
from model.losses import SegmentationLoss, UncertaintyWeights, ordinal_loss, tissue_loss
from model.manifest import GridSpec
from model.network import PRESETS, Drawn, MultiTaskNet, NetworkConfig, Staged, build

LOG_FIELDS: Final = ("epoch", "step", "minutes", "lr", "cases", "seg", "stage", "lambda_seg", "lambda_stage",
                     "tune_dice", "tune_ce", "tune_acc", "tune_auc", "tune_false")  # fmt: skip

TISSUE_SHARE: Final = 0.5
TOLD_SHARE: Final = 0.3
"""What the tissue categories weigh beside the map, and ordinal and invasion heads beside the stage ("plus")."""


@dataclass(frozen=True)
class TrainConfig:
    """Everything that shapes a run beside the network."""

    batch: int = 4
    lr: float = 1.5e-3
    weight_lr: float = 1e-2
    warmup: float = 0.02
    least_lr: float = 0.01
    average: float = 0.99
    clip: float = 5.0
    seed: int = 0
    minutes: float = 60.0
    steps: int = 1_000_000
    epoch_steps: int = 60
    stage_from: float = 0.0
    """Share of the budget after which staging joins: until maps are maps, the T-net only costs time."""
    freeze_unet: bool = False
    """Teach staging only, with the U-Net as it is."""
    bf16: bool = False
    """Forward and backward in bfloat16 where autocast deems it safe; losses and weights stay float32."""
    decay: float = 1e-4
    measure_every: int = 2
    """Epochs between measurements on the tuning cases."""


class Trainer:
    """One run: network, its running average, loss weights, optimiser, clock."""

    def __init__(self, network: NetworkConfig, grid: GridSpec, config: TrainConfig) -> None:
        self.config = config
        self.grid = grid
        self.net = build(network, config.seed)
        self.average = build(network, config.seed)
        self.segmentation = SegmentationLoss(smooth=10.0)
        self.weights = UncertaintyWeights()
        if config.freeze_unet:
            self.net.unet.requires_grad_(False)
        learned = [p for p in self.net.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": learned, "lr": config.lr, "weight_decay": config.decay},
                {"params": list(self.weights.parameters()), "lr": config.weight_lr, "weight_decay": 0.0},
            ]
        )
        self.step = 0
        self.epoch = 0
        self.spent_s = 0.0
        self.best = -1.0
        self._ticked = time.monotonic()

    @property
    def progress(self) -> float:
        """Share of the budget used, 0..1."""
        return min(1.0, max(self.spent_s / (60 * self.config.minutes), self.step / self.config.steps))

    def lr(self) -> float:
        """Learning rate now: linear warm-up, then cosine down to ``least_lr`` of the start."""
        done, warm = self.progress, self.config.warmup
        if done < warm:
            return self.config.lr * (0.05 + 0.95 * done / warm)
        fall = 0.5 * (1 + np.cos(np.pi * (done - warm) / (1 - warm)))
        return float(self.config.lr * (self.config.least_lr + (1 - self.config.least_lr) * fall))

    def update(self, batch: Batch) -> tuple[float, float]:
        """One optimiser step; returns the two task losses."""
        self.optimiser.param_groups[0]["lr"] = self.lr()
        self.optimiser.zero_grad(set_to_none=True)
        losses = self.losses(self.net.train(), batch)
        total = losses[-1] if self.config.freeze_unet else self.weights(losses)
        total.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), self.config.clip)
        self.optimiser.step()
        self._follow()
        self.step += 1
        seg, *stage = losses.detach().tolist()
        return seg, stage[0] if stage else float("nan")

    def losses(self, net: MultiTaskNet, batch: Batch) -> Tensor:
        """(segmentation, staging) of one batch; windows that do not hold a whole tumour teach no stage.

        Segmentation alone, (1,), before staging joins or where no window holds a whole tumour.
        """
        staging = self.progress >= self.config.stage_from and bool(batch.whole.any())
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.bf16):
            drawn = net.segment(batch.image)
            staged = net.stage(batch.image, drawn) if staging else None
        seg = self._map_loss(drawn, batch)
        return seg[None] if staged is None else torch.stack((seg, _stage_loss(staged, batch)))

    def _map_loss(self, drawn: Drawn, batch: Batch) -> Tensor:
        loss: Tensor = self.segmentation(drawn.gtv.float(), batch.target)
        if drawn.levels is not None:
            told = batch.told
            loss = loss + TISSUE_SHARE * tissue_loss(drawn.levels.float()[told], batch.levels[told], batch.target[told])
        return loss

    def tick(self) -> None:
        """Count the time since the last tick, waiting for cases and measuring included."""
        now = time.monotonic()
        self.spent_s += now - self._ticked
        self._ticked = now

    def _follow(self) -> None:
        """Running average of weights and norm statistics; starts short so that early models are not held back."""
        keep = min(self.config.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, now in zip(self.average.state_dict().values(), self.net.state_dict().values(), strict=True):
                if mean.is_floating_point():
                    mean.lerp_(now, 1 - keep)
                else:
                    mean.copy_(now)

    def state(self) -> dict[str, Any]:
        """Everything needed to go on."""
        return {
            "net": self.net.state_dict(),
            "average": self.average.state_dict(),
            "weights": self.weights.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "clock": {"step": self.step, "epoch": self.epoch, "spent_s": self.spent_s, "best": self.best},
        }

    def start(self, weights: dict[str, Tensor]) -> None:
        """Begin with the weights of another run on a fresh clock; what this network has not is left out."""
        known = self.net.state_dict()
        fitting = {name: w.float() for name, w in weights.items() if name in known and known[name].shape == w.shape}
        if not fitting:
            raise ValueError("none of these weights fits this network: train from the beginning, without --start")
        for net in (self.net, self.average):
            net.load_state_dict({**known, **fitting})

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state`."""
        self.net.load_state_dict(state["net"])
        self.average.load_state_dict(state["average"])
        self.weights.load_state_dict(state["weights"])
        self.optimiser.load_state_dict(state["optimiser"])
        clock = state["clock"]
        self.step, self.epoch, self.spent_s = clock["step"], clock["epoch"], clock["spent_s"]
        self.best = clock["best"]


def _stage_loss(staged: Staged, batch: Batch) -> Tensor:
    """Cross-entropy of the stage, and of what else the network tells, over windows that hold a whole tumour."""
    whole = batch.whole
    loss = functional.cross_entropy(staged.stage.float()[whole], batch.stage[whole])
    if staged.ordinal is not None:
        loss = loss + TOLD_SHARE * ordinal_loss(staged.ordinal.float()[whole], batch.stage[whole])
    if staged.invaded is not None:
        known = whole & batch.told
        told, truth = staged.invaded.float()[known], batch.invaded[known]
        loss = loss + TOLD_SHARE * functional.binary_cross_entropy_with_logits(told, truth, reduction="sum") / (
            max(1, told.numel())
        )
    return loss


@dataclass(frozen=True)
class Tuned:
    """Averaged weights on the tuning cases: Dice, stage cross-entropy, accuracy, macro AUC, share of false tumours."""

    dice: float
    entropy: float
    accuracy: float
    auc: float
    false: float

    @property
    def score(self) -> float:
        """What the best weights have most of."""
        return self.dice - 0.15 * self.entropy


def measure(net: MultiTaskNet, cases: list[Case], grid: GridSpec, *, bf16: bool = False) -> Tuned:
    """The middle windows of all cases (model grid, no augmentation)."""
    net.eval()
    dice, false, told, truth = [], [], [], []
    with torch.inference_mode():
        for case in cases:
            batch = stack([centred(case, grid)])
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                gtv, stage = net(batch.image)
            drawn = gtv > 0
            if case.stage < 0:
                false.append(float(drawn.sum() > FALSE_VOXELS))
                continue
            dice.append(2 * float((drawn * batch.target).sum()) / float(drawn.sum() + batch.target.sum()))
            told.append(torch.softmax(stage.float()[0], 0).numpy())
            truth.append(case.stage)
    return _tuned(dice, np.array(told), np.array(truth), false)


FALSE_VOXELS: Final = 10
"""More than this drawn in a head without tumour is a false tumour."""


def _tuned(dice: list[float], told: NDArray[np.float64], truth: NDArray[np.intp], false: list[float]) -> Tuned:
    entropy = float(-np.log(told[np.arange(len(truth)), truth] + 1e-9).mean())
    accuracy, auc = statistics.accuracy(told, truth), statistics.auc_macro(told, truth)
    return Tuned(float(np.mean(dice)), entropy, accuracy, auc, float(np.mean(false)) if false else float("nan"))


def run(trainer: Trainer, train: Cases, tune: Cases, out: Path) -> None:
    """Epochs until the budget is spent."""
    out.mkdir(parents=True, exist_ok=True)
    while trainer.progress < 1:
        held = train.refresh()
        if held < trainer.config.batch or not tune.refresh():
            raise SystemExit(f"no cases for training in {train.folder}: run python -m model.data first")
        losses = _epoch(trainer, train.all())
        trainer.epoch += 1
        _report(trainer, _mean(losses), held, tune.all(), out)


def _epoch(trainer: Trainer, cases: list[Case]) -> list[tuple[float, float]]:
    rng = np.random.default_rng((trainer.config.seed, trainer.epoch))
    losses: list[tuple[float, float]] = []
    for batch in batches(cases, trainer.grid, rng, trainer.config.batch):
        losses.append(trainer.update(batch))
        trainer.tick()
        if trainer.progress >= 1 or len(losses) == trainer.config.epoch_steps:
            break
    return losses


def _mean(losses: list[tuple[float, float]]) -> tuple[float, float]:
    """Mean task losses of an epoch; NaN where staging never took part."""
    seg, stage = np.array(losses).T
    known = stage[np.isfinite(stage)]
    return float(seg.mean()), float(known.mean()) if known.size else float("nan")


def _report(trainer: Trainer, losses: tuple[float, float], held: int, tune: list[Case], out: Path) -> None:
    due = trainer.epoch % trainer.config.measure_every == 0 or trainer.progress >= 1
    tuned = measure(trainer.average, tune, trainer.grid, bf16=trainer.config.bf16) if due else None
    told = dataclasses.astuple(tuned) if tuned else (float("nan"),) * 5
    clock = (trainer.epoch, trainer.step, trainer.spent_s / 60, trainer.lr(), held)
    row = (*clock, *losses, *trainer.weights.weights(), *told)
    _append(out / "log.csv", row)
    print(" ".join(f"{name} {value:.4g}" for name, value in zip(LOG_FIELDS, row, strict=True)), flush=True)
    if tuned and tuned.score > trainer.best:
        trainer.best = tuned.score
        save_best(trainer, out, {f"tune_{name}": value for name, value in dataclasses.asdict(tuned).items()})
    trainer.tick()
    part = out / "last.part"
    torch.save(trainer.state(), part)
    part.rename(out / "last.pt")


def _append(path: Path, row: tuple[float, ...]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as stream:
        writer = csv.writer(stream)
        if new:
            writer.writerow(LOG_FIELDS)
        writer.writerow([f"{value:.6g}" for value in row])


def save_best(trainer: Trainer, out: Path, tuned: dict[str, float]) -> None:
    """The averaged weights and the facts a bundle needs."""
    save_file(
        {name: tensor.contiguous() for name, tensor in trainer.average.state_dict().items()}, out / "best.safetensors"
    )
    facts = {
        "statement": STATEMENT,
        "network": trainer.net.config.to_dict(),
        "grid": dataclasses.asdict(trainer.grid),
        "centre_offset_mm": (0.0, 0.0, 0.0),
        "training": {
            "steps": trainer.step,
            "epochs": trainer.epoch,
            "minutes": round(trainer.spent_s / 60, 1),
            **tuned,
        },
        "config": dataclasses.asdict(trainer.config),
    }
    (out / "best.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Train, or go on with a run whose ``last.pt`` is there."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    network = PRESETS[options.preset]
    grid = grid_of(network)
    config = TrainConfig(
        batch=options.batch,
        lr=options.lr,
        minutes=options.minutes,
        steps=options.steps,
        seed=options.seed,
        stage_from=options.stage_from,
        freeze_unet=options.freeze_unet,
        bf16=options.bf16,
        epoch_steps=options.epoch_steps,
        measure_every=options.measure_every,
    )
    folder = cache_folder(options.cache, grid)
    for cohort, count in (("train", options.cases), ("tune", options.tune_cases)):
        for _ in fill_cache(folder, cohort, range(count), grid):
            pass
    trainer = Trainer(network, grid, config)
    last = options.out / "last.pt"
    if last.exists():
        trainer.restore(torch.load(last, weights_only=True))
    elif options.start:
        trainer.start(load_file(options.start))
    run(trainer, Cases(folder, "train", grid), Cases(folder, "tune", grid), options.out)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model.train", description=__doc__)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="small")
    parser.add_argument("--out", type=Path, default=Path("runs/small"))
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    parser.add_argument("--cases", type=int, default=24, help="training phantoms to have before starting")
    parser.add_argument("--tune-cases", type=int, default=12)
    parser.add_argument("--minutes", type=float, default=TrainConfig.minutes)
    parser.add_argument("--steps", type=int, default=TrainConfig.steps)
    parser.add_argument("--batch", type=int, default=TrainConfig.batch)
    parser.add_argument("--lr", type=float, default=TrainConfig.lr)
    parser.add_argument("--seed", type=int, default=TrainConfig.seed)
    parser.add_argument("--stage-from", type=float, default=TrainConfig.stage_from)
    parser.add_argument("--start", type=Path, help="begin with these weights (best.safetensors of another run)")
    parser.add_argument("--bf16", action="store_true", help="mixed precision on processors that have it")
    parser.add_argument("--epoch-steps", type=int, default=TrainConfig.epoch_steps)
    parser.add_argument("--freeze-unet", action="store_true", help="teach staging only")
    parser.add_argument("--measure-every", type=int, default=TrainConfig.measure_every, help="epochs")
    parser.add_argument("--threads", type=int, default=1)
    return parser


if __name__ == "__main__":
    sys.exit(main())
