"""Admission on the wire and in the ledger: what a sender is told when disk or work is short, and what is counted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pynetdicom import AE
from pynetdicom.association import Association
from typer.testing import CliRunner

from npc_rtnode.adapters.database import schema
from npc_rtnode.adapters.database.admission import AdmissionLedger
from npc_rtnode.adapters.dicom.listener.server import Listener
from npc_rtnode.adapters.dicom.sameness import InstanceReader
from npc_rtnode.adapters.spool import FileSpool
from npc_rtnode.app import Station
from npc_rtnode.cli import app
from npc_rtnode.cli.checks import examine
from npc_rtnode.domain.admission import MEGABYTE, Level, Marks, Standing
from npc_rtnode.domain.records import Finding
from npc_rtnode.pipeline.admit import Gatekeeper
from npc_rtnode.settings import ListenerSettings, Peer, Settings
from tests.builders.intake import Intake
from tests.builders.ledger import Ledger

MR = "1.2.840.10008.5.1.4.1.1.4"
TEMPORARY_CONGESTION = (2, 3, 1)  # PS3.8 9.3.4: transient, service provider (presentation), temporary congestion
MARKS = Marks(500 * MEGABYTE, 200 * MEGABYTE, 300 * MEGABYTE, max_backlog=1)


class Door:
    """A listener with everything behind it real but the size of the disk."""

    def __init__(self, ledger: Ledger, folder: Path) -> None:
        self.free_mb, self.ledger = 900, ledger
        self.gatekeeper = Gatekeeper(AdmissionLedger(ledger.sessions), self._free, MARKS, lambda: ledger.now)
        sink = Intake(ledger, folder / "spool", FileSpool(folder / "spool", 0), InstanceReader())
        settings = ListenerSettings(port=0, peers=(Peer(ae_title="SCANNER", networks=("127.0.0.1/32",)),))
        self.listener = Listener(settings, sink, self.gatekeeper.refusal)
        self.port = self.listener.start()

    def _free(self) -> int:
        return self.free_mb * MEGABYTE

    def call(self) -> Association:
        """One caller."""
        scanner = AE("SCANNER")
        scanner.add_requested_context(MR)
        return scanner.associate("127.0.0.1", self.port, ae_title="NPC_RTNODE")


@pytest.fixture
def door(ledger: Ledger, tmp_path: Path) -> Iterator[Door]:
    """On both databases."""
    made = Door(ledger, tmp_path)
    yield made
    made.listener.stop(1)


def refused(association: Association) -> tuple[int, int, int] | None:
    """What an association that was rejected was told."""
    if not association.is_rejected:
        association.release()
        return None
    answer: Any = association.acceptor.primitive
    return answer.result, answer.result_source, answer.diagnostic


def test_a_disk_below_its_mark_refuses_newcomers_and_no_one_else(door: Door) -> None:
    """Transient, by PS3.8; who is in stays in; above the second mark callers are taken again; the row has numbers."""
    inside = door.call()
    assert inside.is_established
    door.free_mb = 150
    assert refused(door.call()) == TEMPORARY_CONGESTION
    assert inside.is_established
    inside.release()
    door.free_mb = 250
    assert refused(door.call()) == TEMPORARY_CONGESTION
    door.free_mb = 301
    assert refused(door.call()) is None
    assert door.ledger.queries.counts()["refused_for_now"] == 2


def test_a_backlog_refuses_newcomers(door: Door) -> None:
    """Two jobs where one may wait; what a person keeps back is no backlog."""
    for number in ("1.2.3", "1.2.4"):
        door.ledger.queued_job(series_uid=number)
    door.gatekeeper.look()
    assert refused(door.call()) == TEMPORARY_CONGESTION
    door.ledger.desk.hold(door.ledger.study(), door.ledger.word())
    door.gatekeeper.look()
    assert refused(door.call()) is None
    changes = AdmissionLedger(door.ledger.sessions)
    assert (changes.changes(), changes.last()) == ({"SHUT": 1, "OPEN": 1}, Level.OPEN)
    assert door.ledger.queries.chain_is_whole()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A settings file whose marks no disk of this machine satisfies: a reserve of nearly all there is."""
    file = tmp_path / "node.toml"
    file.write_text(
        f'[node]\nhome = "{tmp_path / "home"}"\n[listener]\nport = 0\nreserve_free_mb = 1\n'
        "[admission]\nwarn_below = 0\nrefuse_below = 0\nreopen_above = 0\n",
        "utf-8",
    )
    settings = Settings.model_validate({"node": {"home": tmp_path / "home"}, "listener": {"reserve_free_mb": 1}})
    station = Station(settings)
    schema.upgrade(station.engine)
    station.close()
    return file


def test_status_tells_the_door_the_disk_and_the_counts(config: Path) -> None:
    """Open is 0; with marks that the disk does not reach it is 3, with the number that decided it."""
    done = CliRunner().invoke(app, ["status", "--json", "--config", str(config)])
    told = json.loads(done.stdout)
    assert (done.exit_code, told["admission"]["level"], told["admission"]["backlog"]) == (0, "OPEN", 0)
    assert told["counts"]["refused_for_now"] == 0
    text = config.read_text("utf-8").replace("reserve_free_mb = 1", f"reserve_free_mb = {1 << 40}")
    config.write_text(text.replace("_below = 0", "_below = 1").replace("_above = 0", "_above = 1"), "utf-8")
    done = CliRunner().invoke(app, ["status", "--json", "--config", str(config)])
    told = json.loads(done.stdout)["admission"]
    assert (done.exit_code, told["level"]) == (3, "SHUT")
    assert told["because"].startswith("DISK_LOW: ")


def test_doctor_names_what_is_short(tmp_path: Path) -> None:
    """The door is a check of its own: a fault while shut, with how often it was, and what to do."""
    settings = Settings.model_validate({"node": {"home": tmp_path / "home"}, "listener": {"reserve_free_mb": 1 << 40}})
    station = Station(settings)
    schema.upgrade(station.engine)
    pages, finding = AdmissionLedger(station.sessions), Finding("DISK_LOW", "said so", 1.0, 2.0)
    pages.admission_changed(Standing(Level.SHUT, finding), Ledger(station.engine).now)
    (check,) = [check for check in examine(settings, golden=False) if check.name == "admission"]
    station.close()
    assert (check.outcome, check.fix[:10]) == ("fault", "free space")
    assert "SHUT: DISK_LOW: " in check.said
    assert "shut 1 times" in check.said
