"""A program of another maker that serves on a loopback port: started, waited for, and ended by its own pid."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.acceptance.node import wait_for

START_S, STOP_S = 30.0, 20.0


class Program:
    """A context manager around one process; what it says is kept beside its data and told when something fails."""

    def __init__(self, folder: Path, port: int) -> None:
        """Nothing is started before `up` (or `with`)."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = port
        self.log = folder / "program.log"
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> Sequence[str]:
        """What is run, in `folder`."""
        raise NotImplementedError

    @property
    def ports(self) -> Sequence[int]:
        """Where it answers once it is up."""
        return [self.port]

    def __enter__(self) -> Self:
        """Serving."""
        return self.up()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Nobody serves any more."""
        self.down()

    def up(self) -> Self:
        """Start, and return when its ports answer; a program that ends at once fails with its own words."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                list(self.command()), cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            wait_for(self._answers, START_S, self.said)
        except BaseException:
            self.down()
            raise
        return self

    def down(self) -> None:
        """SIGTERM, then SIGKILL if it must be, to this process alone."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(STOP_S)
        self._process = None

    def said(self) -> str:
        """The end of what it has said."""
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-40:])

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"{self.command()[0]} ended with {self._process.returncode}\n{self.said()}"
        return all(map(is_open, self.ports))


def is_open(port: int) -> bool:
    """Whether somebody listens there."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False
