"""The preview as DICOM: a Secondary Capture image (PS3.3 A.8.1) and an Encapsulated PDF (PS3.3 A.45.1) of one page.

drawing/preview makes the PDF; the Secondary Capture is its first page as pixels. Both say that names are burned in,
name the images and the structure set they come from, and carry the source's identity as raw bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from npc_rtnode.adapters.dicom.identity import (
    SourceImages,
    finished,
    image_reference,
    read_sources,
    restore_identity,
    stamp,
)
from npc_rtnode.adapters.dicom.page import page_of
from npc_rtnode.domain.geometry import Stack
from npc_rtnode.domain.prediction import Prediction
from npc_rtnode.domain.profiles import PLAIN, Form, ObjectOrder
from npc_rtnode.domain.records import ObjectKind, WrittenObject
from npc_rtnode.domain.report import IMAGING_ONLY, ObjectPlan, ReportContent, plain, report_of
from npc_rtnode.drawing.pixels import picture_of
from npc_rtnode.drawing.preview import preview_pdf

_LONG_TEXT: Final = 10240  # LT, PS3.5 6.2
BODY_PART: Final = "HEADNECK"  # PS3.16 annex L; with it no Laterality is asked for (PS3.3 C.7.3.1)


def write_preview(
    stack: Stack,
    sources: Sequence[Path],
    mask: NDArray[np.bool_],
    prediction: Prediction,
    plan: ObjectPlan,
    rtstruct: WrittenObject,
    form: Form = PLAIN,
) -> WrittenObject:
    """The first page as an RGB image, Explicit VR Little Endian; `sources` in the order of the stack's slices."""
    page = preview_pdf(page_of(stack, sources, mask, prediction, plan, rtstruct))
    images, content = read_sources(stack, sources), report_of(mask, stack.grid, prediction, plan)
    order = ObjectOrder(ObjectKind.PREVIEW, form)
    ds = _described(order, images, content, plan)
    ds.SeriesNumber = plan.content.series_number_preview
    ds.ImageType = ["DERIVED", "SECONDARY"]
    ds.PatientOrientation = None
    ds.ImageComments = _said(content)
    ds.DerivationDescription = "Page drawn from the images and the structure set"
    ds.SourceImageSequence = _instances(images)
    ds.SourceInstanceSequence = [_structure_set(rtstruct)]
    ds.BodyPartExamined = BODY_PART
    ds.set_pixel_data(picture_of(page), "RGB", 8, generate_instance_uid=False)
    return finished(ds, order, ExplicitVRLittleEndian)


def write_pdf(
    stack: Stack,
    sources: Sequence[Path],
    mask: NDArray[np.bool_],
    prediction: Prediction,
    plan: ObjectPlan,
    rtstruct: WrittenObject,
    form: Form = PLAIN,
) -> WrittenObject:
    """All pages as a PDF, Explicit VR Little Endian; `sources` in the order of the stack's slices."""
    document = preview_pdf(page_of(stack, sources, mask, prediction, plan, rtstruct))
    images, content = read_sources(stack, sources), report_of(mask, stack.grid, prediction, plan)
    order = ObjectOrder(ObjectKind.PDF, form)
    ds = _described(order, images, content, plan)
    ds.SeriesNumber = plan.content.series_number_pdf
    ds.AcquisitionDateTime = None
    ds.DocumentTitle = plain(content.title, 64)
    ds.ConceptNameCodeSequence = []
    ds.VerificationFlag = "UNVERIFIED"
    ds.SourceInstanceSequence = [*_instances(images), _structure_set(rtstruct)]
    ds.MIMETypeOfEncapsulatedDocument = "application/pdf"
    ds.EncapsulatedDocument = document + b"\0" * (len(document) % 2)
    ds.EncapsulatedDocumentLength = len(document)
    return finished(ds, order, ExplicitVRLittleEndian)


def _described(order: ObjectOrder, images: SourceImages, content: ReportContent, plan: ObjectPlan) -> Dataset:
    """What both say: series, equipment, patient and study, and that the name can be read on the page."""
    ds = Dataset()
    stamp(ds, plan, order)
    restore_identity(ds, images)
    ds.ConversionType = "WSD"
    ds.SeriesDescription = content.title
    ds.SoftwareVersions = [plain(plan.software_version, 64)]
    ds.ContentDate, ds.ContentTime = ds.InstanceCreationDate, ds.InstanceCreationTime
    ds.BurnedInAnnotation = "YES"
    return ds


def _said(content: ReportContent) -> str:
    """ImageComments (LT): what the page says before all, for whoever lists images without looking at them."""
    warned = [content.warnings_line] if content.findings else []
    said = [*content.notices, content.stage_line, content.edition_line, content.volume_said, *warned]
    return plain(". ".join([*said, content.not_checked, IMAGING_ONLY]), _LONG_TEXT)


def _instances(images: SourceImages) -> list[Dataset]:
    """Each image once, all its frames."""
    return [image_reference(header, (str(header.SOPInstanceUID), None)) for header in images.instances]


def _structure_set(rtstruct: WrittenObject) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = rtstruct.sop_class_uid, rtstruct.sop_uid
    return item
