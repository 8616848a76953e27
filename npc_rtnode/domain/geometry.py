"""Where the voxels are: one even stack of slices, or the reasons why it is none.

Arrays are `[slice, row, column]`, slices ascending along the normal (row direction cross column direction); the affine
takes an index `[slice, row, column, 1]` to the voxel centre in LPS millimetres (PS3.3 C.7.6.2.1.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from npc_rtnode.domain.records import Finding, SliceHeader
from npc_rtnode.errors import GeometryRefused

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Grid:
    """A uniform voxel grid in space: shape (slices, rows, columns) and a 4x4 affine, index → LPS mm."""

    shape: tuple[int, int, int]
    affine: Array

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between slices, rows and columns."""
        slices, rows, columns = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(slices), float(rows), float(columns)

    @property
    def voxel_cc(self) -> float:
        """Volume of one voxel in cubic centimetres."""
        return abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000.0


@dataclass(frozen=True)
class Stack:
    """The slices of one series in order along the normal, and the grid they make."""

    grid: Grid
    slices: tuple[SliceHeader, ...]


@dataclass(frozen=True)
class Volume:
    """Voxels (float32, `[slice, row, column]`, rescaled) on the grid of their stack."""

    voxels: NDArray[np.float32]
    stack: Stack


# --- tolerances: each one a number and a sentence that a physicist can review ----------------------------------------

FEWEST_SLICES = 8
"""Fewer slices than this are no volume to the model: NPC protocols have 16 to 120 (paper 2.1), localizers 1 to 7."""

MOST_VOXELS = 2**28
"""1 GiB as float32: five times the largest NPC series; more is a hostile or broken header, refused before decoding."""

MOST_FRAMES = 4096
"""Frames that are taken apart in one series: 60 slices at 68 time points; no stack has as many.

Known before anything is built for a frame; an instance that goes beyond is left whole, and the series refused.
"""

STEP_TOLERANCE_RELATIVE = 0.02
"""A step between slices may differ from the usual step by 2 %: GE writes 6.96 to 7.07 mm for 6.97 mm (1.4 %)."""

STEP_TOLERANCE_MM = 0.1
"""… or by 0.1 mm where that is more: contours are written at each slice's own position, so jitter moves no contour."""

DRIFT_TOLERANCE_RELATIVE = 0.1
"""No slice lies further than a tenth of a step (or STEP_TOLERANCE_MM) from its place on the even grid."""

GAP_FROM = 1.5
"""From one and a half usual steps on, a step is asked whether slices are missing in it."""

SAME_POSITION_MM = 0.01
"""Slices closer than this share one position: echoes, time points or b-values in one series, not one stack."""

COSINE_TOLERANCE = 1e-3
"""Direction cosines may be off by 0.001 (0.06°): 0.25 mm at the edge of 250 mm; headers round to 1e-6."""

SPACING_TOLERANCE_RELATIVE = 1e-4
"""Pixel spacings of two slices may differ by 0.01 %: a twentieth of a pixel across 512."""

OFF_NORMAL_TOLERANCE_MM = 0.2
"""No slice origin lies further from the normal through the first one: half the finest NPC pixel (0.34 to 1.09 mm).

A tilted gantry moves 0.25 mm sideways for each mm of step; GE head positions are written with up to 0.09 mm of noise.
"""

PLANE_WITHIN_DEG = 30.0
"""A slice normal within 30° of a patient axis is called by that plane; neck protocols tilt axial slices up to 25°."""

INCOMPARABLE = frozenset(
    {
        "MULTIFRAME",
        "TOO_MANY_FRAMES",
        "SINGLE_AND_MULTIFRAME",
        "SEVERAL_STACKS",
        "SEVERAL_CONTRASTS",
        "NO_POSITION",
        "NOT_ORTHONORMAL",
        "MIXED_ORIENTATION",
        "MIXED_FRAME_OF_REFERENCE",
    }
)
"""With one of these, distances between slices mean nothing and are not asked for."""

MOST_SHOWN = 5
"""So many different values are quoted in a finding."""

_PLANES = ("sagittal", "coronal", "axial")  # plane whose normal is along x (left), y (posterior), z (head)


@dataclass(frozen=True)
class StackJudgement:
    """The stack, or none; `findings` say why there is none, or (COUNT_SHORT) what speaks against using it."""

    stack: Stack | None
    findings: tuple[Finding, ...] = ()

    @property
    def codes(self) -> tuple[str, ...]:
        """The findings' codes, in the order found."""
        return tuple(finding.code for finding in self.findings)


