"""The second reader: the very bytes that would be sent, read with plain pydicom and judged by domain/gates.

Nothing of rt-utils, highdicom or our own writers is used here: a reader that shares the writer's mistakes finds none.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.tag import Tag

from npc_rtnode.adapters.dicom.elements import read_elements, value_of
from npc_rtnode.adapters.dicom.identity import IF_PRESENT, raw_bytes, raw_identity, read_once
from npc_rtnode.adapters.dicom.kinds import KINDS
from npc_rtnode.domain import vocabulary
from npc_rtnode.domain.gates import (
    ContourFacts,
    Expected,
    FrameFacts,
    GateResult,
    InstanceFacts,
    PageFacts,
    ReportFacts,
    SegmentationFacts,
    SegmentReference,
    StructureFacts,
    gate_error,
    judge_orders,
    judge_page,
    judge_report,
    judge_segmentation,
    judge_structure,
    plane_corners,
)
from npc_rtnode.domain.geometry import Array, Stack
from npc_rtnode.domain.outcomes import GATE_FAULTS, answered
from npc_rtnode.domain.prediction import Prediction
from npc_rtnode.domain.profiles import ObjectOrder, segmented
from npc_rtnode.domain.records import ImageReference, ObjectKind, SliceHeader, WrittenObject
from npc_rtnode.domain.report import TRACKED, ObjectPlan, ReportContent, report_of
from npc_rtnode.domain.vocabulary import Code
from npc_rtnode.drawing.pixels import picture_of, text_of
from npc_rtnode.errors import NodeError, OutputFault

# What a broken object can make a reader do, and a gate that reads it: no answer, so it holds.
READING_FAULTS: Final = (
    *GATE_FAULTS,
    InvalidDicomError,
    BytesLengthException,
    NodeError,
    EOFError,
    OSError,
    struct.error,
    zlib.error,
)
_PLACE: Final = (
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "FrameOfReferenceUID",
    "NumberOfFrames",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)
_SAID: Final = ("StructureSetName", "StructureSetDescription", "SeriesDescription")


def verify(
    stack: Stack,
    sources: Sequence[Path],
    mask: NDArray[np.bool_],
    prediction: Prediction,
    plan: ObjectPlan,
    *objects: WrittenObject,
) -> tuple[GateResult, ...]:
    """All gates on the objects of one result; a gate that cannot be judged comes back as GATE_ERROR and holds."""
    try:
        content = report_of(mask, stack.grid, prediction, plan)
        common = _expected(stack, mask, content, read_once(sources, _PLACE))
        common = replace(common, patient=tuple(_spelled(sources[0])))
    except READING_FAULTS as error:
        return (gate_error("the source", error),)
    found = {(item.kind, item.variant): item for item in objects}
    wanted, there = [(o.kind, o.variant) for o in plan.orders], [(w.kind, w.variant) for w in objects]
    results = [*answered("OBJECTS", lambda: (judge_orders(wanted, there),))]
    for order in plan.orders:
        if (order.kind, order.variant) in found:
            results += _judged(order, found, _planned(common, order, plan))
    return tuple(results)


_USUAL: Final = frozenset({"SEG", "RTSTRUCT", "SR"})
Found = Mapping[tuple[ObjectKind, str], WrittenObject]


def _judged(order: ObjectOrder, found: Found, expected: Expected) -> tuple[GateResult, ...]:
    """Every gate on one object; where a result may have several of its sort, the message says which one is meant."""
    try:
        results = JUDGES[order.kind](order, found, expected)
    except READING_FAULTS as error:
        return (gate_error(order.name, error),)
    if order.name in _USUAL:
        return results
    return tuple(replace(result, message=f"{order.name}: {result.message}") for result in results)


def _structure(order: ObjectOrder, found: Found, expected: Expected) -> tuple[GateResult, ...]:
    return judge_structure(structure_facts(found[order.kind, order.variant]), expected)


def _report(order: ObjectOrder, found: Found, expected: Expected) -> tuple[GateResult, ...]:
    named = order.needs[0]
    structure = structure_facts(found[named.kind, named.variant])
    return judge_report(report_facts(found[order.kind, order.variant]), structure, expected)


def _segmentation(order: ObjectOrder, found: Found, expected: Expected) -> tuple[GateResult, ...]:
    return judge_segmentation(segmentation_facts(found[order.kind, order.variant]), expected)


def _page(order: ObjectOrder, found: Found, expected: Expected) -> tuple[GateResult, ...]:
    named, written = order.needs[0], found[order.kind, order.variant]
    form = _FORMS[order.kind]
    facts = page_facts(written, found.get((ObjectKind.PDF, order.variant)))
    return judge_page(order.kind, form, facts, found[named.kind, named.variant].sop_uid, expected)


JUDGES: Final[Mapping[ObjectKind, Callable[[ObjectOrder, Found, Expected], tuple[GateResult, ...]]]] = {
    ObjectKind.SEG: _segmentation,
    ObjectKind.RTSTRUCT: _structure,
    ObjectKind.SR: _report,
    ObjectKind.SR_ENHANCED: _report,
    ObjectKind.SR_TEXT: _report,
    ObjectKind.PREVIEW: _page,
    ObjectKind.PDF: _page,
}
"""Every kind has its gates: an object that nothing judges is never written (tests/integration/test_verify)."""


def _expected(stack: Stack, mask: NDArray[np.bool_], content: ReportContent, images: Sequence[Dataset]) -> Expected:
    """What every object of the result should say, from the image files alone."""
    return Expected(
        stack=_reread(stack, images),
        mask=mask,
        content=content,
        instance=InstanceFacts("", "", "", ""),
        roi_name="",
        series_uids=frozenset(_series_uid(ds) for ds in images),
        identity=raw_identity(images[0]),
        optional=_raw_optional(images[0]),
    )


def _planned(common: Expected, order: ObjectOrder, plan: ObjectPlan) -> Expected:
    """What this one should say besides."""
    kind = KINDS[order.kind]
    instance = InstanceFacts(kind.sop_class_uid, plan.object_uid(order), plan.series_uid(order), kind.modality)
    named = order.form.segmentation or (order.kind is ObjectKind.RTSTRUCT and segmented(plan.orders))
    segments = ((plan.object_uid(ObjectOrder(ObjectKind.SEG)), 1),) if named else ()
    tracking = plan.uid(f"tracking-{TRACKED}") if order.kind in _TRACKING else ""
    replaced = plan.predecessor(order.kind, order.variant)
    return replace(
        common,
        instance=instance,
        roi_name=plan.roi_name(order.form),
        segments=segments,
        tracking_uid=tracking,
        predecessor=replaced.sop_uid if replaced else "",
    )


def _spelled(image: Path) -> Iterator[str]:
    """The patient's number and name as the images declare them, where every reader spells them alike: in ASCII."""
    ds = read_elements(image, ("SpecificCharacterSet", *_SHOWN))
    for keyword in _SHOWN:
        said = str(value_of(ds, keyword) or "")
        if said.isascii() and said.isprintable():
            yield said


