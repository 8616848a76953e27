"""The images that a structure set points at, wherever it names them; its contours stay unread."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pydicom import Dataset
from pydicom.sequence import Sequence

from npc_rtnode.adapters.dicom.elements import read_elements, uid_of, value_of

_WAYS: Final = (
    # PS3.3 C.8.8.5: the images of the referenced series, one by one; C.8.8.6: the image that a contour was drawn on.
    (
        "ReferencedFrameOfReferenceSequence",
        "RTReferencedStudySequence",
        "RTReferencedSeriesSequence",
        "ContourImageSequence",
    ),
    ("ROIContourSequence", "ContourSequence", "ContourImageSequence"),
)


def referenced_images(path: Path) -> tuple[str, ...]:
    """The SOP Instance UIDs of all images that one RTSTRUCT references, each once, in order of first mention.

    Raises Unreadable; a sequence that does not decode, or holds no UID, names nothing.
    """
    ds = read_elements(path, [way[0] for way in _WAYS])
    named = (uid_of(item, "ReferencedSOPInstanceUID") for way in _WAYS for item in _items(ds, way))
    return tuple(dict.fromkeys(uid for uid in named if uid))


def _items(ds: Dataset, way: tuple[str, ...]) -> Iterator[Dataset]:
    """The innermost items along a way of nested sequences."""
    if not way:
        yield ds
        return
    value = value_of(ds, way[0])
    for item in value if isinstance(value, Sequence) else ():
        yield from _items(item, way[1:])
