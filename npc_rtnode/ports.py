"""The outside world on one page: what the pipeline needs of it, and nothing more.

Adapters fulfil these by shape alone. Pure functions need no port; they are called.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from npc_rtnode.domain.gates import GateResult
from npc_rtnode.domain.geometry import Stack, Volume
from npc_rtnode.domain.lifecycle import JobState
from npc_rtnode.domain.prediction import Answer, BundleStatement, Prediction
from npc_rtnode.domain.records import (
    Arrival,
    AssociationInfo,
    Choice,
    Closing,
    DeliveryInHand,
    Finding,
    InstanceIdentity,
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
    WrittenObject,
)
from npc_rtnode.domain.report import ObjectPlan
from npc_rtnode.domain.retry import Decision
from npc_rtnode.settings import Destination


class Clock(Protocol):
    """Time is always an argument; this is where the arguments come from."""

    def __call__(self) -> datetime:
        """Now, aware, UTC."""


class Spool(Protocol):
    """Bytes as they came, content-addressed and durable (intake.md 2.2)."""

    def keep(self, data: Sequence[bytes]) -> str:
        """Write, fsync, rename, fsync the directory; the SHA-256. Raises DiskLow, before the first byte if short."""

    def begin(self) -> Part:
        """An object of which not all is there yet. Raises DiskLow."""

    def path(self, sha256: str) -> Path:
        """Where those bytes lie; the name is the digest, never a text from a peer."""

    def read(self, sha256: str) -> bytes:
        """The bytes, their digest checked."""


class Part(Protocol):
    """An object on its way into the spool; nothing of it counts before `keep`. Ended by `keep` or `discard`."""

    @property
    def size(self) -> int:
        """Bytes written so far."""

    def write(self, data: bytes) -> None:
        """Append, digest on the way. Raises DiskLow."""

    def reading(self, skip: int = 0) -> AbstractContextManager[memoryview]:
        """What was written, from byte `skip` on, for the time of a `with`."""

    def keep(self) -> str:
        """Durable under its digest, which is returned. Raises DiskLow."""

    def discard(self) -> None:
        """Leave nothing of it."""


class Incoming(Protocol):
    """One instance while it is received. Nothing of it raises: what goes wrong is the outcome of `store`.

    `write` and `discard` may come from two threads; after `store` or `discard` there is nothing more to say to it.
    """

    def write(self, data: bytes) -> None:
        """The next bytes of the data set, as they came."""

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


class IntakePages(Protocol):
    """The ledger as receiving needs it."""

    def association_opened(self, info: AssociationInfo, now: datetime) -> None:
        """An association was accepted."""

    def association_ended(self, info: AssociationInfo, how: str, refused: Sequence[str], now: datetime) -> None:
        """It was released, aborted, lost or let go for idleness; `refused` are the images of it that were not taken."""

    def association_rejected(self, info: AssociationInfo, reason: str, now: datetime) -> None:
        """A caller was refused."""

    def not_kept(self, received: StoreRequest, outcome: StoreOutcome, reason: str, now: datetime) -> None:
        """An instance was refused, and why."""

    def own_object_came_back(self, sop_uid: str, now: datetime) -> bool:
        """Whether this UID is one of our own results; if so the return is counted."""

    def copies(self, sop_uid: str) -> tuple[str, ...]:
        """The SHA-256 of every content that is kept under this SOP Instance UID, in order of arrival."""

    def record(self, arrival: Arrival, now: datetime) -> StoreOutcome:
        """The instance's row, committed: STORED, DUPLICATE or CONFLICT."""


class SeriesPages(Protocol):
    """The ledger as assembling needs it."""

    def quiet(self, now: datetime) -> list[OpenSeries]:
        """Series whose quiet time has run out."""

    def next_due(self, now: datetime) -> datetime | None:
        """When the next quiet time runs out."""

    def close(self, series: OpenSeries, closing: Closing, now: datetime) -> bool:
        """Record the judgement; False when an instance has come since."""

    def trouble(self, series: OpenSeries, because: str, now: datetime) -> None:
        """Judging it went wrong: look again later, set it apart at the third time."""


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

    def claim_job(self, state: JobState, stage: str, now: datetime, lease_s: float) -> JobInHand | None:
        """Take the oldest due job in this state."""

    def claim_delivery(self, destination: str, now: datetime, lease_s: float) -> DeliveryInHand | None:
        """Take the oldest due delivery to this destination."""

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


class PredictionStore(Protocol):
    """Predictions between two stages, by work key."""

    def save(self, work_key: str, answer: Answer) -> None:
        """Durable before it returns; raises DiskLow."""

    def load(self, work_key: str) -> Answer | None:
        """None when there is none, or none that is whole."""


class ObjectWriter(Protocol):
    """Objects, and the proof of them read back from their bytes (adapters/dicom/objects)."""

    def write(
        self, stack: Stack, sources: Sequence[Path], prediction: Prediction, plan: ObjectPlan
    ) -> tuple[WrittenObject, ...]:
        """Every object of one result; same input, same bytes.

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
