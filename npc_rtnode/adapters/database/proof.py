"""The ledger's witness stand: what `fsck` asks of it, each look at one moment of it. Reads only."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Text, exists, select
from sqlalchemy.orm import Session
from sqlalchemy.types import JSON

from npc_rtnode.adapters.database import promises
from npc_rtnode.adapters.database.engine import Sessions
from npc_rtnode.adapters.database.removals import removed
from npc_rtnode.adapters.database.series import inputs_of
from npc_rtnode.adapters.database.tables import (
    InstanceRow,
    JobRow,
    RemovalRow,
    SeriesRow,
    StudyRow,
    Table,
)
from npc_rtnode.domain.invariants import ClaimedInstance, ClaimedObject, ClaimedResult, Looked
from npc_rtnode.domain.retention import Place

_AT_ONCE = 1000


class ProofLedger:
    """Answers for the ledger's share of every promise."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    # --- what the disk is compared with -------------------------------------------------------------------------------

    def instances(self) -> Iterator[ClaimedInstance]:
        """Every instance that was acknowledged, page by page: files are read in between, and no look stays open."""
        last = 0
        while page := self._page(last):
            yield from page
            last = page[-1].instance

    def _page(self, after: int) -> list[ClaimedInstance]:
        gone = exists(removed(Place.SPOOL).where(RemovalRow.name == InstanceRow.sha256))
        query = (
            select(InstanceRow, SeriesRow.series_uid, StudyRow.study_uid, gone)
            .join(SeriesRow, SeriesRow.id == InstanceRow.series_id)
            .join(StudyRow, StudyRow.id == SeriesRow.study_id)
            .where(InstanceRow.id > after)
        )
        with self._sessions.reading() as session:
            rows = session.execute(query.order_by(InstanceRow.id).limit(_AT_ONCE))
            return [_claimed(row, series, study, not is_gone) for row, series, study, is_gone in rows]

    def results(self) -> Iterator[ClaimedResult]:
        """Every job that has made objects."""
        with self._sessions.reading() as session:
            gone = {place: set(session.scalars(removed(place))) for place in Place}
            for job in session.scalars(select(JobRow).where(JobRow.objects.any()).order_by(JobRow.id)):
                yield _result(session, job, gone)

    def removed(self, place: Place) -> set[str]:
        """Names of files there whose bytes were removed."""
        with self._sessions.reading() as session:
            return set(session.scalars(removed(place)))

    def texts(self) -> Iterator[tuple[str, str]]:
        """Every text of the ledger, with the place where it stands; UIDs and digests are left out."""
        with self._sessions.reading() as session:
            for table in Table.metadata.sorted_tables:
                for column in filter(_is_told, table.columns):
                    values = session.execute(select(column).execution_options(yield_per=_AT_ONCE))
                    told = dict.fromkeys(_words(value) for (value,) in values if value)
                    yield from ((f"{table.name}.{column.name}", words) for words in told)

    # --- the ledger's own promises ------------------------------------------------------------------------------------

    def places(self) -> Looked:
        """I3: every instance in one place."""
        return self._ask(promises.places)

    def current_jobs(self) -> Looked:
        """I4: one current job of a selected series, none of another."""
        return self._ask(promises.current_jobs)

    def structure_sets(self) -> Looked:
        """I5: one structure set a work key and destination."""
        return self._ask(promises.structure_sets)

    def sent(self) -> Looked:
        """I7: SENT only after an acceptance of that very object; DELIVERED only when all is sent."""
        return self._ask(promises.sent)

    def leases(self, now: datetime) -> Looked:
        """I8: who has something in hand has a lease on it, and it is not old."""
        return self._ask(lambda session: promises.leases(session, now))

    def limits(self) -> Looked:
        """I9: attempts and crashes within their limits, and a reason at whatever was set apart."""
        return self._ask(promises.limits)

    def journal(self) -> Looked:
        """I10: the chain is whole, and every row stands where its last event put it."""
        return self._ask(promises.journal)

    def overdue(self, now: datetime, bound_s: float) -> Looked:
        """I13: nothing that the node would do by itself is longer due than the bound."""
        return self._ask(lambda session: promises.overdue(session, now - timedelta(seconds=bound_s)))

    def _ask(self, question: Callable[[Session], Looked]) -> Looked:
        with self._sessions.reading() as session:
            return question(session)


# --- what the disk is compared with -----------------------------------------------------------------------------------


def _claimed(row: InstanceRow, series_uid: str, study_uid: str, there: bool) -> ClaimedInstance:
    return ClaimedInstance(
        row.id,
        row.series_id,
        study_uid,
        series_uid,
        row.sop_uid,
        row.sop_class_uid,
        row.transfer_syntax_uid,
        row.sha256,
        row.size,
        there,
    )


def _result(session: Session, job: JobRow, gone: dict[Place, set[str]]) -> ClaimedResult:
    inputs = [(uid, sha256, sha256 not in gone[Place.SPOOL]) for uid, sha256 in inputs_of(session, job.series)]
    objects = [
        ClaimedObject(item.kind, item.sop_uid, item.sha256, item.sha256 not in gone[Place.OUTBOX])
        for item in job.objects
    ]
    return ClaimedResult(job.id, job.series.study.study_uid, tuple(inputs), tuple(objects))


def _is_told(column: Any) -> bool:
    """A text that people, peers or stages have worded; not a UID, a digest or a code of ours."""
    return isinstance(column.type, (Text, JSON)) or column.name in {"how", "actor", "calling_ae", "called_ae"}


def _words(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
