"""Planes of a volume as radiologists look at them, with the outlines that were written; nothing of DICOM is in here.

Outlines are rings read back from the written RTSTRUCT; they are never drawn from the model's mask. Points are
`(column, row)` in pixels, pixel centres are whole numbers; everything on a view is in index units until one transform
takes it to millimetres, so that outlines are shown with the very numbers that were read.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from npc_rtnode.domain.contouring import polygons_of
from npc_rtnode.domain.geometry import Array, Grid
from npc_rtnode.domain.rasterising import PlacedRing, cover, polygon_area

Points = NDArray[np.float64]
Grey = NDArray[np.uint8]
Outline = Mapping[int, Sequence[Points]]  # slice index to closed polygons (column, row)
Box = tuple[slice, slice, slice]  # a part of the volume in index units: slices, rows, columns

BEYOND: Final = 2  # slices shown below the lowest and above the highest outline: there edits happen
DOUBT: Final = {"low": 0.3, "high": 0.7}  # the doubtful band's two lines, probability
WINDOW_PERCENT: Final = (1.0, 99.7)  # of the voxels: black and white of every image on the page
LIT: Final = 40  # of 255: brighter is body, not air
BLOCK: Final = 4  # pixels square are averaged before they are called lit: noise in air is not
BODY_MARGIN_MM: Final = 6.0
STRIP_MARGIN_MM: Final = 22.0  # round all outlines together
STRIP_LEAST_MM: Final = 100.0  # height and width of a slice in the strip
JPEG_QUALITY: Final = 86

_ROWS_COLUMNS: Final = ((1, 2), (2, 1))  # an array axis and the other one of a slice
_OPPOSITE: Final = str.maketrans("LRAPHF", "RLPAFH")
_PLANES: Final = {"H": "Axial", "F": "Axial", "A": "Coronal", "P": "Coronal", "L": "Sagittal", "R": "Sagittal"}
_RANK: Final = {"H": 0, "F": 0, "A": 1, "P": 1}  # which of two axes runs down the screen: head-feet, then front-back
_FLIPS: Final = (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM)  # across, down


@dataclass(frozen=True)
class Frame:
    """Where something goes on a page or a picture, in its own unit, from the left and the top."""

    left: float
    top: float
    width: float
    height: float

    @property
    def right(self) -> float:
        """The edge."""
        return self.left + self.width

    @property
    def bottom(self) -> float:
        """The edge."""
        return self.top + self.height


class Subject(Protocol):
    """What is looked at.

    voxels: `[slice, row, column]`, slices ascending along the normal; spacing_mm: between slices, rows, columns; axes:
    patient letters towards which slice, row and column indices increase, two letters for an oblique axis; rings: (slice
    index, `[point, (column, row)]`) from the written RTSTRUCT; probability: 0-1 like voxels, for the doubtful band.
    """

    @property
    def voxels(self) -> NDArray[np.float32]:
        """Grey values."""

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Of slices, rows, columns."""

    @property
    def axes(self) -> tuple[str, str, str]:
        """Where indices increase to."""

    @property
    def rings(self) -> tuple[tuple[int, Points], ...]:
        """The outlines."""

    @property
    def probability(self) -> NDArray[np.float32] | None:
        """None draws no band."""


# --- from the patient to the grid -------------------------------------------------------------------------------------


def axes_of(grid: Grid) -> tuple[str, str, str]:
    """Patient letters towards which slice, row and column indices increase (LPS: +x left, +y posterior, +z head)."""
    slices, rows, columns = (_letters(grid.affine[:3, axis]) for axis in range(3))
    return slices, rows, columns


def _letters(direction: Array) -> str:
    unit = direction / np.linalg.norm(direction)
    order = np.argsort(-np.abs(unit))
    names = ("LR", "PA", "HF")
    return "".join(names[axis][0 if unit[axis] > 0 else 1] for axis in order if abs(unit[axis]) > 0.34)[:2]


