"""Stored files as `fsck` reads them: are they still what was acknowledged, whose are they, what do they reference?

Another reader than the one that writes our objects: it looks at finished files only, and decodes no pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydicom import Dataset
from pydicom.sequence import Sequence

from npc_rtnode.adapters.dicom.elements import UNREADABLE, quietly, raw_of, read_elements, uid_of, value_of
from npc_rtnode.adapters.dicom.references import referenced_images
from npc_rtnode.adapters.dicom.structure import StructureReader
from npc_rtnode.domain.invariants import ClaimedInstance, ObjectFacts
from npc_rtnode.domain.records import AssociationInfo, StoreRequest
from npc_rtnode.errors import Unreadable

_WHOSE: Final = (
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "AccessionNumber",
)
_FRAMES: Final = ("FrameOfReferenceUID", "ReferencedFrameOfReferenceSequence", "StructureSetROISequence")
_NOBODY: Final = AssociationInfo("", "", "", "")


class ProofReader:
    """Fulfils ports.ProofReader."""

    def flaw(self, data: bytes, claimed: ClaimedInstance) -> str:
        """Walk a stored instance anew, and compare it with its row; empty where both say the same."""
        as_sent = StoreRequest(_NOBODY, claimed.sop_class_uid, claimed.sop_uid, claimed.transfer_syntax_uid)
        structure = StructureReader()
        try:
            prefix = structure.file_prefix(as_sent)
            if not data.startswith(prefix):
                return "its file meta group is not the one of its row"
            found = structure.identify(data[len(prefix) :], claimed.transfer_syntax_uid)
        except Unreadable as error:
            return error.detail
        said = (found.sop_class_uid, found.sop_uid, found.study_uid, found.series_uid)
        row = (claimed.sop_class_uid, claimed.sop_uid, claimed.study_uid, claimed.series_uid)
        return "" if said == row else "it names another instance, series or study than its row"

    def facts(self, file: Path) -> ObjectFacts:
        """Whose a file is and what it references; raises Unreadable."""
        ds = read_elements(file, [*_WHOSE, *_FRAMES])
        return ObjectFacts(
            identity={keyword: raw_of(ds, keyword) for keyword in _WHOSE},
            study_uid=uid_of(ds, "StudyInstanceUID") or "",
            frames=frozenset(_frames(ds)),
            references=frozenset(referenced_images(file)),
        )

    def patient(self, file: Path) -> tuple[str, str]:
        """Name and number, to be looked for where they must not be; empty where they cannot be decoded."""
        ds = read_elements(file, ["SpecificCharacterSet", "PatientName", "PatientID"])
        return _text(ds, "PatientName"), _text(ds, "PatientID")


def _frames(ds: Dataset) -> list[str]:
    """Every frame of reference that an image or a structure set states (PS3.3 C.7.4.1, C.8.8.5)."""
    stated = [uid_of(ds, "FrameOfReferenceUID")]
    for sequence, keyword in (
        ("ReferencedFrameOfReferenceSequence", "FrameOfReferenceUID"),
        ("StructureSetROISequence", "ReferencedFrameOfReferenceUID"),
    ):
        items = value_of(ds, sequence)
        stated += [uid_of(item, keyword) for item in items] if isinstance(items, Sequence) else []
    return [uid for uid in stated if uid]


def _text(ds: Dataset, keyword: str) -> str:
    try:
        with quietly():
            return str(ds.get(keyword) or "").strip()
    except UNREADABLE:
        return ""
