"""The RT Structure Set (PS3.3 A.19): rt-utils lays the frame, everything in it is replaced by what outputs.md asks.

rt-utils gives the object's sequences and references; its contours run through pixel centres, its attributes name
another maker, its text is Latin-1 (outputs.md 1.1). So contours come from domain/contouring, attributes from the
checklist in outputs.md 1.4, identity as raw bytes from the images, and pydicom writes the file.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian

from npc_rtnode.adapters.dicom.coding import code_item
from npc_rtnode.adapters.dicom.identity import (
    SourceImages,
    finished,
    image_reference,
    put_raw,
    read_sources,
    restore_identity,
    stamp,
)
from npc_rtnode.adapters.dicom.seg import SEGMENT_NUMBER, segmentation_of
from npc_rtnode.domain import vocabulary
from npc_rtnode.domain.contouring import Contour, contours_of
from npc_rtnode.domain.geometry import Array, Stack
from npc_rtnode.domain.outline import Probabilities
from npc_rtnode.domain.prediction import Prediction
from npc_rtnode.domain.profiles import PLAIN, Form, ObjectOrder, segmented
from npc_rtnode.domain.records import ObjectKind, WrittenObject
from npc_rtnode.domain.report import ObjectPlan, ReportContent, plain, report_of
from npc_rtnode.errors import OutputFault

ROI_NUMBER: Final = 1
_OLD_SPELLING: Final = re.compile(r".*is_(little_endian|implicit_VR)")
INTERPRETED_TYPE: Final = "GTV"  # RTROIInterpretedType, PS3.3 C.8.8.8


def write_rtstruct(
    stack: Stack,
    sources: Sequence[Path],
    mask: NDArray[np.bool_],
    prediction: Prediction,
    plan: ObjectPlan,
    form: Form = PLAIN,
) -> WrittenObject:
    """The structure set of one result, Implicit VR Little Endian; `sources` in the order of the stack's slices.

    Raises OutputFault for a mask that is empty or off the grid, or probabilities that are: such a result has no
    structure set.
    """
    _check_mask(mask, stack)
    seen = _probabilities(prediction, mask, plan)
    order, images = ObjectOrder(ObjectKind.RTSTRUCT, form), read_sources(stack, sources)
    content = report_of(mask, stack.grid, prediction, plan, order.variant)
    ds = _scaffold(images, mask, content, plan)
    stamp(ds, plan, order)
    _describe_object(ds, images, content, plan)
    _name_predecessor(ds, content.supersedes)
    _describe_roi(ds.StructureSetROISequence[0], content, plan, form)
    _replace_contours(ds.ROIContourSequence[0], contours_of(mask, stack, seen), images, form.decimals)
    _list_instances(ds, images)
    ds.RTROIObservationsSequence = [_observation(content)]
    return finished(ds, order, ImplicitVRLittleEndian)


def _check_mask(mask: NDArray[np.bool_], stack: Stack) -> None:
    if mask.shape != stack.grid.shape or mask.dtype != np.bool_:
        raise OutputFault(f"mask {mask.dtype} {mask.shape} is not a mask on the grid {stack.grid.shape}")
    if not mask.any():
        raise OutputFault("the mask is empty: no structure set can be written")


def _probabilities(prediction: Prediction, mask: NDArray[np.bool_], plan: ObjectPlan) -> Probabilities:
    """What the mask was cut from; the bundle says where it was cut."""
    if prediction.probability.shape != mask.shape:
        raise OutputFault(f"probabilities {prediction.probability.shape} do not belong to a mask {mask.shape}")
    return Probabilities(prediction.probability, plan.bundle.threshold)


def _scaffold(images: SourceImages, mask: NDArray[np.bool_], content: ReportContent, plan: ObjectPlan) -> Dataset:
    """rt-utils' frame: sequences, references to every image, one AUTOMATIC ROI, UNAPPROVED."""
    from rt_utils import ds_helper
    from rt_utils.rtstruct import RTStruct

    headers = list(images.headers)
    with _old_pydicom_spelling():
        structure = RTStruct(headers, ds_helper.create_rtstruct_dataset(headers))
        structure.add_roi(
            mask=np.ascontiguousarray(np.moveaxis(mask, 0, -1)),  # rt-utils wants [row, column, slice]
            color=list(plan.content.roi_color),
            name=plan.content.roi_name,
            description=content.description,
            roi_generation_algorithm=0,  # AUTOMATIC
        )
    ds = Dataset()
    ds.update(structure.ds)
    return ds


@contextmanager
def _old_pydicom_spelling() -> Iterator[None]:
    """rt-utils 1.2.7 sets the encoding the way pydicom 2 wanted it (D16); pydicom warns and logs, each time."""
    log = logging.getLogger("pydicom")
    log.addFilter(_is_news)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=_OLD_SPELLING.pattern, category=DeprecationWarning)
            yield
    finally:
        log.removeFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return not _OLD_SPELLING.match(record.getMessage())