def ring_of(ring: PlacedRing, grid: Grid) -> tuple[int, Points]:
    """A ring in LPS mm as (slice index, `[point, (column, row)]`)."""
    points = np.column_stack([ring.points_mm, np.ones(len(ring.points_mm))])
    index = np.linalg.solve(grid.affine, points.T).T
    return ring.slice_index, np.ascontiguousarray(index[:, [2, 1]])


# --- views: a rectangle of voxels, the lines over it, and where the patient's sides are ------------------------------


@dataclass(frozen=True)
class Line:
    """The lines of one kind on one view: "low", "high" or "gtv"; strokes are `[point, (across, down)]`, index units."""

    kind: str
    strokes: tuple[Points, ...]
    closed: bool

    @property
    def path(self) -> str:
        """SVG path data, hundredths of a pixel."""
        return "".join(_path(stroke) + ("Z" if self.closed else "") for stroke in self.strokes)


def _path(stroke: Points) -> str:
    return "M" + "L".join(f"{across:g} {down:g}" for across, down in np.round(stroke, 2) + 0.0)


@dataclass(frozen=True)
class View:
    """One image with its lines. `pixels` is `[down, across]` in index order; a negative step runs it backwards.

    first: index of the first pixel across and down; step_mm: signed, across and down; ends: letters at the left, top,
    right and bottom of the screen; normal: the array axis that is looked along.
    """

    name: str
    caption: str
    pixels: Grey
    first: tuple[int, int]
    step_mm: tuple[float, float]
    ends: tuple[str, str, str, str]
    lines: tuple[Line, ...]
    normal: int = 0
    slice_index: int = 0
    area_cm2: float = 0.0

    @property
    def size(self) -> tuple[int, int]:
        """Pixels across and down."""
        return self.pixels.shape[1], self.pixels.shape[0]

    @property
    def size_mm(self) -> tuple[float, float]:
        """Width and height."""
        return self.size[0] * abs(self.step_mm[0]), self.size[1] * abs(self.step_mm[1])

    @property
    def matrix(self) -> str:
        """SVG transform: index units to mm on the screen."""
        return f"matrix({self.step_mm[0]:g} 0 0 {self.step_mm[1]:g} 0 0)"

    @property
    def viewbox(self) -> str:
        """What the SVG shows, mm: pixels reach half a step beyond their centres."""
        starts = [_start(*axis) for axis in zip(self.first, self.size, self.step_mm, strict=True)]
        return " ".join(f"{number:.4g}" for number in (*starts, *self.size_mm))

    @property
    def scale_percent(self) -> float:
        """One centimetre as a share of the view's width."""
        return 1000.0 / self.size_mm[0]

    @property
    def outlined(self) -> bool:
        """Whether the GTV is on this view."""
        return any(line.kind == "gtv" for line in self.lines)

    @property
    def alternative(self) -> str:
        """The view in words."""
        left, top, right, bottom = self.ends
        said = "with the GTV outline" if self.outlined else "no outline"
        return f"{self.name}, {self.caption}, {said}; left {left}, right {right}, top {top}, bottom {bottom}"

    @property
    def uri(self) -> str:
        """The image as a JPEG data URI, unflipped, square pixels."""
        file = io.BytesIO()
        self.image(_jpeg_scale(self.size_mm)).save(file, "JPEG", quality=JPEG_QUALITY)
        return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")

    def image(self, per_mm: float) -> Image.Image:
        """The pixels, unflipped, at so many new pixels per mm."""
        width, height = (max(1, round(length * per_mm)) for length in self.size_mm)
        return Image.fromarray(self.pixels).resize((width, height), Image.Resampling.BICUBIC)

    def upright(self, per_mm: float) -> Image.Image:
        """The pixels as they stand on the screen."""
        turned = self.image(per_mm)
        for step, way in zip(self.step_mm, _FLIPS, strict=True):
            turned = turned.transpose(way) if step < 0 else turned
        return turned

    def on_screen(self, stroke: Points) -> Points:
        """Index units to `(across, down)`, as shares (0-1) of the view as it stands on the screen."""
        share = (stroke - np.array(self.first) + 0.5) / np.array(self.size)
        return np.asarray(np.where(np.array(self.step_mm) < 0, 1.0 - share, share))

    def fitted(self, width: float, height: float) -> tuple[float, float]:
        """The largest width and height at true aspect ratio that fit into these, in the same unit."""
        scale = min(width / self.size_mm[0], height / self.size_mm[1])
        return self.size_mm[0] * scale, self.size_mm[1] * scale


