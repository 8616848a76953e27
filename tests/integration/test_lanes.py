"""What a person may do to the flow of work: pause lanes, call off, leave for the night; and lanes that stand alone."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from npc_rtnode.adapters.database import schema
from npc_rtnode.adapters.database.engine import open_engine
from npc_rtnode.adapters.database.pauses import Pauses
from npc_rtnode.adapters.database.tables import AttemptRow, EventRow
from npc_rtnode.adapters.database.work import WorkLedger
from npc_rtnode.adapters.rules import load_rule_file
from npc_rtnode.cli import app
from npc_rtnode.domain.identifiers import sha256_hex
from npc_rtnode.domain.lifecycle import JobState
from npc_rtnode.domain.records import Lease, OpenSeries, SendReceipt, WorkRef, WrittenObject
from npc_rtnode.domain.retry import Postpone, RetryPolicy
from npc_rtnode.domain.windows import OffPeak, Window
from npc_rtnode.errors import LeaseLost, NotFound
from npc_rtnode.pipeline.attempt import Barrier
from npc_rtnode.pipeline.deliver import Deliverer
from npc_rtnode.pipeline.select import Policy
from npc_rtnode.pipeline.sweep import Pulse
from npc_rtnode.schedule import Metronome, Tick
from npc_rtnode.settings import Destination
from tests.builders.ledger import NOON, Ledger
from tests.builders.workers import carrier_of, wait_for
from tests.fakes.pipeline import STATEMENT, FakeSpool
from tests.postgres import Server

NAMES = ("tps", "pacs")


# --- pauses -----------------------------------------------------------------------------------------------------------


def test_a_paused_lane_begins_nothing(ledger: Ledger) -> None:
    """infer, send, or sending to one destination: what waits there stays, the rest goes on, until it is resumed."""
    pauses = Pauses(ledger.sessions)
    ledger.queued_job()
    pauses.pause("infer", NAMES, ledger.word())
    assert ledger.work.claim_job(JobState.QUEUED, "infer", ledger.now, 60) is None
    pauses.resume("infer", ledger.word())
    ledger.predicted()
    pauses.pause("infer", NAMES, ledger.word())
    job = ledger.in_hand(JobState.PREDICTED, "write")
    ledger.work.commit_result(job.lease, ledger.result(job), ledger.now)
    pauses.pause("send:tps", NAMES, ledger.word())
    assert ledger.work.claim_delivery("tps", ledger.now, 60) is None
    assert ledger.work.claim_delivery("pacs", ledger.now, 60) is not None
    pauses.pause("send", NAMES, ledger.word())
    assert ledger.work.claim_delivery("pacs", ledger.now, 60) is None
    pauses.resume("send", ledger.word())
    assert ledger.work.claim_delivery("pacs", ledger.now, 60) is not None


def test_pauses_say_who_and_why(ledger: Ledger) -> None:
    """Both words stand in the journal with name and reason; a second pause changes nothing, a rehearsal neither."""
    pauses = Pauses(ledger.sessions)
    pauses.pause("infer", NAMES, ledger.word(dry_run=True))
    assert pauses.all() == {}
    pauses.pause("infer", NAMES, ledger.word())
    assert "paused already" in pauses.pause("infer", NAMES, ledger.word())
    assert pauses.all() == {"infer": "by operator:ada since 2026-11-23 12:00 UTC: because a test says so"}
    pauses.resume("infer", ledger.word())
    with ledger.sessions.reading() as session:
        told = session.execute(
            select(EventRow.event, EventRow.actor, EventRow.detail).where(EventRow.subject == "lane")
        )
        assert [tuple(row) for row in told] == [
            (event, "operator:ada", {"reason": "because a test says so"}) for event in ("PAUSED", "RESUMED")
        ]
    assert ledger.queries.chain_is_whole()


@pytest.mark.parametrize("lane", ["select", "send:other", ""])
def test_a_lane_that_is_not_there(ledger: Ledger, lane: str) -> None:
    """Refused, with the ones there are; what is not paused cannot go on."""
    pauses = Pauses(ledger.sessions)
    with pytest.raises(NotFound, match="known: receive, infer, send, send:tps, send:pacs"):
        pauses.pause(lane, NAMES, ledger.word())
    with pytest.raises(NotFound, match="is not paused"):
        pauses.resume("infer", ledger.word())


def test_verbs_pause_and_status_shows_it(tmp_path: Path) -> None:
    """`pause`, `status` (exit 3 while something is paused), `resume`."""
    config = tmp_path / "node.toml"
    config.write_text(f'[node]\nhome = "{tmp_path / "home"}"\n[listener]\nreserve_free_mb = 1\n')

    def run(*args: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, [*args, "--config", str(config)])
        return done.exit_code, done.stdout

    assert run("db", "upgrade")[0] == 0
    assert run("pause", "infer", "--reason", "new driver")[0] == 0
    code, said = run("status", "--json")
    assert code == 3
    assert json.loads(said)["paused"]["infer"].endswith("new driver")
    assert run("resume", "infer", "--reason", "done")[0] == 0
    assert run("status", "--json")[0] == 0


def test_how_urgent_a_series_is_follows_from_the_title_it_was_sent_to() -> None:
    """By the settings of the called AE title; what an operator orders anew is as urgent as they say."""
    rules = load_rule_file("npc_ce_t1")
    policy = Policy(rules, frozenset(), (), lambda: STATEMENT, "s" * 64, {"REPLAN": 60})
    to = {ae: OpenSeries(1, "R7Q-4KD", "1.2.3", 1, ae, "MR", (("1", "2"),), NOON) for ae in ("REPLAN", "NPC_MR")}
    said = [policy.order(to["REPLAN"], ""), policy.order(to["NPC_MR"], ""), policy.order(to["NPC_MR"], "", 20)]
    assert [order.priority for order in said] == [60, 80, 20]
    assert len({order.work_key for order in said}) == 1, "it shapes no content"


# --- what nobody wants any more by the time that it waits again -------------------------------------------------------

ENDS: dict[str, Callable[[Ledger, Lease], object]] = {
    "done": lambda ledger, lease: ledger.work.predicted(lease, {}, ledger.now),
    "postponed": lambda ledger, lease: ledger.work.failed(lease, Postpone(ledger.now, "later"), ledger.now),
    "crashed": lambda ledger, _lease: ledger.work.recover_all(ledger.now),
}


@pytest.mark.parametrize("how", ENDS)
def test_a_job_whose_series_was_replaced_while_it_was_in_hand_does_not_wait_for_ever(ledger: Ledger, how: str) -> None:
    """Nobody would ever take it, and nothing of its study would ever be let go of."""
    ledger.queued_job()
    job = ledger.in_hand(JobState.QUEUED, "infer")
    ledger.receive("1.2.3.77")
    assert ledger.series_states() == ["SUPERSEDED", "RECEIVING"]
    ENDS[how](ledger, job.lease)
    assert ledger.job_state() == "CANCELLED"
    assert "SUPERSEDED" in ledger.queries.study(ledger.study())["series"][0]["jobs"][0]["reasons"][0]


@pytest.mark.parametrize("how", ["postponed", "crashed"])
def test_a_delivery_that_fails_after_its_job_was_called_off_is_called_off_too(ledger: Ledger, how: str) -> None:
    """It was under way when the word came: it is not owed any more, and says so."""
    ledger.written()
    delivery = ledger.work.claim_delivery("tps", ledger.now, 60)
    assert delivery is not None
    ledger.desk.cancel(ledger.study(), ledger.word())
    ENDS[how](ledger, delivery.lease)
    (series,) = ledger.queries.study(ledger.study())["series"]
    states = [d["state"] for item in series["jobs"][0]["objects"] for d in item["deliveries"]]
    assert states == ["CANCELLED"] * 3


# --- calling off ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["queued", "predicting", "predicted", "written"])
def test_a_study_is_called_off_wherever_it_is(ledger: Ledger, stage: str) -> None:
    """Nothing more of it is begun or sent, with who and why; an attempt under way has ended."""
    job = ledger.queued_job()
    if stage == "predicting":
        ledger.in_hand(JobState.QUEUED, "infer")
    if stage in {"predicted", "written"}:
        ledger.predicted()
    if stage == "written":
        writing = ledger.in_hand(JobState.PREDICTED, "write")
        ledger.work.commit_result(writing.lease, ledger.result(writing), ledger.now)
    (said,) = ledger.desk.cancel(ledger.study(), ledger.word())
    assert said.startswith(f"job {job}, {stage.upper()}")
    assert ledger.job_state() == "CANCELLED"
    for state in (JobState.QUEUED, JobState.PREDICTED):
        assert ledger.work.claim_job(state, "any", ledger.now, 60) is None
    assert [ledger.work.claim_delivery(name, ledger.now, 60) for name in NAMES] == [None, None]
    with ledger.sessions.reading() as session:
        assert None not in set(session.scalars(select(AttemptRow.ended_at)))
    assert ledger.queries.chain_is_whole()


def test_who_works_on_it_learns_that_it_was_called_off(ledger: Ledger) -> None:
    """At its next sign of life; what it then brings is refused."""
    ledger.queued_job()
    lease, told = ledger.in_hand(JobState.QUEUED, "infer").lease, list[str]()
    pulse = Pulse(ledger.work, {lease.token: "infer"}, 45, lambda: ledger.now, told.extend)
    pulse.beat()
    ledger.desk.cancel(ledger.study(), ledger.word())
    pulse.beat()
    assert told == ["infer"]
    with pytest.raises(LeaseLost):
        ledger.work.predicted(lease, {}, ledger.now)


# --- off-peak ---------------------------------------------------------------------------------------------------------


def test_the_less_urgent_waits_for_the_night(ledger: Ledger) -> None:
    """At noon an urgent job is begun and a reprocess is not; at night it is, and after its deadline at any time."""
    night = OffPeak(Window(time(20), time(6), UTC), below=50, deadline=timedelta(hours=30))
    work = WorkLedger(ledger.sessions, off_peak=night)
    ledger.priority = 20
    ledger.queued_job("1.2.3")
    noon = ledger.now

    def begins_after(hours: float) -> bool:
        job = work.claim_job(JobState.QUEUED, "infer", noon + timedelta(hours=hours), 60)
        if job is not None:
            ledger.work.recover(noon, {job.lease.token})
        return job is not None

    assert [begins_after(hours) for hours in (0, 7, 9, 17, 19, 29, 31)] == [
        False,
        False,
        True,
        True,
        False,
        False,
        True,
    ]


# --- each destination a lane ------------------------------------------------------------------------------------------


@dataclass
class Sender:
    """A destination that hangs until it is let go, or answers."""

    hangs: bool
    go_on: threading.Event = field(default_factory=threading.Event)
    sent: list[str] = field(default_factory=list)

    def send(self, item: WrittenObject, destination: Destination) -> SendReceipt:
        """As told."""
        if self.hangs:
            self.go_on.wait(60)
        self.sent.append(item.sop_uid)
        return SendReceipt(0, False, datetime.now(UTC))

    def echo(self, destination: Destination) -> float:
        """Not asked."""
        return 0.0


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.parametrize("kind", ["embedded", "procrastinate"])
def test_a_destination_that_hangs_holds_up_no_other(kind: str, postgres: Server, tmp_path: Path) -> None:
    """While the TPS hangs with its first object, everything owed to the archive is sent; then the TPS gets its own."""
    from npc_rtnode.adapters.database.procrastinated import make_tables

    url = postgres.create(f"lanes_{kind}")
    engine = open_engine(url)
    schema.upgrade(engine, make_tables)
    ledger = Ledger(engine, carrier=carrier_of(kind, url))
    ledger.written()
    senders = {"tps": Sender(hangs=True), "pacs": Sender(hangs=False)}
    lanes = {f"send:{name}": _deliverer(ledger, name, sender).run for name, sender in senders.items()}
    with ExitStack() as stack:
        _serve(kind, url, lanes, stack)
        wait_for(lambda: len(senders["pacs"].sent) == 2, 60)
        assert senders["tps"].sent == []
        senders["tps"].go_on.set()
        wait_for(lambda: ledger.job_state() == "DELIVERED", 60)
    assert len(senders["tps"].sent) == 1
    engine.dispose()
    postgres.drop(f"lanes_{kind}")


@pytest.mark.postgres
def test_as_many_lanes_work_at_once_as_there_are(postgres: Server) -> None:
    """However few processors: asyncio's own threads are four more than these, and five TPSs that are down would block
    all others."""
    from npc_rtnode.adapters.database.procrastinated import make_tables

    url, names = postgres.create("many_lanes"), [f"send:tps-{number}" for number in range((os.cpu_count() or 1) + 6)]
    engine = open_engine(url)
    schema.upgrade(engine, make_tables)
    ledger = Ledger(engine, carrier=carrier_of("procrastinate", url))
    with ledger.sessions.writing() as session:
        for number, name in enumerate(names):
            ledger.carrier.submit(session, WorkRef("delivery", number, name, ledger.now, ledger.now))
    met = threading.Event()
    all_there = threading.Barrier(len(names), met.set, timeout=20)
    with ExitStack() as stack:
        _serve("procrastinate", url, dict.fromkeys(names, lambda _=None: all_there.wait() >= 0), stack)
        assert met.wait(30)
    engine.dispose()
    postgres.drop("many_lanes")


def _deliverer(ledger: Ledger, name: str, sender: Sender) -> Deliverer:
    destination = Destination(name=name, ae_title=name.upper(), host="127.0.0.1", port=1, test=True)
    barrier = Barrier(ledger.work, RetryPolicy(60, 3600), lambda: datetime.now(UTC))
    return Deliverer(ledger.work, _Bytes(), sender, destination, barrier)


class _Bytes(FakeSpool):
    """Any object."""

    def read(self, sha256: str) -> bytes:
        """Some bytes."""
        return sha256_hex(sha256.encode()).encode()


def _serve(kind: str, url: str, lanes: dict[str, Callable[..., bool]], stack: ExitStack) -> None:
    """As WorkRole does it."""
    if kind == "embedded":
        metronome = Metronome([Tick(name, run, 0.2) for name, run in lanes.items()])
        metronome.start()
        stack.callback(metronome.stop)
        return
    from npc_rtnode.adapters.database.courier import Courier

    courier = Courier(url, lanes, 0.5, 3.0)
    courier.start()
    stack.callback(courier.stop)
