"""The preview: one sheet of A4 that a radiation oncologist reads at a glance, and further ones where slices are many.

What must not be overlooked comes first and last, in colour over the whole width; then whose images these are; the
slice of the largest outline beside the category; the two other planes beside what speaks against the result; every
outlined slice; and at the foot who says all this, and when. All lengths are millimetres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

from npc_rtnode.drawing.sheet import (
    AMBER,
    BAR,
    BLACK,
    BLUE,
    CARD,
    CARE,
    FAINT,
    HEIGHT_MM,
    INK,
    LIGHT,
    MISSING,
    RED,
    SOFT,
    WHITE,
    WIDTH_MM,
    Colour,
    Sheet,
    Style,
    drawable,
    font_file,
    line_mm,
)
from npc_rtnode.drawing.views import Frame, Points, Scene, View, planes, strip

NO_FONT: Final = (
    f"{MISSING} stands for letters that no font of this node has: tell the patient by the ID. "
    "(Chinese letters: pip install npc-rtnode[cjk])"
)

_EDGE: Final = 10.0
_GAP: Final = 4.0
_INNER: Final = WIDTH_MM - 2 * _EDGE
_WORDS: Final = 66.0  # width of the column at the right
_VIEWS: Final = _INNER - _GAP - _WORDS
_LARGE: Final = 96.0  # height of the first view
_SMALL: Final = 46.0  # of the two other planes
_FOOT: Final = 9.0
_CELLS: Final = (5, 6, 7, 8, 9, 10)  # slices in a row of the first sheet, the fewest that show them all
_CELLS_AFTER: Final = 5  # on the sheets after it
_UNDER: Final = 4.2  # height of the words below a cell
_SMALL_MM: Final = 2.5  # an outline smaller than this on the sheet gets a frame round it


@dataclass(frozen=True)
class PreviewPage:
    """What the preview says, all of it; fulfils drawing.views.Subject.

    places: where each slice lies, in words; colour: of the outline; notices and draft: what must not be overlooked;
    patient: the name; facts: (label, value), what else tells the patient and the study; stages: category to
    probability, 0-1; statement: the category, or the set it is uncertain between; measurements: (name, value);
    concerns: what the checks found; unchecked: what nobody looked at; small_print: the foot.
    """

    title: str
    created_at: datetime
    voxels: NDArray[np.float32]
    spacing_mm: tuple[float, float, float]
    axes: tuple[str, str, str]
    rings: tuple[tuple[int, Points], ...]
    places: tuple[str, ...]
    colour: Colour
    notices: tuple[str, ...]
    draft: str
    patient: str = field(repr=False)
    facts: tuple[tuple[str, str], ...] = field(repr=False)
    statement: str
    uncertain: bool
    uncertain_below: float
    stages: tuple[tuple[str, float], ...]
    roi_name: str
    measurements: tuple[tuple[str, str], ...]
    concerns: tuple[str, ...]
    unchecked: tuple[str, ...]
    small_print: tuple[str, ...]
    probability: None = None


def preview_pdf(page: PreviewPage) -> bytes:
    """The whole document; the same page gives the same bytes."""
    with Sheet(page.title, page.created_at, font_file()) as sheet:
        _draw(sheet, page, Scene(page))
        return sheet.finished()


def _draw(sheet: Sheet, page: PreviewPage, scene: Scene) -> None:
    sheet.page()
    y = _middle(sheet, page, scene, _patient(sheet, page, _head(sheet, page)))
    slices, foot = strip(scene), _foot(sheet, page)
    shown = _first_cells(sheet, page, slices, Frame(_EDGE, y, _INNER, foot - y))
    if shown < len(slices):
        _further_sheets(sheet, page, slices)


# --- first and last: what must not be overlooked ----------------------------------------------------------------------


def _head(sheet: Sheet, page: PreviewPage) -> float:
    """Notices in white on red, the draft's warning in amber, over the whole width; where the rest may begin."""
    y = _band(sheet, page.notices[:1], 0, Style(15, WHITE, "middle", bold=True), RED)
    y = _band(sheet, page.notices[1:], y, Style(9, WHITE, "middle"), RED)
    return _band(sheet, (page.draft,), y, Style(9, CARE, "middle", bold=True), AMBER)


