"""One study as a page that needs nothing else, and as a picture: what was written, seen over what was scanned.

Outlines are the rings read back from the written RTSTRUCT; they are never drawn from the model's mask. Points are
`(column, row)` in pixels, pixel centres are whole numbers; everything on a view is in index units until one transform
takes it to millimetres, so that outlines are on the page with the very numbers that were read.
"""

from __future__ import annotations

import base64
import io
import textwrap
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Final

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFont

from npc_rtnode.domain.contouring import polygons_of
from npc_rtnode.domain.prediction import T_STAGES
from npc_rtnode.domain.rasterising import cover, polygon_area
from npc_rtnode.domain.staging import likeliest

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
PICTURE_WIDTH: Final = 1400
PICTURE_BYTES: Final = 400_000

_ROWS_COLUMNS: Final = ((1, 2), (2, 1))  # an array axis and the other one of a slice
_OPPOSITE: Final = str.maketrans("LRAPHF", "RLPAFH")
_PLANES: Final = {"H": "Axial", "F": "Axial", "A": "Coronal", "P": "Coronal", "L": "Sagittal", "R": "Sagittal"}
_RANK: Final = {"H": 0, "F": 0, "A": 1, "P": 1}  # which of two axes runs down the screen: head-feet, then front-back
_MARKS: Final = {"pass": "✓", "warn": "!", "hold": "✕"}  # said in words as well
_STATE_KINDS: Final = {"DELIVERED": "good", "HELD": "care", "SET ASIDE": "care", "FAILED": "bad"}


@dataclass(frozen=True)
class StudyPage:
    """What the page says, all of it; nothing is looked up elsewhere.

    timeline: (label, HH:MM:SS, detail); voxels: `[slice, row, column]`, slices ascending along the normal; spacing_mm:
    between slices, rows, columns; axes: patient letters towards which slice, row and column indices increase, two
    letters for an oblique axis; rings: (slice index, `[point, (column, row)]`) from the written RTSTRUCT; probability:
    0-1 like voxels, for the doubtful band; uncertain_below: 0-1; checks: ("pass" | "warn" | "hold", text); deliveries:
    (destination, kind, state, status).
    """

    reference: str
    facts: tuple[str, ...]
    state: str
    timeline: tuple[tuple[str, str, str], ...]
    voxels: NDArray[np.float32]
    spacing_mm: tuple[float, float, float]
    axes: tuple[str, str, str]
    rings: tuple[tuple[int, NDArray[np.float64]], ...]
    probability: NDArray[np.float32] | None
    stage_probabilities: tuple[float, float, float, float]
    uncertain_below: float
    measurements: tuple[tuple[str, str], ...]
    checks: tuple[tuple[str, str], ...]
    deliveries: tuple[tuple[str, str, str, str], ...]
    notices: tuple[str, ...]

    def __post_init__(self) -> None:
        """A ring on a slice that is not there must not be left out in silence."""
        if self.voxels.ndim != 3 or not self.voxels.size:
            raise ValueError(f"voxels must be [slice, row, column], got shape {self.voxels.shape}")
        if self.probability is not None and self.probability.shape != self.voxels.shape:
            raise ValueError(f"probability has shape {self.probability.shape}, voxels {self.voxels.shape}")
        strangers = {index for index, _ in self.rings if not 0 <= index < len(self.voxels)}
        if strangers:
            raise ValueError(f"rings on slices {sorted(strangers)} of {len(self.voxels)}")

    @property
    def state_kind(self) -> str:
        """How the state is coloured: good, care, bad or plain."""
        return _STATE_KINDS.get(self.state.upper().replace("_", " "), "plain")

    @property
    def stages(self) -> tuple[tuple[str, float], ...]:
        """T1 to T4 with their probabilities, 0-1."""
        return tuple(zip(T_STAGES, self.stage_probabilities, strict=True))

    @property
    def top(self) -> tuple[str, float]:
        """The likeliest category and its probability, 0-1."""
        return max(self.stages, key=lambda stage: stage[1])

    @property
    def uncertain(self) -> bool:
        """Whether the top probability is below the limit."""
        return self.top[1] < self.uncertain_below

    @property
    def stage_text(self) -> str:
        """`cT3`, or `uncertain: cT2 or cT3` as the report says it."""
        if not self.uncertain:
            return f"c{self.top[0]}"
        return "uncertain: " + " or ".join(f"c{s}" for s in likeliest(self.stage_probabilities, self.uncertain_below))


