"""The log serves the node, and never ends it."""

from __future__ import annotations

import subprocess
import sys

SPEAKER = """
from npc_rtnode import log
log.set_up("info", "json")
for number in range(2000):
    log.get("npc_rtnode.test").error("said in vain", number=number)
print("went on")
"""


def test_a_log_that_cannot_be_written_is_no_fault() -> None:
    """/dev/full answers ENOSPC to every byte: the lines are lost, the speaker goes on."""
    with open("/dev/full", "wb") as full:
        said = subprocess.run([sys.executable, "-c", SPEAKER], stdout=subprocess.PIPE, stderr=full, check=False)
    assert said.stdout == b"went on\n"
