"""The bell between receiver and worker: who rings is never held up, who waits is woken at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from npc_rtnode.adapters.doorbell import Porter, ring


@pytest.fixture
def rung() -> threading.Semaphore:
    """Counts the calls."""
    return threading.Semaphore(0)


@pytest.fixture
def bell(tmp_path: Path, rung: threading.Semaphore) -> Iterator[Path]:
    """A bell with somebody waiting."""
    porter = Porter(tmp_path / "work.bell", rung.release)
    porter.start()
    yield tmp_path / "work.bell"
    porter.stop()


def test_a_ring_is_heard(bell: Path, rung: threading.Semaphore) -> None:
    """Each ring after the last one was answered wakes once more."""
    for _ in range(3):
        ring(bell)
        assert rung.acquire(timeout=5)


def test_nobody_waits(tmp_path: Path) -> None:
    """No bell, a file in its place, a bell without a porter: the ringer goes on."""
    (tmp_path / "file").write_bytes(b"")
    for name in ("none", "file"):
        ring(tmp_path / name)
    porter = Porter(tmp_path / "left.bell", lambda: None)
    porter.start()
    porter.stop()
    ring(tmp_path / "left.bell")


def test_a_crowd_of_rings_is_one_or_few(tmp_path: Path) -> None:
    """A hundred thousand rings that nobody could answer yet hold nobody up, and are answered at once."""
    answered, may_answer = threading.Semaphore(0), threading.Event()

    def answer() -> None:
        may_answer.wait(30)
        answered.release()

    porter = Porter(tmp_path / "work.bell", answer)
    porter.start()
    for _ in range(100_000):
        ring(tmp_path / "work.bell")
    may_answer.set()
    assert answered.acquire(timeout=5)
    porter.stop()


def test_what_stands_in_the_bells_place_is_replaced(tmp_path: Path, rung: threading.Semaphore) -> None:
    """A worker finds its place whatever a crash or a restored folder left there."""
    (tmp_path / "work.bell").write_bytes(b"no pipe")
    porter = Porter(tmp_path / "work.bell", rung.release)
    porter.start()
    ring(tmp_path / "work.bell")
    assert rung.acquire(timeout=5)
    porter.stop()
    assert (tmp_path / "work.bell").stat().st_mode & 0o777 == 0o600
