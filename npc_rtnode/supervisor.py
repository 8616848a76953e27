"""`serve`: the two roles as two child processes, restarted when they die, ended when the parent ends.

A fault in CUDA or in a decoder takes the worker down, never the listener; the listener's GIL belongs to it alone.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from npc_rtnode import log
from npc_rtnode.kinship import die_with

logger = log.get(__name__)
ROLES = ("receive", "work")
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
STEADY_S = 60.0
"""A role that has run this long is healthy: its next restart is immediate again."""
STOP_S = 25.0
_SUPERVISOR = "NPC_RTNODE_SUPERVISOR"
_M_ARENA_MAX: Final = -8  # malloc.h


def serve_until_told() -> None:
    """In a role's process: block until SIGTERM or SIGINT."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    while not stop.wait(1.0):
        pass


def belong_to_supervisor() -> None:
    """In a role's process: stop in order when the supervisor goes, however it goes."""
    if parent := os.environ.get(_SUPERVISOR):
        die_with(int(parent), signal.SIGTERM)


def keep_memory_together() -> None:
    """In a role of many short threads: have glibc allocate for all of them in two arenas.

    Each thread would have one of its own (eight a core), and little of it comes back: after three thousand hostile
    calls the receiver had grown by 16 MiB and went on growing, with two arenas by 5.
    """
    with suppress(AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)


def keep_what_is_loaded() -> None:
    """In a role's process that has started: what is loaded by now stays, so collecting garbage looks at it no more.

    It took 65 ms, in which every association stood still, and pynetdicom's server asks for it every few seconds.
    """
    gc.collect()
    gc.freeze()


@dataclass
class _Child:
    role: str
    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    pause_s: float = FIRST_PAUSE_S
    not_before: float = field(default=0.0)

    def look(self, now: float) -> None:
        """Start it, or notice that it died and say when it starts again."""
        if self.process is None:
            if now >= self.not_before:
                self._start(now)
            return
        code = self.process.poll()
        if code is None:
            return
        self.process = None
        self.pause_s = FIRST_PAUSE_S if now - self.started > STEADY_S else min(self.pause_s * 2, LONGEST_PAUSE_S)
        self.not_before = now + self.pause_s
        logger.error("role died, it is started again", role=self.role, code=code, in_s=self.pause_s)

    def _start(self, now: float) -> None:
        environment = {**os.environ, _SUPERVISOR: str(os.getpid())}
        self.process = subprocess.Popen(self.command, env=environment, stdin=subprocess.DEVNULL)
        self.started = now

    def stop(self) -> None:
        """SIGTERM, and SIGKILL when that is not heard."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def supervise(config: Path | None, roles: Sequence[str] = ROLES) -> None:
    """Run the roles until SIGTERM or SIGINT; the listener stops first, so nothing new comes while work ends."""
    options = ["--config", str(config)] if config else []
    children = [_Child(role, [sys.executable, "-m", "npc_rtnode", "serve", "--only", role, *options]) for role in roles]
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    while not stop.wait(0.2):
        for child in children:
            child.look(time.monotonic())
    for child in children:
        child.stop()
