"""Four probabilities, one honest sentence."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npc_rtnode.domain.staging import likeliest, rounded, staging_of
from npc_rtnode.domain.vocabulary import AJCC_8, AJCC_9, edition_code
from npc_rtnode.errors import BundleFault

EDITION = "UICC/AJCC 8th edition (T category unchanged in the 9th)"


@pytest.mark.parametrize(
    ("probabilities", "wanted"),
    [
        ((0.25, 0.25, 0.25, 0.25), (2500, 2500, 2500, 2500)),
        ((1 / 3, 1 / 3, 1 / 3, 0.0), (3334, 3333, 3333, 0)),
        ((0.00004, 0.00004, 0.00004, 0.99988), (0, 0, 1, 9999)),
        ((1.0, 0.0, 0.0, 0.0), (10000, 0, 0, 0)),
    ],
)
def test_rounding_gives_what_is_left_to_the_largest_remainders(
    probabilities: tuple[float, ...], wanted: tuple[int, ...]
) -> None:
    """Sums worked out by hand: the parts rounded down, then one ten-thousandth each to the largest remainders."""
    got = rounded(probabilities)
    assert sum(got) == 10000
    if probabilities[0] == 0.00004:
        assert sorted(got) == sorted(wanted)
    else:
        assert got == wanted


@given(st.lists(st.floats(0.001, 1.0), min_size=4, max_size=4))
def test_any_distribution_sums_to_exactly_one_and_moves_by_less_than_a_step(weights: list[float]) -> None:
    """Nothing is further off than one ten-thousandth."""
    probabilities = [w / math.fsum(weights) for w in weights]
    shares = rounded(probabilities)
    assert sum(shares) == 10000
    assert all(abs(share / 1e4 - p) < 1e-4 for share, p in zip(shares, probabilities, strict=True))


def test_a_sure_answer_is_one_stage() -> None:
    """Above the limit the top stage stands alone."""
    staging = staging_of((0.02, 0.11, 0.69, 0.18), EDITION, 0.6)
    assert (staging.top, staging.uncertain, staging.text) == ("T3", False, "cT3")
    assert staging.top_probability == pytest.approx(0.69)


def test_a_doubtful_answer_is_a_set() -> None:
    """Below the limit the likeliest stages are named and none is singled out."""
    staging = staging_of((0.02, 0.45, 0.43, 0.10), EDITION, 0.6)
    assert (staging.uncertain, staging.candidates, staging.text) == (True, ("T2", "T3"), "uncertain: cT2 or cT3")


def test_exactly_at_the_limit_is_sure() -> None:
    """Uncertain means below the limit."""
    assert not staging_of((0.0, 0.0, 0.6, 0.4), EDITION, 0.6).uncertain


@pytest.mark.parametrize(
    ("probabilities", "wanted"),
    [((0.3, 0.1, 0.25, 0.35), ("T1", "T4")), ((0.25, 0.25, 0.25, 0.25), ("T1", "T2", "T3"))],
)
def test_the_set_is_the_fewest_that_reach_the_limit(probabilities: tuple[float, ...], wanted: tuple[str, ...]) -> None:
    """At least two, as few as reach 0.6, in order of stage."""
    assert likeliest(probabilities, 0.6) == wanted


@pytest.mark.parametrize(
    "probabilities", [(0.5, 0.5), (0.5, 0.5, 0.5, 0.5), (math.nan, 0.0, 0.0, 1.0), (-0.1, 0.1, 0.5, 0.5)]
)
def test_numbers_that_are_no_distribution_are_the_bundles_fault(probabilities: tuple[float, ...]) -> None:
    """Too few, too much, not a number, below zero: refused, never repaired."""
    with pytest.raises(BundleFault):
        rounded(probabilities)


def test_the_edition_has_a_code_only_where_one_is_known() -> None:
    """The 8th and the 9th are coded, the first that is named counts; another one would stand in text."""
    assert edition_code(EDITION) is AJCC_8
    assert edition_code("AJCC Version 9 (T as in the 8th edition)") is AJCC_9
    assert edition_code("UICC 9th edition") is AJCC_9
    assert edition_code("AJCC 12th") is None


@pytest.mark.parametrize(
    "shares", [(0.335, 0.335, 0.33, 0.0), (0.145, 0.285, 0.285, 0.285), (0.005, 0.005, 0.005, 0.985), (0.25,) * 4]
)
def test_percents_sum_to_a_hundred(shares: tuple[float, ...]) -> None:
    """Also in a line that has no room for four decimals, where each rounded by itself would give 99 or 101."""
    said = staging_of(shares, "8th", 0.6)
    assert sum(said.hundredths.values()) == 100
    assert all(abs(said.hundredths[stage] / 100 - share) < 0.01 for stage, share in said.probabilities.items())
