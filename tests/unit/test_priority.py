"""Priority with ageing: the urgent first, and nobody waits for ever."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from npc_rtnode.domain.priority import CLINICAL, MOST, rank_at

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def test_the_urgent_comes_first_and_of_equals_the_older() -> None:
    """Ordered by rank: priority, then time."""
    waiting = {"research": (0, 0), "clinical": (80, 30), "older": (80, 10), "reprocess": (20, 0)}
    order = sorted(waiting, key=lambda name: rank_at(NOON + timedelta(seconds=waiting[name][1]), waiting[name][0]))
    assert order == ["older", "clinical", "reprocess", "research"]


@pytest.mark.parametrize("least", [0, 20, 79])
def test_nothing_starves(least: int) -> None:
    """With clinical work that comes for ever as fast as it is done, whatever came before is done within the bound."""
    queue = [(rank_at(NOON, least), -1)]
    for minute in range(MOST + 1):
        at = NOON + timedelta(minutes=minute)
        queue.append((rank_at(at, CLINICAL), minute))
        queue.sort()
        if queue.pop(0)[1] == -1:
            assert minute == CLINICAL - least
            return
    pytest.fail("it starved")