def _start(first: int, count: int, step_mm: float) -> float:
    """The smaller end of an axis, mm."""
    return min((first - 0.5) * step_mm, (first + count - 0.5) * step_mm)


def _jpeg_scale(size_mm: tuple[float, float]) -> float:
    """Pixels per mm: as fine as screens show, at most 720 pixels wide or high."""
    return min(4.0, 720.0 / max(size_mm))


@dataclass(frozen=True)
class Scene:
    """A subject made ready for looking: grey values, what the outlines cover, where to look first."""

    subject: Subject

    @cached_property
    def grey(self) -> Grey:
        """Every voxel in one window, 0-255."""
        voxels = np.nan_to_num(self.subject.voxels, posinf=0.0, neginf=0.0)
        low, high = np.percentile(voxels[:, ::2, ::2], WINDOW_PERCENT)
        return np.asarray(np.clip((voxels - low) / max(high - low, 1e-6), 0, 1) * 255, dtype=np.uint8)

    @cached_property
    def gtv(self) -> dict[int, list[Points]]:
        """Rings by slice."""
        by_slice: dict[int, list[Points]] = {}
        for index, points in sorted(self.subject.rings, key=lambda ring: ring[0]):
            by_slice.setdefault(index, []).append(points)
        return by_slice

    @cached_property
    def outlines(self) -> dict[str, Outline]:
        """All kinds of lines in the order in which they are drawn."""
        probability = self.subject.probability
        doubt = {} if probability is None else {kind: _above(probability, level) for kind, level in DOUBT.items()}
        return {**doubt, "gtv": self.gtv}

    @cached_property
    def covered(self) -> NDArray[np.bool_]:
        """Voxels whose centre lies in a ring."""
        times = np.zeros(self.grey.shape, dtype=np.int32)
        for index, points in self.subject.rings:
            cover(times[index], points)
        return np.asarray(times > 0)

    @cached_property
    def areas_cm2(self) -> dict[int, float]:
        """Outlined area by slice."""
        pixel_cm2 = self.subject.spacing_mm[1] * self.subject.spacing_mm[2] / 100.0
        return {index: sum(map(polygon_area, rings)) * pixel_cm2 for index, rings in self.gtv.items()}

    @cached_property
    def focus(self) -> tuple[int, int, int]:
        """Slice of the largest area, row and column of the centroid; without outline where the GTV is most probable."""
        if self.gtv:
            largest = max(self.areas_cm2, key=lambda index: self.areas_cm2[index])
            return (largest, *_centre(self.covered, self.gtv[largest]))
        if self.subject.probability is not None:
            return _index(np.nan_to_num(self.subject.probability))
        slices, rows, columns = self.grey.shape
        return slices // 2, rows // 2, columns // 2

    @property
    def focus_words(self) -> str:
        """What lies at the focus."""
        if self.gtv:
            return "through the GTV centroid"
        return (
            "through the middle of the volume"
            if self.subject.probability is None
            else "through the most probable voxel"
        )

    @property
    def order(self) -> str:
        """Which way slices ascend: `F to H`."""
        return f"{_opposite(self.subject.axes[0])} to {self.subject.axes[0]}"

    @cached_property
    def body(self) -> Box:
        """The volume without the air round it, in rows and columns."""
        lit = _lit(self.grey) | self.covered
        rows, columns = (
            _span(np.asarray(lit.any(axis=(0, other))), BODY_MARGIN_MM / self.subject.spacing_mm[axis])
            for axis, other in _ROWS_COLUMNS
        )
        return slice(0, len(lit)), rows, columns

    @cached_property
    def near(self) -> Box:
        """Rows and columns round all outlines together, at least STRIP_LEAST_MM."""
        points = np.vstack([points for _, points in self.subject.rings])[:, ::-1]
        spacing = np.array(self.subject.spacing_mm[1:])
        middle = (points.min(axis=0) + points.max(axis=0)) / 2
        half_mm = max(float((np.ptp(points, axis=0) * spacing).max()) / 2 + STRIP_MARGIN_MM, STRIP_LEAST_MM / 2)
        low, high = np.maximum(middle - half_mm / spacing, 0), middle + half_mm / spacing + 1
        rows, columns = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        return slice(0, len(self.grey)), rows, columns


