"""Is this data set whole, and which instance is it? A strict walk of the encoded bytes to the very last one.

pydicom reads a pixel element that claims 500 000 bytes and holds 1 000 without a word (intake.md 1.2, row 21), recurses
into 300 nested sequences (row 23) and spends 14 s and 725 MB on a million empty items (row 24). So nothing is decoded
here: the walk only follows tags and lengths (PS3.5 7.1, 7.5, A.4), each bounded by what is there, and keeps the raw
values of the few elements that say which instance this is.

What is refused, by decision, beyond plain truncation:
* a tag that does not ascend within its data set or item (PS3.5 7.1): a second SOPInstanceUID would be read by others;
* groups below 0008 (PS3.5 7.1): a group 0002 at the front would pass for file meta once the bytes are in a file;
* an odd value length (PS3.5 7.1.1). None of the 300 healthy files of eleven manufacturers that we hold has one;
* an explicit VR that PS3.5 6.2 does not know;
* an element that says which instance this is, with another VR than its own: as tags a UID is another one (fuzz);
* a SpecificCharacterSet that is no code string, or names what is no encoding of text (found by the fuzz: no reader
  gets past it);
* a native PixelData whose length is not what Rows, Columns and so on come to, one padding byte allowed (PS3.5 8.2).
Zero bytes after a whole pixel element pass: one published GE SIGNA file ends in 2.4 MB of them. So does what DCMTK
makes of those when it sends the file on: an empty command group at the very front.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, NamedTuple

from pydicom import uid
from pydicom.charset import convert_encodings
from pydicom.datadict import dictionary_VR

from npc_rtnode.adapters.dicom.elements import quietly
from npc_rtnode.domain.identifiers import derived_uid
from npc_rtnode.domain.records import InstanceIdentity, StoreRequest
from npc_rtnode.errors import Unreadable

NATIVE: Final = (str(uid.ImplicitVRLittleEndian), str(uid.ExplicitVRLittleEndian))
ENCAPSULATED: Final = tuple(
    map(str, (uid.RLELossless, uid.JPEGLosslessSV1, uid.JPEGLossless, uid.JPEGLSLossless, uid.JPEG2000Lossless))
)
TRANSFER_SYNTAXES: Final = NATIVE + ENCAPSULATED  # no deflated (row 22), no big endian, no lossy

IMPLEMENTATION_CLASS_UID: Final = derived_uid("npc_rtnode", "implementation class")
IMPLEMENTATION_VERSION: Final = "NPC_RTNODE"  # no release number: the same instance must always make the same file

IMAGE_CLASSES: Final = frozenset(  # cut off before the pixel element, these would still look whole
    map(
        str,
        (
            uid.MRImageStorage,
            uid.EnhancedMRImageStorage,
            uid.EnhancedMRColorImageStorage,
            uid.SecondaryCaptureImageStorage,
            uid.MultiFrameSingleBitSecondaryCaptureImageStorage,
            uid.MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
            uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
            uid.MultiFrameTrueColorSecondaryCaptureImageStorage,
            uid.SegmentationStorage,
            uid.ParametricMapStorage,
            uid.CTImageStorage,
            uid.EnhancedCTImageStorage,
            uid.PositronEmissionTomographyImageStorage,
            uid.EnhancedPETImageStorage,
        ),
    )
)

MAX_DEPTH: Final = 32  # sequences within sequences; real enhanced MR has 4
MAX_ELEMENTS: Final = 1_000_000  # an enhanced MR of 2 000 frames has about 200 000
MAX_ITEMS: Final = 250_000  # items and fragments together
MAX_DECODED_BYTES: Final = 2 << 30  # of pixels, before anybody asks for the memory (row 25)

_LONGEST_IDENTIFYING: Final = 1024  # bytes of a value that is looked at; a UID has 64
_PIECE: Final = 65536  # bytes looked at together, or a file's whole tail would be in memory

_UID_TEXT: Final = re.compile(r"[0-9.]{1,64}")
_UNDEFINED: Final = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_PIXELS, _FLOAT_PIXELS, _DOUBLE_PIXELS = 0x7FE00010, 0x7FE00008, 0x7FE00009
_FIRST, _BEHIND = 0x00080000, 0xFFFE0000  # tags of a data set lie from the one up to the other

# PS3.5 7.1.2: these have two reserved bytes and a 32-bit length; all other VRs a 16-bit length.
_LONG_VRS: Final = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_SHORT_VRS: Final = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())

_HEADER: Final = struct.Struct("<HH2sH")  # tag, then explicit VR and 16-bit length
_IMPLICIT: Final = struct.Struct("<HHL")
_LENGTH: Final = struct.Struct("<L")

# (0000,0000) Command Group Length 0, in implicit and in explicit VR: nothing follows of it.
_EMPTY_COMMAND_GROUP: Final = (_IMPLICIT.pack(0, 0, 4) + bytes(4), _HEADER.pack(0, 0, b"UL", 4) + bytes(4))

_CHARSET: Final = 0x00080005
_CHARSET_VRS: Final = frozenset(
    (b"", b"CS", b"UN")
)  # a gateway may have made UN of it; of AT, SS … nobody can read text
_CHARSET_TEXT: Final = re.compile(rb"[ -~]*\0*")  # lower case and unknown names pass, pydicom reads around them
_SOP_CLASS, _SOP_INSTANCE, _MODALITY = 0x00080016, 0x00080018, 0x00080060
_STUDY, _SERIES = 0x0020000D, 0x0020000E
_SAMPLES, _PHOTOMETRIC, _FRAMES = 0x00280002, 0x00280004, 0x00280008
_ROWS, _COLUMNS, _BITS = 0x00280010, 0x00280011, 0x00280100
_WANTED: Final = frozenset(
    (_SOP_CLASS, _SOP_INSTANCE, _MODALITY, _STUDY, _SERIES, _SAMPLES, _PHOTOMETRIC, _FRAMES, _ROWS, _COLUMNS, _BITS)
)
_LOOKED_AT: Final = _WANTED | {_CHARSET}
_OWN_VRS: Final = {tag: {b"", b"UN", dictionary_VR(tag).encode("ascii")} for tag in _WANTED}


class StructureReader:
    """The few questions that receiving asks of a data set's bytes."""

    def identify(self, encoded: bytes | memoryview, transfer_syntax_uid: str) -> InstanceIdentity:
        """Walk the structure to the very last byte, then read identity; raises Unreadable.

        Patient elements may be empty or absent here: whose images they are is judged over a series, not over a slice.
        """
        if transfer_syntax_uid not in TRANSFER_SYNTAXES:
            raise Unreadable("Its transfer syntax is not one that this node takes.")
        walk = _Walk(encapsulated=transfer_syntax_uid in ENCAPSULATED)
        with memoryview(encoded) as walk.data:  # and no byte of a mapped file is held on to afterwards
            walk.data_set(0, len(encoded), explicit=transfer_syntax_uid != uid.ImplicitVRLittleEndian)
        sop_class = walk.uid(_SOP_CLASS, "SOPClassUID")
        walk.check_pixels(needed=sop_class in IMAGE_CLASSES)
        return InstanceIdentity(
            sop_class_uid=sop_class,
            sop_uid=walk.uid(_SOP_INSTANCE, "SOPInstanceUID"),
            study_uid=walk.uid(_STUDY, "StudyInstanceUID"),
            series_uid=walk.uid(_SERIES, "SeriesInstanceUID"),
            modality=walk.code(_MODALITY, "Modality"),
        )

    def file_prefix(self, request: StoreRequest) -> bytes:
        """Preamble, prefix and file meta group (PS3.10 7.1) that make the encoded bytes a DICOM file.

        A function of class, instance and transfer syntax alone: the same instance arriving again, by way of another AE
        title or after an upgrade, makes the same file with the same digest. Who sent it stands in the ledger.
        """
        meta = b"".join(
            (
                _META_VERSION,
                _meta(2, b"UI", checked_uid(request.sop_class_uid, "SOP Class UID")),
                _meta(3, b"UI", checked_uid(request.sop_uid, "SOP Instance UID")),
                _meta(0x10, b"UI", checked_uid(request.transfer_syntax_uid, "Transfer Syntax UID")),
                _META_IMPLEMENTATION,
            )
        )
        return _PREAMBLE + struct.pack("<HH2sHL", 2, 0, b"UL", 4, len(meta)) + meta


