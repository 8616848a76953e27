"""The structured report (PS3.3 A.35.3, PS3.16 TID 1500): a Comprehensive SR around one TID 1501 measurement group.

domain/report says what is said; here it becomes content items. The volume is inferred from the structure set, the
stage is a coded cT category only when the node is sure enough of it. highdicom sees neutral headers (adapters/dicom/
identity); the identity elements come back as raw bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage

from npc_rtnode.adapters.dicom.identity import (
    SourceImages,
    encode,
    name_predecessor,
    read_sources,
    restore_identity,
    stamp,
)
from npc_rtnode.domain import vocabulary
from npc_rtnode.domain.geometry import Stack
from npc_rtnode.domain.identifiers import derived_uid
from npc_rtnode.domain.prediction import Prediction
from npc_rtnode.domain.records import ImageReference, ObjectKind, WrittenObject
from npc_rtnode.domain.report import ObjectPlan, ReportContent, plain, report_of
from npc_rtnode.domain.vocabulary import Code

if TYPE_CHECKING:
    from highdicom.sr import CodedConcept, ComprehensiveSR, ContentItem, Measurement, MeasurementReport

TRACKED: Final = "GTVp"


def write_sr(
    stack: Stack,
    sources: Sequence[Path],
    mask: NDArray[np.bool_],
    prediction: Prediction,
    plan: ObjectPlan,
    rtstruct: WrittenObject,
) -> WrittenObject:
    """The report of one result, Explicit VR Little Endian; `sources` in the order of the stack's slices."""
    images = read_sources(stack, sources)
    content = report_of(mask, stack.grid, prediction, plan)
    tree = _report(content, plan, _library_entry(images, mask, stack), rtstruct)
    _name_frame(tree, images.references[_key_slice(mask)])
    ds = _document(tree, images, plan, rtstruct)
    _describe_object(ds, images, content, plan)
    name_predecessor(ds, plan, ObjectKind.SR.value)
    return WrittenObject(ObjectKind.SR, str(ds.SOPClassUID), str(ds.SOPInstanceUID), encode(ds, ExplicitVRLittleEndian))


# --- the document -----------------------------------------------------------------------------------------------------


def _document(
    tree: MeasurementReport, images: SourceImages, plan: ObjectPlan, rtstruct: WrittenObject
) -> ComprehensiveSR:
    """COMPLETE, UNVERIFIED, PRELIMINARY; evidence is every image and the structure set (PS3.3 C.17.2)."""
    from highdicom.sr import ComprehensiveSR

    return ComprehensiveSR(
        evidence=[*images.instances, _structure_header(images, plan, rtstruct)],
        content=tree[0],
        series_instance_uid=plan.uid("series-SR"),
        series_number=plan.content.series_number_sr,
        sop_instance_uid=plan.uid("SR"),
        instance_number=plan.result_revision,
        manufacturer=plain(plan.content.manufacturer, 64),
        is_complete=True,
        is_final=False,
        is_verified=False,
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )


def _structure_header(images: SourceImages, plan: ObjectPlan, rtstruct: WrittenObject) -> Dataset:
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = rtstruct.sop_class_uid, rtstruct.sop_uid
    ds.StudyInstanceUID, ds.SeriesInstanceUID = images.headers[0].StudyInstanceUID, plan.uid("series-RTSTRUCT")
    return ds


def _describe_object(ds: Dataset, images: SourceImages, content: ReportContent, plan: ObjectPlan) -> None:
    stamp(ds, plan, ObjectKind.SR.value)
    restore_identity(ds, images)
    ds.ContentDate, ds.ContentTime = ds.InstanceCreationDate, ds.InstanceCreationTime
    ds.SeriesDescription = content.title
    ds.SoftwareVersions = [plain(plan.software_version, 64), f"highdicom {version('highdicom')}"]
    for equipment in ds.get("ContributingEquipmentSequence", []):  # highdicom names itself, with the wall clock's time
        equipment.ContributionDateTime = f"{ds.ContentDate}{ds.ContentTime}{plan.utc_offset}"


def _library_entry(images: SourceImages, mask: NDArray[np.bool_], stack: Stack) -> Dataset:
    """The key slice, where the outline is largest; all the others are in the evidence."""
    entry = Dataset()
    entry.update(images.headers[_key_slice(mask)])
    entry.SliceThickness = f"{stack.grid.spacing_mm[0]:.6g}"  # asked for by TID 1604; the distance between slices
    return entry


def _key_slice(mask: NDArray[np.bool_]) -> int:
    return int(np.argmax(np.count_nonzero(mask, axis=(1, 2))))


def _name_frame(tree: MeasurementReport, reference: ImageReference) -> None:
    """The key slice's frame number (PS3.3 C.18.4), which highdicom's image library has no place for."""
    _, frame = reference
    if frame is not None:
        (image,) = _images_in(tree[0])
        image.ReferencedSOPSequence[0].ReferencedFrameNumber = frame


def _images_in(item: Dataset) -> Iterator[Dataset]:
    """Every IMAGE content item at or below this one."""
    if item.get("ValueType") == "IMAGE":
        yield item
    for below in item.get("ContentSequence", []):
        yield from _images_in(below)


