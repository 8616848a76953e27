"""Facts that follow from several attributes: fat suppression as makers and hospitals write it."""

from __future__ import annotations

import pytest

from npc_rtnode.domain.facts import CONCLUDED, fat_suppression
from npc_rtnode.domain.records import SeriesAttributes


def series(**values: object) -> SeriesAttributes:
    """One slice with these elements."""
    column = {key: (value if isinstance(value, tuple) else (value,),) for key, value in values.items()}
    return SeriesAttributes(1, column)  # type: ignore[arg-type]


FAT = [
    # elements, what it comes to, on what
    ({"ScanOptions": "FS"}, "yes", "ScanOptions has FS"),
    ({"ScanOptions": ("FAST_GEMS", "SEQ_GEMS", "FS")}, "yes", "ScanOptions has FS"),
    ({"ScanOptions": ("PFP", "SFS")}, "yes", "ScanOptions has SFS"),
    ({"ScanOptions": "WE"}, "yes", "ScanOptions has WE"),
    ({"ScanOptions": ("PFP", "FatSat")}, "yes", "ScanOptions has FATSAT"),
    ({"ScanOptions": ("FAST_GEMS", "SP")}, "no", "ScanOptions does not list it"),
    ({"SpectrallySelectedSuppression": "FAT"}, "yes", "SpectrallySelectedSuppression has FAT"),
    ({"SpectrallySelectedSuppression": "WATER"}, "no", "SpectrallySelectedSuppression does not list it"),
    ({"SpectrallySelectedSuppression": "NONE"}, "no", "SpectrallySelectedSuppression does not list it"),
    ({"ImageType": ("DERIVED", "PRIMARY", "DIXON", "WATER")}, "yes", "ImageType has WATER"),
    ({"ImageType": ("ORIGINAL", "PRIMARY", "W", "W")}, "yes", "ImageType has W"),
    ({"ImageType": ("ORIGINAL", "PRIMARY", "M")}, "unknown", ""),
    ({"SeriesDescription": "t1_tse_tra_fs"}, "yes", 'SeriesDescription has "fs"'),
    ({"SeriesDescription": "AX T1 FATSAT"}, "yes", 'SeriesDescription has "FATSAT"'),
    ({"SeriesDescription": "AX T1 fat sat"}, "yes", 'SeriesDescription has "fat sat"'),
    ({"SeriesDescription": "T1W_SPIR"}, "yes", 'SeriesDescription has "SPIR"'),
    ({"SeriesDescription": "鼻咽T1增强压脂"}, "yes", 'SeriesDescription has "压脂"'),
    ({"SeriesDescription": "鼻咽T1增强抑脂"}, "yes", 'SeriesDescription has "抑脂"'),
    ({"SeriesDescription": "鼻咽T1 不压脂"}, "no", 'SeriesDescription has "不压脂"'),
    ({"SeriesDescription": "AX T1 non-FS"}, "no", 'SeriesDescription has "non-FS"'),
    ({"SeriesDescription": "AX T1 w/o fatsat", "ScanOptions": "SP"}, "no", 'SeriesDescription has "w/o fatsat"'),
    ({"SeriesDescription": "t1_vibe_dixon_tra_W"}, "yes", 'SeriesDescription has "dixon_tra_W"'),
    ({"SeriesDescription": "AX T1 W"}, "unknown", ""),
    ({"SeriesDescription": "OFFSET"}, "unknown", ""),
    ({"SeriesDescription": "AX T1"}, "unknown", ""),
    ({"SeriesDescription": "AX T1 FS", "ScanOptions": "SP"}, "yes", 'SeriesDescription has "FS"'),
    ({}, "unknown", ""),
]


@pytest.mark.parametrize(("elements", "value", "because"), FAT)
def test_fat_suppression(elements: dict[str, object], value: str, because: str) -> None:
    """yes, no or unknown, with the word that it was concluded from."""
    concluded = fat_suppression(series(**elements))
    assert (concluded.value, concluded.because) == (value, because)


def test_every_element_that_a_fact_needs_is_read() -> None:
    """A fact is concluded from its keywords and nothing else: with them left out it is unknown."""
    for elements, value, _ in FAT:
        only = {key: v for key, v in elements.items() if key in CONCLUDED["@fat_suppressed"].keywords}
        assert only == elements, value


def test_slices_that_differ_count_together() -> None:
    """One slice that says so is enough: a series mixes no suppression."""
    mixed = SeriesAttributes(2, {"ScanOptions": (("SP",), ("FS", "SP"))})
    assert fat_suppression(mixed).value == "yes"
