"""A whole node for acceptance tests: its settings file, its processes, its ledger, and ways to kill it.

    with Node(folder, example(tps=..., pacs=...)) as node:
        ...
        node.kill9("work")
        node.wait_for(lambda: node.job(study)["state"] == "DELIVERED", 60)

Only processes of the node's own session are ever signalled, each by its pid.
"""

from __future__ import annotations

import copy
import json
import os
import signal
import socket
import subprocess
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from sqlalchemy import inspect, select

from npc_rtnode.adapters.database.engine import Sessions
from npc_rtnode.adapters.database.queries import Queries
from npc_rtnode.adapters.database.tables import AssociationRow, EventRow, InstanceRow, SeriesRow, StudyRow, Table
from npc_rtnode.adapters.predictions import PredictionFolder
from npc_rtnode.app import Station
from npc_rtnode.errors import LedgerUnavailable, NotFound
from npc_rtnode.settings import load_settings
from tests.acceptance import warm

ROOT = Path(__file__).parents[2]
POLL_S = 0.05
START_S = STOP_S = 120.0
CLI_S = 120.0
GONE_S = 5.0
"""Children of a supervisor that has ended, or was killed, have this long to end by themselves."""
_MOVING = {"RECEIVING", "COMPLETE", "QUEUED", "PREDICTING", "PREDICTED", "WRITING", "WRITTEN"}
"""The states of series and jobs in which more will happen by itself."""
Role = Literal["receive", "work"]
View = dict[str, Any]


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def example(**ports: int) -> View:
    """deploy/example.toml as it is shipped; only the destinations' ports and what a quick test needs are changed.

    The segmentation is left out too: test_profiles and the demo ask for every kind of object.
    """
    settings = tomllib.loads((ROOT / "deploy" / "example.toml").read_text("utf-8"))
    for destination in settings["destinations"]:
        destination["port"] = ports[destination["name"]]
        destination["objects"] = [kind for kind in destination["objects"] if kind != "SEG"]
    settings["assemble"] = {"quiet_s": 1}
    settings["select"] = {"study_quiet_s": 1}
    settings["deliver"] = {"first_retry_s": 1, "longest_retry_s": 2}
    settings["log"] = {"level": "debug"}
    settings["listener"]["reserve_free_mb"] = 64
    return settings


