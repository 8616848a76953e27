"""What every test can ask for: a program of another maker, by marker and by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import structlog

from tests.peers import REQUIRED, find_peer

NOT_INSTALLED = "not installed: "


def pytest_runtest_setup(item: pytest.Item) -> None:
    """`@pytest.mark.peer("storescu", "dsrdump")`: skipped where one is missing, red where peers are required."""
    wanted = [program for mark in item.iter_markers("peer") for program in mark.args]
    missing = [program for program in wanted if find_peer(program) is None]
    if missing:
        verdict = pytest.fail if REQUIRED else pytest.skip
        verdict(f"{NOT_INSTALLED}{', '.join(missing)} (deploy/peers.sh)")


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
