"""Who is owed what, in which form: profiles are data, and the same wish is the same object."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from pydantic import ValidationError

from npc_rtnode.domain.profiles import (
    PLAIN,
    PROFILES,
    Form,
    ObjectOrder,
    ProfileName,
    orders_for,
    orders_of,
    segmented,
)
from npc_rtnode.domain.records import ObjectKind
from npc_rtnode.settings import Destination, Settings, content_hash
from tests.builders.outputs import plan_of

SEG, RTSTRUCT, SR = ObjectKind.SEG, ObjectKind.RTSTRUCT, ObjectKind.SR


def destination(name: str = "one", **wishes: Any) -> Destination:
    """A destination on this machine."""
    return Destination(name=name, ae_title="ONE", host="127.0.0.1", port=104, **wishes)


def test_every_profile_has_a_row_and_keeps_to_the_standard() -> None:
    """Names are settings' own; limits are within LO and DS, and eclipse, raystation and monaco keep TG-263's 16."""
    assert set(PROFILES) == set(get_args(ProfileName))
    assert all(profile.roi_name_most <= 64 and profile.decimals <= 3 for profile in PROFILES.values())
    vendors = [PROFILES[name] for name in ("eclipse", "raystation", "monaco")]
    assert {profile.roi_name_most for profile in vendors} == {16}


def test_the_patients_text_is_never_converted() -> None:
    """No profile asks for another character set than the images have."""
    assert {profile.character_sets for profile in PROFILES.values()} == {"as in the images"}


@pytest.mark.parametrize("profile", ["generic", "eclipse", "raystation"])
def test_destinations_that_want_the_same_share_one_object(profile: ProfileName) -> None:
    """A profile that changes no byte orders the very object that a generic destination gets."""
    both = [destination("a"), destination("b", profile=profile, roi_name="GTVp^AI")]
    assert orders_for(both, "GTVp^AI") == (ObjectOrder(RTSTRUCT),)


def test_another_name_is_another_object_owed_to_that_destination_alone() -> None:
    """Its order has a UID of its own; the others' order stays as it was."""
    plain, named = destination("a"), destination("b", profile="eclipse", roi_name="GTVp_AI")
    assert orders_of(plain, "GTVp^AI") == (ObjectOrder(RTSTRUCT),)
    (order,) = orders_of(named, "GTVp^AI")
    assert order == ObjectOrder(RTSTRUCT, Form("GTVp_AI"))
    plan = plan_of()
    assert len({plan.object_uid(order), plan.object_uid(ObjectOrder(RTSTRUCT)), plan.series_uid(order)}) == 3
    assert orders_for([plain, named], "GTVp^AI") == (ObjectOrder(RTSTRUCT), order)


def test_uids_of_the_plain_form_are_those_of_before() -> None:
    """The plain RTSTRUCT and SR keep the names that results in the ledger have."""
    plan = plan_of()
    assert plan.object_uid(ObjectOrder(RTSTRUCT)) == plan.uid("RTSTRUCT")
    assert plan.series_uid(ObjectOrder(SR)) == plan.uid("series-SR")
    assert ObjectOrder(RTSTRUCT).variant == ""


def test_variants_differ_wherever_forms_do() -> None:
    """Every part of a form is in the variant, and the variant fits the ledger's column."""
    forms = [PLAIN, Form("A"), Form("B"), Form("A", 2), Form(decimals=2), Form(segmentation=True)]
    variants = [ObjectOrder(SR, form).variant for form in forms]
    assert len(set(variants)) == len(forms)
    assert all(len(variant) in {0, 12} for variant in variants)


