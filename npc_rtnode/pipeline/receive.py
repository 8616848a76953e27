"""Receive: bytes into the spool, a row into the ledger, and only then Success (intake.md 2.2, ADR 0005).

An object is written into its part file as it comes and judged there (ADR 0019): no object is ever in memory whole, but
for the comparison with another copy of itself, one at a time.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from threading import Lock

from npc_rtnode import log
from npc_rtnode.domain.records import (
    Arrival,
    AssociationInfo,
    InstanceIdentity,
    StoreOutcome,
    StoreRequest,
)
from npc_rtnode.domain.retry import describe
from npc_rtnode.errors import DiskLow, LedgerUnavailable, NotFound, Unreadable
from npc_rtnode.pipeline.attempt import fault_barrier
from npc_rtnode.ports import Clock, DatasetReader, Incoming, IntakePages, Part, Spool

logger = log.get(__name__)
_NOT_TAKEN = {StoreOutcome.UNREADABLE, StoreOutcome.MISMATCH, StoreOutcome.NO_RESOURCES}
_IMAGES = {"1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1"}
"""MR and Enhanced MR Image Storage: one of these refused may be a slice that a series lacks."""


@dataclass(frozen=True)
class _End:
    """How and when an association ended, and which of its images were not taken."""

    association: AssociationInfo
    how: str
    refused: tuple[str, ...]
    at: datetime


class Receiver:
    """Fulfils ports.InstanceSink. Nothing is acknowledged before its bytes, digest and row are durable."""

    def __init__(
        self,
        spool: Spool,
        pages: IntakePages,
        reader: DatasetReader,
        clock: Clock,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        """`ended` is called once the ledger knows that an association ended: a series may be over."""
        self._ended = ended
        self._spool = spool
        self._pages = pages
        self._reader = reader
        self._clock = clock
        self._refused: defaultdict[str, list[str]] = defaultdict(list)  # association to images that were not taken
        self._ends: deque[_End] = deque()  # not in the ledger yet
        self._catching_up = Lock()
        self._comparing = Lock()  # two whole objects in memory, not two for every association

    def opened(self, association: AssociationInfo) -> None:
        """An association was accepted."""
        try:
            self._pages.association_opened(association, self._clock())
        except LedgerUnavailable as error:
            logger.error("association not recorded; its first instance will", because=error.code)

    def rejected(self, association: AssociationInfo, reason: str) -> None:
        """An association was refused."""
        logger.warning("association rejected", peer_ip=association.peer_ip, because=reason)
        try:
            self._pages.association_rejected(association, reason, self._clock())
        except LedgerUnavailable as error:
            logger.error("rejection not recorded", because=error.code)

    def closed(self, association: AssociationInfo, how: str) -> None:
        """An association ended."""
        refused = self._refused.pop(association.association_id, [])
        self._ends.append(_End(association, how, tuple(refused), self._clock()))
        self.catch_up()
        if self._ends:
            logger.error("end of association not recorded yet", waiting=len(self._ends))

    def catch_up(self) -> int:
        """Record ends that the ledger has not taken so far (its series would wait for them for minutes); how many."""
        if not self._catching_up.acquire(blocking=False):
            return 0  # whoever is at it takes ours too, or the next beat does
        try:
            return self._record_ends()
        finally:
            self._catching_up.release()

    def _record_ends(self) -> int:
        """An end leaves the queue only after the ledger has it, whatever else goes wrong."""
        done = 0
        while self._ends:
            end = self._ends[0]
            try:
                self._pages.association_ended(end.association, end.how, end.refused, end.at)
            except LedgerUnavailable:
                break
            self._ends.popleft()
            self._ended()
            done += 1
        return done

    def begin(self, request: StoreRequest) -> Incoming:
        """An instance is announced."""
        incoming = _Incoming(request, self._finish)
        incoming.open(self._spool, self._reader)
        return incoming

    def _finish(self, incoming: _Incoming) -> StoreOutcome:
        """Keep one instance durably, or say why not; whatever goes wrong, the sender is asked to try again."""
        request, outcome = incoming.request, StoreOutcome.NO_RESOURCES
        with fault_barrier(lambda _error: None):
            outcome = self._try(incoming)
        if outcome in _NOT_TAKEN and request.sop_class_uid in _IMAGES:
            self._refused[request.association.association_id].append(request.sop_uid[:64])
        return outcome

    def _try(self, incoming: _Incoming) -> StoreOutcome:
        try:
            return self._store(incoming.request, *incoming.written())
        except Unreadable as error:
            return self._refuse(incoming.request, StoreOutcome.UNREADABLE, error.detail)
        except (DiskLow, LedgerUnavailable) as error:
            logger.error("instance not taken, the sender should try again", because=describe(error))
            return StoreOutcome.NO_RESOURCES

    def _store(self, request: StoreRequest, part: Part, prefix: int) -> StoreOutcome:
        with part.reading(prefix) as encoded:
            identity = self._reader.identify(encoded, request.transfer_syntax_uid)
        if not _agree(identity, request):
            return self._refuse(
                request, StoreOutcome.MISMATCH, "data set and command name different classes or instances"
            )
        if self._pages.own_object_came_back(identity.sop_uid, self._clock()):
            return StoreOutcome.OWN_OBJECT
        size, sha256 = part.size, part.keep()
        arrival = self._compared(Arrival(identity, request, sha256, size))
        outcome = self._pages.record(arrival, self._clock())
        if not self._spool.path(sha256).exists():  # retention took it between the two; from its row on it stays
            with part.reading() as whole:
                self._spool.keep([whole])
        if outcome is StoreOutcome.CONFLICT:
            said = "conflicting contents under one SOP Instance UID: both kept, series quarantined"
            logger.error(said, sha256=sha256, differs_in=list(arrival.differs_in))
        return outcome

    def _compared(self, arrival: Arrival) -> Arrival:
        """Beside the copies that were here before: the same image in another encoding, or in what it differs.

        Two copies that come at the same moment do not see each other; the ledger then takes them for a conflict.
        """
        for kept in self._pages.copies(arrival.identity.sop_uid):
            if kept == arrival.sha256:
                return arrival
            differs = self._differences(kept, arrival.sha256)
            if not differs:
                return replace(arrival, same_as=kept)
            arrival = replace(arrival, differs_in=arrival.differs_in or differs)
        return arrival

    def _differences(self, kept: str, arrived: str) -> tuple[str, ...]:
        try:
            with self._comparing:
                return self._reader.differences(self._spool.read(kept), self._spool.read(arrived))
        except (NotFound, Unreadable):
            return ("the copy in the spool, which is gone or damaged",)

    def _refuse(self, request: StoreRequest, outcome: StoreOutcome, reason: str) -> StoreOutcome:
        logger.warning("instance refused", outcome=outcome, because=reason)
        try:
            self._pages.not_kept(request, outcome, reason, self._clock())
        except LedgerUnavailable as error:
            logger.error("refusal not recorded", because=error.code)
        return outcome


class _Incoming:
    """Fulfils ports.Incoming: a part file that grows, or the fault that ended it early (then the rest is let pass)."""

    def __init__(self, request: StoreRequest, finish: Callable[[_Incoming], StoreOutcome]) -> None:
        self.request = request
        self._finish = finish
        self._lock = Lock()  # an association may end while its last bytes are being written
        self._part: Part | None = None
        self._prefix = 0
        self._fault: Exception | None = None

    def open(self, spool: Spool, reader: DatasetReader) -> None:
        """Begin the part file with what stands before the data set."""
        with fault_barrier(self._fail):
            prefix = reader.file_prefix(self.request)
            self._part, self._prefix = spool.begin(), len(prefix)
            self._part.write(prefix)

    def write(self, data: bytes) -> None:
        """The next bytes of the data set."""
        with self._lock, fault_barrier(self._fail):
            if self._part:
                self._part.write(data)

    def store(self) -> StoreOutcome:
        """All of it is there."""
        try:
            return self._finish(self)
        finally:
            self.discard()

    def discard(self) -> None:
        """Leave no part file, whatever became of it."""
        with self._lock, fault_barrier(self._fail):
            self._drop()

    def written(self) -> tuple[Part, int]:
        """The part and the length of its prefix; raises what went wrong on the way."""
        if self._fault:
            raise self._fault
        if self._part is None:
            raise Unreadable("It was cut off while it was received.")
        return self._part, self._prefix

    def _fail(self, error: Exception) -> None:
        self._fault = self._fault or error
        self._drop()

    def _drop(self) -> None:
        part, self._part = self._part, None
        if part:
            part.discard()


def _agree(identity: InstanceIdentity, request: StoreRequest) -> bool:
    return (identity.sop_class_uid, identity.sop_uid) == (request.sop_class_uid, request.sop_uid)
