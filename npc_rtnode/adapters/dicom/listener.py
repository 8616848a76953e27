"""The Storage SCP: who may send, what is taken, and what each sender is told.

pynetdicom 3.0.4 speaks the protocol; the classes here close the holes measured in intake.md 1.2 (its row numbers stand
beside the code). Nothing is decoded: the encoded data set goes to the sink as it came, and only the sink's verdict
becomes a status word. This module runs in a small process of its own, without torch and without pixel codecs.

Memory: of an object no more than one PDU is held here (row 26); the sink has the rest on disk as it comes, in the DUL
thread, so that a disk that is slower than the network slows the sender down (ADR 0019).
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import queue
import secrets
import select
import socket
import socketserver
import ssl
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from typing import Any, Final, NamedTuple, cast

import pydicom.config
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pynetdicom import AE, _config, evt
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.acse import ACSE
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import C_STORE_RQ, DIMSEMessage
from pynetdicom.dimse_primitives import C_ECHO, C_STORE, N_ACTION, DimseServiceType
from pynetdicom.dul import DULServiceProvider
from pynetdicom.fsm import InvalidEventError
from pynetdicom.pdu_primitives import A_P_ABORT, P_DATA
from pynetdicom.presentation import PresentationContext, PresentationContextTuple
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made by pynetdicom at import
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from npc_rtnode import log
from npc_rtnode.adapters.dicom import fast_store
from npc_rtnode.adapters.dicom.commitment import PUSH_MODEL, is_request, read_request
from npc_rtnode.adapters.dicom.structure import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION,
    TRANSFER_SYNTAXES,
    checked_uid,
)
from npc_rtnode.adapters.dicom.tls import Credentials, Shown, shake_hands
from npc_rtnode.domain.records import AssociationInfo, CommitmentRequest, StoreOutcome, StoreRequest
from npc_rtnode.errors import NodeError, TlsFailed, Unreadable
from npc_rtnode.ports import CommitmentSink, Incoming, InstanceSink
from npc_rtnode.settings import ListenerSettings, Peer

logger = log.get(__name__)

STORAGE_CLASSES: Final = (  # what travels with an MR study, to be kept or set aside with a reason
    uid.MRImageStorage,
    uid.EnhancedMRImageStorage,
    uid.EnhancedMRColorImageStorage,
    uid.MRSpectroscopyStorage,
    uid.RTStructureSetStorage,
    uid.SecondaryCaptureImageStorage,
    uid.MultiFrameSingleBitSecondaryCaptureImageStorage,
    uid.MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    uid.MultiFrameTrueColorSecondaryCaptureImageStorage,
    uid.GrayscaleSoftcopyPresentationStateStorage,
    uid.ColorSoftcopyPresentationStateStorage,
    uid.KeyObjectSelectionDocumentStorage,
    uid.BasicTextSRStorage,
    uid.EnhancedSRStorage,
    uid.ComprehensiveSRStorage,
    uid.Comprehensive3DSRStorage,
    uid.EncapsulatedPDFStorage,
    uid.RawDataStorage,
    uid.SegmentationStorage,
    uid.ParametricMapStorage,
    uid.SpatialRegistrationStorage,
    uid.DeformableSpatialRegistrationStorage,
    uid.RealWorldValueMappingStorage,
    uid.CTImageStorage,
    uid.EnhancedCTImageStorage,
    uid.PositronEmissionTomographyImageStorage,
    uid.EnhancedPETImageStorage,
)


class _Answer(NamedTuple):
    status: int
    comment: str  # (0000,0902) ErrorComment, LO: at most 64 characters, never a text from a peer


STATUS: Final = {  # PS3.4 B.2.3: what a sender is told of each outcome
    StoreOutcome.STORED: _Answer(0x0000, ""),
    StoreOutcome.DUPLICATE: _Answer(0x0000, ""),
    StoreOutcome.CONFLICT: _Answer(0x0000, ""),
    StoreOutcome.OWN_OBJECT: _Answer(0x0000, ""),
    StoreOutcome.MISMATCH: _Answer(0xA900, "Data set and command disagree on SOP Class or Instance"),
    StoreOutcome.UNREADABLE: _Answer(0xC000, "Data set is truncated, malformed or unidentified"),
    StoreOutcome.NO_RESOURCES: _Answer(0xA700, "Out of resources for now, please send again"),
}
_SUCCESS, _NO_RESOURCES, _NO_SUCH_ACTION, _INVALID_ARGUMENT = 0x0000, 0x0213, 0x0123, 0x0115  # of N-ACTION, PS3.7 C
_WRONG_CLASS: Final = _Answer(0xA900, "SOP Class is not that of the presentation context")
_BAD_COMMAND: Final = _Answer(0xC000, "The command lacks a valid SOP Class or Instance UID")


class _Refusal(NamedTuple):
    result: int  # PS3.8 9.3.4: 1 permanent, 2 transient
    source: int  # 1 service user, 3 service provider (presentation)
    diagnostic: int
    reason: str


_CALLED_UNKNOWN: Final = _Refusal(1, 1, 7, "called AE title not recognised")
_CALLING_UNKNOWN: Final = _Refusal(1, 1, 3, "calling AE title not recognised for this address")
_UNBOUND: Final = _Refusal(1, 1, 3, "calling AE title not recognised for this certificate, or without one")
_FULL: Final = _Refusal(2, 3, 2, "local limit of associations reached")
_TEMPORARY_CONGESTION: Final = 2, 3, 1

_ASSOCIATE_LIMIT: Final = 256 * 1024  # bytes of one A-ASSOCIATE PDU (row 6); 128 contexts take about 90 kB
_CONTROL_LIMIT: Final = 1024  # bytes of a release or abort PDU; they have 4
_PDU_SLACK: Final = 4096  # bytes above the length we advertised (row 7)
_COMMAND_LIMIT: Final = 64 * 1024  # bytes of one command set (row 8)
_OTHER_LIMIT: Final = 4 << 20  # bytes of a data set that is no C-STORE's (a commitment of 30 000 instances)
_OUTSTANDING_LIMIT: Final = 2  # requests before their answer; no async window is ever negotiated (row 9)
_PDU_HEADER: Final = 6  # bytes: type, reserved, length
_P_DATA: Final = 4  # PDU type, PS3.8 9.3.5
_COMMAND, _LAST = 1, 2  # bits of a fragment's message control header, PS3.8 E.2
_PDU_TYPES: Final = range(1, 8)

PDU_GRACE_S: Final = 4.0  # a PDU, once begun, has this long …
PDU_BYTES_PER_S: Final = 16 * 1024  # … plus its size at this rate (rows 1, 2, 3, 5)
_SEND_TIMEOUT_S: Final = 10.0
_ASSOCIATE_TIMEOUT_S: Final = 10.0  # from connection to a complete A-ASSOCIATE-RQ (row 4)
_LAST_WORDS_S: Final = 12.0  # for a rejection or abort to be sent and the peer to hang up; pynetdicom's ARTIM has 10
_WAITING_ROOM: Final = 64  # connections without an association, all addresses together (row 11)
_WAITING_ROOM_PER_ADDRESS: Final = 32
_LOOK_S: Final = 0.05  # threads that wait for something to happen look at their timers this often …
_SHORT_LOOK_S: Final = (
    0.001  # … and before and after an association, where the library waits for the socket to be still
)
_STRANGER_PAUSE_S: Final = 60.0  # a refused address is spoken of at most this often

_STUMBLES: Final = (  # what pynetdicom raises over malformed PDUs (row 15); each ends the association
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RecursionError,
    TypeError,
    ValueError,
    EOFError,
    struct.error,
    BytesLengthException,
)


class Listener:
    """Answers for every called AE title of the settings, to the peers of the settings and nobody else.

    On one port; with `credentials` that port speaks TLS alone, and `plaintext_port` may be a second one beside it.
    """

    def __init__(
        self,
        settings: ListenerSettings,
        sink: InstanceSink,
        congestion: Callable[[], str | None] = lambda: None,
        credentials: Credentials | None = None,
        commitments: CommitmentSink | None = None,
    ) -> None:
        """Nothing is opened before `start`. Without `commitments` the service is not offered.

        `congestion` says why a caller who may talk is refused for now, if so.
        """
        self._settings = settings
        self._credentials = credentials
        self._commitments = commitments
        self._door = _Door(settings, sink, congestion, credentials is not None)
        self._door.commitments = commitments
        self._servers: list[_Server] = []

    def start(self) -> int:
        """Bind and serve in threads; returns the port that was bound. OSError when an address cannot be had."""
        _QUIET.enter()
        try:
            self._serve(self._settings.port, self._credentials)
            if self._credentials is not None and self._settings.plaintext_port >= 0:
                self._serve(self._settings.plaintext_port, None)
        except OSError:
            self._close()
            _QUIET.leave()
            raise
        return self.ports[0]

    @property
    def ports(self) -> list[int]:
        """The ports that were bound: the first one, and the plaintext one beside TLS where there is one."""
        return [int(server.server_address[1]) for server in self._servers]

    def _serve(self, port: int, credentials: Credentials | None) -> None:
        ae = _entity(self._settings)
        if self._commitments is not None:
            ae.add_supported_context(PUSH_MODEL, [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian])
        address = (self._settings.host, port)
        server = _Server(ae, address, ae.ae_title, ae.supported_contexts, request_handler=_Handler)
        server.door, server.credentials = self._door, credentials
        self._servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.1,), name="listener", daemon=True).start()

    def _close(self) -> None:
        for server in self._servers:
            socketserver.BaseServer.shutdown(server)
            server.server_close()
        self._servers.clear()

    def stop(self, grace_s: float) -> None:
        """Take no more, let associations end by themselves for `grace_s` seconds, then abort and cut the rest."""
        if not self._servers:
            return
        self._close()
        _wait_until(self._door.empty, grace_s)
        self._door.cut_all()
        _QUIET.leave()

    @property
    def associations(self) -> int:
        """How many associations are open now."""
        return self._door.established


def _entity(settings: ListenerSettings) -> AE:
    ae = AE(settings.called[0].ae_title)
    ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    ae.implementation_version_name = IMPLEMENTATION_VERSION
    ae.maximum_pdu_size = settings.max_pdu_bytes
    ae.maximum_associations = 1_000_000  # it counts threads, half-open ones too (row 10): the door counts instead
    ae.network_timeout = ae.dimse_timeout = settings.idle_timeout_s
    ae.acse_timeout = min(_ASSOCIATE_TIMEOUT_S, settings.idle_timeout_s)
    for storage_class in STORAGE_CLASSES:
        ae.add_supported_context(storage_class, list(TRANSFER_SYNTAXES))
    ae.add_supported_context(Verification)
    return ae


def _note_loss(event: Any) -> None:
    """An A-P-ABORT that we did not cause means that the connection is gone."""
    event.assoc.connection_lost |= isinstance(event.primitive, A_P_ABORT)


def _wait_until(holds: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)


# --- who may talk -----------------------------------------------------------------------------------------------------


class AccessList:
    """The settings' called titles and peers, ready to be asked; an empty list of peers admits nobody."""

    def __init__(self, settings: ListenerSettings, tls: bool = False) -> None:
        """Networks are parsed once (`ipaddress`, never a string prefix); `tls`: whether this node has certificates."""
        self._called = frozenset(called.ae_title for called in settings.called)
        self._peers = [(peer, [ipaddress.ip_network(n) for n in peer.networks]) for peer in settings.peers]
        self._tls = tls

    def knows_address(self, ip: str) -> bool:
        """Whether any peer may call from there at all: asked before a byte is parsed."""
        return any(_within(ip, networks) for _, networks in self._peers)

    def refusal(self, info: AssociationInfo, shown: Shown | None = None) -> _Refusal | None:
        """Why this caller, with what its certificate has shown (None: no TLS), is refused, or None."""
        if info.called_ae not in self._called:
            return _CALLED_UNKNOWN
        if not self._claimed(info):
            return _CALLING_UNKNOWN
        return None if self.peer(info, shown) else _UNBOUND

    def peer(self, info: AssociationInfo, shown: Shown | None = None) -> Peer | None:
        """Who this is, by title, address and certificate together; its roles say what it may do."""
        return next((peer for peer in self._claimed(info) if self._vouched(peer, shown)), None)

    def _claimed(self, info: AssociationInfo) -> list[Peer]:
        """Whom the caller says that it is, as far as its address allows."""
        return [p for p, networks in self._peers if p.ae_title == info.calling_ae and _within(info.peer_ip, networks)]

    def _vouched(self, peer: Peer, shown: Shown | None) -> bool:
        if shown is None:
            return peer.plaintext or not self._tls
        return not shown.names.isdisjoint(peer.certificates)


