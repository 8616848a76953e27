"""`status`: how the node stands at this moment, in numbers."""

from __future__ import annotations

from typing import Any

import typer

from npc_rtnode.adapters.database import schema
from npc_rtnode.adapters.database.admission import AdmissionLedger
from npc_rtnode.adapters.database.constancy import ConstancyLedger
from npc_rtnode.adapters.database.disks import DiskLedger
from npc_rtnode.adapters.database.pauses import Pauses
from npc_rtnode.adapters.database.recipes import RecipeLedger
from npc_rtnode.app import MEGABYTE, Station
from npc_rtnode.cli.console import AsJson, Config, answer, settings_of, table
from npc_rtnode.cli.qa import newest
from npc_rtnode.domain.admission import Level, judge
from npc_rtnode.domain.constancy import RunState


def status(config: Config = None, as_json: AsJson = False) -> None:
    """Admission, disks, hosts, backlog and how many of what, by state; exit 0 open, 3 a person should look."""
    station = Station(settings_of(config))
    schema.require_head(station.engine)
    admission, counts = admission_of(station), _counts(station)
    paused, constancy = Pauses(station.sessions).all(), newest(ConstancyLedger(station.sessions))
    low, unfit = DiskLedger(station.sessions).told(), RecipeLedger(station.sessions).told(station.clock())
    station.close()
    if as_json:
        stands = {"admission": admission, "paused": paused, "counts": counts, "constancy": constancy}
        answer({**stands, "disks_low": low, "hosts_unfit": unfit})
    else:
        stopped = ((f"paused: {lane}", words) for lane, words in paused.items())
        counted = ((k, _flat(v)) for k, v in counts.items())
        short = ((f"disk low: {disk}", words) for disk, words in low.items())
        idle = ((f"begins nothing: {host}", words) for host, words in unfit.items())
        rows = [*admission.items(), *short, *idle, *stopped, *counted, ("constancy", constancy)]
        table("", ("what", "how it stands"), rows)
    if admission["level"] != Level.OPEN or paused or low or unfit or RunState.ALARM in constancy:
        raise typer.Exit(3)


def _counts(station: Station) -> dict[str, Any]:
    """How many of what; also what is safe in the intake journal and not in the ledger yet."""
    notes, entered = station.notes, station.queries.entered()
    waiting = {"records_waiting": len(notes.waiting(entered)), "journal_damaged": len(notes.damaged())}
    return {**station.queries.counts(), **waiting, "without_row": station.queries.without_row()}


def admission_of(station: Station) -> dict[str, Any]:
    """How the door would stand for a caller now, the numbers that decide it, and how often it has been shut."""
    pages, marks, free = AdmissionLedger(station.sessions), station.marks, station.spool.free_bytes()
    backlog, changes = pages.backlog(), pages.changes()
    standing = judge(pages.last(), free, backlog, marks)
    return {
        "level": standing.level,
        "because": str(standing.finding) if standing.finding else "",
        "free_mb": free // MEGABYTE,
        "warn_below_mb": round(marks.warn_bytes / MEGABYTE),
        "refuse_below_mb": round(marks.refuse_bytes / MEGABYTE),
        "reopen_above_mb": round(marks.reopen_bytes / MEGABYTE),
        "reserve_mb": station.settings.listener.reserve_free_mb,
        "backlog": backlog,
        "max_backlog": marks.max_backlog,
        "times_shut": changes.get(Level.SHUT, 0),
        "times_warned": changes.get(Level.LOW, 0),
    }


def _flat(value: Any) -> str:
    return ", ".join(f"{number} {state}" for state, number in value.items()) if isinstance(value, dict) else str(value)