def _meta(element: int, vr: bytes, text: str) -> bytes:
    """An element of the file meta group, explicit VR, padded to even length (PS3.5 7.1.2, 6.2)."""
    value = text.encode("ascii") + (b"\0" if vr == b"UI" else b" ") * (len(text) % 2)
    return struct.pack("<HH2sH", 2, element, vr, len(value)) + value


_PREAMBLE: Final = bytes(128) + b"DICM"
_META_VERSION: Final = struct.pack("<HH2sHL2s", 2, 1, b"OB", 0, 2, b"\0\1")
_META_IMPLEMENTATION: Final = _meta(0x12, b"UI", IMPLEMENTATION_CLASS_UID) + _meta(0x13, b"SH", IMPLEMENTATION_VERSION)


def checked_uid(text: str, what: str) -> str:
    """The text, if it can be a UID at all (row 18); leading zeros of old scanners pass. Raises Unreadable."""
    if not _UID_TEXT.fullmatch(text):
        raise Unreadable(f"{what} is not made of 1 to 64 digits and dots.")
    return text


def reads_as_sequence(value: bytes) -> bool:
    """Whether these bytes are, to the last one, the items of a sequence in implicit VR."""
    if not value.startswith(b"\xfe\xff\x00\xe0"):
        return False
    try:
        return _Walk(encapsulated=False, data=memoryview(value)).items_to_the_end()
    except Unreadable:
        return False


