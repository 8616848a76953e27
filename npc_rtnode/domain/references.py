"""Which of the images that a structure set was drawn on are here: a judgement on UIDs alone, no contour is read.

A structure set that comes in starts no job, whatever it holds. Which series it belongs to is said when it is set aside,
so that a person sees at once whether contour and image can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from npc_rtnode.domain.records import Truth, Verdict

STRUCTURE_SET = "RTSTRUCT"
"""The Modality of a series of structure sets (PS3.3 C.8.8.1)."""

RULE = "structure set"


def judge_references(named: Sequence[str], here: Mapping[str, int]) -> Verdict:
    """FALSE, since a structure set is no input; `here` has the ledger's series number of each named image received.

    `named` are the SOP Instance UIDs that one structure set references, each once.
    """
    return Verdict(RULE, Truth.FALSE, _matched(len(named), [here[uid] for uid in named if uid in here]))


def _matched(wanted: int, found: Sequence[int]) -> str:
    if not wanted:
        return "it references no image"
    said = f"matched {len(found)} of {wanted} referenced images"
    if found:
        said += f", in series {', '.join(map(str, sorted(set(found))))}"
    return said if len(found) == wanted else f"{said}; {wanted - len(found)} not here"
