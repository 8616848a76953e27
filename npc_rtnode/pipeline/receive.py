"""Receive: bytes and a record of them into the intake journal, durable, and only then Success (ADR 0005, ADR 0020).

An instance of usual size is held in memory while it comes, judged there, and written with its record by one flush; its
SHA-256 is found when the record goes into the ledger. A
larger one is written into its part file as it comes (ADR 0019) and is in the spool before its record is written; it is
acknowledged when the ledger has it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Final

from npc_rtnode import log
from npc_rtnode.domain.records import (
    Arrival,
    Arrived,
    AssociationInfo,
    Ended,
    InstanceIdentity,
    IntakeEntry,
    Opened,
    Refused,
    Rejected,
    StoreOutcome,
    StoreRequest,
)
from npc_rtnode.domain.retry import describe
from npc_rtnode.errors import DiskLow, LedgerUnavailable, Unreadable
from npc_rtnode.pipeline.attempt import fault_barrier
from npc_rtnode.ports import Clock, DatasetReader, Incoming, IntakeNotes, IntakeSpool, Part

logger = log.get(__name__)

HELD_BYTES: Final = 2 << 20
"""A larger object goes to its own file as it comes: what twenty associations hold stays below 40 MiB."""
_TOLD: Final = 10_000
"""So many refused images of one association are named; one would do to keep its series open."""
_NOT_TAKEN = {StoreOutcome.UNREADABLE, StoreOutcome.MISMATCH, StoreOutcome.NO_RESOURCES}
_IMAGES = {"1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1"}
"""MR and Enhanced MR Image Storage: one of these refused may be a slice that a series lacks."""


class Receiver:
    """Fulfils ports.InstanceSink. Nothing is acknowledged before its bytes, and a record with a check sum of them, are
    durable.

    STORED says that it is safe; whether it is another copy, a conflict or our own object is found when the ledger takes
    the record, and all of these are Success.
    """

    def __init__(
        self,
        spool: IntakeSpool,
        notes: IntakeNotes,
        reader: DatasetReader,
        clock: Clock,
        entered: Callable[[int], StoreOutcome],
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        """`entered` waits until the ledger has the record of that number; raises LedgerUnavailable. `ended` is called
        when an association's end has been noted and no other is open.
        """
        self._spool = spool
        self._notes = notes
        self._reader = reader
        self._clock = clock
        self._entered = entered
        self._ended = ended
        self._open: set[str] = set()
        self._refused: defaultdict[str, list[str]] = defaultdict(list)  # association to images that were not taken

    def opened(self, association: AssociationInfo) -> None:
        """An association was accepted."""
        self._open.add(association.association_id)
        self._note(Opened(self._clock(), association))

    def rejected(self, association: AssociationInfo, reason: str) -> None:
        """An association was refused."""
        logger.warning("association rejected", peer_ip=association.peer_ip, because=reason)
        self._note(Rejected(self._clock(), association, reason))

    def closed(self, association: AssociationInfo, how: str) -> None:
        """An association ended."""
        refused = self._refused.pop(association.association_id, [])
        self._note(Ended(self._clock(), association, how, tuple(refused[:_TOLD])))
        self._open.discard(association.association_id)
        if not self._open:
            self._ended()

    def begin(self, request: StoreRequest) -> Incoming:
        """An instance is announced."""
        incoming = _Incoming(request, self._spool, self._finish)
        incoming.open(self._reader)
        return incoming

    def _note(self, entry: IntakeEntry) -> None:
        """Nobody is told anything on the strength of it: it need not be durable at once."""
        try:
            self._notes.append(entry, wait=False)
        except DiskLow as error:
            logger.error("not noted", what=type(entry).__name__, because=error.code)

    def _finish(self, incoming: _Incoming) -> StoreOutcome:
        """Keep one instance durably, or say why not; whatever goes wrong, the sender is asked to try again."""
        request, outcome = incoming.request, StoreOutcome.NO_RESOURCES
        with fault_barrier(lambda _error: None):
            outcome = self._try(incoming)
        if outcome in _NOT_TAKEN and request.sop_class_uid in _IMAGES:
            told = self._refused[request.association.association_id]
            told += [request.sop_uid[:64]] if len(told) < _TOLD else []
        return outcome

    def _try(self, incoming: _Incoming) -> StoreOutcome:
        try:
            return self._store(incoming)
        except Unreadable as error:
            return self._refuse(incoming.request, StoreOutcome.UNREADABLE, error.detail)
        except (DiskLow, LedgerUnavailable) as error:
            logger.error("instance not taken, the sender should try again", because=describe(error))
            return StoreOutcome.NO_RESOURCES

    def _store(self, incoming: _Incoming) -> StoreOutcome:
        request = incoming.request
        with incoming.reading() as encoded:
            identity = self._reader.identify(encoded, request.transfer_syntax_uid)
        if not _agree(identity, request):
            return self._refuse(
                request, StoreOutcome.MISMATCH, "data set and command name different classes or instances"
            )
        if incoming.part is not None:
            return self._store_large(incoming.part, identity, request)
        content = incoming.held()
        self._spool.admit(len(content) + self._notes.waiting_bytes)
        self._notes.append(Arrived(self._clock(), Arrival(identity, request, "", len(content))), content)
        return StoreOutcome.STORED

    def _store_large(self, part: Part, identity: InstanceIdentity, request: StoreRequest) -> StoreOutcome:
        """Its bytes are not in the journal: it is answered once the ledger has it, as it would be without one."""
        size, sha256 = part.size, part.keep()
        outcome = self._entered(self._notes.append(Arrived(self._clock(), Arrival(identity, request, sha256, size))))
        if outcome is StoreOutcome.OWN_OBJECT:
            self._spool.remove(sha256)
        elif not self._spool.path(sha256).exists():  # retention took it between the two; from its row on it stays
            with part.reading() as whole:
                self._spool.keep([whole])
        return outcome

    def _refuse(self, request: StoreRequest, outcome: StoreOutcome, reason: str) -> StoreOutcome:
        logger.warning("instance refused", outcome=outcome, because=reason)
        self._note(Refused(self._clock(), request, outcome, reason))
        return outcome


class _Incoming:
    """Fulfils ports.Incoming: bytes in memory, beyond HELD_BYTES a part file, or the fault that ended it early (then
    the rest is let pass)."""

    def __init__(self, request: StoreRequest, spool: IntakeSpool, finish: Callable[[_Incoming], StoreOutcome]) -> None:
        self.request = request
        self.part: Part | None = None
        self._spool = spool
        self._finish = finish
        self._lock = Lock()  # an association may end while its last bytes are being written
        self._content: bytearray | None = None
        self._prefix = 0
        self._fault: Exception | None = None

    def open(self, reader: DatasetReader) -> None:
        """Begin with what stands before the data set; refused where not even its first byte finds room."""
        with fault_barrier(self._fail):
            prefix = reader.file_prefix(self.request)
            self._spool.admit(1)
            self._content, self._prefix = bytearray(prefix), len(prefix)

    def write(self, data: bytes | memoryview) -> None:
        """The next bytes of the data set."""
        with self._lock:
            try:
                held = self._held_with(data)
            except MemoryError as error:
                self._fail(error)
            else:
                if not held:
                    self._write_on(data)

    def _held_with(self, data: bytes | memoryview) -> bool:
        """Whether it could be added to what is in memory."""
        if self._content is None or len(self._content) + len(data) > HELD_BYTES:
            return False
        self._content += data
        return True

    def _write_on(self, data: bytes | memoryview) -> None:
        with fault_barrier(self._fail):
            if self._content is not None:
                self._to_disk(self._content)
            if self.part is not None:
                self.part.write(data)

    def _to_disk(self, begun: bytearray) -> None:
        self.part, self._content = self._spool.begin(), None
        self.part.write(begun)

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

    @contextmanager
    def reading(self) -> Iterator[memoryview]:
        """The data set, for the time of a `with`; raises what went wrong on the way."""
        if self._fault:
            raise self._fault
        if self.part is not None:
            with self.part.reading(self._prefix) as encoded:
                yield encoded
        elif self._content is not None:
            with memoryview(self._content) as whole, whole[self._prefix :] as encoded:
                yield encoded
        else:
            raise Unreadable("It was cut off while it was received.")

    def held(self) -> bytearray:
        """All of it."""
        if self._content is None:
            raise Unreadable("It was cut off while it was received.")
        return self._content

    def _fail(self, error: Exception) -> None:
        self._fault = self._fault or error
        self._drop()

    def _drop(self) -> None:
        part, self.part, self._content = self.part, None, None
        if part:
            part.discard()


def _agree(identity: InstanceIdentity, request: StoreRequest) -> bool:
    return (identity.sop_class_uid, identity.sop_uid) == (request.sop_class_uid, request.sop_uid)
