"""Facts judged: what is right passes, each single fault holds, and by the gate that is meant for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from npc_rtnode.domain.contouring import contours_of
from npc_rtnode.domain.gates import (
    ContourFacts,
    Expected,
    GateResult,
    Outcome,
    ReportFacts,
    StructureFacts,
    before_writing,
    gate_error,
    judge_report,
    judge_structure,
    may_send,
    released,
)
from npc_rtnode.domain.records import Finding
from npc_rtnode.domain.report import SYNTHETIC_NOTICE, report_of
from npc_rtnode.domain.vocabulary import CT_CATEGORIES
from tests.builders.outputs import ball, plan_of, prediction_of, stack_for

STACK = stack_for()
MASK = ball(STACK.grid.shape)
IDENTITY = {"PatientName": b"A^B ", "PatientID": b"1 "}


def expected(stages: tuple[float, float, float, float] = (0.02, 0.11, 0.69, 0.18)) -> Expected:
    """What objects of the ball should say."""
    return Expected(STACK, MASK, report_of(MASK, STACK.grid, prediction_of(MASK, stages), plan_of()), IDENTITY)


def good_structure() -> StructureFacts:
    """A structure set without fault."""
    frame = STACK.slices[0].frame_of_reference_uid or ""
    return StructureFacts(
        sop_uid="2.25.1",
        approval="UNAPPROVED",
        interpreted_type="GTV",
        roi_volume_cc=expected().content.volume_cc,
        roi_numbers=(1, 1, 1),
        contours=tuple(
            ContourFacts((STACK.slices[c.slice_index].sop_uid,), "CLOSED_PLANAR", len(c.points_mm), c.points_mm)
            for c in contours_of(MASK, STACK)
        ),
        images=tuple(header.sop_uid for header in STACK.slices),
        series_uid="2.25.2",
        study_uid=STACK.slices[0].study_uid,
        frames_of_reference=(frame, frame, frame),
        longest_ds=8,
        identity=IDENTITY,
        labels={"StructureSetName": SYNTHETIC_NOTICE},
    )


def good_report(want: Expected | None = None) -> ReportFacts:
    """A report without fault on that structure set."""
    content = (want or expected()).content
    sure = not content.staging.uncertain
    return ReportFacts(
        verification="UNVERIFIED",
        preliminary="PRELIMINARY",
        completion="COMPLETE",
        probabilities=content.staging.probabilities,
        volume_cc=content.volume_cc,
        category=CT_CATEGORIES["T3"].value if sure else None,
        texts=(SYNTHETIC_NOTICE, content.staging.text),
        measured_from="2.25.1",
        evidence=frozenset({*(h.sop_uid for h in STACK.slices), "2.25.1"}),
        identity=IDENTITY,
    )


def holding(results: tuple[GateResult, ...]) -> set[str]:
    """Names of the gates that hold."""
    return {result.name for result in results if result.outcome is Outcome.HOLD}


def moved(facts: StructureFacts, change: Callable[[ContourFacts], ContourFacts]) -> StructureFacts:
    """The structure set with its first contour changed."""
    return replace(facts, contours=(change(facts.contours[0]), *facts.contours[1:]))


def test_objects_without_fault_pass_every_gate() -> None:
    """Nothing holds, nothing warns."""
    results = judge_structure(good_structure(), expected()) + judge_report(good_report(), good_structure(), expected())
    assert {result.outcome for result in results} == {Outcome.PASS}
    assert released(results)
    assert len({result.name for result in results}) == len(results) == 23


@pytest.mark.parametrize(
    ("fault", "gate"),
    [
        (lambda f: replace(f, approval="APPROVED"), "APPROVAL"),
        (lambda f: replace(f, interpreted_type="PTV"), "ROI_TYPE"),
        (lambda f: replace(f, roi_numbers=(1, 2, 1)), "ROI_NUMBERS"),
        (lambda f: replace(f, longest_ds=17), "DECIMAL_STRINGS"),
        (lambda f: replace(f, identity={**IDENTITY, "PatientName": b"?^? "}), "IDENTITY_RTSTRUCT"),
        (lambda f: replace(f, identity={**IDENTITY, "SpecificCharacterSet": b"ISO_IR 100"}), "IDENTITY_RTSTRUCT"),
        (lambda f: replace(f, frames_of_reference=("2.25.9",)), "FRAME_OF_REFERENCE"),
        (lambda f: replace(f, images=f.images[1:]), "REFERENCES"),
        (lambda f: replace(f, study_uid="2.25.9"), "REFERENCES"),
        (lambda f: replace(f, labels={"StructureSetName": "AI"}), "NOTICE_RTSTRUCT"),
        (lambda f: replace(f, roi_volume_cc=f.roi_volume_cc + 0.01), "ROI_VOLUME"),
        (lambda f: replace(f, roi_volume_cc=float("nan")), "ROI_VOLUME"),
        (lambda f: replace(f, contours=f.contours[1:]), "ROUND_TRIP_DICE"),
        (lambda f: moved(f, lambda c: replace(c, referenced=("2.25.9",))), "REFERENCES"),
        (lambda f: moved(f, lambda c: replace(c, referenced=c.referenced * 2)), "REFERENCES"),
        (lambda f: moved(f, lambda c: replace(c, geometric_type="POINT")), "CONTOUR_FORM"),
        (lambda f: moved(f, lambda c: replace(c, declared_points=c.declared_points + 1)), "CONTOUR_FORM"),
        (lambda f: moved(f, lambda c: replace(c, points_mm=np.add(c.points_mm, [0, 0, 0.02]))), "OFF_PLANE"),
        (lambda f: replace(f, contours=(f.contours[0], *f.contours)), "RINGS_APART"),
    ],
)
def test_each_fault_of_the_structure_set_is_held_by_its_gate(
    fault: Callable[[StructureFacts], StructureFacts], gate: str
) -> None:
    """One change at a time, and the gate of that name holds."""
    assert gate in holding(judge_structure(fault(good_structure()), expected()))


@pytest.mark.parametrize(
    ("change", "gate"),
    [
        ({"verification": "VERIFIED"}, "VERIFICATION"),
        ({"preliminary": "FINAL"}, "VERIFICATION"),
        ({"probabilities": {"T1": 0.02, "T2": 0.11, "T3": 0.69, "T4": 0.1801}}, "PROBABILITY_SUM"),
        ({"probabilities": {"T1": 0.11, "T2": 0.02, "T3": 0.69, "T4": 0.18}}, "SR_STAGE"),
        ({"category": CT_CATEGORIES["T2"].value}, "SR_STAGE"),
        ({"category": None}, "SR_STAGE"),
        ({"volume_cc": 1.0}, "SR_VOLUME"),
        ({"measured_from": "2.25.9"}, "MEASURED_FROM"),
        ({"evidence": frozenset({"2.25.1"})}, "EVIDENCE"),
        ({"identity": {}}, "IDENTITY_SR"),
        ({"texts": ("cT3",)}, "NOTICE_SR"),
    ],
)
def test_each_fault_of_the_report_is_held_by_its_gate(change: dict[str, Any], gate: str) -> None:
    """One change at a time, and the gate of that name holds."""
    assert gate in holding(judge_report(replace(good_report(), **change), good_structure(), expected()))


def test_a_doubtful_stage_must_be_said_and_must_not_be_coded() -> None:
    """In doubt the set stands in text; a coded category would claim more than is known."""
    want = expected((0.02, 0.45, 0.43, 0.10))
    facts = good_report(want)
    assert not holding(judge_report(facts, good_structure(), want))
    assert "SR_STAGE" in holding(
        judge_report(replace(facts, category=CT_CATEGORIES["T2"].value), good_structure(), want)
    )
    assert "SR_STAGE" in holding(judge_report(replace(facts, texts=(SYNTHETIC_NOTICE,)), good_structure(), want))


def test_identity_that_was_never_read_holds() -> None:
    """Nothing to compare with is no agreement."""
    want = replace(expected(), identity={})
    assert "IDENTITY_RTSTRUCT" in holding(judge_structure(replace(good_structure(), identity={}), want))


def test_an_empty_mask_is_held_and_never_called_no_lesion() -> None:
    """EMPTY_MASK before anything is written."""
    empty = np.zeros_like(MASK)
    assert holding(before_writing(STACK, empty, prediction_of(empty))) == {"EMPTY_MASK"}


def test_a_mask_off_the_grid_is_held() -> None:
    """A transposed mask never reaches the writers."""
    turned = np.swapaxes(MASK, 1, 2)
    assert holding(before_writing(STACK, turned, prediction_of(turned))) == {"MASK_SHAPE"}


def test_an_outline_at_the_edge_is_warned_of() -> None:
    """A tumour cut by the first slice is sent with a warning."""
    cut = MASK.copy()
    cut[0, 20:23, 20:23] = True
    (border,) = before_writing(STACK, cut, prediction_of(cut))
    assert (border.name, border.outcome, border.value) == ("BORDER_TOUCH", Outcome.WARN, 9.0)


def test_inputs_outside_the_training_limits_are_warned_of() -> None:
    """The bundle's own findings become warnings with their numbers."""
    finding = Finding("SPACING_LIMIT", "9 mm is outside 3-7 mm", 9.0, 7.0)
    results = before_writing(STACK, MASK, prediction_of(MASK, findings=(finding,)))
    assert [result.outcome for result in results] == [Outcome.PASS, Outcome.WARN]
    assert results[1].finding == finding


def test_a_gate_that_fails_holds_without_repeating_the_errors_text() -> None:
    """An error's message may carry a patient's name and is not passed on."""
    result = gate_error("SR", ValueError("Zhang^San"))
    assert (result.name, result.outcome) == ("GATE_ERROR", Outcome.HOLD)
    assert "Zhang" not in result.message


@pytest.mark.parametrize(
    ("synthetic", "phantom", "test", "wanted"),
    [
        (False, False, False, True),
        (False, True, False, True),
        (False, False, True, True),
        (False, True, True, True),
        (True, False, False, False),
        (True, True, False, True),
        (True, False, True, True),
        (True, True, True, True),
    ],
)
def test_a_synthetic_bundle_reaches_no_patients_destination(
    synthetic: bool, phantom: bool, test: bool, wanted: bool
) -> None:
    """The whole table: only a synthetic bundle on a real series to a real destination is refused."""
    assert may_send(synthetic, phantom, test) is wanted
