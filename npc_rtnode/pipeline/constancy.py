"""Constancy: sends the phantom to the node's own listener when it is due, and judges what came out at the other end.

A run is a row before its first instance is sent. Its study has UIDs of its own, from its row: the pixels are the same
each day, the instances are not, or the ledger would take them for duplicates (ADR 0024). Whatever a crash interrupts is
sent again under the same UIDs, and is then the duplicate that it should be.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path

from npc_rtnode import log
from npc_rtnode.domain.constancy import ChainOutcome, ConstancyRun, Limits, Made, RunState, due_day, judge
from npc_rtnode.domain.identifiers import derived_uid
from npc_rtnode.domain.retry import describe
from npc_rtnode.errors import PeerError
from npc_rtnode.pipeline.attempt import contained, fault_barrier
from npc_rtnode.ports import Clock, ConstancyPages, PhantomSource, Spool, StructureMeasurer

logger = log.get(__name__)
SCHEDULE = "node"
"""Who asks for the daily run."""
SEND_AGAIN_S = 60
"""A phantom that could not be sent is sent again after this, until the run's patience ends."""


@dataclass(frozen=True)
class Plan:
    """When, in whose name, and how patiently. `secret` is the node's own: two nodes never make the same UIDs."""

    at: str
    zone: timezone
    patience_s: float
    limits: Limits
    secret: str

    def study_uid(self, day: str, number: int) -> str:
        """Of the day's run of that number."""
        return derived_uid(f"{self.secret}/{day}/{number}", "constancy study")


@dataclass(frozen=True)
class Shelves:
    """Where what was received and written lies."""

    spool: Spool
    outbox: Spool


class Constancy:
    """One look begins what is due, sends what was not sent, and judges what has ended."""

    def __init__(
        self,
        pages: ConstancyPages,
        phantom: PhantomSource,
        send: Callable[[Sequence[Path]], None],
        measure: StructureMeasurer,
        shelves: Shelves,
        plan: Plan,
        clock: Clock,
        finish: Callable[[str], object],
    ) -> None:
        """`send` raises a PeerError; `finish` ends a study that was kept for nobody, as it was meant to be."""
        self._pages = pages
        self._phantom = phantom
        self._send = send
        self._measure = measure
        self._shelves = shelves
        self._plan = plan
        self._clock = clock
        self._finish = finish
        self._not_before: dict[int, datetime] = {}

    def run(self) -> int:
        """How many runs were begun or ended."""
        done = self._begin_if_due()
        for run in self._pages.runs(last=50):
            if run.state is RunState.RUNNING:
                with fault_barrier(partial(self._fail, run)):
                    done += self._look_at(run)
        return done

    def ask(self, who: str) -> ConstancyRun:
        """A run now, by a person's word or the schedule's."""
        now = self._clock()
        day = now.astimezone(self._plan.zone).date().isoformat()
        number = sum(run.day == day for run in self._pages.runs())
        return self._pages.begin(self._plan.study_uid(day, number), day, who, now)

    def _begin_if_due(self) -> int:
        done = [run.day for run in self._pages.runs(last=50) if run.asked_by == SCHEDULE]
        if due_day(self._clock(), self._plan.at, self._plan.zone, done) is None:
            return 0
        self.ask(SCHEDULE)
        return 1

    def _look_at(self, run: ConstancyRun) -> int:
        outcome, now = self._pages.outcome(run), self._clock()
        if outcome is not None and outcome.ended:
            self._end(run, outcome)
            return 1
        if now >= run.started_at + timedelta(seconds=self._plan.patience_s):
            said = outcome.said if outcome else "nothing of it was received"
            self._alarm(run, f"NOT_ENDED: not at its end after {self._plan.patience_s:g} s; {said}", outcome)
            return 1
        if outcome is None:
            self._send_it(run, now)
        return 0

    def _send_it(self, run: ConstancyRun, now: datetime) -> None:
        if now < self._not_before.get(run.run_id, now):
            return
        self._not_before[run.run_id] = now + timedelta(seconds=SEND_AGAIN_S)
        with tempfile.TemporaryDirectory(prefix="npc-rtnode-constancy-") as folder:
            files = self._phantom.write(Path(folder), run.study_uid, run.day)
            try:
                self._send(files)
            except PeerError as error:
                logger.warning("constancy phantom not taken, it is sent again", because=describe(error))

    def _end(self, run: ConstancyRun, outcome: ChainOutcome) -> None:
        if not outcome.structure:
            self._alarm(run, f"NO_RESULT: no structure set was made; {outcome.said}", outcome)
            return
        measures, made = self._measured(outcome), self._made(outcome)
        past = [one for one in self._pages.runs() if one.run_id < run.run_id]
        reasons = (*self._own_doubts(made, outcome), *judge(made, measures, past, self._plan.limits))
        state = RunState.ALARM if reasons else RunState.PASSED
        self._tell(replace(run, made=made, measures=measures, reasons=reasons, state=state))
        if outcome.kept_for_nobody:
            self._finish(run.study_uid)

    def _measured(self, outcome: ChainOutcome) -> dict[str, float]:
        sources = [self._shelves.spool.path(sha256) for sha256 in outcome.inputs]
        structure = self._shelves.outbox.read(outcome.structure)
        dice, volume_cc = self._measure(structure, sources, self._phantom.truth())
        return {"dice": round(dice, 6), "volume_cc": round(volume_cc, 6), **outcome.measures}

    def _own_doubts(self, made: Made, outcome: ChainOutcome) -> list[str]:
        said = []
        if made.phantom_sha256 != self._phantom.frozen():
            said.append("PHANTOM_CHANGED: this machine draws another phantom than the one that is frozen")
        if not (outcome.kept_for_nobody or outcome.said.startswith("the job is DELIVERED")):
            said.append(f"NOT_DELIVERED: {outcome.said}")
        return said

    def _made(self, outcome: ChainOutcome | None) -> Made:
        made = outcome.made if outcome else Made("")
        return replace(made, phantom_sha256=self._phantom.identity())

    def _alarm(self, run: ConstancyRun, reason: str, outcome: ChainOutcome | None) -> None:
        measures = dict(outcome.measures) if outcome else {}
        made = self._made(outcome)
        self._tell(replace(run, made=made, measures=measures, reasons=(reason,), state=RunState.ALARM))

    def _fail(self, run: ConstancyRun, error: Exception) -> None:
        with contained(lambda _error: None):
            self._alarm(run, f"NOT_MEASURED: {describe(error)}", None)

    def _tell(self, run: ConstancyRun) -> None:
        self._pages.ended(run, self._clock())
        say = logger.error if run.state is RunState.ALARM else logger.info
        say("constancy", run=run.run_id, day=run.day, came_to=run.state, because=list(run.reasons))
