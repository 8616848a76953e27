"""The door: who is let in, how many are inside, and the one way from a connection to the sink."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

from pydicom import uid
from pydicom.dataset import Dataset

from npc_rtnode import log
from npc_rtnode.adapters.dicom.commitment import is_request, read_request
from npc_rtnode.adapters.dicom.listener.access import AccessList, Refusal, unknown_caller
from npc_rtnode.adapters.dicom.listener.answers import STATUS, Answer, status_of
from npc_rtnode.adapters.dicom.tls import Shown
from npc_rtnode.domain.records import AssociationInfo, CommitmentRequest, StoreOutcome, StoreRequest
from npc_rtnode.errors import NodeError, Unreadable
from npc_rtnode.ports import CommitmentSink, Incoming, InstanceSink
from npc_rtnode.settings import ListenerSettings, Peer

logger = log.get(__name__)

_SUCCESS, _NO_RESOURCES, _NO_SUCH_ACTION, _INVALID_ARGUMENT = 0x0000, 0x0213, 0x0123, 0x0115  # of N-ACTION, PS3.7 C
_FULL: Final = Refusal(2, 3, 2, "local limit of associations reached")
_TEMPORARY_CONGESTION: Final = 2, 3, 1
_WAITING_ROOM: Final = 64  # connections without an association, all addresses together (row 11)
_WAITING_ROOM_PER_ADDRESS: Final = 32
_STRANGER_PAUSE_S: Final = 60.0  # a refused address is spoken of at most this often


class Guest(Protocol):
    """One connection, as the door knows it."""

    info: AssociationInfo
    peer_ip: str
    shown: Shown | None
    peer: Peer | None
    admitted: bool
    announced: bool
    closed: bool

    def how_it_ended(self) -> str:
        """In one word."""

    def abort(self, block: bool = True) -> None:
        """Say that it is over."""

    def cut(self) -> None:
        """Close the connection, whatever the peer does."""

    def see_off(self, seconds: float) -> None:
        """Wait for its threads to end."""


class Door:
    """What all connections of one listener share: the access list, the counts and the sink."""

    def __init__(
        self,
        settings: ListenerSettings,
        sink: InstanceSink,
        congestion: Callable[[], str | None],
        tls: bool = False,
    ) -> None:
        self.settings = settings
        self._congestion = congestion
        self.object_limit = settings.max_object_mb << 20
        self._access = AccessList(settings, tls)
        self.commitments: CommitmentSink | None = None
        self._shaking: Counter[str] = Counter()  # TLS handshakes under way, by address
        self._sink = sink
        self._lock = threading.Lock()
        self._open: set[Guest] = set()
        self._strangers: dict[str, float] = {}

    @property
    def established(self) -> int:
        """Associations that were admitted and have not ended."""
        with self._lock:
            return self._places_taken()

    def _places_taken(self) -> int:
        """Whose connection is closed has left its place, though the sink may still be writing down how it ended."""
        return sum(assoc.admitted and not assoc.closed for assoc in self._open)

    def empty(self) -> bool:
        """Whether every connection has ended."""
        return not self._open

    def wait_until_empty(self, seconds: float) -> None:
        """So long at most."""
        deadline = time.monotonic() + seconds
        while not self.empty() and time.monotonic() < deadline:
            time.sleep(0.02)

    def lets_in(self, ip: str) -> bool:
        """Address and number of waiting connections, before any byte is read (rows 4, 11)."""
        if not self._access.knows_address(ip):
            self._note_stranger(ip)
            return False
        with self._lock:
            unadmitted = (assoc.peer_ip for assoc in self._open if not (assoc.admitted or assoc.closed))
            waiting = Counter(unadmitted) + self._shaking
        return waiting.total() < _WAITING_ROOM and waiting[ip] < _WAITING_ROOM_PER_ADDRESS

    @contextlib.contextmanager
    def shaking_hands(self, ip: str) -> Iterator[None]:
        """A TLS handshake is under way: it waits in the same room as a connection without an association."""
        with self._lock:
            self._shaking[ip] += 1
        try:
            yield
        finally:
            with self._lock:
                self._shaking[ip] -= 1

    def entered(self, assoc: Guest) -> None:
        """A connection was accepted."""
        with self._lock:
            self._open.add(assoc)

    def judge(self, assoc: Guest) -> Refusal | None:
        """Admit the association and count it, or say why not."""
        refusal = self._access.refusal(assoc.info, assoc.shown)
        if refusal is None and (congested := self._congestion()):
            refusal = Refusal(*_TEMPORARY_CONGESTION, congested)
        assoc.peer = self._access.peer(assoc.info, assoc.shown)
        with self._lock:
            if refusal is None and self._places_taken() >= self.settings.max_associations:
                refusal = _FULL
            assoc.admitted = refusal is None
        if refusal:
            self._refused(assoc.info, refusal.reason)
        return refusal

    def opened(self, assoc: Guest) -> None:
        """The association was accepted; said before its first message is served."""
        assoc.announced = True
        with _sink_faults():
            self._sink.opened(assoc.info)

    def ended(self, assoc: Guest) -> None:
        """The connection is closed, its thread about to end."""
        if assoc.announced:
            with _sink_faults():
                self._sink.closed(assoc.info, assoc.how_it_ended())
        with self._lock:
            self._open.discard(assoc)

    def begins(self, request: StoreRequest) -> Incoming:
        """The sink's side of an instance that is announced."""
        incoming: Incoming = _NotTaken()
        with _sink_faults():
            incoming = self._sink.begin(request)
        return incoming

    def on_store(self, event: Any) -> Dataset:
        """C-STORE on the library's road."""
        return status_of(self.stored(event.assoc.arrived(event.request, event.context)))

    def stored(self, incoming: Incoming) -> Answer:
        """The sink's verdict as a status (PS3.4 B.2.3); a sink that fails means 'send again'."""
        outcome = StoreOutcome.NO_RESOURCES
        with _sink_faults():
            outcome = incoming.store()
        return STATUS[outcome]

    def on_action(self, event: Any) -> tuple[int, None]:
        """N-ACTION for storage commitment: Success once the request is in the ledger, its answer comes later."""
        request, status = event.request, _NO_RESOURCES
        if self.commitments is None or not is_request(request):
            return _NO_SUCH_ACTION, None
        with _sink_faults():
            try:
                encoded = request.ActionInformation.getvalue() if request.ActionInformation else b""
                transaction, wanted = read_request(encoded, uid.UID(event.context.transfer_syntax))
                asked = CommitmentRequest(event.assoc.info.calling_ae, transaction, wanted)
                self.commitments.request(asked)
                status = _SUCCESS
            except Unreadable as error:
                logger.warning("commitment request refused", because=error.detail)
                status = _INVALID_ARGUMENT
        return status, None

    def cut_all(self) -> None:
        """Abort, then close under whoever is still there; a stalled peer cannot hold this up."""
        with self._lock:
            left = list(self._open)
        for assoc in left:
            if assoc.announced:  # an A-ABORT before the association is no event of the state machine (PS3.8 9.2)
                assoc.abort(block=False)
        self.wait_until_empty(0.2)
        for assoc in left:
            assoc.cut()
        for assoc in left:
            assoc.see_off(2.0)

    def _refused(self, info: AssociationInfo, reason: str) -> None:
        with _sink_faults():
            self._sink.rejected(info, reason)

    def _note_stranger(self, ip: str) -> None:
        """Tell of a refused address, seldom, and never from the accepting thread (the sink may be slow)."""
        now = time.monotonic()
        self._strangers = {known: at for known, at in self._strangers.items() if now - at < _STRANGER_PAUSE_S}
        if ip in self._strangers or len(self._strangers) >= _WAITING_ROOM:
            return
        self._strangers[ip] = now
        info = unknown_caller(ip)
        threading.Thread(target=self._refused, args=(info, "address not recognised"), daemon=True).start()


class _NotTaken:
    """Stands in where the sink failed, against its contract."""

    def write(self, data: bytes | memoryview) -> None:
        """Let it pass."""

    def store(self) -> StoreOutcome:
        """Send again."""
        return StoreOutcome.NO_RESOURCES

    def discard(self) -> None:
        """There is nothing."""


@contextlib.contextmanager
def _sink_faults() -> Iterator[None]:
    """By contract the sink never raises; if it does, the sender is not told Success and the association lives on."""
    try:
        yield
    except (OSError, NodeError) as error:
        logger.error("the sink failed", because=type(error).__name__)
