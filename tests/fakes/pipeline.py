"""Stand-ins for the rooms that a stage talks to: they answer as told and remember what they were asked."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import numpy as np

from npc_rtnode.domain.gates import GateResult, Outcome
from npc_rtnode.domain.geometry import Grid, Stack, Volume
from npc_rtnode.domain.identifiers import sha256_hex
from npc_rtnode.domain.prediction import Answer, BundleStatement, Prediction
from npc_rtnode.domain.records import (
    InstanceIdentity,
    ReceivedInstance,
    SendReceipt,
    SeriesAttributes,
    SliceHeader,
    StoreOutcome,
    StoreRequest,
    WrittenObject,
)
from npc_rtnode.domain.report import ObjectPlan
from npc_rtnode.errors import DiskLow, NodeError, NotFound, Unreadable
from npc_rtnode.ports import Content, InstanceSink
from npc_rtnode.settings import Destination
from tests.builders.outputs import prediction_of

STATEMENT = BundleStatement("fake", "1", "b" * 64, "clinical", "a fake", "AJCC 8th edition", 0.5)


@dataclass
class FakeSpool:
    """Bytes in a dictionary; `full` refuses."""

    kept: dict[str, bytes] = field(default_factory=dict)
    full: bool = False

    def begin(self) -> FakePart:
        """A part, or DiskLow."""
        if self.full:
            raise DiskLow("the test says so")
        return FakePart(self)

    def keep(self, data: Sequence[bytes | memoryview]) -> str:
        """Keep, or raise DiskLow."""
        if self.full:
            raise DiskLow("the test says so")
        joined = b"".join(data)
        self.kept[sha256_hex(joined)] = joined
        return sha256_hex(joined)

    def admit(self, size: int) -> None:
        """DiskLow, or nothing."""
        if self.full:
            raise DiskLow("the test says so")

    def lay(self, content: Content, sha256: str, anew: bool = False) -> None:
        """Keep what the journal holds."""
        self.kept[sha256] = content.read()

    def settle(self, names: Collection[str]) -> None:
        """A dictionary is as durable as it gets."""

    def remove(self, sha256: str) -> bool:
        """Whether it was there."""
        return self.kept.pop(sha256, None) is not None

    def path(self, sha256: str) -> Path:
        """A path that stands for the digest."""
        return Path(sha256)

    def read(self, sha256: str) -> bytes:
        """The bytes, or NotFound."""
        if sha256 not in self.kept:
            raise NotFound(sha256)
        return self.kept[sha256]


class FakePart:
    """Bytes on their way into a FakeSpool."""

    def __init__(self, spool: FakeSpool) -> None:
        """Empty."""
        self.spool, self.data = spool, b""

    @property
    def size(self) -> int:
        """Bytes so far."""
        return len(self.data)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append, or raise DiskLow."""
        if self.spool.full:
            raise DiskLow("the test says so")
        self.data += data

    @contextmanager
    def reading(self, skip: int = 0) -> Iterator[memoryview]:
        """What is there."""
        yield memoryview(self.data)[skip:]

    def keep(self) -> str:
        """Into the dictionary."""
        return self.spool.keep([self.data])

    def discard(self) -> None:
        """Nothing to remove."""


@dataclass
class FakeStructure:
    """Says what the data set is, or that it cannot be read."""

    identity: InstanceIdentity
    broken: bool = False

    def identify(self, encoded: bytes | memoryview, transfer_syntax_uid: str) -> InstanceIdentity:
        """The identity that was set."""
        if self.broken:
            raise Unreadable(f"the value at byte {len(encoded)} ends too early")
        return self.identity

    def file_prefix(self, request: StoreRequest) -> bytes:
        """Something before the data set."""
        return b"DICM"

    def differences(self, first: bytes, second: bytes) -> tuple[str, ...]:
        """Files that differ in case alone are one image in two encodings."""
        return () if first.lower() == second.lower() else ("PixelData",)


