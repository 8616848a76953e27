"""Voxels from files, over every way to state a grey value, against two other readings: plain arithmetic and pydicom."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.pixels import apply_rescale
from pydicom.sequence import Sequence
from pydicom.uid import JPEGLSLossless, RLELossless

from model.preprocess import InputError, orient
from npc_rtnode.adapters.dicom.pixels import decoded
from npc_rtnode.adapters.dicom.series import DicomSeriesReader
from npc_rtnode.domain.pixels import PixelForm
from npc_rtnode.errors import InputFault, PixelsRefused
from tests.builders.headers import real_files
from tests.builders.mr_series import make_series

READER = DicomSeriesReader()
SLICES, ROWS, COLUMNS = 8, 24, 20
WORDS = ((8, 8), (16, 8), (16, 9), (16, 10), (16, 12), (16, 13), (16, 15), (16, 16))
SYNTAXES = {"explicit": None, "implicit": None, "RLE": RLELossless, "JPEG-LS": JPEGLSLossless}
WAYS = [
    (allocated, stored, syntax)
    for allocated, stored in WORDS
    for syntax, compressed in SYNTAXES.items()
    if not (compressed and (allocated, stored) == (16, 8))  # pydicom writes those as 8 of 8; DCMTK's are tested below
]

RESCALES = (  # a pair for each slice, as Philips writes them: slope, intercept
    ("1", "0"),
    ("2.5", "-10"),
    ("0.00024420024420", "0"),
    ("1.333333333333", "7.25"),
    ("3", "-1024"),
    ("-1", "4095"),
    ("4.292967032967", "0.5"),
    ("1", "2048"),  # signed 12 bits come out above 0: SimpleITK by itself refuses these
)


def form(allocated: int, stored: int, signed: bool) -> dict[str, int]:
    """The elements that place a value in its word."""
    return {
        "BitsAllocated": allocated,
        "BitsStored": stored,
        "HighBit": stored - 1,
        "PixelRepresentation": int(signed),
    }


def rescales() -> list[dict[str, str]]:
    """RESCALES as elements, one entry a slice."""
    return [{"RescaleSlope": slope, "RescaleIntercept": intercept} for slope, intercept in RESCALES]


def words(allocated: int, stored: int, seed: int = 0) -> NDArray[np.int64]:
    """Random words of `stored` bits, the least, the greatest and both sides of the sign among them."""
    drawn = np.random.default_rng(seed).integers(0, 1 << stored, size=(SLICES, ROWS, COLUMNS))
    top, middle = (1 << stored) - 1, 1 << (stored - 1)
    drawn[:, 0, :4] = [0, top, middle, middle - 1]
    return drawn


def meant(raw: NDArray[np.int64], stored: int, signed: bool) -> NDArray[np.int64]:
    """PS3.5 8.1.1 by hand: the low `stored` bits, two's complement where signed."""
    value = raw & ((1 << stored) - 1)
    return np.where(value >> (stored - 1), value - (1 << stored), value) if signed else value


def by_hand(raw: NDArray[np.int64], stored: int, signed: bool) -> NDArray[np.float32]:
    """Each slice's values under its own rescale, computed in float64, rounded once."""
    pairs = [(float(slope), float(intercept)) for slope, intercept in RESCALES]
    values = meant(raw, stored, signed).astype(np.float64)
    return np.stack([plane * m + b for plane, (m, b) in zip(values, pairs, strict=True)]).astype(np.float32)


def by_pydicom(files: list[Path]) -> NDArray[np.float32]:
    """pydicom's decoders and pydicom's rescale."""
    read = [dcmread(path) for path in files]
    return np.stack([apply_rescale(ds.pixel_array, ds) for ds in read]).astype(np.float32)


@pytest.mark.parametrize(("allocated", "stored", "syntax"), WAYS)
@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
def test_three_readings_agree_to_the_last_bit(tmp_path: Path, allocated, stored, signed, syntax) -> None:
    """Every word, sign and syntax, another rescale in every slice: reader, arithmetic and pydicom give one float32."""
    raw = words(allocated, stored)
    files = make_series(
        tmp_path,
        slices=SLICES,
        rows=ROWS,
        columns=COLUMNS,
        voxels=meant(raw, stored, signed),
        attributes=form(allocated, stored, signed),
        slice_attributes=rescales(),
        implicit=syntax == "implicit",
        syntax=SYNTAXES[syntax],
    )
    voxels = READER.volume(files).voxels
    assert voxels.dtype == np.float32
    np.testing.assert_array_equal(voxels, by_hand(raw, stored, signed))
    np.testing.assert_array_equal(voxels, by_pydicom(files))


