"""The fourteen promises: a whole house breaks none of them, and each breach that is planted is found as what it is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from pydicom.dataset import Dataset
from sqlalchemy import UniqueConstraint, insert, select, update

from npc_rtnode.adapters.database.retention import RetentionLedger
from npc_rtnode.adapters.database.tables import (
    AssociationRow,
    DeliveryRow,
    EventRow,
    InstanceRow,
    JobRow,
    ObjectRow,
    RemovalRow,
    SeriesRow,
)
from npc_rtnode.domain.invariants import BY_CODE, HouseFacts, find_patients, patterns_of
from npc_rtnode.domain.lifecycle import JobState
from npc_rtnode.domain.retention import PurgeOrder, everything
from tests.builders.house import House, images
from tests.builders.ledger import Ledger

Plant = Callable[[House], object]
EVERYTHING = {f"I{number}" for number in range(1, 15)}


@pytest.fixture
def house(ledger: Ledger, tmp_path: Path) -> House:
    """On both databases."""
    return House(ledger, tmp_path / "home")


# --- a whole house ----------------------------------------------------------------------------------------------------


def test_a_house_without_fault_breaks_no_promise(house: House) -> None:
    """A study from the wire to its destinations: all fourteen are looked at, something was checked for each."""
    house.deliver()
    found = house.check()
    assert set(found) == EVERYTHING == set(BY_CODE)
    assert {code: one.breaches for code, one in found.items() if not one.holds} == {}
    assert {code for code, one in found.items() if not one.checked} == {"I8", "I13"}, "nothing is at work, nothing due"
    assert {code: one.skipped for code, one in found.items() if one.skipped} == {}
    assert (found["I1"].counts, found["I3"].counts) == ({"received": 4, "removed": 0, "unnamed": 0}, {"work": 4})


@pytest.mark.parametrize("stage", ["receive", "complete", "queue", "write"])
def test_a_house_at_work_breaks_none(house: House, stage: str) -> None:
    """At whatever stage a study is: work under way is no breach."""
    getattr(house, stage)()
    assert house.broken() == set()


def test_what_was_purged_is_no_loss_and_cannot_be_looked_at(house: House) -> None:
    """Removed bytes are counted as removed; what would be compared with them is skipped, not counted as kept."""
    house.deliver()
    purge(house)
    found = house.check()
    assert house.broken() == set()
    assert (found["I1"].checked, found["I1"].counts["removed"]) == (0, 4)
    assert (found["I6"].checked, found["I6"].skipped, found["I14"].skipped) == (0, 2, 2)
    assert found["I3"].counts == {"removed": 4}


def test_quick_counts_what_it_leaves_out(house: House) -> None:
    """Sizes instead of digests: a flipped bit is not seen, the walk is skipped and says so; a short file is seen."""
    house.deliver()
    damage(house, lambda data: bytes([data[0] ^ 1]) + data[1:])
    found = house.check(quick=True)
    assert (found["I1"].holds, found["I2"].checked, found["I2"].skipped) == (True, 0, 4)
    damage(house, lambda data: data[:-1])
    assert "bytes, not" in house.check(quick=True)["I1"].breaches[0]


def test_a_file_that_no_row_names_is_counted_and_no_breach(house: House) -> None:
    """Bytes whose row never came were not acknowledged; they may also be all that an older ledger has lost."""
    house.deliver()
    house.spool.keep([b"never acknowledged"])
    found = house.check()["I1"]
    assert (found.holds, found.counts["unnamed"]) == (True, 1)


# --- what is planted --------------------------------------------------------------------------------------------------


def change(house: House, table: Any, number: int | None = None, **values: Any) -> None:
    """Rows are changed behind the program's back: one, or all of a table."""
    statement = update(table).values(**values)
    with house.ledger.sessions.writing() as session:
        session.execute(statement if number is None else statement.where(table.id == number))


def first_file(house: House) -> Path:
    """The oldest received file."""
    with house.ledger.sessions.reading() as session:
        return house.spool.path(session.scalars(select(InstanceRow.sha256).order_by(InstanceRow.id)).first() or "")


def damage(house: House, how: Callable[[bytes], bytes]) -> None:
    """The oldest received file is not what it was."""
    file = first_file(house)
    file.write_bytes(how(file.read_bytes()))


