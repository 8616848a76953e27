"""A ledger with work in hand, dumped as SQL: run with the code of a past revision it makes that revision's test data.

    git archive COMMIT | tar x -C OLD && cp tests/builders/past_ledger.py OLD/tests/builders/
    cd OLD && PYTHONPATH=$PWD python -m tests.builders.past_ledger HERE/tests/data/ledgers

One series is written and a third of it delivered, one is complete, one is still being received; all are invented.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

from npc_rtnode.adapters.database import schema
from npc_rtnode.adapters.database.engine import open_engine
from npc_rtnode.domain.records import SendReceipt
from tests.builders.ledger import Ledger
from tests.postgres import ADMIN, PASSWORD, Server


def fill(url: str) -> str:
    """Migrate and fill the database; the revision that it is at."""
    engine = open_engine(url)
    schema.upgrade(engine)
    ledger = Ledger(engine)
    ledger.written()
    sent = ledger.work.claim_delivery("tps", ledger.now, 60)
    assert sent is not None
    ledger.work.sent(sent.lease, SendReceipt(0, False, ledger.now))
    ledger.complete_series(series_uid="1.2.4")
    for number in range(2):
        ledger.receive(f"1.2.5.{number}", "1.2.5", study_uid="1.9")
    engine.dispose()
    return schema.head()


def dump_sqlite(folder: Path) -> None:
    """As sqlite3's own dump."""
    with tempfile.TemporaryDirectory() as place:
        revision = fill(f"sqlite:///{place}/ledger.db")
        connection = sqlite3.connect(f"{place}/ledger.db")
        (folder / f"{revision}.sqlite.sql").write_text("\n".join(connection.iterdump()) + "\n", "utf-8")
        connection.close()


def dump_postgresql(folder: Path) -> None:
    """As pg_dump's INSERT statements, without what psql alone understands."""
    with tempfile.TemporaryDirectory() as place, Server(Path(place)) as server:
        revision = fill(server.create("past"))
        program = str(server._programs / "pg_dump")
        link = f"postgresql://{ADMIN}@127.0.0.1:{server.port}/past"
        command = [program, "--inserts", "--no-owner", "--no-acl", "-d", link]
        environment = {**os.environ, "PGPASSWORD": PASSWORD}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        lines = [line for line in done.stdout.splitlines() if not line.startswith(("\\", "--")) and line]
        (folder / f"{revision}.postgresql.sql").write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    dump_sqlite(Path(sys.argv[1]))
    dump_postgresql(Path(sys.argv[1]))
