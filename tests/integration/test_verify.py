"""Faults planted in finished bytes, one at a time: the second reader holds every one of them."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from npc_rtnode.adapters.dicom.kinds import KINDS
from npc_rtnode.adapters.dicom.objects import WRITERS, DicomObjects
from npc_rtnode.adapters.dicom.rtstruct import decimal_strings, write_rtstruct
from npc_rtnode.adapters.dicom.series import DicomSeriesReader
from npc_rtnode.adapters.dicom.sr import write_sr
from npc_rtnode.adapters.dicom.verify import JUDGES, verify
from npc_rtnode.domain.gates import GateResult, Outcome
from npc_rtnode.domain.geometry import Stack, stack_of
from npc_rtnode.domain.prediction import Prediction
from npc_rtnode.domain.profiles import PROFILES, Form, ObjectOrder
from npc_rtnode.domain.records import ObjectKind, WrittenObject
from tests.builders.mr_series import make_series
from tests.builders.outputs import GEOMETRIES, SHAPES, Mask, ball, plan_of, prediction_of, prediction_on, stack_for


@dataclass(frozen=True)
class Result:
    """One result's input and objects, as the pipeline holds them."""

    stack: Stack
    files: list[Path]
    mask: Mask
    prediction: Prediction
    rtstruct: WrittenObject
    sr: WrittenObject

    def judged(self) -> tuple[GateResult, ...]:
        """What the gates say."""
        return verify(self.stack, self.files, self.mask, self.prediction, plan_of(), self.rtstruct, self.sr)


def result_of(folder: Path, shape: Callable[[Any], Mask] = ball, **wishes: Any) -> Result:
    """Both objects of a shape on a new series."""
    files, stack = make_series(folder, **wishes), stack_for(**wishes)
    mask = shape(stack.grid.shape)
    prediction = prediction_of(mask)
    rtstruct = write_rtstruct(stack, files, mask, prediction, plan_of())
    sr = write_sr(stack, files, mask, prediction, plan_of(), rtstruct)
    return Result(stack, files, mask, prediction, rtstruct, sr)


def holding(results: tuple[GateResult, ...]) -> set[str]:
    """Names of the gates that hold."""
    return {result.name for result in results if result.outcome is Outcome.HOLD}


def altered(written: WrittenObject, fault: Callable[[Dataset], None]) -> WrittenObject:
    """The object's bytes with one thing changed in them."""
    ds = pydicom.dcmread(BytesIO(written.encoded))
    fault(ds)
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return replace(written, encoded=buffer.getvalue())


def contours(ds: Dataset) -> Any:
    """The contour items."""
    return ds.ROIContourSequence[0].ContourSequence


def points_changed(ds: Dataset, change: Callable[[Any], Any]) -> None:
    """Every contour's points through a function."""
    for item in contours(ds):
        item.ContourData = decimal_strings(change(np.array(item.ContourData, dtype=float).reshape(-1, 3)))


def half_a_pixel_off(ds: Dataset) -> None:
    """What rt-utils does: everything half a pixel (0.46875 mm) to one side."""
    points_changed(ds, lambda points: np.add(points, [0.46875, 0.0, 0.0]))


def z_flipped(ds: Dataset) -> None:
    """The tumour mirrored along the slices, with matching references: the planes are right, the shape is not."""
    images = ds.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    order = [str(item.ReferencedSOPInstanceUID) for item in images.ContourImageSequence]
    low, high = 33.125, 33.125 + 3.0 * (len(order) - 1)
    points_changed(ds, lambda points: points * [1, 1, -1] + [0, 0, low + high])
    for item in contours(ds):
        image = item.ContourImageSequence[0]
        image.ReferencedSOPInstanceUID = order[-1 - order.index(image.ReferencedSOPInstanceUID)]


