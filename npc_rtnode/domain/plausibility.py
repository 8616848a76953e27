"""Gates on the answer itself: is the outline one that a tumour has, and is the model sure, steady and on known ground?

One row a gate in GAUGES. The numbers that follow from outline and map are measured here, on what is really going to be
written; the others the model's side measured when it looked. What they may be stands in the bundle, and travels as
`Prediction.bands`. A number that is missing, or that the bundle allows nothing for, holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from npc_rtnode.domain.geometry import Grid
from npc_rtnode.domain.outcomes import GateResult, Outcome, unjudged, within
from npc_rtnode.domain.prediction import FAR_OUTSIDE, Prediction

DOUBTFUL: Final = (0.2, 0.8)
"""A voxel with a probability between these is doubtful."""

LEFT_OUT_MOST: Final = 0.02
"""Of the outline's volume: what the map holds beyond the outline, and the model did not say it dropped."""

ROUNDING: Final = 0.002
"""A map is stored in half precision; a probability so close to the threshold may lie on its other side."""

Measure = Callable[[Grid, Prediction], float]


@dataclass(frozen=True)
class Gauge:
    """One number of an answer; `measure` is None where the model's side measured it."""

    code: str
    said: str
    measure: Measure | None = None

    def judge(self, grid: Grid, prediction: Prediction) -> GateResult:
        """The number against the bundle's band."""
        band = prediction.bands.get(self.code)
        value = self.measure(grid, prediction) if self.measure else prediction.measured.get(self.code)
        if band is None or value is None:
            return unjudged(self.code, "the bundle's side named no " + ("band" if band is None else "number"))
        return within(self.code, self._said(prediction), value, band)

    def _said(self, prediction: Prediction) -> str:
        if self.code == "OUT_OF_DISTRIBUTION" and prediction.unusual:
            return f"{self.said} (most: {prediction.unusual})"
        return self.said


def volume_cc(grid: Grid, prediction: Prediction) -> float:
    """Voxels inside times the volume of one."""
    return int(np.count_nonzero(prediction.mask)) * grid.voxel_cc


def extent_mm(grid: Grid, prediction: Prediction) -> float:
    """The longest edge of the box around the outline, along the grid's axes; 0 for nothing."""
    spans = (np.flatnonzero(prediction.mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3))
    edges = [(int(s[-1]) - int(s[0]) + 1) * mm for s, mm in zip(spans, grid.spacing_mm, strict=True) if s.size]
    return max(edges, default=0.0)


def dropped_share(grid: Grid, prediction: Prediction) -> float:
    """Of all that was found, what post-processing left out."""
    found = volume_cc(grid, prediction) + prediction.dropped_cc
    return prediction.dropped_cc / found if found else 0.0


def confidence(_: Grid, prediction: Prediction) -> float:
    """Mean probability inside the outline."""
    inside = prediction.probability[prediction.mask]
    return float(inside.mean(dtype=np.float64)) if inside.size else 0.0


def doubt(_: Grid, prediction: Prediction) -> float:
    """Doubtful voxels anywhere, for each voxel outlined."""
    low, high = DOUBTFUL
    doubtful = np.count_nonzero((prediction.probability > low) & (prediction.probability < high))
    return int(doubtful) / max(1, int(np.count_nonzero(prediction.mask)))


def least_probability(_: Grid, prediction: Prediction) -> float:
    """The lowest probability inside the outline: an outline that was moved or turned against its map has a low one."""
    inside = prediction.probability[prediction.mask]
    return float(inside.min()) if inside.size else 0.0


GAUGES: Final = (
    Gauge("LEAST_PROBABILITY", "lowest probability inside the outline", least_probability),
    Gauge("VOLUME", "volume outlined", volume_cc),
    Gauge("EXTENT", "longest edge of the box around the outline", extent_mm),
    Gauge("PARTS", "separate parts outlined"),
    Gauge("DROPPED_SHARE", "share of what was found that post-processing left out", dropped_share),
    Gauge("CONFIDENCE", "mean probability inside the outline", confidence),
    Gauge("DOUBT", "doubtful voxels (p 0.2 to 0.8) for each voxel outlined", doubt),
    Gauge("MIRROR_DICE", "Dice between the outlines in the image and in its mirror image"),
    Gauge("SHIFT_DICE", "Dice between the outlines in the image and in one half a voxel off"),
    Gauge("STAGE_SWING", "most that a stage's probability moves between those"),
)
DISTANCE: Final = Gauge("OUT_OF_DISTRIBUTION", "distance from the cases that the bundle knows")
REFERENCE: Final = Gauge("REFERENCE_CASES", "cases that the bundle compares with to say how unusual one is")

RELEASABLE: Final = frozenset({g.code for g in (*GAUGES, DISTANCE, REFERENCE)} - {"LEAST_PROBABILITY"} | {FAR_OUTSIDE})
"""Holds of this room that a person may release after looking; an outline beside its own map is no result at all."""


def judge_answer(grid: Grid, prediction: Prediction) -> Iterator[GateResult]:
    """Every gate on an outline that is not empty and lies on the grid."""
    yield from (gauge.judge(grid, prediction) for gauge in GAUGES)
    yield _left_out(grid, prediction)
    yield from _unusual(grid, prediction)
    yield from _limits(prediction)


def _left_out(grid: Grid, prediction: Prediction) -> GateResult:
    """What lies in the map from the threshold on is outlined, or was said to be dropped: no slice is forgotten."""
    band = prediction.bands.get("LEAST_PROBABILITY")
    if band is None or band.hold_low is None:
        return unjudged("LEFT_OUT", "the bundle's side named no threshold")
    outlined = volume_cc(grid, prediction)
    found = int(np.count_nonzero(prediction.probability >= band.hold_low + ROUNDING)) * grid.voxel_cc
    lost = max(0.0, found - outlined - prediction.dropped_cc) / outlined
    outcome = Outcome.HOLD if lost > LEFT_OUT_MOST else Outcome.PASS
    said = "share of the outline that the map holds besides, and nobody said was dropped"
    return GateResult("LEFT_OUT", outcome, said, lost, LEFT_OUT_MOST)


def _unusual(grid: Grid, prediction: Prediction) -> Iterator[GateResult]:
    """A bundle that compares with nothing says so, which warns; one that compares must have compared."""
    known = REFERENCE.judge(grid, prediction)
    yield known
    if known.outcome is Outcome.HOLD or known.value:
        yield DISTANCE.judge(grid, prediction)


def _limits(prediction: Prediction) -> Iterator[GateResult]:
    """Inputs outside of what training covered are warned of; far outside, a person decides."""
    for finding in prediction.findings:
        outcome = Outcome.HOLD if finding.code == FAR_OUTSIDE else Outcome.WARN
        yield GateResult(finding.code, outcome, finding.message, finding.value, finding.limit)