_SHOWN: Final = ("PatientName", "PatientID")
_TRACKING: Final = frozenset({ObjectKind.SEG, ObjectKind.SR})


def _series_uid(ds: Dataset) -> str:
    """From the element's bytes, less the padding that PS3.5 6.2 allows, or a space that some write instead."""
    return raw_bytes(ds, Tag("SeriesInstanceUID")).decode("ascii").rstrip("\0 ")


def _raw_optional(ds: Dataset) -> dict[str, bytes]:
    return {keyword: raw_bytes(ds, Tag(keyword)) for keyword in IF_PRESENT}


def _instance(ds: Dataset, written: WrittenObject) -> InstanceFacts:
    """What an object says it is; statements of its SOP Class that disagree come back all, and so match no plan."""
    classes = {str(ds.SOPClassUID), str(ds.file_meta.MediaStorageSOPClassUID), written.sop_class_uid}
    return InstanceFacts(
        "\\".join(sorted(classes)), str(ds.SOPInstanceUID), str(ds.SeriesInstanceUID), str(ds.Modality)
    )


def _read(written: WrittenObject) -> Dataset:
    """The object as a reader gets it; its three statements of which instance it is must agree."""
    ds = dcmread(BytesIO(written.encoded))
    if {str(ds.SOPInstanceUID), str(ds.file_meta.MediaStorageSOPInstanceUID)} != {written.sop_uid}:
        raise OutputFault("file meta, data set and ledger name different instances")
    return ds


