"""Names that are computed: stable, distinct, legal."""

from __future__ import annotations

import re
import uuid

from hypothesis import given
from hypothesis import strategies as st

from npc_rtnode.domain.identifiers import derived_uid, input_digest, study_reference, work_key
from npc_rtnode.domain.records import WorkIdentity

WORK = WorkIdentity("1.2.3", "i" * 64, "b" * 64, "s" * 64)


@given(st.lists(st.tuples(st.text(), st.text()), unique=True), st.randoms())
def test_inputs_have_one_digest_in_any_order(pairs: list[tuple[str, str]], random: object) -> None:
    """The order in which slices came changes nothing."""
    shuffled = list(pairs)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert input_digest(pairs) == input_digest(shuffled)


def test_each_part_of_the_identity_makes_another_key() -> None:
    """Another series, input, bundle or setting is another piece of work."""
    others = [
        WorkIdentity("1.2.4", "i" * 64, "b" * 64, "s" * 64),
        WorkIdentity("1.2.3", "j" * 64, "b" * 64, "s" * 64),
        WorkIdentity("1.2.3", "i" * 64, "c" * 64, "s" * 64),
        WorkIdentity("1.2.3", "i" * 64, "b" * 64, "t" * 64),
    ]
    assert len({work_key(work) for work in [WORK, *others]}) == 5


@given(st.text(max_size=80), st.text(max_size=20))
def test_a_derived_uid_is_legal_and_stable(key: str, what: str) -> None:
    """At most 64 characters below 2.25, no leading zero, a real UUID behind it, the same each time (PS3.5 B.2)."""
    uid = derived_uid(key, what)
    assert uid == derived_uid(key, what)
    assert re.fullmatch(r"2\.25\.[1-9]\d{0,38}", uid)
    assert len(uid) <= 64
    assert uuid.UUID(int=int(uid.removeprefix("2.25."))).variant == uuid.RFC_4122


def test_the_uid_of_a_known_key_never_changes() -> None:
    """A release that changed this would send a second structure set for every retry."""
    assert derived_uid("k" * 64, "RTSTRUCT") == "2.25.306789148764762735782732611337359762642"


@given(st.text(min_size=1, max_size=64))
def test_a_study_reference_can_be_read_over_the_telephone(study_uid: str) -> None:
    """Six letters of an alphabet without look-alikes, keyed by the site."""
    reference = study_reference(study_uid, "site")
    assert re.fullmatch(r"[2-9A-HJKMNP-TV-Z]{3}-[2-9A-HJKMNP-TV-Z]{3}", reference)
    assert not set(reference) & set("01OILU")


def test_another_site_names_the_same_study_otherwise() -> None:
    """Without the site's key nobody can tell which study a reference stands for."""
    assert study_reference("1.2.3", "one") != study_reference("1.2.3", "two")
