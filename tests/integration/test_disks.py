"""Disks are looked at by the clock: who runs low is told in log, journal and `status`, and told to have room again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from npc_rtnode.adapters.database import schema
from npc_rtnode.adapters.database.disks import DiskLedger
from npc_rtnode.adapters.database.tables import EventRow
from npc_rtnode.app import MEGABYTE, RESULTS_MB, Station, WorkRole
from npc_rtnode.cli import app
from npc_rtnode.domain.disks import Room
from npc_rtnode.errors import LedgerUnavailable
from npc_rtnode.pipeline.disks import DiskWatch
from npc_rtnode.schedule import Metronome, Tick
from npc_rtnode.settings import load_settings
from tests.builders.ledger import Ledger
from tests.builders.workers import wait_for
from tests.fakes.disk import SmallDisk

WANTED_MB = 100


class Disks:
    """Two of them, of any size."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger, self.free_mb = ledger, {"home": 900, "outbox": 900}
        self.watch = self.restarted()

    def restarted(self) -> DiskWatch:
        """Who looks, with no memory but the ledger's."""
        return DiskWatch(DiskLedger(self.ledger.sessions), self._rooms, lambda: self.ledger.now)

    def _rooms(self) -> list[Room]:
        return [Room(name, mb * MEGABYTE, WANTED_MB * MEGABYTE) for name, mb in self.free_mb.items()]

    def told(self) -> list[tuple[str, str, int]]:
        """Every event of a disk, in order."""
        query = select(EventRow).where(EventRow.subject == "disk").order_by(EventRow.seq)
        with self.ledger.sessions.reading() as session:
            return [(row.subject_id, row.event, row.detail["free_mb"]) for row in session.scalars(query)]


@pytest.fixture
def disks(ledger: Ledger) -> Disks:
    """On both databases."""
    return Disks(ledger)


def test_the_clock_notices_a_disk_while_nothing_comes(disks: Disks, capsys: pytest.CaptureFixture[str]) -> None:
    """A disk that fills up and is emptied by somebody else is told both times, with nobody asking but the metronome."""
    clock = Metronome([Tick("disks", disks.watch.look, 0.05)])
    clock.start()
    try:
        disks.free_mb["outbox"] = 99
        wait_for(lambda: disks.told() == [("outbox", "LOW", 99)], 20, disks.told)
        disks.free_mb["outbox"] = 151
        wait_for(lambda: disks.told()[1:] == [("outbox", "ROOM", 151)], 20, disks.told)
    finally:
        clock.stop()
    said = capsys.readouterr().out
    assert said.index("a disk is low") < said.index("a disk has room again")
    assert disks.ledger.queries.chain_is_whole()


def test_an_alarm_does_not_flap_and_survives_a_restart(disks: Disks) -> None:
    """Told once; between the marks it stays as it was, also for a process that has only just begun."""
    looks = []
    for free_mb in (99, 80, 120, 149):
        disks.free_mb["home"] = free_mb
        looks.append(disks.watch.look())
    watch = disks.restarted()
    looks.append(watch.look())
    assert looks == [1, 0, 0, 0, 0]
    assert DiskLedger(disks.ledger.sessions).told() == {"home": "99 MB free, 100 MB wanted"}
    disks.free_mb["home"] = 150
    assert (watch.look(), watch.look()) == (1, 0)
    assert DiskLedger(disks.ledger.sessions).told() == {}


def test_what_a_full_disk_keeps_out_of_the_ledger_is_recorded_later(
    disks: Disks, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The log says it at once, and once; the journal as soon as it can be written."""

    def away(*_: object) -> None:
        raise LedgerUnavailable("SQLITE_FULL")

    disks.free_mb["home"] = 3
    with monkeypatch.context() as patch:
        patch.setattr(DiskLedger, "disk_changed", away)
        assert (disks.watch.look(), disks.watch.look()) == (0, 0)
    assert capsys.readouterr().out.count("a disk is low") == 1
    assert disks.watch.look() == 1
    assert disks.told() == [("home", "LOW", 3)]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A node on SQLite."""
    path = tmp_path / "node.toml"
    path.write_text(f'[node]\nhome = "{tmp_path / "home"}"\n[listener]\nreserve_free_mb = 1\n', "utf-8")
    with closing(Station(load_settings(path, {}))) as station:
        schema.upgrade(station.engine)
    return path


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[SmallDisk]:
    """Mounted by itself."""
    disk = SmallDisk(tmp_path / "home" / "outbox", 128 * MEGABYTE)
    yield disk
    disk.close()


def test_status_tells_a_folder_mounted_by_itself(config: Path, outbox: SmallDisk) -> None:
    """The home's disk is the spool's, which is the door's; the outbox's is looked at, and low makes `status` end 3."""
    with closing(Station(load_settings(config, {}))) as station:
        (room,) = station.rooms()
        assert (room.name, room.wanted_bytes) == ("outbox", RESULTS_MB * MEGABYTE)
        outbox.leave(RESULTS_MB * MEGABYTE - 1)
        assert station.disk_watch().look() == 1
        done = CliRunner().invoke(app, ["status", "--json", "--config", str(config)])
        assert (done.exit_code, json.loads(done.stdout)["disks_low"]) == (3, {"outbox": "63 MB free, 64 MB wanted"})
        outbox.leave(100 * MEGABYTE)
        assert station.disk_watch().look() == 1
    assert CliRunner().invoke(app, ["status", "--config", str(config)]).exit_code == 0


def test_every_worker_looks(config: Path) -> None:
    """The node's own, and a further host, whose whole home is looked at because it has no door."""
    role = WorkRole(load_settings(config, {}))
    assert "disks" in {tick.name for tick in role._ticks()}
    reach = {"NPC_RTNODE_WORK__HOST": "gpu-1", "NPC_RTNODE_WORK__STORE": str(config.parent / "home")}
    url = {"NPC_RTNODE_DATABASE__URL": "postgresql://node@localhost/none"}
    home = {"NPC_RTNODE_NODE__HOME": str(config.parent / "other")}
    Station(load_settings(config, {})).home.site_key()
    with closing(Station(load_settings(config, {**reach, **url, **home}))) as station:
        assert [room.name for room in station.rooms()] == ["home@gpu-1"]
    role._predictor.close()
    role._station.close()
