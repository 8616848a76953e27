"""Each gate on the answer itself: a clean case passes, the fault it is meant for is warned of or held, with numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from model.manifest import DEFAULT_BANDS
from npc_rtnode.domain.outcomes import GateResult, Outcome
from npc_rtnode.domain.plausibility import DISTANCE, GAUGES, REFERENCE, RELEASABLE, judge_answer
from npc_rtnode.domain.prediction import Band, Prediction
from tests.builders.outputs import Mask, prediction_of, stack_for

GRID = stack_for(slices=30, rows=160, columns=160).grid
BANDS = {
    code: Band(band.unit, band.warn_low, band.warn_high, band.hold_low, band.hold_high)
    for code, band in DEFAULT_BANDS.items()
} | {"LEAST_PROBABILITY": Band("", hold_low=0.499)}
"""What a bundle that was never calibrated allows."""


def block(*edges: tuple[int, int, int, int, int, int]) -> Mask:
    """Boxes of voxels, each first slice, last slice, first row, last row, first column, last column."""
    mask = np.zeros(GRID.shape, bool)
    for z0, z1, y0, y1, x0, x1 in edges:
        mask[z0:z1, y0:y1, x0:x1] = True
    return mask


TUMOUR = block((8, 18, 60, 90, 50, 80))  # 24 cc


def clean() -> Prediction:
    """A tumour that every gate likes."""
    return prediction_of(TUMOUR, bands=BANDS)


def drawn(mask: Mask) -> Prediction:
    """Another outline, with a map that says the same."""
    return prediction_of(mask, bands=BANDS)


def measured(**numbers: float) -> Prediction:
    """The clean case, measured otherwise by the model's side."""
    return replace(clean(), measured=clean().measured | numbers)


def mapped(inside: float, around: float = 0.0) -> Prediction:
    """The clean outline on a map of two values."""
    return replace(clean(), probability=np.where(TUMOUR, inside, around).astype(np.float32))


def outcomes(prediction: Prediction) -> dict[str, GateResult]:
    """By name."""
    return {result.name: result for result in judge_answer(GRID, prediction)}


def test_a_clean_answer_passes_every_gate() -> None:
    """Every gauge has its say, nothing warns, nothing holds, and every gate has its number and limit."""
    found = outcomes(clean())
    assert {result.outcome for result in found.values()} == {Outcome.PASS}
    assert set(found) == {g.code for g in (*GAUGES, REFERENCE, DISTANCE)} | {"LEFT_OUT"}
    assert all(result.value is not None and result.limit is not None for result in found.values())


@pytest.mark.parametrize(
    ("fault", "gate", "outcome", "limit"),
    [
        (lambda: drawn(block((8, 10, 60, 65, 60, 65))), "VOLUME", Outcome.HOLD, 0.3),
        (lambda: drawn(block((8, 10, 60, 74, 60, 70))), "VOLUME", Outcome.WARN, 1.0),
        (lambda: drawn(block((1, 29, 10, 150, 10, 150))), "VOLUME", Outcome.HOLD, 300.0),
        (lambda: drawn(block((8, 18, 60, 90, 50, 80), (8, 9, 20, 22, 155, 157))), "EXTENT", Outcome.WARN, 95.0),
        (lambda: drawn(block((8, 18, 60, 90, 20, 50), (8, 9, 20, 22, 155, 157))), "EXTENT", Outcome.HOLD, 125.0),
        (lambda: measured(PARTS=3), "PARTS", Outcome.WARN, 2),
        (lambda: measured(PARTS=5), "PARTS", Outcome.HOLD, 4),
        (lambda: replace(clean(), dropped_cc=5.0), "DROPPED_SHARE", Outcome.WARN, 0.1),
        (lambda: replace(clean(), dropped_cc=40.0), "DROPPED_SHARE", Outcome.HOLD, 0.5),
        (lambda: mapped(0.82), "CONFIDENCE", Outcome.WARN, 0.85),
        (lambda: mapped(0.55), "CONFIDENCE", Outcome.HOLD, 0.6),
        (lambda: mapped(0.79), "DOUBT", Outcome.WARN, 0.5),
        (lambda: mapped(0.9, 0.3), "DOUBT", Outcome.HOLD, 1.5),
        (lambda: replace(clean(), mask=np.roll(TUMOUR, 1, axis=2)), "LEAST_PROBABILITY", Outcome.HOLD, 0.499),
        (lambda: replace(clean(), mask=TUMOUR[:, :, ::-1]), "LEAST_PROBABILITY", Outcome.HOLD, 0.499),
        (lambda: replace(clean(), mask=TUMOUR[::-1]), "LEAST_PROBABILITY", Outcome.HOLD, 0.499),
        (lambda: replace(clean(), mask=block((9, 18, 60, 90, 50, 80))), "LEFT_OUT", Outcome.HOLD, 0.02),
        (lambda: measured(MIRROR_DICE=0.7), "MIRROR_DICE", Outcome.WARN, 0.8),
        (lambda: measured(MIRROR_DICE=0.4), "MIRROR_DICE", Outcome.HOLD, 0.5),
        (lambda: measured(SHIFT_DICE=0.7), "SHIFT_DICE", Outcome.WARN, 0.85),
        (lambda: measured(SHIFT_DICE=0.4), "SHIFT_DICE", Outcome.HOLD, 0.5),
        (lambda: measured(STAGE_SWING=0.9), "STAGE_SWING", Outcome.WARN, 0.25),
        (lambda: measured(OUT_OF_DISTRIBUTION=6.0), "OUT_OF_DISTRIBUTION", Outcome.WARN, 5.0),
        (lambda: measured(OUT_OF_DISTRIBUTION=20.0), "OUT_OF_DISTRIBUTION", Outcome.HOLD, 10.0),
        (lambda: measured(REFERENCE_CASES=0.0), "REFERENCE_CASES", Outcome.WARN, 50),
    ],
)
def test_each_fault_is_told_by_its_gate(
    fault: Callable[[], Prediction], gate: str, outcome: Outcome, limit: float
) -> None:
    """One change at a time; the gate of that name answers with the end of the band that decided, in its words too."""
    found = outcomes(fault())[gate]
    assert (found.outcome, found.limit) == (outcome, limit), found
    assert gate == "LEFT_OUT" or f"{limit:g}" in found.message


