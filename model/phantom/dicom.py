"""Write a phantom as an MR series, marked as a quality-control object and clean to ``dciodvfy``."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage

from model.labels import STATEMENT

if TYPE_CHECKING:
    from model.phantom import Phantom

DESCRIPTION: Final = "Ax T1 C+ NPC phantom"


def write_dicom_series(
    phantom: Phantom,
    folder: Path,
    *,
    series_description: str = DESCRIPTION,
    contrast: bool = True,
    study_uid: str | None = None,
    series_number: int = 4,
    patient_name: str = "Phantom^NPC",
    patient_id: str | None = None,
    character_set: str = "ISO_IR 192",
    study_date: str = "20240102",
    study_time: str = "080000",
    accession_number: str = "",
    study_description: str = "MR nasopharynx (phantom)",
    institution: str = "",
) -> list[Path]:
    """One MR Image Storage file a slice, inferior to superior. UIDs follow from cohort, index, study and series number.

    Series of one ``study_uid`` share the frame of reference; another ``series_number`` is another series.
    """
    folder.mkdir(parents=True, exist_ok=True)
    study = study_uid or _uid("study", phantom.cohort, phantom.index)
    series = _uid("series", study, phantom.cohort, phantom.index, series_number)
    ds = _common(phantom, study, series)
    ds.SpecificCharacterSet = character_set
    ds.PatientName = patient_name
    ds.PatientID = patient_id if patient_id is not None else f"PHANTOM-{phantom.cohort}-{phantom.index:04d}"
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = study_date
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = study_time
    ds.AccessionNumber = accession_number
    ds.StudyDescription = study_description
    ds.SeriesDescription = series_description
    ds.SeriesNumber = series_number
    if institution:
        ds.InstitutionName = institution
    if contrast:
        ds.ContrastBolusAgent = "Gadolinium (simulated)"
        ds.ContrastBolusRoute = "IV"
    _add_scan(ds, phantom)
    return [_write_slice(ds, phantom, folder, series, index) for index in range(phantom.voxels.shape[0])]


def _uid(*parts: object) -> str:
    """A 2.25 UID from a hash of its parts: the same parts, the same UID."""
    digest = hashlib.sha256("/".join(str(part) for part in ("npc_rtnode", *parts)).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big') >> 1}"


def _common(phantom: Phantom, study: str, series: str) -> Dataset:
    """Patient, study, series, frame of reference and equipment."""
    ds = Dataset()
    ds.SOPClassUID = MRImageStorage
    ds.PatientBirthDate = "19700101"
    ds.PatientSex = "O"
    ds.QualityControlSubject = "YES"
    ds.PatientComments = STATEMENT
    ds.StudyInstanceUID = study
    ds.StudyID = "1"
    ds.ReferringPhysicianName = ""
    ds.Modality = "MR"
    ds.SeriesInstanceUID = series
    ds.BodyPartExamined = "HEADNECK"
    ds.PatientPosition = "HFS"
    ds.ProtocolName = "NPC phantom"
    ds.FrameOfReferenceUID = _uid("frame", study)
    ds.PositionReferenceIndicator = ""
    ds.Manufacturer = phantom.profile.manufacturer
    ds.ManufacturerModelName = phantom.profile.model
    ds.DeviceSerialNumber = "0"
    ds.SoftwareVersions = "npc_rtnode phantom"
    return ds


def _add_scan(ds: Dataset, phantom: Phantom) -> None:
    """MR acquisition and the image attributes that all slices share."""
    profile = phantom.profile
    slices, rows, columns = phantom.voxels.shape
    ds.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    ds.ScanningSequence = "SE"
    ds.SequenceVariant = "SK"
    ds.ScanOptions = "FS" if profile.fat_saturated else ""
    ds.MRAcquisitionType = "2D"
    ds.MagneticFieldStrength = _text(profile.field_t)
    ds.RepetitionTime = _text(profile.repetition_ms)
    ds.EchoTime = _text(profile.echo_ms)
    ds.EchoTrainLength = 3
    ds.FlipAngle = "90"
    ds.SliceThickness = _text(profile.spacing_mm * 0.85)
    ds.SpacingBetweenSlices = _text(profile.spacing_mm)
    ds.ImagesInAcquisition = slices
    ds.AcquisitionNumber = 1
    ds.Rows, ds.Columns = rows, columns
    ds.PixelSpacing = [_text(phantom.spacing_mm[1]), _text(phantom.spacing_mm[2])]
    ds.ImageOrientationPatient = [_text(v) for v in (*_unit(phantom.affine[:3, 2]), *_unit(phantom.affine[:3, 1]))]
    ds.QualityControlImage = "YES"
    ds.BurnedInAnnotation = "NO"
    ds.LossyImageCompression = "00"
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit = 15
    ds.PixelRepresentation = 0
    top = max(1, int(np.percentile(phantom.voxels, 99.5)))
    ds.WindowCenter, ds.WindowWidth = _text(top / 2), _text(top)


def _write_slice(common: Dataset, phantom: Phantom, folder: Path, series: str, index: int) -> Path:
    path = folder / f"MR{index + 1:04d}.dcm"
    position = (phantom.affine @ (index, 0, 0, 1))[:3]
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = UID(_uid("instance", series, index))
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    ds.update(common)
    ds.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    ds.InstanceNumber = index + 1
    ds.ImagePositionPatient = [_text(v) for v in position]
    ds.SliceLocation = _text(float(position @ np.cross(_unit(phantom.affine[:3, 2]), _unit(phantom.affine[:3, 1]))))
    ds.PixelData = phantom.voxels[index].astype("<u2").tobytes()
    ds.save_as(path, enforce_file_format=True)
    return path


def _unit(vector: NDArray[Any]) -> NDArray[np.float64]:
    unit: NDArray[np.float64] = vector / np.linalg.norm(vector)
    return unit


def _text(value: float) -> str:
    """A decimal string of at most 16 characters."""
    return f"{float(value) + 0.0:.10g}"