def render(page: StudyPage) -> str:
    """One HTML file: images inside it, outlines as SVG over them, no script, nothing fetched, every value escaped."""
    scene = Scene(page)
    return _ENVIRONMENT.get_template("study.html").render(
        page=page, scene=scene, planes=planes(scene), strip=strip(scene), marks=_MARKS, doubt=DOUBT
    )


_ENVIRONMENT: Final = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


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
    right and bottom of the screen.
    """

    name: str
    caption: str
    pixels: Grey
    first: tuple[int, int]
    step_mm: tuple[float, float]
    ends: tuple[str, str, str, str]
    lines: tuple[Line, ...]
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


def _start(first: int, count: int, step_mm: float) -> float:
    """The smaller end of an axis, mm."""
    return min((first - 0.5) * step_mm, (first + count - 0.5) * step_mm)


def _jpeg_scale(size_mm: tuple[float, float]) -> float:
    """Pixels per mm: as fine as screens show, at most 720 pixels wide or high."""
    return min(4.0, 720.0 / max(size_mm))


@dataclass(frozen=True)
class Scene:
    """A page's volume made ready for looking: grey values, what the outlines cover, where to look first."""

    page: StudyPage

    @cached_property
    def grey(self) -> Grey:
        """Every voxel in one window, 0-255."""
        voxels = np.nan_to_num(self.page.voxels, posinf=0.0, neginf=0.0)
        low, high = np.percentile(voxels[:, ::2, ::2], WINDOW_PERCENT)
        return np.asarray(np.clip((voxels - low) / max(high - low, 1e-6), 0, 1) * 255, dtype=np.uint8)

    @cached_property
    def gtv(self) -> dict[int, list[Points]]:
        """Rings by slice."""
        by_slice: dict[int, list[Points]] = {}
        for index, points in sorted(self.page.rings, key=lambda ring: ring[0]):
            by_slice.setdefault(index, []).append(points)
        return by_slice

    @cached_property
    def outlines(self) -> dict[str, Outline]:
        """All kinds of lines in the order in which they are drawn."""
        probability = self.page.probability
        doubt = {} if probability is None else {kind: _above(probability, level) for kind, level in DOUBT.items()}
        return {**doubt, "gtv": self.gtv}

    @cached_property
    def covered(self) -> NDArray[np.bool_]:
        """Voxels whose centre lies in a ring."""
        times = np.zeros(self.grey.shape, dtype=np.int32)
        for index, points in self.page.rings:
            cover(times[index], points)
        return np.asarray(times > 0)

    @cached_property
    def areas_cm2(self) -> dict[int, float]:
        """Outlined area by slice."""
        pixel_cm2 = self.page.spacing_mm[1] * self.page.spacing_mm[2] / 100.0
        return {index: sum(map(polygon_area, rings)) * pixel_cm2 for index, rings in self.gtv.items()}

    @cached_property
    def focus(self) -> tuple[int, int, int]:
        """Slice of the largest area, row and column of the centroid; without outline where the GTV is most probable."""
        if self.gtv:
            largest = max(self.areas_cm2, key=lambda index: self.areas_cm2[index])
            return (largest, *_centre(self.covered, self.gtv[largest]))
        if self.page.probability is not None:
            return _index(np.nan_to_num(self.page.probability))
        slices, rows, columns = self.grey.shape
        return slices // 2, rows // 2, columns // 2

    @property
    def focus_words(self) -> str:
        """What lies at the focus."""
        if self.gtv:
            return "through the GTV centroid"
        return (
            "through the middle of the volume" if self.page.probability is None else "through the most probable voxel"
        )

    @property
    def order(self) -> str:
        """Which way slices ascend: `F to H`."""
        return f"{_opposite(self.page.axes[0])} to {self.page.axes[0]}"

    @cached_property
    def body(self) -> Box:
        """The volume without the air round it, in rows and columns."""
        lit = _lit(self.grey) | self.covered
        rows, columns = (
            _span(np.asarray(lit.any(axis=(0, other))), BODY_MARGIN_MM / self.page.spacing_mm[axis])
            for axis, other in _ROWS_COLUMNS
        )
        return slice(0, len(lit)), rows, columns

    @cached_property
    def near(self) -> Box:
        """Rows and columns round all outlines together, at least STRIP_LEAST_MM."""
        points = np.vstack([points for _, points in self.page.rings])[:, ::-1]
        spacing = np.array(self.page.spacing_mm[1:])
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
    slice_mm = scene.page.spacing_mm[0]
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
    axes, spacing = scene.page.axes, scene.page.spacing_mm
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


