"""A real Enhanced MR study on the wire: the contrast series is chosen, and goes only where frames can be shown.

The weights have seen only phantoms, so both destinations are test systems and the bundle is a commissioning copy (see
test_real_head): what is outlined means nothing, where it is and what it is called counts.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import dcmread

from npc_rtnode.adapters.dicom.series import DicomSeriesReader
from tests.acceptance.hospital import Destination
from tests.acceptance.node import Node, View, example
from tests.acceptance.test_real_head import MAY_WAIT, codes, commissioning_copy
from tests.builders.headers import real_files

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(400), pytest.mark.peer("storescu")]

STUDY = "mr_study_nema_enhanced_tumour"
PRE, POST = "BRTUM005", "BRTUM008"


@pytest.fixture(scope="module")
def files() -> dict[str, Path]:
    """The two Enhanced instances, before and after gadolinium."""
    return {path.name: path for path in real_files(STUDY)}


@pytest.fixture(scope="module")
def study_uid(files: dict[str, Path]) -> str:
    """Of both."""
    return DicomSeriesReader().headers([files[POST]])[0].study_uid


@pytest.fixture(scope="module")
def settings(folder: Path, tps: Destination, archive: Destination, files: dict[str, Path]) -> View:
    """The clinical rules, test systems, and nobody who declares Enhanced MR."""
    changed = example(tps=tps.port, pacs=archive.port)
    changed["destinations"] = [{**destination, "test": True} for destination in changed["destinations"]]
    changed["infer"] = {"bundle": str(commissioning_copy(folder, [files[POST]]))}
    return changed


@pytest.fixture(scope="module")
def held(node: Node, files: dict[str, Path], study_uid: str, peer: Callable[[str], str]) -> View:
    """Both series sent by DCMTK to the AE title that is kept for NPC; the one job that comes of them."""
    command = [peer("storescu"), "-aet", "PACS", "-aec", "NPC_MR", "127.0.0.1", str(node.port)]
    subprocess.run([*command, str(files[PRE]), str(files[POST])], check=True, timeout=60)
    node.wait_for(lambda: node.jobs(study_uid) and node.final(study_uid), 240)
    (job,) = node.jobs(study_uid)
    return job


def series_of(node: Node, study_uid: str, file: Path) -> View:
    """What became of one of the two."""
    uid = str(dcmread(file, stop_before_pixels=True).SeriesInstanceUID)
    (found,) = [series for series in node.series(study_uid) if series["series_uid"] == uid]
    return found


def test_post_gad_is_chosen_over_pre_gad(node: Node, held: View, files: dict[str, Path], study_uid: str) -> None:
    """One instance each, whole at once; the series before contrast is set aside by its own words."""
    assert held["results"]["slices"] == 24
    assert series_of(node, study_uid, files[POST])["state"] == "SELECTED"
    before = series_of(node, study_uid, files[PRE])
    assert before["state"] == "SET_ASIDE"
    assert [reason.split(":")[0] for reason in before["reasons"]] == ["not before contrast"]


def test_without_a_declaration_it_is_held_and_told_what_to_set(
    node: Node, held: View, study_uid: str, tps: Destination, archive: Destination
) -> None:
    """Both objects are proven and stored; `why` names the setting and who asked in vain."""
    assert held["state"] == "HELD", node.story()
    assert {"ENHANCED_MR"} <= codes(held["reasons"]) <= {"ENHANCED_MR", *MAY_WAIT}
    assert {item["kind"] for item in held["objects"]} == {"RTSTRUCT", "SR"}
    why = node.cli("why", study_uid).stdout
    assert "set enhanced_mr = true" in why
    assert "not owed to       tps" in why
    assert (tps.received, archive.received) == ([], [])


def test_declared_it_is_delivered_there_and_nowhere_else(
    node: Node, held: View, study_uid: str, tps: Destination, archive: Destination
) -> None:
    """The TPS declares Enhanced MR, a retry does the rest: the stored objects, each contour on its frame."""
    node.configure(lambda settings: settings["destinations"][0].update(enhanced_mr=True))
    node.restart()
    assert node.cli("retry", study_uid, "--reason", "the TPS holds Enhanced MR").returncode == 0
    node.wait_for(
        lambda: node.final(study_uid) and "ENHANCED_MR" not in codes(node.jobs(study_uid)[-1]["reasons"]), 240
    )
    if node.job_states(study_uid) == ["HELD"]:
        assert codes(node.jobs(study_uid)[-1]["reasons"]) <= MAY_WAIT
        assert node.cli("release", study_uid, "--reason", "looked at").returncode == 0
    job = node.delivered(study_uid)
    assert {(d["destination"], d["kind"], d["state"]) for d in node.deliveries(study_uid)} == {
        ("tps", "RTSTRUCT", "SENT")
    }
    assert archive.received == []
    (arrived,) = tps.of_study(study_uid)
    assert [item["sop_uid"] for item in held["objects"] if item["kind"] == "RTSTRUCT"] == [arrived.sop_uid]
    assert job["result_revision"] == held["result_revision"]
    images = [item.ContourImageSequence[0] for item in dcmread(arrived.path).ROIContourSequence[0].ContourSequence]
    assert images
    assert all(1 <= int(image.ReferencedFrameNumber) <= 24 for image in images)


def test_a_resend_asks_the_same_question(node: Node, held: View, study_uid: str, archive: Destination) -> None:
    """The archive, which declares nothing, gets it by no verb."""
    said = node.cli("resend", study_uid, "--to", "pacs", "--reason", "I want it")
    assert (said.returncode, said.stderr.split(":")[:2]) == (2, ["E", " FORBIDDEN"])
    assert "Enhanced MR" in said.stderr
    assert archive.received == []


def test_the_patient_of_the_study_is_named_nowhere(node: Node, held: View, files: dict[str, Path]) -> None:
    """Neither in the log nor in what the CLI said."""
    name = str(dcmread(files[POST], stop_before_pixels=True).PatientName)
    assert all(part not in node.log_text() + "\n".join(node.said) for part in name.split("^") if len(part) > 6)
