"""Which of several series of a study is preferred, and why: a lexicographic order that explains itself.

Each preference gives each candidate a mark; the first mark in which two candidates differ decides between them. Equal
in every mark is a tie, which no rule resolves: it is for a person.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from npc_rtnode.domain.clauses import Order, Ordering, Preference
from npc_rtnode.domain.evaluation import entries_of, judge, listed
from npc_rtnode.domain.records import SeriesAttributes, Truth

SIGNIFICANT_DIGITS = 6
"""Numbers that agree to this many digits are equal: DS is decimal text, and spacings are computed."""


@dataclass(frozen=True)
class Mark:
    """How one candidate stands in one preference: the lower `key` is preferred; `said` are the values behind it."""

    key: float
    said: str


@dataclass(frozen=True)
class Ranking:
    """The marks of every candidate, and the names of the preferences in their order."""

    preferences: tuple[str, ...]
    marks: Mapping[int, tuple[Mark, ...]]

    @property
    def best(self) -> tuple[int, ...]:
        """The preferred candidate; several if they tie."""
        return tuple(number for number in self.marks if self.place(number) == 1)

    def place(self, number: int) -> int:
        """1 for the best; those that tie share a place."""
        return 1 + sum(self._keys(other) < self._keys(number) for other in self.marks)

    def why(self, better: int, worse: int) -> str:
        """The first preference that tells the two apart, with the values of both; nothing where none does."""
        for name, one, other in zip(self.preferences, self.marks[better], self.marks[worse], strict=True):
            if one.key != other.key:
                return f"{name}: {one.said} there, {other.said} here"
        return ""

    def _keys(self, number: int) -> tuple[float, ...]:
        return tuple(mark.key for mark in self.marks[number])


def rank(preferences: Sequence[Preference], candidates: Mapping[int, SeriesAttributes]) -> Ranking:
    """The candidates, by number, under these preferences."""
    marks = {
        number: tuple(_mark(item, attributes) for item in preferences) for number, attributes in candidates.items()
    }
    return Ranking(tuple(item.name for item in preferences), marks)


def _mark(preference: Preference, attributes: SeriesAttributes) -> Mark:
    if isinstance(preference, Ordering):
        return _number_mark(preference, attributes)
    answer = judge(preference, attributes)
    return Mark(0.0 if answer.truth is Truth.TRUE else 1.0, ", ".join(answer.facts))


def _number_mark(ordering: Ordering, attributes: SeriesAttributes) -> Mark:
    """The worst slice counts; a series without the number comes last."""
    entries = entries_of(ordering.tag, attributes)
    numbers = [float(part) for entry in entries for part in entry or () if not isinstance(part, str)]
    keys = [_rounded(number, ordering.step) * (1 if ordering.order is Order.LOWER else -1) for number in numbers]
    return Mark(max(keys, default=math.inf), f"{ordering.tag} {listed(entries)}")


def _rounded(number: float, step: float) -> float:
    return float(round(number / step)) if step else float(f"{number:.{SIGNIFICANT_DIGITS}g}")
