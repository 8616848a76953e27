"""One training run in memory: the joint objective, the optimiser and its schedule, what is kept to go on after a kill.

An epoch's windows follow from (seed, epoch) and a step's dropout from (seed, step), and the whole state is kept after
every epoch: a run that was killed and goes on ends with the same weights as one that was not.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from model import statistics
from model.data import Batch, Case, batches, centred, stack
from model.losses import LEVELS, WEIGHTS, SegmentationLoss, TaskWeights, invasion_loss, ordinal_loss, tissue_loss
from model.manifest import GridSpec
from model.network import Drawn, MultiTaskNet, NetworkConfig, Staged, build

TISSUE_SHARE: Final = 0.5
TOLD_SHARE: Final = 0.3
"""What the tissue categories weigh beside the map, and ordinal and invasion heads beside the stage ("plus")."""

FALSE_VOXELS: Final = 10
"""More than this drawn in a head without tumour is a false tumour."""


@dataclass(frozen=True)
class TrainConfig:
    """Everything that shapes a run beside the network. The defaults are the paper's (A16..A19).

    ``schedule`` "plateau" is ReduceLROnPlateau until the rate falls below ``least_lr`` or ``epochs`` are over; "cosine"
    warms up and falls over the budget of ``minutes`` or ``steps``, whichever ends first.
    """

    batch: int = 4
    lr: float = 2e-4
    schedule: str = "plateau"
    factor: float = 0.2
    patience: int = 15
    least_lr: float = 1e-6
    epochs: int = 300
    minutes: float = 1e9
    steps: int = 1_000_000_000
    epoch_steps: int = 1_000_000
    measure_every: int = 1
    warmup: float = 0.02
    decay: float = 0.0
    average: float = 0.99
    clip: float = 5.0
    weights: str = "uncertainty"
    weight_lr: float = 2e-3
    smooth: float = 10.0
    stage_from: float = 0.0
    """Share of the budget after which staging joins."""
    freeze_unet: bool = False
    """Teach staging only, with the U-Net as it is (Separate-training, stage 2)."""
    amp: bool = False
    """Forward and backward in bfloat16 where autocast deems it safe; losses and weights stay float32."""
    seed: int = 0


class Objective(nn.Module):
    """Network, losses and task weights as one module, so that DistributedDataParallel can wrap the whole."""

    def __init__(self, net: MultiTaskNet, config: TrainConfig) -> None:
        super().__init__()
        self.net = net
        self.segmentation = SegmentationLoss(config.smooth)
        self.weights: TaskWeights = WEIGHTS[config.weights]()
        self.amp = config.amp
        self.stage_only = config.freeze_unet

    def forward(self, batch: Batch, staging: bool) -> tuple[Tensor, Tensor]:
        """Weighed total and the task losses (segmentation, staging).

        Segmentation alone, (1,), before staging joins or where no window holds a whole tumour.
        """
        staging = staging and bool(batch.whole.any())
        with torch.autocast(batch.image.device.type, torch.bfloat16, enabled=self.amp):
            drawn = self.net.segment(batch.image)
            staged = self.net.stage(batch.image, drawn) if staging else None
        seg = self._map_loss(drawn, batch)
        losses = seg[None] if staged is None else torch.stack((seg, _stage_loss(staged, batch)))
        return losses[-1] if self.stage_only else self.weights(losses), losses.detach()

    def _map_loss(self, drawn: Drawn, batch: Batch) -> Tensor:
        loss: Tensor = self.segmentation(drawn.gtv.float(), batch.target)
        if drawn.levels is not None:
            told, gtv = batch.told, drawn.gtv.float()
            loss = loss + TISSUE_SHARE * tissue_loss(drawn.levels.float()[told], batch.levels[told], batch.target[told])
            loss = loss + invasion_loss(gtv[told], batch.levels[told], batch.target[told])
        return loss


def _stage_loss(staged: Staged, batch: Batch) -> Tensor:
    """Cross-entropy of the stage, and of what else the network tells, over windows that hold a whole tumour."""
    whole = batch.whole
    loss = functional.cross_entropy(staged.stage.float()[whole], batch.stage[whole])
    if staged.ordinal is not None:
        loss = loss + TOLD_SHARE * ordinal_loss(staged.ordinal.float()[whole], batch.stage[whole])
    if staged.invaded is not None:
        loss = loss + TOLD_SHARE * _invaded_loss(staged.invaded.float(), batch)
    return loss


def _invaded_loss(logits: Tensor, batch: Batch) -> Tensor:
    known = batch.whole & batch.told
    each = functional.binary_cross_entropy_with_logits(logits[known], batch.invaded[known], reduction="none")
    return each.sum() / max(1, each.numel())


class Trainer:
    """Network, its running average, loss weights, optimiser, schedule and clock; ``rank`` of ``world`` processes."""

    def __init__(
        self, network: NetworkConfig, grid: GridSpec, config: TrainConfig, *, device: str = "cpu", world: int = 1
    ) -> None:
        self.config = config
        self.grid = grid
        self.device = device
        self.net = build(network, config.seed).to(device)
        nn.utils.convert_conv3d_weight_memory_format(self.net, torch.channels_last_3d)  # a tenth quicker
        self.average = build(network, config.seed).to(device)
        self.net.unet.requires_grad_(not config.freeze_unet)
        self.objective = Objective(self.net, config).to(device)
        self.parallel: nn.Module = self.objective
        if world > 1:
            self.parallel = nn.parallel.DistributedDataParallel(self.objective, find_unused_parameters=True)
        self.optimiser = self._optimiser()
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimiser, factor=config.factor, patience=config.patience
        )
        self.step = self.epoch = 0
        self.spent_s = 0.0
        self.best = -np.inf
        self._ticked = time.monotonic()

    def _optimiser(self) -> torch.optim.Optimizer:
        config = self.config
        learned = [p for p in self.net.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [{"params": learned, "lr": config.lr, "weight_decay": config.decay}]
        if lambdas := list(self.objective.weights.parameters()):
            groups.append({"params": lambdas, "lr": config.weight_lr, "weight_decay": 0.0})
        return torch.optim.AdamW(groups)  # with decay 0 this is Adam

    @property
    def progress(self) -> float:
        """Share of the budget used, 0..1."""
        config = self.config
        used = (self.spent_s / (60 * config.minutes), self.step / config.steps, self.epoch / config.epochs)
        return min(1.0, max(used))

    @property
    def done(self) -> bool:
        """Whether the budget is used up or the rate has fallen below the least one (A18)."""
        return self.progress >= 1 or (self.config.schedule == "plateau" and self.lr() < self.config.least_lr)

    def lr(self) -> float:
        """Learning rate now."""
        if self.config.schedule == "plateau":
            return float(self.optimiser.param_groups[0]["lr"])
        return cosine(self.progress, self.config)

    def update(self, batch: Batch) -> tuple[float, float]:
        """One optimiser step; returns the two task losses."""
        torch.manual_seed(hash((self.config.seed, self.step)))
        self.optimiser.param_groups[0]["lr"] = self.lr()
        self.optimiser.zero_grad(set_to_none=True)
        staging = self.progress >= self.config.stage_from
        total, losses = self.parallel.train()(batch.to(self.device), staging)
        total.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), self.config.clip)
        self.optimiser.step()
        self._follow()
        self.step += 1
        seg, *stage = losses.tolist()
        return seg, stage[0] if stage else float("nan")

    def batches(self, cases: list[Case], rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """This epoch's batches of this process: every ``world``-th, as many for every process."""
        rng = np.random.default_rng((self.config.seed, self.epoch))
        held: list[Batch] = []
        for made, batch in enumerate(batches(cases, self.grid, rng, self.config.batch), start=1):
            held.append(batch)
            if len(held) == world:
                yield held[rank]
                held.clear()
            if made >= self.config.epoch_steps * world:
                return

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
            "weights": self.objective.weights.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "plateau": self.plateau.state_dict(),
            "clock": {"step": self.step, "epoch": self.epoch, "spent_s": self.spent_s, "best": float(self.best)},
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
        self.objective.weights.load_state_dict(state["weights"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.plateau.load_state_dict(state["plateau"])
        clock = state["clock"]
        self.step, self.epoch, self.spent_s = clock["step"], clock["epoch"], clock["spent_s"]
        self.best = clock["best"]


def cosine(done: float, config: TrainConfig) -> float:
    """Rate after the share ``done`` of the budget: linear warm-up, then a cosine down to one hundredth."""
    if done < config.warmup:
        return config.lr * (0.05 + 0.95 * done / config.warmup)
    fall = 0.5 * (1 + np.cos(np.pi * (done - config.warmup) / (1 - config.warmup)))
    return float(config.lr * (0.01 + 0.99 * fall))


# --- measuring --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tuned:
    """Averaged weights on the inner split: Dice, stage cross-entropy, accuracy, macro AUC, share of false tumours.

    ``deep3`` and ``deep4`` are the shares of the tumour voxels in T3 and T4 tissue that the map finds.
    """

    dice: float
    entropy: float
    accuracy: float
    auc: float
    false: float
    deep3: float = float("nan")
    deep4: float = float("nan")

    @property
    def loss(self) -> float:
        """What the plateau watches and the best weights have least of."""
        return 1 - self.dice + 0.15 * self.entropy


def measure(net: MultiTaskNet, cases: Sequence[Case], grid: GridSpec, *, amp: bool = False) -> Tuned:
    """The middle windows of all cases (model grid, no augmentation)."""
    net.eval()
    device = next(net.parameters()).device.type
    dice, false, told, truth = [], [], [], []
    found = torch.zeros(2, LEVELS)
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=amp):
        for case in cases:
            batch = stack([centred(case, grid)]).to(device)
            gtv, stage = net(batch.image)
            drawn = gtv > 0
            if case.stage < 0:
                false.append(float(drawn.sum() > FALSE_VOXELS))
                continue
            dice.append(2 * float((drawn * batch.target).sum()) / max(1.0, float(drawn.sum() + batch.target.sum())))
            found += _by_tissue(drawn, batch).cpu()
            told.append(torch.softmax(stage.float()[0], 0).cpu().numpy())
            truth.append(case.stage)
    deep3, deep4 = (found[0] / found[1])[3:].tolist()
    return replace(_tuned(dice, np.array(told), np.array(truth), false), deep3=deep3, deep4=deep4)


def _by_tissue(drawn: Tensor, batch: Batch) -> Tensor:
    """Tumour voxels by tissue category, those drawn and all -> (2, LEVELS)."""
    inside = batch.target > 0
    where = batch.levels[:, None]
    return torch.stack([torch.bincount(where[m], minlength=LEVELS).float() for m in (inside & drawn, inside)])


def _tuned(dice: list[float], told: NDArray[np.float64], truth: NDArray[np.intp], false: list[float]) -> Tuned:
    entropy = float(-np.log(told[np.arange(len(truth)), truth] + 1e-9).mean())
    accuracy, auc = statistics.accuracy(told, truth), statistics.auc_macro(told, truth)
    return Tuned(float(np.mean(dice)), entropy, accuracy, auc, float(np.mean(false)) if false else float("nan"))
