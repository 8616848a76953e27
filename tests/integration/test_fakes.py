"""What plays a node, a peer or a server in the tests: whoever fails to start in time leaves no process behind."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.acceptance import node as nodes
from tests.acceptance import program as programs
from tests.acceptance.node import Node, example
from tests.acceptance.program import Program
from tests.fakes import receiver as receivers
from tests.fakes.receiver import Receiver


def naming(folder: Path) -> list[str]:
    """The living processes whose command line names this folder, or that were told to sleep in it."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_text("utf-8", "replace")
                here = (entry / "cwd").readlink()
            except OSError:
                continue
            if words and (str(folder) in words or here == folder):
                found.append(words)
    return found


class Sleeper(Program):
    """A program that never answers on its port."""

    def command(self) -> Sequence[str]:
        """Ten minutes."""
        return ["sleep", "600"]


@pytest.mark.parametrize(
    ("module", "make"),
    [
        (nodes, lambda folder: Node(folder, example(tps=1, pacs=2))),
        (receivers, lambda folder: Receiver(folder)),
        (programs, lambda folder: Sleeper(folder, nodes.free_port())),
    ],
    ids=["node", "receiver", "program"],
)
def test_who_starts_too_slowly_is_ended(
    module: ModuleType, make: Callable[[Path], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test fails with the reason, and a minute later nobody wonders whose process that is."""
    monkeypatch.setattr(module, "START_S", 0.3)
    with pytest.raises(AssertionError), make(tmp_path):
        pytest.fail("it was up")
    deadline = time.monotonic() + 5
    while naming(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert naming(tmp_path) == []
