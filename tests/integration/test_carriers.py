"""One contract, two carriers: whatever happens to workers, clocks and servers, each job has its effect exactly once.

The workers are processes (tests/builders/workers.py). Embedded runs on SQLite and on PostgreSQL, procrastinate on
PostgreSQL, there as the role that deploy/postgresql.sql makes for the node, which owns no table; what a carrier may do
by itself (lose, repeat, reorder) is done to it here.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import event, select, text

from npc_rtnode.adapters.database import schema
from npc_rtnode.adapters.database.carrier import work_of
from npc_rtnode.adapters.database.engine import open_engine
from npc_rtnode.adapters.database.journal import Note, move
from npc_rtnode.adapters.database.tables import EventRow, JobRow, Table
from npc_rtnode.adapters.database.work import WorkLedger
from npc_rtnode.domain.leases import LeaseWatch
from npc_rtnode.domain.lifecycle import Event, JobState
from npc_rtnode.domain.priority import rank_at
from npc_rtnode.domain.records import Choice, Closing, Truth, Verdict, WorkOrder
from npc_rtnode.errors import SchemaFault
from npc_rtnode.pipeline.sweep import Recovery
from tests.builders.ledger import NOON, Ledger
from tests.builders.workers import SILENT_S, Worker, carrier_of, wait_for
from tests.postgres import PASSWORD, SETUP, Server, rights_after_upgrade

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
SQLITE, POSTGRES = "embedded on sqlite", "embedded on postgresql"
PROCRASTINATE = "procrastinate on postgresql"
CARRIERS = (SQLITE, *(pytest.param(name, marks=pytest.mark.postgres) for name in (POSTGRES, PROCRASTINATE)))
ON_SERVERS = CARRIERS[1:]
DATABASE = "npc_rtnode"
"""The name that deploy/postgresql.sql gives it."""
PATIENCE_S = 120
"""Longer than FORSAKEN_S: a process that is stopped within a transaction keeps its locks for so long."""
_ENTRIES = text("SELECT queueing_lock FROM procrastinate_jobs WHERE status = 'todo' AND queue_name = 'gpu' ORDER BY id")


@dataclass
class House:
    """A ledger with a carrier, and a folder in which workers leave traces."""

    url: str
    kind: str
    folder: Path
    ledger: Ledger
    open: ExitStack = field(default_factory=ExitStack)
    asked: int = 0

    def job(self, priority: int = 80) -> int:
        """A queued job of a study of its own."""
        self.asked += 1
        self.ledger.priority = priority
        uid = f"1.2.{self.asked}"
        for number in range(2):
            self.ledger.receive(f"{uid}.9.{number}", f"{uid}.9", study_uid=uid)
        self.ledger.end()
        self.ledger.later(31)
        (quiet,) = self.ledger.series.quiet(self.ledger.now)
        assert self.ledger.series.close(quiet, _WHOLE, self.ledger.now)
        (series,) = [one for one in self.ledger.complete() if one.series_uid == f"{uid}.9"]
        order = self.ledger.order(series)
        assert self.ledger.studies.choose([(series, _chosen(order))], self.ledger.now)
        with self.ledger.sessions.reading() as session:
            return session.scalars(select(JobRow.id).order_by(JobRow.id.desc())).first() or 0

    def worker(self, owner: str, seconds: float = 0.2) -> Worker:
        """A host that works from now on, to the test's end at most."""
        return self.open.enter_context(Worker(self.url, self.kind, owner, self.folder, seconds))

    def mark(self, what: str, job: int) -> Path:
        """`wait` or `die`."""
        path = self.folder / f"{what}-{job}"
        path.touch()
        return path

    def begun(self, job: int, owner: str) -> Callable[[], bool]:
        """Whether it has begun there."""
        return (self.folder / f"begun-{job}-{owner}").exists

    def row(self, job: int) -> JobRow:
        """As the ledger has it."""
        with self.ledger.sessions.reading() as session:
            return session.get_one(JobRow, job)

    def is_done(self, *jobs: int) -> bool:
        """Whether all have their effect."""
        return all(self.row(job).state == JobState.PREDICTED for job in jobs)

    def events(self, event: str) -> list[int]:
        """The jobs to which it happened, in order."""
        query = select(EventRow.subject_id).where(EventRow.subject == "job", EventRow.event == event)
        with self.ledger.sessions.reading() as session:
            return [int(subject) for subject in session.scalars(query.order_by(EventRow.seq))]

    def wait_done(self, *jobs: int) -> None:
        """Until all have their effect, each once."""
        wait_for(lambda: self.is_done(*jobs), PATIENCE_S, self.told)
        assert Counter(self.events(Event.DONE)) == Counter(jobs)
        assert self.ledger.queries.chain_is_whole()

    def told(self) -> str:
        """What every worker said."""
        return "\n".join(path.read_text("utf-8", "replace")[-3000:] for path in self.folder.glob("*.log"))

    def entries(self) -> list[str]:
        """What the carrier has waiting for inference, where it keeps anything."""
        if self.kind == "embedded":
            return []
        with self.ledger.sessions.reading() as session:
            return list(session.scalars(_ENTRIES))

    def change(self, job: int, **values: object) -> None:
        """Set columns of a row behind everybody's back, and submit it again."""
        with self.ledger.sessions.writing() as session:
            row = session.get_one(JobRow, job)
            for name, value in values.items():
                setattr(row, name, value)
            assert self.ledger.carrier is not None
            self.ledger.carrier.submit(session, work_of(row))


