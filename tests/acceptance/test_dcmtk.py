"""DCMTK on every side: dcmqrscp is the PACS that images come from and results go to, storescp the TPS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread

from tests.acceptance.dcmtk import Dcmqrscp, Storescp, Storescu, class_of, kind_of, run
from tests.acceptance.hospital import PATIENT_NAME, Study, make_study, slice_of
from tests.acceptance.node import Node, View, example
from tests.acceptance.test_main_job import RTSTRUCT, SR

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.peer("storescu", "storescp", "dcmqrscp", "findscu", "movescu", "dcmdump", "dsrdump"),
    pytest.mark.timeout(400),
]

UTF_8_UNKNOWN = "W: The VR checker does not support this Specific Character Set: ISO_IR 192"
"""What DCMTK 3.6.7 says of every UTF-8 report."""


@pytest.fixture(scope="module")
def tps(folder: Path) -> Iterator[Storescp]:
    """storescp, which writes what it reads from the wire, bit by bit."""
    with Storescp(folder / "tps") as scp:
        yield scp


@pytest.fixture(scope="module")
def unstarted(folder: Path) -> Dcmqrscp:
    """The PACS: where it will be, before it knows the node."""
    return Dcmqrscp(folder / "pacs")


@pytest.fixture(scope="module")
def settings(tps: Storescp, unstarted: Dcmqrscp) -> View:
    """deploy/example.toml: PACS sends to us and is one of two destinations."""
    return example(tps=tps.port, pacs=unstarted.port)


@pytest.fixture(scope="module")
def pacs(node: Node, unstarted: Dcmqrscp) -> Iterator[Dcmqrscp]:
    """dcmqrscp, which may move studies to the node."""
    unstarted.hosts = {"NPC_RTNODE": node.port}
    with unstarted as running:
        yield running


@pytest.fixture(scope="module")
def moved(folder: Path) -> Study:
    """The study of the first story."""
    return make_study(folder / "sent", "moved by dcmqrscp")


@pytest.fixture(scope="module")
def job(node: Node, moved: Study, folder: Path, pacs: Dcmqrscp) -> View:
    """Its job: stored in the PACS, and moved from there to the node on a person's C-MOVE."""
    Storescu(pacs.port, folder / "storescu", calling_ae="SCANNER", called_ae="PACS").send_all(moved.files)
    pacs.move(moved.uid, to="NPC_RTNODE")
    return node.delivered(moved.uid, 240)


def complaints(said: str) -> list[str]:
    """Warnings and errors among what a tool of DCMTK said."""
    return [line for line in said.splitlines() if line.startswith(("W:", "E:", "F:"))]


def outbox(node: Node, job: View) -> dict[str, Path]:
    """The stored objects of a job by SOP Instance UID."""
    return {item["sop_uid"]: node.station.outbox.path(item["sha256"]) for item in job["objects"]}


def results(paths: list[Path]) -> dict[str, Path]:
    """Those that are no images, by SOP Class."""
    return {class_of(path): path for path in paths if class_of(path) in {RTSTRUCT, SR}}


def test_a_move_feeds_the_node_and_the_results_come_home(node: Node, job: View, moved: Study, pacs: Dcmqrscp) -> None:
    """C-MOVE brings each slice once; afterwards the PACS keeps RTSTRUCT and SR beside the images."""
    (series,) = node.series(moved.uid)
    assert (series["state"], series["instances"]) == ("SELECTED", len(moved.files))
    kept = pacs.of_study(moved.uid)
    assert len(kept) == len(moved.files) + 2
    assert set(results(kept)) == {RTSTRUCT, SR}


def test_the_archive_finds_them(job: View, moved: Study, pacs: Dcmqrscp) -> None:
    """findscu on series level names MR, RTSTRUCT and SR, and on image level the UIDs of the ledger."""
    assert sorted(pacs.find("SERIES", StudyInstanceUID=moved.uid, Modality="")) == ["MR", "RTSTRUCT", "SR"]
    structure_set = dcmread(results(pacs.of_study(moved.uid))[RTSTRUCT], stop_before_pixels=True)
    keys = {"StudyInstanceUID": moved.uid, "SeriesInstanceUID": str(structure_set.SeriesInstanceUID)}
    found = pacs.find("IMAGE", **keys, SOPInstanceUID="")
    assert found == [item["sop_uid"] for item in job["objects"] if item["kind"] == "RTSTRUCT"]


def test_the_bytes_at_the_tps_are_those_of_the_outbox(node: Node, job: View, moved: Study, tps: Storescp) -> None:
    """storescp, bit preserving: the data set on the wire is the stored one, in its transfer syntax, byte for byte."""
    (arrived,) = tps.of_study(moved.uid)
    stored = outbox(node, job)[slice_of(arrived).sop_uid]
    assert kind_of(arrived) == kind_of(stored)
    assert slice_of(arrived).encoded == slice_of(stored).encoded


def test_the_archive_gives_out_the_same_elements(node: Node, job: View, moved: Study, pacs: Dcmqrscp) -> None:
    """dcmqrscp encodes anew; element by element its RTSTRUCT and SR are those of the outbox."""
    kept, stored = results(pacs.of_study(moved.uid)), outbox(node, job)
    for path in kept.values():
        assert dcmread(path) == dcmread(stored[slice_of(path).sop_uid])


def test_dcmtk_reads_the_results(job: View, moved: Study, tps: Storescp, pacs: Dcmqrscp) -> None:
    """dcmdump prints the structure set without a complaint, dsrdump the whole report with its measurements."""
    (arrived,) = tps.of_study(moved.uid)
    said = run("dcmdump", arrived)
    assert "RTStructureSetStorage" in said
    assert f"[{PATIENT_NAME}" in said
    assert complaints(said) == []
    report = run("dsrdump", results(pacs.of_study(moved.uid))[SR])
    assert "Imaging Measurement Report" in report
    assert "NUM" in report
    assert complaints(report) == [UTF_8_UNKNOWN]


def test_a_second_move_changes_nothing(node: Node, job: View, moved: Study, pacs: Dcmqrscp, tps: Storescp) -> None:
    """The whole study moved again, results and all: images known, results our own, one job, one object at the TPS."""
    before, back = node.deliveries(moved.uid), node.queries.counts()["came_back"]
    pacs.move(moved.uid, to="NPC_RTNODE")
    node.wait_for(lambda: node.queries.counts()["came_back"] == back + 2, 30)
    assert node.states(moved.uid) == ["SELECTED"]
    assert node.deliveries(moved.uid) == before
    assert len(tps.of_study(moved.uid)) == 1


def test_a_tps_that_is_down_gets_it_when_it_is_up(
    node: Node, job: View, folder: Path, tps: Storescp, pacs: Dcmqrscp
) -> None:
    """storescp is started only after the archive has been served: the delivery waits as UNREACHABLE, then is made."""
    tps.down()
    study = make_study(folder / "sent", "tps down")
    Storescu(node.port, folder / "storescu").send_all(study.files)
    node.wait_for(lambda: len(results(pacs.of_study(study.uid))) == 2, 240)
    node.wait_for(lambda: (node.delivery(study.uid, "tps") or {"last_error": None})["last_error"], 60)
    assert str((node.delivery(study.uid, "tps") or {})["last_error"]).startswith("UNREACHABLE")
    assert node.job_states(study.uid) == ["WRITTEN"]
    tps.up()
    node.delivered(study.uid)
    assert [class_of(path) for path in tps.of_study(study.uid)] == [RTSTRUCT]
