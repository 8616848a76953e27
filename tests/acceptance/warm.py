"""`npc-rtnode …` without the seconds that its start takes: a process that has it loaded forks a child for each verb.

A verb is a process of its own all the same, with arguments, environment, streams and exit code of its own; it ends as
an interpreter ends. So is `serve`, whose two roles it starts cold. All is cold in test_supervisor and test_wheel.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).parents[2]


class Warm:
    """A process that has the CLI loaded; it ends with us."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "tests.acceptance.warm", str(theirs.fileno())]
            given = {"cwd": ROOT, "stdin": subprocess.DEVNULL, "pass_fds": [theirs.fileno()]}
            self._process = subprocess.Popen(command, **given)  # type: ignore[call-overload]
        self._link = ours
        self._words = ours.makefile("rw", encoding="utf-8")
        atexit.register(self.close)

    def begin(self, args: Sequence[str], out: Path, err: Path, leads: bool = False) -> int:
        """One verb, its words appended to these files; `leads` a session of its own. Its pid."""
        verb = {"args": [*args], "streams": [str(out), str(err)], "leads": leads, "environment": dict(os.environ)}
        self._words.write(json.dumps(verb) + "\n")
        self._words.flush()
        return int(self._words.readline())

    def end(self, seconds: float | None = None) -> int:
        """Its exit code, once it has ended. TimeoutError."""
        self._link.settimeout(seconds)
        return int(self._words.readline())

    def close(self) -> None:
        """Gone."""
        atexit.unregister(self.close)
        with suppress(OSError):
            self._words.close()
        self._link.close()
        self._process.wait(60)


_idle: list[Warm] = []
"""Several verbs at a time have a warm process each."""


def run_cli(*args: str, seconds: float) -> subprocess.CompletedProcess[str]:
    """`npc-rtnode …`, in a process of its own. subprocess.TimeoutExpired."""
    warm = _idle.pop() if _idle else Warm()
    with tempfile.TemporaryDirectory(prefix="npc-rtnode-cli-") as name:
        out, err = Path(name) / "out", Path(name) / "err"
        pid = warm.begin(args, out, err)
        try:
            code = warm.end(seconds)
        except TimeoutError:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            warm.close()
            raise subprocess.TimeoutExpired([*args], seconds) from None
        said = [stream.read_text("utf-8") for stream in (out, err)]
    _idle.append(warm)
    return subprocess.CompletedProcess(["npc-rtnode", *args], code, *said)


class Serving:
    """A verb that goes on, in a session of its own: as much of subprocess.Popen as a node needs."""

    def __init__(self, args: Sequence[str], log: Path) -> None:
        self._warm = _idle.pop() if _idle else Warm()
        self.pid = self._warm.begin(args, log, log, leads=True)
        self.returncode: int | None = None
        self._over = threading.Event()
        threading.Thread(target=self._wait, name="serving", daemon=True).start()

    def _wait(self) -> None:
        self.returncode = self._warm.end()
        _idle.append(self._warm)
        self._over.set()

    def poll(self) -> int | None:
        """Its exit code; None while it lives."""
        return self.returncode if self._over.is_set() else None

    def wait(self, seconds: float) -> int:
        """Its exit code, waited for. subprocess.TimeoutExpired."""
        if not self._over.wait(seconds):
            raise subprocess.TimeoutExpired("serve", seconds)
        return int(self.returncode or 0)

    def terminate(self) -> None:
        """SIGTERM, as a service manager would."""
        if not self._over.is_set():
            os.kill(self.pid, signal.SIGTERM)


# --- there ------------------------------------------------------------------------------------------------------------


def next_verb(link: socket.socket, words: TextIO) -> dict[str, Any] | None:
    """In each child what it is to do; in the process itself None, once nobody asks any more."""
    for line in words:
        pid = os.fork()
        if pid == 0:
            link.close()
            return dict(json.loads(line))
        words.write(f"{pid}\n")
        words.flush()
        words.write(f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n")
        words.flush()
    return None


def become(verb: dict[str, Any]) -> None:
    """What `python -m npc_rtnode …` is, from here on."""
    if verb["leads"]:
        os.setsid()
    for number, stream in enumerate(verb["streams"], 1):
        os.dup2(os.open(stream, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
    os.environ.clear()
    os.environ.update(verb["environment"])
    sys.argv = ["npc-rtnode", *verb["args"]]
    runpy.run_module("npc_rtnode", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    import npc_rtnode.cli  # noqa: F401 - this is what takes the time

    gc.freeze()  # the children look for no garbage in what they share
    with socket.socket(fileno=int(sys.argv[1])) as there:
        asked = next_verb(there, there.makefile("rw", encoding="utf-8"))
    if asked is not None:
        become(asked)
