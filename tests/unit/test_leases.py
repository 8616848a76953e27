"""Leases go by what their watcher has seen: neither a clock that is set nor a ledger that was away takes work away."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from npc_rtnode.domain.leases import LeaseWatch

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
SIGN = {"t": NOON}


def test_silence_that_was_watched_for_long_enough_forsakes() -> None:
    """45 s without a sign, seen in looks 15 s apart; what is heard of meanwhile begins anew."""
    watch = LeaseWatch(45)
    assert [bool(watch.look(SIGN, at)) for at in (0, 15, 30)] == [False, False, False]
    assert watch.look({"t": NOON + timedelta(seconds=10)}, 40) == frozenset()
    assert [bool(watch.look(SIGN | {"t": NOON}, at)) for at in (45, 60, 75, 90)] == [False, False, False, True]


def test_a_sign_may_be_any_other_time() -> None:
    """A holder whose clock was set back, or is years off, is alive as long as what it writes changes."""
    watch, signs = LeaseWatch(45), [NOON, NOON - timedelta(days=900), NOON + timedelta(days=900)]
    assert not any(watch.look({"t": signs[turn % 3]}, 15.0 * turn) for turn in range(40))


def test_time_in_which_nobody_could_look_does_not_count() -> None:
    """A watcher that was frozen, or whose ledger was away for an hour, begins with a third of the limit at most."""
    watch = LeaseWatch(45)
    watch.look(SIGN, 0)
    assert [bool(watch.look(SIGN, at)) for at in (3600, 3601, 3630)] == [False, False, False]
    assert watch.look(SIGN, 3645) == {"t"}


def test_a_new_holder_is_another_lease() -> None:
    """Work that was claimed anew has another token, and its silence begins with it; ended leases are forgotten."""
    watch = LeaseWatch(45)
    for at in (0, 15, 30):
        watch.look(SIGN, at)
    assert watch.look({"u": NOON}, 45) == frozenset()
    assert set(watch.seen) == {"u"}
