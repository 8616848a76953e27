"""What every test can ask for: a program of another maker, by marker and by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import structlog

from tests.peers import REQUIRED, find_peer


def pytest_runtest_setup(item: pytest.Item) -> None:
    """`@pytest.mark.peer("storescu", "dsrdump")`: skipped where one is missing, red where peers are required."""
    wanted = [program for mark in item.iter_markers("peer") for program in mark.args]
    missing = [program for program in wanted if find_peer(program) is None]
    if missing:
        verdict = pytest.fail if REQUIRED else pytest.skip
        verdict(f"not installed: {', '.join(missing)} (deploy/peers.sh)")


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
