"""The pages of a ledger, and the few moves that bring a series or a job to where a test begins."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from sqlalchemy import Engine

from npc_rtnode.adapters.database.desk import Desk, Word
from npc_rtnode.adapters.database.engine import Sessions
from npc_rtnode.adapters.database.intake import IntakeLedger
from npc_rtnode.adapters.database.queries import Queries
from npc_rtnode.adapters.database.series import SeriesLedger
from npc_rtnode.adapters.database.studies import StudyLedger
from npc_rtnode.adapters.database.work import WorkLedger
from npc_rtnode.domain.identifiers import digest_of, work_key
from npc_rtnode.domain.lifecycle import Event, JobState, SeriesState
from npc_rtnode.domain.priority import CLINICAL
from npc_rtnode.domain.records import (
    Arrival,
    AssociationInfo,
    Choice,
    Closing,
    InstanceIdentity,
    JobInHand,
    ObjectKind,
    OpenSeries,
    ReceivedInstance,
    ResultToCommit,
    StoreOutcome,
    Truth,
    Verdict,
    WorkIdentity,
    WorkOrder,
    WrittenObject,
)
from npc_rtnode.ports import Carrier

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
QUIET_S = 30.0
MR = "1.2.840.10008.5.1.4.1.1.4"


@dataclass
class Ledger:
    """Every page of one ledger, and a clock that only moves when told."""

    engine: Engine
    now: datetime = NOON
    carrier: Carrier | None = None
    priority: int = CLINICAL

    def __post_init__(self) -> None:
        self.sessions = Sessions(self.engine, self.carrier)
        self.intake = IntakeLedger(self.sessions, "site-key", QUIET_S)
        self.series = SeriesLedger(self.sessions)
        self.studies = StudyLedger(self.sessions)
        self.work = WorkLedger(self.sessions)
        self.desk = Desk(self.sessions)
        self.queries = Queries(self.sessions)
        self.association = AssociationInfo("a-1", "PACS", "NPC_RTNODE", "127.0.0.1")
        self.intake.association_opened(self.association, self.now)

    def later(self, seconds: float) -> datetime:
        """Move the clock."""
        self.now += timedelta(seconds=seconds)
        return self.now

    def receive(
        self,
        sop_uid: str,
        series_uid: str = "1.2.3",
        content: str = "",
        study_uid: str = "1.2",
        modality: str = "MR",
    ) -> StoreOutcome:
        """One instance; `content` stands for its bytes."""
        return self.intake.record(self.arrival(sop_uid, series_uid, content, study_uid, modality), self.now)

    def arrival(self, sop_uid: str, series_uid: str, content: str, study_uid: str, modality: str = "MR") -> Arrival:
        """One instance as the receive stage hands it over."""
        identity = InstanceIdentity(MR, sop_uid, study_uid, series_uid, modality)
        received = ReceivedInstance(self.association, MR, sop_uid, "1.2.840.10008.1.2.1", b"")
        return Arrival(identity, received, digest_of([sop_uid, content]), 100)

    def copies(self, sop_uid: str) -> tuple[str, ...]:
        """The SHA-256 of every content that is kept under this SOP Instance UID, in order of arrival."""
        return self.intake.known([sop_uid]).get(sop_uid, ())

    def end(self, how: str = "released", refused: tuple[str, ...] = ()) -> None:
        """End the association; what is received after this comes on another one."""
        self.intake.association_ended(self.association, how, refused, self.now)
        self.association = AssociationInfo(f"{self.association.association_id}+", "PACS", "NPC_RTNODE", "127.0.0.1")
        self.intake.association_opened(self.association, self.now)

    def complete_series(self, count: int = 3, series_uid: str = "1.2.3", modality: str = "MR") -> OpenSeries:
        """`count` instances received, the association released, quiet, closed as whole."""
        for number in range(1, count + 1):
            self.receive(f"{series_uid}.{number}", series_uid, modality=modality)
        self.end()
        self.later(QUIET_S + 1)
        (quiet,) = [series for series in self.series.quiet(self.now) if series.series_uid == series_uid]
        assert self.series.close(quiet, Closing(Event.CLOSED_WHOLE, "quiet and whole"), self.now)
        return replace(quiet, state=SeriesState.COMPLETE)

    def order(self, series: OpenSeries, bundle: str = "b" * 64, settings: str = "s" * 64) -> WorkOrder:
        """The order that selection would make of a series."""
        work = WorkIdentity(series.series_uid, digest_of(sorted(series.inputs)), bundle, settings)
        said = "the called AE title is meant for NPC"
        return WorkOrder(work, work_key(work), "bundle 1", said, self.priority)

    def choose(self, series: OpenSeries, event: Event = Event.SELECTED, reasons: tuple[str, ...] = ()) -> int | None:
        """Record a selection; the series' newest job where there is one."""
        order = self.order(series) if event is Event.SELECTED else None
        verdicts = (Verdict("modality", Truth.TRUE, "Modality is MR"),)
        assert self.studies.choose([(series, Choice(event, verdicts, reasons, "r" * 64, order))], self.now)
        (view,) = [one for one in self.queries.study(self.study())["series"] if one["series"] == series.series_id]
        return int(view["jobs"][-1]["job"]) if order else None

    def complete(self) -> list[OpenSeries]:
        """Series that are complete and whose study has settled, as selection sees them."""
        return [series for study in self.studies.settled(self.now) for series in study.complete]

    def queued_job(self, series_uid: str = "1.2.3") -> int:
        """A complete series that was selected."""
        job = self.choose(self.complete_series(series_uid=series_uid))
        assert job is not None
        return job

    def in_hand(self, state: JobState, stage: str) -> JobInHand:
        """Claim the one job in this state."""
        job = self.work.claim_job(state, stage, self.now, 60)
        assert job is not None
        return job

    def predicted(self) -> None:
        """The queued job, inferred."""
        self.work.predicted(self.in_hand(JobState.QUEUED, "infer").lease, {"stage": "T2"}, self.now)

    def result(self, job: JobInHand, **changes: object) -> ResultToCommit:
        """Two objects owed to tps and pacs; nothing holds them."""
        objects = tuple(
            (WrittenObject(kind, f"1.2.840.{n}", f"2.25.{int(job.work_key[:8], 16)}{n}", b"x"), f"{n}" * 64)
            for n, kind in enumerate((ObjectKind.RTSTRUCT, ObjectKind.SR), 1)
        )
        (structure, _), (report, _) = objects
        owed = ((structure.sop_uid, "tps"), (structure.sop_uid, "pacs"), (report.sop_uid, "pacs"))
        values: dict[str, object] = {"objects": objects, "owed": owed, "holds": (), "releasable": True}
        values["results"] = {"synthetic": True, "phantom": True}
        return ResultToCommit(**{**values, **changes})  # type: ignore[arg-type]

    def written(self, **changes: object) -> JobInHand:
        """A job whose objects are committed."""
        self.queued_job()
        self.predicted()
        job = self.in_hand(JobState.PREDICTED, "write")
        self.work.commit_result(job.lease, self.result(job, **changes), self.now)
        return job

    def word(self, dry_run: bool = False) -> Word:
        """An operator's word."""
        return Word("operator:ada", "because a test says so", self.now, dry_run)

    def study(self) -> str:
        """The reference of the only study."""
        (line,) = self.queries.studies()
        return str(line["study"])

    def job_state(self) -> str:
        """The state of the newest job."""
        view = self.queries.study(self.study())
        return str([job for series in view["series"] for job in series["jobs"]][-1]["state"])

    def series_states(self) -> list[str]:
        """The states of all revisions, oldest first."""
        return [series["state"] for series in self.queries.study(self.study())["series"]]