def _reread(stack: Stack, images: Sequence[Dataset]) -> Stack:
    """The same stack with every slice's place as the image files state it, not as the writer was told."""
    slices = tuple(_reread_slice(header, ds) for header, ds in zip(stack.slices, images, strict=True))
    return replace(stack, slices=slices)


def _reread_slice(header: SliceHeader, ds: Dataset) -> SliceHeader:
    x, y, z = _numbers(_group(ds, header.frame, "PlanePositionSequence").ImagePositionPatient)
    a, b, c, d, e, f = _numbers(_group(ds, header.frame, "PlaneOrientationSequence").ImageOrientationPatient)
    between_rows, between_columns = _numbers(_group(ds, header.frame, "PixelMeasuresSequence").PixelSpacing)
    return replace(
        header,
        frames=int(ds.get("NumberOfFrames") or 1),
        sop_uid=str(ds.SOPInstanceUID),
        study_uid=str(ds.StudyInstanceUID),
        frame_of_reference_uid=str(ds.FrameOfReferenceUID),
        position=(x, y, z),
        orientation=(a, b, c, d, e, f),
        spacing_mm=(between_rows, between_columns),
    )


def _numbers(values: Iterable[object]) -> list[float]:
    return [float(str(value)) for value in values]


def _group(ds: Dataset, frame: int | None, keyword: str) -> Dataset:
    """Where a slice states its place: in the data set itself, or in a functional group of that frame, or of all."""
    if frame is None:
        return ds
    own, shared = ds.PerFrameFunctionalGroupsSequence[frame - 1], ds.SharedFunctionalGroupsSequence[0]
    group: Dataset = (own if keyword in own else shared)[keyword][0]
    return group


# --- the structure set ------------------------------------------------------------------------------------------------


def structure_facts(written: WrittenObject) -> StructureFacts:
    """What an RTSTRUCT says, read with plain pydicom."""
    ds = _read(written)
    roi, outlines, observation = (
        ds.StructureSetROISequence[0],
        ds.ROIContourSequence[0],
        ds.RTROIObservationsSequence[0],
    )
    frame = ds.ReferencedFrameOfReferenceSequence[0]
    study = frame.RTReferencedStudySequence[0]
    series = study.RTReferencedSeriesSequence[0]
    return StructureFacts(
        instance=_instance(ds, written),
        item_counts={
            "StructureSetROISequence": len(ds.StructureSetROISequence),
            "ROIContourSequence": len(ds.ROIContourSequence),
            "RTROIObservationsSequence": len(ds.RTROIObservationsSequence),
            "ReferencedFrameOfReferenceSequence": len(ds.ReferencedFrameOfReferenceSequence),
            "RTReferencedStudySequence": len(frame.RTReferencedStudySequence),
            "RTReferencedSeriesSequence": len(study.RTReferencedSeriesSequence),
        },
        roi_name=str(roi.ROIName),
        approval=str(ds.ApprovalStatus),
        interpreted_type=str(observation.RTROIInterpretedType),
        roi_volume_cc=float(roi.ROIVolume),
        roi_numbers=(int(roi.ROINumber), int(outlines.ReferencedROINumber), int(observation.ReferencedROINumber)),
        contours=tuple(_contour(item) for item in outlines.ContourSequence),
        images=tuple(reference for item in series.ContourImageSequence for reference in _references(item)),
        series_uid=str(series.SeriesInstanceUID),
        study_uid=str(study.ReferencedSOPInstanceUID),
        frames_of_reference=_frames(ds),
        longest_ds=max((len(text) for text in decimal_values(ds)), default=0),
        identity=raw_identity(ds),
        optional=_raw_optional(ds),
        labels={keyword: str(ds.get(keyword, "")) for keyword in _SAID}
        | {"ROIDescription": str(roi.get("ROIDescription", ""))},
        defined_by=tuple(_segment(item) for item in roi.get("DefinitionSourceSequence", [])),
        predecessors=tuple(
            str(item.ReferencedSOPInstanceUID) for item in ds.get("PredecessorStructureSetSequence", [])
        ),
    )


