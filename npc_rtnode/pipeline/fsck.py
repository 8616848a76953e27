"""Fsck: every promise of the node, looked at on disk and in the ledger. Reads only, and may run beside a node at work.

What the ledger alone can answer is asked of its witness stand; here the ledger is compared with the files, and the
files with one another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from npc_rtnode.domain.invariants import (
    ClaimedInstance,
    ClaimedObject,
    ClaimedResult,
    HouseFacts,
    Looked,
    ObjectFacts,
    find_patients,
    judge_bounds,
    judge_identity,
    judge_references,
    looked,
)
from npc_rtnode.domain.retention import Place
from npc_rtnode.errors import NotFound, Unreadable
from npc_rtnode.ports import Clock, ProofPages, ProofReader, ProofShelf

OVERDUE_S = 3600.0
"""What the node does by itself is never longer due than this while it runs."""


@dataclass(frozen=True)
class Checker:
    """Looks at all fourteen; `quick` leaves out the bytes of what was received (I1's digests and I2)."""

    pages: ProofPages
    shelves: Mapping[Place, ProofShelf]
    reader: ProofReader
    house: Callable[[], HouseFacts]
    texts: Callable[[], Iterable[tuple[str, str]]]  # file names and logs: (where, text)
    clock: Clock
    quick: bool = False

    def run(self) -> list[Looked]:
        """In the order of their numbers."""
        now = self.clock()
        kept, valid, patients = self._received()
        references, identity = self._objects()
        return [
            kept,
            valid,
            self.pages.places(),
            self.pages.current_jobs(),
            self.pages.structure_sets(),
            references,
            self.pages.sent(),
            self.pages.leases(now),
            self.pages.limits(),
            self.pages.journal(),
            find_patients([*self.pages.texts(), *self.texts()], patients),
            judge_bounds(self.house()),
            self.pages.overdue(now, OVERDUE_S),
            identity,
        ]

    # --- what was received --------------------------------------------------------------------------------------------

    def _received(self) -> tuple[Looked, Looked, list[tuple[str, str]]]:
        """I1, I2, and who the patients are, one a series, to be looked for elsewhere."""
        found = _Received()
        for claimed in self.pages.instances():
            found.named.add(claimed.sha256)
            found.removed += not claimed.there
            if claimed.there:
                self._look_at(claimed, found)
        counts = {
            "received": len(found.kept) + found.removed,
            "removed": found.removed,
            "unnamed": self._unnamed(found),
        }
        kept = looked("I1", [*found.kept, *self._undead()], **counts)
        valid = replace(looked("I2", found.valid), skipped=len(found.kept) - len(found.valid))
        return kept, valid, list(dict.fromkeys(found.patients.values()))

    def _look_at(self, claimed: ClaimedInstance, found: _Received) -> None:
        data, words = self._read(claimed)
        found.kept.append(words)
        if data is not None:
            found.valid.append(_named(claimed, self.reader.flaw(data, claimed)))
        if not words and claimed.series_uid not in found.patients:
            found.patients[claimed.series_uid] = self._patient(claimed)

    def _read(self, claimed: ClaimedInstance) -> tuple[bytes | None, str]:
        """The bytes unless `quick`, and what is wrong with the file."""
        spool = self.shelves[Place.SPOOL]
        if self.quick:
            return None, _named(claimed, _size_flaw(spool.path(claimed.sha256), claimed.size))
        try:
            return spool.read(claimed.sha256), ""
        except (NotFound, Unreadable) as error:
            return None, _named(claimed, error.detail)

    def _patient(self, claimed: ClaimedInstance) -> tuple[str, str]:
        try:
            return self.reader.patient(self.shelves[Place.SPOOL].path(claimed.sha256))
        except Unreadable:
            return "", ""

    def _unnamed(self, found: _Received) -> int:
        """Files that no row names: bytes that were not acknowledged, or a ledger that is older than its spool."""
        return sum(name not in found.named for name in self.shelves[Place.SPOOL].names())

    def _undead(self) -> Iterator[str]:
        """What was removed, and lies there all the same."""
        for place, shelf in self.shelves.items():
            back = self.pages.removed(place) & set(shelf.names())
            yield from (f"{place} {name[:12]} was removed and lies there again" for name in sorted(back))

    # --- what was made ------------------------------------------------------------------------------------------------

    def _objects(self) -> tuple[Looked, Looked]:
        """I6 and I14, object by object, beside the first of its inputs."""
        references: list[str] = []
        identity: list[str] = []
        skipped = 0
        for result in self.pages.results():
            source = self._source(result)
            for item in result.objects:
                facts = self._facts(item) if source else None
                if source is None or facts is None:
                    skipped += 1
                    references += [words] if (words := self._unreadable(result, item)) else []
                    continue
                identity.append(judge_identity(result.job_id, item.kind, facts, source))
                if item.kind == "RTSTRUCT":
                    wanted = frozenset(uid for uid, _, _ in result.inputs)
                    references.append(judge_references(result.job_id, facts, source, wanted))
        return replace(looked("I6", references), skipped=skipped), replace(looked("I14", identity), skipped=skipped)

    def _source(self, result: ClaimedResult) -> ObjectFacts | None:
        """The first input whose bytes are there; None once they have been removed."""
        spool = self.shelves[Place.SPOOL]
        for _, sha256, there in result.inputs:
            if there:
                try:
                    return self.reader.facts(spool.path(sha256))
                except Unreadable:  # told by I1 already
                    continue
        return None

    def _facts(self, item: ClaimedObject) -> ObjectFacts | None:
        """What a stored object says; None where it was removed or cannot be read."""
        if not item.there:
            return None
        try:
            return self.reader.facts(self.shelves[Place.OUTBOX].path(item.sha256))
        except Unreadable:
            return None

    def _unreadable(self, result: ClaimedResult, item: ClaimedObject) -> str:
        """An object that should be there whole, and is not."""
        if not item.there:
            return ""
        try:
            self.shelves[Place.OUTBOX].read(item.sha256)
        except (NotFound, Unreadable) as error:
            return f"job {result.job_id}: its {item.kind} cannot be read: {error.detail}"
        return ""


@dataclass
class _Received:
    """What the looks at received instances have come to so far; one entry each, empty where all is well."""

    kept: list[str] = field(default_factory=list)
    valid: list[str] = field(default_factory=list)
    named: set[str] = field(default_factory=set)
    patients: dict[str, tuple[str, str]] = field(default_factory=dict)
    removed: int = 0


def _named(claimed: ClaimedInstance, words: str) -> str:
    return f"instance {claimed.instance} of series {claimed.series_id}: {words}" if words else ""


def _size_flaw(path: Path, size: int) -> str:
    try:
        found = path.stat().st_size
    except FileNotFoundError:
        return "its file is not there"
    return "" if found == size else f"its file has {found} bytes, not {size}"
