"""Measure a bundle on unseen native phantoms through its own door, and fit the stage temperature on the tune cohort.

    python -m model.evaluate FOLDER --cohort eval --count 60 --tune 40 --out runs/metrics.json

Dice and average surface distance are taken on the native grid in mm (A27); an empty prediction counts as Dice 0 and is
listed, its distance is left out. AUCs are one-versus-rest, micro (headline, A10) and macro.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import minimize_scalar
from scipy.stats import mannwhitneyu
from sklearn.metrics import roc_auc_score

from model.bundle import Bundle, default_bundle, dice_of
from model.labels import STAGES
from model.phantom import Phantom, make_case

Floats = NDArray[np.float64]

MISS: Final = 0.1
"""Below this Dice the tumour was missed."""


@dataclass(frozen=True)
class Row:
    """One evaluated phantom."""

    cohort: str
    index: int
    stage: str
    truth_cc: float
    drawn_cc: float
    dice: float
    asd_mm: float
    dropped_cc: float
    probabilities: tuple[float, float, float, float]


def surface_distance_mm(a: NDArray[np.bool_], b: NDArray[np.bool_], spacing_mm: tuple[float, float, float]) -> float:
    """Average distance of both surfaces' voxels to the other surface (A27); NaN when one mask is empty."""
    if not a.any() or not b.any():
        return float("nan")
    box = _box(a | b)
    one, other = _surface(a[box]), _surface(b[box])
    there = ndimage.distance_transform_edt(~other, sampling=spacing_mm)[one]
    back = ndimage.distance_transform_edt(~one, sampling=spacing_mm)[other]
    return float(np.concatenate((there, back)).mean())


