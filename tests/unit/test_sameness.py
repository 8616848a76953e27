"""One image in two encodings is one image; anything that a reader could tell apart is two."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import dcmwrite, write_dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from npc_rtnode.adapters.dicom.sameness import differences
from npc_rtnode.adapters.dicom.structure import reads_as_sequence
from tests.builders.mr_series import SeriesSpec, slice_dataset


def image(**attributes: Any) -> Dataset:
    """A slice with a public sequence in a sequence, and a private one."""
    ds = slice_dataset(SeriesSpec(attributes=attributes), 3)
    ds.RequestAttributesSequence = [Dataset()]
    ds.RequestAttributesSequence[0].RequestedProcedureDescription = "MR NPC"
    ds.RequestAttributesSequence[0].ScheduledProtocolCodeSequence = [Dataset(), Dataset()]
    ds.RequestAttributesSequence[0].ScheduledProtocolCodeSequence[1].CodeMeaning = "Neck"
    block = ds.private_block(0x0021, "SOMEBODY'S OWN", create=True)
    block.add_new(0x01, "SQ", Sequence([Dataset()]))
    ds[0x00211001].value[0].add_new(0x00080104, "LO", "private words")
    return ds


def encoded(ds: Dataset, implicit: bool = False, undefined: bool = False) -> bytes:
    """The file; `undefined`: sequences and items without stated lengths."""
    if undefined:
        _forget_lengths(ds)
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    buffer = BytesIO()
    dcmwrite(buffer, ds, implicit_vr=implicit, little_endian=True, enforce_file_format=True)
    return buffer.getvalue()


def _forget_lengths(ds: Dataset) -> None:
    for element in ds:
        if element.VR == "SQ":
            element.is_undefined_length = True
            for item in element.value:
                item.is_undefined_length_sequence_item = True
                _forget_lengths(item)


@pytest.mark.parametrize(("implicit", "undefined"), [(True, False), (False, True), (True, True)])
def test_another_encoding_of_the_same_elements_is_the_same(implicit: bool, undefined: bool) -> None:
    """VR encoding and lengths of sequences, private ones included, make no difference."""
    plain, other = encoded(image()), encoded(image(), implicit, undefined)
    assert plain != other
    assert differences(plain, other) == differences(other, plain) == ()


def test_group_lengths_and_trailing_padding_say_nothing() -> None:
    """What only helps to read, or fills up, is no content."""
    padded = image()
    padded.add_new(0x00080000, "UL", 4711)
    padded.add_new(0xFFFCFFFC, "OB", bytes(16))
    assert differences(encoded(image()), encoded(padded)) == ()


@pytest.mark.parametrize("implicit", [False, True])
def test_the_padding_of_a_text_says_nothing_and_that_of_a_number_does_not_exist(implicit: bool) -> None:
    """DCMTK sends a name of blanks as an empty one; a number whose bytes are a blank and a zero is not 0."""
    plain, padded = image(InstitutionName=""), image(InstitutionName="        ")
    assert differences(encoded(plain, implicit), encoded(padded, implicit)) == ()
    plain.LargestImagePixelValue, padded.LargestImagePixelValue = 0, 32
    assert differences(encoded(plain, implicit), encoded(padded, implicit)) == ("LargestImagePixelValue",)


def test_an_empty_sequence_is_an_empty_value() -> None:
    """Without items there is nothing, with a stated length of zero or with none."""
    one, other = image(ReferencedImageSequence=[]), image(ReferencedImageSequence=[])
    assert differences(encoded(one), encoded(other, undefined=True)) == ()


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"PatientID": "PHANTOM-2"}, ("PatientID",)),
        ({"ImagePositionPatient": [0, 0, 1]}, ("ImagePositionPatient",)),
        ({"ContrastBolusAgent": None}, ("ContrastBolusAgent",)),
        ({"StudyDescription": "x", "EchoTime": "12"}, ("StudyDescription", "EchoTime")),
    ],
)
def test_what_differs_is_named(change: dict[str, Any], names: tuple[str, ...]) -> None:
    """By keyword, in the order of the tags, in either direction, and never by value."""
    assert differences(encoded(image()), encoded(image(**change), implicit=True)) == names
    assert differences(encoded(image(**change)), encoded(image())) == names


def test_one_bit_of_a_pixel_is_a_difference() -> None:
    """Pixels count as they are."""
    ds = image()
    ds["PixelData"].value = bytes([ds.PixelData[0] ^ 1]) + ds.PixelData[1:]
    assert differences(encoded(image()), encoded(ds)) == ("PixelData",)


def test_a_value_deep_in_a_sequence_is_a_difference() -> None:
    """The outermost element is named; a private sequence in implicit VR is looked into as well."""
    ds = image()
    ds.RequestAttributesSequence[0].ScheduledProtocolCodeSequence[1].CodeMeaning = "Head"
    ds[0x00211001].value[0][0x00080104].value = "other private words"
    assert differences(encoded(image()), encoded(ds, implicit=True)) == ("(0021,1001)", "RequestAttributesSequence")


def test_items_in_another_order_are_a_difference() -> None:
    """A sequence is ordered."""
    ds = image()
    ds.RequestAttributesSequence[0].ScheduledProtocolCodeSequence = [Dataset(), Dataset()]
    ds.RequestAttributesSequence[0].ScheduledProtocolCodeSequence[0].CodeMeaning = "Neck"
    assert differences(encoded(image()), encoded(ds)) == ("RequestAttributesSequence",)


def test_compressed_pixels_are_told_as_such() -> None:
    """The same image with RLE is not decoded here: it is a difference, and the reason says why."""
    plain, compressed = encoded(image()), image()
    compressed.compress(RLELossless, generate_instance_uid=False)
    buffer = BytesIO()
    dcmwrite(buffer, compressed, enforce_file_format=True)
    told = differences(plain, buffer.getvalue())
    assert told == (
        "PixelData (encoded as Explicit VR Little Endian and RLE Lossless; pixels are not decoded to compare them)",
    )


def test_what_only_begins_like_a_sequence_is_a_value() -> None:
    """Bytes count as items only if they are items to the last one."""
    item = Dataset()
    item.CodeMeaning = "Neck"
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = True, True
    write_dataset(buffer, item)
    whole = b"\xfe\xff\x00\xe0" + len(buffer.getvalue()).to_bytes(4, "little") + buffer.getvalue()
    assert reads_as_sequence(whole)
    assert not reads_as_sequence(whole[:-1])
    assert not reads_as_sequence(whole + b"\0\0")
    assert dcmread(BytesIO(encoded(image()))).PatientID == "PHANTOM-1"
