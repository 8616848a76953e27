"""Retention and janitor beside a ledger at work: whatever happened before, they never take what undelivered work needs.

Random walks through a study's life, by the ledger's own pages; after every few steps both look at it thirteen years
later, with every limit a moment. What is needed is asked of the tables here, not of the judgement under test.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event, select

from npc_rtnode.adapters.database.conflicts import Keep
from npc_rtnode.adapters.database.desk import Only
from npc_rtnode.adapters.database.engine import open_engine
from npc_rtnode.adapters.database.removals import removed
from npc_rtnode.adapters.database.retention import RetentionLedger
from npc_rtnode.adapters.database.tables import InstanceRow, JobRow, SeriesRow, StudyRow
from npc_rtnode.domain.lifecycle import DeliveryState, Event, JobState, SeriesState
from npc_rtnode.domain.records import Closing, SendReceipt
from npc_rtnode.domain.retention import Days, Place, PurgeOrder
from npc_rtnode.domain.retry import GiveUp, Postpone
from npc_rtnode.errors import Forbidden, NotFound
from npc_rtnode.pipeline.sweep import Janitor, Retention
from tests.builders.ledger import Ledger
from tests.integration.test_retention import FakeShelf

A_MOMENT = Days(*[0.001] * 6)
LATER = timedelta(days=5000)
SERIES = ("1.2.3", "1.2.9")
_ENDED = {JobState.DELIVERED, JobState.CANCELLED}
_OPEN = {SeriesState.RECEIVING, SeriesState.COMPLETE, SeriesState.HELD}


def needed(ledger: Ledger) -> dict[Place, set[str]]:
    """The files that are there of every study of which a series is open, a job unended, anything owed, held, leased."""
    found: dict[Place, set[str]] = {place: set() for place in Place}
    with ledger.sessions.reading() as session:
        for study in session.scalars(select(StudyRow)):
            if not (study.hold or any(map(_is_needed, study.series))):
                continue
            jobs = [job for row in study.series for job in row.jobs]
            inputs = select(InstanceRow.sha256).join(SeriesRow, SeriesRow.id == InstanceRow.series_id)
            found[Place.SPOOL] |= set(session.scalars(inputs.where(SeriesRow.study_id == study.id)))
            found[Place.WORK] |= {job.work_key for job in jobs}
            found[Place.OUTBOX] |= {item.sha256 for job in jobs for item in job.objects}
        return {place: names - set(session.scalars(removed(place))) for place, names in found.items()}


def _is_needed(row: SeriesRow) -> bool:
    return row.state in _OPEN or any(map(_is_unended, row.jobs))


def _is_unended(job: JobRow) -> bool:
    owed = {DeliveryState.PENDING, DeliveryState.SENDING}
    leased = job.lease_token is not None
    return job.state not in _ENDED or leased or any(d.state in owed for item in job.objects for d in item.deliveries)


# --- steps ------------------------------------------------------------------------------------------------------------

_numbers = count(1)


def _receive(ledger: Ledger, which: int) -> None:
    series = SERIES[which % 2]
    for number in range(1, 3):
        ledger.receive(f"{series}.{number}", series)


def _late(ledger: Ledger, which: int) -> None:
    ledger.receive(f"{SERIES[which % 2]}.{10 + next(_numbers)}", SERIES[which % 2])


def _other_content(ledger: Ledger, which: int) -> None:
    ledger.receive(f"{SERIES[which % 2]}.1", SERIES[which % 2], content="other")


def _close(ledger: Ledger, which: int) -> None:
    ledger.end()
    ledger.later(31)
    end = (Event.CLOSED_WHOLE, Event.CLOSED_WHOLE, Event.CLOSED_PARTIAL)[which % 3]
    for series in ledger.series.quiet(ledger.now):
        ledger.series.close(series, Closing(end, "quiet"), ledger.now)


def _choose(ledger: Ledger, which: int) -> None:
    events = (Event.SELECTED, Event.SELECTED, Event.HELD, Event.SET_ASIDE)
    for series in ledger.complete():
        choice = events[(which + series.series_id) % 4]
        ledger.choose(series, choice, () if choice is Event.SELECTED else ("A_REASON: told",))


def _infer(ledger: Ledger, which: int) -> None:
    if job := ledger.work.claim_job(JobState.QUEUED, "infer", ledger.now, 60):
        outcomes: list[Callable[[], object]] = [
            lambda: ledger.work.predicted(job.lease, {"stage": "T2"}, ledger.now),
            lambda: ledger.work.predicted(job.lease, {"stage": "T2"}, ledger.now),
            lambda: ledger.work.held(job.lease, [], {}, ledger.now),
            lambda: ledger.work.failed(job.lease, GiveUp("X: no"), ledger.now),
            lambda: ledger.work.failed(job.lease, Postpone(ledger.now, "X: later"), ledger.now),
            lambda: None,  # left in hand
        ]
        outcomes[which % 6]()


def _write(ledger: Ledger, which: int) -> None:
    if job := ledger.work.claim_job(JobState.PREDICTED, "write", ledger.now, 60):
        if which % 4 == 3:
            ledger.work.failed(job.lease, GiveUp("X: no"), ledger.now)
        else:
            ledger.work.commit_result(job.lease, ledger.result(job), ledger.now)


def _send(ledger: Ledger, which: int) -> None:
    for destination in ("tps", "pacs")[: 1 + which % 2]:
        while owed := ledger.work.claim_delivery(destination, ledger.now, 60):
            if which % 5 == 4:
                ledger.work.failed(owed.lease, GiveUp("OBJECT_REFUSED: no"), ledger.now)
            else:
                ledger.work.sent(owed.lease, SendReceipt(0, False, ledger.now))


def _recover(ledger: Ledger, which: int) -> None:
    ledger.work.recover_all(ledger.now)


def _say(ledger: Ledger, which: int) -> None:
    desk, study, word = ledger.desk, ledger.study(), ledger.word()
    deeds: list[Callable[[], object]] = [
        lambda: desk.hold(study, word),
        lambda: desk.release(study, word),
        lambda: desk.abandon(study, word),
        lambda: desk.retry(study, word),
        lambda: desk.reconsider(study, word),
        lambda: desk.settle(study, Keep.LAST, word, Only()),
    ]
    deeds[which % 6]()


STEPS: tuple[Callable[[Ledger, int], None], ...] = (
    _receive, _late, _other_content, _close, _choose, _infer, _write, _send, _recover, _say,
)  # fmt: skip
USUAL = (_receive, _close, _choose, _infer, _write, _send)
WALKS = st.lists(
    st.tuples(st.one_of(st.sampled_from(STEPS), st.sampled_from(USUAL)), st.integers(0, 59)), min_size=3, max_size=24
)


def look(ledger: Ledger) -> int:
    """Both sweepers, thirteen years later: nothing that was needed before has gone; how much went."""
    keep, shelves = needed(ledger), {place: FakeShelf() for place in Place}
    with ledger.sessions.reading() as session:
        shelves[Place.WORK].old = list(session.scalars(select(JobRow.work_key)))
    shelves[Place.WORK].lying = set(shelves[Place.WORK].old)
    pages = RetentionLedger(ledger.sessions)

    def clock() -> datetime:
        return ledger.now + LATER

    Janitor(pages, shelves, shelves[Place.WORK], clock).run()  # type: ignore[arg-type]
    assert shelves[Place.WORK].taken == [], "the janitor takes nothing that a job names"
    retention = Retention(pages, shelves, A_MOMENT, clock)  # type: ignore[arg-type]
    retention.run()
    for line in ledger.queries.studies():
        with suppress(Forbidden):
            retention.named(line["study"], PurgeOrder("operator:ada", "a test", clock()))
    for place in Place:
        assert keep[place].isdisjoint(shelves[place].taken), place
    return sum(len(shelf.taken) for shelf in shelves.values())


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=WALKS, after=WALKS)
def test_no_walk_ends_with_needed_bytes_gone(
    before: list[tuple[Callable[[Ledger, int], None], int]],
    after: list[tuple[Callable[[Ledger, int], None], int]],
    sqlite_template: Path,
    tmp_path: Path,
) -> None:
    """Neither in the middle of a life nor after it has gone on from there, with bytes of its gone or not."""
    shutil.copy(sqlite_template, file := tmp_path / f"{next(_numbers)}.db")
    engine = open_engine(f"sqlite:///{file}")
    event.listen(engine, "connect", _hurry)
    ledger = Ledger(engine)
    for walk in (before, after):
        for step, which in walk:
            with suppress(Forbidden, NotFound, ValueError):
                step(ledger, which)
        look(ledger)
    engine.dispose()
    file.unlink()


def _hurry(connection: Any, _record: object) -> None:
    """No power loss is waited for here."""
    connection.execute("PRAGMA synchronous=OFF")


def test_the_walks_come_far_enough(sqlite_template: Path, tmp_path: Path) -> None:
    """The usual steps in order end with everything delivered, and then all of it goes: the property is no empty one."""
    shutil.copy(sqlite_template, tmp_path / "ledger.db")
    ledger = Ledger(open_engine(f"sqlite:///{tmp_path / 'ledger.db'}"))
    for step in (_receive, _close, _choose, _infer, _write):
        step(ledger, 0 if step is not _choose else 3)
        assert look(ledger) == 0, step
    _send(ledger, 1)
    assert ledger.job_state() == "DELIVERED"
    assert look(ledger) == 2 + 1 + 2
    ledger.engine.dispose()
