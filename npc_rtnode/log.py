"""What the node says while running: structlog over the standard library, one JSON object a line, no patient identity.

Libraries that print what they receive are silenced: pynetdicom prints passwords and tracebacks, pydicom values
(intake.md 1.2 row 30). What they would say is told by our own events, in our own words.
"""

from __future__ import annotations

import logging
import sys
import traceback
from contextlib import suppress
from typing import Any, TextIO

import structlog

_QUIET = (
    *("pynetdicom", "pydicom", "rt_utils", "highdicom", "apscheduler", "alembic", "sqlalchemy", "matplotlib"),
    *("fpdf", "fontTools"),  # they name the letters that a font lacks
)


class _Lossy:
    """A stream on which a line that cannot be written (disk full, reader gone) is lost, and nothing else is."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """Write, or lose it."""
        with suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        """Flush, or lose it."""
        with suppress(OSError):
            self._stream.flush()


def set_up(level: str, form: str) -> None:
    """Configure once per process; `form` is json or console."""
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(levelname)s", stream=sys.stderr, force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    renderer: Any = structlog.processors.JSONRenderer() if form == "json" else structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(_Lossy(sys.stderr)),  # type: ignore[arg-type]  # it only prints
        cache_logger_on_first_use=False,
    )


def get(name: str) -> Any:
    """A logger that says which room speaks."""
    return structlog.get_logger(room=name.removeprefix("npc_rtnode."))


def where(error: BaseException) -> str:
    """File and line where it went wrong, without the words of the exception, which may hold identity."""
    frames = traceback.extract_tb(error.__traceback__)
    return " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames[-4:]))
