"""What the operating system answers, in our words."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from npc_rtnode.errors import CannotListen, DiskLow
from npc_rtnode.faults import disk_faults, listening_faults


@pytest.mark.parametrize(
    ("error", "todo"),
    [
        (OSError(errno.EADDRINUSE, "in use"), "or set another listener.port."),
        (
            PermissionError(errno.EACCES, "denied"),
            "CAP_NET_BIND_SERVICE (see the unit file); or set a higher listener.port.",
        ),
        (OSError(errno.EADDRNOTAVAIL, "not here"), "set one that it has"),
        (socket.gaierror(socket.EAI_NONAME, "unknown"), "Set an address that this machine has."),
    ],
)
def test_why_a_port_cannot_be_had(error: OSError, todo: str) -> None:
    """Setting, address, the system's word, what is kept, and what mends it."""
    with pytest.raises(CannotListen) as told, listening_faults("listener.port", "10.0.0.1", 104):
        raise error
    assert told.value.detail.startswith(f"listener.port, 10.0.0.1:104: {error.strerror}. All that was received is kept")
    assert told.value.detail.endswith(".")
    assert todo in told.value.detail


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_that_is_the_reason(number: int) -> None:
    """Named with whose disk it is."""
    with pytest.raises(DiskLow, match=f"The spool's disk answered {errno.errorcode[number]}"), disk_faults("spool"):
        raise OSError(number, os.strerror(number))


def test_what_is_no_disk_fault_stays_what_it_is() -> None:
    """A missing file is a missing file."""
    with pytest.raises(FileNotFoundError), disk_faults("spool"):
        raise FileNotFoundError(errno.ENOENT, "gone")
