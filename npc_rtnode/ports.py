"""The outside world on one page: what the pipeline needs of it, and nothing more.

Adapters fulfil these by shape alone. Pure functions need no port; they are called.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from npc_rtnode.domain.admission import Level, Standing
from npc_rtnode.domain.constancy import ChainOutcome, ConstancyRun
from npc_rtnode.domain.disks import Room
from npc_rtnode.domain.gates import GateResult
from npc_rtnode.domain.geometry import Stack, Volume
from npc_rtnode.domain.invariants import ClaimedInstance, ClaimedResult, Looked, ObjectFacts
from npc_rtnode.domain.lifecycle import JobState
from npc_rtnode.domain.prediction import Answer, BundleStatement, Prediction
from npc_rtnode.domain.recipe import Recipe
from npc_rtnode.domain.records import (
    Arrival,
    Asked,
    AssociationInfo,
    Choice,
    Closing,
    CommitmentInHand,
    CommitmentReport,
    CommitmentRequest,
    DeliveryInHand,
    Finding,
    FoundObject,
    Holding,
    InstanceIdentity,
    IntakeEntry,
    JobInHand,
    Lease,
    OpenSeries,
    OpenStudy,
    ResultToCommit,
    SendReceipt,
    SeriesAttributes,
    SliceHeader,
    StoreOutcome,
    StoreRequest,
    WorkRef,
    WrittenObject,
)
from npc_rtnode.domain.report import ObjectPlan
from npc_rtnode.domain.retention import Parcel, Place, PurgeOrder, StudyStanding
from npc_rtnode.domain.retry import Decision
from npc_rtnode.settings import Destination


class Clock(Protocol):
    """Time is always an argument; this is where the arguments come from."""

    def __call__(self) -> datetime:
        """Now, aware, UTC."""


class Spool(Protocol):
    """Bytes as they came, content-addressed and durable (intake.md 2.2)."""

    def keep(self, data: Sequence[bytes | memoryview]) -> str:
        """Write, fsync, rename, fsync the directory; the SHA-256. Raises DiskLow, before the first byte if short."""

    def begin(self) -> Part:
        """An object of which not all is there yet. Raises DiskLow."""

    def path(self, sha256: str) -> Path:
        """Where those bytes lie; the name is the digest, never a text from a peer."""

    def read(self, sha256: str) -> bytes:
        """The bytes, their digest checked."""


class IntakeSpool(Spool, Protocol):
    """The spool as receiving needs it: room that is counted, and bytes that are durable elsewhere first."""

    def admit(self, size: int) -> None:
        """DiskLow when `size` bytes more would go into the reserve."""

    def lay(self, content: Content, sha256: str, anew: bool = False) -> None:
        """Put content that is durable elsewhere in its place, whole but not durable before `settle`; with `anew`,
        whatever is there. Raises DiskLow."""

    def settle(self, names: Collection[str]) -> None:
        """Make durable what was laid there, where it still is. Raises DiskLow."""

    def remove(self, sha256: str) -> bool:
        """Take an object away; whether it was there."""


class Part(Protocol):
    """An object on its way into the spool; nothing of it counts before `keep`. It ends with `discard`, always."""

    @property
    def size(self) -> int:
        """Bytes written so far."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append, digest on the way. Raises DiskLow."""

    def reading(self, skip: int = 0) -> AbstractContextManager[memoryview]:
        """What was written, from byte `skip` on, for the time of a `with`; after `keep` too, until `discard`."""

    def keep(self) -> str:
        """Durable under its digest, which is returned. Raises DiskLow."""

    def discard(self) -> None:
        """Let go of it, and leave nothing of what was not kept."""


class Incoming(Protocol):
    """One instance while it is received. Nothing of it raises: what goes wrong is the outcome of `store`.

    `write` and `discard` may come from two threads; after `store` or `discard` there is nothing more to say to it.
    """

    def write(self, data: bytes | memoryview) -> None:
        """The next bytes of the data set, as they came; they may be gone after it."""

    def store(self) -> StoreOutcome:
        """That was all of it: keep it durably, or say why it was not kept."""

    def discard(self) -> None:
        """The rest will not come."""


