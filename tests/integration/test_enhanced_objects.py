"""Structure set and report of an Enhanced MR source: every slice is named by instance and frame, and proven so."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from bench.readers import plastimatch_mask
from npc_rtnode.adapters.dicom.rtstruct import write_rtstruct
from npc_rtnode.adapters.dicom.series import DicomSeriesReader
from npc_rtnode.adapters.dicom.sr import write_sr
from npc_rtnode.domain.gates import Outcome
from npc_rtnode.domain.geometry import stack_of
from npc_rtnode.domain.rasterising import dice
from npc_rtnode.domain.records import WrittenObject
from npc_rtnode.errors import InputFault
from tests.builders.enhanced import ENHANCED_MR_IMAGE_STORAGE, make_enhanced
from tests.builders.headers import real_files
from tests.builders.mr_series import make_series
from tests.builders.outputs import plan_of, prediction_of, tube
from tests.integration.test_sr import dsrdump
from tests.integration.test_verify import Result, altered, contours, holding, item_of
from tests.proving import complaints

READER = DicomSeriesReader()
SHUFFLED = (7, 3, 19, 0, 12, 5, 16, 1, 9, 14, 2, 18, 6, 11, 4, 17, 8, 13, 10, 15)
ONE_SERIES = {"SeriesInstanceUID": "2.25.77"}
SOURCES = ("shuffled", "parts", "post_gad", "siemens")


def source(folder: Path, name: str) -> list[Path]:
    """The files of one Enhanced series: frames shuffled, a concatenation of three, or a real one."""
    if name == "post_gad":
        return [path for path in real_files("mr_study_nema_enhanced_tumour") if path.name == "BRTUM008"]
    if name == "siemens":
        return [path for path in real_files("mr_enhanced_siemens_xa30_t1") if path.match("*791.dcm")]
    return make_enhanced(folder, order=SHUFFLED, orientation="oblique", parts=3 if name == "parts" else 1)


def result_of(files: list[Path]) -> Result:
    """Both objects of a tube on this series, as the pipeline would write them."""
    stack = stack_of(READER.headers(files))
    by_uid = {READER.headers([path])[0].sop_uid: path for path in files}
    sources = [by_uid[header.sop_uid] for header in stack.slices]
    mask = tube(stack.grid.shape)
    rtstruct = write_rtstruct(stack, sources, mask, prediction_of(mask), plan_of())
    sr = write_sr(stack, sources, mask, prediction_of(mask), plan_of(), rtstruct)
    return Result(stack, sources, mask, prediction_of(mask), rtstruct, sr)


def read(written: WrittenObject) -> Dataset:
    """The object as any reader gets it."""
    return pydicom.dcmread(BytesIO(written.encoded))


def listed(ds: Dataset) -> Any:
    """The images of the referenced series."""
    series = ds.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    return series.ContourImageSequence


# --- what is written --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOURCES)
def test_every_contour_lies_on_the_frame_that_it_names(tmp_path: Path, name: str) -> None:
    """The named frame's own position, read with highdicom, is in the plane of the contour."""
    result = result_of(source(tmp_path, name))
    images = {str(image.SOPInstanceUID): image for image in map(highdicom.imread, dict.fromkeys(result.files))}
    for item in contours(read(result.rtstruct)):
        (named,) = item.ContourImageSequence
        assert named.ReferencedSOPClassUID == ENHANCED_MR_IMAGE_STORAGE
        image = images[named.ReferencedSOPInstanceUID]
        group = image.PerFrameFunctionalGroupsSequence[int(named.ReferencedFrameNumber) - 1]
        position = np.array(group.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        away = (np.array(item.ContourData, dtype=float).reshape(-1, 3) - position) @ np.cross(
            *np.array(result.stack.slices[0].orientation).reshape(2, 3)
        )
        assert np.abs(away).max() < 0.01


@pytest.mark.parametrize(("name", "instances"), [("shuffled", 1), ("parts", 3), ("post_gad", 1), ("siemens", 1)])
def test_each_instance_is_listed_once_without_frames(tmp_path: Path, name: str, instances: int) -> None:
    """RT Referenced Series and the report's evidence name an instance once, whole, for all its frames are used."""
    result = result_of(source(tmp_path, name))
    uids = {header.sop_uid for header in result.stack.slices}
    images = listed(read(result.rtstruct))
    assert len(images) == instances
    assert {str(item.ReferencedSOPInstanceUID) for item in images} == uids
    assert not any("ReferencedFrameNumber" in item for item in images)
    (study,) = read(result.sr).CurrentRequestedProcedureEvidenceSequence
    evidence = [
        str(i.ReferencedSOPInstanceUID) for s in study.ReferencedSeriesSequence for i in s.ReferencedSOPSequence
    ]
    assert sorted(evidence) == sorted([*uids, result.rtstruct.sop_uid])


def test_the_report_shows_the_frame_where_the_outline_is_largest(tmp_path: Path) -> None:
    """The key image in the report's library carries its frame number."""
    result = result_of(source(tmp_path, "shuffled"))
    key = int(np.argmax(np.count_nonzero(result.mask, axis=(1, 2))))
    (named,) = item_of(read(result.sr), "IMAGE", "260753009").ReferencedSOPSequence
    assert (named.ReferencedSOPInstanceUID, named.ReferencedFrameNumber) == (
        result.stack.slices[key].sop_uid,
        SHUFFLED.index(key) + 1,
    )


def test_instances_of_one_frame_are_named_without_it(tmp_path: Path) -> None:
    """PS3.3 10.3: where the instance has no other frame the reference means all of it."""
    result = result_of(
        [make_enhanced(tmp_path, order=[k], seed=f"slice-{k}", instance=ONE_SERIES)[0] for k in range(20)]
    )
    assert holding(result.judged()) == set()
    assert len(listed(read(result.rtstruct))) == 20
    assert not any("ReferencedFrameNumber" in item.ContourImageSequence[0] for item in contours(read(result.rtstruct)))


@pytest.mark.parametrize("name", SOURCES)
def test_objects_without_fault_pass_every_gate(tmp_path: Path, name: str) -> None:
    """The second reader finds each frame where the structure set says it is."""
    assert {result.outcome for result in result_of(source(tmp_path, name)).judged()} == {Outcome.PASS}


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    """Whatever order the files of a concatenation came in."""
    files = source(tmp_path, "parts")
    one, other = result_of(files), result_of(files[::-1])
    assert (one.rtstruct, one.sr) == (other.rtstruct, other.sr)


def test_contours_are_those_of_the_same_classic_series(tmp_path: Path) -> None:
    """Frames or instances: the outline is the same to the last digit."""
    classic, enhanced = result_of(make_series(tmp_path / "c")), result_of(make_enhanced(tmp_path / "e", order=SHUFFLED))
    assert [item.ContourData for item in contours(read(enhanced.rtstruct))] == [
        item.ContourData for item in contours(read(classic.rtstruct))
    ]


def test_files_in_another_order_are_refused(tmp_path: Path) -> None:
    """Parts of a concatenation handed over in another order than the slices are no sources."""
    result = result_of(source(tmp_path, "parts"))
    with pytest.raises(InputFault):
        write_rtstruct(result.stack, result.files[::-1], result.mask, result.prediction, plan_of())


# --- planted faults ---------------------------------------------------------------------------------------------------


def named(ds: Dataset) -> Dataset:
    """The image that the first contour names."""
    image: Dataset = contours(ds)[0].ContourImageSequence[0]
    return image


def no_frame(ds: Dataset) -> None:
    """The whole instance instead of one frame."""
    del named(ds).ReferencedFrameNumber


def no_frames_at_all(ds: Dataset) -> None:
    """As a writer that knows only classic slices would."""
    for item in contours(ds):
        del item.ContourImageSequence[0].ReferencedFrameNumber


def frame_that_is_not_there(ds: Dataset) -> None:
    """One more than the instance has."""
    named(ds).ReferencedFrameNumber = 21


def frame_nought(ds: Dataset) -> None:
    """Counted from 0."""
    named(ds).ReferencedFrameNumber = 0


def two_frames(ds: Dataset) -> None:
    """One contour on two frames."""
    named(ds).ReferencedFrameNumber = [int(named(ds).ReferencedFrameNumber), 1]


def other_frame(ds: Dataset) -> None:
    """A frame of the instance, but another slice."""
    named(ds).ReferencedFrameNumber = int(named(ds).ReferencedFrameNumber) % 20 + 1


def numbered_by_place(ds: Dataset) -> None:
    """Frames numbered by position, as if they had been in order."""
    for item in contours(ds):
        image = item.ContourImageSequence[0]
        image.ReferencedFrameNumber = SHUFFLED[int(image.ReferencedFrameNumber) - 1] + 1


def instance_twice(ds: Dataset) -> None:
    """The one instance listed for each of two frames."""
    listed(ds).append(listed(ds)[0])


def instance_in_part(ds: Dataset) -> None:
    """The series' list names a frame, as if the others were not used."""
    listed(ds)[0].ReferencedFrameNumber = 1


@pytest.mark.parametrize(
    ("fault", "gate"),
    [
        (no_frame, "REFERENCES"),
        (no_frames_at_all, "REFERENCES"),
        (frame_that_is_not_there, "REFERENCES"),
        (frame_nought, "REFERENCES"),
        (two_frames, "REFERENCES"),
        (other_frame, "OFF_PLANE"),
        (numbered_by_place, "OFF_PLANE"),
        (instance_twice, "REFERENCES"),
        (instance_in_part, "REFERENCES"),
    ],
)
def test_a_wrong_frame_in_the_structure_set_is_held(
    tmp_path: Path, fault: Callable[[Dataset], None], gate: str
) -> None:
    """Planted in finished bytes, each is held by the gate that is meant for it."""
    result = result_of(source(tmp_path, "shuffled"))
    spoilt = Result(**{**vars(result), "rtstruct": altered(result.rtstruct, fault)})
    assert gate in holding(spoilt.judged())


def key_image(ds: Dataset) -> Dataset:
    """What the report shows."""
    image: Dataset = item_of(ds, "IMAGE", "260753009").ReferencedSOPSequence[0]
    return image


def key_without_frame(ds: Dataset) -> None:
    """The whole instance instead of the key frame."""
    del key_image(ds).ReferencedFrameNumber


def other_key(ds: Dataset) -> None:
    """Another frame than the one where the outline is largest."""
    key_image(ds).ReferencedFrameNumber = int(key_image(ds).ReferencedFrameNumber) % 20 + 1


def evidence_twice(ds: Dataset) -> None:
    """The instance in the evidence once more."""
    images = ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    images.append(images[0])


@pytest.mark.parametrize(
    ("fault", "gate"), [(key_without_frame, "KEY_IMAGE"), (other_key, "KEY_IMAGE"), (evidence_twice, "EVIDENCE")]
)
def test_a_wrong_frame_in_the_report_is_held(tmp_path: Path, fault: Callable[[Dataset], None], gate: str) -> None:
    """The report's references are read back as well."""
    result = result_of(source(tmp_path, "shuffled"))
    spoilt = Result(**{**vars(result), "sr": altered(result.sr, fault)})
    assert holding(spoilt.judged()) == {gate}


def test_a_stack_that_numbers_frames_wrongly_is_held(tmp_path: Path) -> None:
    """The writer believes the stack; the second reader looks the frame up in the file and finds it elsewhere."""
    from dataclasses import replace

    result = result_of(source(tmp_path, "shuffled"))
    slices = [replace(header, frame=(header.frame or 0) % 20 + 1) for header in result.stack.slices]
    stack = replace(result.stack, slices=tuple(slices))
    rtstruct = write_rtstruct(stack, result.files, result.mask, result.prediction, plan_of())
    sr = write_sr(stack, result.files, result.mask, result.prediction, plan_of(), rtstruct)
    spoilt = Result(stack, result.files, result.mask, result.prediction, rtstruct, sr)
    assert "OFF_PLANE" in holding(spoilt.judged())


# --- other makers' programs -------------------------------------------------------------------------------------------


@pytest.mark.peer("dciodvfy")
@pytest.mark.parametrize("name", SOURCES)
def test_dciodvfy_finds_no_error(tmp_path: Path, peer: Callable[[str], str], name: str) -> None:
    """Neither in the structure set nor in the report; what it finds dubious is the source's own name."""
    result = result_of(source(tmp_path / "mr", name))
    for item in (result.rtstruct, result.sr):
        (tmp_path / item.kind).write_bytes(item.encoded)
        found = complaints(peer("dciodvfy"), tmp_path / item.kind)
        assert [line for line in found if "PatientName" not in line] == []
        assert not any(line.startswith("Error") for line in found)


@pytest.mark.peer("dcentvfy")
@pytest.mark.parametrize("name", SOURCES)
def test_images_structure_set_and_report_are_one_patient_and_study(
    tmp_path: Path, peer: Callable[[str], str], name: str
) -> None:
    """Of our references dcentvfy resolves all but the study's own, which is no instance (PS3.3 C.8.8.5).

    The real images name localizers and raw data that are not here; that is said of their files, not of ours.
    """
    result = result_of(source(tmp_path / "mr", name))
    for item in (result.rtstruct, result.sr):
        (tmp_path / item.kind).write_bytes(item.encoded)
    files = [*dict.fromkeys(result.files), tmp_path / "RTSTRUCT", tmp_path / "SR"]
    done = subprocess.run([peer("dcentvfy"), *files], capture_output=True, check=False)
    errors = [line for line in (done.stdout + done.stderr).decode().splitlines() if line.startswith("Error")]
    errors = [line for line in errors if str(tmp_path / "RTSTRUCT") in line or str(tmp_path / "SR") in line]
    study = result.stack.slices[0].study_uid
    assert [line for line in errors if f"Missing SOPInstanceUID that was referenced - {study} " not in line] == []


@pytest.mark.peer("dsrdump")
@pytest.mark.parametrize("name", SOURCES)
def test_dsrdump_prints_the_frame(tmp_path: Path, peer: Callable[[str], str], name: str) -> None:
    """DCMTK reads the report without complaint and names the key frame."""
    result = result_of(source(tmp_path / "mr", name))
    (tmp_path / "sr").write_bytes(result.sr.encoded)
    key = int(np.argmax(np.count_nonzero(result.mask, axis=(1, 2))))
    text = dsrdump(peer("dsrdump"), tmp_path / "sr")
    line = next(line for line in text.splitlines() if "contains IMAGE" in line)
    assert line.endswith(f",{result.stack.slices[key].frame})>")


@pytest.mark.peer("plastimatch")
def test_plastimatch_sees_the_same_mask(tmp_path: Path, peer: Callable[[str], str]) -> None:
    """plastimatch knows no functional groups; beside the same series as classic slices it agrees to Dice 0.9999."""
    result = result_of(source(tmp_path / "enhanced", "shuffled"))
    make_series(tmp_path / "classic", orientation="oblique")
    (tmp_path / "rs").write_bytes(result.rtstruct.encoded)
    seen = plastimatch_mask(peer("plastimatch"), tmp_path / "rs", tmp_path / "classic", tmp_path / "mask", result.stack)
    assert dice(seen, result.mask) >= 0.9999
