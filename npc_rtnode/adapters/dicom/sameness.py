"""Are two files the same image in two encodings? Element by element, value bytes against value bytes, nothing decoded.

A PACS may send in implicit VR what a scanner sent in explicit VR, or write its sequences with other lengths: the same
data set, another file. What says how a value is written (VR, lengths of sequences and items, group lengths, trailing
padding; PS3.5 6.2, 7.1, 7.2, 7.5) is left out of the comparison, every value is in it, in its place in its sequence.
Compressed pixels are compared as they lie there: the same image with and without compression counts as different, since
this room decodes no pixels.
"""

from __future__ import annotations

from io import BytesIO
from typing import Final

from pydicom import dcmread
from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag
from pydicom.values import convert_SQ

from npc_rtnode.adapters.dicom.elements import quietly
from npc_rtnode.adapters.dicom.structure import StructureReader, reads_as_sequence

_TRAILING_PADDING: Final = 0xFFFCFFFC
_PIXEL_GROUP: Final = 0x7FE0
_PADDED: Final = frozenset(
    ("AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT")
)


Element = DataElement | RawDataElement


class InstanceReader(StructureReader):
    """Fulfils ports.DatasetReader: the walk, and the comparison of what passed it."""

    def differences(self, first: bytes, second: bytes) -> tuple[str, ...]:
        """Keywords of the elements in which two DICOM files differ; empty: the same image, however encoded."""
        return differences(first, second)


def differences(first: bytes, second: bytes) -> tuple[str, ...]:
    """Keywords (or tags, where there is none) of the outermost elements in which two DICOM files differ, in order.

    Empty: the same image. Both files must have passed `StructureReader.identify`, which bounds what is read here.
    """
    with quietly():
        one, other = dcmread(BytesIO(first)), dcmread(BytesIO(second))
        found = _differing(one, other)
    syntaxes = {ds.file_meta.TransferSyntaxUID.name for ds in (one, other)}
    return tuple(_name(tag, syntaxes) for tag in found)


def _differing(one: Dataset, other: Dataset) -> list[BaseTag]:
    """The elements that do not say the same, or that only one of two data sets or items has."""
    ours, theirs = _elements(one), _elements(other)
    return sorted(tag for tag in ours.keys() | theirs.keys() if not _same(ours.get(tag), theirs.get(tag)))


def _elements(ds: Dataset) -> dict[BaseTag, Element]:
    """Every element that says something, as it lies there; group lengths and padding say nothing."""
    tags = [tag for tag in ds.keys() if tag.element and tag != _TRAILING_PADDING]  # noqa: SIM118  (elements, not tags)
    return {tag: ds.get_item(tag) for tag in tags}


def _same(one: Element | None, other: Element | None) -> bool:
    if one is None or other is None:
        return False
    vr = _vr(one, other)
    ours, theirs = _items(one), _items(other)
    if ours or theirs:
        return len(ours) == len(theirs) and not any(map(_differing, ours, theirs))
    return _value(one, vr) == _value(other, vr)


def _vr(one: Element, other: Element) -> str:
    """What either file states, else the dictionary; of a private element in implicit VR nothing is known."""
    if one.tag.is_private_creator:
        return "LO"
    stated = (element.VR for element in (one, other) if element.VR not in (None, "UN"))
    return next(stated, None) or (dictionary_VR(one.tag) if dictionary_has_tag(one.tag) else "")


def _value(element: Element, vr: str) -> bytes:
    """The bytes; no items are an empty value. The padding of a text is no part of it (PS3.5 6.2), and DCMTK leaves it
    out when it sends a file on. pydicom reads two elements at once: SpecificCharacterSet and PixelRepresentation."""
    value = element.value
    if isinstance(value, bytes):
        return value.rstrip(b" \0") if vr in _PADDED else value
    if isinstance(value, int):
        return value.to_bytes(2, "little")
    return b"" if value is None or isinstance(value, Sequence) else str(value).encode()


def _items(element: Element) -> list[Dataset]:
    """The items of a sequence, also of one that its VR does not tell: private in implicit VR, or UN (PS3.5 6.2.2)."""
    if isinstance(element.value, Sequence):
        return list(element.value)
    value = element.value if isinstance(element.value, bytes) else b""
    if isinstance(element, RawDataElement) and element.VR == "SQ":
        return list(convert_SQ(value, element.is_implicit_VR, element.is_little_endian))
    if element.tag.group != _PIXEL_GROUP and reads_as_sequence(value):
        return list(convert_SQ(value, True, True))
    return []


def _name(tag: BaseTag, syntaxes: set[str]) -> str:
    keyword = keyword_for_tag(tag) or str(tag)
    if keyword == "PixelData" and len(syntaxes) > 1:
        return f"PixelData (encoded as {' and '.join(sorted(syntaxes))}; pixels are not decoded to compare them)"
    return keyword
