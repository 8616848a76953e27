"""Whole, partial, never a stack, unusable: each series is exactly one of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npc_rtnode.domain.completeness import Kind, is_quiet, judge
from tests.builders.headers import CORONAL, change_one, make_headers

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_an_even_stack_is_whole():
    """Nothing found: WHOLE, nothing to release."""
    completeness = judge(make_headers(), image_series=True)
    assert (completeness.kind, completeness.findings) == (Kind.WHOLE, ())
    assert not completeness.can_be_released


@given(st.integers(4, 30), st.data())
def test_removing_any_inner_slice_is_partial(slices, data):
    """Whichever inner slice has not come yet, the series is PARTIAL and no person can wave it through."""
    inner = data.draw(st.integers(1, slices - 2))
    completeness = judge(make_headers(slices=slices, gap_at=(inner,)), image_series=True)
    assert completeness.kind is Kind.PARTIAL
    assert not completeness.can_be_released


@given(st.integers(12, 40), st.data())
def test_a_stack_with_holes_is_never_whole(slices, data):
    """Any set of inner slices may be missing: as long as two neighbours remain, it is not taken for an even stack."""
    holes = data.draw(st.sets(st.integers(2, slices - 2), min_size=1))
    assert judge(make_headers(slices=slices, gap_at=tuple(holes)), image_series=True).kind is not Kind.WHOLE


def test_a_short_count_alone_can_be_released():
    """An even stack with fewer instances than ImagesInAcquisition waits, and a person may say that it is all."""
    completeness = judge(make_headers(images_in_acquisition=24), image_series=True)
    assert completeness.kind is Kind.PARTIAL
    assert completeness.can_be_released


def test_a_short_count_with_a_gap_cannot_be_released():
    """The gap still speaks against it."""
    completeness = judge(make_headers(gap_at=(4,), images_in_acquisition=20), image_series=True)
    assert completeness.kind is Kind.PARTIAL
    assert not completeness.can_be_released


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


@pytest.mark.parametrize(("ago_s", "quiet"), [(29.9, False), (30.0, True), (3600.0, True), (-5.0, False)])
def test_quiet_after_the_quiet_time(ago_s, quiet):
    """Quiet from the quiet time on; a clock set back means waiting longer."""
    assert is_quiet(NOW - timedelta(seconds=ago_s), NOW, quiet_s=30.0) is quiet
