"""Child processes that never outlive their parent: a killed worker leaves no orphan holding a GPU or a socket; and that
several threads may begin and let go of."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Final

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


_TENDING: Final = threading.Lock()


def begin(child: BaseProcess) -> None:
    """Start a child, from any thread.

    multiprocessing looks after all children whenever it starts one: one that another thread let go of at that moment
    ended the start with an AttributeError (a structure set was not sent for it).
    """
    with _TENDING:
        child.start()


def let_go(child: BaseProcess) -> None:
    """Close a child that has ended, from any thread."""
    with _TENDING:
        child.close()


def die_with(parent: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel send `number` to this process when its parent goes, even by SIGKILL (Linux; elsewhere a no-op).

    Called first thing in the child; `parent` is the parent's pid as the parent knew it, in case it went before.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def end_with_parent() -> None:
    """In a child of multiprocessing: end at once when the process that asked for it goes, even by SIGKILL.

    A child of its forkserver has that server for a parent, of whose end the kernel would tell; this pipe tells of ours.
    """
    if parent := multiprocessing.parent_process():
        threading.Thread(target=_end_after, args=(parent.sentinel,), name="kinship", daemon=True).start()


def _end_after(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
