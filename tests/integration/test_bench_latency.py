"""`make bench-latency` with few series: a real node, and figures that its own ledger bears out."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bench import hosts, latency
from bench.chain import Course
from bench.claims import seconds_a_claim

KEYS = {"overhead_s", "overhead_all_s", "worker_busy", "two_hosts_ratio", "ratio_to_inference", "claim_1m_over_1k"}
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.timeout(900)
def test_one_series_two_queued_and_two_hosts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every key of the RESULT line is there, and the table of hosts says the same and who did what."""
    wishes = ["--singles", "1", "--queued", "2", "--rows", "2000", "--threads", "1", "--folder", str(tmp_path)]
    assert latency.main([*wishes, "--pairs", "1", "--each", "2"]) == 0
    *table, last = capsys.readouterr().out.splitlines()
    found = json.loads(last.removeprefix("RESULT "))
    assert set(found) >= KEYS
    assert all(isinstance(value, int | float) for value in found.values())
    one, two = (next(line.split() for line in table if line.startswith(words)) for words in ("one host", "two hosts"))
    assert (one[-1], two[-1]) in {("(2)", "(1+1)"), ("(2)", "(2)")}, "series by host"
    assert found["two_hosts_ratio"] == pytest.approx(float(one[-2]) / float(two[-2]), rel=0.1)
    assert min(found["one_bare_s_each"], found["two_bare_ratio"], found["ratio_to_inference"]) > 0
    assert found["inference_s"] > 0
    assert found["overhead_s"] <= found["overhead_all_s"]
    assert 0 < found["worker_busy"] <= 1
    assert list(tmp_path.iterdir()) == []


def test_stages_add_up_to_the_whole() -> None:
    """Of one course: the steps as far as the TPS are its whole time, the PACS counts from the writing."""
    at = {"closed": 1.0, "selected": 1.5, "begun": 2.0, "predicted": 5.0, "written": 6.0, "tps": 6.5, "pacs": 8.0}
    course = Course(datetime(2026, 1, 1, tzinfo=UTC), at)
    steps = latency.steps(course)
    assert sum(steps[name] for name in list(steps)[:-1]) == course.to_tps == 6.5
    assert steps["pacs"] == 2.0
    assert course.to_all == 8.0


def test_busy_is_the_share_of_time_in_which_a_prediction_ran() -> None:
    """Two predictions of three seconds in eight."""
    first, second = (Course(NOON, {"begun": begun, "predicted": begun + 3}) for begun in (0.0, 5.0))
    assert latency.busy([first, second]) == pytest.approx(6 / 8)


def course(begun: float, written: float, worker: str) -> Course:
    """A series in a round of hosts."""
    return Course(NOON, {"begun": begun, "written": written}, (worker,))


def test_a_round_lasts_from_the_first_begun_to_the_last_written() -> None:
    """Filling and draining included; and it says who inferred how many."""
    found = hosts.passed([course(2, 4, "a"), course(1, 5, "b"), course(4, 8, "a")], {"a", "b"})
    assert (found.hosts, found.seconds, found.by) == (2, 7.0, {"a": 2, "b": 1})
    assert str(found) == "7.0 (2+1)"


@pytest.mark.parametrize("workers", [("a", "node"), ("a", "b")])
def test_a_round_in_which_somebody_else_inferred_is_none(workers: tuple[str, str]) -> None:
    """What was measured would not be that host."""
    with pytest.raises(SystemExit, match="were begun by"):
        hosts.passed([course(0, 1, worker) for worker in workers], {"a"})


def test_a_round_in_which_a_series_was_begun_twice_is_none() -> None:
    """Part of its work would not be counted."""
    again = Course(NOON, {"begun": 0.0, "written": 1.0}, ("a", "a"))
    with pytest.raises(SystemExit, match="were begun by"):
        hosts.passed([again], {"a"})


def test_the_ratios_are_of_medians() -> None:
    """Of all rounds of one host and of two; bare inference by the volumes that all processes had."""
    rounds = [hosts.Round(1, seconds, {}) for seconds in (10.0, 12.0, 90.0)]
    rounds += [hosts.Round(2, seconds, {}) for seconds in (6.0, 1.0, 8.0)]
    bare = [(1, 4.0), (2, 5.0), (1, 4.0), (2, 5.0)]
    told = hosts.Comparison(hosts.Cores((0, 1), frozenset({0, 1})), 4, rounds, 2, bare).told()
    assert told["two_hosts_ratio"] == 2.0
    assert told["two_bare_ratio"] == 1.6
    assert told["one_host_ratio_to_inference"] == 1.5


def test_the_past_is_of_the_shape_that_claims_meet(tmp_path: Path) -> None:
    """Jobs that are queued behind finished ones are all claimed by the node's own code."""
    assert seconds_a_claim(tmp_path, 100) > 0