def purge(house: House) -> list[str]:
    """Everything of the only study; the names of what went from the spool."""
    order, gone = PurgeOrder("operator:ada", "a test", house.ledger.now), list(house.spool.names())

    def unlink(place: str, name: str) -> None:
        (house.spool if place == "spool" else house.outbox).remove(name)

    RetentionLedger(house.ledger.sessions).purge(house.ledger.study(), everything, unlink, order)
    return gone


def _lost(house: House) -> None:
    house.deliver()
    first_file(house).unlink()


def _rotten(house: House) -> None:
    house.deliver()
    damage(house, lambda data: data[:-2] + b"\xff\xff")


def _undead(house: House) -> None:
    house.deliver()
    bytes_of = first_file(house).read_bytes()
    purge(house)
    house.spool.keep([bytes_of])


def _acknowledged_though_cut(house: House) -> None:
    house.deliver()
    cut = first_file(house).read_bytes()[:-40]
    change(house, InstanceRow, 1, sha256=house.spool.keep([cut]), size=len(cut))


def _of_another_instance(house: House) -> None:
    house.deliver()
    with house.ledger.sessions.writing() as session:
        first, second = session.scalars(select(InstanceRow).order_by(InstanceRow.id).limit(2))
        first.sop_uid, second.sop_uid = second.sop_uid, first.sop_uid


def _in_no_state(house: House) -> None:
    house.complete()
    change(house, InstanceRow, 2, state="LOST")


def _counts_twice(house: House) -> None:
    house.complete()
    with house.ledger.sessions.writing() as session:
        row = session.get_one(InstanceRow, 1)
        data = house.spool.read(row.sha256)
        other = house.spool.keep([data[:-2] + b"\x01\x00"])
        columns = {c.name: getattr(row, c.name) for c in InstanceRow.__table__.columns if c.name != "id"}
        session.execute(insert(InstanceRow).values(**{**columns, "sha256": other}))


def _removed_though_needed(house: House) -> None:
    house.queue()
    purge(house)


def _selected_without_job(house: House) -> None:
    house.complete()
    change(house, SeriesRow, state="SELECTED")


def _two_current_jobs(house: House) -> None:
    house.queue()
    with house.ledger.sessions.writing() as session:
        row = session.scalars(select(JobRow)).one()
        columns = {c.name: getattr(row, c.name) for c in JobRow.__table__.columns if c.name != "id"}
        session.execute(insert(JobRow).values(**{**columns, "work_key": "e" * 64, "bundle_hash": "c" * 64}))


def _one_image_left_out(house: House) -> None:
    house.deliver(structure=lambda ds: images(ds).pop())


def _one_image_too_many(house: House) -> None:
    def foreign(ds: Dataset) -> None:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4", "1.2.3.4"
        images(ds).append(item)

    house.deliver(structure=foreign)


def _another_frame(house: House) -> None:
    house.deliver(structure=lambda ds: setattr(ds, "FrameOfReferenceUID", "1.2.3"))


def _outbox_lost(house: House) -> None:
    house.deliver()
    for name in list(house.outbox.names()):
        house.outbox.remove(name)


def _sent_on_a_refusal(house: House) -> None:
    house.deliver()
    change(house, DeliveryRow, 1, status=0xA700)


def _delivered_though_failed(house: House) -> None:
    house.deliver()
    change(house, DeliveryRow, 1, state="FAILED")


def _sent_without_attempt(house: House) -> None:
    house.write()
    change(house, DeliveryRow, 1, state="SENT", status=0, sent_at=house.ledger.now)


def _forgotten_lease(house: House) -> None:
    house.queue()
    house.ledger.in_hand(JobState.QUEUED, "infer")
    house.ledger.later(121)


def _lease_after_work(house: House) -> None:
    house.deliver()
    change(house, JobRow, lease_token="left behind", lease_until=house.ledger.now)


def _tried_too_often(house: House) -> None:
    house.queue()
    change(house, JobRow, attempts=6)


def _crashed_and_not_apart(house: House) -> None:
    house.queue()
    change(house, JobRow, crashes=3)


def _rewritten_history(house: House) -> None:
    house.deliver()
    with house.ledger.sessions.writing() as session:
        session.execute(update(EventRow).where(EventRow.seq == 3).values(detail={"because": "of nothing"}))


def _state_without_event(house: House) -> None:
    house.deliver()
    change(house, JobRow, state="CANCELLED")


def _rejected_without_event(house: House) -> None:
    house.deliver()
    change(house, AssociationRow, how="rejected: nobody knows why")


