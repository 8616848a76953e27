"""Copies of the ledger, and what the disk holds that an older copy does not know: every refusal, every count."""

from __future__ import annotations

import itertools
import os
import shutil
import sqlite3
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from npc_rtnode.adapters.database import backup, schema
from npc_rtnode.adapters.database.engine import open_engine
from npc_rtnode.adapters.database.owner import sign
from npc_rtnode.adapters.database.recovered import RecoveryLedger
from npc_rtnode.adapters.database.tables import RecoveredObjectRow
from npc_rtnode.adapters.dicom.reclaim import StoredFileReader
from npc_rtnode.domain.retention import Place
from npc_rtnode.errors import ConfigFault, NotFound, SchemaFault, Unreadable
from npc_rtnode.pipeline.reconcile import Reconciler
from tests.builders.house import House
from tests.builders.ledger import NOON, Ledger

WORD = "operator:ada", "because a test says so"
KEY = "k" * 64


@pytest.fixture
def house(ledger: Ledger, tmp_path: Path) -> House:
    """A study received and delivered, above real folders."""
    made = House(ledger, tmp_path / "house")
    made.deliver()
    return made


@pytest.fixture
def young(tmp_path: Path) -> Ledger:
    """A ledger that knows nothing: the oldest copy that there can be."""
    engine = open_engine(f"sqlite:///{tmp_path / 'young.db'}")
    schema.upgrade(engine)
    return Ledger(engine)


def reconciler(house: House, ledger: Ledger) -> Reconciler:
    """Of this house's folders into that ledger."""
    numbers = itertools.count()
    return Reconciler(
        pages=RecoveryLedger(ledger.sessions),
        intake=ledger.intake,
        shelves={Place.SPOOL: house.spool, Place.OUTBOX: house.outbox},
        reader=StoredFileReader(),
        new_id=lambda: f"reclaimed-{next(numbers)}",
        clock=lambda: ledger.now,
    )


# --- reconcile --------------------------------------------------------------------------------------------------------


def test_an_empty_ledger_takes_in_all_that_was_acknowledged(house: House, young: Ledger) -> None:
    """Every instance, once, under its own UIDs and with the time of its file; the objects by their UIDs."""
    done = reconciler(house, young).run(WORD)
    assert (done.taken_in, done.conflicts, done.unreadable, done.objects) == (4, 0, 0, 2)
    assert done.missing == {"spool": 0, "outbox": 0}
    (series,) = young.queries.study(young.study())["series"]
    assert (series["state"], series["instances"]) == ("RECEIVING", 4)
    assert [one["ended"] for one in series["associations"]] == ["reclaimed"]
    written = min(path.stat().st_mtime for path in map(house.spool.path, house.spool.names()))
    told = datetime.fromisoformat(series["first_received_at"]).timestamp()
    assert told == pytest.approx(written, abs=0.001), "the view tells milliseconds"
    assert young.queries.chain_is_whole()


def test_a_second_time_nothing_is_left_to_do(house: House, young: Ledger) -> None:
    """It may be broken off and run again."""
    reconciler(house, young).run(WORD)
    again = reconciler(house, young).run(WORD)
    assert (again.taken_in, again.objects) == (0, 0)


def test_a_ledger_that_knows_all_is_left_as_it_is(house: House) -> None:
    """But for the word that it was looked at."""
    before = house.ledger.queries.counts()
    done = reconciler(house, house.ledger).run(WORD)
    assert (done.taken_in, done.objects, done.missing) == (0, 0, {"spool": 0, "outbox": 0})
    assert house.ledger.queries.counts()["series"] == before["series"]


def test_what_is_damaged_or_missing_is_counted_and_stays(house: House, young: Ledger) -> None:
    """A torn file is not taken in, a file that a row names and that is gone is told; nothing on disk is changed."""
    torn, gone = sorted(house.spool.names())[:2]
    house.spool.path(torn).write_bytes(house.spool.path(torn).read_bytes()[:-10])
    assert reconciler(house, young).run(WORD).unreadable == 1
    assert house.spool.path(torn).exists()
    house.spool.remove(gone)
    assert reconciler(house, house.ledger).run(WORD).missing == {"spool": 1, "outbox": 0}


