"""The segmentation as other makers' programs and a plain reader see it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from npc_rtnode.adapters.dicom.identity import IDENTITY, raw_bytes
from npc_rtnode.adapters.dicom.objects import DicomObjects
from npc_rtnode.adapters.dicom.series import DicomSeriesReader
from npc_rtnode.adapters.dicom.verify import segmentation_facts
from npc_rtnode.domain.gates import GateResult
from npc_rtnode.domain.geometry import Stack, stack_of
from npc_rtnode.domain.profiles import Form, ObjectOrder
from npc_rtnode.domain.records import ObjectKind, WrittenObject
from tests.builders.enhanced import make_enhanced
from tests.builders.mr_series import make_series
from tests.builders.outputs import GEOMETRIES, SHAPES, Mask, ball, plan_of, prediction_on, stack_for, tube
from tests.integration.test_rtstruct import CHARSETS
from tests.integration.test_verify import altered, holding

REPORT = ObjectOrder(ObjectKind.SR, Form(segmentation=True))
ORDERS = (ObjectOrder(ObjectKind.SEG), ObjectOrder(ObjectKind.RTSTRUCT), REPORT)
PLAN = plan_of(orders=ORDERS)
READER = DicomSeriesReader()


class Case:
    """A mask on a series, and SEG, RTSTRUCT and SR of it."""

    def __init__(self, stack: Stack, files: list[Path], mask: Mask) -> None:
        self.stack, self.files, self.prediction = stack, files, prediction_on(files, mask)
        self.objects = DicomObjects().write(stack, files, self.prediction, PLAN)

    def judged(self, *objects: WrittenObject) -> tuple[GateResult, ...]:
        """What the gates say of these, or of all."""
        return DicomObjects().judge(self.stack, self.files, self.prediction, PLAN, objects or self.objects)

    @property
    def seg(self) -> WrittenObject:
        """The segmentation."""
        return self.objects[0]


def case_of(folder: Path, shape: Callable[[Any], Mask] = tube, **wishes: Any) -> Case:
    """A shape on the series that the keywords describe."""
    geometry = {k: v for k, v in wishes.items() if k not in ("charset", "patient_name_bytes", "implicit", "attributes")}
    files, stack = make_series(folder, **wishes), stack_for(**geometry)
    return Case(stack, files, shape(stack.grid.shape))


def enhanced_case(folder: Path, parts: int) -> Case:
    """A tube on an Enhanced MR series whose frames are shuffled."""
    files = make_enhanced(folder, order=(3, 0, 5, 1, 7, 4, 2, 6), orientation="oblique", parts=parts)
    stack = stack_of(READER.headers(files))
    by_uid = {header.sop_uid: path for path in files for header in READER.headers([path])}
    return Case(stack, [by_uid[header.sop_uid] for header in stack.slices], ball(stack.grid.shape))


# --- what is written --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_every_voxel_comes_back_from_the_bytes(tmp_path: Path, geometry: str) -> None:
    """Ragged masks in every geometry pass every gate; no voxel differs and no frame is off its slice."""
    results = case_of(tmp_path, SHAPES["ragged"], **GEOMETRIES[geometry]).judged()
    assert not holding(results)
    values = {result.name: result.value for result in results}
    assert values["SEG_VOXELS"] == 0.0
    assert values["SEG_PLACE"] is not None
    assert values["SEG_PLACE"] <= 1e-6


@pytest.mark.parametrize("parts", [1, 2])
def test_frames_of_enhanced_mr_are_named_by_instance_and_frame(tmp_path: Path, parts: int) -> None:
    """Each frame of the SEG names the one frame of the source that it lies on, and each instance is listed once."""
    case = enhanced_case(tmp_path, parts)
    assert not holding(case.judged())
    facts = segmentation_facts(case.seg)
    assert all(reference[1] is not None for frame in facts.frames for reference in frame.referenced)
    assert len(facts.images) == parts


def test_highdicom_reads_the_mask_back(tmp_path: Path) -> None:
    """segread gives the mask, the tracking UID and what the segment is."""
    import highdicom as hd

    case = case_of(tmp_path)
    seg = hd.seg.segread(BytesIO(case.seg.encoded))
    uids = [header.sop_uid for header in case.stack.slices]
    voxels = seg.get_pixels_by_source_instance(
        uids, ignore_spatial_locations=True, assert_missing_frames_are_empty=True
    )
    assert np.array_equal(voxels[..., 0] > 0, case.prediction.mask)
    segment = seg.get_segment_description(1)
    assert (segment.tracking_uid, segment.tracking_id) == (PLAN.uid("tracking-GTVp"), "GTVp")
    assert segment.segmented_property_type.value == "372087000"
    assert segment.algorithm_type.value == "AUTOMATIC"


@pytest.mark.peer("segimage2itkimage")
@pytest.mark.parametrize("geometry", ["axial", "oblique_anisotropic", "sagittal_anisotropic"])
def test_dcmqi_reads_the_mask_back_in_its_place(tmp_path: Path, peer: Callable[[str], str], geometry: str) -> None:
    """dcmqi's NRRD, sampled by SimpleITK at our own voxel centres, is the mask exactly."""
    case = case_of(tmp_path / "mr", **GEOMETRIES[geometry])
    (tmp_path / "seg.dcm").write_bytes(case.seg.encoded)
    command = [peer("segimage2itkimage"), "--inputDICOM", tmp_path / "seg.dcm", "--outputDirectory", tmp_path]
    subprocess.run([*command, "--outputType", "nrrd", "--prefix", "out"], check=True, capture_output=True)
    image = sitk.ReadImage(str(next(tmp_path.glob("out*.nrrd"))))
    found = np.zeros_like(case.prediction.mask)
    for index in np.ndindex(found.shape):
        place = (case.stack.grid.affine @ np.array([*index, 1.0]))[:3]
        at = image.TransformPhysicalPointToIndex(place.tolist())
        if all(0 <= i < n for i, n in zip(at, image.GetSize(), strict=True)):
            found[index] = image.GetPixel(at) > 0
    assert np.array_equal(found, case.prediction.mask)


