"""`rules`: what a rule set makes of a folder of series, without touching the ledger."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import typer

from npc_rtnode.cli.console import AsJson, Config, answer, out, settings_of
from npc_rtnode.domain.indication import INDICATION_KEYWORDS, judge_indication, texts_of
from npc_rtnode.domain.selection import RuleSet, decide, shown
from npc_rtnode.errors import NothingEligible, Unreadable

app = typer.Typer(help="Selection rules.", no_args_is_help=True)


@app.command()
def test(
    folder: Annotated[Path, typer.Argument(exists=True, help="A folder of DICOM files, or one file.")],
    rules: Annotated[
        str | None, typer.Option(help="A shipped rule set or a file; else the one in the settings.")
    ] = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Judge every series below a folder and explain each verdict; exit 21 when none is eligible."""
    from npc_rtnode.adapters.rules import load_rule_file

    settings = settings_of(config)
    rule_set = load_rule_file(rules or settings.select.rules)
    judged = [
        _judge(uid, files, rule_set, settings.select.indication_text) for uid, files in series_below(folder).items()
    ]
    if as_json:
        answer({"rules": rule_set.name, "rules_hash": rule_set.hash, "series": judged})
    else:
        for verdict in judged:
            out().print("\n".join(_told(verdict)), markup=False)
    if not any(series["came_to"] == "eligible" for series in judged):
        raise NothingEligible(f"{len(judged)} series below {folder}, none eligible by {rule_set.name}")


def series_below(folder: Path) -> dict[str, list[Path]]:
    """The DICOM files below a folder by SeriesInstanceUID; files that are no DICOM are passed over."""
    from npc_rtnode.adapters.dicom.series import series_uid_of

    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(p for p in ([folder] if folder.is_file() else folder.rglob("*")) if p.is_file()):
        try:
            found[series_uid_of(path)].append(path)
        except Unreadable:
            continue
    return found


def _judge(uid: str, files: list[Path], rule_set: RuleSet, patterns: tuple[str, ...]) -> dict[str, Any]:
    from npc_rtnode.adapters.dicom.series import DicomSeriesReader

    attributes = DicomSeriesReader().attributes(
        files, sorted({*rule_set.keywords(), *INDICATION_KEYWORDS, "SeriesDescription"})
    )
    verdicts = list(rule_set.evaluate(attributes))
    decision = decide(verdicts)
    indication = judge_indication(False, texts_of(attributes), patterns, None)
    descriptions = attributes.values.get("SeriesDescription", (None,))[0]
    return {
        "series_uid": uid,
        "files": len(files),
        "description": str(descriptions[0]) if descriptions else "",
        "came_to": decision.outcome,
        "reasons": list(decision.reasons),
        "verdicts": [{"rule": v.rule, "truth": v.truth, "because": v.because} for v in [*verdicts, indication]],
    }


def _told(series: dict[str, Any]) -> list[str]:
    described = shown(series["description"]) if series["description"] else "(no description)"
    head = f"{series['came_to'].upper()}  {described}  {series['files']} files"
    return [head, *(f"  {v['truth']:<8}{v['rule']}: {v['because']}" for v in series["verdicts"]), ""]
