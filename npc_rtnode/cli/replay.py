"""`rules replay`: the stage that selects, run over what the ledger has, with pages that remember instead of writing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Annotated, Any

import typer

from npc_rtnode.adapters.database.studies import StudyLedger
from npc_rtnode.app import Station, utc_now
from npc_rtnode.cli.console import AsJson, Config, answer, out, settings_of, table
from npc_rtnode.domain.lifecycle import Event, SeriesState
from npc_rtnode.domain.records import Choice, OpenSeries, OpenStudy
from npc_rtnode.pipeline.select import Policy, Selector

_COMES_TO = {
    Event.SELECTED: SeriesState.SELECTED,
    Event.SET_ASIDE: SeriesState.SET_ASIDE,
    Event.HELD: SeriesState.HELD,
}


@dataclass
class Rehearsal:
    """Fulfils ports.StudyPages for studies that were judged before, and keeps what they would come to now."""

    ledger: StudyLedger
    since: datetime
    found: list[dict[str, Any]] = field(default_factory=list)

    def settled(self, now: datetime) -> list[OpenStudy]:  # noqa: ARG002 - the shape of the port
        """All of them."""
        return self.ledger.judged(self.since)

    def whereabouts(self, sop_uids: Sequence[str]) -> dict[str, int]:
        """As the ledger knows them."""
        return self.ledger.whereabouts(sop_uids)

    def choose(self, judged: Sequence[tuple[OpenSeries, Choice]], now: datetime) -> bool:  # noqa: ARG002 - as above
        """Remember; nothing is recorded."""
        self.found += [_found(series, choice) for series, choice in judged]
        return True


def _found(series: OpenSeries, choice: Choice) -> dict[str, Any]:
    return {
        "study": series.study_reference,
        "series": series.series_id,
        "was": series.state,
        "would_be": _COMES_TO[choice.event],
        "reasons": list(choice.reasons),
    }


def replay(
    rules: Annotated[
        str | None, typer.Option(help="A shipped rule set or a file; else the one in the settings.")
    ] = None,
    days: Annotated[int, typer.Option(min=1, help="Studies first received in this many days.")] = 30,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Judge the ledger's studies by a rule set and tell what would change. Nothing is changed."""
    found = _rehearse(Station(settings_of(config)), rules, days)
    changed = [one for one in found if one["was"] != one["would_be"]]
    if as_json:
        answer({"series": len(found), "changed": changed})
        return
    rows = ((c["study"], c["series"], c["was"], c["would_be"], "; ".join(c["reasons"])) for c in changed)
    if changed:
        table("what would change", ("study", "series", "was", "would be", "why"), rows)
    out().print(f"{len(changed)} of {len(found)} series of the last {days} days would come to something else")


def _rehearse(station: Station, rules: str | None, days: int) -> list[dict[str, Any]]:
    from npc_rtnode.adapters.dicom.series import DicomSeriesReader

    now = utc_now()
    pages = Rehearsal(station.studies, now - timedelta(days=days))
    Selector(pages, station.spool, DicomSeriesReader(), _policy(station, rules), lambda: now).run()
    return pages.found


def _policy(station: Station, rules: str | None) -> Policy:
    from npc_rtnode.adapters.predictor import BundlePredictor
    from npc_rtnode.adapters.rules import load_rule_file

    policy = station.policy(BundlePredictor(station.settings.infer))
    return replace(policy, rules=load_rule_file(rules)) if rules else policy
