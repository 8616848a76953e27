"""Received files as values: headers for geometry, attributes for rules, voxels for the model.

A slice is an instance, or a frame of an Enhanced MR instance (adapters/dicom/frames). SimpleITK decodes the pixels of
an instance and is never believed about geometry without a check: its corners must lie where our own header arithmetic
puts them. pydicom decodes the pixels of frames. No text of a data set enters an error message: an instance is named by
its SOP Instance UID, or by its digest where it cannot be read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.datadict import keyword_for_tag
from pydicom.multival import MultiValue
from pydicom.uid import UID

from npc_rtnode.adapters.dicom.elements import (
    digest_of_file,
    floats_of,
    quietly,
    raw_of,
    read_elements,
    uid_of,
    value_of,
    whole_of,
)
from npc_rtnode.adapters.dicom.frames import FRAME_KEYWORDS, Slice, classic_value, slices_in, traits_of
from npc_rtnode.adapters.dicom.pixels import FORM_KEYWORDS, decoded, decoded_frames, form_of
from npc_rtnode.adapters.dicom.references import referenced_images
from npc_rtnode.domain.geometry import MOST_FRAMES, StackJudgement, Volume, judge_stack, plane_of, stack_of
from npc_rtnode.domain.identifiers import sha256_hex
from npc_rtnode.domain.pixels import PixelForm, fill_padding, judge_pixels, refuse_unusable
from npc_rtnode.domain.records import AttributeValue, AttributeValues, SeriesAttributes, SliceHeader
from npc_rtnode.errors import Unreadable

_HEADER_KEYWORDS = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "FrameOfReferenceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "Rows",
    "Columns",
    "PixelSpacing",
    "NumberOfFrames",
    "ImagesInAcquisition",
)
_IDENTITY_KEYWORDS = ("PatientName", "PatientID", "IssuerOfPatientID")
_QUALITY_KEYWORDS = ("QualityControlSubject", "QualityControlImage")  # (0010,0200), (0028,0300): YES marks a phantom
_REQUEST_SEQUENCES = ("RequestAttributesSequence",)  # where the order's texts lie, PS3.3 C.7.3.1
_SPOKEN = re.compile(r"Description$|^CodeMeaning$|^ReasonFor|^ContrastBolusAgent$")  # texts worth flattening; no names
_MOSAIC_WORDS = {"MOSAIC", "VFRAME"}  # Siemens, UIH: many slices tiled into one image

_ESCAPE = re.compile(r"\x1b[\x20-\x2f]{1,2}[\x30-\x7e]")  # ISO 2022 designations that IR 58 leaves in decoded text


@dataclass(frozen=True)
class _File:
    """One file, read once, and the slices in it."""

    path: Path
    slices: tuple[Slice, ...]

    def headers(self) -> list[SliceHeader]:
        """One a slice."""
        sha256 = digest_of_file(self.path)
        return [_header(part, sha256) for part in self.slices]

    def forms(self) -> list[PixelForm]:
        """How each slice states its grey values."""
        return [form_of(part.elements) for part in self.slices]


class DicomSeriesReader:
    """Fulfils ports.SeriesReader."""

    def headers(self, files: Sequence[Path]) -> list[SliceHeader]:
        """Geometry headers, one a slice, file by file in the order given; raises Unreadable."""
        return [header for file in _files(files, _HEADER_KEYWORDS) for header in file.headers()]

    def attributes(self, files: Sequence[Path], keywords: Sequence[str]) -> SeriesAttributes:
        """The attributes that rules ask for, by DICOM keyword, and all `@derived` facts; raises Unreadable."""
        asked = [keyword for keyword in keywords if not keyword.startswith("@")]
        wanted = (*_HEADER_KEYWORDS, *FORM_KEYWORDS, *_QUALITY_KEYWORDS, *_REQUEST_SEQUENCES, "ImageType", *asked)
        slices = [part for file in _files(files, wanted) for part in file.slices]
        values = {keyword: tuple(_entry(part, keyword) for part in slices) for keyword in asked}
        return SeriesAttributes(len(slices), values, _derived(slices))

    def volume(self, files: Sequence[Path]) -> Volume:
        """Decoded, rescaled voxels on a checked stack; padding has become the lowest voxel.

        Raises GeometryRefused (no even stack, or SimpleITK disagrees about it), PixelsRefused (grey values that cannot
        be used, whatever the pixels are) or Unreadable (pixels do not decode).
        """
        read = [(file, file.headers()) for file in _files(files, (*_HEADER_KEYWORDS, *FORM_KEYWORDS))]
        stack = stack_of([header for _, headers in read for header in headers])
        refuse_unusable([form for file, _ in read for form in file.forms()])
        index = {header.reference: k for k, header in enumerate(stack.slices)}
        voxels = np.empty(stack.grid.shape, dtype=np.float32)
        for file, headers in read:
            for header, plane in zip(headers, _planes(file, headers), strict=True):
                voxels[index[header.reference]] = plane
        fill_padding(voxels)
        return Volume(voxels, stack)

    def is_phantom(self, files: Sequence[Path]) -> bool:
        """Whether every instance says it shows no patient: QualityControlSubject or QualityControlImage is YES."""
        return bool(files) and _all_phantom(read_elements(path, _QUALITY_KEYWORDS) for path in files)

    def references(self, file: Path) -> tuple[str, ...]:
        """The SOP Instance UIDs of the images that one RTSTRUCT references, each once; raises Unreadable."""
        return referenced_images(file)


def _files(files: Sequence[Path], keywords: Sequence[str]) -> Iterator[_File]:
    """Each file with its slices; past MOST_FRAMES in one series an instance is left whole, which geometry refuses."""
    room = MOST_FRAMES
    wanted = sorted({*keywords, *FRAME_KEYWORDS})
    for path in files:
        found = slices_in(read_elements(path, wanted), room)
        room -= sum(part.frame is not None for part in found)
        yield _File(path, tuple(found))


def _planes(file: _File, headers: Sequence[SliceHeader]) -> Iterable[NDArray[np.float32]]:
    """The pixels of one file's slices."""
    forms = file.forms()
    if headers[0].frame is None:
        return [decoded(file.path, header, form) for header, form in zip(headers, forms, strict=True)]
    return decoded_frames(file.path, headers, forms)


