"""Storage Commitment (PS3.4 J): what may be committed, and what each refusal is called.

A copy is committed when the ledger knows that very instance under that very class, its bytes are on the disk with the
digest that was recorded, and nothing is in doubt about which content counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum

from npc_rtnode.domain.records import CommitmentReport, Holding, ObjectName


class Failure(IntEnum):
    """FailureReason (0008,1197), PS3.3 C.14.1.1."""

    PROCESSING = 0x0110  # here, but its bytes are damaged, or two contents are in conflict
    NO_SUCH_INSTANCE = 0x0112
    CLASS_CONFLICT = 0x0119  # here, as another SOP Class


Whole = Callable[[str], Failure | None]
"""What keeps the bytes of this digest from being whole: not there, not the same any more, or nothing."""


def report_on(wanted: Sequence[ObjectName], held: Sequence[Holding], whole: Whole) -> CommitmentReport:
    """What is committed of `wanted`, and why not the rest; each name is answered once."""
    committed: list[ObjectName] = []
    refused: list[tuple[ObjectName, int]] = []
    for name in dict.fromkeys(wanted):
        failure = _failure(name, [one for one in held if one.sop_uid == name[1]], whole)
        if failure is None:
            committed.append(name)
        else:
            refused.append((name, int(failure)))
    return CommitmentReport(tuple(committed), tuple(refused))


def _failure(name: ObjectName, copies: Sequence[Holding], whole: Whole) -> Failure | None:
    counting = [one for one in copies if one.counts]
    if any(one.in_conflict for one in copies):
        return Failure.PROCESSING
    if not counting:
        return Failure.NO_SUCH_INSTANCE
    if name[0] not in {one.sop_class_uid for one in counting}:
        return Failure.CLASS_CONFLICT
    return next((failure for one in counting if (failure := whole(one.sha256))), None)