# --- the picture: the same views by Pillow, for places that show no HTML ---------------------------------------------

_FINE: Final = 2  # drawn twice as large, then halved: smooth lines and letters
_EDGE: Final = 28  # px round everything
_GAP: Final = 14  # px between two things
_COLUMN: Final = 400  # px, the words at the right
_COLOURS: Final = {
    "paper": "#f3f5f8", "card": "#ffffff", "ink": "#16202b", "soft": "#52606d", "faint": "#e3e8ee", "blue": "#0b5cad",
    "bar": "#8ba2b8", "notice": "#fff3cf", "notice-ink": "#5f4300", "gtv": "#ff5548", "low": "#ffd84a",
    "high": "#6fd0ff", "light": "#d7e0e8", "good": "#12733c", "care": "#8a4b00", "bad": "#a8201a", "plain": "#33404d",
    "black": "#000000", "pass": "#12733c", "warn": "#8a4b00", "hold": "#a8201a",
}  # fmt: skip
_FLIPS: Final = (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM)  # across, down
_ROWS: Final = 10  # of measurements and of checks; the page has them all
_LINE: Final = 46  # letters in a line of a check
_SPELT: Final = str.maketrans({"×": "x", "–": "-", "—": "-", "−": "-", "·": "-", "’": "'", "“": '"', "”": '"'})


@dataclass(frozen=True)
class Frame:
    """Where something goes on the picture, px of the finished picture."""

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


@dataclass(frozen=True)
class Style:
    """How a line of text looks: size in px, colour by name, anchor as Pillow's."""

    size: float = 15
    colour: str = "ink"
    anchor: str = "ls"
    bold: bool = False


PLAIN: Final = Style()


class Canvas:
    """A picture in the making, in px of the finished one; text is cut to fit and spelt in ASCII."""

    def __init__(self, height: float) -> None:
        size = (PICTURE_WIDTH * _FINE, round(height) * _FINE)
        self.image = Image.new("RGB", size, _COLOURS["paper"])
        self.draw = ImageDraw.Draw(self.image)

    def box(self, frame: Frame, colour: str, radius: float = 0) -> None:
        """A filled rectangle, none if it would be thinner than nothing."""
        corners = [edge * _FINE for edge in (frame.left, frame.top, frame.right, frame.bottom)]
        if frame.width > 0:
            self.draw.rounded_rectangle(corners, radius * _FINE, fill=_COLOURS[colour])

    def text(self, x: float, y: float, said: str, style: Style = PLAIN, width: float = PICTURE_WIDTH) -> float:
        """One line from its baseline, at most so wide (px). Its own width comes back."""
        font = _font(style.size * _FINE)
        shown = _fitting(spelt(said), font, width * _FINE)
        weight = 0.8 if style.bold else 0
        self.draw.text((x * _FINE, y * _FINE), shown, _COLOURS[style.colour], font, style.anchor, stroke_width=weight)
        return float(font.getlength(shown)) / _FINE

    def view(self, view: View, frame: Frame) -> None:
        """A view over the whole frame, with its lines."""
        per_mm = frame.width * _FINE / view.size_mm[0]
        turned = view.image(per_mm)
        for step, way in zip(view.step_mm, _FLIPS, strict=True):
            turned = turned.transpose(way) if step < 0 else turned
        self.image.paste(turned, (round(frame.left * _FINE), round(frame.top * _FINE)))
        for line in view.lines:
            for stroke in line.strokes:
                self._stroke(_on_screen(stroke, view, frame), line)

    def _stroke(self, points: Points, line: Line) -> None:
        closed = np.vstack([points, points[:1]]) if line.closed else points
        outline = line.kind == "gtv"
        for part in [closed] if outline else dashes(closed, 4.0):
            places = [(float(x), float(y)) for x, y in part * _FINE]
            self.draw.line(places, _COLOURS[line.kind], 3 if outline else 2, joint="curve")

    def png(self) -> bytes:
        """The finished file, with as many greys as PICTURE_BYTES allow."""
        finished = self.image.reduce(_FINE)
        files = (_quantized(finished, greys) for greys in (64, 40, 24, 12, 6, 3))
        return next(file for file in files if len(file) < PICTURE_BYTES)


