"""Retention and purge: only what is at rest goes, its row says so, and what comes again is known for what it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from npc_rtnode.adapters.database.commitments import CommitmentLedger
from npc_rtnode.adapters.database.desk import Resending
from npc_rtnode.adapters.database.retention import RetentionLedger
from npc_rtnode.adapters.database.tables import EventRow, InstanceRow, RemovalRow
from npc_rtnode.adapters.spool import FileSpool
from npc_rtnode.domain.completeness import REMOVED_CODES
from npc_rtnode.domain.lifecycle import Event, JobState
from npc_rtnode.domain.profiles import ObjectOrder
from npc_rtnode.domain.records import (
    CommitmentReport,
    CommitmentRequest,
    InstanceIdentity,
    ObjectKind,
    ReceivedInstance,
    SendReceipt,
    StoreOutcome,
    WrittenObject,
)
from npc_rtnode.domain.retention import Days, Parcel, Place, PurgeOrder
from npc_rtnode.domain.retry import GiveUp
from npc_rtnode.errors import Forbidden, NotFound
from npc_rtnode.pipeline.assemble import Assembler
from npc_rtnode.pipeline.sweep import Janitor, Retention
from tests.builders.intake import Intake
from tests.builders.ledger import MR, Ledger
from tests.fakes.pipeline import FakeReader, FakeSpool, FakeStructure, hand_over

DAYS = Days(delivered=30, set_aside=14, stalled=30, quarantined=0, predictions=7, objects=180)
DAY_S = 86400.0


@dataclass
class FakeShelf:
    """Names that lie there; remembers which were taken away."""

    lying: set[str] = field(default_factory=set)
    taken: list[str] = field(default_factory=list)
    old: list[str] = field(default_factory=list)

    def names(self) -> list[str]:
        return sorted(self.lying)

    def remove(self, name: str, /) -> bool:
        self.taken.append(name)
        there = name in self.lying
        self.lying.discard(name)
        return there

    def sweep_parts(self, older_than_s: float, now: object) -> int:
        return 0

    def older_than(self, age_s: float, now: object) -> list[str]:
        return list(self.old)


@dataclass
class House:
    """A ledger with shelves below it."""

    ledger: Ledger
    days: Days = DAYS

    def __post_init__(self) -> None:
        self.shelves = {place: FakeShelf() for place in Place}
        self.pages = RetentionLedger(self.ledger.sessions)

    @property
    def retention(self) -> Retention:
        return Retention(self.pages, self.shelves, self.days, lambda: self.ledger.now)  # type: ignore[arg-type]

    def after(self, days: float) -> int:
        """Let so many days pass, then look."""
        self.ledger.later(days * DAY_S)
        return self.retention.run()

    def taken(self, place: Place = Place.SPOOL) -> int:
        """How many files were taken from there."""
        return len(self.shelves[place].taken)

    def purge(self, dry_run: bool = False) -> tuple[Parcel, ...]:
        """A person names the only study."""
        order = PurgeOrder("operator:ada", "because a test says so", self.ledger.now, dry_run)
        return self.retention.named(self.ledger.study(), order)

    def removals(self) -> list[RemovalRow]:
        with self.ledger.sessions.reading() as session:
            return list(session.query(RemovalRow).order_by(RemovalRow.id))


@pytest.fixture
def house(ledger: Ledger) -> House:
    """On both databases."""
    return House(ledger)


def deliver(ledger: Ledger, status: int = 0) -> None:
    """Every delivery that is owed is made."""
    for destination in ("tps", "pacs"):
        while (owed := ledger.work.claim_delivery(destination, ledger.now, 60)) is not None:
            ledger.work.sent(owed.lease, SendReceipt(status, False, ledger.now))


def delivered(ledger: Ledger) -> None:
    """One series whose result was delivered everywhere."""
    ledger.written()
    deliver(ledger)
    assert ledger.job_state() == "DELIVERED"


def test_delivered_inputs_go_after_their_days_and_not_before(house: House) -> None:
    """A prediction after 7 days, inputs after 30, objects after 180; each once, each with a row that says why."""
    delivered(house.ledger)
    assert house.after(6.9) == 0
    assert house.after(0.2) == 1
    assert [house.taken(place) for place in Place] == [0, 1, 0]
    assert house.after(22) == 0
    assert house.after(1) == 1
    assert [house.taken(place) for place in Place] == [3, 1, 0]
    assert house.after(149) == 0
    assert house.after(1) == 1
    assert [house.taken(place) for place in Place] == [3, 1, 2]
    assert house.after(1000) == 0, "nothing is left of it"
    because = {row.place: row.reason for row in house.removals()}
    assert because["spool"] == "retention; retain.delivered_days = 30: nothing has happened to it for 30.1 days"
    assert {(row.actor, row.restored_at) for row in house.removals()} == {("node", None)}


def test_the_rows_of_what_is_gone_stay_and_the_journal_tells(house: House) -> None:
    """No instance, object or event is taken out; one PURGED event a parcel; the chain holds."""
    delivered(house.ledger)
    house.after(400)
    with house.ledger.sessions.reading() as session:
        assert session.query(InstanceRow).count() == 3
        told = session.query(EventRow).where(EventRow.event == "PURGED").all()
        assert sorted(row.detail["place"] for row in told) == ["outbox", "spool", "work"]
        assert {row.detail["files"] for row in told if row.detail["place"] == "spool"} == {3}
    assert house.ledger.queries.chain_is_whole()


Set = Callable[[Ledger], object]


def _failed(ledger: Ledger) -> None:
    only = WrittenObject(ObjectKind.RTSTRUCT, "1.2.840.1", "2.25.71", b"x")
    ledger.written(objects=((only, "7" * 64),), owed=((only.sop_uid, "tps"),))
    owed = ledger.work.claim_delivery("tps", ledger.now, 60)
    assert owed
    ledger.work.failed(owed.lease, GiveUp("OBJECT_REFUSED: no"), ledger.now)
    assert ledger.job_state() == "FAILED"


def _held_job(ledger: Ledger) -> None:
    ledger.queued_job()
    ledger.work.held(ledger.in_hand(JobState.QUEUED, "infer").lease, [], {}, ledger.now)


def _conflict(ledger: Ledger) -> None:
    delivered(ledger)
    assert ledger.receive("1.2.3.1", content="other") is StoreOutcome.CONFLICT


def _leased(ledger: Ledger) -> None:
    ledger.queued_job()
    ledger.in_hand(JobState.QUEUED, "infer")


def _study_held(ledger: Ledger) -> None:
    delivered(ledger)
    ledger.desk.hold(ledger.study(), ledger.word())


def _asked_for(ledger: Ledger) -> None:
    delivered(ledger)
    wanted = ((MR, "1.2.3.1"), (MR, "1.2.8.8"))
    CommitmentLedger(ledger.sessions).request(CommitmentRequest("PACS", "1.2.9.1", wanted), ledger.now)


KEPT: dict[str, tuple[Set, str]] = {
    "receiving": (lambda ledger: ledger.receive("1.2.3.1"), "UNDER_WAY"),
    "complete": (lambda ledger: ledger.complete_series(), "UNDER_WAY"),
    "held series": (lambda ledger: ledger.choose(ledger.complete_series(), Event.HELD, ("TIE: two",)), "HELD"),
    "queued": (lambda ledger: ledger.queued_job(), "UNDELIVERED"),
    "leased": (_leased, "LEASED"),
    "owed": (lambda ledger: ledger.written(), "OWED"),
    "failed": (_failed, "UNDELIVERED"),
    "held job": (_held_job, "HELD"),
    "conflict": (_conflict, "CONFLICT"),
    "study held": (_study_held, "HELD"),
    "commitment asked for": (_asked_for, "COMMITMENT"),
}


@pytest.mark.parametrize("case", KEPT)
def test_nothing_goes_that_anybody_may_still_need(house: House, case: str) -> None:
    """Neither by the schedule after years nor by a person's word: the refusal has its code, and no file is touched."""
    build, code = KEPT[case]
    build(house.ledger)
    assert house.after(5000) == 0
    with pytest.raises(Forbidden, match=f"may be removed; {code}: "):
        house.purge()
    assert [house.taken(place) for place in Place] == [0, 0, 0]
    assert house.removals() == []


