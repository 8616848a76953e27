"""Enhanced MR as the reader gives it: headers, attributes and voxels of written frames and of real ones."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.pixels import pixel_array
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless

from npc_rtnode.adapters.dicom.frames import ENHANCED_MR
from npc_rtnode.adapters.dicom.series import DicomSeriesReader
from npc_rtnode.adapters.dicom.structure import StructureReader
from npc_rtnode.adapters.rules import load_rule_file
from npc_rtnode.domain import geometry
from npc_rtnode.domain.geometry import Volume, judge_stack
from npc_rtnode.domain.selection import Decision, decide
from npc_rtnode.errors import GeometryRefused, InputFault, PixelsRefused, Unreadable
from tests.builders.enhanced import agent, make_enhanced, packed
from tests.builders.headers import real_files
from tests.builders.mr_series import make_series

READER = DicomSeriesReader()
SHUFFLED = (7, 3, 19, 0, 12, 5, 16, 1, 9, 14, 2, 18, 6, 11, 4, 17, 8, 13, 10, 15)
PRE, POST = "BRTUM005", "BRTUM008"


def codes(files: list[Path]) -> tuple[str, ...]:
    """What geometry finds."""
    return judge_stack(READER.headers(files)).codes


def said(files: list[Path], keyword: str) -> Any:
    """One attribute, which all slices must answer alike."""
    (answer,) = set(READER.attributes(files, [keyword]).values[keyword])
    return answer


def decision(files: list[Path], rules: str = "npc_ce_t1") -> Decision:
    """What the shipped rules make of a series."""
    rule_set = load_rule_file(rules)
    return decide(rule_set.evaluate(READER.attributes(files, rule_set.keywords())))


def real(name: str) -> list[Path]:
    """One of the real Enhanced MR series."""
    if name == "siemens":
        return [path for path in real_files("mr_enhanced_siemens_xa30_t1") if path.match("*791.dcm")]
    return [path for path in real_files("mr_study_nema_enhanced_tumour") if path.name == name]


# --- geometry ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", ["axial", "oblique", "feet_first", "sagittal"])
def test_shuffled_frames_are_the_volume_of_the_same_classic_series(tmp_path: Path, orientation: str) -> None:
    """Frames in any order, every orientation: grid and voxels equal those of one instance a slice."""
    classic = READER.volume(make_series(tmp_path / "classic", orientation=orientation))
    enhanced = READER.volume(make_enhanced(tmp_path / "enhanced", orientation=orientation, order=SHUFFLED))
    np.testing.assert_array_equal(enhanced.voxels, classic.voxels)
    np.testing.assert_allclose(enhanced.stack.grid.affine, classic.stack.grid.affine, atol=1e-6)
    assert [header.frame for header in enhanced.stack.slices] == [SHUFFLED.index(k) + 1 for k in range(20)]


def test_every_frame_has_the_digest_and_the_uid_of_its_file(tmp_path: Path) -> None:
    """One file, twenty headers, one instance; the patient is told apart as in a classic file."""
    (file,) = make_enhanced(tmp_path / "e")
    headers = READER.headers([file])
    assert len(headers) == 20
    assert {header.sha256 for header in headers} == {file.name}
    assert {header.sop_uid for header in headers} == {str(dcmread(file).SOPInstanceUID)}
    assert {header.patient_key for header in headers} == {READER.headers(make_series(tmp_path / "c"))[0].patient_key}


def test_a_file_is_read_once_whatever_the_number_of_its_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty frames cost one reading of the file for the headers, and as many for attributes and for the volume."""
    files, calls = make_enhanced(tmp_path), []
    import npc_rtnode.adapters.dicom.series as room

    read = room.read_elements
    monkeypatch.setattr(room, "read_elements", lambda path, words: calls.append(path) or read(path, words))
    READER.headers(files)
    READER.attributes(files, ["EchoTime"])
    READER.volume(files)
    assert calls == files * 3


