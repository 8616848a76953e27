"""The main job on a phantom study that DCMTK sends, judged by programs that this project did not write."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.tag import Tag

from bench.readers import Mask, plastimatch_mask
from npc_rtnode.adapters.dicom.series import DicomSeriesReader
from npc_rtnode.adapters.dicom.simulator import StoredObject
from npc_rtnode.domain.geometry import Stack, stack_of
from npc_rtnode.domain.rasterising import dice
from tests.acceptance.hospital import SUCCESS, Destination, Scanner, Study, make_study, slice_of
from tests.acceptance.node import Node, View

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(400)]

RTSTRUCT, SR = "1.2.840.10008.5.1.4.1.1.481.3", "1.2.840.10008.5.1.4.1.1.88.33"
IDENTITY = (
    "SpecificCharacterSet",
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "StudyDescription",
    "AccessionNumber",
)


def storescu(program: str, port: int, files: tuple[Path, ...]) -> None:
    """Send as the PACS that deploy/example.toml knows."""
    command = [program, "-aet", "PACS", "-aec", "NPC_RTNODE", "127.0.0.1", str(port), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wanted(folder: Path) -> Study:
    """The contrast-enhanced T1."""
    return make_study(folder / "sent", "main job")


@pytest.fixture(scope="module")
def plain(folder: Path) -> Study:
    """A T1 without contrast in the same study."""
    return make_study(
        folder / "sent", "main job", series_number=3, contrast=False, series_description="Ax T1 NPC phantom"
    )


@pytest.fixture(scope="module")
def job(node: Node, wanted: Study, plain: Study, send: Callable[[Study], None]) -> View:
    """The job of the study, delivered."""
    send(plain)
    send(wanted)
    return node.delivered(wanted.uid)


@pytest.fixture(scope="module")
def send(node: Node) -> Callable[[Study], None]:
    """DCMTK's storescu, or a skip that says what is missing."""
    from tests.peers import REQUIRED, find_peer

    program = find_peer("storescu")
    if program is None:
        (pytest.fail if REQUIRED else pytest.skip)("not installed: storescu (deploy/peers.sh)")
    return lambda study: storescu(program, node.port, study.files)


@pytest.fixture(scope="module")
def stack(wanted: Study) -> Stack:
    """The grid of the series that was sent."""
    return stack_of(DicomSeriesReader().headers(wanted.files))


@pytest.fixture(scope="module")
def delivered_mask(node: Node, job: View) -> Mask:
    """What the model drew, as stored before anything was written."""
    answer = node.predictions().load(job["work_key"])
    assert answer is not None
    return answer.prediction.mask


def of_class(items: list[StoredObject], sop_class: str) -> StoredObject:
    """The one object of this class."""
    (found,) = [item for item in items if item.sop_class_uid == sop_class]
    return found


def raw(path: Path) -> dict[str, bytes]:
    """Identity elements as they lie in the file (pydicom decodes the character set alone while reading)."""
    ds = dcmread(path, stop_before_pixels=True)
    values = {keyword: ds.get_item(Tag(keyword)).value for keyword in IDENTITY if keyword in ds}
    return {k: value if isinstance(value, bytes) else str(value or "").encode() for k, value in values.items()}


def test_both_objects_reach_whom_they_are_owed_to(
    job: View, wanted: Study, tps: Destination, archive: Destination
) -> None:
    """The TPS has the RTSTRUCT alone, the archive the same bytes and the SR, each under the ledger's UID."""
    named = {item["kind"]: item["sop_uid"] for item in job["objects"]}
    at_tps, at_archive = tps.of_study(wanted.uid), archive.of_study(wanted.uid)
    assert [item.sop_uid for item in at_tps] == [named["RTSTRUCT"]]
    assert {item.sop_uid for item in at_archive} == {named["RTSTRUCT"], named["SR"]}
    assert len(at_archive) == 2
    assert at_tps[0].encoded == of_class(at_archive, RTSTRUCT).encoded


def test_the_series_without_contrast_is_set_aside(node: Node, job: View, wanted: Study) -> None:
    """The other series of the study ends SET_ASIDE, and the reason names the clause that was not met."""
    aside, chosen = node.series(wanted.uid)
    assert (aside["state"], chosen["state"]) == ("SET_ASIDE", "SELECTED")
    assert aside["jobs"] == []
    assert "contrast" in aside["reasons"][0]