def test_the_ends_of_a_band_are_inside() -> None:
    """A number that is the limit itself passes."""
    assert outcomes(measured(MIRROR_DICE=0.8, PARTS=2))["MIRROR_DICE"].outcome is Outcome.PASS
    assert outcomes(measured(MIRROR_DICE=0.5))["MIRROR_DICE"].outcome is Outcome.WARN


@pytest.mark.parametrize("code", ["PARTS", "MIRROR_DICE", "SHIFT_DICE", "STAGE_SWING", "OUT_OF_DISTRIBUTION"])
def test_what_was_not_measured_holds(code: str) -> None:
    """A number that is missing is no pass: GATE_ERROR holds, names the gate, and nobody releases it."""
    lacking = {name: value for name, value in clean().measured.items() if name != code}
    result = outcomes(replace(clean(), measured=lacking))["GATE_ERROR"]
    assert result.outcome is Outcome.HOLD
    assert code in result.message
    assert "GATE_ERROR" not in RELEASABLE


@pytest.mark.parametrize("code", [*BANDS])
def test_a_bundle_that_allows_nothing_holds(code: str) -> None:
    """A band that is missing is no permission."""
    bands = {name: band for name, band in BANDS.items() if name != code}
    assert outcomes(replace(clean(), bands=bands))["GATE_ERROR"].outcome is Outcome.HOLD


def test_a_number_that_is_none_holds() -> None:
    """NaN is below no limit and above none; it holds all the same, without a value that JSON cannot write."""
    result = outcomes(measured(SHIFT_DICE=float("nan")))["GATE_ERROR"]
    assert (result.outcome, result.value) == (Outcome.HOLD, None)


def test_a_bundle_without_a_reference_warns_and_asks_no_distance() -> None:
    """How unusual the case is cannot be said; that is told, and is not an error."""
    numbers = {name: value for name, value in clean().measured.items() if name != "OUT_OF_DISTRIBUTION"}
    found = outcomes(replace(clean(), measured=numbers | {"REFERENCE_CASES": 0.0}))
    assert found["REFERENCE_CASES"].outcome is Outcome.WARN
    assert not {"OUT_OF_DISTRIBUTION", "GATE_ERROR"} & set(found)


def test_the_unusual_is_named() -> None:
    """The distance says which features are farthest out."""
    odd = replace(measured(OUT_OF_DISTRIBUTION=20.0), unusual="tumour contrast +7.1 SD")
    assert "tumour contrast +7.1 SD" in outcomes(odd)["OUT_OF_DISTRIBUTION"].message


def test_what_cannot_be_trusted_is_not_for_a_person_to_release() -> None:
    """An outline beside its map, or a map that was not outlined, is a broken result; all else here is a question."""
    assert {g.code for g in GAUGES} - RELEASABLE == {"LEAST_PROBABILITY"}
    assert "LEFT_OUT" not in RELEASABLE
