"""Another process holds SQLite's write lock: waited for while it is short, A700 when it is long, and never a hang."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.acceptance.hospital import SUCCESS, Destination, Scanner, Study, make_study, store
from tests.acceptance.node import Node
from tests.acceptance.test_kill9 import assert_all_there, assert_one_rtstruct

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(300)]

OUT_OF_RESOURCES = 0xA700
BUSY_S = 10.0
_HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.readline()
connection.execute("ROLLBACK")
"""


@contextmanager
def locked(ledger: Path) -> Iterator[None]:
    """While another process has the write lock."""
    command = [sys.executable, "-c", _HOLD, str(ledger)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield
        holder.communicate("\n", timeout=30)


@pytest.fixture
def study(request: pytest.FixtureRequest, folder: Path) -> Study:
    """A study of this test's own."""
    return make_study(folder / "sent", request.node.name)


def test_a_short_lock_is_waited_for(node: Node, scanner: Scanner, study: Study, tps: Destination) -> None:
    """Held for a second: the instance waits, and is answered Success."""
    with scanner.association(study.slices) as assoc:
        assert store(assoc, study.slices[0]) == SUCCESS
        with ThreadPoolExecutor(1) as pool:
            with locked(node.home / "ledger.db"):
                answer = pool.submit(store, assoc, study.slices[1])
                time.sleep(1)
                assert not answer.done(), "it waits"
            assert answer.result() == SUCCESS
        assert [store(assoc, item) for item in study.slices[2:]] == [SUCCESS] * (len(study.slices) - 2)
    assert_one_rtstruct(node, study, tps)


def test_a_long_lock_gives_a700_and_no_hang(node: Node, scanner: Scanner, study: Study, tps: Destination) -> None:
    """Held for longer than a writer waits: A700 within that time and a little, nothing recorded; then all goes on."""
    roles = node.role_pid("receive"), node.role_pid("work")
    with scanner.association(study.slices) as assoc:
        assert store(assoc, study.slices[0]) == SUCCESS
        with locked(node.home / "ledger.db"):
            asked_at = time.monotonic()
            assert store(assoc, study.slices[1]) == OUT_OF_RESOURCES
            assert BUSY_S - 1 < time.monotonic() - asked_at < BUSY_S + 5
            assert study.slices[1].sop_uid not in node.instances()
        assert [store(assoc, item) for item in study.slices[1:]] == [SUCCESS] * (len(study.slices) - 1)
    assert_all_there(node, study.slices)
    assert_one_rtstruct(node, study, tps)
    assert (node.role_pid("receive"), node.role_pid("work")) == roles, "no role died of it"
    assert node.broken_promises() == {}
