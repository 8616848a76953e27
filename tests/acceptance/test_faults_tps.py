"""A TPS that misbehaves on the wire, one fault a test: a running node, its real sending child, a real SCP behind.

One study is delivered once; each fault then meets its stored objects on their way again (`resend`), to both
destinations. Every time: the attempt ends within the wall clock, nothing counts as sent that was not proven, the
archive is served meanwhile, and once the TPS is well the very same bytes are there, in as many copies as it was given.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest

from tests.acceptance.hospital import Destination, Scanner, Study, make_study
from tests.acceptance.node import Node, View, example
from tests.fakes import wire
from tests.fakes.scp import Faults
from tests.fakes.wire import Behaviour, Wire

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(400)]

TIMEOUT_S, WALL_CLOCK_S = 2, 10
START_AND_KILL_S = 6.0
"""On a busy machine the sending child takes its time to start and to be collected."""


@pytest.fixture(scope="module")
def line(tps: Destination) -> Iterator[Wire]:
    """The wire between the node and its TPS."""
    between = Wire(tps.port)
    yield between
    between.close()


@pytest.fixture(scope="module")
def settings(line: Wire, archive: Destination) -> View:
    """The example's, with a short patience for the TPS."""
    changed = example(tps=line.port, pacs=archive.port)
    changed["destinations"][0] |= {"timeout_s": TIMEOUT_S, "wall_clock_s": WALL_CLOCK_S}
    return changed


@pytest.fixture(autouse=True)
def _healthy_again(tps: Destination, line: Wire) -> Iterator[None]:
    """Wire and TPS are well before every test."""
    yield
    tps.faults, line.behave = Faults(), wire.well


@pytest.fixture(scope="module")
def study(node: Node, scanner: Scanner, folder: Path) -> Study:
    """A phantom study that was delivered once, over the wire that is well."""
    sent = make_study(folder / "sent", "misbehaving TPS")
    scanner.send_all(sent.slices)
    node.delivered(sent.uid)
    return sent


@dataclass(frozen=True)
class Owed:
    """The structure set owed to the TPS, seen from now on."""

    node: Node
    study: Study
    before: int  # attempts that were made earlier

    def view(self) -> View:
        """As the ledger has it."""
        delivery = self.node.delivery(self.study.uid, "tps")
        assert delivery is not None
        return delivery

    def attempts(self) -> list[View]:
        """Those that have ended."""
        return [attempt for attempt in self.view()["attempts"][self.before :] if attempt["ended_at"]]

    def first_failure(self) -> View:
        """Wait for the first attempt to end; it must not have been taken for a success."""
        self.node.wait_for(self.attempts, 40)
        attempt = self.attempts()[0]
        assert attempt["outcome"] in {"POSTPONED", "FAILED"}, self.node.story()
        assert self.view()["state"] != "SENT"
        return attempt


def send_again(node: Node, study: Study) -> Owed:
    """Both destinations are to get the stored objects once more."""
    delivery = node.delivery(study.uid, "tps")
    assert delivery is not None
    owed = Owed(node, study, len(delivery["attempts"]))
    said = node.cli("resend", study.uid, "--reason", "a fault is played")
    assert said.returncode == 0, said.stderr
    return owed


def lasted_s(attempt: View) -> float:
    """How long the attempt took."""
    begun, ended = (datetime.fromisoformat(attempt[name]) for name in ("started_at", "ended_at"))
    return (ended - begun).total_seconds()


def served(node: Node, study: Study) -> bool:
    """Whether the archive has everything that it is owed."""
    return all(d["state"] == "SENT" for d in node.deliveries(study.uid) if d["destination"] == "pacs")


def children(pid: int) -> set[int]:
    """The living child processes of all threads of a process."""
    found = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            found |= {int(child) for child in (task / "children").read_text().split()}
    return found


def threads(pid: int) -> int:
    """How many threads a process has."""
    return len(os.listdir(f"/proc/{pid}/task"))


