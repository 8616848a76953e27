"""Write a phantom's true tumour as an RT Structure Set over its series: a cohort on disk then looks like a clinic's."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import contourpy
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage

from model.labels import STATEMENT
from model.phantom import Phantom

ROI_NAME: Final = "GTVp"
COPIED: Final = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyID", "StudyDate",
    "StudyTime", "AccessionNumber", "ReferringPhysicianName", "SpecificCharacterSet",
)  # fmt: skip
"""What the structure set has in common with its images."""


def write_structure_set(phantom: Phantom, slices: Sequence[Path], path: Path, *, roi_name: str = ROI_NAME) -> Path:
    """The truth of ``phantom`` on the files that ``write_dicom_series`` made of it, as one ROI of closed contours."""
    images = [pydicom.dcmread(file, stop_before_pixels=True) for file in slices]
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = RTStructureSetStorage
    meta.MediaStorageSOPInstanceUID = _uid(images[0].SeriesInstanceUID, roi_name)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    _identify(ds, images[0], meta)
    ds.ReferencedFrameOfReferenceSequence = [_reference(images)]
    ds.StructureSetROISequence = [_roi(images[0], roi_name)]
    ds.ROIContourSequence = [_contours(phantom, images)]
    ds.RTROIObservationsSequence = [_observation()]
    ds.save_as(path, enforce_file_format=True)
    return path


def _uid(*parts: str) -> pydicom.uid.UID:
    digest = hashlib.sha256("/".join(("npc_rtnode truth", *parts)).encode()).digest()
    return pydicom.uid.UID(f"2.25.{int.from_bytes(digest[:16], 'big') >> 1}")


def _identify(ds: Dataset, image: Dataset, meta: FileMetaDataset) -> None:
    for name in COPIED:
        if name in image:
            ds[name] = image[name]
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.Modality = "RTSTRUCT"
    ds.SeriesInstanceUID = _uid(image.SeriesInstanceUID, "series")
    ds.SeriesNumber = 9
    ds.Manufacturer = "npc_rtnode"
    ds.StructureSetLabel = "TRUTH"
    ds.StructureSetDescription = STATEMENT
    ds.StructureSetDate, ds.StructureSetTime = image.StudyDate, image.StudyTime
    ds.ApprovalStatus = "UNAPPROVED"


def _reference(images: Sequence[Dataset]) -> Dataset:
    frame, study, series = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = images[0].SeriesInstanceUID
    series.ContourImageSequence = [_image(image) for image in images]
    study.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"  # Detached Study Management, retired, as PS3.3 wants it
    study.ReferencedSOPInstanceUID = images[0].StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID = images[0].FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    return frame


def _image(image: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    return item


def _roi(image: Dataset, name: str) -> Dataset:
    item = Dataset()
    item.ROINumber, item.ROIName = 1, name
    item.ReferencedFrameOfReferenceUID = image.FrameOfReferenceUID
    item.ROIGenerationAlgorithm = "MANUAL"
    return item


def _observation() -> Dataset:
    item = Dataset()
    item.ObservationNumber, item.ReferencedROINumber = 1, 1
    item.RTROIInterpretedType, item.ROIInterpreter = "GTV", ""
    return item


def _contours(phantom: Phantom, images: Sequence[Dataset]) -> Dataset:
    item = Dataset()
    item.ReferencedROINumber = 1
    item.ContourSequence = [
        _contour(line, images[index], phantom.affine, index)
        for index in np.flatnonzero(phantom.mask.any(axis=(1, 2))).tolist()
        for line in _lines(phantom.mask[index])
    ]
    return item


def _contour(line: NDArray[np.float64], image: Dataset, affine: NDArray[np.float64], index: int) -> Dataset:
    item = Dataset()
    item.ContourImageSequence = [_image(image)]
    item.ContourGeometricType = "CLOSED_PLANAR"
    places = np.column_stack((np.full(len(line), index), line[:, 1], line[:, 0]))
    points = places @ affine[:3, :3].T + affine[:3, 3]
    item.NumberOfContourPoints = len(points)
    item.ContourData = [f"{value:.4f}" for value in points.ravel()]
    return item


def _lines(plane: NDArray[np.bool_]) -> Iterator[NDArray[np.float64]]:
    """Closed lines (column, row) half-way between tumour and not; the first point is not repeated."""
    padded = np.pad(plane, 1).astype(np.float64)
    for line in contourpy.contour_generator(z=padded).lines(0.5):
        yield np.asarray(line)[:-1] - 1
