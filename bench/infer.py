"""`make bench-infer`: CPU seconds, wall time, peak memory and parity of every way to run the network.

Each path runs in a process of its own (so that the peak memory is its own) on the same phantoms, whole predict call
included: preprocessing, first look, second look with its mirror image, mapping back. Parity is against torch float32:
Dice of the masks and the largest difference of a stage probability, the worst of the cases. The paper's preset has no
trained weights; it is run once on noise. With CUDA the card's share of its own measured ceilings is told too.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.bundle import Bundle, default_bundle, dice_of
from model.engine import ENGINES, EngineError, make_engine
from model.manifest import BundleError
from model.network import PRESETS, build
from model.phantom.cohorts import external_cohort
from model.statistics import result_line

SEED = 500
"""The external cohort that is timed; `make evaluate` uses others unless told so."""


KINDS = ("cpu_s", "parity_dice", "parity_dp")


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """What ``work`` gives, CPU seconds of the process, wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    given = work()
    return given, time.process_time() - cpu, time.perf_counter() - wall


def peak_gib() -> float:
    """Largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def bundle_path(engine: str, folder: Path, cases: int, threads: int, device: str) -> dict[str, Any]:
    """One engine on the phantoms; the engine that was really used is told."""
    bundle = Bundle.open(folder, device=device, threads=threads, engine=engine)
    phantoms = [(p.voxels.astype(np.float32), p.affine) for p in (m.make() for m in external_cohort(SEED, cases))]
    bundle.predict(*phantoms[0])
    answers, cpus, walls = zip(*(timed(lambda c=case: bundle.predict(*c)) for case in phantoms), strict=True)
    return {
        "engine": bundle.engine.name,
        "cpu_s": float(np.median(cpus)),
        "wall_s": float(np.median(walls)),
        "peak_gib": peak_gib(),
        "masks": [np.packbits(a.mask) for a in answers],
        "stages": [a.stage_probabilities for a in answers],
    }


def paper_path(engine: str, threads: int, device: str) -> dict[str, Any]:
    """One window of noise through the paper's preset with random weights, the same for every engine."""
    torch.set_num_threads(threads)
    config = PRESETS["paper"]
    runner = make_engine(engine, build(config, seed=1), device)
    window = np.random.default_rng(1).normal(size=config.grid).astype(np.float32)
    (probability, logits), cpu, wall = timed(lambda: runner.forward(window))
    return {
        "engine": engine,
        "cpu_s": cpu,
        "wall_s": wall,
        "peak_gib": peak_gib(),
        "masks": [np.packbits(probability >= 0.5)],
        "stages": [np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()],
    }


def apart(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any] | None:
    """Run in a fresh process; None where the engine is not installed."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(work, *arguments).result()
        except (EngineError, BundleError) as error:
            print(f"left out: {error}", file=sys.stderr)
            return None


def parity(path: dict[str, Any], reference: dict[str, Any]) -> tuple[float, float]:
    """Worst Dice and largest stage difference against the reference."""
    masks = zip(path["masks"], reference["masks"], strict=True)
    dice = [dice_of(np.unpackbits(a) > 0, np.unpackbits(b) > 0) for a, b in masks]
    stages = np.abs(np.asarray(path["stages"]) - np.asarray(reference["stages"]))
    return min(dice), float(stages.max())


def table(title: str, paths: dict[str, dict[str, Any] | None]) -> dict[str, tuple[float, float, float]]:
    """Print one table; CPU seconds and parity of every path that ran as itself."""
    reference = paths["torch"]
    if reference is None:
        raise SystemExit("torch itself did not run")
    print(f"\n{title}\n{'path':16}{'CPU s':>8}{'wall s':>8}{'peak GiB':>10}{'Dice':>9}{'dP':>9}")
    found = {}
    for name, path in paths.items():
        if path is None:
            continue
        dice, max_dp = parity(path, reference)
        note = "" if path["engine"] == name else f"  fell back to {path['engine']}"
        print(
            f"{name:16}{path['cpu_s']:8.2f}{path['wall_s']:8.2f}{path['peak_gib']:10.2f}{dice:9.4f}{max_dp:9.5f}{note}"
        )
        if not note:
            found[name] = (path["cpu_s"], dice, max_dp)
    return found


def card() -> dict[str, float]:
    """What the CUDA card reaches by itself: matrix product (bfloat16 TFLOP/s) and copy (GB/s)."""
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    b = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    rates = {}
    for name, work, amount in (
        ("matmul_tflops", lambda: a @ a, 2 * 8192**3 / 1e12),
        ("copy_gbs", b.clone, 2 * 2**30 / 1e9),
    ):
        work()
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(10):
            work()
        torch.cuda.synchronize()
        rates[name] = 10 * amount / (time.perf_counter() - began)
    return rates


def main() -> int:
    """Measure and print; the line RESULT {json} last."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=default_bundle())
    parser.add_argument("--cases", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-paper", action="store_true", help="leave the big preset out")
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": str(options.threads), "OPENBLAS_NUM_THREADS": str(options.threads)}
    shipped = {e: apart(bundle_path, e, options.bundle, options.cases, options.threads, "cpu") for e in ENGINES}
    found = table(f"shipped bundle, whole predict call, {options.threads} thread(s)", shipped)
    if not options.no_paper:
        paper = {e: apart(paper_path, e, options.threads, "cpu") for e in ENGINES}
        table("preset paper, random weights, one forward of 21 x 224 x 224", paper)
    if torch.cuda.is_available():
        cuda = apart(bundle_path, "torch", options.bundle, options.cases, options.threads, "cuda")
        print("\nCUDA:", json.dumps({"wall_s": cuda["wall_s"] if cuda else None, **card()}))
    print(result_line(figures(found)))
    return 0


def figures(found: dict[str, tuple[float, float, float]]) -> dict[str, float]:
    """The default path's cost, the worst parity of the paths in use, and each path's own."""
    others = [value for name, value in found.items() if name != "torch"]
    told = {
        "cpu_s_per_case": found["torch"][0],
        "parity_dice": min((v[1] for v in others), default=1.0),
        "parity_dp": max((v[2] for v in others), default=0.0),
    }
    for name, values in found.items():
        key = name.replace("-", "_")
        told |= {f"{kind}_{key}": value for kind, value in zip(KINDS, values, strict=True)}
    return told


if __name__ == "__main__":
    sys.exit(main())
