"""Disks that are full: spool, ledger and log, work, outbox, each a small file system under a running node.

Every time: nothing is acknowledged that is not kept whole and recorded, no process dies, a person is told in words what
is the matter, and once there is room again everything that was sent or begun ends delivered without anybody's help.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from npc_rtnode.domain.retry import DISK_PAUSE_S
from tests.acceptance.hospital import SUCCESS, Destination, Scanner, Slice, Study, leaks, make_study, slice_of
from tests.acceptance.node import Node, View, example
from tests.builders.mr_series import make_series
from tests.fakes.disk import MEGABYTE, SmallDisk

pytestmark = [pytest.mark.acceptance, pytest.mark.slow, pytest.mark.timeout(600)]

OUT_OF_RESOURCES = 0xA700
RESERVE_MB = 8
AMPLE = 128 * MEGABYTE


@pytest.fixture(scope="module")
def disks(folder: Path) -> Iterator[dict[str, SmallDisk]]:
    """Home (with ledger and log), spool, work and outbox."""
    home = folder / "node" / "home"
    places = {"home": folder / "node", "spool": home / "spool", "work": home / "work", "outbox": home / "outbox"}
    made = {name: SmallDisk(place, AMPLE) for name, place in places.items()}
    yield made
    for disk in reversed(made.values()):
        disk.close()


@pytest.fixture(scope="module")
def settings(tps: Destination, archive: Destination) -> View:
    """The example's, with a reserve that fits the disks."""
    changed = example(tps=tps.port, pacs=archive.port)
    changed["listener"]["reserve_free_mb"] = RESERVE_MB
    changed["admission"] = {"refuse_below": 0}  # the reserve itself is what these tests are about
    return changed


@pytest.fixture(scope="module")
def node(folder: Path, settings: View, disks: dict[str, SmallDisk]) -> Iterator[Node]:
    """A node whose folders are small disks."""
    with Node(folder / "node", settings) as running:
        yield running
        assert running.broken_promises() == {}
        assert running.stop() == 0, running.log_tail()
        assert running.left_behind == []
        assert leaks(running) == []


@pytest.fixture(autouse=True)
def _room_again(disks: dict[str, SmallDisk]) -> Iterator[None]:
    """Every test begins with room on every disk."""
    yield
    for disk in disks.values():
        disk.leave(AMPLE)


@pytest.fixture
def study(request: pytest.FixtureRequest, folder: Path) -> Study:
    """A whole phantom study of this test's own."""
    return make_study(folder / "sent", request.node.name)


@pytest.fixture
def alive(node: Node) -> Iterator[None]:
    """Both roles are the same processes afterwards."""
    before = node.role_pid("receive"), node.role_pid("work")
    yield
    assert (node.role_pid("receive"), node.role_pid("work")) == before, node.log_tail()


def assert_kept(node: Node, slices: list[Slice], statuses: list[int | None]) -> None:
    """Whatever was acknowledged has its row and its whole bytes; whatever was not was told A700; no part is left."""
    assert set(statuses) <= {SUCCESS, OUT_OF_RESOURCES}
    rows = node.instances()
    for item, status in zip(slices, statuses, strict=True):
        if status == SUCCESS:
            assert node.station.spool.read(rows[item.sop_uid].sha256).endswith(item.encoded)
    assert list((node.home / "spool").rglob("*.part")) == []


def doctor(node: Node) -> dict[str, View]:
    """What `doctor` says, by check."""
    return {check["check"]: check for check in json.loads(node.cli("doctor", "--quick", "--json").stdout)}


def assert_delivered(node: Node, study: Study, tps: Destination) -> None:
    """One structure set has arrived, and nothing is still under way."""
    node.delivered(study.uid, 240)
    assert len({item.sop_uid for item in tps.of_study(study.uid)}) == 1


@pytest.mark.usefixtures("alive")
def test_a_spool_that_fills_up(
    node: Node, scanner: Scanner, study: Study, tps: Destination, disks: dict[str, SmallDisk]
) -> None:
    """A700 before the reserve is touched; what was acknowledged stays; with room the same sender ends well."""
    slices = study.slices
    disks["spool"].leave(RESERVE_MB * MEGABYTE + 5 * len(slices[0].encoded))
    statuses = scanner.send(slices)
    assert 1 <= statuses.count(SUCCESS) < len(slices)
    assert statuses == sorted(statuses, key=lambda status: status != SUCCESS), "full is full"
    assert disks["spool"].free >= RESERVE_MB * MEGABYTE
    assert_kept(node, slices, statuses)
    assert "DISK_LOW" in node.log_text()
    told = doctor(node)["disk of spool"]
    assert (told["outcome"], told["fix"]) == ("fault", "free space, or the node refuses instances with A700")
    node.wait_for(lambda: node.states(study.uid) == ["STALLED"], 30)
    assert "images of its association were refused" in node.cli("why", study.uid).stdout
    disks["spool"].leave(AMPLE)
    scanner.send_all(slices)
    assert_delivered(node, study, tps)


