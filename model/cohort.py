"""A hospital's own patients: a table names images, contours and T categories; everything is checked before training.

The table is CSV with the columns ``patient,image,contours,stage`` and, where wanted, ``fold``. ``image`` is a NIfTI or
NRRD file or a folder of DICOM files (which may hold other series too); ``contours`` a mask file on the image's grid or
an RT Structure Set (empty: the one in the image's folder). Paths are relative to the table. Arrays are
[slice, row, column], affines map index to LPS mm.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pydicom
import SimpleITK as sitk
from matplotlib.path import Path as Polygon
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from model.labels import STAGES

Voxels = NDArray[np.float32]
Mask = NDArray[np.bool_]
Affine = NDArray[np.float64]

COLUMNS: Final = ("patient", "image", "contours", "stage")
GTV_NAMES: Final = r"(?i)^gtv[ _-]?(p|nx|t|primary)?([ _^-].*)?$"
"""Which ROI is the primary tumour, unless the user says otherwise: GTV, GTVp, GTVnx, GTV_p, GTVp^AI ...; no nodes."""

UNEVEN_MM: Final = 0.1
"""Slice distances may differ by this much (rounded headers); a gap is more."""

OFF_SLICE: Final = 0.3
"""A contour belongs to a slice when it is at most this share of the slice distance away."""

_HEADER: Final = ["SOPClassUID", "Modality", "SeriesInstanceUID", "SOPInstanceUID"]


class CohortError(ValueError):
    """A table or a patient cannot be used. The message names the row and what to do, never a name in a file."""


@dataclass(frozen=True)
class Entry:
    """One row of the table; ``fold`` is -1 where the table has none."""

    patient: str
    image: Path
    contours: Path | None
    stage: str
    fold: int = -1


@dataclass(frozen=True)
class Subject:
    """One loaded patient."""

    patient: str
    voxels: Voxels
    affine: Affine
    mask: Mask
    stage: str

    @property
    def volume_cc(self) -> float:
        """Tumour volume on the native grid."""
        return float(self.mask.sum() * abs(np.linalg.det(self.affine[:3, :3])) / 1000)


@dataclass
class Report:
    """What was found in a cohort: one line a usable patient, one reason for each that is not."""

    lines: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    stages: Counter[str] = field(default_factory=Counter)

    def text(self) -> str:
        """The report as it is printed and kept beside the run."""
        counts = ", ".join(f"{stage} {self.stages[stage]}" for stage in STAGES)
        bad = [f"REFUSED {patient}: {why}" for patient, why in self.refused.items()]
        return "\n".join([f"usable {len(self.lines)} ({counts}), refused {len(self.refused)}", *bad, *self.lines])


def read_table(path: Path) -> tuple[Entry, ...]:
    """The rows of a table. Raises ``CohortError`` for a missing column, an unknown stage or a patient named twice."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
    except OSError as error:
        raise CohortError(f"the table {path} cannot be read ({error.strerror}): name a CSV file") from error
    missing = [name for name in COLUMNS if not rows or name not in rows[0]]
    if missing:
        raise CohortError(f"the table {path} has no rows or lacks the columns {', '.join(missing)}")
    entries = tuple(_entry(row, path.parent) for row in rows)
    twice = [patient for patient, n in Counter(e.patient for e in entries).items() if n > 1]
    if twice:
        raise CohortError(f"the table {path} names {', '.join(twice)} more than once: one row a patient")
    return entries


def _entry(row: dict[str, str], folder: Path) -> Entry:
    patient, stage = row["patient"].strip(), row["stage"].strip().upper().removeprefix("C")
    if stage[:2] not in STAGES:
        raise CohortError(f"row {patient}: stage {row['stage']!r} is none of {', '.join(STAGES)}; leave the row out")
    contours = row["contours"].strip()
    fold = (row.get("fold") or "").strip()
    return Entry(
        patient,
        folder / row["image"].strip(),
        folder / contours if contours else None,
        stage[:2],
        int(fold) if fold.isdigit() else -1,
    )