def _within(ip: str, networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> bool:
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return any(address in network for network in networks)


class _Door:
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
        self._open: set[_Association] = set()
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

    def entered(self, assoc: _Association) -> None:
        """A connection was accepted."""
        with self._lock:
            self._open.add(assoc)

    def judge(self, assoc: _Association) -> _Refusal | None:
        """Admit the association and count it, or say why not."""
        refusal = self._access.refusal(assoc.info, assoc.shown)
        if refusal is None and (congested := self._congestion()):
            refusal = _Refusal(*_TEMPORARY_CONGESTION, congested)
        assoc.peer = self._access.peer(assoc.info, assoc.shown)
        with self._lock:
            if refusal is None and self._places_taken() >= self.settings.max_associations:
                refusal = _FULL
            assoc.admitted = refusal is None
        if refusal:
            self._refused(assoc.info, refusal.reason)
        return refusal

    def opened(self, assoc: _Association) -> None:
        """The association was accepted; said before its first message is served."""
        assoc.announced = True
        with _sink_faults():
            self._sink.opened(assoc.info)

    def ended(self, assoc: _Association) -> None:
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
        return _status(self.stored(event.assoc.arrived(event.request, event.context)))

    def stored(self, incoming: Incoming) -> _Answer:
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
        _wait_until(self.empty, 0.2)
        for assoc in left:
            assoc.cut()
        for assoc in left:
            assoc.join(2.0)
            assoc.dul.join(2.0)

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
        info = AssociationInfo(_new_id(), calling_ae="", called_ae="", peer_ip=ip)
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


def _status(answer: _Answer) -> Dataset:
    status = Dataset()
    status.Status = answer.status
    if answer.comment:
        status.ErrorComment = answer.comment
    return status


def _new_id() -> str:
    return secrets.token_hex(8)


# --- one connection ---------------------------------------------------------------------------------------------------


class _Server(ThreadedAssociationServer):
    daemon_threads = True
    request_queue_size = 128
    door: _Door
    credentials: Credentials | None = None

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002  # socketserver's signature
        """Before any byte is parsed; on False the socket is closed."""
        return self.door.lets_in(str(client_address[0]))

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002  # socketserver's signature
        """A connection that ended while it was being set up; socketserver would print a traceback."""
        error = sys.exc_info()[0]
        logger.warning(
            "connection could not be set up", peer_ip=client_address[0], because=error.__name__ if error else ""
        )


class _Handler(RequestHandler):
    server: _Server
    _shown: Shown | None = None

    def handle(self) -> None:
        """TLS first, in this connection's own thread: who is silent holds up nobody else (row 14)."""
        try:
            self._secure()
        except TlsFailed as error:
            logger.warning("TLS refused", because=error.detail, peer_ip=self.client_address[0])
        else:
            super().handle()

    def _secure(self) -> None:
        if self.server.credentials is not None:
            with self.server.door.shaking_hands(str(self.client_address[0])):
                self.request, self._shown = shake_hands(self.request, self.server.credentials.context())

    def _create_association(self) -> _Association:
        """As pynetdicom's, with our association and socket."""
        assoc = _Association(self.ae, self.server, str(self.client_address[0]))
        assoc.shown = self._shown
        connection: socket.socket = self.request
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        assoc.set_socket(_Socket(assoc, connection))
        assoc.acceptor.maximum_length = self.ae.maximum_pdu_size
        assoc.acceptor.ae_title = self.server.ae_title
        assoc.acceptor.address_info = self.local
        assoc.acceptor.implementation_class_uid = self.ae.implementation_class_uid
        assoc.acceptor.implementation_version_name = self.ae.implementation_version_name
        assoc.acceptor.supported_contexts = list(map(copy, self.server.contexts))  # deep, it took 43 ms (row 11)
        assoc.requestor.address_info = self.remote
        assoc.bind(evt.EVT_C_STORE, self.server.door.on_store)
        assoc.bind(evt.EVT_N_ACTION, self.server.door.on_action)
        assoc.bind(evt.EVT_ACSE_RECV, _note_loss)
        self.server.door.entered(assoc)
        return assoc


class _Socket(AssociationSocket):
    """A socket on which a PDU, once begun, must arrive in time and within its cap (pynetdicom #272, #979, #331)."""

    assoc: _Association

    def __init__(self, assoc: _Association, connection: socket.socket) -> None:
        super().__init__(assoc, client_socket=connection)
        self._deadline = 0.0  # monotonic seconds, of the PDU being read
        self._in_body = False
        self._unread = b""  # read already, and left to the library
        self._waking = threading.Lock()
        self._wakener = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        p_data_limit = assoc.door.settings.max_pdu_bytes + _PDU_SLACK
        self._limits = {_P_DATA: p_data_limit, 5: _CONTROL_LIMIT, 6: _CONTROL_LIMIT, 7: _CONTROL_LIMIT}

    @property
    def ready(self) -> bool:
        """Whether something can be read, waited for a little or until `poke`. The library sleeps and asks `select`,
        which no descriptor above 1023 can be told (row 12: the listener then answered nobody)."""
        if self.socket is None or not self._is_connected:
            time.sleep(_SHORT_LOOK_S)
            return False
        return self.readable(_LOOK_S if self.assoc.dul.state_machine.current_state == "Sta6" else _SHORT_LOOK_S)

    def readable(self, within_s: float = 0.0) -> bool:
        """Whether something can be read, at the latest then."""
        connection = self._connection()
        try:
            if _has_decrypted(connection):
                return True
            watch = select.poll()
            watch.register(connection, select.POLLIN)
            watch.register(self._wakener, select.POLLIN)
            heard = {handle for handle, _ in watch.poll(within_s * 1000)}
            if self._wakener in heard:
                os.eventfd_read(self._wakener)
            return connection.fileno() in heard
        except (OSError, ValueError):
            self.event_queue.put("Evt17")  # transport connection closed
            return False

    def poke(self) -> None:
        """End a wait in `ready`: there is something to send, or nothing more to wait for."""
        with self._waking:
            if self._wakener >= 0:
                os.eventfd_write(self._wakener, 1)

    def forget(self) -> None:
        """Nobody waits any more; its number may soon be another file's."""
        with self._waking:
            if self._wakener >= 0:
                os.close(self._wakener)
            self._wakener = -1

    def read_pdu(self, buffer: bytearray) -> tuple[int, memoryview] | None:
        """A whole PDU into `buffer`, its type and a view of its body; None where the peer closed before its end."""
        try:
            header = self._recv_header(_PDU_HEADER)
            if len(header) < _PDU_HEADER or not self._in_body:
                self._unread = bytes(header)  # nothing follows it: the library knows what to do
                return None
            self._in_body = False
            size = struct.unpack_from(">L", header, 2)[0]
            self._deadline += size / PDU_BYTES_PER_S
            body = memoryview(buffer if size <= len(buffer) else bytearray(size))[:size]
            got = self._read_into(body)
        except OSError as error:
            self._cut(error)
            raise
        if got < size:
            self._unread = bytes(header) + bytes(body[:got])
            return None
        return header[0], body

    def leave(self, kind: int, body: memoryview) -> None:
        """The PDU that was read is the library's after all."""
        self._unread = struct.pack(">BBL", kind, 0, len(body)) + bytes(body)

    def recv(self, nr_bytes: int) -> bytearray:
        """The bytes asked for, fewer only when the peer closed; OSError ends the connection.

        pynetdicom reads each PDU as 6 bytes of header, then its body, and only once the socket has something to read.
        """
        if self._unread:
            data, self._unread = bytearray(self._unread[:nr_bytes]), self._unread[nr_bytes:]
            return data
        try:
            return self._recv_body(nr_bytes) if self._in_body else self._recv_header(nr_bytes)
        except OSError as error:
            self._cut(error)
            raise

    def _cut(self, error: OSError) -> None:
        logger.warning("connection cut", because=str(error), peer_ip=self.assoc.peer_ip)
        self.assoc.wake()

    def _recv_header(self, size: int) -> bytearray:
        self._deadline = time.monotonic() + PDU_GRACE_S
        header = self._read(size)
        if len(header) == size:
            self._check_header(header)
        return header

    def _recv_body(self, size: int) -> bytearray:
        self._in_body = False
        self._deadline += size / PDU_BYTES_PER_S
        return self._read(size)

    def send(self, bytestream: bytes) -> None:
        """As the library's, but a peer that does not read holds this up for a bounded time only."""
        if self.socket is not None:
            self.socket.settimeout(_SEND_TIMEOUT_S)
            super().send(bytestream)

    def _read(self, size: int) -> bytearray:
        data = bytearray(size)
        with memoryview(data) as view:
            got = self._read_into(view)
        del data[got:]
        return data

    def _read_into(self, view: memoryview) -> int:
        connection, got = self._connection(), 0
        while got < len(view):
            connection.settimeout(max(self._deadline - time.monotonic(), 0.001))
            count = connection.recv_into(view[got:])
            if count == 0:
                self.assoc.wake()
                break
            got += count
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)  # Linux forgets it; set anew each time
        return got

    def _check_header(self, header: bytearray) -> None:
        kind, _, length = struct.unpack(">BBL", header)
        if kind not in _PDU_TYPES:
            return  # pynetdicom aborts and reads no body
        if length > self._limits.get(kind, _ASSOCIATE_LIMIT):
            raise OSError(f"a PDU of type {kind} announces {length} bytes")
        self._in_body = True

    def _connection(self) -> socket.socket:
        if self.socket is None:
            raise OSError("the connection is closed")
        return self.socket

    def _shutdown_socket(self) -> None:
        """The library's forgets to close when the peer was first."""
        connection = self.socket  # the DUL thread may be letting go of it at this very moment
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()


