"""Typed rules: what a rule file may ask, what it answers, and what it says about it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npc_rtnode.domain.clauses import MATCHED_CHARACTERS
from npc_rtnode.domain.evaluation import all_true, any_true, opposite, shown
from npc_rtnode.domain.records import SeriesAttributes, Truth, Verdict
from npc_rtnode.domain.rule_loading import load_rules
from npc_rtnode.domain.selection import Outcome, decide
from npc_rtnode.errors import RulesFault

T, F, U = Truth.TRUE, Truth.FALSE, Truth.UNKNOWN
TRUTHS = st.sampled_from([T, F, U])

VRS = {
    "Modality": "CS",
    "ImageType": "CS",
    "SeriesDescription": "LO",
    "EchoTime": "DS",
    "SmallestImagePixelValue": "US or SS",
    "SOPClassUID": "UI",
    "StudyDate": "DA",
    "PatientName": "PN",
    "PatientID": "LO",
    "RequestAttributesSequence": "SQ",
    "PixelData": "OB or OW",
}


def rules(*clauses: dict[str, Any], **top: Any):
    """A rule set of these clauses, each named after its place."""
    named = [{"name": f"rule {k + 1}", **clause} for k, clause in enumerate(clauses)]
    return load_rules({"name": "test", "role": "t1c", "clauses": named, **top}, VRS.get, VRS)


def series(derived=None, **values: Any) -> SeriesAttributes:
    """A series; each attribute is a list with one entry a slice, an entry a tuple, a scalar or None."""
    entries = {
        keyword: tuple(v if v is None or isinstance(v, tuple) else (v,) for v in column)
        for keyword, column in values.items()
    }
    return SeriesAttributes(max(map(len, entries.values()), default=3), entries, derived or {})


def verdict(clause: dict[str, Any], attributes: SeriesAttributes) -> Verdict:
    """The verdict of a single clause."""
    return rules(clause).evaluate(attributes)[0]


# --- one clause -------------------------------------------------------------------------------------------------------

OPERATORS = [
    ("Modality", "equals", "MR", ("MR",), T),
    ("Modality", "equals", "MR", ("CT",), F),
    ("Modality", "not_equals", "CT", ("MR",), T),
    ("ImageType", "equals", ["ORIGINAL", "PRIMARY"], ("ORIGINAL", "PRIMARY"), T),
    ("ImageType", "equals", ["ORIGINAL", "PRIMARY"], ("ORIGINAL", "PRIMARY", "OTHER"), F),
    ("Modality", "one_of", ["MR", "CT"], ("CT",), T),
    ("Modality", "none_of", ["MR", "CT"], ("PT",), T),
    ("Modality", "none_of", ["MR", "CT"], ("CT",), F),
    ("ImageType", "contains_value", ["MOSAIC", "VFRAME"], ("ORIGINAL", "MOSAIC"), T),
    ("ImageType", "lacks_value", "MOSAIC", ("ORIGINAL", "MOSAIC"), F),
    ("ImageType", "lacks_value", "MOSAIC", ("ORIGINAL", "MOSAICS"), T),
    ("SeriesDescription", "matches", r"\+ ?c", ("T1 +C",), T),
    ("SeriesDescription", "not_matches", "t2", ("AX T2 FS",), F),
    ("SeriesDescription", "matches", r"\bNPC\b", ("鼻咽NPC平扫",), T),
    ("EchoTime", "at_most", 30, (30.0,), T),
    ("EchoTime", "at_most", 30, (30.5,), F),
    ("EchoTime", "at_least", 5, (11,), T),
    ("EchoTime", "between", [5, 30], (11.5,), T),
    ("EchoTime", "between", [5, 30], (4.9,), F),
    ("EchoTime", "equals", 11, (11.0000001,), T),
    ("EchoTime", "at_most", 30, ("eleven",), F),
    ("SOPClassUID", "equals", "1.2", ("1.2",), T),
    ("RequestAttributesSequence", "matches", "nasophar", ("MR Nasopharynx", "staging"), T),
]


@pytest.mark.parametrize(("tag", "op", "value", "entry", "truth"), OPERATORS)
def test_each_operator_answers(tag, op, value, entry, truth):
    """One operator, one value, one answer."""
    assert verdict({"tag": tag, "op": op, "value": value}, series(**{tag: [entry]})).truth is truth


@pytest.mark.parametrize(
    ("op", "entry", "truth"), [("present", None, F), ("present", "x", T), ("absent", None, T), ("absent", "x", F)]
)
def test_existence_is_never_unknown(op, entry, truth):
    """Whether an element is there can always be said."""
    clause = {"tag": "SeriesDescription", "op": op, "missing": "unknown"}
    assert verdict(clause, series(SeriesDescription=[entry])).truth is truth


@pytest.mark.parametrize(
    ("over", "echoes", "truth"),
    [
        ("all", [11, 11, 90], F),
        ("any", [90, 90, 11], T),
        ("any", [90, None], U),
        ("any", [None, 11], T),
        ("all", [11, None], U),
        ("all", [90, None], F),
        ("constant", [11, 11], T),
        ("constant", [11, 12], F),
        ("constant", [90, 90], F),
        ("constant", [11, None], U),
    ],
)
def test_quantifiers_over_slices(over, echoes, truth):
    """all, any and constant, with slices that lack the element."""
    clause = {"tag": "EchoTime", "op": "at_most", "value": 30, "over": over}
    assert verdict(clause, series(EchoTime=echoes)).truth is truth


@pytest.mark.parametrize(("missing", "truth"), [("unknown", U), ("true", T), ("false", F)])
def test_a_missing_attribute_is_an_explicit_outcome(missing, truth):
    """Missing is UNKNOWN unless the clause says otherwise, and the reason says that it is missing."""
    clause = {"tag": "EchoTime", "op": "at_most", "value": 30, "missing": missing}
    answer = verdict(clause, series(EchoTime=[None, None]))
    assert answer.truth is truth
    assert "EchoTime is missing" in answer.because


def test_an_attribute_that_was_never_read_is_missing():
    """A series without that column answers UNKNOWN, not by a KeyError."""
    assert verdict({"tag": "EchoTime", "op": "present"}, series(Modality=["MR"])).truth is F
    assert verdict({"tag": "EchoTime", "op": "at_most", "value": 1}, series(Modality=["MR"])).truth is U


def test_a_series_without_slices_is_unknown():
    """Nothing was asked, so nothing is true of all."""
    assert verdict({"tag": "EchoTime", "op": "at_most", "value": 1}, SeriesAttributes(0, {})).truth is U


def test_derived_facts_are_asked_like_attributes():
    """@plane and its like come from the judged facts of the series, with the operators of their type."""
    clause = {"tag": "@plane", "op": "equals", "value": "axial"}
    assert verdict(clause, series({"@plane": "axial"})).truth is T
    assert verdict(clause, series({})).truth is U


def test_the_number_behind_a_plane_is_told():
    """A wrong plane is told with its angle; without an angle, by its name alone."""
    clause = {"tag": "@plane", "op": "equals", "value": "axial"}
    tilted = verdict(clause, series({"@plane": "sagittal", "@plane_angle_deg": 3.14159}))
    assert tilted.because == '@plane is "sagittal" (3.14 degrees off the nearest axis) (wanted equals "axial")'
    assert verdict(clause, series({"@plane": "oblique"})).because == '@plane is "oblique" (wanted equals "axial")'


def test_a_fact_is_told_at_length_and_an_attribute_is_cut():
    """What the node found out carries the numbers at its end; the text of a file is cut after 64 characters."""
    long = "x" * 300 + " 12 needed"
    assert (
        "12 needed" in verdict({"tag": "@pixels", "op": "equals", "value": "plain"}, series({"@pixels": long})).because
    )
    assert len(verdict(SAYS_T1, series(SeriesDescription=long)).because) < 150


# --- groups -----------------------------------------------------------------------------------------------------------


@given(st.lists(TRUTHS, min_size=1, max_size=5))
def test_kleene_logic_obeys_de_morgan(truths):
    """Not all true is the same as some not true, with UNKNOWN in play."""
    assert opposite(all_true(truths)) is any_true([opposite(truth) for truth in truths])


@given(st.lists(TRUTHS, max_size=5), st.sampled_from([T, F]))
def test_knowing_more_never_turns_an_answer_round(truths, learned):
    """Where UNKNOWN becomes known, a TRUE or FALSE conjunction stays what it was."""
    before = all_true(truths)
    after = all_true([learned if truth is U else truth for truth in truths])
    assert before is U or after is before


LONG_ECHO = {"tag": "EchoTime", "op": "at_least", "value": 50}
SAYS_T1 = {"tag": "SeriesDescription", "op": "matches", "value": "T1"}
MR = {"tag": "Modality", "op": "equals", "value": "MR"}


@pytest.mark.parametrize(
    ("clause", "truth"),
    [
        ({"any_of": [SAYS_T1, LONG_ECHO]}, T),
        ({"all_of": [SAYS_T1, LONG_ECHO]}, F),
        ({"not": LONG_ECHO}, T),
        ({"not": {"any_of": [MR, LONG_ECHO]}}, U),
        ({"all_of": [SAYS_T1, {"not": [LONG_ECHO]}, {"any_of": [MR, SAYS_T1]}]}, T),
    ],
)
def test_groups_nest(clause, truth):
    """any_of, all_of and not, inside one another, over one series without Modality."""
    assert verdict(clause, series(SeriesDescription=["T1"], EchoTime=[11], Modality=[None])).truth is truth


def test_a_group_tells_the_deciding_values_and_the_wish():
    """A group with a wish lists the values that decided and what was wanted, not its patterns."""
    answer = verdict({"any_of": [MR, LONG_ECHO], "wanted": "one or the other"}, series(Modality=["CT"], EchoTime=[11]))
    assert answer.because == 'Modality is "CT", EchoTime is 11 (wanted one or the other)'


# --- reasons ----------------------------------------------------------------------------------------------------------


def test_reasons_name_the_value_and_the_wish():
    """A FALSE verdict says what the header says and what was wanted."""
    answer = verdict({"tag": "EchoTime", "op": "between", "value": [5, 30]}, series(EchoTime=[11, 90, 120]))
    assert answer.because == "EchoTime is 90, is 120 (wanted between 5 and 30)"


def test_constant_says_that_slices_differ():
    """The reason of a broken constant is the difference."""
    answer = verdict({**MR, "over": "constant"}, series(Modality=["MR", "CT", "PT", "US"]))
    said = 'Modality differs between slices: is "MR", is "CT", is "PT" and 1 more (wanted equals "MR")'
    assert answer.because == said


def test_quoted_values_are_cut_and_escaped():
    """No value, however long or odd, breaks a log line or a terminal."""
    assert shown("A\x1b[2J\nB\u202e") == '"A\\x1b[2J\\nB\\u202e"'
    assert len(shown("x" * 5000)) == 66


def test_patterns_see_a_bounded_text():
    """A megabyte of text in a description cannot make a pattern run for ever."""
    clause = {"tag": "SeriesDescription", "op": "matches", "value": "T1$"}
    assert verdict(clause, series(SeriesDescription=["x" * MATCHED_CHARACTERS + "T1"])).truth is F


# --- the decision -----------------------------------------------------------------------------------------------------


@given(st.lists(TRUTHS, min_size=1))
def test_the_decision_is_the_table(truths):
    """Any FALSE sets aside; else any UNKNOWN holds; else eligible; reasons are those that stand in the way."""
    decision = decide([Verdict(f"r{k}", truth, "because") for k, truth in enumerate(truths)])
    expected = Outcome.SET_ASIDE if F in truths else Outcome.HELD if U in truths else Outcome.ELIGIBLE
    assert decision.outcome is expected
    assert len(decision.reasons) == truths.count({"set_aside": F, "held": U}.get(expected, "none"))
    assert (decision.set_aside, decision.held, decision.eligible).count(True) == 1


def test_no_verdict_is_no_permission():
    """Nothing judged is held."""
    assert decide([]).held


# --- loading ----------------------------------------------------------------------------------------------------------

MISTAKES = [
    ({"tag": "EchTime", "op": "at_most", "value": 1}, "unknown DICOM keyword 'EchTime'; did you mean EchoTime?"),
    ({"tag": "@plan", "op": "equals", "value": "axial"}, "unknown fact '@plan'; did you mean @plane?"),
    ({"tag": "SeriesDescription", "op": "at_most", "value": 1}, "order is asked of numbers only"),
    ({"tag": "StudyDate", "op": "at_most", "value": 1}, "order is asked of numbers only"),
    ({"tag": "EchoTime", "op": "matches", "value": "1"}, "patterns are asked of text only"),
    ({"tag": "SOPClassUID", "op": "matches", "value": "1"}, "patterns are asked of text only"),
    ({"tag": "RequestAttributesSequence", "op": "equals", "value": "1"}, "a sequence takes matches"),
    ({"tag": "PixelData", "op": "present"}, "values of this VR are not read"),
    ({"tag": "PatientName", "op": "present"}, "identifies the patient"),
    ({"tag": "PatientID", "op": "matches", "value": "^9"}, "identifies the patient"),
    ({"tag": "SeriesDescription", "op": "matches", "value": "(T1"}, "is no regular expression"),
    ({"tag": "EchoTime", "op": "atmost", "value": 1}, "did you mean at_most?"),
    ({"tag": "EchoTime", "op": "at_most", "value": "30"}, "'30' is not a number"),
    ({"tag": "EchoTime", "op": "at_most", "value": True}, "True is not a number"),
    ({"tag": "EchoTime", "op": "at_most", "value": float("nan")}, "not a finite number"),
    ({"tag": "Modality", "op": "equals", "value": 1}, "1 is not a text"),
    ({"tag": "EchoTime", "op": "between", "value": [30]}, "between takes [lowest, highest]"),
    ({"tag": "EchoTime", "op": "between", "value": [30, 5]}, "lies nothing"),
    ({"tag": "EchoTime", "op": "at_most", "value": [1, 2]}, "takes one value"),
    ({"tag": "Modality", "op": "one_of"}, "needs a value"),
    ({"tag": "Modality", "op": "present", "value": "MR"}, "takes no value"),
    ({"tag": "Modality", "op": "present", "over": "most"}, "over 'most' is none of all, any, constant"),
    ({"tag": "Modality", "op": "present", "missing": "maybe"}, "missing 'maybe' is none of"),
    ({"tag": "Modality", "op": "present", "valeu": 1}, "unknown key 'valeu'; did you mean value?"),
    ({"op": "present"}, "a tag is needed"),
    ({"any_of": []}, "at least one clause"),
    ({"any_of": [MR], "all_of": [MR]}, "one of them, nested, is needed"),
    ({"not": [MR, MR]}, "not takes one clause"),
    ({"all_of": ["Modality"]}, "a table is needed"),
    ({"wanted": 1, **MR}, "wanted must be a text"),
]


@pytest.mark.parametrize(("clause", "complaint"), MISTAKES, ids=[text for _, text in MISTAKES])
def test_a_mistake_is_found_at_load(clause, complaint):
    """Each way of writing a clause wrongly has its own sentence."""
    with pytest.raises(RulesFault) as fault:
        rules(clause)
    assert complaint.lower() in str(fault.value).lower()


def test_all_mistakes_are_told_at_once_with_their_places():
    """Three mistakes in three places are three lines."""
    with pytest.raises(RulesFault) as fault:
        rules({"tag": "EchTime", "op": "present"}, {"any_of": [MR, {"tag": "EchoTime", "op": "x"}]}, role="")
    lines = fault.value.detail.split("\n")
    assert [line.split(":")[0] for line in lines] == ["clauses[1] 'rule 1'", "clauses[2] 'rule 2'.any_of[2]", "role"]


PREFER = {"name": "closer", "tag": "EchoTime", "order": "lower"}
PREFERENCE_MISTAKES = [
    ("lower", "prefer: a list of preferences is needed"),
    ([PREFER, PREFER], "prefer: two are called 'closer'"),
    ([{**PREFER, "name": ""}], "number 1 has no name"),
    ([{**PREFER, "name": 3}], "name must be a text"),
    ([{**PREFER, "order": "lowest"}], "did you mean lower?"),
    ([{**PREFER, "step": -1}], "step -1 is not a number from 0 on"),
    ([{**PREFER, "step": "much"}], "step 'much' is not a number"),
    ([{**PREFER, "over": "all"}], "unknown key 'over'"),
    ([{**PREFER, "tag": "SeriesDescription"}], "order is asked of numbers only"),
    ([{**PREFER, "tag": "PatientID"}], "identifies the patient"),
    ([{"name": "x", "tag": "@fat_supressed", "op": "equals", "value": "yes"}], "did you mean @fat_suppressed?"),
    (["closer"], "a table is needed"),
]


@pytest.mark.parametrize(("prefer", "complaint"), PREFERENCE_MISTAKES, ids=[text for _, text in PREFERENCE_MISTAKES])
def test_a_mistake_in_a_preference_is_found_at_load(prefer, complaint):
    """Each way of writing a preference wrongly has its own sentence."""
    with pytest.raises(RulesFault) as fault:
        rules(MR, prefer=prefer)
    assert complaint.lower() in str(fault.value).lower()


def test_preferences_are_clauses_groups_and_orderings():
    """All three are read in their order, and their tags are read with the clauses'."""
    asked = [{"name": "s", **SAYS_T1}, {"name": "g", "any_of": [LONG_ECHO, MR]}, PREFER]
    loaded = rules(MR, prefer=asked)
    assert [item.name for item in loaded.preferences] == ["s", "g", "closer"]
    assert loaded.keywords() == ("EchoTime", "Modality", "SeriesDescription")


