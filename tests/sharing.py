"""How the full run is shared out between processes: first what is quick, file by file, then the rest one by one.

    pytest -n 2 --dist loadfile

The rest kills processes, watches clocks, or is a whole node with peers: nothing may run beside it. It is every file of
integration and acceptance that has a slow test; models and pure functions mind no company.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from xdist.scheduler import LoadFileScheduling

MIND_NOBODY = {"unit", "model"}
_LONG = re.compile(r"\bmark\.(slow|acceptance)\b")


@cache
def goes_alone(file: Path) -> bool:
    """Whether nothing may run beside the tests of this file."""
    return file.parent.name not in MIND_NOBODY and bool(_LONG.search(file.read_text("utf-8")))


class Sharing(LoadFileScheduling):
    """Files as pieces of work in the order of collection; all that goes alone is one piece."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return "alone" if goes_alone(self.config.rootpath / file) else file
