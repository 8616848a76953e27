"""The ledger keeps its promises by itself: revisions, fencing, one result a key, one chain of events."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, func, inspect, select, text
from sqlalchemy.exc import IntegrityError

from npc_rtnode.adapters.database import schema
from npc_rtnode.adapters.database.conflicts import Keep
from npc_rtnode.adapters.database.desk import Only, Resending
from npc_rtnode.adapters.database.engine import Sessions, open_engine
from npc_rtnode.adapters.database.intake import IntakeLedger
from npc_rtnode.adapters.database.tables import AttemptRow, DeliveryRow, InstanceRow, JobRow, Table
from npc_rtnode.adapters.database.work import WorkLedger
from npc_rtnode.domain.lifecycle import Event, JobState, SeriesState
from npc_rtnode.domain.profiles import Form, ObjectOrder
from npc_rtnode.domain.records import (
    AssociationInfo,
    Choice,
    Closing,
    Finding,
    JobInHand,
    ObjectKind,
    SendReceipt,
    StoreOutcome,
    WrittenObject,
)
from npc_rtnode.domain.retry import GiveUp, Postpone
from npc_rtnode.errors import Forbidden, LeaseLost, LedgerUnavailable, NotFound, SchemaFault
from tests.builders.ledger import NOON, QUIET_S, Ledger
from tests.integration.conftest import BACKENDS

ECLIPSE = ObjectOrder(ObjectKind.RTSTRUCT, Form("GTVp_AI"))


def migrate(engine: Engine, to: str, by: Callable[[Config, str], None] = command.downgrade) -> None:
    """Take migrations back, or apply them, to a revision."""
    config = Config()
    config.set_main_option("script_location", str(schema.migrations_folder()))
    with schema.migrating(engine) as connection:
        config.attributes["connection"] = connection
        by(config, to)


def downgrade(engine: Engine) -> None:
    """Take every migration back."""
    migrate(engine, "base")


def send_all(ledger: Ledger, *destinations: str) -> None:
    """Let every due delivery to these destinations succeed."""
    for destination in destinations:
        while delivery := ledger.work.claim_delivery(destination, ledger.now, 60):
            ledger.work.sent(delivery.lease, SendReceipt(0, False, ledger.now))


def written_again(ledger: Ledger, job: JobInHand) -> JobInHand:
    """The job called off, asked for once more, and written with other bytes under the same UIDs, which pass."""
    ledger.desk.abandon(ledger.study(), ledger.word())
    ledger.desk.retry(ledger.study(), ledger.word())
    ledger.predicted()
    again = ledger.in_hand(JobState.PREDICTED, "write")
    result = ledger.result(again)
    others = tuple((item, digit * 64) for (item, _), digit in zip(result.objects, "78", strict=True))
    ledger.work.commit_result(again.lease, replace(result, objects=others), ledger.now)
    return again


class TestSchema:
    def test_tables_and_migrations_agree(self, ledger: Ledger) -> None:
        """A schema made by the migrations alone is the one that the tables describe."""
        assert schema.differences(ledger.engine) == []

    def test_an_unknown_schema_is_refused(self, empty_url: str) -> None:
        """A node never works on a database that was not upgraded to its own head."""
        engine = open_engine(empty_url)
        with pytest.raises(SchemaFault, match="db upgrade"):
            schema.require_head(engine)
        engine.dispose()

    def test_migrations_lead_there_and_back(self, empty_url: str) -> None:
        """From nothing to the head, back to nothing, and to the head again, which is what the tables describe."""
        engine = open_engine(empty_url)
        schema.upgrade(engine)
        assert schema.differences(engine) == []
        downgrade(engine)
        assert not set(Table.metadata.tables) & set(inspect(engine).get_table_names())
        schema.upgrade(engine)
        schema.upgrade(engine)
        schema.require_head(engine)
        assert schema.differences(engine) == []
        engine.dispose()

    def test_objects_of_before_keep_their_row_as_the_plain_form(self, ledger: Ledger) -> None:
        """0002 on a ledger with results: nothing is lost, the objects are the plain ones, and back again."""
        ledger.written()
        before = ledger.queries.study(ledger.study())["series"][0]["jobs"][0]["objects"]
        migrate(ledger.engine, "0001")
        migrate(ledger.engine, "head", command.upgrade)
        assert schema.differences(ledger.engine) == []
        after = ledger.queries.study(ledger.study())["series"][0]["jobs"][0]["objects"]
        assert after == before
        assert [item["variant"] for item in after] == ["", ""]

    def test_rows_that_point_at_nothing_take_a_migration_back(self, ledger: Ledger) -> None:
        """What is not checked while tables are made anew is checked before the commit, and checked again ever after."""
        ledger.written()
        with pytest.raises((SchemaFault, LedgerUnavailable, IntegrityError)), schema.migrating(ledger.engine) as moving:
            moving.execute(text("DELETE FROM jobs"))
        assert ledger.job_state() == "WRITTEN"
        with pytest.raises(IntegrityError), ledger.engine.begin() as usual:
            usual.execute(text("DELETE FROM jobs"))

    def test_two_upgrades_at_once_make_one_schema(self, empty_url: str) -> None:
        """The second one waits for the first, and finds its work done."""
        engines = [open_engine(empty_url) for _ in range(2)]
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(schema.upgrade, engines))
        assert schema.differences(engines[0]) == []
        for engine in engines:
            engine.dispose()

    @pytest.mark.parametrize("backend", BACKENDS, indirect=True)
    def test_a_commit_survives_power_loss_by_the_connections_settings(self, backend: str, ledger: Ledger) -> None:
        """SQLite runs WAL with FULL sync and foreign keys; PostgreSQL is told to commit for good."""
        wanted = {
            "sqlite": {"PRAGMA journal_mode": "wal", "PRAGMA synchronous": 2, "PRAGMA foreign_keys": 1},
            "postgresql": {
                "SHOW synchronous_commit": "on",
                "SHOW lock_timeout": "10s",
                "SHOW statement_timeout": "30s",
            },
        }[backend]
        with ledger.engine.connect() as connection:
            assert {question: connection.execute(text(question)).scalar() for question in wanted} == wanted

    def test_a_look_sees_one_moment(self, ledger: Ledger, database_url: str) -> None:
        """What is written while somebody reads is not seen by that look, and by the next it is."""
        ledger.receive("1.2.3.1")
        instances = select(func.count(InstanceRow.id))
        with ledger.sessions.reading() as session:
            assert session.scalar(instances) == 1
            ledger.receive("1.2.3.2")
            assert session.scalar(instances) == 1
        with ledger.sessions.reading() as session:
            assert session.scalar(instances) == 2

    def test_a_time_without_zone_is_refused(self, ledger: Ledger) -> None:
        """Only aware times enter the ledger, and they come back as UTC."""
        with pytest.raises(Exception, match="without its zone"):
            ledger.intake.association_opened(replace(ledger.association, association_id="a-2"), datetime(2026, 1, 1))
        ledger.receive("1.2.3.1")
        with ledger.sessions.reading() as session:
            assert session.scalars(select(InstanceRow.received_at)).one() == NOON


class TestIntake:
    def test_the_same_bytes_again_change_nothing(self, ledger: Ledger) -> None:
        """A re-send of an acknowledged instance is a duplicate, even after the series was selected."""
        ledger.queued_job()
        assert ledger.receive("1.2.3.1") is StoreOutcome.DUPLICATE
        assert ledger.series_states() == ["SELECTED"]

    def test_other_bytes_under_one_uid_quarantine_the_series(self, ledger: Ledger) -> None:
        """Both contents are kept, the series is quarantined, its queued job is called off."""
        ledger.queued_job()
        assert ledger.receive("1.2.3.1", content="other") is StoreOutcome.CONFLICT
        assert ledger.series_states() == ["QUARANTINED"]
        assert ledger.job_state() == "CANCELLED"
        with ledger.sessions.reading() as session:
            assert session.scalar(select(func.count(InstanceRow.id)).where(InstanceRow.sop_uid == "1.2.3.1")) == 2

    def test_the_reason_of_a_conflict_names_elements_once(self, ledger: Ledger) -> None:
        """Keywords, at most eight of them, no value; ten slices that differ alike are one reason."""
        names = tuple(f"Element{number}" for number in range(10))
        for number in (1, 2):
            ledger.receive(f"1.2.3.{number}")
            arrival = replace(ledger.arrival(f"1.2.3.{number}", "1.2.3", "other", "1.2"), differs_in=names)
            assert ledger.intake.record(arrival, ledger.now) is StoreOutcome.CONFLICT
        (reason,) = ledger.queries.study(ledger.study())["series"][0]["reasons"]
        assert reason.startswith("CONFLICT: ")
        assert reason.endswith(
            "Element0, Element1, Element2, Element3, Element4, Element5, Element6, Element7 and 2 more"
        )

    def test_another_encoding_is_kept_and_changes_nothing(self, ledger: Ledger) -> None:
        """A copy with the same elements is a duplicate: acknowledged, its row kept, no input, no further instance."""
        ledger.queued_job()
        (kept,) = ledger.copies("1.2.3.1")
        arrival = replace(ledger.arrival("1.2.3.1", "1.2.3", "re-encoded", "1.2"), same_as=kept)
        assert ledger.intake.record(arrival, ledger.now) is StoreOutcome.DUPLICATE
        assert ledger.intake.record(arrival, ledger.now) is StoreOutcome.DUPLICATE
        assert ledger.copies("1.2.3.1") == (kept, arrival.sha256)
        assert ledger.series_states() == ["SELECTED"]
        view = ledger.queries.study(ledger.study())["series"][0]
        assert (view["instances"], view["conflicts"]) == (3, [])

    def test_a_series_whose_association_is_open_is_not_judged(self, ledger: Ledger) -> None:
        """A sender that pauses is not done: the series waits until the association ends or turns to another series."""
        ledger.receive("1.2.3.1")
        ledger.later(QUIET_S + 1)
        assert ledger.series.quiet(ledger.now) == []
        ledger.receive("1.2.4.1", "1.2.4")
        assert [series.series_uid for series in ledger.series.quiet(ledger.now)] == ["1.2.3"]

    @pytest.mark.parametrize(
        ("how", "codes"), [("released", []), ("idle", []), ("aborted", ["ABORTED"]), ("lost", ["ABORTED"])]
    )
    def test_how_the_association_ended_is_a_doubt_or_none(self, ledger: Ledger, how: str, codes: list[str]) -> None:
        """Only an end that the sender did not mean speaks against a series; a later good transfer lifts the doubt."""
        ledger.receive("1.2.3.1")
        ledger.end(how)
        ledger.later(QUIET_S + 1)
        (quiet,) = ledger.series.quiet(ledger.now)
        assert [doubt.code for doubt in quiet.doubts] == codes
        assert ledger.receive("1.2.3.1") is StoreOutcome.DUPLICATE
        ledger.end()
        ledger.later(QUIET_S + 1)
        (again,) = ledger.series.quiet(ledger.now)
        assert again.doubts == ()

    def test_a_refused_image_is_a_doubt_until_it_has_come(self, ledger: Ledger) -> None:
        """An image that was refused may be an end slice; when it comes after all, the doubt is gone."""
        ledger.receive("1.2.3.1")
        ledger.end(refused=("1.2.3.2",))
        ledger.later(QUIET_S + 1)
        (quiet,) = ledger.series.quiet(ledger.now)
        assert [doubt.code for doubt in quiet.doubts] == ["REFUSED"]
        ledger.receive("1.2.3.2")
        ledger.end()
        ledger.later(QUIET_S + 1)
        (again,) = ledger.series.quiet(ledger.now)
        assert again.doubts == ()

    def test_associations_of_a_dead_receiver_were_lost(self, ledger: Ledger) -> None:
        """At its start the receiver ends what its last process left open, so no series waits for ever."""
        ledger.receive("1.2.3.1")
        assert ledger.intake.close_lost_associations(ledger.now) == 1
        ledger.later(QUIET_S + 1)
        (quiet,) = ledger.series.quiet(ledger.now)
        assert [doubt.code for doubt in quiet.doubts] == ["ABORTED"]

    def test_a_conflict_under_another_series_quarantines_both(self, ledger: Ledger) -> None:
        """An instance that came under two series UIDs makes neither usable."""
        ledger.queued_job()
        ledger.receive("1.2.4.1", "1.2.4")
        assert ledger.receive("1.2.3.1", "1.2.4", content="other") is StoreOutcome.CONFLICT
        assert ledger.series_states() == ["QUARANTINED", "QUARANTINED"]

    def test_two_studies_with_one_reference_are_told_apart(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """When the short reference of a study is taken, the next free one is used; no study is refused for it."""
        names = iter(["AAA-AAA", "AAA-AAA", "BBB-BBB"])
        monkeypatch.setattr("npc_rtnode.adapters.database.intake.study_reference", lambda *_: next(names))
        ledger.receive("1.2.3.1", study_uid="1.2")
        ledger.receive("1.3.3.1", "1.3.3", study_uid="1.3")
        assert {line["study"] for line in ledger.queries.studies()} == {"AAA-AAA", "BBB-BBB"}

    def test_a_late_instance_makes_a_new_series_revision(self, ledger: Ledger) -> None:
        """Slices after closing open revision 2 with all inputs; the first is superseded and its job is called off."""
        ledger.queued_job()
        assert ledger.receive("1.2.3.4") is StoreOutcome.STORED
        assert ledger.series_states() == ["SUPERSEDED", "RECEIVING"]
        assert ledger.job_state() == "CANCELLED"
        ledger.end()
        ledger.later(QUIET_S + 1)
        (second,) = ledger.series.quiet(ledger.now)
        assert (second.revision, second.seen) == (2, 4)

    def test_a_late_instance_calls_off_what_was_not_sent_yet(self, ledger: Ledger) -> None:
        """A written result of a superseded revision is called off with its deliveries; no verb sends it."""
        ledger.written()
        ledger.receive("1.2.3.9")
        assert ledger.job_state() == "CANCELLED"
        assert ledger.work.claim_delivery("tps", ledger.now, 60) is None
        resending = Resending((("tps", (ObjectOrder(ObjectKind.RTSTRUCT),)),), lambda *_: "")
        with pytest.raises(Forbidden, match="SUPERSEDED"):
            ledger.desk.resend(ledger.study(), ledger.word(), resending)

    def test_a_delivered_result_of_a_replaced_revision_is_not_resent(self, ledger: Ledger) -> None:
        """After a late slice the delivered structure set is stale, and resend says so instead of sending it."""
        ledger.written()
        send_all(ledger, "tps", "pacs")
        ledger.receive("1.2.3.9")
        resending = Resending((("tps", (ObjectOrder(ObjectKind.RTSTRUCT),)),), lambda *_: "")
        with pytest.raises(Forbidden, match="SUPERSEDED"):
            ledger.desk.resend(ledger.study(), ledger.word(), resending)
        assert ledger.work.claim_delivery("tps", ledger.now, 60) is None

    def two_forms(self, ledger: Ledger) -> tuple[str, str]:
        """A written job with two structure sets, the plain one owed to tps and the other to eclipse."""
        plain = WrittenObject(ObjectKind.RTSTRUCT, "1.2.840.1", "2.25.71", b"x")
        named = WrittenObject(ObjectKind.RTSTRUCT, "1.2.840.1", "2.25.72", b"y", ECLIPSE.variant)
        owed = ((plain.sop_uid, "tps"), (named.sop_uid, "eclipse"))
        ledger.written(objects=((plain, "7" * 64), (named, "8" * 64)), owed=owed)
        return plain.sop_uid, named.sop_uid

    def test_each_destination_is_owed_its_form(self, ledger: Ledger) -> None:
        """Two objects of one kind stand in the ledger, and each goes where it is wanted."""
        plain, named = self.two_forms(ledger)
        for destination, sop_uid in (("tps", plain), ("eclipse", named)):
            delivery = ledger.work.claim_delivery(destination, ledger.now, 60)
            assert delivery is not None
            assert delivery.sop_uid == sop_uid
            assert ledger.work.claim_delivery(destination, ledger.now, 60) is None

    @pytest.mark.parametrize(
        ("destination", "order", "number"),
        [("eclipse", "plain", 1), ("new", "plain", 0), ("new", "named", 1)],
        ids=["what it had before", "the plain form", "its own form"],
    )
    def test_resending_picks_the_form(self, ledger: Ledger, destination: str, order: str, number: int) -> None:
        """What a destination was owed before it gets again, whatever the settings say by now; a new one its wish."""
        uids = self.two_forms(ledger)
        send_all(ledger, "tps", "eclipse")
        wanted = ECLIPSE if order == "named" else ObjectOrder(ObjectKind.RTSTRUCT)
        (line,) = ledger.desk.resend(
            ledger.study(), ledger.word(), Resending(((destination, (wanted,)),), lambda *_: "")
        )
        assert uids[number] in line

    def test_a_form_that_was_never_written_is_not_resent(self, ledger: Ledger) -> None:
        """Nothing is made up for a wish that came after the result."""
        self.two_forms(ledger)
        wanted = ObjectOrder(ObjectKind.RTSTRUCT, Form("GTV_new"))
        with pytest.raises((NotFound, Forbidden)):
            ledger.desk.resend(ledger.study(), ledger.word(), Resending((("new", (wanted,)),), lambda *_: ""))

    @pytest.mark.parametrize("sent", [True, False])
    def test_a_new_result_is_told_which_one_it_replaces(self, ledger: Ledger, sent: bool) -> None:
        """After late slices the job names the earlier result of the series, if that was ever sent to anybody."""
        first = ledger.written()
        assert first.supersedes == ()
        if sent:
            send_all(ledger, "tps")
        ledger.receive("1.2.3.9")
        ledger.end()
        ledger.later(QUIET_S + 1)
        (grown,) = ledger.series.quiet(ledger.now)
        ledger.series.close(grown, Closing(Event.CLOSED_WHOLE, "quiet and whole"), ledger.now)
        ledger.choose(replace(grown, state=SeriesState.COMPLETE))
        job = ledger.in_hand(JobState.QUEUED, "infer")
        assert job.work_key != first.work_key
        named = [(one.kind, one.variant, one.work_key) for one in job.supersedes]
        assert named == ([(ObjectKind.RTSTRUCT, "", first.work_key)] if sent else [])

    def test_a_new_result_is_told_of_nothing_that_nobody_was_sent(self, ledger: Ledger) -> None:
        """The report of the first result was sent and its structure set was not: it alone is named."""
        first = ledger.written(owed=())
        (series,) = ledger.desk.selected(ledger.study())
        report = ledger.result(first).objects[1][0]
        ledger.desk.release(ledger.study(), ledger.word())
        ledger.predicted()
        job = ledger.in_hand(JobState.PREDICTED, "write")
        ledger.work.commit_result(job.lease, ledger.result(job, owed=((report.sop_uid, "pacs"),)), ledger.now)
        send_all(ledger, "pacs")
        ledger.desk.order(series.series_id, ledger.order(series, bundle="c" * 64), ledger.word())
        second = ledger.in_hand(JobState.QUEUED, "infer")
        assert [(one.kind, one.sop_uid) for one in second.supersedes] == [(ObjectKind.SR, report.sop_uid)]

    def test_slices_after_delivery_make_a_held_result_that_names_what_it_replaces(self, ledger: Ledger) -> None:
        """The new revision's job knows the work key that was sent before, waits for a person, and goes out on their
        word alone."""
        first = ledger.written()
        send_all(ledger, "tps", "pacs")
        assert first.supersedes == ()
        ledger.receive("1.2.3.9")
        ledger.end()
        ledger.later(QUIET_S + 1)
        (late,) = ledger.series.quiet(ledger.now)
        assert ledger.series.close(late, Closing(Event.CLOSED_WHOLE, "quiet and whole"), ledger.now)
        (complete,) = ledger.complete()
        ledger.choose(complete)
        ledger.predicted()
        second = ledger.in_hand(JobState.PREDICTED, "write")
        assert {one.work_key for one in second.supersedes} == {first.work_key} != {second.work_key}
        assert ledger.work.commit_result(second.lease, ledger.result(second), ledger.now) is JobState.HELD
        assert ledger.work.claim_delivery("tps", ledger.now, 60) is None
        assert "SUPERSEDES_DELIVERED" in ledger.desk.release(ledger.study(), ledger.word())[0]
        assert ledger.work.claim_delivery("tps", ledger.now, 60) is not None

    def test_a_result_finished_after_its_series_was_superseded_is_dropped(self, ledger: Ledger) -> None:
        """A late slice that comes while the result is being written ends that result."""
        ledger.queued_job()
        ledger.predicted()
        job = ledger.in_hand(JobState.PREDICTED, "write")
        ledger.receive("1.2.3.9")
        assert ledger.work.commit_result(job.lease, ledger.result(job), ledger.now) is JobState.CANCELLED
        with pytest.raises(NotFound):
            ledger.desk.release(ledger.study(), ledger.word())

    def test_a_stalled_series_opens_again(self, ledger: Ledger) -> None:
        """The missing slice of a partial series lets the same revision go on."""
        ledger.receive("1.2.3.1")
        ledger.end()
        ledger.later(QUIET_S + 1)
        (quiet,) = ledger.series.quiet(ledger.now)
        ledger.series.close(quiet, Closing(Event.CLOSED_PARTIAL, "a gap", ("GAP: one slice",)), ledger.now)
        assert ledger.series_states() == ["STALLED"]
        with pytest.raises(Forbidden, match="not whole"):
            ledger.desk.release(ledger.study(), ledger.word())
        ledger.receive("1.2.3.2")
        assert ledger.series_states() == ["RECEIVING"]

    def test_quiet_counts_from_the_last_instance(self, ledger: Ledger) -> None:
        """Each instance re-arms the quiet time, and the deadline stands in the row, so it survives a restart."""
        ledger.receive("1.2.3.1")
        ledger.later(QUIET_S - 1)
        ledger.receive("1.2.3.2")
        ledger.later(2)
        assert ledger.series.quiet(ledger.now) == []
        assert ledger.series.next_due(ledger.now) == NOON + timedelta(seconds=QUIET_S - 1 + QUIET_S)

    def test_closing_loses_against_an_instance_that_came_meanwhile(self, ledger: Ledger) -> None:
        """A judgement on three instances does not close a series that has four."""
        ledger.receive("1.2.3.1")
        ledger.end()
        ledger.later(QUIET_S + 1)
        (quiet,) = ledger.series.quiet(ledger.now)
        ledger.receive("1.2.3.2")
        assert not ledger.series.close(quiet, Closing(Event.CLOSED_WHOLE, "whole"), ledger.now)
        assert ledger.series_states() == ["RECEIVING"]

    def test_our_own_object_is_recognised_and_counted(self, ledger: Ledger) -> None:
        """A result that a PACS routes back is known by its UID and counted; a stranger is not."""
        job = ledger.written()
        own = ledger.result(job).objects[0][0].sop_uid
        assert ledger.receive(own) is StoreOutcome.OWN_OBJECT
        assert ledger.receive(own) is StoreOutcome.OWN_OBJECT
        assert ledger.receive("1.2.3.1") is StoreOutcome.DUPLICATE
        assert ledger.queries.counts()["came_back"] == 2


class TestWork:
    def test_one_work_key_has_one_job(self, ledger: Ledger) -> None:
        """Selecting the same inputs for the same bundle and settings twice finds the job that stands."""
        first = ledger.queued_job()
        ledger.desk.reconsider(ledger.study(), ledger.word())
        (again,) = ledger.complete()
        assert ledger.choose(again) == first
        with ledger.sessions.reading() as session:
            assert session.scalar(select(func.count(JobRow.id))) == 1

    def test_an_association_that_opened_while_the_ledger_was_away_is_made_up_for(self, ledger: Ledger) -> None:
        """An instance of an association without a row still gets its row, and the association with it."""
        stranger = AssociationInfo("a-2", "PACS", "NPC_RTNODE", "127.0.0.1")
        ledger.association = stranger
        assert ledger.receive("1.2.3.1") is StoreOutcome.STORED

    def test_the_attempt_is_committed_before_the_work(self, ledger: Ledger) -> None:
        """A claim leaves an open attempt behind, whatever happens to its worker."""
        ledger.queued_job()
        ledger.in_hand(JobState.QUEUED, "infer")
        with ledger.sessions.reading() as session:
            attempt = session.scalars(select(AttemptRow)).one()
        assert (attempt.stage, attempt.ended_at) == ("infer", None)

    def test_a_worker_that_overslept_changes_nothing(self, ledger: Ledger) -> None:
        """After recovery the old lease's outcome is refused, and the new one's counts."""
        ledger.queued_job()
        asleep = ledger.in_hand(JobState.QUEUED, "infer")
        assert ledger.work.recover(ledger.later(61), {asleep.lease.token}) == 1
        awake = ledger.in_hand(JobState.QUEUED, "infer")
        with pytest.raises(LeaseLost):
            ledger.work.predicted(asleep.lease, {"stage": "T4"}, ledger.now)
        ledger.work.predicted(awake.lease, {"stage": "T1"}, ledger.now)
        assert ledger.job_state() == "PREDICTED"

    def test_recovery_leaves_living_leases_alone(self, ledger: Ledger) -> None:
        """A sweep takes back only what it is told; a start, which holds this host's lock, all of this host's."""
        ledger.queued_job()
        ledger.in_hand(JobState.QUEUED, "infer")
        assert ledger.work.recover(ledger.later(3600), ()) == 0
        assert WorkLedger(ledger.sessions, "other").recover_all(ledger.now) == 0
        assert ledger.work.recover_all(ledger.now) == 1

    def test_a_renewed_lease_shows_life(self, ledger: Ledger) -> None:
        """Renewing moves the sign that watchers look at; a token that counts no more is told to who renews it."""
        ledger.queued_job()
        lease = ledger.in_hand(JobState.QUEUED, "infer").lease
        before = ledger.work.leases()
        assert ledger.work.renew([lease.token, "lost"], ledger.later(10), 60) == {"lost"}
        after = ledger.work.leases()
        assert before.keys() == after.keys() == {lease.token}
        assert before != after

    @pytest.mark.parametrize(("owner", "crashes"), [("node", 0), ("other", 1)])
    def test_silence_of_another_host_is_a_crash(self, ledger: Ledger, owner: str, crashes: int) -> None:
        """What this host could not record says nothing of the input; a host that fell silent may have died of it."""
        ledger.queued_job()
        lease = ledger.in_hand(JobState.QUEUED, "infer").lease
        assert WorkLedger(ledger.sessions, owner).recover(ledger.now, {lease.token}) == 1
        with ledger.sessions.reading() as session:
            assert session.scalars(select(JobRow.crashes)).one() == crashes

    def test_the_third_crash_quarantines_the_job(self, ledger: Ledger) -> None:
        """An input that kills its worker three times is set apart with the reason, and others go on."""
        ledger.queued_job()
        for _ in range(3):
            ledger.in_hand(JobState.QUEUED, "infer")
            ledger.work.recover_all(ledger.now)
        assert ledger.job_state() == "QUARANTINED"
        assert ledger.work.claim_job(JobState.QUEUED, "infer", ledger.now, 60) is None
        (done,) = ledger.desk.retry(ledger.study(), ledger.word())
        assert "queued again" in done

    def test_stops_never_quarantine(self, ledger: Ledger) -> None:
        """A job that was in hand at three restarts, each of them cut short, is done at the fourth."""
        ledger.queued_job()
        for _ in range(4):
            ledger.in_hand(JobState.QUEUED, "infer")
            assert ledger.work.recover_all(ledger.now, died=False) == 1
        assert ledger.job_state() == "QUEUED"

    def test_a_postponed_job_waits_for_its_time(self, ledger: Ledger) -> None:
        """Back-off stands in the row: nothing is due before it, so it survives a restart."""
        ledger.queued_job()
        lease = ledger.in_hand(JobState.QUEUED, "infer").lease
        ledger.work.failed(lease, Postpone(ledger.now + timedelta(seconds=40), "BUSY: later"), ledger.now)
        assert ledger.work.claim_job(JobState.QUEUED, "infer", ledger.later(39), 60) is None
        assert ledger.work.claim_job(JobState.QUEUED, "infer", ledger.later(1), 60) is not None

    def test_nothing_held_is_ever_claimed_for_sending(self, ledger: Ledger) -> None:
        """Deliveries of a held result wait until a person releases it."""
        ledger.written(holds=(Finding("SUPERSEDES_DELIVERED", "look first"),))
        assert ledger.job_state() == "HELD"
        assert ledger.work.claim_delivery("tps", ledger.now, 60) is None
        ledger.desk.release(ledger.study(), ledger.word())
        assert ledger.work.claim_delivery("tps", ledger.now, 60) is not None

    def test_what_nobody_may_release_stays(self, ledger: Ledger) -> None:
        """A result that is not releasable is refused to release, retry and resend, with its reason."""
        ledger.written(holds=(Finding("SYNTHETIC_WEIGHTS", "no verb"),), releasable=False, owed=())
        study, word = ledger.study(), ledger.word()
        with pytest.raises(Forbidden, match="SYNTHETIC_WEIGHTS"):
            ledger.desk.release(study, word)
        with pytest.raises(NotFound):
            ledger.desk.retry(study, word)
        with pytest.raises(Forbidden, match="HELD"):
            ledger.desk.resend(study, word, Resending((("tps", (ObjectOrder(ObjectKind.RTSTRUCT),)),), lambda *_: ""))
        assert ledger.job_state() == "HELD"

    def test_delivered_means_every_delivery_was_accepted(self, ledger: Ledger) -> None:
        """With one object still owed the job is not delivered; with the last one it is."""
        ledger.written()
        send_all(ledger, "tps")
        assert ledger.job_state() == "WRITTEN"
        send_all(ledger, "pacs")
        assert ledger.job_state() == "DELIVERED"

    @pytest.mark.parametrize("order", [("tps", "pacs"), ("pacs", "tps")])
    def test_a_refused_delivery_fails_the_job_in_any_order(self, ledger: Ledger, order: tuple[str, str]) -> None:
        """Whether the refusal comes first or last, the job ends FAILED and names the destination."""
        ledger.written()
        for destination in order:
            while delivery := ledger.work.claim_delivery(destination, ledger.now, 60):
                if destination == "tps":
                    ledger.work.failed(delivery.lease, GiveUp("OBJECT_REFUSED: 0xA900"), ledger.now)
                else:
                    ledger.work.sent(delivery.lease, SendReceipt(0, False, ledger.now))
        assert ledger.job_state() == "FAILED"
        view = ledger.queries.study(ledger.study())
        assert "NOT_DELIVERED to tps: OBJECT_REFUSED" in view["series"][0]["jobs"][0]["reasons"][0]

    def test_retry_sends_only_what_failed(self, ledger: Ledger) -> None:
        """After a failed delivery, retry owes the failed one again and leaves the accepted ones alone."""
        ledger.written()
        lease = ledger.work.claim_delivery("tps", ledger.now, 60)
        assert lease is not None
        ledger.work.failed(lease.lease, GiveUp("OBJECT_REFUSED"), ledger.now)
        send_all(ledger, "pacs")
        ledger.desk.retry(ledger.study(), ledger.word())
        assert ledger.work.claim_delivery("pacs", ledger.now, 60) is None
        send_all(ledger, "tps")
        assert ledger.job_state() == "DELIVERED"

    def test_resend_goes_out_with_the_stored_bytes(self, ledger: Ledger) -> None:
        """A resend owes the same object row, so the same UID and digest, to the named destination alone."""
        ledger.written()
        send_all(ledger, "tps", "pacs")
        resending = Resending((("tps", (ObjectOrder(ObjectKind.RTSTRUCT),)),), lambda *_: "")
        ledger.desk.resend(ledger.study(), ledger.word(), resending)
        again = ledger.work.claim_delivery("tps", ledger.now, 60)
        assert again is not None
        assert again.sha256 == "1" * 64
        assert ledger.work.claim_delivery("pacs", ledger.now, 60) is None

    def test_bytes_that_the_gates_held_are_not_sent_under_a_later_verdict(self, ledger: Ledger) -> None:
        """Held for good, called off, tried again: what is sent is what passed then, not what was held before."""
        never = Finding("WARNINGS_RTSTRUCT", "does not say DOUBT")
        job = ledger.written(holds=(never,), owed=(), releasable=False)
        again = written_again(ledger, job)
        assert ledger.job_state() == "WRITTEN"
        sent = [ledger.work.claim_delivery(to, ledger.now, 60) for to in ("tps", "pacs", "pacs")]
        assert [one.sha256 for one in sent if one] == ["7" * 64, "7" * 64, "8" * 64]
        assert again.work_key == job.work_key

    def test_bytes_that_wait_for_a_word_are_not_sent_without_it(self, ledger: Ledger) -> None:
        """Held, and a person might have released them; called off instead, and the next try passed with other bytes."""
        job = ledger.written(holds=(Finding("VOLUME", "too large", 301.0, 300.0),))
        written_again(ledger, job)
        sent = ledger.work.claim_delivery("tps", ledger.now, 60)
        assert sent is not None
        assert sent.sha256 == "7" * 64

    def test_bytes_that_somebody_may_have_stand(self, ledger: Ledger) -> None:
        """One UID, one content: after a delivery was begun no later try changes what the UID stands for."""
        job = ledger.written()
        lease = ledger.work.claim_delivery("tps", ledger.now, 60)
        assert lease is not None
        ledger.work.failed(lease.lease, GiveUp("PEER_STALLED: no answer"), ledger.now)
        send_all(ledger, "pacs")
        written_again(ledger, job)
        again = ledger.work.claim_delivery("tps", ledger.now, 60)
        assert again is not None
        assert again.sha256 == "1" * 64

    def test_held_bytes_are_not_resent_after_a_try_that_failed(self, ledger: Ledger) -> None:
        """Held for good, called off, tried again, and the try failed before its gates: nothing there may be sent."""
        ledger.written(holds=(Finding("ROUND_TRIP_DICE", "no", 0.9, 0.9999),), owed=(), releasable=False)
        ledger.desk.abandon(ledger.study(), ledger.word())
        ledger.desk.retry(ledger.study(), ledger.word())
        ledger.work.failed(ledger.in_hand(JobState.QUEUED, "infer").lease, GiveUp("UNEXPECTED"), ledger.now)
        resending = Resending((("tps", (ObjectOrder(ObjectKind.RTSTRUCT),)),), lambda *_: "")
        with pytest.raises(Forbidden, match="may be sent"):
            ledger.desk.resend(ledger.study(), ledger.word(), resending)

    def test_resend_obeys_the_release_rule(self, ledger: Ledger) -> None:
        """A destination that may not have a synthetic result does not get it by a resend either."""
        ledger.written()
        send_all(ledger, "tps", "pacs")
        resending = Resending((("elsewhere", (ObjectOrder(ObjectKind.RTSTRUCT),)),), lambda *_: "no")
        with pytest.raises(Forbidden, match="elsewhere"):
            ledger.desk.resend(ledger.study(), ledger.word(), resending)

    def test_a_result_beside_a_delivered_one_waits_for_a_person(self, ledger: Ledger) -> None:
        """A second result of a series whose first was delivered is held, and a person may release it."""
        ledger.written()
        send_all(ledger, "tps", "pacs")
        (series,) = ledger.desk.selected(ledger.study())
        ledger.desk.order(series.series_id, ledger.order(series, bundle="c" * 64), ledger.word())
        ledger.predicted()
        job = ledger.in_hand(JobState.PREDICTED, "write")
        assert ledger.work.commit_result(job.lease, ledger.result(job), ledger.now) is JobState.HELD
        (done,) = ledger.desk.release(ledger.study(), ledger.word())
        assert "SUPERSEDES_DELIVERED" in done
        assert ledger.work.claim_delivery("tps", ledger.now, 60) is not None

    def test_a_delivery_that_ended_in_silence_counts_as_possibly_made(self, ledger: Ledger) -> None:
        """A TPS that stalled may have stored the object: the next result of that series is held too."""
        ledger.written()
        lease = ledger.work.claim_delivery("tps", ledger.now, 60)
        assert lease is not None
        later = ledger.now + timedelta(seconds=60)
        ledger.work.failed(lease.lease, Postpone(later, "PEER_STALLED: no answer"), ledger.now)
        (series,) = ledger.desk.selected(ledger.study())
        ledger.desk.order(series.series_id, ledger.order(series, bundle="c" * 64), ledger.word())
        ledger.predicted()
        job = ledger.in_hand(JobState.PREDICTED, "write")
        assert ledger.work.commit_result(job.lease, ledger.result(job), ledger.now) is JobState.HELD

    def test_a_result_of_another_series_waits_beside_a_delivered_one(self, ledger: Ledger) -> None:
        """Two structure sets of one tumour: the second is held, though its series is another one of the study."""
        ledger.written()
        send_all(ledger, "tps", "pacs")
        ledger.receive("1.2.3.1", content="other")
        assert ledger.series_states() == ["QUARANTINED"]
        ledger.queued_job(series_uid="1.2.4")
        ledger.predicted()
        job = ledger.in_hand(JobState.PREDICTED, "write")
        assert ledger.work.commit_result(job.lease, ledger.result(job), ledger.now) is JobState.HELD
        (done,) = ledger.desk.release(ledger.study(), ledger.word())
        assert "SUPERSEDES_DELIVERED: another result of this study" in done

    def test_a_result_of_another_study_never_waits_for_it(self, ledger: Ledger) -> None:
        """What was delivered of one study says nothing about another."""
        ledger.written()
        send_all(ledger, "tps", "pacs")
        for number in range(3):
            ledger.receive(f"7.2.{number}", "7.2", study_uid="7")
        ledger.end()
        ledger.later(QUIET_S + 1)
        (quiet,) = ledger.series.quiet(ledger.now)
        assert ledger.series.close(quiet, Closing(Event.CLOSED_WHOLE, "quiet and whole"), ledger.now)
        (series,) = ledger.complete()
        choice = Choice(Event.SELECTED, (), (), "r" * 64, ledger.order(series))
        assert ledger.studies.choose([(series, choice)], ledger.now)
        ledger.predicted()
        job = ledger.in_hand(JobState.PREDICTED, "write")
        assert ledger.work.commit_result(job.lease, ledger.result(job), ledger.now) is JobState.WRITTEN

    def test_two_results_of_one_series_never_travel_together(self, ledger: Ledger) -> None:
        """A new order calls the older, undelivered result off; only the new one is owed."""
        ledger.written()
        (series,) = ledger.desk.selected(ledger.study())
        ledger.desk.order(series.series_id, ledger.order(series, bundle="c" * 64), ledger.word())
        assert ledger.work.claim_delivery("tps", ledger.now, 60) is None
        ledger.predicted()
        job = ledger.in_hand(JobState.PREDICTED, "write")
        assert ledger.work.commit_result(job.lease, ledger.result(job), ledger.now) is JobState.WRITTEN
        states = [j["state"] for j in ledger.queries.study(ledger.study())["series"][0]["jobs"]]
        assert states == ["CANCELLED", "WRITTEN"]

    def test_an_order_that_changes_nothing_makes_no_job(self, ledger: Ledger) -> None:
        """Reprocessing with the same bundle and settings says that the stored result stands."""
        ledger.queued_job()
        (series,) = ledger.desk.selected(ledger.study())
        assert "stands" in ledger.desk.order(series.series_id, ledger.order(series), ledger.word())

    def test_without_a_destination_the_result_is_held(self, ledger: Ledger) -> None:
        """A result that nobody wants never counts as delivered."""
        ledger.written(owed=())
        assert ledger.job_state() == "HELD"


class TestDesk:
    def test_a_rehearsal_changes_nothing(self, ledger: Ledger) -> None:
        """With dry_run the plan is told and the ledger stays as it was, events included."""
        ledger.written()
        before = ledger.queries.history(ledger.study())
        assert ledger.desk.hold(ledger.study(), ledger.word(dry_run=True))
        assert ledger.queries.history(ledger.study()) == before

    def test_hold_and_release_are_kept_with_name_and_reason(self, ledger: Ledger) -> None:
        """While a study is held nothing of it is claimed; who held it and why stands in the chain of events."""
        ledger.written()
        ledger.desk.hold(ledger.study(), ledger.word())
        assert ledger.work.claim_delivery("tps", ledger.now, 60) is None
        ledger.desk.release(ledger.study(), ledger.word())
        assert ledger.work.claim_delivery("tps", ledger.now, 60) is not None
        deeds = [e for e in ledger.queries.history(ledger.study()) if e["actor"] == "operator:ada"]
        assert [deed["event"] for deed in deeds] == ["HELD", "RELEASED"]
        assert deeds[0]["detail"]["reason"] == "because a test says so"

    def test_releasing_a_held_series_is_the_operators_word(self, ledger: Ledger) -> None:
        """A series held for its indication goes back to selection with the operator's word on it."""
        ledger.choose(ledger.complete_series(), Event.HELD, ("INDICATION_UNKNOWN: nobody said",))
        ledger.desk.release(ledger.study(), ledger.word())
        (series,) = ledger.complete()
        assert series.operators_word == "operator:ada: because a test says so"
        assert series.waived == ("INDICATION_UNKNOWN: nobody said",)

    @pytest.mark.parametrize("code", ["COUNT_SHORT", "ABORTED", "REFUSED"])
    def test_a_doubt_about_the_transfer_may_be_released(self, ledger: Ledger, code: str) -> None:
        """A stack that looks whole, though something speaks against it, may be taken as complete by a person."""
        ledger.receive("1.2.3.1")
        ledger.end()
        ledger.later(QUIET_S + 1)
        (quiet,) = ledger.series.quiet(ledger.now)
        ledger.series.close(quiet, Closing(Event.CLOSED_PARTIAL, "short", (f"{code}: 1 of 2",)), ledger.now)
        ledger.desk.release(ledger.study(), ledger.word())
        assert ledger.series_states() == ["COMPLETE"]

    def test_a_job_of_a_superseded_series_is_not_retried(self, ledger: Ledger) -> None:
        """A cancelled job of a series revision that was replaced stays cancelled."""
        ledger.queued_job()
        ledger.receive("1.2.3.9")
        with pytest.raises(NotFound, match="SUPERSEDED"):
            ledger.desk.retry(ledger.study(), ledger.word())

    def test_one_dead_end_does_not_block_its_neighbour(self, ledger: Ledger) -> None:
        """With one result that nobody may release and a series that waits, release does the series."""
        ledger.queued_job()
        ledger.work.held(
            ledger.in_hand(JobState.QUEUED, "infer").lease, [Finding("EMPTY_MASK", "nothing")], {}, ledger.now
        )
        ledger.choose(ledger.complete_series(series_uid="1.2.4"), Event.HELD, ("INDICATION_UNKNOWN: nobody said",))
        (done,) = ledger.desk.release(ledger.study(), ledger.word())
        assert done.startswith("series 2 released")

    def test_of_two_waiting_things_one_must_be_named(self, ledger: Ledger) -> None:
        """A word on one series is no word on another."""
        for series_uid in ("1.2.3", "1.2.4"):
            ledger.choose(ledger.complete_series(series_uid=series_uid), Event.HELD, ("contrast: missing",))
        with pytest.raises(Forbidden, match="--series or --job: series 1, series 2"):
            ledger.desk.release(ledger.study(), ledger.word())
        ledger.desk.release(ledger.study(), ledger.word(), Only(series=2))
        assert ledger.series_states() == ["HELD", "COMPLETE"]

    def test_a_result_without_destination_is_done_again_when_there_is_one(self, ledger: Ledger) -> None:
        """Releasing what nobody wanted writes it anew for today's destinations, with the bytes that stand."""
        ledger.written(owed=())
        ledger.desk.release(ledger.study(), ledger.word())
        ledger.predicted()
        job = ledger.in_hand(JobState.PREDICTED, "write")
        assert ledger.work.commit_result(job.lease, ledger.result(job), ledger.now) is JobState.WRITTEN
        assert ledger.work.claim_delivery("tps", ledger.now, 60) is not None

    def test_a_series_judged_fit_again_gets_its_result_back(self, ledger: Ledger) -> None:
        """Wrong rules set a series aside; with the rules mended, the same work key is taken up again."""
        ledger.written()
        for event, reasons in ((Event.SET_ASIDE, ("plane: coronal",)), (Event.SELECTED, ())):
            ledger.desk.reconsider(ledger.study(), ledger.word())
            (again,) = ledger.complete()
            ledger.choose(again, event, reasons)
        assert ledger.job_state() == "QUEUED"

    def test_deliveries_to_a_removed_destination_end(self, ledger: Ledger) -> None:
        """At a start, what is owed to a destination that the settings no longer name is ended with that reason."""
        ledger.written()
        assert ledger.work.cancel_unknown(["pacs"], ledger.now) == 1
        send_all(ledger, "pacs")
        assert ledger.job_state() == "FAILED"
        assert "UNKNOWN_DESTINATION" in str(ledger.queries.study(ledger.study()))

    def test_a_quarantine_for_trouble_can_be_taken_back(self, ledger: Ledger) -> None:
        """A series that could not be judged three times is set apart, and an operator may have it judged anew."""
        ledger.receive("1.2.3.1")
        ledger.end()
        for _ in range(3):
            ledger.later(4000)
            (quiet,) = ledger.series.quiet(ledger.now)
            ledger.series.trouble(quiet, "UNREADABLE: the disk", ledger.now)
        assert ledger.series_states() == ["QUARANTINED"]
        ledger.desk.reconsider(ledger.study(), ledger.word())
        assert ledger.series_states() == ["RECEIVING"]
        assert len(ledger.series.quiet(ledger.now)) == 1

    def test_a_quarantine_for_conflict_cannot(self, ledger: Ledger) -> None:
        """Two contents under one UID stay set apart."""
        ledger.queued_job()
        ledger.receive("1.2.3.1", content="other")
        with pytest.raises(NotFound):
            ledger.desk.reconsider(ledger.study(), ledger.word())

    @pytest.mark.parametrize(("keep", "index"), [(Keep.FIRST, 0), (Keep.LAST, 1)])
    def test_a_conflict_is_settled_by_a_persons_choice(self, ledger: Ledger, keep: Keep, index: int) -> None:
        """The series is judged anew with the chosen content; the other keeps its row, and comes back as a duplicate."""
        ledger.queued_job()
        ledger.receive("1.2.3.1", content="other")
        copies = ledger.copies("1.2.3.1")
        ledger.desk.settle(ledger.study(), keep, ledger.word())
        assert ledger.series_states() == ["RECEIVING"]
        (open_again,) = ledger.series.quiet(ledger.now)
        assert dict(open_again.inputs)["1.2.3.1"] == copies[index]
        assert open_again.seen == 3
        assert ledger.receive("1.2.3.1", content="other") is StoreOutcome.DUPLICATE
        assert ledger.receive("1.2.3.1") is StoreOutcome.DUPLICATE
        assert ledger.copies("1.2.3.1") == copies
        event = [e for e in ledger.queries.history(ledger.study()) if e["event"] == "CONFLICT_SETTLED"][-1]
        assert (event["actor"], event["detail"]["keep"]) == ("operator:ada", keep)
        assert event["detail"]["reason"] == "because a test says so"

    def test_the_same_choice_again_finds_the_same_job(self, ledger: Ledger) -> None:
        """With the first content the work key is the one of before: its job is called back, no second one is made."""
        job = ledger.queued_job()
        ledger.receive("1.2.3.1", content="other")
        ledger.desk.settle(ledger.study(), Keep.FIRST, ledger.word())
        (again,) = ledger.series.quiet(ledger.now)
        assert ledger.series.close(again, Closing(Event.CLOSED_WHOLE, "quiet and whole"), ledger.now)
        assert ledger.choose(replace(again, state=SeriesState.COMPLETE)) == job
        assert ledger.job_state() == "QUEUED"

    def test_a_rehearsed_choice_changes_nothing(self, ledger: Ledger) -> None:
        """With `dry_run` the series stays quarantined."""
        ledger.queued_job()
        ledger.receive("1.2.3.1", content="other")
        ledger.desk.settle(ledger.study(), Keep.LAST, ledger.word(dry_run=True))
        assert ledger.series_states() == ["QUARANTINED"]

    def test_a_new_conflict_after_a_choice_is_a_conflict(self, ledger: Ledger) -> None:
        """A third content quarantines again; the one in use is the first of what is then to choose from."""
        ledger.queued_job()
        ledger.receive("1.2.3.1", content="other")
        ledger.desk.settle(ledger.study(), Keep.LAST, ledger.word())
        assert ledger.receive("1.2.3.1", content="third") is StoreOutcome.CONFLICT
        (rivals,) = ledger.queries.study(ledger.study())["series"][0]["conflicts"]
        assert [rival["sha256"] for rival in rivals] == list(ledger.copies("1.2.3.1")[1:])

    def test_a_conflict_across_two_series_cannot_be_settled(self, ledger: Ledger) -> None:
        """One UID under two series: whichever were kept, the other would lack a slice."""
        ledger.queued_job()
        ledger.receive("1.2.4.1", "1.2.4")
        ledger.receive("1.2.3.1", "1.2.4", content="other")
        first, second = (series["series"] for series in ledger.queries.study(ledger.study())["series"])
        with pytest.raises(Forbidden, match="name one: series"):
            ledger.desk.settle(ledger.study(), Keep.FIRST, ledger.word())
        for series in (first, second):
            with pytest.raises(Forbidden, match="different series"):
                ledger.desk.settle(ledger.study(), Keep.FIRST, ledger.word(), Only(series=series))
        assert ledger.series_states() == ["QUARANTINED", "QUARANTINED"]

    def test_a_release_alone_does_not_settle(self, ledger: Ledger) -> None:
        """Without a choice the way out is told, and nothing happens."""
        ledger.queued_job()
        ledger.receive("1.2.3.1", content="other")
        with pytest.raises(Forbidden, match="--keep first or --keep last"):
            ledger.desk.release(ledger.study(), ledger.word())
        assert ledger.series_states() == ["QUARANTINED"]

    def test_without_a_conflict_there_is_nothing_to_choose(self, ledger: Ledger) -> None:
        """A series that is in order is not touched."""
        ledger.queued_job()
        with pytest.raises(NotFound, match="conflicting"):
            ledger.desk.settle(ledger.study(), Keep.LAST, ledger.word())

    def test_an_unknown_study_is_named(self, ledger: Ledger) -> None:
        """A wrong reference is told back."""
        with pytest.raises(NotFound, match="XXX-XXX"):
            ledger.desk.hold("XXX-XXX", ledger.word())


