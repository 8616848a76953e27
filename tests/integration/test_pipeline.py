"""Each stage over a real ledger: what it records for every way its neighbours can answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from npc_rtnode.adapters.database.desk import Only
from npc_rtnode.domain.lifecycle import JobState
from npc_rtnode.domain.records import (
    InstanceIdentity,
    ReceivedInstance,
    StoreOutcome,
)
from npc_rtnode.domain.retry import COMPUTE, RetryPolicy
from npc_rtnode.domain.selection import RuleSet, load_rules
from npc_rtnode.errors import (
    BundleFault,
    DiskLow,
    GeometryRefused,
    InferenceCrashed,
    LedgerUnavailable,
    NodeStopping,
    ObjectRefused,
    Unreachable,
    Unreadable,
)
from npc_rtnode.pipeline.assemble import Assembler
from npc_rtnode.pipeline.attempt import Barrier
from npc_rtnode.pipeline.deliver import Deliverer
from npc_rtnode.pipeline.infer import Inferrer
from npc_rtnode.pipeline.receive import Receiver
from npc_rtnode.pipeline.select import Policy, Selector
from npc_rtnode.pipeline.write import Letterhead, Writer
from npc_rtnode.settings import ContentSettings, Destination
from tests.builders.ledger import MR, QUIET_S, Ledger, make_ledger
from tests.fakes.pipeline import (
    STATEMENT,
    FakeObjects,
    FakePredictor,
    FakeReader,
    FakeSender,
    FakeSpool,
    FakeStore,
    FakeStructure,
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


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """A fresh ledger."""
    made = make_ledger(tmp_path)
    yield made
    made.engine.dispose()


def barrier(ledger: Ledger, policy: RetryPolicy = COMPUTE) -> Barrier:
    """The fault barrier on this ledger and its clock."""
    return Barrier(ledger.work, policy, lambda: ledger.now)


def newest_job(ledger: Ledger) -> dict[str, Any]:
    """The newest job as `studies show` tells it."""
    view = ledger.queries.study(ledger.study())
    return dict([job for series in view["series"] for job in series["jobs"]][-1])


class TestReceive:
    def received(self, ledger: Ledger, encoded: bytes = b"data", sop_uid: str = "1.2.3.1") -> ReceivedInstance:
        """What the listener hands over."""
        return ReceivedInstance(ledger.association, MR, sop_uid, "1.2.840.10008.1.2.1", encoded)

    def receiver(self, ledger: Ledger, spool: FakeSpool, **structure: object) -> Receiver:
        """The stage over the ledger."""
        identity = InstanceIdentity(MR, "1.2.3.1", "1.2", "1.2.3", "MR")
        reader = FakeStructure(**{"identity": identity, **structure})  # type: ignore[arg-type]
        return Receiver(spool, ledger.intake, reader, lambda: ledger.now)

    def test_bytes_and_row_come_before_success(self, ledger: Ledger) -> None:
        """STORED means that the bytes are in the spool under the digest that the row names."""
        spool = FakeSpool()
        assert self.receiver(ledger, spool).store(self.received(ledger)) is StoreOutcome.STORED
        assert list(spool.kept.values()) == [b"DICMdata"]
        assert ledger.queries.counts()["instances"] == 1

    def test_a_full_disk_asks_the_sender_to_try_again(self, ledger: Ledger) -> None:
        """With no room nothing is recorded, and the answer is NO_RESOURCES."""
        receiver = self.receiver(ledger, FakeSpool(full=True))
        assert receiver.store(self.received(ledger)) is StoreOutcome.NO_RESOURCES
        assert ledger.queries.counts()["instances"] == 0

    def test_a_ledger_that_is_away_never_gives_success(self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without a row there is no Success, though the bytes are safe; the next try is."""
        spool = FakeSpool()
        receiver = self.receiver(ledger, spool)

        def away(*_: object) -> StoreOutcome:
            raise LedgerUnavailable

        with monkeypatch.context() as patch:
            patch.setattr(ledger.intake, "record", away)
            assert receiver.store(self.received(ledger)) is StoreOutcome.NO_RESOURCES
        assert receiver.store(self.received(ledger)) is StoreOutcome.STORED
        assert len(spool.kept) == 1

    def test_another_encoding_of_what_is_here_is_no_conflict(self, ledger: Ledger) -> None:
        """The same elements in other bytes are a duplicate, and their bytes are kept as well."""
        spool = FakeSpool()
        receiver = self.receiver(ledger, spool)
        assert receiver.store(self.received(ledger)) is StoreOutcome.STORED
        assert receiver.store(self.received(ledger, b"DATA")) is StoreOutcome.DUPLICATE
        assert len(spool.kept) == 2
        assert ledger.series_states() == ["RECEIVING"]

    def test_other_elements_are_a_conflict_that_names_them(self, ledger: Ledger) -> None:
        """Both contents are kept; the reason says in which elements they differ."""
        spool = FakeSpool()
        receiver = self.receiver(ledger, spool)
        receiver.store(self.received(ledger))
        assert receiver.store(self.received(ledger, b"other")) is StoreOutcome.CONFLICT
        assert len(spool.kept) == 2
        (reason,) = ledger.queries.study(ledger.study())["series"][0]["reasons"]
        assert reason.endswith("They differ in PixelData")

    def test_a_damaged_copy_is_never_the_same(self, ledger: Ledger) -> None:
        """When the copy that is here cannot be read, another content is a conflict and not refused."""
        spool = FakeSpool()
        receiver = self.receiver(ledger, spool)
        receiver.store(self.received(ledger))
        spool.kept.clear()
        assert receiver.store(self.received(ledger, b"DATA")) is StoreOutcome.CONFLICT

    def test_what_cannot_be_read_is_refused_and_told(self, ledger: Ledger) -> None:
        """A truncated data set leaves no bytes and no row, but an event that says who sent it and why not."""
        spool = FakeSpool()
        receiver = self.receiver(ledger, spool, broken=True)
        assert receiver.store(self.received(ledger)) is StoreOutcome.UNREADABLE
        assert not spool.kept
        assert self.events(ledger)[-1] == ("INSTANCE_REFUSED", "UNREADABLE")

    def test_command_and_data_set_must_name_the_same_instance(self, ledger: Ledger) -> None:
        """A data set that is another instance than its command says is refused (PS3.4 B.2.3)."""
        receiver = self.receiver(ledger, FakeSpool())
        assert receiver.store(self.received(ledger, sop_uid="9.9")) is StoreOutcome.MISMATCH

    def test_the_nodes_own_object_is_answered_and_ignored(self, ledger: Ledger) -> None:
        """A result coming back from a PACS takes no room and opens no series."""
        own = ledger.result(ledger.written()).objects[0][0]
        spool, before = FakeSpool(), ledger.queries.counts()["instances"]
        identity = InstanceIdentity(own.sop_class_uid, own.sop_uid, "1.2", "5.5", "RTSTRUCT")
        receiver = self.receiver(ledger, spool, identity=identity)
        back = replace(self.received(ledger, sop_uid=own.sop_uid), sop_class_uid=own.sop_class_uid)
        assert receiver.store(back) is StoreOutcome.OWN_OBJECT
        assert not spool.kept
        assert ledger.queries.counts()["instances"] == before

    @staticmethod
    def events(ledger: Ledger) -> list[tuple[str, str]]:
        """Events with their outcome."""
        from sqlalchemy import select

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
        Selector(ledger.series, FakeSpool(), FakeReader(STACK, values), policy, lambda: ledger.now).run()
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

    def test_a_series_that_breaks_the_judge_is_held(self, ledger: Ledger) -> None:
        """An unexpected error waits for a person; no lane stops."""
        ledger.complete_series()
        reader = FakeReader(STACK, error=RuntimeError("ROENTGEN"))
        Selector(ledger.series, FakeSpool(), reader, self.policy(RULES), lambda: ledger.now).run()
        assert ledger.series_states() == ["HELD"]


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
        assert stage.run(60)
        return ledger.job_state()

    def test_the_answer_is_stored_before_it_is_believed(self, ledger: Ledger) -> None:
        """PREDICTED means that the prediction can be loaded, and the report's numbers stand in the ledger."""
        assert self.run(ledger) == "PREDICTED"
        job = newest_job(ledger)
        assert self.store.load(job["work_key"]) is not None
        assert (job["results"]["stage"], job["results"]["volume_cc"]) == ("T2", 0.32)  # 64 voxels of 5 mm3

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
            reader=FakeReader(self.slices(ledger), phantom=phantom),
            store=infer.store if changes.pop("stored", True) else FakeStore(),
            objects=self.objects,
            letterhead=Letterhead(ContentSettings(), "+0000", "here", "1"),
            settings_hash=changes.pop("settings_hash", SETTINGS),
            destinations=changes.pop("destinations", (TPS, PACS)),
            barrier=barrier(ledger),
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

    def test_the_release_rule_is_asked_again_at_the_door(self, ledger: Ledger) -> None:
        """A destination that ceased to be a test system after writing does not get a synthetic patient result."""
        ledger.written(results={"synthetic": True, "phantom": False})
        sender = FakeSender()
        self.deliverer(ledger, sender).run()
        assert not sender.sent
        assert self.state(ledger, "tps") == ["FAILED"]