class _Element(NamedTuple):
    tag: int
    vr: bytes  # b"" in implicit VR
    length: int
    value_at: int


@dataclass
class _Walk:
    """One pass over one data set; positions are byte offsets into it."""

    encapsulated: bool
    data: memoryview = field(default_factory=lambda: memoryview(b""))
    elements: int = 0
    items: int = 0
    found: dict[int, bytes] = field(default_factory=dict)
    pixel_lengths: dict[int, int] = field(default_factory=dict)
    fragments: int = 0

    # --- structure ---------------------------------------------------------------------------------------------------

    def data_set(self, at: int, end: int, explicit: bool) -> None:
        """The outermost data set: no delimiter ends it, the last byte does."""
        last = -1
        at += len(group) if self.data[: len(group := _EMPTY_COMMAND_GROUP[explicit])] == group else 0
        while at < end and not (last >= _PIXELS and self._only_zeros(at)):
            if explicit:
                at, last = self._pass_plain(at, end, last)
            element = self._element(at, end, explicit, last)
            last = element.tag
            at = self._pass_value(element, end, explicit, depth=0)
            if last in _WANTED:
                self._check_vr(element)
                self.found[last] = self._identifying(element, at)

    def _pass_plain(self, at: int, end: int, last: int) -> tuple[int, int]:
        """Over elements of explicit VR of which nothing is to be known: before all pixels, a short VR, in order, whole,
        with more behind them. Whatever is odd about one, or wanted, is left to be judged; where that stands, and the
        tag before it. Half the time of a walk went into judging what is in order."""
        data, header, elements = self.data, _HEADER.unpack_from, self.elements
        while at + 8 < end and elements < MAX_ELEMENTS:
            group, number, vr, length = header(data, at)
            tag, following = group << 16 | number, at + 8 + length
            if not _FIRST <= tag < _FLOAT_PIXELS or tag <= last or tag in _LOOKED_AT:
                break
            if vr not in _SHORT_VRS or length % 2 or following >= end:
                break
            at, last, elements = following, tag, elements + 1
        self.elements = elements
        return at, last

    def _check_vr(self, element: _Element) -> None:
        """What says which instance this is must say the same to every reader, as text or as tags."""
        if element.vr not in _OWN_VRS[element.tag]:
            raise Unreadable(f"Tag {_name(element.tag)} has another VR than its own.")

    def _identifying(self, element: _Element, end: int) -> bytes:
        if end - element.value_at > _LONGEST_IDENTIFYING:
            raise Unreadable(f"Tag {_name(element.tag)} has a value of {end - element.value_at} bytes.")
        return bytes(self.data[element.value_at : end])

    def items_to_the_end(self) -> bool:
        """Whether all of it is the items of one sequence in implicit VR."""
        return self._sequence(0, len(self.data), len(self.data), explicit=False, depth=1) == len(self.data)

    def _item_elements(self, at: int, end: int, explicit: bool, depth: int, delimited: bool) -> int:
        """Elements of one item, up to `end` or (length undefined) to its delimiter; where the next thing starts."""
        last = -1
        while delimited or at < end:
            if delimited and self._tag(at, end) == _ITEM_END:
                return self._after_delimiter(at, end)
            element = self._element(at, end, explicit, last)
            last = element.tag
            at = self._pass_value(element, end, explicit, depth)
        return at

    def _element(self, at: int, end: int, explicit: bool, last: int) -> _Element:
        self.elements += 1
        if self.elements > MAX_ELEMENTS:
            raise Unreadable(f"It has more than {MAX_ELEMENTS} elements.")
        element = self._explicit_header(at, end) if explicit else self._implicit_header(at, end)
        if not _FIRST <= element.tag < _BEHIND:
            raise Unreadable(f"Tag {_name(element.tag)} cannot stand in a data set (offset {at}).")
        if element.tag <= last:
            raise Unreadable(f"Tag {_name(element.tag)} comes after {_name(last)} (offset {at}).")
        if element.length != _UNDEFINED:
            self._bounded(element, end)
        return element

    def _explicit_header(self, at: int, end: int) -> _Element:
        self._has(at, 8, end)
        group, number, vr, length = _HEADER.unpack_from(self.data, at)
        if vr in _SHORT_VRS:
            return _Element(group << 16 | number, vr, length, at + 8)
        if vr not in _LONG_VRS:
            raise Unreadable(f"Tag {_name(group << 16 | number)} has no VR of the standard (offset {at}).")
        self._has(at, 12, end)
        return _Element(group << 16 | number, vr, _LENGTH.unpack_from(self.data, at + 8)[0], at + 12)

    def _implicit_header(self, at: int, end: int) -> _Element:
        self._has(at, 8, end)
        group, number, length = _IMPLICIT.unpack_from(self.data, at)
        return _Element(group << 16 | number, b"", length, at + 8)

    def _pass_value(self, element: _Element, end: int, explicit: bool, depth: int) -> int:
        """Where the element after this one starts; sequences and fragments are walked on the way."""
        tag, vr, length, at = element
        if tag in (_PIXELS, _FLOAT_PIXELS, _DOUBLE_PIXELS) and vr != b"SQ":
            if depth == 0:
                self.pixel_lengths[tag] = length
            return self._fragments(at, end, depth) if length == _UNDEFINED else at + length
        if tag == _CHARSET:
            self._check_charset(element)
        if vr == b"SQ" or (not vr and _is_sequence(tag, length)):
            return self._sequence(at, length, end, explicit, depth + 1)
        if length != _UNDEFINED:
            return at + length
        if vr == b"UN":  # PS3.5 6.2.2 note 2: a sequence of unknown VR is encoded in implicit VR
            return self._sequence(at, length, end, False, depth + 1)
        raise Unreadable(f"Tag {_name(tag)} has no length and is no sequence (offset {at}).")

    def _check_charset(self, element: _Element) -> None:
        """pydicom decodes with whatever this element says, and where it cannot, the whole file is unreadable."""
        if element.vr not in _CHARSET_VRS or element.length == _UNDEFINED:
            raise Unreadable("SpecificCharacterSet is not made of code strings.")
        if not _names_encodings(self._identifying(element, element.value_at + element.length)):
            raise Unreadable("SpecificCharacterSet is not made of code strings that name encodings of text.")

    def _sequence(self, at: int, length: int, end: int, explicit: bool, depth: int) -> int:
        if depth > MAX_DEPTH:
            raise Unreadable(f"Sequences are nested deeper than {MAX_DEPTH}.")
        delimited = length == _UNDEFINED
        end = end if delimited else at + length
        while delimited or at < end:
            tag, size = self._item_header(at, end)
            if delimited and tag == _SEQUENCE_END:
                return self._after_delimiter(at, end)
            at = self._item(tag, size, at, end, explicit, depth)
        return at

    def _item(self, tag: int, size: int, at: int, end: int, explicit: bool, depth: int) -> int:
        self._count_item(tag, at)
        at += 8
        if size == _UNDEFINED:
            return self._item_elements(at, end, explicit, depth, delimited=True)
        self._has(at, size, end)
        return self._item_elements(at, at + size, explicit, depth, delimited=False)

    def _fragments(self, at: int, end: int, depth: int) -> int:
        """Encapsulated pixel data (PS3.5 A.4): an offset table, fragments of even length, a delimiter."""
        if not self.encapsulated:
            raise Unreadable("Its pixel data are encapsulated, its transfer syntax is native.")
        fragments = -1  # the first item is the basic offset table
        while True:
            tag, size = self._item_header(at, end)
            if tag == _SEQUENCE_END:
                self.fragments = self.fragments if depth else fragments
                return self._after_delimiter(at, end)
            self._count_item(tag, at)
            if size % 2:
                raise Unreadable(f"A pixel fragment has an odd length (offset {at}).")
            self._has(at + 8, size, end)
            at += 8 + size
            fragments += 1

    def _only_zeros(self, at: int) -> bool:
        pieces = (bytes(self.data[here : here + _PIECE]) for here in range(at, len(self.data), _PIECE))
        return not any(self.data[at : at + 8]) and not any(piece.strip(b"\0") for piece in pieces)

    def _count_item(self, tag: int, at: int) -> None:
        if tag != _ITEM:
            raise Unreadable(f"Tag {_name(tag)} stands where an item should (offset {at}).")
        self.items += 1
        if self.items > MAX_ITEMS:
            raise Unreadable(f"It has more than {MAX_ITEMS} items.")

    def _item_header(self, at: int, end: int) -> tuple[int, int]:
        self._has(at, 8, end)
        group, number, size = _IMPLICIT.unpack_from(self.data, at)
        return group << 16 | number, size

    def _after_delimiter(self, at: int, end: int) -> int:
        if self._item_header(at, end)[1] != 0:
            raise Unreadable(f"A delimiter has a length (offset {at}).")
        return at + 8

    def _tag(self, at: int, end: int) -> int:
        return self._item_header(at, end)[0]

    def _bounded(self, element: _Element, end: int) -> None:
        if element.length % 2:
            raise Unreadable(f"Tag {_name(element.tag)} has an odd length (offset {element.value_at}).")
        self._has(element.value_at, element.length, end)

    def _has(self, at: int, size: int, end: int) -> None:
        if size > end - at:
            raise Unreadable(f"{size} bytes are announced at offset {at}, {end - at} are there.")

    # --- values ------------------------------------------------------------------------------------------------------

    def uid(self, tag: int, keyword: str) -> str:
        """A UID of the outermost data set."""
        return checked_uid(self._text(tag, keyword), keyword)

    def code(self, tag: int, keyword: str) -> str:
        """A CS value of the outermost data set, at most 16 characters."""
        text = self._text(tag, keyword)
        if not re.fullmatch(r"[A-Z0-9 _]{1,16}", text):
            raise Unreadable(f"{keyword} is not a code string.")
        return text

    def _text(self, tag: int, keyword: str) -> str:
        if tag not in self.found:
            raise Unreadable(f"{keyword} is missing.")
        return self.found[tag].decode("ascii", "replace").strip(" \0")

    def _number(self, tag: int, keyword: str) -> int:
        value = self.found.get(tag, b"")
        if len(value) != 2:
            raise Unreadable(f"There are pixels, and {keyword} is missing or not one number.")
        return int.from_bytes(value, "little")

    def _frames(self) -> int:
        text = self._text(_FRAMES, "NumberOfFrames") if self.found.get(_FRAMES) else "1"
        if not re.fullmatch(r"\+?[0-9]{1,9}", text) or int(text) == 0:
            raise Unreadable("NumberOfFrames is not a count.")
        return int(text)

    def check_pixels(self, needed: bool) -> None:
        """Pixel data must be as long as the image is large (PS3.3 C.7.6.3), and an image must have some."""
        if not self.pixel_lengths and (needed or _ROWS in self.found):
            raise Unreadable("It is an image without pixel data.")
        for tag, length in self.pixel_lengths.items():
            expected = self._pixel_bytes(tag)
            if self.encapsulated and tag == _PIXELS:
                self._check_fragments(length, expected)
            elif length not in (expected, expected + expected % 2):
                raise Unreadable(f"{length} bytes of pixels, {expected} would be the whole image.")

    def _pixel_bytes(self, tag: int) -> int:
        bits = {_FLOAT_PIXELS: 32, _DOUBLE_PIXELS: 64}.get(tag) or self._number(_BITS, "BitsAllocated")
        samples = self._number(_SAMPLES, "SamplesPerPixel")
        if self.found.get(_PHOTOMETRIC, b"").strip() == b"YBR_FULL_422" and not self.encapsulated:
            samples = 2  # chrominance is sampled at every second column (PS3.3 C.7.6.3.1.2)
        pixels = self._number(_ROWS, "Rows") * self._number(_COLUMNS, "Columns") * samples * self._frames()
        return (pixels * bits + 7) // 8

    def _check_fragments(self, length: int, expected: int) -> None:
        if length != _UNDEFINED:
            raise Unreadable("Its transfer syntax is encapsulated, its pixel data are not.")
        if self.fragments < self._frames():
            raise Unreadable(f"{self.fragments} pixel fragments cannot hold {self._frames()} frames.")
        if expected > MAX_DECODED_BYTES:
            raise Unreadable(f"Its pixels would take {expected} bytes.")


@lru_cache(maxsize=64)
def _names_encodings(value: bytes) -> bool:
    """Whether pydicom gets past this SpecificCharacterSet: Python knows `hex` and `bz2` as codecs, but of no text."""
    if not _CHARSET_TEXT.fullmatch(value):
        return False
    names = [name.strip() for name in value.decode("ascii").rstrip("\0").split("\\")]
    try:
        with quietly():
            return all("x".encode(encoding) for encoding in convert_encodings(names))
    except (LookupError, ValueError):
        return False


def _is_sequence(tag: int, length: int) -> bool:
    """Whether an element of implicit VR is a sequence: by the dictionary, or because nothing else lacks a length."""
    if length == _UNDEFINED:
        return True
    if tag >> 16 & 1:  # private: its bytes stay opaque
        return False
    try:
        return dictionary_VR(tag) == "SQ"
    except KeyError:
        return False


def _name(tag: int) -> str:
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