@pytest.mark.peer("dcmcjpeg", "dcmcjpls", "dcmcrle")
@pytest.mark.parametrize("command", [["dcmcjpeg", "+e1"], ["dcmcjpeg", "+el"], ["dcmcjpls"], ["dcmcrle"]], ids=" ".join)
@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("stored", [8, 12, 16])
def test_what_dcmtk_compressed_decodes(
    tmp_path: Path, peer: Callable[[str], str], stored: int, signed: bool, command: list[str]
) -> None:
    """JPEG Lossless, JPEG-LS and RLE as another maker writes them: the same voxels as before."""
    raw = words(16, stored)
    plain = make_series(
        tmp_path / "plain",
        slices=SLICES,
        rows=ROWS,
        columns=COLUMNS,
        voxels=meant(raw, stored, signed),
        attributes=form(16, stored, signed),
        slice_attributes=rescales(),
    )
    files = [path.with_name(f"{k}.dcm") for k, path in enumerate(plain)]
    for source, target in zip(plain, files, strict=True):
        subprocess.run([peer(command[0]), *command[1:], source, target], check=True, capture_output=True)
    assert dcmread(files[0]).file_meta.TransferSyntaxUID.is_encapsulated
    np.testing.assert_array_equal(READER.volume(files).voxels, by_hand(raw, stored, signed))


@pytest.mark.parametrize("image", ["MR1", "MR3"])
def test_real_signed_images_are_the_same_from_three_codecs(image: str) -> None:
    """16 signed bits of Toshiba and GE: JPEG 2000, JPEG Lossless and JPEG-LS decode to what pydicom reads."""
    files = [path for path in real_files("ts_nema_wg04_mr1_toshiba_mr3_ge") if path.name.startswith(image)]
    plain = PixelForm(representation=1)  # MR3's padding of 0 left aside
    images = [decoded(path, header, plain) for path, header in zip(files, READER.headers(files), strict=True)]
    assert len(images) == 3
    (jpeg_ls,) = [dcmread(path) for path in files if path.name.endswith("JLSL")]
    for found in images:
        np.testing.assert_array_equal(found, jpeg_ls.pixel_array)


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize(("allocated", "stored"), [word for word in WORDS if word[0] > word[1]])
def test_bits_above_the_high_bit_are_not_read(tmp_path: Path, allocated, stored, signed) -> None:
    """Overlay planes in the unused bits, as older scanners kept them, change no voxel."""
    raw = words(allocated, stored)
    overlay = np.random.default_rng(1).integers(0, 1 << (allocated - stored), size=raw.shape) << stored
    files = make_series(
        tmp_path,
        slices=SLICES,
        rows=ROWS,
        columns=COLUMNS,
        voxels=raw | overlay,
        attributes=form(allocated, stored, signed),
    )
    assert (overlay > 0).any()
    np.testing.assert_array_equal(READER.volume(files).voxels, meant(raw, stored, signed))


# --- padding ----------------------------------------------------------------------------------------------------------

ROUND = np.hypot(*np.mgrid[-1 : 1 : ROWS * 1j, -1 : 1 : COLUMNS * 1j]) <= 1

PADDINGS = {  # PixelRepresentation, what the corners hold, PixelPaddingValue, PixelPaddingRangeLimit
    "bright, unsigned": (0, 65535, 65535, None),
    "dark, signed": (1, -32768, -32768, None),
    "a range": (1, -2000, -2048, -1500),
    "a range said backwards": (1, -2000, -1500, -2048),
    "63536 for -2000": (1, -2000, 63536, None),
    "zero": (0, 0, 0, None),
}


@pytest.mark.parametrize("implicit", [False, True], ids=["explicit", "implicit"])
@pytest.mark.parametrize(("representation", "held", "value", "limit"), PADDINGS.values(), ids=PADDINGS)
def test_padding_becomes_the_lowest_voxel(tmp_path: Path, representation, held, value, limit, implicit) -> None:
    """Corners outside a round image, whatever they hold, are as dark as the darkest measured voxel."""
    measured = np.random.default_rng(2).integers(100, 1000, size=(SLICES, ROWS, COLUMNS))
    attributes = {**form(16, 16, bool(representation)), "RescaleSlope": "0.5", "RescaleIntercept": "3"}
    files = make_series(
        tmp_path,
        slices=SLICES,
        rows=ROWS,
        columns=COLUMNS,
        voxels=np.where(ROUND, measured, held),
        attributes=attributes,
        implicit=implicit,
    )
    stated = [with_padding(path, value, limit) for path in files]
    lowest = measured[:, ROUND].min()
    np.testing.assert_array_equal(READER.volume(stated).voxels, np.where(ROUND, measured, lowest) * 0.5 + 3)


def with_padding(path: Path, value: int, limit: int | None) -> Path:
    """The file with PixelPaddingValue, in the VR that its own number needs."""
    ds = dcmread(path)
    for tag, number in ((0x00280120, value), (0x00280121, limit)):
        if number is not None:
            ds.add_new(tag, "SS" if number < 0 else "US", number)
    ds.save_as(path)
    return path