def _band(sheet: Sheet, said: Sequence[str], y: float, style: Style, ground: Colour) -> float:
    step = line_mm(style)
    for words in said:
        sheet.box(Frame(0, y, WIDTH_MM, step + 2), ground)
        sheet.text(WIDTH_MM / 2, y + 0.78 * step + 1, words, style, _INNER)
        y += step + 2
    return y


def _foot(sheet: Sheet, page: PreviewPage) -> float:
    """Small print, and the first notice once more at the edge; where the rest must end."""
    said = page.notices[0] if page.notices else page.draft
    ink, ground, size = (WHITE, RED, 11.0) if page.notices else (CARE, AMBER, 9.0)
    sheet.box(Frame(0, HEIGHT_MM - _FOOT, WIDTH_MM, _FOOT), ground)
    sheet.text(WIDTH_MM / 2, HEIGHT_MM - 3.2, said, Style(size, ink, "middle", bold=True), _INNER)
    style = Style(6.5, SOFT)
    rows = [row for words in page.small_print for row in sheet.lines(words, style, _INNER, 2)]
    top = HEIGHT_MM - _FOOT - 2 - line_mm(style) * len(rows)
    for count, row in enumerate(rows):
        sheet.text(_EDGE, top + line_mm(style) * (count + 0.75), row, style, _INNER)
    return top - 1.5


# --- whose images these are -------------------------------------------------------------------------------------------


def _patient(sheet: Sheet, page: PreviewPage, y: float) -> float:
    """The name in one line or two, what else tells the patient and the study, and whether letters are missing."""
    style = Style(13, bold=True)
    y += 1.5
    for row in sheet.lines(page.patient, style, _INNER, 2):
        y += line_mm(style)
        sheet.text(_EDGE, y - 1, row, style, _INNER)
    y = _facts(sheet, page.facts, y + 3)
    told = (page.patient, *(value for _, value in page.facts))
    if any(MISSING in drawable(words, sheet.font) for words in told):
        sheet.text(_EDGE, y + 3, NO_FONT, Style(7.5, CARE, bold=True), _INNER)
        y += 3.5
    return y + 3


def _facts(sheet: Sheet, facts: Sequence[tuple[str, str]], y: float) -> float:
    """Label and value, one after the other, in as many lines as they need."""
    x = _EDGE
    for label, value in facts:
        style = Style(8, bold=True)
        (shown,) = sheet.lines(value, style, _INNER - 25, 1)
        named = f"{label} " if label else ""
        wide = sheet.width(named, Style(8)) + sheet.width(shown, style) + 5
        if x + wide > WIDTH_MM - _EDGE and x > _EDGE:
            x, y = _EDGE, y + line_mm(style)
        sheet.text(x + sheet.text(x, y, named, Style(8, SOFT)), y, shown, style)
        x += wide
    return y


# --- the three planes, the category, the numbers, the concerns --------------------------------------------------------


def _middle(sheet: Sheet, page: PreviewPage, scene: Scene, y: float) -> float:
    """Views at the left, words at the right; where the slices may begin."""
    first, *others = planes(scene)
    ground = Frame(_EDGE, y, _VIEWS, _LARGE + 6 + _SMALL + 7)
    sheet.box(ground, BLACK)
    _plane(sheet, page, first, Frame(_EDGE, y, _VIEWS, _LARGE))
    for count, view in enumerate(others):
        half = (_VIEWS - _GAP) / 2
        _plane(sheet, page, view, Frame(_EDGE + count * (half + _GAP), y + _LARGE + 6, half, _SMALL))
    _words(sheet, page, Frame(WIDTH_MM - _EDGE - _WORDS, y, _WORDS, ground.height))
    return ground.bottom + 3


