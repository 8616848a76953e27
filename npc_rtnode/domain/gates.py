"""The gates before release: facts read back from the objects, judged against what they should say.

Nothing here reads DICOM; adapters/dicom/verify brings the facts. A HOLD keeps both objects back, a WARN is reported.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from math import isfinite
from typing import Final

import numpy as np
from numpy.typing import NDArray

from npc_rtnode.domain.geometry import Array, Stack
from npc_rtnode.domain.outcomes import GateResult as GateResult
from npc_rtnode.domain.outcomes import Outcome as Outcome
from npc_rtnode.domain.outcomes import answered, unjudged
from npc_rtnode.domain.outcomes import gate_error as gate_error
from npc_rtnode.domain.plausibility import RELEASABLE as PLAUSIBILITY
from npc_rtnode.domain.plausibility import judge_answer
from npc_rtnode.domain.prediction import Prediction
from npc_rtnode.domain.rasterising import PlacedRing, Raster, dice, rasterise
from npc_rtnode.domain.records import Finding, ImageReference
from npc_rtnode.domain.report import SYNTHETIC_NOTICE, ReportContent
from npc_rtnode.domain.vocabulary import CT_CATEGORIES

Mask = NDArray[np.bool_]
SegmentReference = tuple[str, int]
"""SOP Instance UID of a SEG, and the number of a segment in it."""

DICE_LEAST: Final = 0.9999
VOLUME_MOST: Final = 0.0002  # relative error of the rasterised volume
OFF_PLANE_MOST_MM: Final = 0.01
POLYGON_MOST: Final = 0.002  # relative error of area times slice distance (outputs.md 6)
POLYGON_NEVER: Final = 0.005  # beyond it, from 1 cc upwards, the polygons are of another outline
STRAY_MOST_MM: Final = 0.2  # one slice off its place on the even grid, as domain/geometry lets it be
STRAY_MOST_OF_STEP: Final = 0.1  # the same along the normal
INSIDE_MOST: Final = 0.001  # SD of the grey values under the outline; one pixel to the side is about 0.01 or more
LEAST_SD: Final = 1e-6  # of an outline on one grey value
SHIFT_MOST_MM: Final = 0.1  # all slices together, in-plane: under half a pixel of the finest series (0.34 mm)
DS_MOST: Final = 16  # characters in a Decimal String, PS3.5 6.2
PROBABILITY_SUM_MOST: Final = 1e-9
VOLUME_MOST_CC: Final = 0.001  # both objects round to three decimals

RELEASABLE: Final = frozenset({"BORDER_SLICE"}) | PLAUSIBILITY
"""Holds that a person may release after looking; every other hold says that the result itself cannot be trusted."""


@dataclass(frozen=True)
class ContourFacts:
    """One item of ContourSequence as read back; points_mm is LPS `[point, (x, y, z)]`.

    An image that is named with several frame numbers stands in `referenced` once for each.
    """

    referenced: tuple[ImageReference, ...]
    geometric_type: str
    declared_points: int
    points_mm: Array


@dataclass(frozen=True)
class InstanceFacts:
    """Which instance an object says it is."""

    sop_class_uid: str
    sop_uid: str
    series_uid: str
    modality: str


@dataclass(frozen=True)
class StructureFacts:
    """An RTSTRUCT as read back: identity and optional map keyword to raw bytes, item_counts sequence to its items.

    series_uid is the referenced one, instance.series_uid the object's own.
    """

    instance: InstanceFacts
    item_counts: Mapping[str, int]
    roi_name: str
    approval: str
    interpreted_type: str
    roi_volume_cc: float
    roi_numbers: tuple[int, ...]
    contours: tuple[ContourFacts, ...]
    images: tuple[ImageReference, ...]
    series_uid: str
    study_uid: str
    frames_of_reference: tuple[str, ...]
    longest_ds: int
    identity: Mapping[str, bytes]
    optional: Mapping[str, bytes]
    labels: Mapping[str, str]
    defined_by: tuple[SegmentReference, ...] = ()
    predecessors: tuple[str, ...] = ()

    @property
    def sop_uid(self) -> str:
        """Of the structure set."""
        return self.instance.sop_uid


@dataclass(frozen=True)
class ReportFacts:
    """An SR as read back: probabilities by stage, the coded category's value, all text said, all images shown."""

    instance: InstanceFacts
    verification: str
    preliminary: str
    completion: str
    probabilities: Mapping[str, float]
    volume_cc: float
    category: str | None
    texts: tuple[str, ...]
    measured_from: str
    evidence: Collection[str]
    images: tuple[ImageReference, ...]
    identity: Mapping[str, bytes]
    optional: Mapping[str, bytes]
    segments: tuple[SegmentReference, ...] = ()
    tracking_uids: tuple[str, ...] = ()
    predecessors: tuple[str, ...] = ()