def _quantized(image: Image.Image, greys: int) -> bytes:
    holder = Image.new("P", (1, 1))
    holder.putpalette(palette(greys))
    file = io.BytesIO()
    image.quantize(palette=holder, dither=Image.Dither.NONE).save(file, "PNG", compress_level=7)
    return file.getvalue()


def palette(greys: int) -> list[int]:
    """At most 256 colours as bytes: so many greys, the lines over grey, and what words and bars are made of."""
    colours: list[tuple[int, ...]] = [(level,) * 3 for level in np.linspace(0, 255, greys).astype(int).tolist()]
    grounds = ["#000000", "#404040", "#808080", "#c0c0c0", "#ffffff"]
    mixed = {"gtv": grounds, "low": grounds, "high": grounds, "notice-ink": [_COLOURS["notice"]]}
    mixed |= {name: ["#ffffff", _COLOURS["paper"]] for name in ("ink", "soft", "plain", "good", "care", "bad")}
    mixed |= {name: [_COLOURS["card"], _COLOURS["faint"]] for name in ("blue", "bar")}
    for name, over in mixed.items():
        colours += [_mix(_COLOURS[name], ground, share) for ground in over for share in (0.25, 0.5, 0.75)]
    return [part for colour in [*map(ImageColor.getrgb, set(_COLOURS.values())), *colours] for part in colour[:3]]


def _mix(colour: str, ground: str, share: float) -> tuple[int, ...]:
    """A colour laid over a ground, 0-1."""
    pairs = zip(ImageColor.getrgb(colour), ImageColor.getrgb(ground), strict=True)
    return tuple(round(share * over + (1 - share) * under) for over, under in pairs)


@cache
def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, px: the same on every machine."""
    return ImageFont.load_default(size)


def _on_screen(stroke: Points, view: View, frame: Frame) -> Points:
    """Index units to px of the finished picture."""
    share = (stroke - np.array(view.first) + 0.5) / np.array(view.size)
    share = np.where(np.array(view.step_mm) < 0, 1.0 - share, share)
    return np.asarray(share * (frame.width, frame.height) + (frame.left, frame.top))


def dashes(points: Points, length: float) -> list[Points]:
    """A line `[point, (x, y)]` as straight dashes with gaps of the same length."""
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    starts = np.arange(0.0, along[-1], 2 * length)
    ends = np.minimum(starts + length, along[-1])
    corners = [np.column_stack([np.interp(at, along, points[:, i]) for i in (0, 1)]) for at in (starts, ends)]
    return list(np.stack(corners, axis=1))


def spelt(said: str) -> str:
    """In ASCII, which is what Pillow's own font has: m3 for a raised 3, a question mark for what cannot be said."""
    plain = unicodedata.normalize("NFKD", said.translate(_SPELT))
    kept = "".join(letter for letter in plain if not unicodedata.combining(letter) and letter.isprintable())
    return kept.encode("ascii", "replace").decode("ascii")


