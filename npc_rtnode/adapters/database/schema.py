"""The schema and its migrations: `upgrade` makes it, `check` says whether it is the one this program knows."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine

import npc_rtnode
from npc_rtnode.adapters.database.engine import translated
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


def upgrade(engine: Engine) -> None:
    """Bring the schema to this program's head; a no-op where it is there already."""
    with translated(), engine.begin() as connection:
        command.upgrade(_config(connection), "head")


def new_migration(engine: Engine, message: str) -> None:
    """Write a migration from the difference between the tables here and the database (for developers)."""
    with engine.begin() as connection:
        command.revision(_config(connection), message, autogenerate=True)


def head() -> str:
    """The revision that this program knows."""
    return ScriptDirectory.from_config(_config()).get_current_head() or "none"


def current(engine: Engine) -> str | None:
    """The revision that the database is at."""
    with translated(), engine.connect() as connection:
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
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return [str(difference) for difference in compare_metadata(context, Table.metadata)]
