"""A worker host as a process of its own: leases, pulse, recovery and carrier are real, the work only takes a while.

    with Worker(url, "procrastinate", "host-a", folder, seconds=0.2) as worker:
        worker.stop()          # SIGSTOP; `wake` SIGCONT, `kill` SIGKILL

A piece of work begun leaves `begun-<job>-<owner>` in the folder. While `wait-<job>` is there it is not ended;
`die-<job>` kills whoever begins it; while `shut-<owner>` is there nothing is fetched by that host; `clock-<owner>`
holds the seconds by which that host's clock is wrong from then on.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType

from npc_rtnode.adapters.database.carrier import Embedded
from npc_rtnode.adapters.database.engine import Sessions, open_engine
from npc_rtnode.adapters.database.work import WorkLedger
from npc_rtnode.adapters.dicom.tls import client_context, server_context
from npc_rtnode.adapters.exchange import OUTBOX, SPOOL, Counter, Errand, FetchedSpool, Rooms, Secret
from npc_rtnode.adapters.spool import FileSpool
from npc_rtnode.domain.identifiers import sha256_hex
from npc_rtnode.domain.leases import LeaseWatch
from npc_rtnode.domain.lifecycle import JobState
from npc_rtnode.domain.records import JobInHand
from npc_rtnode.domain.retry import RetryPolicy
from npc_rtnode.errors import LedgerUnavailable
from npc_rtnode.pipeline.attempt import Barrier
from npc_rtnode.pipeline.sweep import Pulse, Recovery
from npc_rtnode.ports import Carrier
from npc_rtnode.schedule import Metronome, Tick
from npc_rtnode.settings import TlsSettings

ROOT = Path(__file__).parents[2]
BEAT_S, SILENT_S = 0.5, 3.0


def carrier_of(kind: str, sessions_url: str) -> Carrier:
    """The carrier by the name that the settings give it."""
    if kind == "embedded":
        return Embedded()
    from npc_rtnode.adapters.database.procrastinated import Procrastinated

    return Procrastinated(open_engine(sessions_url), SILENT_S)


class Worker:
    """The process as its test sees it."""

    def __init__(
        self, url: str, kind: str, owner: str, folder: Path, seconds: float = 0.2, prefix: tuple[str, ...] = ()
    ) -> None:
        """Nothing is started before `with`; `prefix` runs a command on the worker's host."""
        self.owner, self._folder = owner, folder
        self._command = [
            *prefix,
            sys.executable,
            "-m",
            "tests.builders.workers",
            url,
            kind,
            owner,
            str(folder),
            str(seconds),
        ]
        self._log = folder / f"{owner}.log"

    def __enter__(self) -> Worker:
        """Returns when it looks for work."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, cwd=ROOT, stdout=log, stderr=log)
        up = self._folder / f"up-{self.owner}-{self._process.pid}"
        wait_for(up.exists, 60, self.told)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Gone, however."""
        self.kill()

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """SIGSTOP: frozen, with all that it has in hand."""
        self._process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        """SIGCONT."""
        self._process.send_signal(signal.SIGCONT)

    def is_dead(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    def told(self) -> str:
        """What it said."""
        return self._log.read_text("utf-8", "replace")[-3000:]


def wait_for(holds: Callable[[], object], seconds: float, why: Callable[[], object] = str) -> None:
    """Poll until it holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:g} s\n{why()}"
        time.sleep(0.05)


# --- there ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """What infer is without a model."""

    pages: WorkLedger
    barrier: Barrier
    owner: str
    folder: Path
    seconds: float
    errand: Errand | None = None

    def run(self, only: int | None = None) -> bool:
        """Do one job, or that very one."""
        job = self.pages.claim_job(JobState.QUEUED, "infer", self.barrier.clock(), SILENT_S, only)
        if job is None:
            return False
        with self.barrier.attempt(job.lease, job.series.study_reference):
            self._fetch(job)
            self._do(job.lease.subject_id)
            self._leave(job)
            self.pages.predicted(job.lease, {"by": self.owner}, self.barrier.clock())
        return True

    def _fetch(self, job: JobInHand) -> None:
        if self.errand is not None:
            cache = FetchedSpool(FileSpool(self.folder / f"cache-{self.owner}", 0), self.errand, SPOOL)
            assert all(cache.read(sha256) for _, sha256 in job.series.inputs)

    def _leave(self, job: JobInHand) -> None:
        if self.errand is not None:
            result = f"the result of {job.work_key}".encode()
            self.errand.leave(OUTBOX, sha256_hex(result), result)

    def _do(self, job: int) -> None:
        (self.folder / f"begun-{job}-{self.owner}").touch()
        if (self.folder / f"die-{job}").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.seconds)
        while (self.folder / f"wait-{job}").exists():
            time.sleep(0.05)


def serve(url: str, kind: str, owner: str, folder: Path, seconds: float) -> None:
    """Work until killed."""

    def clock() -> datetime:
        with suppress(FileNotFoundError, ValueError):
            return datetime.now(UTC) + timedelta(seconds=float((folder / f"clock-{owner}").read_text()))
        return datetime.now(UTC)

    carrier = carrier_of(kind, url)
    pages, in_hand = WorkLedger(Sessions(open_engine(url), carrier), owner), dict[str, str]()
    barrier = Barrier(pages, RetryPolicy(0.5, 1), clock, in_hand, SILENT_S)
    stage = Stage(pages, barrier, owner, folder, seconds, _errand(folder, owner))
    pulse = Pulse(pages, in_hand, SILENT_S, clock, lambda _: None)
    recovery = Recovery(pages, carrier, LeaseWatch(SILENT_S), in_hand, clock, time.monotonic)
    pages.recover_all(clock())
    lanes = [Tick("infer", lambda: _until_none(stage), 0.2)] if kind == "embedded" else []
    beating = Tick("pulse", pulse.beat, BEAT_S)
    Metronome([*lanes, beating, Tick("recover", recovery.run, SILENT_S / 3)]).start()
    if kind != "embedded":
        from npc_rtnode.adapters.database.courier import Courier

        def begins(_resource: str) -> bool:
            return not (folder / f"shut-{owner}").exists()

        Courier(url, {"gpu": stage.run}, BEAT_S, SILENT_S, begins).start()
    (folder / f"up-{owner}-{os.getpid()}").touch()
    signal.pause()


def _errand(folder: Path, owner: str) -> Errand | None:
    """The way to the node, where the test has described one."""
    if not (folder / f"reach-{owner}.json").exists():
        return None
    said = json.loads((folder / f"reach-{owner}.json").read_text())
    context = client_context(TlsSettings.model_validate(said["tls"]), said["bound"], [])
    return Errand(said["node"], Secret(folder / "secret"), lambda: context, timeout_s=5)


def serve_files(order: Path) -> None:
    """The node's desk for files, until killed."""
    said = json.loads(order.read_text())
    folder, tls = Path(said["folder"]), TlsSettings.model_validate(said["tls"])
    spools = {SPOOL: FileSpool(folder / "spool", 0), OUTBOX: FileSpool(folder / "outbox", 0)}
    rooms = Rooms(spools, folder / "work")
    Counter(("0.0.0.0", said["port"]), rooms, Secret(folder / "secret"), lambda: server_context(tls)).start()  # noqa: S104
    (folder / "files-up").touch()
    signal.pause()


def _until_none(stage: Stage) -> None:
    with suppress(LedgerUnavailable):
        while stage.run():
            pass


if __name__ == "__main__" and sys.argv[1] == "files":
    serve_files(Path(sys.argv[2]))
elif __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]), float(sys.argv[5]))