class TestJournal:
    def test_every_change_of_state_is_chained(self, ledger: Ledger) -> None:
        """From birth to delivery each transition left an event, and the chain holds."""
        ledger.written()
        send_all(ledger, "tps", "pacs")
        steps = [
            (e["event"], e["to"]) for e in ledger.queries.history(ledger.study()) if e["subject"].startswith("job")
        ]
        assert steps == [
            ("BORN", "QUEUED"),
            ("BEGUN", "PREDICTING"),
            ("DONE", "PREDICTED"),
            ("BEGUN", "WRITING"),
            ("DONE", "WRITTEN"),
            ("ALL_SENT", "DELIVERED"),
        ]
        assert ledger.queries.chain_is_whole()

    @pytest.mark.parametrize(
        "tampering",
        [
            "UPDATE events SET detail = '{}' WHERE seq = 3",
            "UPDATE events SET to_state = 'DELIVERED' WHERE seq = 5",
            "UPDATE events SET actor = 'someone else' WHERE seq = 2",
            "DELETE FROM events WHERE seq = 4",
        ],
    )
    def test_tampering_breaks_the_chain(self, ledger: Ledger, tampering: str) -> None:
        """A changed or removed event is found."""
        ledger.written()
        with ledger.engine.begin() as connection:
            assert connection.execute(text(tampering)).rowcount == 1
        assert not ledger.queries.chain_is_whole()

    def test_a_locked_database_is_the_moments_fault(
        self, ledger: Ledger, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A writer that waits too long gets LedgerUnavailable, which the sender hears as A700."""
        monkeypatch.setattr("npc_rtnode.adapters.database.engine.BUSY_TIMEOUT_S", 0.2)
        other = open_engine(database_url)
        intake = IntakeLedger(Sessions(other), "site-key", QUIET_S)
        with ledger.engine.begin(), pytest.raises(LedgerUnavailable, match=r"LockNotAvailable|SQLITE_BUSY"):
            intake.association_opened(AssociationInfo("a-2", "PACS", "NPC_RTNODE", "127.0.0.1"), NOON)
        intake.association_opened(AssociationInfo("a-2", "PACS", "NPC_RTNODE", "127.0.0.1"), NOON)
        other.dispose()


def test_no_patient_identity_has_a_column() -> None:
    """No table has a column where a name, a birth date or a patient ID could stand."""
    columns = {column.name for table in InstanceRow.metadata.tables.values() for column in table.columns}
    assert not {name for name in columns if "patient" in name or "birth" in name}
    assert DeliveryRow.__tablename__ in InstanceRow.metadata.tables


def test_a_series_judged_unfit_calls_its_unsent_result_off(ledger: Ledger) -> None:
    """When a second judgement sets a series aside, what it had written is called off."""
    ledger.written()
    ledger.desk.reconsider(ledger.study(), ledger.word())
    (again,) = ledger.complete()
    ledger.choose(again, Event.SET_ASIDE, ("plane: coronal",))
    assert ledger.job_state() == "CANCELLED"
    assert ledger.work.claim_delivery("tps", ledger.now, 60) is None


class TestWhereabouts:
    def test_each_instance_that_is_here_is_found_in_its_newest_revision(self, ledger: Ledger) -> None:
        """What was received is named with its series, what was not is left out, however many are asked for."""
        ledger.complete_series(count=2)
        ledger.complete_series(count=1, series_uid="1.2.4")
        asked = [f"9.{number}" for number in range(1200)]
        assert ledger.studies.whereabouts([*asked, "1.2.3.2", "1.2.4.1"]) == {"1.2.3.2": 1, "1.2.4.1": 2}
        assert ledger.studies.whereabouts([]) == {}