def _plane(sheet: Sheet, page: PreviewPage, view: View, area: Frame) -> None:
    """A view in the middle of its area, with the patient's sides, a centimetre, and what it is."""
    width, height = view.fitted(area.width - 2, area.height - 2)
    frame = Frame(area.left + (area.width - width) / 2, area.top + (area.height - height) / 2, width, height)
    sheet.view(view, frame, page.colour)
    _locate(sheet, view, frame)
    _sides(sheet, view, frame)
    _scale(sheet, view, frame)
    said = (
        f"{view.caption}, {page.places[view.slice_index]}, the largest outline"
        if view.normal == 0
        else view.caption.split(",")[0]
    )
    sheet.text(area.left + 2, area.bottom + 3.4, f"{view.name}: {said}", Style(7, LIGHT), area.width - 3)


def _locate(sheet: Sheet, view: View, frame: Frame) -> None:
    """A frame round an outline that is too small to be found at a glance."""
    strokes = [view.on_screen(stroke) for line in view.lines for stroke in line.strokes]
    if not strokes:
        return
    points = np.vstack(strokes) * (frame.width, frame.height) + (frame.left, frame.top)
    low, size = points.min(axis=0), np.ptp(points, axis=0)
    if size.max() < _SMALL_MM:
        left, top, width, height = (float(n) for n in (*(low - 2), *(size + 4)))
        sheet.ring(Frame(left, top, width, height), AMBER)


def _sides(sheet: Sheet, view: View, frame: Frame) -> None:
    across, down = frame.left + frame.width / 2, frame.top + frame.height / 2 + 1
    left, top, right, bottom = view.ends
    for letter, x, y, anchor in (
        (left, frame.left + 1.5, down, "left"),
        (top, across, frame.top + 4, "middle"),
        (right, frame.right - 1.5, down, "right"),
        (bottom, across, frame.bottom - 1.5, "middle"),
    ):
        sheet.text(x, y, letter, Style(9, AMBER, anchor, bold=True, halo=True))


def _scale(sheet: Sheet, view: View, frame: Frame) -> None:
    """A bar of 1 cm, of 5 cm where there is room."""
    centimetre = frame.width * view.scale_percent / 100
    count = 5 if centimetre * 5 < frame.width / 2.5 else 1
    sheet.box(Frame(frame.left + 1.7, frame.bottom - 2.9, count * centimetre + 0.6, 1.2), BLACK)
    sheet.box(Frame(frame.left + 2, frame.bottom - 2.6, count * centimetre, 0.6), LIGHT)
    sheet.text(frame.left + 2, frame.bottom - 3.4, f"{count} cm", Style(7, LIGHT, halo=True))


def _words(sheet: Sheet, page: PreviewPage, column: Frame) -> None:
    """Three cards: category, measurements, concerns; the last one gets what is left."""
    y = _category(sheet, page, column)
    y = _numbers(sheet, page, Frame(column.left, y, column.width, column.bottom - y))
    _concerns(sheet, page, Frame(column.left, y, column.width, column.bottom - y))


def _category(sheet: Sheet, page: PreviewPage, column: Frame) -> float:
    colour = CARE if page.uncertain else BLUE
    said = Style(13 if page.uncertain else 22, colour, bold=True)
    rows = sheet.lines(page.statement, said, column.width - 6, 2)
    height = 9 + line_mm(said) * len(rows) + 6 * len(page.stages) + 8
    inner = _card(sheet, Frame(column.left, column.top, column.width, height), "T category, from imaging only")
    y = inner.top
    for row in rows:
        y += line_mm(said)
        sheet.text(inner.left, y - 1.5, row, said, inner.width)
    for count, stage in enumerate(page.stages):
        _bar(sheet, page, stage, Frame(inner.left, y + 1 + 6 * count, inner.width, 4))
    limit = (
        f"Bars: the model's probability. Below {page.uncertain_below * 100:.4g}%, the line, a category is uncertain."
    )
    sheet.paragraph(Frame(inner.left, y + 1 + 6 * len(page.stages), inner.width, 6), limit, Style(6.5, SOFT))
    return column.top + height + _GAP


