"""A PDF as another maker's program sees it (PDFium): its pages as pixels, its text as text.

The picture of a page is made from the finished PDF, so both show one thing; PDFium shares no code with what wrote it.
PDFium is for one thread at a time: the node draws and reads pages in its one write lane.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
import pypdfium2
from numpy.typing import NDArray

DOTS_PER_INCH: Final = 150
_POINTS_PER_INCH: Final = 72

Pixels = NDArray[np.uint8]


def picture_of(pdf: bytes, page: int = 0) -> Pixels:
    """One page, `[row, column, (red, green, blue)]`, DOTS_PER_INCH; raises ValueError for bytes that are no PDF."""
    with _opened(pdf) as document:
        bitmap = document[page].render(scale=DOTS_PER_INCH / _POINTS_PER_INCH, rev_byteorder=True)
        return np.ascontiguousarray(bitmap.to_numpy()[..., :3])


def text_of(pdf: bytes) -> tuple[str, ...]:
    """The text of each page, one space between words; raises ValueError for bytes that are no PDF."""
    with _opened(pdf) as document:
        return tuple(" ".join(page.get_textpage().get_text_bounded().split()) for page in document)


@contextmanager
def _opened(pdf: bytes) -> Iterator[pypdfium2.PdfDocument]:
    try:
        document = pypdfium2.PdfDocument(pdf)
    except pypdfium2.PdfiumError as error:
        raise ValueError(f"no PDF: {error}") from None
    try:
        yield document
    finally:
        document.close()