@dataclass(frozen=True)
class FrameFacts:
    """One frame of a SEG as read back: the slices that it names, where it lies (LPS mm), and its pixels."""

    referenced: tuple[ImageReference, ...]
    corners_mm: Array
    pixels: Mask


@dataclass(frozen=True)
class SegmentationFacts:
    """A SEG as read back; corners_mm of a frame: `[corner, (x, y, z)]` of the first, last-column and last-row pixel."""

    instance: InstanceFacts
    form: str
    frames: tuple[FrameFacts, ...]
    images: tuple[ImageReference, ...]
    series_uid: str
    frame_of_reference: str
    tracking_uids: tuple[str, ...]
    texts: tuple[str, ...]
    identity: Mapping[str, bytes]
    optional: Mapping[str, bytes]


@dataclass(frozen=True)
class Sight:
    """What the files themselves say: each slice's centre of brightness `[slice, (x, y, z)]` in LPS mm, and mean and SD
    of the grey values under the outline."""

    centres_mm: Array
    inside_mean: float
    inside_sd: float


@dataclass(frozen=True)
class Expected:
    """What one object should say. series_uids: of the source images as their files state it, which must be one.

    segments: what it should name of the segmentation, if anything; tracking_uid: of the lesion, where it is tracked;
    predecessor: SOP Instance UID of the object that it takes the place of, empty where nobody was sent one; patient:
    name and number as a page that shows them must spell them.
    """

    stack: Stack
    mask: Mask
    content: ReportContent
    instance: InstanceFacts
    roi_name: str
    series_uids: frozenset[str]
    identity: Mapping[str, bytes] = field(default_factory=dict)
    optional: Mapping[str, bytes] = field(default_factory=dict)
    segments: tuple[SegmentReference, ...] = ()
    tracking_uid: str = ""
    predecessor: str = ""
    patient: tuple[str, ...] = field(default=(), repr=False)


def may_send(synthetic: bool, phantom: bool, destination_is_test: bool) -> bool:
    """Objects of a bundle trained on phantoms leave for phantoms' series or test destinations alone."""
    return not synthetic or phantom or destination_is_test


def may_show(enhanced_mr: bool, destination_declares_it: bool) -> bool:
    """Objects that name frames of Enhanced MR leave for destinations alone that hold such images (ADR 0009)."""
    return not enhanced_mr or destination_declares_it


# --- before anything is written ---------------------------------------------------------------------------------------


def before_writing(stack: Stack, mask: Mask, prediction: Prediction) -> tuple[GateResult, ...]:
    """Shape, emptiness, borders, then domain/plausibility. After a hold outside RELEASABLE no object is written."""
    return answered("the answer", lambda: _before_writing(stack, mask, prediction))


def _before_writing(stack: Stack, mask: Mask, prediction: Prediction) -> tuple[GateResult, ...]:
    if mask.shape != stack.grid.shape:
        return (GateResult("MASK_SHAPE", Outcome.HOLD, f"mask {mask.shape} is not on the grid {stack.grid.shape}"),)
    if not mask.any():
        return (GateResult("EMPTY_MASK", Outcome.HOLD, "nothing was outlined; that is never 'no lesion'", 0.0),)
    return (_border_slice(mask), _border_touch(mask), *judge_answer(stack.grid, prediction))


def before_sending(stack: Stack, prediction: Prediction, uncertain_below: float) -> tuple[GateResult, ...]:
    """All that can be judged without the objects: what warns here is said in them."""
    stage = answered("STAGE_CONFIDENCE", lambda: (_stage_confidence(prediction, uncertain_below),))
    return (*before_writing(stack, prediction.mask, prediction), *stage)


def warnings_of(gates: Iterable[GateResult]) -> tuple[Finding, ...]:
    """What the objects must say."""
    return tuple(gate.finding for gate in gates if gate.outcome is Outcome.WARN)


def unsaid(gates: Iterable[GateResult], said: Iterable[Finding], prediction: Prediction) -> tuple[Finding, ...]:
    """Warnings of these gates that neither the plan nor the prediction has among what the objects say."""
    codes = {finding.code for finding in (*said, *prediction.findings)}
    return tuple({f.code: f for f in warnings_of(gates) if f.code not in codes}.values())


