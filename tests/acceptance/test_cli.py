"""The admin CLI on a living node: one JSON document a read verb, rehearsals that change nothing, documented codes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from npc_rtnode.settings import load_settings
from tests.acceptance.hospital import UNSAID, Destination, Scanner, Study, leaks, make_study
from tests.acceptance.node import ROOT, Node, free_port, run_cli
from tests.fakes.scp import Faults

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def done(folder: Path, node: Node, scanner: Scanner) -> Study:
    """A study that was delivered."""
    study = make_study(folder / "sent", "done")
    scanner.send_all(study.slices)
    node.delivered(study.uid)
    return study


@pytest.fixture(scope="module")
def waiting(folder: Path, node: Node, scanner: Scanner, done: Study) -> Study:
    """A study that is held, since nobody said for whom it is."""
    study = make_study(folder / "sent", "waiting", **UNSAID)
    scanner.send_all(study.slices)
    node.wait_for(lambda: node.states(study.uid) == ["HELD"], 30)
    return study


@pytest.fixture(scope="module")
def refusing(folder: Path) -> Iterator[Destination]:
    """A peer that rejects every association."""
    scp = Destination(folder / "refusing").up()
    scp.faults = Faults(reject=(1, 1, 7))
    yield scp
    scp.down()


def document(node: Node, *args: str) -> Any:
    """What a verb says with --json: one document on stdout and nothing else."""
    said = node.cli(*args, "--json")
    try:
        return json.loads(said.stdout)
    except ValueError:
        pytest.fail(f"{args}: exit {said.returncode}, no single JSON document\n{said.stdout}\n{said.stderr}")


# --- reading ----------------------------------------------------------------------------------------------------------


def test_studies_are_listed_and_shown(node: Node, done: Study, waiting: Study) -> None:
    """`studies list` has both, newest first, `--state` chooses, and `studies show` takes reference or UID."""
    listed = document(node, "studies", "list")
    assert [row["states"] for row in listed] == [["HELD"], ["DELIVERED", "SELECTED"]]
    assert document(node, "studies", "list", "--state", "held") == listed[:1]
    shown = document(node, "studies", "show", listed[1]["study"])
    assert shown == document(node, "studies", "show", done.uid)
    assert shown["series"][0]["instances"] == len(done.files)


def test_why_tells_values_rules_and_hashes(node: Node, done: Study) -> None:
    """`why` names the tag values that decided, the hashes of rules, bundle and settings, each delivery, each event."""
    told = document(node, "why", done.uid)
    (series,) = told["series"]
    (job,) = series["jobs"]
    because = {verdict["rule"]: verdict["because"] for verdict in series["verdicts"]}
    assert "Gadolinium (simulated)" in because["contrast"]
    assert "NPC" in because["indication"]
    assert re.fullmatch(r"[0-9a-f]{64}", series["rules_hash"])
    assert [event["event"] for event in told["history"]][-1] == "ALL_SENT"
    text = node.cli("why", done.uid).stdout
    for value in (job["work_key"], job["bundle_hash"], job["settings_hash"], series["rules_hash"]):
        assert value[:12] in text
    for words in (
        "Gadolinium (simulated)",
        "computed on       cpu",
        "ran_on=cpu",
        "gate pass",
        "SENT 0x0000",
        "WRITTEN -> DELIVERED",
    ):
        assert words in text


def test_every_other_read_verb_says_one_json_document(node: Node, done: Study, tps: Destination) -> None:
    """doctor, rules test, db check, bundle show and verify, config check, echo, version: parsed, with their keys."""
    doctor = node.cli("doctor", "--quick", "--json")
    assert doctor.returncode == 3, "done, with the warning that the weights are synthetic"
    checks = {check["check"]: check["outcome"] for check in json.loads(doctor.stdout)}
    assert checks["destination tps"] == checks["destination pacs"] == checks["ledger"] == checks["port"] == "good"
    assert checks["bundle"] == "warning"
    (judged,) = document(node, "rules", "test", str(done.files[0].parent))["series"]
    assert judged["came_to"] == "eligible"
    assert document(node, "db", "check")["event_chain_whole"] is True
    assert document(node, "bundle", "show")["data"] == "synthetic"
    assert document(node, "bundle", "verify")["agrees"] is True
    assert document(node, "config", "check")["ok"] is True
    assert document(node, "echo", "tps")["ok"] is True
    assert set(json.loads(run_cli("version", "--json").stdout)) >= {"npc-rtnode", "pynetdicom", "rt-utils"}


def test_the_printed_example_is_the_shipped_one_and_holds(tmp_path: Path) -> None:
    """`config example` prints deploy/example.toml, and those settings are good as they stand."""
    printed = run_cli("config", "example").stdout
    assert printed == (ROOT / "deploy" / "example.toml").read_text("utf-8")
    (tmp_path / "node.toml").write_text(printed, "utf-8")
    assert load_settings(tmp_path / "node.toml", {}).destination("pacs").port == 11114


# --- rehearsing -------------------------------------------------------------------------------------------------------


def test_a_rehearsal_changes_nothing(node: Node, done: Study, waiting: Study, tps: Destination) -> None:
    """Every changing verb with --dry-run tells its plan and leaves each row of the ledger and the TPS as they were."""
    before, arrived = node.tables(), len(tps.received)
    reason = ("--reason", "rehearsal", "--dry-run")
    plans = [
        node.cli("release", waiting.uid, *reason),
        node.cli("resend", done.uid, "--to", "tps", *reason),
        node.cli("reprocess", done.uid, "--from", "select", *reason),
        node.cli("reprocess", done.uid, "--from", "infer", *reason),
        node.cli("hold", done.uid, *reason),
        node.cli("send", "tps", str(done.files[0]), "--dry-run"),
        node.cli("db", "upgrade", "--dry-run"),
    ]
    assert [plan.returncode for plan in plans] == [0] * len(plans), [plan.stderr for plan in plans]
    assert all(plan.stdout.startswith("would ") for plan in plans[:6])
    assert document(node, "hold", done.uid, *reason)["dry_run"] is True
    assert node.tables() == before
    assert len(tps.received) == arrived


def test_resending_sends_the_stored_bytes(node: Node, done: Study, tps: Destination) -> None:
    """`resend --to tps` brings the same object, byte for byte, and keeps operator and reason in the journal."""
    (first,) = tps.of_study(done.uid)
    assert node.cli("resend", done.uid, "--to", "tps", "--reason", "lost at the TPS").returncode == 0
    node.wait_for(lambda: len(tps.of_study(done.uid)) == 2)
    node.delivered(done.uid)
    again = tps.of_study(done.uid)[1]
    assert (again.sop_uid, again.encoded) == (first.sop_uid, first.encoded)
    said = [row for row in node.events("RESENT") if row.detail.get("reason") == "lost at the TPS"]
    assert said
    assert all(row.actor.startswith("operator:") for row in said)


def test_reprocessing_with_nothing_changed_makes_nothing_new(node: Node, done: Study) -> None:
    """`reprocess --from infer` with the same inputs, bundle and settings says that the result stands."""
    before = node.jobs(done.uid)
    again = node.cli("reprocess", done.uid, "--from", "infer", "--reason", "curious")
    assert again.returncode == 0
    assert "nothing that shapes its objects has changed" in again.stdout
    assert node.jobs(done.uid) == before


# --- exit codes (docs/cli.md) -----------------------------------------------------------------------------------------


def test_wrong_usage_is_2(node: Node, done: Study, tmp_path: Path) -> None:
    """Unknown study, nothing to do, a missing reason, wrong settings: 2, in one line that begins with the code."""
    unknown = node.cli("why", "ABC-234")
    assert (unknown.returncode, unknown.stderr.split(":")[:2]) == (2, ["E", " NOT_FOUND"])
    nothing = node.cli("retry", done.uid, "--reason", "nothing has failed")
    assert (nothing.returncode, nothing.stderr.split(":")[:2]) == (2, ["E", " NOT_FOUND"])
    assert node.cli("release", done.uid).returncode == 2, "a reason is wanted"
    (tmp_path / "bad.toml").write_text("[listener]\nprot = 104\n", "utf-8")
    wrong = run_cli("config", "check", "--config", str(tmp_path / "bad.toml"))
    assert wrong.returncode == 2
    assert "did you mean port?" in wrong.stderr


def test_a_fault_is_1(node: Node, done: Study, tps: Destination) -> None:
    """`doctor` with a destination that is down: 1, and the line of that destination says why."""
    tps.down()
    said = node.cli("doctor", "--quick", "--json")
    tps.up()
    assert said.returncode == 1
    (line,) = [check for check in json.loads(said.stdout) if check["check"] == "destination tps"]
    assert (line["outcome"], line["said"].split(":")[0]) == ("fault", "UNREACHABLE")


def test_input_faults_are_20_and_21(node: Node, folder: Path, tmp_path: Path) -> None:
    """What is no DICOM file cannot be sent: 20; a folder without an eligible series cannot be run: 21."""
    plain = make_study(folder / "sent", "plain", contrast=False, series_description="Ax T1 NPC phantom")
    none = node.cli("run", str(plain.files[0].parent), "-o", str(tmp_path / "out"))
    assert (none.returncode, none.stderr.split(":")[:2]) == (21, ["E", " NOTHING_ELIGIBLE"])
    (tmp_path / "letter.txt").write_text("no DICOM here", "utf-8")
    unreadable = node.cli("send", "tps", str(tmp_path / "letter.txt"))
    assert (unreadable.returncode, unreadable.stderr.split(":")[:2]) == (20, ["E", " UNREADABLE"])


def test_peer_faults_are_60_61_and_62(node: Node, done: Study, refusing: Destination, tps: Destination) -> None:
    """Nobody there is 60, an association rejected 61, an object refused 62."""
    assert node.cli("echo", f"NOBODY@127.0.0.1:{free_port()}").returncode == 60
    rejected = node.cli("echo", f"FAULTY@127.0.0.1:{refusing.port}")
    assert (rejected.returncode, rejected.stderr.split(":")[:2]) == (61, ["E", " ASSOCIATION_REJECTED"])
    tps.faults = Faults(statuses=[0xA900])
    assert node.cli("send", "tps", str(done.files[0])).returncode == 62


def test_not_now_is_75(node: Node, done: Study) -> None:
    """A second worker on the same home is told that another process has the role."""
    second = node.cli("serve", "--only", "work")
    assert (second.returncode, second.stderr.split(":")[:2]) == (75, ["E", " MOMENT_FAULT"])


# --- whom it is about -------------------------------------------------------------------------------------------------


def test_the_patients_name_is_nowhere_but_in_dicom(node: Node, done: Study, waiting: Study, tps: Destination) -> None:
    """Name and number are in the delivered bytes, and in no log, event, row, file name or word of any verb above."""
    assert b"ROENTGEN^WILHELM" in tps.of_study(done.uid)[0].encoded
    for verb in (("studies", "show", done.uid), ("why", done.uid, "--json"), ("why", waiting.uid)):
        assert node.cli(*verb).returncode == 0
    assert node.log_text()
    assert len(node.said) > 5
    assert leaks(node) == []