def _surface(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Voxels of a mask with a face on its outside; the array's border counts as outside."""
    inner: NDArray[np.bool_] = ndimage.binary_erosion(mask)
    return mask & ~inner


def _box(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """Bounding box with one voxel around it."""
    spans = (np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3))
    return tuple(slice(max(0, int(s[0]) - 1), int(s[-1]) + 2) for s in spans)


def measure_case(bundle: Bundle, phantom: Phantom) -> Row:
    """One phantom through the door."""
    prediction = bundle.predict(phantom.voxels.astype(np.float32), phantom.affine)
    voxel_cc = float(np.prod(phantom.spacing_mm)) / 1000
    return Row(
        cohort=phantom.cohort,
        index=phantom.index,
        stage=phantom.stage,
        truth_cc=phantom.volume_cc,
        drawn_cc=float(prediction.mask.sum()) * voxel_cc,
        dice=dice_of(prediction.mask, phantom.mask),
        asd_mm=surface_distance_mm(prediction.mask, phantom.mask, phantom.spacing_mm),
        dropped_cc=prediction.dropped_cc,
        probabilities=prediction.stage_probabilities,
    )


def measure(bundle: Bundle, cohort: str, indices: Iterable[int]) -> Iterator[Row]:
    """Every phantom of a cohort in turn."""
    for index in indices:
        yield measure_case(bundle, make_case(cohort, index))


# --- staging ----------------------------------------------------------------------------------------------------


def logits_of(rows: list[Row], temperature: float) -> Floats:
    """(cases, 4) uncalibrated logits, up to a constant per case."""
    probabilities = np.array([row.probabilities for row in rows])
    return np.asarray(np.log(np.maximum(probabilities, 1e-12)) * temperature)


def softmax(logits: Floats, temperature: float) -> Floats:
    """(cases, 4) probabilities."""
    scaled = logits / temperature
    shares = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def fit_temperature(logits: Floats, truth: NDArray[np.intp]) -> float:
    """The temperature of least cross-entropy, searched between 0.2 and 10."""

    def entropy(log_t: float) -> float:
        chosen = softmax(logits, float(np.exp(log_t)))[np.arange(len(truth)), truth]
        return float(-np.log(np.maximum(chosen, 1e-12)).mean())

    found = minimize_scalar(entropy, bounds=(np.log(0.2), np.log(10.0)), method="bounded")
    return float(np.exp(found.x))


def calibration_error(probabilities: Floats, truth: NDArray[np.intp], bins: int = 10) -> float:
    """Expected calibration error of the most likely stage."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        abs(right[which == b].mean() - confidence[which == b].mean()) * (which == b).mean() for b in np.unique(which)
    ]
    return float(sum(gaps))


def truth_of(rows: list[Row]) -> NDArray[np.intp]:
    """(cases,) stage as 0..3."""
    return np.array([STAGES.index(row.stage) for row in rows])


def staging_figures(probabilities: Floats, truth: NDArray[np.intp]) -> dict[str, Any]:
    """Accuracy, AUCs, calibration and the confusion table (rows truth, columns prediction)."""
    hot = np.eye(len(STAGES))[truth]
    chosen = probabilities.argmax(axis=1)
    present = [k for k in range(len(STAGES)) if 0 < hot[:, k].sum() < len(truth)]
    each = {STAGES[k]: float(roc_auc_score(hot[:, k], probabilities[:, k])) for k in present}
    table = np.zeros((len(STAGES), len(STAGES)), dtype=int)
    np.add.at(table, (truth, chosen), 1)
    return {
        "stage_accuracy": float((chosen == truth).mean()),
        "stage_majority_share": float(np.bincount(truth).max() / len(truth)),
        "auc_micro": float(roc_auc_score(hot.ravel(), probabilities.ravel())),
        "auc_macro": float(np.mean(list(each.values()))),
        "auc_by_stage": {name: round(value, 3) for name, value in each.items()},
        "auc_early_advanced": float(roc_auc_score(truth >= 2, probabilities[:, 2:].sum(axis=1))),
        "calibration_error": calibration_error(probabilities, truth),
        "confusion": table.tolist(),
    }


# --- segmentation -----------------------------------------------------------------------------------------------


def segmentation_figures(rows: list[Row]) -> dict[str, Any]:
    """Dice, surface distance and misses."""
    dice = np.array([row.dice for row in rows])
    distance = np.array([row.asd_mm for row in rows])
    early, advanced = (dice[[row.stage in group for row in rows]] for group in (STAGES[:2], STAGES[2:]))
    quarter, three_quarters = (float(q) for q in np.percentile(dice, (25, 75)))
    figures: dict[str, Any] = {
        "n": len(rows),
        "dice_median": float(np.median(dice)),
        "dice_mean": float(dice.mean()),
        "dice_iqr": [round(quarter, 3), round(three_quarters, 3)],
        "dice_least": float(dice.min()),
        "asd_mm_median": float(np.nanmedian(distance)),
        "empty": int(sum(row.drawn_cc == 0 for row in rows)),
        "missed": [row.index for row in rows if row.dice < MISS],
        "dice_median_by_stage": {s: _median([row.dice for row in rows if row.stage == s]) for s in STAGES},
    }
    if early.size and advanced.size:
        figures["dice_early_advanced_p"] = float(mannwhitneyu(early, advanced).pvalue)
    return figures


def _median(values: list[float]) -> float | None:
    return round(float(np.median(values)), 3) if values else None


def evaluate(bundle: Bundle, cohort: str, indices: range, tune: int) -> tuple[dict[str, Any], list[Row]]:
    """Figures of a cohort; with ``tune`` cases the temperature is fitted first, on the tune cohort."""
    temperature = bundle.manifest.temperature
    figures: dict[str, Any] = {"cohort": cohort, "first": indices.start}
    if tune:
        tuned = list(measure(bundle, "tune", range(tune)))
        temperature = fit_temperature(logits_of(tuned, bundle.manifest.temperature), truth_of(tuned))
        figures["temperature"] = temperature
        figures["tune_n"] = tune
    rows = list(measure(bundle, cohort, indices))
    probabilities = softmax(logits_of(rows, bundle.manifest.temperature), temperature)
    return {**figures, **segmentation_figures(rows), **staging_figures(probabilities, truth_of(rows))}, rows


def main(arguments: list[str] | None = None) -> int:
    """Evaluate a bundle folder."""
    parser = argparse.ArgumentParser(prog="python -m model.evaluate", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=default_bundle())
    parser.add_argument("--cohort", default="eval")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--tune", type=int, default=0, help="fit the temperature on this many tune phantoms first")
    parser.add_argument("--out", type=Path, help="write the figures here as JSON")
    parser.add_argument("--rows", type=Path, help="write one line per phantom here as JSON lines")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    bundle = Bundle.open(options.folder, threads=options.threads)
    figures, rows = evaluate(bundle, options.cohort, range(options.first, options.first + options.count), options.tune)
    text = json.dumps(figures, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    if options.rows:
        options.rows.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