def hand_over(sink: InstanceSink, received: ReceivedInstance) -> StoreOutcome:
    """As the listener does it: announced, in pieces, to its end."""
    incoming = sink.begin(received)
    size = max(1, len(received.encoded) // 3)
    for at in range(0, len(received.encoded), size):
        incoming.write(received.encoded[at : at + size])
    return incoming.store()


def header(number: int, **changes: object) -> SliceHeader:
    """One slice of an axial stack, 5 mm apart."""
    made = SliceHeader(
        sop_uid=f"1.2.3.{number}",
        sha256="0" * 64,
        study_uid="1.2",
        patient_key="p",
        frame_of_reference_uid="1.9",
        position=(0.0, 0.0, 5.0 * number),
        orientation=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        rows=16,
        columns=16,
        spacing_mm=(1.0, 1.0),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


@dataclass
class FakeReader:
    """A series as values; `error` is raised instead."""

    slices: list[SliceHeader]
    values: dict[str, tuple[str, ...]] = field(default_factory=dict)
    phantom: bool = False
    error: Exception | None = None
    named: tuple[str, ...] = ()

    def headers(self, files: Sequence[Path]) -> list[SliceHeader]:
        """The headers that were set."""
        if self.error:
            raise self.error
        return self.slices

    def attributes(self, files: Sequence[Path], keywords: Sequence[str]) -> SeriesAttributes:
        """The values that were set, the same on every slice; all else is missing."""
        if self.error:
            raise self.error
        found = {k: tuple((self.values[k],) if k in self.values else None for _ in files) for k in keywords}
        return SeriesAttributes(len(files), found, {})

    def volume(self, files: Sequence[Path]) -> Volume:
        """Zeros on the headers' stack."""
        if self.error:
            raise self.error
        affine = np.array([[0, 0, 1, 0], [0, 1, 0, 0], [5, 0, 0, 0], [0, 0, 0, 1]], dtype=np.float64)
        shape = (len(self.slices), 16, 16)
        return Volume(np.zeros(shape, np.float32), Stack(Grid(shape, affine), tuple(self.slices)))

    def is_phantom(self, files: Sequence[Path]) -> bool:
        """As set."""
        return self.phantom

    def references(self, file: Path) -> tuple[str, ...]:
        """As set."""
        return self.named


@dataclass
class FakePredictor:
    """Predicts a block, or nothing, or raises."""

    empty: bool = False
    error: Exception | None = None
    bundle: BundleStatement = STATEMENT
    roles: tuple[str, ...] = ("t1c",)
    ran_on: str = ""

    def inputs(self) -> tuple[str, ...]:
        """As set."""
        return self.roles

    def statement(self) -> BundleStatement:
        """The bundle that was set."""
        return self.bundle

    def predict(self, volume: Volume, statement: BundleStatement) -> Prediction:
        """A 4-voxel cube in the middle."""
        if self.error:
            raise self.error
        mask = np.zeros(volume.voxels.shape, bool)
        if not self.empty:
            mask[4:8, 6:10, 6:10] = True
        return replace(prediction_of(mask, (0.1, 0.6, 0.2, 0.1)), ran_on=self.ran_on)

    def close(self) -> None:
        """Nothing to end."""


@dataclass
class FakeStore:
    """Predictions in a dictionary."""

    stored: dict[str, Answer] = field(default_factory=dict)

    def save(self, work_key: str, answer: Answer) -> None:
        """Remember."""
        self.stored[work_key] = answer

    def load(self, work_key: str) -> Answer | None:
        """Recall."""
        return self.stored.get(work_key)


@dataclass
class FakeObjects:
    """Writes two objects that say their plan; `bad` fails a gate."""

    bad: bool = False
    plans: list[ObjectPlan] = field(default_factory=list)

    def write(
        self, stack: Stack, sources: Sequence[Path], prediction: Prediction, plan: ObjectPlan
    ) -> tuple[WrittenObject, ...]:
        """Bytes that follow from the plan alone."""
        self.plans.append(plan)
        return tuple(
            WrittenObject(
                order.kind, "1.2.840", plan.object_uid(order), f"{order.name} {plan.created_at}".encode(), order.variant
            )
            for order in plan.orders
        )

    def judge(
        self,
        stack: Stack,
        sources: Sequence[Path],
        prediction: Prediction,
        plan: ObjectPlan,
        objects: Sequence[WrittenObject],
    ) -> tuple[GateResult, ...]:
        """One gate."""
        return (GateResult("ROUND_TRIP_DICE", Outcome.HOLD if self.bad else Outcome.PASS, "as told", 0.5, 0.9999),)


@dataclass
class FakeSender:
    """Accepts, or raises what it is told to, one error a call."""

    errors: list[NodeError] = field(default_factory=list)
    sent: list[tuple[str, str, bytes]] = field(default_factory=list)
    status: int = 0

    def send(self, item: WrittenObject, destination: Destination) -> SendReceipt:
        """One object."""
        if self.errors:
            raise self.errors.pop(0)
        self.sent.append((destination.name, item.sop_uid, item.encoded))
        return SendReceipt(self.status, self.status != 0, datetime.fromisoformat("2026-11-23T12:00:00+00:00"))

    def echo(self, destination: Destination) -> float:
        """Always there."""
        return 0.001
