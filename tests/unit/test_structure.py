"""The walk accepts every healthy file that we hold and nothing that is cut, bent or unidentified."""

from __future__ import annotations

import contextlib
import io
import mmap
import os
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread, uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.sequence import Sequence
from pynetdicom.dsutils import split_dataset

from npc_rtnode.adapters.dicom.structure import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION,
    MAX_DEPTH,
    StructureReader,
    _Walk,
)
from npc_rtnode.domain.records import AssociationInfo, ReceivedInstance
from npc_rtnode.errors import Unreadable
from tests.builders.mr_series import SeriesSpec, slice_dataset

EXPLICIT, IMPLICIT = str(uid.ExplicitVRLittleEndian), str(uid.ImplicitVRLittleEndian)
READER = StructureReader()
DATA = Path(os.environ.get("NPC_RTNODE_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
REFUSED = {  # of the real files, with what is wrong; every other file must pass
    "charset_pydicom/chrJapMulti.dcm": "without pixel data",
    "charset_pydicom/chrJapMultiExplicitIR6.dcm": "without pixel data",
    "charset_pydicom/chrKoreanMulti.dcm": "without pixel data",
    "charset_pydicom/chrSQEncoding.dcm": "SOPClassUID",
    "charset_pydicom/chrSQEncoding1.dcm": "SOPClassUID",
    "nasty_pydicom/MR_small_bigendian.dcm": "transfer syntax",
    "nasty_pydicom/MR_small_padded.dcm": "8320 bytes of pixels, 8192 would be",
    "nasty_pydicom/MR_truncated.dcm": "8192 bytes are announced",
    "nasty_pydicom/UN_sequence.dcm": "SOPClassUID",
    "nasty_pydicom/badVR.dcm": "NumberOfFrames",
    "nasty_pydicom/empty_charset_LEI.dcm": "SOPClassUID",
    "nasty_pydicom/image_dfl.dcm": "transfer syntax",
    "nasty_pydicom/meta_missing_tsyntax.dcm": "(0001,0001)",
    "nasty_pydicom/nested_priv_SQ.dcm": "(0001,0001)",
    "nasty_pydicom/no_meta_group_length.dcm": "SOPClassUID",
    "nasty_pydicom/priv_SQ.dcm": "SOPClassUID",
    "nasty_pydicom/rtplan_truncated.dcm": "976 bytes are announced",
    "ts_same_image_9_syntaxes/3.dcm": "transfer syntax",
}


def encoded(ds: Dataset, implicit: bool = False) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, implicit
    write_dataset(buffer, ds)
    return buffer.getvalue()


def image(rows: int = 4, columns: int = 4) -> Dataset:
    """A small MR slice with a sequence two deep, of defined and of undefined length."""
    ds = slice_dataset(SeriesSpec(rows=rows, columns=columns), 0)
    inner, outer = Dataset(), Dataset()
    inner.CodeValue = "T-D1100"
    outer.PurposeOfReferenceCodeSequence = Sequence([inner])
    ds.ReferencedImageSequence = Sequence([outer, outer])
    ds["ReferencedImageSequence"].is_undefined_length = True
    return ds


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value


def identity_with(ds: Dataset, transfer_syntax: str = EXPLICIT) -> None:
    READER.identify(encoded(ds, transfer_syntax == IMPLICIT), transfer_syntax)


WHOLE = {EXPLICIT: encoded(image()), IMPLICIT: encoded(image(), implicit=True)}


# --- what passes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_a_whole_slice_says_who_it_is(syntax: str) -> None:
    """Identity comes out as written, for both VR encodings."""
    ds, found = image(), READER.identify(WHOLE[syntax], syntax)
    assert (found.sop_class_uid, found.sop_uid) == (ds.SOPClassUID, ds.SOPInstanceUID)
    assert (found.study_uid, found.series_uid, found.modality) == (ds.StudyInstanceUID, ds.SeriesInstanceUID, "MR")


def _real_files() -> list[Path]:
    skip = {".txt", ".md", ".gz", ".nrrd"}
    return sorted(path for path in DATA.rglob("*") if path.is_file() and path.suffix not in skip)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.skipif(not DATA.exists(), reason="the shared real files are not here")
def test_every_healthy_real_file_passes() -> None:
    """Of about 350 files of eleven manufacturers exactly the listed ones are refused, for the listed reason."""
    refused, passed = {}, 0
    for path in _real_files():
        data = path.read_bytes()
        if data[128:132] != b"DICM":
            continue
        meta, offset = split_dataset(path)
        try:
            READER.identify(data[offset:], str(meta.get("TransferSyntaxUID", IMPLICIT)))
            passed += 1
        except Unreadable as error:
            refused[str(path.relative_to(DATA))] = str(error)
    assert sorted(refused) == sorted(REFUSED)
    assert [name for name, why in REFUSED.items() if why not in refused[name]] == []
    assert passed > 300


def test_odd_sized_images_may_be_padded() -> None:
    """3 x 3 pixels of 8 bits are 9 bytes, and 10 with the padding byte."""
    ds = image(3, 3)
    ds.BitsAllocated, ds.PixelData = 8, bytes(10)
    identity_with(ds)


def test_zero_bytes_after_the_pixels_pass() -> None:
    """A GE SIGNA file ends in megabytes of them."""
    assert READER.identify(WHOLE[EXPLICIT] + bytes(1000), EXPLICIT)


def test_encapsulated_fragments_are_walked() -> None:
    """One frame in two fragments behind its offset table."""
    ds = image()
    ds.PixelData = encapsulate([bytes(64)], fragments_per_frame=2)
    ds["PixelData"].is_undefined_length = True
    assert READER.identify(encoded(ds), str(uid.RLELossless))
    with pytest.raises(Unreadable, match="transfer syntax is native"):
        READER.identify(encoded(ds), EXPLICIT)


def test_a_mapped_file_is_let_go(tmp_path: Path) -> None:
    """Whether it passes or not, no view of the mapping outlives the walk: or it could not be closed."""
    for name, content in (("whole", WHOLE[EXPLICIT]), ("cut", WHOLE[EXPLICIT][:-1])):
        (tmp_path / name).write_bytes(content)
        with (
            (tmp_path / name).open("rb") as file,
            contextlib.suppress(Unreadable),
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            memoryview(mapped) as view,
        ):
            assert READER.identify(view, EXPLICIT).modality == "MR"


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_cut_anywhere_it_is_refused(syntax: str) -> None:
    """Every proper prefix of a whole slice is refused (row 21)."""
    whole = WHOLE[syntax]
    for size in range(len(whole)):
        with pytest.raises(Unreadable):
            READER.identify(whole[:size], syntax)


@settings(max_examples=300, deadline=1000)
@given(syntax=st.sampled_from([EXPLICIT, IMPLICIT]), place=st.floats(0, 1, exclude_max=True), put=st.binary(max_size=8))
def test_overwritten_bytes_never_hang_or_crash(syntax: str, place: float, put: bytes) -> None:
    """Whatever is written anywhere, the answer is an identity or Unreadable, and quickly."""
    whole = bytearray(WHOLE[syntax])
    at = int(place * len(whole))
    whole[at : at + len(put)] = put
    try:
        READER.identify(bytes(whole), syntax)
    except Unreadable:
        return


@settings(max_examples=500, deadline=1000)
@given(
    place=st.floats(0, 1, exclude_max=True),
    put=st.one_of(st.binary(max_size=8), st.sampled_from([bytes(8), b"\xfe\xff\x00\xe0", b"\x28\0\x10\0US\2\0"])),
    tail=st.sampled_from([b"", bytes(40), element(0x7FE10010, b"LO", b"ab") + bytes(40), b"\1"]),
)
def test_what_is_passed_over_would_have_been_judged_the_same(place: float, put: bytes, tail: bytes) -> None:
    """Plain elements are not looked at one by one; whatever is bent, the verdict is that of who looks at each."""
    data = bytearray(WHOLE[EXPLICIT])
    at = int(place * len(data))
    data[at : at + len(put)] = put
    data += tail
    quickly = _verdict(bytes(data))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(_Walk, "_pass_plain", lambda _walk, at, _end, last: (at, last))
        assert _verdict(bytes(data)) == quickly


def _verdict(data: bytes) -> object:
    try:
        return READER.identify(data, EXPLICIT)
    except Unreadable as error:
        return error.detail


@settings(max_examples=200, deadline=1000)
@given(data=st.binary(max_size=300), syntax=st.sampled_from([EXPLICIT, IMPLICIT, str(uid.RLELossless)]))
def test_random_bytes_are_refused(data: bytes, syntax: str) -> None:
    """Noise is no data set (row 19)."""
    with pytest.raises(Unreadable):
        READER.identify(data, syntax)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.50", "", "x"])
def test_unoffered_transfer_syntaxes_are_refused(syntax: str) -> None:
    """Big endian, deflated, lossy JPEG and nonsense are never walked."""
    with pytest.raises(Unreadable, match="transfer syntax"):
        READER.identify(WHOLE[EXPLICIT], syntax)


@pytest.mark.parametrize(
    "keyword", ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality"]
)
def test_missing_identity_is_refused(keyword: str) -> None:
    """Without one of its names an instance is not taken."""
    ds = image()
    del ds[keyword]
    with pytest.raises(Unreadable, match=keyword):
        identity_with(ds)


@pytest.mark.filterwarnings("ignore:.*for VR UI")
@pytest.mark.parametrize("text", ["../../../var/pwn", "/var/pwn", "1.2\n3", "1.2;$(id)", "1." * 33, ""])
def test_hostile_uids_are_refused(text: str) -> None:
    """A UID is digits and dots, 64 at most (row 18)."""
    ds = image()
    ds.StudyInstanceUID = text
    with pytest.raises(Unreadable, match="StudyInstanceUID"):
        identity_with(ds)


@pytest.mark.parametrize("change", [{"Rows": 5}, {"NumberOfFrames": "2"}, {"BitsAllocated": 8}, {"SamplesPerPixel": 3}])
def test_pixels_must_fill_the_image(change: dict[str, object]) -> None:
    """Pixel data of another size than the image's is refused (row 21)."""
    ds = image()
    for keyword, value in change.items():
        setattr(ds, keyword, value)
    with pytest.raises(Unreadable, match="of pixels"):
        identity_with(ds)


def test_an_image_without_pixels_is_refused() -> None:
    """Cut off right before the pixel element, a slice would look whole."""
    ds = image()
    del ds.PixelData
    with pytest.raises(Unreadable, match="without pixel data"):
        identity_with(ds)


def test_too_large_a_frame_is_refused() -> None:
    """65535 x 65535 pixels in a few bytes of RLE are refused before anybody asks for the memory (row 25)."""
    ds = image()
    ds.Rows = ds.Columns = 65535
    ds.PixelData = encapsulate([bytes(64)])
    ds["PixelData"].is_undefined_length = True
    with pytest.raises(Unreadable, match="would take"):
        READER.identify(encoded(ds), str(uid.RLELossless))


def test_a_second_instance_uid_is_refused() -> None:
    """An element given twice would be read differently by different readers."""
    once = element(0x00080018, b"UI", b"1.2.3.4\0")
    with pytest.raises(Unreadable, match="comes after"):
        READER.identify(once + once, EXPLICIT)


@pytest.mark.parametrize("tag", [0x00000010, 0x00020010, 0x00041130, 0x00010001, 0xFFFEE000, 0xFFFFFFFF])
def test_tags_with_no_place_in_a_data_set(tag: int) -> None:
    """File meta at the front of a data set would be believed by the next reader (PS3.5 7.1)."""
    with pytest.raises(Unreadable, match="cannot stand"):
        READER.identify(element(tag, b"UI", b"1.2.840.10008.1.2\0") + WHOLE[EXPLICIT], EXPLICIT)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_an_empty_command_group_at_the_front_passes(syntax: str) -> None:
    """What DCMTK makes of zeros at the end of a file; a group that claims a length is refused as any other."""
    header = b"\0\0\0\0UL\4\0" if syntax == EXPLICIT else b"\0\0\0\0\4\0\0\0"
    assert READER.identify(header + bytes(4) + WHOLE[syntax], syntax) == READER.identify(WHOLE[syntax], syntax)
    with pytest.raises(Unreadable, match="cannot stand"):
        READER.identify(header + b"\x10\0\0\0" + WHOLE[syntax], syntax)


def test_odd_lengths_are_refused() -> None:
    """PS3.5 7.1.1: values have even length."""
    with pytest.raises(Unreadable, match="odd length"):
        READER.identify(element(0x00080005, b"CS", b"ISO") + WHOLE[EXPLICIT], EXPLICIT)


@pytest.mark.parametrize(("levels", "passes"), [(MAX_DEPTH, True), (MAX_DEPTH + 1, False), (20_000, False)])
def test_nesting_has_a_floor(levels: int, passes: bool) -> None:
    """Sequences within sequences: 32 levels are walked, more are refused without recursion trouble (row 23)."""
    opening = struct.pack("<HHLHHL", 0x0008, 0x1115, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF) * levels
    closing = struct.pack("<HHLHHL", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0) * levels
    ds = image()
    del ds.ReferencedImageSequence
    front, back = Dataset(), Dataset()
    for item in ds:
        (front if item.tag < 0x00081115 else back).add(item)
    data = encoded(front, True) + opening + closing + encoded(back, True)
    if passes:
        assert READER.identify(data, IMPLICIT)
    else:
        with pytest.raises(Unreadable, match="nested deeper"):
            READER.identify(data, IMPLICIT)


def test_a_million_items_are_refused() -> None:
    """One million empty items (8 MB) end at the cap (row 24)."""
    opening = struct.pack("<HHL", 0x0008, 0x1115, 0xFFFFFFFF)
    with pytest.raises(Unreadable, match="items"):
        READER.identify(opening + struct.pack("<HHL", 0xFFFE, 0xE000, 0) * 1_000_000, IMPLICIT)


# --- the file prefix --------------------------------------------------------------------------------------------------


def received(sop_uid: str, calling_ae: str = "SCANNER") -> ReceivedInstance:
    info = AssociationInfo("a1", calling_ae=calling_ae, called_ae="NPC_RTNODE", peer_ip="10.0.0.1")
    return ReceivedInstance(info, str(uid.MRImageStorage), sop_uid, EXPLICIT, WHOLE[EXPLICIT])


def test_prefix_and_bytes_make_a_dicom_file() -> None:
    """pydicom reads prefix + encoded as a file, and the data set's bytes are the very ones that came."""
    sop_uid = image().SOPInstanceUID
    prefix = READER.file_prefix(received(sop_uid))
    ds = dcmread(io.BytesIO(prefix + WHOLE[EXPLICIT]))
    assert ds.SOPInstanceUID == ds.file_meta.MediaStorageSOPInstanceUID == sop_uid
    assert ds.file_meta.TransferSyntaxUID == EXPLICIT
    assert ds.file_meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID


def test_the_prefix_does_not_depend_on_the_way() -> None:
    """The same instance from another AE title makes the same file: it is a duplicate, not a conflict."""
    assert READER.file_prefix(received("1.2.3", "SCANNER")) == READER.file_prefix(received("1.2.3", "PACS"))


def test_a_hostile_uid_never_reaches_the_prefix() -> None:
    """file_prefix refuses what identify would refuse."""
    with pytest.raises(Unreadable):
        READER.file_prefix(received("../../x"))


@pytest.mark.parametrize("value", [b"ISO_\0\0\4\x1e", b"ISO\nIR", b"\xff\xfe"])
def test_a_character_set_that_is_no_text(value: bytes) -> None:
    """pydicom cannot open a file with it, not even its pixels (found by the fuzz)."""
    whole = WHOLE[EXPLICIT]
    charset = element(0x00080005, b"CS", value + b"\0" * (len(value) % 2))
    size = 8 + len("ISO_IR 100")
    assert whole.startswith(element(0x00080005, b"CS", b"ISO_IR 100"))
    with pytest.raises(Unreadable, match="SpecificCharacterSet"):
        READER.identify(charset + whole[size:], EXPLICIT)


def test_an_identifying_value_is_short() -> None:
    """A megabyte of Modality is not read to see that it is none."""
    long = element(0x00080060, b"CS", b"MR".ljust(2000))
    with pytest.raises(Unreadable, match="has a value of 2000 bytes"):
        READER.identify(WHOLE[EXPLICIT].replace(element(0x00080060, b"CS", b"MR"), long), EXPLICIT)


@pytest.mark.parametrize("vr", sorted({*b"AE AS AT DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split()}))
def test_a_character_set_of_another_vr_is_refused(vr: bytes) -> None:
    """Of tags or numbers no reader can make a character set: the file would be kept, and never opened again."""
    whole = WHOLE[EXPLICIT]
    assert whole.startswith(b"\x08\x00\x05\x00CS")
    data = element(0x00080005, vr, b"ISO_IR 100") + whole[8 + len(b"ISO_IR 100") :]
    with pytest.raises(Unreadable, match="SpecificCharacterSet"):
        READER.identify(data, EXPLICIT)


@pytest.mark.parametrize("vr", [b"SQ", b"UN"])
def test_a_character_set_without_length_is_refused(vr: bytes) -> None:
    """An empty sequence in its place."""
    empty = struct.pack("<HH2sHL", 8, 5, vr, 0, 0xFFFFFFFF) + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    with pytest.raises(Unreadable, match="SpecificCharacterSet"):
        READER.identify(empty + WHOLE[EXPLICIT][18:], EXPLICIT)


@pytest.mark.parametrize("name", ["hex ", "bz2 ", "zlib", "base64", "rot13 ", "undefined "])
def test_pythons_codecs_that_are_no_encoding_are_refused(name: str) -> None:
    """pydicom hands an unknown name to Python, which knows codecs that make no text."""
    data = element(0x00080005, b"CS", name.encode()) + WHOLE[EXPLICIT][18:]
    with pytest.raises(Unreadable, match="name encodings of text"):
        READER.identify(data, EXPLICIT)


@pytest.mark.parametrize(
    "value",
    [b"", b"\\ ", b"\\ISO 2022 IR 58 ", b"ISO_IR 999", b"GB18030 ", b"gbk ", b"ISO_IR 192\\ISO_IR 100 ", b"no such "],
)
def test_other_character_sets_pass(value: bytes) -> None:
    """Unknown names and odd spellings of old scanners are read around, as pydicom does."""
    READER.identify(element(0x00080005, b"CS", value) + WHOLE[EXPLICIT][18:], EXPLICIT)


@pytest.mark.parametrize(
    ("tag", "own", "other"),
    [
        (0x00080018, b"UI", b"AT"),
        (0x00080016, b"UI", b"LO"),
        (0x0020000D, b"UI", b"US"),
        (0x0020000E, b"UI", b"ST"),
        (0x00080060, b"CS", b"FL"),
        (0x00280010, b"US", b"SS"),
        (0x00280100, b"US", b"AT"),
    ],
)
def test_an_identifying_element_of_another_vr_is_refused(tag: int, own: bytes, other: bytes) -> None:
    """A SOPInstanceUID whose VR says tags is one instance to the walk and another to pydicom (found by the fuzz)."""
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    assert WHOLE[EXPLICIT].count(head + own) == 1
    with pytest.raises(Unreadable, match="another VR than its own"):
        READER.identify(WHOLE[EXPLICIT].replace(head + own, head + other), EXPLICIT)


@pytest.mark.parametrize("sop_uid", ["1.2.3", "1.2.34", "1." + "2" * 62])
def test_the_prefix_is_what_the_library_would_write(sop_uid: str) -> None:
    """Written by hand for speed, and byte for byte what pydicom writes: digests of the same instance stay the same."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = uid.MRImageStorage, uid.UID(sop_uid)
    meta.TransferSyntaxUID, meta.ImplementationClassUID = uid.UID(EXPLICIT), uid.UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = False, True
    buffer.write(bytes(128) + b"DICM")
    write_file_meta_info(buffer, meta, enforce_standard=True)
    assert READER.file_prefix(received(sop_uid)) == buffer.getvalue()
