"""What to do after a failure, as a value: a pure function of the error, the attempts so far and the time.

Two policies: compute gives up after five tries, delivery insists for days (intake.md 2.4 rule 5).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from npc_rtnode.domain.identifiers import sha256_hex
from npc_rtnode.errors import BundleFault, DiskLow, FilesAway, InferenceCrashed, NodeError, NodeStopping

OTHER_ORDER = "bundle or settings have changed since the job was queued; its series is ordered anew"
"""Why a job is replaced instead of tried: it could only become something else than its work key says."""

DISK_PAUSE_S = 60
"""Work that found no room looks again after this: space comes back without anybody telling the node."""

JITTER = 0.2
"""A pause is shorter by up to this share of it."""

CRASH_LIMIT = 3
"""A piece of work whose worker died this often is quarantined: the input itself is the likely cause."""


@dataclass(frozen=True)
class Postpone:
    """Try again at `until`, by itself."""

    until: datetime
    because: str
    counts: bool = True  # whether this try is one of those that are limited


@dataclass(frozen=True)
class GiveUp:
    """Stop trying; a person decides what comes next."""

    because: str


@dataclass(frozen=True)
class Quarantine:
    """Set the work apart: its input kills whoever touches it."""

    because: str


Decision = Postpone | GiveUp | Quarantine


@dataclass(frozen=True)
class RetryPolicy:
    """How patiently: pauses start at `first_s`, grow by `factor`, never exceed `longest_s`."""

    first_s: float
    longest_s: float
    factor: float = 4.0
    attempts: int | None = None
    horizon_s: float | None = None

    def pause_s(self, attempts: int, seed: str = "") -> float:
        """The pause after this many attempts: 1, 4, 16 … times the first, up to the longest.

        By its seed it is up to JITTER shorter, so that what failed together does not come back together.
        """
        return min(self.first_s * self.factor ** min(attempts - 1, 30), self.longest_s) * (1 - JITTER * _share(seed))


def _share(seed: str) -> float:
    """From 0 to 1, the same for the same seed; none without one."""
    return int(sha256_hex(seed.encode())[:8], 16) / 0xFFFFFFFF if seed else 0.0


COMPUTE = RetryPolicy(first_s=10, longest_s=600, attempts=5)


def decide(
    error: Exception, attempts: int, since: datetime, now: datetime, policy: RetryPolicy, seed: str = ""
) -> Decision:
    """Postpone what the moment or the peer may mend; give up on the rest.

    `attempts` counts this one; `since` is when the work was first due; `seed` (a lease's token) spreads the pauses.
    """
    because = describe(error)
    if isinstance(error, NodeStopping):
        return Postpone(now, because, counts=False)
    if isinstance(error, DiskLow | FilesAway):  # nothing is wrong with the work; it waits until the house is mended
        return Postpone(now + timedelta(seconds=DISK_PAUSE_S), because, counts=False)
    if isinstance(error, BundleFault):  # the same, but a person will be longer about it
        return Postpone(now + timedelta(seconds=policy.longest_s), because, counts=False)
    if not passes(error):
        return GiveUp(because)
    if isinstance(error, InferenceCrashed) and attempts >= CRASH_LIMIT:
        return Quarantine(f"{because} (at try {attempts})")
    if policy.attempts is not None and attempts >= policy.attempts:
        return GiveUp(f"{because} (tried {attempts} times)")
    until = now + timedelta(seconds=policy.pause_s(attempts, seed))
    if policy.horizon_s is not None and until > since + timedelta(seconds=policy.horizon_s):
        return GiveUp(f"{because} (tried for {policy.horizon_s / 3600:.0f} h)")
    return Postpone(until, because)


def passes(error: Exception) -> bool:
    """Whether nothing is wrong with the work: the moment, the peer or a mended bundle will let it go on."""
    return isinstance(error, BundleFault) or (isinstance(error, NodeError) and error.transient)


def code_of(error: Exception) -> str:
    """What a log may say of an error: its code; never its words, which may name an instance."""
    return error.code if isinstance(error, NodeError) else f"UNEXPECTED: {type(error).__name__}"


def describe(error: Exception) -> str:
    """A line for the ledger: the code and the words of our own errors; of others only the type, whose words may hold
    patient identity (pydicom and pynetdicom put values into messages)."""
    return f"{error.code}: {error}" if isinstance(error, NodeError) else code_of(error)