_WHOLE = Closing(Event.CLOSED_WHOLE, "quiet and whole")


def _chosen(order: WorkOrder) -> Choice:
    return Choice(Event.SELECTED, (Verdict("modality", Truth.TRUE, "Modality is MR"),), (), "r" * 64, order)


@pytest.fixture(scope="module")
def server_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A database with the ledger's and procrastinate's tables, made once by its owner; the URL of the node's role."""
    from npc_rtnode.adapters.database.procrastinated import make_tables, require_tables

    server: Server = request.getfixturevalue("postgres")
    server.psql("-v", f"owner_password='{PASSWORD}'", "-v", f"node_password='{PASSWORD}'", "-f", "-", script=SETUP)
    url = server.url(DATABASE, "npc_rtnode")
    owner, engine = open_engine(server.url(DATABASE, "npc_owner")), open_engine(url)
    schema.upgrade(owner, make_tables)
    with pytest.raises(SchemaFault, match="lacks DELETE on procrastinate_jobs, DELETE on procrastinate_workers"):
        require_tables(engine)
    with owner.begin() as connection:
        for statement in rights_after_upgrade(carrier=True):
            connection.execute(text(statement))
    for either in (owner, engine):  # as the node's unit does at every start
        schema.upgrade(either, make_tables)
        require_tables(either)
    assert schema.differences(owner) == []
    yield url
    engine.dispose()
    owner.dispose()
    server.drop(DATABASE)
    for role in ("npc_rtnode", "npc_owner"):
        server.do(f"DROP ROLE {role}")


@pytest.fixture(params=CARRIERS)
def house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[House]:
    """Empty, with nobody at work."""
    kind, _, backend = str(request.param).partition(" on ")
    if backend == "sqlite":
        url = f"sqlite:///{tmp_path / 'ledger.db'}"
        engine = open_engine(url)
        schema.upgrade(engine)
    else:
        url = request.getfixturevalue("server_url")
        engine = open_engine(url)
    server: Server | None = None if backend == "sqlite" else request.getfixturevalue("postgres")
    made = House(url, kind, tmp_path, Ledger(engine, carrier=carrier_of(kind, url)))
    with made.open:
        yield made
    engine.dispose()
    if server is not None:
        names = [*Table.metadata.tables, "procrastinate_jobs", "procrastinate_workers"]
        server.do(f"TRUNCATE {', '.join(names)} RESTART IDENTITY CASCADE", DATABASE)


