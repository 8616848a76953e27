"""Figures of a cohort and how sure they are: AUCs, calibration, bootstrap over patients. Arrays in, numbers out.

Conventions (A10, A11): AUCs are one-versus-rest; the headline is the micro average, whose four decisions per patient
belong together, so intervals resample patients, never decisions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

RESAMPLES: Final = 2000


def auc(positive: Floats, negative: Floats) -> float:
    """Share of pairs (positive, negative) in the right order, ties half; NaN when one side is empty."""
    if not len(positive) or not len(negative):
        return float("nan")
    ranks = rankdata(np.concatenate((positive, negative)))[: len(positive)]
    return float((ranks.sum() - len(positive) * (len(positive) + 1) / 2) / (len(positive) * len(negative)))


def auc_micro(probabilities: Floats, truth: Ints) -> float:
    """One AUC over the decisions of all patients and classes. (n, classes), (n,) -> number."""
    hot = np.eye(probabilities.shape[1], dtype=bool)[truth]
    return auc(probabilities[hot], probabilities[~hot])


def auc_each(probabilities: Floats, truth: Ints) -> list[float]:
    """AUC of every class against the rest; NaN for a class that is not there."""
    classes = range(probabilities.shape[1])
    return [auc(probabilities[truth == k, k], probabilities[truth != k, k]) for k in classes]


def auc_macro(probabilities: Floats, truth: Ints) -> float:
    """Mean of the AUCs of the classes that are there; NaN when all patients are of one."""
    known = [value for value in auc_each(probabilities, truth) if not np.isnan(value)]
    return sum(known) / len(known) if known else float("nan")


def accuracy(probabilities: Floats, truth: Ints) -> float:
    """Share of patients whose most likely class is right."""
    return float((probabilities.argmax(axis=1) == truth).mean())


def brier(probabilities: Floats, truth: Ints) -> float:
    """Mean squared distance of the probabilities from the truth, summed over classes (0 best, 2 worst)."""
    hot = np.eye(probabilities.shape[1])[truth]
    return float(((probabilities - hot) ** 2).sum(axis=1).mean())


def reliability(probabilities: Floats, truth: Ints, bins: int = 10) -> list[tuple[int, float, float]]:
    """(patients, mean confidence, share right) of every bin of the largest probability that holds a patient."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    held = [which == b for b in np.unique(which)]
    return [(int(at.sum()), float(confidence[at].mean()), float(right[at].mean())) for at in held]


def calibration_error(probabilities: Floats, truth: Ints, bins: int = 10) -> float:
    """Expected calibration error of the most likely class."""
    table = reliability(probabilities, truth, bins)
    return float(sum(n * abs(right - said) for n, said, right in table) / len(truth))


def confusion(probabilities: Floats, truth: Ints) -> list[list[int]]:
    """Counts, rows truth, columns prediction."""
    classes = probabilities.shape[1]
    table = np.zeros((classes, classes), dtype=int)
    np.add.at(table, (truth, probabilities.argmax(axis=1)), 1)
    return [[int(n) for n in row] for row in table]


def bootstrap(figure: Callable[[Ints], float], patients: int, *, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of ``figure(indices)`` over resampled patients; one without a value is left out."""
    rng = np.random.default_rng(seed)
    drawn = [figure(rng.integers(0, patients, patients)) for _ in range(RESAMPLES)]
    low, high = np.nanpercentile(drawn, (2.5, 97.5))
    return float(low), float(high)


def result_line(figures: Mapping[str, float]) -> str:
    """``RESULT {json}``, the last line of a measuring command: flat, numbers only, NaN as null.

    Raises ``TypeError`` for anything that is no number.
    """
    strange = [key for key, value in figures.items() if isinstance(value, bool) or not isinstance(value, int | float)]
    if strange:
        raise TypeError(f"no numbers: {', '.join(strange)}")
    told = {key: _short(value) for key, value in figures.items()}
    return f"RESULT {json.dumps(told, allow_nan=False)}"


def _short(value: float) -> float | None:
    if isinstance(value, int):
        return value
    return round(float(value), 6) if np.isfinite(value) else None
