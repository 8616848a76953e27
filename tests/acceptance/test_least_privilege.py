"""A whole node on PostgreSQL with the rights of deploy/postgresql.sql and no others: every stage, every verb.

Set up as the runbook says it: the administrator's file, the owner's `db upgrade`, the two statements after it. The
server's own log is the witness: it tells every statement that a role had no right to.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import typer

from npc_rtnode.cli import app
from tests.acceptance.dcmtk import Storescu
from tests.acceptance.hospital import UNSAID, Destination, Scanner, Slice, Study, make_study, slice_of
from tests.acceptance.node import Node, View, example, free_port, run_cli
from tests.acceptance.orthanc import Orthanc
from tests.acceptance.test_archive import commitment
from tests.fakes.scp import Faults
from tests.postgres import PASSWORD, SETUP, Server, rights_after_upgrade

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.postgres,
    pytest.mark.peer("Orthanc", "storescu"),
    pytest.mark.timeout(600),
]

WITHOUT_LEDGER = {
    ("demo",),  # a home of its own
    ("run",),
    ("echo",),
    ("send",),
    ("version",),
    ("rules", "test"),
    ("bundle", "show"),
    ("bundle", "verify"),
    ("config", "check"),
    ("config", "example"),
    ("plan",),
}
"""Verbs that open no ledger."""
OF_THE_OWNER = {("db", "backup"), ("db", "restore"), ("db", "downgrade")}
"""Verbs for which the runbook says the owner's role; test_restore_drill has them. Every other one is used here."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server on which only the administrator's file has been run."""
    with tempfile.TemporaryDirectory(prefix="npc-rtnode-postgres-") as folder, Server(Path(folder)) as running:
        words = ("-v", f"owner_password='{PASSWORD}'", "-v", f"node_password='{PASSWORD}'")
        running.psql(*words, "-f", "-", script=SETUP)
        yield running


@pytest.fixture(scope="module")
def pacs(folder: Path) -> Orthanc:
    """The PACS: where it will be."""
    return Orthanc(folder / "pacs")


@pytest.fixture(scope="module")
def settings(tps: Destination, pacs: Orthanc, server: Server) -> View:
    """The shipped example on the node's role, with a PACS that is asked and answered."""
    made = example(tps=tps.port, pacs=pacs.port)
    made["listener"]["peers"][0]["roles"] = ["store", "commit"]
    made["qa"] = {"enabled": True, "at": ""}
    made["archives"][0] |= {"port": pacs.port, "answers_for": ["ELSEWHERE"]}
    return {**made, "database": {"url": server.url("npc_rtnode", "npc_rtnode")}}


@pytest.fixture(scope="module")
def node(folder: Path, settings: View, server: Server, pacs: Orthanc) -> Iterator[Node]:
    """Upgraded by the owner, run by the node's role."""
    unstarted = Node(folder / "node", settings)
    unstarted.folder.mkdir(parents=True, exist_ok=True)
    owner = unstarted.folder / "owner.toml"
    owner.write_text(f'[database]\nurl = "{server.url("npc_rtnode", "npc_owner")}"\n', "utf-8")
    assert run_cli("db", "upgrade", "--config", str(owner)).returncode == 0
    with server.connected("npc_rtnode") as connection:
        connection.execute(b"SET ROLE npc_owner")
        for statement in rights_after_upgrade():
            connection.execute(statement.encode())
    pacs.modalities = {"node": ("NPC_RTNODE", unstarted.port), "scanner": ("SCANNER", free_port())}
    with pacs, unstarted as running:
        yield running
        assert running.stop() == 0, running.log_tail()


def done(node: Node, *args: str, codes: tuple[int, ...] = (0,)) -> str:
    """What a verb has said; it must have ended so."""
    ended = node.cli(*args)
    assert ended.returncode in codes, f"{args}: {ended.returncode}\n{ended.stdout}\n{ended.stderr}\n{node.log_tail()}"
    return ended.stdout


def sent(node: Node, scanner: Scanner, folder: Path, name: str, **wishes: object) -> Study:
    """A study that has come."""
    study = make_study(folder / "sent", name, **wishes)  # type: ignore[arg-type]
    scanner.send_all(study.slices)
    return study


