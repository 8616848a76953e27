"""The structure set as other makers' programs and a plain reader see it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from scipy import ndimage

from bench.readers import own_raster, plain_rt_utils, plastimatch_mask
from npc_rtnode.adapters.dicom.identity import raw_bytes
from npc_rtnode.adapters.dicom.rtstruct import decimal_strings, write_rtstruct
from npc_rtnode.adapters.dicom.verify import decimal_values, structure_facts
from npc_rtnode.domain.rasterising import dice
from npc_rtnode.domain.records import ObjectKind, SentBefore
from npc_rtnode.errors import GeometryRefused, InputFault, OutputFault
from tests.builders.mr_series import make_series
from tests.builders.outputs import GEOMETRIES, SHAPES, ball, plan_of, prediction_of, ragged, stack_for, tube
from tests.proving import complaints

CHARSETS: dict[str, tuple[str | Sequence[str] | None, bytes]] = {
    "none": (None, b"YAMADA^TARO"),
    "latin1": ("ISO_IR 100", "Müller^Jörg".encode("latin-1")),
    "utf8": ("ISO_IR 192", "张^三丰".encode()),
    "gb18030": ("GB18030", "张^三丰".encode("gb18030")),
    "gbk": ("GBK", "张^三丰".encode("gbk")),
    "gbk_as_latin1": ("ISO_IR 100", "张^三丰".encode("gbk")),
    "iso_2022_ir_58": (["", "ISO 2022 IR 58"], b"Zhang^San=\x1b$)A\xd5\xc5^\x1b$)A\xc8\xfd\xb7\xe1"),
}


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_every_shape_comes_back_exactly_from_the_bytes(tmp_path: Path, geometry: str) -> None:
    """Five shapes, each geometry: own rasteriser on the written bytes has Dice 1.0, and no DS is over 16 characters."""
    wishes = GEOMETRIES[geometry]
    files, stack = make_series(tmp_path, **wishes), stack_for(**wishes)
    for shape in SHAPES.values():
        mask = shape(stack.grid.shape)
        written = write_rtstruct(stack, files, mask, prediction_of(mask), plan_of())
        assert dice(own_raster(written, stack).mask, mask) == 1.0
        assert structure_facts(written).longest_ds <= 16


@pytest.mark.peer("plastimatch")
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_plastimatch_sees_the_same_mask(tmp_path: Path, peer: Callable[[str], str], geometry: str) -> None:
    """Five shapes, each geometry: plastimatch's rasteriser agrees to Dice 0.9999 or better."""
    wishes = GEOMETRIES[geometry]
    files, stack = make_series(tmp_path / "mr", **wishes), stack_for(**wishes)
    for name, shape in SHAPES.items():
        mask = shape(stack.grid.shape)
        file = tmp_path / f"{name}.dcm"
        file.write_bytes(write_rtstruct(stack, files, mask, prediction_of(mask), plan_of()).encoded)
        seen = plastimatch_mask(peer("plastimatch"), file, tmp_path / "mr", tmp_path / name, stack)
        assert dice(seen, mask) >= 0.9999, name