def _stage_confidence(prediction: Prediction, uncertain_below: float) -> GateResult:
    """A weak stage is said to be weak and never holds: the outline is a draft of its own."""
    top = max(prediction.stage_probabilities)
    if top >= uncertain_below:
        return GateResult("STAGE_CONFIDENCE", Outcome.PASS, "probability of the likeliest stage", top, uncertain_below)
    said = f"probability of the likeliest stage: {top:.4g}, expected at least {uncertain_below:.4g}"
    return GateResult("STAGE_CONFIDENCE", Outcome.WARN, said, top, uncertain_below)


def _border_slice(mask: Mask) -> GateResult:
    touching = _on_faces(mask, (0,))
    said = "the outline reaches the first or last slice: the series may be cut off; a person decides"
    if not touching:
        return GateResult("BORDER_SLICE", Outcome.PASS, "clear of the first and last slice", 0.0, 0.0)
    return GateResult("BORDER_SLICE", Outcome.HOLD, said, float(touching), 0.0)


def _border_touch(mask: Mask) -> GateResult:
    touching = _on_faces(mask, (1, 2))
    outcome = Outcome.WARN if touching else Outcome.PASS
    said = "the outline reaches the edge of the image and may be cut off" if touching else "clear of the image edges"
    return GateResult("BORDER_TOUCH", outcome, said, float(touching), 0.0)


def _on_faces(mask: Mask, axes: Iterable[int]) -> int:
    """Voxels of the mask at either end of these axes."""
    faces = (face for axis in axes for face in (mask.take(0, axis), mask.take(-1, axis)))
    return sum(int(np.count_nonzero(face)) for face in faces)


# --- what the model looked at -----------------------------------------------------------------------------------------


def judge_sight(prediction: Prediction, filed: Sight, stack: Stack) -> tuple[GateResult, ...]:
    """What the model saw, against the files: where every slice's brightness lies, and the grey values outlined.

    Voxels in another order, of another series or on another grid than the outline is written on are seen here alone, as
    is an outline that was moved together with its map: a round trip cannot know of them.
    """
    return (*_judge_slices(prediction.sight, filed.centres_mm, stack), _judge_inside(prediction, filed))


def _judge_slices(seen: Array, filed: Array, stack: Stack) -> tuple[GateResult, ...]:
    if seen.shape != filed.shape:
        said = f"the model saw {len(seen)} slices, the files hold {len(filed)}"
        return (GateResult("SEEN_SLICES", Outcome.HOLD, said, float(len(seen)), float(len(filed))),)
    along, across = _parted(np.asarray(seen - filed), stack)
    near = np.abs(along) <= max(STRAY_MOST_MM, STRAY_MOST_OF_STEP * stack.grid.spacing_mm[0])
    there = near & (np.linalg.norm(across, axis=1) <= STRAY_MOST_MM)
    strayed, shift = int(np.count_nonzero(~there)), float(np.linalg.norm(np.median(across, axis=0)))
    return (
        _at_most(
            "SEEN_SLICES", strayed, 0, "slices that the model saw elsewhere or otherwise than the files have them"
        ),
        _at_most("SEEN_SHIFT", shift, SHIFT_MOST_MM, "mm in-plane from where the files have the slices, on the whole"),
    )


def _judge_inside(prediction: Prediction, filed: Sight) -> GateResult:
    """In SD of those grey values, so that a rescale does not matter; the two sides differ by rounding alone."""
    numbers = [prediction.measured.get(code) for code in ("INSIDE_MEAN", "INSIDE_SD")]
    if None in numbers:
        return unjudged("SEEN_INSIDE", "the bundle's side named no number")
    off = [
        abs(float(seen or 0.0) - own) for seen, own in zip(numbers, (filed.inside_mean, filed.inside_sd), strict=True)
    ]
    worst = max(off) / max(filed.inside_sd, LEAST_SD)
    return _at_most("SEEN_INSIDE", worst, INSIDE_MOST, "SD between the grey values outlined and those in the files")


def _parted(off: Array, stack: Stack) -> tuple[Array, Array]:
    """Differences (n, 3) along the stack's normal (n,), and what is left of them in the plane (n, 3)."""
    normal = stack.grid.affine[:3, 0] / stack.grid.spacing_mm[0]
    along = np.asarray(off @ normal)
    return along, np.asarray(off - np.outer(along, normal))


# --- what was written -------------------------------------------------------------------------------------------------


def judge_orders(ordered: Sequence[tuple[str, str]], written: Sequence[tuple[str, str]]) -> GateResult:
    """Each object (kind, variant) that was ordered is there once, and no other."""
    off = len(set(ordered) ^ set(written)) + len(written) - len(set(written))
    return _at_most("OBJECTS", off, 0, "objects missing from, strange to or repeated in what was ordered")


# --- the structure set ------------------------------------------------------------------------------------------------