# --- the contract -----------------------------------------------------------------------------------------------------


def test_each_job_has_its_effect_once(house: House) -> None:
    """Two hosts share what is queued before and while they work."""
    jobs = [house.job() for _ in range(6)]
    house.worker("a", 0.05), house.worker("b", 0.05)
    jobs += [house.job() for _ in range(6)]
    house.wait_done(*jobs)
    assert house.entries() == []


def test_what_is_rolled_back_was_never_submitted(house: House) -> None:
    """A transaction that fails after work was queued in it leaves neither row nor entry."""
    job = house.job()
    house.change(job, due_at=NOON)
    before = house.entries()
    with pytest.raises(RuntimeError, match="in the middle"):
        _begin_and_fail(house, job)
    assert house.row(job).state == JobState.QUEUED
    assert house.entries() == before
    house.worker("a")
    house.wait_done(job)


def _begin_and_fail(house: House, job: int) -> None:
    assert house.ledger.carrier is not None
    with house.ledger.sessions.writing() as session:
        row = session.get_one(JobRow, job)
        move(session, row, Event.CANCELLED, Note(NOON))
        move(session, row, Event.RETRIED, Note(NOON))
        house.ledger.carrier.submit(session, work_of(row))
        house.ledger.carrier.cancel(session, work_of(row))
        raise RuntimeError("in the middle")


def test_a_rehearsal_moves_nothing(house: House) -> None:
    """`--dry-run` tells what a person's word would do, and leaves row and entry as they are."""
    job = house.job()
    before = house.entries()
    planned = house.ledger.desk.cancel(house.ledger.study(), house.ledger.word(dry_run=True))
    assert (house.row(job).state, house.entries()) == (JobState.QUEUED, before)
    assert house.ledger.desk.cancel(house.ledger.study(), house.ledger.word()) == planned
    assert (house.row(job).state, house.entries()) == (JobState.CANCELLED, [])


def test_submitted_twice_is_begun_once(house: House) -> None:
    """Who submits again moves what waits."""
    job = house.job()
    for _ in range(3):
        house.change(job)
    assert len(house.entries()) == (house.kind != "embedded")
    house.worker("a"), house.worker("b")
    house.wait_done(job)
    assert house.events(Event.BEGUN) == [job]


def test_what_was_called_off_is_not_begun(house: House) -> None:
    """Nobody comes for a job that was cancelled before; the one beside it is done."""
    off, on = house.job(), house.job()
    with house.ledger.sessions.writing() as session:
        move(session, session.get_one(JobRow, off), Event.CANCELLED, Note(NOON))
    assert house.entries() == ([] if house.kind == "embedded" else [f"job {on}"])
    house.worker("a")
    house.wait_done(on)
    assert house.events(Event.BEGUN) == [on]


def test_the_urgent_is_begun_first(house: House) -> None:
    """By priority and then by age, and what has waited long enough is as urgent as anything."""
    jobs = {priority: house.job(priority) for priority in (0, 50, 100, 20)}
    old = house.job(0)
    house.change(old, rank_at=rank_at(NOON - timedelta(hours=3), 0))
    house.worker("a", 0.05)
    house.wait_done(*jobs.values(), old)
    assert house.events(Event.BEGUN) == [old, jobs[100], jobs[50], jobs[20], jobs[0]]


def test_what_is_due_later_is_begun_later(house: House) -> None:
    """Not before its time, and then without anybody's doing."""
    job, due = house.job(), datetime.now(UTC) + timedelta(seconds=6)
    house.change(job, due_at=due)
    house.worker("a", 0.05)
    house.wait_done(job)
    with house.ledger.sessions.reading() as session:
        begun = session.scalars(select(EventRow.at).where(EventRow.event == Event.BEGUN)).one()
    assert due <= begun < due + timedelta(seconds=20)


