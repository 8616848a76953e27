"""Guards of the generator: what must not give the stage or the tumour away without reading the image (plan 6.3).

    python -m model.phantom.guards --count 400      # the figures of docs/phantom.md; minutes of one core

A network that stages by size alone, or by where the true mask lies, would look able and have read nothing. The guards
measure such shortcuts with plain classifiers, and the floors below are asserted in the tests.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.stats import mannwhitneyu

from model.labels import STAGES
from model.phantom import draw_anatomy, make_case, small_profile, stack_centre_mm
from model.phantom.anatomy import STEP_MM, world_axes

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

VOLUME_AUC: Final = 0.80
"""Largest AUC of early against advanced from the tumour's volume alone."""

SHAPE_AUC: Final = 0.88
"""Largest macro AUC of the four stages from shape and position of the true mask."""

THRESHOLD_DICE: Final = 0.5
"""Largest median Dice of the best threshold, chosen per case with the truth at hand."""


@dataclass(frozen=True)
class Shape:
    """One true mask without its image: stage, volume in cc and 14 features of shape and position in the image."""

    stage: int
    volume_cc: float
    features: Floats


def shape_of(cohort: str, index: int, stage: str | None = None) -> Shape:
    """Shape and position of one true mask, as seen from the middle of the image that a scanner would take of it."""
    _, tumour = draw_anatomy(cohort, index, stage=stage)
    centre = np.asarray(stack_centre_mm(cohort, index))[::-1]
    where = np.argwhere(tumour.mask)
    axes = world_axes()
    points = np.stack([axis[w] for axis, w in zip(axes, where.T, strict=True)], axis=1) - centre
    points[:, 2] *= 1.0 if points[:, 2].mean() >= 0 else -1.0  # sides are alike
    volume = float(len(where) * np.prod(STEP_MM) / 1000)
    return Shape(STAGES.index(tumour.stage), volume, _features(points, volume, tumour.mask))


def _features(points: Floats, volume: float, mask: Mask) -> Floats:
    low, high = np.quantile(points, (0.01, 0.99), axis=0)
    spread = np.sqrt(np.maximum(np.linalg.eigvalsh(np.cov(points.T)), 1e-6))
    surface = float((mask & ~ndimage.binary_erosion(mask)).sum())
    ball = 36 * np.pi * volume**2
    return np.array([np.log(volume), *points.mean(axis=0), *low, *high, *spread, surface**3 / ball * 1e-9])


def volume_auc(shapes: Iterable[Shape]) -> float:
    """AUC of early (T1-2) against advanced (T3-4) from the volume alone."""
    held = list(shapes)
    early = [s.volume_cc for s in held if s.stage < 2]
    advanced = [s.volume_cc for s in held if s.stage >= 2]
    return float(mannwhitneyu(advanced, early).statistic / (len(early) * len(advanced)))


def shape_auc(shapes: Iterable[Shape]) -> float:
    """Macro AUC of a logistic classifier on the 14 features, five-fold cross-validated."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    held = list(shapes)
    truth = np.array([s.stage for s in held])
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    said = cross_val_predict(model, np.array([s.features for s in held]), truth, cv=folds, method="predict_proba")
    return float(roc_auc_score(truth, said, multi_class="ovr", average="macro"))


def threshold_dice(cohort: str, index: int) -> float:
    """Best Dice that any threshold, upwards or downwards, reaches within 60 mm of the true tumour of one image."""
    phantom = make_case(cohort, index, profile=small_profile())
    near = _near(phantom.mask, phantom.spacing_mm)
    voxels, mask = phantom.voxels[near].ravel(), phantom.mask[near].ravel()
    order = np.argsort(voxels, kind="stable")
    return max(_best_dice(mask[order]), _best_dice(mask[order[::-1]]))


def _best_dice(sorted_mask: Mask) -> float:
    hit = np.cumsum(sorted_mask)
    return float((2 * hit / (np.arange(1, len(hit) + 1) + hit[-1])).max())


def _near(mask: Mask, spacing_mm: tuple[float, float, float]) -> tuple[slice, ...]:
    centre = ndimage.center_of_mass(mask)
    reach = [60 / mm for mm in spacing_mm]
    return tuple(slice(max(0, int(c - r)), int(c + r) + 1) for c, r in zip(centre, reach, strict=True))


def main(arguments: list[str] | None = None) -> int:
    """Measure the guards and print them as JSON; 1 when one fails."""
    parser = argparse.ArgumentParser(prog="python -m model.phantom.guards", description=main.__doc__)
    parser.add_argument("--cohort", default="guard")
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--images", type=int, default=40)
    options = parser.parse_args(arguments)
    shapes = [shape_of(options.cohort, index) for index in range(options.count)]
    dice = float(np.median([threshold_dice(options.cohort, index) for index in range(options.images)]))
    figures = {
        "n": len(shapes),
        "volume_auc": volume_auc(shapes),
        "shape_auc": shape_auc(shapes),
        "threshold_dice": dice,
    }
    print(json.dumps(figures, indent=2))
    kept = figures["volume_auc"] <= VOLUME_AUC and figures["shape_auc"] <= SHAPE_AUC and dice <= THRESHOLD_DICE
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