def test_real_ge_padding_of_zero_changes_nothing_that_matters() -> None:
    """GE states a padding of 0: its air of 0 becomes the lowest value measured, one; every other voxel stays."""
    files = real_files("mr_ge_signa_pd_axial_head")
    volume = READER.volume(files)
    stored = {ds.SOPInstanceUID: ds.pixel_array for ds in map(dcmread, files)}
    expected = np.stack([stored[header.sop_uid] for header in volume.stack.slices])
    assert (expected == 0).any()
    np.testing.assert_array_equal(volume.voxels, np.where(expected == 0, expected[expected != 0].min(), expected))


def test_a_slice_of_padding_alone_is_read(tmp_path: Path) -> None:
    """The last slice holds nothing but padding: it is as dark as the darkest voxel; a whole such series is refused."""
    voxels = np.full((SLICES, ROWS, COLUMNS), 7)
    voxels[:-1] += np.arange(1, ROWS * COLUMNS + 1).reshape(ROWS, COLUMNS)
    wishes = {"slices": SLICES, "rows": ROWS, "columns": COLUMNS, "attributes": {"PixelPaddingValue": 7}}
    read = READER.volume(make_series(tmp_path / "a", voxels=voxels, **wishes)).voxels
    assert set(read[-1].ravel()) == {8.0}
    with pytest.raises(PixelsRefused, match="ALL_PADDING: all 3840 pixels"):
        READER.volume(make_series(tmp_path / "b", voxels=np.full_like(voxels, 7), **wishes))


# --- what is refused --------------------------------------------------------------------------------------------------


def lookup() -> Sequence:
    """A Modality LUT that turns grey values round."""
    item = Dataset()
    item.LUTDescriptor, item.ModalityLUTType = [256, 0, 16], "US"
    item.add_new(0x00283006, "OW", np.arange(256)[::-1].astype("<u2").tobytes())
    return Sequence([item])


REFUSED = {
    "MONOCHROME1": ("INVERTED_GREY: .*MONOCHROME1, 1 samples", {"PhotometricInterpretation": "MONOCHROME1"}),
    "palette": ("NOT_GREY: .*PALETTE COLOR", {"PhotometricInterpretation": "PALETTE COLOR"}),
    "value at the top of the word": ("HIGH_BIT: HighBit 15, 11 needed", {"BitsStored": 12, "HighBit": 15}),
    "17 bits of 16": ("PIXEL_BITS: BitsStored 17", {"BitsStored": 17, "HighBit": 16}),
    "sign 7": ("PIXEL_SIGN: PixelRepresentation 7", {"PixelRepresentation": 7}),
    "slope 0": ("RESCALE: RescaleSlope 0", {"RescaleSlope": "0", "RescaleIntercept": "5"}),
    "half a pair": ("RESCALE: RescaleSlope 2, RescaleIntercept nan", {"RescaleSlope": "2"}),
    "two slopes": ("RESCALE: RescaleSlope nan", {"RescaleSlope": ["2", "3"], "RescaleIntercept": "0"}),
    "slope beyond float32": (
        "RESCALE: rescaled values reach 4.09e\\+40",
        {"RescaleSlope": "1e37", "RescaleIntercept": "0"},
    ),
    "intercept that swallows": (
        "RESCALE: at 1e\\+09 float32 steps by 64",
        {"RescaleSlope": "1", "RescaleIntercept": "1e9"},
    ),
    "look-up table": ("MODALITY_LUT", {"ModalityLUTSequence": lookup()}),
    "lossy": ("LOSSY: .*ratio 12", {"LossyImageCompression": "01", "LossyImageCompressionRatio": ["3", "12"]}),
    "lossy, ratio not told": ("LOSSY: .*ratio not told", {"LossyImageCompression": "01"}),
}


@pytest.mark.parametrize(("said", "attributes"), REFUSED.values(), ids=REFUSED)
def test_refused_by_code_and_number(tmp_path: Path, said, attributes) -> None:
    """What is not certain is refused with its code and the number that decided it, though SimpleITK would decode it."""
    with pytest.raises(PixelsRefused, match=f"{said}.*8 of 8 images"):
        READER.volume(make_series(tmp_path, slices=SLICES, attributes=attributes))


@pytest.mark.parametrize("text", [b"nan   ", b"inf   ", b"1.2.3 ", b"0x10  "])
def test_a_slope_that_is_no_number_is_refused(tmp_path: Path, text: bytes) -> None:
    """GDCM reads a slope of nan as 1; here it is refused, and no text of the file is in the message."""
    files = make_series(tmp_path, slices=SLICES, attributes={"RescaleSlope": "1.5625", "RescaleIntercept": "0"})
    for path in files:
        path.write_bytes(path.read_bytes().replace(b"1.5625", text))
    with pytest.raises(PixelsRefused, match=r"RESCALE: RescaleSlope (nan|inf), RescaleIntercept 0") as fault:
        READER.volume(files)
    assert "1.2.3" not in str(fault.value)
    assert "0x10" not in str(fault.value)


