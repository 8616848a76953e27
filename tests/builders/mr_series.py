"""Real MR Image Storage files for tests, written with pydicom: one call, one series, every awkward thing a keyword.

    files = make_series(tmp_path, slices=20, gap_at=7, orientation="oblique", charset="GB18030",
                        patient_name_bytes="张^三丰".encode("gb18030"))

Files are named by their SHA-256 without a suffix, as in the spool, and come back in the order of the slices along the
normal. The same arguments give the same UIDs and the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from npc_rtnode.domain.identifiers import derived_uid

MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
IMPLEMENTATION = UID("2.25.80302813137786398554742050926734630921")


def _rotation(x_degrees: float, y_degrees: float, z_degrees: float) -> NDArray[np.float64]:
    """Rotation about the three LPS axes, applied x first."""
    a, b, c = np.radians([x_degrees, y_degrees, z_degrees])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return np.asarray(about_z @ about_y @ about_x)


def _turned(x: float, y: float, z: float) -> tuple[float, ...]:
    return tuple(round(float(v), 8) for v in _rotation(x, y, z)[:, :2].T.ravel())


# Row direction, then column direction (PS3.3 C.7.6.2.1.1); slices go along their cross product.
ORIENTATIONS: dict[str, tuple[float, ...]] = {
    "axial": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
    "oblique": _turned(12.0, -5.0, 7.0),
    "feet_first": (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0),  # normal points to the feet
    "double_oblique": _turned(21.0, -13.0, 17.0),
    "prone": (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0),
    "feet_first_prone": (1.0, 0.0, 0.0, 0.0, -1.0, 0.0),
    "decubitus_left": (0.0, -1.0, 0.0, 1.0, 0.0, 0.0),
    "decubitus_right": (0.0, 1.0, 0.0, -1.0, 0.0, 0.0),
    "sagittal": (0.0, 1.0, 0.0, 0.0, 0.0, -1.0),
    "coronal": (1.0, 0.0, 0.0, 0.0, 0.0, -1.0),
}


@dataclass(frozen=True)
class SeriesSpec:
    """Everything `make_series` can vary; units in the names, `spacing_mm` is (between rows, between columns)."""

    slices: int = 20
    rows: int = 48
    columns: int = 56
    spacing_mm: tuple[float, float] = (0.9375, 0.9375)
    step_mm: float = 3.0
    gap_at: int | Sequence[int] | None = None  # the slices of these indices are missing: fewer files
    jitter_mm: Sequence[float] = ()  # how far along the normal each slice is off its place
    shear_mm: float = 0.0  # how far each slice is moved along its columns against the one before
    orientation: str | tuple[float, ...] = "axial"  # a name of ORIENTATIONS, or six cosines
    origin_mm: tuple[float, float, float] = (-21.5, -17.25, 33.125)
    charset: str | Sequence[str] | None = "ISO_IR 100"  # None: no SpecificCharacterSet element
    patient_name_bytes: bytes = b"TEST^PHANTOM"  # raw value, written untouched
    patient_id: str = "PHANTOM-1"
    seed: str = "series-1"  # of every UID; another seed is another series of the same study and frame
    study_seed: str = "study-1"
    implicit: bool = False  # Implicit VR Little Endian instead of Explicit
    descending: bool = False  # InstanceNumber runs against the normal
    attributes: Mapping[str, Any] | None = None  # keyword -> value on every slice; None deletes the element
    slice_attributes: Sequence[Mapping[str, Any]] = ()  # the same for each slice by itself, after `attributes`
    voxels: NDArray[Any] | None = None  # [slice, row, column], whole numbers as stored; else a smooth ramp
    syntax: str | None = None  # a transfer syntax that pydicom can compress to

    @property
    def cosines(self) -> NDArray[np.float64]:
        """Row and column direction, two rows of three."""
        named = ORIENTATIONS[self.orientation] if isinstance(self.orientation, str) else self.orientation
        return np.array(named, dtype=np.float64).reshape(2, 3)

    def position(self, index: int) -> tuple[float, float, float]:
        """Centre of the first pixel of a slice, LPS mm."""
        row, column = self.cosines
        along = index * self.step_mm + (self.jitter_mm[index] if self.jitter_mm else 0.0)
        x, y, z = np.array(self.origin_mm) + along * np.cross(row, column) + index * self.shear_mm * column
        return float(x), float(y), float(z)

    @property
    def present(self) -> list[int]:
        """The slices that are not missing."""
        missing = {self.gap_at} if isinstance(self.gap_at, int) else set(self.gap_at or ())
        return [k for k in range(self.slices) if k not in missing]


def make_series(folder: Path, **wishes: Any) -> list[Path]:
    """Write one MR series below `folder` (made if absent); keywords are the fields of `SeriesSpec`.

    Returns the files in ascending order along the slice normal.
    """
    spec = SeriesSpec(**wishes)
    folder.mkdir(parents=True, exist_ok=True)
    return [_write(folder, slice_dataset(spec, k)) for k in spec.present]


def slice_dataset(spec: SeriesSpec, index: int) -> Dataset:
    """One slice as a data set with file meta, ready for dcmwrite."""
    ds = Dataset()
    _describe_patient_and_study(ds, spec)
    _describe_series(ds, spec)
    _describe_image(ds, spec, index)
    own = spec.slice_attributes[index] if spec.slice_attributes else {}
    for keyword, value in {**(spec.attributes or {}), **own}.items():
        if value is None:
            ds.pop(Tag(keyword), None)
        else:
            setattr(ds, keyword, value)
    _add_pixels(ds, spec, index)
    ds.file_meta = _file_meta(ds, spec.implicit)
    if spec.syntax is not None:
        ds.compress(spec.syntax, generate_instance_uid=False)
    return ds


def _describe_patient_and_study(ds: Dataset, spec: SeriesSpec) -> None:
    if spec.charset is not None:
        ds.SpecificCharacterSet = spec.charset if isinstance(spec.charset, str) else list(spec.charset)
    name = spec.patient_name_bytes + b" " * (len(spec.patient_name_bytes) % 2)
    ds[Tag("PatientName")] = RawDataElement(Tag("PatientName"), "PN", len(name), name, 0, spec.implicit, True)
    ds.PatientID = spec.patient_id
    ds.PatientBirthDate = "19600229"
    ds.PatientSex = "O"
    ds.StudyInstanceUID = derived_uid(spec.study_seed, "study")
    ds.StudyDate, ds.StudyTime, ds.StudyID = "20260102", "101112", "S1"
    ds.StudyDescription = "MR NPC primary"
    ds.AccessionNumber = "ACC-1"
    ds.ReferringPhysicianName = ""
    ds.FrameOfReferenceUID = derived_uid(spec.study_seed, "frame")
    ds.PositionReferenceIndicator = ""


def _describe_series(ds: Dataset, spec: SeriesSpec) -> None:
    ds.SOPClassUID = MR_IMAGE_STORAGE
    ds.Modality = "MR"
    ds.SeriesInstanceUID = derived_uid(spec.seed, "series")
    ds.SeriesNumber = 7
    ds.SeriesDate, ds.SeriesTime, ds.SeriesDescription = "20260102", "101500", "AX T1 FS +C"
    ds.Manufacturer, ds.ManufacturerModelName, ds.InstitutionName = "Builder", "Test scanner", "Test hospital"
    ds.BodyPartExamined, ds.PatientPosition = "HEADNECK", "HFS"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions, ds.MRAcquisitionType = "SE", "SK", "FS", "2D"
    ds.RepetitionTime, ds.EchoTime, ds.EchoTrainLength = "620", "11", "3"
    ds.MagneticFieldStrength = "3"
    ds.ContrastBolusAgent = "Gadolinium"
    ds.SliceThickness = ds.SpacingBetweenSlices = str(spec.step_mm)


def _describe_image(ds: Dataset, spec: SeriesSpec, index: int) -> None:
    ds.SOPInstanceUID = derived_uid(spec.seed, f"instance-{index}")
    ds.InstanceNumber = spec.slices - index if spec.descending else index + 1
    ds.AcquisitionNumber = 1
    ds.ImagePositionPatient = [round(v, 6) for v in spec.position(index)]
    ds.ImageOrientationPatient = [round(float(v), 8) for v in spec.cosines.ravel()]
    ds.PixelSpacing = list(spec.spacing_mm)
    ds.Rows, ds.Columns = spec.rows, spec.columns
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0


def _add_pixels(ds: Dataset, spec: SeriesSpec, index: int) -> None:
    words = "<u1" if ds.get("BitsAllocated") == 8 else "<u2"
    ds.add_new(Tag("PixelData"), "OW", _pixels(spec, index).astype(words).tobytes())


def _pixels(spec: SeriesSpec, index: int) -> NDArray[Any]:
    if spec.voxels is not None:
        return np.asarray(spec.voxels[index])
    row, column = np.mgrid[: spec.rows, : spec.columns]
    return np.asarray((row * 7 + column * 5 + index * 11) % 1000)


def _file_meta(ds: Dataset, implicit: bool) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    meta.ImplementationClassUID = IMPLEMENTATION
    return meta


def _write(folder: Path, ds: Dataset) -> Path:
    buffer = BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    data = buffer.getvalue()
    path = folder / hashlib.sha256(data).hexdigest()
    path.write_bytes(data)
    return path