@pytest.mark.parametrize(
    ("wishes", "expected"),
    [
        ({"changes": {k: {"StackID": "2"} for k in range(11, 21)}}, ("SEVERAL_STACKS",)),
        ({"changes": {4: {"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}}}, ("SEVERAL_STACKS", "MIXED_ORIENTATION")),
        ({"changes": {4: {"EffectiveEchoTime": 80.0}}}, ("SEVERAL_CONTRASTS",)),
        ({"changes": {4: {"TemporalPositionIndex": 2}}}, ("SEVERAL_CONTRASTS",)),
        ({"changes": {4: {"ComplexImageComponent": "PHASE"}}}, ("SEVERAL_CONTRASTS",)),
        ({"changes": {4: {"DiffusionBValue": 1000.0}}}, ("SEVERAL_CONTRASTS",)),
        ({"changes": {4: {"ContrastBolusAgentAdministered": "NO"}}}, ("SEVERAL_CONTRASTS",)),
        ({"changes": {4: {"FrameType": ["ORIGINAL", "PRIMARY", "T1", "FAT"]}}}, ("SEVERAL_CONTRASTS",)),
        ({"without": ["PlanePositionSequence"]}, ("NO_POSITION",)),
        ({"without": ["PlaneOrientationSequence"]}, ("NO_POSITION",)),
        ({"without": ["PixelMeasuresSequence"]}, ("NO_SPACING",)),
        ({"described": 19}, ("NO_POSITION",)),
        ({"described": 21}, ("NO_POSITION",)),
        ({"order": [0, *range(19)]}, ("DUPLICATE_POSITION",)),
        ({"order": [*range(5), *range(6, 20)]}, ("GAP",)),
        ({"slices": 7}, ("TOO_FEW_SLICES",)),
        ({"instance": {"FrameOfReferenceUID": None}}, ("NO_FRAME_OF_REFERENCE",)),
        ({"instance": {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4.3"}}, ("MULTIFRAME",)),
        ({"instance": {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7.3"}}, ("MULTIFRAME",)),
        ({"parts": 3}, ()),
    ],
)
def test_what_is_no_single_stack_is_refused_by_name(
    tmp_path: Path, wishes: dict[str, Any], expected: tuple[str, ...]
) -> None:
    """Each respect in which frames make no volume has its code, and there is no volume without it."""
    files = make_enhanced(tmp_path, **wishes)
    assert codes(files) == expected
    for code in expected:
        with pytest.raises(GeometryRefused, match=code):
            READER.volume(files)


def test_a_concatenation_is_one_volume_and_a_missing_part_is_missed(tmp_path: Path) -> None:
    """Three instances of one image are read as one, each frame under its own instance; two of the three are partial."""
    files = make_enhanced(tmp_path / "cut", parts=3, order=SHUFFLED)
    whole = READER.volume(make_series(tmp_path / "whole"))
    volume = READER.volume(files[::-1])
    np.testing.assert_array_equal(volume.voxels, whole.voxels)
    assert {header.reference for header in volume.stack.slices} == {
        (str(dcmread(file).SOPInstanceUID), k + 1) for file in files for k in range(dcmread(file).NumberOfFrames)
    }
    assert "PART_MISSING" in codes(files[:2])


def test_single_and_multi_frame_in_one_series(tmp_path: Path) -> None:
    """Ten frames and ten classic slices that continue them are no series that a scanner makes."""
    frames = make_enhanced(tmp_path / "e", order=range(10))
    assert codes([*frames, *make_series(tmp_path / "c")[10:]]) == ("SINGLE_AND_MULTIFRAME",)


def test_an_enhanced_instance_of_one_frame_is_a_slice(tmp_path: Path) -> None:
    """Some scanners make one Enhanced instance a slice: the same volume, and references without frame numbers."""
    files = [make_enhanced(tmp_path, order=[k], seed=f"slice-{k}")[0] for k in range(20)]
    volume = READER.volume(files)
    np.testing.assert_array_equal(volume.voxels, READER.volume(make_series(tmp_path / "c")).voxels)
    assert {frame for _, frame in (header.reference for header in volume.stack.slices)} == {None}


def test_too_many_frames_are_refused_before_any_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit, over all files of a series, an instance stays whole and the number is told."""
    monkeypatch.setattr("npc_rtnode.adapters.dicom.series.MOST_FRAMES", 30)
    monkeypatch.setattr(geometry, "MOST_FRAMES", 30)
    files = make_enhanced(tmp_path / "a") + make_enhanced(tmp_path / "b", seed="other")
    assert len(READER.headers(files)) == 21
    with pytest.raises(GeometryRefused, match="TOO_MANY_FRAMES: 40 frames in one series, at most 30 are read"):
        READER.volume(files)


def test_a_hostile_count_of_frames_costs_nothing(tmp_path: Path) -> None:
    """Two thousand million frames announced: one header, one finding."""
    files = make_enhanced(tmp_path, instance={"SOPClassUID": ENHANCED_MR}, described=0)
    ds = dcmread(files[0])
    ds.NumberOfFrames = 2_000_000_000
    ds.save_as(files[0])
    assert codes(files) == ("TOO_MANY_FRAMES",)


# --- pixels -----------------------------------------------------------------------------------------------------------


def ramp() -> NDArray[np.int64]:
    """The builder's stored values, `[slice, row, column]`."""
    k, row, column = np.mgrid[:20, :48, :56]
    return np.asarray((row * 7 + column * 5 + k * 11) % 1000)


def rescaled_by_frame() -> dict[int, dict[str, Any]]:
    """Another slope and intercept for every frame, as some scanners write them."""
    return {frame: {"RescaleSlope": 1 + frame / 8, "RescaleIntercept": -frame} for frame in range(1, 21)}


def test_every_frame_has_its_own_rescale(tmp_path: Path) -> None:
    """Slope and intercept follow the frame through the shuffle, never the slice."""
    volume = READER.volume(make_enhanced(tmp_path, order=SHUFFLED, changes=rescaled_by_frame()))
    frame = np.array([SHUFFLED.index(k) + 1 for k in range(20)])[:, None, None]
    np.testing.assert_allclose(volume.voxels, ramp() * (1 + frame / 8) - frame, rtol=1e-6)


def test_a_real_world_mapping_is_not_applied_and_no_transformation_leaves_values_alone(tmp_path: Path) -> None:
    """Without Pixel Value Transformation the stored values are the voxels."""
    files = make_enhanced(tmp_path, without=["PixelValueTransformationSequence"])
    np.testing.assert_array_equal(READER.volume(files).voxels, ramp())


@pytest.mark.parametrize("change", [{"RescaleSlope": 0}, {"RescaleSlope": None}, {"RescaleIntercept": None}])
def test_half_a_rescale_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    """A slope of nothing, or one number without the other, is no transformation; the rules are told of it before."""
    files = make_enhanced(tmp_path, changes={3: change})
    (reason,) = decision(files).reasons
    assert re.match(r'grey values: @pixels is "RESCALE: RescaleSlope .* \(1 of 20 images\)"', reason)
    with pytest.raises(PixelsRefused, match=r"RESCALE: RescaleSlope .* \(1 of 20 images\)"):
        READER.volume(files)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless, JPEGLosslessSV1])
def test_compressed_frames_decode_to_the_same_voxels(tmp_path: Path, syntax: str) -> None:
    """Every encapsulated syntax that the listener takes, with frames shuffled and rescaled one by one."""
    (file,) = make_enhanced(tmp_path, order=SHUFFLED, changes=rescaled_by_frame())
    np.testing.assert_array_equal(READER.volume([packed(file, syntax)]).voxels, READER.volume([file]).voxels)


def test_frames_cut_short_are_unreadable(tmp_path: Path) -> None:
    """Half of the pixel data missing: Unreadable, naming the SOP Instance and nothing else."""
    (file,) = make_enhanced(tmp_path)
    uid = READER.headers([file])[0].sop_uid
    cut = tmp_path / "cut.dcm"
    cut.write_bytes(file.read_bytes()[:-50_000])
    with pytest.raises(Unreadable, match=uid):
        READER.volume([cut])


def test_colour_and_inverted_frames_are_refused(tmp_path: Path) -> None:
    """MONOCHROME1 is refused by name, as on a classic slice."""
    files = make_enhanced(tmp_path, instance={"PhotometricInterpretation": "MONOCHROME1"})
    with pytest.raises(InputFault, match="MONOCHROME1"):
        READER.volume(files)


# --- attributes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wishes", "keyword", "answer"),
    [
        ({}, "EchoTime", (11.0,)),
        ({}, "RepetitionTime", (620.0,)),
        ({}, "FlipAngle", (90.0,)),
        ({}, "SliceThickness", (3.0,)),
        ({}, "AcquisitionContrast", ("T1",)),
        ({}, "ScanningSequence", ("SE",)),
        ({}, "SequenceVariant", ("SK",)),
        ({}, "ScanOptions", ("FS",)),
        ({}, "InversionTime", None),
        ({}, "SeriesDescription", ("AX T1 FS +C",)),
        ({}, "ImageType", ("ORIGINAL", "PRIMARY", "T1")),
        ({"instance": {"EchoPulseSequence": None}}, "ScanningSequence", None),
        (
            {
                "instance": {"EchoPulseSequence": "GRADIENT", "EchoPlanarPulseSequence": "YES"},
                "shared": {"InversionRecovery": "YES"},
            },
            "ScanningSequence",
            ("GR", "IR", "EP"),
        ),
        ({"instance": {"EchoPulseSequence": "BOTH"}}, "ScanningSequence", ("SE", "GR")),
        (
            {
                "instance": {"Spoiling": "RF", "SteadyStatePulseSequence": "TIME_REVERSED"},
                "shared": {"MagnetizationTransfer": "ON_RESONANCE"},
            },
            "SequenceVariant",
            ("SK", "MTC", "TRSS", "SP"),
        ),
        ({"instance": {"SegmentedKSpaceTraversal": "SINGLE"}}, "SequenceVariant", ("NONE",)),
        ({"shared": {"InversionTimes": [900.0]}}, "InversionTime", (900.0,)),
        (
            {
                "shared": {"FrameType": ["DERIVED", "PRIMARY", "T1", "WATER"], "ComplexImageComponent": "PHASE"},
                "instance": {"VolumeBasedCalculationTechnique": "MAX_IP"},
            },
            "ImageType",
            ("DERIVED", "PRIMARY", "T1", "WATER", "ORIGINAL", "PHASE", "MIP"),
        ),
        ({}, "ContrastBolusAgent", ("Dimeglumine gadopentetate",)),
        ({"shared": {"ContrastBolusAgentAdministered": "NO"}}, "ContrastBolusAgent", ("NONE",)),
        ({"shared": {"ContrastBolusAgentPhase": "PRE_CONTRAST"}}, "ContrastBolusAgent", ("NONE",)),
        ({"without": ["ContrastBolusUsageSequence"]}, "ContrastBolusAgent", ("Dimeglumine gadopentetate",)),
        (
            {"instance": {"ContrastBolusAgentSequence": [agent(), agent(2, "Water")]}},
            "ContrastBolusAgent",
            ("Dimeglumine gadopentetate", "Water"),
        ),
        (
            {"instance": {"ContrastBolusAgentSequence": None}, "without": ["ContrastBolusUsageSequence"]},
            "ContrastBolusAgent",
            None,
        ),
    ],
)
def test_a_frame_answers_the_keywords_of_a_classic_slice(
    tmp_path: Path, wishes: dict[str, Any], keyword: str, answer: Any
) -> None:
    """Rules need not know what kind of instance a series is made of."""
    assert said(make_enhanced(tmp_path, **wishes), keyword) == answer


def test_frames_of_a_chinese_series_are_read_in_its_character_set(tmp_path: Path) -> None:
    """The instance's texts keep their encoding on every frame."""
    files = make_enhanced(tmp_path, charset="GB18030", instance={"SeriesDescription": "鼻咽 T1 增强"})
    assert said(files, "SeriesDescription") == ("鼻咽 T1 增强",)


def test_the_shipped_rules_take_a_good_series_and_none_before_contrast(tmp_path: Path) -> None:
    """Agent named and administered: eligible. Agent named and not yet administered: no word for contrast is left."""
    plain = {"SeriesDescription": "Ax T1 SE"}
    assert decision(make_enhanced(tmp_path / "post", instance=plain)).eligible
    before = make_enhanced(tmp_path / "pre", instance=plain, shared={"ContrastBolusAgentAdministered": "NO"})
    refused = decision(before)
    assert refused.set_aside
    assert refused.reasons[0].startswith('contrast: ContrastBolusAgent is "NONE"')


# --- broken input -----------------------------------------------------------------------------------------------------


def asked_everything(path: Path) -> str:
    """Headers, attributes and voxels of one file; what came of it, and nothing but our own errors."""
    try:
        READER.headers([path])
        READER.attributes([path], ["EchoTime", "ImageType", "ContrastBolusAgent", "ScanningSequence"])
        READER.volume([path])
    except InputFault as error:  # Unreadable and GeometryRefused are of that kind
        return error.code
    return "read"


def test_a_group_with_an_unknown_vr_is_refused_and_no_exception_of_pydicom(tmp_path: Path) -> None:
    """ContrastBolusUsageSequence with a VR that is none: its length cannot be known, so nor what comes after it."""
    (file,) = make_enhanced(tmp_path)
    data = file.read_bytes()
    tag = b"\x18\x00\x41\x93SQ"
    assert data.count(tag) == 1
    file.write_bytes(data.replace(tag, tag[:4] + b"S]"))
    assert asked_everything(file) == "GEOMETRY_REFUSED"


def test_spoilt_bytes_are_read_or_refused(tmp_path: Path) -> None:
    """Sixty seeded faults in the bytes of small instances: every one is read or refused with a code of ours."""
    chance = random.Random(11)
    (file,) = make_enhanced(tmp_path, slices=8, rows=4, columns=4, changes={3: {"RescaleSlope": 2}})
    whole, spoilt = file.read_bytes(), tmp_path / "spoilt"
    outcomes = set()
    for _ in range(60):
        at, data = chance.randrange(300, len(whole)), bytearray(whole)
        data[at : at + chance.randrange(3)] = bytes([chance.randrange(256)])
        spoilt.write_bytes(data)
        outcomes.add(asked_everything(spoilt))
    assert "read" in outcomes
    assert "GEOMETRY_REFUSED" in outcomes


# --- real data --------------------------------------------------------------------------------------------------------


def read_by_simpleitk(file: Path) -> NDArray[Any]:
    """All frames as GDCM decodes them, in the order of the file."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(file))
    return np.asarray(sitk.GetArrayFromImage(reader.Execute()))


def read_by_highdicom(file: Path, volume: Volume) -> NDArray[Any]:
    """highdicom's volume, resampled to nothing: every voxel looked up at the place where ours lies."""
    theirs = highdicom.imread(file).get_volume(apply_real_world_transform=False, apply_modality_transform=True)
    index = np.indices(volume.voxels.shape).reshape(3, -1)
    places = volume.stack.grid.affine @ np.vstack([index, np.ones(index.shape[1])])
    found = np.linalg.inv(theirs.affine) @ places
    assert np.abs(found - np.rint(found)).max() < 1e-3
    k, row, column = np.rint(found[:3]).astype(int)
    return np.asarray(theirs.array[k, row, column].reshape(volume.voxels.shape))


REAL = [(PRE, (24, 256, 256)), (POST, (24, 256, 256)), ("siemens", (96, 128, 128))]


@pytest.mark.parametrize(("name", "shape"), REAL)
def test_real_frames_are_what_three_others_read(name: str, shape: tuple[int, int, int]) -> None:
    """SimpleITK and pydicom decode the same frames; highdicom puts the same voxels at the same places."""
    (file,) = real(name)
    volume = READER.volume([file])
    assert volume.stack.grid.shape == shape
    gdcm = read_by_simpleitk(file)
    for k, header in enumerate(volume.stack.slices):
        assert header.frame is not None
        np.testing.assert_array_equal(volume.voxels[k], gdcm[header.frame - 1])
    for k in range(0, shape[0], 7):
        np.testing.assert_array_equal(
            volume.voxels[k], pixel_array(file, index=(volume.stack.slices[k].frame or 0) - 1)
        )
    np.testing.assert_array_equal(volume.voxels, read_by_highdicom(file, volume))


@pytest.mark.parametrize(("name", "shape"), REAL)
def test_real_instances_pass_the_strict_walk(name: str, shape: tuple[int, int, int]) -> None:
    """What the listener asks of the bytes holds for real Enhanced MR."""
    (file,) = real(name)
    data, meta = file.read_bytes(), dcmread(file, stop_before_pixels=True).file_meta
    encoded = data[132 + 12 + int(meta.FileMetaInformationGroupLength) :]
    assert StructureReader().identify(encoded, str(meta.TransferSyntaxUID)).sop_class_uid == ENHANCED_MR


def test_post_gad_is_eligible_and_pre_gad_is_not() -> None:
    """The shipped rules choose between the two series of the real study, and say why not the other."""
    assert decision(real(POST)).eligible
    refused = decision(real(PRE))
    assert refused.set_aside
    assert [reason.split(":")[0] for reason in refused.reasons] == ["not before contrast"]


def test_pre_and_post_in_one_series_are_two_contrasts() -> None:
    """Sent under one series UID, the two would be named by echo time and contrast."""
    (finding,) = judge_stack(READER.headers([*real(PRE), *real(POST)])).findings
    assert finding.code == "SEVERAL_CONTRASTS"
    assert "EffectiveEchoTime (14.00, 20.00)" in finding.message
    assert "ContrastBolusAgentAdministered (unsaid, YES)" in finding.message