def judge_structure(facts: StructureFacts, expected: Expected) -> tuple[GateResult, ...]:
    """All gates on the RTSTRUCT."""
    return (
        _judge_instance("INSTANCE_RTSTRUCT", facts.instance, expected.instance),
        _judge_item_counts(facts.item_counts),
        *_judge_geometry(facts, expected),
        _judge_references(facts, expected.stack),
        _judge_series(facts.series_uid, expected.series_uids),
        _judge_contours(facts.contours),
        _judge_frames(facts, expected.stack),
        _judge_identity("IDENTITY_RTSTRUCT", facts.identity, expected.identity),
        _judge_optional("OPTIONAL_RTSTRUCT", facts.optional, expected.optional),
        _equal("APPROVAL", facts.approval, "UNAPPROVED"),
        _equal("ROI_TYPE", facts.interpreted_type, "GTV"),
        _equal("ROI_NAME", facts.roi_name, expected.roi_name),
        _holds_if("ROI_NUMBERS", len(set(facts.roi_numbers)) != 1, "one ROI number in all three sequences"),
        _at_most("DECIMAL_STRINGS", facts.longest_ds, DS_MOST, "characters in the longest DS value"),
        _judge_notice("NOTICE_RTSTRUCT", _of_the_set(facts.labels), expected.content),
        _judge_segments("ROI_SOURCE", facts.defined_by, expected),
        _judge_predecessor("PREDECESSOR_RTSTRUCT", facts.predecessors, expected),
        *_judge_descriptions(facts.labels, expected.content),
    )


DESCRIPTIONS: Final = ("StructureSetDescription", "ROIDescription")
"""Where a planning system shows what a structure set says of itself."""


def _of_the_set(labels: Mapping[str, str]) -> list[str]:
    """What the set says of itself: what only its ROI says is seen when the ROI is opened."""
    return [said for keyword, said in labels.items() if keyword != "ROIDescription"]


def _judge_descriptions(labels: Mapping[str, str], content: ReportContent) -> tuple[GateResult, ...]:
    """Both say the stage line, by which edition, and every warning."""
    said = [labels.get(keyword, "") for keyword in DESCRIPTIONS]
    silent = any(line not in text for text in said for line in (content.stage_line, content.edition_line))
    unwarned = [_judge_warnings("WARNINGS_RTSTRUCT", (text,), content) for text in said]
    return (
        _holds_if("STATEMENT_RTSTRUCT", silent, "category, probabilities, volume and edition are the report's"),
        max(unwarned, key=lambda result: result.outcome is Outcome.HOLD),
    )


def _judge_geometry(facts: StructureFacts, expected: Expected) -> tuple[GateResult, ...]:
    raster = rasterise(_placed(facts.contours, expected.stack), expected.stack)
    overlap = dice(raster.mask, expected.mask)
    voxel_cc = expected.stack.grid.voxel_cc
    wanted_cc = int(expected.mask.sum()) * voxel_cc
    off_cc = abs(int(raster.mask.sum()) * voxel_cc - wanted_cc) / wanted_cc
    return (
        _at_least("ROUND_TRIP_DICE", overlap, DICE_LEAST, "Dice of the outline read back"),
        _at_most("ROUND_TRIP_VOLUME", off_cc, VOLUME_MOST, "relative volume error read back"),
        _at_most("OFF_PLANE", raster.off_plane_mm, OFF_PLANE_MOST_MM, "mm from the image plane, at worst"),
        _at_most("RINGS_APART", raster.overlapping, 0, "pixels inside two rings"),
        _at_most("ROI_VOLUME", abs(facts.roi_volume_cc - wanted_cc), VOLUME_MOST_CC, "cc between ROIVolume and mask"),
        _judge_polygon(raster, wanted_cc),
    )


def _placed(contours: Sequence[ContourFacts], stack: Stack) -> list[PlacedRing]:
    """The contours whose one reference is a slice of the stack; the others are REFERENCES' business."""
    index = {header.reference: k for k, header in enumerate(stack.slices)}
    return [
        PlacedRing(index[contour.referenced[0]], contour.points_mm)
        for contour in contours
        if len(contour.referenced) == 1 and contour.referenced[0] in index and len(contour.points_mm)
    ]


def _judge_polygon(raster: Raster, wanted_cc: float) -> GateResult:
    off = abs(raster.polygon_cc - wanted_cc) / wanted_cc
    said = "relative error of area times slice distance"
    if off > POLYGON_NEVER and wanted_cc >= 1.0:
        return GateResult("POLYGON_VOLUME", Outcome.HOLD, said, off, POLYGON_NEVER)
    return GateResult("POLYGON_VOLUME", Outcome.WARN if off > POLYGON_MOST else Outcome.PASS, said, off, POLYGON_MOST)