def _has_decrypted(connection: socket.socket) -> bool:
    return isinstance(connection, ssl.SSLSocket) and connection.pending() > 0


class _Association(Association):
    """One connection: pynetdicom's association with a gate, a meter and an end that always comes."""

    dimse: _Meter

    def __init__(self, ae: AE, server: _Server, peer_ip: str) -> None:
        super().__init__(ae, MODE_ACCEPTOR)
        self._server = server
        self.name = f"AcceptorThread@{_new_id()}"  # pynetdicom finds its threads by that name
        self.door = server.door
        self.peer_ip = peer_ip
        self.info = AssociationInfo(_new_id(), calling_ae="", called_ae="", peer_ip=peer_ip)
        self.shown: Shown | None = None  # of the certificate; None without TLS
        self.peer: Peer | None = None
        self.serving = False
        self.admitted = self.announced = self.connection_lost = self.condemned = self.idle = self.closed = False
        self.acse = _Gate(self)
        self.dimse = _Meter(self)
        self.dul = _Wire(self)
        self.acse_timeout, self.network_timeout = ae.acse_timeout, ae.network_timeout  # setting them sets its timers

    def run_reactor(self) -> None:
        """From the first byte to the last; however it ends, the connection is closed and the slot is free."""
        try:
            super().run_reactor()
        finally:
            self.cut()
            self.closed = True
            self.dul.join(_LAST_WORDS_S)  # it may be storing: that comes before the association's end
            if isinstance(self.dul.socket, _Socket) and not self.dul.is_alive():
                self.dul.socket.forget()
            self.dimse.discard()
            self.door.ended(self)

    def how_it_ended(self) -> str:
        """released, idle (we let go of a peer that was silent between messages), aborted (by either side) or lost."""
        if self.is_released:
            return "released"
        if self.idle and not self.condemned:
            return "idle"
        return "lost" if self.connection_lost and not self.condemned else "aborted"

    def abort(self, block: bool = True) -> None:
        """pynetdicom's reactor calls this, blocking, when `network_timeout` has run out between two messages."""
        self.idle = block and self.is_established
        super().abort(block)

    def announce(self, command: C_STORE | Dataset | fast_store.StoreCommand, transfer_syntax_uid: str) -> Incoming:
        """Tell the sink which instance is about to come."""
        sop_class, sop_instance = _said(command, "AffectedSOPClassUID"), _said(command, "AffectedSOPInstanceUID")
        return self.door.begins(StoreRequest(self.info, sop_class, sop_instance, transfer_syntax_uid))

    def arrived(self, request: C_STORE, context: PresentationContextTuple) -> Incoming:
        """The instance of that request; one without any byte where it came without a data set (row 19)."""
        return self.dimse.arrived(request.MessageID) or self.announce(request, str(context.transfer_syntax))

    def wake(self) -> None:
        """End the wait for an association request (`acse_timeout`) of a connection that is gone."""
        if not self.admitted:
            answers: Any = self.dul.to_user_queue  # of primitives, says its type, and None means 'timed out'
            answers.put(None)

    def kill(self) -> None:
        """The library's waits for its state machine to come to rest, without end: a request whose header came before
        `acse_timeout` and whose body came after it held thread and connection for good (rows 1, 4)."""
        self._reactor_checkpoint.set()
        self._kill = self._is_paused = True
        self.is_established = False
        words_are_due = self.requestor.primitive is not None  # an answer is on its way
        deadline = time.monotonic() + (_LAST_WORDS_S if words_are_due else 0)
        while self.dul.is_alive() and not self.dul.stop_dul():
            if time.monotonic() > deadline:
                self.cut()
            time.sleep(0.01)

    def cut(self) -> None:
        """Close the connection and let both threads go."""
        self._kill = True
        self.wake()
        self.dul.kill_dul()
        if self.dul.socket is not None:
            self.dul.socket._shutdown_socket()

    def _serve_request(self, msg: DimseServiceType, context_id: int) -> None:
        """Only C-STORE, C-ECHO and N-ACTION, each in a context negotiated for it; everything else is an abort."""
        context = self._accepted_cx.get(context_id)
        if context is None or not _is_ours(msg, str(context.abstract_syntax)):
            self.abort(block=False)
            return
        fault = _command_fault(msg, context) if isinstance(msg, C_STORE) else None
        with self.at_work():
            if fault:
                self._answer(msg.MessageID or 0, context_id, fault)
            else:
                super()._serve_request(msg, context_id)

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """A request is being served: the time that the sink takes is not silence of the peer."""
        self.serving = True
        try:
            yield
        finally:
            self.dul._idle_timer.restart()
            self.serving = False

    def _answer(self, message_id: int, context_id: int, answer: _Answer) -> None:
        """A C-STORE-RSP of our own; the UIDs of a faulty command are not repeated."""
        logger.warning("command refused", because=answer.comment, peer_ip=self.peer_ip)
        response = C_STORE()
        response.MessageIDBeingRespondedTo = message_id
        response.Status = answer.status
        response.ErrorComment = answer.comment  # type: ignore[assignment]  # the library's None is a default, not a type
        self.dimse.send_msg(response, context_id)


