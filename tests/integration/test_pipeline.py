"""Each stage over a real ledger: what it records for every way its neighbours can answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import select

from npc_rtnode.adapters.database import intake as intake_ledger
from npc_rtnode.adapters.database.desk import Only
from npc_rtnode.adapters.database.queries import Queries
from npc_rtnode.adapters.database.recovered import RecoveryLedger
from npc_rtnode.adapters.database.studies import StudyLedger
from npc_rtnode.adapters.database.tables import AssociationRow, InstanceRow
from npc_rtnode.cli import studies
from npc_rtnode.cli.replay import Rehearsal
from npc_rtnode.domain.identifiers import digest_of
from npc_rtnode.domain.lifecycle import Event, JobState
from npc_rtnode.domain.prediction import BundleStatement
from npc_rtnode.domain.records import (
    Choice,
    Closing,
    FoundObject,
    InstanceIdentity,
    ObjectKind,
    ReceivedInstance,
    SendReceipt,
    SeriesAttributes,
    StoreOutcome,
)
from npc_rtnode.domain.retry import COMPUTE, GiveUp, RetryPolicy
from npc_rtnode.domain.rule_loading import load_rules
from npc_rtnode.domain.rules import RuleSet
from npc_rtnode.errors import (
    BundleFault,
    DiskLow,
    GeometryRefused,
    InferenceCrashed,
    LedgerUnavailable,
    NodeError,
    NodeStopping,
    NotFound,
    ObjectRefused,
    Unreachable,
    Unreadable,
)
from npc_rtnode.pipeline.assemble import Assembler
from npc_rtnode.pipeline.attempt import Barrier
from npc_rtnode.pipeline.deliver import Deliverer
from npc_rtnode.pipeline.infer import Inferrer
from npc_rtnode.pipeline.receive import HELD_BYTES
from npc_rtnode.pipeline.select import Policy, Selector
from npc_rtnode.pipeline.write import Letterhead, Writer
from npc_rtnode.settings import NO_QA, ContentSettings, Destination, QaSettings
from tests.builders.intake import Intake
from tests.builders.ledger import MR, NOON, QUIET_S, Ledger
from tests.fakes.pipeline import (
    STATEMENT,
    FakeObjects,
    FakePredictor,
    FakeReader,
    FakeSender,
    FakeSpool,
    FakeStore,
    FakeStructure,
    hand_over,
    header,
)

TPS = Destination(name="tps", ae_title="TPS", host="127.0.0.1", port=1)
PACS = Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=2, objects=("RTSTRUCT", "SR"))
STACK = [header(number) for number in range(1, 13)]
RULES = load_rules(
    {
        "name": "t",
        "role": "t1c",
        "clauses": [
            {"name": "modality", "tag": "Modality", "op": "equals", "value": "MR"},
            {"name": "contrast", "tag": "ContrastBolusAgent", "op": "equals", "value": "Gd"},
        ],
    },
    lambda keyword: {"Modality": "CS", "ContrastBolusAgent": "LO"}.get(keyword),
)
SETTINGS = "s" * 64
ELIGIBLE = {"Modality": "MR", "ContrastBolusAgent": "Gd", "StudyDescription": "MR NPC"}


def barrier(ledger: Ledger, policy: RetryPolicy = COMPUTE) -> Barrier:
    """The fault barrier on this ledger and its clock."""
    return Barrier(ledger.work, policy, lambda: ledger.now)


def newest_job(ledger: Ledger) -> dict[str, Any]:
    """The newest job as `studies show` tells it."""
    view = ledger.queries.study(ledger.study())
    return dict([job for series in view["series"] for job in series["jobs"]][-1])


def test_an_attempt_whose_failure_cannot_be_recorded_is_out_of_hand(ledger: Ledger) -> None:
    """Whatever the ledger raises while a failure is recorded, the work can be found again by `recover`."""
    ledger.queued_job()
    lease = ledger.in_hand(JobState.QUEUED, "infer").lease
    ledger.work.recover_all(ledger.now)
    here = Barrier(ledger.work, COMPUTE, lambda: ledger.now)

    def broken(*_: object) -> None:
        raise OSError

    here = replace(here, pages=SimpleNamespace(failed=broken))  # type: ignore[arg-type]
    with pytest.raises(OSError), here.attempt(lease, "study"):
        raise Unreadable
    assert here.in_hand == {}


class TestReceive:
    @pytest.fixture(autouse=True)
    def _in_a_folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def received(self, ledger: Ledger, encoded: bytes = b"data", sop_uid: str = "1.2.3.1") -> ReceivedInstance:
        """What the listener hands over."""
        return ReceivedInstance(ledger.association, MR, sop_uid, "1.2.840.10008.1.2.1", encoded)

    def receiver(self, ledger: Ledger, spool: FakeSpool, at_once: bool = True, **structure: object) -> Intake:
        """The stage over the ledger."""
        identity = InstanceIdentity(MR, "1.2.3.1", "1.2", "1.2.3", "MR")
        reader = FakeStructure(**{"identity": identity, **structure})  # type: ignore[arg-type]
        return Intake(ledger, self.folder, spool, reader, at_once)

    def test_bytes_and_row_come_before_success(self, ledger: Ledger) -> None:
        """STORED means that the bytes are in the spool under the digest that the row names."""
        spool = FakeSpool()
        assert hand_over(self.receiver(ledger, spool), self.received(ledger)) is StoreOutcome.STORED
        assert list(spool.kept.values()) == [b"DICMdata"]
        assert ledger.queries.counts()["instances"] == 1

    def test_a_disk_that_fills_in_mid_object_asks_the_sender_to_try_again(self, ledger: Ledger) -> None:
        """What still comes of it is let pass, nothing is kept or recorded, and with room the next one goes in."""
        spool = FakeSpool()
        receiver = self.receiver(ledger, spool)
        incoming = receiver.begin(self.received(ledger))
        incoming.write(bytes(HELD_BYTES + 1))
        spool.full = True
        incoming.write(b"ta")
        spool.full = False
        incoming.write(b"!")
        assert incoming.store() is StoreOutcome.NO_RESOURCES
        assert spool.kept == {}
        assert hand_over(receiver, self.received(ledger)) is StoreOutcome.STORED

    def test_an_object_that_is_given_up_is_not_kept(self, ledger: Ledger) -> None:
        """After discard nothing is written any more, and storing it is refused."""
        spool = FakeSpool()
        incoming = self.receiver(ledger, spool).begin(self.received(ledger))
        incoming.write(b"da")
        incoming.discard()
        incoming.write(b"ta")
        assert incoming.store() is StoreOutcome.UNREADABLE
        assert spool.kept == {}

    def test_a_full_disk_asks_the_sender_to_try_again(self, ledger: Ledger) -> None:
        """With no room nothing is recorded, and the answer is NO_RESOURCES."""
        receiver = self.receiver(ledger, FakeSpool(full=True))
        assert hand_over(receiver, self.received(ledger)) is StoreOutcome.NO_RESOURCES
        assert ledger.queries.counts()["instances"] == 0

    def test_what_the_ledger_does_not_take_waits_in_order(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The ledger is away from before an instance to after its association's end: acknowledged all the same, and
        entered later with their own times, the end with the image that was refused."""
        receiver = self.receiver(ledger, FakeSpool(), at_once=False)

        def away(*_: object) -> None:
            raise LedgerUnavailable

        with monkeypatch.context() as patched:
            patched.setattr(ledger.intake, "replay", away)
            assert hand_over(receiver, self.received(ledger)) is StoreOutcome.STORED
            assert hand_over(receiver, self.received(ledger, sop_uid="1.2.3.9")) is StoreOutcome.MISMATCH
            receiver.closed(ledger.association, "aborted")
            with pytest.raises(LedgerUnavailable):
                receiver.replayer.run()
        ended_at = ledger.now
        ledger.later(7)
        assert (receiver.replayer.waiting, receiver.replayer.run(), receiver.replayer.run()) == (3, 3, 0)
        with ledger.sessions.reading() as session:
            row = session.get_one(AssociationRow, ledger.association.association_id)
            (instance,) = session.scalars(select(InstanceRow))
        assert (row.how, row.refused, row.ended_at) == ("aborted", ["1.2.3.9"], ended_at)
        assert instance.received_at == ended_at

    def test_a_record_that_cannot_be_entered_holds_up_no_other(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The one whose entering fails is told in the events and does not come again; those around it are there."""
        receiver = self.receiver(ledger, FakeSpool(), at_once=False)
        for number in (1, 2, 3):
            receiver.rejected(replace(ledger.association, association_id=f"b-{number}"), f"reason {number}")
        tell = intake_ledger._tell_rejection

        def poisoned(batch: Any, info: Any, reason: str, at: Any) -> None:
            if reason == "reason 2":
                raise ZeroDivisionError
            tell(batch, info, reason, at)

        monkeypatch.setattr(intake_ledger, "_tell_rejection", poisoned)
        receiver.replayer.run()
        assert [event for event, _ in self.events(ledger)] == ["REJECTED", "RECORD_SET_ASIDE", "REJECTED"]
        assert receiver.replayer.run() == 0

    def test_a_large_object_is_in_the_ledger_before_success(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is too large for the journal has its bytes in the spool and its row in the ledger, or is sent again."""
        spool = FakeSpool()
        receiver = self.receiver(ledger, spool, at_once=False)
        large = self.received(ledger, bytes(HELD_BYTES + 1))

        def away(*_: object) -> None:
            raise LedgerUnavailable

        with monkeypatch.context() as patched:
            patched.setattr(ledger.intake, "replay", away)
            assert hand_over(receiver, large) is StoreOutcome.NO_RESOURCES
        assert hand_over(receiver, large) is StoreOutcome.DUPLICATE, "the record of the first time has waited"
        assert ledger.queries.counts()["instances"] == 1
        assert len(spool.kept) == 1

    def test_another_encoding_of_what_is_here_is_no_conflict(self, ledger: Ledger) -> None:
        """The same elements in other bytes are a duplicate, and their bytes are kept as well."""
        spool = FakeSpool()
        receiver = self.receiver(ledger, spool)
        assert hand_over(receiver, self.received(ledger)) is StoreOutcome.STORED
        assert hand_over(receiver, self.received(ledger, b"DATA")) is StoreOutcome.STORED
        assert len(spool.kept) == 2
        assert ledger.series_states() == ["RECEIVING"]

    def test_other_elements_are_a_conflict_that_names_them(self, ledger: Ledger) -> None:
        """Both contents are kept; the reason says in which elements they differ."""
        spool = FakeSpool()
        receiver = self.receiver(ledger, spool)
        hand_over(receiver, self.received(ledger))
        assert hand_over(receiver, self.received(ledger, b"other")) is StoreOutcome.STORED
        assert ledger.series_states() == ["QUARANTINED"]
        assert len(spool.kept) == 2
        (reason,) = ledger.queries.study(ledger.study())["series"][0]["reasons"]
        assert reason.endswith("They differ in PixelData")

    def test_a_damaged_copy_is_never_the_same(self, ledger: Ledger) -> None:
        """When the copy that is here cannot be read, another content is a conflict and not refused."""
        spool = FakeSpool()
        receiver = self.receiver(ledger, spool)
        hand_over(receiver, self.received(ledger))
        spool.kept.clear()
        hand_over(receiver, self.received(ledger, b"DATA"))
        assert ledger.series_states() == ["QUARANTINED"]

    def test_what_cannot_be_read_is_refused_and_told(self, ledger: Ledger) -> None:
        """A truncated data set leaves no bytes and no row, but an event that says who sent it and why not."""
        spool = FakeSpool()
        receiver = self.receiver(ledger, spool, broken=True)
        assert hand_over(receiver, self.received(ledger)) is StoreOutcome.UNREADABLE
        assert not spool.kept
        assert self.events(ledger)[-1] == ("INSTANCE_REFUSED", "UNREADABLE")

    def test_command_and_data_set_must_name_the_same_instance(self, ledger: Ledger) -> None:
        """A data set that is another instance than its command says is refused (PS3.4 B.2.3)."""
        receiver = self.receiver(ledger, FakeSpool())
        assert hand_over(receiver, self.received(ledger, sop_uid="9.9")) is StoreOutcome.MISMATCH

    def test_the_nodes_own_object_is_answered_and_ignored(self, ledger: Ledger) -> None:
        """A result coming back from a PACS takes no room and opens no series."""
        own = ledger.result(ledger.written()).objects[0][0]
        spool, before = FakeSpool(), ledger.queries.counts()["instances"]
        identity = InstanceIdentity(own.sop_class_uid, own.sop_uid, "1.2", "5.5", "RTSTRUCT")
        receiver = self.receiver(ledger, spool, identity=identity)
        back = replace(self.received(ledger, sop_uid=own.sop_uid), sop_class_uid=own.sop_class_uid)
        assert hand_over(receiver, back) is StoreOutcome.STORED
        assert not spool.kept
        assert ledger.queries.counts()["instances"] == before

    @staticmethod
    def events(ledger: Ledger) -> list[tuple[str, str]]:
        """Events with their outcome."""
        from npc_rtnode.adapters.database.tables import EventRow

        with ledger.sessions.reading() as session:
            return [(row.event, row.detail.get("outcome", "")) for row in session.scalars(select(EventRow))]


class TestAssemble:
    how = "released"

    def run(self, ledger: Ledger, reader: FakeReader) -> list[str]:
        """Receive as many instances as the reader has slices, be quiet, assemble."""
        for slice_ in reader.slices or STACK:
            ledger.receive(slice_.sop_uid)
        ledger.end(self.how)
        ledger.later(QUIET_S + 1)
        assert Assembler(ledger.series, FakeSpool(), reader, lambda: ledger.now).run() == 1
        return ledger.series_states()

    def test_a_quiet_whole_stack_is_complete(self, ledger: Ledger) -> None:
        """Quiet and geometrically whole closes a series, and says so."""
        assert self.run(ledger, FakeReader(STACK)) == ["COMPLETE"]
        assert "geometrically whole; 12" in ledger.queries.study(ledger.study())["series"][0]["closed_because"]

    def test_a_gap_is_named_and_stalls(self, ledger: Ledger) -> None:
        """A series with a missing inner slice is STALLED with GAP among its reasons."""
        assert self.run(ledger, FakeReader([s for s in STACK if s.sop_uid != "1.2.3.6"])) == ["STALLED"]
        assert ledger.queries.study(ledger.study())["series"][0]["reasons"][0].startswith("GAP")

    def test_two_patients_in_one_series_are_quarantined(self, ledger: Ledger) -> None:
        """A series that mixes patients can never be used."""
        assert self.run(ledger, FakeReader([*STACK[:-1], header(12, patient_key="other")])) == ["QUARANTINED"]

    def test_what_will_never_be_a_stack_goes_on_to_selection(self, ledger: Ledger) -> None:
        """A localizer is complete as it is; selection will say why it is not for the node."""
        crossing = [header(n, orientation=(0.0, 1.0, 0.0, 0.0, 0.0, -1.0)) for n in range(1, 4)]
        assert self.run(ledger, FakeReader([*STACK, *crossing])) == ["COMPLETE"]

    @pytest.mark.parametrize("how", ["aborted", "lost"])
    def test_a_whole_looking_part_of_an_aborted_transfer_stalls(self, ledger: Ledger, how: str) -> None:
        """Twelve even slices of an association that was cut short may be twelve of twenty: never inferred unasked."""
        self.how = how
        assert self.run(ledger, FakeReader(STACK)) == ["STALLED"]
        reasons = ledger.queries.study(ledger.study())["series"][0]["reasons"]
        assert [reason.split(":")[0] for reason in reasons] == ["ABORTED"]
        assert "taken" not in ledger.desk.release(ledger.study(), ledger.word())[0]
        assert ledger.series_states() == ["COMPLETE"]

    @pytest.mark.parametrize("error", [MemoryError(), ZeroDivisionError("ROENTGEN^WILHELM"), Unreadable("EIO")])
    def test_a_hiccup_is_looked_at_again_and_the_third_sets_apart(self, ledger: Ledger, error: Exception) -> None:
        """What goes wrong once passes; what goes wrong three times is quarantined, told by its code or type alone."""
        reader = FakeReader([], error=error)
        assert self.run(ledger, reader) == ["RECEIVING"]
        assembler = Assembler(ledger.series, FakeSpool(), reader, lambda: ledger.now)
        for _ in range(2):
            assert assembler.run() == 0
            ledger.later(4000)
            assembler.run()
        assert ledger.series_states() == ["QUARANTINED"]
        assert "ROENTGEN" not in str(ledger.queries.study(ledger.study()))

    def test_a_hiccup_that_passes_leaves_nothing_behind(self, ledger: Ledger) -> None:
        """After one failed look the next good one closes the series."""
        self.run(ledger, FakeReader([], error=MemoryError()))
        ledger.later(4000)
        Assembler(ledger.series, FakeSpool(), FakeReader(STACK), lambda: ledger.now).run()
        assert ledger.series_states() == ["COMPLETE"]


class TestSelect:
    def choose(self, ledger: Ledger, values: dict[str, str], called: frozenset[str] = frozenset()) -> dict[str, Any]:
        """Judge the one complete series; the series as `studies show` tells it."""
        policy = self.policy(RULES, called)
        Selector(ledger.studies, FakeSpool(), FakeReader(STACK, values), policy, lambda: ledger.now).run()
        return dict(ledger.queries.study(ledger.study())["series"][-1])

    @staticmethod
    def policy(rules: RuleSet, called: frozenset[str] = frozenset()) -> Policy:
        """Today's policy."""
        return Policy(rules, called, (r"\bNPC\b",), lambda: STATEMENT, "s" * 64)

    def test_an_eligible_indicated_series_gets_a_job(self, ledger: Ledger) -> None:
        """Both rules true: selected, one job, and every verdict stored with what decided it."""
        ledger.complete_series()
        series = self.choose(ledger, ELIGIBLE)
        assert series["state"] == "SELECTED"
        assert [job["state"] for job in series["jobs"]] == ["QUEUED"]
        assert [(v["rule"], v["truth"]) for v in series["verdicts"]] == [
            ("modality", "TRUE"),
            ("contrast", "TRUE"),
            ("indication", "TRUE"),
        ]
        assert series["rules_hash"] == RULES.hash

    def test_a_false_rule_sets_aside_with_its_reason(self, ledger: Ledger) -> None:
        """What the rules refuse is set aside, and the reason names the rule and the value."""
        ledger.complete_series()
        series = self.choose(ledger, {**ELIGIBLE, "Modality": "CT"})
        assert (series["state"], series["jobs"]) == ("SET_ASIDE", [])
        assert "modality" in series["reasons"][0]
        assert "CT" in series["reasons"][0]

    def test_a_missing_tag_holds_and_an_operator_decides(self, ledger: Ledger) -> None:
        """UNKNOWN is neither yes nor no: held, and after a person's word selected on that word."""
        ledger.complete_series()
        without = {k: v for k, v in ELIGIBLE.items() if k != "ContrastBolusAgent"}
        assert self.choose(ledger, without)["state"] == "HELD"
        ledger.desk.release(ledger.study(), ledger.word())
        series = self.choose(ledger, without)
        assert series["state"] == "SELECTED"

    def test_a_word_covers_the_doubts_that_were_told_and_no_others(self, ledger: Ledger) -> None:
        """Releasing a missing contrast tag says nothing about the indication, which still holds the series."""
        ledger.complete_series()
        without = {"Modality": "MR", "StudyDescription": "MR NPC"}
        assert self.choose(ledger, without)["state"] == "HELD"
        ledger.desk.release(ledger.study(), ledger.word())
        series = self.choose(ledger, {"Modality": "MR", "StudyDescription": "MR brain"})
        assert series["state"] == "HELD"
        assert [reason.split(":")[0] for reason in series["reasons"]] == ["INDICATION_UNKNOWN"]

    def test_an_indication_by_a_persons_word_names_nobody(self, ledger: Ledger) -> None:
        """The indication that goes into the objects says that a person released it, not who or why."""
        ledger.complete_series()
        self.choose(ledger, {**ELIGIBLE, "StudyDescription": "x"})
        ledger.desk.release(ledger.study(), ledger.word())
        series = self.choose(ledger, {**ELIGIBLE, "StudyDescription": "x"})
        assert series["state"] == "SELECTED"
        assert "ada" not in series["jobs"][0]["indication"]

    def test_a_second_candidate_of_a_study_is_held(self, ledger: Ledger) -> None:
        """Two eligible series in one study would give two structure sets of one tumour: a person chooses."""
        ledger.queued_job()
        ledger.complete_series(series_uid="1.2.4")
        series = self.choose(ledger, ELIGIBLE)
        assert series["state"] == "HELD"
        assert series["reasons"][0].startswith("SECOND_CANDIDATE: series 1 ")
        ledger.desk.release(ledger.study(), ledger.word(), Only(series=2))
        assert self.choose(ledger, ELIGIBLE)["state"] == "SELECTED"

    @pytest.mark.parametrize(
        ("named", "said"),
        [
            (("1.2.3.1", "1.2.3.2"), "structure set: matched 2 of 2 referenced images, in series 1"),
            (("1.2.3.1", "9.9"), "structure set: matched 1 of 2 referenced images, in series 1; 1 not here"),
            ((), "structure set: it references no image"),
        ],
    )
    def test_a_structure_set_is_set_aside_with_its_images(
        self, ledger: Ledger, named: tuple[str, ...], said: str
    ) -> None:
        """An RTSTRUCT starts no job though every rule were true, and its first reason says where its images lie."""
        ledger.complete_series()
        ledger.complete_series(count=1, series_uid="1.2.5", modality="RTSTRUCT")
        reader = FakeReader(STACK, ELIGIBLE, named=named)
        Selector(ledger.studies, FakeSpool(), reader, self.policy(RULES), lambda: ledger.now).run()
        _, series = ledger.queries.study(ledger.study())["series"]
        assert (series["state"], series["jobs"]) == ("SET_ASIDE", [])
        assert series["reasons"][0] == said

    def test_an_unstated_indication_holds(self, ledger: Ledger) -> None:
        """A perfect series of a study that nobody called NPC is held for a person."""
        ledger.complete_series()
        series = self.choose(ledger, {**ELIGIBLE, "StudyDescription": "MR brain"})
        assert series["state"] == "HELD"
        assert series["reasons"][0].startswith("INDICATION_UNKNOWN")

    def test_a_called_ae_meant_for_npc_states_the_indication(self, ledger: Ledger) -> None:
        """Routing to the NPC title is enough."""
        ledger.complete_series()
        series = self.choose(ledger, {**ELIGIBLE, "StudyDescription": "x"}, frozenset({"NPC_RTNODE"}))
        assert series["state"] == "SELECTED"

    def test_an_operators_word_never_beats_a_false_rule(self, ledger: Ledger) -> None:
        """A person may lift a doubt, not turn a CT into an MR."""
        ledger.complete_series()
        self.choose(ledger, {**ELIGIBLE, "StudyDescription": "x"})
        ledger.desk.release(ledger.study(), ledger.word())
        assert self.choose(ledger, {**ELIGIBLE, "Modality": "CT"})["state"] == "SET_ASIDE"

    def test_a_ledger_that_is_away_while_a_series_is_judged_decides_nothing(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The study stays as it is and is judged at the next look; no series is held for the ledger's sake."""
        ledger.complete_series()
        ledger.complete_series(count=1, series_uid="1.2.5", modality="RTSTRUCT")
        reader = FakeReader(STACK, ELIGIBLE, named=("1.2.3.1",))
        selector = Selector(ledger.studies, FakeSpool(), reader, self.policy(RULES), lambda: ledger.now)

        def away(*_: object) -> dict[str, int]:
            raise LedgerUnavailable

        with monkeypatch.context() as patch:
            patch.setattr(ledger.studies, "whereabouts", away)
            assert selector.run() == 1
        assert ledger.series_states() == ["COMPLETE", "COMPLETE"]
        selector.run()
        assert ledger.series_states() == ["SELECTED", "SET_ASIDE"]

    @pytest.mark.parametrize("error", [BundleFault("weights: gone"), NodeStopping(), DiskLow()])
    def test_a_bundle_that_is_away_leaves_the_study_waiting(self, ledger: Ledger, error: NodeError) -> None:
        """Nothing is wrong with the series: it stays COMPLETE and is ordered when the bundle is back."""
        ledger.complete_series()
        answers: list[NodeError | None] = [error, None]

        def bundle() -> BundleStatement:
            if answer := answers.pop(0):
                raise answer
            return STATEMENT

        policy = replace(self.policy(RULES), bundle=bundle)
        reader = FakeReader(STACK, ELIGIBLE)
        selector = Selector(ledger.studies, FakeSpool(), reader, policy, lambda: ledger.now)
        selector.run()
        (series,) = ledger.queries.study(ledger.study())["series"]
        assert (series["state"], series["reasons"]) == ("COMPLETE", [])
        selector.run()
        assert ledger.series_states() == ["SELECTED"]

    def test_a_series_that_breaks_the_judge_is_held(self, ledger: Ledger) -> None:
        """An unexpected error waits for a person; no lane stops."""
        ledger.complete_series()
        reader = FakeReader(STACK, error=RuntimeError("ROENTGEN"))
        Selector(ledger.studies, FakeSpool(), reader, self.policy(RULES), lambda: ledger.now).run()
        assert ledger.series_states() == ["HELD"]


def told_by_show(ledger: Ledger) -> str:
    """What `studies show` prints of the study."""
    return str(studies._rows(ledger.queries.study(ledger.study())))


def told_by_why(ledger: Ledger) -> str:
    """What `why` prints of it."""
    return "\n".join(studies._story(ledger.queries.study(ledger.study()), []))


@dataclass
class StudyReader(FakeReader):
    """Other values for each series of a study; every series has one instance, `<series UID>.1`."""

    series: dict[str, dict[str, Any]] = field(default_factory=dict)

    def attributes(self, files: Sequence[Path], keywords: Sequence[str]) -> SeriesAttributes:
        """The values of the series that the files belong to; an exception instead is raised."""
        of_file = {digest_of([f"{uid}.1", ""]): values for uid, values in self.series.items()}
        values = of_file[files[0].name]
        if isinstance(values, Exception):
            raise values
        self.values = values
        return super().attributes(files, keywords)


class TestSelectInAStudy:
    quiet_s = 60.0
    ranked = load_rules(
        {
            "name": "t",
            "role": "t1c",
            "clauses": [{"name": "modality", "tag": "Modality", "op": "equals", "value": "MR"}],
            "prefer": [
                {"name": "contrast said", "tag": "SeriesDescription", "op": "matches", "value": "C"},
                {"name": "short echo", "tag": "EchoTime", "order": "lower"},
            ],
        },
        lambda keyword: {"Modality": "CS", "SeriesDescription": "LO", "EchoTime": "DS"}.get(keyword),
    )
    unranked = replace(ranked, preferences=())
    plain, good, better = (
        {"Modality": "MR", "SeriesDescription": description, "EchoTime": echo, "StudyDescription": "MR NPC"}
        for description, echo in (("T1", 10.0), ("T1 C", 12.0), ("T1 C", 8.0))
    )

    @pytest.fixture
    def study(self, ledger: Ledger) -> Ledger:
        """A ledger whose studies have a quiet time."""
        ledger.studies = StudyLedger(ledger.sessions, self.quiet_s)
        ledger.queries = Queries(ledger.sessions, self.quiet_s)
        return ledger

    def receive(self, ledger: Ledger, *uids: str) -> None:
        """One instance of each series; then the association ends."""
        for uid in uids:
            ledger.receive(f"{uid}.1", uid)
        ledger.end()

    def assemble(self, ledger: Ledger) -> None:
        """Close what is quiet."""
        for series in ledger.series.quiet(ledger.now):
            assert ledger.series.close(series, Closing(Event.CLOSED_WHOLE, "quiet and whole"), ledger.now)

    def select(self, ledger: Ledger, called: frozenset[str] = frozenset(), **series: Any) -> dict[str, str]:
        """One look; the state of each series by its UID."""
        reader = StudyReader(STACK, series={f"9.{name[1:]}": values for name, values in series.items()})
        policy = Policy(self.ranked, called, (r"\bNPC\b",), lambda: STATEMENT, SETTINGS)
        Selector(ledger.studies, FakeSpool(), reader, policy, lambda: ledger.now).run()
        return {f"s{view['series_uid'][2:]}": view["state"] for view in self.views(ledger)}

    @staticmethod
    def views(ledger: Ledger) -> list[dict[str, Any]]:
        """The series of the study."""
        return list(ledger.queries.study(ledger.study())["series"])

    def settled(self, ledger: Ledger, *uids: str) -> None:
        """Series that came together, closed, of a study that is quiet."""
        self.receive(ledger, *uids)
        ledger.later(self.quiet_s + 1)
        self.assemble(ledger)

    def test_nothing_is_judged_before_the_study_is_quiet(self, study: Ledger) -> None:
        """A complete series waits for the others of its study; `studies show` tells until when."""
        self.receive(study, "9.1")
        study.later(QUIET_S + 1)
        self.assemble(study)
        assert self.select(study, s1=self.good) == {"s1": "COMPLETE"}
        assert self.views(study)[0]["waits"] == "waiting for the study to settle until 12:01:00 UTC"
        assert study.studies.next_settling(study.now) == NOON + timedelta(seconds=60)
        for told in (told_by_show(study), told_by_why(study)):
            assert "waiting for the study to settle until 12:01:00 UTC" in told
        study.later(29)
        assert self.select(study, s1=self.good) == {"s1": "SELECTED"}
        assert self.views(study)[0]["waits"] is None
        assert study.studies.next_settling(study.now) is None

    def test_a_series_that_is_still_coming_is_waited_for(self, study: Ledger) -> None:
        """Quiet or not: while another series of the study is RECEIVING nothing is chosen."""
        self.settled(study, "9.1")
        study.receive("9.2.1", "9.2")
        assert self.select(study, s1=self.plain) == {"s1": "COMPLETE", "s2": "RECEIVING"}
        assert "waiting for series 2 of the study" in self.views(study)[0]["waits"]
        study.end()
        study.later(self.quiet_s + 1)
        self.assemble(study)
        assert self.select(study, s1=self.plain, s2=self.good) == {"s1": "SET_ASIDE", "s2": "SELECTED"}

    def test_a_stalled_series_is_not_waited_for(self, study: Ledger) -> None:
        """A part that may never be mended keeps no other series waiting."""
        self.receive(study, "9.1", "9.2")
        study.later(self.quiet_s + 1)
        whole, part = study.series.quiet(study.now)
        study.series.close(whole, Closing(Event.CLOSED_WHOLE, "quiet and whole"), study.now)
        study.series.close(part, Closing(Event.CLOSED_PARTIAL, "a gap", ("GAP: at 7",)), study.now)
        assert self.select(study, s1=self.good) == {"s1": "SELECTED", "s2": "STALLED"}

    def test_the_best_candidate_gets_the_job_and_the_others_say_why_not(self, study: Ledger) -> None:
        """One job for the study; each outranked series names the preferred one and the preference."""
        self.settled(study, "9.1", "9.2", "9.3")
        states = self.select(study, s1=self.plain, s2=self.good, s3=self.better)
        assert states == {"s1": "SET_ASIDE", "s2": "SET_ASIDE", "s3": "SELECTED"}
        plain, good, better = self.views(study)
        assert plain["reasons"][0].startswith("OUTRANKED: series 3 of this study is preferred; contrast said: ")
        assert good["reasons"][0].endswith("short echo: EchoTime is 8 there, EchoTime is 12 here")
        assert [len(view["jobs"]) for view in (plain, good, better)] == [0, 0, 1]
        told = [(v["truth"], v["because"]) for v in better["verdicts"] if v["rule"] == "rank"]
        assert told == [("TRUE", "preferred to series 1, 2 of this study")]

    def test_a_tie_is_held_and_a_word_picks_exactly_one(self, study: Ledger) -> None:
        """Both are held, each naming both; releasing one selects it and sets the other aside."""
        self.settled(study, "9.1", "9.2")
        assert self.select(study, s1=self.good, s2=self.good) == {"s1": "HELD", "s2": "HELD"}
        assert {view["reasons"][0] for view in self.views(study)} == {
            "TIE: series 1, 2 of this study are equal by every preference of the rules"
        }
        study.desk.release(study.study(), study.word(), Only(series=2))
        assert self.select(study, s1=self.good, s2=self.good) == {"s1": "SET_ASIDE", "s2": "SELECTED"}
        assert self.views(study)[0]["reasons"] == ["OUTRANKED: a person picked series 2"]

    def test_a_better_one_dissolves_a_tie(self, study: Ledger) -> None:
        """What is held only for want of a preference is judged again with the series that comes later."""
        self.settled(study, "9.1", "9.2")
        self.select(study, s1=self.good, s2=self.good)
        self.settled(study, "9.3")
        states = self.select(study, s1=self.good, s2=self.good, s3=self.better)
        assert states == {"s1": "SET_ASIDE", "s2": "SET_ASIDE", "s3": "SELECTED"}

    def test_a_worse_one_leaves_a_tie_as_it_is(self, study: Ledger) -> None:
        """The tie stays held, without another event for it; the worse one is set aside."""
        self.settled(study, "9.1", "9.2")
        self.select(study, s1=self.good, s2=self.good)
        self.settled(study, "9.3")
        before = [event for event in study.queries.history(study.study()) if event["subject"] == "series 1"]
        states = self.select(study, s1=self.good, s2=self.good, s3=self.plain)
        assert states == {"s1": "HELD", "s2": "HELD", "s3": "SET_ASIDE"}
        assert before == [event for event in study.queries.history(study.study()) if event["subject"] == "series 1"]

    @pytest.mark.parametrize(
        ("values", "state", "code"),
        [("better", "HELD", "SECOND_CANDIDATE"), ("plain", "SET_ASIDE", "OUTRANKED")],
    )
    def test_after_a_choice_a_late_candidate_never_takes_over(
        self, study: Ledger, values: str, state: str, code: str
    ) -> None:
        """The job that exists goes on; a late better series waits for a person, a late worse one is set aside."""
        self.settled(study, "9.1")
        self.select(study, s1=self.good)
        self.settled(study, "9.2")
        assert self.select(study, s1=self.good, s2=getattr(self, values)) == {"s1": "SELECTED", "s2": state}
        assert self.views(study)[1]["reasons"][0].startswith(f"{code}: series 1 ")

    def test_an_outranked_series_comes_back_by_name_only(self, study: Ledger) -> None:
        """Release without a name finds nothing; by name it comes back, and asks once more since one is selected."""
        self.settled(study, "9.1", "9.2")
        self.select(study, s1=self.plain, s2=self.good)
        with pytest.raises(NotFound):
            study.desk.release(study.study(), study.word())
        study.desk.release(study.study(), study.word(), Only(series=1))
        assert self.select(study, s1=self.plain, s2=self.good) == {"s1": "HELD", "s2": "SELECTED"}
        assert self.views(study)[0]["reasons"][0].startswith("SECOND_CANDIDATE: series 2 ")
        study.desk.release(study.study(), study.word(), Only(series=1))
        assert self.select(study, s1=self.plain, s2=self.good) == {"s1": "SELECTED", "s2": "SELECTED"}

    def test_a_series_that_a_rule_refused_is_released_by_nobody(self, study: Ledger) -> None:
        """A word lifts a preference, not a rule."""
        self.settled(study, "9.1")
        assert self.select(study, s1={**self.good, "Modality": "CT"}) == {"s1": "SET_ASIDE"}
        with pytest.raises(NotFound):
            study.desk.release(study.study(), study.word(), Only(series=1))

    def test_reprocessing_keeps_what_a_person_picked(self, study: Ledger) -> None:
        """The study judged anew by the same rules comes to the same: the word on the tie stands."""
        self.settled(study, "9.1", "9.2")
        self.select(study, s1=self.good, s2=self.good)
        study.desk.release(study.study(), study.word(), Only(series=2))
        self.select(study, s1=self.good, s2=self.good)
        study.desk.reconsider(study.study(), study.word())
        assert self.select(study, s1=self.good, s2=self.good) == {"s1": "SET_ASIDE", "s2": "SELECTED"}

    def test_the_outranked_need_no_word_on_the_indication(self, study: Ledger) -> None:
        """Of two candidates of a study that nobody called NPC one is held, the other set aside: one word is enough."""
        unsaid = {"StudyDescription": "MR neck"}
        series = {"s1": {**self.plain, **unsaid}, "s2": {**self.good, **unsaid}}
        self.settled(study, "9.1", "9.2")
        assert self.select(study, **series) == {"s1": "SET_ASIDE", "s2": "HELD"}
        study.desk.release(study.study(), study.word())
        assert self.select(study, **series) == {"s1": "SET_ASIDE", "s2": "SELECTED"}

    def deliver(self, ledger: Ledger) -> str:
        """Take the one queued job through to the destinations; the state that its result was committed in."""
        ledger.predicted()
        job = ledger.in_hand(JobState.PREDICTED, "write")
        state = ledger.work.commit_result(job.lease, ledger.result(job), ledger.now)
        for destination in ("tps", "pacs"):
            while delivery := ledger.work.claim_delivery(destination, ledger.now, 60):
                ledger.work.sent(delivery.lease, SendReceipt(0, False, ledger.now))
        return str(state)

    def late(self, ledger: Ledger, event: Event = Event.CLOSED_WHOLE, *others: str) -> None:
        """One more instance of the first series, beside other series; all close, the first one as said."""
        ledger.receive("9.1.2", "9.1")
        self.receive(ledger, *others)
        ledger.later(self.quiet_s + 1)
        for series in ledger.series.quiet(ledger.now):
            closing = Closing(event if series.series_uid == "9.1" else Event.CLOSED_WHOLE, "as told")
            assert ledger.series.close(series, closing, ledger.now)

    def test_a_better_series_waits_behind_a_delivered_one(self, study: Ledger) -> None:
        """A late slice of what was delivered and a better series: the better result is held, never sent unasked."""
        self.settled(study, "9.1")
        self.select(study, s1=self.good)
        assert self.deliver(study) == "WRITTEN"
        self.late(study, Event.CLOSED_WHOLE, "9.2")
        assert self.select(study, s1=self.good, s2=self.better)["s2"] == "SELECTED"
        assert self.deliver(study) == "HELD"
        assert newest_job(study)["reasons"][0].startswith("SUPERSEDES_DELIVERED: another result of this study")

    def test_other_preferences_deliver_no_second_result_unasked(self, study: Ledger) -> None:
        """Reprocessed by rules that prefer the other series, its result is held beside the delivered one."""
        self.settled(study, "9.1", "9.2")
        self.select(study, s1=self.good, s2=self.plain)
        assert self.deliver(study) == "WRITTEN"
        study.desk.reconsider(study.study(), study.word())
        assert self.select(study, s1=self.plain, s2=self.good) == {"s1": "SET_ASIDE", "s2": "SELECTED"}
        assert self.deliver(study) == "HELD"

    def test_what_was_held_beside_another_is_compared_with_its_next_revision(self, study: Ledger) -> None:
        """A better series that came late takes part again when the selected one has to be judged anew."""
        self.settled(study, "9.1")
        self.select(study, s1=self.good)
        self.settled(study, "9.2")
        assert self.select(study, s1=self.good, s2=self.better)["s2"] == "HELD"
        self.late(study)
        self.select(study, s1=self.good, s2=self.better)
        assert study.series_states() == ["SUPERSEDED", "SELECTED", "SET_ASIDE"]
        assert self.views(study)[2]["reasons"][0].startswith("OUTRANKED: series 2 ")

    def test_a_series_without_an_indication_is_compared_with_later_ones(self, study: Ledger) -> None:
        """A doubt for whom it is takes no series out of the ranking: a worse one that comes later is set aside."""
        unsaid = {**self.better, "StudyDescription": "MR neck"}
        self.settled(study, "9.1")
        assert self.select(study, s1=unsaid) == {"s1": "HELD"}
        self.settled(study, "9.2")
        assert self.select(study, s1=unsaid, s2=self.good) == {"s1": "HELD", "s2": "SET_ASIDE"}

    def test_the_outranked_take_part_when_the_preferred_is_judged_anew(self, study: Ledger) -> None:
        """The next revision of the selected series no longer passes a rule: the second best goes on."""
        self.settled(study, "9.1", "9.2", "9.3")
        self.select(study, s1=self.better, s2=self.good, s3=self.plain)
        self.late(study)
        self.select(study, s1={**self.better, "Modality": "CT"}, s2=self.good, s3=self.plain)
        assert study.series_states() == ["SUPERSEDED", "SELECTED", "SET_ASIDE", "SET_ASIDE"]
        assert self.views(study)[2]["reasons"][0].startswith("OUTRANKED: series 2 ")

    @pytest.mark.parametrize("values", ["good", "better"])
    def test_a_preferred_series_that_stalls_makes_way(self, study: Ledger, values: str) -> None:
        """Set aside or held behind it, the other is judged again; not before the next revision has shown its end."""
        self.settled(study, "9.1")
        self.select(study, s1=self.good)
        self.settled(study, "9.2")
        second = {"good": self.plain, "better": self.better}[values]
        before = self.select(study, s1=self.good, s2=second)["s2"]
        study.receive("9.1.2", "9.1")
        assert self.select(study, s1=self.good, s2=second) == {"s1": "RECEIVING", "s2": before}
        self.late(study, Event.CLOSED_PARTIAL)
        self.select(study, s1=self.good, s2=second)
        assert study.series_states() == ["SUPERSEDED", "SELECTED", "STALLED"]

    @pytest.mark.parametrize(("delivered", "came_to"), [(False, "WRITTEN"), (True, "HELD")])
    def test_a_preferred_series_in_conflict_makes_way(self, study: Ledger, delivered: bool, came_to: str) -> None:
        """The second best is judged when the first is quarantined; beside a delivered result its own one is held."""
        self.settled(study, "9.1", "9.2")
        self.select(study, s1=self.good, s2=self.plain)
        if delivered:
            self.deliver(study)
        study.receive("9.1.1", "9.1", content="other")
        study.later(self.quiet_s + 1)
        assert self.select(study, s1=self.good, s2=self.plain) == {"s1": "QUARANTINED", "s2": "SELECTED"}
        assert self.deliver(study) == came_to

    @pytest.mark.parametrize("second", ["plain", "good", "better"])
    def test_one_word_takes_another_series_when_nothing_came_of_the_first(self, study: Ledger, second: str) -> None:
        """No switch by itself; `why` names the verb, one word is enough, and only one series keeps a job."""
        values = {"s1": self.good, "s2": getattr(self, second)}
        self.settled(study, "9.1")
        self.select(study, **values)
        self.settled(study, "9.2")
        self.select(study, **values)
        assert "takes this one instead" not in told_by_why(study)
        study.work.failed(study.in_hand(JobState.QUEUED, "infer").lease, GiveUp("PIXELS_REFUSED: grey"), study.now)
        assert self.select(study, **values)["s1"] == "SELECTED"
        assert "nothing came of series 1: `npc-rtnode release --series 2` takes this one instead" in told_by_why(study)
        study.desk.release(study.study(), study.word(), Only(series=2))
        assert self.select(study, **values) == {"s1": "SET_ASIDE", "s2": "SELECTED"}
        assert [job["state"] for view in self.views(study) for job in view["jobs"]] == ["FAILED", "QUEUED"]

    def test_one_word_takes_the_other_of_a_tie_when_nothing_came_of_the_picked(self, study: Ledger) -> None:
        """The later word counts: the series that was passed over goes on, the one picked first is set aside."""
        self.settled(study, "9.1", "9.2")
        self.select(study, s1=self.good, s2=self.good)
        study.desk.release(study.study(), study.word(), Only(series=2))
        self.select(study, s1=self.good, s2=self.good)
        study.work.failed(study.in_hand(JobState.QUEUED, "infer").lease, GiveUp("PIXELS_REFUSED: grey"), study.now)
        study.desk.release(study.study(), study.word(), Only(series=1))
        assert self.select(study, s1=self.good, s2=self.good) == {"s1": "SELECTED", "s2": "SET_ASIDE"}

    def test_one_broken_series_holds_no_other(self, study: Ledger) -> None:
        """What cannot be read is set aside, what breaks the judge is held, and no word makes it a candidate."""
        self.settled(study, "9.1", "9.2", "9.3")
        series = {"s1": RuntimeError("ROENTGEN"), "s2": self.good, "s3": Unreadable("cut off")}
        assert self.select(study, **series) == {"s1": "HELD", "s2": "SELECTED", "s3": "SET_ASIDE"}
        study.desk.release(study.study(), study.word(), Only(series=1))
        assert self.select(study, **series)["s1"] == "HELD"
        assert "ROENTGEN" not in str(self.views(study))

    def test_a_replay_tells_what_would_change_and_changes_nothing(self, study: Ledger) -> None:
        """By the same rules nothing would; by rules without preferences the chosen one and the outranked one tie."""
        self.settled(study, "9.1", "9.2")
        self.select(study, s1=self.plain, s2=self.good)
        before = study.queries.history(study.study())
        reader = StudyReader(STACK, series={"9.1": self.plain, "9.2": self.good})
        for rules, would_be in (
            (self.ranked, {1: "SET_ASIDE", 2: "SELECTED"}),
            (self.unranked, {1: "HELD", 2: "HELD"}),
        ):
            pages = Rehearsal(study.studies, NOON)
            policy = Policy(rules, frozenset(), (r"\bNPC\b",), lambda: STATEMENT, SETTINGS)
            Selector(pages, FakeSpool(), reader, policy, lambda: study.now).run()
            assert {one["series"]: one["would_be"] for one in pages.found} == would_be
            assert {one["series"]: one["was"] for one in pages.found} == {1: "SET_ASIDE", 2: "SELECTED"}
        assert study.queries.history(study.study()) == before
        assert study.studies.judged(NOON + timedelta(days=1)) == []

    def test_a_choice_on_a_study_that_has_changed_counts_for_nothing(self, study: Ledger) -> None:
        """A late slice that reopens one of the series makes the whole choice void; nothing of it is recorded."""
        self.settled(study, "9.1", "9.2")
        (seen,) = study.studies.settled(study.now)
        study.receive("9.1.2", "9.1")
        choices = [(series, Choice(Event.SET_ASIDE, (), ("x: y",), "r" * 64)) for series in seen.complete]
        assert study.studies.choose(choices, study.now) is False
        assert study.series_states() == ["SUPERSEDED", "COMPLETE", "RECEIVING"]


class TestInfer:
    def run(self, ledger: Ledger, predictor: FakePredictor | None = None, reader: FakeReader | None = None) -> str:
        """One look of the infer lane."""
        if not ledger.queries.studies():
            ledger.queued_job()
        self.store = FakeStore()
        stage = Inferrer(
            ledger.work,
            FakeSpool(),
            reader or FakeReader(STACK),
            predictor or FakePredictor(),
            self.store,
            SETTINGS,
            barrier(ledger),
        )
        assert stage.run()
        return ledger.job_state()

    def test_the_answer_is_stored_before_it_is_believed(self, ledger: Ledger) -> None:
        """PREDICTED means that the prediction can be loaded, and the report's numbers stand in the ledger."""
        assert self.run(ledger) == "PREDICTED"
        job = newest_job(ledger)
        assert self.store.load(job["work_key"]) is not None
        assert (job["results"]["stage"], job["results"]["volume_cc"]) == ("T2", 0.32)  # 64 voxels of 5 mm3

    @pytest.mark.parametrize("empty", [False, True])
    def test_where_it_was_computed_is_recorded(self, ledger: Ledger, empty: bool) -> None:
        """The rung that answered, and those that had too little memory: in the results and in the chain of events."""
        ran = "cpu, after out of memory on cuda (no device memory)"
        assert self.run(ledger, FakePredictor(empty=empty, ran_on=ran)) == ("HELD" if empty else "PREDICTED")
        assert newest_job(ledger)["results"]["ran_on"] == ran
        told = [event["detail"].get("ran_on") for event in ledger.queries.history(ledger.study())]
        assert told[-1] == ran
        assert ledger.queries.chain_is_whole()

    def test_an_empty_mask_is_held_and_nobody_may_release_it(self, ledger: Ledger) -> None:
        """No outline is never "no tumour"."""
        assert self.run(ledger, FakePredictor(empty=True)) == "HELD"
        job = newest_job(ledger)
        assert job["reasons"][0].startswith("EMPTY_MASK")
        assert job["releasable"] is False

    def test_a_crash_is_tried_again_later(self, ledger: Ledger) -> None:
        """A dead child postpones the job; the time of the next try stands in the row."""
        assert self.run(ledger, FakePredictor(error=InferenceCrashed("exit -9"))) == "QUEUED"
        assert "INFERENCE_CRASHED" in newest_job(ledger)["last_error"]
        assert ledger.work.claim_job("QUEUED", "infer", ledger.now, 60) is None  # type: ignore[arg-type]

    @pytest.mark.parametrize("error", [GeometryRefused("GAP"), IndexError("ROENTGEN^WILHELM")])
    def test_what_time_cannot_mend_fails_with_its_code(self, ledger: Ledger, error: Exception) -> None:
        """A refused geometry or a bug ends the job FAILED; no identity enters the ledger."""
        assert self.run(ledger, FakePredictor(error=error)) == "FAILED"
        assert "ROENTGEN" not in newest_job(ledger)["last_error"]

    @pytest.mark.parametrize("error", [BundleFault("damaged"), DiskLow("ENOSPC"), NodeStopping()])
    def test_what_is_wrong_with_the_house_makes_the_job_wait(self, ledger: Ledger, error: Exception) -> None:
        """A damaged bundle, a full disk or a stop costs no try, however often: the job waits until it is mended."""
        for _ in range(7):
            assert self.run(ledger, FakePredictor(error=error)) == "QUEUED"
            ledger.later(7000)
        assert ledger.in_hand(JobState.QUEUED, "infer").lease.attempts == 1

    def test_a_job_of_another_bundle_is_ordered_anew(self, ledger: Ledger) -> None:
        """When the bundle was changed under a queued job, that job is called off and its series judged again."""
        assert self.run(ledger, FakePredictor(bundle=replace(STATEMENT, sha256="c" * 64))) == "CANCELLED"
        assert ledger.series_states() == ["COMPLETE"]


class TestWrite:
    def run(self, ledger: Ledger, **changes: Any) -> str:
        """A predicted job, then one look of the write lane."""
        phantom = changes.pop("phantom", False)
        bundle = changes.pop("bundle", STATEMENT)
        self.objects = changes.pop("objects", FakeObjects())
        infer = TestInfer()
        infer.run(ledger, FakePredictor(bundle=bundle))
        for slice_ in STACK:
            self.spooled(ledger, slice_.sop_uid)
        stage = Writer(
            pages=ledger.work,
            spool=FakeSpool(),
            outbox=FakeSpool(),
            reader=FakeReader(changes.pop("slices", self.slices(ledger)), phantom=phantom),
            store=infer.store if changes.pop("stored", True) else FakeStore(),
            objects=self.objects,
            letterhead=Letterhead(ContentSettings(), "+0000", "here", "1"),
            settings_hash=changes.pop("settings_hash", SETTINGS),
            destinations=changes.pop("destinations", (TPS, PACS)),
            barrier=barrier(ledger),
            qa=changes.pop("qa", NO_QA),
        )
        assert stage.run()
        return ledger.job_state()

    def spooled(self, ledger: Ledger, sop_uid: str) -> None:
        """Inputs are what `queued_job` received; nothing more is needed."""

    def slices(self, ledger: Ledger) -> list[Any]:
        """A stack whose instances are among the job's inputs, repeated to make eight."""
        return [replace(header(n), sop_uid=f"1.2.3.{(n - 1) % 3 + 1}") for n in range(1, 13)]

    def test_a_proven_result_is_written_and_owed(self, ledger: Ledger) -> None:
        """Objects, deliveries and state come in one transaction; each destination is owed what it wants."""
        assert self.run(ledger) == "WRITTEN"
        job = newest_job(ledger)
        owed = [(o["kind"], d["destination"]) for o in job["objects"] for d in o["deliveries"]]
        assert owed == [("RTSTRUCT", "tps"), ("RTSTRUCT", "pacs"), ("SR", "pacs")]
        assert job["results"]["gates"][0]["gate"] == "ROUND_TRIP_DICE"

    def test_each_destination_is_owed_the_form_it_wants(self, ledger: Ledger) -> None:
        """Three destinations, two structure sets, two reports: who wants the same shares it, in one transaction."""
        named = {"profile": "eclipse", "roi_name": "GTVp_AI"}
        eclipse = TPS.model_copy(update={"name": "eclipse", **named})
        archive = PACS.model_copy(update={"name": "archive", "objects": (ObjectKind.SEG, ObjectKind.SR)})
        assert self.run(ledger, destinations=(TPS, eclipse, PACS, archive)) == "WRITTEN"
        owed = [
            (o["kind"], bool(o["variant"]), [d["destination"] for d in o["deliveries"]])
            for o in newest_job(ledger)["objects"]
        ]
        assert owed == [
            ("SEG", False, ["archive"]),
            ("RTSTRUCT", False, ["tps", "pacs"]),
            ("RTSTRUCT", True, ["eclipse"]),
            ("SR", False, ["pacs"]),
            ("SR", True, ["archive"]),
        ]

    PROVING = TPS.model_copy(update={"name": "proving", "test": True})
    QA = QaSettings(enabled=True, ae_title="NPC_RTNODE", destination="proving")

    @pytest.mark.parametrize(
        ("phantom", "qa", "owed"),
        [
            (True, QA, ["proving"]),
            (False, QA, ["tps"]),  # a patient's series by that title is a patient's
            (True, QaSettings(enabled=True, ae_title="OTHER", destination="proving"), ["tps"]),
            (True, QaSettings(ae_title="NPC_RTNODE", destination="proving"), ["tps", "proving"]),  # not enabled
        ],
    )
    def test_constancy_goes_its_own_way(self, ledger: Ledger, phantom: bool, qa: QaSettings, owed: list[str]) -> None:
        """A phantom by the constancy title is owed to its destination alone; nothing else is owed to that one."""
        assert self.run(ledger, phantom=phantom, qa=qa, destinations=(TPS, self.PROVING)) == "WRITTEN"
        job = newest_job(ledger)
        assert [d["destination"] for o in job["objects"] for d in o["deliveries"]] == owed
        assert job["results"]["constancy"] is (owed == ["proving"])

    def test_constancy_without_a_destination_is_kept_for_nobody(self, ledger: Ledger) -> None:
        """Objects are made, to be measured; no delivery is, and the job says why it is held."""
        qa = QaSettings(enabled=True, ae_title="NPC_RTNODE")
        assert self.run(ledger, phantom=True, qa=qa) == "HELD"
        job = newest_job(ledger)
        assert [reason.split(":")[0] for reason in job["reasons"]] == ["NO_DESTINATION"]
        assert [item["kind"] for item in job["objects"]] == ["RTSTRUCT", "SR"]

    def test_a_failed_gate_holds_for_good(self, ledger: Ledger) -> None:
        """What did not read back right is never sent, whoever asks."""
        assert self.run(ledger, objects=FakeObjects(bad=True)) == "HELD"
        job = newest_job(ledger)
        assert job["releasable"] is False
        assert job["reasons"][0].startswith("ROUND_TRIP_DICE")
        assert not [d for o in job["objects"] for d in o["deliveries"]]

    SYNTHETIC = replace(STATEMENT, data="synthetic")

    @pytest.mark.parametrize(
        ("phantom", "test", "state"),
        [(False, False, "HELD"), (True, False, "WRITTEN"), (False, True, "WRITTEN"), (True, True, "WRITTEN")],
    )
    def test_synthetic_weights_reach_no_patient(self, ledger: Ledger, phantom: bool, test: bool, state: str) -> None:
        """Phantom-trained results leave for phantoms or test systems alone (ADR 0006)."""
        tps = TPS.model_copy(update={"test": test})
        assert self.run(ledger, bundle=self.SYNTHETIC, phantom=phantom, destinations=(tps,)) == state
        job = newest_job(ledger)
        assert job["releasable"] is (state == "WRITTEN")
        assert ("SYNTHETIC_WEIGHTS" in " ".join(job["reasons"])) is (state == "HELD")

    def test_one_closed_door_closes_all(self, ledger: Ledger) -> None:
        """With a test system and a clinical one both wanted, a patient's synthetic result goes to neither."""
        test = TPS.model_copy(update={"test": True})
        assert self.run(ledger, bundle=self.SYNTHETIC, destinations=(test, PACS)) == "HELD"

    ENHANCED = TPS.model_copy(update={"enhanced_mr": True})
    FRAMES = tuple(replace(header(n), sop_uid="1.2.3.1", frame=n, frames=12) for n in range(1, 13))

    def test_frames_are_owed_only_to_who_declares_them(self, ledger: Ledger) -> None:
        """A result on Enhanced MR goes to the destination that holds such images; `not_owed` says who else asked."""
        assert self.run(ledger, slices=[*self.FRAMES], destinations=(self.ENHANCED, PACS)) == "WRITTEN"
        job = newest_job(ledger)
        assert [(o["kind"], d["destination"]) for o in job["objects"] for d in o["deliveries"]] == [("RTSTRUCT", "tps")]
        assert job["results"]["enhanced_mr"] is True
        assert [line.split(":")[0] for line in job["results"]["not_owed"]] == ["pacs"]

    def test_classic_slices_need_no_declaration(self, ledger: Ledger) -> None:
        """Nothing changes for one instance a slice."""
        assert self.run(ledger) == "WRITTEN"
        assert (newest_job(ledger)["results"]["enhanced_mr"], newest_job(ledger)["results"]["not_owed"]) == (False, [])

    @pytest.mark.parametrize("verb", ["retry", "release"])
    def test_frames_that_nobody_declares_wait_for_a_setting(self, ledger: Ledger, verb: str) -> None:
        """HELD with the setting named; once it is set, a verb makes the very same objects go out."""
        assert self.run(ledger, slices=[*self.FRAMES]) == "HELD"
        job = newest_job(ledger)
        (reason,) = job["reasons"]
        assert reason.startswith("ENHANCED_MR: the series is Enhanced MR, and of tps, pacs none declares it")
        assert "enhanced_mr = true" in reason
        assert not [d for o in job["objects"] for d in o["deliveries"]]
        getattr(ledger.desk, verb)(ledger.study(), ledger.word())
        assert ledger.job_state() == "QUEUED"
        assert self.run(ledger, slices=[*self.FRAMES]) == "HELD"
        getattr(ledger.desk, verb)(ledger.study(), ledger.word())
        assert self.run(ledger, slices=[*self.FRAMES], destinations=(self.ENHANCED,)) == "WRITTEN"
        assert [o["sop_uid"] for o in newest_job(ledger)["objects"]] == [o["sop_uid"] for o in job["objects"]]

    def test_a_failed_gate_is_not_mended_by_a_setting(self, ledger: Ledger) -> None:
        """What did not read back right stays held, and retry does not begin it anew."""
        assert self.run(ledger, slices=[*self.FRAMES], objects=FakeObjects(bad=True)) == "HELD"
        assert newest_job(ledger)["releasable"] is False
        with pytest.raises(NotFound):
            ledger.desk.retry(ledger.study(), ledger.word())

    def test_the_bundle_that_answered_is_the_one_that_is_named(self, ledger: Ledger) -> None:
        """Objects name, and the release rule asks, the bundle that gave the answer, not the one on disk by now."""
        self.run(ledger, bundle=self.SYNTHETIC)
        assert self.objects.plans[0].bundle == self.SYNTHETIC
        assert newest_job(ledger)["results"]["synthetic"] is True

    def test_settings_that_changed_since_ordering_make_another_order(self, ledger: Ledger) -> None:
        """An ROI name changed between queueing and writing never gets under the old work key's UIDs."""
        assert self.run(ledger, settings_hash="t" * 64) == "CANCELLED"
        assert ledger.series_states() == ["COMPLETE"]
        assert not newest_job(ledger)["objects"]

    def test_dates_come_from_the_row_not_from_the_clock(self, ledger: Ledger) -> None:
        """However late a job is written, its objects carry the time that was frozen when it was queued."""
        ledger.queued_job()
        queued_at = ledger.now
        ledger.later(5000)
        self.run(ledger)
        assert self.objects.plans[0].created_at == queued_at

    def test_a_lost_prediction_fails_and_says_what_to_do(self, ledger: Ledger) -> None:
        """Without the stored answer nothing is written, and the words point to retry."""
        assert self.run(ledger, stored=False) == "FAILED"
        assert "npc-rtnode retry" in newest_job(ledger)["last_error"]


class TestDeliver:
    POLICY = RetryPolicy(first_s=60, longest_s=3600, horizon_s=3600 * 24)

    def deliverer(self, ledger: Ledger, sender: FakeSender, destination: Destination = TPS) -> Deliverer:
        """The lane of one destination; its outbox holds what the builder's digests name."""
        outbox = FakeSpool(kept={"1" * 64: b"rtstruct", "2" * 64: b"sr"})
        return Deliverer(ledger.work, outbox, sender, destination, barrier(ledger, self.POLICY))

    def state(self, ledger: Ledger, destination: str) -> list[str]:
        """States of the deliveries to a destination."""
        found = [d for o in newest_job(ledger)["objects"] for d in o["deliveries"]]
        return [d["state"] for d in found if d["destination"] == destination]

    def test_the_stored_bytes_are_what_is_sent(self, ledger: Ledger) -> None:
        """Each destination gets the very bytes of the outbox."""
        ledger.written()
        sender = FakeSender()
        assert self.deliverer(ledger, sender).run()
        assert not self.deliverer(ledger, sender).run()
        assert [encoded for _, _, encoded in sender.sent] == [b"rtstruct"]

    def test_a_destination_that_is_down_is_tried_again(self, ledger: Ledger) -> None:
        """Unreachable postpones that delivery alone; other lanes go on; later it is sent."""
        ledger.written()
        down = FakeSender(errors=[Unreachable("connection refused")])
        self.deliverer(ledger, down).run()
        assert self.state(ledger, "tps") == ["PENDING"]
        assert not self.deliverer(ledger, down).run()
        while self.deliverer(ledger, FakeSender(), PACS).run():
            pass
        assert self.state(ledger, "pacs") == ["SENT", "SENT"]
        ledger.later(60)
        assert self.deliverer(ledger, down).run()
        assert ledger.job_state() == "DELIVERED"

    def test_a_refusal_is_never_called_sent(self, ledger: Ledger) -> None:
        """A refused object is FAILED with the peer's status, and the job is not delivered."""
        ledger.written()
        self.deliverer(ledger, FakeSender(errors=[ObjectRefused("Status A900.")])).run()
        assert self.state(ledger, "tps") == ["FAILED"]

    def test_stored_with_warning_is_shown(self, ledger: Ledger) -> None:
        """Bxxx counts as stored and keeps its status for people to see."""
        ledger.written()
        self.deliverer(ledger, FakeSender(status=0xB000)).run()
        (delivery,) = [d for o in newest_job(ledger)["objects"] for d in o["deliveries"] if d["destination"] == "tps"]
        assert (delivery["state"], delivery["status"], delivery["warning"]) == ("SENT", "0xB000", True)

    @pytest.mark.parametrize(("declared", "state"), [(False, "FAILED"), (True, "SENT")])
    def test_enhanced_mr_is_asked_again_at_the_door(self, ledger: Ledger, declared: bool, state: str) -> None:
        """A destination that ceased to declare Enhanced MR after writing is sent no contours on frames."""
        ledger.written(results={"synthetic": False, "phantom": False, "enhanced_mr": True})
        self.deliverer(ledger, FakeSender(), TPS.model_copy(update={"enhanced_mr": declared})).run()
        assert self.state(ledger, "tps") == [state]

    @pytest.mark.parametrize(("test", "state"), [(False, "FAILED"), (True, "SENT")])
    def test_constancy_leaves_for_test_systems_alone(self, ledger: Ledger, test: bool, state: str) -> None:
        """Whoever asked for it: at the door it is refused where a patient is treated from."""
        ledger.written(results={"synthetic": False, "phantom": True, "constancy": True})
        self.deliverer(ledger, FakeSender(), TPS.model_copy(update={"test": test})).run()
        assert self.state(ledger, "tps") == [state]

    def test_what_was_sent_before_the_ledger_forgot_it_is_what_is_sent(self, ledger: Ledger) -> None:
        """After a restore: bytes found in the outbox under the UID of a new result are its object (ADR 0023)."""
        work_key = ledger.order(ledger.complete_series()).work_key
        found = f"2.25.{int(work_key[:8], 16)}1"
        RecoveryLedger(ledger.sessions).keep(FoundObject(found, "2" * 64, 2), ledger.now)
        (series,) = ledger.complete()
        ledger.choose(series)
        ledger.predicted()
        job = ledger.in_hand(JobState.PREDICTED, "write")
        ledger.work.commit_result(job.lease, ledger.result(job), ledger.now)
        assert [item["sha256"] for item in newest_job(ledger)["objects"]] == ["2" * 64, "2" * 64]
        sender = FakeSender()
        self.deliverer(ledger, sender).run()
        assert [encoded for _, _, encoded in sender.sent] == [b"sr"]

    def test_the_release_rule_is_asked_again_at_the_door(self, ledger: Ledger) -> None:
        """A destination that ceased to be a test system after writing does not get a synthetic patient result."""
        ledger.written(results={"synthetic": True, "phantom": False})
        sender = FakeSender()
        self.deliverer(ledger, sender).run()
        assert not sender.sent
        assert self.state(ledger, "tps") == ["FAILED"]
