"""PostgreSQL goes away while a scanner sends and the worker works: senders do not notice, and nothing is lost."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.acceptance.hospital import SUCCESS, Destination, Scanner, Slice, Study, make_study, store
from tests.acceptance.node import Node, View, example
from tests.acceptance.test_kill9 import assert_all_there, assert_one_rtstruct
from tests.postgres import PASSWORD, Server

pytestmark = [pytest.mark.acceptance, pytest.mark.postgres, pytest.mark.timeout(500)]

OUT_OF_RESOURCES = 0xA700
ANSWER_S = 10.0
"""Within this every C-STORE is answered, whatever the database does."""
PACE_S, PAUSE_S = 0.05, 0.3
SILENT_S = 3
LONG_S = 20
"""Longer than a lease lasts and than anybody waits for a connection or a lock, both by far."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server of this module's own, because it is stopped."""
    with tempfile.TemporaryDirectory(prefix="npc-rtnode-postgres-") as folder, Server(Path(folder)) as running:
        running.create("ledger")
        yield running


@pytest.fixture(scope="module")
def settings(tps: Destination, archive: Destination, server: Server) -> View:
    """The shipped example with the ledger's URL, password and all; work that was abandoned is taken back soon."""
    told = example(tps=tps.port, pacs=archive.port)
    return {**told, "database": {"url": server.url("ledger")}, "work": {"beat_s": 1, "silent_s": SILENT_S}}


@dataclass(frozen=True)
class Answer:
    """One C-STORE: when it was asked and answered, and how."""

    item: Slice
    asked_at: float
    answered_at: float
    status: int | None


@dataclass
class Sender(threading.Thread):
    """A scanner that sends a study over one association, and every instance again until it is told Success."""

    scanner: Scanner
    slices: Sequence[Slice]
    answers: list[Answer] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    __hash__ = threading.Thread.__hash__

    def run(self) -> None:
        """Until all are acknowledged, or the association is lost."""
        with self.scanner.association(self.slices) as assoc:
            for item in self.slices:
                while assoc.is_established and not self._sent(assoc, item):
                    time.sleep(PAUSE_S)
                time.sleep(PACE_S)

    def _sent(self, assoc: object, item: Slice) -> bool:
        asked_at = time.monotonic()
        status = store(assoc, item)  # type: ignore[arg-type]
        self.answers.append(Answer(item, asked_at, time.monotonic(), status))
        return status == SUCCESS

    @property
    def acknowledged(self) -> list[Slice]:
        """What it need not keep any longer."""
        return [answer.item for answer in self.answers if answer.status == SUCCESS]

    def wait_for(self, count: int) -> None:
        """Until so many are acknowledged."""
        deadline = time.monotonic() + 60
        while len(self.acknowledged) < count:
            assert time.monotonic() < deadline, self.answers
            time.sleep(0.01)


@pytest.fixture(scope="module")
def warm(folder: Path, node: Node, scanner: Scanner) -> str:
    """One study without any fault first, so that a later failure is the database's."""
    study = make_study(folder / "sent", "undisturbed")
    scanner.send_all(study.slices)
    node.delivered(study.uid)
    return study.uid


@pytest.fixture
def study(request: pytest.FixtureRequest, folder: Path, warm: str) -> Study:
    """A study of this test's own, sent while the database is away."""
    return make_study(folder / "sent", request.node.name)


@pytest.fixture
def at_work(request: pytest.FixtureRequest, folder: Path, node: Node, scanner: Scanner, warm: str) -> Study:
    """Another one, which the worker has in hand by then."""
    made = make_study(folder / "sent", f"{request.node.name} at work")
    scanner.send_all(made.slices)
    node.wait_for(lambda: node.job_states(made.uid) == ["PREDICTING"])
    return made


def check_answers(answers: Sequence[Answer]) -> None:
    """Success or A700, nothing else and never silence, each within its time."""
    assert {answer.status for answer in answers} <= {SUCCESS, OUT_OF_RESOURCES}
    assert max(answer.answered_at - answer.asked_at for answer in answers) < ANSWER_S