def _judge_references(facts: StructureFacts, stack: Stack) -> GateResult:
    known = {header.reference for header in stack.slices}
    bad = sum(1 for c in facts.contours if len(c.referenced) != 1 or c.referenced[0] not in known)
    listed = sorted(uid for uid, frame in facts.images if frame is None) == sorted(_instances(stack))
    listed = listed and len(facts.images) == len(_instances(stack))
    right = bad == 0 and listed and facts.study_uid == stack.slices[0].study_uid and bool(facts.contours)
    said = (
        f"{bad} contours without exactly one image or frame of the series; image list {'whole' if listed else 'wrong'}"
    )
    return GateResult("REFERENCES", Outcome.PASS if right else Outcome.HOLD, said, float(bad), 0.0)


def _instances(stack: Stack) -> frozenset[str]:
    """The instances that the slices come from: each is named once, however many of its frames are slices."""
    return frozenset(header.sop_uid for header in stack.slices)


def _judge_item_counts(counts: Mapping[str, int]) -> GateResult:
    """Only one item of each of these is judged, so a second one would leave unjudged."""
    off = sorted(f"{keyword} {count}" for keyword, count in counts.items() if count != 1)
    said = "items other than one: " + ", ".join(off) if off else "one item in every sequence that is to have one"
    return _holds_if("ONE_ITEM", bool(off) or not counts, said)


def _judge_series(found: str, wanted: frozenset[str]) -> GateResult:
    right = bool(found) and wanted == {found}
    return _holds_if("REFERENCED_SERIES", not right, "the referenced series is the one that the image files state")


def _judge_contours(contours: Sequence[ContourFacts]) -> GateResult:
    bad = sum(
        1
        for c in contours
        if c.geometric_type != "CLOSED_PLANAR" or len(c.points_mm) < 3 or c.declared_points != len(c.points_mm)
    )
    return _at_most("CONTOUR_FORM", bad, 0, "contours that are not closed, have under 3 points or miscount them")


def _judge_frames(facts: StructureFacts, stack: Stack) -> GateResult:
    frames = set(facts.frames_of_reference) | {header.frame_of_reference_uid for header in stack.slices}
    return _at_most("FRAME_OF_REFERENCE", len(frames), 1, "frames of reference among images and structure set")


# --- the report -------------------------------------------------------------------------------------------------------


def judge_report(facts: ReportFacts, structure: StructureFacts, expected: Expected) -> tuple[GateResult, ...]:
    """All gates on the SR, and on what the two objects say of each other."""
    off_sum = abs(sum(facts.probabilities.values()) - 1.0)
    off_volume = abs(facts.volume_cc - structure.roi_volume_cc)
    flags = f"{facts.verification}, {facts.preliminary}, {facts.completion}"
    return (
        _judge_instance("INSTANCE_SR", facts.instance, expected.instance),
        _equal("VERIFICATION", flags, "UNVERIFIED, PRELIMINARY, COMPLETE"),
        _at_most("PROBABILITY_SUM", off_sum, PROBABILITY_SUM_MOST, "between the probabilities' sum and 1"),
        _at_most("SR_VOLUME", off_volume, VOLUME_MOST_CC, "cc between the SR's volume and ROIVolume"),
        _judge_stage(facts, expected.content),
        _equal("MEASURED_FROM", facts.measured_from, structure.sop_uid),
        _judge_evidence(facts, structure, expected),
        _judge_key_image(facts, expected),
        _judge_identity("IDENTITY_SR", facts.identity, expected.identity),
        _judge_optional("OPTIONAL_SR", facts.optional, expected.optional),
        _judge_notice("NOTICE_SR", facts.texts, expected.content),
        _judge_segments("SR_SEGMENT", facts.segments, expected),
        _judge_tracking("SR_TRACKING", facts.tracking_uids, expected),
        _judge_predecessor("PREDECESSOR_SR", facts.predecessors, expected),
        _judge_warnings("WARNINGS_SR", facts.texts, expected.content),
    )


def _judge_stage(facts: ReportFacts, content: ReportContent) -> GateResult:
    staging = content.staging
    right = facts.probabilities == staging.probabilities
    if staging.uncertain:
        right = right and facts.category is None and staging.text in facts.texts
    else:
        right = right and facts.category == CT_CATEGORIES[staging.top].value
    return _holds_if("SR_STAGE", not right, "the SR's stage and probabilities are the prediction's")


