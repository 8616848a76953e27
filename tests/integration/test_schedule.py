"""The metronome: it beats, it wakes, it rings, and no look that fails ends it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, tzinfo

import pytest

from npc_rtnode.schedule import Metronome, Tick

LONG_S = 3600.0
PATIENCE_S = 20.0


class Look:
    """Counts its looks, lets a test wait for one, and answers or raises as told."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.looks = 0
        self._seen = threading.Condition()

    def __call__(self) -> object:
        with self._seen:
            self.looks += 1
            self._seen.notify_all()
        answer = self.answers.pop(0) if self.answers else False
        if isinstance(answer, Exception):
            raise answer
        return answer

    def seen(self, times: int) -> bool:
        """Whether it looked that often before patience ends."""
        with self._seen:
            return self._seen.wait_for(lambda: self.looks >= times, PATIENCE_S)


@pytest.fixture
def beating() -> Iterator[list[Metronome]]:
    """Metronomes to stop afterwards."""
    started: list[Metronome] = []
    yield started
    for metronome in started:
        metronome.stop()


def start(beating: list[Metronome], *ticks: Tick) -> Metronome:
    """A running metronome."""
    metronome = Metronome(list(ticks))
    metronome.start()
    beating.append(metronome)
    return metronome


def test_every_tick_looks_at_once(beating: list[Metronome]) -> None:
    """What a crash left is found at the start, not after the first interval."""
    look = Look()
    start(beating, Tick("a", look, LONG_S))
    assert look.seen(1)


def test_work_found_wakes_the_next_stage(beating: list[Metronome]) -> None:
    """A look that found work makes the next lane look now; one that found none wakes nobody."""
    found, after = Look(False, True), Look()
    metronome = start(beating, Tick("found", found, LONG_S, wakes=("after",)), Tick("after", after, LONG_S))
    assert after.seen(1)
    metronome.wake("found")
    assert found.seen(2)
    assert after.seen(2)


def test_a_ring_looks_at_its_time(beating: list[Metronome]) -> None:
    """A quiet timer makes the tick look at the stated time, and re-arming replaces it."""
    look = Look()
    metronome = start(beating, Tick("a", look, LONG_S))
    assert look.seen(1)
    metronome.ring("a", datetime.now(UTC) + timedelta(hours=1))
    metronome.ring("a", datetime.now(UTC) + timedelta(seconds=0.1))
    assert look.seen(2)


def test_a_failing_look_is_followed_by_the_next(beating: list[Metronome], capsys: pytest.CaptureFixture[str]) -> None:
    """An error in one look is told by its type and the tick goes on; no value of it is printed."""
    look = Look(RuntimeError("ROENTGEN^WILHELM"))
    start(beating, Tick("a", look, 0.1))
    assert look.seen(3)
    captured = capsys.readouterr()
    assert "ROENTGEN" not in captured.out + captured.err


def test_a_late_look_is_not_dropped(beating: list[Metronome]) -> None:
    """A lane that was busy past its beat looks again as soon as it is free (APScheduler's default would drop it)."""
    gate = threading.Event()
    looks = Look()

    def slow() -> object:
        looks()
        gate.wait(PATIENCE_S)
        return False

    start(beating, Tick("slow", slow, 0.1))
    assert looks.seen(1)
    gate.set()
    assert looks.seen(2)


def test_a_clock_that_was_set_back_delays_nobody(beating: list[Metronome], monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine comes up with its clock two hours ahead, and is then corrected: a beat is a beat, not two hours."""
    ahead = [timedelta(hours=2)]

    class Clock(datetime):
        """What this machine believes."""

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            """So far off."""
            return datetime.now(tz) + ahead[0]

    for room in ("apscheduler.schedulers.base", "apscheduler.triggers.interval", "npc_rtnode.schedule"):
        monkeypatch.setattr(f"{room}.datetime", Clock)
    look = Look()
    start(beating, Tick("a", look, 0.1))
    assert look.seen(2)
    ahead[0] = timedelta()
    before = look.looks
    assert look.seen(before + 4)


def test_lanes_do_not_wait_for_each_other(beating: list[Metronome]) -> None:
    """A destination that hangs holds up its own lane alone."""
    gate, other = threading.Event(), Look()
    start(beating, Tick("hung", lambda: gate.wait(PATIENCE_S), LONG_S), Tick("other", other, 0.1))
    assert other.seen(3)
    gate.set()


@pytest.mark.parametrize("does", [lambda it: None, lambda it: it.ring("after", datetime.now(UTC))])
def test_a_look_under_way_wakes_and_rings_while_the_metronome_stops(does: Callable[[Metronome], object]) -> None:
    """Stopping waits for it to end, and it for nobody; what it wakes looks no more."""
    under_way, stopping, after = threading.Event(), threading.Event(), Look()

    def look() -> bool:
        under_way.set()
        stopping.wait(PATIENCE_S)
        does(metronome)
        return True

    metronome = Metronome([Tick("found", look, LONG_S, wakes=("after",)), Tick("after", after, LONG_S)])
    metronome.start()
    assert under_way.wait(PATIENCE_S)
    assert after.seen(1)
    stop = threading.Thread(target=metronome.stop, daemon=True)
    stop.start()
    stop.join(0.2)
    assert stop.is_alive(), "it waits for the look"
    stopping.set()
    stop.join(PATIENCE_S)
    assert not stop.is_alive()
    assert after.looks == 1
