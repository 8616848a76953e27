"""Orthanc between scanner and node: its own routing sends the images in, its archive takes the results.

DCMTK's storescu plays the scanner and its storescp the TPS; in between nothing is ours but the node.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.acceptance.dcmtk import Storescp, Storescu, class_of
from tests.acceptance.hospital import Study, make_study, slice_of
from tests.acceptance.node import Node, View, example, free_port
from tests.acceptance.orthanc import ROUTE_EVERYTHING, ROUTE_MR, Orthanc
from tests.acceptance.test_main_job import RTSTRUCT, SR, raw

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.peer("Orthanc", "storescu", "storescp"),
    pytest.mark.timeout(400),
]

NO_LOOP_S = 5.0
"""An object that went round once more would be back within this time: routing and delivery take well under a second."""


@pytest.fixture(scope="module")
def tps(folder: Path) -> Iterator[Storescp]:
    """DCMTK's storescp as the treatment planning system."""
    with Storescp(folder / "tps") as scp:
        yield scp


@pytest.fixture(scope="module")
def unstarted(folder: Path) -> Orthanc:
    """The PACS: where it will be, before it knows the node."""
    return Orthanc(folder / "pacs")


@pytest.fixture(scope="module")
def settings(tps: Storescp, unstarted: Orthanc) -> View:
    """deploy/example.toml: PACS sends to us and is one of two destinations."""
    return example(tps=tps.port, pacs=unstarted.port)


@pytest.fixture(scope="module")
def pacs(node: Node, unstarted: Orthanc) -> Iterator[Orthanc]:
    """Orthanc, which knows scanner and node, and routes T1 series of MR to the node."""
    unstarted.modalities = {"node": ("NPC_RTNODE", node.port), "scanner": ("SCANNER", free_port())}
    unstarted.lua = ROUTE_MR
    with unstarted as running:
        yield running


@pytest.fixture(scope="module")
def scan(pacs: Orthanc, folder: Path) -> Callable[[Study], None]:
    """The scanner: storescu to Orthanc."""
    storescu = Storescu(pacs.port, folder / "storescu", calling_ae="SCANNER", called_ae="PACS")
    return lambda study: storescu.send_all(study.files)


@pytest.fixture(scope="module")
def routed(folder: Path) -> Study:
    """The study of the first story."""
    return make_study(folder / "sent", "routed by orthanc")


@pytest.fixture(scope="module")
def job(node: Node, routed: Study, folder: Path, scan: Callable[[Study], None]) -> View:
    """Its job, after the scanner has sent a diffusion series and the contrast-enhanced T1 to Orthanc."""
    scan(make_study(folder / "sent", "routed by orthanc", series_number=3, series_description="Ax DWI", contrast=False))
    scan(routed)
    return node.delivered(routed.uid, 240)


def associations(node: Node, study: Study) -> int:
    """How many associations the slices of a study came over."""
    wanted = {item.sop_uid for item in study.slices}
    return len({row.association_id for uid, row in node.instances().items() if uid in wanted})


# --- by its own routing -----------------------------------------------------------------------------------------------


def test_only_what_the_pacs_routes_comes_to_the_node(node: Node, job: View, routed: Study, pacs: Orthanc) -> None:
    """The archive has both series, the node has seen the T1 alone, whole, from the PACS."""
    assert pacs.modalities_of(routed.uid).count("MR") == 2 * len(routed.files)
    (series,) = node.series(routed.uid)
    assert (series["state"], series["instances"]) == ("SELECTED", len(routed.files))
    assert {row.calling_ae for row in node.associations()} == {"PACS"}


def test_the_tps_has_one_structure_set(job: View, routed: Study, tps: Storescp) -> None:
    """storescp wrote one object, the RTSTRUCT that the ledger names."""
    (arrived,) = tps.of_study(routed.uid)
    assert class_of(arrived) == RTSTRUCT
    assert slice_of(arrived).sop_uid == next(o["sop_uid"] for o in job["objects"] if o["kind"] == "RTSTRUCT")


def test_the_archive_shows_the_results_in_the_same_study(job: View, routed: Study, pacs: Orthanc) -> None:
    """By REST: one patient, one study, and in it RTSTRUCT and SR beside the images."""
    (study,) = pacs.find("Study", StudyInstanceUID=routed.uid)
    assert len(pacs.find("Patient", PatientID="*")) == 1
    assert [kind for kind in pacs.modalities_of(routed.uid) if kind != "MR"] == ["RTSTRUCT", "SR"]
    assert pacs.get(f"/studies/{study}/statistics")["CountSeries"] == 4


def test_the_patient_is_the_same_to_the_byte(job: View, routed: Study, pacs: Orthanc, folder: Path) -> None:
    """What Orthanc gives out of image, RTSTRUCT and SR has the very bytes of name, number and study."""
    results = [path for path in pacs.download(routed.uid, folder / "out") if class_of(path) in {RTSTRUCT, SR}]
    assert len(results) == 2
    for path in results:
        assert raw(path) == raw(routed.files[0])
    assert raw(routed.files[0])["PatientName"].strip() == b"ROENTGEN^WILHELM"


