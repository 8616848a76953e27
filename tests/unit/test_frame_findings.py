"""Frames judged as slices: what only a multi-frame instance can have wrong is named, with its number."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from npc_rtnode.domain.completeness import Kind, judge
from npc_rtnode.domain.geometry import MOST_FRAMES, judge_stack
from npc_rtnode.domain.records import Finding, FrameTraits, SliceHeader
from tests.builders.headers import CORONAL, OBLIQUE, change_one, cosines, make_headers

SAID = (("EffectiveEchoTime", "11.00"), ("ComplexImageComponent", "MAGNITUDE"))


def frames(slices: int = 20, **wishes: Any) -> list[SliceHeader]:
    """The headers of one instance whose frames are these slices."""
    made = make_headers(slices=slices, traits=FrameTraits("1", SAID), frames=slices, sop_uid="2.25.1", **wishes)
    return [replace(header, frame=number) for number, header in enumerate(made, start=1)]


def found(headers: Sequence[SliceHeader]) -> dict[str, Finding]:
    """Findings by code."""
    return {finding.code: finding for finding in judge_stack(headers).findings}


@pytest.mark.parametrize("orientation", [CORONAL, OBLIQUE])
def test_frames_in_any_order_make_the_same_stack(orientation: Sequence[float]) -> None:
    """Positions sort frames; their numbers never do."""
    ordered = frames(orientation=orientation)
    shuffled = random.Random(3).sample(ordered, len(ordered))
    stack = judge_stack(shuffled).stack
    assert stack is not None
    assert list(stack.slices) == ordered


def test_a_slice_is_named_with_its_frame_only_where_there_are_others() -> None:
    """PS3.3 10.3: a frame number stands where a reference does not mean the whole instance."""
    assert [header.reference for header in frames(slices=2)] == [("2.25.1", 1), ("2.25.1", 2)]
    assert [header.reference for header in frames(slices=1)] == [("2.25.1", None)]
    assert make_headers(slices=1)[0].reference == ("2.25.1000", None)


def test_two_stacks_by_name() -> None:
    """Two StackIDs are two stacks, even where all frames lie on one line."""
    finding = found(change_one(frames(), 12, traits=FrameTraits("2", SAID)))["SEVERAL_STACKS"]
    assert (finding.value, finding.limit) == (2, 1)
    assert "2 by StackID, 1 by orientation" in finding.message


def test_two_stacks_by_direction() -> None:
    """Frames of two orientations are two stacks, whatever they are called."""
    turned = frames()[:10] + [replace(header, orientation=cosines(CORONAL)) for header in frames()[10:]]
    assert "1 by StackID, 2 by orientation" in found(turned)["SEVERAL_STACKS"].message


@pytest.mark.parametrize(
    ("keyword", "value", "told"),
    [
        ("EffectiveEchoTime", "80.00", "11.00, 80.00"),
        ("ComplexImageComponent", "PHASE", "MAGNITUDE, PHASE"),
        ("EffectiveEchoTime", "", "unsaid, 11.00"),
    ],
)
def test_two_contrasts_are_named_by_what_differs(keyword: str, value: str, told: str) -> None:
    """The finding says which attribute differs, and the values, and that no distance between slices was looked at."""
    odd = FrameTraits("1", tuple({**dict(SAID), keyword: value}.items()))
    findings = found(change_one(frames(), 9, traits=odd))
    assert list(findings) == ["SEVERAL_CONTRASTS"]
    assert findings["SEVERAL_CONTRASTS"].message == f"frames of one series differ in {keyword} ({told})"
    assert (findings["SEVERAL_CONTRASTS"].value, findings["SEVERAL_CONTRASTS"].limit) == (1, 0)


def test_many_values_are_cut_short() -> None:
    """Twenty time points are told as five and the number of the rest."""
    dynamic = [
        replace(header, traits=FrameTraits("1", (("TemporalPositionIndex", f"{k:02d}"),)))
        for k, header in enumerate(frames())
    ]
    assert "(00, 01, 02, 03, 04 and 15 more)" in found(dynamic)["SEVERAL_CONTRASTS"].message


def test_single_frame_instances_among_frames() -> None:
    """A series of both is none: nobody made it as one volume."""
    finding = found([*frames(slices=12), *make_headers(slices=20)[12:]])["SINGLE_AND_MULTIFRAME"]
    assert (finding.value, finding.limit) == (8, 0)


def test_an_instance_that_was_not_taken_apart() -> None:
    """Of another class than Enhanced MR: refused by name, whatever its first frame says."""
    finding = found(make_headers(slices=1, frames=24))["MULTIFRAME"]
    assert (finding.value, finding.limit) == (24, 1)


def test_too_many_frames_are_refused_by_their_number() -> None:
    """An instance left whole because the series has too many frames says how many that is."""
    whole = replace(make_headers(slices=1)[0], frames=MOST_FRAMES)
    finding = found([*frames(), whole])["TOO_MANY_FRAMES"]
    assert (finding.value, finding.limit) == (MOST_FRAMES + 20, MOST_FRAMES)


def test_frames_without_a_place_are_counted() -> None:
    """A frame without its functional group lacks a position, and is called a frame."""
    finding = found(change_one(frames(), 4, position=None))["NO_POSITION"]
    assert finding.message.startswith("1 of 20 frames lack ImagePositionPatient")


@pytest.mark.parametrize("total", [3, 0])
def test_a_missing_part_of_a_concatenation_is_waited_for(total: int) -> None:
    """Contiguous frames look whole; the number of parts, or a gap in their numbers, tells that some are missing."""
    parts = [1 if k < 10 else 3 for k in range(20)]
    cut = [
        replace(header, traits=FrameTraits("1", SAID, ("2.25.6", part, total)))
        for header, part in zip(frames(), parts, strict=True)
    ]
    finding = found(cut)["PART_MISSING"]
    assert (finding.value, finding.limit) == (2, 3)
    assert judge(cut, image_series=True).kind is Kind.PARTIAL


@pytest.mark.parametrize(
    "odd",
    [
        {"traits": FrameTraits("2", SAID)},
        {"traits": FrameTraits("1", (("EffectiveEchoTime", "80.00"),))},
        {"position": None},
        {"orientation": cosines(CORONAL)},
        {"frame": None, "frames": 1},
    ],
)
def test_what_no_further_frame_can_heal_closes_the_series(odd: dict[str, Any]) -> None:
    """Stacks, contrasts, missing groups, mixed kinds: complete as it is, and no volume."""
    headers = change_one(frames(), 7, **odd)
    assert judge(headers, image_series=True).kind is Kind.NOT_A_STACK
