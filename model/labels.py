"""Words and rules shared by every floor above: tissues, structures, stages, the TNM rule and the data statement."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Final

STAGES: Final = ("T1", "T2", "T3", "T4")
NO_TUMOUR: Final = "none"
"""What stands for the stage of a phantom without tumour; no network output and no T category."""

STAGING_EDITION: Final = "UICC/AJCC 8th edition (T category unchanged in the 9th)"
STRUCTURE: Final = "GTVp"
STATEMENT: Final = "synthetic phantom - not for clinical use"
CHANNEL: Final = "t1c"

PAPER_STAGE_COUNTS: Final = {"T1": 26, "T2": 140, "T3": 87, "T4": 67}
"""T categories of the paper's first data set (320 patients, table 1)."""

INVASION_MM3: Final = 150.0
"""A structure counts as invaded from this volume of tumour inside it (phantom plan 6.1-4)."""


class Tissue(IntEnum):
    """Every tissue a phantom head is painted with. AIR is also the outside."""

    AIR = 0
    SKIN_FAT = 1
    SOFT = 2
    VAULT = 3
    BRAIN = 4
    CSF = 5
    CORD = 6
    MASTICATOR_FAT = 7
    MASSETER = 8
    TEMPORALIS = 9
    MANDIBLE = 10
    MEDIAL_PTERYGOID = 11
    LATERAL_PTERYGOID = 12
    PAROTID = 13
    PARAPHARYNGEAL = 14
    CAROTID = 15
    JUGULAR = 16
    SPINE = 17
    LONGUS = 18
    CLIVUS = 19
    PETROUS = 20
    SPHENOID = 21
    GREATER_WING = 22
    PTERYGOID_PROCESS = 23
    SINUS_AIR = 24
    SINUS_MUCOSA = 25
    CAVERNOUS = 26
    PITUITARY = 27
    ORBIT = 28
    GLOBE = 29
    NASAL_AIR = 30
    NASAL_MUCOSA = 31
    NASOPHARYNX_AIR = 32
    NASOPHARYNX = 33
    OROPHARYNX_AIR = 34
    OROPHARYNX = 35
    HYPOPHARYNX_AIR = 36
    HYPOPHARYNX = 37
    TONGUE = 38
    ADENOID = 39
    CYST = 40
    NODE = 41
    TUMOUR = 42


T = Tissue

STRUCTURES: Final[Mapping[str, tuple[Tissue, ...]]] = {
    "nasopharynx": (T.NASOPHARYNX, T.NASOPHARYNX_AIR, T.ADENOID, T.CYST),
    "oropharynx": (T.OROPHARYNX, T.OROPHARYNX_AIR),
    "nasal cavity": (T.NASAL_MUCOSA, T.NASAL_AIR),
    "parapharyngeal space": (T.PARAPHARYNGEAL,),
    "medial pterygoid muscle": (T.MEDIAL_PTERYGOID,),
    "lateral pterygoid muscle": (T.LATERAL_PTERYGOID,),
    "prevertebral muscle": (T.LONGUS,),
    "adjacent soft tissue": (T.SOFT,),
    "clivus": (T.CLIVUS,),
    "sphenoid bone": (T.SPHENOID, T.GREATER_WING),
    "petrous bone": (T.PETROUS,),
    "pterygoid process": (T.PTERYGOID_PROCESS,),
    "paranasal sinus": (T.SINUS_AIR, T.SINUS_MUCOSA),
    "cervical vertebra": (T.SPINE,),
    "cavernous sinus": (T.CAVERNOUS, T.PITUITARY),
    "intracranial": (T.BRAIN, T.CSF),
    "orbit": (T.ORBIT,),
    "parotid gland": (T.PAROTID,),
    "hypopharynx": (T.HYPOPHARYNX, T.HYPOPHARYNX_AIR),
    "masticator space": (T.MASTICATOR_FAT, T.MASSETER, T.TEMPORALIS),
}
"""Anatomical structures of the T category and the tissues that make them up."""

STRUCTURE_STAGE: Final[Mapping[str, int]] = {
    "nasopharynx": 1,
    "oropharynx": 1,
    "nasal cavity": 1,
    "parapharyngeal space": 2,
    "medial pterygoid muscle": 2,
    "lateral pterygoid muscle": 2,
    "prevertebral muscle": 2,
    "adjacent soft tissue": 2,
    "clivus": 3,
    "sphenoid bone": 3,
    "petrous bone": 3,
    "pterygoid process": 3,
    "paranasal sinus": 3,
    "cervical vertebra": 3,
    "cavernous sinus": 4,
    "intracranial": 4,
    "orbit": 4,
    "parotid gland": 4,
    "hypopharynx": 4,
    "masticator space": 4,
}
"""The T category each structure gives once invaded (TNM 8th/9th; nerve palsy is clinical and absent here)."""

NEVER: Final = 9
"""Level of tissues no phantom tumour may enter (vessels, cord, mandible, skin, ...)."""


def tissue_levels() -> list[int]:
    """Level 1..4 of every tissue by its number, ``NEVER`` where tumour is forbidden."""
    levels = [NEVER] * len(Tissue)
    for name, tissues in STRUCTURES.items():
        for tissue in tissues:
            levels[tissue] = STRUCTURE_STAGE[name]
    return levels


def stage_of(invaded_mm3: Mapping[str, float]) -> str:
    """The TNM rule: the highest category among structures invaded by ``INVASION_MM3`` or more; T1 otherwise."""
    levels = [STRUCTURE_STAGE[name] for name, volume in invaded_mm3.items() if volume >= INVASION_MM3]
    return STAGES[max(levels, default=1) - 1]


def invaded_of(invaded_mm3: Mapping[str, float]) -> tuple[bool, ...]:
    """One flag for every structure, in the order of ``STRUCTURES``: invaded by ``INVASION_MM3`` or more."""
    return tuple(invaded_mm3.get(name, 0.0) >= INVASION_MM3 for name in STRUCTURES)
