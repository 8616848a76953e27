"""Enhanced MR files for tests: the series that `make_series` would write, as frames, every awkward thing a keyword.

    [file] = make_enhanced(tmp_path, order=(2, 0, 1, *range(3, 20)), changes={5: {"EffectiveEchoTime": 80.0}})

Identity, geometry and pixels are a SeriesSpec's (the other keywords); files are named by their SHA-256.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import gdcm
import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filewriter import dcmwrite
from pydicom.tag import Tag
from pydicom.uid import UID

from npc_rtnode.domain.identifiers import derived_uid
from tests.builders.mr_series import SeriesSpec, slice_dataset

ENHANCED_MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4.1"
GROUPS: Mapping[str, tuple[str, ...]] = {
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness"),
    "FrameContentSequence": ("StackID", "InStackPositionNumber", "TemporalPositionIndex", "DimensionIndexValues"),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept", "RescaleType"),
    "MRImageFrameTypeSequence": ("FrameType", "ComplexImageComponent", "AcquisitionContrast"),
    "MRTimingAndRelatedParametersSequence": ("RepetitionTime", "FlipAngle", "EchoTrainLength"),
    "MREchoSequence": ("EffectiveEchoTime",),
    "MRModifierSequence": ("InversionRecovery", "InversionTimes", "SpatialPresaturation", "PartialFourierDirection"),
    "MRImagingModifierSequence": ("MagnetizationTransfer",),
    "MRDiffusionSequence": ("DiffusionBValue",),
    "ContrastBolusUsageSequence": (
        "ContrastBolusAgentNumber",
        "ContrastBolusAgentAdministered",
        "ContrastBolusAgentPhase",
    ),
}
"""Functional groups (PS3.3 C.7.6.16.2, C.8.13.5) and the elements of each that can be wished for."""

_OWN = {"PlanePositionSequence", "FrameContentSequence"}  # always told frame by frame
_CLASSIC_ONLY = (  # what an Enhanced instance says in its groups, or otherwise, or not at all
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    *("ScanningSequence", "SequenceVariant", "ScanOptions", "RepetitionTime", "EchoTime", "EchoTrainLength"),
    *("ContrastBolusAgent", "RescaleSlope", "RescaleIntercept"),
)


@dataclass(frozen=True)
class EnhancedSpec:
    """Everything `make_enhanced` can vary beside the series; frames are counted from 1, slices from 0."""

    series: SeriesSpec
    order: Sequence[int] = ()  # the slice that each frame shows; empty: ascending
    shared: Mapping[str, Any] = field(default_factory=dict)  # element of a group -> value for all frames; None: without
    changes: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)  # the same for single frames
    instance: Mapping[str, Any] = field(default_factory=dict)  # keyword -> value of the instance itself
    without: Sequence[str] = ()  # groups left out
    described: int | None = None  # so many items of functional groups, whatever the number of frames
    parts: int = 1  # a concatenation of so many instances

    @property
    def slices(self) -> list[int]:
        """The slice of each frame."""
        return list(self.order) or list(range(self.series.slices))


def make_enhanced(folder: Path, **wishes: Any) -> list[Path]:
    """Write one Enhanced MR series; keywords are the fields of EnhancedSpec, and of SeriesSpec for all the rest."""
    own = {name: wishes.pop(name) for name in list(wishes) if name in EnhancedSpec.__dataclass_fields__}
    spec = EnhancedSpec(SeriesSpec(**wishes), **own)
    folder.mkdir(parents=True, exist_ok=True)
    frames = list(enumerate(spec.slices, start=1))
    parts = [list(part) for part in np.array_split(np.arange(len(frames)), spec.parts)]
    return [_write(folder, _instance(spec, k, [frames[i] for i in part])) for k, part in enumerate(parts, start=1)]


def packed(file: Path, syntax: str) -> Path:
    """A copy of a file beside it, its frames encoded by GDCM; everything else is as it was."""
    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(file))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    copy = file.with_suffix(".packed")
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(copy))
    assert writer.Write()
    ds = dcmread(file)
    ds.PixelData = dcmread(copy).PixelData
    ds["PixelData"].is_undefined_length = True
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    ds.save_as(copy)
    return copy


def agent(number: int = 1, meaning: str = "Dimeglumine gadopentetate") -> Dataset:
    """An item of ContrastBolusAgentSequence, with a route that is no agent."""
    item, route = Dataset(), Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "C-B03AA", "SRT", meaning
    route.CodeValue, route.CodingSchemeDesignator, route.CodeMeaning = "G-D101", "SNM3", "Intravenous route"
    item.ContrastBolusAdministrationRouteSequence = [route]
    item.ContrastBolusAgentNumber = number
    return item


def _instance(spec: EnhancedSpec, part: int, frames: Sequence[tuple[int, int]]) -> Dataset:
    """One instance with these (frame number of the whole, slice)."""
    ds = slice_dataset(spec.series, 0)
    for keyword in _CLASSIC_ONLY:
        ds.pop(Tag(keyword), None)
    _describe(ds, spec, part)
    ds.NumberOfFrames = len(frames)
    ds.SharedFunctionalGroupsSequence = [_groups(_told_to_all(spec), set(GROUPS) - _touched(spec), spec.without)]
    items = [_groups(_told_to(spec, number, index), _touched(spec), spec.without) for number, index in frames]
    ds.PerFrameFunctionalGroupsSequence = (items * 2)[: spec.described] if spec.described is not None else items
    stored = [slice_dataset(spec.series, index).PixelData for _, index in frames]
    ds.PixelData = b"".join(stored)
    return ds


def _describe(ds: Dataset, spec: EnhancedSpec, part: int) -> None:
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = ENHANCED_MR_IMAGE_STORAGE
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = derived_uid(spec.series.seed, f"enhanced-{part}")
    ds.ImageType = ["ORIGINAL", "PRIMARY", "T1", "NONE"]
    ds.EchoPulseSequence, ds.EchoPlanarPulseSequence, ds.SegmentedKSpaceTraversal = "SPIN", "NO", "PARTIAL"
    ds.SpectrallySelectedSuppression = "FAT"
    ds.ContrastBolusAgentSequence = [agent()]
    if spec.parts > 1:
        ds.ConcatenationUID = derived_uid(spec.series.seed, "concatenation")
        ds.InConcatenationNumber, ds.InConcatenationTotalNumber = part, spec.parts
    for keyword, value in spec.instance.items():
        if value is None:
            ds.pop(Tag(keyword), None)
        else:
            setattr(ds, keyword, value)


def _touched(spec: EnhancedSpec) -> set[str]:
    """Groups that are told frame by frame: always some, and whatever differs between frames."""
    changed = {keyword for change in spec.changes.values() for keyword in change}
    return _OWN | {group for group, keywords in GROUPS.items() if changed & set(keywords)}


def _told_to_all(spec: EnhancedSpec) -> dict[str, Any]:
    return {
        "ImageOrientationPatient": [round(float(v), 8) for v in spec.series.cosines.ravel()],
        "PixelSpacing": list(spec.series.spacing_mm),
        "SliceThickness": spec.series.step_mm,
        "StackID": "1",
        "TemporalPositionIndex": 1,
        "RescaleSlope": 1,
        "RescaleIntercept": 0,
        "RescaleType": "US",
        "FrameType": ["ORIGINAL", "PRIMARY", "T1", "NONE"],
        "ComplexImageComponent": "MAGNITUDE",
        "AcquisitionContrast": "T1",
        "RepetitionTime": 620,
        "FlipAngle": 90,
        "EchoTrainLength": 3,
        "EffectiveEchoTime": 11.0,
        "InversionRecovery": "NO",
        "MagnetizationTransfer": "NONE",
        "ContrastBolusAgentNumber": 1,
        "ContrastBolusAgentAdministered": "YES",
        "ContrastBolusAgentPhase": "POST_CONTRAST",
        **spec.shared,
    }


def _told_to(spec: EnhancedSpec, number: int, index: int) -> dict[str, Any]:
    """What one frame says; frames are numbered as in the whole, over all parts of a concatenation."""
    place = {"ImagePositionPatient": [round(v, 6) for v in spec.series.position(index)]}
    return {**_told_to_all(spec), **place, "InStackPositionNumber": index + 1, **spec.changes.get(number, {})}


def _groups(told: Mapping[str, Any], names: Iterable[str], without: Sequence[str]) -> Dataset:
    """Functional groups of one frame, or of all, as far as something is told."""
    item = Dataset()
    for name in sorted(set(names) - set(without)):
        group = Dataset()
        for keyword in GROUPS[name]:
            if told.get(keyword) is not None:
                setattr(group, keyword, told[keyword])
        if len(group):
            setattr(item, name, [group])
    return item


def _write(folder: Path, ds: Dataset) -> Path:
    buffer = BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    path = folder / hashlib.sha256(buffer.getvalue()).hexdigest()
    path.write_bytes(buffer.getvalue())
    return path
