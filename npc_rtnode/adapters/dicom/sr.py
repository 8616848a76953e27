"""The structured report (PS3.3 A.35.3, PS3.16 TID 1500): a Comprehensive SR around one measurement group.

domain/report says what is said; here it becomes content items. With a segmentation the group is TID 1411, which names
its segment; without one it is TID 1501. The volume is inferred from the structure set, and the stage is a coded cT
category only when the node is sure enough of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from npc_rtnode.adapters.dicom.coding import coded
from npc_rtnode.adapters.dicom.identity import read_sources
from npc_rtnode.adapters.dicom.reporting import (
    Reported,
    category_of,
    document,
    filed,
    insert_notices,
    key_slice,
    name_frame,
    observer,
    source_of_measurement,
    stage,
    texts,
)
from npc_rtnode.adapters.dicom.seg import SEGMENT_NUMBER, segmentation_of
from npc_rtnode.domain import vocabulary
from npc_rtnode.domain.geometry import Stack
from npc_rtnode.domain.prediction import Prediction
from npc_rtnode.domain.profiles import PLAIN, Form, ObjectOrder
from npc_rtnode.domain.records import ObjectKind, WrittenObject
from npc_rtnode.domain.report import TRACKED, ObjectPlan, ReportContent, plain, report_of

if TYPE_CHECKING:
    from highdicom.sr import Measurement


def write_sr(
    stack: Stack,
    sources: Sequence[Path],
    mask: NDArray[np.bool_],
    prediction: Prediction,
    plan: ObjectPlan,
    rtstruct: WrittenObject,
    form: Form = PLAIN,
) -> WrittenObject:
    """The report of one result, Explicit VR Little Endian; `sources` in the order of the stack's slices."""
    from highdicom.sr import ComprehensiveSR

    order, images = ObjectOrder(ObjectKind.SR, form), read_sources(stack, sources)
    content = report_of(mask, stack.grid, prediction, plan, rtstruct.variant)
    case = Reported(order, images, content, plan, key_slice(mask), rtstruct)
    tree = _tree(case, _library_entry(case, stack.grid.spacing_mm[0]))
    name_frame(case, tree)
    return filed(case, document(case, tree, ComprehensiveSR))


def _library_entry(case: Reported, between_mm: float) -> Dataset:
    """The key slice, where the outline is largest; all the others are in the evidence."""
    entry = Dataset()
    entry.update(case.images.headers[case.key])
    entry.SliceThickness = f"{between_mm:.6g}"  # asked for by TID 1604; the distance between slices
    return entry


def _tree(case: Reported, key_image: Dataset) -> Dataset:
    """TID 1500."""
    from highdicom import sr

    report = sr.MeasurementReport(
        observation_context=observer(case.plan),
        procedure_reported=coded(vocabulary.MR_IMAGING),
        imaging_measurements=[_group(case)],
        title=coded(vocabulary.IMAGING_MEASUREMENT_REPORT),
        language_of_content_item_and_descendants=sr.LanguageOfContentItemAndDescendants(
            coded(vocabulary.LANGUAGE_EN_US)
        ),
        referenced_images=[key_image],
    )
    root: Dataset = report[0]
    insert_notices(case, root)
    return root


def _group(case: Reported) -> Any:
    """TID 1411 or 1501: the primary GTV with its volume, four probabilities, the stage and what limits them."""
    from highdicom import sr

    about = {
        "tracking_identifier": sr.TrackingIdentifier(uid=case.plan.uid(f"tracking-{TRACKED}"), identifier=TRACKED),
        "finding_category": coded(vocabulary.RT_TARGET),
        "finding_type": coded(vocabulary.GTV_PRIMARY),
        "finding_sites": [sr.FindingSite(coded(vocabulary.NASOPHARYNX))],
        "algorithm_id": _algorithm(case),
        "measurements": [_volume(case), *_probabilities(case.content)],
    }
    group: Any
    if case.order.form.segmentation:
        group = sr.VolumetricROIMeasurementsAndQualitativeEvaluations(referenced_segment=_segment(case), **about)
    else:
        group = sr.MeasurementsAndQualitativeEvaluations(**about)
    group[0].ContentSequence.extend([stage(case.content), *texts(case)])
    return group


def _segment(case: Reported) -> Any:
    """The segment that was measured, and the series that it was drawn on."""
    from highdicom import sr

    sop_class_uid, sop_uid = segmentation_of(case.plan)
    return sr.ReferencedSegment(
        sop_class_uid=sop_class_uid,
        sop_instance_uid=sop_uid,
        segment_number=SEGMENT_NUMBER,
        source_series=sr.SourceSeriesForSegmentation(case.images.headers[0].SeriesInstanceUID),
    )


def _algorithm(case: Reported) -> Any:
    """TID 4019."""
    from highdicom import sr

    return sr.AlgorithmIdentification(
        name=case.content.algorithm_name,
        version=case.content.algorithm_version,
        parameters=case.content.algorithm_parameters,
        family=coded(vocabulary.ARTIFICIAL_INTELLIGENCE),
        manufacturer=plain(case.plan.content.manufacturer, 64),
    )


def _volume(case: Reported) -> Measurement:
    """TID 300: cubic centimetres, how they were counted, and the structure set they belong to."""
    from highdicom import sr

    volume = sr.Measurement(
        name=coded(vocabulary.VOLUME),
        value=case.content.volume_cc,
        unit=coded(vocabulary.CUBIC_CENTIMETRE),
        method=coded(vocabulary.VOXEL_SUM),
    )
    volume[0].ContentSequence.append(source_of_measurement(case))
    return volume


def _probabilities(content: ReportContent) -> list[Measurement]:
    """One NUM a stage, modified by the cT category it is the probability of."""
    from highdicom import sr

    measured = []
    for name, share in content.staging.probabilities.items():
        item = sr.Measurement(name=coded(vocabulary.PROBABILITY), value=share, unit=coded(vocabulary.NO_UNITS))
        item[0].ContentSequence = sr.ContentSequence([category_of(content, name)])
        measured.append(item)
    return measured
