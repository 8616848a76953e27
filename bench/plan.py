"""The planning model held against a running node: the same arrivals, the node's own service times, both medians.

    python -m bench.plan [--count 8] [--load 0.6] [--seed 0]

A real node (two processes, real wire, the shipped bundle) is given phantom series at Poisson times. Service times are
read from its ledger: how long each stage had each piece of work in hand, waiting not included. The model gets their
means and spreads and the arrivals, and has to find the waiting by itself. Ends with one line RESULT {json}.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from model.phantom import Phantom, make_case, small_profile, write_dicom_series
from npc_rtnode.adapters.dicom.sender import send_files
from npc_rtnode.app import Station
from npc_rtnode.cli.demo import Site as Hospital
from npc_rtnode.cli.demo import hospital
from npc_rtnode.domain.identifiers import derived_uid
from npc_rtnode.domain.planning import Site, simulate
from npc_rtnode.errors import NotFound
from npc_rtnode.settings import Destination, load_settings

SEEDS = 25
"""The model is run so often; its answer is the middle one."""
PATIENCE_S = 900.0
WARM_UP = 2


@dataclass(frozen=True)
class Passage:
    """One series through the node, in seconds: how long each stage had it in hand, and all of it."""

    receive_s: float
    quiet_s: float
    infer_s: float
    write_s: float
    push_s: tuple[float, ...]  # by destination
    turnaround_s: float


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run both, print both."""
    asked = _parser().parse_args(arguments)
    phantom = make_case("demo", 1, profile=small_profile())
    with tempfile.TemporaryDirectory(prefix="npc-rtnode-plan-") as folder, hospital(Path(folder)) as site:
        station = Station(load_settings(site.config))
        first = [_one(site, station, phantom, f"warm up {n}") for n in range(WARM_UP)][-1]
        gap_s = max(first.infer_s, first.write_s, *first.push_s) / asked.load
        began, passages = _campaign(site, station, phantom, _gaps(asked.count, gap_s, asked.seed))
        station.close()
    result = _compare(began, passages, len(phantom.voxels))
    print("RESULT", json.dumps(result))
    return result


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--count", type=int, default=8, help="series")
    parser.add_argument("--load", type=float, default=0.6, help="of the busiest stage")
    parser.add_argument("--seed", type=int, default=0, help="of the arrivals")
    return parser


def _gaps(count: int, mean_s: float, seed: int) -> list[float]:
    """Between beginnings; the first is at once."""
    return [0.0, *np.random.default_rng(seed).exponential(mean_s, count - 1).tolist()]


# --- the node ---------------------------------------------------------------------------------------------------------


def _one(site: Hospital, station: Station, phantom: Phantom, name: str) -> Passage:
    uid = _send(site, phantom, name)
    _wait(station, [uid])
    return _passage(station, uid)


def _campaign(
    site: Hospital, station: Station, phantom: Phantom, gaps: Sequence[float]
) -> tuple[list[float], list[Passage]]:
    """When each series began to be sent, from the first on; and what the ledger says of each."""
    began, uids, due = [], [], time.monotonic()
    for number, gap in enumerate(gaps):
        due += gap
        time.sleep(max(0.0, due - time.monotonic()))
        began.append(time.monotonic())
        uids.append(_send(site, phantom, f"series {number}"))
    _wait(station, uids)
    return [at - began[0] for at in began], [_passage(station, uid) for uid in uids]


def _send(site: Hospital, phantom: Phantom, name: str) -> str:
    uid = derived_uid(name, "bench plan")
    files = write_dicom_series(phantom, site.folder / "sent" / name, study_uid=uid)
    node = Destination(name="node", ae_title="NPC_RTNODE", host="127.0.0.1", port=site.port)
    if lost := [one for one in send_files(files, node, "DEMO_PACS") if not one.stored]:
        raise SystemExit(f"{len(lost)} of {len(files)} instances were refused")
    return uid


