"""Facts judged: what is right passes, each single fault holds, and by the gate that is meant for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from npc_rtnode.domain.contouring import contours_of
from npc_rtnode.domain.gates import (
    DESCRIPTIONS,
    RELEASABLE,
    ContourFacts,
    Expected,
    GateResult,
    InstanceFacts,
    Outcome,
    ReportFacts,
    Sight,
    StructureFacts,
    before_sending,
    before_writing,
    gate_error,
    judge_report,
    judge_sight,
    judge_structure,
    may_send,
    warnings_of,
)
from npc_rtnode.domain.prediction import FAR_OUTSIDE, Prediction
from npc_rtnode.domain.records import Finding
from npc_rtnode.domain.report import SYNTHETIC_NOTICE, report_of
from npc_rtnode.domain.vocabulary import CT_CATEGORIES
from tests.builders.outputs import MEASURED, ball, plan_of, prediction_of, stack_for

STACK = stack_for()
MASK = ball(STACK.grid.shape)
IDENTITY = {"PatientName": b"A^B ", "PatientID": b"1 "}
OPTIONAL = {"PatientAge": b"050Y", "InstitutionName": b""}
STRUCTURE = InstanceFacts("1.2.840.10008.5.1.4.1.1.481.3", "2.25.1", "2.25.11", "RTSTRUCT")
REPORT = InstanceFacts("1.2.840.10008.5.1.4.1.1.88.33", "2.25.3", "2.25.13", "SR")
ONE_OF_EACH = {"StructureSetROISequence": 1, "ROIContourSequence": 1}


def expected(
    stages: tuple[float, float, float, float] = (0.02, 0.11, 0.69, 0.18), instance: InstanceFacts = STRUCTURE
) -> Expected:
    """What objects of the ball should say."""
    content = report_of(MASK, STACK.grid, prediction_of(MASK, stages), plan_of())
    series = frozenset({"2.25.2"})
    return Expected(STACK, MASK, content, instance, "GTVp^AI", series, IDENTITY, OPTIONAL)


def good_structure() -> StructureFacts:
    """A structure set without fault."""
    frame = STACK.slices[0].frame_of_reference_uid or ""
    return StructureFacts(
        instance=STRUCTURE,
        item_counts=ONE_OF_EACH,
        roi_name="GTVp^AI",
        approval="UNAPPROVED",
        interpreted_type="GTV",
        roi_volume_cc=expected().content.volume_cc,
        roi_numbers=(1, 1, 1),
        contours=tuple(
            ContourFacts((STACK.slices[c.slice_index].reference,), "CLOSED_PLANAR", len(c.points_mm), c.points_mm)
            for c in contours_of(MASK, STACK)
        ),
        images=tuple(header.reference for header in STACK.slices),
        series_uid="2.25.2",
        study_uid=STACK.slices[0].study_uid,
        frames_of_reference=(frame, frame, frame),
        longest_ds=8,
        identity=IDENTITY,
        optional=OPTIONAL,
        labels=labels(expected()),
    )


def labels(want: Expected) -> dict[str, str]:
    """What the structure set says of itself."""
    return {"StructureSetName": SYNTHETIC_NOTICE, **dict.fromkeys(DESCRIPTIONS, want.content.description)}


def good_report(want: Expected | None = None) -> ReportFacts:
    """A report without fault on that structure set."""
    content = (want or expected()).content
    sure = not content.staging.uncertain
    return ReportFacts(
        instance=REPORT,
        verification="UNVERIFIED",
        preliminary="PRELIMINARY",
        completion="COMPLETE",
        probabilities=content.staging.probabilities,
        volume_cc=content.volume_cc,
        category=CT_CATEGORIES["T3"].value if sure else None,
        texts=(SYNTHETIC_NOTICE, content.staging.text),
        measured_from="2.25.1",
        evidence=(*(h.sop_uid for h in STACK.slices), "2.25.1"),
        images=(STACK.slices[int(np.argmax(np.count_nonzero(MASK, axis=(1, 2))))].reference,),
        identity=IDENTITY,
        optional={},
    )


def holding(results: tuple[GateResult, ...]) -> set[str]:
    """Names of the gates that hold."""
    return {result.name for result in results if result.outcome is Outcome.HOLD}


def moved(facts: StructureFacts, change: Callable[[ContourFacts], ContourFacts]) -> StructureFacts:
    """The structure set with its first contour changed."""
    return replace(facts, contours=(change(facts.contours[0]), *facts.contours[1:]))


def test_objects_without_fault_pass_every_gate() -> None:
    """Nothing holds, nothing warns."""
    results = judge_structure(good_structure(), expected()) + judge_report(
        good_report(), good_structure(), expected(instance=REPORT)
    )
    assert {result.outcome for result in results} == {Outcome.PASS}
    assert len({result.name for result in results}) == len(results) == 39


@pytest.mark.parametrize(
    ("fault", "gate"),
    [
        (lambda f: replace(f, approval="APPROVED"), "APPROVAL"),
        (lambda f: replace(f, interpreted_type="PTV"), "ROI_TYPE"),
        (lambda f: replace(f, roi_numbers=(1, 2, 1)), "ROI_NUMBERS"),
        (lambda f: replace(f, roi_name="Brainstem"), "ROI_NAME"),
        (lambda f: replace(f, series_uid="2.25.9"), "REFERENCED_SERIES"),
        (lambda f: replace(f, series_uid=""), "REFERENCED_SERIES"),
        (lambda f: replace(f, item_counts={**ONE_OF_EACH, "ROIContourSequence": 2}), "ONE_ITEM"),
        (lambda f: replace(f, item_counts={**ONE_OF_EACH, "ROIContourSequence": 0}), "ONE_ITEM"),
        (lambda f: replace(f, item_counts={}), "ONE_ITEM"),
        (lambda f: replace(f, optional={"PatientAge": b"051Y"}), "OPTIONAL_RTSTRUCT"),
        (lambda f: replace(f, optional={"InstitutionName": b"Elsewhere "}), "OPTIONAL_RTSTRUCT"),
        (lambda f: replace(f, instance=replace(STRUCTURE, sop_class_uid=REPORT.sop_class_uid)), "INSTANCE_RTSTRUCT"),
        (lambda f: replace(f, instance=replace(STRUCTURE, sop_uid="2.25.9")), "INSTANCE_RTSTRUCT"),
        (lambda f: replace(f, instance=replace(STRUCTURE, series_uid="2.25.9")), "INSTANCE_RTSTRUCT"),
        (lambda f: replace(f, instance=replace(STRUCTURE, modality="RTPLAN")), "INSTANCE_RTSTRUCT"),
        (lambda f: replace(f, longest_ds=17), "DECIMAL_STRINGS"),
        (lambda f: replace(f, identity={**IDENTITY, "PatientName": b"?^? "}), "IDENTITY_RTSTRUCT"),
        (lambda f: replace(f, identity={**IDENTITY, "SpecificCharacterSet": b"ISO_IR 100"}), "IDENTITY_RTSTRUCT"),
        (lambda f: replace(f, frames_of_reference=("2.25.9",)), "FRAME_OF_REFERENCE"),
        (lambda f: replace(f, images=f.images[1:]), "REFERENCES"),
        (lambda f: replace(f, study_uid="2.25.9"), "REFERENCES"),
        (lambda f: replace(f, labels={"StructureSetName": "AI"}), "NOTICE_RTSTRUCT"),
        (lambda f: replace(f, labels=labels(expected((0.9, 0.05, 0.03, 0.02)))), "STATEMENT_RTSTRUCT"),
        (lambda f: replace(f, labels=labels(expected()) | {"ROIDescription": "AI draft"}), "STATEMENT_RTSTRUCT"),
        (lambda f: replace(f, predecessors=("2.25.9",)), "PREDECESSOR_RTSTRUCT"),
        (lambda f: replace(f, roi_volume_cc=f.roi_volume_cc + 0.01), "ROI_VOLUME"),
        (lambda f: replace(f, roi_volume_cc=float("nan")), "ROI_VOLUME"),
        (lambda f: replace(f, contours=f.contours[1:]), "ROUND_TRIP_DICE"),
        (lambda f: moved(f, lambda c: replace(c, referenced=(("2.25.9", None),))), "REFERENCES"),
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
        ({"evidence": ("2.25.1",)}, "EVIDENCE"),
        ({"evidence": (*(h.sop_uid for h in STACK.slices), "2.25.1", "2.25.1")}, "EVIDENCE"),
        ({"images": (STACK.slices[0].reference,)}, "KEY_IMAGE"),
        ({"images": ()}, "KEY_IMAGE"),
        ({"identity": {}}, "IDENTITY_SR"),
        ({"optional": {"PatientAge": b"051Y"}}, "OPTIONAL_SR"),
        ({"instance": replace(REPORT, sop_class_uid=STRUCTURE.sop_class_uid)}, "INSTANCE_SR"),
        ({"instance": replace(REPORT, sop_uid="2.25.9")}, "INSTANCE_SR"),
        ({"texts": ("cT3",)}, "NOTICE_SR"),
    ],
)
def test_each_fault_of_the_report_is_held_by_its_gate(change: dict[str, Any], gate: str) -> None:
    """One change at a time, and the gate of that name holds."""
    assert gate in holding(judge_report(replace(good_report(), **change), good_structure(), expected(instance=REPORT)))


def test_a_doubtful_stage_must_be_said_and_must_not_be_coded() -> None:
    """In doubt the set stands in text; a coded category would claim more than is known."""
    want = expected((0.02, 0.45, 0.43, 0.10), REPORT)
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


def test_images_of_two_series_hold() -> None:
    """A structure set that names one of two source series is right about neither."""
    want = replace(expected(), series_uids=frozenset({"2.25.2", "2.25.9"}))
    assert holding(judge_structure(good_structure(), want)) == {"REFERENCED_SERIES"}


def test_what_an_object_may_leave_out_may_be_left_out() -> None:
    """Age and institution are the source's or absent; their absence holds nothing."""
    assert not holding(judge_structure(replace(good_structure(), optional={"PatientAge": b""}), expected()))


