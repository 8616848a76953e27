"""Three hosts on one machine: the node with PostgreSQL, and two workers that reach nothing but it.

Made of network namespaces, each with an address of its own; inputs and results travel by mutual TLS and by their
digests. One host is cut off in mid-job and comes back, one is killed and comes back: every job, exactly once in effect.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import select, text

from npc_rtnode.adapters.database import schema
from npc_rtnode.adapters.database.engine import open_engine
from npc_rtnode.adapters.database.procrastinated import make_tables
from npc_rtnode.adapters.database.tables import EventRow, JobRow
from npc_rtnode.adapters.spool import FileSpool
from npc_rtnode.domain.lifecycle import Event, JobState
from npc_rtnode.domain.records import Choice, Closing, Truth, Verdict
from tests.builders.certificates import Authority
from tests.builders.ledger import Ledger
from tests.builders.namespaces import Host, Lan, refused
from tests.builders.workers import ROOT, SILENT_S, Worker, carrier_of, wait_for
from tests.postgres import Server

pytestmark = [pytest.mark.slow, pytest.mark.postgres, pytest.mark.timeout(600)]
PATIENCE_S = 120
PORT = 11180


class Site:
    """The node on its host, and the test's own way into its ledger."""

    def __init__(self, folder: Path, lan: Lan, kind: str, open: ExitStack) -> None:
        self.folder, self.lan, self.kind, self._open = folder, lan, kind, open
        place = open.enter_context(tempfile.TemporaryDirectory(prefix="npc-rtnode-postgres-"))
        self.server = open.enter_context(Server(Path(place), lan.node.prefix, lan.tester.node))
        self.authority = Authority(folder / "certificates")
        (folder / "secret").write_text("s" * 48)
        (folder / "secret").chmod(0o600)
        self.spool, self.outbox = FileSpool(folder / "spool", 0), FileSpool(folder / "outbox", 0)
        url = self.server.create("site")
        engine = open_engine(url)
        open.callback(engine.dispose)
        schema.upgrade(engine, make_tables)
        self.ledger = Ledger(engine, carrier=carrier_of(kind, url))
        self.jobs: list[int] = []

    def serve_files(self) -> None:
        """The node's desk for files, as a process on the node's host."""
        tls = self.authority.settings(self.authority.sign("node", address=self.lan.tester.node, dns="node"))
        said = {"folder": str(self.folder), "port": PORT, "tls": tls.model_dump(mode="json")}
        order = self.folder / "node.json"
        order.write_text(json.dumps(said))
        command = [*self.lan.node.prefix, sys.executable, "-m", "tests.builders.workers", "files", str(order)]
        process = self._open.enter_context(subprocess.Popen(command, cwd=ROOT))
        self._open.callback(process.kill)
        wait_for((self.folder / "files-up").exists, PATIENCE_S)

    def worker(self, host: Host, owner: str) -> Worker:
        """A worker host, with a certificate of its own, that knows the node's address and nothing else."""
        tls = self.authority.settings(self.authority.sign(owner, address=host.address))
        reach = {"node": f"https://{host.node}:{PORT}", "tls": tls.model_dump(mode="json")}
        (self.folder / f"reach-{owner}.json").write_text(json.dumps({**reach, "bound": self.bound}))
        url = self.server.url("site", at=host.node)
        return self._open.enter_context(Worker(url, self.kind, owner, self.folder, 0.2, prefix=host.prefix))

    @property
    def bound(self) -> list[str]:
        """By what hosts know the node's certificate, whatever address they reach it by."""
        return ["dns:node"]

    def job(self, wait: bool = False) -> int:
        """A queued job whose input lies in the node's spool."""
        number = len(self.jobs) + 1
        uid = f"1.2.{number}"
        for slice_number in range(3):
            sop_uid = f"{uid}.9.{slice_number}"
            self.spool.keep([json.dumps([sop_uid, ""], separators=(",", ":")).encode()])
            self.ledger.receive(sop_uid, f"{uid}.9", study_uid=uid)
        self.ledger.end()
        self.ledger.later(31)
        (quiet,) = self.ledger.series.quiet(self.ledger.now)
        assert self.ledger.series.close(quiet, Closing(Event.CLOSED_WHOLE, "quiet and whole"), self.ledger.now)
        (series,) = self.ledger.complete()
        if wait:
            (self.folder / f"wait-{number}").touch()
        verdicts = (Verdict("modality", Truth.TRUE, "Modality is MR"),)
        chosen = Choice(Event.SELECTED, verdicts, (), "r" * 64, self.ledger.order(series))
        assert self.ledger.studies.choose([(series, chosen)], self.ledger.now)
        self.jobs.append(number)
        return number

    def begun_by(self, job: int, *owners: str) -> str:
        """Who of these has begun it, waited for."""

        def who() -> list[str]:
            return [owner for owner in owners if (self.folder / f"begun-{job}-{owner}").exists()]

        wait_for(who, PATIENCE_S, self.told)
        return who()[0]

    def go_on(self, job: int) -> None:
        """Let it end."""
        (self.folder / f"wait-{job}").unlink()

    def all_done(self) -> bool:
        """Whether every job has its effect."""
        with self.ledger.sessions.reading() as session:
            return set(session.scalars(select(JobRow.state))) == {JobState.PREDICTED}

    def effects(self) -> Counter[int]:
        """How often each job was done."""
        done = select(EventRow.subject_id).where(EventRow.subject == "job", EventRow.event == Event.DONE)
        with self.ledger.sessions.reading() as session:
            return Counter(int(subject) for subject in session.scalars(done))

    def told(self) -> str:
        """What every worker said."""
        return "\n".join(path.read_text("utf-8", "replace")[-3000:] for path in self.folder.glob("*.log"))


@pytest.fixture(params=["embedded", "procrastinate"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """A node on a host of its own."""
    if because := refused():
        pytest.skip(because)
    tmp_path.chmod(0o755)
    with Lan() as lan, ExitStack() as stack:
        made = Site(tmp_path, lan, str(request.param), stack)
        made.serve_files()
        yield made


def test_every_job_once_whatever_happens_to_the_hosts(site: Site) -> None:
    """Cut off in mid-job, killed in mid-job, rejoined twice; a dozen jobs, a dozen effects, by both hosts."""
    here, there = site.lan.host("a"), site.lan.host("b")
    assert subprocess.run([*here.prefix, "ping", "-c1", "-W1", there.address], capture_output=True).returncode != 0
    long = site.job(wait=True)
    workers = {"a": site.worker(here, "a"), "b": site.worker(there, "b")}
    hosts = {"a": here, "b": there}
    for _ in range(3):
        site.job()

    cut_off = site.begun_by(long, "a", "b")
    other = "b" if cut_off == "a" else "a"
    site.lan.cut(hosts[cut_off])
    site.begun_by(long, other)
    site.job()

    workers[other].kill()
    site.lan.join(hosts[cut_off])
    for _ in range(3):
        site.job()
    time.sleep(SILENT_S)
    site.go_on(long)
    workers[other] = site.worker(hosts[other], other)
    for _ in range(4):
        site.job()

    wait_for(site.all_done, PATIENCE_S, site.told)
    assert site.effects() == Counter(site.jobs)
    assert site.ledger.queries.chain_is_whole()
    assert len(list(site.outbox.names())) == len(site.jobs), "a result of each job lies on the node"
    with site.ledger.sessions.reading() as session:
        assert not session.scalar(text("SELECT count(*) FROM jobs WHERE lease_token IS NOT NULL"))
