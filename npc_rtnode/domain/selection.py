"""What becomes of a series: eligible, set aside or held, by its own verdicts and beside the others of its study.

The rules look at one series at a time. Two that both pass would give two structure sets of one tumour, so the study's
candidates are ranked: the preferred one goes on, the others are set aside with the preference that decided; what no
preference tells apart is held, and a person's word picks exactly the series it was given on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from npc_rtnode.domain.clauses import Preference
from npc_rtnode.domain.ranking import Ranking, rank
from npc_rtnode.domain.records import SeriesAttributes, Truth, Verdict

OUTRANKED, TIE, SECOND_CANDIDATE = "OUTRANKED", "TIE", "SECOND_CANDIDATE"
"""Codes of the reasons that come from the other series of the study."""

INDICATION_UNKNOWN = "INDICATION_UNKNOWN"
"""Code of the doubt for whom a candidate is meant; it is a candidate all the same."""

BEHIND = frozenset({OUTRANKED, SECOND_CANDIDATE})
"""What stands in the way of a series because another one was preferred or selected: void when that one falls away."""

COMPARED = frozenset({TIE, SECOND_CANDIDATE, INDICATION_UNKNOWN})
"""Doubts of a candidate that is held: it is compared again whenever the study is judged anew."""

RANK = "rank"
"""The name of the verdict on a series among the candidates of its study."""


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


# --- among the candidates of a study ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Candidate:
    """A series that its own verdicts let pass; `selected` already has a job; `waived` are doubts a person lifted."""

    series_id: int
    attributes: SeriesAttributes
    waived: tuple[str, ...] = ()
    selected: bool = False


@dataclass(frozen=True)
class Standing:
    """Where a candidate stands: ELIGIBLE goes on; SET_ASIDE is outranked; HELD ties or comes second. `place` from 1."""

    outcome: Outcome
    because: str
    place: int

    @property
    def verdict(self) -> Verdict:
        """As it is told beside the rules' own verdicts."""
        truth = {Outcome.ELIGIBLE: Truth.TRUE, Outcome.SET_ASIDE: Truth.FALSE, Outcome.HELD: Truth.UNKNOWN}
        return Verdict(RANK, truth[self.outcome], self.because)

    @property
    def reasons(self) -> tuple[str, ...]:
        """What stands in the way."""
        return () if self.outcome is Outcome.ELIGIBLE else (self.because,)


def stand(candidates: Sequence[Candidate], preferences: Sequence[Preference]) -> Mapping[int, Standing]:
    """How every candidate that has no job yet stands among all of them, by series number.

    A series that already has a job keeps it: a better one that comes later is held, a worse one is set aside.
    """
    among = _Candidates(candidates, rank(preferences, {one.series_id: one.attributes for one in candidates}))
    return {one.series_id: among.standing(one) for one in candidates if not one.selected}


class _Candidates:
    """The candidates of one study, ranked; `picked` are those that a person gave their word on."""

    def __init__(self, candidates: Sequence[Candidate], ranking: Ranking) -> None:
        self._ranking = ranking
        self._selected = [one.series_id for one in candidates if one.selected]
        open_ones = [one for one in candidates if not one.selected]
        picked = [one.series_id for one in open_ones if self._by_rank(one.series_id).because in one.waived]
        numbers = [one.series_id for one in open_ones]
        self._picked = [one.series_id for one in open_ones if _taken_instead(one, numbers)] or picked

    def standing(self, one: Candidate) -> Standing:
        standing = self._by_word(one.series_id) if self._picked else self._by_rank(one.series_id)
        if standing.outcome is Outcome.HELD and standing.because in one.waived:
            return Standing(Outcome.ELIGIBLE, "picked by a person", standing.place)
        return standing

    def _by_rank(self, number: int) -> Standing:
        place, best = self._ranking.places[number], self._ranking.best
        if place > 1:
            return Standing(Outcome.SET_ASIDE, self._outranked(number), place)
        if self._selected:
            return Standing(Outcome.HELD, _second(self._selected), place)
        if len(best) > 1:
            text = f"{TIE}: series {_names(best)} of this study are equal by every preference of the rules"
            return Standing(Outcome.HELD, text, place)
        return Standing(Outcome.ELIGIBLE, self._first(number), place)

    def _by_word(self, number: int) -> Standing:
        place = self._ranking.places[number]
        if number not in self._picked:
            return Standing(Outcome.SET_ASIDE, _passed_over(self._picked), place)
        others = [*self._selected, *(one for one in self._picked if one != number)]
        return (
            Standing(Outcome.HELD, _second(others), place)
            if others
            else Standing(Outcome.ELIGIBLE, "picked by a person", place)
        )

    def _outranked(self, number: int) -> str:
        best = self._ranking.best
        return f"{OUTRANKED}: series {_names(best)} of this study is preferred; {self._ranking.because[number]}"

    def _first(self, number: int) -> str:
        others = [other for other in self._ranking.places if other != number]
        if not others:
            return "the only candidate of this study"
        return f"preferred to series {_names(others)} of this study"


def _taken_instead(one: Candidate, numbers: Iterable[int]) -> bool:
    """Whether a person took it knowing of another one of these, which was taken then: that is the later word."""
    return any(text in one.waived for other in numbers for text in (_second([other]), _passed_over([other])))


def _passed_over(picked: Iterable[int]) -> str:
    return f"{OUTRANKED}: a person picked series {_names(picked)}"


def _second(others: Iterable[int]) -> str:
    names = _names(others)
    return f"{SECOND_CANDIDATE}: series {names} of this study is selected already; two would meet at the TPS"


def _names(numbers: Iterable[int]) -> str:
    return ", ".join(str(number) for number in sorted(numbers))
