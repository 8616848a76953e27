"""Loaded by Python itself where this folder is on PYTHONPATH: a fault of its own in the courier of the node under test.

While the file named by NPC_RTNODE_TEST_FAULT exists, the next look for an entry in the node's own worker fails with an
error that the courier has no name for, as a fault in its library would; the file goes with it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

FAULT = Path(os.environ.get("NPC_RTNODE_TEST_FAULT", os.devnull + "/none"))


def _break_the_courier() -> None:
    import procrastinate

    sound = procrastinate.PsycopgConnector.execute_query_one_async

    async def faulty(self: procrastinate.PsycopgConnector, query: Any, **arguments: Any) -> Any:
        if FAULT.exists():
            FAULT.unlink()
            raise ValueError("a fault that the test has made")
        return await sound(self, query, **arguments)

    procrastinate.PsycopgConnector.execute_query_one_async = faulty  # type: ignore[method-assign]


if "--only work" in " ".join(sys.orig_argv) and sys.orig_argv[-1].endswith("node.toml"):
    _break_the_courier()