def planes_of(path: Path) -> Iterator[tuple[SliceHeader, NDArray[np.float32]]]:
    """The slices of one file and their pixels, NaN where they are padding, decoded by pydicom whatever the file is."""
    for file in _files([path], (*_HEADER_KEYWORDS, *FORM_KEYWORDS)):
        headers = file.headers()
        yield from zip(headers, decoded_frames(path, headers, file.forms()), strict=True)


def series_uid_of(path: Path) -> str:
    """The SeriesInstanceUID of one DICOM file; Unreadable where it is no DICOM file or names no series."""
    uid = uid_of(read_elements(path, ("SeriesInstanceUID",)), "SeriesInstanceUID")
    if uid is None:
        raise Unreadable(f"instance {digest_of_file(path)[:12]} names no series")
    return uid


# --- headers ----------------------------------------------------------------------------------------------------


def _header(part: Slice, sha256: str) -> SliceHeader:
    ds = part.elements
    row_column = floats_of(ds, "PixelSpacing", 2)
    position = floats_of(ds, "ImagePositionPatient", 3)
    cosines = floats_of(ds, "ImageOrientationPatient", 6)
    return SliceHeader(
        sop_uid=uid_of(ds, "SOPInstanceUID") or "",
        sha256=sha256,
        study_uid=uid_of(ds, "StudyInstanceUID") or "",
        patient_key=_patient_key(ds),
        frame_of_reference_uid=uid_of(ds, "FrameOfReferenceUID"),
        position=(position[0], position[1], position[2]) if position else None,
        orientation=(cosines[0], cosines[1], cosines[2], cosines[3], cosines[4], cosines[5]) if cosines else None,
        rows=whole_of(ds, "Rows"),
        columns=whole_of(ds, "Columns"),
        spacing_mm=(row_column[0], row_column[1]) if row_column else None,
        frames=whole_of(ds, "NumberOfFrames") or 1,
        images_in_acquisition=whole_of(ds, "ImagesInAcquisition"),
        frame=part.frame,
        traits=traits_of(part),
    )


def _patient_key(ds: Dataset) -> str:
    """Digest of the identity as sent, byte for byte but for padding: seen to differ, never to be read."""
    return sha256_hex(b"\x1f".join(raw_of(ds, keyword) for keyword in _IDENTITY_KEYWORDS))


# --- attributes for rules ------------------------------------------------------------------------------------------


def _entry(part: Slice, keyword: str) -> AttributeValues | None:
    """One slice's values of one attribute; the order's texts are also looked for in the request sequence."""
    ds = part.elements
    stated = _plain(value_of(ds, keyword) if part.frame is None else classic_value(ds, keyword))
    if stated is not None:
        return stated
    for sequence in _REQUEST_SEQUENCES:
        for item in value_of(ds, sequence) or ():
            found = _plain(value_of(item, keyword))
            if found is not None:
                return found
    return None