@pytest.mark.parametrize("charset", CHARSETS)
def test_patient_and_study_are_the_same_bytes_in_every_character_set(tmp_path: Path, charset: str) -> None:
    """Every identity element of the SEG is the bytes of the image, also GBK under a wrong declaration and IR 58."""
    declared, name = CHARSETS[charset]
    case = case_of(tmp_path, ball, charset=declared, patient_name_bytes=name)
    mr, ds = pydicom.dcmread(case.files[0]), pydicom.dcmread(BytesIO(case.seg.encoded))
    assert {k: raw_bytes(ds, Tag(k)) for k in IDENTITY} == {k: raw_bytes(mr, Tag(k)) for k in IDENTITY}
    assert name in case.seg.encoded


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    """Two runs of one work are one segmentation (highdicom draws a UID and reads the clock)."""
    assert case_of(tmp_path).objects == case_of(tmp_path).objects


def test_the_structure_set_names_the_segment_only_where_there_is_one(tmp_path: Path) -> None:
    """DefinitionSourceSequence is there with a SEG, absent without, and never dangles."""
    case = case_of(tmp_path)
    (roi,) = pydicom.dcmread(BytesIO(case.objects[1].encoded)).StructureSetROISequence
    (source,) = roi.DefinitionSourceSequence
    assert source.ReferencedSOPInstanceUID == case.seg.sop_uid
    (alone,) = DicomObjects().write(case.stack, case.files, case.prediction, plan_of(orders=ORDERS[1:2]))
    (roi,) = pydicom.dcmread(BytesIO(alone.encoded)).StructureSetROISequence
    assert "DefinitionSourceSequence" not in roi