def test_the_oldest_bytes_of_an_object_stand(house: House, young: Ledger) -> None:
    """Two contents under one SOP Instance UID in the outbox: the first that was written is the one that was sent."""
    first = sorted(house.outbox.names())[0]
    os.utime(house.outbox.path(first), (1, 1))
    other = house.outbox.keep([house.outbox.read(first) + b"\0\0"])
    assert other != first
    reconciler(house, young).run(WORD)
    with young.sessions.reading() as session:
        kept = {row.sha256 for row in session.query(RecoveredObjectRow)}
    assert first in kept
    assert other not in kept


# --- copies -----------------------------------------------------------------------------------------------------------


def test_a_copy_says_what_the_ledger_said(house: House, backend: str, tmp_path: Path) -> None:
    """Out of one database, into it again after it has changed: counts and chain are those of the copy."""
    engine = house.ledger.engine
    sign(house.ledger.sessions, KEY, NOON)
    before = house.ledger.queries.counts()
    assert backup.backup(engine, tmp_path / "copy") == schema.head()
    house.ledger.receive("1.2.9.1", "1.2.9", study_uid="1.9")
    assert house.ledger.queries.counts() != before
    kept = backup.restore(engine, tmp_path / "copy", KEY, NOON)
    assert (kept is not None) is (backend == "sqlite")
    assert house.ledger.queries.counts() == before
    assert house.ledger.queries.chain_is_whole()
    assert schema.differences(engine) == []


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda path: path.unlink(), NotFound),
        (lambda path: path.write_bytes(b""), Unreadable),
        (lambda path: path.write_bytes(b"This is a letter. " * 500), Unreadable),
        (lambda path: path.write_bytes(path.read_bytes()[:-4096]), Unreadable),
        (lambda path: change(path, "UPDATE events SET actor = 'somebody else' WHERE seq = 2"), Unreadable),
        (lambda path: change(path, "UPDATE jobs SET series_id = 999"), Unreadable),
        (lambda path: change(path, "UPDATE alembic_version SET version_num = '9999'"), SchemaFault),
    ],
)
def test_no_backup_that_is_not_whole(tmp_path: Path, spoil: Callable[[Path], object], fault: type[Exception]) -> None:
    """Missing, empty, another file, torn, an event or a row changed, a newer program's: refused, nothing touched."""
    engine = open_engine(f"sqlite:///{tmp_path / 'ledger.db'}")
    schema.upgrade(engine)
    ledger = Ledger(engine)
    ledger.written()
    backup.backup(engine, tmp_path / "copy")
    spoil(tmp_path / "copy")
    with pytest.raises(fault):
        backup.restore(engine, tmp_path / "copy", KEY, NOON)
    assert ledger.job_state() == "WRITTEN"
    assert not list(tmp_path.glob("*.replaced-*"))
    engine.dispose()


def test_another_nodes_backup_is_refused(tmp_path: Path) -> None:
    """Signed with another site.key: CONFIG_FAULT before anything is moved."""
    engine = open_engine(f"sqlite:///{tmp_path / 'ledger.db'}")
    schema.upgrade(engine)
    sign(Ledger(engine).sessions, KEY, NOON)
    backup.backup(engine, tmp_path / "copy")
    with pytest.raises(ConfigFault, match="another node"):
        backup.restore(engine, tmp_path / "copy", "another key", NOON)
    assert not list(tmp_path.glob("*.replaced-*"))
    engine.dispose()


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    """By the file's name, and what to do."""
    engine = open_engine(f"sqlite:///{tmp_path / 'ledger.db'}")
    schema.upgrade(engine)
    with pytest.raises(ConfigFault, match="No such file or directory: name a folder"):
        backup.backup(engine, tmp_path / "no" / "copy")
    engine.dispose()


def test_postgresqls_programs_are_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without them, or with older ones than the server, the refusal says which are wanted."""
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(ConfigFault, match="no pg_dump of version 99 or newer is on PATH: install"):
        backup.program("pg_dump", 99)


def change(path: Path, statement: str) -> None:
    """Behind the ledger's back."""
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()
