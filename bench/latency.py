"""`make bench-latency`: from the last C-STORE of a series to its objects acknowledged by TPS and PACS, stage by stage.

A real node (`serve`, both roles) on this machine, phantom series sent to it over the wire, a TPS and a PACS that store
what comes. First one series at a time with a warm inference child; then `--queued` series at once. The completeness of
each series is proven by the release of the one association that brought it (`released_s = 0`), and a series is judged
as soon as it is whole (`study_quiet_s = 0`): no time is spent waiting for what might still come.

Beside it stands bare inference: the same volumes through the same warm child, with no node around it, before and after.
`overhead_s` is what the node adds until the TPS has acknowledged the structure set, `overhead_all_s` until the PACS has
the report and the segmentation, `worker_busy` the share of the queue's time in which a prediction ran.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from bench.claims import seconds_a_claim
from npc_rtnode.adapters.database import schema
from npc_rtnode.adapters.dicom.sender import send_files
from npc_rtnode.adapters.dicom.series import DicomSeriesReader
from npc_rtnode.adapters.dicom.simulator import StoringSCP
from npc_rtnode.adapters.phantoms import write_study
from npc_rtnode.adapters.predictor import BundlePredictor
from npc_rtnode.app import Home, Station
from npc_rtnode.domain.geometry import Volume
from npc_rtnode.settings import Destination, InferSettings, load_settings

CONFIG: Final = """\
[node]
home = "{home}"

[listener]
port = 0
reserve_free_mb = 64
called = [{{ ae_title = "NPC_RTNODE", indication = "npc" }}]
peers = [{{ ae_title = "BENCH_PACS", networks = ["127.0.0.1/32"] }}]

[assemble]
released_s = 0

[select]
study_quiet_s = 0

[infer]
threads = {threads}

[log]
level = "error"

[[destinations]]
name = "tps"
ae_title = "BENCH_TPS"
host = "127.0.0.1"
port = {tps}
objects = ["RTSTRUCT"]

[[destinations]]
name = "pacs"
ae_title = "BENCH_PACS"
host = "127.0.0.1"
port = {pacs}
objects = ["SR", "SEG"]
"""
STAGES: Final = (
    ("closed", "last C-STORE to closed"),
    ("selected", "closed to selected"),
    ("begun", "selected to inference begun"),
    ("predicted", "inference"),
    ("written", "written, read back, judged"),
    ("tps", "acknowledged by the TPS"),
    ("pacs", "acknowledged by the PACS, after that"),
)
START_S, PATIENCE_S = 60.0, 120.0


@dataclass(frozen=True)
class Site:
    """A node that runs, and how to look at it."""

    port: int
    station: Station


@dataclass(frozen=True)
class Course:
    """One series: seconds from its last C-STORE to each of the stages, in order, and when that C-STORE was."""

    received_at: datetime
    at: dict[str, float]

    @property
    def to_tps(self) -> float:
        """Until the structure set was acknowledged."""
        return self.at["tps"]

    @property
    def to_all(self) -> float:
        """Until everything was acknowledged."""
        return max(self.at["tps"], self.at["pacs"])

    def steps(self) -> dict[str, float]:
        """The time that each stage took; the PACS beside the TPS counts from the writing."""
        names = [name for name, _ in STAGES]
        befores = [0.0, *(self.at[name] for name in names[:-2]), self.at["written"]]
        return {name: self.at[name] - before for name, before in zip(names, befores, strict=True)}


@contextmanager
def node(folder: Path, threads: int) -> Iterator[Site]:
    """`serve` with a TPS and a PACS; ended by its process id."""
    tps, pacs = StoringSCP("BENCH_TPS", folder / "tps"), StoringSCP("BENCH_PACS", folder / "pacs")
    config = folder / "node.toml"
    text = CONFIG.format(home=folder / "home", tps=tps.start(), pacs=pacs.start(), threads=threads)
    config.write_text(text, "utf-8")
    settings = load_settings(config)
    station = Station(settings)
    schema.upgrade(station.engine)
    command = [sys.executable, "-m", "npc_rtnode", "serve", "--config", str(config)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        yield Site(listening(station.home, process), station)
    finally:
        process.terminate()
        process.wait(60)
        tps.stop()
        pacs.stop()
        station.close()


def listening(home: Home, process: subprocess.Popen[bytes]) -> int:
    """The port, once the node says it."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        if home.listener_file.exists():
            return int(json.loads(home.listener_file.read_text("ascii"))["port"])
        time.sleep(0.1)
    raise SystemExit("the node did not start to listen")


def send(site: Site, files: Sequence[Path]) -> None:
    """One series over one association, which is released."""
    there = Destination(name="node", ae_title="NPC_RTNODE", host="127.0.0.1", port=site.port)
    refused = [one for one in send_files(list(files), there, "BENCH_PACS") if not one.stored]
    if refused:
        raise SystemExit(f"{len(refused)} of {len(files)} instances were refused")


