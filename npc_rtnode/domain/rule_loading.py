"""From a parsed rule file to a checked rule set; everything that is wrong with the file is told at once.

An operator is checked against the Value Representation of its tag (PS3.5 6.2), a pattern is compiled, a keyword is
looked up (PS3.6): what can be wrong in a rule file is found when it is loaded, not when a patient's series comes.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from npc_rtnode.domain.clauses import (
    CODE_VRS,
    DERIVED_FACTS,
    EXISTENCE_OPS,
    IDENTITY_KEYWORDS,
    LIST_OPS,
    NUMERIC_VRS,
    ORDER_OPS,
    PATTERN_OPS,
    REGEX_FLAGS,
    TEXT_VRS,
    Clause,
    Group,
    Join,
    Node,
    Op,
    Order,
    Ordering,
    Over,
    Preference,
)
from npc_rtnode.domain.records import AttributeValue, AttributeValues, Truth
from npc_rtnode.domain.rules import RuleSet
from npc_rtnode.errors import RulesFault

_CLAUSE_KEYS = {"name", "tag", "op", "value", "over", "missing", "wanted"}
_GROUP_KEYS = {"name", "wanted"}
_ORDERING_KEYS = {"name", "tag", "order", "step"}
_RULE_SET_KEYS = {"name", "role", "description", "clauses", "prefer"}
_DEEPEST = 8


def load_rules(raw: Mapping[str, Any], vr_of: Callable[[str], str | None], keywords: Iterable[str] = ()) -> RuleSet:
    """A checked rule set from a parsed rule file; RulesFault lists every mistake, each with where it is.

    `vr_of` gives a keyword's VR or None (PS3.6); `keywords` are the ones a misspelled keyword is compared with.
    """
    loader = _Loader(vr_of, tuple(keywords))
    nodes = loader.clauses(raw.get("clauses"), "clauses")
    loader.names(nodes, "clauses")
    preferences = loader.preferences(raw.get("prefer", []))
    loader.top_level(raw)
    if loader.faults:
        raise RulesFault("\n".join(loader.faults))
    return RuleSet(raw["name"], raw["role"], nodes, raw.get("description", ""), preferences)


@dataclass
class _Loader:
    """Walks a rule file and gathers what is wrong with it instead of stopping at the first mistake."""

    vr_of: Callable[[str], str | None]
    keywords: tuple[str, ...]
    faults: list[str] = field(default_factory=list)

    def fault(self, where: str, text: str) -> None:
        self.faults.append(f"{where}: {text}")

    def top_level(self, raw: Mapping[str, Any]) -> None:
        for key in ("name", "role"):
            if not isinstance(raw.get(key), str) or not raw[key]:
                self.fault(key, "a text is needed")
        if not isinstance(raw.get("description", ""), str):
            self.fault("description", "a text is needed")
        self.unknown_keys(raw, _RULE_SET_KEYS, "the rule set")

    def names(self, items: Sequence[Preference], where: str) -> None:
        """What is told by its name must have one, and one of its own."""
        names = [item.name for item in items]
        for name in sorted({name for name in names if names.count(name) > 1 and name}):
            self.fault(where, f"two are called {name!r}")
        if "" in names:
            self.fault(where, f"number {names.index('') + 1} has no name: what it decides could not be told")

    def unknown_keys(self, raw: Mapping[str, Any], known: set[str], where: str) -> None:
        for key in sorted(set(raw) - known):
            self.fault(where, f"unknown key {key!r}{_did_you_mean(key, known)}")

    def clauses(self, raw: Any, where: str, depth: int = 0) -> tuple[Node, ...]:
        if not isinstance(raw, list) or not raw:
            self.fault(where, "a list with at least one clause is needed")
            return ()
        if depth > _DEEPEST:
            self.fault(where, f"nested deeper than {_DEEPEST}")
            return ()
        nodes = [self.node(item, f"{where}[{k + 1}]", depth) for k, item in enumerate(raw)]
        return tuple(node for node in nodes if node is not None)

    def preferences(self, raw: Any) -> tuple[Preference, ...]:
        if not isinstance(raw, list):
            self.fault("prefer", "a list of preferences is needed")
            return ()
        found = [self.preference(item, f"prefer[{k + 1}]") for k, item in enumerate(raw)]
        items = tuple(item for item in found if item is not None)
        self.names(items, "prefer")
        return items

    def preference(self, raw: Any, where: str) -> Preference | None:
        ordered = isinstance(raw, Mapping) and "order" in raw
        return self.ordering(raw, f"{where} {raw.get('name', '')!r}") if ordered else self.node(raw, where, 0)

    def ordering(self, raw: Mapping[str, Any], where: str) -> Ordering | None:
        before = len(self.faults)
        self.unknown_keys(raw, _ORDERING_KEYS, where)
        vr = self.vr(raw.get("tag"), where)
        if vr and not _numeric(vr):
            self.fault(where, f"order cannot be asked of {raw['tag']} (VR {vr}): order is asked of numbers only")
        order = self.word(Order, raw["order"], "order", where)
        name, step = raw.get("name", ""), raw.get("step", 0)
        if not isinstance(name, str):
            self.fault(where, "name must be a text")
        if _type_complaint((step,), numeric=True) or step < 0:
            self.fault(where, f"step {step!r} is not a number from 0 on")
        return None if len(self.faults) > before else Ordering(raw["tag"], Order(order), float(step), name)

    def node(self, raw: Any, where: str, depth: int) -> Node | None:
        if not isinstance(raw, Mapping):
            self.fault(where, "a table is needed")
            return None
        where = f"{where} {raw['name']!r}" if isinstance(raw.get("name"), str) else where
        for key in ("name", "wanted"):
            if not isinstance(raw.get(key, ""), str):
                self.fault(where, f"{key} must be a text")
                return None
        joins = [join for join in Join if join in raw]
        return self.group(raw, joins, where, depth) if joins else self.clause(raw, where)

    def group(self, raw: Mapping[str, Any], joins: list[Join], where: str, depth: int) -> Node | None:
        if len(joins) > 1:
            self.fault(where, f"has {' and '.join(joins)}: one of them, nested, is needed")
            return None
        join = joins[0]
        self.unknown_keys(raw, _GROUP_KEYS | {join}, where)
        inner = [raw[join]] if join is Join.NOT and isinstance(raw[join], Mapping) else raw[join]
        nodes = self.clauses(inner, f"{where}.{join}", depth + 1)
        if join is Join.NOT and len(nodes) > 1:
            self.fault(where, "not takes one clause")
        return Group(join, nodes, raw.get("name", ""), raw.get("wanted", "")) if nodes else None

    def clause(self, raw: Mapping[str, Any], where: str) -> Node | None:
        before = len(self.faults)
        self.unknown_keys(raw, _CLAUSE_KEYS, where)
        vr = self.vr(raw.get("tag"), where)
        op = self.word(Op, raw.get("op"), "op", where)
        over = self.word(Over, raw.get("over", "all"), "over", where)
        missing = self.word(Truth, str(raw.get("missing", "unknown")).upper(), "missing", where)
        value = self.value(raw, vr, Op(op), where) if vr and op else ()
        if len(self.faults) > before:
            return None
        name, wanted = raw.get("name", ""), raw.get("wanted", "")
        return Clause(raw["tag"], Op(op), value, Over(over), Truth(missing), name, wanted)

    def word(self, kind: type[StrEnum], given: Any, key: str, where: str) -> str:
        known = [str(member) for member in kind]
        if given in known:
            return str(given)
        self.fault(where, f"{key} {given!r} is none of {', '.join(known)}{_did_you_mean(given, known)}".lower())
        return ""

    def vr(self, tag: Any, where: str) -> str | None:
        """The tag's VR, or None after saying why a rule cannot ask for it."""
        if not isinstance(tag, str) or not tag:
            self.fault(where, "a tag is needed: a DICOM keyword or a derived fact such as @plane")
            return None
        derived = tag.startswith("@")
        vr = DERIVED_FACTS.get(tag) if derived else self.vr_of(tag)
        if vr is None:
            known = DERIVED_FACTS if derived else self.keywords
            self.fault(where, f"unknown {'fact' if derived else 'DICOM keyword'} {tag!r}{_did_you_mean(tag, known)}")
        elif vr == "PN" or tag in IDENTITY_KEYWORDS:
            self.fault(where, f"{tag} identifies the patient or a person; rules may not ask for it")
            return None
        return vr

    def value(self, raw: Mapping[str, Any], vr: str, op: Op, where: str) -> AttributeValues:
        """The clause's values, checked against operator and VR."""
        numeric = _numeric(vr)
        refusal = _refusal(op, vr, numeric)
        if refusal:
            self.fault(where, f"op {op} cannot be asked of {raw['tag']} (VR {vr}): {refusal}")
            return ()
        given = raw.get("value", [])
        values = tuple(given) if isinstance(given, list) else (given,)
        complaint = _complaint(op, values) or _type_complaint(values, numeric) or _pattern_complaint(op, values)
        if complaint:
            self.fault(where, complaint)
        return values