def judge_stack(headers: Sequence[SliceHeader]) -> StackJudgement:
    """Judge whether these slices, in whatever order, are one even stack; every finding is named, not just the first."""
    findings = [*identity_findings(headers), *_count_findings(headers), *_form_findings(headers)]
    if not INCOMPARABLE & {finding.code for finding in findings}:
        findings += _spacing_findings(headers)
    if any(finding.code != "COUNT_SHORT" for finding in findings):
        return StackJudgement(None, tuple(findings))
    return StackJudgement(_build(headers), tuple(findings))


def stack_of(headers: Sequence[SliceHeader]) -> Stack:
    """The stack these slices make; raises GeometryRefused with all findings where they make none."""
    judgement = judge_stack(headers)
    if judgement.stack is None:
        raise GeometryRefused("; ".join(str(finding) for finding in judgement.findings))
    return judgement.stack


def identity_findings(headers: Sequence[SliceHeader]) -> list[Finding]:
    """Two patients or two studies in one series: MIXED_PATIENT, MIXED_STUDY. Holds for any kind of instance."""
    patients = len({header.patient_key for header in headers})
    studies = len({header.study_uid for header in headers})
    found = []
    if patients > 1:
        found.append(Finding("MIXED_PATIENT", f"{patients} different patient identities in one series", patients, 1))
    if studies > 1:
        found.append(Finding("MIXED_STUDY", f"{studies} different studies in one series", studies, 1))
    return found


def plane_of(orientation: Sequence[float]) -> tuple[str, float]:
    """The plane nearest to six direction cosines (PS3.3 C.7.6.2.1.1) and how many degrees its normal is off that axis.

    Off by more than PLANE_WITHIN_DEG it is called "oblique", still with the angle to the nearest axis.
    """
    normal = axes_of(orientation)[2]
    nearest = int(np.argmax(np.abs(normal)))
    angle = float(np.degrees(np.arccos(min(1.0, abs(float(normal[nearest]))))))
    return (_PLANES[nearest] if angle <= PLANE_WITHIN_DEG else "oblique"), angle


# --- the single questions ------------------------------------------------------------------------------------------


def _count_findings(headers: Sequence[SliceHeader]) -> list[Finding]:
    """Too few to be a volume; fewer than the scanner says it acquired (a hint alone: GE writes 1, others write 0)."""
    count = len(headers)
    found = []
    if count < FEWEST_SLICES and not any(map(_is_unread, headers)):
        text = f"{count} slices, at least {FEWEST_SLICES} needed"
        found.append(Finding("TOO_FEW_SLICES", text, count, FEWEST_SLICES))
    stated = {header.images_in_acquisition for header in headers}
    said = stated.pop() if len(stated) == 1 else None
    if said is not None and said > count:
        found.append(Finding("COUNT_SHORT", f"{count} instances, ImagesInAcquisition says {said}", count, said))
    return found


def _form_findings(headers: Sequence[SliceHeader]) -> list[Finding]:
    """What must be there, and the same on every slice, before positions can be compared."""
    if any(map(_is_unread, headers)):
        return [_unread(headers)]
    return [
        *_frame_findings(headers),
        *_missing(headers),
        *_frames_of_reference(headers),
        *_orientations(headers),
        *_matrices(headers),
    ]


def _is_unread(header: SliceHeader) -> bool:
    """An instance of several frames that was not taken apart."""
    return header.frame is None and header.frames > 1


def _unread(headers: Sequence[SliceHeader]) -> Finding:
    """Of another class than the ones whose frames are read, or with more frames than are taken apart."""
    whole = [header.frames for header in headers if _is_unread(header)]
    total = sum(whole) + sum(header.frame is not None for header in headers)
    if total > MOST_FRAMES:
        text = f"{total} frames in one series, at most {MOST_FRAMES} are read"
        return Finding("TOO_MANY_FRAMES", text, total, MOST_FRAMES)
    text = f"multi-frame instances (up to {max(whole)} frames) of another class than Enhanced MR are not read"
    return Finding("MULTIFRAME", text, max(whole), 1)


# --- the single questions about frames (PS3.3 C.7.6.16) --------------------------------------------------------------