def z_flipped_alone(ds: Dataset) -> None:
    """Only the references mirrored: contours lie off the planes they name."""
    uids = [item.ContourImageSequence[0].ReferencedSOPInstanceUID for item in contours(ds)]
    for item, uid in zip(contours(ds), reversed(uids), strict=True):
        item.ContourImageSequence[0].ReferencedSOPInstanceUID = uid


def contour_dropped(ds: Dataset) -> None:
    """One slice less."""
    del contours(ds)[0]


def wrong_image(ds: Dataset) -> None:
    """A contour on an image that is not of this series."""
    contours(ds)[0].ContourImageSequence[0].ReferencedSOPInstanceUID = "2.25.123456789"


def no_image(ds: Dataset) -> None:
    """A contour without its image."""
    del contours(ds)[0].ContourImageSequence


def other_patient(ds: Dataset) -> None:
    """The name as rt-utils would spoil it."""
    tag = Tag("PatientName")
    ds[tag] = RawDataElement(tag, "PN", 4, b"?^??", 0, True, True)


def other_charset(ds: Dataset) -> None:
    """The same bytes declared to be another alphabet."""
    ds.SpecificCharacterSet = "ISO_IR 192"


def other_frame(ds: Dataset) -> None:
    """The ROI in another frame of reference than the images."""
    ds.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = "2.25.123456789"


def approved(ds: Dataset) -> None:
    """A claim nobody made."""
    ds.ApprovalStatus = "APPROVED"


def long_decimal(ds: Dataset) -> None:
    """A DS value of 17 characters, as rt-utils writes them (D7)."""
    item = contours(ds)[0]
    text = "\\".join(["12.34567890123456", *map(str, list(item.ContourData)[1:])]).encode()
    text += b" " * (len(text) % 2)
    item[Tag("ContourData")] = RawDataElement(Tag("ContourData"), "DS", len(text), text, 0, True, True)


def miscounted(ds: Dataset) -> None:
    """One point more than there is."""
    contours(ds)[0].NumberOfContourPoints += 1


def unlabelled(ds: Dataset) -> None:
    """Synthetic weights that do not say so."""
    ds.StructureSetName = ds.StructureSetDescription = ds.SeriesDescription = "AI"


def no_roi(ds: Dataset) -> None:
    """Nothing to judge."""
    ds.StructureSetROISequence = []


def other_series(ds: Dataset) -> None:
    """The right images, said to be of another series."""
    referenced_series(ds)[0].SeriesInstanceUID = "2.25.123456789"


def referenced_studies(ds: Dataset) -> Any:
    """RTReferencedStudySequence."""
    return ds.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence


def referenced_series(ds: Dataset) -> Any:
    """RTReferencedSeriesSequence."""
    return referenced_studies(ds)[0].RTReferencedSeriesSequence


def second_region(ds: Dataset) -> None:
    """A node volume beside the primary, with contours that nobody predicted."""
    roi, outline, observation = (
        deepcopy(sequence[0])
        for sequence in (ds.StructureSetROISequence, ds.ROIContourSequence, ds.RTROIObservationsSequence)
    )
    roi.ROIName = "GTVn"
    roi.ROINumber = outline.ReferencedROINumber = observation.ReferencedROINumber = 2
    ds.StructureSetROISequence.append(roi)
    ds.ROIContourSequence.append(outline)
    ds.RTROIObservationsSequence.append(observation)


def twice(sequence: Any) -> None:
    """A copy of the first item behind it."""
    sequence.append(deepcopy(sequence[0]))


def second_roi(ds: Dataset) -> None:
    """Two regions named, one outlined."""
    twice(ds.StructureSetROISequence)


def second_outline(ds: Dataset) -> None:
    """Two sets of contours for one region."""
    twice(ds.ROIContourSequence)


def second_observation(ds: Dataset) -> None:
    """Two interpretations of one region."""
    twice(ds.RTROIObservationsSequence)


def second_frame(ds: Dataset) -> None:
    """The frame of reference twice."""
    twice(ds.ReferencedFrameOfReferenceSequence)


def second_study(ds: Dataset) -> None:
    """The study twice."""
    twice(referenced_studies(ds))


