"""Replay: what the intake journal holds goes into the ledger, in order, in batches, each record once (ADR 0020).

First the bytes into their place in the spool, then the rows with the position of the journal in one transaction; much
later, and many at once, the files are made durable by themselves, and only then does the journal let go of theirs.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final

from npc_rtnode import log
from npc_rtnode.domain.records import Arrival, Arrived, Ended, IntakeEntry, StoreOutcome
from npc_rtnode.domain.retry import code_of
from npc_rtnode.errors import DiskLow, MomentFault, NotFound, Unreadable
from npc_rtnode.pipeline.attempt import contained, fault_barrier
from npc_rtnode.ports import Clock, Content, DatasetReader, IntakeJournal, IntakePages, IntakeSpool, Noted

logger = log.get(__name__)

BATCH: Final = 256
"""Records in one transaction at most; other writers wait for it."""
GATHER_S: Final = 0.1
"""Records are entered together once none has come for so long …"""
LONGEST_GATHER_S: Final = 3.0
"""… or after this: entering takes 40 % from a sender's rate while it goes on (400 against 700 a second, measured). What
the only association brought is entered at its end, but no more often than this: some open one for each image."""
IDLE_S: Final = 1.0
"""After so long without a record, files are made durable."""
_PASSING: Final = (MomentFault, OSError, MemoryError)
"""Faults of the moment: what they befall is tried again."""


@dataclass
class Replayer:
    """Takes the journal up at start, follows it in a thread of its own, and can be waited for."""

    journal: IntakeJournal
    pages: IntakePages
    spool: IntakeSpool
    reader: DatasetReader
    clock: Clock
    ended: Callable[[], None] = lambda: None  # the ledger knows that associations ended: series may be over
    monotonic: Callable[[], float] = time.monotonic
    _at_work: threading.RLock = field(default_factory=threading.RLock)
    _stirred: threading.Event = field(default_factory=threading.Event)
    _over: threading.Event = field(default_factory=threading.Event)  # no more is waited for
    _hastened: float = -math.inf
    _stopping: threading.Event = field(default_factory=threading.Event)
    _applied: int = 0
    _secured: int = 0
    _doubted: bool = False  # a flush of files failed: what the kernel says of them now counts for nothing
    _unsecured: set[str] = field(default_factory=set)
    _large: dict[int, StoreOutcome] = field(default_factory=dict)  # outcomes that somebody waits for

    # --- from start to end --------------------------------------------------------------------------------------------

    def take_up(self) -> int:
        """What an earlier process left: files that a power loss may have torn, then records; how many of these."""
        self._applied, self._secured = self.pages.position()
        self.journal.open(self._applied)
        self._restore()
        done = self.run()
        self.secure()
        self._large.clear()  # nobody waits for these
        with fault_barrier(lambda _error: None):
            self.journal.prepare()
        return done

    def start(self) -> None:
        """Follow the journal from now on."""
        self._thread = threading.Thread(target=self._follow, name="replay", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Enter what is there, if the ledger takes it, and let go of the journal."""
        self._stopping.set()
        self._stirred.set()
        self._over.set()
        self._thread.join()
        with fault_barrier(lambda _error: None):
            self.run()
            self.secure()
        self.journal.close()

    def stir(self) -> None:
        """There is a record more."""
        self._stirred.set()

    def hasten(self) -> None:
        """The only association has ended: somebody waits for what it brought, and nobody sends, so enter it now."""
        now = self.monotonic()
        if now - self._hastened >= LONGEST_GATHER_S:
            self._hastened = now
            self._over.set()

    def _follow(self) -> None:
        while not self._stopping.is_set():
            self._stirred.wait(IDLE_S)
            quiet = self._gather()
            self._stirred.clear()
            self._over.clear()
            if not self._beat(quiet):
                self._stopping.wait(IDLE_S)

    def _gather(self) -> bool:
        """Whether it is quiet: not only enough, or the end of an association."""
        for _ in range(round(LONGEST_GATHER_S / GATHER_S)):
            newest = self.journal.last
            if self._over.wait(GATHER_S):
                return False
            if self.journal.last == newest:
                return True
            with suppress(DiskLow, OSError):  # who needs a segment says so
                self.journal.prepare(quiet=False)
        return False

    def _beat(self, quiet: bool) -> bool:
        """Whether all went well."""
        well = False
        with fault_barrier(lambda _error: None):
            quiet = self.run() == 0 and quiet
            if quiet or self.journal.presses():
                self.secure()
            self.journal.prepare(quiet=quiet)
            well = True
        return well

    # --- what others ask ----------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """How many records are not in the ledger yet."""
        return max(self.journal.last - self._applied, 0)

    def congestion(self) -> str | None:
        """Why no more can be taken for now, if so."""
        because = "the intake journal is full, the ledger or the spool's disk takes nothing"
        return because if self.journal.is_full() else None

    def entered(self, number: int) -> StoreOutcome:
        """What became of that record of an instance without content, once the ledger has it."""
        self.run()
        found = StoreOutcome.STORED if number <= self._applied else StoreOutcome.NO_RESOURCES
        return self._large.pop(number, found)

    # --- records ------------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Enter everything that is there; how many records. Raises LedgerUnavailable or DiskLow: later, then."""
        done = 0
        with self._at_work:
            while records := self.journal.read(self._applied, BATCH):
                self._enter(records)
                self.journal.entered(self._applied)
                done += len(records)
                if self.journal.presses():  # a sender who does not pause would keep this from ever being done
                    self.secure()
        return done

    def _enter(self, records: Sequence[Noted]) -> None:
        failed: list[Exception] = []
        with contained(failed.append):
            self._replay(records)
        if failed:
            self._enter_singly(records, failed[0])

    def _replay(self, records: Sequence[Noted]) -> None:
        contents = _contents(records)
        for sha256, content in contents.items():
            self.spool.lay(content, sha256)
        entries = self._compared(records)

        def keep(sha256: str) -> None:
            """Retention may have been here since; it cannot be now."""
            if sha256 in contents and not self.spool.path(sha256).exists():
                self.spool.lay(contents[sha256], sha256)

        outcomes = self.pages.replay(entries, self.clock(), keep)
        self._unsecured.update(contents)
        self._applied = records[-1].number
        for noted, (_, entry) in zip(records, entries, strict=True):
            if isinstance(entry, Arrived):
                self._settle(noted, entry.arrival, outcomes.get(noted.number, StoreOutcome.STORED))
        if any(isinstance(noted.entry, Ended) for noted in records):
            self.ended()

    def _settle(self, noted: Noted, arrival: Arrival, outcome: StoreOutcome) -> None:
        if outcome is StoreOutcome.CONFLICT:
            said = "conflicting contents under one SOP Instance UID: both kept, series quarantined"
            logger.error(said, sha256=arrival.sha256, differs_in=list(arrival.differs_in))
        if noted.content is None:
            self._large[noted.number] = outcome
        elif outcome is StoreOutcome.OWN_OBJECT:
            self._unsecured.discard(arrival.sha256)
            self.spool.remove(arrival.sha256)

    def _enter_singly(self, records: Sequence[Noted], error: Exception) -> None:
        """One record that cannot be entered holds up no other: it is said and set aside. Its bytes stay. What passes by
        itself (a disk, a ledger, a machine that is short of something) sets nothing aside."""
        if isinstance(error, _PASSING) or self._applied >= records[-1].number:
            raise error
        if len(records) > 1:
            for noted in records:
                self._enter([noted])
            return
        self._set_aside(records[0], error)

    def _set_aside(self, noted: Noted, error: Exception) -> None:
        logger.error("a record of the intake journal cannot be entered; set aside", number=noted.number)
        self.pages.set_aside(noted.number, noted.entry, code_of(error), self.clock())
        self._unsecured.update(_contents([noted]))
        self._applied = noted.number
        if noted.content is None:
            self._large[noted.number] = StoreOutcome.NO_RESOURCES

    # --- copies -------------------------------------------------------------------------------------------------------

    def _compared(self, records: Sequence[Noted]) -> list[tuple[int, IntakeEntry]]:
        """Each arrival beside the copies that were here before it, in the ledger or in these records."""
        wanted = [noted.entry.arrival.identity.sop_uid for noted in records if isinstance(noted.entry, Arrived)]
        known = dict(self.pages.known(wanted)) if wanted else {}
        entries: list[tuple[int, IntakeEntry]] = []
        for noted in records:
            entry = noted.entry
            if isinstance(entry, Arrived):
                sop_uid = entry.arrival.identity.sop_uid
                entry = replace(entry, arrival=self._beside(entry.arrival, known.get(sop_uid, ())))
                known[sop_uid] = (*known.get(sop_uid, ()), entry.arrival.sha256)
            entries.append((noted.number, entry))
        return entries

    def _beside(self, arrival: Arrival, copies: Sequence[str]) -> Arrival:
        """The same image in another encoding, or in what it differs."""
        for kept in copies:
            if kept == arrival.sha256:
                return arrival
            differs = self._differences(kept, arrival.sha256)
            if not differs:
                return replace(arrival, same_as=kept)
            arrival = replace(arrival, differs_in=arrival.differs_in or differs)
        return arrival

    def _differences(self, kept: str, arrived: str) -> tuple[str, ...]:
        failed: list[Exception] = []
        found: tuple[str, ...] = ()
        with contained(failed.append):
            found = self.reader.differences(self.spool.read(kept), self.spool.read(arrived))
        return _doubt(failed[0]) if failed else found

    # --- files --------------------------------------------------------------------------------------------------------

    def secure(self) -> None:
        """Make the files of all records so far durable, and let the journal use its segments again.

        A flush that failed is not tried again on the same files: a second one would say that all is well.
        """
        with self._at_work:
            if self._secured >= self._applied:
                return
            if self._doubted:
                self._restore()
            self._doubted = True
            self.spool.settle(self._unsecured)
            self._doubted = False
            self.pages.secured(self._applied)
            self._secured = self._applied
            self.journal.release(self._applied)
            self._unsecured.clear()

    def _restore(self) -> None:
        """Files whose rows are there and which are not durable by themselves yet: laid anew, but for those that were
        removed since. Nobody knows what an earlier flush said of them, and what can be read need not be on the disk."""
        after = self._secured
        while records := [r for r in self.journal.read(after, BATCH) if r.number <= self._applied]:
            self._lay_again(records)
            after = records[-1].number

    def _lay_again(self, records: Sequence[Noted]) -> None:
        arrivals = [noted.entry.arrival for noted in records if isinstance(noted.entry, Arrived)]
        known = self.pages.known([arrival.identity.sop_uid for arrival in arrivals])
        gone = self.pages.gone([arrival.sha256 for arrival in arrivals])
        named = {a.sha256 for a in arrivals if a.sha256 in known.get(a.identity.sop_uid, ())} | self._unsecured
        for sha256, content in _contents(records).items():
            if sha256 in named - gone:
                self.spool.lay(content, sha256, anew=True)
                self._unsecured.add(sha256)


def _doubt(error: Exception) -> tuple[str, ...]:
    """Where two contents could not be compared they differ: both are kept, and a person is told."""
    if isinstance(error, _PASSING):
        raise error
    if isinstance(error, (NotFound, Unreadable)):
        return ("the copy in the spool, which is gone or damaged",)
    return ("what could not be compared",)


def _contents(records: Sequence[Noted]) -> dict[str, Content]:
    return {
        noted.entry.arrival.sha256: noted.content
        for noted in records
        if isinstance(noted.entry, Arrived) and noted.content is not None
    }