def _frame_findings(headers: Sequence[SliceHeader]) -> list[Finding]:
    """All slices are frames if one is, of one stack and one contrast, and no part of a concatenation is missing."""
    frames = [header for header in headers if header.frame is not None]
    if not frames:
        return []
    return [*_single_among(headers, frames), *_several_stacks(frames), *_several_contrasts(frames), *_parts(frames)]


def _single_among(headers: Sequence[SliceHeader], frames: Sequence[SliceHeader]) -> list[Finding]:
    single = len(headers) - len(frames)
    if not single:
        return []
    text = f"{single} single-frame instances among {len(frames)} frames of multi-frame ones in one series"
    return [Finding("SINGLE_AND_MULTIFRAME", text, single, 0)]


def _several_stacks(frames: Sequence[SliceHeader]) -> list[Finding]:
    """By name (StackID) or, where names do not tell, by direction."""
    named = len({frame.traits.stack for frame in frames} - {""})
    turned = len(_directions(frames))
    if max(named, turned) < 2:
        return []
    text = f"several stacks in one series: {named} by StackID, {turned} by orientation"
    return [Finding("SEVERAL_STACKS", text, max(named, turned), 1)]


def _directions(frames: Sequence[SliceHeader]) -> list[Array]:
    """One orientation a group within COSINE_TOLERANCE; beyond MOST_SHOWN groups they are not told apart."""
    found: list[Array] = []
    for stated in sorted({frame.orientation for frame in frames if frame.orientation and _stated(frame.orientation)}):
        if len(found) <= MOST_SHOWN and all(
            np.abs(np.array(stated) - other).max() > COSINE_TOLERANCE for other in found
        ):
            found.append(np.array(stated))
    return found


def _several_contrasts(frames: Sequence[SliceHeader]) -> list[Finding]:
    """Two echoes, time points, components or states of contrast: every keyword in which frames differ, with values."""
    said: dict[str, set[str]] = {}
    for frame in frames:
        for keyword, value in frame.traits.contrast:
            said.setdefault(keyword, set()).add(value)
    differing = [f"{keyword} ({_quoted(values)})" for keyword, values in said.items() if len(values) > 1]
    if not differing:
        return []
    text = f"frames of one series differ in {', '.join(differing)}"
    return [Finding("SEVERAL_CONTRASTS", text, len(differing), 0)]


def _quoted(values: set[str]) -> str:
    shown = ", ".join(value or "unsaid" for value in sorted(values)[:MOST_SHOWN])
    return f"{shown} and {len(values) - MOST_SHOWN} more" if len(values) > MOST_SHOWN else shown


def _parts(frames: Sequence[SliceHeader]) -> list[Finding]:
    """A concatenation is one image cut into instances (PS3.3 C.7.6.16.2.2.4): further parts may still come."""
    parts = {frame.traits.part for frame in frames if frame.traits.part}
    wanted = sum(_parts_wanted([part for part in parts if part[0] == uid]) for uid in {part[0] for part in parts})
    if len(parts) >= wanted:
        return []
    return [Finding("PART_MISSING", f"{len(parts)} of {wanted} parts of a concatenation are here", len(parts), wanted)]


def _parts_wanted(parts: Sequence[tuple[str, int, int]]) -> int:
    """Of one concatenation: as many as it says, or as the highest number that is here."""
    return max(max(number, total) for _, number, total in parts)


# --- the single questions about any slice ----------------------------------------------------------------------------


def _missing(headers: Sequence[SliceHeader]) -> list[Finding]:
    unplaced = sum(not (_stated(header.position) and _stated(header.orientation)) for header in headers)
    unscaled = sum(not _has_scale(header) for header in headers)
    found = []
    if unplaced:
        text = f"{unplaced} of {len(headers)} {_kind(headers)} lack ImagePositionPatient or ImageOrientationPatient"
        found.append(Finding("NO_POSITION", text, unplaced, 0))
    if unscaled:
        text = f"{unscaled} of {len(headers)} {_kind(headers)} lack a usable PixelSpacing, Rows or Columns"
        found.append(Finding("NO_SPACING", text, unscaled, 0))
    return found


def _kind(headers: Sequence[SliceHeader]) -> str:
    return "frames" if any(header.frame for header in headers) else "instances"


def _stated(numbers: Sequence[float] | None) -> bool:
    return numbers is not None and bool(np.isfinite(numbers).all())


