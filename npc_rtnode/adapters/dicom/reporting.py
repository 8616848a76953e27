"""What every structured report of the node shares, whatever its SOP Class: the document around a tree, and small items.

highdicom sees neutral headers (adapters/dicom/identity); the identity elements come back as raw bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from npc_rtnode.adapters.dicom.coding import coded
from npc_rtnode.adapters.dicom.identity import (
    SourceImages,
    finished,
    name_predecessor,
    restore_identity,
    stamp,
    unclocked,
)
from npc_rtnode.adapters.dicom.kinds import KINDS
from npc_rtnode.domain import vocabulary
from npc_rtnode.domain.identifiers import derived_uid
from npc_rtnode.domain.profiles import ObjectOrder
from npc_rtnode.domain.records import WrittenObject
from npc_rtnode.domain.report import ObjectPlan, ReportContent, plain
from npc_rtnode.domain.vocabulary import Code

if TYPE_CHECKING:
    from highdicom.sr import CodeContentItem, ComprehensiveSR, ContentItem, EnhancedSR, TextContentItem

MODIFIER: Final = "HAS CONCEPT MOD"
CONTAINS: Final = "CONTAINS"


@dataclass(frozen=True)
class Reported:
    """One report's material; `key` is the index of the slice it shows, `structure` the structure set it measures."""

    order: ObjectOrder
    images: SourceImages
    content: ReportContent
    plan: ObjectPlan
    key: int
    structure: WrittenObject

    @property
    def evidence(self) -> list[Dataset]:
        """Every image, and every object of this result that is named (PS3.3 C.17.2)."""
        return [*self.images.instances, *(self._header(order) for order in self.order.needs)]

    def _header(self, order: ObjectOrder) -> Dataset:
        ds = Dataset()
        ds.SOPClassUID, ds.SOPInstanceUID = KINDS[order.kind].sop_class_uid, self.plan.object_uid(order)
        ds.StudyInstanceUID = self.images.headers[0].StudyInstanceUID
        ds.SeriesInstanceUID = self.plan.series_uid(order)
        return ds


def key_slice(mask: NDArray[np.bool_]) -> int:
    """Index of the slice where the outline is largest: the one image that a report shows."""
    return int(np.argmax(np.count_nonzero(mask, axis=(1, 2))))


# --- the document -----------------------------------------------------------------------------------------------------


def document(case: Reported, tree: Dataset, build: type[ComprehensiveSR] | type[EnhancedSR]) -> Dataset:
    """COMPLETE, UNVERIFIED, PRELIMINARY, Explicit VR Little Endian, with the case's identity, names and time."""
    plan = case.plan
    ds: Dataset = build(
        evidence=case.evidence,
        content=tree,
        series_instance_uid=plan.series_uid(case.order),
        series_number=plan.content.series_number_sr,
        sop_instance_uid=plan.object_uid(case.order),
        instance_number=plan.result_revision,
        manufacturer=plain(plan.content.manufacturer, 64),
        is_complete=True,
        is_final=False,
        is_verified=False,
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    stamp(ds, plan, case.order)
    restore_identity(ds, case.images)
    unclocked(ds, plan)
    ds.SeriesDescription = case.content.title
    ds.SoftwareVersions = [plain(plan.software_version, 64), f"highdicom {version('highdicom')}"]
    return ds


def filed(case: Reported, ds: Dataset) -> WrittenObject:
    """The document as the pipeline keeps it, naming the report that it takes the place of."""
    name_predecessor(ds, case.plan, case.order)
    return finished(ds, case.order, ExplicitVRLittleEndian)


def name_frame(case: Reported, tree: Dataset) -> None:
    """The key slice's frame number (PS3.3 C.18.4), which highdicom's image items have no place for."""
    uid, frame = case.images.references[case.key]
    if frame is not None:
        (named,) = (sop for sop in _images_in(tree) if sop.ReferencedSOPInstanceUID == uid)
        named.ReferencedFrameNumber = frame


def _images_in(item: Dataset) -> Iterator[Dataset]:
    """What every IMAGE content item at or below this one names."""
    if item.get("ValueType") == "IMAGE":
        yield from item.ReferencedSOPSequence
    for below in item.get("ContentSequence", []):
        yield from _images_in(below)


def insert_notices(case: Reported, root: Dataset) -> None:
    """Before everything a reader could take for a result."""
    items = root.ContentSequence
    first = next(i for i, item in enumerate(items) if item.RelationshipType == CONTAINS)
    for offset, notice in enumerate(case.content.notices):
        items.insert(first + offset, text(vocabulary.COMMENT, notice))


# --- items ------------------------------------------------------------------------------------------------------------


def observer(plan: ObjectPlan) -> Any:
    """TID 1002 and 1004: a device observed, nobody else."""
    from highdicom import sr

    serial = plain(plan.content.device_serial, 64)
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=derived_uid(f"{plan.content.manufacturer}/{serial}", "device"),
        name="npc_rtnode",
        manufacturer_name=plain(plan.content.manufacturer, 64),
        model_name=plain(plan.software_version, 64),
        serial_number=serial,
        physical_location=plain(plan.site, 64),
    )
    context = sr.ObserverContext(coded(vocabulary.DEVICE), device)
    return sr.ObservationContext(observer_device_context=context)