def _is_ours(msg: DimseServiceType, abstract_syntax: str) -> bool:
    if not isinstance(msg, (C_STORE, C_ECHO, N_ACTION)) or msg.MessageID is None:
        return False
    return isinstance(msg, N_ACTION) == (abstract_syntax == PUSH_MODEL)


def _command_fault(
    command: C_STORE | Dataset | fast_store.StoreCommand, context: PresentationContext
) -> _Answer | None:
    """What is wrong with the command itself (rows 17, 18)."""
    try:
        checked_uid(_said(command, "AffectedSOPInstanceUID"), "SOP Instance UID")
        sop_class = checked_uid(_said(command, "AffectedSOPClassUID"), "SOP Class UID")
    except Unreadable:
        return _BAD_COMMAND
    return _WRONG_CLASS if sop_class != str(context.abstract_syntax) else None


def _said(command: C_STORE | Dataset | fast_store.StoreCommand, keyword: str) -> str:
    return str(getattr(command, keyword, None) or "")


class _Mailbox(queue.Queue[Any]):
    """What the state machine has for the association's thread, which is told at once."""

    def __init__(self, tell: Callable[[], object]) -> None:
        super().__init__()
        self._tell = tell

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """As the library's queue does."""
        super().put(item, block, timeout)
        self._tell()


