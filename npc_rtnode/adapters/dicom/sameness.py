"""Are two files the same image in two encodings? Element by element, value bytes against value bytes, nothing decoded.

A PACS may send in implicit VR what a scanner sent in explicit VR, or write its sequences with other lengths: the same
data set, another file. What says how a value is written (VR, lengths of sequences and items, group lengths, trailing
padding; PS3.5 6.2, 7.1, 7.2, 7.5) is left out of the comparison, every value is in it, in its place in its sequence.
Compressed pixels are compared as they lie there: the same image with and without compression counts as different, since
this room decodes no pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
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
        files = dcmread(BytesIO(first)), dcmread(BytesIO(second))
        one, other = (_digests(ds) for ds in files)
    syntaxes = {ds.file_meta.TransferSyntaxUID.name for ds in files}
    return tuple(_name(tag, syntaxes) for tag in sorted(one.keys() | other.keys()) if one.get(tag) != other.get(tag))


def _digests(ds: Dataset) -> dict[int, bytes]:
    """Of every element that says something, a digest of its value; group lengths and padding say nothing."""
    tags = (tag for tag in ds.keys() if tag.element and tag != _TRAILING_PADDING)  # noqa: SIM118  (elements, not tags)
    return {int(tag): _digest(ds.get_item(tag)) for tag in tags}


def _digest(element: DataElement | RawDataElement) -> bytes:
    items = [_item_digest(item) for item in _items(element)]
    if items:
        return hashlib.sha256(b"items" + b"".join(items)).digest()
    return hashlib.sha256(b"value" + _value(element)).digest()


def _value(element: DataElement | RawDataElement) -> bytes:
    """The bytes; pydicom reads SpecificCharacterSet at once, and that has its text. No items are an empty value.

    The padding of a text is no part of it (PS3.5 6.2), and DCMTK leaves it out when it sends a file on.
    """
    value = element.value
    if isinstance(value, bytes):
        return value.rstrip(b" \0") if _vr(element) in _PADDED else value
    return b"" if value is None or isinstance(value, Sequence) else str(value).encode()


def _vr(element: DataElement | RawDataElement) -> str:
    """What the file states, or the dictionary where it states nothing; of private elements in implicit VR nothing."""
    stated = element.VR if element.VR not in (None, "UN") else ""
    return stated or (dictionary_VR(element.tag) if dictionary_has_tag(element.tag) else "")


def _item_digest(item: Dataset) -> bytes:
    told = hashlib.sha256()
    for tag, digest in sorted(_digests(item).items()):
        told.update(tag.to_bytes(4, "big") + digest)
    return told.digest()


def _items(element: DataElement | RawDataElement) -> Iterable[Dataset]:
    """The items of a sequence, also of one that its VR does not tell: private in implicit VR, or UN (PS3.5 6.2.2)."""
    if isinstance(element.value, Sequence):
        return element.value
    value = _value(element)
    if isinstance(element, RawDataElement) and element.VR == "SQ":
        return convert_SQ(value, element.is_implicit_VR, element.is_little_endian)
    if element.tag.group != _PIXEL_GROUP and reads_as_sequence(value):
        return convert_SQ(value, True, True)
    return ()


def _name(tag: int, syntaxes: set[str]) -> str:
    keyword = keyword_for_tag(tag) or str(BaseTag(tag))
    if keyword == "PixelData" and len(syntaxes) > 1:
        return f"PixelData (encoded as {' and '.join(sorted(syntaxes))}; pixels are not decoded to compare them)"
    return keyword
