"""Received files as values: headers for geometry, attributes for rules, voxels for the model.

pydicom reads elements and never pixels; SimpleITK decodes pixels and is never believed about geometry without a check:
its corners of every slice must lie where our own header arithmetic puts them. No text of a data set enters an error
message: an instance is named by its SOP Instance UID, or by its digest where it cannot be read.
"""

from __future__ import annotations

import hashlib
import re
import struct
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.datadict import keyword_for_tag
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.tag import Tag
from pydicom.uid import UID

from npc_rtnode.domain.geometry import StackJudgement, Volume, axes_of, judge_stack, plane_of, stack_of
from npc_rtnode.domain.identifiers import sha256_hex
from npc_rtnode.domain.records import AttributeValue, AttributeValues, SeriesAttributes, SliceHeader
from npc_rtnode.errors import GeometryRefused, InputFault, Unreadable

_GREY_OR_COLOUR = (
    "MONOCHROME1",
    "MONOCHROME2",
    "PALETTE COLOR",
    "RGB",
    "YBR_FULL",
    "YBR_FULL_422",
    "YBR_ICT",
    "YBR_RCT",
)

CORNER_TOLERANCE_MM = 0.01
"""SimpleITK and our headers must put every slice corner at the same place within this: only rounding may differ."""

_UNREADABLE = (
    InvalidDicomError,
    BytesLengthException,
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    NotImplementedError,
    RecursionError,
    struct.error,
)
"""What pydicom raises on bytes that are no data set, or on a value that its VR does not allow; found by fuzzing."""

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
_PIXEL_KEYWORDS = ("SOPInstanceUID", "PhotometricInterpretation", "SamplesPerPixel")
_REQUEST_SEQUENCES = ("RequestAttributesSequence",)  # where the order's texts lie, PS3.3 C.7.3.1
_SPOKEN = re.compile(r"Description$|^CodeMeaning$|^ReasonFor|^ContrastBolusAgent$")  # texts worth flattening; no names
_MOSAIC_WORDS = {"MOSAIC", "VFRAME"}  # Siemens, UIH: many slices tiled into one image

_DIGEST = re.compile(r"[0-9a-f]{64}")
_ESCAPE = re.compile(r"\x1b[\x20-\x2f]{1,2}[\x30-\x7e]")  # ISO 2022 designations that IR 58 leaves in decoded text


class DicomSeriesReader:
    """Fulfils ports.SeriesReader."""

    def headers(self, files: Sequence[Path]) -> list[SliceHeader]:
        """Geometry headers, one a file, in the order given; raises Unreadable."""
        return [_header(_read(path, _HEADER_KEYWORDS), _digest(path)) for path in files]

    def attributes(self, files: Sequence[Path], keywords: Sequence[str]) -> SeriesAttributes:
        """The attributes that rules ask for, by DICOM keyword, and all `@derived` facts; raises Unreadable."""
        asked = [keyword for keyword in keywords if not keyword.startswith("@")]
        wanted = {*_HEADER_KEYWORDS, *_QUALITY_KEYWORDS, *_REQUEST_SEQUENCES, "ImageType", *asked}
        datasets = [_read(path, sorted(wanted)) for path in files]
        values = {keyword: tuple(_entry(ds, keyword) for ds in datasets) for keyword in asked}
        return SeriesAttributes(len(datasets), values, _derived(datasets))

    def volume(self, files: Sequence[Path]) -> Volume:
        """Decoded, rescaled voxels on a checked stack.

        Raises GeometryRefused (no even stack, or SimpleITK disagrees about it), Unreadable (pixels do not decode) or
        InputFault (colour or inverted grey values).
        """
        headers = self.headers(files)
        stack = stack_of(headers)
        path_of = {header.sop_uid: path for header, path in zip(headers, files, strict=True)}
        for path in files:
            _refuse_other_than_plain_grey(_read(path, _PIXEL_KEYWORDS))
        voxels = np.empty(stack.grid.shape, dtype=np.float32)
        for k, header in enumerate(stack.slices):
            voxels[k] = _decoded(path_of[header.sop_uid], header)
        return Volume(voxels, stack)

    def is_phantom(self, files: Sequence[Path]) -> bool:
        """Whether every instance says it shows no patient: QualityControlSubject or QualityControlImage is YES."""
        return bool(files) and _all_phantom(_read(path, _QUALITY_KEYWORDS) for path in files)


def series_uid_of(path: Path) -> str:
    """The SeriesInstanceUID of one DICOM file; Unreadable where it is no DICOM file or names no series."""
    uid = _uid(_read(path, ("SeriesInstanceUID",)), "SeriesInstanceUID")
    if uid is None:
        raise Unreadable(f"instance {_digest(path)[:12]} names no series")
    return uid


# --- reading elements ------------------------------------------------------------------------------------------


