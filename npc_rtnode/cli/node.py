"""`serve`, `run`, `doctor`, `version`: the node as a whole."""

from __future__ import annotations

import platform
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

import npc_rtnode
from npc_rtnode import log
from npc_rtnode.cli.console import NOTICE, AsJson, Config, answer, out, settings_of, table
from npc_rtnode.errors import ConfigFault
from npc_rtnode.settings import load_settings


class Role(StrEnum):
    """The two processes of a node."""

    RECEIVE = "receive"
    WORK = "work"


def serve(
    only: Annotated[
        Role | None, typer.Option("--only", help="One role in this process; both, supervised, without it.")
    ] = None,
    config: Config = None,
) -> None:
    """Run the node until it is told to stop (SIGTERM)."""
    from npc_rtnode import supervisor

    settings = load_settings(config)
    log.set_up(settings.log.level, settings.log.format)
    if settings.work.host and only is Role.RECEIVE:
        raise ConfigFault("work.host is set: a further worker host receives nothing")
    if only is None:
        supervisor.supervise(config, (Role.WORK,) if settings.work.host else tuple(Role))
        return
    supervisor.belong_to_supervisor()
    if only is Role.RECEIVE:
        supervisor.keep_memory_together()
    from npc_rtnode.app import ReceiveRole, WorkRole

    role = ReceiveRole(settings) if only is Role.RECEIVE else WorkRole(settings)
    role.start()
    supervisor.keep_what_is_loaded()
    supervisor.serve_until_told()
    role.stop()


def version(as_json: AsJson = False) -> None:
    """The versions of the node and of what it stands on."""
    names = (
        "pydicom",
        "pynetdicom",
        "rt-utils",
        "highdicom",
        "torch",
        "monai",
        "simpleitk",
        "sqlalchemy",
        "apscheduler",
    )
    versions = {"npc-rtnode": npc_rtnode.__version__, "python": platform.python_version()}
    versions |= {name: metadata.version(name) for name in names}
    if as_json:
        answer(versions)
    else:
        out().print("\n".join(f"{name} {number}" for name, number in versions.items()), markup=False)


def run(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="A folder of DICOM files.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the objects are written.")],
    rules: Annotated[
        str | None, typer.Option(help="A shipped rule set or a file; else the one in the settings.")
    ] = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Do a folder without any network: select, infer, write, check. Nothing is sent, nothing enters the ledger."""
    from npc_rtnode.cli.offline import process

    results = process(folder, output, settings_of(config), rules)
    if as_json:
        answer({"results": results, "notice": NOTICE})
    else:
        rows = ((r["series_uid"], r["stage"], r["volume_cc"], r["released"], r["folder"]) for r in results)
        table("", ("series", "T", "GTV cc", "released", "folder"), rows)
        out().print(NOTICE)
    if not all(result["released"] for result in results):
        raise typer.Exit(40 if any(result["failed"] for result in results) else 3)


def doctor(
    config: Config = None,
    as_json: AsJson = False,
    quick: Annotated[bool, typer.Option(help="Skip the golden case.")] = False,
) -> None:
    """Look at everything that can be wrong before a patient waits; exit 0 good, 3 warnings, 1 faults."""
    from npc_rtnode.cli.checks import examine

    found = examine(settings_of(config), golden=not quick)
    if as_json:
        answer([{"check": c.name, "outcome": c.outcome, "said": c.said, "fix": c.fix} for c in found])
    else:
        table("", ("check", "outcome", "what", "what to do"), ((c.name, c.outcome, c.said, c.fix) for c in found))
    outcomes = {check.outcome for check in found}
    if "fault" in outcomes:
        raise typer.Exit(1)
    if "warning" in outcomes:
        raise typer.Exit(3)
