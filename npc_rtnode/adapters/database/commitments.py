"""The ledger's commitment pages: who asked whether what is safe here, and what was told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from sqlalchemy import func, select

from npc_rtnode.adapters.database.engine import Sessions
from npc_rtnode.adapters.database.journal import Note, tell
from npc_rtnode.adapters.database.tables import CommitmentRow, CommitmentState, InstanceRow, InstanceState
from npc_rtnode.domain.records import CommitmentInHand, CommitmentReport, CommitmentRequest, Holding
from npc_rtnode.domain.retry import Decision, Postpone

ASKED_AT_ONCE = 500
"""Instances that one statement looks for: it takes a limited number of parameters."""

_COUNTING = {InstanceState.KEPT, InstanceState.REENCODED}


class CommitmentLedger:
    """Requests are kept until they are answered; a restart forgets none."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def request(self, request: CommitmentRequest, now: datetime) -> None:
        """A transaction is owed its report; asked for again, it is owed it again."""
        wanted = [list(name) for name in request.wanted]
        with self._sessions.writing() as session:
            row = session.scalar(
                select(CommitmentRow).where(
                    CommitmentRow.calling_ae == request.calling_ae,
                    CommitmentRow.transaction_uid == request.transaction_uid,
                )
            )
            if row is None:
                row = CommitmentRow(calling_ae=request.calling_ae, transaction_uid=request.transaction_uid)
                session.add(row)
            row.wanted, row.refused, row.committed, row.ended_at = wanted, [], None, None
            row.state, row.attempts, row.requested_at, row.due_at = CommitmentState.PENDING, 0, now, now
            session.flush()
            detail = {"calling_ae": request.calling_ae, "instances": len(wanted)}
            tell(session, "commitment", str(row.id), "REQUESTED", Note(now, detail=detail))

    def due(self, now: datetime) -> CommitmentInHand | None:
        """The oldest that is owed its report now."""
        oldest = (
            select(CommitmentRow)
            .where(CommitmentRow.state == CommitmentState.PENDING, CommitmentRow.due_at <= now)
            .order_by(CommitmentRow.due_at, CommitmentRow.id)
            .limit(1)
        )
        with self._sessions.reading() as session:
            row = session.scalar(oldest)
            return _in_hand(row) if row else None

    def held(self, sop_uids: Sequence[str]) -> list[Holding]:
        """Every content that is kept of these instances."""
        with self._sessions.reading() as session:
            rows = [
                row
                for part in _portions(sop_uids)
                for row in session.scalars(select(InstanceRow).where(InstanceRow.sop_uid.in_(part)))
            ]
            return [
                Holding(
                    row.sop_uid,
                    row.sop_class_uid,
                    row.sha256,
                    counts=row.state in _COUNTING,
                    in_conflict=row.state == InstanceState.CONFLICTING,
                )
                for row in rows
            ]

    def reported(self, commitment: CommitmentInHand, report: CommitmentReport, now: datetime) -> None:
        """The requester has its report."""
        refused = [[*name, reason] for name, reason in report.refused]
        with self._sessions.writing() as session:
            row = session.get_one(CommitmentRow, commitment.commitment_id)
            row.state, row.ended_at, row.last_error = CommitmentState.REPORTED, now, None
            row.committed, row.refused, row.attempts = len(report.committed), refused, commitment.attempts
            detail = {"committed": len(report.committed), "refused": len(refused)}
            tell(session, "commitment", str(row.id), "REPORTED", Note(now, detail=detail))

    def failed(self, commitment: CommitmentInHand, decision: Decision, now: datetime) -> None:
        """Tried again later, or given up."""
        with self._sessions.writing() as session:
            row = session.get_one(CommitmentRow, commitment.commitment_id)
            row.attempts, row.last_error = commitment.attempts, decision.because
            if isinstance(decision, Postpone):
                row.due_at = decision.until
            else:
                row.state, row.ended_at = CommitmentState.FAILED, now
            note = Note(now, detail={"because": decision.because})
            tell(session, "commitment", str(row.id), "POSTPONED" if isinstance(decision, Postpone) else "FAILED", note)

    def counts(self) -> dict[str, int]:
        """How many in which state."""
        by_state = select(CommitmentRow.state, func.count()).group_by(CommitmentRow.state)
        with self._sessions.reading() as session:
            return {row[0]: row[1] for row in session.execute(by_state)}


def _in_hand(row: CommitmentRow) -> CommitmentInHand:
    wanted = tuple((str(sop_class), str(sop_uid)) for sop_class, sop_uid in row.wanted)
    return CommitmentInHand(row.id, row.calling_ae, row.transaction_uid, wanted, row.attempts + 1, row.requested_at)


def _portions(sop_uids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (sop_uids[start : start + ASKED_AT_ONCE] for start in range(0, len(sop_uids), ASKED_AT_ONCE))