def _lit(grey: Grey) -> NDArray[np.bool_]:
    """Voxels in blocks that are body on average; what is left over at the edges by the blocks counts as air."""
    slices, rows, columns = (grey.shape[0], *(length // BLOCK for length in grey.shape[1:]))
    blocks = grey[:, : rows * BLOCK, : columns * BLOCK].reshape(slices, rows, BLOCK, columns, BLOCK)
    lit = np.zeros(grey.shape, dtype=bool)
    found = blocks.mean(axis=(2, 4)) > LIT
    lit[:, : rows * BLOCK, : columns * BLOCK] = found.repeat(BLOCK, axis=1).repeat(BLOCK, axis=2)
    return lit


def _above(probability: NDArray[np.float32], level: float) -> Outline:
    """Polygons round the voxels above a probability, by slice."""
    above = probability > level
    return {int(index): polygons_of(above[index]) for index in np.flatnonzero(above.any(axis=(1, 2)))}


def _index(values: NDArray[np.float32]) -> tuple[int, int, int]:
    slices, rows, columns = np.unravel_index(int(values.argmax()), values.shape)
    return int(slices), int(rows), int(columns)


def _centre(covered: NDArray[np.bool_], rings: Sequence[Points]) -> tuple[int, int]:
    """Row and column of the centroid; of the rings' points where they cover no pixel centre."""
    inside = np.argwhere(covered)[:, 1:]
    places = inside if len(inside) else np.vstack(rings)[:, ::-1]
    row, column = np.clip(np.round(places.mean(axis=0)), 0, np.array(covered.shape[1:]) - 1)
    return int(row), int(column)


def _span(wanted: NDArray[np.bool_], margin: float) -> slice:
    """From the first to the last wanted index and a margin; everything if none is wanted."""
    at = np.flatnonzero(wanted)
    if not len(at):
        return slice(0, len(wanted))
    return slice(max(0, int(at[0] - margin)), min(len(wanted), int(at[-1] + margin) + 1))


def planes(scene: Scene) -> tuple[View, View, View]:
    """The slice of the largest outline, then the two other planes through the focus; sagittal before coronal."""
    at = scene.focus
    slice_mm = scene.subject.spacing_mm[0]
    first = _view(scene, 0, at[0], scene.body, f"slice {at[0] + 1} of {len(scene.grey)}")
    others = [
        _view(scene, axis, at[axis], scene.body, scene.focus_words, f"{slice_mm:.1f} mm slices") for axis in (2, 1)
    ]
    return first, others[0], others[1]


def strip(scene: Scene) -> tuple[View, ...]:
    """Every slice from two below the lowest outline to two above the highest; none without an outline."""
    if not scene.gtv:
        return ()
    lowest, highest = max(min(scene.gtv) - BEYOND, 0), min(max(scene.gtv) + BEYOND, len(scene.grey) - 1)
    count = len(scene.grey)
    return tuple(_view(scene, 0, k, scene.near, f"slice {k + 1} of {count}") for k in range(lowest, highest + 1))


def _view(scene: Scene, normal: int, index: int, box: Box, *caption: str) -> View:
    """One plane of the volume, turned as radiologists look at it."""
    axes, spacing = scene.subject.axes, scene.subject.spacing_mm
    across, down = _screen(axes, normal)
    pixels = np.moveaxis(scene.grey, (normal, down, across), (0, 1, 2))[index, box[down], box[across]]
    steps = [-spacing[axis] if _backwards(axes[axis]) else spacing[axis] for axis in (across, down)]
    right, bottom = (_opposite(axes[axis]) if _backwards(axes[axis]) else axes[axis] for axis in (across, down))
    return View(
        name=_PLANES.get(axes[normal][:1], "Plane") + (", oblique" if len(axes[normal]) > 1 else ""),
        caption=", ".join(caption),
        pixels=np.ascontiguousarray(pixels),
        first=(box[across].start, box[down].start),
        step_mm=(steps[0], steps[1]),
        ends=(_opposite(right), _opposite(bottom), right, bottom),
        lines=tuple(_lines(scene.outlines, normal, index, swapped=across < down)),
        normal=normal,
        slice_index=index,
        area_cm2=scene.areas_cm2.get(index, 0.0) if normal == 0 else 0.0,
    )


def _screen(axes: Sequence[str], normal: int) -> tuple[int, int]:
    """Which array axis runs across the screen and which down."""
    rest = [axis for axis in range(3) if axis != normal]
    down = min(rest, key=lambda axis: _RANK.get(axes[axis][:1], 2))
    return sum(rest) - down, down


def _backwards(letter: str) -> bool:
    """Left, posterior and feet lie at the right and the bottom of the screen: an axis the other way is turned."""
    return letter.startswith(("R", "A", "H"))


def _opposite(letters: str) -> str:
    return letters.translate(_OPPOSITE)


# --- lines: rings as they are on their own slices, and as steps where a plane cuts through them ----------------------


def _lines(outlines: Mapping[str, Outline], normal: int, index: int, swapped: bool) -> Iterable[Line]:
    """The lines that a plane shows; `swapped` when the lower array axis runs across the screen."""
    for kind, outline in outlines.items():
        strokes = outline.get(index, ()) if normal == 0 else cut(outline, normal, index)
        turned = tuple(stroke[:, ::-1] if swapped else stroke for stroke in strokes)
        if turned:
            yield Line(kind, turned, closed=normal == 0)


def cut(outline: Outline, normal: int, at: float) -> list[Points]:
    """The border, `[point, (row or column, slice)]`, of what a row (normal 1) or column (normal 2) plane cuts.

    Each slice is as thick as the distance between slices: between two slices the border runs where one of them is
    inside and the other is not, so nothing is drawn that was not written.
    """
    ends = {index: _crossings(polygons, normal, at) for index, polygons in outline.items()}
    sides = [np.array([[x, k - 0.5], [x, k + 0.5]]) for k, row in ends.items() for x in row]
    borders = sorted({k + step for k in ends for step in (0, 1)})
    return sides + [step for k in borders for step in _steps(ends.get(k - 1, []), ends.get(k, []), k - 0.5)]


def _crossings(polygons: Iterable[Points], normal: int, at: float) -> list[float]:
    """Where a line of one row (normal 1) or one column (normal 2) crosses closed polygons, ascending, even-odd."""
    found: list[float] = []
    for polygon in polygons:
        along, over = (polygon[:, 0], polygon[:, 1]) if normal == 1 else (polygon[:, 1], polygon[:, 0])
        next_along, next_over = np.roll(along, -1), np.roll(over, -1)
        edges = (over <= at) != (next_over <= at)
        share = (at - over[edges]) / (next_over[edges] - over[edges])
        found.extend((along[edges] + share * (next_along[edges] - along[edges])).tolist())
    return sorted(found)


def _steps(below: Sequence[float], above: Sequence[float], level: float) -> list[Points]:
    """Where exactly one of two neighbouring slices is inside: all their ends in order, taken by twos."""
    ends = sorted([*below, *above])
    return [np.array([[x, level], [y, level]]) for x, y in zip(ends[::2], ends[1::2], strict=True) if y > x]
