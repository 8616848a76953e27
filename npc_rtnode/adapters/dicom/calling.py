"""Calling another system: every call in a child process of its own that can be killed, with a clock on the wall.

pynetdicom 3.0.4 as a requestor hangs for ever on a dripped answer, on half a response PDU and on a peer that stops
reading (intake.md 1.3); no timeout of its own helps. So what a call has to say is said by a child, and the parent waits
for each of its answers for a bounded time.

A child is forked from a small server process (multiprocessing's forkserver: one thread, no lock, nothing of a patient)
that has the libraries loaded: it costs milliseconds where a new interpreter costs half a second of CPU (ADR 0025).
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any, Final, NoReturn, Protocol

from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext

from npc_rtnode.adapters.dicom.tls import client_context
from npc_rtnode.errors import (
    AssociationRejected,
    ConfigFault,
    ContextRefused,
    MomentFault,
    NodeError,
    ObjectRefused,
    PeerBusy,
    PeerConfused,
    PeerError,
    PeerStalled,
    TlsFailed,
    Unreachable,
    Unreadable,
)
from npc_rtnode.kinship import begin, end_with_parent, let_go
from npc_rtnode.settings import TlsSettings

_CONNECT_TIMEOUT_S: Final = 10.0
_PARTING_S: Final = 5.0  # for the release, once the answer is here
_SERVER_ENDS_S: Final = 0.2
_LOADED: Final = (  # what the server of children has ready: every room that calls, and the command line they begin with
    "npc_rtnode.adapters.dicom.sender",
    "npc_rtnode.adapters.dicom.archive",
    "npc_rtnode.adapters.dicom.commitment",
    "npc_rtnode.cli",
)

_KNOWN: Final[dict[str, type[NodeError]]] = {
    kind.code: kind
    for kind in (
        AssociationRejected,
        ConfigFault,
        ContextRefused,
        ObjectRefused,
        PeerBusy,
        PeerConfused,
        PeerError,
        PeerStalled,
        TlsFailed,
        Unreachable,
        Unreadable,
    )
}


# --- here: the child and its clock ------------------------------------------------------------------------------------


class Remote(Protocol):
    """A system that can be called, as the settings describe one."""

    @property
    def host(self) -> str:
        """Name or address."""

    @property
    def port(self) -> int:
        """TCP."""

    @property
    def ae_title(self) -> str:
        """What it answers to."""

    @property
    def calling_ae(self) -> str:
        """How we introduce ourselves."""

    @property
    def timeout_s(self) -> float:
        """Silence that ends the call."""

    @property
    def tls(self) -> bool:
        """Whether it is called by mutual TLS."""

    @property
    def certificates(self) -> tuple[str, ...]:
        """By what its certificate is known."""


@dataclass(frozen=True)
class Call:
    """All that a child needs to make one call; `tls` is None for a call without it."""

    host: str
    port: int
    called_ae: str
    calling_ae: str
    timeout_s: float
    tls: TlsSettings | None = None
    certificates: tuple[str, ...] = ()


def call_to(remote: Remote, tls: TlsSettings, calling_ae: str | None = None) -> Call:
    """A call to this system; ConfigFault when it wants TLS and there are no certificates."""
    if remote.tls and not tls.in_force:
        raise ConfigFault(f"{remote.ae_title} is to be called by TLS, and [tls] names no certificate")
    calling, secured = calling_ae or remote.calling_ae, tls if remote.tls else None
    return Call(
        remote.host, remote.port, remote.ae_title, calling, remote.timeout_s, secured, tuple(remote.certificates)
    )


def make_ready() -> None:
    """Start the server of children now, so that the first call need not wait for it."""
    _children()
    forkserver.ensure_running()


def _children() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_LOADED))  # has no effect once the server runs
    return context


def one_answer(work: Callable[..., None], order: tuple[Any, ...], wall_clock_s: float) -> Any:
    """The child's only answer: it counts as soon as it is here, however the peer takes its leave."""
    with contextlib.closing(in_a_child(work, order, wall_clock_s)) as answers:
        return next(answers)


def in_a_child(work: Callable[..., None], order: tuple[Any, ...], wall_clock_s: float) -> Generator[Any, None, None]:
    """What the child says while doing `work(say, *order)`; the wall clock starts anew with each answer."""
    children = _children()
    ours, theirs = children.Pipe(duplex=False)
    child = children.Process(target=_child, args=(theirs, work, order), daemon=True)
    _start(child)
    theirs.close()
    parting_s = 0.0
    try:
        for answer in _answers(ours, wall_clock_s):
            parting_s = _PARTING_S
            yield answer
    except PeerStalled:
        parting_s = 0.0
        raise
    finally:
        child.join(parting_s)
        ours.close()
        child.kill()
        child.join()
        let_go(child)