def _bar(sheet: Sheet, page: PreviewPage, stage: tuple[str, float], frame: Frame) -> None:
    """One category: its name, its bar with the limit in it, its share."""
    name, share = stage
    top = share == max(share for _, share in page.stages)
    bar = Frame(frame.left + 7, frame.top, frame.width - 20, frame.height)
    sheet.text(frame.left, frame.bottom - 0.7, name, Style(9, bold=True))
    sheet.box(bar, FAINT)
    colour = (CARE if page.uncertain else BLUE) if top else BAR
    sheet.box(Frame(bar.left, bar.top, bar.width * min(max(share, 0.0), 1.0), bar.height), colour)
    sheet.box(Frame(bar.left + bar.width * page.uncertain_below - 0.1, bar.top - 0.5, 0.25, bar.height + 1), INK)
    sheet.text(frame.right, frame.bottom - 0.7, f"{share:.2%}", Style(8.5, INK, "right", bold=top))


def _numbers(sheet: Sheet, page: PreviewPage, area: Frame) -> float:
    height = 9 + 5 * len(page.measurements)
    inner = _card(sheet, Frame(area.left, area.top, area.width, height), f"GTV as written: {page.roi_name}")
    for count, (name, value) in enumerate(page.measurements):
        y = inner.top + 4 + 5 * count
        used = sheet.text(inner.left, y, name, Style(8, SOFT))
        sheet.text(inner.right, y, value, Style(8, INK, "right", bold=True), inner.width - used - 2)
    return area.top + height + _GAP


def _concerns(sheet: Sheet, page: PreviewPage, area: Frame) -> None:
    """Every warning, shorter where there are many; how many were left out is said. Below, what nobody checked."""
    style = Style(7.5, SOFT)
    below = [row for words in page.unchecked for row in sheet.lines(words, style, area.width - 6, 2)]
    inner = _card(sheet, area, "Warnings" if page.concerns else "Checks before writing")
    edge = inner.bottom - line_mm(style) * len(below) - 2
    _warnings(sheet, page.concerns, Frame(inner.left, inner.top, inner.width, edge - 1 - inner.top))
    for count, row in enumerate(below):
        sheet.text(inner.left, edge + line_mm(style) * (count + 0.75), row, style, inner.width)


def _warnings(sheet: Sheet, concerns: Sequence[str], room: Frame) -> None:
    """In whole sentences as long as they fit, the rest by the codes that they begin with."""
    style, y = Style(7.5, CARE if concerns else SOFT), room.top
    for count, words in enumerate(concerns or ("no warning",)):
        rows = sheet.lines(words, style, room.width, 3)
        after = len(sheet.lines(_codes(concerns[count + 1 :]), style, room.width, 99)) if concerns[count + 1 :] else 0
        if y + line_mm(style) * (len(rows) + after) + 1 > room.bottom:
            sheet.paragraph(Frame(room.left, y, room.width, room.bottom - y), _codes(concerns[count:]), style)
            return
        for row in rows:
            y += line_mm(style)
            sheet.text(room.left, y - 0.5, row, style, room.width)
        y += 1


def _codes(concerns: Sequence[str]) -> str:
    """What is left of sentences that find no room."""
    return "also: " + ", ".join(concern.split(":")[0] for concern in concerns)


def _card(sheet: Sheet, frame: Frame, title: str) -> Frame:
    """A card with its title; the room inside it comes back."""
    sheet.box(frame, CARD, 1.5)
    sheet.text(frame.left + 3, frame.top + 5, title, Style(8, SOFT, bold=True), frame.width - 6)
    return Frame(frame.left + 3, frame.top + 6.5, frame.width - 6, frame.height - 6.5)