def wait_for(holds: Callable[[], object], seconds: float, why: Callable[[], str]) -> None:
    """Poll until `holds`; past the deadline fail with the words of `why`."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:g} s\n{why()}"
        time.sleep(POLL_S)


def run_cli(*args: str) -> subprocess.CompletedProcess[str]:
    """`npc-rtnode …`, in a process of its own."""
    return warm.run_cli(*args, seconds=CLI_S)


class Node:
    """`serve` with both roles as processes of their own, on a home and a port that stay the same over restarts."""

    def __init__(self, folder: Path, settings: View) -> None:
        """Nothing is started before `start` (or `with`)."""
        self.folder = folder
        self.home = folder / "home"
        self.config = folder / "node.toml"
        self.log = folder / "serve.log"
        self.port = free_port()
        self.said: list[str] = []
        """Everything that the CLI has said of this node."""
        self.killed = False
        self.left_behind: list[str] = []
        """What outlived the last stop, and was killed."""
        self._settings = copy.deepcopy(settings)
        self._settings["node"] = {"home": str(self.home), "site": "acceptance"}
        self._settings["listener"]["port"] = self.port
        self._serve: warm.Serving | None = None

    # --- life ---------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Node:
        """Settings written, ledger made, both roles up."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.config.write_text(_toml(self._settings), "utf-8")
        made = self.cli("db", "upgrade")
        assert made.returncode == 0, made.stderr
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop, and leave no process and no connection behind; whoever was killed on the way is looked over by fsck."""
        self.stop()
        if self.killed and kind is None:
            assert self.broken_promises() == {}
        if "station" in self.__dict__:
            self.station.close()

    def start(self) -> None:
        """Begin serving; returns when the receiver listens and the worker has its lock, or leaves no process behind."""
        self._serve = warm.Serving(["serve", "--config", str(self.config)], self.log)
        try:
            self.wait_for(self.is_up, START_S)
        except BaseException:
            self._end_all()
            raise

    def is_up(self) -> bool:
        """Whether a living receiver of ours listens and a worker runs."""
        assert self._serve is not None
        assert self._serve.poll() is None, f"serve ended with {self._serve.returncode}\n{self.log_tail()}"
        with suppress(FileNotFoundError, ValueError):
            said = json.loads((self.home / "run" / "listener.json").read_text("ascii"))
            return said["pid"] in self.pids("receive") and bool(self.pids("work"))
        return False

    def stop(self) -> int | None:
        """SIGTERM as a service manager would, then make sure; the exit code of `serve`."""
        if self._serve is None:
            return None
        self._serve.terminate()
        try:
            self._serve.wait(STOP_S)
        except subprocess.TimeoutExpired:
            _kill(self._serve.pid)
        deadline = time.monotonic() + GONE_S
        while self._session() and time.monotonic() < deadline:
            time.sleep(POLL_S)
        self.left_behind = [_command(pid) for pid in self._session()]
        for pid in self._session():
            _kill(pid)
        return self._serve.wait(STOP_S)

    def configure(self, change: Callable[[View], None]) -> None:
        """Change the settings file; it counts from the next start on."""
        change(self._settings)
        self.config.write_text(_toml(self._settings), "utf-8")

    def write_settings(self, path: Path, change: Callable[[View], None]) -> None:
        """The same settings with a change, in another file: for a further host."""
        settings = copy.deepcopy(self._settings)
        change(settings)
        path.write_text(_toml(settings), "utf-8")

    def restart(self) -> None:
        """Stop whatever is left and start again on the same home."""
        self.stop()
        self.start()

    def pids(self, role: Role) -> list[int]:
        """The processes that run this role."""
        wanted = f"\0--only\0{role}\0"
        return [pid for pid in self._session() if wanted in _command(pid)]

    def role_pid(self, role: Role) -> int:
        """The one process that runs this role."""
        (pid,) = self.pids(role)
        return pid

    def kill9(self, role: Role) -> int:
        """SIGKILL the role's process; its pid."""
        pid, self.killed = self.role_pid(role), True
        os.kill(pid, signal.SIGKILL)
        return pid

    def kill9_all(self) -> None:
        """SIGKILL everything of this node at once, the supervisor first."""
        self.killed = True
        self._end_all()
        self.wait_for(lambda: not self._session(), STOP_S)

    def _end_all(self) -> None:
        assert self._serve is not None
        for pid in [self._serve.pid, *self._session()]:
            _kill(pid)
        self._serve.wait(STOP_S)

    def _session(self) -> list[int]:
        """Every living process whose session is the one that we opened."""
        return [] if self._serve is None else list(_members(self._serve.pid))

    # --- what it says -------------------------------------------------------------------------------------------------

    def cli(self, *args: str) -> subprocess.CompletedProcess[str]:
        """`npc-rtnode … --config` on this node."""
        done = run_cli(*args, "--config", str(self.config))
        self.said.append(f"{args}\n{done.stdout}\n{done.stderr}")
        return done

    def broken_promises(self) -> dict[str, list[str]]:
        """What `fsck` finds on disk, in the ledger and in the log: by promise, in its words; empty where all hold."""
        done = self.cli("fsck", "--json", "--log", str(self.log))
        told = json.loads(done.stdout)
        assert (done.returncode == 0) is told["whole"], done.stderr
        assert len(told["promises"]) == 14
        return {one["code"]: one["breaches"] for one in told["promises"] if one["broken"]}

    @cached_property
    def station(self) -> Station:
        """Ledger, spool and outbox as the node has them."""
        return Station(load_settings(self.config, {}))

    @property
    def queries(self) -> Queries:
        """The ledger's reading room."""
        return self.station.queries

    @property
    def _sessions(self) -> Sessions:
        return self.station.sessions

    def log_text(self) -> str:
        """Everything that `serve` has said."""
        return self.log.read_text("utf-8", "replace") if self.log.exists() else ""

    def log_tail(self, lines: int = 40) -> str:
        """The last of it."""
        return "\n".join(self.log_text().splitlines()[-lines:])

    def study(self, uid: str) -> View | None:
        """All that is known of a study, None before its first instance."""
        with suppress(NotFound):
            return self.queries.study(uid)
        return None

    def series(self, uid: str) -> list[View]:
        """The series revisions of a study."""
        view = self.study(uid)
        return view["series"] if view else []

    def states(self, uid: str) -> list[str]:
        """The states of a study's series revisions, in order."""
        return [series["state"] for series in self.series(uid)]

    def jobs(self, uid: str) -> list[View]:
        """The jobs of a study, in order."""
        return [job for series in self.series(uid) for job in series["jobs"]]

    def job_states(self, uid: str) -> list[str]:
        """Their states."""
        return [job["state"] for job in self.jobs(uid)]

    def deliveries(self, uid: str) -> list[View]:
        """Every delivery of a study, with the kind of its object."""
        objects = [item for job in self.jobs(uid) for item in job["objects"]]
        return [{**delivery, "kind": item["kind"]} for item in objects for delivery in item["deliveries"]]

    def delivery(self, uid: str, destination: str) -> View | None:
        """The first delivery of a study to this destination, None while there is none."""
        return next((d for d in self.deliveries(uid) if d["destination"] == destination), None)

    def events(self, event: str = "") -> list[EventRow]:
        """Journal rows, of one kind or all."""
        query = select(EventRow).order_by(EventRow.seq)
        self.settle()
        with self._sessions.reading() as session:
            return list(session.scalars(query.where(EventRow.event == event) if event else query))

    def associations(self) -> list[AssociationRow]:
        """Who called."""
        self.settle()
        with self._sessions.reading() as session:
            return list(session.scalars(select(AssociationRow)))

    def fed_by(self, associations: Iterable[str]) -> list[View]:
        """The series revisions that took instances in from these associations, in order, with all that is known."""
        fed = select(InstanceRow.series_id).where(InstanceRow.association_id.in_(list(associations))).distinct()
        with self._sessions.reading() as session:
            wanted = set(session.scalars(fed))
            uids = select(StudyRow.study_uid).join(SeriesRow).where(SeriesRow.id.in_(wanted)).distinct()
            found = [series for uid in session.scalars(uids) for series in self.series(uid)]
        return sorted((view for view in found if view["series"] in wanted), key=lambda view: int(view["series"]))

    def settled(self) -> bool:
        """Whether nothing at all is under way any more."""
        counts = self.queries.counts()
        return not (_MOVING & (set(counts["series"]) | set(counts["jobs"])))

    def settle(self, seconds: float = 20) -> None:
        """Until the ledger has what was acknowledged before, or that time is over."""
        deadline = time.monotonic() + seconds
        while self.station.notes.waiting(self.station.queries.entered()) and time.monotonic() < deadline:
            time.sleep(POLL_S)

    def instances(self, settled: bool = True) -> dict[str, InstanceRow]:
        """Every instance that the ledger has, by SOP Instance UID."""
        return {row.sop_uid: row for row in self.instance_rows(settled)}

    def instance_rows(self, settled: bool = True) -> list[InstanceRow]:
        """Every instance that the ledger has, once it is up to date; conflicting contents have a row each."""
        if settled:
            self.settle()
        with self._sessions.reading() as session:
            return list(session.scalars(select(InstanceRow)))

    def copies(self, sop_uid: str) -> list[str]:
        """The SHA-256 of every content under a SOP Instance UID, in order of arrival."""
        query = select(InstanceRow.sha256).where(InstanceRow.sop_uid == sop_uid).order_by(InstanceRow.id)
        self.settle()
        with self._sessions.reading() as session:
            return list(session.scalars(query))

    def tables(self) -> dict[str, list[tuple[Any, ...]]]:
        """Every row of every table, to compare before and after."""
        with self._sessions.reading() as session:
            names = inspect(session.get_bind()).get_table_names()
            tables = [Table.metadata.tables[name] for name in names if name in Table.metadata.tables]
            return {t.name: [tuple(row) for row in session.execute(select(t))] for t in tables}

    def predictions(self) -> PredictionFolder:
        """What the model said, as stored between infer and write."""
        return PredictionFolder(self.home / "work")

    # --- waiting ------------------------------------------------------------------------------------------------------

    def wait_for(self, holds: Callable[[], object], seconds: float = 120) -> None:
        """Poll until it holds; on failure the log's end and all studies are told."""
        wait_for(holds, seconds, self.story)

    def story(self) -> str:
        """How every study stands, and what `serve` said last."""
        said = []
        if self._has_tables():
            for line in self.queries.studies():
                said += [f"study {line['study']} {line['states']}"]
                said += [f"  {self._brief(series)}" for series in self.queries.study(line["study"])["series"]]
        return "\n".join([*said, "--- serve said", self.log_tail()])

    def _has_tables(self) -> bool:
        """Whether there is a ledger to be asked, be it SQLite's or a server's that is up."""
        if not self.home.exists():
            return False
        with suppress(LedgerUnavailable), self._sessions.reading() as session:
            return bool(inspect(session.get_bind()).get_table_names())
        return False

    @staticmethod
    def _brief(series: View) -> str:
        jobs = [
            (job["state"], job["reasons"], job["last_error"], [a["outcome"] for a in job["attempts"]])
            for job in series["jobs"]
        ]
        owed = [
            (d["destination"], d["state"], d["status"], d["last_error"])
            for job in series["jobs"]
            for item in job["objects"]
            for d in item["deliveries"]
        ]
        return f"{series['state']} {series['instances']} {series['reasons']} jobs {jobs} deliveries {owed}"

    def final(self, uid: str) -> bool:
        """Whether nothing of this study is under way any more."""
        states = self.states(uid)
        return bool(states) and not _MOVING & {*states, *self.job_states(uid)}

    def delivered(self, uid: str, seconds: float = 120) -> View:
        """Wait until the study's jobs have ended; the last one, which must be DELIVERED."""
        self.wait_for(lambda: self.jobs(uid) and self.final(uid), seconds)
        job = self.jobs(uid)[-1]
        assert job["state"] == "DELIVERED", self.story()
        return job


# --- processes --------------------------------------------------------------------------------------------------------


def _members(session: int) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, IndexError):
                state, _parent, _group, owner = (entry / "stat").read_text().rsplit(")", 1)[1].split()[:4]
                if int(owner) == session and state != "Z":
                    yield int(entry.name)


def _command(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace")
    return ""


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


# --- TOML -------------------------------------------------------------------------------------------------------------


def _toml(settings: View) -> str:
    """A settings file: one table a section, everything below it in line."""
    tables = {name: value for name, value in settings.items() if isinstance(value, dict)}
    plain = {name: value for name, value in settings.items() if name not in tables}
    lines = [f"{name} = {_value(value)}" for name, value in plain.items()]
    for name, section in tables.items():
        lines += ["", f"[{name}]", *(f"{key} = {_value(value)}" for key, value in section.items())]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_value(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
