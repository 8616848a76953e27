"""Is this study about nasopharyngeal carcinoma at all? Never read from the images; only said by people, in few places.

The model draws a tumour wherever it is asked to. So the indication is its own rule, apart from "is this series of the
right kind": a called AE title that a hospital reserves for NPC, a text of the order, or an operator's word. Silence is
UNKNOWN, never FALSE: the series is held for a person. Negation is not understood ("NPC excluded" states NPC), which is
one reason why every object is an unapproved draft.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from npc_rtnode.domain.clauses import MATCHED_CHARACTERS, REGEX_FLAGS
from npc_rtnode.domain.evaluation import shown
from npc_rtnode.domain.records import SeriesAttributes, Truth, Verdict

INDICATION_KEYWORDS = (
    "RequestedProcedureDescription",
    "ReasonForTheRequestedProcedure",
    "StudyDescription",
    "SeriesDescription",
    "ProtocolName",
    "AdmittingDiagnosesDescription",
    "PerformedProcedureStepDescription",
    "RequestAttributesSequence",
)
"""Where an order or a description may state the indication (PS3.3 C.7.2, C.7.3, C.4.12); sequences come flattened."""

NOT_CHECKED = (
    "A histological diagnosis of nasopharyngeal carcinoma was not checked.",
    "Absence of distant metastasis before treatment was not checked.",
    "Absence of previous radiotherapy was not checked.",
)
"""Inclusion criteria of the study behind the method (seed text 2.1) that no header states; said in every report."""

RULE = "indication"


def judge_indication(
    called_ae_meant_for_npc: bool, texts: Mapping[str, str], patterns: Sequence[str], operators_word: str | None
) -> Verdict:
    """TRUE with the first source that states the indication, else UNKNOWN.

    The operator's word comes first, since it is the latest; then the called AE title; then `texts` by keyword.
    """
    if operators_word and operators_word.strip():
        return Verdict(RULE, Truth.TRUE, f"an operator said so: {shown(operators_word.strip())}")
    if called_ae_meant_for_npc:
        return Verdict(RULE, Truth.TRUE, "the called AE title is meant for NPC")
    for keyword, text in texts.items():
        found = _first_match(text, patterns)
        if found:
            return Verdict(RULE, Truth.TRUE, f"{keyword} {shown(text)} matches {shown(found)}")
    return Verdict(RULE, Truth.UNKNOWN, f"no called AE, order or description text states NPC ({_looked_at(texts)})")


def texts_of(attributes: SeriesAttributes) -> dict[str, str]:
    """The distinct texts of the INDICATION_KEYWORDS over all slices, by keyword, in that order."""
    return {
        keyword: text
        for keyword in INDICATION_KEYWORDS
        if (text := " | ".join(_distinct(attributes.values.get(keyword, ()))))
    }


def _distinct(entries: Iterable[tuple[object, ...] | None]) -> list[str]:
    return list(dict.fromkeys(str(part) for entry in entries for part in entry or () if str(part)))


def _first_match(text: str, patterns: Sequence[str]) -> str | None:
    r"""The first pattern found. Underscore and caret count as spaces, so that `\bNPC\b` finds NPC_T1 and MR^NPC."""
    words = re.sub(r"[_^]", " ", text[:MATCHED_CHARACTERS])
    return next((pattern for pattern in patterns if re.search(pattern, words, REGEX_FLAGS)), None)


def _looked_at(texts: Mapping[str, str]) -> str:
    return "looked at " + ", ".join(texts) if texts else "no such text is present"