def _segment(item: Dataset) -> SegmentReference:
    return str(item.ReferencedSOPInstanceUID), int(item.ReferencedSegmentNumber)


def _contour(item: Dataset) -> ContourFacts:
    return ContourFacts(
        referenced=tuple(ref for image in item.get("ContourImageSequence", []) for ref in _references(image)),
        geometric_type=str(item.ContourGeometricType),
        declared_points=int(item.NumberOfContourPoints),
        points_mm=_points(item),
    )


def _references(item: Dataset) -> list[ImageReference]:
    """An item that names an image: the instance, or each frame of it that is named (PS3.3 10.3)."""
    numbers = raw_bytes(item, Tag("ReferencedFrameNumber")).decode("ascii").strip()
    uid = str(item.ReferencedSOPInstanceUID)
    return [(uid, int(number)) for number in numbers.split("\\")] if numbers else [(uid, None)]


def _points(item: Dataset) -> Array:
    """ContourData as `[point, (x, y, z)]`, LPS mm, from its bytes."""
    values = [float(text) for text in raw_bytes(item, Tag("ContourData")).decode("ascii").split("\\")]
    return np.array(values, dtype=np.float64).reshape(-1, 3)


def _frames(ds: Dataset) -> tuple[str, ...]:
    """The frame of reference wherever a structure set states it (PS3.3 C.7.4.1, C.8.8.5)."""
    return (
        str(ds.FrameOfReferenceUID),
        *(str(item.FrameOfReferenceUID) for item in ds.ReferencedFrameOfReferenceSequence),
        *(str(item.ReferencedFrameOfReferenceUID) for item in ds.StructureSetROISequence),
    )


def decimal_values(ds: Dataset) -> Iterator[bytes]:
    """Every single DS value in a data set and its sequences, as bytes without padding."""
    for tag in ds.keys():  # noqa: SIM118 - iterating over the data set itself would decode every element
        vr = dictionary_VR(tag) if dictionary_has_tag(tag) else None
        if vr == "DS":
            yield from (value.rstrip(b" ") for value in raw_bytes(ds, tag).split(b"\\"))
        elif vr == "SQ":
            for item in ds[tag].value:
                yield from decimal_values(item)


# --- the report -------------------------------------------------------------------------------------------------------


def report_facts(written: WrittenObject) -> ReportFacts:
    """What an SR says, read with plain pydicom."""
    ds = _read(written)
    items = list(_tree(ds))
    volume = _only_measured(items, vocabulary.VOLUME)
    shown = [named for item in items if item.ValueType == "IMAGE" for named in item.ReferencedSOPSequence]
    categories = [item for item in items if _is(item, vocabulary.CT_CATEGORY, "CODE")]
    stated = [item for item in categories if item.RelationshipType == "CONTAINS"]
    return ReportFacts(
        instance=_instance(ds, written),
        verification=str(ds.VerificationFlag),
        preliminary=str(ds.PreliminaryFlag),
        completion=str(ds.CompletionFlag),
        probabilities=_probabilities(items),
        volume_cc=_number(volume),
        category=str(stated[0].ConceptCodeSequence[0].CodeValue) if stated else None,
        texts=tuple(str(item.TextValue) for item in items if item.ValueType == "TEXT"),
        measured_from=_measured_from(volume),
        evidence=tuple(_named_in(ds.CurrentRequestedProcedureEvidenceSequence)),
        images=tuple(ref for named in shown if "ReferencedSegmentNumber" not in named for ref in _references(named)),
        identity=raw_identity(ds),
        optional=_raw_optional(ds),
        segments=tuple(_segment(named) for named in shown if "ReferencedSegmentNumber" in named),
        tracking_uids=tuple(str(item.UID) for item in items if _is(item, vocabulary.TRACKING_UID, "UIDREF")),
        predecessors=tuple(_named_in(ds.get("PredecessorDocumentsSequence", []))),
    )