def _wait(station: Station, uids: Sequence[str]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if all(_job(station, uid).get("state") == "DELIVERED" for uid in uids):
            return
        time.sleep(1)
    raise SystemExit(f"not all delivered after {PATIENCE_S:g} s: {[_job(station, uid).get('state') for uid in uids]}")


def _job(station: Station, uid: str) -> dict[str, Any]:
    with suppress(NotFound):
        jobs: list[dict[str, Any]] = station.queries.study(uid)["series"][-1]["jobs"]
        return jobs[-1] if jobs else {}
    return {}


def _passage(station: Station, uid: str) -> Passage:
    series = station.queries.study(uid)["series"][-1]
    job = series["jobs"][-1]
    tries = {one["stage"]: one for one in job["attempts"]}
    lanes: dict[str, float] = {}
    deliveries = [one for item in job["objects"] for one in item["deliveries"]]
    for one in deliveries:
        lanes[one["destination"]] = lanes.get(one["destination"], 0.0) + sum(map(_lasted, one["attempts"]))
    received = _at(series["last_received_at"])
    queued = next(_at(event["at"]) for event in station.queries.history(uid) if event["subject"] == f"job {job['job']}")
    return Passage(
        receive_s=received - _at(series["first_received_at"]),
        quiet_s=queued - received,
        infer_s=_lasted(tries["infer"]),
        write_s=_lasted(tries["write"]),
        push_s=tuple(lanes[name] for name in sorted(lanes)),
        turnaround_s=max(_at(one["sent_at"]) for one in deliveries) - received,
    )


def _lasted(attempt: dict[str, Any]) -> float:
    return _at(attempt["ended_at"]) - _at(attempt["started_at"])


def _at(told: str) -> float:
    return datetime.fromisoformat(told).timestamp()


# --- the model --------------------------------------------------------------------------------------------------------


def _compare(began: Sequence[float], passages: Sequence[Passage], slices: int) -> dict[str, Any]:
    site = _site(began, passages, slices)
    forecasts = [simulate(replace(site, seed=seed)) for seed in range(SEEDS)]
    modelled = statistics.median(one.turnaround_p50_s for one in forecasts)
    measured = statistics.median(one.turnaround_s for one in passages)
    stages = {name: round(statistics.fmean(values), 3) for name, values in _by_stage(passages).items()}
    print(f"{'':12}{'node':>10}{'model':>10}   seconds, median from the last slice to the last acknowledgement")
    print(f"{'turnaround':12}{measured:>10.2f}{modelled:>10.2f}")
    return {
        "plan_median_error": round(abs(modelled - measured) / measured, 4),
        "node_p50_s": round(measured, 2),
        "model_p50_s": round(modelled, 2),
        "series": len(passages),
        "stage_means_s": stages,
        "site": {name: value for name, value in asdict(site).items() if name in {"gpu_s", "gpu_cv", "quiet_s"}},
    }


def _by_stage(passages: Sequence[Passage]) -> dict[str, list[float]]:
    return {
        "receive": [one.receive_s for one in passages],
        "quiet": [one.quiet_s for one in passages],
        "infer": [one.infer_s for one in passages],
        "write": [one.write_s for one in passages],
        "push": [max(one.push_s) for one in passages],
    }


def _site(began: Sequence[float], passages: Sequence[Passage], slices: int) -> Site:
    """The node as the model sees it: one inference lane, one writing lane, a lane a destination."""
    stage = _by_stage(passages)
    return Site(
        hospitals=1,
        series_per_study=1,
        slices=slices,
        ingest_slices_per_s=slices / statistics.fmean(stage["receive"]),
        quiet_s=statistics.fmean(stage["quiet"]),
        gpus=1,
        gpu_s=statistics.fmean(stage["infer"]),
        gpu_cv=_spread(stage["infer"]),
        cores=1,
        cpu_s=statistics.fmean(stage["write"]),
        cpu_cv=_spread(stage["write"]),
        destinations=1,
        push_s=statistics.fmean(stage["push"]),
        push_cv=_spread(stage["push"]),
        days=1,
        arrivals_s=tuple(began),
    )


def _spread(values: Sequence[float]) -> float:
    return statistics.stdev(values) / statistics.fmean(values)


if __name__ == "__main__":
    main()
