"""A further worker host, as a site runs it: `serve --only work` with a home of its own, on the node's ledger.

One node, and a host for each way in which work and files can reach it: files fetched by mutual TLS or mounted, work
told by procrastinate or looked for in PostgreSQL by the embedded carrier. (Files in the clear, which loopback alone may
see: tests/integration/test_exchange.py.)
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance.hospital import Destination, Scanner, Study, make_study
from tests.acceptance.node import ROOT, Node, View, example, free_port
from tests.acceptance.test_kill9 import assert_one_rtstruct, outcomes
from tests.builders.certificates import Authority
from tests.postgres import Server

pytestmark = [pytest.mark.acceptance, pytest.mark.postgres, pytest.mark.timeout(600)]


@dataclass(frozen=True)
class Way:
    """How a host gets its work, and how the node's files."""

    host: str
    engine: str
    mounted: bool = False


WAYS = {
    "fetched by TLS": Way("gpu-1", "procrastinate"),
    "mounted": Way("gpu-2", "procrastinate", mounted=True),
    "embedded": Way("gpu-3", "embedded"),
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """The site's PostgreSQL."""
    with tempfile.TemporaryDirectory(prefix="npc-rtnode-postgres-") as folder, Server(Path(folder)) as running:
        running.create("ledger")
        yield running


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    """The hospital's own."""
    return Authority(folder / "pki")


@pytest.fixture(scope="module")
def fault(folder: Path) -> Iterator[Path]:
    """Made, it breaks the courier of the node's worker at its next look (tests/fakes/faults)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT / "tests" / "fakes" / "faults"), prepend=os.pathsep)
        patch.setenv("NPC_RTNODE_TEST_FAULT", str(folder / "fault"))
        yield folder / "fault"


@pytest.fixture(scope="module")
def settings(
    tps: Destination, archive: Destination, server: Server, authority: Authority, folder: Path, fault: Path
) -> View:
    """A node that infers nothing itself, and speaks mutual TLS but for its scanner."""
    secret = folder / "secret"
    secret.write_text("s" * 48)
    secret.chmod(0o600)
    made = example(tps=tps.port, pacs=archive.port)
    made["tls"] = certificates(authority, "node")
    made["listener"]["peers"][0]["plaintext"] = True
    made["listener"]["plaintext_port"] = free_port()
    work = {
        "engine": "procrastinate",
        "resources": ["cpu", *(f"send:{destination['name']}" for destination in made["destinations"])],
        "listen": f"127.0.0.1:{free_port()}",
        "secret": str(secret),
        "beat_s": 1,
        "silent_s": 6,
    }
    return {**made, "database": {"url": server.url("ledger")}, "work": work}


class Host:
    """The further host's process."""

    def __init__(self, node: Node, folder: Path, way: Way, authority: Authority) -> None:
        """Its settings are the node's, but for what makes it another host."""
        folder.mkdir(exist_ok=True)
        self.way = way
        self.home, self._config, self._log = folder / "home", folder / "host.toml", folder / "host.log"
        self._mount, self._node, self.nothing = folder / "mount", node.home, folder / "nothing"
        self.nothing.mkdir(exist_ok=True)
        self.mount()

        def change(settings: View) -> None:
            listen = settings["work"].pop("listen")
            reach = {"store": str(self._mount)} if way.mounted else {"node": f"https://{listen}"}
            settings["work"] |= {**reach, "host": way.host, "resources": ["gpu"]}
            settings["node"]["home"] = str(self.home)
            settings["tls"] = certificates(authority, way.host, days=20)

        node.write_settings(self._config, change)

    def mount(self, there: bool = True) -> None:
        """The node's home where the host's settings say, or the empty folder that is left when it is not mounted."""
        link = self._mount.with_suffix(".new")
        link.symlink_to(self._node if there else self.nothing)
        link.replace(self._mount)

    def start(self) -> None:
        """Begin serving."""
        command = [sys.executable, "-m", "npc_rtnode", "serve", "--only", "work", "--config", str(self._config)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(60)

    def told(self) -> str:
        """What it said."""
        return self._log.read_text("utf-8", "replace")

    def fetched(self) -> int:
        """How many of the node's files lie here as well."""
        return len(list((self.home / "spool").glob("??/*")))


def certificates(authority: Authority, name: str, days: float = 365) -> View:
    """Section [tls] of whoever has this name."""
    return authority.settings(authority.sign(name, days)).model_dump(include={"certificate", "key", "trusted"})


@pytest.fixture(scope="module")
def scanner(node: Node, settings: View) -> Scanner:
    """It knows no TLS."""
    return Scanner(settings["listener"]["plaintext_port"])


@pytest.fixture(scope="module", params=WAYS)
def host(request: pytest.FixtureRequest, node: Node, folder: Path, authority: Authority) -> Iterator[Host]:
    """Up, on a node with the same engine, and stopped in order in the end."""
    way = WAYS[request.param]
    if way.engine == "embedded":
        node.configure(lambda settings: settings["work"].update(engine=way.engine))
        node.restart()
    made = Host(node, folder / way.host, way, authority)
    made.start()
    yield made
    assert made.stop() == 0, made.told()[-3000:]


def assert_done_by(host: Host, node: Node, study: Study, tps: Destination) -> None:
    """The host inferred, the node did the rest, one structure set is at the TPS; a host has its inputs, and no key."""
    assert_one_rtstruct(node, study, tps)
    begun = [(event.subject, event.from_state, event.detail["worker"]) for event in node.events("BEGUN")]
    assert [worker for subject, state, worker in begun if (subject, state) == ("job", "QUEUED")][-1] == host.way.host
    assert {worker for subject, state, worker in begun if (subject, state) != ("job", "QUEUED")} == {"node"}
    assert host.fetched() == (0 if host.way.mounted else len(study.files))
    assert not (host.home / "site.key").exists()
    assert "a certificate ends soon" in host.told()


@pytest.mark.parametrize("host", ["fetched by TLS"], indirect=True)
def test_a_killed_host_loses_nothing(node: Node, host: Host, scanner: Scanner, tps: Destination, folder: Path) -> None:
    """SIGKILL while it infers what it has fetched; started again it takes up its own at once."""
    study = make_study(folder / "sent", "the host is killed")
    scanner.send_all(study.slices)
    node.wait_for(lambda: node.job_states(study.uid) == ["PREDICTING"], 200)
    host.kill()
    host.start()
    job = node.delivered(study.uid, 400)
    assert outcomes(job, "infer") == ["INTERRUPTED", "DONE"]
    assert_done_by(host, node, study, tps)
    assert os.listdir(host.home / "run")


@pytest.mark.parametrize("host", ["mounted"], indirect=True)
def test_without_the_nodes_files_nothing_is_begun(
    node: Node, host: Host, scanner: Scanner, tps: Destination, folder: Path
) -> None:
    """While the mount is gone no attempt is made, and nothing written below it; with it back, the first one holds."""
    node.wait_for((host.home / "run" / "work.lock").exists, 60)
    host.mount(there=False)
    study = make_study(folder / "sent", "without files")
    scanner.send_all(study.slices)
    node.wait_for(lambda: "nothing is begun" in host.told(), 60)
    node.wait_for(lambda: node.job_states(study.uid) == ["QUEUED"], 60)
    host.mount()
    job = node.delivered(study.uid, 400)
    assert outcomes(job, "infer") == ["DONE"]
    assert_done_by(host, node, study, tps)
    assert os.listdir(host.nothing) == []


@pytest.mark.parametrize("host", ["fetched by TLS"], indirect=True)
@pytest.mark.parametrize("broken", ["killed", "faulty"])
def test_a_courier_that_ends_in_mid_send(
    node: Node, host: Host, scanner: Scanner, tps: Destination, folder: Path, fault: Path, broken: str
) -> None:
    """The worker is killed, or ends of a fault in its courier, with an object in the TPS's hands: the supervisor says
    so and starts it again, and one object has gone out; after a fault it is not even sent twice, for what is under way
    is waited for."""
    study, victim = make_study(folder / "sent", f"the courier is {broken}"), node.role_pid("work")
    tps.in_hand.clear(), tps.go_on.clear()
    scanner.send_all(study.slices)
    node.wait_for(tps.in_hand.is_set, 200)
    if broken == "killed":
        node.kill9("work")
    else:
        fault.touch()
        node.wait_for(lambda: not fault.exists(), 60)
    tps.go_on.set()
    node.wait_for(lambda: node.is_up() and victim not in node.pids("work"), 60)
    assert_one_rtstruct(node, study, tps)
    sent = node.delivery(study.uid, "tps")
    assert sent is not None
    ended = ["INTERRUPTED", "DONE"] if broken == "killed" else ["DONE"]
    assert [attempt["outcome"] for attempt in sent["attempts"]] == ended
    assert len(tps.of_study(study.uid)) == len(ended), "what the TPS could not acknowledge it has all the same"
    told = [line for line in node.log_text().splitlines() if "role died, it is started again" in line]
    assert '"code": -9' in told[-1] if broken == "killed" else "the courier ended" in node.log_text()


@pytest.mark.parametrize("host", ["embedded"], indirect=True)
def test_a_host_that_looks_for_its_work_itself(
    node: Node, host: Host, scanner: Scanner, tps: Destination, folder: Path
) -> None:
    """Without procrastinate, node and host find what waits in PostgreSQL's rows."""
    study = make_study(folder / "sent", "looked for")
    scanner.send_all(study.slices)
    node.delivered(study.uid, 400)
    assert_done_by(host, node, study, tps)
