"""`serve` keeps both roles alive, and leaves nothing behind."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from npc_rtnode.adapters.database import schema
from npc_rtnode.app import Station
from npc_rtnode.cli.demo import CONFIG
from npc_rtnode.errors import CannotListen
from npc_rtnode.settings import load_settings
from npc_rtnode.supervisor import keep_what_is_loaded

PATIENCE_S = 60.0


def eventually(holds: Callable[[], object]) -> bool:
    """Whether it holds before patience ends."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.1)
    return False


def children(pid: int) -> dict[str, int]:
    """Role to pid of a supervisor's children, by /proc."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                words = (entry / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if parent == pid and "--only" in words:
                found[words[words.index("--only") + 1]] = int(entry.name)
    return found


def alive(pid: int) -> bool:
    """Whether that process still runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A settings file and its ledger."""
    path = tmp_path / "node.toml"
    path.write_text(CONFIG.format(home=tmp_path / "home", tps=1, pacs=2, level="error"), "utf-8")
    station = Station(load_settings(path, {}))
    schema.upgrade(station.engine)
    station.close()
    return path


def test_roles_are_restarted_and_ended(config: Path) -> None:
    """A role that is killed comes back under another pid; SIGTERM ends all three processes and exits 0."""
    node = subprocess.Popen([sys.executable, "-m", "npc_rtnode", "serve", "--config", str(config)])
    try:
        assert eventually(lambda: set(children(node.pid)) == {"receive", "work"})
        first = children(node.pid)
        os.kill(first["receive"], signal.SIGKILL)
        assert eventually(lambda: children(node.pid).get("receive") not in {None, first["receive"]})
        assert children(node.pid)["work"] == first["work"]
        last = children(node.pid)
        node.send_signal(signal.SIGTERM)
        assert node.wait(PATIENCE_S) == 0
        assert not [pid for pid in last.values() if alive(pid)]
    finally:
        node.kill()
        node.wait()


def test_a_role_whose_port_is_taken_ends_in_one_line(config: Path) -> None:
    """`serve` on a port of another program: the documented exit code and the error's code, no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        config.write_text(config.read_text("utf-8").replace("port = 0", f"port = {port}", 1), "utf-8")
        command = [sys.executable, "-m", "npc_rtnode", "serve", "--only", "receive", "--config", str(config)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert ended.returncode == CannotListen.exit_code
    assert (
        f"E: CANNOT_LISTEN: The node cannot listen where its settings say. listener.port, 127.0.0.1:{port}"
        in ended.stderr
    )
    assert "Traceback" not in ended.stderr


def test_a_killed_supervisor_leaves_no_role_behind(config: Path) -> None:
    """After SIGKILL of the parent the listener and the worker end by themselves."""
    node = subprocess.Popen([sys.executable, "-m", "npc_rtnode", "serve", "--config", str(config)])
    try:
        assert eventually(lambda: set(children(node.pid)) == {"receive", "work"})
        roles = children(node.pid)
    finally:
        node.kill()
        node.wait()
    assert eventually(lambda: not [pid for pid in roles.values() if alive(pid)])


def test_what_is_loaded_is_not_looked_at_again() -> None:
    """A role that has started collects the garbage of its associations alone."""
    kept: list[object] = [[] for _ in range(1000)]
    try:
        keep_what_is_loaded()
        assert gc.get_freeze_count() > len(kept)
        assert len(gc.get_objects()) < gc.get_freeze_count() / 100
    finally:
        gc.unfreeze()
