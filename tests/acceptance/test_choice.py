"""A study with several candidates on a living node: it waits, chooses one, says why not the others, asks on a tie."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.acceptance.hospital import Destination, Scanner, Study, make_study
from tests.acceptance.node import Node, View, example

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(400)]

STUDY_QUIET_S = 6.0
RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"
SUPPRESSED, PLAIN = "Ax T1 FS +C NPC", "Ax T1 +C NPC"


@pytest.fixture(scope="module")
def settings(tps: Destination, archive: Destination) -> View:
    """A study settles later than its series are quiet, so that the waiting can be seen."""
    changed = example(tps=tps.port, pacs=archive.port)
    changed["select"]["study_quiet_s"] = STUDY_QUIET_S
    return changed


def series(folder: Path, name: str, number: int, description: str) -> Study:
    """One series of a study; the phantom's scan options are left out, so that the description decides."""
    wishes = {"series_number": number, "series_description": description}
    return make_study(folder / "sent", name, without=("ScanOptions",), **wishes)


def reasons(node: Node, study: Study) -> dict[str, str]:
    """The first reason of each series of a study that has one, by its state."""
    return {view["state"]: view["reasons"][0] for view in node.series(study.uid) if view["reasons"]}


def test_the_preferred_series_is_chosen_when_the_study_has_settled(
    folder: Path, node: Node, scanner: Scanner, tps: Destination
) -> None:
    """The series that came first waits, in words with a time; the better one that follows is done, and it alone."""
    plain, suppressed = series(folder, "two", 3, PLAIN), series(folder, "two", 4, SUPPRESSED)
    scanner.send_all(plain.slices)
    node.wait_for(lambda: node.states(plain.uid) == ["COMPLETE"], 30)
    assert node.series(plain.uid)[0]["waits"].startswith("waiting for the study to settle until ")
    scanner.send_all(suppressed.slices)
    node.delivered(suppressed.uid)
    assert node.states(suppressed.uid) == ["SET_ASIDE", "SELECTED"]
    assert reasons(node, plain)["SET_ASIDE"].startswith("OUTRANKED: series ")
    assert 'fat-suppressed: @fat_suppressed is "yes"' in reasons(node, plain)["SET_ASIDE"]
    assert [item.sop_class_uid for item in tps.of_study(plain.uid)] == [RTSTRUCT]


def test_a_tie_is_held_until_a_person_picks_one(folder: Path, node: Node, scanner: Scanner, tps: Destination) -> None:
    """Nothing leaves for two equal series; a word on one of them delivers exactly that one and settles the other."""
    first, second = series(folder, "tie", 3, SUPPRESSED), series(folder, "tie", 4, SUPPRESSED)
    scanner.send_all([*first.slices, *second.slices])
    node.wait_for(lambda: node.states(first.uid) == ["HELD", "HELD"], 60)
    numbers = [view["series"] for view in node.series(first.uid)]
    assert reasons(node, first)["HELD"].startswith(f"TIE: series {numbers[0]}, {numbers[1]} of this study ")
    assert tps.of_study(first.uid) == []
    unnamed = node.cli("release", first.uid, "--reason", "either")
    assert unnamed.returncode == 2, unnamed.stderr
    done = node.cli("release", first.uid, "--series", str(numbers[1]), "--reason", "the other one has motion")
    assert done.returncode == 0, done.stderr
    node.delivered(first.uid)
    assert node.states(first.uid) == ["SET_ASIDE", "SELECTED"]
    assert reasons(node, first)["SET_ASIDE"] == f"OUTRANKED: a person picked series {numbers[1]}"
    assert len(tps.of_study(first.uid)) == 1


def test_a_replay_over_the_ledger_finds_nothing_to_change_by_the_same_rules(node: Node, tmp_path: Path) -> None:
    """The stored bytes judged again come to what was decided; rules that want a CT would change every choice."""
    said = json.loads(node.cli("rules", "replay", "--json").stdout)
    assert (said["series"], said["changed"]) == (4, [])
    other = tmp_path / "ct.toml"
    other.write_text(
        'name = "ct"\nrole = "t1c"\n[[clauses]]\nname = "m"\ntag = "Modality"\nop = "equals"\nvalue = "CT"\n'
    )
    changed = json.loads(node.cli("rules", "replay", "--rules", str(other), "--json").stdout)["changed"]
    assert [(one["was"], one["would_be"]) for one in changed] == [("SELECTED", "SET_ASIDE")] * 2


def test_a_late_candidate_changes_nothing_that_was_delivered(
    folder: Path, node: Node, scanner: Scanner, tps: Destination
) -> None:
    """A worse one that comes late is set aside, an equal one is held as the second; the TPS has one structure set."""
    chosen = series(folder, "late", 3, SUPPRESSED)
    scanner.send_all(chosen.slices)
    node.delivered(chosen.uid)
    scanner.send_all(series(folder, "late", 4, PLAIN).slices)
    scanner.send_all(series(folder, "late", 5, SUPPRESSED).slices)
    node.wait_for(lambda: node.states(chosen.uid) == ["SELECTED", "SET_ASIDE", "HELD"], 60)
    assert reasons(node, chosen)["HELD"].startswith("SECOND_CANDIDATE: series ")
    assert len(tps.of_study(chosen.uid)) == 1