def test_a_commitment_that_was_reported_keeps_nothing(house: House) -> None:
    """Nor does one that names instances of somebody else; the report says what was here when it was made."""
    delivered(house.ledger)
    pages = CommitmentLedger(house.ledger.sessions)
    for transaction, sop_uid in (("1.2.9.1", "1.2.3.1"), ("1.2.9.2", "1.2.8.8")):
        pages.request(CommitmentRequest("PACS", transaction, ((MR, sop_uid),)), house.ledger.now)
    owed = pages.due(house.ledger.now)
    assert owed
    assert owed.transaction_uid == "1.2.9.1"
    pages.reported(owed, CommitmentReport((), ()), house.ledger.now)
    assert house.after(31) == 1
    assert house.taken() == 3


def test_one_series_that_waits_keeps_its_whole_study(house: House) -> None:
    """A series that was set aside stays while another of the study has not been decided on: it may yet be chosen."""
    house.ledger.choose(house.ledger.complete_series(series_uid="1.2.9"), Event.SET_ASIDE, ("OUTRANKED: by another",))
    house.ledger.choose(house.ledger.complete_series(series_uid="1.2.3"), Event.HELD, ("TIE: two",))
    assert house.after(5000) == 0
    assert house.taken() == 0


def test_what_was_set_aside_goes_sooner(house: House) -> None:
    """Most of what a PACS sends is never used: its days are its own."""
    house.ledger.choose(house.ledger.complete_series(), Event.SET_ASIDE, ("NOT_T1: ScanningSequence",))
    assert house.after(13.9) == 0
    assert house.after(0.2) == 1
    assert house.taken() == 3


