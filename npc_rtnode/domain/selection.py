"""Is this series the kind the bundle was made for? Typed rules, three-valued answers, reasons a human can read.

A rule set is a list of top-level clauses that must all be TRUE. A clause asks one attribute one question (tag, op,
value) of every slice; `any_of`, `all_of` and `not` nest. What can be wrong in a rule file is found when it is loaded,
all of it at once: an operator is checked against the Value Representation of its tag (PS3.5 6.2). A missing attribute
is neither true nor false, unless the clause says which: the series is then held for a person.

    [[clauses]]
    name = "echo time"
    tag = "EchoTime"
    op = "at_most"
    value = 30
    over = "all"            # all (default) | any | constant
    missing = "unknown"     # unknown (default) | true | false
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from npc_rtnode.domain.identifiers import digest_of
from npc_rtnode.domain.records import AttributeValue, AttributeValues, SeriesAttributes, Truth, Verdict
from npc_rtnode.errors import RulesFault

SHOWN_CHARACTERS = 64
"""A value in a reason is cut here: a description attribute (LO) has at most 64 characters anyway."""

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
}
"""Facts that the reader judges over a whole series, with the VR whose operators they take."""

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


_EXISTENCE = {Op.PRESENT, Op.ABSENT}
_ORDER = {Op.AT_LEAST, Op.AT_MOST, Op.BETWEEN}
_PATTERN = {Op.MATCHES, Op.NOT_MATCHES}
_LISTS = {Op.ONE_OF, Op.NONE_OF, Op.CONTAINS_VALUE, Op.LACKS_VALUE, Op.EQUALS, Op.NOT_EQUALS}


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


@dataclass(frozen=True)
class RuleSet:
    """Top-level clauses that a series must all satisfy to take `role` in the bundle."""

    name: str
    role: str
    clauses: tuple[Node, ...]
    description: str = ""

    @property
    def hash(self) -> str:
        """Digest of what the rules say, not of how the file is laid out."""
        return digest_of({"name": self.name, "role": self.role, "clauses": [_canonical(node) for node in self.clauses]})

    def keywords(self) -> tuple[str, ...]:
        """The DICOM attributes that the rules ask for, sorted; derived facts are not among them."""
        return tuple(sorted({clause.tag for clause in _leaves(self.clauses) if not clause.tag.startswith("@")}))

    def evaluate(self, attributes: SeriesAttributes) -> tuple[Verdict, ...]:
        """One verdict a top-level clause, with the tag values that decided it."""
        return tuple(_verdict(node, attributes) for node in self.clauses)


# --- the decision -----------------------------------------------------------------------------------------------------


class Outcome(StrEnum):
    """What selection does with a series."""

    ELIGIBLE = "eligible"
    SET_ASIDE = "set_aside"
    HELD = "held"


@dataclass(frozen=True)
class Decision:
    """The outcome and, unless it is eligible, the reasons: one line a verdict that stands in the way."""

    outcome: Outcome
    reasons: tuple[str, ...] = ()

    @property
    def eligible(self) -> bool:
        """Every verdict is TRUE."""
        return self.outcome is Outcome.ELIGIBLE

    @property
    def set_aside(self) -> bool:
        """A verdict is FALSE."""
        return self.outcome is Outcome.SET_ASIDE

    @property
    def held(self) -> bool:
        """No verdict is FALSE and one is UNKNOWN."""
        return self.outcome is Outcome.HELD


def decide(verdicts: Sequence[Verdict]) -> Decision:
    """Any FALSE sets aside; else any UNKNOWN holds; else eligible. No verdict at all holds: nothing was judged."""
    for truth, outcome in ((Truth.FALSE, Outcome.SET_ASIDE), (Truth.UNKNOWN, Outcome.HELD)):
        deciding = tuple(f"{verdict.rule}: {verdict.because}" for verdict in verdicts if verdict.truth is truth)
        if deciding:
            return Decision(outcome, deciding)
    if not verdicts:
        return Decision(Outcome.HELD, ("no rule was asked",))
    return Decision(Outcome.ELIGIBLE)


def _verdict(node: Node, attributes: SeriesAttributes) -> Verdict:
    answer = _judge(node, attributes)
    return Verdict(node.name, answer.truth, answer.because)


# --- three-valued logic (Kleene) --------------------------------------------------------------------------------------


def all_true(truths: Iterable[Truth]) -> Truth:
    """Kleene's and: FALSE decides, then UNKNOWN."""
    found = set(truths)
    return next((truth for truth in (Truth.FALSE, Truth.UNKNOWN) if truth in found), Truth.TRUE)


