"""Asking a series what the rules want to know: three-valued answers (Kleene), and reasons in words a human can read.

A missing attribute is neither true nor false, unless its clause says which. Every answer carries the tag values that
decided it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from npc_rtnode.domain.clauses import (
    EXISTENCE_OPS,
    MATCHED_CHARACTERS,
    REGEX_FLAGS,
    Clause,
    Group,
    Join,
    Node,
    Op,
    Over,
)
from npc_rtnode.domain.facts import CONCLUDED, measured
from npc_rtnode.domain.records import AttributeValue, AttributeValues, SeriesAttributes, Truth, Verdict

SHOWN_CHARACTERS = 64
"""A value in a reason is cut here: a description attribute (LO) has at most 64 characters anyway."""

FACT_CHARACTERS = 512
"""What the node itself found out is told at length: the numbers stand in it."""

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

Entry = AttributeValues | None


@dataclass(frozen=True)
class Answer:
    """What a node came to; `facts` are the deciding values alone, `because` says also what was wanted of them."""

    truth: Truth
    facts: tuple[str, ...]
    because: str


def verdict_of(node: Node, attributes: SeriesAttributes) -> Verdict:
    """A named node's answer as the ledger keeps it."""
    answer = judge(node, attributes)
    return Verdict(node.name, answer.truth, answer.because)


def judge(node: Node, attributes: SeriesAttributes) -> Answer:
    """What a clause or a group comes to on a series."""
    return _judge_group(node, attributes) if isinstance(node, Group) else _judge_clause(node, attributes)


def _judge_group(group: Group, attributes: SeriesAttributes) -> Answer:
    answers = [judge(node, attributes) for node in group.clauses]
    truths = [answer.truth for answer in answers]
    joined = any_true(truths) if group.join is Join.ANY_OF else all_true(truths)
    result = opposite(joined) if group.join is Join.NOT else joined
    deciding = [answer for answer in answers if answer.truth is joined]
    facts = tuple(dict.fromkeys(fact for answer in deciding for fact in answer.facts))
    if group.wanted and result is not Truth.TRUE:
        return Answer(result, facts, f"{', '.join(facts)} (wanted {group.wanted})")
    return Answer(result, facts, "; ".join(dict.fromkeys(answer.because for answer in deciding)))


def _judge_clause(clause: Clause, attributes: SeriesAttributes) -> Answer:
    entries = entries_of(clause.tag, attributes)
    truths = [_answer(clause, entry) for entry in entries]
    result = _over_slices(clause.over, truths)
    deciding = [entry for entry, truth in zip(entries, truths, strict=True) if truth is result] or entries
    most = FACT_CHARACTERS if clause.tag.startswith("@") else SHOWN_CHARACTERS
    fact = f"{clause.tag} {listed(deciding, most)}{_source(clause.tag, attributes)}"
    if clause.over is Over.CONSTANT and len(set(entries) - {None}) > 1:
        result, fact = Truth.FALSE, f"{clause.tag} differs between slices: {listed(entries)}"
    return Answer(result, (fact,), fact if result is Truth.TRUE else f"{fact} (wanted {_wish(clause)})")


def _over_slices(over: Over, truths: Sequence[Truth]) -> Truth:
    if not truths:
        return Truth.UNKNOWN
    return any_true(truths) if over is Over.ANY else all_true(truths)


def entries_of(tag: str, attributes: SeriesAttributes) -> Sequence[Entry]:
    """One entry a slice for an attribute, a single one for a fact; None where there is nothing."""
    if not tag.startswith("@"):
        return attributes.values.get(tag, (None,) * attributes.slices)
    fact = CONCLUDED[tag].conclude(attributes).value if tag in CONCLUDED else attributes.derived.get(tag)
    return [None if fact is None else (fact,)]


def _source(tag: str, attributes: SeriesAttributes) -> str:
    """What stands behind a fact: the attributes that it was concluded from, or the number that decided it."""
    because = CONCLUDED[tag].conclude(attributes).because if tag in CONCLUDED else measured(tag, attributes)
    return f" ({because})" if because else ""


def _answer(clause: Clause, entry: Entry) -> Truth:
    """One slice's answer."""
    if clause.op in EXISTENCE_OPS:
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


def shown(value: AttributeValue, most: int = SHOWN_CHARACTERS) -> str:
    """A value as a reason may quote it: at most so many characters, control and direction characters escaped."""
    if not isinstance(value, str):
        return f"{value:g}"
    cut = value if len(value) <= most else value[: most - 1] + "…"
    return '"' + "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut) + '"'


def _shown_entry(entry: Entry, most: int) -> str:
    if entry is None:
        return "is missing"
    return "is " + shown("\\".join(map(str, entry)) if len(entry) > 1 else entry[0], most)


def listed(entries: Sequence[Entry], most: int = SHOWN_CHARACTERS) -> str:
    """The distinct entries, at most three, each of at most so many characters."""
    distinct = list(dict.fromkeys(_shown_entry(entry, most) for entry in entries))
    more = f" and {len(distinct) - 3} more" if len(distinct) > 3 else ""
    return (", ".join(distinct[:3]) or "has no slices") + more


def _wish(clause: Clause) -> str:
    if clause.wanted:
        return clause.wanted
    joint = " and " if clause.op is Op.BETWEEN else ", "
    return f"{clause.op.replace('_', ' ')} {joint.join(map(shown, clause.value))}".strip()
