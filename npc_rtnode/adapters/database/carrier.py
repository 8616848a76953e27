"""How work that waits reaches who does it: whatever a transaction made to wait is handed to the carrier before its end.

No stage can forget it: rows change their state in the journal alone, which remembers them here. The rows are the truth;
a carrier brings their numbers to workers, and may lose, repeat or reorder them (ADR 0021).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from sqlalchemy.orm import Session

from npc_rtnode.adapters.database.tables import DeliveryRow, JobRow
from npc_rtnode.domain.lifecycle import DeliveryState, JobState
from npc_rtnode.domain.records import WorkRef
from npc_rtnode.ports import Carrier

_MOVED: Final = "moved"
GPU: Final = "gpu"
CPU: Final = "cpu"
RESOURCES: Final = {JobState.QUEUED: GPU, JobState.PREDICTED: CPU}
"""Who does what waits in a state; a delivery is done by `send:` and its destination."""


class Embedded:
    """Fulfils ports.Carrier by doing nothing: workers look at the rows themselves, on SQLite or PostgreSQL."""

    def submit(self, session: Any, work: WorkRef) -> None:
        """The row is the queue."""

    def cancel(self, session: Any, work: WorkRef) -> None:
        """The row says it."""

    def recover(self, now: datetime) -> int:  # noqa: ARG002 - the port's
        """Nothing can be lost."""
        return 0


def remember(session: Session, row: Any) -> None:
    """This row has moved in this transaction."""
    if isinstance(row, JobRow | DeliveryRow):
        session.info.setdefault(_MOVED, []).append(row)


def hand_over(session: Session, carrier: Carrier) -> None:
    """At a transaction's end: submit what waits now, cancel what does not; what was taken back is no longer there."""
    for row in session.info.pop(_MOVED, ()):
        if row in session:
            carry = carrier.submit if waits(row) else carrier.cancel
            carry(session, work_of(row))


def waits(row: JobRow | DeliveryRow) -> bool:
    """Whether somebody should come for it."""
    return row.state in ({*RESOURCES} if isinstance(row, JobRow) else {DeliveryState.PENDING})


def work_of(row: JobRow | DeliveryRow) -> WorkRef:
    """The row as a carrier carries it."""
    if isinstance(row, JobRow):
        return WorkRef("job", row.id, RESOURCES.get(JobState(row.state), ""), row.rank_at, row.due_at)
    return WorkRef("delivery", row.id, sending(row.destination), row.rank_at, row.due_at)


def sending(destination: str) -> str:
    """The resource that sends to this destination."""
    return f"send:{destination}"
