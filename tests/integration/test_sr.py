"""The report as DCMTK, dicom3tools and highdicom's own reader see it."""

from __future__ import annotations

import json
import subprocess
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from npc_rtnode.adapters.dicom.identity import IDENTITY, raw_bytes
from npc_rtnode.adapters.dicom.objects import DicomObjects
from npc_rtnode.adapters.dicom.rtstruct import write_rtstruct
from npc_rtnode.adapters.dicom.sr import write_sr
from npc_rtnode.adapters.dicom.verify import report_facts
from npc_rtnode.domain.prediction import Prediction
from npc_rtnode.domain.profiles import orders_of
from npc_rtnode.domain.records import Finding, WrittenObject
from npc_rtnode.domain.report import ObjectPlan
from npc_rtnode.settings import Destination
from tests.builders.mr_series import make_series
from tests.builders.outputs import GEOMETRIES, bundle_statement, plan_of, prediction_of, stack_for, tube
from tests.integration.test_rtstruct import CHARSETS
from tests.proving import complaints

UNSURE = (0.02, 0.45, 0.43, 0.10)


def written(
    folder: Path,
    plan: ObjectPlan | None = None,
    stages: tuple[float, float, float, float] = (0.02, 0.11, 0.69, 0.18),
    **wishes: object,
) -> tuple[WrittenObject, WrittenObject]:
    """Structure set and report of a tube on the series that the keywords describe."""
    geometry = {k: v for k, v in wishes.items() if k not in ("charset", "patient_name_bytes", "implicit", "attributes")}
    files, stack = make_series(folder, **wishes), stack_for(**geometry)
    mask = tube(stack.grid.shape)
    prediction: Prediction = prediction_of(mask, stages)
    rtstruct = write_rtstruct(stack, files, mask, prediction, plan or plan_of())
    return rtstruct, write_sr(stack, files, mask, prediction, plan or plan_of(), rtstruct)


def dsrdump(program: str, file: Path) -> str:
    """DCMTK's rendering of the whole tree; it must neither fail nor complain."""
    done = subprocess.run([program, "+Pl", "+Pc", file], capture_output=True, check=False)
    assert done.returncode == 0
    assert b"E:" not in done.stderr
    assert b"W:" not in done.stderr
    return done.stdout.decode("latin-1")


@pytest.mark.peer("dciodvfy")
@pytest.mark.parametrize("geometry", ["axial", "oblique", "sagittal_anisotropic"])
@pytest.mark.parametrize("stages", [(0.02, 0.11, 0.69, 0.18), UNSURE])
def test_dciodvfy_finds_nothing(
    tmp_path: Path, peer: Callable[[str], str], geometry: str, stages: tuple[float, float, float, float]
) -> None:
    """No error and no warning, sure or in doubt."""
    _, report = written(tmp_path / "mr", stages=stages, **GEOMETRIES[geometry])
    (tmp_path / "sr").write_bytes(report.encoded)
    assert complaints(peer("dciodvfy"), tmp_path / "sr") == []


@pytest.mark.peer("dcentvfy")
def test_images_structure_set_and_report_are_one_patient_and_study(tmp_path: Path, peer: Callable[[str], str]) -> None:
    """dcentvfy finds no disagreement but the one that the standard makes: RT Referenced Study is no instance."""
    rtstruct, report = written(tmp_path / "mr")
    for item in (rtstruct, report):
        (tmp_path / "mr" / item.kind.value).write_bytes(item.encoded)
    done = subprocess.run([peer("dcentvfy"), *sorted((tmp_path / "mr").iterdir())], capture_output=True, check=False)
    errors = [line for line in (done.stdout + done.stderr).decode().splitlines() if line.startswith("Error")]
    study = stack_for().slices[0].study_uid  # PS3.3 C.8.8.5: the item names the study's UID, as TPSs want it
    assert [line for line in errors if f"Missing SOPInstanceUID that was referenced - {study} " not in line] == []


@pytest.mark.peer("dsrdump")
def test_dsrdump_reads_the_whole_report(tmp_path: Path, peer: Callable[[str], str]) -> None:
    """DCMTK prints the stage, the volume, where it comes from, the notices and what was not checked."""
    finding = Finding("SPACING_LIMIT", "9 mm is outside 3-7 mm", 9.0, 7.0)
    _, report = written(tmp_path / "mr", plan_of(findings=(finding,)))
    (tmp_path / "sr").write_bytes(report.encoded)
    text = dsrdump(peer("dsrdump"), tmp_path / "sr")
    for said in (
        '(399504009,SCT,"cT category")=(1228938002,SCT,"American Joint Committee on Cancer cT3")',
        '(370129005,SCT,"Measurement Method")=(897275008,SCT,"AJCC Cancer Staging Manual 8th edition")',
        '(118565006,SCT,"Volume")=',
        '<inferred from COMPOSITE:(121112,DCM,"Source of Measurement")=(RTStructureSetStorage',
        "SYNTHETIC PHANTOM WEIGHTS - NOT FOR CLINICAL USE",
        "NOT checked: histology; prior radiotherapy; metastasis",
        "Imaging only",
        "SPACING_LIMIT: 9 mm is outside 3-7 mm",
        "Indications for Procedure",
        "UNVERIFIED",
        "PRELIMINARY",
    ):
        assert said in text
    assert text.index("SYNTHETIC PHANTOM") < text.index("Imaging Measurements")


