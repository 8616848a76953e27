"""What a rule file can say: clauses about one attribute, groups of them, preferences between series that pass.

    [[clauses]]
    name = "echo time"
    tag = "EchoTime"
    op = "at_most"
    value = 30
    over = "all"            # all (default) | any | constant
    missing = "unknown"     # unknown (default) | true | false

    [[prefer]]              # the first preference that tells two series apart decides
    name = "fat-suppressed"
    tag = "@fat_suppressed"
    op = "equals"
    value = "yes"

    [[prefer]]
    name = "finer slices"
    tag = "@spacing_mm"
    order = "lower"         # lower | higher
    step = 0.1              # values no further than this from the best one count as equal

`any_of`, `all_of` and `not` nest. The words are plain values; asking them is evaluation.py's, reading them from a file
is rule_loading.py's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from npc_rtnode.domain.records import AttributeValues, Truth

MATCHED_CHARACTERS = 1024
"""Regular expressions see this much of a text: a bad pattern on a long text must not stop the node."""

REGEX_FLAGS = re.IGNORECASE | re.ASCII
r"""Case never decides. ASCII, so that `\b` also stands between a Chinese and a Latin letter, as in 鼻咽NPC平扫."""

DERIVED_FACTS: Mapping[str, str] = {
    "@plane": "CS",
    "@plane_angle_deg": "FD",
    "@slices": "UL",
    "@stack": "LO",
    "@spacing_mm": "FD",
    "@row_spacing_mm": "FD",
    "@column_spacing_mm": "FD",
    "@mosaic": "CS",
    "@phantom": "CS",
    "@sop_class": "LO",
    "@pixels": "LT",
    "@fat_suppressed": "CS",
}
"""Facts over a whole series that no single element states, with the VR whose operators they take. The reader judges
them, but for those that follow from other attributes alone (facts.py)."""

NUMERIC_VRS = frozenset({"DS", "IS", "US", "SS", "UL", "SL", "FL", "FD", "UV", "SV"})
TEXT_VRS = frozenset({"AE", "CS", "LO", "LT", "SH", "ST", "UC", "UR", "UT", "SQ"})  # a sequence is judged by its texts
CODE_VRS = frozenset({"UI", "AS", "DA", "DT", "TM"})  # compared as a whole, never by pattern

IDENTITY_KEYWORDS = frozenset(
    {
        "PatientID",
        "IssuerOfPatientID",
        "OtherPatientIDs",
        "OtherPatientIDsSequence",
        "PatientBirthDate",
        "PatientBirthTime",
        "PatientAddress",
        "PatientTelephoneNumbers",
        "PatientComments",
        "MedicalRecordLocator",
        "AccessionNumber",
    }
)
"""A reason quotes values and is stored and shown: rules may not ask for these, nor for any person name (PN)."""


class Op(StrEnum):
    """The questions a clause can ask. Comparisons with text are exact; `matches` ignores case."""

    EQUALS = "equals"
    NOT_EQUALS = "not_equals"
    ONE_OF = "one_of"
    NONE_OF = "none_of"
    MATCHES = "matches"
    NOT_MATCHES = "not_matches"
    PRESENT = "present"
    ABSENT = "absent"
    AT_LEAST = "at_least"
    AT_MOST = "at_most"
    BETWEEN = "between"
    CONTAINS_VALUE = "contains_value"
    LACKS_VALUE = "lacks_value"


class Over(StrEnum):
    """How the slices' answers become one."""

    ALL = "all"
    ANY = "any"
    CONSTANT = "constant"  # all, and the same value on every slice


class Join(StrEnum):
    """How a group's clauses become one."""

    ANY_OF = "any_of"
    ALL_OF = "all_of"
    NOT = "not"


EXISTENCE_OPS = {Op.PRESENT, Op.ABSENT}
ORDER_OPS = {Op.AT_LEAST, Op.AT_MOST, Op.BETWEEN}
PATTERN_OPS = {Op.MATCHES, Op.NOT_MATCHES}
LIST_OPS = {Op.ONE_OF, Op.NONE_OF, Op.CONTAINS_VALUE, Op.LACKS_VALUE, Op.EQUALS, Op.NOT_EQUALS}


@dataclass(frozen=True)
class Clause:
    """One question about one attribute."""

    tag: str
    op: Op
    value: AttributeValues = ()
    over: Over = Over.ALL
    missing: Truth = Truth.UNKNOWN
    name: str = ""
    wanted: str = ""  # what a person reads as the wish; without it the operator and its value


@dataclass(frozen=True)
class Group:
    """Clauses under one conjunction."""

    join: Join
    clauses: tuple[Node, ...]
    name: str = ""
    wanted: str = ""


Node = Clause | Group


class Order(StrEnum):
    """Which end of a number is better."""

    LOWER = "lower"
    HIGHER = "higher"


@dataclass(frozen=True)
class Ordering:
    """Of two series the one with the lower (higher) number is preferred; within `step` of the best they are equal."""

    tag: str
    order: Order
    step: float = 0.0
    name: str = ""


Preference = Clause | Group | Ordering
"""A clause or group prefers a series of which it is TRUE to every other: what is not known is not preferred."""


def tags_of(asked: Iterable[Preference]) -> Iterator[str]:
    """Every tag that is asked for, derived facts included, nested ones too."""
    for item in asked:
        if isinstance(item, Group):
            yield from tags_of(item.clauses)
        else:
            yield item.tag


def canonical(item: Preference) -> dict[str, Any]:
    """What a clause, group or preference says, and nothing of how it is written down or worded to people."""
    if isinstance(item, Ordering):
        return {"name": item.name, "tag": item.tag, "order": item.order, "step": float(item.step)}
    if isinstance(item, Group):
        return {"name": item.name, "join": item.join, "clauses": [canonical(inner) for inner in item.clauses]}
    value = [part if isinstance(part, str) else float(part) for part in item.value]
    asked = {"tag": item.tag, "op": item.op, "value": value, "over": item.over, "missing": item.missing}
    return {"name": item.name, **asked}
