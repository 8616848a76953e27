"""The sheet: letters that can and cannot be drawn, lines that end where they must, and the same bytes each time."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from npc_rtnode.drawing.pixels import picture_of, text_of
from npc_rtnode.drawing.sheet import BLACK, MISSING, RED, Sheet, Style, drawable, font_file
from npc_rtnode.drawing.views import Frame

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
FONT = font_file()


def sheet_with(said: str, style: Style = Style(12), font: Path | None = FONT, width: float = 180) -> bytes:  # noqa: B008
    """One page with one line."""
    with Sheet("a title", AT, font) as sheet:
        sheet.page()
        sheet.text(10, 20, said, style, width)
        return sheet.finished()


def test_the_font_of_the_extra_is_installed() -> None:
    """The developers' environment has Chinese letters: without them half of these tests would prove nothing."""
    assert FONT is not None


def test_letters_without_a_font_are_told_from_those_with_one() -> None:
    """With the font, Chinese and Latin are drawn and Hangul is said to be missing; Helvetica has Latin-1 alone."""
    assert drawable("张三丰 Müller 喆 㛃", FONT) == "张三丰 Müller 喆 㛃"
    assert drawable("김철수 Kim", FONT) == f"{MISSING} Kim"
    assert drawable("张三丰 Müller", None) == f"{MISSING} Müller"
    assert drawable("a\x00b\u202ec\u200bd\x1b", FONT) == "abcd"


@pytest.mark.parametrize("font", [FONT, None])
def test_text_is_drawn_as_it_stands(font: Path | None) -> None:
    """No markup of any kind is read in it."""
    said = "<b>a</b> **b** __c__ ~~d~~ {{ 7 * 7 }} &amp; \\ ( ) %"
    assert text_of(sheet_with(said, font=font)) == (said,)


def test_a_letter_that_is_missing_is_no_word_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """fpdf would name each letter of the patient's name that a font lacks; it never gets to see one."""
    with caplog.at_level(logging.INFO):
        sheet_with("김철수 \U0001f9e0")
    assert [record for record in caplog.records if record.name.startswith("fpdf")] == []


@pytest.mark.parametrize("font", [FONT, None])
def test_a_line_never_leaves_its_width(font: Path | None) -> None:
    """However long, in Latin or Chinese, bold or not: nothing is drawn right of its place, and dots say it was cut."""
    for said in ("W" * 300, "word " * 80, "张" * 200):
        pdf = sheet_with(said, Style(12, BLACK, bold=True), font, width=60)
        ink = (picture_of(pdf) < 128).any(axis=(0, 2))
        assert np.flatnonzero(ink).max() <= 71 / 25.4 * 150
    assert text_of(sheet_with("word " * 80, width=60))[0].endswith("...")


def test_lines_break_at_spaces_and_between_chinese_letters() -> None:
    """At most so many; the last one is cut; no letter is lost before that."""
    with Sheet("a title", AT, FONT) as sheet:
        rows = sheet.lines("one two three four five six", Style(12), 25, 9)
        chinese = sheet.lines("鼻咽癌" * 20, Style(12), 40, 20)
        cut = sheet.lines("one two three four five six", Style(12), 25, 2)
    assert " ".join(rows) == "one two three four five six"
    assert len(rows) > 1
    assert "".join(chinese) == "鼻咽癌" * 20
    assert cut[-1].endswith("...")


def test_a_box_has_its_colour_and_its_place() -> None:
    """In the pixels that another maker's program draws."""
    with Sheet("a title", AT, FONT) as sheet:
        sheet.page()
        sheet.box(Frame(20, 30, 40, 10), RED)
        sheet.box(Frame(100, 30, 0, 10), RED)
        page = picture_of(sheet.finished())
    red = (np.abs(page.astype(int) - RED) < 3).all(axis=-1)
    rows, columns = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
    scale = 25.4 / 150
    assert np.array([rows[0], rows[-1], columns[0], columns[-1]]) * scale == pytest.approx([30, 40, 20, 60], abs=0.3)


@pytest.mark.parametrize("font", [FONT, None])
def test_the_same_sheet_is_the_same_bytes(font: Path | None) -> None:
    """Nothing of the clock or the machine is in it; the date is the one that it was given."""
    one, other = sheet_with("张三丰 a", font=font), sheet_with("张三丰 a", font=font)
    assert one == other
    assert b"D:20260102030405Z" in one


def test_what_is_no_pdf_is_said_to_be_none() -> None:
    """PDFium's own error does not get out of the room."""
    for broken in (b"", b"%PDF-1.6", b"x" * 100):
        with pytest.raises(ValueError, match="no PDF"):
            picture_of(broken)
