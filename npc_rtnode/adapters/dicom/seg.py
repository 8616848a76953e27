"""The segmentation (PS3.3 A.51): the mask itself, voxel for voxel, one binary segment on the source's own planes.

highdicom builds it from neutral headers (adapters/dicom/identity), each under a stand-in for its name: it takes several
frames of one Enhanced MR instance for one image. Names, and the identity elements as raw bytes, are put in afterwards.
The segment is tracked under the UID that the report's measurement group has.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from npc_rtnode.adapters.dicom.coding import coded
from npc_rtnode.adapters.dicom.identity import (
    SourceImages,
    finished,
    image_reference,
    put_raw,
    read_sources,
    restore_identity,
    stamp,
    unclocked,
)
from npc_rtnode.adapters.dicom.kinds import KINDS
from npc_rtnode.domain import vocabulary
from npc_rtnode.domain.geometry import Stack
from npc_rtnode.domain.prediction import Prediction
from npc_rtnode.domain.profiles import ObjectOrder
from npc_rtnode.domain.records import ObjectKind, WrittenObject
from npc_rtnode.domain.report import TRACKED, ObjectPlan, ReportContent, plain, report_of

if TYPE_CHECKING:
    from highdicom.seg import Segmentation, SegmentDescription

SEGMENT_NUMBER: Final = 1
CONTENT_LABEL: Final = "GTVP_AI"  # CS, PS3.5 6.2
_ORDER: Final = ObjectOrder(ObjectKind.SEG)
_STAND_IN: Final = "1.2.3"  # root of the names that only highdicom sees


def write_seg(
    stack: Stack, sources: Sequence[Path], mask: NDArray[np.bool_], prediction: Prediction, plan: ObjectPlan
) -> WrittenObject:
    """The segmentation of one result, Explicit VR Little Endian; `sources` in the order of the stack's slices."""
    images, content = read_sources(stack, sources), report_of(mask, stack.grid, prediction, plan)
    planes = [_plane(k, header, stack.grid.spacing_mm[0]) for k, header in enumerate(images.headers)]
    ds = _segmentation(planes, mask, content, plan)
    _name_sources(ds, images)
    stamp(ds, plan, _ORDER)
    _describe_object(ds, images, content, plan)
    return finished(ds, _ORDER, ExplicitVRLittleEndian)


def segmentation_of(plan: ObjectPlan) -> tuple[str, str]:
    """SOP Class and Instance UID of a result's segmentation, for whoever names it."""
    return KINDS[ObjectKind.SEG].sop_class_uid, plan.object_uid(_ORDER)


def _plane(index: int, header: Dataset, between_mm: float) -> Dataset:
    """One slice as an image of its own; its thickness is the distance to the next, so that voxels fill the stack."""
    plane = deepcopy(header)  # update() would share the elements, and a change here would be one there
    plane.SOPClassUID, plane.SOPInstanceUID = MRImageStorage, f"{_STAND_IN}.{index}"
    plane.SliceThickness = f"{between_mm:.6g}"
    return plane


def _segmentation(
    planes: Sequence[Dataset], mask: NDArray[np.bool_], content: ReportContent, plan: ObjectPlan
) -> Segmentation:
    """BINARY, one frame for each slice that has a voxel inside."""
    from highdicom.seg import Segmentation

    return Segmentation(
        source_images=planes,
        pixel_array=mask.astype(np.uint8),
        segmentation_type="BINARY",
        segment_descriptions=[_segment(content, plan)],
        series_instance_uid=plan.series_uid(_ORDER),
        series_number=plan.content.series_number_seg,
        sop_instance_uid=plan.object_uid(_ORDER),
        instance_number=plan.result_revision,
        manufacturer=plain(plan.content.manufacturer, 64),
        manufacturer_model_name="npc_rtnode",
        software_versions=plain(plan.software_version, 64),
        device_serial_number=plain(plan.content.device_serial, 64),
        content_label=CONTENT_LABEL,
        content_description=content.title,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        omit_empty_frames=True,
    )


def _segment(content: ReportContent, plan: ObjectPlan) -> SegmentDescription:
    """Segment Sequence item (PS3.3 C.8.20.4): what it is, where, by whom, and under which tracking UID."""
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentDescription

    algorithm = AlgorithmIdentificationSequence(
        name=content.algorithm_name,
        family=coded(vocabulary.ARTIFICIAL_INTELLIGENCE),
        version=content.algorithm_version,
        source=plain(plan.content.manufacturer, 64),
    )
    return SegmentDescription(
        segment_number=SEGMENT_NUMBER,
        segment_label=plan.content.roi_name,
        segmented_property_category=coded(vocabulary.ABNORMAL_STRUCTURE),
        segmented_property_type=coded(vocabulary.PRIMARY_NEOPLASM),
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
        tracking_uid=plan.uid(f"tracking-{TRACKED}"),
        tracking_id=TRACKED,
        anatomic_regions=[coded(vocabulary.NASOPHARYNX)],
    )


def _name_sources(ds: Dataset, images: SourceImages) -> None:
    """Each frame names the slice it lies on; the object lists every instance once (PS3.3 C.7.6.16.2.6, C.12.1.3)."""
    for group in ds.PerFrameFunctionalGroupsSequence:
        for derived in group.DerivationImageSequence:
            derived.SourceImageSequence = [_named(item, images) for item in derived.SourceImageSequence]
    (series,) = ds.ReferencedSeriesSequence
    series.ReferencedInstanceSequence = [
        image_reference(header, (str(header.SOPInstanceUID), None)) for header in images.instances
    ]
    del ds.SourceImageSequence  # says no more than the frames do


def _named(item: Dataset, images: SourceImages) -> Dataset:
    index = int(item.ReferencedSOPInstanceUID.rsplit(".", 1)[1])
    item.update(image_reference(images.headers[index], images.references[index]))
    return item


def _describe_object(ds: Dataset, images: SourceImages, content: ReportContent, plan: ObjectPlan) -> None:
    restore_identity(ds, images)
    unclocked(ds, plan)
    ds.SeriesDescription = content.title
    ds.SegmentSequence[0].SegmentDescription = content.description
    ds.FrameOfReferenceUID = images.headers[0].FrameOfReferenceUID
    ds.PositionReferenceIndicator = None
    put_raw(ds, images.raw, "PositionReferenceIndicator")
    ds.SoftwareVersions = [plain(plan.software_version, 64), f"highdicom {version('highdicom')}"]
    for item in (*ds.DimensionOrganizationSequence, *ds.DimensionIndexSequence):
        item.DimensionOrganizationUID = plan.uid("dimensions-SEG")
