"""Who sends while a receiver is timed: a raw sender without any cost of its own, and DCMTK's storescu.

The raw sender runs in processes of its own: data are encoded before, TCP_NODELAY, PDUs as large as the peer takes up to
128 KiB, a C-STORE at a time, each answered Success. Its clock runs from the first byte of the first C-STORE to the last
answer; only where whole associations are timed it runs from connecting to the answered release. All senders of one
measurement start together; the time is from the first start to the last end. storescu is timed as a process from start
to end, reading its files included, so its rates hold what it costs itself.
"""

from __future__ import annotations

import multiprocessing
import os
import struct
import subprocess
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path
from threading import BrokenBarrierError
from types import TracebackType
from typing import Final, NamedTuple

from bench.slices import Shipment, messages
from tests.builders import pdu
from tests.fakes.raw_peer import ACCEPTED, RELEASED, RawPeer

CALLED, CALLING = "NPC_RTNODE", "PACS"
CONTEXTS: Final = (pdu.Context(1, pdu.MR, (pdu.EXPLICIT,)),)
PATIENCE_S: Final = 120.0
_barriers: dict[int, Barrier] = {}


class NotTaken(RuntimeError):
    """A receiver refused something, or hung up: nothing that follows would be a measurement."""


class Span(NamedTuple):
    """When sending began and ended, on the clock that all processes share (CLOCK_MONOTONIC), s."""

    begin: float
    end: float

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end - self.begin


class Errand(NamedTuple):
    """One of `parties` senders that start together; `each` > 0 times whole associations of so many slices."""

    port: int
    shipment: Shipment
    parties: int
    each: int = 0


def joined(spans: Iterable[Span]) -> Span:
    """From the first start to the last end."""
    begins, ends = zip(*spans, strict=True)
    return Span(min(begins), max(ends))


# --- raw --------------------------------------------------------------------------------------------------------------


class RawSenders:
    """Processes that stay, because starting them takes longer than what they do.

    They are forked, so that eight interpreters need not load everything anew: enter this before anything is connected.
    """

    def __init__(self, parties: Sequence[int]) -> None:
        """`parties`: the numbers of senders that will start together."""
        self._most = max(parties)
        context = multiprocessing.get_context("fork")
        barriers = {number: context.Barrier(number) for number in parties}
        self._processes: list[BaseProcess] = []
        self._pool = ProcessPoolExecutor(self._most, context, initializer=_remember, initargs=(barriers,))

    def __enter__(self) -> RawSenders:
        """All of them are up: on a busy machine one that is still loading would keep a receiver waiting."""
        others = multiprocessing.active_children()
        for future in [self._pool.submit(_meet, self._most) for _ in range(self._most)]:
            future.result()
        self._processes = [child for child in multiprocessing.active_children() if child not in others]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """They end; at once where something has gone wrong, because they may be waiting for an answer."""
        for process in self._processes if kind else []:
            process.kill()
        self._pool.shutdown(cancel_futures=True)

    def send(self, port: int, shipments: Sequence[Shipment], each: int = 0) -> Span:
        """One sender a shipment, let go together. Raises NotTaken."""
        errands = [Errand(port, shipment, len(shipments), each) for shipment in shipments]
        futures = [self._pool.submit(run, errand) for errand in errands]
        errors = [error for future in futures if (error := future.exception())]
        if errors:  # those who waited in vain at the barrier have least to say
            error = min(errors, key=lambda one: isinstance(one, BrokenBarrierError))
            raise NotTaken(f"{type(error).__name__}: {error}") from error
        return joined(future.result() for future in futures)


def _remember(barriers: dict[int, Barrier]) -> None:
    _barriers.update(barriers)


def _meet(parties: int) -> None:
    _barriers[parties].wait(PATIENCE_S)


def run(errand: Errand) -> Span:
    """One sender's work, in its own process."""
    try:
        return _whole(errand) if errand.each else _inside(errand)
    except BaseException:
        _barriers[errand.parties].abort()  # nobody waits for one who does not come
        raise