def test_no_days_mean_for_ever(house: House) -> None:
    """With every setting 0 not even a study is looked for."""
    house.days = Days(0, 0, 0, 0, 0, 0)
    delivered(house.ledger)
    assert house.after(5000) == 0
    assert house.taken() == 0


def test_a_person_names_a_study_and_may_rehearse(house: House) -> None:
    """`--dry-run` tells the same parcels and touches nothing; the word itself is kept with name and reason."""
    delivered(house.ledger)
    planned = house.purge(dry_run=True)
    assert (len(planned), house.taken(), house.removals()) == (3, 0, [])
    assert house.purge() == planned
    assert [house.taken(place) for place in Place] == [3, 1, 2]
    assert {(row.actor, row.reason) for row in house.removals()} == {
        ("operator:ada", "because a test says so; the study was named")
    }


def test_work_on_removed_bytes_is_refused_in_words(house: House) -> None:
    """`reprocess` and `resend` say what is gone and what to do, and change nothing."""
    ledger = house.ledger
    delivered(ledger)
    house.purge()
    with pytest.raises(Forbidden, match=r"PURGED: the bytes of 3 of 3 files in the spool.*have all of it sent again"):
        ledger.desk.reconsider(ledger.study(), ledger.word())
    resending = Resending((("tps", (ObjectOrder(ObjectKind.RTSTRUCT),)),), lambda results, name: "")
    with pytest.raises(Forbidden, match="PURGED: the bytes of 1 of 1 files in the outbox"):
        ledger.desk.resend(ledger.study(), ledger.word(), resending)
    assert ledger.job_state() == "DELIVERED"