@pytest.mark.peer("dciodvfy")
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_dciodvfy_finds_nothing(tmp_path: Path, peer: Callable[[str], str], geometry: str) -> None:
    """No error and no warning in any geometry."""
    wishes = GEOMETRIES[geometry]
    files, stack = make_series(tmp_path / "mr", **wishes), stack_for(**wishes)
    mask = tube(stack.grid.shape)
    (tmp_path / "rs").write_bytes(write_rtstruct(stack, files, mask, prediction_of(mask), plan_of()).encoded)
    assert complaints(peer("dciodvfy"), tmp_path / "rs") == []


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("charset", CHARSETS)
def test_names_are_the_same_bytes_in_every_character_set(tmp_path: Path, charset: str, implicit: bool) -> None:
    """PatientName, PatientID and the character set itself equal the image's bytes, from either VR encoding."""
    declared, name = CHARSETS[charset]
    files = make_series(tmp_path, charset=declared, patient_name_bytes=name, implicit=implicit)
    stack = stack_for()
    mask = ball(stack.grid.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        written = write_rtstruct(stack, files, mask, prediction_of(mask), plan_of())
    mr, rs = pydicom.dcmread(files[0]), pydicom.dcmread(BytesIO(written.encoded))
    for keyword in ("PatientName", "PatientID", "SpecificCharacterSet"):
        tag = pydicom.tag.Tag(keyword)
        assert raw_bytes(rs, tag) == raw_bytes(mr, tag)
    assert name in written.encoded


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    """Two runs of one work are one object; another work key gives other UIDs."""
    files, stack = make_series(tmp_path), stack_for()
    mask = tube(stack.grid.shape)
    first = write_rtstruct(stack, files, mask, prediction_of(mask), plan_of())
    assert write_rtstruct(stack, files, mask, prediction_of(mask), plan_of()) == first
    assert write_rtstruct(stack, files, mask, prediction_of(mask), plan_of(work_key="e" * 64)).sop_uid != first.sop_uid


def test_a_later_structure_set_names_the_one_that_was_sent_before(tmp_path: Path) -> None:
    """PredecessorStructureSetSequence has its UID; a first result has no such sequence."""
    files, stack = make_series(tmp_path), stack_for()
    mask = ball(stack.grid.shape)
    first = write_rtstruct(stack, files, mask, prediction_of(mask), plan_of())
    sent = SentBefore(ObjectKind.RTSTRUCT, "", "f" * 64, first.sop_uid)
    later = write_rtstruct(stack, files, mask, prediction_of(mask), plan_of(work_key="e" * 64, supersedes=(sent,)))
    (named,) = pydicom.dcmread(BytesIO(later.encoded)).PredecessorStructureSetSequence
    assert (named.ReferencedSOPClassUID, named.ReferencedSOPInstanceUID) == (first.sop_class_uid, first.sop_uid)
    assert "PredecessorStructureSetSequence" not in pydicom.dcmread(BytesIO(first.encoded))


def test_the_checklist(tmp_path: Path) -> None:
    """The attributes of outputs.md 1.4, one by one."""
    files, stack = make_series(tmp_path), stack_for()
    mask = ball(stack.grid.shape)
    written = write_rtstruct(stack, files, mask, prediction_of(mask), plan_of())
    ds, mr = pydicom.dcmread(BytesIO(written.encoded)), pydicom.dcmread(files[0])
    roi, outlines, seen = ds.StructureSetROISequence[0], ds.ROIContourSequence[0], ds.RTROIObservationsSequence[0]
    assert ds.file_meta.TransferSyntaxUID == pydicom.uid.ImplicitVRLittleEndian
    assert (ds.Modality, ds.ApprovalStatus, ds.SeriesNumber) == ("RTSTRUCT", "UNAPPROVED", 9001)
    assert (ds.StudyInstanceUID, ds.FrameOfReferenceUID) == (mr.StudyInstanceUID, mr.FrameOfReferenceUID)
    assert ds.SeriesInstanceUID != mr.SeriesInstanceUID
    assert (ds.InstanceCreationDate, ds.SeriesTime, ds.TimezoneOffsetFromUTC) == ("20260102", "110405.678000", "+0800")
    assert (ds.Manufacturer, ds.InstitutionName, ds.OperatorsName) == ("npc_rtnode", "Test hospital", "")
    assert list(ds.SoftwareVersions) == ["npc_rtnode 0.1.0", "rt-utils 1.2.7"]
    assert ds.StructureSetLabel == seen.ROIObservationLabel == "NOT FOR CLINIC"
    assert "SYNTHETIC PHANTOM WEIGHTS - NOT FOR CLINICAL USE" in ds.StructureSetDescription
    assert "AI cT3 p=.69; T1 .02 T2 .11 T4 .18" in roi.ROIDescription
    assert (roi.ROIName, roi.ROIGenerationAlgorithm) == ("GTVp^AI", "AUTOMATIC")
    assert float(roi.ROIVolume) == pytest.approx(int(mask.sum()) * stack.grid.voxel_cc, abs=0.001)
    assert roi.ROIDerivationAlgorithmIdentificationSequence[0].AlgorithmName == "unit-test bundle"
    assert (seen.RTROIInterpretedType, seen.ROIInterpreter) == ("GTV", "")
    assert "ROIObservationDescription" not in seen
    assert "DefinitionSourceSequence" not in roi
    assert list(outlines.ROIDisplayColor) == [230, 40, 40]
    assert all(len(item.ContourImageSequence) == 1 for item in outlines.ContourSequence)
    assert [item.ContourNumber for item in outlines.ContourSequence] == list(
        range(1, len(outlines.ContourSequence) + 1)
    )
    study = ds.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    assert study.ReferencedSOPClassUID == "1.2.840.10008.3.1.2.3.1"
    assert len(study.RTReferencedSeriesSequence[0].ContourImageSequence) == 20


def test_absent_elements_of_type_2_are_empty_and_optional_ones_absent(tmp_path: Path) -> None:
    """Missing StudyID and friends do not fail (rt-utils D13) and nothing is made up."""
    gone = dict.fromkeys(
        ("StudyID", "StudyDate", "StudyTime", "AccessionNumber", "PatientBirthDate", "InstitutionName")
    )
    files, stack = make_series(tmp_path, attributes=gone), stack_for()
    mask = ball(stack.grid.shape)
    ds = pydicom.dcmread(BytesIO(write_rtstruct(stack, files, mask, prediction_of(mask), plan_of()).encoded))
    assert all(ds[keyword].is_empty for keyword in gone if keyword != "InstitutionName")
    assert "InstitutionName" not in ds


def test_plain_rt_utils_is_worse(tmp_path: Path) -> None:
    """The reason for our own contours: rt-utils' default moves the outline inwards and writes DS over 16 characters.

    Should this test fail because rt-utils has become as good, there is code of ours to delete (ADR 0002, 0012).
    """
    files, stack = make_series(tmp_path, orientation="oblique"), stack_for(orientation="oblique")
    for shape, most in ((ball, 0.99), (ragged, 0.97)):
        mask = shape(stack.grid.shape)
        written = plain_rt_utils(files, mask)
        raster, voxel_cc = own_raster(written, stack), int(mask.sum()) * stack.grid.voxel_cc
        assert 0.5 < dice(raster.mask, mask) < most
        assert raster.polygon_cc < 0.98 * voxel_cc
        assert max(map(len, decimal_values(pydicom.dcmread(BytesIO(written.encoded))))) > 16


@pytest.mark.parametrize(
    ("change", "error"), [("empty", OutputFault), ("turned", OutputFault), ("order", InputFault), ("few", InputFault)]
)
def test_what_cannot_be_right_is_not_written(tmp_path: Path, change: str, error: type[Exception]) -> None:
    """An empty or turned mask, files in another order or too few of them: refused before anything is made."""
    files, stack = make_series(tmp_path), stack_for()
    mask = ball(stack.grid.shape)
    files = {"order": files[::-1], "few": files[1:]}.get(change, files)
    mask = {"empty": np.zeros_like(mask), "turned": np.swapaxes(mask, 1, 2)}.get(change, mask)
    with pytest.raises(error):
        write_rtstruct(stack, files, mask, prediction_of(mask), plan_of())


def test_probabilities_of_another_grid_are_refused(tmp_path: Path) -> None:
    """Contours are never drawn from probabilities that do not lie on the mask's voxels."""
    files, stack = make_series(tmp_path), stack_for()
    mask = ball(stack.grid.shape)
    prediction = replace(prediction_of(mask), probability=mask[:, :, 1:].astype(np.float32))
    with pytest.raises(OutputFault, match="probabilities"):
        write_rtstruct(stack, files, mask, prediction, plan_of())


def test_the_contours_follow_the_probabilities(tmp_path: Path) -> None:
    """The same mask from other probabilities has other contours, and still the mask's volume and pixels."""
    files, stack = make_series(tmp_path), stack_for()
    mask = ball(stack.grid.shape)
    soft = np.clip(0.5 + ndimage.gaussian_filter(np.where(mask, 0.5, -0.5), 0.7), 0.01, 0.99)
    soft = np.where(mask, np.maximum(soft, 0.51), np.minimum(soft, 0.49)).astype(np.float32)
    prediction = prediction_of(mask)
    hard, followed = (
        write_rtstruct(stack, files, mask, p, plan_of()) for p in (prediction, replace(prediction, probability=soft))
    )
    assert hard.encoded != followed.encoded
    raster = own_raster(followed, stack)
    assert np.array_equal(raster.mask, mask)
    assert raster.polygon_cc == pytest.approx(int(mask.sum()) * stack.grid.voxel_cc, rel=1e-4)


def test_a_slice_without_frame_of_reference_is_refused(tmp_path: Path) -> None:
    """rt-utils would invent one (D13)."""
    files, stack = make_series(tmp_path), stack_for()
    lost = replace(stack, slices=(replace(stack.slices[0], frame_of_reference_uid=None), *stack.slices[1:]))
    mask = ball(stack.grid.shape)
    with pytest.raises(GeometryRefused):
        write_rtstruct(lost, files, mask, prediction_of(mask), plan_of())


def test_decimal_strings_are_short_and_have_no_negative_zero() -> None:
    """Three decimals, fixed point, at most 16 characters even ten kilometres away."""
    assert decimal_strings(np.array([[-0.0001, 12.34567, -9999999.9999]])) == ["0.000", "12.346", "-10000000.000"]
