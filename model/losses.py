"""Soft Jaccard + focal for the map, cross-entropy for the stage, and weights that learn without running away."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import torch
from monai.losses.dice import DiceLoss
from monai.losses.focal_loss import FocalLoss
from torch import Tensor, nn
from torch.nn import functional

LOG_WEIGHT_LIMIT: Final = 3.0
LEAST_WEIGHT: Final = 0.1


class SegmentationLoss(nn.Module):
    """Soft Jaccard on the sigmoid plus focal loss with gamma 2, one to one (A17).

    ``smooth`` voxels are added above and below: in a window without tumour they decide from where on less is better.
    """

    def __init__(self, smooth: float = 1.0) -> None:
        super().__init__()
        self.jaccard = DiceLoss(sigmoid=True, jaccard=True, smooth_nr=smooth, smooth_dr=smooth)
        self.focal = FocalLoss(gamma=2.0)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """(b, 1, z, y, x) logits and 0..1 target -> scalar."""
        loss: Tensor = self.jaccard(logits, target) + self.focal(logits, target)
        return loss


LEVELS: Final = 5
"""Tissue categories: no tumour grows in 0; 1..4 give that T category once invaded."""


def tissue_loss(logits: Tensor, levels: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of the tissue category over the window plus, as dear, under the tumour, every category alike.

    (b, 5, z, y, x) logits, (b, z, y, x) categories, (b, 1, z, y, x) tumour -> scalar; zero for an empty batch.
    """
    each = functional.cross_entropy(logits, levels, reduction="none")
    inside = target[:, 0] > 0
    counts = torch.bincount(levels[inside], minlength=LEVELS)
    sums = each.new_zeros(LEVELS).scatter_add(0, levels[inside], each[inside])
    under = (sums / counts.clamp(min=1)).sum() / (counts > 0).sum().clamp(min=1)
    return each.sum() / max(1, each.numel()) + under


def invasion_loss(logits: Tensor, levels: Tensor, target: Tensor, smooth: float = 5.0) -> Tensor:
    """Soft Jaccard and cross-entropy of the map within the tissue of every category T1..T4, all four counting alike.

    A tongue into bone is a hundredth of a tumour's volume and decides its stage: the plain Jaccard hardly misses it,
    and where the map is sure of nothing its gradient vanishes. The cross-entropy does not: its tumour voxels count
    together as one, and so do ``FALSE_VOXELS_AS_DEAR`` false ones, however many voxels of that tissue there are.
    (b, 1, z, y, x) logits, (b, z, y, x) categories, (b, 1, z, y, x) tumour -> scalar; zero for an empty batch.
    """
    flat, raw, truth = levels.flatten(1), logits.flatten(1), target.flatten(1)
    drawn = torch.sigmoid(raw)
    wrong = functional.binary_cross_entropy_with_logits(raw, truth, reduction="none")
    parts = (drawn * truth, drawn, truth, wrong * truth, wrong * (1 - truth))
    shared, said, there, missed, invented = (_by_level(values, flat) for values in parts)
    overlap = (shared + smooth) / (said + there - shared + smooth)
    loss = (1 - overlap) + missed / (there + LEAST_VOXELS) + invented / (there + FALSE_VOXELS_AS_DEAR)
    return loss.sum() / max(1, loss.numel())


LEAST_VOXELS: Final = 5.0
FALSE_VOXELS_AS_DEAR: Final = 250.0
"""Tumour voxels that a category is held to have at least, when what is missed in it and what is invented is counted."""


def _by_level(values: Tensor, levels: Tensor) -> Tensor:
    """(b, voxels) summed by category -> (b, 4)."""
    return values.new_zeros(len(values), LEVELS).scatter_add(1, levels, values)[:, 1:]


def ordinal_loss(logits: Tensor, stage: Tensor) -> Tensor:
    """(b, 3) logits of "at least T2, T3, T4" and stages 0..3 -> scalar."""
    above = (stage[:, None] > torch.arange(logits.shape[1], device=stage.device)).to(logits.dtype)
    return functional.binary_cross_entropy_with_logits(logits, above)


class UncertaintyWeights(nn.Module):
    """lambda_i = exp(-s_i), s_i learned from 0; the term +s_i keeps lambda from collapsing to nothing (A16).

    The paper's literal lambda * L has the gradient L > 0 in lambda: it falls through zero and the loss is maximised.
    """

    def __init__(self, tasks: int = 2) -> None:
        super().__init__()
        self.s = nn.Parameter(torch.zeros(tasks))

    def forward(self, losses: Tensor) -> Tensor:
        """(tasks,) -> sum of exp(-s) L + s; a shorter vector holds the first tasks only."""
        s = self.s[: len(losses)].clamp(-LOG_WEIGHT_LIMIT, LOG_WEIGHT_LIMIT)
        return (torch.exp(-s) * losses + s).sum()

    def weights(self) -> list[float]:
        """The lambdas now."""
        return torch.exp(-self.s.detach().clamp(-LOG_WEIGHT_LIMIT, LOG_WEIGHT_LIMIT)).tolist()


class FixedWeights(nn.Module):
    """Every task weighs one, always."""

    def __init__(self, tasks: int = 2) -> None:
        super().__init__()
        self.tasks = tasks

    def forward(self, losses: Tensor) -> Tensor:
        """(tasks,) -> their sum."""
        return losses.sum()

    def weights(self) -> list[float]:
        """The lambdas now."""
        return [1.0] * self.tasks


class LiteralWeights(nn.Module):
    """The paper to the letter: lambda_i L_i with lambda_i learned from 1. Kept to show why not (A16).

    Its gradient in lambda is L > 0, so lambda falls through zero and from then on the task loss is maximised.
    """

    def __init__(self, tasks: int = 2) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.ones(tasks))

    def forward(self, losses: Tensor) -> Tensor:
        """(tasks,) -> sum of lambda L; a shorter vector holds the first tasks only."""
        return (self.raw[: len(losses)] * losses).sum()

    def weights(self) -> list[float]:
        """The lambdas now."""
        return [float(value) for value in self.raw.detach()]


class RenormalisedWeights(LiteralWeights):
    """Literal lambdas that cannot run away: at least ``LEAST_WEIGHT`` each, together the number of tasks (A16)."""

    def forward(self, losses: Tensor) -> Tensor:
        """(tasks,) -> sum of lambda L; a shorter vector holds the first tasks only."""
        return (self._shares()[: len(losses)] * losses).sum()

    def weights(self) -> list[float]:
        """The lambdas now."""
        return [float(value) for value in self._shares().detach()]

    def _shares(self) -> Tensor:
        kept = self.raw.clamp(min=1e-3)
        return LEAST_WEIGHT + len(kept) * (1 - LEAST_WEIGHT) * kept / kept.sum()


TaskWeights = UncertaintyWeights | FixedWeights | LiteralWeights

WEIGHTS: Final[Mapping[str, Callable[[], TaskWeights]]] = {
    "uncertainty": UncertaintyWeights,
    "fixed": FixedWeights,
    "renormalised": RenormalisedWeights,
    "literal": LiteralWeights,
}
"""How the two task losses are weighed, by name; "uncertainty" is the filling of A16."""
