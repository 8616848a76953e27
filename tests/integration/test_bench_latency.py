"""`make bench-latency` with few series: a real node, and figures that its own ledger bears out."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bench import latency
from bench.claims import seconds_a_claim


@pytest.mark.slow
def test_one_series_and_two_queued(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every key of the RESULT line is there, and nothing took less time than the prediction that it waited for."""
    wishes = ["--singles", "1", "--queued", "2", "--rows", "2000", "--threads", "1", "--folder", str(tmp_path)]
    assert latency.main(wishes) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    found = json.loads(last.removeprefix("RESULT "))
    wanted = {"overhead_s", "overhead_all_s", "worker_busy", "ratio_to_inference", "claim_1m_over_1k"}
    assert wanted <= set(found)
    assert all(isinstance(value, int | float) for value in found.values())
    assert found["inference_s"] > 0
    assert found["overhead_s"] <= found["overhead_all_s"]
    assert 0 < found["worker_busy"] <= 1
    assert list(tmp_path.iterdir()) == []


def test_stages_add_up_to_the_whole() -> None:
    """Of one course: the steps as far as the TPS are its whole time, the PACS counts from the writing."""
    at = {"closed": 1.0, "selected": 1.5, "begun": 2.0, "predicted": 5.0, "written": 6.0, "tps": 6.5, "pacs": 8.0}
    course = latency.Course(datetime(2026, 1, 1, tzinfo=UTC), at)
    steps = course.steps()
    assert sum(steps[name] for name in list(steps)[:-1]) == course.to_tps == 6.5
    assert steps["pacs"] == 2.0
    assert course.to_all == 8.0


def test_busy_is_the_share_of_time_in_which_a_prediction_ran() -> None:
    """Two predictions of three seconds in eight."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    first, second = (latency.Course(start, {"begun": begun, "predicted": begun + 3}) for begun in (0.0, 5.0))
    assert latency.busy([first, second]) == pytest.approx(6 / 8)


def test_the_past_is_of_the_shape_that_claims_meet(tmp_path: Path) -> None:
    """Jobs that are queued behind finished ones are all claimed by the node's own code."""
    assert seconds_a_claim(tmp_path, 100) > 0