class InstanceSink(Protocol):
    """What the listener hands instances to (pipeline/receive)."""

    def opened(self, association: AssociationInfo) -> None:
        """An association was accepted."""

    def rejected(self, association: AssociationInfo, reason: str) -> None:
        """An association was refused, and why."""

    def begin(self, request: StoreRequest) -> Incoming:
        """An instance is announced; its bytes follow. Never raises."""

    def closed(self, association: AssociationInfo, how: str) -> None:
        """An association ended: released, aborted or lost."""


class CommitmentSink(Protocol):
    """What the listener hands requests for storage commitment to (pipeline/commit)."""

    def request(self, request: CommitmentRequest) -> None:
        """Durable before it returns; raises LedgerUnavailable."""


class CommitmentPages(Protocol):
    """The ledger as answering those requests needs it."""

    def request(self, request: CommitmentRequest, now: datetime) -> None:
        """A transaction is owed its report; asked for again, it is owed it again."""

    def due(self, now: datetime) -> CommitmentInHand | None:
        """The oldest that is owed its report now."""

    def held(self, sop_uids: Sequence[str]) -> list[Holding]:
        """Every content that is kept of these instances."""

    def reported(self, commitment: CommitmentInHand, report: CommitmentReport, now: datetime) -> None:
        """The requester has its report."""

    def failed(self, commitment: CommitmentInHand, decision: Decision, now: datetime) -> None:
        """Postpone or give up."""


class Reporter(Protocol):
    """How a report reaches who asked for it."""

    def report(self, ae_title: str, transaction_uid: str, report: CommitmentReport) -> None:
        """N-EVENT-REPORT; returns only when that very report was accepted, else raises a PeerError."""


class DatasetReader(Protocol):
    """The few questions that receiving asks of a data set's bytes (adapters/dicom/structure)."""

    def identify(self, encoded: bytes | memoryview, transfer_syntax_uid: str) -> InstanceIdentity:
        """Walk the structure to the very last byte, then read identity; raises Unreadable."""

    def file_prefix(self, request: StoreRequest) -> bytes:
        """Preamble, prefix and file meta group (PS3.10 7.1) that make the encoded bytes a DICOM file."""

    def differences(self, first: bytes, second: bytes) -> tuple[str, ...]:
        """Keywords of the elements in which two DICOM files differ; empty: the same image, however encoded."""


class SeriesReader(Protocol):
    """Received files as values (adapters/dicom/series)."""

    def headers(self, files: Sequence[Path]) -> list[SliceHeader]:
        """Geometry headers, one a slice (an instance, or a frame of one), file by file; raises Unreadable."""

    def attributes(self, files: Sequence[Path], keywords: Sequence[str]) -> SeriesAttributes:
        """The attributes that rules ask for, by keyword, one entry a slice."""

    def volume(self, files: Sequence[Path]) -> Volume:
        """Decoded, rescaled voxels on a checked stack; raises GeometryRefused, PixelsRefused or Unreadable."""

    def is_phantom(self, files: Sequence[Path]) -> bool:
        """Whether every instance is marked as a quality-control phantom (PS3.3 C.7.1.1, C.7.6.1)."""

    def references(self, file: Path) -> tuple[str, ...]:
        """The SOP Instance UIDs of the images that one RTSTRUCT references, each once; raises Unreadable."""


class Predictor(Protocol):
    """The one door to the model, in a killable child process."""

    def statement(self) -> BundleStatement:
        """Which bundle speaks; cheap, no model is loaded."""

    def inputs(self) -> tuple[str, ...]:
        """The roles of the series that the bundle wants, e.g. "t1c"."""

    def predict(self, volume: Volume, statement: BundleStatement) -> Prediction:
        """One answer of that very bundle, else BundleFault; raises InferenceTimeout, InferenceCrashed or InputFault."""

    def close(self) -> None:
        """End the child."""


