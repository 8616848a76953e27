"""Retry is a value: the table of errors, attempts and times beside what they come to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from npc_rtnode.domain.retry import COMPUTE, GiveUp, Postpone, Quarantine, RetryPolicy, decide, describe
from npc_rtnode.errors import (
    InferenceCrashed,
    InferenceTimeout,
    LedgerUnavailable,
    ObjectRefused,
    PeerStalled,
    Unreachable,
)

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
WEEK = RetryPolicy(first_s=60, longest_s=3600, horizon_s=168 * 3600)


@pytest.mark.parametrize(
    ("attempts", "pause_s"),
    [(1, 60), (2, 240), (3, 960), (4, 3600), (5, 3600), (500, 3600)],  # 60·4ⁿ⁻¹, at most an hour
)
def test_pauses_grow_fourfold_up_to_an_hour(attempts: int, pause_s: float) -> None:
    """A destination that is down is tried after 1, 4, 16 minutes and then hourly."""
    assert decide(Unreachable(), attempts, NOW, NOW, WEEK) == Postpone(
        NOW + timedelta(seconds=pause_s), describe(Unreachable())
    )


@pytest.mark.parametrize("error", [Unreachable(), PeerStalled(), LedgerUnavailable(), InferenceTimeout()])
def test_what_time_may_mend_is_postponed(error: Exception) -> None:
    """The moment's and the peer's passing faults are tried again by themselves."""
    assert isinstance(decide(error, 1, NOW, NOW, WEEK), Postpone)


@pytest.mark.parametrize("error", [ObjectRefused("0xA900"), ValueError("secret"), KeyError("x")])
def test_what_time_cannot_mend_is_given_up(error: Exception) -> None:
    """A refused object or an unexpected error waits for a person."""
    assert isinstance(decide(error, 1, NOW, NOW, WEEK), GiveUp)


def test_the_third_death_of_the_child_quarantines() -> None:
    """An input on which the inference process died at the third try is set apart; of earlier tries nothing is said."""
    assert isinstance(decide(InferenceCrashed(), 2, NOW, NOW, COMPUTE), Postpone)
    third = decide(InferenceCrashed(), 3, NOW, NOW, COMPUTE)
    assert isinstance(third, Quarantine)
    assert third.because.endswith("died. (at try 3)")


def test_compute_gives_up_after_five_tries() -> None:
    """The fifth timeout ends a job, and says how often it was tried."""
    assert isinstance(decide(InferenceTimeout(), 4, NOW, NOW, COMPUTE), Postpone)
    last = decide(InferenceTimeout(), 5, NOW, NOW, COMPUTE)
    assert isinstance(last, GiveUp)
    assert "tried 5 times" in last.because


def test_delivery_insists_for_a_week_and_no_longer() -> None:
    """A destination that stays down is tried until its horizon."""
    since = NOW - timedelta(hours=166)
    assert isinstance(decide(Unreachable(), 160, since, NOW, WEEK), Postpone)
    assert isinstance(decide(Unreachable(), 170, NOW - timedelta(hours=168), NOW, WEEK), GiveUp)


def test_strange_errors_are_told_by_their_type_alone() -> None:
    """The words of an unexpected error may hold a patient's name and are never repeated."""
    assert describe(ValueError("ROENTGEN^WILHELM")) == "UNEXPECTED: ValueError"


def test_a_week_without_the_destination() -> None:
    """Simulated hour by hour: some two hundred tries with no pause over an hour, and then an end with the reason."""
    at, pauses = NOW, []
    for attempts in range(1, 1000):
        decision = decide(Unreachable(), attempts, NOW, at, WEEK, seed=f"token {attempts}")
        if not isinstance(decision, Postpone):
            break
        pauses.append((decision.until - at).total_seconds())
        at = decision.until
    assert isinstance(decision, GiveUp)
    assert "tried for 168 h" in decision.because
    assert timedelta(hours=166) < at - NOW <= timedelta(hours=168)
    assert 168 <= len(pauses) <= 240
    assert max(pauses) <= 3600
    assert min(pauses[3:]) >= 3600 * 0.8
    assert pauses[0] <= 60


def test_what_failed_together_comes_back_apart() -> None:
    """A hundred deliveries that an outage met at one moment are spread over a fifth of their pause."""
    untils = [decide(Unreachable(), 5, NOW, NOW, WEEK, seed=f"token {number}").until for number in range(100)]
    assert len({until.replace(microsecond=0) for until in untils}) > 80
    assert max(untils) - min(untils) > timedelta(seconds=600)
