"""Run migrations on the connection that the node hands over (npc_rtnode/adapters/database/schema.py)."""

from __future__ import annotations

from alembic import context

from npc_rtnode.adapters.database.tables import Table, UTCDateTime


def render_item(kind: str, item: object, _context: object) -> str | bool:
    """Migrations stand on SQLAlchemy alone: our own time type is a DateTime to the database."""
    return "sa.DateTime()" if kind == "type" and isinstance(item, UTCDateTime) else False


def tell() -> None:
    """Write what PostgreSQL would be told, without a database."""
    context.configure(dialect_name="postgresql", target_metadata=Table.metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


def include_name(name: str | None, kind: str, _parents: object) -> bool:
    """procrastinate makes and changes its own tables."""
    return not (kind == "table" and str(name).startswith("procrastinate_"))


def run() -> None:
    """Migrate within one transaction."""
    connection = context.config.attributes["connection"]
    context.configure(
        connection=connection,
        target_metadata=Table.metadata,
        render_as_batch=connection.dialect.name == "sqlite",
        render_item=render_item,
        include_name=include_name,
        compare_type=True,
    )
    with context.begin_transaction():
        context.run_migrations()


(tell if context.is_offline_mode() else run)()
