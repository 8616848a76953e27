"""What `doctor` asks a ledger before it is needed: may this role write, and does the server keep what it was given?"""

from __future__ import annotations

from sqlalchemy import Engine, false, insert, select, text, update

from npc_rtnode.adapters.database.engine import Sessions, as_reader, translated
from npc_rtnode.adapters.database.tables import Table

ONLY_ADDED = frozenset({"events", "verdicts"})
"""Tables whose rows this program never changes; on PostgreSQL its role needs no right to (deploy/postgresql.sql)."""
CHANGED = {"instances": "state"}
"""Tables of which it changes this one column, and needs the right to no other."""
_DURABLE = ("fsync", "full_page_writes")


def require_rights(sessions: Sessions) -> None:
    """Add no row and change none, in every table; LedgerUnavailable (read-only) or SchemaFault (a right is missing)."""
    with sessions.writing() as session:
        for table in Table.metadata.sorted_tables:
            nothing = select(table).where(false())
            session.execute(insert(table).from_select([column.name for column in table.columns], nothing))
            if table.name not in ONLY_ADDED:
                column = table.columns[CHANGED.get(table.name) or next(iter(table.primary_key)).name]
                session.execute(update(table).where(false()).values({column: column}))


def not_durable(engine: Engine) -> list[str]:
    """Settings of a PostgreSQL server that let power loss take acknowledged instances; empty where there are none."""
    if engine.dialect.name != "postgresql":
        return []
    with translated(), as_reader(engine).connect() as connection:
        said = {name: connection.execute(text(f"SHOW {name}")).scalar_one() for name in _DURABLE}
    return [f"{name}={value}" for name, value in said.items() if value != "on"]