@contextmanager
def _quietly() -> Iterator[None]:
    """pydicom warns about values that break their VR, with the value in the text: rules judge them, logs must not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def _read(path: Path, keywords: Sequence[str]) -> Dataset:
    """The elements asked for, of a DICOM file (PS3.10); a file without preamble and prefix is refused."""
    try:
        with _quietly():
            return dcmread(path, stop_before_pixels=True, force=False, specific_tags=[Tag(word) for word in keywords])
    except _UNREADABLE as error:
        raise Unreadable(f"instance with digest {_digest(path)[:12]}: {type(error).__name__}") from None


def _digest(path: Path) -> str:
    """SHA-256 of the file: its name where it lies in the spool, else computed; empty where it cannot be opened."""
    if _DIGEST.fullmatch(path.name):
        return path.name
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return ""


def _value(ds: Dataset, keyword: str) -> Any:
    """The element's value; None where it is absent, empty or not what its VR allows."""
    try:
        with _quietly():
            value = ds.get(keyword)
    except _UNREADABLE:
        return None
    return None if value is None or value == "" or value == b"" else value


def _header(ds: Dataset, sha256: str) -> SliceHeader:
    row_column = _floats(ds, "PixelSpacing", 2)
    position = _floats(ds, "ImagePositionPatient", 3)
    cosines = _floats(ds, "ImageOrientationPatient", 6)
    return SliceHeader(
        sop_uid=_uid(ds, "SOPInstanceUID") or "",
        sha256=sha256,
        study_uid=_uid(ds, "StudyInstanceUID") or "",
        patient_key=_patient_key(ds),
        frame_of_reference_uid=_uid(ds, "FrameOfReferenceUID"),
        position=(position[0], position[1], position[2]) if position else None,
        orientation=(cosines[0], cosines[1], cosines[2], cosines[3], cosines[4], cosines[5]) if cosines else None,
        rows=_whole(ds, "Rows"),
        columns=_whole(ds, "Columns"),
        spacing_mm=(row_column[0], row_column[1]) if row_column else None,
        frames=_whole(ds, "NumberOfFrames") or 1,
        images_in_acquisition=_whole(ds, "ImagesInAcquisition"),
    )


