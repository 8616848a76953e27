"""What the model says of one volume, in the node's own words (the bundle door speaks plain arrays)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from npc_rtnode.domain.records import Finding

T_STAGES = ("T1", "T2", "T3", "T4")


@dataclass(frozen=True)
class BundleStatement:
    """Who speaks: the facts of a bundle that every object and every decision carries."""

    name: str
    version: str
    sha256: str
    data: str  # "synthetic" or "clinical"
    statement: str
    staging_edition: str
    threshold: float
    calibrated: bool = False  # the stage probabilities, on cases that training did not see

    @property
    def synthetic(self) -> bool:
        """Trained on phantoms only: nothing it says may reach a patient's plan."""
        return self.data != "clinical"


@dataclass(frozen=True)
class Prediction:
    """One answer on the native grid.

    probability: float32 `[slice, row, column]`, 0–1; mask: bool, thresholded and post-processed (model.md A26);
    stage_probabilities: T1–T4, summing to 1; findings: inputs outside the limits seen in training.
    """

    probability: NDArray[np.float32]
    mask: NDArray[np.bool_]
    stage_probabilities: tuple[float, float, float, float]
    dropped_cc: float
    findings: tuple[Finding, ...] = ()

    @property
    def stage(self) -> str:
        """The most probable TStage."""
        return T_STAGES[int(np.argmax(self.stage_probabilities))]


@dataclass(frozen=True)
class Answer:
    """A prediction and the very bundle that gave it: whatever is written of it later names this bundle and no other."""

    prediction: Prediction
    bundle: BundleStatement