def _judge_evidence(facts: ReportFacts, structure: StructureFacts, expected: Expected) -> GateResult:
    named = {structure.sop_uid, *(uid for uid, _ in expected.segments)}
    found, wanted = set(facts.evidence), _instances(expected.stack) | named
    off = len(wanted ^ found) + len(facts.evidence) - len(found)
    return _at_most("EVIDENCE", off, 0, "instances missing from, strange to or repeated in the evidence")


def _judge_key_image(facts: ReportFacts, expected: Expected) -> GateResult:
    """The one image that the report shows is the slice, and the frame, where the outline is largest."""
    key = int(np.argmax(np.count_nonzero(expected.mask, axis=(1, 2))))
    right = facts.images == (expected.stack.slices[key].reference,)
    return _holds_if("KEY_IMAGE", not right, "the report shows the slice where the outline is largest")


# --- the segmentation -------------------------------------------------------------------------------------------------

PLACE_MOST_MM: Final = 0.001
"""Between a frame's pixels and those of the slice that it names; both are written from the same header."""


def judge_segmentation(facts: SegmentationFacts, expected: Expected) -> tuple[GateResult, ...]:
    """All gates on the SEG."""
    frames = {facts.frame_of_reference} | {header.frame_of_reference_uid for header in expected.stack.slices}
    return (
        _judge_instance("INSTANCE_SEG", facts.instance, expected.instance),
        _equal("SEG_FORM", facts.form, "BINARY, 1 segment, number 1, AUTOMATIC"),
        _judge_frame_references(facts, expected.stack),
        _judge_places(facts.frames, expected.stack),
        _judge_voxels(facts.frames, expected),
        _judge_series(facts.series_uid, expected.series_uids),
        _at_most("SEG_FRAME_OF_REFERENCE", len(frames), 1, "frames of reference among images and segmentation"),
        _judge_tracking("SEG_TRACKING", facts.tracking_uids, expected),
        _judge_identity("IDENTITY_SEG", facts.identity, expected.identity),
        _judge_optional("OPTIONAL_SEG", facts.optional, expected.optional),
        _judge_notice("NOTICE_SEG", facts.texts, expected.content),
    )


def _judge_frame_references(facts: SegmentationFacts, stack: Stack) -> GateResult:
    """Every frame names one slice, no slice is named twice, and the object lists every instance once."""
    known = {header.reference for header in stack.slices}
    named = [frame.referenced[0] for frame in facts.frames if len(frame.referenced) == 1]
    bad = len(facts.frames) - len(set(named) & known)
    listed = sorted(uid for uid, frame in facts.images if frame is None) == sorted(_instances(stack))
    whole = listed and len(facts.images) == len(_instances(stack))
    said = f"{bad} frames without a slice of their own; image list {'whole' if whole else 'wrong'}"
    right = bad == 0 and whole and bool(facts.frames)
    return GateResult("SEG_REFERENCES", Outcome.PASS if right else Outcome.HOLD, said, float(bad), 0.0)


def _judge_places(frames: Sequence[FrameFacts], stack: Stack) -> GateResult:
    index = {header.reference: k for k, header in enumerate(stack.slices)}
    known = [frame for frame in frames if frame.referenced and frame.referenced[0] in index]
    away = [np.abs(frame.corners_mm - _corners(stack, index[frame.referenced[0]])).max() for frame in known]
    return _at_most("SEG_PLACE", float(max(away, default=np.inf)), PLACE_MOST_MM, "mm between a frame and its slice")


def _corners(stack: Stack, index: int) -> Array:
    """Where the first, the last-column and the last-row pixel of a slice lie, as its image states it."""
    header = stack.slices[index]
    _, rows, columns = stack.grid.shape
    return plane_corners(header.position, header.orientation, header.spacing_mm, (rows, columns))


def plane_corners(position: object, orientation: object, spacing_mm: object, shape: tuple[int, int]) -> Array:
    """`[corner, (x, y, z)]` LPS mm of pixel (0, 0), (0, last column) and (last row, 0) (PS3.3 C.7.6.2.1.1)."""
    origin, cosines = np.asarray(position, float), np.asarray(orientation, float).reshape(2, 3)
    between_rows, between_columns = np.asarray(spacing_mm, float)
    along_row = cosines[0] * between_columns * (shape[1] - 1)
    along_column = cosines[1] * between_rows * (shape[0] - 1)
    return np.array([origin, origin + along_row, origin + along_column])


def _judge_voxels(frames: Sequence[FrameFacts], expected: Expected) -> GateResult:
    """The frames laid on the slices that they name are the mask, voxel for voxel."""
    index = {header.reference: k for k, header in enumerate(expected.stack.slices)}
    found = np.zeros_like(expected.mask)
    for frame in frames:
        if frame.referenced and frame.referenced[0] in index and frame.pixels.shape == found.shape[1:]:
            found[index[frame.referenced[0]]] |= frame.pixels
    off = int(np.count_nonzero(found ^ expected.mask))
    return _at_most("SEG_VOXELS", off, 0, "voxels of the segmentation that are not the mask's")


