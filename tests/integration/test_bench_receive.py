"""`make bench-receive` with very few slices: every receiver has what it took, and one that has not ends the run."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest
from sqlalchemy import func, select

from bench import growth, ledgers, receive
from bench.receivers import Kept, Node, NotKept, PynetdicomApp, Storescp, built_shim
from bench.senders import RawSenders
from bench.slices import Shipment
from npc_rtnode.adapters.database.engine import Sessions, open_engine
from npc_rtnode.adapters.database.journal import first_broken_link
from npc_rtnode.adapters.database.tables import EventRow, InstanceRow, SeriesRow, StudyRow
from tests.peers import find_peer

FEW = ["--rounds", "1", "--instances", "4", "--nagle", "2", "--growth-rounds", "1", "--growth-instances", "4"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.postgres
@pytest.mark.peer("storescp", "storescu", "Orthanc", "cc")
def test_all_receivers_have_what_they_took(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 0 with every column (the bench itself counts what each has), the issue's keys, nothing left on the disk.

    Slices of 512² alone and short series: the others are sent and counted by the same lines. Nor are the disks' own
    buffers emptied before each figure: nobody reads these.
    """
    monkeypatch.setattr(os, "sync", lambda: None)
    monkeypatch.setattr(receive, "SERIES", 8)
    monkeypatch.setattr(receive, "SPEED", tuple(cell for cell in receive.SPEED if cell.side == 512))
    with tempfile.TemporaryDirectory() as folder:  # and not tmp_path: PostgreSQL's own user must come through
        Path(folder).chmod(0o711)
        status = receive.main([*FEW, "--levels", "1000", "2000", "--folder", folder])
        left = list(Path(folder).iterdir())
    said = capsys.readouterr()
    assert status == 0, said.err
    found = json.loads(said.out.splitlines()[-1].removeprefix("RESULT "))
    assert all(isinstance(value, int | float) for value in found.values())
    assert set(found) >= set(receive.HEADLINES) | {"growth_2k_over_1k", "rss_mb_8", "fsync_ms"}
    assert not left


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_receiver_that_lost_an_instance_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One file fewer than it acknowledged: status 1, the column and both counts are said, no RESULT line."""
    honest = PynetdicomApp.kept
    monkeypatch.setattr(PynetdicomApp, "kept", lambda self: honest(self)._replace(instances=self.sent - 1))
    monkeypatch.setattr(receive, "SPEED", receive.SPEED[:1])
    arguments = [*FEW, "--nagle", "0", "--levels", "--receivers", "pynetdicom_app", "--folder", str(tmp_path)]
    assert receive.main(arguments) == 1
    said = capsys.readouterr()
    assert "FAILED: NotKept: PynetdicomApp took" in said.err
    assert "RESULT" not in said.out


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_receiver_that_cannot_be_had_is_said_and_is_status_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without Orthanc the others are measured, MISSING names it, and its ratios are not there."""
    monkeypatch.setattr(receive, "find_peer", lambda name: None if name == "Orthanc" else find_peer(name))
    monkeypatch.setattr(receive, "SPEED", receive.SPEED[:1])
    arguments = [*FEW, "--nagle", "0", "--levels", "--receivers", "orthanc", "pynetdicom_app"]
    assert receive.main([*arguments, "--folder", str(tmp_path)]) == 3
    said = capsys.readouterr()
    assert "MISSING orthanc" in said.err
    assert "orthanc" not in said.out


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.peer("storescp", "cc")
def test_the_durable_storescp_is_counted_at_its_work(tmp_path: Path) -> None:
    """As many syncs as files with the shim; a shim that made none would be found out."""
    shim = built_shim(tmp_path)
    with (
        RawSenders((1,)) as senders,
        Storescp(tmp_path / "peer", str(find_peer("storescp")), shim=shim) as storescp,
    ):
        shipment = Shipment("durable", 3, 64)
        senders.send(storescp.port, [shipment])
        storescp.given(3, shipment.pixel_bytes)
        storescp.check()
        (tmp_path / "peer" / "synced").write_bytes(bytes(8))
        with pytest.raises(NotKept, match="synced 0"):
            storescp.check()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_this_node_is_counted_by_row_and_file(tmp_path: Path) -> None:
    """A row whose file is gone is no instance, and rows that were there before are none that came."""
    url = f"sqlite:///{tmp_path / 'used.db'}"
    ledgers.fill(url, 70)
    with RawSenders((1,)) as senders, Node(tmp_path / "node", url) as node:
        shipment = Shipment("counted", 3, 64)
        senders.send(node.port, [shipment])
        node.given(3, shipment.pixel_bytes)
        node.settled()
        node.check()
        assert node.rows() == 3
        assert node.cpu_s() > 0.1
        next(path for path in node.store.glob("spool/??/*") if path.is_file()).unlink()
        assert node.kept() < Kept(3, shipment.pixel_bytes)
        with pytest.raises(NotKept, match=r"took 3 instances .* has 2 "):
            node.check()


def test_a_filled_ledger_has_its_shape_and_an_unbroken_chain(tmp_path: Path) -> None:
    """250 instances: 5 series, 2 studies, 15 events that the journal's own check accepts."""
    url = f"sqlite:///{tmp_path / 'used.db'}"
    ledgers.fill(url, 250)
    sessions = Sessions(open_engine(url))
    with sessions.reading() as session:
        tables = (InstanceRow, SeriesRow, StudyRow, EventRow)
        assert [session.scalar(select(func.count()).select_from(table)) for table in tables] == [250, 5, 2, 15]
        assert first_broken_link(session) is None
    sessions.engine.dispose()
    assert growth.short(1000) == "1k"