def test_the_hash_covers_preferences_and_their_order():
    """Another preference, another order of them, another step: each is another rule set."""
    other = {"name": "s", **SAYS_T1}
    variants = [
        [],
        [PREFER],
        [other, PREFER],
        [PREFER, other],
        [{**PREFER, "step": 1}],
        [{**PREFER, "order": "higher"}],
    ]
    assert len({rules(MR, prefer=variant).hash for variant in variants}) == len(variants)


def test_names_are_needed_and_unique():
    """A verdict is told by its clause's name."""
    with pytest.raises(RulesFault, match="two are called 'same'"):
        rules({**MR, "name": "same"}, {**MR, "name": "same"})
    with pytest.raises(RulesFault, match="number 1 has no name"):
        rules({**MR, "name": ""})


def test_nesting_has_a_bottom():
    """A file nested a hundred deep is refused, not recursed into."""
    clause: dict[str, Any] = MR
    for _ in range(100):
        clause = {"not": clause}
    with pytest.raises(RulesFault, match="nested deeper"):
        rules(clause)


def test_the_hash_follows_the_content():
    """Layout, description and wishes leave the hash alone; a value, an order or a policy changes it."""
    first = rules({"tag": "EchoTime", "op": "at_most", "value": 30})
    assert first.hash == rules({"value": 30.0, "op": "at_most", "tag": "EchoTime", "wanted": "w"}, description="d").hash
    others = [
        {"tag": "EchoTime", "op": "at_most", "value": 31},
        {"tag": "EchoTime", "op": "at_least", "value": 30},
        {"tag": "EchoTime", "op": "at_most", "value": 30, "missing": "true"},
        {"tag": "EchoTime", "op": "at_most", "value": 30, "over": "any"},
    ]
    assert len({first.hash, *(rules(clause).hash for clause in others)}) == 5


def test_keywords_are_the_attributes_to_read():
    """Every DICOM keyword of every nested clause once, sorted; derived facts are the reader's business."""
    asked = rules(MR, {"any_of": [SAYS_T1, {"not": LONG_ECHO}]}, {"tag": "@plane", "op": "present"})
    assert asked.keywords() == ("EchoTime", "Modality", "SeriesDescription")
    concluded = rules({"tag": "@fat_suppressed", "op": "equals", "value": "yes"})
    assert {"ScanOptions", "SeriesDescription"} <= set(concluded.keywords())


def test_a_concluded_fact_tells_what_it_was_concluded_from():
    """The reason of a fact that no element states names the element behind it."""
    answer = verdict({"tag": "@fat_suppressed", "op": "equals", "value": "yes"}, series(SeriesDescription=["T1 FS"]))
    assert answer.because == '@fat_suppressed is "yes" (SeriesDescription has "FS")'
