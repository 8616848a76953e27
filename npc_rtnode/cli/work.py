"""Verbs that change what happens to a study: each wants a reason, can rehearse, and is kept in the ledger."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from npc_rtnode.adapters.database import schema
from npc_rtnode.adapters.database.desk import Resending, Word
from npc_rtnode.app import Station, utc_now
from npc_rtnode.cli.console import Config, DryRun, Reason, Study, lines, operator, settings_of
from npc_rtnode.domain.gates import may_send
from npc_rtnode.domain.indication import judge_indication
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


def release(study: Study, reason: Reason, config: Config = None, dry_run: DryRun = False) -> None:
    """Let go what is held. For a held series this is your word that the study is indicated for NPC."""
    lines(_station(config).desk.release(study, _word(reason, dry_run)), dry_run)


def hold(study: Study, reason: Reason, config: Config = None, dry_run: DryRun = False) -> None:
    """Keep back whatever has not been sent."""
    lines(_station(config).desk.hold(study, _word(reason, dry_run)), dry_run)


def retry(study: Study, reason: Reason, config: Config = None, dry_run: DryRun = False) -> None:
    """Try failed work again."""
    lines(_station(config).desk.retry(study, _word(reason, dry_run)), dry_run)


def resend(
    study: Study,
    reason: Reason,
    to: Annotated[list[str] | None, typer.Option("--to", help="Destination by name; all of them without it.")] = None,
    config: Config = None,
    dry_run: DryRun = False,
) -> None:
    """Send the stored objects again: the same bytes under the same UIDs."""
    station = _station(config)
    lines(station.desk.resend(study, _word(reason, dry_run), _resending(station.settings, to or [])), dry_run)


def reprocess(
    study: Study,
    reason: Reason,
    start: Annotated[
        From, typer.Option("--from", help="select: judge the series anew; infer: by today's bundle and settings.")
    ],
    config: Config = None,
    dry_run: DryRun = False,
) -> None:
    """Do a study again. A new result revision comes only if something that shapes its objects has changed."""
    station, word = _station(config), _word(reason, dry_run)
    if start is From.SELECT:
        lines(station.desk.reconsider(study, word), dry_run)
        return
    lines(_order_again(station, study, word), dry_run)


def _order_again(station: Station, study: str, word: Word) -> list[str]:
    from npc_rtnode.adapters.predictor import BundlePredictor

    policy = station.policy(BundlePredictor(station.settings.infer))
    done = []
    for series in station.desk.selected(study):
        called = series.called_ae in policy.npc_called_aes
        said = judge_indication(called, {}, policy.indication_text, f"{word.actor}: {word.reason}")
        done.append(station.desk.order(series.series_id, policy.order(series, said.because), word))
    return done or [f"no series of study {study} is selected: see --from select"]


def _resending(settings: Settings, names: list[str]) -> Resending:
    wanted = [settings.destination(name) for name in names] if names else list(settings.destinations)

    def allowed(results: dict[str, Any], name: str) -> bool:
        return may_send(bool(results["synthetic"]), bool(results["phantom"]), settings.destination(name).test)

    return Resending(tuple((d.name, d.objects) for d in wanted), allowed)