def second_series(ds: Dataset) -> None:
    """Another series among those referenced."""
    twice(referenced_series(ds))
    referenced_series(ds)[1].SeriesInstanceUID = "2.25.123456789"


def other_name(ds: Dataset) -> None:
    """The tumour called an organ at risk."""
    ds.StructureSetROISequence[0].ROIName = "Brainstem"


def other_class(ds: Dataset) -> None:
    """An object that says it is a plan or an image."""
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.5"


def other_class_in_the_data_set(ds: Dataset) -> None:
    """File meta and data set of two minds."""
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.481.5"


def other_own_series(ds: Dataset) -> None:
    """The object in a series that was not planned for it."""
    ds.SeriesInstanceUID = "2.25.123456789"


def other_age(ds: Dataset) -> None:
    """An age that the images do not state."""
    ds.PatientAge = "099Y"


def other_institution(ds: Dataset) -> None:
    """An institution that the images do not state."""
    ds.InstitutionName = "Elsewhere"


RTSTRUCT_FAULTS: list[tuple[Callable[[Dataset], None], str]] = [
    (half_a_pixel_off, "ROUND_TRIP_DICE"),
    (z_flipped, "ROUND_TRIP_DICE"),
    (z_flipped_alone, "OFF_PLANE"),
    (contour_dropped, "ROUND_TRIP_DICE"),
    (wrong_image, "REFERENCES"),
    (no_image, "REFERENCES"),
    (other_patient, "IDENTITY_RTSTRUCT"),
    (other_charset, "IDENTITY_RTSTRUCT"),
    (other_frame, "FRAME_OF_REFERENCE"),
    (approved, "APPROVAL"),
    (long_decimal, "DECIMAL_STRINGS"),
    (miscounted, "CONTOUR_FORM"),
    (unlabelled, "NOTICE_RTSTRUCT"),
    (no_roi, "GATE_ERROR"),
    (other_series, "REFERENCED_SERIES"),
    (second_region, "ONE_ITEM"),
    (second_roi, "ONE_ITEM"),
    (second_outline, "ONE_ITEM"),
    (second_observation, "ONE_ITEM"),
    (second_frame, "ONE_ITEM"),
    (second_study, "ONE_ITEM"),
    (second_series, "ONE_ITEM"),
    (other_name, "ROI_NAME"),
    (other_class, "INSTANCE_RTSTRUCT"),
    (other_class_in_the_data_set, "INSTANCE_RTSTRUCT"),
    (other_own_series, "INSTANCE_RTSTRUCT"),
    (other_age, "OPTIONAL_RTSTRUCT"),
    (other_institution, "OPTIONAL_RTSTRUCT"),
]


def item_of(ds: Dataset, value_type: str, code: str) -> Any:
    """The first content item of that type and name, anywhere in the tree."""
    stack = list(ds.ContentSequence)
    while stack:
        item = stack.pop(0)
        if item.ValueType == value_type and item.ConceptNameCodeSequence[0].CodeValue == code:
            return item
        stack += list(item.get("ContentSequence", []))
    raise LookupError(code)


def other_volume(ds: Dataset) -> None:
    """The report measures something else than the structure set."""
    item_of(ds, "NUM", "118565006").MeasuredValueSequence[0].NumericValue = "1.5"


def other_probability(ds: Dataset) -> None:
    """Four numbers that no longer add up."""
    item_of(ds, "NUM", "122157").MeasuredValueSequence[0].NumericValue = "0.5"


def other_stage(ds: Dataset) -> None:
    """cT1 coded where the prediction says cT3."""
    group = item_of(ds, "CONTAINER", "125007")
    stage = next(i for i in group.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "399504009")
    stage.ConceptCodeSequence[0].CodeValue = "1228889001"


def verified(ds: Dataset) -> None:
    """A claim nobody made."""
    ds.VerificationFlag = "VERIFIED"


