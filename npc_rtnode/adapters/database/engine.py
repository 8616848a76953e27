"""Engines: SQLite in WAL mode with FULL sync (a commit survives power loss), or PostgreSQL, by URL.

On both, whoever writes has the ledger to itself from its first statement to its commit: BEGIN IMMEDIATE on SQLite, one
advisory lock on PostgreSQL (ADR 0011). What a writer has read still holds when it writes, no two writers wait for each
other, the chain of events does not fork. Readers see one moment and wait for nobody.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, DBAPIError, InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, sessionmaker

from npc_rtnode.adapters.database.carrier import Embedded, hand_over
from npc_rtnode.errors import ConfigFault, LedgerUnavailable, SchemaFault
from npc_rtnode.ports import Carrier

BUSY_TIMEOUT_S = 10
"""How long a writer waits for another, for a connection or for a server, before the sender is asked to try again."""
STATEMENT_TIMEOUT_S = 30
"""PostgreSQL ends a statement of ours that takes longer; `db upgrade` alone may."""
FORSAKEN_S = 60
"""PostgreSQL ends a transaction whose process has said nothing for so long: a frozen process keeps nobody waiting."""
WRITERS_LOCK = 0x6E7063
"""The number of the one advisory lock; a database is one ledger's, so nobody else's number can be the same."""

_READING: Mapping[str, Mapping[str, Any]] = {"sqlite": {}, "postgresql": {"isolation_level": "REPEATABLE READ"}}
_NOT_SET_UP = {"InsufficientPrivilege", "UndefinedTable", "UndefinedColumn", "InvalidSchemaName"}


_SQLITE_WORDS = {
    "SQLITE_BUSY": "another process holds it",
    "SQLITE_CANTOPEN": "its file cannot be opened by this user",
    "SQLITE_FULL": "the disk under it is full; make space",
    "SQLITE_IOERR_WRITE": "the disk under it does not take what is written",
    "SQLITE_READONLY": "its file cannot be written by this user",
}


def open_engine(url: str) -> Engine:
    """An engine for the ledger; nothing is connected yet. A ConfigFault never repeats the URL: it has a password."""
    makers: Mapping[str, Callable[[URL], Engine]] = {"sqlite": _sqlite, "postgresql": _postgresql}
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        hint = "in a password, characters such as @ : / % are written as %40 %3A %2F %25"
        raise ConfigFault(f"database.url is not a SQLAlchemy URL; {hint}") from None
    kind = parsed.drivername.partition("+")[0]
    if kind not in makers:
        raise ConfigFault(f"database.url: {kind} is not supported; use SQLite or PostgreSQL")
    return makers[kind](parsed)


# --- SQLite -----------------------------------------------------------------------------------------------------------


def _sqlite(url: URL) -> Engine:
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S}, **_pool_limits(url))
    event.listen(engine, "connect", _set_pragmas)
    event.listen(engine, "begin", _begin)
    return engine


def _pool_limits(url: URL) -> dict[str, Any]:
    """A database in memory has no pool to wait for."""
    return {"pool_timeout": BUSY_TIMEOUT_S} if url.database not in {None, "", ":memory:"} else {}


def _set_pragmas(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions are begun by `_begin`, not by the driver's guess
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


@contextmanager
def unchecked(connection: Connection) -> Iterator[None]:
    """SQLite alone: this connection, before its transaction begins, does not check foreign keys meanwhile."""
    driver: Any = connection.connection.driver_connection
    driver.execute("PRAGMA foreign_keys=OFF")
    try:
        yield
    finally:
        driver.execute("PRAGMA foreign_keys=ON")


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN" if _is_reading(connection) else "BEGIN IMMEDIATE")


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


def _postgresql(url: URL) -> Engine:
    if url.drivername not in {"postgresql", "postgresql+psycopg"}:
        raise ConfigFault(
            "database.url: the driver for PostgreSQL is psycopg: postgresql+psycopg://USER:PASSWORD@HOST/NAME"
        )
    options = " ".join([*url.normalized_query.get("options", ()), *_server_settings()])
    limits = {**network_limits(), "options": options}
    try:
        engine = create_engine(
            url.set(drivername="postgresql+psycopg"),
            pool_pre_ping=True,
            pool_timeout=BUSY_TIMEOUT_S,
            connect_args=limits,
        )
    except ModuleNotFoundError:
        raise ConfigFault("database.url: psycopg is not installed; install npc-rtnode[postgres]") from None
    event.listen(engine, "begin", _stand_in_line)
    return engine


def _server_settings() -> Iterator[str]:
    """What the server is asked to hold for our sessions, whatever its own defaults are."""
    yield "-c synchronous_commit=on"  # a server or a role may have it off, and then a record is lost with the power
    yield "-c timezone=UTC"
    yield f"-c lock_timeout={round(BUSY_TIMEOUT_S * 1000)}"
    yield f"-c statement_timeout={round(STATEMENT_TIMEOUT_S * 1000)}"
    yield f"-c idle_in_transaction_session_timeout={round(FORSAKEN_S * 1000)}"


def network_limits() -> dict[str, Any]:
    """A server that has vanished without a word is noticed within these; libpq's defaults are minutes."""
    return {
        "connect_timeout": BUSY_TIMEOUT_S,
        "tcp_user_timeout": round(BUSY_TIMEOUT_S * 1000),
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
    }