def load(entry: Entry, roi: str = GTV_NAMES) -> Subject:
    """Image, mask and stage of one patient. Raises ``CohortError``."""
    if not entry.image.exists():
        raise CohortError(f"the image {entry.image.name} does not exist")
    subject = _from_dicom(entry, roi) if entry.image.is_dir() else _from_files(entry)
    if not subject.mask.any():
        raise CohortError("the tumour's mask is empty on the image's grid: contours and image do not belong together")
    return subject


def survey(entries: Iterable[Entry], roi: str = GTV_NAMES) -> tuple[list[Entry], Report]:
    """Load every patient once; who can be used, and the data report. Nothing is raised for a single patient."""
    report, usable = Report(), []
    for entry in entries:
        try:
            subject = load(entry, roi)
        except CohortError as error:
            report.refused[entry.patient] = str(error)
            continue
        usable.append(entry)
        report.stages[entry.stage] += 1
        report.lines.append(_line(subject))
    return usable, report


def _line(subject: Subject) -> str:
    spacing = np.linalg.norm(subject.affine[:3, :3], axis=0)
    shape = "x".join(str(n) for n in subject.voxels.shape)
    millimetres = "x".join(f"{mm:.3g}" for mm in spacing)
    return f"{subject.patient}: {subject.stage}, {shape} voxels of {millimetres} mm, tumour {subject.volume_cc:.1f} cc"


# --- NIfTI, NRRD ------------------------------------------------------------------------------------------------


def _from_files(entry: Entry) -> Subject:
    if entry.contours is None:
        raise CohortError("an image file needs a mask file in the column contours")
    image, mask = (_read(path) for path in (entry.image, entry.contours))
    if image.GetSize() != mask.GetSize() or not np.allclose(affine_of(image), affine_of(mask), atol=1e-2):
        raise CohortError("image and mask are not on one grid: resample the mask onto the image")
    voxels = sitk.GetArrayFromImage(image).astype(np.float32)
    return Subject(entry.patient, voxels, affine_of(image), sitk.GetArrayFromImage(mask) > 0.5, entry.stage)


def _read(path: Path) -> Any:
    try:
        image: Any = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise CohortError(f"{path.name} is missing or no image that SimpleITK reads") from error
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise CohortError(f"{path.name} is not one 3-D volume of one channel")
    return image


def affine_of(image: Any) -> Affine:
    """Index [slice, row, column, 1] -> LPS mm of a SimpleITK image."""
    columns = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = columns[:, ::-1], image.GetOrigin()
    return affine


# --- DICOM ------------------------------------------------------------------------------------------------------


def _from_dicom(entry: Entry, roi: str) -> Subject:
    headers = _headers(entry.image)
    structures = _structures(entry, headers)
    series = _series(headers, structures)
    voxels, affine = _volume(series)
    mask = rasterise(list(_contours(structures, roi)), voxels.shape, affine)
    return Subject(entry.patient, voxels, affine, mask, entry.stage)


def _headers(folder: Path) -> dict[Path, Dataset]:
    """What every DICOM file below a folder is, without its pixels; other files are passed over."""
    found: dict[Path, Dataset] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        try:
            found[path] = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_HEADER)
        except (InvalidDicomError, OSError):
            continue
    return found


def _structures(entry: Entry, headers: dict[Path, Dataset]) -> Dataset:
    inside = [path for path, ds in headers.items() if ds.get("Modality") == "RTSTRUCT"]
    path = entry.contours or (inside[0] if len(inside) == 1 else None)
    if path is None:
        raise CohortError(f"{len(inside)} structure sets lie with the image: name one in the column contours")
    try:
        ds = pydicom.dcmread(path)
    except (InvalidDicomError, OSError) as error:
        raise CohortError("the structure set is missing or no DICOM file") from error
    if ds.get("Modality") != "RTSTRUCT":
        raise CohortError(f"the contours are of modality {ds.get('Modality', 'unknown')}, not RTSTRUCT")
    return ds


def _series(headers: dict[Path, Dataset], structures: Dataset) -> list[Dataset]:
    """The slices of the series that the structure set was drawn on; the only MR series where it does not say."""
    by_series: dict[str, list[Path]] = {}
    for path, ds in headers.items():
        if ds.get("Modality") == "MR":
            by_series.setdefault(str(ds.SeriesInstanceUID), []).append(path)
    named = [uid for uid in _referenced(structures) if uid in by_series]
    chosen = named or list(by_series)
    if len(chosen) != 1:
        raise CohortError(f"{len(by_series)} MR series, {len(named)} of them named by the structure set: need one")
    return [pydicom.dcmread(path) for path in by_series[chosen[0]]]


