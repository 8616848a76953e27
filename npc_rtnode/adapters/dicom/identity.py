"""Whose images these are, byte for byte: the elements both objects share with their source, copied undecoded.

No library gets to see the patient's text: rt-utils and highdicom are handed neutral headers (ASCII, complete, geometry
from the checked stack), and the source's raw elements, its SpecificCharacterSet among them, are put in afterwards. A
GB18030, mis-declared GBK or ISO 2022 IR 58 name stays the very bytes it was (outputs.md 1.6).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final, TypeVar

from pydicom import dcmread
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.filewriter import dcmwrite
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID
from pydicom.valuerep import DSfloat

from npc_rtnode.adapters.dicom.elements import quietly
from npc_rtnode.adapters.dicom.kinds import KINDS
from npc_rtnode.domain.geometry import Stack
from npc_rtnode.domain.identifiers import derived_uid
from npc_rtnode.domain.profiles import ObjectOrder
from npc_rtnode.domain.records import ImageReference, SliceHeader, WrittenObject
from npc_rtnode.domain.report import ObjectPlan, plain
from npc_rtnode.errors import GeometryRefused, InputFault, Unreadable

# Patient and General Study modules (PS3.3 C.7.1.1, C.7.2.1): the same bytes in image, structure set and report.
IDENTITY: Final = (
    "SpecificCharacterSet",
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "StudyDescription",
    "AccessionNumber",
    "ReferringPhysicianName",
)
TYPE_2: Final = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)
_DECIMAL: Final = re.compile(rb"(?=.{1,16}$) *[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)? *")
IF_PRESENT: Final = {  # optional: left out where the value breaks its VR (PS3.5 6.2), as the age "42" does
    "PatientAge": re.compile(rb"\d{3}[DWMY]"),
    "PatientSize": _DECIMAL,
    "PatientWeight": _DECIMAL,
    "InstitutionName": re.compile(rb".+", re.DOTALL),
}
_READ: Final = (
    *IDENTITY,
    *IF_PRESENT,
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "PositionReferenceIndicator",
)

T = TypeVar("T")

IMPLEMENTATION_CLASS_UID: Final = derived_uid("npc_rtnode", "implementation class")
IMPLEMENTATION_VERSION: Final = "NPC_RTNODE"
CREATOR_UID: Final = derived_uid("npc_rtnode", "instance creator")


@dataclass(frozen=True)
class SourceImages:
    """The slices of a stack: `raw` holds the first one's undecoded elements, `headers` a neutral header for each.

    Frames of one instance have headers that differ in place alone; `references` says how each slice is named.
    """

    raw: Dataset
    headers: tuple[Dataset, ...]
    references: tuple[ImageReference, ...]

    @property
    def instances(self) -> tuple[Dataset, ...]:
        """One header an instance, in the order of the stack."""
        first: dict[str, Dataset] = {}
        for header in self.headers:
            first.setdefault(str(header.SOPInstanceUID), header)
        return tuple(first.values())


def read_sources(stack: Stack, files: Sequence[Path]) -> SourceImages:
    """Headers of the stack's files, which must come in the order of its slices; raises Unreadable or InputFault."""
    if len(files) != len(stack.slices):
        raise InputFault(f"{len(files)} files for {len(stack.slices)} slices")
    read = read_once(files)
    for ds, header in zip(read, stack.slices, strict=True):
        if str(ds.get("SOPInstanceUID", "")) != header.sop_uid:
            raise InputFault(f"a file is not the instance {header.sop_uid} that the stack names")
    headers = tuple(_neutral(ds, header) for ds, header in zip(read, stack.slices, strict=True))
    return SourceImages(read[0], headers, tuple(header.reference for header in stack.slices))


def read_once(files: Sequence[Path], also: Sequence[str] = ()) -> list[Dataset]:
    """What `read_raw` says of each file; a file that holds several slices is read for the first of them alone."""
    by_path = {file: read_raw(file, also) for file in dict.fromkeys(files)}
    return [by_path[file] for file in files]


def read_raw(file: Path, also: Sequence[str] = ()) -> Dataset:
    """The few elements that identify an image, and others by keyword, undecoded."""
    try:
        with quietly():
            return dcmread(file, stop_before_pixels=True, specific_tags=[*_READ, *also])
    except (InvalidDicomError, EOFError, OSError) as error:
        raise Unreadable(f"{file.name[:16]}: {type(error).__name__}") from error


def name_predecessor(ds: Dataset, plan: ObjectPlan, order: ObjectOrder) -> None:
    """PredecessorDocumentsSequence (PS3.3 C.17.2): the report of the same series that this one takes the place of."""
    replaced = plan.predecessor(order.kind, order.variant)
    if replaced is None:
        return
    document, listed, study = Dataset(), Dataset(), Dataset()
    document.ReferencedSOPClassUID, document.ReferencedSOPInstanceUID = ds.SOPClassUID, replaced.sop_uid
    listed.SeriesInstanceUID = derived_uid(replaced.work_key, f"series-{replaced.name}")
    listed.ReferencedSOPSequence = [document]
    study.StudyInstanceUID, study.ReferencedSeriesSequence = ds.StudyInstanceUID, [listed]
    ds.PredecessorDocumentsSequence = [study]