def _tree(ds: Dataset) -> Iterator[Dataset]:
    """Every content item below the root, parents first."""
    for item in ds.get("ContentSequence", []):
        yield item
        yield from _tree(item)


def _is(item: Dataset, code: Code, value_type: str) -> bool:
    if item.ValueType != value_type or "ConceptNameCodeSequence" not in item:
        return False
    name = item.ConceptNameCodeSequence[0]
    return (str(name.CodeValue), str(name.CodingSchemeDesignator)) == (code.value, code.scheme)


def _only(items: Sequence[Dataset], code: Code, value_type: str) -> Dataset:
    found = [item for item in items if _is(item, code, value_type)]
    if len(found) != 1:
        raise OutputFault(f"{len(found)} content items are called {code.meaning}")
    return found[0]


def _measured(items: Sequence[Dataset], code: Code) -> list[Dataset]:
    """Values of that name: numbers, or the text that stands for them where numbers are not allowed."""
    return [item for item in items if _is(item, code, "NUM") or _is(item, code, "TEXT")]


def _only_measured(items: Sequence[Dataset], code: Code) -> Dataset:
    (item,) = _measured(items, code)
    return item


def _number(item: Dataset) -> float:
    """A NUM's value, or the number that a text begins with."""
    if item.ValueType == "TEXT":
        return float(str(item.TextValue).split()[0])
    return float(item.MeasuredValueSequence[0].NumericValue)


def _probabilities(items: Sequence[Dataset]) -> dict[str, float]:
    """Stage to probability, by the cT category that modifies each NUM."""
    stages = {code.value: stage for stage, code in vocabulary.CT_CATEGORIES.items()}
    found = {}
    for item in _measured(items, vocabulary.PROBABILITY):
        category = _only(list(_tree(item)), vocabulary.CT_CATEGORY, "CODE")
        found[stages[str(category.ConceptCodeSequence[0].CodeValue)]] = _number(item)
    return found


def _measured_from(volume: Dataset) -> str:
    source = _only(list(_tree(volume)), vocabulary.SOURCE_OF_MEASUREMENT, "COMPOSITE")
    return str(source.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)


def _named_in(studies: Iterable[Dataset]) -> Iterator[str]:
    """The instances of a Hierarchical SOP Instance Reference (PS3.3 C.17.2.1)."""
    for study in studies:
        for series in study.ReferencedSeriesSequence:
            yield from (str(item.ReferencedSOPInstanceUID) for item in series.ReferencedSOPSequence)


# --- the segmentation -------------------------------------------------------------------------------------------------


def segmentation_facts(written: WrittenObject) -> SegmentationFacts:
    """What a SEG says, read with plain pydicom; its bits are unpacked here."""
    ds = _read(written)
    segments = ds.SegmentSequence
    (series,) = ds.ReferencedSeriesSequence
    return SegmentationFacts(
        instance=_instance(ds, written),
        form=f"{ds.SegmentationType}, {len(segments)} segment, number {segments[0].SegmentNumber}, "
        f"{segments[0].SegmentAlgorithmType}",
        frames=tuple(_frames_of(ds)),
        images=tuple(ref for item in series.ReferencedInstanceSequence for ref in _references(item)),
        series_uid=str(series.SeriesInstanceUID),
        frame_of_reference=str(ds.FrameOfReferenceUID),
        tracking_uids=tuple(str(item.TrackingUID) for item in segments),
        texts=(str(ds.SeriesDescription), *(str(item.SegmentDescription) for item in segments)),
        identity=raw_identity(ds),
        optional=_raw_optional(ds),
    )


