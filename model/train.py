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
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from model.data import CLOSE_SHARE, Batch, Case, Cases, batches, cache_folder, centred, fill_cache, stack
from model.labels import STATEMENT
from model.losses import SegmentationLoss, UncertaintyWeights
from model.manifest import GridSpec
from model.network import PRESETS, MultiTaskNet, NetworkConfig, build

LOG_FIELDS: Final = ("epoch", "step", "minutes", "lr", "cases", "jaccard_focal", "stage_ce", "lambda_seg",
                     "lambda_stage", "tune_dice", "tune_ce", "tune_acc")  # fmt: skip


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
    """Teach staging only, on second looks, with the U-Net as it is."""


class Trainer:
    """One run: network, its running average, loss weights, optimiser, clock."""

    def __init__(self, network: NetworkConfig, grid: GridSpec, config: TrainConfig) -> None:
        self.config = config
        self.grid = grid
        self.net = build(network, config.seed)
        self.average = build(network, config.seed)
        self.segmentation = SegmentationLoss()
        self.weights = UncertaintyWeights()
        if config.freeze_unet:
            self.net.unet.requires_grad_(False)
        self.optimiser = torch.optim.Adam(
            [
                {"params": [p for p in self.net.parameters() if p.requires_grad], "lr": config.lr},
                {"params": list(self.weights.parameters()), "lr": config.weight_lr},
            ]
        )
        self.step = 0
        self.epoch = 0
        self.spent_s = 0.0
        self.best = -1.0

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
        began = time.monotonic()
        self.optimiser.param_groups[0]["lr"] = self.lr()
        self.optimiser.zero_grad(set_to_none=True)
        losses = self.losses(self.net.train(), batch)
        total = losses[-1] if self.config.freeze_unet else self.weights(losses)
        total.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), self.config.clip)
        self.optimiser.step()
        self._follow()
        self.step += 1
        self.spent_s += time.monotonic() - began
        seg, *stage = losses.detach().tolist()
        return seg, stage[0] if stage else float("nan")

    def losses(self, net: MultiTaskNet, batch: Batch) -> Tensor:
        """(segmentation, staging) of one batch; windows that may cut the tumour teach no stage.

        Segmentation alone, (1,), before staging joins or where the batch holds no second look.
        """
        gtv, shared = net.segment(batch.image)
        drawn: Tensor = self.segmentation(gtv, batch.target)
        close = batch.close
        if self.progress < self.config.stage_from or not close.any():
            return drawn[None]
        e7, e8, d1 = (feature[close] for feature in shared)
        stage = net.stage(batch.image[close], gtv[close], (e7, e8, d1))
        return torch.stack((drawn, functional.cross_entropy(stage, batch.stage[close])))

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
        """Begin with the weights of another run, all or those of a part, on a fresh clock."""
        for net in (self.net, self.average):
            net.load_state_dict({**net.state_dict(), **weights})

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state`."""
        self.net.load_state_dict(state["net"])
        self.average.load_state_dict(state["average"])
        self.weights.load_state_dict(state["weights"])
        self.optimiser.load_state_dict(state["optimiser"])
        clock = state["clock"]
        self.step, self.epoch, self.spent_s = clock["step"], clock["epoch"], clock["spent_s"]
        self.best = clock["best"]


def measure(net: MultiTaskNet, cases: list[Case], grid: GridSpec) -> tuple[float, float, float]:
    """Mean Dice, stage cross-entropy and accuracy on the middle windows (model grid, no augmentation)."""
    net.eval()
    rows = []
    with torch.inference_mode():
        for case in cases:
            batch = stack([centred(case, grid)])
            gtv, stage = net(batch.image)
            drawn = gtv > 0
            dice = 2 * float((drawn * batch.target).sum()) / max(1.0, float(drawn.sum() + batch.target.sum()))
            log_p = torch.log_softmax(stage, 1)[0]
            rows.append((dice, -float(log_p[case.stage]), float(int(log_p.argmax()) == case.stage)))
    dice, entropy, accuracy = (float(value) for value in np.mean(rows, axis=0))
    return dice, entropy, accuracy


def run(trainer: Trainer, train: Cases, tune: Cases, out: Path) -> None:
    """Epochs until the budget is spent."""
    out.mkdir(parents=True, exist_ok=True)
    while trainer.progress < 1:
        held = train.refresh()
        if held < trainer.config.batch or not tune.refresh():
            raise SystemExit(f"no cases for training in {train.folder}: run python -m model.data first")
        rng = np.random.default_rng((trainer.config.seed, trainer.epoch))
        losses = []
        share = 1.0 if trainer.config.freeze_unet else CLOSE_SHARE
        for batch in batches(train.all(), trainer.grid, rng, trainer.config.batch, share):
            losses.append(trainer.update(batch))
            if trainer.progress >= 1 or len(losses) == trainer.config.epoch_steps:
                break
        trainer.epoch += 1
        _report(trainer, _mean(losses), held, tune.all(), out)


def _mean(losses: list[tuple[float, float]]) -> tuple[float, float]:
    """Mean task losses of an epoch; NaN where staging never took part."""
    seg, stage = np.array(losses).T
    known = stage[np.isfinite(stage)]
    return float(seg.mean()), float(known.mean()) if known.size else float("nan")


def _report(trainer: Trainer, losses: Any, held: int, tune: list[Case], out: Path) -> None:
    dice, entropy, accuracy = measure(trainer.average, tune, trainer.grid)
    lambdas = trainer.weights.weights()
    row = (
        trainer.epoch,
        trainer.step,
        trainer.spent_s / 60,
        trainer.lr(),
        held,
        *losses,
        *lambdas,
        dice,
        entropy,
        accuracy,
    )
    _append(out / "log.csv", row)
    print(" ".join(f"{name} {value:.4g}" for name, value in zip(LOG_FIELDS, row, strict=True)), flush=True)
    score = dice - 0.15 * entropy
    if score > trainer.best:
        trainer.best = score
        save_best(trainer, out, {"tune_dice": dice, "tune_stage_ce": entropy, "tune_stage_acc": accuracy})
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


def grid_of(network: NetworkConfig) -> GridSpec:
    """The window over the paper's field (105 mm in-plane, 6 mm slices) on the network's own grid."""
    side = network.grid[1]
    oversample = max(1, round(224 / side))
    millimetres = 0.46875 * oversample
    return GridSpec(network.grid, (6.0, millimetres, millimetres), oversample)


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
    parser.add_argument("--freeze-unet", action="store_true", help="teach staging only")
    parser.add_argument("--threads", type=int, default=1)
    return parser


if __name__ == "__main__":
    sys.exit(main())