def test_a_purged_series_that_comes_again_is_a_duplicate_with_bytes(house: House) -> None:
    """Success, nothing is queued, no second result; its bytes count as there again, and are kept their days anew."""
    ledger = house.ledger
    delivered(ledger)
    house.after(40)
    assert [ledger.receive(f"1.2.3.{n}") for n in (1, 2, 3)] == [StoreOutcome.DUPLICATE] * 3
    assert ledger.series_states() == ["SELECTED"]
    assert ledger.job_state() == "DELIVERED"
    assert {row.restored_at for row in house.removals() if row.place == "spool"} == {ledger.now}
    assert house.after(29) == 0
    assert house.after(2) == 1
    assert house.taken() == 6
    assert len([row for row in house.removals() if row.place == "spool"]) == 6, "each removal has its row"


def test_a_late_slice_of_a_purged_series_waits_for_the_rest(house: House) -> None:
    """A new revision knows that its older slices are gone; sent again, the whole goes on."""
    ledger = house.ledger
    delivered(ledger)
    house.after(40)
    assert ledger.receive("1.2.3.4") is StoreOutcome.STORED
    ledger.end()
    ledger.later(31)
    (series,) = ledger.series.quiet(ledger.now)
    (gone,) = [doubt for doubt in series.doubts if doubt.code in REMOVED_CODES]
    assert gone.value == 3
    for number in (1, 2, 3):
        ledger.receive(f"1.2.3.{number}")
    ledger.end()
    ledger.later(31)
    (series,) = ledger.series.quiet(ledger.now)
    assert (series.seen, [d for d in series.doubts if d.code in REMOVED_CODES]) == (4, [])


def test_removed_slices_are_never_read(house: House) -> None:
    """The late slice's revision is closed as STALLED (PURGED) without a look at files; nobody can release it."""
    ledger = house.ledger
    delivered(ledger)
    house.after(40)
    ledger.receive("1.2.3.4")
    ledger.end()
    ledger.later(31)
    reader = FakeReader([], error=AssertionError("it was asked"))
    assert Assembler(ledger.series, FakeSpool(), reader, lambda: ledger.now).run() == 1
    assert ledger.series_states() == ["SUPERSEDED", "STALLED"]
    (view,) = [one for one in ledger.queries.study(ledger.study())["series"] if one["state"] == "STALLED"]
    assert view["reasons"][0].startswith("PURGED: the bytes of 3 of 4 files in the spool were removed")
    with pytest.raises(Forbidden, match="is not whole"):
        ledger.desk.release(ledger.study(), ledger.word())


def test_what_is_made_anew_counts_as_there_again(house: House) -> None:
    """A job that was called off and purged is called back: its prediction and objects are nobody's litter."""
    ledger = house.ledger
    job = ledger.written()
    ledger.desk.reconsider(ledger.study(), ledger.word())
    (series,) = ledger.complete()
    ledger.choose(series, Event.SET_ASIDE, ("NOT_T1: by other rules",))
    assert ledger.job_state() == "CANCELLED"
    house.purge()
    for number in (1, 2, 3):
        ledger.receive(f"1.2.3.{number}")
    ledger.desk.reconsider(ledger.study(), ledger.word())
    (series,) = ledger.complete()
    ledger.choose(series)
    ledger.predicted()
    again = ledger.in_hand(JobState.PREDICTED, "write")
    assert again.work_key == job.work_key
    ledger.work.commit_result(again.lease, ledger.result(again), ledger.now)
    assert [row.place for row in house.removals() if row.restored_at is None] == []
    assert house.pages.finish(ledger.now - timedelta(days=9), lambda place, name: True) == 0


def test_what_a_person_abandons_may_go(house: House) -> None:
    """A result that nothing releases and a series that nobody chose: ended with a reason, then purged by name."""
    ledger = house.ledger
    ledger.choose(ledger.complete_series(series_uid="1.2.9"), Event.HELD, ("INDICATION_UNKNOWN: nobody says so",))
    _held_job(ledger)
    with pytest.raises(Forbidden):
        house.purge()
    planned = ledger.desk.abandon(ledger.study(), ledger.word(dry_run=True))
    assert ledger.desk.abandon(ledger.study(), ledger.word()) == planned
    assert planned == ["job 1, HELD, is called off", "series 1, held, is set aside"]
    assert ledger.series_states() == ["SET_ASIDE", "SELECTED"]
    assert sum(len(parcel.files) for parcel in house.purge() if parcel.place is Place.SPOOL) == 6
    assert ledger.queries.chain_is_whole()


