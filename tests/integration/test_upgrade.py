"""One release back: ledgers that past code made and filled, and past code in front of a ledger of today."""

from __future__ import annotations

import io
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import select, table, text

from npc_rtnode.adapters.database import schema
from npc_rtnode.adapters.database.engine import Sessions, open_engine
from npc_rtnode.adapters.database.queries import Queries
from npc_rtnode.adapters.database.work import WorkLedger
from npc_rtnode.domain.lifecycle import JobState
from npc_rtnode.domain.records import SendReceipt
from npc_rtnode.errors import SchemaFault
from tests.builders.ledger import NOON
from tests.postgres import Server

ROOT = Path(__file__).parents[2]
PAST = ROOT / "tests" / "data" / "ledgers"
REVISIONS = sorted({path.name.split(".")[0] for path in PAST.glob("*.sql")})
LAST = REVISIONS[-1]
"""The newest of the past revisions: one step back from today."""
FIRST_ADDITIVE = "0003"
"""Before it nothing had been released; 0002 rebuilds a constraint, and says in its ADR (0013) why."""
NOT_ADDITIVE = re.compile(
    r"\b(DROP\s+(TABLE|COLUMN|CONSTRAINT)|RENAME|ALTER\s+COLUMN|SET\s+NOT\s+NULL|TRUNCATE|DELETE\s+FROM)\b",
    re.IGNORECASE,
)
ADDED_NOT_NULL = re.compile(r"ADD COLUMN (?!.*DEFAULT).*NOT NULL", re.IGNORECASE)


@pytest.fixture
def past(request: pytest.FixtureRequest, backend: str, tmp_path: Path) -> Iterator[str]:
    """The URL of a ledger as the code of a past revision left it, with work in hand."""
    script = (PAST / f"{getattr(request, 'param', LAST)}.{backend}.sql").read_text("utf-8")
    if backend == "sqlite":
        connection = sqlite3.connect(tmp_path / "past.db")
        connection.executescript(script)
        connection.close()
        yield f"sqlite:///{tmp_path / 'past.db'}"
    else:
        server: Server = request.getfixturevalue("postgres")
        url = server.create("past")
        with server.connected("past") as link:
            link.execute(script.encode())
        yield url
        server.drop("past")


# --- new code on an old schema ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("past", REVISIONS, indirect=True)
def test_new_code_refuses_an_old_schema_and_says_what_to_do(past: str) -> None:
    """Nothing is written to it; the words name both revisions and the verb."""
    engine = open_engine(past)
    with pytest.raises(SchemaFault, match=rf"is at \d+, this program at {schema.head()}: run `npc-rtnode db upgrade`"):
        schema.require_head(engine)
    engine.dispose()


@pytest.mark.parametrize("past", REVISIONS, indirect=True)
def test_an_upgraded_ledger_is_worked_on_where_the_old_code_left_it(past: str) -> None:
    """Its chain holds, its tables are the program's, the deliveries that were owed are made, the sent one is not."""
    engine = open_engine(past)
    schema.upgrade(engine)
    assert schema.differences(engine) == []
    work, queries = WorkLedger(Sessions(engine)), Queries(Sessions(engine))
    assert queries.chain_is_whole()
    owed = []
    while delivery := work.claim_delivery("pacs", NOON.replace(day=24), 60):
        work.sent(delivery.lease, SendReceipt(0, False, NOON.replace(day=24)))
        owed.append(str(delivery.kind))
    assert owed == ["RTSTRUCT", "SR"]
    assert work.claim_delivery("tps", NOON.replace(day=24), 60) is None, "what the old code has sent is not sent again"
    assert queries.counts()["jobs"] == {"DELIVERED": 1}
    assert queries.counts()["series"]["RECEIVING"] == 1
    assert queries.counts()["series"]["COMPLETE"] == 1
    assert queries.chain_is_whole()
    assert work.claim_job(JobState.QUEUED, "infer", NOON.replace(day=24), 60) is None
    engine.dispose()


# --- old code on a new schema -----------------------------------------------------------------------------------------