def any_true(truths: Iterable[Truth]) -> Truth:
    """Kleene's or: TRUE decides, then UNKNOWN."""
    found = set(truths)
    return next((truth for truth in (Truth.TRUE, Truth.UNKNOWN) if truth in found), Truth.FALSE)


def opposite(truth: Truth) -> Truth:
    """Kleene's not: UNKNOWN stays UNKNOWN."""
    return {Truth.TRUE: Truth.FALSE, Truth.FALSE: Truth.TRUE, Truth.UNKNOWN: Truth.UNKNOWN}[truth]


def _truth(value: bool) -> Truth:
    return Truth.TRUE if value else Truth.FALSE


# --- evaluation -------------------------------------------------------------------------------------------------------

_Entry = AttributeValues | None


@dataclass(frozen=True)
class _Answer:
    """What a node came to; `facts` are the deciding values alone, `because` says also what was wanted of them."""

    truth: Truth
    facts: tuple[str, ...]
    because: str


def _judge(node: Node, attributes: SeriesAttributes) -> _Answer:
    return _judge_group(node, attributes) if isinstance(node, Group) else _judge_clause(node, attributes)


def _judge_group(group: Group, attributes: SeriesAttributes) -> _Answer:
    answers = [_judge(node, attributes) for node in group.clauses]
    truths = [answer.truth for answer in answers]
    joined = any_true(truths) if group.join is Join.ANY_OF else all_true(truths)
    result = opposite(joined) if group.join is Join.NOT else joined
    deciding = [answer for answer in answers if answer.truth is joined]
    facts = tuple(dict.fromkeys(fact for answer in deciding for fact in answer.facts))
    if group.wanted and result is not Truth.TRUE:
        return _Answer(result, facts, f"{', '.join(facts)} (wanted {group.wanted})")
    return _Answer(result, facts, "; ".join(dict.fromkeys(answer.because for answer in deciding)))


def _judge_clause(clause: Clause, attributes: SeriesAttributes) -> _Answer:
    entries = _entries(clause.tag, attributes)
    truths = [_answer(clause, entry) for entry in entries]
    result = _over_slices(clause.over, truths)
    deciding = [entry for entry, truth in zip(entries, truths, strict=True) if truth is result] or entries
    fact = f"{clause.tag} {_listed(deciding)}"
    if clause.over is Over.CONSTANT and len(set(entries) - {None}) > 1:
        result, fact = Truth.FALSE, f"{clause.tag} differs between slices: {_listed(entries)}"
    return _Answer(result, (fact,), fact if result is Truth.TRUE else f"{fact} (wanted {_wish(clause)})")


def _over_slices(over: Over, truths: Sequence[Truth]) -> Truth:
    if not truths:
        return Truth.UNKNOWN
    return any_true(truths) if over is Over.ANY else all_true(truths)


def _entries(tag: str, attributes: SeriesAttributes) -> Sequence[_Entry]:
    if not tag.startswith("@"):
        return attributes.values.get(tag, (None,) * attributes.slices)
    fact = attributes.derived.get(tag)
    return [None if fact is None else (fact,)]


def _answer(clause: Clause, entry: _Entry) -> Truth:
    """One slice's answer."""
    if clause.op in _EXISTENCE:
        return _truth((entry is not None) is (clause.op is Op.PRESENT))
    if entry is None:
        return clause.missing
    return _truth(_ASK[clause.op](entry, clause.value))