def test_an_empty_mask_is_held_and_never_called_no_lesion() -> None:
    """EMPTY_MASK before anything is written."""
    empty = np.zeros_like(MASK)
    assert holding(before_writing(STACK, empty, prediction_of(empty))) == {"EMPTY_MASK"}


def test_a_mask_off_the_grid_is_held() -> None:
    """A transposed mask never reaches the writers."""
    turned = np.swapaxes(MASK, 1, 2)
    assert holding(before_writing(STACK, turned, prediction_of(turned))) == {"MASK_SHAPE"}


@pytest.mark.parametrize("end", [0, -1])
def test_an_outline_at_the_first_or_last_slice_is_held_for_a_person(end: int) -> None:
    """Such a series is likely cut off: BORDER_SLICE holds, can be released, and says why."""
    cut = MASK.copy()
    cut[end, 20:23, 20:23] = True
    border, edge, *_ = before_writing(STACK, cut, prediction_of(cut))
    assert (border.name, border.outcome, border.value) == ("BORDER_SLICE", Outcome.HOLD, 9.0)
    assert border.message.endswith("may be cut off; a person decides")
    assert edge.outcome is Outcome.PASS
    assert border.name in RELEASABLE


@pytest.mark.parametrize("place", [np.s_[3, 0, 20:23], np.s_[3, -1, 20:23], np.s_[3, 20:23, 0], np.s_[3, 20:23, -1]])
def test_an_outline_at_the_edge_of_the_image_is_warned_of(place: Any) -> None:
    """In-plane the field of view may cut a tumour: a warning, never a hold."""
    cut = MASK.copy()
    cut[place] = True
    border, edge, *_ = before_writing(STACK, cut, prediction_of(cut))
    assert border.outcome is Outcome.PASS
    assert (edge.name, edge.outcome, edge.value) == ("BORDER_TOUCH", Outcome.WARN, 3.0)


