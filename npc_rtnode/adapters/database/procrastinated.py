"""The carrier of distributed work: procrastinate on the ledger's own PostgreSQL (ADR 0022).

An entry is deferred within the transaction that made the work wait, and holds its number alone. At most one entry of a
piece of work waits at a time; who submits again moves the one that is there. An entry that was lost is made again, one
that comes twice or too late finds nothing to do: the rows are the truth.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

import procrastinate
from procrastinate import exceptions
from procrastinate.schema import SchemaManager
from sqlalchemy import Connection, Engine, String, cast, column, literal, select, table, text
from sqlalchemy.orm import Session

from npc_rtnode.adapters.database.carrier import work_of
from npc_rtnode.adapters.database.engine import Sessions, as_reader, translated
from npc_rtnode.adapters.database.tables import DeliveryRow, JobRow
from npc_rtnode.adapters.database.waiting import claimable_deliveries, claimable_jobs
from npc_rtnode.domain.records import WorkRef
from npc_rtnode.domain.windows import OffPeak
from npc_rtnode.errors import ConfigFault, SchemaFault

TASK: Final = "npc_rtnode.carry"
_RANK_S: Final = 10
"""Two ranks that differ by less are one to procrastinate, whose priority is a 32-bit number."""

_MOVE: Final = text(
    "UPDATE procrastinate_jobs SET queue_name = :queue, priority = :priority, scheduled_at = :at "
    "WHERE queueing_lock = :work AND status = 'todo'"
)
_CANCEL: Final = text("DELETE FROM procrastinate_jobs WHERE queueing_lock = :work AND status = 'todo'")
_ENTRIES: Final = table("procrastinate_jobs", column("queueing_lock", String), column("status", String))
_PRUNE: Final = text(
    "DELETE FROM procrastinate_jobs WHERE status NOT IN ('todo', 'doing') OR (status = 'doing' AND (worker_id IS NULL "
    "OR worker_id IN (SELECT id FROM procrastinate_workers WHERE last_heartbeat < now() - make_interval(secs => :s))))"
)

_RIGHTS: Final = {
    "procrastinate_jobs": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "procrastinate_workers": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "procrastinate_events": ("INSERT",),
}
_MAY: Final = text("SELECT has_table_privilege(:table, :right)")


class Procrastinated:
    """Fulfils ports.Carrier. `silent_s`: entries of a worker that is not heard of for so long are pruned."""

    def __init__(self, engine: Engine, silent_s: float, off_peak: OffPeak | None = None) -> None:
        require_server(engine)
        self._sessions = Sessions(engine)
        self._silent_s = silent_s
        self._off_peak = off_peak
        self._app = procrastinate.App(connector=procrastinate.PsycopgConnector())  # never opened: callers connect

    def submit(self, session: Any, work: WorkRef) -> None:
        """Defer an entry, or move the one that waits, in the session's transaction."""
        moved = session.execute(_MOVE, _entry(work))
        if not moved.rowcount:
            self._defer(session, work)

    def _defer(self, session: Session, work: WorkRef) -> None:
        """A writer has the ledger to itself, so nobody defers the same meanwhile; a person with a shell may."""
        said = _entry(work)
        try:
            with session.begin_nested():
                driver = session.connection().connection.driver_connection
                self._app.configure_task(
                    TASK,
                    connection=driver,
                    queue=said["queue"],
                    queueing_lock=said["work"],
                    priority=said["priority"],
                    schedule_at=said["at"],
                ).defer(work=said["work"])
        except exceptions.AlreadyEnqueued:
            return

    def cancel(self, session: Any, work: WorkRef) -> None:
        """Take the entry that waits away, in the session's transaction."""
        session.execute(_CANCEL, {"work": name_of(work)})

    def recover(self, now: datetime) -> int:
        """Submit what could be begun and has no entry; prune what has ended, or whose worker has."""
        with self._sessions.writing() as session:
            session.execute(_PRUNE, {"s": self._silent_s})
            lost = list(self._lost(session, now))
            for work in lost:
                self._defer(session, work)
            return len(lost)

    def _lost(self, session: Session, now: datetime) -> Iterable[WorkRef]:
        """However much waits, only what has no entry is read."""
        jobs, deliveries = claimable_jobs(now, self._off_peak), claimable_deliveries(now)
        yield from map(work_of, session.scalars(jobs.where(~_has_entry("job", JobRow.id))))
        yield from map(work_of, session.scalars(deliveries.where(~_has_entry("delivery", DeliveryRow.id))))


