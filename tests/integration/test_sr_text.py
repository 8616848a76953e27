"""Enhanced and Basic Text SR: the same result for those who show no other report."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from npc_rtnode.adapters.dicom.identity import IDENTITY, raw_bytes
from npc_rtnode.adapters.dicom.kinds import KINDS
from npc_rtnode.adapters.dicom.objects import DicomObjects
from npc_rtnode.adapters.dicom.verify import report_facts
from npc_rtnode.domain.profiles import ObjectOrder
from npc_rtnode.domain.records import ObjectKind, WrittenObject
from tests.builders.mr_series import make_series
from tests.builders.outputs import plan_of, prediction_on, stack_for, tube
from tests.integration.test_rtstruct import CHARSETS
from tests.integration.test_verify import altered, holding, item_of

TEXT_KINDS = (ObjectKind.SR_ENHANCED, ObjectKind.SR_TEXT)
UNSURE = (0.02, 0.45, 0.43, 0.10)
SURE = (0.02, 0.11, 0.69, 0.18)
Stages = tuple[float, float, float, float]


class Case:
    """A tube, its structure set and one text report."""

    def __init__(self, folder: Path, kind: ObjectKind, stages: Stages = SURE, **wishes: Any) -> None:
        self.files, self.stack = make_series(folder, **wishes), stack_for()
        self.plan = plan_of(orders=(ObjectOrder(ObjectKind.RTSTRUCT), ObjectOrder(kind)))
        self.prediction = prediction_on(self.files, tube(self.stack.grid.shape), stages)
        self.structure, self.report = DicomObjects().write(self.stack, self.files, self.prediction, self.plan)

    def held(self, report: WrittenObject) -> set[str]:
        """Names of the gates that hold, with this report."""
        objects = (self.structure, report)
        return holding(DicomObjects().judge(self.stack, self.files, self.prediction, self.plan, objects))


@pytest.mark.parametrize("stages", [SURE, UNSURE])
@pytest.mark.parametrize("kind", TEXT_KINDS)
def test_the_text_says_what_the_ledger_has(tmp_path: Path, kind: ObjectKind, stages: Stages) -> None:
    """Read back: SOP Class, volume, four probabilities, the category or the set in doubt, and no gate holds."""
    case = Case(tmp_path, kind, stages)
    facts = report_facts(case.report)
    assert facts.instance.sop_class_uid == KINDS[kind].sop_class_uid
    assert facts.volume_cc == round(int(case.prediction.mask.sum()) * case.stack.grid.voxel_cc, 3)
    assert tuple(facts.probabilities.values()) == stages
    assert facts.category == (None if stages is UNSURE else "1228938002")
    assert ("uncertain: cT2 or cT3" in facts.texts) is (stages is UNSURE)
    assert not case.held(case.report)


@pytest.mark.parametrize("kind", TEXT_KINDS)
def test_only_value_types_that_the_class_allows(tmp_path: Path, kind: ObjectKind) -> None:
    """Basic Text SR holds no number (PS3.3 A.35.1.3); Enhanced SR holds five."""
    ds = pydicom.dcmread(BytesIO(Case(tmp_path, kind).report.encoded))
    types: list[str] = []
    waiting = list(ds.ContentSequence)
    while waiting:
        item = waiting.pop()
        types.append(item.ValueType)
        waiting += list(item.get("ContentSequence", []))
    assert types.count("NUM") == (5 if kind is ObjectKind.SR_ENHANCED else 0)
    assert set(types) <= {"CONTAINER", "TEXT", "CODE", "UIDREF", "COMPOSITE", "IMAGE", "NUM"}


@pytest.mark.peer("dsr2html", "dsrdump")
@pytest.mark.parametrize("kind", TEXT_KINDS)
def test_dcmtk_renders_it_from_top_to_bottom(tmp_path: Path, peer: Callable[[str], str], kind: ObjectKind) -> None:
    """The notice comes before the finding, the finding before the stage; HTML has the same words."""
    (tmp_path / "sr").write_bytes(Case(tmp_path / "mr", kind).report.encoded)
    dumped = subprocess.run([peer("dsrdump"), "+Pl", tmp_path / "sr"], capture_output=True, check=True).stdout.decode()
    order = ["SYNTHETIC PHANTOM WEIGHTS", "GTV Primary, Nasopharynx: AI cT3 p=.69", '"cT category")=(1228938002']
    assert dumped.index(order[0]) < dumped.index(order[1]) < dumped.rindex(order[2])
    html = subprocess.run([peer("dsr2html"), tmp_path / "sr"], capture_output=True, check=True).stdout.decode()
    for said in ("Imaging only", "Cranial-nerve palsy", "Diagnostic Imaging Report", "UNVERIFIED"):
        assert said in html


@pytest.mark.parametrize("kind", TEXT_KINDS)
@pytest.mark.parametrize("charset", CHARSETS)
def test_patient_and_study_are_the_same_bytes(tmp_path: Path, charset: str, kind: ObjectKind) -> None:
    """In every character set, in both classes."""
    declared, name = CHARSETS[charset]
    case = Case(tmp_path, kind, charset=declared, patient_name_bytes=name)
    mr, ds = pydicom.dcmread(case.files[0]), pydicom.dcmread(BytesIO(case.report.encoded))
    assert {k: raw_bytes(ds, Tag(k)) for k in IDENTITY} == {k: raw_bytes(mr, Tag(k)) for k in IDENTITY}


def other_volume(ds: Dataset) -> None:
    """Another volume than the structure set's."""
    item_of(ds, "TEXT", "118565006").TextValue = "1.500 cm3"


def other_probability(ds: Dataset) -> None:
    """Four numbers that no longer add up."""
    item_of(ds, "TEXT", "122157").TextValue = "0.5"


def other_structure(ds: Dataset) -> None:
    """Measured on another structure set."""
    item_of(ds, "COMPOSITE", "121112").ReferencedSOPSequence[0].ReferencedSOPInstanceUID = "2.25.123456789"


def other_image(ds: Dataset) -> None:
    """Shows another slice."""
    item_of(ds, "IMAGE", "121080").ReferencedSOPSequence[0].ReferencedSOPInstanceUID = "2.25.123456789"


def a_number_without_digits(ds: Dataset) -> None:
    """Text that is no number where one belongs."""
    item_of(ds, "TEXT", "122157").TextValue = "about half"


@pytest.mark.parametrize(
    ("fault", "gate"),
    [
        (other_volume, "SR_VOLUME"),
        (other_probability, "PROBABILITY_SUM"),
        (other_structure, "MEASURED_FROM"),
        (other_image, "KEY_IMAGE"),
        (a_number_without_digits, "GATE_ERROR"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_each_fault_is_held(tmp_path: Path, fault: Callable[[Dataset], None], gate: str) -> None:
    """One planted fault in a Basic Text SR, and the gate meant for it holds."""
    case = Case(tmp_path, ObjectKind.SR_TEXT)
    assert gate in case.held(altered(case.report, fault))
