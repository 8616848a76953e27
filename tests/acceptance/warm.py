"""`npc-rtnode …` without the seconds that its start takes: a process that has it loaded forks a child for each verb.

A verb is a process of its own all the same, with arguments, environment, streams and exit code of its own; it ends as
an interpreter ends. `serve` is always started cold, and so is every verb of the wheel and of the upgrade.
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

    def run(self, args: Sequence[str], folder: Path, seconds: float) -> int:
        """One verb, its words into `out` and `err` of this folder; its exit code. subprocess.TimeoutExpired."""
        self._link.settimeout(seconds)
        order = {"args": [*args], "folder": str(folder), "environment": dict(os.environ)}
        self._words.write(json.dumps(order) + "\n")
        self._words.flush()
        pid = self._heard()
        try:
            return self._heard()
        except TimeoutError:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            self.close()
            raise subprocess.TimeoutExpired([*args], seconds) from None

    def _heard(self) -> int:
        return int(self._words.readline())

    def close(self) -> None:
        """Gone."""
        atexit.unregister(self.close)
        with suppress(OSError):
            self._words.close()
        self._link.close()
        self._process.wait(60)


_idle: list[Warm] = []


def run_cli(*args: str, seconds: float) -> subprocess.CompletedProcess[str]:
    """`npc-rtnode …`, in a process of its own. Several at a time have a warm process each."""
    warm = _idle.pop() if _idle else Warm()
    with tempfile.TemporaryDirectory(prefix="npc-rtnode-cli-") as name:
        code = warm.run(args, Path(name), seconds)
        said = [(Path(name) / stream).read_text("utf-8") for stream in ("out", "err")]
    _idle.append(warm)
    return subprocess.CompletedProcess(["npc-rtnode", *args], code, *said)


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
    for number, stream in ((1, "out"), (2, "err")):
        os.dup2(os.open(Path(verb["folder"]) / stream, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
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