def _floats(ds: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    """Exactly `count` finite numbers, or None."""
    value = _value(ds, keyword)
    if not isinstance(value, MultiValue) or len(value) != count:
        return None
    try:
        numbers = tuple(float(part) for part in value)
    except (TypeError, ValueError):
        return None
    return numbers if np.isfinite(numbers).all() else None


def _whole(ds: Dataset, keyword: str) -> int | None:
    value = _value(ds, keyword)
    return int(value) if isinstance(value, int) else None


def _uid(ds: Dataset, keyword: str) -> str | None:
    value = _value(ds, keyword)
    return str(value) if isinstance(value, str) else None


def _patient_key(ds: Dataset) -> str:
    """Digest of the identity as sent, byte for byte but for padding: seen to differ, never to be read."""
    return sha256_hex(b"\x1f".join(_raw(ds, keyword) for keyword in _IDENTITY_KEYWORDS))


def _raw(ds: Dataset, keyword: str) -> bytes:
    if Tag(keyword) not in ds:
        return b""
    value = ds.get_item(Tag(keyword)).value
    return value.rstrip(b" \0") if isinstance(value, bytes) else str(value).encode()


# --- attributes for rules ------------------------------------------------------------------------------------------


def _entry(ds: Dataset, keyword: str) -> AttributeValues | None:
    """One slice's values of one attribute; the order's texts are also looked for in the request sequence."""
    stated = _plain(_value(ds, keyword))
    if stated is not None:
        return stated
    for sequence in _REQUEST_SEQUENCES:
        for item in _value(ds, sequence) or ():
            found = _plain(_value(item, keyword))
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
    value = _value(item, keyword) if keyword else None
    if isinstance(value, str) and _SPOKEN.search(keyword):
        yield clean_text(value)
    elif value is not None and _is_sequence(value):
        yield from _spoken_texts(value)


def _derived(datasets: Sequence[Dataset]) -> dict[str, AttributeValue]:
    """Judged facts that no single element states, constant over the series; absent where they cannot be judged."""
    headers = [_header(ds, "") for ds in datasets]
    judgement = judge_stack(headers)
    facts: dict[str, AttributeValue] = {
        "@slices": len(datasets),
        "@stack": "even" if judgement.stack else " ".join(judgement.codes),
        "@mosaic": _yes(any(_is_mosaic(ds) for ds in datasets)),
        "@phantom": _yes(bool(datasets) and _all_phantom(datasets)),
        "@sop_class": " and ".join(sorted({_sop_class(ds) for ds in datasets})),
    }
    return facts | _spacing_facts(judgement) | _plane_facts(headers, judgement)


def _sop_class(ds: Dataset) -> str:
    """The name of the SOP Class in the registry (PS3.6 A); the UID itself where it has none."""
    with _quietly():
        return UID(_uid(ds, "SOPClassUID") or "").name


def _yes(true: bool) -> str:
    return "yes" if true else "no"


def _is_mosaic(ds: Dataset) -> bool:
    return bool(_MOSAIC_WORDS & set(_entry(ds, "ImageType") or ()))


def _all_phantom(datasets: Iterable[Dataset]) -> bool:
    return all(any(_value(ds, keyword) == "YES" for keyword in _QUALITY_KEYWORDS) for ds in datasets)


def _spacing_facts(judgement: StackJudgement) -> dict[str, AttributeValue]:
    if judgement.stack is None:
        return {}
    slices_mm, rows_mm, columns_mm = judgement.stack.grid.spacing_mm
    return {"@spacing_mm": slices_mm, "@row_spacing_mm": rows_mm, "@column_spacing_mm": columns_mm}


def _plane_facts(headers: Sequence[SliceHeader], judgement: StackJudgement) -> dict[str, AttributeValue]:
    """The plane where all slices share one: "axial", "coronal", "sagittal", or "oblique" with its angle named."""
    stated = [header.orientation for header in headers if header.orientation]
    if len(stated) < len(headers) or not stated or {"NOT_ORTHONORMAL", "MIXED_ORIENTATION"} & set(judgement.codes):
        return {}
    plane, angle = plane_of(min(stated))
    return {"@plane": f"oblique by {angle:.0f} degrees" if plane == "oblique" else plane, "@plane_angle_deg": angle}


# --- pixels -----------------------------------------------------------------------------------------------------


def _refuse_other_than_plain_grey(ds: Dataset) -> None:
    """PS3.3 C.7.6.3.1.2: MONOCHROME2 alone means that more signal is a larger number, as the model was shown it."""
    photometric = _value(ds, "PhotometricInterpretation")
    samples = _whole(ds, "SamplesPerPixel")
    if photometric == "MONOCHROME2" and samples in (1, None):
        return
    said = photometric if photometric in _GREY_OR_COLOUR else "unknown"
    uid = _uid(ds, "SOPInstanceUID")
    raise InputFault(
        f"SOP Instance {uid}: PhotometricInterpretation {said}, {samples} samples a pixel; MONOCHROME2 needed"
    )


def _decoded(path: Path, header: SliceHeader) -> NDArray[np.float32]:
    """One slice, `[row, column]`, with RescaleSlope and RescaleIntercept applied; float32."""
    reader = sitk.ImageFileReader()
    reader.SetGlobalWarningDisplay(False)  # ITK warns on stderr, past our log
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    try:
        image = reader.Execute()
    except RuntimeError:
        raise Unreadable(f"The pixels of SOP Instance {header.sop_uid} do not decode.") from None
    _check_place(image, header)
    voxels = np.asarray(sitk.GetArrayViewFromImage(image), dtype=np.float32)
    return voxels.reshape(header.rows or 0, header.columns or 0)


def _check_place(image: sitk.Image, header: SliceHeader) -> None:
    """Refuse where SimpleITK sees another size, or puts a corner of the slice elsewhere than the header does."""
    rows, columns = header.rows or 0, header.columns or 0
    if image.GetNumberOfComponentsPerPixel() != 1 or tuple(image.GetSize()) not in _sizes(rows, columns):
        raise GeometryRefused(f"SOP Instance {header.sop_uid} does not decode to {rows} rows and {columns} columns.")
    corners = ((0, 0), (rows - 1, 0), (0, columns - 1))
    away = max(_apart(image, header, row, column) for row, column in corners)
    if not away <= CORNER_TOLERANCE_MM:
        raise GeometryRefused(
            f"SOP Instance {header.sop_uid}: SimpleITK puts a corner {away:.3f} mm away from the header."
        )


def _sizes(rows: int, columns: int) -> tuple[tuple[int, ...], ...]:
    return (columns, rows), (columns, rows, 1)


def _apart(image: sitk.Image, header: SliceHeader, row: int, column: int) -> float:
    """Millimetres between the two opinions about the centre of one pixel."""
    index = (column, row, 0)[: image.GetDimension()]
    theirs = np.array(image.TransformIndexToPhysicalPoint(index))
    return float(np.linalg.norm(theirs - _placed(header, row, column)[: len(theirs)]))


def _placed(header: SliceHeader, row: int, column: int) -> NDArray[np.float64]:
    """Centre of a pixel in LPS mm by PS3.3 C.7.6.2.1.1, equation C.7.6.2.1-1, from this header alone."""
    along_row, along_column, _ = axes_of(header.orientation or ())
    between_rows, between_columns = header.spacing_mm or (0.0, 0.0)
    placed = np.array(header.position) + along_row * between_columns * column + along_column * between_rows * row
    return np.asarray(placed, dtype=np.float64)
