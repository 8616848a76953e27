"""The receiver tells the worker that a series may be over: a named pipe below `run`, one byte a ring, nothing in it.

It saves the two seconds until the worker's next look, and no more than that: a ring that nobody hears is no loss,
because what is due stands in the ledger.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

_ROUND_S: Final = 0.5
"""How soon `Porter.stop` is noticed."""


def ring(bell: Path) -> None:
    """Wake whoever waits there; nobody waiting, or a pipe full of rings, is as good."""
    with suppress(OSError):
        end = os.open(bell, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.write(end, b"\a")
        finally:
            os.close(end)


class Porter:
    """Waits at the bell in a thread of its own and calls `rung` once for all the rings that came meanwhile."""

    def __init__(self, bell: Path, rung: Callable[[], object]) -> None:
        """Nothing is opened before `start`."""
        self._bell = bell
        self._rung = rung
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._wait, name="porter", daemon=True)

    def start(self) -> None:
        """Make the pipe, for this user alone, and wait. OSError where the file system has no named pipes."""
        if not self._bell.is_fifo():
            self._bell.unlink(missing_ok=True)
            os.mkfifo(self._bell, 0o600)
        self._end = os.open(self._bell, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)  # its own writer: it never ends
        self._thread.start()

    def stop(self) -> None:
        """Wait no more."""
        self._stopping.set()
        self._thread.join()
        os.close(self._end)

    def _wait(self) -> None:
        while not self._stopping.is_set():
            if select.select([self._end], [], [], _ROUND_S)[0]:
                os.read(self._end, 65536)
                self._rung()