def test_inputs_outside_the_training_limits_are_warned_of() -> None:
    """The bundle's own findings become warnings with their numbers."""
    finding = Finding("SPACING_LIMIT", "9 mm is outside 3-7 mm", 9.0, 7.0)
    results = before_writing(STACK, MASK, prediction_of(MASK, findings=(finding,)))
    assert [result.outcome for result in results if result.outcome is not Outcome.PASS] == [Outcome.WARN]
    assert warnings_of(results) == (finding,)


def test_inputs_far_outside_the_training_limits_are_held_for_a_person() -> None:
    """Half or twice of what training covered is no longer a warning."""
    finding = Finding(FAR_OUTSIDE, "slice spacing is 0.67 mm, training covered 3.5 to 7 mm", 0.67, 3.5)
    assert holding(before_writing(STACK, MASK, prediction_of(MASK, findings=(finding,)))) == {FAR_OUTSIDE}
    assert FAR_OUTSIDE in RELEASABLE


def test_a_weak_stage_is_warned_of_and_never_held() -> None:
    """Below the site's limit STAGE_CONFIDENCE warns with both numbers, at the limit it passes."""
    *_, weak = before_sending(STACK, prediction_of(MASK, (0.02, 0.45, 0.43, 0.10)), 0.5)
    *_, sure = before_sending(STACK, prediction_of(MASK, (0.02, 0.5, 0.38, 0.10)), 0.5)
    assert (weak.name, weak.outcome, weak.value, weak.limit) == ("STAGE_CONFIDENCE", Outcome.WARN, 0.45, 0.5)
    assert sure.outcome is Outcome.PASS


