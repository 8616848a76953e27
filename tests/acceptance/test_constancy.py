"""The daily constancy on a running node: its own phantom over its own wire, two days, then a tampered bundle."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from npc_rtnode.adapters.database.constancy import ConstancyLedger
from npc_rtnode.adapters.phantoms import ConstancyPhantom
from npc_rtnode.app import constancy, utc_now
from npc_rtnode.domain.constancy import ConstancyRun, RunState
from tests.acceptance.hospital import Destination
from tests.acceptance.node import ROOT, Node, View, example

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(500)]


@pytest.fixture(scope="module")
def proving(folder: Path) -> Iterator[Destination]:
    """The system that constancy results go to."""
    scp = Destination(folder / "proving").up()
    yield scp
    scp.down()


@pytest.fixture(scope="module")
def settings(tps: Destination, archive: Destination, proving: Destination) -> View:
    """The shipped example with a constancy run that is due from midnight on."""
    told = example(tps=tps.port, pacs=archive.port)
    told["qa"] = {"enabled": True, "at": "00:00", "destination": "proving"}
    ours = {"name": "proving", "ae_title": "PROVING", "host": "127.0.0.1", "port": proving.port, "test": True}
    told["destinations"].append(ours)
    return told


def runs(node: Node) -> list[ConstancyRun]:
    """All of them, oldest first."""
    return ConstancyLedger(node.station.sessions).runs()


def ended(node: Node, count: int) -> ConstancyRun:
    """Wait for so many runs to have ended; the last."""
    node.wait_for(lambda: sum(run.state is not RunState.RUNNING for run in runs(node)) >= count, 180)
    return runs(node)[count - 1]


def content(run: ConstancyRun) -> dict[str, float]:
    """What must not change."""
    return {name: value for name, value in run.measures.items() if not name.startswith("seconds_")}


def test_the_same_phantom_on_two_days_gives_the_same_to_the_digit(
    node: Node, tps: Destination, archive: Destination, proving: Destination
) -> None:
    """The node's own schedule runs the first; a day later, by the clock, it runs again; only the test system hears."""
    first = ended(node, 1)
    assert first.reasons == ()
    assert (first.state, first.asked_by) == (RunState.PASSED, "node")
    assert first.measures["dice"] >= 0.7
    assert {"volume_cc", "p_t1", "p_t4", "seconds_infer", "seconds_write", "seconds_deliver", "seconds_total"} <= set(
        first.measures
    )

    def tomorrow() -> datetime:
        return utc_now() + timedelta(days=1)

    assert constancy(node.station, ConstancyPhantom(), tomorrow).run() == 1
    second = ended(node, 2)
    assert (second.state, second.asked_by) == (RunState.PASSED, "node"), second.reasons
    assert second.day == (datetime.fromisoformat(first.day) + timedelta(days=1)).date().isoformat()
    assert second.study_uid != first.study_uid
    assert content(second) == content(first)
    assert second.made == first.made
    assert [len(proving.of_study(run.study_uid)) for run in (first, second)] == [1, 1]
    assert tps.received == archive.received == []


def test_it_is_shown(node: Node) -> None:
    """`status` tells the newest run, `qa trend` every one, as a table, CSV and JSON."""
    assert "PASSED" in json.loads(node.cli("status", "--json").stdout)["constancy"]
    assert node.cli("qa", "trend").returncode == 0
    rows = list(csv.DictReader(io.StringIO(node.cli("qa", "trend", "--csv").stdout)))
    assert [row["state"] for row in rows] == ["PASSED", "PASSED"]
    assert float(rows[0]["dice"]) == runs(node)[0].measures["dice"]
    assert len(json.loads(node.cli("qa", "trend", "--json", "--last", "1").stdout)["runs"]) == 1


def test_a_tampered_bundle_is_an_alarm(node: Node, folder: Path) -> None:
    """With another threshold in the bundle `qa run` ends 40, `status` 3, and the journal and the log have the alarm."""
    tampered = folder / "tampered"
    shutil.copytree(ROOT / "model" / "bundles" / "default", tampered)
    manifest = json.loads((tampered / "bundle.json").read_text("utf-8"))
    manifest["postprocess"]["threshold"] = 0.995
    (tampered / "bundle.json").write_text(json.dumps(manifest), "utf-8")

    def tamper(settings: View) -> None:
        settings.setdefault("infer", {})["bundle"] = str(tampered)
        settings["qa"] |= {"patience_s": 15, "at": ""}

    node.configure(tamper)
    node.restart()
    done = node.cli("qa", "run", "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["state"]) == (40, "ALARM"), told
    because = told["reasons"][0].split(":")[0]
    assert because in {"DICE_LOW", "NO_RESULT", "NOT_ENDED"}
    if because == "NOT_ENDED":  # patience may end before the bundle is tried: that is what it waits for all the same
        tried = runs(node)[-1].study_uid
        node.wait_for(lambda: [job for job in node.jobs(tried) if "BUNDLE_FAULT" in str(job["last_error"])], 120)
    assert node.cli("status").returncode == 3
    assert node.cli("qa", "trend").returncode == 3
    (alarm,) = [row for row in node.events("ALARM") if row.subject == "constancy"]
    assert alarm.detail["reasons"] == told["reasons"]
    assert "constancy" in node.log_text()
    assert node.broken_promises() == {}
