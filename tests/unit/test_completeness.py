"""Whole, partial, never a stack, unusable: each series is exactly one of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npc_rtnode.domain.completeness import RELEASABLE_CODES, Completeness, Kind, doubted, judge, transfer_doubts
from tests.builders.headers import CORONAL, change_one, make_headers


def releasable(completeness: Completeness) -> bool:
    """Whether a person may declare it complete."""
    return bool(completeness.findings) and {f.code for f in completeness.findings} <= RELEASABLE_CODES


def test_an_even_stack_is_whole():
    """Nothing found: WHOLE, nothing to release."""
    completeness = judge(make_headers(), image_series=True)
    assert (completeness.kind, completeness.findings) == (Kind.WHOLE, ())
    assert not releasable(completeness)


@given(st.integers(4, 30), st.data())
def test_removing_any_inner_slice_is_partial(slices, data):
    """Whichever inner slice has not come yet, the series is PARTIAL and no person can wave it through."""
    inner = data.draw(st.integers(1, slices - 2))
    completeness = judge(make_headers(slices=slices, gap_at=(inner,)), image_series=True)
    assert completeness.kind is Kind.PARTIAL
    assert not releasable(completeness)


@given(st.integers(12, 40), st.data())
def test_a_stack_with_holes_is_never_whole(slices, data):
    """Any set of inner slices may be missing: as long as two neighbours remain, it is not taken for an even stack."""
    holes = data.draw(st.sets(st.integers(2, slices - 2), min_size=1))
    assert judge(make_headers(slices=slices, gap_at=tuple(holes)), image_series=True).kind is not Kind.WHOLE


def test_a_short_count_alone_can_be_released():
    """An even stack with fewer instances than ImagesInAcquisition waits, and a person may say that it is all."""
    completeness = judge(make_headers(images_in_acquisition=24), image_series=True)
    assert completeness.kind is Kind.PARTIAL
    assert releasable(completeness)


def test_a_short_count_with_a_gap_cannot_be_released():
    """The gap still speaks against it."""
    completeness = judge(make_headers(gap_at=(4,), images_in_acquisition=20), image_series=True)
    assert completeness.kind is Kind.PARTIAL
    assert not releasable(completeness)


NEVER = [
    {"orientation": CORONAL},
    {"frames": 96},
    {"position": None},
    {"frame_of_reference_uid": None},
    {"rows": 128},
    {"position": (-110.0, -95.5, 40.25)},
]


@pytest.mark.parametrize("fields", NEVER, ids=[next(iter(fields)) for fields in NEVER])
def test_what_no_further_slice_can_heal_is_not_a_stack(fields):
    """Mixed, multi-frame or unplaced slices close the series at once, even where the count is short too."""
    headers = change_one(make_headers(images_in_acquisition=30), 5, **fields)
    assert judge(headers, image_series=True).kind is Kind.NOT_A_STACK


def test_few_slices_are_not_waited_for():
    """A localizer of three even slices is complete and no volume."""
    assert judge(make_headers(slices=3), image_series=True).kind is Kind.NOT_A_STACK


@pytest.mark.parametrize("image_series", [True, False])
@pytest.mark.parametrize(("field", "code"), [("patient_key", "MIXED_PATIENT"), ("study_uid", "MIXED_STUDY")])
def test_two_patients_or_studies_are_unusable(field, code, image_series):
    """Identity comes before everything else, for images and for other objects."""
    completeness = judge(change_one(make_headers(gap_at=(4,)), 5, **{field: "2.25.5"}), image_series=image_series)
    assert completeness.kind is Kind.UNUSABLE
    assert code in [finding.code for finding in completeness.findings]


def test_a_series_without_images_is_complete_and_named():
    """RTSTRUCT, SR and their like are never a stack, by name."""
    completeness = judge(make_headers(slices=1, position=None), image_series=False)
    assert completeness.kind is Kind.NOT_A_STACK
    assert [finding.code for finding in completeness.findings] == ["NOT_AN_IMAGE_SERIES"]


@pytest.mark.parametrize("how", ["aborted", "lost"])
def test_a_transfer_that_was_cut_short_makes_a_whole_looking_stack_partial(how):
    """Geometry cannot see a missing end; the sender's end can: such a stack waits for its rest or for a person."""
    completeness = doubted(judge(make_headers(), image_series=True), transfer_doubts(how, 0))
    assert completeness.kind is Kind.PARTIAL
    assert [finding.code for finding in completeness.findings] == ["ABORTED"]
    assert releasable(completeness)


def test_the_first_slices_of_an_aborted_transfer_are_partial_not_a_small_series():
    """Three slices are no stack; three of an association that was cut short wait for their rest."""
    small = judge(make_headers(slices=3), image_series=True)
    assert small.kind is Kind.NOT_A_STACK
    assert doubted(small, transfer_doubts("aborted", 0)).kind is Kind.PARTIAL


def test_refused_images_are_a_doubt_too():
    """An image that was not taken may be the slice that lacks."""
    (doubt,) = transfer_doubts(None, 2)
    assert (doubt.code, doubt.value) == ("REFUSED", 2.0)


def test_a_good_transfer_leaves_the_judgement_alone():
    """Without a doubt nothing changes, and a doubt makes no stack of what is none."""
    whole, none = judge(make_headers(), image_series=True), judge(make_headers(slices=3), image_series=False)
    assert doubted(whole, transfer_doubts(None, 0)) is whole
    assert doubted(none, transfer_doubts("aborted", 0)) is none
