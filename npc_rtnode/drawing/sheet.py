"""A sheet of A4 as a PDF in the making: text, boxes and views in millimetres; the same strokes give the same bytes.

One embedded typeface draws everything, so that a page looks alike wherever it is opened. Where it is not installed
(extra `cjk`), Helvetica stands in, and letters that it lacks are said to be missing instead of drawn as boxes. Text is
drawn letter by letter as it stands: there is no markup, and control characters are left out.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from fontTools.ttLib import TTFont
from fpdf import FPDF
from fpdf.enums import TextMode
from fpdf.fonts import TTFFont

from npc_rtnode.drawing.views import Frame, Points, View

WIDTH_MM: Final = 210.0
HEIGHT_MM: Final = 297.0
PIXELS_PER_MM: Final = 6.0  # of the images on the sheet, about 150 to the inch
MISSING: Final = "[...]"
"""Stands for letters that no font here has."""

_PACKAGE: Final = "pylopdf_fonts_zh_cn"  # Noto Sans SC, SIL OFL 1.1; the extra `cjk`
_FILE: Final = "NotoSansSC-Regular.otf"
_MM_PER_POINT: Final = 25.4 / 72

Colour = tuple[int, int, int]
INK: Final[Colour] = (22, 32, 43)
SOFT: Final[Colour] = (82, 96, 109)
FAINT: Final[Colour] = (227, 232, 238)
CARD: Final[Colour] = (243, 245, 248)
WHITE: Final[Colour] = (255, 255, 255)
BLACK: Final[Colour] = (0, 0, 0)
LIGHT: Final[Colour] = (215, 224, 232)
BLUE: Final[Colour] = (11, 92, 173)
BAR: Final[Colour] = (139, 162, 184)
CARE: Final[Colour] = (138, 75, 0)
AMBER: Final[Colour] = (255, 224, 130)
RED: Final[Colour] = (168, 32, 26)


@dataclass(frozen=True)
class Style:
    """How a line of text looks: size in points, colour, `left`, `middle` or `right` of its place; halo over images."""

    size: float = 8
    colour: Colour = INK
    anchor: str = "left"
    bold: bool = False
    halo: bool = False


PLAIN: Final = Style()


def font_file() -> Path | None:
    """The typeface with Chinese letters, None where it is not installed."""
    found = find_spec(_PACKAGE)
    path = Path(str(found.origin)).with_name(_FILE) if found else None
    return path if path and path.is_file() else None


@cache
def letters_of(font: Path) -> frozenset[int]:
    """The code points that a font can draw."""
    with TTFont(font, lazy=True) as opened:
        return frozenset(opened.getBestCmap())


def drawable(said: str, font: Path | None) -> str:
    """What of a text can be drawn: MISSING for each run of other letters, nothing for control characters."""
    shown: list[str] = []
    for letter in said:
        if unicodedata.category(letter).startswith("C"):  # controls, direction marks, surrogates, unassigned
            continue
        if _has(font, letter):
            shown.append(letter)
        elif not shown or shown[-1] != MISSING:
            shown.append(MISSING)
    return "".join(shown)


def _has(font: Path | None, letter: str) -> bool:
    if font is None:
        return letter.isascii() or 0xA0 <= ord(letter) <= 0xFF  # Helvetica in Latin-1
    return ord(letter) in letters_of(font)


class Sheet:
    """Pages of A4; lengths in mm from the left and the top, text sizes in points."""

    def __init__(self, title: str, at: datetime, font: Path | None) -> None:
        self.font = font
        self.pdf = FPDF(format="A4")
        self.pdf.set_auto_page_break(False)
        self.pdf.set_title(title)
        self.pdf.set_creation_date(at)
        self.pdf.set_producer("npc_rtnode")
        self.pdf.set_image_filter("FlateDecode")  # lossless
        if font is not None:
            self.pdf.add_font("page", "", font)

    def __enter__(self) -> Sheet:
        """Draw within `with`: the typeface's file stays open so long."""
        return self

    def __exit__(self, *_: object) -> None:
        for font in self.pdf.fonts.values():
            if isinstance(font, TTFFont):
                font.ttfont.close()

    def page(self) -> None:
        """Begin another page."""
        self.pdf.add_page()

    def box(self, frame: Frame, colour: Colour, radius: float = 0) -> None:
        """A filled rectangle, none if it would be thinner than nothing."""
        if frame.width > 0 and frame.height > 0:
            self.pdf.set_fill_color(*colour)
            corners = radius > 0
            self.pdf.rect(
                *(frame.left, frame.top, frame.width, frame.height), "F", round_corners=corners, corner_radius=radius
            )

    def text(self, x: float, y: float, said: str, style: Style = PLAIN, width: float = WIDTH_MM) -> float:
        """One line from its baseline, cut with dots where it is wider than `width`; its own width comes back."""
        self._use(style)
        shown = self._cut(drawable(said, self.font), width)
        own = float(self.pdf.get_string_width(shown))
        start = x - {"left": 0.0, "middle": own / 2, "right": own}[style.anchor]
        if style.halo:
            self._outlined(start, y, shown, BLACK, style.size * 0.16)
        self._use(style)
        if style.bold and self.font is not None:  # one weight is in the typeface: the bold one is its outline thickened
            self._outlined(start, y, shown, style.colour, style.size * 0.05)
        else:
            self.pdf.text(start, y, shown)
        return own

    def _outlined(self, x: float, y: float, shown: str, colour: Colour, points: float) -> None:
        """Letters with an outline of that colour and that many points round them."""
        with self.pdf.local_context(text_mode=TextMode.FILL_STROKE, text_color=colour, draw_color=colour):
            self.pdf.line_width = points * _MM_PER_POINT
            self.pdf.text(x, y, shown)

    def width(self, said: str, style: Style = PLAIN) -> float:
        """How wide a line would be."""
        self._use(style)
        return float(self.pdf.get_string_width(drawable(said, self.font)))

    def lines(self, said: str, style: Style, width: float, most: int) -> list[str]:
        """A text in at most so many lines of at most that width; the last one is cut with dots."""
        self._use(style)
        rows: list[str] = [""]
        for word in _pieces(drawable(said, self.font)):
            if self.pdf.get_string_width((rows[-1] + word).strip()) > width and rows[-1].strip():
                rows.append("")
            rows[-1] += word
        kept = [row.strip() for row in rows]
        return kept if len(kept) <= most else [*kept[: most - 1], self._cut(" ".join(kept[most - 1 :]), width)]

    def paragraph(self, frame: Frame, said: str, style: Style = PLAIN) -> float:
        """A text in lines within a frame; the baseline below the last one comes back."""
        step = line_mm(style)
        y = frame.top + style.size * _MM_PER_POINT
        for row in self.lines(said, style, frame.width, max(1, int((frame.height + 1e-6) / step))):
            self.text(frame.left, y, row, style, frame.width)
            y += step
        return y

    def view(self, view: View, frame: Frame, colour: Colour) -> None:
        """A view over the whole frame, with its outlines as vectors in the numbers that were read."""
        image = view.upright(min(PIXELS_PER_MM * frame.width / view.size_mm[0], 8.0))
        self.pdf.image(image, frame.left, frame.top, frame.width, frame.height)
        self.pdf.set_draw_color(*colour)  # before the clip: what is set within it does not outlast it
        self.pdf.set_line_width(0.35 if frame.width > 30 else 0.25)
        with self.pdf.rect_clip(frame.left, frame.top, frame.width, frame.height):
            for line in view.lines:
                for stroke in line.strokes:
                    self._stroke(view.on_screen(stroke) * (frame.width, frame.height), frame, line.closed)

    def ring(self, frame: Frame, colour: Colour) -> None:
        """A thin line round a frame."""
        self.pdf.set_draw_color(*colour)
        self.pdf.set_line_width(0.25)
        self.pdf.rect(frame.left, frame.top, frame.width, frame.height, "D")

    def finished(self) -> bytes:
        """The PDF."""
        return bytes(self.pdf.output())

    def _stroke(self, points: Points, frame: Frame, closed: bool) -> None:
        places: Sequence[tuple[float, float]] = [(frame.left + float(x), frame.top + float(y)) for x, y in points]
        (self.pdf.polygon if closed else self.pdf.polyline)(places)

    def _use(self, style: Style) -> None:
        if self.font is None:
            self.pdf.set_font("helvetica", "B" if style.bold else "", style.size)
        else:
            self.pdf.set_font("page", "", style.size)
        self.pdf.set_text_color(*style.colour)

    def _cut(self, shown: str, width: float) -> str:
        if self.pdf.get_string_width(shown) <= width:
            return shown
        ends = (f"{shown[:count].rstrip()}..." for count in range(min(len(shown), 400), 0, -1))
        return next((end for end in ends if self.pdf.get_string_width(end) <= width), "")


def line_mm(style: Style) -> float:
    """From one baseline to the next."""
    return style.size * _MM_PER_POINT * 1.3


def _pieces(said: str) -> list[str]:
    """Where a line may end: after a space, after any Chinese letter, and within a word that is too long to be one."""
    pieces = [""]
    for letter in said:
        pieces[-1] += letter
        if letter == " " or ord(letter) > 0x2E7F or len(pieces[-1]) >= 40:
            pieces.append("")
    return pieces
