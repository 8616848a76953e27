"""One hospital a module: a TPS, an archive and a running node fed by deploy/example.toml's own settings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.hospital import Destination, Scanner, leaks
from tests.acceptance.node import Node, View, example
from tests.proving import Watch, watch_arrivals

_LEFT_TO_GC = (
    # pynetdicom's plain server, which plays TPS and archive here, leaves the sockets of peers that died to the garbage
    # collector (transport.py, service_actions); the node's own listener closes its sockets, and its tests say so.
    "ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of this folder live with what pynetdicom's server leaves behind."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings(_LEFT_TO_GC))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where this module's studies, homes and arrivals lie."""
    return tmp_path_factory.mktemp("hospital")


@pytest.fixture(scope="module")
def tps(folder: Path) -> Iterator[Destination]:
    """The treatment planning system."""
    scp = Destination(folder / "tps").up()
    yield scp
    scp.down()


@pytest.fixture(scope="module")
def archive(folder: Path) -> Iterator[Destination]:
    """The archive, which gets the report too."""
    scp = Destination(folder / "archive").up()
    yield scp
    scp.down()


@pytest.fixture(scope="module")
def settings(tps: Destination, archive: Destination) -> View:
    """What the node runs with; a module may override this."""
    return example(tps=tps.port, pacs=archive.port)


@pytest.fixture(scope="module")
def node(folder: Path, settings: View) -> Iterator[Node]:
    """A node that is up. In the end SIGTERM stops it cleanly, and the patient's name stands nowhere but in DICOM."""
    with Node(folder / "node", settings) as running:
        yield running
        assert running.stop() == 0, running.log_tail()
        assert running.left_behind == []
        assert leaks(running) == []


@pytest.fixture(scope="module")
def scanner(node: Node) -> Scanner:
    """The sender that the node knows."""
    return Scanner(node.port)


@pytest.fixture(scope="session")
def _watch() -> Iterator[Watch]:
    """Remembers every object of ours that arrives at a destination in this process."""
    with pytest.MonkeyPatch.context() as patch:
        yield watch_arrivals(patch)


@pytest.fixture(autouse=True)
def _arrived_objects_are_good(_watch: Watch) -> Iterator[None]:
    """Whatever a running node delivers must find no objection: dciodvfy's, DCMTK's, or our own."""
    yield
    assert _watch.ask() == []