def _frames_of(ds: Dataset) -> Iterator[FrameFacts]:
    shape = (int(ds.Rows), int(ds.Columns))
    for number, pixels in enumerate(_bits(ds), start=1):
        place = _place(ds, number)
        sources = _group(ds, number, "DerivationImageSequence").SourceImageSequence
        yield FrameFacts(
            referenced=tuple(reference for item in sources for reference in _references(item)),
            corners_mm=plane_corners(*place, shape),
            pixels=pixels,
        )


def _place(ds: Dataset, frame: int) -> tuple[list[float], list[float], list[float]]:
    """Position, orientation and spacing of a frame."""
    return (
        _numbers(_group(ds, frame, "PlanePositionSequence").ImagePositionPatient),
        _numbers(_group(ds, frame, "PlaneOrientationSequence").ImageOrientationPatient),
        _numbers(_group(ds, frame, "PixelMeasuresSequence").PixelSpacing),
    )


def _bits(ds: Dataset) -> NDArray[np.bool_]:
    """`[frame, row, column]` of one-bit pixels, the first in the lowest bit (PS3.5 8.1.1)."""
    shape = (int(ds.NumberOfFrames), int(ds.Rows), int(ds.Columns))
    packed = np.frombuffer(ds.PixelData, dtype=np.uint8)
    bits = np.unpackbits(packed, count=int(np.prod(shape)), bitorder="little")
    return bits.reshape(shape).astype(bool)


# --- the preview ------------------------------------------------------------------------------------------------------

_FORMS: Final = {ObjectKind.PREVIEW: "RGB, 3 samples of 8 bits, 1 frame", ObjectKind.PDF: "application/pdf"}


def page_facts(written: WrittenObject, document: WrittenObject | None = None) -> PageFacts:
    """What a preview says, image or document; `document` is the one of the same result, if it was written."""
    ds = _read(written)
    image = written.kind is ObjectKind.PREVIEW
    page = _pixels(ds) if image else picture_of(_document(ds))
    return PageFacts(
        instance=_instance(ds, written),
        form=_image_form(ds) if image else str(ds.MIMETypeOfEncapsulatedDocument),
        burned_in=str(ds.BurnedInAnnotation),
        page=page,
        texts=(str(ds.ImageComments),) if image else text_of(_document(ds)),
        images=tuple(ref for item in _sources(ds) if _is_image(item) for ref in _references(item)),
        objects=tuple(str(item.ReferencedSOPInstanceUID) for item in _sources(ds) if not _is_image(item)),
        identity=raw_identity(ds),
        optional=_raw_optional(ds),
        twin=None if not image or document is None else _shows(document, page),
    )


def _image_form(ds: Dataset) -> str:
    frames, kind = int(ds.get("NumberOfFrames") or 1), str(ds.PhotometricInterpretation)
    return f"{kind}, {ds.SamplesPerPixel} samples of {ds.BitsStored} bits, {frames} frame" + "s" * (frames != 1)


def _pixels(ds: Dataset) -> NDArray[np.uint8]:
    """`[row, column, sample]`, from the bytes: one byte a sample, pixel by pixel (PS3.3 C.7.6.3.1.3)."""
    shape = (int(ds.Rows), int(ds.Columns), int(ds.SamplesPerPixel))
    return np.frombuffer(ds.PixelData, dtype=np.uint8)[: int(np.prod(shape))].reshape(shape)


def _document(ds: Dataset) -> bytes:
    """The PDF without the byte that makes its length even."""
    return bytes(ds.EncapsulatedDocument)[: int(ds.EncapsulatedDocumentLength)]


def _shows(document: WrittenObject, page: NDArray[np.uint8]) -> bool:
    return bool(np.array_equal(picture_of(_document(_read(document))), page))


def _sources(ds: Dataset) -> list[Dataset]:
    """What it says it comes from: images and other instances (PS3.3 C.12.4, C.24.2)."""
    return [*ds.get("SourceImageSequence", []), *ds.get("SourceInstanceSequence", [])]


def _is_image(item: Dataset) -> bool:
    return str(item.ReferencedSOPClassUID) != KINDS[ObjectKind.RTSTRUCT].sop_class_uid