def _equals(entry: AttributeValues, wanted: AttributeValues) -> bool:
    return len(entry) == len(wanted) and all(map(_same, entry, wanted))


def _is_one_of(entry: AttributeValues, wanted: AttributeValues) -> bool:
    return len(entry) == 1 and _contains(entry, wanted)


def _contains(entry: AttributeValues, wanted: AttributeValues) -> bool:
    return any(_same(part, wish) for part in entry for wish in wanted)


def _same(one: AttributeValue, other: AttributeValue) -> bool:
    """Numbers to a millionth (DS is decimal text of at most 16 characters), text exactly."""
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-9)


def _matches(entry: AttributeValues, wanted: AttributeValues) -> bool:
    text = "\\".join(str(part) for part in entry)[:MATCHED_CHARACTERS]
    return re.search(str(wanted[0]), text, REGEX_FLAGS) is not None


def _lies_between(entry: AttributeValues, wanted: AttributeValues) -> bool:
    return all(_number(wanted[0]) <= _number(part) <= _number(wanted[1]) for part in entry)


def _number(value: AttributeValue) -> float:
    """NaN, which no comparison accepts, for a text where a number should be."""
    return math.nan if isinstance(value, str) else float(value)


_ASK: Mapping[Op, Callable[[AttributeValues, AttributeValues], bool]] = {
    Op.EQUALS: _equals,
    Op.NOT_EQUALS: lambda entry, wanted: not _equals(entry, wanted),
    Op.ONE_OF: _is_one_of,
    Op.NONE_OF: lambda entry, wanted: not _is_one_of(entry, wanted),
    Op.MATCHES: _matches,
    Op.NOT_MATCHES: lambda entry, wanted: not _matches(entry, wanted),
    Op.CONTAINS_VALUE: _contains,
    Op.LACKS_VALUE: lambda entry, wanted: not _contains(entry, wanted),
    Op.AT_LEAST: lambda entry, wanted: _lies_between(entry, (*wanted, math.inf)),
    Op.AT_MOST: lambda entry, wanted: _lies_between(entry, (-math.inf, *wanted)),
    Op.BETWEEN: _lies_between,
}


# --- reasons ----------------------------------------------------------------------------------------------------------


def shown(value: AttributeValue) -> str:
    """A value as a reason may quote it: at most SHOWN_CHARACTERS, control and direction characters escaped."""
    if not isinstance(value, str):
        return f"{value:g}"
    cut = value if len(value) <= SHOWN_CHARACTERS else value[: SHOWN_CHARACTERS - 1] + "…"
    return '"' + "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut) + '"'


def _shown_entry(entry: _Entry) -> str:
    if entry is None:
        return "is missing"
    return "is " + (shown("\\".join(map(str, entry))) if len(entry) > 1 else shown(entry[0]))


def _listed(entries: Sequence[_Entry]) -> str:
    """The distinct entries, at most three."""
    distinct = list(dict.fromkeys(_shown_entry(entry) for entry in entries))
    more = f" and {len(distinct) - 3} more" if len(distinct) > 3 else ""
    return (", ".join(distinct[:3]) or "has no slices") + more


def _wish(clause: Clause) -> str:
    if clause.wanted:
        return clause.wanted
    joint = " and " if clause.op is Op.BETWEEN else ", "
    return f"{clause.op.replace('_', ' ')} {joint.join(map(shown, clause.value))}".strip()


# --- canonical form ---------------------------------------------------------------------------------------------------


def _leaves(nodes: Iterable[Node]) -> Iterable[Clause]:
    for node in nodes:
        if isinstance(node, Group):
            yield from _leaves(node.clauses)
        else:
            yield node


def _canonical(node: Node) -> dict[str, Any]:
    if isinstance(node, Group):
        return {"name": node.name, "join": node.join, "clauses": [_canonical(inner) for inner in node.clauses]}
    value = [part if isinstance(part, str) else float(part) for part in node.value]
    asked = {"tag": node.tag, "op": node.op, "value": value, "over": node.over, "missing": node.missing}
    return {"name": node.name, **asked}


