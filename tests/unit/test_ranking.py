"""Which of several candidates is preferred, why, and what a tie and a person's word make of it."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npc_rtnode.domain.clauses import Clause, Op, Order, Ordering
from npc_rtnode.domain.ranking import rank
from npc_rtnode.domain.records import SeriesAttributes, Truth
from npc_rtnode.domain.selection import Candidate, Outcome, stand

SAYS_C = Clause("SeriesDescription", Op.MATCHES, (r"\+C",), name="says contrast")
CLOSER = Ordering("@spacing_mm", Order.LOWER, 0.1, "closer slices")
PREFERENCES = (SAYS_C, CLOSER)


def attributes(description: str | None = "T1 +C", spacing_mm: float | None = 5.0) -> SeriesAttributes:
    """Two slices of a series."""
    entry = None if description is None else (description,)
    facts = {} if spacing_mm is None else {"@spacing_mm": spacing_mm}
    return SeriesAttributes(2, {"SeriesDescription": (entry, entry)}, facts)


def candidate(number: int, spacing_mm: float = 5.0, *waived: str, selected: bool = False) -> Candidate:
    """One that differs from others by its slice distance alone."""
    return Candidate(number, attributes(spacing_mm=spacing_mm), waived, selected)


def outcomes(*candidates: Candidate) -> dict[int, tuple[Outcome, str]]:
    """Outcome and code of the reason, by number."""
    standings = stand(candidates, PREFERENCES)
    return {number: (one.outcome, one.because.split(":")[0]) for number, one in standings.items()}


# --- ranking ----------------------------------------------------------------------------------------------------------


def test_the_first_preference_that_tells_two_apart_decides() -> None:
    """Contrast in the description goes before closer slices, and the reason has both values."""
    ranking = rank(PREFERENCES, {1: attributes("T1", 3.0), 2: attributes("T1 +C", 6.0)})
    assert ranking.best == (2,)
    assert ranking.because == {
        1: 'says contrast: SeriesDescription is "T1 +C" there, SeriesDescription is "T1" here',
    }


def test_places_go_by_number_and_ties_share_one() -> None:
    """Best, two that tie behind it, last: 1, 2, 2, 4."""
    spacings = {1: 6.0, 2: 3.0, 3: 5.0, 4: 5.05}
    ranking = rank(PREFERENCES, {n: attributes(spacing_mm=mm) for n, mm in spacings.items()})
    assert ranking.places == {1: 4, 2: 1, 3: 2, 4: 2}


def test_what_is_not_known_is_not_preferred() -> None:
    """A missing description is no better than one that says nothing; a missing number comes last."""
    assert rank((SAYS_C,), {1: attributes(None), 2: attributes("T1")}).best == (1, 2)
    assert rank((CLOSER,), {1: attributes(spacing_mm=None), 2: attributes(spacing_mm=9.0)}).best == (2,)


@pytest.mark.parametrize(("order", "best"), [(Order.LOWER, (1,)), (Order.HIGHER, (2,))])
def test_either_end_of_a_number_may_be_better(order: Order, best: tuple[int, ...]) -> None:
    """`order` says which."""
    spacings = {1: attributes(spacing_mm=3.0), 2: attributes(spacing_mm=5.0)}
    assert rank((Ordering("@spacing_mm", order, name="x"),), spacings).best == best


def test_the_worst_slice_counts() -> None:
    """Numbers that differ between slices are as good as the worst of them."""
    series = {
        1: SeriesAttributes(2, {"EchoTime": ((10.0,), (20.0,))}),
        2: SeriesAttributes(2, {"EchoTime": ((15.0,), (15.0,))}),
    }
    assert rank((Ordering("EchoTime", Order.LOWER, name="echo"),), series).best == (2,)
    assert rank((Ordering("EchoTime", Order.HIGHER, name="echo"),), series).best == (2,)


def test_a_hair_does_not_decide() -> None:
    """Within a step of the best is equal, wherever the numbers lie; a chain of small steps adds up to nothing."""
    near = {1: attributes(spacing_mm=4.95), 2: attributes(spacing_mm=5.0), 3: attributes(spacing_mm=5.04)}
    assert rank(PREFERENCES, near).best == (1, 2, 3)
    chain = {1: attributes(spacing_mm=5.0), 2: attributes(spacing_mm=5.08), 3: attributes(spacing_mm=5.16)}
    assert rank(PREFERENCES, chain).best == (1, 2)


def test_numbers_as_decimal_text_are_equal_to_a_millionth() -> None:
    """Without a step, what rounding made different is still equal."""
    spacings = {1: attributes(spacing_mm=3.3), 2: attributes(spacing_mm=3.3000001)}
    assert rank((Ordering("@spacing_mm", Order.LOWER, name="x"),), spacings).best == (1, 2)


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([3.0, 3.05, 4.0, 5.0])), min_size=1, max_size=4))
def test_the_order_of_arrival_decides_nothing(drawn: list[tuple[bool, float]]) -> None:
    """Whatever the candidates, every order gives the same places; somebody is best, and who is not has a reason."""
    series = {n: attributes("T1 +C" if says else "T1", mm) for n, (says, mm) in enumerate(drawn)}
    rankings = [rank(PREFERENCES, dict(order)) for order in permutations(series.items())]
    assert all(ranking.places == rankings[0].places for ranking in rankings)
    assert rankings[0].best
    assert set(rankings[0].because) == set(series) - set(rankings[0].best)


# --- standing ---------------------------------------------------------------------------------------------------------


def test_one_candidate_stands_alone() -> None:
    """Without a rival the only candidate goes on."""
    assert outcomes(candidate(1)) == {1: (Outcome.ELIGIBLE, "the only candidate of this study")}


def test_the_preferred_one_goes_on_and_the_others_are_set_aside() -> None:
    """The reason names the preferred series, the preference and both values; the verdict says the same."""
    standings = stand([candidate(4, 5.0), candidate(7, 3.0)], PREFERENCES)
    assert standings[7].outcome is Outcome.ELIGIBLE
    assert standings[4].reasons == (
        "OUTRANKED: series 7 of this study is preferred; closer slices: @spacing_mm is 3 there, @spacing_mm is 5 here",
    )
    assert (standings[4].verdict.rule, standings[4].verdict.truth) == ("rank", Truth.FALSE)


def test_a_tie_is_held_and_names_all_of_it() -> None:
    """Two that no preference tells apart are held with both named; a worse one is set aside all the same."""
    standings = stand([candidate(1), candidate(2), candidate(3, 9.0)], PREFERENCES)
    text = "TIE: series 1, 2 of this study are equal by every preference of the rules"
    assert (standings[1].reasons, standings[2].reasons) == ((text,), (text,))
    assert standings[3].because.startswith("OUTRANKED: series 1, 2 ")


def test_a_word_on_a_tie_picks_exactly_that_series() -> None:
    """The one whose tie was released goes on, the other is set aside on that word."""
    tie = stand([candidate(1), candidate(2)], PREFERENCES)[2].because
    standings = stand([candidate(1), candidate(2, 5.0, tie)], PREFERENCES)
    assert standings[2].outcome is Outcome.ELIGIBLE
    assert standings[1].reasons == ("OUTRANKED: a person picked series 2",)


def test_words_on_both_of_a_tie_are_a_new_doubt() -> None:
    """Two people, or one in doubt: both are held, since two would meet at the TPS."""
    tie = stand([candidate(1), candidate(2)], PREFERENCES)[2].because
    assert outcomes(candidate(1, 5.0, tie), candidate(2, 5.0, tie)) == {
        1: (Outcome.HELD, "SECOND_CANDIDATE"),
        2: (Outcome.HELD, "SECOND_CANDIDATE"),
    }


def test_a_word_brings_an_outranked_series_back() -> None:
    """A person may know better than the preferences, while none has a job yet."""
    outranked = stand([candidate(1, 3.0), candidate(2, 5.0)], PREFERENCES)[2].because
    assert outcomes(candidate(1, 3.0), candidate(2, 5.0, outranked)) == {
        1: (Outcome.SET_ASIDE, "OUTRANKED"),
        2: (Outcome.ELIGIBLE, "picked by a person"),
    }


def test_a_word_against_a_series_that_had_a_job_is_the_later_one() -> None:
    """When nothing came of the one that was picked, the word on the other counts, whatever the preferences say."""
    tie = stand([candidate(1), candidate(2)], PREFERENCES)[1].because
    passed_over = stand([candidate(1), candidate(2, 5.0, tie)], PREFERENCES)[1].because
    second = stand([candidate(1), candidate(2, selected=True)], PREFERENCES)[1].because
    for word, first in ((passed_over, candidate(2, 5.0, tie)), (second, candidate(2))):
        assert outcomes(candidate(1, 5.0, word), first) == {
            1: (Outcome.ELIGIBLE, "picked by a person"),
            2: (Outcome.SET_ASIDE, "OUTRANKED"),
        }


@pytest.mark.parametrize(
    ("spacing_mm", "expected"),
    [
        (3.0, (Outcome.HELD, "SECOND_CANDIDATE")),
        (5.0, (Outcome.HELD, "SECOND_CANDIDATE")),
        (9.0, (Outcome.SET_ASIDE, "OUTRANKED")),
    ],
)
def test_beside_a_series_with_a_job(spacing_mm: float, expected: tuple[Outcome, str]) -> None:
    """Better or equal but later: held for a person. Worse and later: set aside. The job stays what it is."""
    assert outcomes(candidate(1, 5.0, selected=True), candidate(2, spacing_mm)) == {2: expected}


def test_a_word_covers_the_doubt_that_was_told_and_no_other() -> None:
    """A tie that was released and has become another tie since is held again."""
    tie = stand([candidate(1), candidate(2)], PREFERENCES)[1].because
    assert outcomes(candidate(1, 5.0, tie), candidate(2), candidate(3))[1] == (Outcome.HELD, "TIE")