def _has_scale(header: SliceHeader) -> bool:
    spacing = header.spacing_mm
    return bool(header.rows and header.columns and spacing and _stated(spacing) and min(spacing) > 0)


def _frames_of_reference(headers: Sequence[SliceHeader]) -> list[Finding]:
    """PS3.3 C.7.4.1: without one common frame of reference, contours cannot be placed for anybody else."""
    stated = {header.frame_of_reference_uid for header in headers}
    found = []
    if None in stated:
        lacking = sum(header.frame_of_reference_uid is None for header in headers)
        text = f"{lacking} of {len(headers)} instances lack FrameOfReferenceUID"
        found.append(Finding("NO_FRAME_OF_REFERENCE", text, lacking, 0))
    frames = len(stated - {None})
    if frames > 1:
        found.append(Finding("MIXED_FRAME_OF_REFERENCE", f"{frames} frames of reference in one series", frames, 1))
    return found


def _orientations(headers: Sequence[SliceHeader]) -> list[Finding]:
    """PS3.3 C.7.6.2.1.1: row and column direction are orthogonal unit vectors, here the same on every slice."""
    stated = [header.orientation for header in headers if header.orientation and _stated(header.orientation)]
    if not stated:
        return []
    cosines = np.array(stated, dtype=np.float64)
    found = []
    worst = _orthonormality_error(cosines)
    if not worst <= COSINE_TOLERANCE:
        text = f"row and column directions are not orthogonal unit vectors (off by {worst:.4f})"
        found.append(Finding("NOT_ORTHONORMAL", text, worst, COSINE_TOLERANCE))
    spread = float(np.abs(cosines - cosines[0]).max())
    if spread > COSINE_TOLERANCE:
        text = f"slice orientations differ (direction cosines by up to {spread:.3f})"
        found.append(Finding("MIXED_ORIENTATION", text, spread, COSINE_TOLERANCE))
    return found


def _orthonormality_error(cosines: Array) -> float:
    rows, columns = cosines[:, :3], cosines[:, 3:]
    lengths = np.linalg.norm(cosines.reshape(-1, 3), axis=1)
    return float(max(np.abs(lengths - 1).max(), np.abs((rows * columns).sum(axis=1)).max()))


def _matrices(headers: Sequence[SliceHeader]) -> list[Finding]:
    matrices = {(header.rows, header.columns) for header in headers}
    found = []
    if len(matrices) > 1:
        sizes = ", ".join(sorted(f"{rows}x{columns}" for rows, columns in matrices))
        found.append(Finding("MIXED_MATRIX", f"slices of different size: {sizes}", len(matrices), 1))
    voxels = sum((header.rows or 0) * (header.columns or 0) for header in headers)
    if voxels > MOST_VOXELS:
        found.append(Finding("TOO_LARGE", f"{voxels} voxels, at most {MOST_VOXELS} are decoded", voxels, MOST_VOXELS))
    spacings = np.array([header.spacing_mm for header in headers if _has_scale(header)], dtype=np.float64)
    spread = float(np.abs(spacings / spacings[0] - 1).max()) if spacings.size else 0.0
    if spread > SPACING_TOLERANCE_RELATIVE:
        text = f"pixel spacings differ by up to {spread:.2%}"
        found.append(Finding("MIXED_SPACING", text, spread, SPACING_TOLERANCE_RELATIVE))
    return found


def _spacing_findings(headers: Sequence[SliceHeader]) -> list[Finding]:
    """What the positions along and across the normal say; asked only when every slice has the same orientation."""
    if len(headers) < 2:
        return []
    along, aside = _projected(headers)
    steps = np.diff(along)
    doubled = int((steps < SAME_POSITION_MM).sum())
    if doubled:
        text = f"{doubled} of {len(headers)} slices lie where another one is: more than one volume in the series"
        return [Finding("DUPLICATE_POSITION", text, doubled, 0)]
    return [*_shear(aside), *_gaps_and_jitter(along, steps)]


def _shear(aside: Array) -> list[Finding]:
    worst = float(np.linalg.norm(aside - aside[0], axis=1).max())
    if worst <= OFF_NORMAL_TOLERANCE_MM:
        return []
    text = f"slice origins run up to {worst:.2f} mm off the slice normal (tilted gantry or sheared volume)"
    return [Finding("SHEARED", text, worst, OFF_NORMAL_TOLERANCE_MM)]