# --- loading ----------------------------------------------------------------------------------------------------------

_CLAUSE_KEYS = {"name", "tag", "op", "value", "over", "missing", "wanted"}
_GROUP_KEYS = {"name", "wanted"}
_DEEPEST = 8


def load_rules(raw: Mapping[str, Any], vr_of: Callable[[str], str | None], keywords: Iterable[str] = ()) -> RuleSet:
    """A checked rule set from a parsed rule file; RulesFault lists every mistake, each with where it is.

    `vr_of` gives a keyword's VR or None (PS3.6); `keywords` are the ones a misspelled keyword is compared with.
    """
    loader = _Loader(vr_of, tuple(keywords))
    nodes = loader.clauses(raw.get("clauses"), "clauses")
    loader.top_level(raw, nodes)
    if loader.faults:
        raise RulesFault("\n".join(loader.faults))
    return RuleSet(raw["name"], raw["role"], nodes, raw.get("description", ""))


@dataclass
class _Loader:
    """Walks a rule file and gathers what is wrong with it instead of stopping at the first mistake."""

    vr_of: Callable[[str], str | None]
    keywords: tuple[str, ...]
    faults: list[str] = field(default_factory=list)

    def fault(self, where: str, text: str) -> None:
        self.faults.append(f"{where}: {text}")

    def top_level(self, raw: Mapping[str, Any], nodes: Sequence[Node]) -> None:
        for key in ("name", "role"):
            if not isinstance(raw.get(key), str) or not raw[key]:
                self.fault(key, "a text is needed")
        if not isinstance(raw.get("description", ""), str):
            self.fault("description", "a text is needed")
        self.unknown_keys(raw, {"name", "role", "description", "clauses"}, "the rule set")
        names = [node.name for node in nodes]
        for name in sorted({name for name in names if names.count(name) > 1 and name}):
            self.fault("clauses", f"two are called {name!r}")
        if "" in names:
            self.fault("clauses", f"number {names.index('') + 1} has no name: its verdict could not be told")

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
        numeric = set(vr.split(" or ")) <= NUMERIC_VRS
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


def _refusal(op: Op, vr: str, numeric: bool) -> str:
    """Why this operator makes no sense for this VR, or nothing."""
    if op in _ORDER and not numeric:
        return "order is asked of numbers only"
    if op in _PATTERN and vr not in TEXT_VRS:
        return "patterns are asked of text only"
    if vr == "SQ" and op not in _PATTERN | _EXISTENCE:
        return "a sequence takes matches, not_matches, present and absent"
    if not numeric and vr not in TEXT_VRS | CODE_VRS:
        return "values of this VR are not read"
    return ""


def _complaint(op: Op, values: AttributeValues) -> str:
    """How many values the operator takes."""
    if op in _EXISTENCE:
        return f"op {op} takes no value" if values else ""
    if op is Op.BETWEEN:
        return "" if len(values) == 2 else "op between takes [lowest, highest]"
    if op in _LISTS:
        return "" if values else f"op {op} needs a value"
    return "" if len(values) == 1 else f"op {op} takes one value"


def _type_complaint(values: AttributeValues, numeric: bool) -> str:
    kinds: tuple[type, ...] = (int, float) if numeric else (str,)
    wrong = [value for value in values if not isinstance(value, kinds) or isinstance(value, bool)]
    if wrong:
        return f"value {wrong[0]!r} is not a {'number' if numeric else 'text'}"
    return "value is not a finite number" if numeric and not all(map(math.isfinite, map(_number, values))) else ""


def _pattern_complaint(op: Op, values: AttributeValues) -> str:
    if op is Op.BETWEEN and _number(values[0]) > _number(values[1]):
        return f"between {values[0]} and {values[1]} lies nothing"
    if op not in _PATTERN:
        return ""
    try:
        re.compile(str(values[0]), REGEX_FLAGS)
    except re.error as error:
        return f"pattern {values[0]!r} is no regular expression: {error}"
    return ""


def _did_you_mean(word: Any, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""
