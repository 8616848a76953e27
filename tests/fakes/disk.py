"""A small file system of its own (tmpfs) that can be filled to the last byte and given room again.

Mounting needs root. Where that is not allowed the tests that want one are skipped; where real peers are required
(.ci/run) it is a failure, as for any other peer.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.peers import REQUIRED

PAGE = 4096
MEGABYTE = 1 << 20


class SmallDisk:
    """Mounted at `place`; bytes in all its numbers."""

    def __init__(self, place: Path, size: int) -> None:
        """Mount it, or skip the test."""
        self.place = place
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        done = _run("mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(place))
        if done.returncode != 0:
            (pytest.fail if REQUIRED else pytest.skip)(f"no small file system can be mounted: {done.stderr.strip()}")

    @property
    def free(self) -> int:
        """Bytes that can still be written."""
        room = os.statvfs(self.place)
        return room.f_bavail * room.f_frsize

    def leave(self, free: int) -> None:
        """Give it or take from it so much that `free` bytes, in whole pages, can still be written."""
        room = os.statvfs(self.place)
        used = (room.f_blocks - room.f_bfree) * room.f_frsize
        size = max(used + free // PAGE * PAGE, PAGE)
        done = _run("mount", "-o", f"remount,size={size}", str(self.place))
        assert done.returncode == 0, done.stderr

    def close(self) -> None:
        """Unmount it; whatever was on it is gone."""
        done = _run("umount", "--lazy", str(self.place))
        assert done.returncode == 0, done.stderr


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)