class _Wire(DULServiceProvider):
    """The thread that reads and writes, whose faults end the connection and not with a traceback (row 15)."""

    def __init__(self, assoc: _Association) -> None:
        super().__init__(assoc)
        self._association = assoc
        self._buffer = bytearray(assoc.door.settings.max_pdu_bytes + _PDU_SLACK)
        self._run_loop_delay = 0  # the socket waits instead, and hears of everything that is to be done
        self.to_user_queue = _Mailbox(assoc.dimse.poke)
        self.daemon = True  # or one stalled peer keeps the process from ending (row 1)

    def send_pdu(self, primitive: Any) -> None:
        """As the library's, and at once."""
        super().send_pdu(primitive)
        if isinstance(self.socket, _Socket):
            self.socket.poke()

    def idle_timer_expired(self) -> bool:
        """As the library's, but never while one of the two threads has a request in hand."""
        return not self._association.serving and super().idle_timer_expired()

    def kill_dul(self) -> None:
        """As the library's, and at once."""
        super().kill_dul()
        if isinstance(self.socket, _Socket):
            self.socket.poke()

    def _read_pdu_data(self) -> None:
        """In an association, P-DATA are taken apart in place; everything else, and what is odd, is the library's."""
        if self._association.door.settings.fast_store and self.state_machine.current_state == "Sta6":
            try:
                while self._take():
                    pass
            except OSError:
                self.event_queue.put("Evt17")  # transport connection closed
        else:
            super()._read_pdu_data()

    def _take(self) -> bool:
        """One PDU; whether the next one can be read at once, and nothing else is to be done before."""
        connection = cast("_Socket", self.socket)
        read = connection.read_pdu(self._buffer)
        parts = fast_store.fragments(read[1]) if read and read[0] == _P_DATA else None
        if parts is None:
            if read:
                connection.leave(*read)
            super()._read_pdu_data()
            return False
        self._association.dimse.take(parts)
        return self.event_queue.empty() and not self._kill_thread and connection.readable()

    def run_reactor(self) -> None:
        """A state machine that is asked for the impossible (an answer to a peer who has gone on) raises."""
        try:
            super().run_reactor()
        except (InvalidEventError, OSError, *_STUMBLES) as error:
            logger.warning("connection cut", because=type(error).__name__, peer_ip=self._association.peer_ip)
            self._association.cut()


