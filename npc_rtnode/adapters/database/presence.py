"""A host's name is one process's at a time: a lock of the database server's, held by a connection of its own.

Two workers under one name would take each other's work at every start, since each owns what bears its name; the lock
file below `node.home` cannot see another machine. The server lets go as soon as the process has died, and within
seconds where its machine or the network has (ADR 0021). SQLite has one host.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Final

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from npc_rtnode.adapters.database.engine import as_reader, translated
from npc_rtnode.domain.identifiers import sha256_hex
from npc_rtnode.errors import HostTaken

PATIENCE_S: Final = 20.0
"""Longer than it takes the server to notice that a machine has vanished, by the limits below."""
_AGAIN_S: Final = 0.25
_LIMITS: Final = text(
    "SELECT set_config('tcp_keepalives_idle', '5', false), set_config('tcp_keepalives_interval', '2', false), "
    "set_config('tcp_keepalives_count', '3', false), set_config('tcp_user_timeout', '11000', false)"
)
_LOCK: Final = text("SELECT pg_try_advisory_lock(:room, :name)")
_NAMES: Final = 0x6E7063
"""The room of our names among advisory locks of two numbers."""


class Presence:
    """For one thread at a time."""

    def __init__(self, engine: Engine, name: str, patience_s: float = PATIENCE_S) -> None:
        self._engine = as_reader(engine).execution_options(isolation_level="AUTOCOMMIT")
        self._shared = engine.dialect.name == "postgresql"
        self._name = name
        self._patience_s = patience_s
        self._connection: Connection | None = None

    def hold(self) -> None:
        """At start and at every beat: have the name, again where the connection was lost.

        HostTaken where another process has it for longer than a dead one could; LedgerUnavailable.
        """
        if self._shared and not self._is_held():
            self._connection = self._taken()

    def leave(self) -> None:
        """Let go of it."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _is_held(self) -> bool:
        """A connection that answers has its lock."""
        if self._connection is None:
            return False
        try:
            self._connection.execute(text("SELECT 1"))
        except DBAPIError:
            self.leave()
        return self._connection is not None

    def _taken(self) -> Connection:
        with translated(), ExitStack() as stack:
            connection = self._engine.connect()
            connection.detach()  # it ends when it is closed, and its lock with it
            stack.callback(connection.close)
            connection.execute(_LIMITS)
            self._lock(connection)
            stack.pop_all()
        return connection

    def _lock(self, connection: Connection) -> None:
        deadline = time.monotonic() + self._patience_s
        while not connection.scalar(_LOCK, {"room": _NAMES, "name": _number(self._name)}):
            if time.monotonic() > deadline:
                raise HostTaken(_refused(self._name))
            time.sleep(_AGAIN_S)


def _number(name: str) -> int:
    """What the server knows it by: 32 bits, signed."""
    return int.from_bytes(bytes.fromhex(sha256_hex(name.encode()))[:4], "big", signed=True)


def _refused(name: str) -> str:
    return f"Its name is {name}: give each worker host a work.host of its own, and end what still runs under this one."
