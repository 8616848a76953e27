"""A living receiver: `serve --only receive` in a process of its own, with its ledger, its spool and what it uses up.

Only its deadlines may be shortened (a hostile peer's whole patience would be minutes of test), nothing else is changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from npc_rtnode.adapters.database import schema
from npc_rtnode.adapters.database.engine import open_engine
from npc_rtnode.adapters.intake_journal import JournalReader

ROOT: Final = Path(__file__).parents[2]
START_S = STOP_S = 60.0
_LAUNCH: Final = """
from npc_rtnode.adapters.dicom.listener import guarded_socket, offer
guarded_socket.PDU_GRACE_S, offer.ASSOCIATE_TIMEOUT_S = {pdu_s}, {associate_s}
from npc_rtnode.__main__ import main
main()
"""


class Use(NamedTuple):
    """What a process has of the machine now."""

    threads: int
    descriptors: int
    rss_mb: float
    parts: int


def eventually(holds: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Whether it holds before the time is over; once is enough, a moment later it may not."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.05)
    return True


class Receiver:
    """Started by `with`; `deadlines` are (of a PDU, of an association request) in seconds."""

    def __init__(self, folder: Path, deadlines: tuple[float, float] = (4.0, 10.0), **listener: Any) -> None:
        """Nothing is started yet; `listener` are settings of that section."""
        self.home, self._log, self._config = folder / "home", folder / "receive.log", folder / "node.toml"
        self._deadlines = deadlines
        self._listener = {"port": 0, "reserve_free_mb": 0, "idle_timeout_s": 60, "max_associations": 20, **listener}
        self.descriptors_before: tuple[int, ...] = ()
        self.port = 0

    def __enter__(self) -> Receiver:
        """Ledger made, process up, listening."""
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        lines = [f"{key} = {json.dumps(value)}" for key, value in self._listener.items()]
        peers = '[[listener.peers]]\nae_title = "PACS"\nnetworks = ["127.0.0.0/8"]'
        self._config.write_text(f'[node]\nhome = "{self.home}"\n[listener]\n' + "\n".join([*lines, peers, ""]), "utf-8")
        engine = open_engine(f"sqlite:///{self.home / 'ledger.db'}")
        schema.upgrade(engine)
        engine.dispose()
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End it, if it has not ended."""
        self._end()

    def _end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(STOP_S)

    def _start(self) -> None:
        pdu_s, associate_s = self._deadlines
        code = _LAUNCH.format(pdu_s=pdu_s, associate_s=associate_s)
        command = [sys.executable, "-c", code, "serve", "--only", "receive", "--config", str(self._config)]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=self.descriptors_before,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        assert eventually(self._listens, START_S), self.said()

    def _listens(self) -> bool:
        assert self.process.poll() is None, self.said()
        with contextlib.suppress(FileNotFoundError, ValueError):
            said = json.loads((self.home / "run" / "listener.json").read_text("ascii"))
            self.port = said["port"]
            return bool(said["pid"] == self.process.pid)
        return False

    def terminate(self) -> tuple[int, float]:
        """SIGTERM; the exit code and the seconds that it took."""
        begun = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_S), time.monotonic() - begun

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None

    def use(self) -> Use:
        """Of the machine, now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text("ascii").splitlines()
        values = {line.split(":")[0]: line.split()[1] for line in status if len(line.split()) > 1}
        descriptors = len(os.listdir(f"/proc/{self.process.pid}/fd"))
        return Use(int(values["Threads"]), descriptors, int(values["VmRSS"]) / 1024, len(self.parts()))

    def peak_mb(self) -> float:
        """The most memory that it has had since `forget_peak`."""
        status = Path(f"/proc/{self.process.pid}/status").read_text("ascii")
        return int(status.split("VmHWM:")[1].split()[0]) / 1024

    def forget_peak(self) -> None:
        """Begin the count of `peak_mb` anew."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5", "ascii")

    def parts(self) -> list[Path]:
        """Unfinished files in the spool."""
        return list((self.home / "spool" / "incoming").glob("*.part"))

    def said(self) -> str:
        """Everything that it has logged."""
        return self._log.read_text("utf-8", "replace")

    def waiting(self) -> int:
        """Records of the intake journal that the ledger does not have yet."""
        with contextlib.closing(sqlite3.connect(f"file:{self.home / 'ledger.db'}?mode=ro", uri=True)) as ledger:
            (applied,) = ledger.execute("SELECT applied FROM intake_position").fetchone() or (0,)
        return len(JournalReader(self.home / "spool" / "journal").waiting(applied))

    def rows(self) -> dict[str, list[str]]:
        """SHA-256 of every content that the ledger knows, by SOP Instance UID, once it has what was acknowledged."""
        assert eventually(lambda: self.waiting() == 0, 60), self.said()
        found: dict[str, list[str]] = {}
        with contextlib.closing(sqlite3.connect(f"file:{self.home / 'ledger.db'}?mode=ro", uri=True)) as ledger:
            for sop_uid, sha256 in ledger.execute("SELECT sop_uid, sha256 FROM instances"):
                found.setdefault(sop_uid, []).append(sha256)
        return found

    def talking(self) -> int:
        """How many associations have not ended, by the ledger."""
        assert eventually(lambda: self.waiting() == 0, 60), self.said()
        with contextlib.closing(sqlite3.connect(f"file:{self.home / 'ledger.db'}?mode=ro", uri=True)) as ledger:
            return int(ledger.execute("SELECT count(*) FROM associations WHERE ended_at IS NULL").fetchone()[0])

    def kept(self, sop_uid: str) -> list[bytes]:
        """The files under that UID, each with a row and the digest that the row names."""
        return self.whole(self.rows().get(sop_uid, []))

    def whole(self, digests: list[str]) -> list[bytes]:
        """The spool's files of these names that have the digest of their name."""
        files = [(sha256, self.home / "spool" / sha256[:2] / sha256) for sha256 in digests]
        contents = [(sha256, path.read_bytes()) for sha256, path in files if path.exists()]
        return [data for sha256, data in contents if hashlib.sha256(data).hexdigest() == sha256]
