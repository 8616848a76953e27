"""Constancy: when a run is due, and which numbers are an alarm."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from npc_rtnode.domain.constancy import ConstancyRun, Limits, Made, RunState, control, due_day, judge, site_zone

MADE = Made("p" * 64, "b" * 64, "s" * 64)
LIMITS = Limits(baseline_runs=5, sigma=3, dice_least=0.7)
GOOD = {"dice": 0.91, "volume_cc": 21.5, "p_t1": 0.02, "p_t2": 0.98, "seconds_infer": 10.0}


def past(count: int, made: Made = MADE, **changes: float) -> list[ConstancyRun]:
    """Runs that passed, their inference times spread by a tenth of a second."""
    at = datetime(2026, 11, 1, 5, tzinfo=UTC)
    return [
        ConstancyRun(
            n,
            f"2.25.{n}",
            f"2026-11-{n + 1:02d}",
            "node",
            made,
            RunState.PASSED,
            at,
            at,
            {**GOOD, "seconds_infer": 10 + n / 10, **changes},
        )
        for n in range(count)
    ]


@pytest.mark.parametrize(
    ("now", "done", "due"),
    [
        ("2026-11-25T20:59", [], None),  # 04:59 at the site
        ("2026-11-25T21:00", [], "2026-11-26"),
        ("2026-11-26T15:59", [], "2026-11-26"),  # a node that was down all day makes it up
        ("2026-11-26T16:00", [], None),  # midnight there: the next day's hour has not come
        ("2026-11-25T21:00", ["2026-11-26"], None),
        ("2026-11-25T21:00", ["2026-11-25"], "2026-11-26"),
    ],
)
def test_a_run_is_due_once_a_day_by_the_sites_clock(now: str, done: list[str], due: str | None) -> None:
    """From the hour on until midnight, where the site is, unless that day's run is there."""
    at = datetime.fromisoformat(now).replace(tzinfo=UTC)
    assert due_day(at, "05:00", site_zone("+0800"), done) == due


def test_without_an_hour_none_is_due() -> None:
    """An empty `qa.at` leaves it to people."""
    assert due_day(datetime(2026, 11, 26, 23, 59, tzinfo=UTC), "", site_zone("-0330"), []) is None


def test_the_same_numbers_are_no_alarm() -> None:
    """With and without a past."""
    assert judge(MADE, GOOD, [], LIMITS) == ()
    assert judge(MADE, GOOD, past(5), LIMITS) == ()


@pytest.mark.parametrize("name", ["dice", "volume_cc", "p_t1"])
@pytest.mark.parametrize("moved", [2e-6, -0.001, float("nan")])
def test_content_that_moved_is_an_alarm_from_the_second_run_on(name: str, moved: float) -> None:
    """However little, while phantom, bundle and settings are the same; a number that is missing moved too."""
    reasons = judge(MADE, {**GOOD, name: GOOD[name] + moved}, past(1), LIMITS)
    assert reasons[-1].startswith(f"NOT_CONSTANT: {name}")
    without = {key: value for key, value in GOOD.items() if key != name}
    if name != "dice":
        assert judge(MADE, without, past(1), LIMITS)[0].startswith(f"NOT_CONSTANT: {name}")


def test_a_slow_drift_is_measured_against_the_first_run() -> None:
    """Steps too small to be seen one by one do not hide."""
    drifting = [run for step in range(4) for run in past(1, volume_cc=21.5 + step * 0.9e-6)]
    assert judge(MADE, {**GOOD, "volume_cc": 21.5 + 3.6e-6}, drifting, LIMITS) != ()


@pytest.mark.parametrize("changed", [Made("q" * 64, "b" * 64, "s" * 64), Made("p" * 64, "c" * 64, "s" * 64)])
def test_another_bundle_begins_anew(changed: Made) -> None:
    """What another bundle or phantom gave is no measure; the fixed limit still is."""
    assert judge(changed, {**GOOD, "dice": 0.75}, past(9), LIMITS) == ()
    (reason,) = judge(changed, {**GOOD, "dice": 0.6999}, past(9), LIMITS)
    assert reason.startswith("DICE_LOW: Dice 0.6999")


def test_times_have_limits_once_the_baseline_is_full() -> None:
    """Mean and spread of the first five: 10.2 s, and at least a tenth of it three times; faster is no alarm."""
    slow = {**GOOD, "seconds_infer": 14.0}
    assert judge(MADE, slow, past(4), LIMITS) == ()
    (reason,) = judge(MADE, slow, past(5), LIMITS)
    assert reason.startswith("BEYOND_LIMITS: seconds_infer is 14, at most 13.3 is expected")
    assert judge(MADE, {**GOOD, "seconds_infer": 0.1}, past(5), LIMITS) == ()


def test_limits_stay_those_of_the_first_runs() -> None:
    """Later, slower runs do not move them."""
    early = control("seconds_infer", past(5), LIMITS)
    assert control("seconds_infer", [*past(5), *past(20, seconds_infer=13.0)], LIMITS) == early