def test_one_odd_slice_is_counted(tmp_path: Path) -> None:
    """One inverted slice among eight costs the volume, and the message says one of eight."""
    odd = [{}] * 3 + [{"PhotometricInterpretation": "MONOCHROME1"}] + [{}] * 4
    with pytest.raises(PixelsRefused, match=r"INVERTED_GREY: .*\(1 of 8 images\)"):
        READER.volume(make_series(tmp_path, slices=SLICES, slice_attributes=odd))


@pytest.mark.parametrize("keyword", ["PixelData", "FloatPixelData"])
def test_no_whole_numbers_to_read_is_a_fault_of_the_input(tmp_path: Path, keyword: str) -> None:
    """Float pixel data, and none at all, are refused: never a crash, never an empty volume."""
    files = make_series(tmp_path, slices=SLICES, rows=ROWS, columns=COLUMNS)
    for path in files:
        ds = dcmread(path)
        del ds.PixelData
        if keyword == "FloatPixelData":
            ds.FloatPixelData, ds.BitsAllocated = np.ones(ROWS * COLUMNS, "<f4").tobytes(), 32
        ds.save_as(path)
    with pytest.raises(InputFault, match=r"PIXEL_BITS: BitsAllocated 32|do not decode"):
        READER.volume(files)


IGNORED = {
    "SmallestImagePixelValue": 400,
    "LargestImagePixelValue": 500,
    "WindowCenter": "40",
    "WindowWidth": "2",
    "LossyImageCompression": "00",
    "RescaleType": "US",
    "PixelPaddingRangeLimit": 900,  # means nothing without PixelPaddingValue
    "RealWorldValueMappingSequence": None,  # filled below
}


def test_what_is_for_display_changes_no_voxel(tmp_path: Path) -> None:
    """Window, smallest and largest value, real world mapping (Philips writes it) leave stored values as they are."""
    mapping = Dataset()
    mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept = 3.0, 7.0
    mapping.add_new(0x00409216, "US", 0)
    mapping.add_new(0x00409211, "US", 4095)
    attributes = {**IGNORED, "RealWorldValueMappingSequence": Sequence([mapping])}
    plain = make_series(tmp_path / "plain", slices=SLICES)
    dressed = make_series(tmp_path / "dressed", slices=SLICES, attributes=attributes)
    np.testing.assert_array_equal(READER.volume(dressed).voxels, READER.volume(plain).voxels)


def test_real_philips_mapping_is_no_rescale() -> None:
    """Philips' RealWorldValueMappingSequence without a RescaleSlope: stored values, as pydicom has them."""
    files = real_files("mr_philips_achieva_epi_2vol")
    by_volume: dict[tuple[float, ...], Path] = {}
    for path in files:
        by_volume.setdefault(tuple(dcmread(path, stop_before_pixels=True).ImagePositionPatient), path)
    volume = READER.volume(list(by_volume.values()))
    stored = {ds.SOPInstanceUID: ds.pixel_array for ds in map(dcmread, by_volume.values())}
    for voxels, header in zip(volume.voxels, volume.stack.slices, strict=True):
        np.testing.assert_array_equal(voxels, stored[header.sop_uid])


def test_a_constant_image_is_refused_at_the_door_of_the_model(tmp_path: Path) -> None:
    """A series of one grey value is read as it is; the model says CONSTANT and the value."""
    voxels = np.full((SLICES, 128, 128), 300)
    volume = READER.volume(make_series(tmp_path, slices=SLICES, rows=128, columns=128, voxels=voxels))
    with pytest.raises(InputError, match="every voxel is 300"):
        orient(volume.voxels, volume.stack.grid.affine)


@pytest.mark.parametrize(
    ("allocated", "signed"), list(itertools.product([8, 16], [False, True])), ids=["8u", "8s", "16u", "16s"]
)
def test_slices_may_state_their_words_differently(tmp_path: Path, allocated: int, signed: bool) -> None:
    """One slice of another word length or sign among plain ones means the same grey values."""
    values = np.random.default_rng(3).integers(0, 100, size=(SLICES, ROWS, COLUMNS))
    odd = form(allocated, 8, signed)
    files = make_series(
        tmp_path, slices=SLICES, rows=ROWS, columns=COLUMNS, voxels=values, slice_attributes=[odd] + [{}] * 7
    )
    np.testing.assert_array_equal(READER.volume(files).voxels, values)