def _stand_in_line(connection: Connection) -> None:
    if not _is_reading(connection):
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITERS_LOCK})")


# --- transactions -----------------------------------------------------------------------------------------------------


def _is_reading(connection: Connection) -> bool:
    return bool(connection.get_execution_options().get("reading", False))


def as_reader(engine: Engine) -> Engine:
    """The same database for looking only: each transaction sees one moment of it."""
    return engine.execution_options(reading=True, **_READING[engine.dialect.name])


class Sessions:
    """Where transactions come from: `writing()` commits or rolls back as one, `reading()` never waits for a writer."""

    def __init__(self, engine: Engine, carrier: Carrier | None = None) -> None:
        """`carrier` is told, in each transaction, what has come to wait in it; without one, nobody needs to be."""
        self.engine = engine
        self._carrier = carrier or Embedded()
        weakref.finalize(self, engine.dispose)  # whoever forgets to: pooled connections are closed, not only dropped
        self._writing = sessionmaker(engine, expire_on_commit=False)
        self._reading = sessionmaker(as_reader(engine), expire_on_commit=False)

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """One transaction. A database that is away or busy too long is LedgerUnavailable."""
        with translated(), self._writing.begin() as session:
            yield session
            if session.in_transaction():  # a rehearsal has rolled it back
                hand_over(session, self._carrier)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """One consistent look."""
        with translated(), self._reading() as session:
            yield session


@contextmanager
def translated() -> Iterator[None]:
    """The driver's words (which may hold values) stay behind; the type of the failure goes on.

    LedgerUnavailable where it may pass by itself, SchemaFault where tables or rights are missing. What remains (a
    broken constraint, a value that does not fit) is a fault of this program and stays as it is.
    """
    try:
        yield
    except PoolTimeout as error:
        raise LedgerUnavailable("every connection is in use") from error
    except DBAPIError as error:
        if type(error.orig).__name__ in _NOT_SET_UP:
            raise SchemaFault(f"{type(error.orig).__name__}: the database's role lacks a table or a right") from error
        if _may_pass(error):
            raise LedgerUnavailable(_name(error)) from error
        raise


def _may_pass(error: DBAPIError) -> bool:
    """Away, busy, read-only (a standby, a disk), damaged: not the statement's fault."""
    passing = isinstance(error, OperationalError | InterfaceError | InternalError) or type(error) is DatabaseError
    return passing or error.connection_invalidated


def _name(error: DBAPIError) -> str:
    """What went wrong, without any value: SQLite's own name with our words; a driver's where no statement ran yet."""
    words = str(error.orig).partition("\n")[0] if error.statement is None else ""
    name = getattr(error.orig, "sqlite_errorname", None) or type(error.orig).__name__
    return f"{name}: {_SQLITE_WORDS[name]}." if name in _SQLITE_WORDS else words or name