def name_of(work: WorkRef) -> str:
    """What an entry says: which work it is, and nothing else."""
    return f"{work.subject} {work.subject_id}"


def _has_entry(subject: str, row_id: Any) -> Any:
    """Whether an entry of this row waits, by its name."""
    name = literal(f"{subject} ") + cast(row_id, String)
    return select(literal(1)).where(_ENTRIES.c.queueing_lock == name, _ENTRIES.c.status == text("'todo'")).exists()


def _entry(work: WorkRef) -> dict[str, Any]:
    rank = -int(work.rank_at.timestamp() // _RANK_S)
    return {"work": name_of(work), "queue": work.resource, "priority": rank, "at": work.due_at}


# --- its tables -------------------------------------------------------------------------------------------------------


def require_server(engine: Engine) -> None:
    """procrastinate lives in PostgreSQL alone."""
    if engine.dialect.name != "postgresql":
        raise ConfigFault("work.engine procrastinate needs PostgreSQL: set database.url, or use embedded")


def require_tables(engine: Engine) -> None:
    """Refuse to work on procrastinate's tables of another version than the installed one's, or with too few rights."""
    require_server(engine)
    with translated(), as_reader(engine).connect() as connection:
        found = _version(connection)
        missing = _missing_rights(connection) if found else []
    if found != procrastinate.__version__:
        raise SchemaFault(
            f"procrastinate's tables are of {found or 'no version'}, installed is {procrastinate.__version__}: "
            "run `npc-rtnode db upgrade`"
        )
    if missing:
        raise SchemaFault(
            f"the database's role lacks {', '.join(missing)}: as the owner, the GRANT that deploy/postgresql.sql names"
        )


def make_tables(connection: Connection) -> None:
    """procrastinate's own SQL: all of it where there is none, else its migrations since the version that is there.

    Tables of the installed version are left alone: then the node's role, which owns none, may ask for them too.
    """
    found = _version(connection)
    if found == procrastinate.__version__:
        return
    for statement in [SchemaManager.get_schema()] if found is None else _since(found):
        _run(connection, statement)
    _run(connection, f"COMMENT ON TABLE procrastinate_jobs IS '{procrastinate.__version__}'")


def _missing_rights(connection: Connection) -> list[str]:
    """What an entry's life needs and this role may not do."""
    wanted = [(right, table) for table, rights in _RIGHTS.items() for right in rights]
    may = {(right, table): connection.scalar(_MAY, {"right": right, "table": table}) for right, table in wanted}
    return [f"{right} on {table}" for (right, table), granted in may.items() if not granted]


def _version(connection: Connection) -> str | None:
    said = connection.execute(text("SELECT obj_description(to_regclass('procrastinate_jobs'), 'pg_class')"))
    return said.scalar()


def _since(found: str) -> list[str]:
    """The migrations of later versions, in order; their names begin with the version, each part of two digits."""
    from pathlib import Path

    known = ".".join(f"{int(part):02d}" for part in found.split(".")[:3])
    files = sorted(Path(SchemaManager.get_migrations_path()).glob("*.sql"))
    return [file.read_text("utf-8") for file in files if file.name.split("_")[0] > known]


def _run(connection: Connection, statements: str) -> None:
    """Many statements at once, with nothing for a driver to fill in."""
    driver: Any = connection.connection.driver_connection
    with driver.cursor() as cursor:
        cursor.execute(statements.encode())
