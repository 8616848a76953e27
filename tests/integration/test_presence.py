"""A host's name is one process's at a time, and a dead one's is free at once."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from sqlalchemy import text

from npc_rtnode.adapters.database.engine import open_engine
from npc_rtnode.adapters.database.presence import Presence
from npc_rtnode.adapters.database.work import WorkLedger
from npc_rtnode.app import Home, WorkRole
from npc_rtnode.domain.lifecycle import JobState
from npc_rtnode.errors import HostTaken
from npc_rtnode.settings import Settings
from tests.builders.ledger import Ledger
from tests.builders.workers import ROOT, wait_for

ON_A_SERVER = pytest.mark.parametrize("backend", [pytest.param("postgresql", marks=pytest.mark.postgres)])
HOLDER = """
import sys, time
from npc_rtnode.adapters.database.engine import open_engine
from npc_rtnode.adapters.database.presence import Presence
Presence(open_engine(sys.argv[1]), "gpu-1").hold()
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def many(database_url: str) -> Iterator[Processes]:
    """As many as a test asks for."""
    with ExitStack() as stack:
        yield Processes(database_url, stack)


class Processes:
    """Stand-ins for the roles of several machines, each with connections of its own."""

    def __init__(self, url: str, stack: ExitStack) -> None:
        self.url, self._stack = url, stack

    def one(self, name: str = "gpu-1", patience_s: float = 0.5) -> Presence:
        """One more."""
        engine = open_engine(self.url)
        self._stack.callback(engine.dispose)
        made = Presence(engine, name, patience_s)
        self._stack.callback(made.leave)
        return made


@ON_A_SERVER
def test_a_second_process_of_a_name_is_refused(many: Processes) -> None:
    """With the name and what to do; another name is another's, and the first one leaves its own to whoever comes."""
    first, second = many.one(), many.one()
    first.hold()
    first.hold()
    many.one("gpu-2").hold()
    with pytest.raises(HostTaken, match=r"gpu-1: give each worker host a work\.host of its own"):
        second.hold()
    first.leave()
    second.hold()


def test_on_sqlite_there_is_one_host(ledger: Ledger, backend: str) -> None:
    """Its lock file holds; nothing is asked."""
    if backend == "sqlite":
        for _ in range(2):
            Presence(ledger.engine, "node").hold()


@ON_A_SERVER
def test_a_process_that_was_killed_is_in_nobodys_way(many: Processes) -> None:
    """A frozen one is, which may wake; the restart of a dead one waits for nothing."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, many.url], cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(HostTaken):
            many.one().hold()
        process.kill()
    many.one(patience_s=10).hold()


@ON_A_SERVER
def test_a_name_is_had_again_after_the_server_was_away(many: Processes, ledger: Ledger) -> None:
    """By the next beat; unless another process came first, which keeps it."""
    first, second = many.one(), many.one()
    first.hold()
    forget(ledger)
    first.hold()
    with pytest.raises(HostTaken):
        second.hold()
    forget(ledger)
    wait_for(lambda: _has(second), 10)
    with pytest.raises(HostTaken):
        first.hold()


def _has(one: Presence) -> bool:
    try:
        one.hold()
    except HostTaken:
        return False
    return True


def forget(ledger: Ledger) -> None:
    """End every connection that holds a name, as a server's restart does."""
    with ledger.engine.begin() as connection:
        connection.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2")
        )


@ON_A_SERVER
def test_a_host_under_anothers_name_takes_nothing_from_it(
    many: Processes, ledger: Ledger, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two machines with one work.host: the second does not start, and what the first has in hand stays there."""
    many.one().hold()
    ledger.queued_job()
    assert WorkLedger(ledger.sessions, "gpu-1").claim_job(JobState.QUEUED, "infer", ledger.now, 60) is not None
    home = Home(tmp_path / "node").made()
    home.site_key()
    work = {"host": "gpu-1", "store": str(home.root)}
    view = {"node": {"home": tmp_path / "second"}, "database": {"url": database_url}, "work": work}
    role = WorkRole(Settings.model_validate(view))
    monkeypatch.setattr(role._presence, "_patience_s", 0.5)
    with closing(role._station), pytest.raises(HostTaken):
        role.start()
    assert ledger.job_state() == JobState.PREDICTING
    Home(tmp_path / "second").lock("work").release()