def test_highdicom_reads_the_values_back(tmp_path: Path) -> None:
    """Volume, probabilities, stage, site and tracking UID through highdicom's own parser."""
    import highdicom as hd

    stack = stack_for()
    _, report = written(tmp_path)
    document = hd.sr.srread(BytesIO(report.encoded))
    (group,) = document.content.get_image_measurement_groups()
    numbers = {}
    for item in group.get_measurements():
        category = [child for child in item[0].ContentSequence if child.name.value == "399504009"]
        numbers[category[0].value.value if category else item.name.value] = item.value
    assert numbers.pop("118565006") == pytest.approx(int(tube(stack.grid.shape).sum()) * stack.grid.voxel_cc, abs=5e-4)
    assert numbers == {"1228889001": 0.02, "1228929004": 0.11, "1228938002": 0.69, "1228944003": 0.18}
    (stage,) = group.get_qualitative_evaluations(name=hd.sr.CodedConcept("399504009", "SCT", "cT category"))
    assert stage.value.value == "1228938002"
    assert group.finding_sites[0].value.value == "71836000"
    assert group.finding_category.value == "130041"
    assert group.tracking_uid == plan_of().uid("tracking-GTVp")
    assert (document.VerificationFlag, document.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")


@pytest.mark.peer("tid1500reader")
@pytest.mark.parametrize("segmentation", [False, True])
def test_dcmqi_reads_the_values_back(tmp_path: Path, peer: Callable[[str], str], segmentation: bool) -> None:
    """dcmqi's own TID 1500 reader: volume, four probabilities, stage, site, tracking UID, and the segment if any."""
    stack, mask = stack_for(), tube(stack_for().grid.shape)
    orders = orders_of(archive("SEG", "RTSTRUCT", "SR") if segmentation else archive("RTSTRUCT", "SR"), "GTVp^AI")
    files = make_series(tmp_path / "mr")
    *_, report = DicomObjects().write(stack, files, prediction_of(mask), plan_of(orders=orders))
    (tmp_path / "sr.dcm").write_bytes(report.encoded)
    command = [peer("tid1500reader"), "--inputDICOM", tmp_path / "sr.dcm", "--outputMetadata", tmp_path / "sr.json"]
    subprocess.run(command, check=True, capture_output=True)
    (group,) = json.loads((tmp_path / "sr.json").read_text("utf-8"))["Measurements"]
    volume, *shares = group["measurementItems"]
    assert (volume["units"]["CodeValue"], float(volume["value"])) == ("cm3", report_facts(report).volume_cc)
    found = {s["measurementModifiers"][0]["modifierValue"]["CodeValue"]: float(s["value"]) for s in shares}
    assert found == {"1228889001": 0.02, "1228929004": 0.11, "1228938002": 0.69, "1228944003": 0.18}
    said = {q["conceptCode"]["CodeValue"]: q["conceptValue"] for q in group["qualitativeEvaluations"]}
    assert said["399504009"]["CodeValue"] == "1228938002"
    assert group["TrackingUniqueIdentifier"] == plan_of().uid("tracking-GTVp")
    assert group["FindingSite"]["CodeValue"] == "71836000"
    assert group.get("ReferencedSegment") == (1 if segmentation else None)


def archive(*kinds: str) -> Destination:
    """An archive that wants these."""
    return Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=104, objects=kinds)


@pytest.mark.parametrize(
    ("said", "value", "meaning"),
    [
        ("UICC/AJCC 8th edition (T category unchanged in the 9th)", "897275008", "8th edition"),
        ("AJCC Version 9 (T category as in the 8th edition)", "1269566009", "9th version"),
        ("AJCC 7th edition", None, "AJCC 7th edition"),
    ],
)
def test_the_edition_stands_at_every_category(tmp_path: Path, said: str, value: str | None, meaning: str) -> None:
    """Coded where a code is known, else in the bundle's words; at the stage, at each probability, and in doubt."""
    for stages in ((0.02, 0.11, 0.69, 0.18), UNSURE):
        _, report = written(tmp_path, plan_of(bundle=bundle_statement(staging_edition=said)), stages)
        categories = [i for i in tree(report) if i.ConceptNameCodeSequence[0].CodeValue == "399504009"]
        assert len(categories) == 5
        for category in categories:
            edition = category.ContentSequence[0]
            coded = edition.ValueType == "CODE"
            assert (edition.ConceptCodeSequence[0].CodeValue if coded else None) == value
            assert meaning in (edition.ConceptCodeSequence[0].CodeMeaning if coded else edition.TextValue)