# --- the tree ---------------------------------------------------------------------------------------------------------


def _report(content: ReportContent, plan: ObjectPlan, key_image: Dataset, rtstruct: WrittenObject) -> MeasurementReport:
    """TID 1500; notices come before everything a reader could take for a result."""
    from highdicom import sr

    tree = sr.MeasurementReport(
        observation_context=_observer(plan),
        procedure_reported=_coded(vocabulary.MR_IMAGING),
        imaging_measurements=[_group(content, plan, rtstruct)],
        title=_coded(vocabulary.IMAGING_MEASUREMENT_REPORT),
        language_of_content_item_and_descendants=sr.LanguageOfContentItemAndDescendants(
            _coded(vocabulary.LANGUAGE_EN_US)
        ),
        referenced_images=[key_image],
    )
    items = tree[0].ContentSequence
    first = next(i for i, item in enumerate(items) if item.RelationshipType == "CONTAINS")
    for offset, notice in enumerate(content.notices):
        items.insert(first + offset, _text(vocabulary.COMMENT, notice))
    return tree


def _observer(plan: ObjectPlan) -> Any:
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
    context = sr.ObserverContext(_coded(vocabulary.DEVICE), device)
    return sr.ObservationContext(observer_device_context=context)


def _group(content: ReportContent, plan: ObjectPlan, rtstruct: WrittenObject) -> Any:
    """TID 1501: the primary GTV with its volume, four probabilities, the stage and what limits them."""
    from highdicom import sr

    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=plan.uid(f"tracking-{TRACKED}"), identifier=TRACKED),
        finding_category=_coded(vocabulary.RT_TARGET),
        finding_type=_coded(vocabulary.GTV_PRIMARY),
        finding_sites=[sr.FindingSite(_coded(vocabulary.NASOPHARYNX))],
        algorithm_id=_algorithm(content, plan),
        measurements=[_volume(content, rtstruct), *_probabilities(content)],
    )
    group[0].ContentSequence.append(_stage(content))
    group[0].ContentSequence.append(_text(vocabulary.INDICATION, content.indication or "not stated"))
    group[0].ContentSequence.extend(_text(vocabulary.COMMENT, sentence) for sentence in content.sentences)
    return group


def _algorithm(content: ReportContent, plan: ObjectPlan) -> Any:
    """TID 4019."""
    from highdicom import sr

    return sr.AlgorithmIdentification(
        name=content.algorithm_name,
        version=content.algorithm_version,
        parameters=content.algorithm_parameters,
        family=_coded(vocabulary.ARTIFICIAL_INTELLIGENCE),
        manufacturer=plain(plan.content.manufacturer, 64),
    )


def _volume(content: ReportContent, rtstruct: WrittenObject) -> Measurement:
    """TID 300: cubic centimetres, how they were counted, and the structure set they belong to."""
    from highdicom import sr

    volume = sr.Measurement(
        name=_coded(vocabulary.VOLUME),
        value=content.volume_cc,
        unit=_coded(vocabulary.CUBIC_CENTIMETRE),
        method=_coded(vocabulary.VOXEL_SUM),
    )
    source = sr.CompositeContentItem(
        name=_coded(vocabulary.SOURCE_OF_MEASUREMENT),
        referenced_sop_class_uid=RTStructureSetStorage,
        referenced_sop_instance_uid=rtstruct.sop_uid,
        relationship_type="INFERRED FROM",
    )
    volume[0].ContentSequence.append(source)
    return volume


def _probabilities(content: ReportContent) -> list[Measurement]:
    """One NUM a stage, modified by the cT category it is the probability of."""
    from highdicom import sr

    measured = []
    for stage, share in content.staging.probabilities.items():
        item = sr.Measurement(name=_coded(vocabulary.PROBABILITY), value=share, unit=_coded(vocabulary.NO_UNITS))
        item[0].ContentSequence = sr.ContentSequence([_category(stage, "HAS CONCEPT MOD")])
        measured.append(item)
    return measured


def _stage(content: ReportContent) -> ContentItem:
    """The cT category with its staging edition; in doubt the likeliest set in words, and no code."""
    from highdicom import sr

    staging = content.staging
    if staging.uncertain:
        return _text(vocabulary.CT_CATEGORY, staging.text)
    item = _category(staging.top, "CONTAINS")
    edition = vocabulary.edition_code(staging.edition)
    if edition is not None:
        method = sr.CodeContentItem(_coded(vocabulary.MEASUREMENT_METHOD), _coded(edition), "HAS CONCEPT MOD")
        item.ContentSequence = sr.ContentSequence([method])
    return item


def _category(stage: str, relationship: str) -> ContentItem:
    from highdicom import sr

    return sr.CodeContentItem(
        _coded(vocabulary.CT_CATEGORY), _coded(vocabulary.CT_CATEGORIES[stage]), relationship_type=relationship
    )


def _text(name: Code, said: str) -> ContentItem:
    from highdicom import sr

    return sr.TextContentItem(_coded(name), said, relationship_type="CONTAINS")


def _coded(code: Code) -> CodedConcept:
    from highdicom.sr import CodedConcept

    return CodedConcept(code.value, code.scheme, code.meaning)
