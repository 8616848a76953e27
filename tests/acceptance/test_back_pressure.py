"""A real disk that reaches its low-water marks under a running node: who is told what, and that room is all it takes.

The marks are the shipped ones (2, 3 and 5 times the reserve). Between refuse_below and the reserve, newcomers are
rejected as a transient condition while who is in goes on; at the reserve itself every instance is answered A700. What
has been acknowledged is worked on and delivered meanwhile. With room again a sender that tries by itself ends well.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.hospital import SUCCESS, Destination, Scanner, Slice, Study, make_study, store
from tests.acceptance.node import Node, View, example
from tests.acceptance.test_kill9 import assert_all_there, assert_one_rtstruct
from tests.fakes.disk import MEGABYTE, SmallDisk

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(500)]

OUT_OF_RESOURCES = 0xA700
TEMPORARY_CONGESTION = (2, 3, 1)  # PS3.8 9.3.4: transient, service provider (presentation), temporary congestion
RESERVE_MB = 64
"""So that a segment of the intake journal more or less (16 MB) crosses no mark."""
AMPLE, LOW, SHUT, FULL = (
    times * RESERVE_MB * MEGABYTE for times in (12, 4, 1.5, 0.9)
)  # above every mark; below warn_below; below refuse_below; within the reserve


@pytest.fixture(scope="module")
def disk(folder: Path) -> Iterator[SmallDisk]:
    """The spool's own file system."""
    made = SmallDisk(folder / "node" / "home" / "spool", int(AMPLE))
    yield made
    made.close()


@pytest.fixture(scope="module")
def settings(tps: Destination, archive: Destination) -> View:
    """The example's with its own admission, and a reserve that fits the disk."""
    changed = example(tps=tps.port, pacs=archive.port)
    changed["listener"]["reserve_free_mb"] = RESERVE_MB
    return changed


@pytest.fixture(scope="module")
def node(folder: Path, settings: View, disk: SmallDisk) -> Iterator[Node]:
    """A node whose spool is the small disk."""
    with Node(folder / "node", settings) as running:
        yield running
        assert running.broken_promises() == {}
        assert running.stop() == 0, running.log_tail()


@pytest.fixture(autouse=True)
def _room_again(disk: SmallDisk) -> Iterator[None]:
    """Whatever a test has taken."""
    yield
    disk.leave(int(AMPLE))


def rejection(scanner: Scanner, slices: Sequence[Slice]) -> tuple[int, int, int] | None:
    """What a newcomer is told; None where he is let in."""
    assoc = scanner.associate(slices)
    if assoc.is_established:
        assoc.release()
        return None
    answer: Any = assoc.acceptor.primitive
    return answer.result, answer.result_source, answer.diagnostic


def send_until_taken(scanner: Scanner, slices: Sequence[Slice], seconds: float) -> None:
    """As a PACS does it: what was not taken is sent again after a while, without anybody's help."""
    left, deadline = list(slices), time.monotonic() + seconds
    while left:
        assert time.monotonic() < deadline, f"{len(left)} are not taken"
        if rejection(scanner, left) is None:
            statuses = scanner.send(left)
            left = [item for item, status in zip(left, statuses, strict=True) if status != SUCCESS]
        time.sleep(0.2)


def status_of(node: Node) -> tuple[int, View]:
    """Exit code and the door's standing, as a person asks for it."""
    told = node.cli("status", "--json")
    return told.returncode, json.loads(told.stdout)["admission"]


@pytest.fixture(scope="module")
def studies(folder: Path, node: Node) -> tuple[Study, Study]:
    """One that comes before the disk is low, one that wants to come then."""
    return make_study(folder / "sent", "inside"), make_study(folder / "sent", "outside")


