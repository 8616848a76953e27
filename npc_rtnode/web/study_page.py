"""One study as a page that needs nothing else, and as a picture: what was written, seen over what was scanned.

The views and their outlines come from drawing/views: rings read back from the written RTSTRUCT, never the model's mask.
"""

from __future__ import annotations

import io
import textwrap
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFont

from npc_rtnode.domain.prediction import T_STAGES
from npc_rtnode.domain.staging import likeliest
from npc_rtnode.drawing.views import DOUBT, Frame, Line, Points, Scene, View, planes, strip

PICTURE_WIDTH: Final = 1400
PICTURE_BYTES: Final = 400_000

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
_ROWS: Final = 10  # of measurements and of checks; the page has them all
_LINE: Final = 46  # letters in a line of a check
_SPELT: Final = str.maketrans({"×": "x", "–": "-", "—": "-", "−": "-", "·": "-", "’": "'", "“": '"', "”": '"'})


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
        self.image.paste(view.upright(per_mm), (round(frame.left * _FINE), round(frame.top * _FINE)))
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
    return np.asarray(view.on_screen(stroke) * (frame.width, frame.height) + (frame.left, frame.top))


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
    first, *others = (v.fitted(w, h) for v, w, h in zip(views, (wide, narrow, narrow), (640, 290, 290), strict=True))
    height = max(area.height, first[1], sum(h for _, h in others) + 40)
    tops = [area.top + (height - first[1]) / 2]
    tops += [area.top + (height - sum(h for _, h in others) - 40) / 2]
    tops += [tops[1] + others[0][1] + 40]
    middles = [area.left + wide / 2, *[area.right - narrow / 2] * 2]
    return [Frame(x - w / 2, y, w, h) for x, y, (w, h) in zip(middles, tops, (first, *others), strict=True)]


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
