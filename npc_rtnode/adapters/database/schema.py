"""The schema and its migrations: `upgrade` makes it, `check` says whether it is the one this program knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

import npc_rtnode
from npc_rtnode.adapters.database.engine import as_reader, translated, unchecked
from npc_rtnode.adapters.database.tables import Table
from npc_rtnode.errors import SchemaFault


def migrations_folder() -> Path:
    """The migrations: inside the installed package, or at the top of a checkout."""
    package = Path(npc_rtnode.__file__).parent
    shipped = package / "_alembic"
    return shipped if shipped.exists() else package.parent / "alembic"


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def upgrade(engine: Engine, further: Callable[[Connection], None] = lambda _: None) -> None:
    """Bring the schema to this program's head; a no-op where it is there already, or where another is just at it.

    `further` tables, of a carrier's, are made in the same transaction.
    """
    with migrating(engine) as connection:
        command.upgrade(_config(connection), "head")
        further(connection)


@contextmanager
def migrating(engine: Engine) -> Iterator[Connection]:
    """One transaction in which tables may be rebuilt, without the limits of every day.

    SQLite changes a constraint by making the table anew, during which rows of others point at nothing: they are checked
    at the end, before the commit, and not meanwhile (sqlite.org/lang_altertable.html, 7).
    """
    sqlite = engine.dialect.name == "sqlite"
    unchecking = unchecked if sqlite else nullcontext
    with translated(), engine.connect() as connection, unchecking(connection), connection.begin():
        if not sqlite:
            connection.execute(text("SET LOCAL statement_timeout = 0"))
        yield connection
        if sqlite and connection.execute(text("PRAGMA foreign_key_check")).first():
            raise SchemaFault("the migration would leave rows that point at nothing; it was taken back")


def new_migration(engine: Engine, message: str) -> None:
    """Write a migration from the difference between the tables here and the database (for developers)."""
    with engine.begin() as connection:
        command.revision(_config(connection), message, autogenerate=True)


def head() -> str:
    """The revision that this program knows."""
    return ScriptDirectory.from_config(_config()).get_current_head() or "none"


def current(engine: Engine) -> str | None:
    """The revision that the database is at."""
    with translated(), as_reader(engine).connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def require_head(engine: Engine) -> None:
    """Refuse to work on a schema that is not ours to know."""
    found, wanted = current(engine), head()
    if found != wanted:
        raise SchemaFault(
            f"the database is at {found or 'no revision'}, this program at {wanted}: run `npc-rtnode db upgrade`"
        )


def differences(engine: Engine) -> list[str]:
    """Where the database and the tables disagree; empty when `alembic check` would pass."""
    with translated(), as_reader(engine).connect() as connection:
        opts = {"compare_type": True, "include_name": _is_ours}
        context = MigrationContext.configure(connection, opts=opts)
        return [str(difference) for difference in compare_metadata(context, Table.metadata)]


def _is_ours(name: str | None, kind: str, _parents: object) -> bool:
    """procrastinate keeps its own tables; they are compared by `procrastinated.require_tables`."""
    return not (kind == "table" and str(name).startswith("procrastinate_"))