def delivered(site: Site, count: int, patience_s: float) -> None:
    """Wait until so many jobs are delivered; a job that ends otherwise ends the bench."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        jobs = site.station.queries.counts()["jobs"]
        if jobs.get("DELIVERED", 0) == count:
            return
        if astray := {state: n for state, n in jobs.items() if state in {"HELD", "FAILED", "CANCELLED", "QUARANTINED"}}:
            raise SystemExit(f"jobs ended otherwise than delivered: {astray}")
        time.sleep(0.05)
    raise SystemExit(f"not delivered within {patience_s:g} s: {site.station.queries.counts()['jobs']}")


def courses(site: Site) -> list[Course]:
    """Every study's course by the ledger, in the order of their coming."""
    references = [line["study"] for line in site.station.queries.studies(limit=10_000)]
    found = [course(site.station.queries.study(one), site.station.queries.history(one)) for one in references]
    return sorted(found, key=lambda one: one.received_at)


def course(view: dict[str, Any], history: Sequence[dict[str, Any]]) -> Course:
    """Of one study with one series and one job."""
    start = datetime.fromisoformat(view["series"][0]["last_received_at"])
    moments = {
        "closed": _moments(history, "series", "COMPLETE"),
        "selected": _moments(history, "series", "SELECTED"),
        "begun": _moments(history, "job", "PREDICTING"),
        "predicted": _moments(history, "job", "PREDICTED"),
        "written": _moments(history, "job", "WRITTEN"),
    }
    at = {name: (max(times) - start).total_seconds() for name, times in moments.items()}
    for job in view["series"][0]["jobs"]:
        for item in job["objects"]:
            for one in item["deliveries"]:
                sent = (datetime.fromisoformat(one["sent_at"]) - start).total_seconds()
                at[one["destination"]] = max(at.get(one["destination"], 0.0), sent)
    return Course(start, at)


def _moments(history: Sequence[dict[str, Any]], subject: str, state: str) -> list[datetime]:
    found = [event for event in history if event["subject"].startswith(subject) and event["to"] == state]
    return [datetime.fromisoformat(event["at"]) for event in found]


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


def busy(found: Sequence[Course]) -> float:
    """The share of the time between first and last inference in which one ran."""
    begun = [one.received_at.timestamp() + one.at["begun"] for one in found]
    ended = [one.received_at.timestamp() + one.at["predicted"] for one in found]
    return sum(e - b for b, e in zip(begun, ended, strict=True)) / (max(ended) - min(begun))


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
        first, last = (
            min(one.received_at for one in queued),
            max(one.received_at.timestamp() + one.to_all for one in queued),
        )
        each = (last - first.timestamp()) / len(queued)
        found |= {"queued": len(queued), "worker_busy": busy(queued), "queued_s_each": each}
        found |= {"queued_ratio_to_inference": each / inference_s}
    return {name: round(value, 4) for name, value in found.items()}


def table(found: Sequence[Course]) -> None:
    """Median seconds of each stage."""
    print(f"{'stage':44} {'median s':>9} {'longest':>9}")
    for name, words in STAGES:
        seconds = [one.steps()[name] for one in found]
        print(f"{words:44} {statistics.median(seconds):9.3f} {max(seconds):9.3f}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; the last line is RESULT {json}."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--singles", type=int, default=7, help="series sent one at a time")
    parser.add_argument("--queued", type=int, default=50, help="series sent at once; 0 leaves that part out")
    parser.add_argument("--rows", type=int, default=1_000_000, help="finished jobs behind a claim; 0 leaves it out")
    parser.add_argument("--threads", type=int, default=0, help="of inference; 0 leaves it to torch")
    parser.add_argument("--folder", type=Path, help="where to work; by default a temporary folder")
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="npc-rtnode-latency-", dir=options.folder))
    try:
        return measured(options, folder)
    finally:
        shutil.rmtree(folder)


def measured(options: argparse.Namespace, folder: Path) -> int:
    """Both parts, with bare inference before and after."""
    series = phantoms(folder / "sent", 1 + options.singles + options.queued)
    singles, queued = series[: 1 + options.singles], series[1 + options.singles :]
    volumes = [DicomSeriesReader().volume(list(files)) for files in singles[1:]]
    before = bare(volumes, options.threads)
    with node(folder / "one", options.threads) as site:
        alone = one_by_one(site, singles)
    crowd = many(folder / "many", options, queued) if queued else []
    after = bare(volumes, options.threads)
    print(f"one at a time, {len(alone)} series; bare inference {before:.3f} s before, {after:.3f} s after")
    table(alone)
    found = told(alone, crowd, (before + after) / 2)
    print("RESULT " + json.dumps(found | claims(folder, options.rows)))
    return 0


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