def test_imaging_alone_is_said_in_code_and_in_words(tmp_path: Path) -> None:
    """The stage has its finding method; sentences name what no image shows and what is never answered."""
    _, report = written(tmp_path)
    (stage,) = [
        i for i in tree(report) if i.RelationshipType == "CONTAINS" and i.ValueType == "CODE" and is_category(i)
    ]
    method = {i.ConceptNameCodeSequence[0].CodeValue: i.ConceptCodeSequence[0].CodeValue for i in stage.ContentSequence}
    assert method["418775008"] == "113091000"
    text = " ".join(report_facts(report).texts)
    for words in ("Imaging only", "Cranial-nerve palsy", "T1 to T4 only", "NOT checked: histology"):
        assert words in text


def is_category(item: Dataset) -> bool:
    """Whether it is a cT category."""
    return bool(item.ConceptNameCodeSequence[0].CodeValue == "399504009")


def tree(report: WrittenObject) -> list[Dataset]:
    """Every content item."""
    waiting, found = list(pydicom.dcmread(BytesIO(report.encoded)).ContentSequence), []
    while waiting:
        found.append(waiting.pop(0))
        waiting += list(found[-1].get("ContentSequence", []))
    return found


@pytest.mark.parametrize("calibrated", [True, False])
def test_calibration_is_said_as_the_bundle_says_it(tmp_path: Path, calibrated: bool) -> None:
    """A bundle whose probabilities were never calibrated does not pass for one whose were."""
    _, report = written(tmp_path, plan_of(bundle=bundle_statement(calibrated=calibrated)))
    text = " ".join(report_facts(report).texts)
    assert ("are calibrated" in text) is calibrated
    assert ("are not calibrated" in text) is not calibrated


def test_in_doubt_no_stage_is_coded(tmp_path: Path) -> None:
    """A weak top class is a set in words and no cT category code of its own."""
    _, report = written(tmp_path, stages=UNSURE)
    facts = report_facts(report)
    assert facts.category is None
    assert "uncertain: cT2 or cT3" in facts.texts
    assert facts.probabilities == {"T1": 0.02, "T2": 0.45, "T3": 0.43, "T4": 0.10}


def test_a_clinical_bundle_carries_no_synthetic_notice(tmp_path: Path) -> None:
    """The notice is a statement about the weights and not a habit."""
    _, report = written(tmp_path, plan_of(bundle=bundle_statement(data="clinical"), phantom=False))
    assert not any("SYNTHETIC" in text for text in report_facts(report).texts)


@pytest.mark.parametrize("charset", CHARSETS)
def test_patient_and_study_are_the_same_bytes_in_every_character_set(tmp_path: Path, charset: str) -> None:
    """Every identity element equals the image's bytes; highdicom never saw the name, so it raised nothing."""
    declared, name = CHARSETS[charset]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rtstruct, report = written(tmp_path, charset=declared, patient_name_bytes=name)
    mr = pydicom.dcmread(min(tmp_path.iterdir()))
    for item in (rtstruct, report):
        ds = pydicom.dcmread(BytesIO(item.encoded))
        assert {k: raw_bytes(ds, Tag(k)) for k in IDENTITY} == {k: raw_bytes(mr, Tag(k)) for k in IDENTITY}
        assert name in item.encoded


@pytest.mark.peer("dsrdump", "dciodvfy")
@pytest.mark.parametrize("charset", ["utf8", "gb18030", "iso_2022_ir_58"])
def test_chinese_names_are_read_by_others(tmp_path: Path, peer: Callable[[str], str], charset: str) -> None:
    """dciodvfy accepts both objects and dsrdump prints the name's own bytes."""
    declared, name = CHARSETS[charset]
    rtstruct, report = written(tmp_path / "mr", charset=declared, patient_name_bytes=name)
    for item in (rtstruct, report):
        (tmp_path / item.kind.value).write_bytes(item.encoded)
        assert complaints(peer("dciodvfy"), tmp_path / item.kind.value) == []
    done = subprocess.run([peer("dsrdump"), "-q", tmp_path / "SR"], capture_output=True, check=True)
    assert name.split(b"=")[0] in done.stdout


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    """Two runs of one work are one report, whatever the clock says (highdicom writes its own time)."""
    assert written(tmp_path) == written(tmp_path)


def test_evidence_is_every_image_and_the_structure_set(tmp_path: Path) -> None:
    """CurrentRequestedProcedureEvidenceSequence lists them all; the library shows one key slice."""
    rtstruct, report = written(tmp_path)
    wanted = {header.sop_uid for header in stack_for().slices} | {rtstruct.sop_uid}
    assert sorted(report_facts(report).evidence) == sorted(wanted)
    ds = pydicom.dcmread(BytesIO(report.encoded))
    library = next(item for item in ds.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "111028")
    images = [item for item in library.ContentSequence[0].ContentSequence if item.ValueType == "IMAGE"]
    assert len(images) == 1
