"""kill -9 in every stage: nothing acknowledged is lost, and one RTSTRUCT, always the same bytes, reaches the TPS."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.acceptance.hospital import Destination, Scanner, Slice, Study, make_study
from tests.acceptance.node import Node, View

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def undisturbed(folder: Path, node: Node, scanner: Scanner) -> str:
    """One study without any fault first, so that the bundle is warm and a later failure is the kill's."""
    study = make_study(folder / "sent", "undisturbed")
    scanner.send_all(study.slices)
    node.delivered(study.uid)
    return study.uid


@pytest.fixture
def study(request: pytest.FixtureRequest, folder: Path, undisturbed: str) -> Study:
    """A study of this test's own."""
    return make_study(folder / "sent", request.node.name)


@pytest.fixture(autouse=True)
def _unhurt(tps: Destination) -> Iterator[None]:
    """The TPS answers again, whatever a test made it do."""
    yield
    tps.go_on.set()


def assert_all_there(node: Node, slices: Sequence[Slice]) -> None:
    """Every one of these has its row, and its bytes lie in the spool under their digest (`read` checks it)."""
    rows = node.instances()
    for item in slices:
        kept = node.station.spool.read(rows[item.sop_uid].sha256)
        assert kept.endswith(item.encoded), "the data set's bytes are the ones that were sent"


def assert_one_rtstruct(node: Node, study: Study, tps: Destination) -> None:
    """The job is DELIVERED, and whatever reached the TPS of this study is one object, byte for byte."""
    job = node.delivered(study.uid)
    arrived = tps.of_study(study.uid)
    assert {item.sop_uid for item in arrived} == {o["sop_uid"] for o in job["objects"] if o["kind"] == "RTSTRUCT"}
    assert len({item.encoded for item in arrived}) == 1
    assert len(node.jobs(study.uid)) == 1


def outcomes(job: View, stage: str) -> list[str]:
    """How the attempts at a stage ended."""
    return [attempt["outcome"] for attempt in job["attempts"] if attempt["stage"] == stage]


def test_the_receiver_while_receiving(node: Node, scanner: Scanner, study: Study, tps: Destination) -> None:
    """Killed in mid-series: what it had acknowledged is there, the supervisor starts it, the sender goes on."""
    victim = node.role_pid("receive")
    worker = node.role_pid("work")

    def kill_after_five(acknowledged: int) -> None:
        if acknowledged == 5:
            threading.Timer(0.005, os.kill, (victim, signal.SIGKILL)).start()

    acknowledged = scanner.send_until_lost(study.slices, kill_after_five)
    assert 5 <= len(acknowledged) < len(study.files)
    node.wait_for(node.is_up, 60)
    assert node.role_pid("receive") != victim
    assert node.role_pid("work") == worker, "the worker had nothing to do with it"
    assert_all_there(node, acknowledged)
    scanner.send_all([item for item in study.slices if item not in acknowledged])
    assert_all_there(node, study.slices)
    assert_one_rtstruct(node, study, tps)


def test_the_worker_while_inferring(node: Node, scanner: Scanner, study: Study, tps: Destination) -> None:
    """Killed while the model runs: the attempt is INTERRUPTED, the job is done anew by the next worker."""
    receiver = node.role_pid("receive")
    scanner.send_all(study.slices)
    node.wait_for(lambda: node.job_states(study.uid) == ["PREDICTING"])
    victim = node.kill9("work")
    node.wait_for(lambda: node.is_up() and victim not in node.pids("work"), 60)
    assert node.role_pid("receive") == receiver, "the receiver had nothing to do with it"
    assert_one_rtstruct(node, study, tps)
    assert outcomes(node.jobs(study.uid)[0], "infer") == ["INTERRUPTED", "DONE"]
    assert_all_there(node, study.slices)


def test_the_worker_while_delivering(node: Node, scanner: Scanner, study: Study, tps: Destination) -> None:
    """Killed with the object in the TPS's hands, unanswered: it is sent again, and is the same object."""
    tps.in_hand.clear()
    tps.go_on.clear()
    scanner.send_all(study.slices)
    node.wait_for(tps.in_hand.is_set)
    owed = node.delivery(study.uid, "tps")
    assert owed is not None
    assert owed["state"] == "SENDING"
    victim = node.kill9("work")
    tps.go_on.set()
    node.wait_for(lambda: node.is_up() and victim not in node.pids("work"), 60)
    assert_one_rtstruct(node, study, tps)
    sent = node.delivery(study.uid, "tps")
    assert sent is not None
    assert [attempt["outcome"] for attempt in sent["attempts"]] == ["INTERRUPTED", "DONE"]
    assert len(tps.of_study(study.uid)) == 2, "the TPS has stored what it was not able to acknowledge"


def test_everything_at_once(folder: Path, node: Node, scanner: Scanner, study: Study, tps: Destination) -> None:
    """Supervisor, receiver and worker killed while one study is inferred and another received: both are delivered."""
    coming = make_study(folder / "sent", "half received")
    scanner.send_all(study.slices)
    node.wait_for(lambda: node.job_states(study.uid) == ["PREDICTING"])

    killing = threading.Timer(0.005, node.kill9_all)

    def kill_after_five(acknowledged: int) -> None:
        if acknowledged == 5:
            killing.start()

    acknowledged = scanner.send_until_lost(coming.slices, kill_after_five)
    assert 5 <= len(acknowledged) < len(coming.files)
    killing.join()
    node.restart()
    assert_all_there(node, [*study.slices, *acknowledged])
    scanner.send_all([item for item in coming.slices if item not in acknowledged])
    assert_one_rtstruct(node, study, tps)
    assert_one_rtstruct(node, coming, tps)
    assert outcomes(node.jobs(study.uid)[0], "infer") == ["INTERRUPTED", "DONE"]


def test_the_journal_is_whole_after_all_that(node: Node, undisturbed: str) -> None:
    """No kill has torn the hash chain of events, left the schema behind or broken one of the fourteen promises."""
    checked = node.cli("db", "check")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert {row.event for row in node.events()} >= {"INTERRUPTED", "ALL_SENT"}
    assert node.broken_promises() == {}
