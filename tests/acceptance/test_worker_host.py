"""A further worker host, as a site runs it: `serve --only work` with a home of its own, on the node's ledger."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.hospital import Destination, Scanner, make_study
from tests.acceptance.node import ROOT, Node, View, example, free_port
from tests.acceptance.test_kill9 import assert_one_rtstruct, outcomes
from tests.postgres import Server

pytestmark = [pytest.mark.acceptance, pytest.mark.postgres, pytest.mark.timeout(600)]
HOST = "gpu-1"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """The site's PostgreSQL."""
    with tempfile.TemporaryDirectory(prefix="npc-rtnode-postgres-") as folder, Server(Path(folder)) as running:
        running.create("ledger")
        yield running


@pytest.fixture(scope="module")
def settings(tps: Destination, archive: Destination, server: Server, folder: Path) -> View:
    """A node that infers nothing itself."""
    secret = folder / "secret"
    secret.write_text("s" * 48)
    secret.chmod(0o600)
    resources = [
        "cpu",
        *(f"send:{destination['name']}" for destination in example(tps=tps.port, pacs=archive.port)["destinations"]),
    ]
    work = {
        "engine": "procrastinate",
        "resources": resources,
        "listen": f"127.0.0.1:{free_port()}",
        "secret": str(secret),
        "beat_s": 1,
        "silent_s": 6,
    }
    return {
        **example(tps=tps.port, pacs=archive.port),
        "database": {"url": server.url("ledger")},
        "work": work,
    }


class Host:
    """The further host's process."""

    def __init__(self, node: Node, folder: Path) -> None:
        """Its settings are the node's, but for what makes it another host."""
        folder.mkdir(exist_ok=True)
        self.home, self._config, self._log = folder / "home", folder / "host.toml", folder / "host.log"

        def change(settings: View) -> None:
            work = settings["work"]
            work |= {"node": f"http://{work.pop('listen')}", "host": HOST, "resources": ["gpu"]}
            settings["node"]["home"] = str(self.home)

        node.write_settings(self._config, change)

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


@pytest.fixture(scope="module")
def host(node: Node, folder: Path) -> Iterator[Host]:
    """Up, and stopped in order in the end."""
    made = Host(node, folder / "host")
    made.start()
    yield made
    assert made.stop() == 0, made.told()[-3000:]


def workers(node: Node) -> set[str]:
    """Who has begun anything."""
    return {str(event.detail["worker"]) for event in node.events("BEGUN")}


def test_the_host_infers_and_the_node_does_the_rest(
    node: Node, host: Host, scanner: Scanner, tps: Destination, folder: Path
) -> None:
    """Inputs are fetched, the prediction is left on the node, which writes and sends: one structure set at the TPS."""
    study = make_study(folder / "sent", "by the host")
    scanner.send_all(study.slices)
    node.delivered(study.uid, 400)
    assert_one_rtstruct(node, study, tps)
    begun = [(event.subject, event.from_state, event.detail["worker"]) for event in node.events("BEGUN")]
    assert ("job", "QUEUED", HOST) in begun
    assert {worker for subject, state, worker in begun if (subject, state) != ("job", "QUEUED")} == {"node"}
    assert len(list((host.home / "spool").glob("??/*"))) == len(study.files)
    assert not (host.home / "site.key").exists()


def test_a_killed_host_loses_nothing(node: Node, host: Host, scanner: Scanner, tps: Destination, folder: Path) -> None:
    """SIGKILL while it infers; started again it takes up its own at once, and one structure set reaches the TPS."""
    study = make_study(folder / "sent", "the host is killed")
    scanner.send_all(study.slices)
    node.wait_for(lambda: node.job_states(study.uid) == ["PREDICTING"], 200)
    host.kill()
    host.start()
    job = node.delivered(study.uid, 400)
    assert outcomes(job, "infer") == ["INTERRUPTED", "DONE"]
    assert_one_rtstruct(node, study, tps)
    assert workers(node) == {HOST, "node"}
    assert os.listdir(host.home / "run")