# --- the preview ------------------------------------------------------------------------------------------------------

PAGE_PIXELS: Final = (1754, 1241)  # rows, columns: A4 at 150 to the inch
INK_SHARE: Final = (0.05, 0.95)  # of a page's pixels: less is a blank page, more is a black one
_PAPER: Final = 245  # of 255 in every colour, and brighter, is paper


@dataclass(frozen=True)
class PageFacts:
    """A preview as read back. `texts` are a document's pages, or the one comment that goes with an image.

    page: the first page as pixels `[row, column, (red, green, blue)]`; form: how it is encoded; images and objects:
    what it says it comes from; twin: whether the document of the same result shows this very page, None where there is
    no such document.
    """

    instance: InstanceFacts
    form: str
    burned_in: str
    page: NDArray[np.uint8]
    texts: tuple[str, ...]
    images: tuple[ImageReference, ...]
    objects: tuple[str, ...]
    identity: Mapping[str, bytes]
    optional: Mapping[str, bytes]
    twin: bool | None = None


def judge_page(
    kind: str, form: str, facts: PageFacts, structure_uid: str, expected: Expected
) -> tuple[GateResult, ...]:
    """All gates on the preview, as an image or as a document; `form` is how that kind is to be encoded."""
    return (
        _judge_instance(f"INSTANCE_{kind}", facts.instance, expected.instance),
        _equal(f"FORM_{kind}", facts.form, form),
        _equal(f"BURNED_IN_{kind}", facts.burned_in, "YES"),
        _judge_sources(f"REFERENCES_{kind}", facts, structure_uid, expected.stack),
        *_judge_paper(kind, facts),
        *_judge_words(kind, facts.texts, expected.content),
        *(_judge_page(kind, facts.texts, expected) if kind == "PDF" else _judge_twin(kind, facts.twin)),
        _judge_identity(f"IDENTITY_{kind}", facts.identity, expected.identity),
        _judge_optional(f"OPTIONAL_{kind}", facts.optional, expected.optional),
    )


def _judge_sources(name: str, facts: PageFacts, structure_uid: str, stack: Stack) -> GateResult:
    images = sorted(uid for uid, frame in facts.images if frame is None)
    right = (
        len(images) == len(facts.images) and images == sorted(_instances(stack)) and facts.objects == (structure_uid,)
    )
    return _holds_if(name, not right, "it names every image of the series once, and the structure set that it shows")


def _judge_twin(kind: str, same: bool | None) -> tuple[GateResult, ...]:
    """Words burned into an image cannot be read back; those of the document can, so the image must be its page."""
    return (_holds_if(f"SAME_PAGE_{kind}", not same, "the image is the first page of the document"),)


def _judge_page(kind: str, texts: Sequence[str], expected: Expected) -> tuple[GateResult, ...]:
    """The first page says whose it is, and each probability; letters are compared, not where lines end."""
    first = _letters(texts[0]) if texts else ""
    stranger = any(_letters(said)[:_TELLING] not in first for said in expected.patient)
    shares = [_letters(f"{stage}{share:.2%}") for stage, share in expected.content.staging.probabilities.items()]
    return (
        _holds_if(f"PATIENT_{kind}", stranger, "the page names the patient of the images"),
        _holds_if(f"SHARES_{kind}", any(said not in first for said in shares), "the page says each probability"),
    )


_TELLING: Final = 40
"""Letters of a name or number that are looked for: a longer one may be cut on the page."""


def _letters(said: str) -> str:
    return "".join(letter for letter in said.casefold() if letter.isascii() and letter.isalnum())


def _judge_paper(kind: str, facts: PageFacts) -> tuple[GateResult, ...]:
    rows, columns = facts.page.shape[:2]
    inked = float(np.mean((facts.page < _PAPER).any(axis=-1)))
    least, most = INK_SHARE
    return (
        _equal(f"PAGE_SIZE_{kind}", f"{rows} x {columns}", f"{PAGE_PIXELS[0]} x {PAGE_PIXELS[1]}"),
        _at_least(f"NOT_BLANK_{kind}", inked, least, "of the page is drawn on"),
        _at_most(f"NOT_BLACK_{kind}", inked, most, "of the page is drawn on"),
    )


