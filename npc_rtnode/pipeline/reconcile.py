"""Reconcile: after an older copy of the ledger was put back, what the disk holds and the ledger has forgotten.

Received bytes are taken in again, in the order in which they came, as a receiver would record them; nobody calls, so
they come on an association of their own (`reclaimed`). Objects that were written stay the bytes of their SOP Instance
UIDs: what was sent once is sent again as the same object. Nothing on disk is changed. The node must not be running.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from npc_rtnode import log
from npc_rtnode.domain.records import AssociationInfo, FoundObject, StoreOutcome
from npc_rtnode.domain.retention import Place
from npc_rtnode.errors import Unreadable
from npc_rtnode.ports import Clock, ProofShelf, ReclaimPages, RecoveryPages, StoredReader

logger = log.get(__name__)
RECLAIMED = "reclaimed"
"""How the association of what was taken in again ended, and who called: nobody."""


class Namer(Protocol):
    """Names for associations."""

    def __call__(self) -> str:
        """A new one."""


@dataclass
class Reconciled:
    """What came of it, in files; `missing` are named by the ledger and not there."""

    taken_in: int = 0
    conflicts: int = 0
    unreadable: int = 0
    objects: int = 0
    missing: dict[str, int] = field(default_factory=dict)

    @property
    def document(self) -> dict[str, object]:
        """For the journal and for people."""
        return asdict(self)


@dataclass(frozen=True)
class Reconciler:
    """Looks at the spool and the outbox with the ledger's eyes."""

    pages: RecoveryPages
    intake: ReclaimPages
    shelves: Mapping[Place, ProofShelf]
    reader: StoredReader
    new_id: Namer
    clock: Clock

    def run(self, word: tuple[str, str]) -> Reconciled:
        """Take in what is not known, and journal it: `word` is who, and why."""
        done = Reconciled()
        self._objects(done)
        self._received(done)
        done.missing = {str(place): count for place, count in self.pages.missing(self._is_there).items()}
        self.pages.told("RECONCILED", done.document, word, self.clock())
        logger.warning("reconciled", **done.document)
        return done

    def _objects(self, done: Reconciled) -> None:
        for name, path in self._unknown(Place.OUTBOX):
            try:
                found = FoundObject(self.reader.sop_uid(path), name, path.stat().st_size)
            except Unreadable:
                done.unreadable += 1
                continue
            self.pages.keep(found, self.clock())
            done.objects += 1

    def _received(self, done: Reconciled) -> None:
        unknown = self._unknown(Place.SPOOL)
        if not unknown:
            return
        association = AssociationInfo(self.new_id(), RECLAIMED, "", "")
        self.intake.association_opened(association, self.clock())
        self.intake.association_ended(association, RECLAIMED, (), self.clock())  # first: broken off, it is not "lost"
        for _, path in unknown:
            self._take_in(path, association, done)

    def _take_in(self, path: Path, association: AssociationInfo, done: Reconciled) -> None:
        try:
            arrival = self.reader.arrival(path, association)
        except Unreadable:
            done.unreadable += 1
            return
        outcome = self.intake.record(arrival, _written_at(path))
        if outcome is StoreOutcome.OWN_OBJECT:
            return
        done.taken_in += outcome is not StoreOutcome.CONFLICT
        done.conflicts += outcome is StoreOutcome.CONFLICT

    def _unknown(self, place: Place) -> Sequence[tuple[str, Path]]:
        """Oldest first, as they came."""
        shelf = self.shelves[place]
        found = [(name, shelf.path(name)) for name in self.pages.unknown(place, list(shelf.names()))]
        return sorted(found, key=lambda one: (one[1].stat().st_mtime_ns, one[0]))

    def _is_there(self, place: Place, name: str) -> bool:
        return self.shelves[place].path(name).exists()


def _written_at(path: Path) -> datetime:
    """The time of its last byte: when it was received."""
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)