def _neutral(ds: Dataset, header: SliceHeader) -> Dataset:
    """A header with everything a library asks for and nothing of the patient."""
    neutral = Dataset()
    for keyword in TYPE_2:
        setattr(neutral, keyword, "")
    neutral.PatientName, neutral.PatientID = "NEUTRAL^", "NEUTRAL"
    neutral.Modality = "MR"
    neutral.SOPClassUID, neutral.SOPInstanceUID = ds.SOPClassUID, header.sop_uid
    neutral.StudyInstanceUID, neutral.SeriesInstanceUID = header.study_uid, ds.SeriesInstanceUID
    neutral.FrameOfReferenceUID = _given(header.frame_of_reference_uid)
    neutral.ImagePositionPatient = _decimals(_given(header.position))
    neutral.ImageOrientationPatient = _decimals(_given(header.orientation))
    neutral.PixelSpacing = _decimals(_given(header.spacing_mm))
    neutral.Rows, neutral.Columns = _given(header.rows), _given(header.columns)
    return neutral


def _given(value: T | None) -> T:
    if value is None:
        raise GeometryRefused("a slice lacks its frame of reference, place, orientation, spacing or size")
    return value


def _decimals(values: Iterable[float]) -> list[DSfloat]:
    return [DSfloat(value, auto_format=True) for value in values]


def restore_identity(ds: Dataset, sources: SourceImages) -> None:
    """Make the object the source's patient and study: raw elements in, absent type 2 elements empty, others gone."""
    for keyword in IDENTITY:
        ds.pop(Tag(keyword), None)
        if Tag(keyword) in sources.raw:
            put_raw(ds, sources.raw, keyword)
        elif keyword in TYPE_2:
            setattr(ds, keyword, None)
    for keyword, form in IF_PRESENT.items():
        ds.pop(Tag(keyword), None)
        if form.fullmatch(raw_bytes(sources.raw, Tag(keyword))):
            put_raw(ds, sources.raw, keyword)


def image_reference(header: Dataset, reference: ImageReference) -> Dataset:
    """An item that names one slice (PS3.3 10.3): its instance, and its frame where the instance has others."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    _, frame = reference
    if frame is not None:
        item.ReferencedFrameNumber = frame
    return item


def put_raw(ds: Dataset, source: Dataset, keyword: str) -> None:
    """Copy one element undecoded; a VR that the source's encoding does not state comes from the dictionary."""
    tag = Tag(keyword)
    item: Any = source.get_item(tag) if tag in source else None
    if isinstance(item, RawDataElement):
        ds[tag] = item._replace(VR=dictionary_VR(tag))
    elif item is not None:
        ds[tag] = item


def raw_bytes(ds: Dataset, tag: BaseTag) -> bytes:
    """An element's value as it lies in the file, empty if absent."""
    item: Any = ds.get_item(tag) if tag in ds else None
    if isinstance(item, RawDataElement):
        return bytes(item.value or b"")
    if item is None or item.value is None:
        return b""
    values = item.value if item.VM > 1 else [item.value]
    text = "\\".join(str(value) for value in values).encode("ascii", "replace")
    return text + (b"\0" if item.VR == "UI" else b" ") * (len(text) % 2)  # PS3.5 6.2


def raw_identity(ds: Dataset) -> dict[str, bytes]:
    """The identity elements as bytes, by keyword."""
    return {keyword: raw_bytes(ds, Tag(keyword)) for keyword in IDENTITY}


def stamp(ds: Dataset, plan: ObjectPlan, order: ObjectOrder) -> None:
    """SOP Common, series and equipment elements of one of our objects (PS3.3 C.12.1, C.7.3.1, C.7.5.1)."""
    day, clock = plan.local_time.strftime("%Y%m%d"), plan.local_time.strftime("%H%M%S.%f")
    ds.InstanceCreationDate = ds.SeriesDate = day
    ds.InstanceCreationTime = ds.SeriesTime = clock
    ds.InstanceCreatorUID = CREATOR_UID
    ds.TimezoneOffsetFromUTC = plan.utc_offset
    ds.InstanceNumber = plan.result_revision
    ds.SOPClassUID, ds.Modality = KINDS[order.kind].sop_class_uid, KINDS[order.kind].modality
    ds.SOPInstanceUID, ds.SeriesInstanceUID = plan.object_uid(order), plan.series_uid(order)
    ds.Manufacturer = plain(plan.content.manufacturer, 64)
    ds.ManufacturerModelName = "npc_rtnode"
    ds.DeviceSerialNumber = plain(plan.content.device_serial, 64)
    ds.StationName = plain(plan.site, 16)


def unclocked(ds: Dataset, plan: ObjectPlan) -> None:
    """The plan's time where highdicom puts the wall clock's: in the content, and where it names itself."""
    ds.ContentDate, ds.ContentTime = ds.InstanceCreationDate, ds.InstanceCreationTime
    for equipment in ds.get("ContributingEquipmentSequence", []):
        equipment.ContributionDateTime = f"{ds.ContentDate}{ds.ContentTime}{plan.utc_offset}"


def finished(ds: Dataset, order: ObjectOrder, transfer_syntax: UID) -> WrittenObject:
    """The object as the pipeline keeps it."""
    encoded = encode(ds, transfer_syntax)
    return WrittenObject(order.kind, str(ds.SOPClassUID), str(ds.SOPInstanceUID), encoded, order.variant)


def encode(ds: Dataset, transfer_syntax: UID) -> bytes:
    """The object as a DICOM file (PS3.10 7.1), file meta group ours."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    meta.TransferSyntaxUID = transfer_syntax
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION
    plain_ds = Dataset()
    plain_ds.update(ds)
    plain_ds.file_meta = meta
    plain_ds.preamble = b"\0" * 128
    buffer = BytesIO()
    dcmwrite(buffer, plain_ds, enforce_file_format=True)
    return buffer.getvalue()