class Sender(Protocol):
    """One object to one destination, from a killable child process."""

    def send(self, item: WrittenObject, destination: Destination) -> SendReceipt:
        """C-STORE; returns only when the peer accepted that very message and object, else raises a PeerError."""

    def echo(self, destination: Destination) -> float:
        """C-ECHO; seconds it took, else raises a PeerError."""


class Content(Protocol):
    """The bytes of one instance, where the intake journal has them."""

    def copy_into(self, handle: int) -> None:
        """Copy all of them to where that descriptor stands."""

    def read(self) -> bytes:
        """All of them."""


class Noted(Protocol):
    """One record of the intake journal."""

    @property
    def number(self) -> int:
        """Higher than that of every record before it."""

    @property
    def entry(self) -> IntakeEntry:
        """What happened."""

    @property
    def content(self) -> Content | None:
        """Of an instance; None where its bytes are in the spool already."""


class IntakeNotes(Protocol):
    """The intake journal as the receiver writes it."""

    @property
    def waiting_bytes(self) -> int:
        """Of contents that are not in the spool yet, where each will take as much room again."""

    def append(self, entry: IntakeEntry, content: bytes | bytearray = b"", wait: bool = True) -> int:
        """Write a record and, with `wait`, return once it is durable; its number. Raises DiskLow."""


class IntakeJournal(IntakeNotes, Protocol):
    """The intake journal as whoever enters it into the ledger needs it."""

    @property
    def last(self) -> int:
        """The number of the newest record."""

    def open(self, applied: int) -> None:
        """Take up what an earlier process left; numbers go on after `applied`. Raises MomentFault."""

    def close(self) -> None:
        """Let go of it; what waits is there for the next process."""

    def read(self, after: int, most: int) -> Sequence[Noted]:
        """Up to `most` records after that number, in order, each of them durable."""

    def entered(self, upto: int) -> None:
        """Records up to that number are in the ledger, and their contents in the spool."""

    def release(self, upto: int) -> None:
        """Records up to that number are safe elsewhere."""

    def presses(self) -> bool:
        """Whether records should be let go of now, and not only when it is quiet."""

    def is_full(self) -> bool:
        """Whether no more is taken until the ledger has taken some."""

    def prepare(self, quiet: bool = True) -> None:
        """Have room ready for what comes next, more of it when it is quiet."""