def test_low_water_holds_off_newcomers_and_nothing_that_is_begun(
    node: Node, scanner: Scanner, disk: SmallDisk, studies: tuple[Study, Study], tps: Destination
) -> None:
    """From mark to mark and back: warned, shut, full, room; each told in words and in the journal, and at the end both
    studies are delivered once."""
    inside, outside = studies
    first, second, third = inside.slices[:8], inside.slices[8:14], inside.slices[14:]
    with scanner.association(inside.slices) as assoc:
        assert [store(assoc, item) for item in first] == [SUCCESS] * len(first)

        disk.leave(int(LOW))
        assert rejection(scanner, outside.slices) is None, "low is a warning"
        assert status_of(node)[1]["level"] == "LOW"

        disk.leave(int(SHUT))
        assert rejection(scanner, outside.slices) == TEMPORARY_CONGESTION
        assert [store(assoc, item) for item in second] == [SUCCESS] * len(second), "who is in goes on"

        disk.leave(int(FULL))
        assert [store(assoc, item) for item in third] == [OUT_OF_RESOURCES] * len(third)
        assert rejection(scanner, outside.slices) == TEMPORARY_CONGESTION
    code, door = status_of(node)
    assert (code, door["level"]) == (3, "SHUT")
    assert door["because"].startswith("DISK_LOW: ")
    assert_all_there(node, [*first, *second])
    assert list((node.home / "spool").rglob("*.part")) == []
    node.wait_for(lambda: [row.event for row in node.events() if row.subject == "admission"][-1:] == ["SHUT"], 30)

    disk.leave(int(2.5 * RESERVE_MB * MEGABYTE))
    assert rejection(scanner, outside.slices) == TEMPORARY_CONGESTION, "it opens above its own mark"

    disk.leave(int(AMPLE))
    send_until_taken(scanner, third, 30)
    send_until_taken(scanner, outside.slices, 30)
    for study in studies:
        assert_one_rtstruct(node, study, tps)
    node.wait_for(lambda: [row.event for row in node.events() if row.subject == "admission"][-1:] == ["OPEN"], 30)


def test_what_was_acknowledged_is_delivered_while_the_door_is_shut(
    node: Node, scanner: Scanner, disk: SmallDisk, folder: Path, tps: Destination
) -> None:
    """A shut door holds no work up: the study that is in goes its way to the TPS; a sender that keeps on trying is
    served as soon as there is room."""
    study, waiting = make_study(folder / "sent", "in time"), make_study(folder / "sent", "too late")
    scanner.send_all(study.slices)
    before = node.queries.counts()["refused_for_now"]
    disk.leave(int(SHUT))
    assert rejection(scanner, waiting.slices) == TEMPORARY_CONGESTION
    assert_one_rtstruct(node, study, tps)
    assert rejection(scanner, waiting.slices) == TEMPORARY_CONGESTION
    node.wait_for(lambda: node.queries.counts()["refused_for_now"] == before + 2, 10)
    disk.leave(int(AMPLE))
    send_until_taken(scanner, waiting.slices, 30)
    assert_one_rtstruct(node, waiting, tps)


def test_the_janitor_and_retention_make_no_room_out_of_what_is_owed(
    node: Node, scanner: Scanner, disk: SmallDisk, folder: Path, tps: Destination
) -> None:
    """With the disk within its reserve, the TPS away and every day of retention over, a purge removes nothing of the
    study; nor does it by name. With the TPS back it is delivered from the very bytes."""
    tps.down()
    study = make_study(folder / "sent", "owed")
    scanner.send_all(study.slices)
    node.wait_for(lambda: node.job_states(study.uid) == ["WRITTEN"], 120)
    disk.leave(int(FULL))
    assert node.cli("purge", "--reason", "the disk is full").returncode == 0
    named = node.cli("purge", "--study", study.uid, "--reason", "the disk is full")
    assert named.returncode == 2, named.stderr
    assert re.search("may be removed; (OWED|LEASED): ", named.stderr), named.stderr
    assert_all_there(node, study.slices)
    tps.up()
    assert_one_rtstruct(node, study, tps)
    assert_all_there(node, study.slices)
