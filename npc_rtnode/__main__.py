"""`npc-rtnode` and `python -m npc_rtnode`."""

from __future__ import annotations

import os
import sys

from npc_rtnode.cli import app
from npc_rtnode.cli.console import complain
from npc_rtnode.errors import NodeError


def main() -> None:
    """Run the CLI; our own errors become one line and their documented exit code (docs/cli.md)."""
    os.umask(0o077)  # whatever is written below holds patients' data, and is this user's alone
    try:
        app()
    except NodeError as error:
        complain(error)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
