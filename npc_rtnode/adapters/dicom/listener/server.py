"""The server: its ports, from start to stop, and each connection's first moments before an association."""

from __future__ import annotations

import socket
import socketserver
import sys
import threading
from collections.abc import Callable
from copy import copy
from typing import Any

from pynetdicom import evt
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from npc_rtnode import log
from npc_rtnode.adapters.dicom.listener.association import AcceptedAssociation, note_loss
from npc_rtnode.adapters.dicom.listener.door import Door
from npc_rtnode.adapters.dicom.listener.guarded_socket import GuardedSocket
from npc_rtnode.adapters.dicom.listener.offer import entity
from npc_rtnode.adapters.dicom.listener.quiet import QUIET
from npc_rtnode.adapters.dicom.tls import Credentials, Shown, shake_hands
from npc_rtnode.errors import CannotListen, TlsFailed
from npc_rtnode.faults import listening_faults
from npc_rtnode.ports import CommitmentSink, InstanceSink
from npc_rtnode.settings import ListenerSettings

logger = log.get(__name__)


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
        self._door = Door(settings, sink, congestion, credentials is not None)
        self._door.commitments = commitments
        self._servers: list[_Server] = []

    def start(self) -> int:
        """Bind and serve in threads; returns the port that was bound. CannotListen when an address cannot be had."""
        QUIET.enter()
        try:
            self._serve("listener.port", self._settings.port, self._credentials)
            if self._credentials is not None and self._settings.plaintext_port >= 0:
                self._serve("listener.plaintext_port", self._settings.plaintext_port, None)
        except CannotListen:
            self._close()
            QUIET.leave()
            raise
        return self.ports[0]

    @property
    def ports(self) -> list[int]:
        """The ports that were bound: the first one, and the plaintext one beside TLS where there is one."""
        return [int(server.server_address[1]) for server in self._servers]

    def _serve(self, setting: str, port: int, credentials: Credentials | None) -> None:
        ae = entity(self._settings, self._commitments is not None)
        address = self._settings.host, port
        with listening_faults(setting, *address):
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
        self._door.wait_until_empty(grace_s)
        self._door.cut_all()
        QUIET.leave()

    @property
    def associations(self) -> int:
        """How many associations are open now."""
        return self._door.established


class _Server(ThreadedAssociationServer):
    daemon_threads = True
    request_queue_size = 128
    door: Door
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

    def _create_association(self) -> AcceptedAssociation:
        """As pynetdicom's, with our association and socket. It is not told of the server: the library would have that
        close the connection while the DUL thread still reads."""
        assoc = AcceptedAssociation(self.ae, self.server.door, str(self.client_address[0]))
        assoc.shown = self._shown
        connection: socket.socket = self.request
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        assoc.set_socket(GuardedSocket(assoc, connection))
        assoc.acceptor.maximum_length = self.ae.maximum_pdu_size
        assoc.acceptor.ae_title = self.server.ae_title
        assoc.acceptor.address_info = self.local
        assoc.acceptor.implementation_class_uid = self.ae.implementation_class_uid
        assoc.acceptor.implementation_version_name = self.ae.implementation_version_name
        assoc.acceptor.supported_contexts = list(map(copy, self.server.contexts))  # deep, it took 43 ms (row 11)
        assoc.requestor.address_info = self.remote
        assoc.bind(evt.EVT_C_STORE, self.server.door.on_store)
        assoc.bind(evt.EVT_N_ACTION, self.server.door.on_action)
        assoc.bind(evt.EVT_ACSE_RECV, note_loss)
        self.server.door.entered(assoc)
        return assoc