def test_code_that_does_not_know_the_revision_refuses_and_touches_nothing(
    past: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This very code without its newest migrations stands for the release before: neither does it serve nor migrate."""
    engine = open_engine(past)
    schema.upgrade(engine)
    today = schema.head()
    monkeypatch.setattr(schema, "migrations_folder", lambda: without_newer(tmp_path / "alembic"))
    assert schema.head() == LAST
    for deed in (schema.require_head, schema.upgrade):
        with pytest.raises(SchemaFault, match=rf"is at {today}, which this program \(at {LAST}\) does not know"):
            deed(engine)
    assert schema.current(engine) == today
    engine.dispose()


def test_the_way_back_keeps_what_the_old_code_knows(past: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After `downgrade` the older code finds its own tables, every row in them, and a whole chain."""
    engine = open_engine(past)
    before = rows(past)
    schema.upgrade(engine)
    schema.downgrade(engine, LAST)
    monkeypatch.setattr(schema, "migrations_folder", lambda: without_newer(tmp_path / "alembic"))
    schema.require_head(engine)
    assert rows(past) == before
    engine.dispose()


def test_no_step_but_one_that_lies_before(past: str) -> None:
    """A revision that is not known, or the one it is at, is no way back."""
    engine = open_engine(past)
    schema.upgrade(engine)
    for wrong in (schema.head(), "9999"):
        with pytest.raises(SchemaFault, match="no step before it"):
            schema.downgrade(engine, wrong)
    engine.dispose()


@pytest.mark.slow
def test_the_real_code_of_the_release_before_refuses(tmp_path: Path) -> None:
    """Checked out of the history and run: `db check` says no, `serve` and `studies list` end with SCHEMA_FAULT."""
    old = checked_out(tmp_path / "old")
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    engine = open_engine(url)
    schema.upgrade(engine)
    engine.dispose()
    for verb, code in ((("db", "check"), 1), (("serve", "--only", "receive"), 2), (("status",), 2)):
        done = run_old(old, url, tmp_path / "home", *verb)
        assert done.returncode == code, done.stderr
        assert code == 1 or "SCHEMA_FAULT" in done.stderr
    engine = open_engine(url)
    assert schema.current(engine) == schema.head()
    engine.dispose()


# --- migrations -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", [s.revision for s in schema.scripts() if s.revision > FIRST_ADDITIVE])
def test_migrations_only_add(script: str) -> None:
    """No migration drops, renames, retypes, or adds a column that a row of before could not have."""
    told = offline_sql(script)
    assert told, "the migration says something"
    assert [line for line in told if NOT_ADDITIVE.search(line) or ADDED_NOT_NULL.search(line)] == []


def test_a_migration_that_takes_away_is_noticed() -> None:
    """The very patterns find the one that rebuilt a constraint before the first release, and what is planted."""
    assert any(NOT_ADDITIVE.search(line) for line in offline_sql("0002"))
    planted = "ALTER TABLE jobs ADD COLUMN lane VARCHAR(8) NOT NULL", "ALTER TABLE jobs ALTER COLUMN state TYPE TEXT"
    assert all(NOT_ADDITIVE.search(line) or ADDED_NOT_NULL.search(line) for line in planted)


def test_the_past_is_kept_for_the_last_revision() -> None:
    """Whoever adds a migration keeps a dump of the revision before it (tests/builders/past_ledger.py)."""
    head = next(script for script in schema.scripts() if script.revision == schema.head())
    ancestors = {script.revision for script in schema.scripts()} - {head.revision}
    assert LAST in ancestors


# --- help -------------------------------------------------------------------------------------------------------------


def offline_sql(revision: str) -> list[str]:
    """What one migration would tell PostgreSQL, statement by statement."""
    before = next(script.down_revision for script in schema.scripts() if script.revision == revision)
    said = io.StringIO()
    schema.tell_offline(f"{before}:{revision}", said)
    lines = re.split(r";\s*\n", said.getvalue())
    return [" ".join(line.split()) for line in lines if line.strip() and "alembic_version" not in line]


def without_newer(folder: Path) -> Path:
    """A migrations folder as the past had it."""
    if not folder.exists():
        shutil.copytree(ROOT / "alembic", folder, ignore=shutil.ignore_patterns("__pycache__"))
        keep = {script.revision for script in ScriptDirectory(str(ROOT / "alembic")).iterate_revisions(LAST, "base")}
        for path in (folder / "versions").glob("*.py"):
            if re.search(r'^revision = "(.+)"$', path.read_text("utf-8"), re.MULTILINE).group(1) not in keep:  # type: ignore[union-attr]
                path.unlink()
    return folder


def rows(url: str) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table that the past knew."""
    engine = open_engine(url)
    with engine.connect() as connection:
        names = re.findall(r"CREATE TABLE (?:public\.)?(\w+)", (PAST / f"{LAST}.sqlite.sql").read_text("utf-8"))
        every = {name: select(text("*")).select_from(table(name)) for name in names}
        found = {name: [tuple(row) for row in connection.execute(query)] for name, query in every.items()}
    engine.dispose()
    return {name: sorted(those, key=repr) for name, those in found.items()}


def checked_out(folder: Path) -> Path:
    """The code of the commit before the newest migration, from the history; a loud skip where there is none."""
    newest = next((ROOT / "alembic" / "versions").glob(f"{schema.head()}*.py"))
    log = ["git", "-C", str(ROOT), "log", "--format=%H", "-1", "--", f"alembic/versions/{LAST}*"]
    done = subprocess.run(log, capture_output=True, text=True, check=False)
    commit = done.stdout.strip()
    if done.returncode or not commit:
        pytest.skip(f"NO HISTORY HERE: the code before {newest.name} cannot be checked out; its ledger was tested")
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", commit], capture_output=True, check=True)
    folder.mkdir()
    subprocess.run(["tar", "x", "-C", str(folder)], input=archive.stdout, check=True)
    return folder


def run_old(old: Path, url: str, home: Path, *verb: str) -> subprocess.CompletedProcess[str]:
    """A verb of the old program on this ledger."""
    said = {"NPC_RTNODE_DATABASE__URL": url, "NPC_RTNODE_NODE__HOME": str(home), "NPC_RTNODE_LISTENER__PORT": "0"}
    environment = {**os.environ, **said, "PYTHONPATH": str(old)}
    return subprocess.run(
        [sys.executable, "-m", "npc_rtnode", *verb],
        cwd=old,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