@pytest.mark.peer("dciodvfy")
def test_dciodvfy_finds_no_error(job: View, wanted: Study, archive: Destination, peer: Callable[[str], str]) -> None:
    """Neither object has a line that begins with Error."""
    for item in archive.of_study(wanted.uid):
        done = subprocess.run([peer("dciodvfy"), "-new", item.path], capture_output=True, check=False)
        said = (done.stdout + done.stderr).decode("utf-8", "replace").splitlines()
        assert said, "dciodvfy says at least which IOD it found"
        assert [line for line in said if line.startswith("Error")] == []


@pytest.mark.peer("dsrdump")
def test_dsrdump_reads_the_report(job: View, wanted: Study, archive: Destination, peer: Callable[[str], str]) -> None:
    """DCMTK reads the SR without complaint, and finds the very category that the ledger has."""
    report = of_class(archive.of_study(wanted.uid), SR)
    done = subprocess.run([peer("dsrdump"), "+Pl", report.path], capture_output=True, check=False)
    assert done.returncode == 0
    assert b"E:" not in done.stderr
    assert f"Joint Committee on Cancer c{job['results']['stage']}".encode() in done.stdout


@pytest.mark.peer("plastimatch")
def test_plastimatch_sees_the_delivered_mask(
    tmp_path: Path,
    wanted: Study,
    tps: Destination,
    stack: Stack,
    delivered_mask: Mask,
    peer: Callable[[str], str],
) -> None:
    """plastimatch rasterises the RTSTRUCT at the TPS, against the sent series, to the model's mask: Dice >= 0.999."""
    (arrived,) = tps.of_study(wanted.uid)
    seen = plastimatch_mask(peer("plastimatch"), arrived.path, wanted.files[0].parent, tmp_path / "mask", stack)
    assert delivered_mask.sum() > 100
    assert dice(seen, delivered_mask) >= 0.999


def test_the_patient_is_the_same_to_the_byte(job: View, wanted: Study, archive: Destination) -> None:
    """Identity elements of both objects are the very bytes of the source images."""
    source = raw(wanted.files[0])
    assert source["PatientName"].strip() == b"ROENTGEN^WILHELM"
    for item in archive.of_study(wanted.uid):
        assert raw(item.path) == source


def test_what_is_sent_again_changes_nothing(
    node: Node, job: View, wanted: Study, tps: Destination, send: Callable[[Study], None]
) -> None:
    """Two further sends of the whole series are answered Success and leave ledger, spool and TPS as they were."""
    before, kept, held = results(node), in_the_spool(node), len(tps.received)
    send(wanted)
    send(wanted)
    node.wait_for(lambda: sum(row.ended_at is not None for row in node.associations()) == 4, 30)
    assert results(node) == before
    assert in_the_spool(node) == kept
    assert len(tps.received) == held


def results(node: Node) -> View:
    """Every row but of who called, and of how far the ledger is in the intake journal."""
    return {name: rows for name, rows in node.tables().items() if name not in {"associations", "intake_position"}}


def in_the_spool(node: Node) -> list[Path]:
    """Its files, without the intake journal's."""
    spool = node.home / "spool"
    return sorted(path for path in spool.rglob("*") if spool / "journal" not in path.parents)


def test_our_own_object_coming_back_is_ignored_and_counted(
    node: Node, job: View, wanted: Study, tps: Destination, scanner: Scanner
) -> None:
    """A PACS that routes everything sends our RTSTRUCT back: Success, not kept, counted, no new series."""
    ours = slice_of(tps.of_study(wanted.uid)[0].path)
    series, instances, back = len(node.series(wanted.uid)), len(node.instances()), node.queries.counts()["came_back"]
    assert scanner.send([ours, ours]) == [SUCCESS, SUCCESS]
    node.settle()
    assert node.queries.counts()["came_back"] == back + 2
    assert len(node.series(wanted.uid)) == series
    assert len(node.instances()) == instances
    assert ours.sop_uid not in node.instances()