@pytest.fixture(scope="module")
def delivered(folder: Path, node: Node, scanner: Scanner) -> Study:
    """One that went through every stage."""
    study = sent(node, scanner, folder, "delivered")
    node.delivered(study.uid, 240)
    return study


def other_content(item: Slice) -> Slice:
    """The same instance with another last pixel."""
    return replace(item, encoded=item.encoded[:-2] + bytes([item.encoded[-2] ^ 1, item.encoded[-1]]))


def test_the_owner_and_nobody_else_upgrades(node: Node, server: Server) -> None:
    """The tables are the owner's; for the node's role `db upgrade` has nothing to do, as the unit's own does it."""
    owners = server.do("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'", "npc_rtnode")
    assert owners == [("npc_owner",)]
    done(node, "db", "upgrade")
    assert json.loads(done(node, "db", "check", "--json"))["event_chain_whole"] is True


def test_reading_verbs(node: Node, delivered: Study) -> None:
    """Each of them answers."""
    for verb in (("studies", "list"), ("studies", "show", delivered.uid), ("why", delivered.uid), ("status",)):
        done(node, *verb)
    done(node, "rules", "replay", "--days", "1")
    told = {check["check"]: check for check in json.loads(done(node, "doctor", "--quick", "--json", codes=(0, 3)))}
    assert told["ledger"]["outcome"] == "good", told["ledger"]


def test_what_is_ours_comes_back(node: Node, delivered: Study, scanner: Scanner, tps: Destination) -> None:
    """The return of a result is counted; the same slices again are duplicates."""
    (ours,) = tps.of_study(delivered.uid)
    scanner.send_all([slice_of(ours.path), *delivered.slices[:2]])
    node.settle()
    assert node.queries.counts()["came_back"] == 1


def test_a_result_is_sent_again_retried_and_made_again(node: Node, delivered: Study, tps: Destination) -> None:
    """`resend`; refused by the TPS and tried again by `retry`; `reprocess` from both ends."""
    tps.faults = Faults(statuses=[0xA900])
    done(node, "resend", delivered.uid, "--to", "tps", "--reason", "lost there")
    node.wait_for(lambda: node.job_states(delivered.uid) == ["FAILED"], 60)
    tps.faults = Faults()
    done(node, "retry", delivered.uid, "--reason", "it takes it now")
    node.delivered(delivered.uid, 60)
    done(node, "reprocess", delivered.uid, "--from", "infer", "--reason", "curious")
    done(node, "reprocess", delivered.uid, "--from", "select", "--reason", "curious")
    node.wait_for(lambda: node.states(delivered.uid) == ["SELECTED"], 60)
    assert node.job_states(delivered.uid) == ["DELIVERED"]


def test_a_conflict_is_settled(node: Node, scanner: Scanner, folder: Path) -> None:
    """Two contents under one UID; a person says which counts (the one change of a received row), and it goes on."""
    study = make_study(folder / "sent", "conflict")
    scanner.send_all([*study.slices, other_content(study.slices[3])])
    node.wait_for(lambda: node.states(study.uid) == ["QUARANTINED"], 60)
    done(node, "release", study.uid, "--keep", "first", "--reason", "the scanner's is right")
    node.delivered(study.uid, 240)
    kept = [row.state for row in node.instance_rows() if row.sop_uid == study.slices[3].sop_uid]
    assert kept == ["KEPT", "REPLACED"]


def test_what_is_held_is_released_abandoned_and_purged(node: Node, scanner: Scanner, folder: Path) -> None:
    """`hold`, `release`, `abandon`, `purge`; bytes that come again are known."""
    study = sent(node, scanner, folder, "waiting", **UNSAID)
    node.wait_for(lambda: node.states(study.uid) == ["HELD"], 60)
    done(node, "hold", study.uid, "--reason", "wait")
    done(node, "release", study.uid, "--reason", "wait no longer")
    done(node, "abandon", study.uid, "--reason", "nobody wants it")
    done(node, "purge", "--study", study.uid, "--reason", "a test")
    done(node, "purge", "--reason", "what is due")
    scanner.send_all(study.slices)
    node.settle()
    (series,) = node.series(study.uid)
    assert [one["came_again"] for one in series["removed"]] == [len(study.files)]