# --- every outlined slice ---------------------------------------------------------------------------------------------


def _first_cells(sheet: Sheet, page: PreviewPage, slices: Sequence[View], area: Frame) -> int:
    """As many slices as the first sheet holds, spread evenly where they are too many; how many that are."""
    if not slices:
        sheet.text(area.left, area.top + 4, "No outline was written.", Style(9, CARE, bold=True))
        return 0
    across = next((n for n in _CELLS if _room(slices, n, area) >= len(slices)), _CELLS[-1])
    room = max(_room(slices, across, area), 1)
    chosen = [slices[k] for k in sorted({round(k) for k in np.linspace(0, len(slices) - 1, min(room, len(slices)))})]
    _title(
        sheet, page, area, f"{len(chosen)} of {len(slices)} slices, all on the next sheets", len(chosen) < len(slices)
    )
    _cells(sheet, page, chosen, across, Frame(area.left, area.top + 5, area.width, area.height - 5))
    return len(chosen)


def _title(sheet: Sheet, page: PreviewPage, area: Frame, few: str, some_left: bool) -> None:
    said = "Every outlined slice and two beyond each end"
    order = f"{_order(page)}, outline drawn from the structure set read back"
    sheet.text(
        area.left, area.top + 3, f"{few if some_left else said}; {order}", Style(7.5, SOFT, bold=True), area.width
    )


def _order(page: PreviewPage) -> str:
    return f"slice number and place, from {Scene(page).order}"


def _room(slices: Sequence[View], across: int, area: Frame) -> int:
    """How many cells an area holds, so many in a row."""
    width, height = _cell_size(slices, across)
    return across * int((area.height - 5) / (height + _UNDER)) if width else 0


def _cell_size(slices: Sequence[View], across: int) -> tuple[float, float]:
    width = (_INNER - 1.5 * (across - 1)) / across
    return width, width * slices[0].size_mm[1] / slices[0].size_mm[0]


def _cells(sheet: Sheet, page: PreviewPage, slices: Sequence[View], across: int, area: Frame) -> None:
    width, height = _cell_size(slices, across)
    for count, view in enumerate(slices):
        row, column = divmod(count, across)
        left, top = area.left + column * (width + 1.5), area.top + row * (height + _UNDER)
        _cell(sheet, page, view, Frame(left, top, width, height))


def _cell(sheet: Sheet, page: PreviewPage, view: View, frame: Frame) -> None:
    sheet.view(view, frame, page.colour)
    _locate(sheet, view, frame)
    size = 6.5 if frame.width > 22 else 5.5
    used = sheet.text(frame.left, frame.bottom + 2.7, str(view.slice_index + 1), Style(size, INK, bold=True))
    place = page.places[view.slice_index].removesuffix(" mm")
    used += sheet.text(frame.left + used + 1, frame.bottom + 2.7, place, Style(size, SOFT)) + 1
    area = f"{view.area_cm2:.1f} cm2" if view.outlined else "-"
    sheet.text(frame.right, frame.bottom + 2.7, area, Style(size, SOFT, "right"), frame.width - used - 1)


def _further_sheets(sheet: Sheet, page: PreviewPage, slices: Sequence[View]) -> None:
    """All slices, larger, with the patient and the notices on every sheet."""
    todo = list(slices)
    while todo:
        sheet.page()
        y, foot = _patient(sheet, page, _head(sheet, page)), _foot(sheet, page)
        area = Frame(_EDGE, y, _INNER, foot - y)
        now = max(_room(slices, _CELLS_AFTER, area), 1)
        _title(sheet, page, area, "", some_left=False)
        _cells(sheet, page, todo[:now], _CELLS_AFTER, Frame(area.left, area.top + 5, area.width, area.height - 5))
        todo = todo[now:]