class _Gate(ACSE):
    """Association control that asks the door first. A notification handler could not: pynetdicom swallows its errors
    and accepts (RadDeploy's whitelist, pipelines.md), so that a fault here must end in a refusal."""

    assoc: _Association

    def _negotiate_as_acceptor(self) -> None:
        try:
            refusal = self._judge()
            if refusal is None:
                self._offer_by_role()
                super()._negotiate_as_acceptor()
        except _STUMBLES as error:
            logger.warning("association request not understood", because=type(error).__name__)
            self.assoc.abort(block=False)
            return
        if refusal:
            self.send_reject(refusal.result, refusal.source, refusal.diagnostic)
            self.assoc.kill()  # returns once the A-ASSOCIATE-RJ is on the wire and the connection closed
        elif self.assoc.is_established:
            self.assoc.door.opened(self.assoc)

    def _offer_by_role(self) -> None:
        """What its roles allow: storage, commitment; C-ECHO for everybody who was let in."""
        roles = self.assoc.peer.roles if self.assoc.peer else ()
        offered = self.acceptor.supported_contexts
        self.acceptor.supported_contexts = [c for c in offered if _role_for(str(c.abstract_syntax)) in {"", *roles}]

    def _judge(self) -> _Refusal | None:
        request = self.requestor.primitive
        if request is None:
            raise ValueError("no A-ASSOCIATE request")
        self.assoc.info = AssociationInfo(
            association_id=self.assoc.info.association_id,
            calling_ae=str(request.calling_ae_title).strip(" "),
            called_ae=str(request.called_ae_title).strip(" "),
            peer_ip=self.assoc.peer_ip,
        )
        return self.assoc.door.judge(self.assoc)