@pytest.mark.parametrize("seconds", [1, pytest.param(LONG_S, marks=pytest.mark.slow)])
def test_the_server_is_away(
    seconds: int, server: Server, node: Node, scanner: Scanner, study: Study, at_work: Study, tps: Destination
) -> None:
    """Stopped at once in mid-series: acknowledged all the same and entered once it is back; both studies end delivered,
    once, and the half that was in the ledger is not taken for the whole."""
    roles = node.role_pid("receive"), node.role_pid("work")
    sender = Sender(scanner, study.slices)
    sender.start()
    sender.wait_for(5)
    server.stop("immediate")
    stopped_at = time.monotonic()
    time.sleep(seconds)
    starting_at = time.monotonic()
    server.start()
    sender.join(120)
    assert not sender.is_alive()

    check_answers(sender.answers)
    meanwhile = [a.status for a in sender.answers if stopped_at < a.answered_at < starting_at]
    assert meanwhile, "the scanner has asked while the server was away"
    assert set(meanwhile) == {SUCCESS}, "the intake journal has what the ledger does not"
    assert sender.acknowledged == list(study.slices)
    assert_all_there(node, [*study.slices, *at_work.slices])
    assert_one_rtstruct(node, study, tps)
    assert_one_rtstruct(node, at_work, tps)
    assert (node.role_pid("receive"), node.role_pid("work")) == roles, "no role died of it"


def test_what_was_acknowledged_before_a_crash_of_the_server_is_there(
    server: Server, node: Node, scanner: Scanner, study: Study, tps: Destination
) -> None:
    """The very moment after the fifth Success the server is killed: after its recovery all five have their rows."""
    with scanner.association(study.slices) as assoc:
        first = [item for item in study.slices[:5] if store(assoc, item) == SUCCESS]
        server.stop("immediate")
        assert len(first) == 5
        assert store(assoc, study.slices[5]) == SUCCESS
        server.start()
        assert_all_there(node, [*first, study.slices[5]])
        assert [store(assoc, item) for item in study.slices[6:]] == [SUCCESS] * len(study.slices[6:])
    assert_one_rtstruct(node, study, tps)


def test_an_association_that_ends_meanwhile_holds_nothing_up(
    server: Server, node: Node, scanner: Scanner, study: Study, tps: Destination
) -> None:
    """The sender leaves while the server is away: its leave is recorded afterwards, and the series goes on at once."""
    with scanner.association(study.slices) as assoc:
        assert [store(assoc, item) for item in study.slices] == [SUCCESS] * len(study.slices)
        server.stop("immediate")
    time.sleep(1)
    server.start()
    assert_one_rtstruct(node, study, tps)
    assert {row.how for row in node.associations()} <= {"released"}


def test_connections_that_are_cut_in_the_middle(
    server: Server, node: Node, scanner: Scanner, study: Study, at_work: Study, tps: Destination
) -> None:
    """pg_terminate_backend on every connection, again and again while a study comes: sent again, and all there."""
    sender = Sender(scanner, study.slices)
    sender.start()
    cut = 0
    while sender.is_alive():
        cut += len(server.do("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'ledger'"))
        time.sleep(0.15)
    assert cut >= 5
    check_answers(sender.answers)
    assert sender.acknowledged == list(study.slices)
    assert_all_there(node, study.slices)
    assert_one_rtstruct(node, study, tps)
    assert_one_rtstruct(node, at_work, tps)


def test_the_journal_is_whole_and_no_password_was_said(server: Server, node: Node, warm: str) -> None:
    """`db check` finds schema and chain in order, `fsck` every promise kept, and nobody has said the password."""
    assert node.broken_promises() == {}
    for verb in (("db", "check"), ("db", "upgrade"), ("studies", "list"), ("doctor", "--quick")):
        done = node.cli(*verb)
        assert done.returncode in {0, 3}, done.stdout + done.stderr
    server.stop()
    away = node.cli("db", "check")
    server.start()
    assert (away.returncode, away.stderr.startswith("E: LEDGER_UNAVAILABLE")) == (75, True), away.stderr
    assert PASSWORD not in node.log_text() + "\n".join(node.said)
