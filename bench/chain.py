"""A whole node as a bench has it: its settings, its processes, series sent to it, and what its ledger says of each.

    with node(folder, threads=1) as site:
        send(site, files)
        delivered(site, 1, patience_s=60)
        (course,) = courses(site)

`serve` on this machine, and a TPS and a PACS that store what comes, in this process. The completeness of each series is
proven by the release of the one association that brought it (`released_s = 0`), and a series is judged as soon as it is
whole (`study_quiet_s = 0`): no time is spent waiting for what might still come.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from sqlalchemy import func, select

from npc_rtnode.adapters.database.tables import JobRow
from npc_rtnode.adapters.dicom.sender import send_files
from npc_rtnode.adapters.dicom.simulator import StoringSCP
from npc_rtnode.app import Home, Station
from npc_rtnode.settings import Destination, load_settings

SETTINGS: Final = """\
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

{more}
"""
START_S, STOP_S = 60.0, 60.0
LOOK_S: Final = 0.25
"""How often a bench asks the ledger whether all is done: when it was is in the ledger, and asking costs the node."""
_ASTRAY: Final = {"HELD", "FAILED", "CANCELLED", "QUARANTINED"}


@dataclass(frozen=True)
class Ends:
    """Where results go, by port."""

    tps: int
    pacs: int

    def settings(self, path: Path, home: Path, threads: int, more: str = "") -> Path:
        """A settings file with these destinations; `more` stands at its end as it is."""
        text = SETTINGS.format(home=home, threads=threads, tps=self.tps, pacs=self.pacs, more=more)
        path.write_text(text, "utf-8")
        return path


@dataclass(frozen=True)
class Site:
    """A node that runs, and how to look at it."""

    port: int
    station: Station
    ends: Ends


@dataclass(frozen=True)
class Course:
    """One series: seconds from its last C-STORE to each of the stages, in order, and when that C-STORE was."""

    received_at: datetime
    at: dict[str, float]
    workers: tuple[str, ...] = field(default=())
    """Who began its inference, each time that somebody did."""

    @property
    def to_tps(self) -> float:
        """Until the structure set was acknowledged."""
        return self.at["tps"]

    @property
    def to_all(self) -> float:
        """Until everything was acknowledged."""
        return max(self.at["tps"], self.at["pacs"])

    def when(self, stage: str) -> datetime:
        """The moment of that stage."""
        return self.received_at + timedelta(seconds=self.at[stage])

    @property
    def done_at(self) -> datetime:
        """When everything was acknowledged."""
        return max(self.when("tps"), self.when("pacs"))


# --- the node ---------------------------------------------------------------------------------------------------------


@contextmanager
def node(folder: Path, threads: int, more: str = "") -> Iterator[Site]:
    """`serve` with a TPS and a PACS; ended by its process id."""
    tps, pacs = StoringSCP("BENCH_TPS", folder / "tps"), StoringSCP("BENCH_PACS", folder / "pacs")
    ends = Ends(tps.start(), pacs.start())
    config = ends.settings(folder / "node.toml", folder / "home", threads, more)
    station = Station(load_settings(config))
    station.upgrade()
    process = serve(config)
    try:
        yield Site(_listening(station.home, process), station, ends)
    finally:
        stop(process)
        tps.stop()
        pacs.stop()
        station.close()


def serve(config: Path, *more: str) -> subprocess.Popen[bytes]:
    """`npc-rtnode serve`."""
    command = [sys.executable, "-m", "npc_rtnode", "serve", *more, "--config", str(config)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL)


def stop(process: subprocess.Popen[bytes]) -> None:
    """As a service manager would, and by force where that is not enough."""
    process.terminate()
    try:
        process.wait(STOP_S)
    finally:
        process.kill()


def _listening(home: Home, process: subprocess.Popen[bytes]) -> int:
    """The port, once the node says it."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        if home.listener_file.exists():
            return int(json.loads(home.listener_file.read_text("ascii"))["port"])
        time.sleep(0.1)
    raise SystemExit("the node did not start to listen")


# --- what it is given -------------------------------------------------------------------------------------------------


def send(site: Site, files: Sequence[Path]) -> None:
    """One series over one association, which is released."""
    there = Destination(name="node", ae_title="NPC_RTNODE", host="127.0.0.1", port=site.port)
    refused = [one for one in send_files(list(files), there, "BENCH_PACS") if not one.stored]
    if refused:
        raise SystemExit(f"{len(refused)} of {len(files)} instances were refused")


def delivered(site: Site, count: int, patience_s: float) -> None:
    """Wait until so many jobs are delivered; a job that ends otherwise ends the bench."""
    reached(site, "DELIVERED", count, patience_s)


def reached(site: Site, state: str, count: int, patience_s: float, look_s: float = LOOK_S) -> None:
    """Wait until so many jobs are in that state."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        jobs = _jobs(site)
        if jobs.get(state, 0) == count:
            return
        if astray := {name: n for name, n in jobs.items() if name in _ASTRAY}:
            raise SystemExit(f"jobs ended otherwise than delivered: {astray}")
        time.sleep(look_s)
    raise SystemExit(f"not {count} {state} within {patience_s:g} s: {_jobs(site)}")


def _jobs(site: Site) -> dict[str, int]:
    """How many, by state: one question, because the node waits for its ledger meanwhile."""
    query = select(JobRow.state, func.count()).group_by(JobRow.state)
    with site.station.sessions.reading() as session:
        return {str(state): number for state, number in session.execute(query)}


# --- what became of it ------------------------------------------------------------------------------------------------


def courses(site: Site, newest: int = 10_000) -> list[Course]:
    """The newest studies' courses by the ledger, in the order of their coming."""
    references = [line["study"] for line in site.station.queries.studies(limit=newest)]
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
    return Course(start, at, tuple(event["detail"]["worker"] for event in _into(history, "job", "PREDICTING")))


def _moments(history: Sequence[dict[str, Any]], subject: str, state: str) -> list[datetime]:
    return [datetime.fromisoformat(event["at"]) for event in _into(history, subject, state)]


def _into(history: Sequence[dict[str, Any]], subject: str, state: str) -> list[dict[str, Any]]:
    return [event for event in history if event["subject"].startswith(subject) and event["to"] == state]