@pytest.mark.usefixtures("alive")
def test_a_spool_without_one_byte(
    node: Node, scanner: Scanner, study: Study, tps: Destination, disks: dict[str, SmallDisk]
) -> None:
    """Somebody else has eaten the reserve too: A700 for each, the association lives on, nothing is left behind."""
    slices = study.slices
    disks["spool"].leave(0)
    assert scanner.send(slices) == [OUT_OF_RESOURCES] * len(slices)
    assert_kept(node, slices, [OUT_OF_RESOURCES] * len(slices))
    disks["spool"].leave(AMPLE)
    scanner.send_all(slices)
    assert_delivered(node, study, tps)


@pytest.mark.usefixtures("alive")
def test_a_ledger_and_a_log_without_one_byte(
    node: Node, scanner: Scanner, study: Study, folder: Path, tps: Destination, disks: dict[str, SmallDisk]
) -> None:
    """Success is what the intake journal has, whatever SQLite and the log say; with room the ledger has it too."""
    many = [
        slice_of(path) for path in make_series(folder / "sent" / "many", slices=200, rows=8, columns=8, seed="many")
    ]
    disks["home"].leave(0)
    statuses = scanner.send([*many, *study.slices])
    assert set(statuses) <= {SUCCESS, OUT_OF_RESOURCES}
    assert SUCCESS in statuses
    said = doctor(node)["disk"]
    assert (said["outcome"], said["said"].split(",")[0]) == ("fault", "0 MB free")
    disks["home"].leave(AMPLE)
    node.settle(60)
    assert_kept(node, [*many, *study.slices], statuses)
    scanner.send_all([*many, *study.slices])
    assert_delivered(node, study, tps)
    assert node.cli("db", "check").returncode == 0


def test_a_receiver_that_dies_while_the_disk_is_full(
    node: Node, scanner: Scanner, study: Study, tps: Destination, disks: dict[str, SmallDisk]
) -> None:
    """It cannot even say which port it has; the supervisor keeps trying, and it is up again once there is room."""
    disks["home"].leave(0)
    seen = {node.kill9("receive")}

    def has_failed_to_start() -> bool:
        seen.update(node.pids("receive"))
        return len(seen) > 2  # the one that was killed, one that found no room, and its successor

    node.wait_for(has_failed_to_start, 90)
    disks["home"].leave(AMPLE)
    node.wait_for(node.is_up, 90)
    scanner.send_all(study.slices)
    assert_delivered(node, study, tps)


@pytest.mark.usefixtures("alive")
def test_no_room_for_a_result(
    node: Node, scanner: Scanner, folder: Path, tps: Destination, disks: dict[str, SmallDisk]
) -> None:
    """One job finds no room for what it wrote, another for what it inferred: each waits as DISK_LOW, told by `why` and
    `doctor`, counts no attempt, and goes on by itself with room. They wait at the same time, the pause is long."""
    studies = []
    for full, stage in (("outbox", "write"), ("work", "infer")):
        disks[full].leave(0)
        studies.append(make_study(folder / "sent", f"no room in {full}"))
        scanner.send_all(studies[-1].slices)
        assert_waits_for_room(node, studies[-1], full, stage)
    for full in ("outbox", "work"):
        disks[full].leave(AMPLE)
    for study in studies:
        node.wait_for(lambda study=study: node.job_states(study.uid) == ["DELIVERED"], DISK_PAUSE_S + 90)  # type: ignore[misc]
        assert len(tps.of_study(study.uid)) == 1


def assert_waits_for_room(node: Node, study: Study, full: str, stage: str) -> None:
    """Its job has met a full disk in that stage, and everybody says so."""
    node.wait_for(lambda: [job["last_error"] for job in node.jobs(study.uid) if job["last_error"]], 90)
    (job,) = node.jobs(study.uid)
    assert job["last_error"].startswith("DISK_LOW")
    assert job["state"] in {"QUEUED", "PREDICTED"}
    assert [(a["stage"], a["outcome"]) for a in job["attempts"]][-1] == (stage, "POSTPONED")
    assert "DISK_LOW" in node.cli("why", study.uid).stdout
    told = doctor(node)[f"disk of {full}"]
    assert (told["outcome"], told["fix"]) == ("fault", "free space, or jobs wait as DISK_LOW")
    assert list((node.home / full).rglob("*.part")) == []