def _removed_without_event(house: House) -> None:
    house.deliver()
    purge(house)
    change(house, RemovalRow, 1, removed_at=house.ledger.now + timedelta(seconds=1))


def _named_in_the_ledger(house: House) -> None:
    house.deliver()
    change(house, SeriesRow, reasons=["TIE: the one of Phantom, Test"])


def _named_in_a_log(house: House) -> None:
    house.deliver()
    house.said = [("serve.log, line 7", '{"patient": "PHANTOM-1"}')]


def _out_of_bounds(house: House) -> None:
    house.deliver()
    house.facts = HouseFacts((("unfinished files", 2, 0), ("threads", 9, 100)))


def _forgotten_series(house: House) -> None:
    house.receive()
    house.ledger.end()
    house.ledger.later(2 * 3600)


def _forgotten_job(house: House) -> None:
    house.queue()
    house.ledger.later(2 * 3600)


def _forgotten_delivery(house: House) -> None:
    house.write()
    house.ledger.later(2 * 3600)


def _another_patient(house: House) -> None:
    house.deliver(report=lambda ds: setattr(ds, "PatientID", "SOMEBODY-ELSE"))


def _another_study(house: House) -> None:
    house.deliver(structure=lambda ds: setattr(ds, "StudyInstanceUID", "1.2.3"))


@dataclass(frozen=True)
class Case:
    """One breach: how it comes about, the promise that it breaks, in whose words, and what else it breaks with it."""

    plant: Plant
    code: str
    says: str
    also: frozenset[str] = frozenset()


