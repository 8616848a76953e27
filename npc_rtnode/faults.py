"""What the operating system answers, as errors of ours: one place for what several adapters hear."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from npc_rtnode.errors import CannotListen, DiskLow

_DISK_IS_THE_REASON: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS})
_TO_LISTEN: Final = {
    errno.EADDRINUSE: "End the program that has this port (`ss -ltnp` names it), or set another {setting}.",
    errno.EACCES: "A port below 1024 needs CAP_NET_BIND_SERVICE (see the unit file); or set a higher {setting}.",
    errno.EADDRNOTAVAIL: "This machine has no such address: set one that it has (`ip address` lists them).",
}
_ELSE: Final = "Set an address that this machine has."
_KEPT: Final = "All that was received is kept; nobody gets a connection there until this is mended."


@contextmanager
def disk_faults(whose: str) -> Iterator[None]:
    """Say DiskLow when the disk is the reason; every other OSError stays what it is."""
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_IS_THE_REASON:
            raise DiskLow(f"The {whose}'s disk answered {errno.errorcode[error.errno]}.") from error
        raise


@contextmanager
def listening_faults(setting: str, host: str, port: int) -> Iterator[None]:
    """Say CannotListen, with the setting that asked for it, when that address cannot be had."""
    try:
        yield
    except OSError as error:
        todo = _TO_LISTEN.get(error.errno or 0, _ELSE).format(setting=setting)
        raise CannotListen(f"{setting}, {host}:{port}: {error.strerror}. {_KEPT} {todo}") from error
