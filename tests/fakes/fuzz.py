"""Cases against a living receiver, and what must hold afterwards: no crash, no hang, no leak, no false Success."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from typing import Final

from pydicom import dcmread

from npc_rtnode.adapters.dicom.elements import UNREADABLE
from tests.builders import pdu
from tests.builders.mutants import Case, case, healthy
from tests.fakes.raw_peer import ABORTED, ACCEPTED, DATA, GONE, REJECTED, RELEASED, RawPeer
from tests.fakes.receiver import Receiver, Use, eventually

CALLERS: Final = 4
PATIENCE_S: Final = 30.0
"""A caller who has hung up on his side, or gone silent, hears the end of it by then, or it is a hang."""
REST_S: Final = 60.0
THREADS, DESCRIPTORS, RSS_MB = 4, 45, 24
"""Above the baseline: the scheduler's and the ledger's pools may fill up, and the allocator keeps some."""


@dataclass
class Outcome:
    """What a caller heard."""

    case: Case
    stored: list[str] = field(default_factory=list)  # SOP Instance UIDs that were told Success
    hung: bool = False


def call(receiver: Receiver, made: Case) -> Outcome:
    """Make one case's call to its end."""
    outcome = Outcome(made)
    with RawPeer(receiver.port, patience_s=PATIENCE_S) as peer:
        try:
            _talk(peer, made, outcome)
        except TimeoutError:
            outcome.hung = True
    return outcome


def _talk(peer: RawPeer, made: Case, outcome: Outcome) -> None:
    """Associate, send, and (unless the case is one of silence) ask for release; then hear it out."""
    kind = peer.send(made.request).hear() if _is_whole_pdu(made.request) else _hang_up(peer, made.request)
    if kind == ACCEPTED:
        peer.send(*made.pdus, b"" if made.stalls else pdu.RELEASE)
    while kind not in (GONE, ABORTED, RELEASED, REJECTED):
        kind = peer.hear()
        if kind == DATA and pdu.status_of(peer.body) == 0 and pdu.is_store_response(peer.body):
            outcome.stored.append(made.sop_uid)


def _is_whole_pdu(request: bytes) -> bool:
    return len(request) >= 6 and int.from_bytes(request[2:6], "big") == len(request) - 6


def _hang_up(peer: RawPeer, request: bytes) -> int:
    peer.send(request).finish()
    return peer.hear()


@dataclass(frozen=True)
class Report:
    """The figures, all of which but the first three must be 0."""

    cases: int
    successes: int
    seconds: float
    crashes: int
    hangs: int
    tracebacks: int
    false_successes: int
    rows_without_file: int
    parts_left: int
    threads_over: int
    descriptors_over: int
    rss_mb_over: float
    unserved: int
    offenders: tuple[str, ...]

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return not any(list(self.figures().values())[3:])

    def figures(self) -> dict[str, float]:
        """Flat, numbers only."""
        return {name: value for name, value in vars(self).items() if isinstance(value, int | float)}


def run(receiver: Receiver, cases: Iterable[Case], before: Use) -> Report:
    """All of them by four callers at once; then rest, and a reckoning against what it used before."""
    begun = time.monotonic()
    with ThreadPoolExecutor(CALLERS) as callers:
        outcomes = list(callers.map(lambda made: call(receiver, made), cases))
    seconds = time.monotonic() - begun
    if not receiver.alive:
        return _dead(outcomes, seconds)
    eventually(lambda: _over(receiver.use(), before) == (0, 0, 0, 0), REST_S)
    return _reckoned(receiver, outcomes, before, seconds)


def seeded(seed: int, count: int) -> Iterable[Case]:
    """The first cases of a seed."""
    return (case(seed, number) for number in range(count))


def warmed_up(receiver: Receiver) -> Use:
    """The baseline, after forty healthy slices by four callers: pools and allocator are as in service."""
    with ThreadPoolExecutor(CALLERS) as callers:
        assert all(callers.map(lambda number: _served(receiver, number), range(40)))
    time.sleep(2.5)  # the scheduler has had a beat
    return receiver.use()


def _served(receiver: Receiver, number: int) -> bool:
    sop_uid = f"2.25.{10**30 + number}"
    with RawPeer(receiver.port, patience_s=PATIENCE_S) as peer:
        return peer.associate() == ACCEPTED and peer.store(healthy(sop_uid), sop_uid) == 0


def _over(now: Use, before: Use) -> tuple[int, int, float, int]:
    """Threads, descriptors, MB of memory and part files beyond what is allowed."""
    return (
        max(now.threads - before.threads - THREADS, 0),
        max(now.descriptors - before.descriptors - DESCRIPTORS, 0),
        round(max(now.rss_mb - before.rss_mb - RSS_MB, 0.0), 1),
        now.parts,
    )


def _reckoned(receiver: Receiver, outcomes: list[Outcome], before: Use, seconds: float) -> Report:
    threads, descriptors, rss_mb, parts = _over(receiver.use(), before)
    hung = [outcome for outcome in outcomes if outcome.hung]
    rows = receiver.rows()
    kept = {sop_uid: receiver.whole(digests) for sop_uid, digests in rows.items()}
    false = [outcome for outcome in outcomes if not _true_to_its_word(kept, outcome)]
    return Report(
        cases=len(outcomes),
        successes=sum(len(outcome.stored) for outcome in outcomes),
        seconds=round(seconds, 1),
        crashes=0,
        hangs=len(hung),
        tracebacks=receiver.said().count("Traceback"),
        false_successes=len(false),
        rows_without_file=sum(len(kept[sop_uid]) != len(digests) for sop_uid, digests in rows.items()),
        parts_left=parts,
        threads_over=threads,
        descriptors_over=descriptors,
        rss_mb_over=rss_mb,
        unserved=int(not _served(receiver, 1000)),
        offenders=(*(outcome.case.name for outcome in hung + false), *_raised(receiver.said())),
    )


def _raised(said: str) -> list[str]:
    """The last line of each traceback in a log."""
    return [line for line in said.splitlines() if re.match(r"[A-Za-z_.]+(Error|Exception|Exit)\b", line)]


def _dead(outcomes: list[Outcome], seconds: float) -> Report:
    names = tuple(outcome.case.name for outcome in outcomes if outcome.hung)
    return Report(len(outcomes), 0, round(seconds, 1), 1, 0, 0, 0, 0, 0, 0, 0, 0.0, 1, names)


def _true_to_its_word(kept: dict[str, list[bytes]], outcome: Outcome) -> bool:
    """Every Success has a row, a file with that row's digest, a readable data set of that name, and the bytes sent."""
    sent = outcome.case.data
    return all(
        any(_is_whole(file, sop_uid) and (sent is None or file.endswith(sent)) for file in kept.get(sop_uid, []))
        for sop_uid in outcome.stored
    )


def _is_whole(file: bytes, sop_uid: str) -> bool:
    try:
        with warnings.catch_warnings(action="ignore"):
            ds = dcmread(BytesIO(file))
            str(ds.get("PatientName"))  # the text too, by whatever character set it says
            return str(ds.SOPInstanceUID) == sop_uid
    except (*UNREADABLE, EOFError):
        return False
