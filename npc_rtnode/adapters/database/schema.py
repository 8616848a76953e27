"""The schema and its migrations: `upgrade` makes it, `check` says whether it is the one this program knows.

A schema goes on by additions alone, one release back (ADR 0023); no program works on another revision than its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TextIO

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
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


def _config(connection: Connection | None = None, output: TextIO | None = None) -> Config:
    config = Config(output_buffer=output)
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def upgrade(engine: Engine, further: Callable[[Connection], None] = lambda _: None) -> None:
    """Bring the schema to this program's head; a no-op where it is there already, or where another is just at it.

    `further` tables, of a carrier's, are made in the same transaction. SchemaFault, and nothing is touched, where it is
    at a revision that only a newer program knows.
    """
    require_known(current(engine))
    with migrating(engine) as connection:
        command.upgrade(_config(connection), "head")
        further(connection)


def downgrade(engine: Engine, revision: str) -> None:
    """Take the schema back to what an older program knows; what only the newer tables held is gone."""
    found = current(engine)
    require_known(found)
    if found is None or revision not in _ancestors(found):
        raise SchemaFault(f"the database is at {found or 'no revision'}, and {revision} is no step before it")
    with migrating(engine) as connection:
        command.downgrade(_config(connection), revision)


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


def scripts() -> list[Script]:
    """Every migration, newest first."""
    return list(ScriptDirectory.from_config(_config()).walk_revisions())


def tell_offline(step: str, to: TextIO) -> None:
    """Write what the step `FROM:TO` would tell PostgreSQL, without a database (for review and for tests)."""
    command.upgrade(_config(output=to), step, sql=True)


def head() -> str:
    """The revision that this program knows."""
    return ScriptDirectory.from_config(_config()).get_current_head() or "none"


def known() -> frozenset[str]:
    """Every revision that this program knows, the head among them."""
    return frozenset(script.revision for script in scripts())


def require_known(revision: str | None) -> None:
    """SchemaFault for a revision that is none of ours: the database was upgraded by a newer program."""
    if revision is not None and revision not in known():
        raise SchemaFault(
            f"the database is at {revision}, which this program (at {head()}) does not know: a newer one has upgraded "
            "it. Install that one again, or have it go back by "
            f"`npc-rtnode db downgrade --to {head()} --reason TEXT`; or restore the copy from before "
            "the upgrade by `npc-rtnode db restore`"
        )


def _ancestors(revision: str) -> set[str]:
    directory = ScriptDirectory.from_config(_config())
    return {script.revision for script in directory.iterate_revisions(revision, "base")} - {revision}


def current(engine: Engine) -> str | None:
    """The revision that the database is at."""
    with translated(), as_reader(engine).connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def require_head(engine: Engine) -> None:
    """Refuse to work on a schema that is not ours to know."""
    found, wanted = current(engine), head()
    require_known(found)
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