def _gaps_and_jitter(along: Array, steps: Array) -> list[Finding]:
    usual = usual_step_mm(steps)
    allowed = max(STEP_TOLERANCE_RELATIVE * usual, STEP_TOLERANCE_MM)
    count = np.maximum(np.rint(steps / usual), 1)
    wide = (steps >= GAP_FROM * usual) & (np.abs(steps / count - usual) <= 2 * allowed)
    found = []
    if wide.any():
        found.append(_gap(steps, count, wide, usual))
    worst = float(np.abs(steps[~wide] - usual).max(initial=0.0))
    if worst > allowed:
        text = f"a step between slices differs by {worst:.2f} mm from the usual {usual:.2f} mm"
        found.append(Finding("UNEVEN_SPACING", text, worst, allowed))
    return found or _drift(along, usual)


def usual_step_mm(steps: Array) -> float:
    """The step between neighbours, in mm: the median of the steps that are no more than GAP_FROM times the smallest.

    Not the plain median: where most slices are missing, that would be the step across the gaps.
    """
    return float(np.median(steps[steps < GAP_FROM * steps.min()]))


def _gap(steps: Array, count: Array, wide: NDArray[np.bool_], usual: float) -> Finding:
    missing = int(count[wide].sum() - wide.sum())
    widest = float(steps[wide].max())
    after = ", ".join(str(k + 1) for k in np.flatnonzero(wide)[:5])
    text = f"about {missing} slices missing: steps of up to {widest:.2f} mm after slice {after}; usual {usual:.2f} mm"
    return Finding("GAP", text, widest, GAP_FROM * usual)


def _drift(along: Array, usual: float) -> list[Finding]:
    """Steps that are each within tolerance may still add up: how far is any slice from its place on the even grid?"""
    even = np.linspace(along[0], along[-1], len(along))
    worst = float(np.abs(along - even).max())
    allowed = max(DRIFT_TOLERANCE_RELATIVE * usual, STEP_TOLERANCE_MM)
    if worst <= allowed:
        return []
    return [Finding("UNEVEN_SPACING", f"a slice lies {worst:.2f} mm from its place on an even grid", worst, allowed)]


# --- building ----------------------------------------------------------------------------------------------------


def axes_of(orientation: Sequence[float]) -> Array:
    """Row direction, column direction and normal as three exact orthonormal rows, from nearly orthonormal cosines.

    The column direction is kept and the row direction made orthogonal to it, as ITK does, so that both agree.
    """
    row, column = np.array(orientation, dtype=np.float64).reshape(2, 3)
    column /= np.linalg.norm(column)
    row -= (row @ column) * column
    row /= np.linalg.norm(row)
    return np.stack([row, column, np.cross(row, column)])


def _positions(headers: Sequence[SliceHeader]) -> Array:
    return np.array([header.position for header in headers], dtype=np.float64)


def _reference(headers: Sequence[SliceHeader]) -> tuple[float, ...]:
    """The orientation that speaks for all: the same whatever order the slices came in."""
    return min(header.orientation for header in headers if header.orientation is not None)


def _projected(headers: Sequence[SliceHeader]) -> tuple[Array, Array]:
    """Positions along the normal in ascending order, mm, and what is left of each across it."""
    normal = axes_of(_reference(headers))[2]
    positions = _positions(headers)
    along = positions @ normal
    order = np.argsort(along, kind="stable")
    return along[order], (positions - np.outer(along, normal))[order]


def _build(headers: Sequence[SliceHeader]) -> Stack:
    """Sort along the normal and lay the even grid: it starts at the first slice and ends at the last one's height."""
    row, column, normal = axes_of(_reference(headers))
    ordered = sorted(headers, key=lambda header: float(np.array(header.position) @ normal))
    positions = _positions(ordered)
    step = float((positions[-1] - positions[0]) @ normal) / (len(ordered) - 1)
    first = ordered[0]
    between_rows, between_columns = first.spacing_mm or (1.0, 1.0)
    affine = np.eye(4)
    affine[:3, 0] = normal * step
    affine[:3, 1] = column * between_rows
    affine[:3, 2] = row * between_columns
    affine[:3, 3] = positions[0]
    grid = Grid((len(ordered), first.rows or 0, first.columns or 0), affine)
    return Stack(grid, tuple(ordered))
