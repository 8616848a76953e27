"""Facts about a series that follow from several of its attributes, each with the words that it follows from.

Makers write the same thing in different places; a rule should ask for the thing. Such a fact is no measurement: where
nothing speaks for it or against it, it is "unknown", and a rule must say what that means.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from npc_rtnode.domain.clauses import MATCHED_CHARACTERS, REGEX_FLAGS
from npc_rtnode.domain.records import SeriesAttributes

YES, NO, UNKNOWN = "yes", "no", "unknown"


@dataclass(frozen=True)
class Conclusion:
    """What a fact came to, and on which attributes."""

    value: str
    because: str = ""


@dataclass(frozen=True)
class Fact:
    """How a fact is concluded: the DICOM keywords that it needs, and the conclusion."""

    keywords: tuple[str, ...]
    conclude: Callable[[SeriesAttributes], Conclusion]


# --- fat suppression --------------------------------------------------------------------------------------------------

FAT_SUPPRESSED_OPTIONS = frozenset(
    {"FS", "SFS", "WE", "FATSAT", "FAT_SAT", "SPIR", "SPAIR", "STIR", "WATER_EXCITATION"}
)
"""ScanOptions (PS3.3 C.8.3.1: FS) and what makers add to it: GE and Siemens FS, SFS, WE; Philips FS; Hitachi words."""

FAT_SUPPRESSED_WORDS = (
    r"(?<![a-z])(q?fs|sfs|fat[-_ ]?(sat|sup)[a-z]*|fatsat|spair|spir|stir|tirm|we|wats|chess|ideal[-_ ]?w|water)"
    r"(?![a-z])|(dixon|flex|ideal|wfi|wfs).*[-_ ]w$|抑脂|压脂|壓脂|脂肪抑制|水像|水相"
)
NOT_FAT_SUPPRESSED_WORDS = (
    r"(?<![a-z])(non?|without|w/o(ut)?|ohne)[-_ ]*(fs|fat[-_ ]?sat[a-z]*)(?![a-z])|(不|非|无)(抑脂|压脂)"
)
WATER_IMAGES = frozenset({"WATER", "W"})
"""ImageType of the water image of a Dixon acquisition: fat is not in it."""

SELECTIVE = frozenset({"FAT", "FAT_AND_WATER"})
"""SpectrallySelectedSuppression (0018,9025) of Enhanced MR, PS3.3 C.8.13.5.3."""


def fat_suppression(attributes: SeriesAttributes) -> Conclusion:
    """Whether fat is dark: by ScanOptions, the suppression of Enhanced MR, a Dixon water image, or the description.

    "no" needs a source that would have said yes: options that do not list it, or words against it. The echo of a
    description that says nothing is "unknown".
    """
    described = " ".join(sorted(_words("SeriesDescription", attributes)))[:MATCHED_CHARACTERS]
    if against := re.search(NOT_FAT_SUPPRESSED_WORDS, described, REGEX_FLAGS):
        return Conclusion(NO, f'SeriesDescription has "{against[0].strip()}"')
    for keyword, saying in _SOURCES.items():
        if said := sorted(_words(keyword, attributes) & saying):
            return Conclusion(YES, f"{keyword} has {' and '.join(said)}")
    if word := re.search(FAT_SUPPRESSED_WORDS, described, REGEX_FLAGS):
        return Conclusion(YES, f'SeriesDescription has "{word[0].strip()}"')
    if silent := [keyword for keyword in _STATING if _words(keyword, attributes)]:
        return Conclusion(NO, f"{silent[0]} does not list it")
    return Conclusion(UNKNOWN)


def _words(keyword: str, attributes: SeriesAttributes) -> set[str]:
    """The distinct words of an attribute over all slices, upper case but for descriptions."""
    parts = {str(part) for entry in attributes.values.get(keyword, ()) for part in entry or ()}
    return parts if keyword == "SeriesDescription" else {part.upper() for part in parts}


_SOURCES: Mapping[str, frozenset[str]] = {
    "ScanOptions": FAT_SUPPRESSED_OPTIONS,
    "SpectrallySelectedSuppression": SELECTIVE,
    "ImageType": WATER_IMAGES,
}
_STATING = ("ScanOptions", "SpectrallySelectedSuppression")

CONCLUDED: Mapping[str, Fact] = {
    "@fat_suppressed": Fact((*_SOURCES, "SeriesDescription"), fat_suppression),
}
"""The facts that rules may ask for by these names."""

MEASURED: Mapping[str, tuple[str, str]] = {
    "@plane": ("@plane_angle_deg", "degrees off the nearest axis"),
}
"""Facts that another fact, a number, decided: which, and what it is called in a reason."""


def measured(tag: str, attributes: SeriesAttributes) -> str:
    """The number that decided a fact, in words; empty where there is none."""
    number, unit = MEASURED.get(tag, ("", ""))
    value = attributes.derived.get(number)
    return f"{value:.3g} {unit}" if isinstance(value, int | float) else ""