def _judge_words(kind: str, texts: Sequence[str], content: ReportContent) -> tuple[GateResult, ...]:
    """Every page says that it is unverified and of what weights; the first one says category and volume."""
    unsaid = not texts or any("UNVERIFIED" not in text for text in texts)
    silent = content.bundle.synthetic and (not texts or any(SYNTHETIC_NOTICE not in text for text in texts))
    first = texts[0] if texts else ""
    wrong = content.staging.text not in first or content.volume_said not in first
    return (
        _holds_if(f"UNVERIFIED_{kind}", unsaid, "every page says that it is an unverified draft"),
        _holds_if(f"NOTICE_{kind}", silent, "every page of a synthetic bundle's result says so"),
        _holds_if(f"STATEMENT_{kind}", wrong, "category, or the set, and volume are the report's"),
        _judge_warnings(f"WARNINGS_{kind}", ("".join(first.split()),), content),
    )


# --- small words ------------------------------------------------------------------------------------------------------


def _judge_segments(name: str, found: tuple[SegmentReference, ...], expected: Expected) -> GateResult:
    said = "names the segment of this result" if expected.segments else "names no segment"
    return _holds_if(name, found != expected.segments, f"wanted: {said}")


def _judge_tracking(name: str, found: tuple[str, ...], expected: Expected) -> GateResult:
    """The lesion has one tracking UID in all objects that track it; those that do not need none."""
    wanted = (expected.tracking_uid,) if expected.tracking_uid else ()
    return _holds_if(name, found != wanted, "one tracking UID in segmentation and report")


def _judge_predecessor(name: str, found: tuple[str, ...], expected: Expected) -> GateResult:
    """A later result names what somebody was sent before, and nothing that nobody ever had."""
    wanted = (expected.predecessor,) if expected.predecessor else ()
    return _holds_if(name, found != wanted, "names what was sent of it before" if wanted else "names no predecessor")


def _judge_identity(name: str, found: Mapping[str, bytes], wanted: Mapping[str, bytes]) -> GateResult:
    """Raw bytes of patient and study elements, the character set among them; only keywords are named."""
    off = sorted(k for k in {*found, *wanted} if found.get(k, b"") != wanted.get(k, b""))
    outcome = Outcome.HOLD if off or not wanted else Outcome.PASS
    said = "differs from the images in " + ", ".join(off) if off else "patient and study as in the images"
    return GateResult(name, outcome, said, float(len(off)), 0.0)


def _judge_optional(name: str, found: Mapping[str, bytes], wanted: Mapping[str, bytes]) -> GateResult:
    """Raw bytes of what an object may leave out, but must not say differently; only keywords are named."""
    off = sorted(keyword for keyword, value in found.items() if value and value != wanted.get(keyword, b""))
    said = "differs from the images in " + ", ".join(off) if off else "as in the images, or absent"
    return GateResult(name, Outcome.HOLD if off else Outcome.PASS, said, float(len(off)), 0.0)


def _judge_instance(name: str, found: InstanceFacts, wanted: InstanceFacts) -> GateResult:
    off = [item.name for item in fields(wanted) if getattr(found, item.name) != getattr(wanted, item.name)]
    said = "not as planned: " + ", ".join(off) if off else "SOP Class, instance, series and modality as planned"
    return _holds_if(name, bool(off), said)


def _judge_notice(name: str, texts: Iterable[str], content: ReportContent) -> GateResult:
    missing = content.bundle.synthetic and not any(SYNTHETIC_NOTICE in text for text in texts)
    return _holds_if(name, missing, "a synthetic bundle's object says so")


def _judge_warnings(name: str, texts: Iterable[str], content: ReportContent) -> GateResult:
    """What a gate warned of is said in the object, by its code."""
    said = tuple(texts)
    silent = sorted({f.code for f in content.findings if not any(f.code in text for text in said)})
    message = "does not say " + ", ".join(silent) if silent else "every warning is said"
    return GateResult(name, Outcome.HOLD if silent else Outcome.PASS, message, float(len(silent)), 0.0)


def _equal(name: str, found: str, wanted: str) -> GateResult:
    return _holds_if(name, found != wanted, f"wanted {wanted}")


def _holds_if(name: str, bad: bool, message: str) -> GateResult:
    return GateResult(name, Outcome.HOLD if bad else Outcome.PASS, message)


def _at_most(name: str, value: float, limit: float, message: str) -> GateResult:
    outcome = Outcome.PASS if value <= limit else Outcome.HOLD
    return GateResult(name, outcome, message, float(value) if isfinite(value) else None, float(limit))


def _at_least(name: str, value: float, limit: float, message: str) -> GateResult:
    outcome = Outcome.PASS if value >= limit else Outcome.HOLD
    return GateResult(name, outcome, message, float(value) if isfinite(value) else None, float(limit))
