"""Measure a bundle on unseen native phantoms through its own door: `make evaluate`.

    python -m model.evaluate FOLDER --count 400 --seed 1 --out runs/metrics.json
    python -m model.evaluate FOLDER --tune 108 --out runs/metrics.json      # also calibrates the stage

``--seed`` draws a fresh external cohort; no seed is met in training or tuning. Dice and average surface distance are
taken on the native grid in mm (A27); an empty prediction counts as Dice 0 and is listed, its distance is left out.
Intervals resample patients (A10). What a programme should read is the last line, ``RESULT {json}``, numbers only.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import minimize
from scipy.stats import mannwhitneyu

from model import statistics
from model.bundle import Bundle, default_bundle, dice_of, expected_offset, read_manifest
from model.engine import ENGINES
from model.labels import NO_TUMOUR, PAPER_STAGE_COUNTS, STAGES
from model.phantom import Phantom
from model.phantom.cohorts import Member, external_cohort, free_cohort

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

MISS: Final = 0.1
"""Below this Dice the tumour was missed."""


@dataclass(frozen=True)
class Row:
    """One evaluated phantom. Without tumour Dice is 1 for an empty answer and 0 for any other."""

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


# --- cases ------------------------------------------------------------------------------------------------------


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


_opened: Bundle | None = None


def _open(folder: Path, engine: str) -> None:
    """In a worker: open the bundle once, on one thread."""
    global _opened
    _opened = Bundle.open(folder, threads=1, engine=engine)


def _measure_member(member: Member) -> Row:
    if _opened is None:
        raise RuntimeError("a worker measures before its bundle is open")
    return measure_case(_opened, member.make())


def measure(folder: Path, members: Sequence[Member], jobs: int = 1, engine: str = "torch") -> Iterator[Row]:
    """Every member in turn, in order, by ``jobs`` processes of one thread each."""
    context = get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_open, initargs=(folder, engine)) as pool:
        for done, row in enumerate(pool.map(_measure_member, members, chunksize=2), start=1):
            if done % 20 == 0 or done == len(members):
                print(f"{done}/{len(members)} {row.cohort}", file=sys.stderr, flush=True)
            yield row


# --- staging ----------------------------------------------------------------------------------------------------


NO_OFFSET: Final[Floats] = np.zeros(len(STAGES))


def logits_of(probabilities: Floats, temperature: float, offset: Floats = NO_OFFSET) -> Floats:
    """(cases, 4) uncalibrated logits, up to a constant per case."""
    return np.asarray((np.log(np.maximum(probabilities, 1e-12)) - offset) * temperature)


def softmax(logits: Floats, temperature: float, offset: Floats = NO_OFFSET) -> Floats:
    """(cases, 4) probabilities."""
    scaled = logits / temperature + offset
    shares = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def fit_calibration(logits: Floats, truth: Ints, prior: Floats = NO_OFFSET) -> tuple[float, Floats]:
    """Temperature and offset of least cross-entropy; the offset is held near ``prior`` as by ``PRIOR_CASES`` cases.

    The prior is how common the stages are in the population expected, against balanced training. A handful of cases
    can move it, so it learns what the network itself favours. Temperature between 0.2 and 10, offset up to a constant.
    """

    def loss(knobs: Floats) -> float:
        temperature, offset = _opened_up(knobs, prior)
        chosen = softmax(logits, temperature, offset)[np.arange(len(truth)), truth]
        held = PRIOR_CASES * float((knobs[1:] ** 2).sum()) / len(truth)
        return float(-np.log(np.maximum(chosen, 1e-12)).mean()) + held

    free = len(prior) - 1
    bounds = [(np.log(0.2), np.log(10.0)), *[(-3.0, 3.0)] * free]
    found = minimize(loss, np.zeros(1 + free), bounds=bounds, method="L-BFGS-B")
    return _opened_up(found.x, prior)


PRIOR_CASES: Final = 1.0


def _opened_up(knobs: Floats, prior: Floats) -> tuple[float, Floats]:
    """log T and all moves of the offset but the last, which makes their sum zero."""
    moves = np.append(knobs[1:], -knobs[1:].sum())
    return float(np.exp(knobs[0])), prior + moves


def told(rows: Sequence[Row]) -> tuple[Floats, Ints]:
    """(cases, 4) probabilities and (cases,) truth as 0..3."""
    return np.array([row.probabilities for row in rows]), np.array([STAGES.index(row.stage) for row in rows])


def staging_figures(probabilities: Floats, truth: Ints) -> dict[str, Any]:
    """Accuracy, AUCs, calibration and the confusion table (rows truth, columns prediction)."""
    each = statistics.auc_each(probabilities, truth)
    late = truth >= 2
    advanced = probabilities[:, 2:].sum(axis=1)
    return {
        "acc": statistics.accuracy(probabilities, truth),
        "majority_share": float(np.bincount(truth).max() / len(truth)),
        "auc_micro": statistics.auc_micro(probabilities, truth),
        "auc_macro": statistics.auc_macro(probabilities, truth),
        "auc_by_stage": {name: round(value, 3) for name, value in zip(STAGES, each, strict=True)},
        "auc_early_advanced": statistics.auc(advanced[late], advanced[~late]),
        "brier": statistics.brier(probabilities, truth),
        "ece": statistics.calibration_error(probabilities, truth),
        "reliability": [[n, round(c, 3), round(r, 3)] for n, c, r in statistics.reliability(probabilities, truth)],
        "confusion": statistics.confusion(probabilities, truth),
    }


# --- segmentation -----------------------------------------------------------------------------------------------


def segmentation_figures(rows: Sequence[Row]) -> dict[str, Any]:
    """Dice, surface distance and misses."""
    dice = np.array([row.dice for row in rows])
    distance = np.array([row.asd_mm for row in rows])
    early, advanced = (dice[[row.stage in group for row in rows]] for group in (STAGES[:2], STAGES[2:]))
    figures: dict[str, Any] = {
        "n": len(rows),
        "dsc_median": float(np.median(dice)),
        "dsc_mean": float(dice.mean()),
        "dsc_quartiles": [round(float(q), 3) for q in np.percentile(dice, (25, 75))],
        "dsc_least": float(dice.min()),
        "asd_median": float(np.nanmedian(distance)),
        "empty": int(sum(row.drawn_cc == 0 for row in rows)),
        "missed": [row.index for row in rows if row.dice < MISS],
        "dsc_median_by_stage": {s: _median([row.dice for row in rows if row.stage == s]) for s in STAGES},
    }
    if early.size and advanced.size:
        figures["dsc_early_advanced_p"] = float(mannwhitneyu(early, advanced).pvalue)
    return figures


def _median(values: list[float]) -> float | None:
    return round(float(np.median(values)), 3) if values else None


def bounds(rows: Sequence[Row]) -> dict[str, float]:
    """95 % patient-bootstrap bounds of the headline figures, as ``KEY_low`` and ``KEY_high``."""
    probabilities, truth = told(rows)
    dice = np.array([row.dice for row in rows])
    distance = np.array([row.asd_mm for row in rows])
    figures: dict[str, Callable[[Ints], float]] = {
        "dsc_median": lambda at: float(np.median(dice[at])),
        "asd_median": lambda at: float(np.nanmedian(distance[at])),
        "auc_micro": lambda at: statistics.auc_micro(probabilities[at], truth[at]),
        "auc_macro": lambda at: statistics.auc_macro(probabilities[at], truth[at]),
        "acc": lambda at: statistics.accuracy(probabilities[at], truth[at]),
    }
    found: dict[str, float] = {}
    for name, figure in figures.items():
        found[f"{name}_low"], found[f"{name}_high"] = statistics.bootstrap(figure, len(rows))
    return found


def free_figures(rows: Sequence[Row]) -> dict[str, Any]:
    """Heads without tumour: how many were answered with nothing, and what was drawn in the others."""
    return {
        "free_n": len(rows),
        "free_empty": int(sum(row.drawn_cc == 0 for row in rows)),
        "free_drawn_cc": sorted(round(row.drawn_cc, 2) for row in rows if row.drawn_cc > 0),
    }


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """Every figure of an evaluation; heads without tumour are counted apart."""
    ill = [row for row in rows if row.stage != NO_TUMOUR]
    free = [row for row in rows if row.stage == NO_TUMOUR]
    figures = {"cohort": ill[0].cohort, **segmentation_figures(ill), **staging_figures(*told(ill)), **bounds(ill)}
    return {**figures, **free_figures(free)} if free else figures


RESULTS: Final = (
    "n", "dsc_median", "dsc_median_low", "dsc_median_high", "asd_median", "asd_median_low", "asd_median_high",
    "auc_micro", "auc_micro_low", "auc_micro_high", "auc_macro", "auc_macro_low", "auc_macro_high",
    "acc", "acc_low", "acc_high", "brier", "ece", "missed", "free_n", "free_empty",
)  # fmt: skip


def result(figures: Mapping[str, Any]) -> str:
    """The last line, ``RESULT {json}``: numbers only; ``missed`` is how many tumour cases were lost."""
    told = {key: figures[key] for key in RESULTS if key in figures}
    if "missed" in told:
        told["missed"] = len(told["missed"])
    return statistics.result_line(told)


def calibrate(folder: Path, count: int, jobs: int, engine: str = "torch") -> dict[str, Any]:
    """The stage temperature and offset of least cross-entropy on the tumours of the inner split, cohort "tune"."""
    rows = list(measure(folder, [Member("tune", index) for index in range(count)], jobs, engine))
    probabilities, truth = told([row for row in rows if row.stage != NO_TUMOUR])
    manifest = read_manifest(folder)
    logits = logits_of(probabilities, manifest.temperature, np.asarray(manifest.stage_offset))
    temperature, offset = fit_calibration(logits, truth, np.asarray(expected_offset(PAPER_STAGE_COUNTS)))
    return {"temperature": temperature, "stage_offset": [round(float(o), 4) for o in offset], "tune_n": len(truth)}


def main(arguments: list[str] | None = None) -> int:
    """Evaluate a bundle folder."""
    options = _parser().parse_args(arguments)
    figures: dict[str, Any] = {}
    if options.tune:
        figures = calibrate(options.folder, options.tune, options.jobs, options.engine)
    if options.count:
        members = (*external_cohort(options.seed, options.count), *free_cohort(options.seed, options.free))
        rows = list(measure(options.folder, members, options.jobs, options.engine))
        figures |= summarise(rows)
        _keep(options.rows, "".join(json.dumps(asdict(row)) + "\n" for row in rows))
    text = json.dumps(figures, indent=2)
    print(text)
    _keep(options.out, text + "\n")
    print(result(figures))
    return 0


def _keep(path: Path | None, text: str) -> None:
    if path is not None:
        path.write_text(text, encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model.evaluate", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=default_bundle())
    parser.add_argument("--count", type=int, default=400, help="tumour phantoms of the external cohort")
    parser.add_argument("--free", type=int, default=50, help="phantoms without tumour")
    parser.add_argument("--seed", type=int, default=0, help="another seed is another cohort")
    parser.add_argument(
        "--tune", type=int, default=0, help="fit temperature and offset of the stage on so many tuning phantoms"
    )
    parser.add_argument("--out", type=Path, help="write the figures here as JSON")
    parser.add_argument("--rows", type=Path, help="write one line per phantom here as JSON lines")
    parser.add_argument("--engine", choices=ENGINES, default="torch", help="what the network is run by")
    parser.add_argument("--jobs", type=int, default=min(4, os.cpu_count() or 1))
    return parser


if __name__ == "__main__":
    sys.exit(main())
