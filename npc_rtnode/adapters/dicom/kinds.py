"""What the kinds of object are in DICOM: SOP Class and modality. One more kind is one more line here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from pydicom import uid

from npc_rtnode.domain.records import ObjectKind
from npc_rtnode.errors import OutputFault


@dataclass(frozen=True, slots=True)
class KindFacts:
    """SOP Class UID (PS3.4 B.5) and Modality (PS3.3 C.7.3.1.1.1)."""

    sop_class_uid: str
    modality: str


KINDS: Final[Mapping[ObjectKind, KindFacts]] = MappingProxyType(
    {
        ObjectKind.SEG: KindFacts(str(uid.SegmentationStorage), "SEG"),
        ObjectKind.RTSTRUCT: KindFacts(str(uid.RTStructureSetStorage), "RTSTRUCT"),
        ObjectKind.SR: KindFacts(str(uid.ComprehensiveSRStorage), "SR"),
        ObjectKind.SR_ENHANCED: KindFacts(str(uid.EnhancedSRStorage), "SR"),
        ObjectKind.SR_TEXT: KindFacts(str(uid.BasicTextSRStorage), "SR"),
        ObjectKind.PREVIEW: KindFacts(str(uid.SecondaryCaptureImageStorage), "OT"),
        ObjectKind.PDF: KindFacts(str(uid.EncapsulatedPDFStorage), "DOC"),
    }
)


def kind_of(sop_class_uid: str) -> ObjectKind:
    """The kind that has this SOP Class; raises OutputFault for a class that is none of ours."""
    for kind, facts in KINDS.items():
        if facts.sop_class_uid == sop_class_uid:
            return kind
    raise OutputFault(f"{sop_class_uid} is no SOP Class of an object that this node writes")
