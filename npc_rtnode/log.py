"""What the node says while running: structlog over the standard library, one JSON object a line, no patient identity.

Libraries that print what they receive are silenced: pynetdicom prints passwords and tracebacks, pydicom values
(intake.md 1.2 row 30). What they would say is told by our own events, in our own words.
"""

from __future__ import annotations

import logging
import sys
import traceback
from typing import Any

import structlog

_QUIET = ("pynetdicom", "pydicom", "rt_utils", "highdicom", "apscheduler", "alembic", "sqlalchemy", "matplotlib")


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
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def get(name: str) -> Any:
    """A logger that says which room speaks."""
    return structlog.get_logger(room=name.removeprefix("npc_rtnode."))


def where(error: BaseException) -> str:
    """File and line where it went wrong, without the words of the exception, which may hold identity."""
    frames = traceback.extract_tb(error.__traceback__)
    return " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames[-4:]))
