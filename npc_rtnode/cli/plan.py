"""`plan`: what a site's own counts come to on one node, and what saturates first (docs/planning.md)."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from npc_rtnode.cli.console import AsJson, answer, table
from npc_rtnode.domain.planning import Forecast, Outage, Site, flaws, rows, simulate
from npc_rtnode.errors import ConfigFault

SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
COLUMNS = (
    "hospitals",
    "GPUs",
    "jobs/day",
    "p50/p95 s",
    "GPU wait p95 s",
    "ingest/GPU/CPU/push load %",
    "queue peak",
    "GB/day",
    "first",
)


def plan(
    site: Annotated[
        Path | None, typer.Option("--site", exists=True, dir_okay=False, help="The site's counts, a TOML file.")
    ] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="One count as NAME=VALUE, over the file; may be repeated.")
    ] = None,
    sizes: Annotated[bool, typer.Option("--sizes", help="The same site at 1 to 128 hospitals.")] = False,
    as_json: AsJson = False,
) -> None:
    """Simulate the node at a site; without a file the example of docs/planning.md. Nothing is read but the file."""
    counts = site_of(_read(site) | _changes(change or ()))
    found = list(rows(counts, SIZES)) if sizes else [(counts, simulate(counts))]
    if as_json:
        answer(
            [{"site": asdict(one), "forecast": asdict(forecast), "first": forecast.first} for one, forecast in found]
        )
        return
    table("", COLUMNS, (cells(one, forecast) for one, forecast in found))
    drains = [hours for _, forecast in found for hours in forecast.drain_h]
    for outage, hours in zip(counts.outages, drains, strict=False):
        typer.echo(f"after {outage.hours:g} h without {outage.what}: nobody waits any more {hours:.1f} h later")


def cells(site: Site, forecast: Forecast) -> tuple[str, ...]:
    """One line of the table."""
    loads = "/".join(f"{forecast.load[name] * 100:.0f}" for name in ("ingest", "gpu", "cpu", "push"))
    return (
        str(site.hospitals),
        str(site.gpus),
        f"{forecast.jobs / site.days:.0f}",
        f"{forecast.turnaround_p50_s:.0f}/{forecast.turnaround_p95_s:.0f}",
        f"{forecast.gpu_wait_p95_s:.0f}",
        loads,
        str(forecast.queue_peak),
        f"{forecast.gb_per_day:.0f}",
        forecast.first,
    )


def site_of(counts: Mapping[str, Any]) -> Site:
    """The counts as a site; ConfigFault lists every mistake."""
    known = {one.name for one in fields(Site)}
    wrong = [f"{name}: no such count; there are {', '.join(sorted(known))}" for name in counts if name not in known]
    if wrong:
        raise ConfigFault("\n".join(wrong))
    try:
        made = _typed(counts)
        mistakes = flaws(made)
    except (TypeError, ValueError) as error:
        raise ConfigFault(f"a count is no number: {error}") from None
    if mistakes:
        raise ConfigFault("\n".join(mistakes))
    return made


def _typed(counts: Mapping[str, Any]) -> Site:
    plain, example = dict(counts), Site()
    outages = tuple(Outage(**one) for one in plain.pop("outages", ()))
    hours = tuple(map(float, plain.pop("hour_weights", example.hour_weights)))
    arrivals = tuple(map(float, plain.pop("arrivals_s", ())))
    numbers = {name: type(getattr(example, name))(value) for name, value in plain.items()}
    return replace(example, outages=outages, hour_weights=hours, arrivals_s=arrivals, **numbers)


def _read(path: Path | None) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8")) if path else {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigFault(f"{path}: {error}") from None


def _changes(changes: Iterable[str]) -> dict[str, Any]:
    """Each as one line of TOML."""
    found: dict[str, Any] = {}
    for words in changes:
        try:
            found |= tomllib.loads(words)
        except tomllib.TOMLDecodeError:
            raise ConfigFault(f"--set {words}: write NAME=VALUE, e.g. --set gpus=2") from None
    return found
