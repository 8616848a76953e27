"""What `make evaluate` counts: AUCs as their definition, intervals by patient, cohorts that never repeat."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from model import evaluate, statistics
from model.evaluate import Row
from model.labels import NO_TUMOUR, STAGES
from model.phantom.cohorts import (
    PAPER_FOLDS,
    external_cohort,
    external_paper_cohort,
    external_profile,
    free_cohort,
    paper_cohort,
)


def readings(count: int = 200, skill: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of a reader of some skill, and the truth."""
    rng = np.random.default_rng(0)
    truth = rng.choice(4, count, p=(0.1, 0.4, 0.3, 0.2))
    logits = rng.normal(0, 1, (count, 4)) + skill * np.eye(4)[truth]
    return evaluate.softmax(logits, 1.0), truth


def test_aucs_are_those_of_scikit_learn():
    """Micro and macro AUC agree with another maker's to the last digits, ties included."""
    probabilities, truth = readings()
    probabilities = probabilities.round(1)
    hot = np.eye(4)[truth]
    assert statistics.auc_micro(probabilities, truth) == pytest.approx(
        roc_auc_score(hot.ravel(), probabilities.ravel())
    )
    each = [roc_auc_score(hot[:, k], probabilities[:, k]) for k in range(4)]
    assert statistics.auc_macro(probabilities, truth) == pytest.approx(np.mean(each))


def test_a_class_that_is_not_there_has_no_auc():
    """Macro AUC is the mean over the classes that are there."""
    probabilities, truth = readings()
    known = truth != 0
    each = statistics.auc_each(probabilities[known], truth[known])
    assert np.isnan(each[0])
    assert statistics.auc_macro(probabilities[known], truth[known]) == pytest.approx(np.mean(each[1:]))


def test_the_interval_covers_what_it_should():
    """Of the means of 60 fair coins, about 95 % of the bootstrap intervals hold one half."""
    rng = np.random.default_rng(1)
    covered = []
    for seed in range(40):
        coins = rng.integers(0, 2, 60)
        low, high = statistics.bootstrap(lambda at, coins=coins: float(coins[at].mean()), 60, seed=seed)
        covered.append(low <= 0.5 <= high)
    assert 0.85 <= np.mean(covered) <= 1


def test_calibration_error_sees_overconfidence():
    """Honest probabilities have a small error, the same ones sharpened a large one; the table adds up to the cohort."""
    rng = np.random.default_rng(2)
    honest = evaluate.softmax(rng.normal(0, 1, (3000, 4)), 1.0)
    truth = np.array([rng.choice(4, p=row) for row in honest])
    sharp = evaluate.softmax(np.log(honest), 0.3)
    assert statistics.calibration_error(honest, truth) < 0.04 < 0.2 < statistics.calibration_error(sharp, truth)
    assert sum(n for n, _, _ in statistics.reliability(honest, truth)) == 3000
    assert statistics.brier(honest, truth) < statistics.brier(sharp, truth)


def test_an_offset_is_taken_off_and_put_back():
    """Logits read back from offset probabilities give the same probabilities again, and the same temperature fit."""
    logits = np.random.default_rng(3).normal(0, 2, (50, 4))
    offset = np.log(np.array((0.1, 0.4, 0.3, 0.2)))
    said = evaluate.softmax(logits, 1.7, offset)
    again = evaluate.softmax(evaluate.logits_of(said, 1.7, offset), 1.7, offset)
    assert again == pytest.approx(said)


def rows(count: int = 30) -> list[Row]:
    """Rows of a reader, one of them a miss, and two heads without tumour."""
    probabilities, truth = readings(count)
    made = [
        Row("external-9", k, STAGES[t], 10.0, 9.0, 0.8, 1.1, 0.0, tuple(map(float, p)))
        for k, (p, t) in enumerate(zip(probabilities, truth, strict=True))
    ]
    made[3] = replace(made[3], dice=0.0, asd_mm=float("nan"), drawn_cc=0.0)
    free = replace(made[0], cohort="free-9", stage=NO_TUMOUR, truth_cc=0.0, asd_mm=float("nan"))
    return [*made, replace(free, drawn_cc=0.0, dice=1.0), replace(free, drawn_cc=0.4, dice=0.0)]


def test_results_are_the_promised_keys():
    """Every key of `make evaluate` is in its last line, bounds lie around their figure, a miss is counted."""
    figures = evaluate.summarise(rows())
    printed = json.loads(evaluate.result(figures).removeprefix("RESULT "))
    assert set(printed) == set(evaluate.RESULTS)
    assert (printed["n"], printed["missed"], printed["free_n"], printed["free_empty"]) == (30, 1, 2, 1)
    for key in ("dsc_median", "asd_median", "auc_micro", "auc_macro", "acc"):
        assert printed[f"{key}_low"] <= printed[key] <= printed[f"{key}_high"]
    assert figures["asd_median"] == pytest.approx(1.1)


def test_the_paper_cohort_has_the_paper_folds():
    """320 members in folds of 105, 105 and 110 with the paper's categories, shuffled; the external ones are 150."""
    members = paper_cohort()
    assert len({(m.cohort, m.index) for m in members}) == 320
    for fold, counts in enumerate(PAPER_FOLDS):
        assert Counter(m.stage for m in members if m.fold == fold) == Counter(counts)
    assert Counter(m.stage for m in members) == Counter({"T1": 26, "T2": 140, "T3": 87, "T4": 67})
    assert len({m.stage for m in members[:20]}) > 1
    assert Counter(m.stage for m in external_paper_cohort()) == Counter({"T1": 12, "T2": 66, "T3": 41, "T4": 31})


def test_external_series_are_those_of_the_paper():
    """512 x 512 at .4688-.5078 mm, 40-76 slices of 3-6.7 mm, no longer than the head, around the nasopharynx."""
    for index in range(150):
        profile = external_profile("external-1", index)
        length = profile.slices * profile.spacing_mm
        assert profile.matrix == 512
        assert 0.4688 <= profile.pixel_mm <= 0.5078
        assert 3.0 <= profile.spacing_mm <= 6.7
        assert 40 <= profile.slices <= 76
        assert length <= 240
        assert length / 2 - abs(profile.centre_mm[2]) > 34


def test_another_seed_is_another_cohort():
    """Cohorts of two seeds share no name, so no head; heads without tumour are a cohort of their own."""
    one, other = external_cohort(1, 5), external_cohort(2, 5)
    assert not {m.cohort for m in one} & {m.cohort for m in other}
    assert all(not m.tumour for m in free_cohort(1, 5))
    assert {m.cohort for m in free_cohort(1, 5)} != {m.cohort for m in one}


@pytest.mark.slow
def test_an_evaluation_runs_from_end_to_end(capsys, tmp_path):
    """Three phantoms of the shipped bundle, in a process of its own, end with the promised line."""
    code = evaluate.main(
        ["--count", "3", "--free", "1", "--seed", "7", "--jobs", "1", "--out", str(tmp_path / "m.json")]
    )
    printed = capsys.readouterr().out
    assert code == 0
    last = json.loads(printed.splitlines()[-1].removeprefix("RESULT "))
    assert set(last) == set(evaluate.RESULTS)
    assert (tmp_path / "m.json").read_text().startswith("{")
