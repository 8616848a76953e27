"""`qa`: the constancy phantom through the live chain, now; and the trend of its numbers."""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from typing import Annotated, Any

import typer

from npc_rtnode.adapters.database import schema
from npc_rtnode.adapters.database.constancy import ConstancyLedger
from npc_rtnode.app import Station, constancy, utc_now
from npc_rtnode.cli.console import AsJson, Config, answer, operator, out, settings_of, table
from npc_rtnode.domain.constancy import SECONDS, ConstancyRun, Limits, RunState, control
from npc_rtnode.errors import ConfigFault
from npc_rtnode.settings import QaSettings

app = typer.Typer(help="Daily constancy.", no_args_is_help=True)
POLL_S = 0.5


@app.command()
def run(
    config: Config = None,
    wait: Annotated[bool, typer.Option(help="Until it has come to its end; else only ask for it.")] = True,
    as_json: AsJson = False,
) -> None:
    """Ask the running node for a constancy run now; exit 40 when it is an alarm."""
    from npc_rtnode.adapters.phantoms import ConstancyPhantom

    settings = settings_of(config)
    if not settings.qa.enabled:
        raise ConfigFault("qa.enabled is false: this node does not take its own phantom; set it, and start it again")
    with closing(Station(settings)) as station:
        schema.require_head(station.engine)
        asked = constancy(station, ConstancyPhantom(), utc_now).ask(operator())
        done = _ended(ConstancyLedger(station.sessions), asked, settings.qa.patience_s + 60) if wait else asked
    if as_json:
        answer(_document(done))
    else:
        out().print("\n".join([f"run {done.run_id} of {done.day}: {done.state}", *done.reasons]), markup=False)
    if done.state is RunState.ALARM:
        raise typer.Exit(40)


@app.command()
def trend(
    config: Config = None,
    last: Annotated[int, typer.Option(min=1, help="So many runs, the newest.")] = 60,
    as_csv: Annotated[bool, typer.Option("--csv", help="Comma-separated, one run a line.")] = False,
    as_json: AsJson = False,
) -> None:
    """Every measure of the last runs, with the limits that hold now; exit 3 when the newest run is an alarm."""
    settings = settings_of(config)
    with closing(Station(settings)) as station:
        schema.require_head(station.engine)
        runs = ConstancyLedger(station.sessions).runs()
    bands, shown = _bands(runs, settings.qa), runs[-last:]
    if as_json:
        answer({"runs": [_document(one) for one in shown], "limits": bands})
    elif as_csv:
        _write_csv(shown)
    else:
        _print(shown, bands)
    if (ended := [one for one in runs if one.state is not RunState.RUNNING]) and ended[-1].state is RunState.ALARM:
        raise typer.Exit(3)


def newest(pages: ConstancyLedger) -> str:
    """For `status`: when the last run that came to its end was, and what it came to; empty without any."""
    ended = [one for one in pages.runs(last=20) if one.state is not RunState.RUNNING]
    return f"{ended[-1].day} {ended[-1].state}{_because(ended[-1])}" if ended else ""


def _because(one: ConstancyRun) -> str:
    return f": {'; '.join(one.reasons)}" if one.reasons else ""


def _ended(pages: ConstancyLedger, asked: ConstancyRun, patience_s: float) -> ConstancyRun:
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        found = next(one for one in pages.runs() if one.run_id == asked.run_id)
        if found.state is not RunState.RUNNING:
            return found
        time.sleep(POLL_S)
    return asked


def _bands(runs: Sequence[ConstancyRun], qa: QaSettings) -> dict[str, Any]:
    """Of the times, for the make of the newest run that passed; empty before its baseline is full."""
    passed = [one for one in runs if one.state is RunState.PASSED]
    same = [one for one in passed if one.made == passed[-1].made]
    limits = Limits(qa.baseline_runs, qa.sigma, qa.dice_least)
    found = {name: control(name, same, limits) for name in _names(same) if name.startswith(SECONDS)}
    return {name: {"mean": band.mean, "high": band.high} for name, band in found.items() if band}


def _names(runs: Sequence[ConstancyRun]) -> list[str]:
    return list(dict.fromkeys(name for one in runs for name in one.measures))


def _document(one: ConstancyRun) -> dict[str, Any]:
    return {
        "run": one.run_id,
        "day": one.day,
        "state": one.state,
        "asked_by": one.asked_by,
        "started_at": one.started_at.isoformat(),
        "ended_at": one.ended_at.isoformat() if one.ended_at else None,
        "phantom_sha256": one.made.phantom_sha256,
        "bundle_hash": one.made.bundle_hash,
        "settings_hash": one.made.settings_hash,
        "measures": dict(one.measures),
        "reasons": list(one.reasons),
    }


def _write_csv(runs: Sequence[ConstancyRun]) -> None:
    names = _names(runs)
    writer = csv.writer(sys.stdout)
    writer.writerow(["run", "day", "state", "bundle_hash", "settings_hash", *names, "reasons"])
    for one in runs:
        numbers = [one.measures.get(name, "") for name in names]
        writer.writerow(
            [
                one.run_id,
                one.day,
                one.state,
                one.made.bundle_hash,
                one.made.settings_hash,
                *numbers,
                "; ".join(one.reasons),
            ]
        )


def _print(runs: Sequence[ConstancyRun], bands: dict[str, Any]) -> None:
    names = _names(runs)
    rows = [
        (one.run_id, one.day, one.state, *(_number(one.measures.get(name)) for name in names), "; ".join(one.reasons))
        for one in runs
    ]
    limit = ("", "at most", "", *(_number(bands[name]["high"]) if name in bands else "" for name in names), "")
    table("", ("run", "day", "came to", *(name.removeprefix(SECONDS) for name in names), "why"), [*rows, limit])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