def files(pid: int) -> int:
    """How many files, sockets and pipes it has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def heal_and_check(owed: Owed, tps: Destination, line: Wire) -> None:
    """The TPS is well: the delivery is made by itself, and whatever it has is one object, byte for byte."""
    tps.faults, line.behave = Faults(), wire.well
    owed.node.wait_for(lambda: owed.view()["state"] == "SENT", 40)
    assert owed.view()["status"] == "0x0000"
    assert owed.attempts()[-1]["outcome"] == "DONE"
    assert len({(item.sop_uid, item.encoded) for item in tps.of_study(owed.study.uid)}) == 1


# --- the wire ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("behave", "code", "stored"),
    [
        (wire.mute, "PEER_STALLED", 0),
        (wire.dripping_association, "PEER_STALLED", 0),
        (wire.unanswered, "PEER_STALLED", 1),
        (wire.not_reading, "PEER_STALLED", 0),
        (wire.dripping_answer, "PEER_STALLED", 1),
        (wire.half_an_answer_then_silence, "PEER_STALLED", 1),
        (wire.half_an_answer_then_gone, "PEER_ERROR", 1),
        (wire.gone_in_the_object, "PEER_ERROR", 0),
        (wire.reset_in_the_object, "PEER_ERROR", 0),
        (wire.aborting, "PEER_ERROR", 1),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_a_bad_wire(
    node: Node, study: Study, tps: Destination, line: Wire, behave: Behaviour, code: str, stored: int
) -> None:
    """The attempt ends in time, is named, counts for nothing, its process is gone; the archive is served meanwhile."""
    worker = node.role_pid("work")
    was = children(worker), threads(worker), files(worker)
    copies = len(tps.of_study(study.uid))
    line.behave = behave
    owed = send_again(node, study)
    attempt = owed.first_failure()
    node.wait_for(lambda: served(node, study), 30)
    assert attempt["detail"].split(":")[0] == code, attempt
    assert lasted_s(attempt) < WALL_CLOCK_S + START_AND_KILL_S
    failures = len(owed.attempts())
    heal_and_check(owed, tps, line)
    assert len(tps.of_study(study.uid)) - copies >= 1 + stored * failures, "what it stored unacknowledged, and the last"
    if not stored:
        assert len(tps.of_study(study.uid)) - copies == 1, "it arrived once"
    assert node.role_pid("work") == worker
    node.wait_for(lambda: children(worker) <= was[0], 15)
    node.wait_for(lambda: threads(worker) <= was[1] and files(worker) <= was[2], 15)


# --- the answer -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["wrong_sop_uid", "wrong_message_id"])
def test_an_answer_for_something_else(node: Node, study: Study, tps: Destination, line: Wire, fault: str) -> None:
    """Success for another SOP Instance or another message is PEER_CONFUSED, tried again, and never SENT."""
    tps.faults = Faults(**{fault: True})
    owed = send_again(node, study)
    assert owed.first_failure()["detail"].startswith("PEER_CONFUSED")
    node.wait_for(lambda: served(node, study), 30)
    heal_and_check(owed, tps, line)


@pytest.mark.parametrize("status", [0xA700, 0x0110])
def test_a_status_of_the_moment_is_tried_again(
    node: Node, study: Study, tps: Destination, line: Wire, status: int
) -> None:
    """Out of resources, processing failure: PEER_BUSY with the status named; the next try delivers by itself."""
    tps.faults = Faults(statuses=[status])
    owed = send_again(node, study)
    attempt = owed.first_failure()
    assert (attempt["outcome"], attempt["detail"].split(":")[0]) == ("POSTPONED", "PEER_BUSY")
    assert f"{status:04X}" in attempt["detail"]
    heal_and_check(owed, tps, line)


@pytest.mark.parametrize("status", [0xA900, 0xC000, 0xFE00, 0x0122])
def test_a_final_status_waits_for_a_person(node: Node, study: Study, tps: Destination, line: Wire, status: int) -> None:
    """Refused for good: FAILED, the status named in `why`, no second try by itself; `resend` delivers."""
    tps.faults = Faults(statuses=[status])
    owed = send_again(node, study)
    attempt = owed.first_failure()
    assert (attempt["outcome"], attempt["detail"].split(":")[0]) == ("FAILED", "OBJECT_REFUSED")
    node.wait_for(lambda: node.job_states(study.uid) == ["FAILED"], 30)
    told = [said for said in node.cli("why", study.uid).stdout.splitlines() if said.lstrip().startswith("to tps ")]
    assert len(told) == 1
    assert "FAILED" in told[0]
    assert f"{status:04X}" in told[0]
    assert "0x0000" not in told[0], "the success of an earlier sending is not this one's"
    calls = line.calls
    node.wait_for(lambda: served(node, study), 30)
    assert line.calls == calls
    heal_and_check(send_again(node, study), tps, line)


def test_a_warning_is_a_delivery_with_a_warning(node: Node, study: Study, tps: Destination) -> None:
    """B000: the TPS has it, with elements coerced; SENT, the warning told."""
    tps.faults = Faults(statuses=[0xB000])
    owed = send_again(node, study)
    node.wait_for(lambda: owed.attempts() and node.final(study.uid), 40)
    assert [attempt["outcome"] for attempt in owed.attempts()] == ["DONE"]
    assert (owed.view()["state"], owed.view()["status"], owed.view()["warning"]) == ("SENT", "0xB000", True)
    assert "stored with warning" in node.cli("why", study.uid).stdout


def test_nothing_else_was_hurt(node: Node) -> None:
    """No role died of any of it, no tick failed, and the hash chain of events is whole."""
    said = node.log_text()
    assert "role died" not in said
    assert "tick failed" not in said
    checked = node.cli("db", "check")
    assert checked.returncode == 0, checked.stdout