@pytest.mark.peer("dcentvfy")
def test_images_and_all_objects_are_one_patient_and_study(tmp_path: Path, peer: Callable[[str], str]) -> None:
    """Every kind: dcentvfy resolves each reference but the study's own, which is no instance (PS3.3 C.8.8.5)."""
    case = case_of(tmp_path / "mr")
    orders = (*ORDERS, ObjectOrder(ObjectKind.SR_ENHANCED), ObjectOrder(ObjectKind.SR_TEXT))
    for item in DicomObjects().write(case.stack, case.files, case.prediction, plan_of(orders=orders)):
        (tmp_path / "mr" / item.kind.value).write_bytes(item.encoded)
    done = subprocess.run([peer("dcentvfy"), *sorted((tmp_path / "mr").iterdir())], capture_output=True, check=False)
    errors = [line for line in (done.stdout + done.stderr).decode().splitlines() if line.startswith("Error")]
    study = case.stack.slices[0].study_uid
    assert [line for line in errors if f"Missing SOPInstanceUID that was referenced - {study} " not in line] == []


# --- planted faults ---------------------------------------------------------------------------------------------------


def a_voxel_more(ds: Dataset) -> None:
    """One bit of the pixels turned over."""
    ds.PixelData = bytes([ds.PixelData[0] ^ 1]) + ds.PixelData[1:]


def frames_swapped(ds: Dataset) -> None:
    """The pixels of the first frame on the last one's plane: as many voxels, in other slices."""
    count = ds.NumberOfFrames * ds.Rows * ds.Columns
    bits = np.unpackbits(np.frombuffer(ds.PixelData, np.uint8), bitorder="little", count=count)
    planes = bits.reshape(-1, ds.Rows, ds.Columns)
    ds.PixelData = np.packbits(np.roll(planes, 1, axis=0), bitorder="little").tobytes()


def one_slice_up(ds: Dataset) -> None:
    """Every frame lies 3 mm from the slice that it names."""
    for group in ds.PerFrameFunctionalGroupsSequence:
        x, y, z = (float(value) for value in group.PlanePositionSequence[0].ImagePositionPatient)
        group.PlanePositionSequence[0].ImagePositionPatient = [x, y, z + 3.0]


def spacing_swapped(ds: Dataset) -> None:
    """Pixels of another size."""
    ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [0.9375, 0.5]


def one_source_twice(ds: Dataset) -> None:
    """Two frames name the same slice."""
    first, second = ds.PerFrameFunctionalGroupsSequence[:2]
    second.DerivationImageSequence = first.DerivationImageSequence


def unlisted(ds: Dataset) -> None:
    """An image of the series is missing from the list."""
    del ds.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0]


def other_series(ds: Dataset) -> None:
    """Drawn on another series, it says."""
    ds.ReferencedSeriesSequence[0].SeriesInstanceUID = "2.25.123456789"


def other_frame_of_reference(ds: Dataset) -> None:
    """Another patient position."""
    ds.FrameOfReferenceUID = "2.25.123456789"


def other_tracking(ds: Dataset) -> None:
    """Another lesion than the report's."""
    ds.SegmentSequence[0].TrackingUID = "2.25.123456789"


def drawn_by_hand(ds: Dataset) -> None:
    """A claim nobody made."""
    ds.SegmentSequence[0].SegmentAlgorithmType = "MANUAL"


def other_patient(ds: Dataset) -> None:
    """Another name."""
    ds.PatientName = "OTHER^PATIENT"


def other_age(ds: Dataset) -> None:
    """An age that the images do not state."""
    ds.PatientAge = "099Y"


def other_own_series(ds: Dataset) -> None:
    """In a series of its own that was not planned."""
    ds.SeriesInstanceUID = "2.25.123456789"


def unlabelled(ds: Dataset) -> None:
    """Without the notice."""
    ds.SeriesDescription = ds.SegmentSequence[0].SegmentDescription = "GTV"


def no_segment(ds: Dataset) -> None:
    """A segmentation of nothing."""
    del ds.SegmentSequence