def _inside(errand: Errand) -> Span:
    ready = _encoded(errand)
    with RawPeer(errand.port, patience_s=PATIENCE_S) as peer:
        _associate(peer)
        _barriers[errand.parties].wait(PATIENCE_S)
        begin = time.monotonic()
        _send(peer, ready)
        span = Span(begin, time.monotonic())
        _release(peer)
    return span


def _whole(errand: Errand) -> Span:
    ready = _encoded(errand)
    _barriers[errand.parties].wait(PATIENCE_S)
    begin = time.monotonic()
    for at in range(0, len(ready), errand.each):
        with RawPeer(errand.port, patience_s=PATIENCE_S) as peer:
            _associate(peer)
            _send(peer, ready[at : at + errand.each])
            _release(peer)
    return Span(begin, time.monotonic())


def _encoded(errand: Errand) -> list[bytes]:
    """In PDUs as large as it takes, which an association of its own asks; no other is kept waiting meanwhile."""
    with RawPeer(errand.port, patience_s=PATIENCE_S) as peer:
        largest = _associate(peer)
        _release(peer)
    return messages(errand.shipment, largest)


def _associate(peer: RawPeer) -> int:
    """The largest PDU that it takes."""
    if peer.associate(CONTEXTS, CALLING.encode(), CALLED.encode()) != ACCEPTED or peer.accepted() != {1: 0}:
        raise NotTaken("the association, or its presentation context, was not accepted")
    return max_pdu(peer.body)


def _send(peer: RawPeer, ready: list[bytes]) -> None:
    for message in ready:
        peer.socket.sendall(message)
        peer.hear()
        status = pdu.status_of(peer.body) if pdu.is_store_response(peer.body) else None
        if status != 0:
            raise NotTaken("no C-STORE response came" if status is None else f"C-STORE was answered {status:04X}")


def _release(peer: RawPeer) -> None:
    if peer.release() != RELEASED:
        raise NotTaken("the release was not answered")


def max_pdu(accept: bytes) -> int:
    """Maximum length received of the A-ASSOCIATE-AC with this body (PS3.8 D.1); 0 is no limit."""
    at = 68
    while at + 4 <= len(accept):
        kind, _, length = struct.unpack_from(">BBH", accept, at)
        if kind == 0x50:
            at, length = at + 4, 0
            kind, _, length = struct.unpack_from(">BBH", accept, at)
        if kind == 0x51:
            return int(struct.unpack_from(">L", accept, at + 4)[0])
        at += 4 + length
    raise NotTaken("the association was accepted without a maximum length")


# --- DCMTK ------------------------------------------------------------------------------------------------------------


class Storescu(NamedTuple):
    """DCMTK's storescu; with Nagle's algorithm it waits for delayed acknowledgements (the trap of many senders)."""

    program: str
    nagle: bool = False

    def send(self, port: int, loads: Sequence[Sequence[Path]]) -> Span:
        """One process a load, started together. Raises NotTaken when one ends with anything but 0."""
        begin, running = time.monotonic(), []
        try:
            running += [self._started(port, files) for files in loads]
            said = [process.communicate(timeout=2 * PATIENCE_S)[0] for process in running]
        finally:
            for process in running:
                process.kill()  # nothing for one that has ended
        end, codes = time.monotonic(), [process.returncode for process in running]
        if any(codes):
            raise NotTaken(f"storescu ended with {codes}\n{said[0][-2000:]}")
        return Span(begin, end)

    def _started(self, port: int, files: Sequence[Path]) -> subprocess.Popen[str]:
        command = [self.program, "-aet", CALLING, "-aec", CALLED, "127.0.0.1", str(port), *map(str, files)]
        environ = {key: value for key, value in os.environ.items() if key != "TCP_NODELAY"}
        environ |= {} if self.nagle else {"TCP_NODELAY": "1"}
        return subprocess.Popen(
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
