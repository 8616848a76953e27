"""The ledger by its URL: who may do what, what is said when it cannot be used, and that no password is ever said."""

from __future__ import annotations

import logging
import re
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, event, select, text

from npc_rtnode.__main__ import main
from npc_rtnode.adapters.database import health, schema
from npc_rtnode.adapters.database.conflicts import Keep
from npc_rtnode.adapters.database.engine import open_engine
from npc_rtnode.adapters.database.owner import sign
from npc_rtnode.adapters.database.tables import InstanceRow, Table
from npc_rtnode.app import Home
from npc_rtnode.cli.checks import examine
from npc_rtnode.domain.lifecycle import JobState
from npc_rtnode.domain.records import SendReceipt, StoreOutcome
from npc_rtnode.errors import ConfigFault, SchemaFault
from npc_rtnode.settings import Settings
from tests.builders.ledger import NOON, Ledger
from tests.postgres import PASSWORD, SETUP, Server, rights_after_upgrade

ROOT = Path(__file__).parents[2]
ROWS = 100_000
Verb = Callable[..., tuple[int, str]]


@pytest.fixture
def verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Verb:
    """Run a verb of the CLI on this URL; its exit code and everything that it has said."""

    def run(url: str, *args: str) -> tuple[int, str]:
        monkeypatch.setenv("NPC_RTNODE_DATABASE__URL", url)
        monkeypatch.setenv("NPC_RTNODE_NODE__HOME", str(tmp_path / "home"))
        monkeypatch.setattr(sys, "argv", ["npc-rtnode", *args])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capfd.readouterr()
        return int(ended.value.code or 0), said.out + said.err

    return run


def settings(url: str, home: Path) -> Settings:
    """A node on this ledger."""
    return Settings.model_validate({"node": {"home": home}, "database": {"url": url}, "listener": {"port": 0}})


def ledger_check(url: str, home: Path) -> tuple[str, str]:
    """What `doctor` finds of the ledger."""
    (check,) = [check for check in examine(settings(url, home), golden=False) if check.name == "ledger"]
    return check.outcome, check.said


class TestUrl:
    @pytest.mark.parametrize(
        "url",
        [
            f"postgresql+psycopg://npc:{PASSWORD}/x@127.0.0.1:port/db",
            f"postgresql+psycopg2://npc:{PASSWORD}@127.0.0.1/db",
            f"mysql://npc:{PASSWORD}@127.0.0.1/db",
            PASSWORD,
        ],
    )
    def test_a_wrong_url_is_refused_without_being_repeated(self, url: str) -> None:
        """What is wrong is said, and the URL, in which a password stands, is not."""
        with pytest.raises(ConfigFault, match=r"database\.url") as refused:
            open_engine(url)
        assert PASSWORD not in str(refused.value)

    @pytest.mark.postgres
    def test_options_of_the_site_stay(self, postgres: Server, postgres_ledger: str) -> None:
        """What the URL asks of the server is asked beside our own limits."""
        engine = open_engine(f"{postgres_ledger}?options=-c%20work_mem%3D8MB&application_name=npc")
        with engine.connect() as connection:
            asked = [connection.execute(text(f"SHOW {name}")).scalar() for name in ("work_mem", "lock_timeout")]
        engine.dispose()
        assert asked == ["8MB", "10s"]