# --- over several associations, and again -----------------------------------------------------------------------------


def test_one_instance_an_association_is_still_one_job(
    node: Node, job: View, folder: Path, pacs: Orthanc, tps: Storescp, scan: Callable[[Study], None]
) -> None:
    """Orthanc sends each slice in an association of its own, in no order of ours: one series, one job, one object."""
    pacs.down()
    pacs.lua = ""
    pacs.up()
    study = make_study(folder / "sent", "slice by slice")
    scan(study)
    found = pacs.find("Instance", StudyInstanceUID=study.uid)
    for each in found:
        assert pacs.send("node", [each])["FailedInstancesCount"] == 0
    node.delivered(study.uid, 240)
    assert associations(node, study) == len(found) == len(study.files)
    assert [len(series["jobs"]) for series in node.series(study.uid)] == [1]
    assert len(tps.of_study(study.uid)) == 1


def test_a_study_that_orthanc_sends_again_changes_nothing(
    node: Node, job: View, routed: Study, pacs: Orthanc, tps: Storescp
) -> None:
    """The whole study once more, results and all: the T1 is known, the results are ours, the diffusion is set aside."""
    (study,) = pacs.find("Study", StudyInstanceUID=routed.uid)
    owed, back = node.deliveries(routed.uid), node.queries.counts()["came_back"]
    said = pacs.send("node", [study])
    assert (said["InstancesCount"], said["FailedInstancesCount"]) == (2 * len(routed.files) + 2, 0)
    node.wait_for(lambda: len(node.series(routed.uid)) == 2 and node.final(routed.uid), 60)
    assert node.states(routed.uid) == ["SELECTED", "SET_ASIDE"]
    assert [job["work_key"] for job in node.jobs(routed.uid)] == [job["work_key"]]
    assert node.deliveries(routed.uid) == owed
    node.settle()
    assert node.queries.counts()["came_back"] == back + 2
    assert len(tps.of_study(routed.uid)) == 1


# --- a PACS that routes everything ------------------------------------------------------------------------------------


def test_what_comes_back_goes_round_no_second_time(
    node: Node, job: View, folder: Path, pacs: Orthanc, tps: Storescp, scan: Callable[[Study], None]
) -> None:
    """Orthanc routes all it stores, our RTSTRUCT and SR too: acknowledged, counted once, no series, no second job."""
    pacs.down()
    pacs.lua = ROUTE_EVERYTHING
    pacs.up()
    study, back = make_study(folder / "sent", "everything routed"), node.queries.counts()["came_back"]
    scan(study)
    done = node.delivered(study.uid, 240)
    node.wait_for(lambda: node.queries.counts()["came_back"] == back + 2, 60)
    time.sleep(NO_LOOP_S)
    node.settle()
    assert node.queries.counts()["came_back"] == back + 2
    (series,) = node.series(study.uid)
    assert [job["state"] for job in series["jobs"]] == ["DELIVERED"]
    assert {item["sop_uid"] for item in done["objects"]}.isdisjoint(node.instances())
    assert [len(delivery["attempts"]) for delivery in node.deliveries(study.uid)] == [1, 1, 1]
    assert len(tps.of_study(study.uid)) == 1
    assert [kind for kind in pacs.modalities_of(study.uid) if kind != "MR"] == ["RTSTRUCT", "SR"]
    jobs = [pacs.get(f"/jobs/{each}") for each in pacs.get("/jobs")]
    assert {each["State"] for each in jobs} == {"Success"}, "Orthanc was answered Success for each of them"


# --- an archive that is away ------------------------------------------------------------------------------------------


def test_an_archive_that_is_down_gets_it_when_it_is_up(
    node: Node, job: View, folder: Path, pacs: Orthanc, tps: Storescp
) -> None:
    """Images come by another way while Orthanc is down: the TPS is served at once, the archive after its restart."""
    pacs.down()
    study = make_study(folder / "sent", "archive down")
    Storescu(node.port, folder / "storescu").send_all(study.files)
    node.wait_for(lambda: len(tps.of_study(study.uid)) == 1 and node.delivery(study.uid, "pacs"), 240)
    node.wait_for(lambda: all(d["last_error"] for d in node.deliveries(study.uid) if d["destination"] == "pacs"), 60)
    owed = [d for d in node.deliveries(study.uid) if d["destination"] == "pacs"]
    assert {d["last_error"].split(":")[0] for d in owed} == {"UNREACHABLE"}
    assert node.job_states(study.uid) == ["WRITTEN"]
    pacs.lua = ""
    pacs.up()
    node.delivered(study.uid)
    assert pacs.modalities_of(study.uid) == ["RTSTRUCT", "SR"]
    assert len(tps.of_study(study.uid)) == 1
