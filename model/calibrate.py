"""What a bundle's gates may expect, learned from tuning phantoms: its bands, its reference and its grey-value limits.

    python -m model.calibrate FOLDER --count 200 --jobs 2

Runs the bundle on phantoms of the cohort "tune" (seeds that neither training nor evaluation meets) and writes
``bands``, ``reference`` and the limits of the picture's features into FOLDER's bundle.json; weights, card and golden
case stay as they are. A number outside of what all but a hundredth of the cases have is warned of; to be held it must
lie half as far out again, counted from the median, as the worst of them, and beyond the default band too. The bands are
frozen with the bundle: how often they hold clean cases is told by another cohort (``make gate-table``).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from model.bundle import Bundle, default_bundle
from model.checks import reference_of, unusualness
from model.manifest import DEFAULT_BANDS, FILE, Band, BundleError, Limit, Reference, read_manifest
from model.phantom import make_case

Floats = NDArray[np.float64]

LEAST_CASES: Final = 50
"""Fewer say nothing about a hundredth."""

WARN_SHARE: Final = 0.01
STRETCH: Final = 1.5
"""How much farther from the median than the worst tuning case a number must lie to be held."""

UPWARDS: Final = ("EXTENT", "PARTS", "DROPPED_SHARE", "DOUBT", "STAGE_SWING", "OUT_OF_DISTRIBUTION")
DOWNWARDS: Final = ("CONFIDENCE", "MIRROR_DICE", "SHIFT_DICE")
PICTURE: Final = ("grey_p10", "grey_p50", "grey_p90", "grey_sd", "edges", "slice_likeness")
"""Features of the image alone, which become input limits."""


@dataclass(frozen=True)
class Case:
    """What a bundle measured of one phantom."""

    measured: Mapping[str, float]
    features: Mapping[str, float]


_opened: Bundle | None = None


def _open(folder: Path) -> None:
    """In a worker: open the bundle once, on one thread."""
    global _opened
    _opened = Bundle.open(folder, threads=1)


def _measure(index: int) -> Case:
    if _opened is None:
        raise RuntimeError("a worker measures before its bundle is open")
    phantom = make_case("tune", index)
    said = _opened.predict(phantom.voxels.astype(np.float32), phantom.affine)
    return Case(dict(said.measured), dict(said.features))


def measure(folder: Path, count: int, jobs: int) -> Iterator[Case]:
    """The first ``count`` tuning phantoms, in order."""
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_open, initargs=(folder,)) as pool:
        for done, case in enumerate(pool.map(_measure, range(count), chunksize=2), start=1):
            if done % 20 == 0 or done == count:
                print(f"{done}/{count} tune", file=sys.stderr, flush=True)
            yield case


def reference(cases: Sequence[Case]) -> tuple[Reference, list[float]]:
    """The reference of all cases, and each case's distance from that of the others in five parts left out in turn.

    A case lies nearer to a reference that knows it; the bands are for cases that it does not know.
    """
    drawn = [case.features for case in cases if case.features]
    apart: list[float] = []
    for part in range(5):
        known = reference_of([f for k, f in enumerate(drawn) if k % 5 != part])
        apart += [unusualness(f, known)[0] for k, f in enumerate(drawn) if k % 5 == part]
    return reference_of(drawn), apart


def bands(cases: Sequence[Case], distances: Sequence[float]) -> dict[str, Band]:
    """Every band, from the numbers of the cases that were outlined; what is far from ordinary has no default."""
    drawn = [case.measured for case in cases if case.features]
    numbers = {code: np.array([m[code] for m in drawn]) for code in (*UPWARDS[:-1], *DOWNWARDS, "VOLUME")}
    numbers["OUT_OF_DISTRIBUTION"] = np.array(distances)
    found = {code: _upper(DEFAULT_BANDS[code], numbers[code]) for code in UPWARDS[:-1]}
    found |= {code: _lower(DEFAULT_BANDS[code], numbers[code]) for code in DOWNWARDS}
    found["OUT_OF_DISTRIBUTION"] = _upper(Band("SD", hold_high=0.0), numbers["OUT_OF_DISTRIBUTION"])
    return found | {"VOLUME": _volume(numbers["VOLUME"]), "REFERENCE_CASES": Band("cases", LEAST_CASES)}


def _upper(known: Band, numbers: Floats) -> Band:
    """Warn above all but a hundredth; a gate that never holds by default never does."""
    warn = _round(float(np.quantile(numbers, 1 - WARN_SHARE, method="higher")))
    if known.hold_high is None:
        return Band(known.unit, warn_high=warn)
    return Band(known.unit, warn_high=warn, hold_high=max(warn, known.hold_high, _far(numbers, numbers.max())))


def _lower(known: Band, numbers: Floats) -> Band:
    warn = _round(float(np.quantile(numbers, WARN_SHARE, method="lower")))
    ends = [end for end in (warn, known.hold_low, _far(numbers, numbers.min())) if end is not None]
    return Band(known.unit, warn_low=warn, hold_low=min(ends))


def _volume(numbers: Floats) -> Band:
    """On a scale of ratios: half as far from the median again is a ratio to the power of 1.5."""
    known, logs = DEFAULT_BANDS["VOLUME"], np.log(numbers)
    low, high = (_round(float(np.exp(q))) for q in np.quantile(logs, (WARN_SHARE, 1 - WARN_SHARE)))
    least, most = (float(np.exp(_far(logs, end))) for end in (logs.min(), logs.max()))
    hold = min(least, known.hold_low or 0.0), max(most, known.hold_high or 0.0)
    return Band("cc", low, high, _round(hold[0]), _round(hold[1]))


def _far(numbers: Floats, worst: float) -> float:
    middle = float(np.median(numbers))
    return _round(middle + STRETCH * (float(worst) - middle))


def _round(value: float) -> float:
    return float(f"{value:.3g}")


def limits(cases: Sequence[Case]) -> dict[str, Limit]:
    """The range of every feature of the picture, a tenth of its width wider at both ends."""
    found = {}
    for name in PICTURE:
        numbers = [case.features[name] for case in cases if case.features]
        slack = 0.1 * (max(numbers) - min(numbers))
        found[name] = Limit(_round(min(numbers) - slack), _round(max(numbers) + slack), "body SD")
    return found


def calibrate(folder: Path, cases: Sequence[Case]) -> None:
    """Write what the cases say into the bundle's manifest, in one rename. Raises ``BundleError`` for too few."""
    outlined = sum(bool(case.features) for case in cases)
    if outlined < LEAST_CASES:
        raise BundleError(f"{outlined} outlined tuning cases, at least {LEAST_CASES} are needed: raise --count")
    known, distances = reference(cases)
    manifest = read_manifest(folder)
    manifest = replace(
        manifest,
        bands=dict(DEFAULT_BANDS) | bands(cases, distances),
        reference=known,
        input_limits=dict(manifest.input_limits) | limits(cases),
    )
    part = folder.with_name(f"{folder.name}.{FILE}.part")
    part.write_text(manifest.to_json(), encoding="utf-8")
    part.replace(folder / FILE)


def main(arguments: list[str] | None = None) -> int:
    """Calibrate a bundle folder, and say what its gates now expect."""
    options = _parser().parse_args(arguments)
    try:
        calibrate(options.folder, list(measure(options.folder, options.count, options.jobs)))
    except BundleError as error:
        print(f"bundle error: {error}", file=sys.stderr)
        return 1
    for code, band in sorted(read_manifest(options.folder).bands.items()):
        print(code, json.dumps({name: end for name, end in vars(band).items() if end not in (None, "")}))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model.calibrate", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=default_bundle())
    parser.add_argument("--count", type=int, default=200, help="tuning phantoms")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    return parser


if __name__ == "__main__":
    sys.exit(main())
