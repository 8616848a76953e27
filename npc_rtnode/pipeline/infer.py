"""Infer: one volume through the bundle door, in a killable child; the answer is stored before it is believed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from npc_rtnode.domain.gates import RELEASABLE, Outcome, before_writing
from npc_rtnode.domain.geometry import Volume
from npc_rtnode.domain.lifecycle import JobState
from npc_rtnode.domain.prediction import Answer, Prediction
from npc_rtnode.domain.records import JobInHand
from npc_rtnode.domain.retry import OTHER_ORDER
from npc_rtnode.pipeline.attempt import Barrier
from npc_rtnode.ports import PredictionStore, Predictor, SeriesReader, Spool, WorkPages

STAGE = "infer"


@dataclass(frozen=True)
class Inferrer:
    """Takes queued jobs, one at a time."""

    pages: WorkPages
    spool: Spool
    reader: SeriesReader
    predictor: Predictor
    store: PredictionStore
    settings_hash: str
    barrier: Barrier

    def run(self, only: int | None = None) -> bool:
        """Do one job, or that very one; False when there is none to begin."""
        job = self.pages.claim_job(JobState.QUEUED, STAGE, self.barrier.clock(), self.barrier.lease_s, only)
        if job is None:
            return False
        with self.barrier.attempt(job.lease, job.series.study_reference):
            self._infer(job)
        return True

    def _infer(self, job: JobInHand) -> None:
        bundle = self.predictor.statement()
        if (bundle.sha256, self.settings_hash) != (job.bundle_hash, job.settings_hash):
            self.pages.replace(job.lease, OTHER_ORDER, self.barrier.clock())
            return
        volume = self.reader.volume([self.spool.path(sha256) for _, sha256 in job.series.inputs])
        prediction = self.predictor.predict(volume, bundle)
        self.store.save(job.work_key, Answer(prediction, bundle))
        self._record(job, volume, prediction)

    def _record(self, job: JobInHand, volume: Volume, prediction: Prediction) -> None:
        results = _results(volume, prediction)
        before = before_writing(volume.stack, prediction.mask, prediction)
        never = [gate for gate in before if gate.outcome is Outcome.HOLD and gate.name not in RELEASABLE]
        if never:
            self.pages.held(job.lease, [gate.finding for gate in never], results, self.barrier.clock())
        else:
            self.pages.predicted(job.lease, results, self.barrier.clock())


def _results(volume: Volume, prediction: Prediction) -> dict[str, Any]:
    return {
        "volume_cc": round(float(prediction.mask.sum()) * volume.stack.grid.voxel_cc, 3),
        "stage": prediction.stage,
        "stage_probabilities": [round(p, 6) for p in prediction.stage_probabilities],
        "dropped_cc": round(prediction.dropped_cc, 3),
        "spacing_mm": [round(mm, 4) for mm in volume.stack.grid.spacing_mm],
        "slices": volume.stack.grid.shape[0],
        "ran_on": prediction.ran_on,
        "input_findings": [str(finding) for finding in prediction.findings],
    }
