"""Elements of a data set, read leniently: a value that its VR does not allow is no value, and no text reaches a log.

What a rule or geometry asks for is given as plain numbers and texts; whoever asks decides what a missing one means. No
text of a data set enters an error message: an instance that cannot be read is named by its digest.
"""

from __future__ import annotations

import hashlib
import re
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.tag import Tag

from npc_rtnode.errors import Unreadable

UNREADABLE = (
    InvalidDicomError,
    BytesLengthException,
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    NotImplementedError,
    RecursionError,
    struct.error,
)
"""What pydicom raises on bytes that are no data set, or on a value that its VR does not allow; found by fuzzing."""

_DIGEST = re.compile(r"[0-9a-f]{64}")


@contextmanager
def quietly() -> Iterator[None]:
    """pydicom warns about values that break their VR, with the value in the text: rules judge them, logs must not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def read_elements(path: Path, keywords: Sequence[str]) -> Dataset:
    """The elements asked for, of a DICOM file (PS3.10); a file without preamble and prefix is refused."""
    try:
        with quietly():
            return dcmread(path, stop_before_pixels=True, force=False, specific_tags=[Tag(word) for word in keywords])
    except UNREADABLE as error:
        raise Unreadable(f"instance with digest {digest_of_file(path)[:12]}: {type(error).__name__}") from None


def digest_of_file(path: Path) -> str:
    """SHA-256 of the file: its name where it lies in the spool, else computed; empty where it cannot be opened."""
    if _DIGEST.fullmatch(path.name):
        return path.name
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return ""


def value_of(ds: Dataset, keyword: str) -> Any:
    """The element's value; None where it is absent, empty or not what its VR allows."""
    try:
        with quietly():
            value = ds.get(keyword)
    except UNREADABLE:
        return None
    return None if value is None or value == "" or value == b"" else value


def floats_of(ds: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    """Exactly `count` finite numbers, or None."""
    value = value_of(ds, keyword)
    if not isinstance(value, MultiValue) or len(value) != count:
        return None
    try:
        numbers = tuple(float(part) for part in value)
    except (TypeError, ValueError):
        return None
    return numbers if np.isfinite(numbers).all() else None


def finite_of(ds: Dataset, keyword: str) -> float | None:
    """One finite number, or None."""
    try:
        number = float(value_of(ds, keyword))
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None


def whole_of(ds: Dataset, keyword: str) -> int | None:
    """A whole number, or None."""
    value = value_of(ds, keyword)
    return int(value) if isinstance(value, int) else None


def uid_of(ds: Dataset, keyword: str) -> str | None:
    """A UID as its text, or None."""
    value = value_of(ds, keyword)
    return str(value) if isinstance(value, str) else None


def raw_of(ds: Dataset, keyword: str) -> bytes:
    """An element as it lies in the file, without padding; empty where it is absent."""
    if Tag(keyword) not in ds:
        return b""
    value = ds.get_item(Tag(keyword)).value
    return value.rstrip(b" \0") if isinstance(value, bytes) else str(value).encode()