def test_a_killed_hosts_work_is_taken_over(house: House) -> None:
    """SIGKILL in mid-job: after its silence another host does the work, and a crash is counted."""
    job = house.job()
    house.mark("wait", job)
    first = house.worker("a")
    wait_for(house.begun(job, "a"), PATIENCE_S, house.told)
    house.worker("b")
    first.kill()
    (house.folder / f"wait-{job}").unlink()
    house.wait_done(job)
    assert house.begun(job, "b")()
    assert house.row(job).results["by"] == "b"
    assert house.events(Event.INTERRUPTED) == [job]


def test_a_host_that_comes_back_takes_its_work_up_at_once(house: House) -> None:
    """The same host, started again, waits for no silence of its own."""
    job = house.job()
    wait = house.mark("wait", job)
    first = house.worker("a")
    wait_for(house.begun(job, "a"), PATIENCE_S, house.told)
    first.kill()
    wait.unlink()
    house.worker("a")
    house.wait_done(job)
    assert house.events(Event.INTERRUPTED) == [job]


def test_a_zombie_finishes_nothing(house: House) -> None:
    """SIGSTOP in mid-job, another takes over and is done; what wakes has lost its lease, and works on with the next."""
    job = house.job()
    wait = house.mark("wait", job)
    zombie = house.worker("a")
    wait_for(house.begun(job, "a"), PATIENCE_S, house.told)
    other = house.worker("b")
    zombie.stop()
    wait_for(house.begun(job, "b"), PATIENCE_S, house.told)
    wait.unlink()
    house.wait_done(job)
    other.kill()
    zombie.wake()
    wait_for(lambda: "LEASE_LOST" in zombie.told(), PATIENCE_S, zombie.told)
    assert house.row(job).results["by"] == "b"
    following = house.job()
    house.wait_done(job, following)
    assert house.row(following).results["by"] == "a"


@pytest.mark.parametrize("step_s", [-86400, 86400])
def test_a_clock_that_is_set_takes_nothing_from_anybody(house: House, step_s: int) -> None:
    """A host's clock jumps by a day in mid-job, for longer than a silence: the other leaves its work alone."""
    job = house.job()
    wait = house.mark("wait", job)
    house.worker("a"), house.worker("b")
    wait_for(lambda: house.begun(job, "a")() or house.begun(job, "b")(), PATIENCE_S, house.told)
    worker = "a" if house.begun(job, "a")() else "b"
    for owner in ("a", "b"):
        (house.folder / f"clock-{owner}").write_text(str(step_s if owner == worker else -step_s))
    time.sleep(SILENT_S * 1.5)
    wait.unlink()
    house.wait_done(job)
    assert house.events(Event.BEGUN) == [job]


@pytest.mark.parametrize("house", ON_SERVERS, indirect=True)
def test_a_server_that_restarts_costs_nothing(house: House, postgres: Server) -> None:
    """The database dies in mid-job and comes back after more than a silence: the job ends as it began, once."""
    job = house.job()
    wait = house.mark("wait", job)
    house.worker("a"), house.worker("b")
    wait_for(lambda: house.begun(job, "a")() or house.begun(job, "b")(), PATIENCE_S, house.told)
    postgres.stop("immediate")
    time.sleep(SILENT_S * 1.2)
    postgres.start()
    time.sleep(SILENT_S / 2)
    wait.unlink()
    following = house.job()
    house.wait_done(job, following)
    assert (house.events(Event.BEGUN).count(job), house.row(job).crashes) == (1, 0)


def test_the_third_crash_quarantines(house: House) -> None:
    """An input that kills whoever touches it is set apart after three hosts, and what waits beside it is done."""
    poison = house.job()
    house.mark("die", poison)
    sound = house.job(priority=0)
    recovery = _recovery(house)
    for owner in ("a", "b", "c"):
        wait_for(house.worker(owner).is_dead, PATIENCE_S, house.told)
        wait_for(recovery.run, PATIENCE_S, house.told)
    assert house.row(poison).state == JobState.QUARANTINED
    assert "WORKER_DIED" in (house.row(poison).last_error or "")
    house.worker("d")
    wait_for(lambda: house.is_done(sound), PATIENCE_S, house.told)