class IntakePages(Protocol):
    """The ledger as entering the intake journal needs it."""

    def position(self) -> tuple[int, int]:
        """Up to which number records stand there, and up to which their files are durable by themselves."""

    def secured(self, number: int) -> None:
        """The files of all records up to that number are durable by themselves."""

    def replay(
        self, records: Sequence[tuple[int, IntakeEntry]], now: datetime, keep: Callable[[str], object]
    ) -> dict[int, StoreOutcome]:
        """One transaction: every record that does not stand there yet, in order; what became of each instance.

        `keep` is called with the digest of each instance that counts, while nobody else writes.
        """

    def set_aside(self, number: int, entry: IntakeEntry, reason: str, now: datetime) -> None:
        """A record that cannot be entered is told, and does not come again."""

    def gone(self, names: Sequence[str]) -> set[str]:
        """Of these digests, those whose bytes were removed from the spool and have not come again."""

    def known(self, sop_uids: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Of these SOP Instance UIDs, each that is there with the SHA-256 of its contents in order of arrival."""


class ReclaimPages(Protocol):
    """The ledger as taking in what it has forgotten needs it: one instance at a time, no receiver running."""

    def association_opened(self, info: AssociationInfo, now: datetime) -> None:
        """An association was accepted."""

    def association_ended(self, info: AssociationInfo, how: str, refused: Sequence[str], now: datetime) -> None:
        """It ended, and how."""

    def record(self, arrival: Arrival, now: datetime) -> StoreOutcome:
        """One transaction: the instance, its series revision, its study; or it is an object of ours."""


class SeriesPages(Protocol):
    """The ledger as assembling needs it."""

    def quiet(self, now: datetime) -> list[OpenSeries]:
        """Series whose quiet time has run out."""

    def next_due(self, now: datetime) -> datetime | None:
        """When the next quiet time runs out."""

    def asked(self, series: OpenSeries, answer: Asked) -> None:
        """Record what the source said."""

    def wait(self, series: OpenSeries, until: datetime) -> None:
        """Look again then, unless an instance has come since."""

    def close(self, series: OpenSeries, closing: Closing, now: datetime) -> bool:
        """Record the judgement; False when an instance has come since."""

    def trouble(self, series: OpenSeries, because: str, now: datetime) -> None:
        """Judging it went wrong: look again later, set it apart at the third time."""


class Sources(Protocol):
    """The systems that hold what is sent to us, and can be asked about it (adapters/dicom/archive)."""

    def answers_for(self, calling_ae: str) -> bool:
        """Whether there is one for what this AE title sends."""

    def name(self, calling_ae: str) -> str:
        """What the settings call it."""

    def count(self, calling_ae: str, study_uid: str, series_uid: str) -> int | None:
        """How many instances it has of the series, None where it does not say; raises PeerError."""


class StudyPages(Protocol):
    """The ledger as selecting needs it: the series of a study are compared, and decided on together."""

    def settled(self, now: datetime) -> list[OpenStudy]:
        """Studies with a complete series of which nothing more is coming."""

    def whereabouts(self, sop_uids: Sequence[str]) -> dict[str, int]:
        """Of these instances, each that was received, with the newest series revision that took it in."""

    def choose(self, judged: Sequence[tuple[OpenSeries, Choice]], now: datetime) -> bool:
        """Record verdicts and decisions in one transaction; False, and nothing, when one of the series has changed."""


class WorkPages(Protocol):
    """The ledger as the workers need it. Outcomes raise LeaseLost when another worker has taken over."""

    def claim_job(
        self, state: JobState, stage: str, now: datetime, lease_s: float, only: int | None = None
    ) -> JobInHand | None:
        """Begin the first due job in this state, or that very one; None: nothing to do."""

    def claim_delivery(
        self, destination: str, now: datetime, lease_s: float, only: int | None = None
    ) -> DeliveryInHand | None:
        """Begin the first due delivery to this destination, or that very one; None: nothing to do."""

    def predicted(self, lease: Lease, results: dict[str, Any], now: datetime) -> None:
        """Inference is done."""

    def held(self, lease: Lease, holds: Sequence[Finding], results: dict[str, Any], now: datetime) -> None:
        """Held before any object exists; nobody can release it."""

    def commit_result(self, lease: Lease, result: ResultToCommit, now: datetime) -> JobState:
        """Objects, what is owed and the job's state in one transaction."""

    def sent(self, lease: Lease, receipt: SendReceipt) -> None:
        """The destination accepted that very object."""

    def failed(self, lease: Lease, decision: Decision, now: datetime) -> None:
        """Postpone or give up."""

    def replace(self, lease: Lease, because: str, now: datetime) -> None:
        """This job can no longer become what it was queued as: cancelled, and its series judged anew."""


class LeasePages(Protocol):
    """The ledger as watching over leases needs it."""

    def renew(self, tokens: Collection[str], now: datetime, lease_s: float) -> Collection[str]:
        """A sign of life for what is in hand; the tokens that count no more."""

    def leases(self) -> Mapping[str, datetime | None]:
        """Every lease that is held, by token, with the last sign of life."""

    def recover(self, now: datetime, forsaken: Collection[str]) -> int:
        """Take back the work of these leases, as far as they are still held; how many."""


class Carrier(Protocol):
    """How work that waits reaches a worker. It brings numbers alone, and may lose, repeat or reorder them."""

    def submit(self, session: Any, work: WorkRef) -> None:
        """Within the caller's transaction: somebody is to come for it, from `due_at` on, the lowest `rank_at` first."""

    def cancel(self, session: Any, work: WorkRef) -> None:
        """Within the caller's transaction: nobody needs to come for it."""

    def recover(self, now: datetime) -> int:
        """Submit again what is due, is in nobody's hand and has no entry; how many."""


class PredictionStore(Protocol):
    """Predictions between two stages, by work key."""

    def save(self, work_key: str, answer: Answer) -> None:
        """Durable before it returns; raises DiskLow."""

    def load(self, work_key: str) -> Answer | None:
        """None when there is none, or none that is whole."""


class AdmissionPages(Protocol):
    """The ledger as the listener's door needs it."""

    def backlog(self) -> int:
        """Jobs that wait for inference or writing."""

    def admission_changed(self, standing: Standing, now: datetime) -> None:
        """The door was opened, shut, or people were warned."""

    def last(self) -> Level:
        """The level that was recorded last."""


class DiskPages(Protocol):
    """The ledger as who looks at disks needs it."""

    def disk_changed(self, room: Room, low: bool, now: datetime) -> None:
        """It has become low, or has room again."""

    def low(self) -> set[str]:
        """The disks of which that was told last."""


class RecipePages(Protocol):
    """The ledger as the node needs it, to have all work done by its own bundle and settings."""

    def renew(self, recipe: Recipe, now: datetime) -> int:
        """This is the node's own; what waits under another is ordered anew; how many jobs."""


class Shelf(Protocol):
    """A folder of files that the ledger names: spool, outbox, predictions."""

    def names(self) -> Iterator[str]:
        """Of every file there."""

    def remove(self, name: str, /) -> bool:
        """Take it away; whether it was there."""

    def sweep_parts(self, older_than_s: float, now: datetime) -> int:
        """Remove unfinished files that nobody has written for so long; how many."""


class PredictionShelf(Shelf, Protocol):
    """Predictions as the janitor sees them."""

    def older_than(self, age_s: float, now: datetime) -> list[str]:
        """Names of those last written longer ago."""


class RetentionPages(Protocol):
    """The ledger as keeping and removing need it."""

    def aged(self, before: datetime) -> list[str]:
        """Studies first received before then of which some file may still be there."""

    def purge(
        self,
        study: str,
        choose: Callable[[StudyStanding], Sequence[Parcel]],
        unlink: Callable[[Place, str], object],
        order: PurgeOrder,
    ) -> tuple[Parcel, ...]:
        """Weigh, record and remove in one transaction; with `dry_run` only weigh."""

    def finish(self, since: datetime, unlink: Callable[[Place, str], object]) -> int:
        """Remove again what was removed since then; how many were there."""

    def unnamed(self, work_keys: Sequence[str]) -> list[str]:
        """Of these work keys, the ones that no job has."""


class ProofShelf(Protocol):
    """A folder of stored files as `fsck` looks at it."""

    def names(self) -> Iterator[str]:
        """Of every file there."""

    def path(self, sha256: str, /) -> Path:
        """Where it lies."""

    def read(self, sha256: str, /) -> bytes:
        """The bytes, their digest checked; raises NotFound or Unreadable."""


class ProofReader(Protocol):
    """Stored files as `fsck` reads them (adapters/dicom/proof)."""

    def flaw(self, data: bytes, claimed: ClaimedInstance) -> str:
        """What is wrong with a stored instance, or nothing."""

    def facts(self, file: Path) -> ObjectFacts:
        """Whose a file is and what it references; raises Unreadable."""

    def patient(self, file: Path) -> tuple[str, str]:
        """Name and number; raises Unreadable."""


class ProofPages(Protocol):
    """The ledger's answers to `fsck`: the files that it names, and the promises that it can judge alone."""

    def instances(self) -> Iterator[ClaimedInstance]:
        """Every instance that was acknowledged."""

    def results(self) -> Iterator[ClaimedResult]:
        """Every job that has made objects."""

    def removed(self, place: Place) -> set[str]:
        """Names of files there whose bytes were removed."""

    def texts(self) -> Iterator[tuple[str, str]]:
        """Every text of the ledger, with the place where it stands."""

    def places(self) -> Looked:
        """I3."""

    def current_jobs(self) -> Looked:
        """I4."""

    def structure_sets(self) -> Looked:
        """I5."""

    def sent(self) -> Looked:
        """I7."""

    def leases(self, now: datetime) -> Looked:
        """I8."""

    def limits(self) -> Looked:
        """I9."""

    def journal(self) -> Looked:
        """I10."""

    def overdue(self, now: datetime, bound_s: float) -> Looked:
        """I13."""


class ConstancyPages(Protocol):
    """The ledger as the daily constancy needs it."""

    def runs(self, last: int = 0) -> list[ConstancyRun]:
        """Oldest first; the last so many, or all."""

    def begin(self, study_uid: str, day: str, asked_by: str, now: datetime) -> ConstancyRun:
        """A run is asked for."""

    def outcome(self, run: ConstancyRun) -> ChainOutcome | None:
        """How far the chain is with it; None before its first instance."""

    def ended(self, run: ConstancyRun, now: datetime) -> None:
        """What it came to, and the alarm where it is one."""


class PhantomSource(Protocol):
    """The constancy phantom (adapters/phantoms)."""

    def identity(self) -> str:
        """SHA-256 of its voxels, truth and grid as they are made now."""

    def frozen(self) -> str:
        """What that digest must be."""

    def write(self, folder: Path, study_uid: str, day: str) -> list[Path]:
        """One MR series under this study UID; the pixels are always the same."""

    def truth(self) -> NDArray[np.bool_]:
        """`[slice, row, column]` on the grid of that series."""


class StructureMeasurer(Protocol):
    """An RTSTRUCT read back with nothing of its writer (adapters/dicom/constancy)."""

    def __call__(self, structure: bytes, sources: Sequence[Path], truth: NDArray[np.bool_]) -> tuple[float, float]:
        """Dice of its contours against the truth, and their volume in cc; raises Unreadable."""


class StoredReader(Protocol):
    """Files of the spool and the outbox, of which no ledger says any more what they are (adapters/dicom/reclaim)."""

    def arrival(self, file: Path, association: AssociationInfo) -> Arrival:
        """A received instance as it was handed over once; raises Unreadable."""

    def sop_uid(self, file: Path) -> str:
        """Of an object of ours; raises Unreadable."""


class RecoveryPages(Protocol):
    """The ledger as taking in what it does not know needs it."""

    def unknown(self, place: Place, names: Sequence[str]) -> list[str]:
        """Of these files, the ones that no row names."""

    def missing(self, there: Callable[[Place, str], bool]) -> dict[Place, int]:
        """How many files a row names, and says nothing of their removal, that are not there."""

    def keep(self, found: FoundObject, now: datetime) -> None:
        """These bytes stand for this SOP Instance UID; the first that were found stay."""

    def told(self, what: str, detail: dict[str, Any], word: tuple[str, str], now: datetime) -> None:
        """Journal what was done to the ledger, with who and why."""


class ObjectWriter(Protocol):
    """Objects, and the proof of them read back from their bytes (adapters/dicom/objects)."""

    def write(
        self, stack: Stack, sources: Sequence[Path], prediction: Prediction, plan: ObjectPlan
    ) -> tuple[WrittenObject, ...]:
        """Every object that the plan orders; same input, same bytes.

        `sources` are the files of `stack.slices` in order, a file once for each of its frames.
        """

    def judge(
        self,
        stack: Stack,
        sources: Sequence[Path],
        prediction: Prediction,
        plan: ObjectPlan,
        objects: Sequence[WrittenObject],
    ) -> tuple[GateResult, ...]:
        """Read the bytes back and compare them with what was asked for."""