def _is_finite(value: AttributeValue) -> bool:
    return not isinstance(value, str) and math.isfinite(value)


def _numeric(vr: str) -> bool:
    return set(vr.split(" or ")) <= NUMERIC_VRS


def _refusal(op: Op, vr: str, numeric: bool) -> str:
    """Why this operator makes no sense for this VR, or nothing."""
    if op in ORDER_OPS and not numeric:
        return "order is asked of numbers only"
    if op in PATTERN_OPS and vr not in TEXT_VRS:
        return "patterns are asked of text only"
    if vr == "SQ" and op not in PATTERN_OPS | EXISTENCE_OPS:
        return "a sequence takes matches, not_matches, present and absent"
    if not numeric and vr not in TEXT_VRS | CODE_VRS:
        return "values of this VR are not read"
    return ""


def _complaint(op: Op, values: AttributeValues) -> str:
    """How many values the operator takes."""
    if op in EXISTENCE_OPS:
        return f"op {op} takes no value" if values else ""
    if op is Op.BETWEEN:
        return "" if len(values) == 2 else "op between takes [lowest, highest]"
    if op in LIST_OPS:
        return "" if values else f"op {op} needs a value"
    return "" if len(values) == 1 else f"op {op} takes one value"


def _type_complaint(values: AttributeValues, numeric: bool) -> str:
    kinds: tuple[type, ...] = (int, float) if numeric else (str,)
    wrong = [value for value in values if not isinstance(value, kinds) or isinstance(value, bool)]
    if wrong:
        return f"value {wrong[0]!r} is not a {'number' if numeric else 'text'}"
    return "value is not a finite number" if numeric and not all(map(_is_finite, values)) else ""


def _pattern_complaint(op: Op, values: AttributeValues) -> str:
    if op is Op.BETWEEN and float(values[0]) > float(values[1]):
        return f"between {values[0]} and {values[1]} lies nothing"
    if op not in PATTERN_OPS:
        return ""
    try:
        re.compile(str(values[0]), REGEX_FLAGS)
    except re.error as error:
        return f"pattern {values[0]!r} is no regular expression: {error}"
    return ""


def _did_you_mean(word: Any, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""