def test_abandon_leaves_what_was_delivered(house: House) -> None:
    """Nothing waits for a person: nothing is ended."""
    delivered(house.ledger)
    with pytest.raises(NotFound, match="nothing there waits for a person"):
        house.ledger.desk.abandon(house.ledger.study(), house.ledger.word())
    assert house.ledger.job_state() == "DELIVERED"


def test_a_removal_that_fails_is_not_recorded(house: House) -> None:
    """Files and rows go together: with the folder read-only neither does, and the next look tries again."""
    delivered(house.ledger)

    def refuse(_place: Place, _name: str) -> bool:
        raise PermissionError("read-only")

    order = PurgeOrder("operator:ada", "x", house.ledger.now)
    with pytest.raises(PermissionError):
        house.pages.purge(house.ledger.study(), lambda standing: _spool_of(standing), refuse, order)
    assert house.removals() == []
    assert house.ledger.queries.chain_is_whole()


def _spool_of(standing: object) -> list[Parcel]:
    (series,) = standing.series  # type: ignore[attr-defined]
    return [Parcel(series.series_id, Place.SPOOL, series.files[Place.SPOOL], "a test")]


def test_the_janitor_clears_what_no_job_names(house: House) -> None:
    """A prediction of an unknown work key goes; one that a job has, however old, stays."""
    job = house.ledger.written()
    predictions = house.shelves[Place.WORK]
    predictions.old = ["f" * 64, job.work_key]
    predictions.lying = set(predictions.old)
    janitor = Janitor(house.pages, house.shelves, predictions, lambda: house.ledger.now)  # type: ignore[arg-type]
    assert janitor.run() == 1
    assert predictions.taken == ["f" * 64]


def test_the_janitor_repeats_a_removal_that_came_undone(house: House) -> None:
    """Power loss may bring a name back after its removal was recorded; what came again by the wire stays."""
    delivered(house.ledger)
    house.purge()
    names = [row.name for row in house.removals() if row.place == "spool"]
    house.ledger.receive("1.2.3.1")
    house.shelves[Place.SPOOL] = FakeShelf(lying=set(names))
    predictions = house.shelves[Place.WORK]
    janitor = Janitor(house.pages, house.shelves, predictions, lambda: house.ledger.now)  # type: ignore[arg-type]
    assert janitor.run() == 2
    assert len(house.shelves[Place.SPOOL].lying) == 1
    house.ledger.later(timedelta(days=3).total_seconds())
    house.shelves[Place.SPOOL] = replace(house.shelves[Place.SPOOL], lying=set(names))
    assert janitor.run() == 0, "only the last days are repeated"


def test_a_purge_between_bytes_and_row_takes_nothing_acknowledged(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file was there when it came again, and went before its row was made: it is laid anew with its row."""
    spool = FileSpool(tmp_path / "spool", 0)
    pages = RetentionLedger(ledger.sessions)
    reader = FakeStructure(InstanceIdentity(MR, "1.2.3.1", "1.2", "1.2.3", "MR"))
    received = ReceivedInstance(ledger.association, MR, "1.2.3.1", "1.2.840.10008.1.2.1", b"bytes")

    def purge() -> None:
        order = PurgeOrder("operator:ada", "x", ledger.now)
        pages.purge(ledger.study(), _spool_of, lambda _place, name: spool.remove(name), order)

    receiver = Intake(ledger, tmp_path, spool, reader)
    assert hand_over(receiver, received) is StoreOutcome.STORED
    (sha256,) = ledger.copies("1.2.3.1")
    replay = ledger.intake.replay

    def raced(*args: Any) -> dict[int, StoreOutcome]:
        purge()
        return replay(*args)

    monkeypatch.setattr(ledger.intake, "replay", raced)
    assert hand_over(receiver, received) is StoreOutcome.STORED
    assert spool.read(sha256).endswith(b"bytes")
