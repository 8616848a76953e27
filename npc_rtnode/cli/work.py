"""Verbs that change what happens to a study: each wants a reason, can rehearse, and is kept in the ledger."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from npc_rtnode.adapters.database import schema
from npc_rtnode.adapters.database.conflicts import Keep
from npc_rtnode.adapters.database.desk import Only, Resending, Word
from npc_rtnode.app import Station, utc_now
from npc_rtnode.cli.console import AsJson, Config, DryRun, Reason, Study, lines, operator, settings_of
from npc_rtnode.domain.gates import may_send, may_show
from npc_rtnode.domain.priority import LEAST, MOST, REPROCESS
from npc_rtnode.domain.profiles import orders_of
from npc_rtnode.domain.retention import PurgeOrder, told
from npc_rtnode.settings import Settings


class From(StrEnum):
    """Where a reprocess starts."""

    SELECT = "select"
    INFER = "infer"


def _station(config: Path | None) -> Station:
    station = Station(settings_of(config))
    schema.require_head(station.engine)
    return station


def _word(reason: str, dry_run: bool) -> Word:
    return Word(operator(), reason, utc_now(), dry_run)


def release(
    study: Study,
    reason: Reason,
    series: Annotated[int | None, typer.Option(help="One series, by its number in `studies show`.")] = None,
    job: Annotated[int | None, typer.Option(help="One job, by its number in `studies show`.")] = None,
    keep: Annotated[
        Keep | None,
        typer.Option(help="For conflicting contents of a series: which of them counts; the others stay kept."),
    ] = None,
    config: Config = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Let go one thing that is held. For a held series it is your word on the doubts told, and on no others."""
    desk, word, only = _station(config).desk, _word(reason, dry_run), Only(series, job)
    done = desk.settle(study, keep, word, only) if keep else desk.release(study, word, only)
    lines(done, dry_run, as_json)


def hold(study: Study, reason: Reason, config: Config = None, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Keep a study back: nothing more of it is begun or sent until it is released."""
    lines(_station(config).desk.hold(study, _word(reason, dry_run)), dry_run, as_json)


def retry(
    study: Study, reason: Reason, config: Config = None, dry_run: DryRun = False, as_json: AsJson = False
) -> None:
    """Try failed work again: deliveries that failed, or the job from its beginning if there is nothing to deliver."""
    lines(_station(config).desk.retry(study, _word(reason, dry_run)), dry_run, as_json)


def resend(
    study: Study,
    reason: Reason,
    to: Annotated[list[str] | None, typer.Option("--to", help="Destination by name; all of them without it.")] = None,
    config: Config = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Send the stored objects again: the same bytes under the same UIDs."""
    station = _station(config)
    lines(station.desk.resend(study, _word(reason, dry_run), _resending(station.settings, to or [])), dry_run, as_json)


def reprocess(
    study: Study,
    reason: Reason,
    start: Annotated[
        From, typer.Option("--from", help="select: judge the series anew; infer: by today's bundle and settings.")
    ],
    priority: Annotated[
        int, typer.Option(min=LEAST, max=MOST, help="With --from infer: how urgent it is, 0 to 100.")
    ] = REPROCESS,
    config: Config = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Do a study again. A new result revision comes only if something that shapes its objects has changed."""
    station, word = _station(config), _word(reason, dry_run)
    if start is From.SELECT:
        lines(station.desk.reconsider(study, word), dry_run, as_json)
        return
    lines(_order_again(station, study, word, priority), dry_run, as_json)


def abandon(
    study: Study, reason: Reason, config: Config = None, dry_run: DryRun = False, as_json: AsJson = False
) -> None:
    """End what of a study is held, failed or quarantined, where nobody will release or retry it."""
    lines(_station(config).desk.abandon(study, _word(reason, dry_run)), dry_run, as_json)


def cancel(
    study: Study, reason: Reason, config: Config = None, dry_run: DryRun = False, as_json: AsJson = False
) -> None:
    """Call off what of a study is still to be done or sent; a prediction under way is ended within a beat."""
    lines(_station(config).desk.cancel(study, _word(reason, dry_run)), dry_run, as_json)


def purge(
    reason: Reason,
    study: Annotated[
        str | None, typer.Option(help="All bytes of one study, however young; else what the settings let go now.")
    ] = None,
    config: Config = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Remove bytes that nobody needs any more; the ledger keeps what was removed, when, by whom and why."""
    retention, order = _station(config).retention(), PurgeOrder(operator(), reason, utc_now(), dry_run)
    removed = [(study, retention.named(study, order))] if study else retention.due(order)
    done = [line for name, parcels in removed for line in told(name, parcels)]
    lines(done if done or as_json else ["nothing has been kept long enough that may go"], dry_run, as_json)


def _order_again(station: Station, study: str, word: Word, priority: int) -> list[str]:
    from npc_rtnode.adapters.predictor import BundlePredictor

    policy = station.policy(BundlePredictor(station.settings.infer))
    done = []
    for series in station.desk.selected(study):
        indication = station.queries.indication(series.series_id)
        done.append(station.desk.order(series.series_id, policy.order(series, indication, priority), word))
    return done or [f"no series of study {study} is selected: see --from select"]


def _resending(settings: Settings, names: list[str]) -> Resending:
    wanted = [settings.destination(name) for name in names] if names else list(settings.destinations)

    def forbidden(results: dict[str, Any], name: str) -> str:
        destination = settings.destination(name)
        if not may_send(bool(results["synthetic"]), bool(results["phantom"]), destination.test):
            return "synthetic weights, and no phantom, no test system"
        if not may_show(bool(results.get("enhanced_mr", False)), destination.enhanced_mr):
            return "the series is Enhanced MR, which its enhanced_mr does not declare (others: --to NAME)"
        return ""

    return Resending(tuple((d.name, orders_of(d, settings.content.roi_name)) for d in wanted), forbidden)
