"""What the model says of one volume, in the node's own words (the bundle door speaks plain arrays)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

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


FAR_OUTSIDE: Final = "FAR_OUTSIDE_TRAINING"
"""A finding with this code is not only outside of what training covered, but far from it."""


@dataclass(frozen=True, slots=True)
class Band:
    """Where a bundle expects a number: outside `warn` that is said, outside `hold` a person decides; None is no end."""

    unit: str = ""
    warn_low: float | None = None
    warn_high: float | None = None
    hold_low: float | None = None
    hold_high: float | None = None


@dataclass(frozen=True)
class Prediction:
    """One answer on the native grid.

    probability: float32 `[slice, row, column]`, 0–1; mask: bool, thresholded and post-processed (model.md A26);
    stage_probabilities: T1–T4, summing to 1; findings: inputs outside the limits seen in training.
    measured: what the model's side measured of this answer, by gate; bands: what the bundle allows, by gate; unusual:
    what is farthest from the ordinary, in words; sight: where the model saw each slice's centre of brightness,
    `[slice, (x, y, z)]` LPS mm, empty where it did not say; ran_on: the device, and what was too small for it before.
    """

    probability: NDArray[np.float32]
    mask: NDArray[np.bool_]
    stage_probabilities: tuple[float, float, float, float]
    dropped_cc: float
    findings: tuple[Finding, ...] = ()
    measured: Mapping[str, float] = field(default_factory=dict)
    bands: Mapping[str, Band] = field(default_factory=dict)
    unusual: str = ""
    sight: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 3)))
    ran_on: str = ""

    @property
    def stage(self) -> str:
        """The most probable TStage."""
        return T_STAGES[int(np.argmax(self.stage_probabilities))]


@dataclass(frozen=True)
class Answer:
    """A prediction and the very bundle that gave it: whatever is written of it later names this bundle and no other."""

    prediction: Prediction
    bundle: BundleStatement
