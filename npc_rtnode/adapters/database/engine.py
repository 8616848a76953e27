"""Engines: SQLite in WAL mode with FULL sync (a commit survives power loss), or PostgreSQL, by URL."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session, sessionmaker

from npc_rtnode.errors import ConfigFault, LedgerUnavailable

BUSY_TIMEOUT_S = 10
"""How long a writer waits for another before the sender is asked to try again (intake.md 1.5)."""


_SQLITE_WORDS = {
    "SQLITE_BUSY": "another process holds it",
    "SQLITE_CANTOPEN": "its file cannot be opened by this user",
    "SQLITE_FULL": "the disk under it is full; make space",
    "SQLITE_IOERR_WRITE": "the disk under it does not take what is written",
    "SQLITE_READONLY": "its file cannot be written by this user",
}


def open_engine(url: str) -> Engine:
    """An engine for the ledger; nothing is connected yet."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return _sqlite(url)
    if parsed.get_backend_name() == "postgresql":
        return create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": BUSY_TIMEOUT_S})
    raise ConfigFault(f"database.url: {parsed.get_backend_name()} is not supported; use SQLite or PostgreSQL")


def _sqlite(url: str) -> Engine:
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S})
    event.listen(engine, "connect", _set_pragmas)
    event.listen(engine, "begin", _begin)
    return engine


def _set_pragmas(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions are begun by `_begin`, not by the driver's guess
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: Any) -> None:
    reading = connection.get_execution_options().get("reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


class Sessions:
    """Where transactions come from: `writing()` commits or rolls back as one, `reading()` never waits for a writer."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        weakref.finalize(self, engine.dispose)  # whoever forgets to: pooled connections are closed, not only dropped
        self._writing = sessionmaker(engine, expire_on_commit=False)
        self._reading = sessionmaker(engine.execution_options(reading=True), expire_on_commit=False)

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """One transaction. A database that is away or busy too long is LedgerUnavailable."""
        with translated(), self._writing.begin() as session:
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """One consistent look."""
        with translated(), self._reading() as session:
            yield session


@contextmanager
def translated() -> Iterator[None]:
    """The driver's words (which may hold values) stay behind; the type of the failure goes on."""
    try:
        yield
    except OperationalError as error:
        raise LedgerUnavailable(_cause(error)) from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise LedgerUnavailable(_cause(error)) from error
        raise


def _cause(error: DBAPIError) -> str:
    """SQLite's own name for it with our words, else the type: a driver's words may hold values."""
    name = getattr(error.orig, "sqlite_errorname", type(error.orig).__name__)
    return f"{name}: {_SQLITE_WORDS[name]}." if name in _SQLITE_WORDS else f"{name}."