def test_a_report_measures_the_structure_set_that_goes_with_it() -> None:
    """With its own form of the structure set a destination's report names that one; without any, the plain one."""
    both = destination(objects=("RTSTRUCT", "SR"), roi_name="GTVp_AI")
    alone = destination(objects=("SR",), roi_name="GTVp_AI")
    assert orders_of(both, "GTVp^AI")[1].needs == (ObjectOrder(RTSTRUCT, Form("GTVp_AI")),)
    assert orders_of(alone, "GTVp^AI")[0].needs == (ObjectOrder(RTSTRUCT),)
    assert orders_for([alone], "GTVp^AI") == (ObjectOrder(RTSTRUCT), ObjectOrder(SR))


def test_with_an_image_of_the_page_its_document_is_written_and_owed_to_nobody() -> None:
    """The words of an image are judged in the document of the same form."""
    alone = destination("pacs", objects=(ObjectKind.PREVIEW,))
    kinds = [order.kind for order in orders_for([alone], "GTVp^AI")]
    assert kinds == [RTSTRUCT, ObjectKind.PREVIEW, ObjectKind.PDF]
    assert [order.kind for order in orders_of(alone, "GTVp^AI")] == [ObjectKind.PREVIEW]


def test_the_report_names_the_segmentation_where_both_are_owed() -> None:
    """TID 1411 for who gets the SEG, TID 1501 for who does not, and every object names only earlier ones."""
    with_seg, without = destination("a", objects=("SR", "SEG", "RTSTRUCT")), destination("b", objects=("SR",))
    orders = orders_for([without, with_seg], "GTVp^AI")
    assert [order.kind for order in orders] == [SEG, RTSTRUCT, SR, SR]
    assert [order.form.segmentation for order in orders] == [False, False, False, True]
    assert all(set(order.needs) <= set(orders[:position]) for position, order in enumerate(orders))
    assert segmented(orders)
    assert not segmented(orders_for([without], "GTVp^AI"))


def test_something_is_written_even_if_nobody_asks() -> None:
    """A result without destinations is held with its structure set, which a person can look at."""
    assert orders_for([], "GTVp^AI") == (ObjectOrder(RTSTRUCT),)


def test_only_what_shapes_a_shared_objects_bytes_is_in_the_work_key() -> None:
    """A SEG changes every structure set, so it changes the key; another form has a UID of its own and does not."""
    hashes = [
        content_hash(Settings(destinations=(destination(**wishes),)))
        for wishes in ({}, {"roi_name": "GTVp_AI"}, {"objects": ("SR", "SR_TEXT")}, {"objects": ("RTSTRUCT", "SEG")})
    ]
    assert hashes[0] == hashes[1] == hashes[2] != hashes[3]


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        ({"profile": "eclipse", "roi_name": "X" * 17}, "roi_name has 17 characters, the profile eclipse takes 16"),
        ({"profile": "raystation", "objects": ("RTSTRUCT", "SR")}, "raystation is not known to take SR"),
        ({"profile": "pinnacle"}, "Input should be 'generic', 'eclipse', 'raystation' or 'monaco'"),
        ({"roi_name": "GTVp\\AI"}, "printable ASCII only"),
        ({"objects": ("RTDOSE",)}, "Input should be 'SEG'"),
    ],
)
def test_a_wish_that_the_profile_cannot_have_is_refused_with_its_number(wishes: dict[str, Any], said: str) -> None:
    """At start, in words, and not by a planning system at three in the morning."""
    with pytest.raises(ValidationError, match=said.replace("\\", "\\\\")):
        destination(**wishes)


def test_a_long_name_is_allowed_where_dicom_alone_limits_it() -> None:
    """ROIName is LO: 64 characters."""
    assert destination(roi_name="X" * 64).roi_name == "X" * 64
    with pytest.raises(ValidationError):
        destination(roi_name="X" * 65)


@pytest.mark.parametrize(("wish", "encoding"), [("profile", "implicit"), ("explicit", "explicit")])
def test_the_encoding_is_the_profiles_unless_the_destination_says_otherwise(wish: str, encoding: str) -> None:
    """transfer_syntax overrides; by itself it follows the profile."""
    for profile in PROFILES:
        assert destination(profile=profile, transfer_syntax=wish).encoding == encoding
