"""The fuzz in small: 500 seeded cases, and the corpus of those that once were, or would be, a fault."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.builders.mutants import case
from tests.builders.offenders import OFFENDERS
from tests.fakes import fuzz
from tests.fakes.receiver import Receiver, Use

SEED = 6


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    """A living receiver whose deadlines are short."""
    with Receiver(tmp_path_factory.mktemp("fuzz"), (1.0, 1.5), idle_timeout_s=3, max_object_mb=8) as running:
        yield running
        assert running.terminate()[0] == 0, running.said()


@pytest.fixture(scope="module")
def rest(receiver: Receiver) -> Use:
    """What it uses when nobody is there."""
    return fuzz.warmed_up(receiver)


@pytest.mark.timeout(600)
def test_500_seeded_cases(receiver: Receiver, rest: Use) -> None:
    """No crash, no hang, no traceback, nothing kept of threads, descriptors or memory, and every Success is true."""
    report = fuzz.run(receiver, fuzz.seeded(SEED, 500), rest)
    assert report.clean, report
    # A release follows each slice at once, and may be served before it: how many slices hear Success is chance.
    assert 5 < report.successes < 300, "some mutants are still slices, most are not: or the fuzz tests nothing"


@pytest.mark.timeout(300)
def test_the_corpus_of_offenders(receiver: Receiver, rest: Use) -> None:
    """Each is answered, refused or cut as it should be, and nothing is left of any."""
    report = fuzz.run(receiver, [offender.case for offender in OFFENDERS], rest)
    assert report.clean, report
    assert report.successes == 0, report


def test_a_seed_and_a_number_make_one_case() -> None:
    """The same bytes at every run, and other bytes for another number."""
    assert case(SEED, 7) == case(SEED, 7)
    assert case(SEED, 7) != case(SEED, 8)