def stage(content: ReportContent) -> ContentItem:
    """The cT category, by imaging alone and by which edition; in doubt the likeliest set in words, and no code."""
    staging = content.staging
    item = text(vocabulary.CT_CATEGORY, staging.text) if staging.uncertain else category(staging.top, CONTAINS)
    item.ContentSequence = _sequence([edition(content), code(vocabulary.FINDING_METHOD, vocabulary.MR_IMAGING)])
    return item


def category_of(content: ReportContent, stage_name: str) -> ContentItem:
    """The cT category that a probability belongs to, with the edition that it is a category of."""
    item = category(stage_name, MODIFIER)
    item.ContentSequence = _sequence([edition(content)])
    return item


def edition(content: ReportContent) -> ContentItem:
    """The staging edition: coded where a code is known, else in the bundle's own words."""
    known = vocabulary.edition_code(content.staging.edition)
    if known is not None:
        return code(vocabulary.MEASUREMENT_METHOD, known)
    return text(vocabulary.MEASUREMENT_METHOD, plain(content.staging.edition, 64), MODIFIER)


def category(stage_name: str, relationship: str) -> CodeContentItem:
    """One of T1-T4 as a clinical category."""
    return code(vocabulary.CT_CATEGORY, vocabulary.CT_CATEGORIES[stage_name], relationship)


def source_of_measurement(case: Reported) -> ContentItem:
    """The structure set that a value was measured on."""
    from highdicom import sr

    return sr.CompositeContentItem(
        name=coded(vocabulary.SOURCE_OF_MEASUREMENT),
        referenced_sop_class_uid=case.structure.sop_class_uid,
        referenced_sop_instance_uid=case.structure.sop_uid,
        relationship_type="INFERRED FROM",
    )


def texts(case: Reported) -> list[TextContentItem]:
    """The indication, and every sentence that limits the result."""
    said = [text(vocabulary.INDICATION, case.content.indication or "not stated")]
    return said + [text(vocabulary.COMMENT, sentence) for sentence in case.content.sentences]


def code(name: Code, value: Code, relationship: str = MODIFIER) -> CodeContentItem:
    """A CODE content item."""
    from highdicom.sr import CodeContentItem

    return CodeContentItem(coded(name), coded(value), relationship)


def text(name: Code, said: str, relationship: str = CONTAINS) -> TextContentItem:
    """A TEXT content item."""
    from highdicom.sr import TextContentItem

    return TextContentItem(coded(name), said, relationship)


def _sequence(items: Sequence[ContentItem]) -> Any:
    from highdicom.sr import ContentSequence

    return ContentSequence(items)