def _plain(value: Any) -> AttributeValues | None:
    """A pydicom value as plain strings and numbers; a sequence becomes its spoken texts; bytes say nothing."""
    if value is None or isinstance(value, bytes):
        return None
    if _is_sequence(value):
        return tuple(_spoken_texts(value)) or None
    parts = value if isinstance(value, (MultiValue, list, tuple)) else [value]
    return tuple(_scalar(part) for part in parts) or None


def _is_sequence(value: Any) -> bool:
    return (
        isinstance(value, Iterable) and not isinstance(value, str) and all(isinstance(part, Dataset) for part in value)
    )


def _scalar(part: Any) -> AttributeValue:
    if isinstance(part, int):
        return int(part)
    if isinstance(part, float):
        return float(part)
    return clean_text(str(part))


def clean_text(text: str) -> str:
    """Decoded text without padding and without the ISO 2022 escape sequences that IR 58 decoding leaves behind."""
    return _ESCAPE.sub("", text).strip(" \0")


def _spoken_texts(items: Iterable[Dataset]) -> Iterator[str]:
    """Descriptions, code meanings and reasons anywhere below these items; never names or identifiers."""
    for item in items:
        for tag in item.keys():  # noqa: SIM118  (a Dataset iterates over elements, and reading one may fail)
            yield from _spoken_in(item, tag)


def _spoken_in(item: Dataset, tag: Any) -> Iterator[str]:
    keyword = keyword_for_tag(tag)
    value = value_of(item, keyword) if keyword else None
    if isinstance(value, str) and _SPOKEN.search(keyword):
        yield clean_text(value)
    elif value is not None and _is_sequence(value):
        yield from _spoken_texts(value)


def _derived(slices: Sequence[Slice]) -> dict[str, AttributeValue]:
    """Judged facts that no single element states, constant over the series; absent where they cannot be judged."""
    headers = [_header(part, "") for part in slices]
    datasets = [part.elements for part in slices]
    judgement = judge_stack(headers)
    facts: dict[str, AttributeValue] = {
        "@slices": len(datasets),
        "@stack": "even" if judgement.stack else " ".join(judgement.codes),
        "@mosaic": _yes(any(map(_is_mosaic, slices))),
        "@phantom": _yes(bool(datasets) and _all_phantom(datasets)),
        "@sop_class": " and ".join(sorted({_sop_class(ds) for ds in datasets})),
    }
    return facts | _pixel_facts(headers, datasets) | _spacing_facts(judgement) | _plane_facts(headers, judgement)


def _sop_class(ds: Dataset) -> str:
    """The name of the SOP Class in the registry (PS3.6 A); the UID itself where it has none."""
    with quietly():
        return UID(uid_of(ds, "SOPClassUID") or "").name


def _yes(true: bool) -> str:
    return "yes" if true else "no"


def _is_mosaic(part: Slice) -> bool:
    return bool(_MOSAIC_WORDS & set(_entry(part, "ImageType") or ()))


def _all_phantom(datasets: Iterable[Dataset]) -> bool:
    return all(any(value_of(ds, keyword) == "YES" for keyword in _QUALITY_KEYWORDS) for ds in datasets)


def _pixel_facts(headers: Sequence[SliceHeader], datasets: Sequence[Dataset]) -> dict[str, AttributeValue]:
    """Whether the grey values can be used as `volume` needs them: "plain", or why not; absent where no image is."""
    if not any(header.rows for header in headers):
        return {}
    return {"@pixels": "; ".join(map(str, judge_pixels([form_of(ds) for ds in datasets]))) or "plain"}


def _spacing_facts(judgement: StackJudgement) -> dict[str, AttributeValue]:
    if judgement.stack is None:
        return {}
    slices_mm, rows_mm, columns_mm = judgement.stack.grid.spacing_mm
    return {"@spacing_mm": slices_mm, "@row_spacing_mm": rows_mm, "@column_spacing_mm": columns_mm}


def _plane_facts(headers: Sequence[SliceHeader], judgement: StackJudgement) -> dict[str, AttributeValue]:
    """The plane where all slices share one: "axial", "coronal", "sagittal" or "oblique"; and its angle to an axis."""
    stated = [header.orientation for header in headers if header.orientation]
    if len(stated) < len(headers) or not stated or {"NOT_ORTHONORMAL", "MIXED_ORIENTATION"} & set(judgement.codes):
        return {}
    plane, angle = plane_of(min(stated))
    return {"@plane": plane, "@plane_angle_deg": angle}