def _describe_object(ds: Dataset, images: SourceImages, content: ReportContent, plan: ObjectPlan) -> None:
    restore_identity(ds, images)
    ds.SeriesNumber = plan.content.series_number_rtstruct
    ds.SeriesDescription = content.title
    ds.OperatorsName = ""
    ds.SoftwareVersions = [plain(plan.software_version, 64), f"rt-utils {version('rt-utils')}"]
    ds.FrameOfReferenceUID = images.headers[0].FrameOfReferenceUID
    ds.PositionReferenceIndicator = None
    put_raw(ds, images.raw, "PositionReferenceIndicator")
    ds.StructureSetLabel, ds.StructureSetName = content.label, content.title
    ds.StructureSetDescription = content.description
    ds.StructureSetDate, ds.StructureSetTime = ds.InstanceCreationDate, ds.InstanceCreationTime
    ds.ApprovalStatus = "UNAPPROVED"


def _name_predecessor(ds: Dataset, replaced: str | None) -> None:
    """PredecessorStructureSetSequence (PS3.3 C.8.8.5): the set of the same series that was sent before."""
    if replaced:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = ds.SOPClassUID, replaced
        ds.PredecessorStructureSetSequence = [item]


def _describe_roi(roi: Dataset, content: ReportContent, plan: ObjectPlan, form: Form) -> None:
    """Structure Set ROI Sequence (PS3.3 C.8.8.5)."""
    roi.ROIName = plan.roi_name(form)
    roi.ROIDescription = content.description
    roi.ROIVolume = content.volume_text
    roi.ROIGenerationAlgorithm = "AUTOMATIC"
    roi.ROIGenerationDescription = plain(f"{content.algorithm_name} {content.algorithm_version}", 64)
    if segmented(plan.orders):
        roi.DefinitionSourceSequence = [_segment(plan)]
    algorithm = Dataset()
    algorithm.AlgorithmFamilyCodeSequence = [code_item(vocabulary.ARTIFICIAL_INTELLIGENCE)]
    algorithm.AlgorithmName = content.algorithm_name
    algorithm.AlgorithmVersion = content.algorithm_version
    algorithm.AlgorithmParameters = "; ".join(content.algorithm_parameters)
    algorithm.AlgorithmSource = plain(plan.content.manufacturer, 64)
    roi.ROIDerivationAlgorithmIdentificationSequence = [algorithm]


def _segment(plan: ObjectPlan) -> Dataset:
    """The segment that the ROI is (PS3.3 C.8.8.5, Definition Source)."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = segmentation_of(plan)
    item.ReferencedSegmentNumber = SEGMENT_NUMBER
    return item


def _replace_contours(roi: Dataset, contours: Sequence[Contour], images: SourceImages, decimals: int) -> None:
    """ROI Contour Sequence (PS3.3 C.8.8.6): our contours instead of rt-utils', each with its one image or frame."""
    items = [_contour_item(contour, images, decimals) for contour in contours]
    for number, item in enumerate(items, start=1):
        item.ContourNumber = number
    roi.ContourSequence = items


def _list_instances(ds: Dataset, images: SourceImages) -> None:
    """RT Referenced Series (PS3.3 C.8.8.5): each instance once; without frame numbers, for all its frames are used."""
    series = ds.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    series.ContourImageSequence = [
        image_reference(header, (str(header.SOPInstanceUID), None)) for header in images.instances
    ]


def _contour_item(contour: Contour, images: SourceImages, decimals: int) -> Dataset:
    item = Dataset()
    item.ContourImageSequence = [
        image_reference(images.headers[contour.slice_index], images.references[contour.slice_index])
    ]
    item.ContourGeometricType = "CLOSED_PLANAR"
    item.NumberOfContourPoints = len(contour.points_mm)
    item.ContourData = decimal_strings(contour.points_mm, decimals)
    return item


def decimal_strings(points_mm: Array, decimals: int = 3) -> list[str]:
    """x, y, z of every point as fixed-point DS: at most 16 characters (PS3.5 6.2)."""
    zero = f"{0.0:.{decimals}f}"
    spelled = [f"{value:.{decimals}f}" for value in np.ravel(points_mm)]
    return [zero if text == f"-{zero}" else text for text in spelled]


def _observation(content: ReportContent) -> Dataset:
    """RT ROI Observations (PS3.3 C.8.8.8); rt-utils' item is dropped whole."""
    item = Dataset()
    item.ObservationNumber = item.ReferencedROINumber = ROI_NUMBER
    item.ROIObservationLabel = content.label
    item.RTROIInterpretedType = INTERPRETED_TYPE
    item.ROIInterpreter = ""
    item.SegmentedPropertyCategoryCodeSequence = [code_item(vocabulary.ABNORMAL_STRUCTURE)]
    item.RTROIIdentificationCodeSequence = [code_item(vocabulary.PRIMARY_NEOPLASM)]
    item.AnatomicRegionSequence = [code_item(vocabulary.NASOPHARYNX)]
    return item
