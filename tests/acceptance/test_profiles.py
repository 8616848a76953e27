"""A running node and two systems with wishes: a TPS with its own name for the ROI, an archive that wants every kind."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from pydicom import dcmread

from npc_rtnode.adapters.dicom.kinds import KINDS, kind_of
from npc_rtnode.adapters.dicom.simulator import StoredObject
from npc_rtnode.adapters.dicom.verify import report_facts
from npc_rtnode.domain.records import ObjectKind, WrittenObject
from tests.acceptance.hospital import Destination, Scanner, Study, make_study
from tests.acceptance.node import Node, View, example

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(400)]

CATEGORIES = {"T1": "1228889001", "T2": "1228929004", "T3": "1228938002", "T4": "1228944003"}
REPORTS = (ObjectKind.SR, ObjectKind.SR_ENHANCED, ObjectKind.SR_TEXT)


@pytest.fixture(scope="module")
def settings(tps: Destination, archive: Destination) -> View:
    """As shipped, with the two systems' wishes."""
    said = example(tps=tps.port, pacs=archive.port)
    wishes = {"tps": {"profile": "eclipse", "roi_name": "GTVp_AI"}, "pacs": {"objects": [str(kind) for kind in KINDS]}}
    for destination in said["destinations"]:
        destination.update(wishes[destination["name"]])
    return said


@pytest.fixture(scope="module")
def study(folder: Path) -> Study:
    """One contrast-enhanced T1."""
    return make_study(folder / "sent", "every kind")


@pytest.fixture(scope="module")
def job(node: Node, scanner: Scanner, study: Study) -> View:
    """Its job, delivered."""
    scanner.send_all(study.slices)
    return node.delivered(study.uid, 240)


@pytest.fixture(scope="module")
def archived(job: View, study: Study, archive: Destination) -> dict[ObjectKind, StoredObject]:
    """What the archive has, by kind."""
    return {kind_of(item.sop_class_uid): item for item in archive.of_study(study.uid)}


def test_each_system_has_what_it_wants(
    job: View, study: Study, tps: Destination, archived: dict[ObjectKind, StoredObject]
) -> None:
    """The TPS has one structure set under its own name, the archive one of each kind, and no UID is shared."""
    (at_tps,) = tps.of_study(study.uid)
    assert dcmread(at_tps.path).StructureSetROISequence[0].ROIName == "GTVp_AI"
    assert set(archived) == set(KINDS)
    assert dcmread(archived[ObjectKind.RTSTRUCT].path).StructureSetROISequence[0].ROIName == "GTVp^AI"
    uids = [item["sop_uid"] for item in job["objects"]]
    assert len(set(uids)) == len(uids) == len(KINDS) + 1
    assert {at_tps.sop_uid, *(item.sop_uid for item in archived.values())} == set(uids)


@pytest.mark.parametrize("kind", REPORTS)
def test_every_report_says_what_the_ledger_has(
    job: View, archived: dict[ObjectKind, StoredObject], kind: ObjectKind
) -> None:
    """Volume and four probabilities, to the decimals that are written; the probabilities sum to 1.0000."""
    item = archived[kind]
    facts = report_facts(WrittenObject(kind, item.sop_class_uid, item.sop_uid, item.path.read_bytes()))
    assert facts.volume_cc == pytest.approx(job["results"]["volume_cc"], abs=5e-4)
    assert tuple(facts.probabilities.values()) == pytest.approx(job["results"]["stage_probabilities"], abs=1e-4)
    assert round(sum(facts.probabilities.values()), 9) == 1.0


@pytest.mark.peer("tid1500reader")
def test_dcmqi_reads_the_ledgers_values(
    tmp_path: Path, job: View, archived: dict[ObjectKind, StoredObject], peer: Callable[[str], str]
) -> None:
    """dcmqi's TID 1500 reader on what arrived: the volume, the probabilities, and segment 1."""
    command = [peer("tid1500reader"), "--inputDICOM", archived[ObjectKind.SR].path]
    subprocess.run([*command, "--outputMetadata", tmp_path / "sr.json"], check=True, capture_output=True)
    (group,) = json.loads((tmp_path / "sr.json").read_text("utf-8"))["Measurements"]
    volume, *shares = group["measurementItems"]
    assert float(volume["value"]) == pytest.approx(job["results"]["volume_cc"], abs=5e-4)
    found = {s["measurementModifiers"][0]["modifierValue"]["CodeValue"]: float(s["value"]) for s in shares}
    wanted = dict(zip(CATEGORIES.values(), job["results"]["stage_probabilities"], strict=True))
    assert found == pytest.approx(wanted, abs=1e-4)
    assert group["ReferencedSegment"] == 1


def test_highdicom_reads_the_ledgers_values_and_the_models_mask(
    node: Node, job: View, study: Study, archived: dict[ObjectKind, StoredObject]
) -> None:
    """srread and segread on what arrived: one lesion by its tracking UID, its volume, and its voxels to the last."""
    (group,) = hd.sr.srread(archived[ObjectKind.SR].path).content.get_volumetric_roi_measurement_groups()
    (volume,) = group.get_measurements(name=hd.sr.CodedConcept("118565006", "SCT", "Volume"))
    assert volume.value == pytest.approx(job["results"]["volume_cc"], abs=5e-4)
    seg = hd.seg.segread(archived[ObjectKind.SEG].path)
    assert group.tracking_uid == seg.get_segment_description(1).tracking_uid
    answer = node.predictions().load(job["work_key"])
    assert answer is not None
    uids = [str(dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in study.files]
    options = {"ignore_spatial_locations": True, "assert_missing_frames_are_empty": True}
    assert np.array_equal(seg.get_pixels_by_source_instance(uids, **options)[..., 0] > 0, answer.prediction.mask)
