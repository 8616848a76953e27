"""The drill of docs/restore.md on a running node, on both databases: backup, destruction, restore, reconcile."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from npc_rtnode.adapters.database.tables import Table
from tests.acceptance.hospital import Destination, Scanner, Study, make_study
from tests.acceptance.node import Node, View, example
from tests.postgres import PASSWORD, Server

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(400)]
BACKENDS = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]


@pytest.fixture(params=BACKENDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Node, Destination]]:
    """A node on this database, and the TPS that it delivers to."""
    tps = Destination(tmp_path / "tps").up()
    settings = example(tps=tps.port, pacs=tps.port)
    settings["destinations"] = [one for one in settings["destinations"] if one["name"] == "tps"]
    server: Server | None = None
    if request.param == "postgresql":
        server = request.getfixturevalue("postgres")
        settings["database"] = {"url": server.create("drill")}
    with Node(tmp_path / "node", settings) as node:
        yield node, tps
    tps.down()
    if server:
        server.drop("drill")


def destroy(node: Node, request: pytest.FixtureRequest) -> None:
    """As a failed disk would: the file torn, or the tables gone."""
    if node.station.engine.dialect.name == "sqlite":
        for path in node.home.glob("ledger.db*"):
            path.write_bytes(b"torn" * 100)
        return
    server: Server = request.getfixturevalue("postgres")
    names = [*Table.metadata.tables, "alembic_version"]
    server.do(f"DROP TABLE {', '.join(names)} CASCADE", "drill")


def arrived(tps: Destination, study: Study) -> dict[str, set[bytes]]:
    """What the TPS was ever given of a study: the different contents under each SOP Instance UID."""
    found: dict[str, set[bytes]] = {}
    for item in tps.of_study(study.uid):
        found.setdefault(item.sop_uid, set()).add(item.encoded)
    return found


def test_a_destroyed_ledger_comes_back_with_all_that_was_acknowledged(
    place: tuple[Node, Destination], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Work before, across and after the backup ends delivered, each structure set once by UID and bytes; fsck holds."""
    node, tps = place
    scanner, file = Scanner(node.port), tmp_path / "ledger.backup"
    before, across, after, cut = (
        make_study(tmp_path / "sent", name) for name in ("before", "across", "after", "cut short")
    )
    scanner.send_all(before.slices)
    node.delivered(before.uid)
    scanner.send_all(across.slices[:5])
    made = node.cli("db", "backup", str(file))
    assert made.returncode == 0, made.stderr
    scanner.send_all(across.slices[5:])
    scanner.send_all(after.slices)
    node.delivered(across.uid)
    node.delivered(after.uid)
    sent = {study.uid: arrived(tps, study) for study in (before, across, after)}
    scanner.send_all(cut.slices[:5])
    node.kill9_all()
    destroy(node, request)
    node.station.close()
    del node.station

    refused = node.cli("status")
    assert refused.returncode in {2, 75}, "a destroyed ledger is told by its code"
    restored = node.cli("db", "restore", str(file), "--reason", "drill", "--json")
    assert restored.returncode == 0, restored.stderr + restored.stdout
    told: View = json.loads(restored.stdout)
    least = len(across.files) - 5 + len(after.files)
    assert least <= told["taken_in"] <= least + 5, "the last ones may wait in the intake journal for the receiver"
    assert told["objects"] == 2, "the structure sets that the restored ledger has never heard of"
    assert told["missing"] == {"spool": 0, "outbox": 0}
    assert set(node.broken_promises()) <= {"I12"}, "records of the intake journal wait for the receiver, and are told"

    node.start()
    scanner.send_all(cut.slices[5:])
    for study in (before, across, after, cut):
        node.delivered(study.uid)
    for uid, objects in sent.items():
        again = arrived(tps, next(s for s in (before, across, after) if s.uid == uid))
        assert again == objects, "the same SOP Instance UIDs with the same bytes, however often they came"
        assert len(again) == 1
        assert {len(contents) for contents in again.values()} == {1}
    rows = node.instances()
    assert {s.sop_uid for study in (before, across, after, cut) for s in study.slices} <= set(rows)
    assert node.broken_promises() == {}
    assert PASSWORD not in "".join(node.said) + node.log_text()


def test_restoring_is_refused_while_the_node_runs_or_the_backup_is_not_whole(
    place: tuple[Node, Destination], tmp_path: Path
) -> None:
    """The running ledger is untouched; a torn backup is refused by its code before anything is moved."""
    node, _ = place
    file = tmp_path / "ledger.backup"
    assert node.cli("db", "backup", str(file)).returncode == 0
    assert file.stat().st_mode & 0o077 == 0, "for its owner alone"
    again = node.cli("db", "backup", str(file))
    assert (again.returncode, "CONFIG_FAULT" in again.stderr) == (2, True), "no backup replaces another file"
    running = node.cli("db", "restore", str(file), "--reason", "drill")
    assert (running.returncode, "MOMENT_FAULT" in running.stderr) == (75, True)
    node.stop()
    torn = tmp_path / "torn.backup"
    torn.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    refused = node.cli("db", "restore", str(torn), "--reason", "drill")
    assert (refused.returncode, "UNREADABLE" in refused.stderr) == (20, True), refused.stderr
    assert node.cli("db", "check").returncode == 0