def _fitting(said: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """The text, or as much of its start as fits with three dots."""
    if font.getlength(said) <= width:
        return said
    ends = (f"{said[:count].rstrip()}..." for count in range(min(len(said), 400), 0, -1))
    return next((end for end in ends if font.getlength(end) <= width), "")


def picture(page: StudyPage) -> bytes:
    """A PNG of the essentials, PICTURE_WIDTH px wide and smaller than PICTURE_BYTES."""
    scene = Scene(page)
    views, slices = planes(scene), strip(scene)
    top = 30 + 26 * len(page.notices) + 64
    left = PICTURE_WIDTH - 2 * _EDGE - _GAP - _COLUMN
    frames = _frames(views, Frame(_EDGE + 10, top + 10, left - 20, _words_height(page) - 42))
    bottom = max(top + _words_height(page), *(frame.bottom + 32 for frame in frames))
    cells = _cells(slices, bottom + _GAP)
    canvas = Canvas(max([bottom, *(cell.bottom + 26 for cell in cells)]) + _EDGE)
    _head(canvas, page)
    canvas.box(Frame(_EDGE, top, left, bottom - top), "black", 8)
    for view, frame in zip(views, frames, strict=True):
        _plane(canvas, view, frame)
    _legend(canvas, views[0], frames[0])
    _words(canvas, page, Frame(PICTURE_WIDTH - _EDGE - _COLUMN, top, _COLUMN, bottom - top))
    for view, cell in zip(slices, cells, strict=True):
        _cell(canvas, view, cell)
    return canvas.png()


def _frames(views: Sequence[View], area: Frame) -> list[Frame]:
    """The first view large at the left, the others one below the other, each in the middle; at most 640 px high."""
    wide = (area.width - _GAP) * 0.54
    narrow = area.width - _GAP - wide
    first, *others = (_fitted(v, w, h) for v, w, h in zip(views, (wide, narrow, narrow), (640, 290, 290), strict=True))
    height = max(area.height, first[1], sum(h for _, h in others) + 40)
    tops = [area.top + (height - first[1]) / 2]
    tops += [area.top + (height - sum(h for _, h in others) - 40) / 2]
    tops += [tops[1] + others[0][1] + 40]
    middles = [area.left + wide / 2, *[area.right - narrow / 2] * 2]
    return [Frame(x - w / 2, y, w, h) for x, y, (w, h) in zip(middles, tops, (first, *others), strict=True)]


def _fitted(view: View, width: float, height: float) -> tuple[float, float]:
    """Width and height, px, at true aspect ratio."""
    per_mm = min(width / view.size_mm[0], height / view.size_mm[1])
    return view.size_mm[0] * per_mm, view.size_mm[1] * per_mm


def _cells(slices: Sequence[View], top: float) -> list[Frame]:
    """The strip in even rows: nine to twelve in a row, or three rows if there are more than 36."""
    if not slices:
        return []
    rows = min(-(-len(slices) // 12), 3)
    per_row = max(9, -(-len(slices) // rows))
    width = (PICTURE_WIDTH - 2 * _EDGE - 8 * (per_row - 1)) / per_row
    height = width * slices[0].size_mm[1] / slices[0].size_mm[0]
    places = [divmod(count, per_row) for count in range(len(slices))]
    return [Frame(_EDGE + (width + 8) * column, top + (height + 34) * row, width, height) for row, column in places]


def _head(canvas: Canvas, page: StudyPage) -> None:
    """Notices over the whole width, then the reference, the state and the facts in one line."""
    canvas.box(Frame(0, 0, PICTURE_WIDTH, 16 + 26 * len(page.notices)), "notice")
    for row, notice in enumerate(page.notices):
        canvas.text(_EDGE, 27 + 26 * row, notice, Style(16, "notice-ink", bold=True), PICTURE_WIDTH - 2 * _EDGE)
    y = 62 + 26 * len(page.notices)
    x = _EDGE + canvas.text(_EDGE, y, f"Study {page.reference}", Style(27, bold=True), 500) + 24
    x += canvas.text(x, y, page.state, Style(17, page.state_kind, bold=True), 240) + 24
    canvas.text(x, y, "   |   ".join(page.facts), Style(15, "soft"), PICTURE_WIDTH - _EDGE - x)


def _plane(canvas: Canvas, view: View, frame: Frame) -> None:
    """A view with its letters, its centimetre and its caption."""
    canvas.view(view, frame)
    across, down = frame.left + frame.width / 2, frame.top + frame.height / 2
    places = [(frame.left + 6, down, "lm"), (across, frame.top + 5, "mt"), (frame.right - 6, down, "rm")]
    for letter, (x, y, anchor) in zip(view.ends, [*places, (across, frame.bottom - 5, "mb")], strict=True):
        canvas.text(x, y, letter, Style(14, "light", anchor, bold=True))
    canvas.box(Frame(frame.left + 8, frame.bottom - 9, frame.width * view.scale_percent / 100, 2), "light")
    canvas.text(frame.left + 8, frame.bottom - 14, "1 cm", Style(12, "light"))
    caption = f"{view.name}: {view.caption}" + ("" if view.outlined else ", no outline")
    canvas.text(frame.left, frame.bottom + 19, caption, Style(14, "light"), frame.width)


def _legend(canvas: Canvas, view: View, frame: Frame) -> None:
    """Under the first view, from the right: what each colour is."""
    x = frame.right
    for line in view.lines:
        said = "GTV as written" if line.kind == "gtv" else f"p = {DOUBT[line.kind]}"
        x -= canvas.text(x, frame.bottom + 19, said, Style(14, line.kind, "rs")) + 16


def _cell(canvas: Canvas, view: View, frame: Frame) -> None:
    """One slice of the strip with its number and area."""
    canvas.box(Frame(frame.left, frame.top, frame.width, frame.height + 26), "black", 4)
    canvas.view(view, frame)
    canvas.text(frame.left + 7, frame.bottom + 18, str(view.slice_index + 1), Style(14, "light", bold=True))
    said = f"{view.area_cm2:.1f} cm2" if view.outlined else "no outline"
    canvas.text(frame.right - 7, frame.bottom + 18, said, Style(13, "light", "rs"), frame.width - 40)


def _words_height(page: StudyPage) -> float:
    """What the words at the right need, px."""
    return 3 * 44 + 2 * _GAP + 27 * (4 + len(page.measurements[:_ROWS]) + len(_check_rows(page))) + 12


def _words(canvas: Canvas, page: StudyPage, column: Frame) -> None:
    """Three cards: categories, measurements, checks."""
    y = _card(canvas, column, column.top, "T category, model probability", 4)
    canvas.text(column.right - 16, y - 31, page.stage_text, Style(15, _stage_colour(page), "rs", bold=True), 150)
    for row, stage in enumerate(page.stages):
        _bar(canvas, page, stage, Frame(column.left + 16, y + 27 * row - 13, _COLUMN - 32, 15))
    y = _card(canvas, column, y + 27 * 4 + _GAP - 10, "GTV measurements", len(page.measurements[:_ROWS]))
    for row, (name, value) in enumerate(page.measurements[:_ROWS]):
        used = canvas.text(column.left + 16, y + 27 * row, name, Style(15, "soft"), 190)
        canvas.text(column.right - 16, y + 27 * row, value, Style(15, "ink", "rs", bold=True), _COLUMN - 48 - used)
    y += 27 * len(page.measurements[:_ROWS]) + _GAP - 10
    y = _card(canvas, column, y, "Checks before sending", (column.bottom - y - 54) / 27)
    for row, (outcome, said) in enumerate(_check_rows(page)):
        canvas.text(column.left + 16, y + 27 * row, outcome, Style(14, _check_colour(outcome), bold=True), 44)
        canvas.text(column.left + 66, y + 27 * row, said, Style(14), _COLUMN - 82)


def _check_rows(page: StudyPage) -> list[tuple[str, str]]:
    """The checks in lines: a long one goes on in a second line without a word before it."""
    rows: list[tuple[str, str]] = []
    for outcome, said in page.checks:
        lines = textwrap.wrap(said, _LINE, max_lines=2, placeholder=" ...") or [""]
        rows += [(outcome if count == 0 else "", line) for count, line in enumerate(lines)]
    return rows[:_ROWS]


def _card(canvas: Canvas, column: Frame, top: float, title: str, rows: float) -> float:
    """A card with room for so many rows; the baseline of the first one comes back."""
    canvas.box(Frame(column.left, top, column.width, 54 + 27 * rows), "card", 8)
    canvas.text(column.left + 16, top + 27, title, Style(14, "plain", bold=True))
    return top + 58


def _bar(canvas: Canvas, page: StudyPage, stage: tuple[str, float], frame: Frame) -> None:
    """One category: its name, its bar, its percentage."""
    name, share = stage
    top = stage == page.top
    bar = Frame(frame.left + 36, frame.top, frame.width - 90, frame.height)
    canvas.text(frame.left, frame.bottom - 2, name, Style(15, bold=True))
    canvas.box(bar, "faint")
    colour = _stage_colour(page) if top else "bar"
    canvas.box(Frame(bar.left, bar.top, bar.width * min(max(share, 0.0), 1.0), bar.height), colour)
    canvas.text(frame.right, frame.bottom - 2, f"{share:.0%}", Style(15, "ink", "rs", bold=top))


def _stage_colour(page: StudyPage) -> str:
    return "care" if page.uncertain else "blue"


def _check_colour(outcome: str) -> str:
    return outcome if outcome in _MARKS else "warn"