def _start(child: ForkServerProcess) -> None:
    """Once more where the server has just died: the next start finds that out, and starts another."""
    try:
        begin(child)
    except (EOFError, OSError):
        time.sleep(_SERVER_ENDS_S)
        try:
            begin(child)
        except (EOFError, OSError):
            raise MomentFault("No process for the call could be started.") from None


def _answers(pipe: Connection, wall_clock_s: float) -> Iterator[Any]:
    while True:
        if not pipe.poll(wall_clock_s):
            raise PeerStalled(f"No result within {wall_clock_s:g} s; the sending process was killed.")
        try:
            code, content = pipe.recv()
        except EOFError:
            raise MomentFault("The sending process ended without an answer.") from None
        if code == "done":
            return
        if code:
            raise _KNOWN[code](content)
        yield content


# --- there: in the child ----------------------------------------------------------------------------------------------


def _child(pipe: Connection, work: Callable[..., None], order: tuple[Any, ...]) -> None:
    """The child's whole life; it prints nothing at all: libraries put values of the data set in what they say."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    end_with_parent()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        work(lambda content: pipe.send(("", content)), *order)
    except NodeError as error:
        pipe.send((error.code, error.detail))
    else:
        pipe.send(("done", None))


def associate(call: Call, contexts: list[PresentationContext], **more: Any) -> Association:
    """An established association, or the reason why there is none; `more` is pynetdicom's (`ext_neg`)."""
    ae = AE(call.calling_ae)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = call.timeout_s
    ae.connection_timeout = min(call.timeout_s, _CONNECT_TIMEOUT_S)
    connected: list[bool] = []
    failures: list[str] = []
    begun = time.monotonic()
    wishes: dict[str, Any] = {
        "contexts": contexts,
        "ae_title": call.called_ae,
        "evt_handlers": [(evt.EVT_CONN_OPEN, _on_connected, [call.timeout_s, connected])],
        **more,
        "tls_args": (client_context(call.tls, call.certificates, failures), call.host) if call.tls else None,
    }
    try:
        assoc = ae.associate(call.host, call.port, **wishes)
    except OSError:
        raise Unreachable(f"{call.host} is not the name of a host that can be found.") from None
    if assoc.is_established:
        return assoc
    if failures:
        raise TlsFailed(f"{failures[-1]}.")
    if not connected:
        raise Unreachable(f"No connection to {call.host} port {call.port}.")
    _explain(assoc, time.monotonic() - begun)


def _on_connected(event: Any, timeout_s: float, connected: list[bool]) -> None:
    """Small messages go at once, and no read or write blocks for longer than the timeout."""
    connection = event.assoc.dul.socket.socket
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.settimeout(timeout_s)
    connected.append(True)


def _explain(assoc: Association, waited_s: float) -> NoReturn:
    """Why a connected peer gave no association."""
    answer = assoc.acceptor.primitive
    if assoc.is_rejected and answer is not None:
        raise AssociationRejected(f"{answer.result_str}, {answer.source_str}: {answer.reason_str}.")
    if answer is not None:
        raise ContextRefused("None of the presentation contexts was accepted.")
    _lost(assoc, waited_s)


def _lost(assoc: Association, waited_s: float) -> NoReturn:
    """No answer came: the peer was silent, or it went away."""
    timeout_s = assoc.acse_timeout or 0.0
    if waited_s >= 0.95 * timeout_s:
        raise PeerStalled(f"Nothing for {timeout_s:g} s.")
    raise PeerError("It ended the association without an answer.")


def pause_reactor(assoc: Association) -> None:
    """Before a request, or the reactor takes the answer from us; as send_c_store and its like do, but surely.

    pynetdicom says `_is_paused` shortly before it is: pausing anew for every message loses an answer now and then on a
    busy machine ("Received unexpected C-STORE service message"). So it is asked for once, and believed when it lasts.
    """
    if not assoc._reactor_checkpoint.is_set():
        return
    assoc._reactor_checkpoint.clear()
    lasted = 0
    while lasted < 5 and assoc.is_alive():
        time.sleep(0.002)
        lasted = lasted + 1 if assoc._is_paused else 0


def exchange(assoc: Association, request: Any, context: PresentationContext) -> Any:
    """Send one request and wait for its own answer; pynetdicom's send_c_store takes any."""
    pause_reactor(assoc)
    begun = time.monotonic()
    assoc.dimse.send_msg(request, context.context_id or 0)
    while assoc.dul.is_alive() and not assoc.dul.to_provider_queue.empty():
        time.sleep(0.005)  # what takes long to send is no silence; a peer that stops reading meets the socket's timeout
    _, answer = assoc.dimse.get_msg(block=True)
    if answer is None:
        assoc._reactor_checkpoint.set()  # it has an abort to take note of
        _lost(assoc, time.monotonic() - begun)
    if not isinstance(answer, type(request)) or answer.MessageIDBeingRespondedTo != request.MessageID:
        raise PeerConfused("The answer is for another message.")
    if answer.Status is None:
        raise PeerConfused("The answer has no status.")
    return answer
