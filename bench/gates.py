"""`make gate-table`: faults planted in the node's own chain, each with the gate that stops it, and clean phantoms.

First part: every fault of `bench/planted.py`, what stopped it, and beside it what SimpleITK makes of the outline: Dice
with the phantom's truth in patient space, for the clean answer and for the faulty one. Then shifts of growing size, and
the smallest that is stopped. Second part: unseen phantoms of an external cohort through predict, write and judge with
the bundle's frozen bands, a row a case in a file outside of the repository, so that a run that was cut goes on.

Exit 1 when a fault is not stopped or more than 2 % of the clean phantoms are held.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np

from bench import beside
from bench.planted import REAL_FAULTS, SMALLEST, Chain, Fault, Run, Workshop, faults, shift
from model.bundle import Bundle, default_bundle, dice_of
from model.phantom import write_dicom_series
from model.phantom.cohorts import external_cohort
from npc_rtnode.adapters.predictions import PredictionFolder
from npc_rtnode.domain.gates import Outcome

ROOT: Final = Path(__file__).parents[1]
HELD_MOST: Final = 0.02
SEED: Final = 31337
"""The external cohort of the clean part; neither training, tuning nor evaluation draws from it."""

UNMOVED: Final = 0.999
"""From this Dice between the outlines of the clean and the faulty answer on, SimpleITK sees no difference."""


# --- planted faults -----------------------------------------------------------------------------------------------


def second_opinion(shop: Workshop, fault: Fault, run: Run) -> str:
    """What SimpleITK sees of the fault, or what anyone sees where there is no outline to place."""
    if fault.confirm is not None:
        return fault.confirm(shop, run)
    mask = outlined(shop, run)
    if mask is None:
        return "no outline"
    apart = beside.dice(mask, beside.drawn(shop.clean.rtstruct or b"", shop.image))
    against_truth = beside.dice(mask, shop.truth)
    return f"Dice with truth {against_truth:.3f}" + (" (outline unmoved)" if apart >= UNMOVED else "")


def outlined(shop: Workshop, run: Run) -> beside.Mask | None:
    """The outline on SimpleITK's grid: of the structure set, or of the answer where none was written."""
    if run.rtstruct is not None:
        return beside.drawn(run.rtstruct, shop.image)
    if run.prediction is None or run.prediction.mask.shape != shop.phantom.mask.shape:
        return None
    return beside.placed(run.prediction.mask, shop.phantom.affine, shop.image)


def try_fault(shop: Workshop, fault: Fault) -> bool:
    """One row of the table; whether something stopped it."""
    run = fault.plant(shop)
    stopped = ", ".join(run.stopped_by)
    mark = "stopped by" if stopped else "NOT STOPPED"
    print(f"  {fault.where:18}{fault.what:44}{second_opinion(shop, fault, run):40}{mark} {stopped}", flush=True)
    return bool(stopped)


def smallest(shop: Workshop, kind: str, sizes: Sequence[float]) -> str:
    """The smallest size from which on every one is stopped, and the largest that was let through."""
    stopped = {size: shift(kind, size)(shop).stopped_by for size in sizes}
    missed = max((size for size, by in stopped.items() if not by), default=None)
    found = min((size for size in sizes if missed is None or size > missed), default=None)
    if found is None:
        return f"  {kind:38}none of {len(sizes)} sizes up to {max(sizes):g}"
    less = "" if missed is None else f"; {missed:g} is let through"
    return f"  {kind:38}{found:g} by {', '.join(stopped[found])}{less}"


def first_part(shop: Workshop) -> dict[str, float]:
    """The table of faults and of the smallest shifts."""
    there = bool(os.environ.get("NPC_RTNODE_TEST_DATA"))
    if shop.clean.stopped_by:
        raise SystemExit(
            f"the phantom without fault is held by {', '.join(shop.clean.stopped_by)}: nothing can be shown"
        )
    clean = beside.dice(beside.drawn(shop.clean.rtstruct or b"", shop.image), shop.truth)
    print(f"Planted faults; without fault SimpleITK sees Dice {clean:.3f} with the truth, and nothing is held.\n")
    planted = faults(there)
    stopped = [try_fault(shop, fault) for fault in planted]
    if not there:
        print(f"  skipped: {REAL_FAULTS} faults of real material, because NPC_RTNODE_TEST_DATA is not set")
    print("\nSmallest shift that is stopped:")
    for kind, sizes in SMALLEST.items():
        print(smallest(shop, kind, sizes), flush=True)
    return {
        "faults_planted": len(planted),
        "faults_stopped": sum(stopped),
        "faults_skipped": 0 if there else REAL_FAULTS,
        "dice_clean": round(clean, 4),
    }


# --- clean phantoms -----------------------------------------------------------------------------------------------

_opened: Bundle | None = None


def _open(folder: Path) -> None:
    global _opened
    _opened = Bundle.open(folder, threads=1)