def test_what_was_warned_of_must_be_said() -> None:
    """A warning that structure set or report is silent about holds, by its code."""
    finding = Finding("DOUBT", "doubtful voxels: 0.6", 0.6, 0.5)
    content = report_of(MASK, STACK.grid, prediction_of(MASK), plan_of(findings=(finding,)))
    want = replace(expected(), content=content)
    assert {"WARNINGS_RTSTRUCT"} == holding(judge_structure(good_structure(), want))
    assert {"WARNINGS_SR"} == holding(judge_report(good_report(), good_structure(), replace(want, instance=REPORT)))
    assert not holding(judge_structure(replace(good_structure(), labels=labels(want)), want))
    texts = (*good_report().texts, *content.sentences)
    assert not holding(
        judge_report(replace(good_report(), texts=texts), good_structure(), replace(want, instance=REPORT))
    )


# --- what the model looked at -----------------------------------------------------------------------------------------

FILED = np.array([STACK.grid.affine @ (k, 20.0 + k / 10, 25.0 - k / 20, 1.0) for k in range(STACK.grid.shape[0])])[
    :, :3
]
NORMAL = STACK.grid.affine[:3, 0]


def saw(centres: Any, mean: float = 410.0, sd: float = 35.0) -> Prediction:
    """A prediction whose model saw slices there and outlined those grey values."""
    return prediction_of(MASK, sight=centres, measured=MEASURED | {"INSIDE_MEAN": mean, "INSIDE_SD": sd})


def off_by(x_mm: float, y_mm: float, steps: float) -> Any:
    """All slices seen so far beside their place in the plane and along the normal."""
    return FILED + [x_mm, y_mm, 0.0] + steps * NORMAL


def test_a_model_that_saw_the_files_passes() -> None:
    """Also where single slices lie off the even grid, as geometry lets them."""
    jitter = np.random.default_rng(1).uniform(-0.09, 0.09, FILED.shape)
    for centres in (FILED, FILED + jitter):
        assert not holding(judge_sight(saw(centres), Sight(FILED, 410.0, 35.0), STACK))


@pytest.mark.parametrize(
    ("seen", "gate"),
    [
        (off_by(0.11, 0.0, 0.0), "SEEN_SHIFT"),
        (off_by(0.0, -0.47, 0.0), "SEEN_SHIFT"),
        (off_by(0.0, 0.0, 0.11), "SEEN_SLICES"),
        (off_by(0.0, 0.0, 1.0), "SEEN_SLICES"),
        (FILED[::-1], "SEEN_SLICES"),
        (FILED[1:], "SEEN_SLICES"),
        (FILED * [-1, 1, 1], "SEEN_SLICES"),
        (np.where(np.arange(len(FILED))[:, None] == 3, FILED + 1.0, FILED), "SEEN_SLICES"),
        (FILED * np.nan, "SEEN_SLICES"),
        (np.empty((0, 3)), "SEEN_SLICES"),
    ],
    ids=[
        "0.11 mm",
        "half a pixel",
        "0.11 slices",
        "a slice",
        "z flip",
        "dropped",
        "x flip",
        "one image",
        "nan",
        "none",
    ],
)
def test_a_model_that_saw_something_else_is_held(seen: Any, gate: str) -> None:
    """Shift, flip, missing slice, one strange image, no answer: the gate of that name holds, and nobody releases it."""
    assert gate in holding(judge_sight(saw(seen), Sight(FILED, 410.0, 35.0), STACK))
    assert gate not in RELEASABLE


@pytest.mark.parametrize("numbers", [(410.04, 35.0), (410.0, 35.04), (380.0, 20.0), (np.nan, 35.0)])
def test_an_outline_on_other_grey_values_is_held(numbers: tuple[float, float]) -> None:
    """A mask moved together with its map no longer lies on the grey values that the model outlined."""
    assert holding(judge_sight(saw(FILED, *numbers), Sight(FILED, 410.0, 35.0), STACK)) == {"SEEN_INSIDE"}
    assert "SEEN_INSIDE" not in RELEASABLE


def test_a_model_that_tells_no_grey_values_is_held() -> None:
    """Nothing to compare with is no agreement."""
    silent = prediction_of(MASK, sight=FILED)
    assert holding(judge_sight(silent, Sight(FILED, 410.0, 35.0), STACK)) == {"GATE_ERROR"}


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
