"""How verbs speak: JSON is one document on stdout, words for people go to stdout as tables, complaints to stderr."""

from __future__ import annotations

import getpass
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from npc_rtnode import log
from npc_rtnode.errors import NodeError
from npc_rtnode.settings import Settings, load_settings

NOTICE = "AI draft, not approved. Research use only; a radiation oncologist must review every contour."

PIPE_WIDTH = 400
"""Characters; nobody wraps lines for a program."""

Config = Annotated[
    Path | None,
    typer.Option("--config", "-c", envvar="NPC_RTNODE_CONFIG", help="Settings file (TOML); without it the defaults."),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Reason = Annotated[str, typer.Option("--reason", "-r", help="Why; kept in the ledger with your name.")]
DryRun = Annotated[bool, typer.Option("--dry-run", "-n", help="Tell what would be done, change nothing.")]
Study = Annotated[str, typer.Argument(help="Study reference (R7Q-4KD) or Study Instance UID.")]


def settings_of(config: Path | None) -> Settings:
    """The settings in force, with logging set up for a short command."""
    settings = load_settings(config)
    log.set_up("warning", "console")
    return settings


def out() -> Console:
    """Where answers go; in a pipe or a file tables are as wide as they need, so that grep finds whole words."""
    return Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def err() -> Console:
    """Where complaints and progress go."""
    return Console(stderr=True, soft_wrap=True, highlight=False)


def complain(error: NodeError) -> None:
    """One line: the code, then what happened and what to do."""
    err().print(f"E: {error.code}: {error}", markup=False)


def answer(document: Any) -> None:
    """One JSON document on stdout."""
    json.dump(document, sys.stdout, indent=2, ensure_ascii=False, default=str)
    sys.stdout.write("\n")


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table for people; every value is plain text, whatever it looks like."""
    sheet = Table(*columns, title=title or None, title_justify="left")
    for row in rows:
        sheet.add_row(*(_cell(value) for value in row))
    out().print(sheet, markup=False)


def _cell(value: object) -> Any:
    from rich.text import Text

    return Text("" if value is None else str(value))


def lines(done: Sequence[str], dry_run: bool, as_json: bool = False) -> None:
    """What a changing verb did, or would do."""
    if as_json:
        answer({"dry_run": dry_run, "done": list(done)})
        return
    for line in done:
        out().print(f"would do: {line}" if dry_run else line, markup=False)


def operator() -> str:
    """Who is at the keyboard, by the operating system's word."""
    return f"operator:{getpass.getuser()}"
