"""APScheduler as the clock: it says when to look, the database says what is due (scheduling.md 4.1, ADR 0004).

Memory job store only, nothing is lost with it: every tick looks at the ledger. A tick that did something wakes the
ticks that may have work because of it, so nobody waits for the next beat.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from apscheduler.events import EVENT_JOB_ERROR, JobExecutionEvent
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.background import BackgroundScheduler

from npc_rtnode import log
from npc_rtnode.domain.retry import code_of

logger = log.get(__name__)
GUARD_S: Final = 1.0
"""How soon it is noticed that the machine's clock was set back."""


@dataclass(frozen=True)
class Tick:
    """Look every `every_s` seconds, in its own lane, one look at a time; a look that found work wakes `wakes`."""

    name: str
    look: Callable[[], object]
    every_s: float
    wakes: tuple[str, ...] = ()


class Metronome:
    """Beats the ticks, and rings once at a stated time (the quiet timers)."""

    def __init__(self, ticks: list[Tick]) -> None:
        self._ticks = {tick.name: tick for tick in ticks}
        self._lanes = {name: ThreadPoolExecutor(1) for name in self._ticks}
        self._scheduler = BackgroundScheduler(
            timezone=UTC,
            executors=self._lanes,
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
        )
        self._scheduler.add_listener(_tell, EVENT_JOB_ERROR)
        self._stopping = threading.Event()
        self._guard = threading.Thread(target=self._watch_the_clock, name="metronome-guard", daemon=True)

    def start(self) -> None:
        """Begin with one look of every tick at once: whatever a crash left is found now."""
        for tick in self._ticks.values():
            self._scheduler.add_job(
                self._beat,
                "interval",
                seconds=tick.every_s,
                args=[tick],
                id=tick.name,
                executor=tick.name,
                next_run_time=datetime.now(UTC),
            )
        self._scheduler.start()
        self._guard.start()

    def stop(self) -> None:
        """No new looks; waits for the ones that are under way.

        Not in the scheduler's own shutdown, which waits with the lock that a look needs to wake or ring another.
        """
        self._stopping.set()
        self._guard.join()
        self._scheduler.shutdown(wait=False)
        for lane in self._lanes.values():
            lane.shutdown(wait=True)

    def wake(self, name: str) -> None:
        """Look now."""
        try:
            self._scheduler.modify_job(name, next_run_time=datetime.now(UTC))
        except JobLookupError:
            logger.debug("nobody to wake", tick=name)

    def ring(self, name: str, at: datetime) -> None:
        """Look at `at` as well; an earlier ring of the same tick is re-armed."""
        tick = self._ticks[name]
        self._scheduler.add_job(
            self._beat, "date", run_date=at, args=[tick], id=f"{name}@", executor=name, replace_existing=True
        )

    def _watch_the_clock(self) -> None:
        """APScheduler goes by the wall clock: set back by an hour, nothing would beat for an hour."""
        while not self._stopping.wait(GUARD_S):
            late = [tick.name for tick in self._ticks.values() if self._is_far_off(tick)]
            for name in late:
                self.wake(name)
            if late:
                logger.warning("the clock was set back, every tick looks now", ticks=len(late))

    def _is_far_off(self, tick: Tick) -> bool:
        """Whether its next look is further away than its beat."""
        beat, now = self._scheduler.get_job(tick.name), datetime.now(UTC)
        return beat is not None and beat.next_run_time - now > timedelta(seconds=tick.every_s + GUARD_S)

    def _beat(self, tick: Tick) -> None:
        if tick.look():
            for name in tick.wakes:
                self.wake(name)


def _tell(event: JobExecutionEvent) -> None:
    error = event.exception
    if isinstance(error, Exception):
        logger.error("tick failed, it looks again at its next beat", tick=event.job_id, because=code_of(error))
