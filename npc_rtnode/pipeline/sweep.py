"""Sweep: what a crash left and nobody names is cleared away; what has been kept long enough is removed and recorded.

And leases: a sign of life for what is in hand here, and work taken back whose holder gives none (ADR 0021).

The janitor touches only what the ledger does not name. What it names goes by retention alone: judged in
domain/retention, removed inside one transaction, and told by a row for every file.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from npc_rtnode import log
from npc_rtnode.domain.leases import LeaseWatch
from npc_rtnode.domain.retention import Days, Parcel, Place, PurgeOrder, StudyStanding, due, everything, kept_because
from npc_rtnode.errors import Forbidden
from npc_rtnode.pipeline.attempt import fault_barrier
from npc_rtnode.ports import Carrier, Clock, LeasePages, PredictionShelf, RetentionPages, Shelf

logger = log.get(__name__)
LEFT_S = 3600
"""What nobody names and nobody has written for so long belongs to nobody (intake.md 2.4 rule 7)."""
RESURRECTED = timedelta(days=2)
"""So far back the janitor repeats removals: a power loss may have brought the last ones back."""


@dataclass(frozen=True)
class Janitor:
    """Clears what crashes leave behind. A lock file is not litter: the kernel frees it with its process."""

    pages: RetentionPages
    shelves: Mapping[Place, Shelf]
    predictions: PredictionShelf
    clock: Clock

    def run(self) -> int:
        """Parts, predictions of no job, removals that came undone; how many files went."""
        now = self.clock()
        parts = sum(shelf.sweep_parts(LEFT_S, now) for shelf in self.shelves.values())
        orphans = self.pages.unnamed(self.predictions.older_than(LEFT_S, now))
        cleared = sum(self.predictions.remove(work_key) for work_key in orphans)
        repeated = self.pages.finish(now - RESURRECTED, lambda place, name: self.shelves[place].remove(name))
        if parts or cleared or repeated:
            logger.info("cleared away", parts=parts, predictions=cleared, removed_again=repeated)
        return parts + cleared + repeated


@dataclass(frozen=True)
class Retention:
    """Removes bytes by the settings, or one study's by a person's word; both are recorded."""

    pages: RetentionPages
    shelves: Mapping[Place, Shelf]
    days: Days
    clock: Clock

    def run(self) -> int:
        """By the schedule: what is due; how many studies something was removed of. One that fails stops no other."""
        order, done = PurgeOrder("node", "retention", self.clock()), 0
        for study in self._aged(order):
            with fault_barrier(lambda _error: None):
                done += bool(self._purge(study, order))
        return done

    def due(self, order: PurgeOrder) -> list[tuple[str, tuple[Parcel, ...]]]:
        """By a person's word: what the settings let go now, study by study."""
        return [(study, self._purge(study, order)) for study in self._aged(order)]

    def _aged(self, order: PurgeOrder) -> Sequence[str]:
        shortest = self.days.shortest
        return self.pages.aged(order.at - timedelta(days=shortest)) if shortest else []

    def named(self, study: str, order: PurgeOrder) -> tuple[Parcel, ...]:
        """Everything of one study, however young; Forbidden, with the reason, while anything of it is needed."""
        return self.pages.purge(study, _all_of, self._remove, order)

    def _purge(self, study: str, order: PurgeOrder) -> tuple[Parcel, ...]:
        parcels = self.pages.purge(study, lambda standing: due(standing, self.days, order.at), self._remove, order)
        for parcel in () if order.dry_run else parcels:
            logger.info("purged", study=study, series=parcel.series_id, place=parcel.place, files=len(parcel.files))
        return parcels

    def _remove(self, place: Place, name: str) -> bool:
        return self.shelves[place].remove(name)


def _all_of(standing: StudyStanding) -> tuple[Parcel, ...]:
    if because := kept_because(standing):
        raise Forbidden(f"nothing of study {standing.reference} may be removed; {because}")
    return everything(standing)


@dataclass(frozen=True)
class Pulse:
    """Gives a sign of life for every attempt under way in this process, from a thread that nothing else uses."""

    pages: LeasePages
    in_hand: Mapping[str, str]  # lease tokens with their stages, as Barrier keeps them
    lease_s: float
    clock: Clock
    lost: Callable[[Collection[str]], object]  # told the stages whose work others have taken over, or called off

    def beat(self) -> int:
        """Renew; how many are in hand."""
        held = dict(self.in_hand)
        gone = self.pages.renew(held, self.clock(), self.lease_s) if held else ()
        if stages := {held[token] for token in gone if token in self.in_hand}:
            logger.warning("work was taken over or called off while it was done here", stages=sorted(stages))
            self.lost(stages)
        return len(held)


@dataclass(frozen=True)
class Recovery:
    """Takes back the work of whoever is not heard of any more, and has what waits carried again."""

    pages: LeasePages
    carrier: Carrier
    watch: LeaseWatch
    in_hand: Mapping[str, str]
    clock: Clock
    monotonic: Callable[[], float]

    def run(self) -> int:
        """How many pieces of work go on because of it."""
        forsaken = self.watch.look(self.pages.leases(), self.monotonic()) - {*self.in_hand}
        if taken := self.pages.recover(self.clock(), forsaken):
            logger.warning("work taken back: its worker was not heard of", count=taken)
        return taken + self.carrier.recover(self.clock())
