"""`make bench-latency`: from the last C-STORE of a series to its objects acknowledged by TPS and PACS, stage by stage.

A real node (bench/chain.py) is given phantom series over the wire: first one at a time, with a warm inference child;
then `--queued` series at once. Then two worker hosts beside one (bench/hosts.py), then claims (bench/claims.py).

Beside it stands bare inference: the same volumes through the same warm child, with no node around it, before and after.
`overhead_s` is what the node adds until the TPS has acknowledged the structure set, `overhead_all_s` until the PACS has
the report and the segmentation, `ratio_to_inference` all of the time until the TPS has it over bare inference,
`worker_busy` the share of the queue's time in which a prediction ran, `two_hosts_ratio` the throughput of two worker
hosts with one core each over that of one, `claim_1m_over_1k` what a claim costs behind a long past over a short one.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench import hosts
from bench.chain import Course, Site, courses, delivered, node, send
from bench.claims import seconds_a_claim
from npc_rtnode.adapters.dicom.series import DicomSeriesReader
from npc_rtnode.adapters.phantoms import write_study
from npc_rtnode.adapters.predictor import BundlePredictor
from npc_rtnode.domain.geometry import Volume
from npc_rtnode.settings import InferSettings

STAGES: Final = (
    ("closed", "last C-STORE to closed"),
    ("selected", "closed to selected"),
    ("begun", "selected to inference begun"),
    ("predicted", "inference"),
    ("written", "written, read back, judged"),
    ("tps", "acknowledged by the TPS"),
    ("pacs", "acknowledged by the PACS, after that"),
)
PATIENCE_S: Final = 120.0


def bare(volumes: Sequence[Volume], threads: int) -> float:
    """Median seconds of `predict` in a warm child, as the node calls it."""
    predictor = BundlePredictor(InferSettings(threads=threads))
    statement = predictor.statement()
    predictor.predict(volumes[0], statement)
    seconds = []
    for volume in volumes:
        begun = time.perf_counter()
        predictor.predict(volume, statement)
        seconds.append(time.perf_counter() - begun)
    predictor.close()
    return statistics.median(seconds)


def one_by_one(site: Site, series: Sequence[Sequence[Path]]) -> list[Course]:
    """Each alone, the first only to warm up."""
    for number, files in enumerate(series, 1):
        send(site, files)
        delivered(site, number, PATIENCE_S)
    return courses(site)[1:]


def steps(course: Course) -> dict[str, float]:
    """The time that each stage took; the PACS beside the TPS counts from the writing."""
    names = [name for name, _ in STAGES]
    befores = [0.0, *(course.at[name] for name in names[:-2]), course.at["written"]]
    return {name: course.at[name] - before for name, before in zip(names, befores, strict=True)}


def busy(found: Sequence[Course]) -> float:
    """The share of the time between first and last inference in which one ran."""
    ran = sum(one.at["predicted"] - one.at["begun"] for one in found)
    whole = max(one.when("predicted") for one in found) - min(one.when("begun") for one in found)
    return ran / whole.total_seconds()


def phantoms(folder: Path, count: int) -> list[tuple[Path, ...]]:
    """Contrast-enhanced series of unseen phantoms, one a study."""
    return [write_study(folder / str(index), index, "bench").wanted for index in range(count)]


def told(single: Sequence[Course], queued: Sequence[Course], inference_s: float) -> dict[str, float]:
    """The figures of the RESULT line."""
    to_tps, to_all = (statistics.median(getattr(one, name) for one in single) for name in ("to_tps", "to_all"))
    found = {
        "inference_s": inference_s,
        "overhead_s": to_tps - inference_s,
        "overhead_all_s": to_all - inference_s,
        "ratio_to_inference": to_tps / inference_s,
        "singles": len(single),
    }
    if queued:
        whole = max(one.done_at for one in queued) - min(one.received_at for one in queued)
        each = whole.total_seconds() / len(queued)
        found |= {"queued": len(queued), "worker_busy": busy(queued), "queued_s_each": each}
        found |= {"queued_ratio_to_inference": each / inference_s}
    return {name: round(value, 4) for name, value in found.items()}


def table(found: Sequence[Course]) -> None:
    """Median seconds of each stage."""
    print(f"{'stage':44} {'median s':>9} {'longest':>9}")
    for name, words in STAGES:
        seconds = [steps(one)[name] for one in found]
        print(f"{words:44} {statistics.median(seconds):9.3f} {max(seconds):9.3f}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; the last line is RESULT {json}."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--singles", type=int, default=7, help="series sent one at a time")
    parser.add_argument("--queued", type=int, default=50, help="series sent at once; 0 leaves that part out")
    parser.add_argument("--rows", type=int, default=1_000_000, help="finished jobs behind a claim; 0 leaves it out")
    parser.add_argument("--threads", type=int, default=0, help="of inference, but a host's; 0 leaves it to torch")
    hosts.add_options(parser)
    parser.add_argument("--folder", type=Path, help="where to work; by default a temporary folder")
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="npc-rtnode-latency-", dir=options.folder))
    try:
        return measured(options, folder)
    finally:
        shutil.rmtree(folder)


def measured(options: argparse.Namespace, folder: Path) -> int:
    """Both parts, with bare inference before and after."""
    series = phantoms(folder / "sent", 1 + options.singles + 1 + options.queued)
    singles, queued = series[: 1 + options.singles], series[1 + options.singles :]
    volumes = [DicomSeriesReader().volume(list(files)) for files in singles[1:]]
    before = bare(volumes, options.threads)
    with node(folder / "one", options.threads) as site:
        alone = one_by_one(site, singles)
    crowd = many(folder / "many", options, queued) if options.queued else []
    after = bare(volumes, options.threads)
    print(f"one at a time, {len(alone)} series; bare inference {before:.3f} s before, {after:.3f} s after")
    table(alone)
    found = told(alone, crowd, (before + after) / 2) | two_hosts(folder, options)
    print("RESULT " + json.dumps(found | claims(folder, options.rows)))
    return 0


def two_hosts(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Two worker hosts beside one; empty where it is left out."""
    if not options.pairs:
        return {}
    found = hosts.compared(folder, options.pairs, options.each)
    found.table()
    return found.told()


def claims(folder: Path, rows: int) -> dict[str, float]:
    """What a claim costs with so many finished jobs behind it, over a thousand; empty where it is left out."""
    if not rows:
        return {}
    few, plenty = seconds_a_claim(folder, 1000), seconds_a_claim(folder, rows)
    print(f"a claim: {few * 1000:.2f} ms with 1000 finished jobs, {plenty * 1000:.2f} ms with {rows}")
    return {"claim_1m_over_1k": round(plenty / few, 3), "claim_rows": rows}


def many(folder: Path, options: argparse.Namespace, queued: Sequence[Sequence[Path]]) -> list[Course]:
    """All at once, after one that warms up."""
    with node(folder, options.threads) as site:
        for number, files in enumerate(itertools.chain(queued), 1):
            send(site, files)
            if number == 1:
                delivered(site, 1, PATIENCE_S)
        delivered(site, len(queued), PATIENCE_S + 20 * len(queued))
        return courses(site)[1:]


if __name__ == "__main__":
    sys.exit(main())
