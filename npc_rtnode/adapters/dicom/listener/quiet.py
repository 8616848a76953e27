"""The libraries' own words, which are not said while a listener runs: we tell what happened in ours."""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import Any, Final

import pydicom.config
from pynetdicom import _config


class _Quiet:
    """Process-wide: while a listener runs, pynetdicom's event loggers (which print User Identity passwords at DEBUG)
    are unbound, what it and pydicom would log is dropped (peers' bytes and tracebacks, row 30; it is told in our own
    words), and pydicom does not warn of odd values in commands, which are checked here. The first listener in sets it,
    the last one out puts it back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._undo = contextlib.ExitStack()

    def enter(self) -> None:
        """Count one listener in."""
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._set()

    def leave(self) -> None:
        """Count one listener out."""
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._undo.close()

    def _set(self) -> None:
        self._swap(_config, "LOG_HANDLER_LEVEL", "none")
        self._swap(pydicom.config.settings, "reading_validation_mode", pydicom.config.IGNORE)
        for name in ("pynetdicom", "pydicom"):
            library = logging.getLogger(name)
            self._undo.callback(library.setLevel, library.level)
            library.setLevel(logging.CRITICAL)

    def _swap(self, owner: Any, name: str, value: Any) -> None:
        self._undo.callback(setattr, owner, name, getattr(owner, name))
        setattr(owner, name, value)


QUIET: Final = _Quiet()
