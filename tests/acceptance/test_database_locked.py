"""Another process holds SQLite's write lock: senders do not notice, and what they sent is entered afterwards."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.acceptance.hospital import SUCCESS, Destination, Scanner, Study, make_study, store
from tests.acceptance.node import Node
from tests.acceptance.test_kill9 import assert_all_there, assert_one_rtstruct

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(300)]

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


def test_a_short_lock_is_not_noticed(node: Node, scanner: Scanner, study: Study, tps: Destination) -> None:
    """Held for a second: what comes meanwhile is answered at once, and entered afterwards."""
    with scanner.association(study.slices) as assoc:
        assert store(assoc, study.slices[0]) == SUCCESS
        with locked(node.home / "ledger.db"):
            assert store(assoc, study.slices[1]) == SUCCESS
            time.sleep(1)
            assert study.slices[1].sop_uid not in node.instances(settled=False)
        assert [store(assoc, item) for item in study.slices[2:]] == [SUCCESS] * (len(study.slices) - 2)
    assert_one_rtstruct(node, study, tps)


def test_a_long_lock_holds_up_no_sender(node: Node, scanner: Scanner, study: Study, tps: Destination) -> None:
    """Held for longer than a writer waits: acknowledged at once, nothing recorded meanwhile; then all goes on."""
    roles = node.role_pid("receive"), node.role_pid("work")
    with scanner.association(study.slices) as assoc:
        assert store(assoc, study.slices[0]) == SUCCESS
        with locked(node.home / "ledger.db"):
            asked_at = time.monotonic()
            assert store(assoc, study.slices[1]) == SUCCESS
            assert time.monotonic() - asked_at < BUSY_S / 2
            time.sleep(BUSY_S + 2)
            assert study.slices[1].sop_uid not in node.instances(settled=False)
            assert store(assoc, study.slices[2]) == SUCCESS
        assert [store(assoc, item) for item in study.slices[3:]] == [SUCCESS] * (len(study.slices) - 3)
    assert_all_there(node, study.slices)
    assert_one_rtstruct(node, study, tps)
    assert (node.role_pid("receive"), node.role_pid("work")) == roles, "no role died of it"
    assert node.broken_promises() == {}
