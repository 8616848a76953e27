"""What a bundle's gates may expect, learned from tuning phantoms: its bands, its reference and its grey-value limits.

    python -m model.calibrate FOLDER --count 200 --jobs 2

Runs the bundle on phantoms of the cohort "tune" (seeds that neither training nor evaluation meets) and writes
``bands``, ``reference`` and the limits of the picture's features into FOLDER's bundle.json; weights, card and golden
case stay as they are. A number outside of what all but a fiftieth of the cases have is warned of; to be held it must
lie twice as far out, counted from the median, and beyond the default band too. (Not beyond the worst case: one that the
bundle missed should be held.) The bands are frozen with the bundle: how often they hold clean cases is told by another
cohort (``make gate-table``). With ``--rows`` every case is kept, and a run that was cut goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from model.bundle import WEIGHTS, Bundle, default_bundle
from model.checks import reference_of, unusualness
from model.manifest import DEFAULT_BANDS, FILE, Band, BundleError, Limit, Reference, read_manifest
from model.phantom import make_case

Floats = NDArray[np.float64]

LEAST_CASES: Final = 50
"""Fewer say nothing about a fiftieth."""

WARN_SHARE: Final = 0.02
STRETCH: Final = 2.0
"""How many times farther from the median than what is warned of a number must lie to be held."""

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


def measure(folder: Path, indices: Sequence[int], jobs: int) -> Iterator[Case]:
    """These tuning phantoms, in order."""
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_open, initargs=(folder,)) as pool:
        for done, case in enumerate(pool.map(_measure, indices), start=1):
            if done % 20 == 0 or done == len(indices):
                print(f"{done}/{len(indices)} tune", file=sys.stderr, flush=True)
            yield case


def kept(path: Path | None, folder: Path) -> list[Case]:
    """Cases of an earlier run with the same weights, from the first on; what was cut off counts as not done."""
    found: list[Case] = []
    for line in path.read_text("utf-8").splitlines() if path is not None and path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            break
        if row.pop("weights") != weights_of(folder):
            raise BundleError(f"{path} holds cases of other weights: name another file")
        found.append(Case(**row))
    return found


def weights_of(folder: Path) -> str:
    """Which weights a folder has."""
    return read_manifest(folder).files[WEIGHTS]


def gather(folder: Path, count: int, jobs: int, rows: Path | None) -> list[Case]:
    """All cases, those of ``rows`` not again; each new one is added there as soon as it is measured."""
    cases = kept(rows, folder)[:count]
    weights = weights_of(folder)
    if rows is not None:
        rows.write_text("".join(_line(case, weights) for case in cases), encoding="utf-8")
    for case in measure(folder, range(len(cases), count), jobs):
        cases.append(case)
        if rows is not None:
            with rows.open("a", encoding="utf-8") as stream:
                stream.write(_line(case, weights))
    return cases


def _line(case: Case, weights: str) -> str:
    return json.dumps({"weights": weights, **asdict(case)}) + "\n"


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
    """Warn above all but a fiftieth; a gate that never holds by default never does."""
    warn = _round(float(np.quantile(numbers, 1 - WARN_SHARE, method="lower")))
    if known.hold_high is None:
        return Band(known.unit, warn_high=warn)
    return Band(known.unit, warn_high=warn, hold_high=max(known.hold_high, _far(numbers, warn)))


def _lower(known: Band, numbers: Floats) -> Band:
    warn = _round(float(np.quantile(numbers, WARN_SHARE, method="higher")))
    ends = [end for end in (known.hold_low, _far(numbers, warn)) if end is not None]
    return Band(known.unit, warn_low=warn, hold_low=min(ends))


def _volume(numbers: Floats) -> Band:
    """On a scale of ratios: twice as far from the median is the ratio squared."""
    known, logs = DEFAULT_BANDS["VOLUME"], np.log(numbers)
    ends = [float(q) for q in np.quantile(logs, (WARN_SHARE, 1 - WARN_SHARE))]
    low, high = (_round(float(np.exp(end))) for end in ends)
    least, most = (float(np.exp(_far(logs, end))) for end in ends)
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
        calibrate(options.folder, gather(options.folder, options.count, options.jobs, options.rows))
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
    parser.add_argument("--rows", type=Path, help="keep a line a case here and go on from it")
    return parser


if __name__ == "__main__":
    sys.exit(main())