@pytest.mark.postgres
class TestVerbs:
    def test_upgrade_and_check(self, postgres: Server, verb: Verb) -> None:
        """An empty database is brought to the head and found in order, as the exit codes say."""
        url = postgres.create("by_verbs")
        assert verb(url, "db", "check")[0] == 1
        assert verb(url, "db", "upgrade")[0] == 0
        code, said = verb(url, "db", "check", "--json")
        assert (code, '"event_chain_whole": true' in said) == (0, True)
        postgres.drop("by_verbs")

    @pytest.mark.parametrize("args", [("db", "check"), ("db", "upgrade"), ("doctor", "--quick")])
    @pytest.mark.parametrize("wrong", ["password", "port", "database", "nothing"])
    def test_the_password_is_never_said(
        self, postgres: Server, postgres_ledger: str, verb: Verb, args: tuple[str, ...], wrong: str
    ) -> None:
        """Whatever is wrong with the database, a verb says so with a code and without its password."""
        url = {
            "password": postgres.url("ledger", password=f"{PASSWORD}-not"),
            "port": postgres_ledger.replace(str(postgres.port), "1"),
            "database": postgres.url("nowhere"),
            "nothing": postgres_ledger,
        }[wrong]
        code, said = verb(url, *args)
        assert PASSWORD not in said
        assert "Traceback" not in said
        if wrong != "nothing":
            assert "LEDGER_UNAVAILABLE" in said
            assert code == (1 if args[0] == "doctor" else 75)

    def test_debug_logs_of_libraries_say_no_password(
        self, postgres: Server, postgres_ledger: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Not even with every library at its most talkative."""
        caplog.set_level(logging.DEBUG)
        engine = open_engine(postgres_ledger)
        schema.require_head(engine)
        assert PASSWORD not in caplog.text + repr(engine)
        engine.dispose()


class TestDoctor:
    def test_a_good_ledger(self, database_url: str, tmp_path: Path) -> None:
        """Which database, which revision, and that it may be written."""
        outcome, said = ledger_check(database_url, tmp_path / "home")
        assert outcome == "good", said
        assert "writable" in said

    def test_without_tables(self, empty_url: str, tmp_path: Path) -> None:
        """A ledger that was never upgraded, or whose file is missing, is told by its code."""
        assert ledger_check(empty_url, tmp_path / "home")[1].startswith("SCHEMA_FAULT")

    def test_a_file_that_cannot_be_written(self, ledger: Ledger, tmp_path: Path, backend: str) -> None:
        """A ledger that can be read but not written is a fault now, and not when the first instance comes."""
        if backend == "sqlite":
            url = f"sqlite:///file:{tmp_path / 'ledger.db'}?mode=ro&uri=true"
        else:
            url = ledger.engine.url.render_as_string(hide_password=False)
            url += "?options=-c%20default_transaction_read_only%3Don"
        outcome, said = ledger_check(url, tmp_path / "home")
        assert outcome == "fault"
        assert said.startswith("LEDGER_UNAVAILABLE")

    def test_a_file_that_is_no_database(self, tmp_path: Path) -> None:
        """Bytes that are not SQLite's are told by a code too."""
        (tmp_path / "ledger.db").write_bytes(b"This is no ledger, it is a letter." * 100)
        assert ledger_check(f"sqlite:///{tmp_path / 'ledger.db'}", tmp_path)[1].startswith("LEDGER_UNAVAILABLE")

    def test_a_file_in_no_folder(self, tmp_path: Path) -> None:
        """A path that leads nowhere as well."""
        assert ledger_check(f"sqlite:///{tmp_path}/gone/ledger.db", tmp_path)[1].startswith("LEDGER_UNAVAILABLE")

    def test_a_locked_file_is_not_waited_for_when_reading(
        self, database_url: str, tmp_path: Path, backend: str
    ) -> None:
        """Looking at revision and differences needs no turn, even while another has the ledger to itself."""
        holder, looker = open_engine(database_url), open_engine(database_url)
        with holder.begin():
            schema.require_head(looker)
            assert schema.differences(looker) == []
        holder.dispose()
        looker.dispose()


class TestOwner:
    def test_a_ledger_belongs_to_the_node_that_signed_it(self, ledger: Ledger, tmp_path: Path) -> None:
        """The same home signs again and again without another word; a second node is refused."""
        first, second = (Home(tmp_path / name).made().site_key() for name in ("first", "second"))
        sign(ledger.sessions, first, NOON)
        sign(ledger.sessions, first, NOON)
        with pytest.raises(ConfigFault, match="another node"):
            sign(ledger.sessions, second, NOON)
        assert ledger.queries.chain_is_whole()


@pytest.mark.postgres
class TestLeastPrivilege:
    @pytest.fixture
    def node_url(self, postgres: Server) -> str:
        """The database that deploy/postgresql.sql makes, upgraded by its owner; the URL of the node's role."""
        postgres.psql(
            "-v", f"owner_password='{PASSWORD}'", "-v", f"node_password='{PASSWORD}'", "-f", "-", script=SETUP
        )
        owner = open_engine(postgres.url("npc_rtnode", "npc_owner"))
        schema.upgrade(owner)
        with owner.begin() as connection:
            for statement in rights_after_upgrade():
                connection.execute(text(statement))
        owner.dispose()
        return postgres.url("npc_rtnode", "npc_rtnode")

    @pytest.fixture(autouse=True)
    def _swept(self, postgres: Server) -> object:
        yield
        postgres.drop("npc_rtnode")
        for role in ("npc_rtnode", "npc_owner"):
            postgres.do(f"DROP ROLE IF EXISTS {role}")

    def test_the_nodes_role_does_the_nodes_work_and_no_more(self, node_url: str) -> None:
        """A study from its first instance to its delivery; the journal cannot be changed, no table made or emptied."""
        ledger = Ledger(open_engine(node_url))
        schema.upgrade(ledger.engine)
        schema.require_head(ledger.engine)
        health.require_rights(ledger.sessions)
        ledger.written()
        for destination in ("tps", "pacs"):
            while delivery := ledger.work.claim_delivery(destination, ledger.now, 60):
                ledger.work.sent(delivery.lease, SendReceipt(0, False, ledger.now))
        assert ledger.job_state() == "DELIVERED"
        for deed in (
            "UPDATE events SET actor = 'x'",
            "UPDATE instances SET sha256 = 'x'",
            "DELETE FROM events",
            "TRUNCATE jobs",
            "CREATE TABLE t (a int)",
        ):
            with pytest.raises(SchemaFault, match="InsufficientPrivilege"), ledger.sessions.writing() as session:
                session.execute(text(deed))
        ledger.engine.dispose()

    def test_a_person_settles_a_conflict(self, node_url: str) -> None:
        """`release --keep` changes which content counts: the one column of received rows that the node may change."""
        ledger = Ledger(open_engine(node_url))
        ledger.complete_series()
        assert ledger.receive("1.2.3.1", content="other") is StoreOutcome.CONFLICT
        assert ledger.desk.settle(ledger.study(), Keep.LAST, ledger.word())
        with ledger.sessions.reading() as session:
            assert sorted(session.scalars(select(InstanceRow.state))) == ["KEPT", "KEPT", "KEPT", "REPLACED"]
        ledger.engine.dispose()

    def test_doctor_tells_a_right_that_is_missing(self, node_url: str, postgres: Server, tmp_path: Path) -> None:
        """A site that has only revoked learns of it before a person needs the verb, with where the right stands."""
        postgres.do("REVOKE UPDATE (state) ON instances FROM npc_rtnode", "npc_rtnode")
        outcome, said = ledger_check(node_url, tmp_path / "home")
        assert (outcome, said.split(":")[0]) == ("fault", "SCHEMA_FAULT"), said


@pytest.mark.slow
def test_claims_use_an_index(ledger: Ledger, backend: str) -> None:
    """With 100 000 finished studies no claim looks at every job or every delivery; no clock is read."""
    ledger.written()
    ledger.queued_job("1.2.5")
    for table, changes in HISTORY.items():
        multiply(ledger, table, changes)
    if backend == "postgresql":  # as its autovacuum does; nobody does it for SQLite
        with ledger.engine.begin() as connection:
            connection.execute(text("ANALYZE"))
    job = plan_of(ledger, lambda: ledger.work.claim_job(JobState.QUEUED, "infer", ledger.now, 60))
    delivery = plan_of(ledger, lambda: ledger.work.claim_delivery("tps", ledger.now, 60))
    assert "ix_jobs_rank" in job
    assert not re.search(r"(Seq Scan on|SCAN) (jobs|series|studies)", job), job
    assert not re.search(r"(Seq Scan on|SCAN) (deliveries|objects|series|studies)", delivery), delivery


HISTORY = {
    "studies": {"study_uid": "'1.9.' || n.n", "reference": "'R' || n.n"},
    "series": {"study_id": "1000 + n.n", "series_uid": "'1.9.9.' || n.n", "state": "'SELECTED'"},
    "jobs": {"series_id": "1000 + n.n", "work_key": "'k' || n.n", "state": "'DELIVERED'"},
    "objects": {"job_id": "1000 + n.n", "sop_uid": "'1.9.9.9.' || n.n"},
    "deliveries": {"object_id": "1000 + n.n", "state": "'SENT'"},
}
"""What is other in each copy of a table's first row."""


def multiply(ledger: Ledger, table: str, changes: dict[str, str]) -> None:
    """Copy the table's first row 100 000 times, under ids from 1001 on."""
    values = {column.name: column.name for column in Table.metadata.tables[table].columns}
    values |= {"id": "1000 + n.n", **changes}
    numbers = f"WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {ROWS})"  # noqa: S608 - ours
    copied = f"{numbers} SELECT {', '.join(values.values())} FROM {table}, n WHERE {table}.id = 1"  # noqa: S608 - ours
    with ledger.engine.begin() as connection:
        connection.execute(text(f"INSERT INTO {table} ({', '.join(values)}) {copied}"))


def plan_of(ledger: Ledger, claim: Callable[[], object]) -> str:
    """How the database finds what `claim` asks for."""
    asked: list[tuple[str, object]] = []

    def listen(connection: Connection, cursor: object, statement: str, parameters: object, *_: object) -> None:
        if statement.startswith("SELECT") and "LIMIT" in statement and not asked:
            asked.append((statement, parameters))

    event.listen(ledger.engine, "before_cursor_execute", listen)
    assert claim() is not None
    event.remove(ledger.engine, "before_cursor_execute", listen)
    ((statement, parameters),) = asked
    return explained(ledger.engine, statement, parameters)


def explained(engine: Engine, statement: str, parameters: object) -> str:
    """The plan as the database words it."""
    verb = "EXPLAIN QUERY PLAN" if engine.dialect.name == "sqlite" else "EXPLAIN"
    with engine.connect() as connection:
        rows = connection.exec_driver_sql(f"{verb} {statement}", parameters)  # type: ignore[arg-type]
        return "\n".join(str(row[-1]) for row in rows)


def test_another_process_that_holds_sqlite_is_waited_for(tmp_path: Path) -> None:
    """A writer outside of this program that is done in time is nobody's trouble."""
    import threading

    engine = open_engine(f"sqlite:///{tmp_path / 'ledger.db'}")
    schema.upgrade(engine)
    other = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    threading.Timer(1.0, other.execute, ("COMMIT",)).start()
    ledger = Ledger(engine)
    assert ledger.receive("1.2.3.1") == "STORED"
    other.close()
    engine.dispose()
