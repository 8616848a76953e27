"""The life tables hold by themselves: four sentences, for each of the three lives."""

from __future__ import annotations

import pytest

from npc_rtnode.domain.lifecycle import BIRTH, LIVES, WORKING, Event, IllegalTransition, after

SUBJECTS = sorted(LIVES)


@pytest.mark.parametrize("subject", SUBJECTS)
def test_every_state_has_a_row(subject: str) -> None:
    """No state is without its row, even where nothing can happen any more."""
    assert set(LIVES[subject]) == set(type(BIRTH[subject]))


@pytest.mark.parametrize("subject", SUBJECTS)
def test_every_working_state_survives_a_crash(subject: str) -> None:
    """INTERRUPTED is an ordinary event wherever work is under way, and leads back to a state that is not working."""
    for state in WORKING[subject]:
        back = after(subject, state, Event.INTERRUPTED)
        assert subject == "series" or back not in WORKING[subject]


@pytest.mark.parametrize("subject", SUBJECTS)
def test_every_state_can_be_reached(subject: str) -> None:
    """From birth, events lead to every state of the table."""
    life, reached, edge = LIVES[subject], {BIRTH[subject]}, [BIRTH[subject]]
    while edge:
        new = set(life[edge.pop()].values()) - reached
        reached |= new
        edge += new
    assert reached == set(life)


@pytest.mark.parametrize("subject", SUBJECTS)
def test_everything_else_is_refused(subject: str) -> None:
    """An event that a state's row does not list raises, and names both."""
    for state, row in LIVES[subject].items():
        for event in set(Event) - set(row):
            with pytest.raises(IllegalTransition, match=f"{state} cannot be {event}"):
                after(subject, state, event)


def test_nothing_written_can_become_delivered_but_by_all_being_sent() -> None:
    """DELIVERED has one door, ALL_SENT, and it opens from WRITTEN alone."""
    doors = [(state, event) for state, row in LIVES["job"].items() for event, to in row.items() if to == "DELIVERED"]
    assert doors == [("WRITTEN", Event.ALL_SENT)]


def test_a_superseded_series_is_final_and_a_quarantined_one_goes_through_everything_again() -> None:
    """Nothing leads out of SUPERSEDED; out of QUARANTINED only a person leads, and back to the very beginning."""
    assert LIVES["series"]["SUPERSEDED"] == {}  # type: ignore[index]
    assert LIVES["series"]["QUARANTINED"] == {  # type: ignore[index]
        Event.RECONSIDERED: "RECEIVING",
        Event.CONFLICT_SETTLED: "RECEIVING",
    }