def _role_for(abstract_syntax: str) -> str:
    """The role that a peer needs for this SOP Class; none for C-ECHO."""
    return {str(Verification): "", str(PUSH_MODEL): "commit"}.get(abstract_syntax, "store")


class _Meter(DIMSEServiceProvider):
    """Message exchange that counts what it is given (rows 8, 9), survives what cannot be decoded (row 15), and hands
    the data set of a C-STORE on as it comes (row 26) where pynetdicom would collect it."""

    assoc: _Association
    _command_bytes = 0
    _object_bytes = 0
    _context_id: int | None = None  # of the message being received
    _message_id: int | None = None
    _storing = False  # it is a C-STORE request whose command is complete

    def __init__(self, assoc: _Association) -> None:
        super().__init__(assoc)
        self._at_once: fast_store.StoreCommand | None = None  # being received, and answered in the same thread
        self._ahead = 0  # requests on end whose sender had gone on before it was answered
        self._lock = threading.Lock()  # the association's thread ends what the DUL thread receives
        self._incoming: Incoming | None = None  # being received; None also where its command was at fault
        self._arrived: dict[int | None, Incoming] = {}  # received whole, by Message ID, not answered yet
        self._over = False

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Called in the DUL thread for every P-DATA PDU that went the library's way."""
        self.take(primitive.presentation_data_value_list)

    def take(self, parts: Iterable[tuple[int, bytes | memoryview]]) -> None:
        """The fragments of one PDU, in the DUL thread."""
        try:
            for context_id, data in parts:
                if not self.assoc.condemned:
                    self._receive(context_id, data)
        except _STUMBLES as error:
            self._condemn(f"message not understood ({type(error).__name__})")

    def get_msg(self, block: bool = False) -> tuple[Any, Any]:
        """As the library's; instead of 'nothing' a thousand times a second it waits a little, or for `poke`."""
        try:
            return self.msg_queue.get(block=True, timeout=None if block else _LOOK_S)
        except queue.Empty:
            return None, None

    def poke(self) -> None:
        """End a wait in `get_msg`: something else has happened."""
        self.msg_queue.put((None, None))

    def arrived(self, message_id: int | None) -> Incoming | None:
        """What was received whole under that Message ID; None where no data set came."""
        return self._arrived.pop(message_id, None)

    def discard(self) -> None:
        """Nothing more is received; what is not stored by now never will be (row 27)."""
        with self._lock:
            self._over = True
            for incoming in (self._incoming, *self._arrived.values()):
                if incoming:
                    incoming.discard()

    def _receive(self, context_id: int, data: bytes | memoryview) -> None:
        """One fragment (PS3.8 annex E)."""
        if self.message is None:
            self._command_bytes = self._object_bytes = 0
            self._context_id, self._storing = context_id, False
        fault = self._fault(context_id, data)
        if fault:
            self._condemn(fault)
        elif self._storing:
            self._store(context_id, data)
        elif not self._begin_at_once(context_id, data):
            self._collect(context_id, bytes(data))

    def _collect(self, context_id: int, data: bytes) -> None:
        """A fragment that pynetdicom may keep: of a command, of which a data set may follow."""
        fragment = P_DATA()
        fragment.presentation_data_value_list = [[context_id, data]]  # type: ignore[list-item]  # it wants lists
        super().receive_primitive(fragment)
        if isinstance(self.message, C_STORE_RQ) and data[0] & _COMMAND:
            self._begin(self.message.command_set, self.assoc._accepted_cx[context_id])

    def _begin_at_once(self, context_id: int, data: bytes | memoryview) -> bool:
        """Whether it is a C-STORE that can be answered in this thread: nothing odd in it, nothing waiting before it."""
        waiting = self.message is not None or self.assoc.serving or self._arrived or self.msg_queue.qsize()
        if waiting or data[0] != _COMMAND | _LAST or not self.assoc.door.settings.fast_store:
            return False
        command, context = fast_store.read_store_request(data[1:]), self.assoc._accepted_cx[context_id]
        if command is None or _command_fault(command, context):
            return False
        self.message, self._at_once = DIMSEMessage(), command
        self.message.context_id = context_id
        self._begin(command, context)
        return True

    def _begin(self, command: Dataset | fast_store.StoreCommand, context: PresentationContext) -> None:
        self._storing, self._message_id = True, command.MessageID
        if self._message_id in self._arrived:
            self._condemn("two requests under one Message ID")
        elif not _command_fault(command, context):
            with self._lock:
                self._incoming = None if self._over else self.assoc.announce(command, str(context.transfer_syntax[0]))

    def _store(self, context_id: int, data: bytes | memoryview) -> None:
        with self._lock:
            if self._incoming and not self._over:
                self._incoming.write(data[1:])
        if data[0] & _LAST:
            self._end(context_id)

    def _end(self, context_id: int) -> None:
        with self._lock:
            incoming, self._incoming = self._incoming, None
            if incoming and self._at_once is None:
                self._arrived[self._message_id] = incoming
        self._storing = False
        if self._at_once is None:
            self._collect(context_id, bytes([_LAST]))  # the library's turn, with nothing left to keep
            return
        command, self._at_once, self.message = self._at_once, None, None
        if incoming:
            self._answer_at_once(context_id, command, incoming)

    def _answer_at_once(self, context_id: int, command: fast_store.StoreCommand, incoming: Incoming) -> None:
        with self.assoc.at_work():
            answer = self.assoc.door.stored(incoming)
        connection = cast("_Socket", self.dul.socket)
        self._ahead = self._ahead + 1 if connection.readable() else 0
        if self._ahead > _OUTSTANDING_LIMIT:
            self._condemn("too many unanswered requests")
        else:
            connection.send(fast_store.store_response(context_id, command, *answer))

    def _fault(self, context_id: int, data: bytes | memoryview) -> str:
        if context_id not in self.assoc._accepted_cx or not data:
            return "a fragment outside any negotiated context"
        if context_id != self._context_id or bool(data[0] & _COMMAND) is self._command_is_complete():
            return "a fragment of another message before the last of this one"
        self._count(data[0], len(data) - 1)
        if self._command_bytes > _COMMAND_LIMIT:
            return f"a command set of more than {_COMMAND_LIMIT} bytes"
        if self._object_bytes > self._object_limit():
            return f"an object of more than {self._object_limit() >> 20} MB"
        return "too many unanswered requests" if self.msg_queue.qsize() > _OUTSTANDING_LIMIT else ""

    def _command_is_complete(self) -> bool:
        return self.message is not None and self.message.context_id is not None

    def _object_limit(self) -> int:
        """Only a C-STORE has a large data set; pynetdicom keeps any other one in memory."""
        return self.assoc.door.object_limit if self._storing else _OTHER_LIMIT

    def _count(self, control: int, size: int) -> None:
        if control & _COMMAND:
            self._command_bytes += size
        else:
            self._object_bytes += size

    def _condemn(self, fault: str) -> None:
        """Drop what was collected and have the state machine send an A-ABORT (event 19, PS3.8 table 9-10)."""
        logger.warning("association aborted", because=fault, peer_ip=self.assoc.peer_ip)
        self.assoc.condemned = True
        self.message = self._at_once = None
        self.dul.event_queue.put("Evt19")


# --- the libraries' own words -----------------------------------------------------------------------------------------


class _Quiet:
    """Process-wide: while a listener runs, pynetdicom's event loggers (which print User Identity passwords at DEBUG)
    are unbound, what it and pydicom would log is dropped (peers' bytes and tracebacks, row 30; it is told in our own
    words), and pydicom does not warn of odd values in commands, which are checked here. The first listener in sets it,
    the last one out puts it back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._undo = contextlib.ExitStack()

    def enter(self) -> None:
        """Count one listener in."""
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._set()

    def leave(self) -> None:
        """Count one listener out."""
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._undo.close()

    def _set(self) -> None:
        self._swap(_config, "LOG_HANDLER_LEVEL", "none")
        self._swap(pydicom.config.settings, "reading_validation_mode", pydicom.config.IGNORE)
        for name in ("pynetdicom", "pydicom"):
            library = logging.getLogger(name)
            self._undo.callback(library.setLevel, library.level)
            library.setLevel(logging.CRITICAL)

    def _swap(self, owner: Any, name: str, value: Any) -> None:
        self._undo.callback(setattr, owner, name, getattr(owner, name))
        setattr(owner, name, value)


_QUIET: Final = _Quiet()