def other_structure(ds: Dataset) -> None:
    """The volume measured from some other structure set."""
    item_of(ds, "COMPOSITE", "121112").ReferencedSOPSequence[0].ReferencedSOPInstanceUID = "2.25.123456789"


def no_tree(ds: Dataset) -> None:
    """A report without content."""
    del ds.ContentSequence


ALONE = {"REFERENCED_SERIES", "ONE_ITEM", "ROI_NAME", "INSTANCE_RTSTRUCT", "OPTIONAL_RTSTRUCT"}
"""Gates whose faults no other gate sees: without them these objects would leave."""

SR_FAULTS: list[tuple[Callable[[Dataset], None], str]] = [
    (other_volume, "SR_VOLUME"),
    (other_probability, "PROBABILITY_SUM"),
    (other_stage, "SR_STAGE"),
    (verified, "VERIFICATION"),
    (other_structure, "MEASURED_FROM"),
    (other_patient, "IDENTITY_SR"),
    (no_tree, "GATE_ERROR"),
    (other_class, "INSTANCE_SR"),
    (other_own_series, "INSTANCE_SR"),
    (other_age, "OPTIONAL_SR"),
    (other_institution, "OPTIONAL_SR"),
]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """One result without fault."""
    return result_of(tmp_path_factory.mktemp("mr"))


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_what_the_writers_write_is_released(tmp_path: Path, geometry: str) -> None:
    """Ragged masks in every geometry pass every gate with Dice 1.0, on the plane to 0.001 mm."""
    results = result_of(tmp_path, SHAPES["ragged"], **GEOMETRIES[geometry]).judged()
    assert not holding(results)
    values = {result.name: result.value for result in results}
    assert values["ROUND_TRIP_DICE"] == 1.0
    assert values["OFF_PLANE"] is not None
    assert values["OFF_PLANE"] <= 0.001


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_two_decimals_are_exact_enough(tmp_path: Path, geometry: str) -> None:
    """A profile that writes coordinates to 0.01 mm is released too: Dice 1.0, within 0.01 mm of the plane."""
    wishes = GEOMETRIES[geometry]
    files, stack = make_series(tmp_path, **wishes), stack_for(**wishes)
    mask = SHAPES["ragged"](stack.grid.shape)
    prediction = prediction_on(files, mask)
    plan = plan_of(orders=(ObjectOrder(ObjectKind.RTSTRUCT, Form(decimals=PROFILES["monaco"].decimals)),))
    results = DicomObjects().judge(stack, files, prediction, plan, DicomObjects().write(stack, files, prediction, plan))
    assert not holding(results)
    values = {result.name: result.value for result in results}
    assert values["ROUND_TRIP_DICE"] == 1.0
    assert all(result.message.startswith("RTSTRUCT/") for result in results if result.name == "OFF_PLANE")


@pytest.mark.parametrize(("fault", "gate"), RTSTRUCT_FAULTS, ids=lambda value: getattr(value, "__name__", value))
def test_each_fault_in_the_structure_set_is_held(good: Result, fault: Callable[[Dataset], None], gate: str) -> None:
    """One planted fault, and the gate meant for it holds."""
    held = holding(replace(good, rtstruct=altered(good.rtstruct, fault)).judged())
    assert gate in held
    assert held == {gate} or gate not in ALONE


def test_every_kind_can_be_named_written_and_judged() -> None:
    """The three tables have the same rows: no kind is chosen in the settings that nothing writes or nobody judges."""
    assert set(ObjectKind) == set(KINDS) == set(WRITERS) == set(JUDGES)


@pytest.mark.parametrize(("fault", "gate"), SR_FAULTS, ids=lambda value: getattr(value, "__name__", value))
def test_each_fault_in_the_report_is_held(good: Result, fault: Callable[[Dataset], None], gate: str) -> None:
    """One planted fault, and the gate meant for it holds."""
    assert gate in holding(replace(good, sr=altered(good.sr, fault)).judged())


