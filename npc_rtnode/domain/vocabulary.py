"""Every code the node writes, in one place: value, coding scheme, meaning (PS3.16; sources in outputs.md 3.3)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True)
class Code:
    """A coded concept (PS3.3 8.1): code value, coding scheme designator, code meaning (LO, at most 64 characters)."""

    value: str
    scheme: str
    meaning: str


# --- what was found, and where ----------------------------------------------------------------------------------------

NASOPHARYNX: Final = Code("71836000", "SCT", "Nasopharynx")  # CID 7601
PRIMARY_NEOPLASM: Final = Code("372087000", "SCT", "Neoplasm, Primary")  # CID 7159
ABNORMAL_STRUCTURE: Final = Code("49755003", "SCT", "Morphologically Abnormal Structure")  # CID 7150
RT_TARGET: Final = Code("130041", "DCM", "RT Target")  # CID 9503
GTV_PRIMARY: Final = Code("130052", "DCM", "GTV Primary")  # CID 9534
MR_IMAGING: Final = Code("113091000", "SCT", "Magnetic resonance imaging")  # CID 100

# --- the stage --------------------------------------------------------------------------------------------------------

CT_CATEGORY: Final = Code("399504009", "SCT", "cT category")
CT_CATEGORIES: Final[Mapping[str, Code]] = MappingProxyType(
    {
        "T1": Code("1228889001", "SCT", "American Joint Committee on Cancer cT1"),
        "T2": Code("1228929004", "SCT", "American Joint Committee on Cancer cT2"),
        "T3": Code("1228938002", "SCT", "American Joint Committee on Cancer cT3"),
        "T4": Code("1228944003", "SCT", "American Joint Committee on Cancer cT4"),
    }
)
FINDING_METHOD: Final = Code("418775008", "SCT", "Finding method")  # "by imaging alone" in code
AJCC_8: Final = Code("897275008", "SCT", "AJCC Cancer Staging Manual 8th edition")  # mCODE, TNM Staging Method
AJCC_9: Final = Code("1269566009", "SCT", "AJCC Cancer Staging Manual 9th version")  # mCODE, TNM Staging Method
EDITIONS: Final[Mapping[str, Code]] = MappingProxyType({"8": AJCC_8, "9": AJCC_9})
_EDITION: Final = re.compile(r"\b(\d+)th\b|\bversion (\d+)\b", re.IGNORECASE)

# --- measurements -----------------------------------------------------------------------------------------------------

TRACKING_UID: Final = Code("112040", "DCM", "Tracking Unique Identifier")
VOLUME: Final = Code("118565006", "SCT", "Volume")
CUBIC_CENTIMETRE: Final = Code("cm3", "UCUM", "cubic centimeter")
VOXEL_SUM: Final = Code("126030", "DCM", "Sum of segmented voxel method for volume")  # CID 7474
PROBABILITY: Final = Code("122157", "DCM", "Probability")
NO_UNITS: Final = Code("1", "UCUM", "no units")
MEASUREMENT_METHOD: Final = Code("370129005", "SCT", "Measurement Method")
SOURCE_OF_MEASUREMENT: Final = Code("121112", "DCM", "Source of Measurement")

# --- the document -----------------------------------------------------------------------------------------------------

IMAGING_MEASUREMENT_REPORT: Final = Code("126000", "DCM", "Imaging Measurement Report")  # CID 7021
LANGUAGE: Final = Code("121049", "DCM", "Language of Content Item and Descendants")
LANGUAGE_EN_US: Final = Code("en-US", "RFC5646", "English (United States)")
IMAGING_REPORT: Final = Code("18748-4", "LN", "Diagnostic Imaging Report")  # CID 7000
FINDINGS: Final = Code("121070", "DCM", "Findings")  # CID 7001
FINDING: Final = Code("121071", "DCM", "Finding")
CONCLUSIONS: Final = Code("121076", "DCM", "Conclusions")  # CID 7001
PROCEDURE_REPORTED: Final = Code("121058", "DCM", "Procedure reported")
KEY_IMAGE: Final = Code("121080", "DCM", "Best illustration of finding")
DEVICE: Final = Code("121007", "DCM", "Device")  # CID 270
ARTIFICIAL_INTELLIGENCE: Final = Code("123110", "DCM", "Artificial Intelligence")  # CID 7162
COMMENT: Final = Code("121106", "DCM", "Comment")
INDICATION: Final = Code("121109", "DCM", "Indications for Procedure")


def edition_code(edition: str) -> Code | None:
    """The code of a staging edition as bundles spell it, or None where no code is known to us.

    The first edition that is named counts: "8th edition (T category unchanged in the 9th)" is the 8th.
    """
    found = _EDITION.search(edition)
    return EDITIONS.get(found[1] or found[2]) if found else None