def clean_case(seed: int, index: int) -> dict[str, Any]:
    """One unseen phantom through the whole chain: what held, what warned, how well it was drawn, what it cost."""
    if _opened is None:
        raise RuntimeError("a worker judges before its bundle is open")
    began = time.process_time()
    phantom = external_cohort(seed, index + 1)[index].make()
    made = time.process_time()
    with TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:  # noqa: S108 - memory
        files = write_dicom_series(phantom, Path(folder) / "mr")
        run = Chain(_opened, PredictionFolder(Path(folder) / "store")).run(files)
    mask = run.prediction.mask if run.prediction else np.zeros_like(phantom.mask)
    return {
        "index": index,
        "stage": phantom.stage,
        "held": list(run.stopped_by),
        "warned": sorted({gate.name for gate in run.gates if gate.outcome is Outcome.WARN}),
        "values": {gate.name: gate.value for gate in run.gates if gate.outcome is not Outcome.PASS},
        "dice": round(dice_of(mask, phantom.mask), 4),
        "phantom_cpu_s": round(made - began, 2),
        "cpu_s": round(time.process_time() - made, 2),
    }


def rows_file(wanted: Path | None, bundle: Bundle, seed: int) -> Path:
    """Outside of the repository, and another one for another bundle, cohort or code of the gates."""
    if wanted is not None:
        return wanted
    digest = hashlib.sha256(bundle.sha256.encode())
    for name in ("model/checks.py", "model/bundle.py", "model/phantom/image.py"):
        digest.update((ROOT / name).read_bytes())
    for path in sorted((ROOT / "npc_rtnode/domain").glob("*.py")):
        digest.update(path.read_bytes())
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "npc-rtnode"
    home.mkdir(parents=True, exist_ok=True)
    return home / f"gate-table-{seed}-{digest.hexdigest()[:12]}.jsonl"


def rows_of(path: Path, count: int) -> dict[int, dict[str, Any]]:
    """Cases that are done; a line that was cut off by a kill counts as not done."""
    found = {}
    for line in path.read_text("utf-8").splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if row["index"] < count:
            found[row["index"]] = row
    return found


def run_clean(folder: Path, seed: int, todo: Sequence[int], workers: int) -> Iterator[dict[str, Any]]:
    """Rows as they come."""
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_open, initargs=(folder,)) as pool:
        for done in as_completed([pool.submit(clean_case, seed, index) for index in todo]):
            yield done.result()


def second_part(options: argparse.Namespace, bundle: Bundle) -> dict[str, float]:
    """Clean phantoms, resumed where a run was cut."""
    path = rows_file(options.rows, bundle, options.seed)
    rows = rows_of(path, options.clean)
    print(f"\nClean phantoms of external-{options.seed}: {len(rows)} of {options.clean} are done ({path})")
    todo = [index for index in range(options.clean) if index not in rows]
    with path.open("a", encoding="utf-8") as stream:
        for row in run_clean(options.bundle, options.seed, todo, options.workers):
            stream.write("\n" * (stream.tell() > 0 and not _ends_whole(path)) + json.dumps(row) + "\n")
            stream.flush()
            rows[row["index"]] = row
            if len(rows) % 50 == 0:
                print(f"  {len(rows)}/{options.clean}", file=sys.stderr, flush=True)
    return told(list(rows.values()))


def _ends_whole(path: Path) -> bool:
    """Whether the last line of the rows was written to its end."""
    return path.read_bytes()[-1:] == b"\n"


def told(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Held and warned by gate, printed; the figures of the RESULT line."""
    count = max(1, len(rows))
    for word in ("held", "warned"):
        by_gate = Counter(code for row in rows for code in row[word])
        print(f"\n{word.capitalize()} by gate, of {len(rows)}:")
        for code, number in by_gate.most_common():
            print(f"  {code:32}{number:5}  {number / count:.2%}")
    held = [row for row in rows if row["held"]]
    for row in held[:20]:
        print(f"  held: case {row['index']} {row['stage']}, Dice {row['dice']:.2f}, {', '.join(row['held'])}")
    return {
        "clean_n": len(rows),
        "clean_held_fraction": round(len(held) / count, 5),
        "clean_warned_fraction": round(sum(bool(row["warned"]) for row in rows) / count, 5),
        "clean_dice_median": round(float(np.median([row["dice"] for row in rows])), 4) if rows else 0.0,
        "clean_held_dice_median": round(float(np.median([row["dice"] for row in held])), 4) if held else 0.0,
        "clean_cpu_s": round(float(np.median([row["cpu_s"] for row in rows])), 2) if rows else 0.0,
    }


def main() -> int:
    """Both parts; one RESULT line last."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=default_bundle())
    parser.add_argument("--clean", type=int, default=1000, help="clean phantoms; 0 leaves them out")
    parser.add_argument("--seed", type=int, default=SEED, help="another seed is another cohort")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rows", type=Path, help="the file of rows, outside of the repository")
    parser.add_argument("--no-faults", action="store_true", help="clean phantoms alone")
    options = parser.parse_args()
    bundle = Bundle.open(options.bundle, threads=1)
    if bundle.manifest.reference is None:
        print("This bundle was never calibrated (python -m model.calibrate): nothing says how unusual a case is.\n")
    figures: dict[str, float] = {}
    if not options.no_faults:
        with TemporaryDirectory() as folder:
            figures |= first_part(Workshop(Path(folder), bundle))
    if options.clean:
        figures |= second_part(options, bundle)
    print("RESULT " + json.dumps(figures))
    missed = figures.get("faults_planted", 0) - figures.get("faults_stopped", 0)
    return 1 if missed or figures.get("clean_held_fraction", 0.0) > HELD_MOST else 0


if __name__ == "__main__":
    sys.exit(main())