SEG_FAULTS: list[tuple[Callable[[Dataset], None], str]] = [
    (a_voxel_more, "SEG_VOXELS"),
    (frames_swapped, "SEG_VOXELS"),
    (one_slice_up, "SEG_PLACE"),
    (spacing_swapped, "SEG_PLACE"),
    (one_source_twice, "SEG_REFERENCES"),
    (unlisted, "SEG_REFERENCES"),
    (other_series, "REFERENCED_SERIES"),
    (other_frame_of_reference, "SEG_FRAME_OF_REFERENCE"),
    (other_tracking, "SEG_TRACKING"),
    (drawn_by_hand, "SEG_FORM"),
    (other_patient, "IDENTITY_SEG"),
    (other_age, "OPTIONAL_SEG"),
    (other_own_series, "INSTANCE_SEG"),
    (unlabelled, "NOTICE_SEG"),
    (no_segment, "GATE_ERROR"),
]


def no_definition(ds: Dataset) -> None:
    """The structure set no longer says where its ROI comes from."""
    del ds.StructureSetROISequence[0].DefinitionSourceSequence


def other_segment(ds: Dataset) -> None:
    """The report's region is another segment."""
    group = ds.ContentSequence[-1].ContentSequence[0]
    named = next(item for item in group.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "121191")
    named.ReferencedSOPSequence[0].ReferencedSegmentNumber = 2


def untracked(ds: Dataset) -> None:
    """The report's lesion is another one than the segmentation's."""
    group = ds.ContentSequence[-1].ContentSequence[0]
    named = next(item for item in group.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "112040")
    named.UID = "2.25.123456789"


def no_segmentation_in_evidence(ds: Dataset) -> None:
    """What the report names, it must list."""
    (study,) = ds.CurrentRequestedProcedureEvidenceSequence
    study.ReferencedSeriesSequence = [
        series
        for series in study.ReferencedSeriesSequence
        if series.ReferencedSOPSequence[0].ReferencedSOPClassUID != "1.2.840.10008.5.1.4.1.1.66.4"
    ]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """One result without fault."""
    return case_of(tmp_path_factory.mktemp("mr"), ball)


@pytest.mark.parametrize(("fault", "gate"), SEG_FAULTS, ids=lambda value: getattr(value, "__name__", value))
def test_each_fault_in_the_segmentation_is_held(good: Case, fault: Callable[[Dataset], None], gate: str) -> None:
    """One planted fault, and the gate meant for it holds."""
    seg, structure, report = good.objects
    assert gate in holding(good.judged(altered(seg, fault), structure, report))


@pytest.mark.parametrize(
    ("position", "fault", "gate"),
    [
        (1, no_definition, "ROI_SOURCE"),
        (2, other_segment, "SR_SEGMENT"),
        (2, untracked, "SR_TRACKING"),
        (2, no_segmentation_in_evidence, "EVIDENCE"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_what_others_say_of_the_segmentation_is_held_to_it(
    good: Case, position: int, fault: Callable[[Dataset], None], gate: str
) -> None:
    """A structure set or report that names another segment, or none, holds."""
    objects = list(good.objects)
    objects[position] = altered(objects[position], fault)
    assert holding(good.judged(*objects)) == {gate}


def test_an_object_that_was_ordered_and_is_not_there_holds(good: Case) -> None:
    """What is missing, strange or doubled is counted, and nothing of the result leaves."""
    seg, structure, report = good.objects
    assert "OBJECTS" in holding(good.judged(structure, report))
    assert "OBJECTS" in holding(good.judged(seg, seg, structure, report))
    assert "OBJECTS" in holding(good.judged(seg, structure, replace(report, variant="")))


def test_altering_nothing_changes_nothing(good: Case) -> None:
    """The planting itself is no fault: otherwise the tests above would prove little."""
    assert not holding(good.judged(*(altered(item, lambda ds: None) for item in good.objects)))