def _recovery(house: House) -> Recovery:
    """A host that does nothing but watch."""
    pages = WorkLedger(house.ledger.sessions, "watcher")
    assert house.ledger.carrier is not None
    watch = LeaseWatch(SILENT_S)
    return Recovery(pages, house.ledger.carrier, watch, {}, lambda: datetime.now(UTC), time.monotonic)


# --- what only a carrier with entries can do wrong --------------------------------------------------------------------


@pytest.mark.parametrize("house", [PROCRASTINATE], indirect=True)
@pytest.mark.postgres
def test_lost_entries_are_made_again(house: House, postgres: Server) -> None:
    """All of the carrier's tables emptied under waiting work: it is done all the same, and once."""
    jobs = [house.job() for _ in range(3)]
    postgres.do("TRUNCATE procrastinate_jobs CASCADE", DATABASE)
    house.worker("a", 0.05)
    house.wait_done(*jobs)


@pytest.mark.parametrize("house", [PROCRASTINATE], indirect=True)
@pytest.mark.postgres
def test_only_what_was_lost_is_read(house: House) -> None:
    """However much waits, looking after lost entries reads no row that has one; with none lost, none at all."""
    jobs = [house.job() for _ in range(4)]
    assert house.ledger.carrier is not None
    lost, read = house.row(jobs[1]), list[JobRow]()

    def loaded(row: JobRow, _context: object) -> None:
        read.append(row)

    event.listen(JobRow, "load", loaded)
    try:
        assert (house.ledger.carrier.recover(house.ledger.now), len(read)) == (0, 0)
        with house.ledger.sessions.writing() as session:
            house.ledger.carrier.cancel(session, work_of(lost))
        assert (house.ledger.carrier.recover(house.ledger.now), [row.id for row in read]) == (1, [lost.id])
    finally:
        event.remove(JobRow, "load", loaded)
    assert sorted(house.entries()) == [f"job {job}" for job in jobs]


@pytest.mark.parametrize("house", [PROCRASTINATE], indirect=True)
@pytest.mark.postgres
def test_ended_entries_do_not_pile_up(house: House) -> None:
    """What is done, and what a dead worker left as being done, is pruned."""
    job = house.job()
    house.mark("wait", job)
    worker = house.worker("a")
    wait_for(house.begun(job, "a"), PATIENCE_S, house.told)
    worker.kill()
    (house.folder / f"wait-{job}").unlink()
    house.worker("b")
    house.wait_done(job)

    def is_empty() -> bool:
        with house.ledger.sessions.reading() as session:
            return not session.scalar(text("SELECT count(*) FROM procrastinate_jobs WHERE queue_name = 'gpu'"))

    wait_for(is_empty, PATIENCE_S, house.told)


@pytest.mark.parametrize("house", [PROCRASTINATE], indirect=True)
@pytest.mark.postgres
def test_a_host_that_begins_nothing_takes_nothing_from_the_others(house: House) -> None:
    """Idle, it would be the first to fetch each entry, and the others would never see one; when it may, it does."""
    shut = house.folder / "shut-b"
    shut.touch()
    house.worker("b")
    first = house.job()
    assert house.entries() == [f"job {first}"]
    house.worker("a")
    house.wait_done(first)
    assert house.begun(first, "a")()
    wait = house.mark("wait", second := house.job())
    wait_for(house.begun(second, "a"), PATIENCE_S, house.told)
    third = house.job()
    shut.unlink()
    wait_for(house.begun(third, "b"), PATIENCE_S, house.told)
    wait.unlink()
    house.wait_done(first, second, third)