CASES = {
    "lost": Case(_lost, "I1", "instance 1 of series 1: The spool does not hold"),
    "rotten": Case(_rotten, "I1", "instance 1 of series 1: Spool object"),
    "removed, and there": Case(_undead, "I1", "was removed and lies there again"),
    "cut": Case(_acknowledged_though_cut, "I2", "instance 1 of series 1: "),
    "another instance": Case(_of_another_instance, "I2", "its file meta group is not the one of its row"),
    "in no state": Case(_in_no_state, "I3", "an instance is LOST"),
    "counts twice": Case(_counts_twice, "I3", "has two contents that count in one series"),
    "removed too soon": Case(_removed_though_needed, "I3", "job 1 needs inputs whose bytes were removed"),
    "no job": Case(_selected_without_job, "I4", "series 1 is selected and has no job", frozenset({"I10"})),
    "two jobs": Case(_two_current_jobs, "I4", "series 1 has 2 current jobs", frozenset({"I10"})),
    "left out": Case(_one_image_left_out, "I6", "job 1: the structure set leaves out 1 of 4 inputs"),
    "too many": Case(_one_image_too_many, "I6", "references 1 instances that are no inputs of it"),
    "another frame": Case(_another_frame, "I6", "in another frame of reference than its inputs"),
    "outbox lost": Case(_outbox_lost, "I6", "job 1: its RTSTRUCT cannot be read"),
    "sent on a refusal": Case(_sent_on_a_refusal, "I7", "delivery 1 is SENT on status 0xA700"),
    "delivered, failed": Case(_delivered_though_failed, "I7", "its deliveries are FAILED, SENT", frozenset({"I10"})),
    "sent by nobody": Case(_sent_without_attempt, "I7", "no attempt at it was DONE", frozenset({"I10"})),
    "old lease": Case(_forgotten_lease, "I8", "the lease on job 1 ran out 61 s ago"),
    "lease left behind": Case(_lease_after_work, "I8", "job 1 is DELIVERED and has a lease"),
    "tried too often": Case(_tried_too_often, "I9", "job 1 was tried 6 times, at most 5"),
    "crashes": Case(_crashed_and_not_apart, "I9", "job 1 has crashed 3 times and is QUEUED"),
    "history": Case(_rewritten_history, "I10", "the chain of events breaks at number 3"),
    "no event": Case(_state_without_event, "I10", "job 1 is CANCELLED; its events say DELIVERED"),
    "refused untold": Case(_rejected_without_event, "I10", "was rejected, and no event says so"),
    "removed untold": Case(_removed_without_event, "I10", "bytes of series 1 were removed, and no event says so"),
    "name in the ledger": Case(_named_in_the_ledger, "I11", "a patient is named in series.reasons"),
    "number in a log": Case(_named_in_a_log, "I11", "a patient is named in serve.log, line 7"),
    "litter": Case(_out_of_bounds, "I12", "unfinished files: 2, at most 0"),
    "series waits": Case(_forgotten_series, "I13", "series 1 is RECEIVING, due since 2026-11-23 12:00:30"),
    "job waits": Case(_forgotten_job, "I13", "job 1 is QUEUED, due since 2026-11-23 12:00:31"),
    "delivery waits": Case(_forgotten_delivery, "I13", "delivery 1 to tps is due since 2026-11-23 12:00:31"),
    "another patient": Case(_another_patient, "I14", "job 1: the SR differs from its inputs in PatientID"),
    "another study": Case(
        _another_study, "I14", "RTSTRUCT differs from its inputs in StudyInstanceUID", frozenset({"I6"})
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_planted_breach_is_found(house: House, name: str) -> None:
    """As a breach of that promise, in words that name the row, and of no other promise but those it implies."""
    case = CASES[name]
    case.plant(house)
    found = house.check()
    assert case.says in "\n".join(found[case.code].breaches)
    assert {code for code, one in found.items() if not one.holds} == {case.code, *case.also}


def test_every_promise_has_a_breach_that_is_planted() -> None:
    """No check here is one that cannot fail."""
    assert {case.code for case in CASES.values()} | {"I5"} == EVERYTHING


def test_two_structure_sets_of_one_work_key_are_found(house: House) -> None:
    """I5: the ledger itself forbids a second one; with that taken away, fsck still sees it."""
    with constraint_dropped(house):
        house.deliver()
        with house.ledger.sessions.writing() as session:
            for table, values in ((ObjectRow, {"sop_uid": "1.2.3"}), (DeliveryRow, {"object_id": 3})):
                row = session.get_one(table, 1)
                columns = {c.name: getattr(row, c.name) for c in table.__table__.columns if c.name != "id"}
                session.execute(insert(table).values(**{**columns, **values}))
        found = house.check()["I5"]
        with house.ledger.sessions.writing() as session:
            session.delete(session.get_one(DeliveryRow, 4))
            session.delete(session.get_one(ObjectRow, 3))
    assert [words.split(": ")[1] for words in found.breaches] == ["2 at tps"]


@contextmanager
def constraint_dropped(house: House) -> Any:
    """One object of a kind a job: taken out of the schema, and put back where others use the same database."""
    unique = [c for c in ObjectRow.__table__.constraints if isinstance(c, UniqueConstraint) and "kind" in c.columns]
    (constraint,) = unique
    name, columns = str(constraint.name), [column.name for column in constraint.columns]
    with house.ledger.engine.begin() as connection:
        operations = Operations(MigrationContext.configure(connection))
        with operations.batch_alter_table("objects") as batch:
            batch.drop_constraint(name, type_="unique")
    yield
    if house.ledger.engine.dialect.name == "postgresql":
        with house.ledger.engine.begin() as connection:
            Operations(MigrationContext.configure(connection)).create_unique_constraint(name, "objects", columns)


@pytest.mark.parametrize(
    ("name", "number", "text", "named"),
    [
        ("ROENTGEN^WILHELM", "PID778899", "study of Wilhelm Roentgen", True),
        ("ROENTGEN^WILHELM", "PID778899", "roentgen_wilhelm.dcm", True),
        ("ROENTGEN^WILHELM", "PID778899", "pid778899", True),
        ("ROENTGEN^WILHELM", "PID778899", "a roentgen department", False),
        ("ROENTGEN^WILHELM", "12345", "1.2.840.12345.6 and ab12345cd", False),
        ("LI^N", "7", "7 of LI are left", False),
        ("张^三丰", "PID1", "病人张三丰的", True),
        ("Zhang^SanFeng=张^三丰", "PID1", "张 三丰", True),
        ("", "", "nobody", False),
    ],
)
def test_how_a_patient_is_recognised(name: str, number: str, text: str, named: bool) -> None:
    """Whole names in any order and spelling, whole numbers; not parts of UIDs or digests, not what is too short."""
    assert any(pattern.search(text) for pattern in patterns_of(name, number)) is named


def test_what_cannot_be_looked_for_is_counted(house: House) -> None:
    """A patient whose name and number are too short to be searched for is skipped, never cleared."""
    house.deliver()
    found = house.check()["I11"]
    assert (found.skipped, found.counts) == (0, {"patients": 1})
    assert found.checked > 10
    short = find_patients([("a text", "of LI^N, number 7")], [("LI^N", "7")])
    assert (short.holds, short.skipped) == (True, 2)
