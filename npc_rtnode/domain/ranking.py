"""Which of several series of a study is preferred, and why: preferences in their order, each explaining itself.

A preference gives every candidate a mark. Those whose mark falls behind the best one by more than the preference's step
are out; the next preference decides among the rest. Whoever is left after the last one ties, and no rule resolves that:
it is for a person. Falling behind is measured from the best, so no chain of small steps adds up to a large one, and the
order in which series arrive decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from npc_rtnode.domain.clauses import Order, Ordering, Preference
from npc_rtnode.domain.evaluation import entries_of, judge, listed
from npc_rtnode.domain.records import SeriesAttributes, Truth

SAME = 1e-6
"""Numbers that differ by less than this part of themselves are equal: DS is decimal text, and spacings are computed."""


@dataclass(frozen=True)
class Mark:
    """How one candidate stands in one preference: the lower `key` is preferred; `said` are the values behind it."""

    key: float
    said: str


@dataclass(frozen=True)
class Ranking:
    """The candidates by place (1 is the best, those that tie share it), and why each is not the best."""

    places: Mapping[int, int]
    because: Mapping[int, str]

    @property
    def best(self) -> tuple[int, ...]:
        """The preferred candidate; several if they tie."""
        return tuple(number for number, place in self.places.items() if place == 1)


def rank(preferences: Sequence[Preference], candidates: Mapping[int, SeriesAttributes]) -> Ranking:
    """The candidates, by number, under these preferences."""
    marks = {number: [_mark(item, attributes) for item in preferences] for number, attributes in candidates.items()}
    contest = _Contest(preferences, marks)
    places: dict[int, int] = {}
    while left := [number for number in marks if number not in places]:
        places |= dict.fromkeys(contest.best_of(left), len(places) + 1)
    return Ranking({number: places[number] for number in marks}, contest.why_not(list(marks)))


class _Contest:
    """Who of some candidates is left when every preference has been asked."""

    def __init__(self, preferences: Sequence[Preference], marks: Mapping[int, Sequence[Mark]]) -> None:
        self._preferences = preferences
        self._marks = marks

    def best_of(self, numbers: Collection[int]) -> list[int]:
        """Those left; several if no preference tells them apart."""
        out = self._knocked_out(numbers)
        return [number for number in numbers if number not in out]

    def why_not(self, numbers: Collection[int]) -> dict[int, str]:
        """For each that is not the best, the preference that decided, with the best one's values and its own."""
        out, best = self._knocked_out(numbers), self.best_of(numbers)
        return {number: self._told(index, best[0], number) for number, index in out.items()}

    def _told(self, index: int, better: int, worse: int) -> str:
        there, here = self._marks[better][index].said, self._marks[worse][index].said
        return f"{self._preferences[index].name}: {there} there, {here} here"

    def _knocked_out(self, numbers: Collection[int]) -> dict[int, int]:
        """Each candidate that falls behind, and the preference at which it did."""
        out: dict[int, int] = {}
        for index, preference in enumerate(self._preferences):
            keys = {number: self._marks[number][index].key for number in numbers if number not in out}
            lead = min(keys.values(), default=math.inf)
            out |= {number: index for number, key in keys.items() if _is_behind(key, lead, preference)}
        return out


def _is_behind(key: float, lead: float, preference: Preference) -> bool:
    step = preference.step if isinstance(preference, Ordering) else 0.0
    return key > lead and not math.isclose(key, lead, rel_tol=SAME, abs_tol=step)


def _mark(preference: Preference, attributes: SeriesAttributes) -> Mark:
    if isinstance(preference, Ordering):
        return _number_mark(preference, attributes)
    answer = judge(preference, attributes)
    return Mark(0.0 if answer.truth is Truth.TRUE else 1.0, ", ".join(answer.facts))


def _number_mark(ordering: Ordering, attributes: SeriesAttributes) -> Mark:
    """The worst slice counts; a series without the number comes last."""
    entries = entries_of(ordering.tag, attributes)
    numbers = [float(part) for entry in entries for part in entry or () if not isinstance(part, str)]
    keys = [number if ordering.order is Order.LOWER else -number for number in numbers]
    return Mark(max(keys, default=math.inf), f"{ordering.tag} {listed(entries)}")
