"""`db`: the ledger's schema."""

from __future__ import annotations

from contextlib import closing

import typer

from npc_rtnode.adapters.database import schema
from npc_rtnode.app import Station
from npc_rtnode.cli.console import AsJson, Config, DryRun, answer, out, settings_of

app = typer.Typer(help="The ledger.", no_args_is_help=True)


@app.command()
def upgrade(config: Config = None, dry_run: DryRun = False) -> None:
    """Bring the schema to the one this program knows."""
    with closing(Station(settings_of(config))) as station:
        before, head = schema.current(station.engine), schema.head()
        if not dry_run:
            station.upgrade()
    done = "is at" if before == head else ("would go to" if dry_run else "went to")
    out().print(f"the ledger {done} revision {head} (from {before or 'nothing'})")


@app.command()
def check(config: Config = None, as_json: AsJson = False) -> None:
    """Compare schema and program, and follow the hash chain of events; exit 1 when something is off."""
    with closing(Station(settings_of(config))) as station:
        found, head = schema.current(station.engine), schema.head()
        differences = schema.differences(station.engine) if found == head else []
        whole = found == head and station.queries.chain_is_whole()
    document = {"revision": found, "head": head, "differences": differences, "event_chain_whole": whole}
    if as_json:
        answer(document)
    else:
        out().print("\n".join(f"{key}: {value}" for key, value in document.items()), markup=False)
    if found != head or differences or not whole:
        raise typer.Exit(1)
