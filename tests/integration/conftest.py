"""One suite, both databases: every test that asks for `ledger` or `database_url` runs on SQLite and on PostgreSQL."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from npc_rtnode.adapters.database import schema
from npc_rtnode.adapters.database.engine import open_engine
from npc_rtnode.adapters.database.tables import Table
from tests.builders.ledger import Ledger
from tests.postgres import Server
from tests.proving import Watch, watch_writers

BACKENDS = ("sqlite", pytest.param("postgresql", marks=pytest.mark.postgres))


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Which database."""
    return str(request.param)


@pytest.fixture
def empty_url(backend: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """A database without any table."""
    if backend == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
    else:
        server: Server = request.getfixturevalue("postgres")
        yield server.create("empty")
        server.drop("empty")


@pytest.fixture
def database_url(backend: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """A database with an empty ledger in it, as `db upgrade` makes it."""
    if backend == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "ledger.db")
        yield f"sqlite:///{tmp_path / 'ledger.db'}"
    else:
        server: Server = request.getfixturevalue("postgres")
        yield request.getfixturevalue("postgres_ledger")
        server.do(f"TRUNCATE {', '.join(Table.metadata.tables)} RESTART IDENTITY", "ledger")


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    """A fresh ledger."""
    made = Ledger(open_engine(database_url))
    yield made
    made.engine.dispose()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Upgraded once a test process, then copied."""
    path = tmp_path_factory.mktemp("template") / "ledger.db"
    _upgraded(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def postgres_ledger(postgres: Server) -> str:
    """Upgraded once a test process, then emptied after each test (a database of its own each would take a second)."""
    return _upgraded(postgres.create("ledger"))


def _upgraded(url: str) -> str:
    engine = open_engine(url)
    schema.upgrade(engine)
    engine.dispose()
    return url


@pytest.fixture(scope="session")
def _watch() -> Iterator[Watch]:
    """Remembers every object that the node writes in this process."""
    with pytest.MonkeyPatch.context() as patch:
        yield watch_writers(patch)


@pytest.fixture(autouse=True)
def _written_objects_are_good(_watch: Watch) -> Iterator[None]:
    """Whatever a test lets the node write must find no objection: dciodvfy's, DCMTK's, or our own."""
    yield
    assert _watch.ask() == []
