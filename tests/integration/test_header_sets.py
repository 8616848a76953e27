"""The shipped rules on many studies as scanners write them: which series is chosen, and what each other one comes to.

`pytest -s` prints every series with its reasons, as `rules test` does.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache

import pytest

from npc_rtnode.adapters.dicom.series import DicomSeriesReader
from npc_rtnode.adapters.rules import load_rule_file
from npc_rtnode.domain.clauses import Clause, Group
from npc_rtnode.domain.evaluation import shown
from npc_rtnode.domain.records import SeriesAttributes, Truth, Verdict
from npc_rtnode.domain.rules import RuleSet
from npc_rtnode.domain.selection import Candidate, Outcome, Standing, decide, stand
from tests.builders.header_sets import HeaderSeries, HeaderStudy, header_studies
from tests.builders.headers import real_files

RULES = load_rule_file("npc_ce_t1")
STUDIES = header_studies()


def came_to(study: HeaderStudy, rules: RuleSet) -> dict[int, str]:
    """What a rule set makes of every series of a study, in the words of `expect`."""
    verdicts = {number: rules.evaluate(one.attributes) for number, one in study.series.items()}
    candidates = [Candidate(n, study.series[n].attributes) for n, found in verdicts.items() if decide(found).eligible]
    standings = stand(candidates, rules.preferences)
    return {number: _in_words(found, standings.get(number)) for number, found in verdicts.items()}


def _in_words(verdicts: tuple[Verdict, ...], standing: Standing | None) -> str:
    if standing is not None:
        decided_by = standing.because.split("; ", 1)[-1].split(": ")[0]
        words = {Outcome.ELIGIBLE: "chosen", Outcome.HELD: "tied", Outcome.SET_ASIDE: f"outranked: {decided_by}"}
        return words[standing.outcome]
    for truth, word in ((Truth.FALSE, "set aside"), (Truth.UNKNOWN, "held")):
        if named := [verdict.rule for verdict in verdicts if verdict.truth is truth]:
            return f"{word}: {', '.join(named)}"
    raise AssertionError(verdicts)


def agrees(expected: str, found: str) -> bool:
    """Whether what was found is what was expected; with `...` the named clauses must be among the found ones."""
    word, _, names = expected.partition(": ")
    found_word, _, found_names = found.partition(": ")
    wanted, got = _names(names), _names(found_names)
    return word == found_word and (wanted - {"..."} <= got if "..." in wanted else wanted == got)


def _names(text: str) -> set[str]:
    """Clause names; one of them has a comma in it."""
    name = "not fat, in-phase or opposed-phase"
    held = {name} if name in text else set()
    return held | {part for part in text.replace(name, "").split(", ") if part.strip()}


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_every_series_of_a_study_comes_to_what_it_is(study: HeaderStudy) -> None:
    """The series that a physicist would take is chosen, or a tie is told; all others go for the reason they should."""
    found = came_to(study, RULES)
    _tell(study, found)
    wrong = {n: (one.expect, found[n]) for n, one in study.series.items() if not agrees(one.expect, found[n])}
    assert wrong == {}


def _tell(study: HeaderStudy, found: dict[int, str]) -> None:
    print(f"\n{study.name}")
    for number, one in study.series.items():
        print(f"  {number}  {_described(one.attributes):<44} {found[number]}")
        for verdict in RULES.evaluate(one.attributes):
            if verdict.truth is not Truth.TRUE:
                print(f"         {verdict.truth:<8}{verdict.rule}: {verdict.because}")


def _described(attributes: SeriesAttributes) -> str:
    entry = attributes.values.get("SeriesDescription", (None,))[0]
    return shown(entry[0]) if entry else "(no description)"


def test_the_set_is_large_and_varied() -> None:
    """At least a hundred series of at least forty studies, and every kind of outcome many times."""
    series = [one for study in STUDIES for one in study.series.values()]
    counts = Counter(one.expect.split(":")[0] for one in series)
    assert len(series) >= 100
    assert len(STUDIES) >= 40
    assert counts.keys() == {"chosen", "outranked", "tied", "held", "set aside"}
    assert min(counts["chosen"], counts["outranked"]) >= 20


def test_no_study_has_two_chosen_series() -> None:
    """Two would be two structure sets of one tumour."""
    for study in STUDIES:
        assert list(came_to(study, RULES).values()).count("chosen") <= 1, study.name


@pytest.mark.parametrize("clause", [clause.name for clause in RULES.clauses])
def test_no_clause_is_idle(clause: str) -> None:
    """Without any one clause some series of the set would come to something else."""
    less = replace(RULES, clauses=tuple(one for one in RULES.clauses if one.name != clause))
    assert _eligible(less) != _eligible(RULES)


@cache
def _eligible(rules: RuleSet) -> set[tuple[str, int]]:
    judged = ((study.name, n, one) for study in STUDIES for n, one in study.series.items())
    return {(name, number) for name, number, one in judged if decide(rules.evaluate(one.attributes)).eligible}


@pytest.mark.parametrize("preference", [item.name for item in RULES.preferences])
def test_no_preference_is_idle(preference: str) -> None:
    """Without any one preference some study would end otherwise."""
    less = replace(RULES, preferences=tuple(one for one in RULES.preferences if one.name != preference))
    assert any(came_to(study, less) != came_to(study, RULES) for study in STUDIES)


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_the_order_of_arrival_decides_nothing(study: HeaderStudy) -> None:
    """The series of a study in reverse order come to the same."""
    turned = HeaderStudy(study.name, dict(reversed(study.series.items())))
    assert came_to(turned, RULES) == came_to(study, RULES)


def test_an_expectation_that_is_wrong_is_seen() -> None:
    """The comparison itself: another word, a clause too many or too few, and the dots."""
    assert agrees("set aside: plane, ...", "set aside: plane, contrast")
    assert not agrees("set aside: plane", "set aside: plane, contrast")
    assert not agrees("set aside: stack, ...", "set aside: plane, contrast")
    assert not agrees("held: plane", "set aside: plane")
    assert not agrees("outranked: fat-suppressed", "outranked: closer slices")
    dixon = "not fat, in-phase or opposed-phase"
    assert agrees(f"set aside: acquired, {dixon}", f"set aside: {dixon}, acquired")


DISTILLED = [one for study in header_studies("real") for one in study.series.values() if one.folder]


@pytest.mark.parametrize("distilled", DISTILLED, ids=lambda one: one.folder)
def test_the_distilled_headers_are_the_real_ones(distilled: HeaderSeries) -> None:
    """Where the real series is at hand, its elements are what the header set says, and no more than it says."""
    keywords = [*RULES.keywords(), "Manufacturer"]
    real = DicomSeriesReader().attributes(real_files(distilled.folder), keywords)
    stated = {keyword: column[0] for keyword, column in distilled.attributes.values.items() if keyword in keywords}
    read = {keyword: column[0] for keyword, column in real.values.items() if column[0] is not None}
    if "Manufacturer" not in stated:
        del read["Manufacturer"]
    assert stated == read


def test_both_lists_of_words_for_contrast_are_the_same() -> None:
    """What proves contrast is what is preferred: the clause and the preference ask for the same words."""
    clause = next(one for one in RULES.clauses if one.name == "contrast")
    preferred = next(one for one in RULES.preferences if one.name == "contrast in the description")
    assert isinstance(clause, Group)
    assert isinstance(preferred, Clause)
    assert preferred.value in [one.value for one in clause.clauses if isinstance(one, Clause)]