def test_a_study_is_fetched_and_committed(node: Node, pacs: Orthanc, folder: Path) -> None:
    """`pull`, and the stage that answers a request for storage commitment."""
    study = make_study(folder / "sent", "older", accession_number="A-2024-17")
    Storescu(pacs.port, folder / "storescu", calling_ae="SCANNER", called_ae="PACS").send_all(study.files)
    done(node, "pull", "--accession", "A-2024-17", "--reason", "backfill")
    node.delivered(study.uid, 240)
    asked = commitment(pacs, [(item.sop_class, item.sop_uid) for item in study.slices])
    node.wait_for(lambda: pacs.get(f"/storage-commitment/{asked}")["Status"] == "Success", 150)


def test_lanes_are_paused_and_work_is_called_off(node: Node, scanner: Scanner, folder: Path) -> None:
    """`pause`, `status` that says so, `cancel`, `resume`."""
    done(node, "pause", "infer", "--reason", "the card is changed")
    study = sent(node, scanner, folder, "called off")
    node.wait_for(lambda: node.job_states(study.uid) == ["QUEUED"], 60)
    assert "the card is changed" in done(node, "status", codes=(3,))
    done(node, "cancel", study.uid, "--reason", "another examination is meant")
    done(node, "resume", "infer", "--reason", "it is changed")
    node.wait_for(lambda: node.job_states(study.uid) == ["CANCELLED"], 60)


def test_constancy(node: Node) -> None:
    """A phantom through the whole chain, and its measures."""
    done(node, "qa", "run")
    assert "PASSED" in done(node, "qa", "trend", "--csv")


def test_what_the_ledger_does_not_know_is_taken_in(node: Node) -> None:
    """`db reconcile` at rest finds nothing that was forgotten."""
    node.stop()
    told = json.loads(done(node, "db", "reconcile", "--reason", "a drill", "--json"))
    assert (told["taken_in"], told["missing"]) == (0, {"spool": 0, "outbox": 0})
    node.start()


def test_killed_and_started_again(node: Node, scanner: Scanner, folder: Path) -> None:
    """What a crash left is taken up by a node that has no other rights."""
    study = make_study(folder / "sent", "killed")
    scanner.send_all(study.slices)
    node.wait_for(lambda: node.job_states(study.uid) == ["PREDICTING"], 60)
    node.kill9_all()
    node.restart()
    node.delivered(study.uid, 240)
    outcomes = [attempt["outcome"] for attempt in node.jobs(study.uid)[0]["attempts"]]
    assert outcomes[:2] == ["INTERRUPTED", "DONE"]


def test_no_right_was_ever_missing(node: Node, server: Server) -> None:
    """fsck finds every promise kept; neither the server's log nor the node's tells of a right that was not there."""
    assert node.broken_promises() == {}
    denied = [line for line in (server.folder / "log").read_text("utf-8").splitlines() if "permission denied" in line]
    assert denied == []
    assert "InsufficientPrivilege" not in node.log_text() + "\n".join(node.said)
    assert PASSWORD not in node.log_text() + "\n".join(node.said)


def test_every_verb_that_opens_the_ledger_was_used(node: Node) -> None:
    """A new verb is either used here or said to need no ledger."""
    said = {words for line in node.said for words in _verbs() if _names(line, words)}
    assert {*said, ("serve",), *WITHOUT_LEDGER, *OF_THE_OWNER} == _verbs()
    assert not said & (WITHOUT_LEDGER | OF_THE_OWNER)


def _verbs() -> set[tuple[str, ...]]:
    found: set[tuple[str, ...]] = set()
    for name, command in typer.main.get_group(app).commands.items():
        below = list(getattr(command, "commands", {}))
        found |= {(name, sub) for sub in below} if below else {(name,)}
    return found


def _names(said: str, words: tuple[str, ...]) -> bool:
    """Whether what was said begins with these arguments."""
    return said.startswith(repr(words)[:-1].rstrip(","))
