"""The planning model: what can be said by hand, it says; the rest follows from numbers and seed alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from npc_rtnode.cli.plan import SIZES, cells, site_of
from npc_rtnode.domain.planning import Outage, Site, enough_gpus, flaws, rows, simulate
from npc_rtnode.errors import ConfigFault

STILL = Site(gpu_cv=0, cpu_cv=0, push_cv=0, series_per_study=1)
"""Nothing of it is random but the arrivals."""


def test_one_study_alone_takes_the_sum_of_its_parts() -> None:
    """Quiet time, GPU, core and lane, and not a second more."""
    found = simulate(replace(STILL, arrivals_s=(0.0,)))
    assert found.turnaround_p50_s == pytest.approx(30 + 45 + 20 + 4)
    assert (found.jobs, found.gpu_wait_p95_s, found.queue_peak) == (1, 0, 0)


def test_the_second_of_two_waits_for_the_gpu() -> None:
    """They come through one receiver, 150 slices at 175 a second apart; then the later one waits for the earlier."""
    found = simulate(replace(STILL, arrivals_s=(0.0, 0.0)))
    apart = 150 / 175
    assert found.turnaround_p95_s == pytest.approx(99 + 0.95 * (45 - apart), rel=1e-6)
    two = simulate(replace(STILL, arrivals_s=(0.0, 0.0), gpus=2))
    assert two.turnaround_p95_s == pytest.approx(99 + 0.95 * (4 - apart)), "with two GPUs it waits for the lane"


def test_every_destination_has_a_lane() -> None:
    """Two destinations are sent to at once; the job is through with the last."""
    assert simulate(replace(STILL, arrivals_s=(0.0,), destinations=2)).turnaround_p50_s == pytest.approx(99)


def test_the_same_seed_gives_the_same_forecast() -> None:
    """To the last digit; another seed another one."""
    assert simulate(Site(days=1)) == simulate(Site(days=1))
    assert simulate(Site(days=1)) != simulate(Site(days=1, seed=1))


def test_the_load_is_what_was_asked_for() -> None:
    """Of the GPU: jobs a day by their seconds, over the working day."""
    found = simulate(replace(STILL, hospitals=8, days=3))
    assert found.load["gpu"] == pytest.approx(found.jobs * 45 / (3 * 10 * 3600))
    assert found.first == "gpu"


def test_studies_without_a_match_cost_the_receiver_alone() -> None:
    """No job comes of them."""
    found = simulate(Site(matched=0, days=1))
    assert (found.jobs, found.load["gpu"]) == (0, 0)
    assert found.load["ingest"] > 0
    half = simulate(Site(matched=0.5, days=3, hospitals=4))
    assert half.jobs == pytest.approx(0.5 * 4 * 30 * 3, rel=0.15)


def test_a_backlog_drains_as_theory_says() -> None:
    """Hours after an outage of d hours: d * rho / (1 - rho), here with rho = 0.625 through day and night."""
    steady = replace(STILL, hospitals=40, hour_weights=(1.0,) * 24, days=2, outages=(Outage("gpu", 12, 2),))
    assert simulate(steady).drain_h[0] == pytest.approx(2 * 0.625 / 0.375, rel=0.2)


def test_enough_gpus_are_enough() -> None:
    """None is asked for more than two thirds of the day."""
    site = Site(hospitals=64, days=1)
    found = simulate(replace(site, gpus=enough_gpus(site)))
    assert found.load["gpu"] < 0.72
    assert found.turnaround_p95_s < 300
    assert SIZES[0] == 1
    assert SIZES[-1] == 128


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"hospitals": 0}, "hospitals is 0"),
        ({"gpus": 0}, "gpus is 0"),
        ({"matched": 1.5}, "matched is 1.5"),
        ({"gpu_s": -1}, "gpu_s is -1"),
        ({"gpu_s": float("nan")}, "gpu_s is nan"),
        ({"hour_weights": [1, 2]}, "24 shares"),
        ({"outages": [{"what": "coffee", "at_h": 1, "hours": 1}]}, "coffee"),
        ({"outages": [{"what": "gpu"}]}, "a count is no number"),
        ({"beds": 3}, "beds: no such count"),
        ({"slices": "many"}, "a count is no number"),
    ],
)
def test_wrong_counts_are_refused_by_name(counts: dict[str, object], words: str) -> None:
    """Each with the number that decided it, as CONFIG_FAULT."""
    with pytest.raises(ConfigFault, match=words):
        site_of(counts)


@pytest.mark.slow
def test_the_table_in_the_documents_is_what_the_model_says() -> None:
    """Its lines up to 32 hospitals, cell by cell."""
    page = (Path(__file__).parents[2] / "docs" / "planning.md").read_text("utf-8")
    for site, forecast in rows(Site(days=2), [size for size in SIZES if size <= 32]):
        assert f"| {' | '.join(cells(site, forecast))} |" in page


def test_the_example_has_no_flaw() -> None:
    """And what is simulated without a file is the example."""
    assert flaws(Site()) == []
    assert site_of({}) == Site()