def _referenced(structures: Dataset) -> list[str]:
    return [
        str(series.SeriesInstanceUID)
        for frame in structures.get("ReferencedFrameOfReferenceSequence", [])
        for study in frame.get("RTReferencedStudySequence", [])
        for series in study.get("RTReferencedSeriesSequence", [])
    ]


def _volume(slices: Sequence[Dataset]) -> tuple[Voxels, Affine]:
    """Voxels in file units after rescaling and their affine; uneven stacks are refused with the distances."""
    lacking = [n for n in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing") if n not in slices[0]]
    if lacking or len(slices) < 2:
        raise CohortError(f"the series has {len(slices)} slices and lacks {', '.join(lacking) or 'nothing'}")
    across, down = (np.array(slices[0].ImageOrientationPatient[i : i + 3], float) for i in (0, 3))
    normal = np.cross(across, down)
    ordered = sorted(slices, key=lambda ds: float(np.dot(normal, ds.ImagePositionPatient)))
    positions = np.array([ds.ImagePositionPatient for ds in ordered], float)
    steps = np.diff(positions @ normal)
    if np.ptp(steps) > UNEVEN_MM:
        raise CohortError(f"slice distances run from {steps.min():.2f} to {steps.max():.2f} mm: a slice is missing")
    rows, columns = (float(mm) for mm in slices[0].PixelSpacing)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = normal * steps.mean(), down * rows, across * columns
    affine[:3, 3] = positions[0]
    return np.stack([_plane(ds) for ds in ordered]), affine


def _plane(ds: Dataset) -> Voxels:
    slope, intercept = float(ds.get("RescaleSlope", 1)), float(ds.get("RescaleIntercept", 0))
    return np.asarray(ds.pixel_array * slope + intercept, dtype=np.float32)


def _contours(structures: Dataset, roi: str) -> Iterator[NDArray[np.float64]]:
    """(points, 3) LPS mm of every closed contour of the one ROI whose name fits."""
    names = {int(item.ROINumber): str(item.ROIName) for item in structures.get("StructureSetROISequence", [])}
    fitting = [number for number, name in names.items() if re.search(roi, name)]
    if len(fitting) != 1:
        have = f"{len(fitting)} of {len(names)} ROI names fit the pattern"
        raise CohortError(f"{have}: give --roi a pattern that fits the tumour alone")
    for item in structures.get("ROIContourSequence", []):
        if int(item.ReferencedROINumber) == fitting[0]:
            for contour in item.get("ContourSequence", []):
                yield np.array(contour.ContourData, float).reshape(-1, 3)


def rasterise(contours: Sequence[NDArray[np.float64]], shape: tuple[int, ...], affine: Affine) -> Mask:
    """Voxels whose centre lies within an odd number of the contours of their slice, so that holes stay holes."""
    mask = np.zeros(shape, dtype=np.bool_)
    back = np.linalg.inv(affine)
    for points in contours:
        index = points @ back[:3, :3].T + back[:3, 3]
        plane = round(float(index[:, 0].mean()))
        if not 0 <= plane < shape[0] or np.abs(index[:, 0] - plane).max() > OFF_SLICE:
            raise CohortError("a contour lies between or beyond the slices: it was drawn on another series")
        _toggle(mask[plane], index[:, 1:])
    return mask


def _toggle(plane: Mask, corners: NDArray[np.float64]) -> None:
    """Flip the pixels inside one polygon of (row, column) corners, in place."""
    low = np.clip(np.floor(corners.min(axis=0)).astype(int), 0, plane.shape)
    high = np.clip(np.ceil(corners.max(axis=0)).astype(int) + 1, 0, plane.shape)
    rows, columns = np.mgrid[low[0] : high[0], low[1] : high[1]]
    inside = Polygon(corners).contains_points(np.stack((rows.ravel(), columns.ravel()), axis=1))
    plane[low[0] : high[0], low[1] : high[1]] ^= inside.reshape(rows.shape)
