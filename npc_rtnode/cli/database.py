"""`db`: the ledger's schema, its copies, and how it is put back."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from npc_rtnode.adapters.database import backup as copies
from npc_rtnode.adapters.database import schema
from npc_rtnode.adapters.database.intake import IntakeLedger
from npc_rtnode.adapters.database.owner import sign
from npc_rtnode.adapters.database.recovered import RecoveryLedger
from npc_rtnode.app import Station, utc_now
from npc_rtnode.cli.console import AsJson, Config, DryRun, Reason, answer, operator, out, settings_of
from npc_rtnode.pipeline.reconcile import Reconciled, Reconciler

app = typer.Typer(help="The ledger.", no_args_is_help=True)
File = Annotated[Path, typer.Argument(dir_okay=False, help="The backup.")]


@app.command()
def upgrade(config: Config = None, dry_run: DryRun = False) -> None:
    """Bring the schema to the one this program knows."""
    with closing(Station(settings_of(config))) as station:
        before, head = schema.current(station.engine), schema.head()
        schema.require_known(before)
        if not dry_run:
            station.upgrade()
    done = "is at" if before == head else ("would go to" if dry_run else "went to")
    out().print(f"the ledger {done} revision {head} (from {before or 'nothing'})")


@app.command()
def downgrade(
    to: Annotated[str, typer.Option("--to", help="The revision that the older program knows.")],
    reason: Reason,
    config: Config = None,
) -> None:
    """Take the schema back for an older program; the node must be stopped. What only newer tables held is gone."""
    with closing(Station(settings_of(config))) as station, _at_rest(station):
        before = schema.current(station.engine)
        schema.require_head(station.engine)
        RecoveryLedger(station.sessions).told("DOWNGRADED", {"to": to}, (operator(), reason), utc_now())
        schema.downgrade(station.engine, to)
    out().print(f"the ledger went to revision {to} (from {before})")


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


@app.command()
def backup(file: File, config: Config = None) -> None:
    """Copy the ledger into FILE, while the node is at work; the copy is checked before it gets its name."""
    with closing(Station(settings_of(config))) as station:
        revision = copies.backup(station.engine, file)
    size = file.stat().st_size
    out().print(f"the ledger at revision {revision} is in {file}, {size} bytes, checked", markup=False)


@app.command()
def restore(file: File, reason: Reason, config: Config = None, as_json: AsJson = False) -> None:
    """Put a backup in the ledger's place, bring it to this program's revision, and reconcile. The node must be stopped.

    What was there is kept beside it (SQLite), and the bytes on disk are taken in again.
    """
    with closing(Station(settings_of(config))) as station, _at_rest(station):
        kept = copies.restore(station.engine, file, station.home.site_key(), utc_now())
        schema.upgrade(station.engine)
        sign(station.sessions, station.home.site_key(), utc_now())
        word = operator(), reason
        RecoveryLedger(station.sessions).told("RESTORED", {"revision": schema.head()}, word, utc_now())
        done = reconciler(station).run(word)
    _tell(done, f"restored from {file}" + (f"; what was there is kept as {kept}" if kept else ""), as_json)


@app.command()
def reconcile(reason: Reason, config: Config = None, as_json: AsJson = False) -> None:
    """Take in what lies on disk and the ledger does not know; stop the node first. Exit 3 where files are missing."""
    with closing(Station(settings_of(config))) as station, _at_rest(station):
        schema.require_head(station.engine)
        done = reconciler(station).run((operator(), reason))
    _tell(done, "reconciled", as_json)


def reconciler(station: Station) -> Reconciler:
    """Whoever takes in what this node's ledger does not know."""
    from npc_rtnode.adapters.dicom.reclaim import StoredFileReader

    waits = station.settings.assemble
    return Reconciler(
        pages=RecoveryLedger(station.sessions),
        intake=IntakeLedger(station.sessions, station.home.site_key(), waits.quiet_s),
        shelves=station.proof_shelves,
        reader=StoredFileReader(),
        new_id=lambda: str(uuid.uuid4()),
        clock=utc_now,
    )


@contextmanager
def _at_rest(station: Station) -> Iterator[None]:
    """No role of this home runs meanwhile; raises MomentFault where one does."""
    held = []
    try:
        for role in ("receive", "work"):
            held.append(station.home.lock(role))
        yield
    finally:
        for lock in held:
            lock.release()


def _tell(done: Reconciled, said: str, as_json: bool) -> None:
    if as_json:
        answer({"done": said, **done.document})
    else:
        rows = "\n".join(f"{key}: {value}" for key, value in done.document.items())
        out().print(f"{said}\n{rows}", markup=False)
    if any(done.missing.values()) or done.conflicts or done.unreadable:
        raise typer.Exit(3)
