"""`pause`, `resume`: stop a lane of the node and let it go on; both want a reason, both are kept in the ledger."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer

from npc_rtnode.adapters.database.desk import Word
from npc_rtnode.adapters.database.pauses import Pauses
from npc_rtnode.app import Station, utc_now
from npc_rtnode.cli.console import AsJson, Config, DryRun, Reason, lines, operator, settings_of

Lane = Annotated[str, typer.Argument(help="receive, infer, send, or send:DESTINATION.")]


def pause(lane: Lane, reason: Reason, config: Config = None, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Begin nothing more in a lane: receive refuses new associations for now, infer and send leave work waiting."""
    with closing(Station(settings_of(config))) as station:
        station.require_schema()
        names = [destination.name for destination in station.settings.destinations]
        done = Pauses(station.sessions).pause(lane, names, Word(operator(), reason, utc_now(), dry_run))
    lines([done], dry_run, as_json)


def resume(lane: Lane, reason: Reason, config: Config = None, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Let a paused lane go on; what waited there goes by its rank."""
    with closing(Station(settings_of(config))) as station:
        station.require_schema()
        done = Pauses(station.sessions).resume(lane, Word(operator(), reason, utc_now(), dry_run))
    lines([done], dry_run, as_json)