def test_altering_nothing_changes_nothing(good: Result) -> None:
    """The planting itself is no fault: otherwise the tests above would prove little."""
    same = replace(good, rtstruct=altered(good.rtstruct, lambda ds: None), sr=altered(good.sr, lambda ds: None))
    assert not holding(same.judged())


@pytest.mark.parametrize("kind", ["rtstruct", "sr"])
def test_truncated_bytes_are_held(good: Result, kind: str) -> None:
    """Half an object is a GATE_ERROR and no crash."""
    item: WrittenObject = getattr(good, kind)
    broken = replace(good, **{kind: replace(item, encoded=item.encoded[: len(item.encoded) // 3])})
    assert "GATE_ERROR" in holding(broken.judged())


def test_another_instance_than_the_planned_one_is_held(good: Result) -> None:
    """Objects that agree with one another, under UIDs that the work key does not give, are not this result's."""
    other = plan_of(work_key="0" * 64)
    rtstruct = write_rtstruct(good.stack, good.files, good.mask, good.prediction, other)
    sr = write_sr(good.stack, good.files, good.mask, good.prediction, other, rtstruct)
    assert holding(replace(good, rtstruct=rtstruct, sr=sr).judged()) == {
        "INSTANCE_RTSTRUCT",
        "INSTANCE_SR",
        "SR_TRACKING",
    }


def test_what_the_images_say_of_age_and_institution_may_be_said(tmp_path: Path) -> None:
    """Age and institution copied from the images pass; the same objects against images that say otherwise hold."""
    result = result_of(tmp_path)
    for path in result.files:
        ds = pydicom.dcmread(path)
        ds.PatientAge, ds.InstitutionName = "050Y", "Phantom hospital"
        ds.save_as(path)
    rtstruct = write_rtstruct(result.stack, result.files, result.mask, result.prediction, plan_of())
    sr = write_sr(result.stack, result.files, result.mask, result.prediction, plan_of(), rtstruct)
    assert pydicom.dcmread(BytesIO(rtstruct.encoded)).PatientAge == "050Y"
    assert not holding(replace(result, rtstruct=rtstruct, sr=sr).judged())
    for path in result.files:
        ds = pydicom.dcmread(path)
        ds.PatientAge = "051Y"
        ds.save_as(path)
    assert holding(replace(result, rtstruct=rtstruct, sr=sr).judged()) == {"OPTIONAL_RTSTRUCT", "OPTIONAL_SR"}


def test_the_writers_geometry_is_checked_against_the_files(tmp_path: Path) -> None:
    """A stack whose spacing was swapped on the way in is caught: the gate rereads the images' own headers."""
    wishes: dict[str, Any] = {"spacing_mm": (0.9375, 0.46875)}
    files, stack = make_series(tmp_path, **wishes), stack_for(**wishes)
    swapped = replace(stack, slices=tuple(replace(header, spacing_mm=(0.46875, 0.9375)) for header in stack.slices))
    mask = ball(stack.grid.shape)
    prediction = prediction_of(mask)
    rtstruct = write_rtstruct(swapped, files, mask, prediction, plan_of())
    sr = write_sr(swapped, files, mask, prediction, plan_of(), rtstruct)
    assert "ROUND_TRIP_DICE" in holding(Result(swapped, files, mask, prediction, rtstruct, sr).judged())


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_builders_stack_is_the_series_readers(tmp_path: Path, geometry: str) -> None:
    """What these tests take for the stack is what the node reads from the same files, slice for slice."""
    wishes = GEOMETRIES[geometry]
    files = make_series(tmp_path, **wishes)
    read, built = stack_of(DicomSeriesReader().headers(files)), stack_for(**wishes)
    assert [h.sop_uid for h in read.slices] == [h.sop_uid for h in built.slices]
    assert read.grid.shape == built.grid.shape
    assert read.grid.affine == pytest.approx(built.grid.affine, abs=1e-5)
    assert [h.position for h in read.slices] == [h.position for h in built.slices]
