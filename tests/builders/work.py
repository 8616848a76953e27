"""The write stage on real files with everything around it under control: which worker, which spool, which day.

    objects = written(files, Circumstances(home=tmp_path, now=..., order=7))

Everything is a plain value, so that another process can do the same.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread

from npc_rtnode.adapters.dicom.objects import DicomObjects
from npc_rtnode.adapters.dicom.series import DicomSeriesReader
from npc_rtnode.adapters.predictions import PredictionFolder
from npc_rtnode.adapters.spool import FileSpool
from npc_rtnode.domain.identifiers import input_digest, work_key
from npc_rtnode.domain.lifecycle import JobState
from npc_rtnode.domain.prediction import Answer
from npc_rtnode.domain.records import JobInHand, Lease, OpenSeries, ResultToCommit, SentBefore, WorkIdentity
from npc_rtnode.domain.retry import COMPUTE
from npc_rtnode.pipeline.attempt import Barrier
from npc_rtnode.pipeline.write import Letterhead, Writer
from npc_rtnode.settings import ContentSettings, Destination
from tests.builders.outputs import ball, bundle_statement, prediction_of, seen

ORDERED_AT = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
SETTINGS = "s" * 64
PACS = Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=2, objects=("RTSTRUCT", "SR"))


@dataclass(frozen=True)
class Circumstances:
    """What must not matter (home, now, order, worker) and what must (bundle, supersedes)."""

    home: Path
    now: datetime = ORDERED_AT
    order: int = 0  # seed of the order of arrival
    worker: str = "w1"
    bundle: str = "ab" * 32
    supersedes: tuple[SentBefore, ...] = ()


@dataclass
class OneJob:
    """The ledger's page with one job on it; keeps what is committed."""

    job: JobInHand
    committed: list[ResultToCommit] = field(default_factory=list)
    failures: list[Any] = field(default_factory=list)

    def claim_job(
        self, state: JobState, stage: str, now: datetime, lease_s: float, only: int | None = None
    ) -> JobInHand:
        """The job."""
        return self.job

    def commit_result(self, lease: Lease, result: ResultToCommit, now: datetime) -> JobState:
        """Remember."""
        self.committed.append(result)
        return JobState.WRITTEN

    def failed(self, lease: Lease, decision: Any, now: datetime) -> None:
        """Remember."""
        self.failures.append(decision)


def written(files: Sequence[Path], at: Circumstances) -> dict[str, bytes]:
    """The very bytes of every object that the write stage commits for these files, by kind."""
    spool, outbox = (FileSpool(at.home / name, 0) for name in ("spool", "outbox"))
    arrived = random.Random(at.order).sample(list(files), len(files))
    inputs = tuple((str(dcmread(path).SOPInstanceUID), spool.keep([path.read_bytes()])) for path in arrived)
    job = job_of(str(dcmread(files[0]).SeriesInstanceUID), inputs, at)
    store = PredictionFolder(at.home / "work")
    store.save(job.work_key, answer([spool.path(sha256) for _, sha256 in inputs], at.bundle))
    pages = OneJob(job)
    barrier = Barrier(pages, COMPUTE, lambda: at.now)  # type: ignore[arg-type]
    letterhead = Letterhead(ContentSettings(), "+0800", "Test site", "npc_rtnode 0.1.0")
    reader, objects = DicomSeriesReader(), DicomObjects()
    stage = Writer(pages, spool, outbox, reader, store, objects, letterhead, SETTINGS, (PACS,), barrier)  # type: ignore[arg-type]
    assert stage.run()
    assert not pages.failures, pages.failures
    (result,) = pages.committed
    assert not result.holds, result.holds
    return {item.kind.value: outbox.read(sha256) for item, sha256 in result.objects}


def job_of(series_uid: str, inputs: tuple[tuple[str, str], ...], at: Circumstances) -> JobInHand:
    """The job as the ledger hands it out: its key from series, inputs, bundle and settings alone."""
    key = work_key(WorkIdentity(series_uid, input_digest(inputs), at.bundle, SETTINGS))
    lease = Lease("job", 1, "write", f"{at.worker}-token", 1, at.now)
    series = OpenSeries(1, "R7Q-4KD", series_uid, 1, "NPC_MR", "MR", inputs, at.now)
    return JobInHand(lease, series, key, 1, at.bundle, SETTINGS, "stated", ORDERED_AT, at.supersedes)


def answer(paths: Sequence[Path], bundle: str) -> Answer:
    """A ball on the volume as the reader gives it, with what a model's side says of it."""
    volume = DicomSeriesReader().volume(paths)
    mask = ball(volume.voxels.shape)
    statement = bundle_statement(sha256=bundle, data="clinical")
    return Answer(prediction_of(np.asarray(mask), **seen(volume, mask)), statement)


def real_answer(files: Sequence[Path], home: Path, order: int) -> bytes:
    """What the shipped bundle's child says of the files in some order, as it is stored."""
    from npc_rtnode.adapters.predictor import BundlePredictor
    from npc_rtnode.settings import InferSettings

    volume = DicomSeriesReader().volume(random.Random(order).sample(list(files), len(files)))
    predictor = BundlePredictor(InferSettings(threads=1))
    try:
        bundle = predictor.statement()
        PredictionFolder(home).save("k", Answer(predictor.predict(volume, bundle), bundle))
    finally:
        predictor.close()
    return (home / "k.npz").read_bytes()
