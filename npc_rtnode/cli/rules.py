"""`rules`: what a rule set makes of a folder of studies, without touching the ledger or the network."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from npc_rtnode.cli.console import AsJson, Config, answer, out, settings_of, table
from npc_rtnode.cli.replay import replay
from npc_rtnode.domain.evaluation import shown
from npc_rtnode.domain.indication import INDICATION_KEYWORDS, judge_indication, texts_of
from npc_rtnode.domain.records import SeriesAttributes, Truth, Verdict
from npc_rtnode.domain.rules import RuleSet
from npc_rtnode.domain.selection import Candidate, Decision, Outcome, Standing, decide, stand
from npc_rtnode.errors import NothingEligible, Unreadable

app = typer.Typer(help="Selection rules.", no_args_is_help=True)
app.command()(replay)

_TOLD = ("SeriesDescription", "SeriesNumber", "StudyInstanceUID")
_WARNING = 3
View = dict[str, Any]


@dataclass(frozen=True)
class JudgedSeries:
    """One series of the folder: what its own verdicts came to, and where it stands in its study."""

    number: int  # in the order in which the folder's series are told, from 1
    uid: str
    files: tuple[Path, ...]
    attributes: SeriesAttributes
    verdicts: tuple[Verdict, ...]
    decision: Decision
    standing: Standing | None = None

    @property
    def choice(self) -> str:
        """chosen, outranked or tied among those that the rules let pass; else set_aside or held."""
        if self.standing is None:
            return self.decision.outcome
        words = {Outcome.ELIGIBLE: "chosen", Outcome.SET_ASIDE: "outranked", Outcome.HELD: "tied"}
        return words[self.standing.outcome]

    @property
    def reasons(self) -> tuple[str, ...]:
        """What stands in its way, or why it is the one."""
        return self.decision.reasons or ((self.standing.because,) if self.standing else ())

    def stated(self, keyword: str) -> str:
        """An attribute's value on the first slice."""
        entry = self.attributes.values.get(keyword, (None,))[0]
        return str(entry[0]) if entry else ""


@app.command()
def test(
    folder: Annotated[Path, typer.Argument(exists=True, help="A folder of DICOM files, or one file.")],
    rules: Annotated[
        str | None, typer.Option(help="A shipped rule set or a file; else the one in the settings.")
    ] = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Judge the series of every study below a folder: which is chosen, and why not the others."""
    from npc_rtnode.adapters.rules import load_rule_file

    settings = settings_of(config)
    rule_set = load_rule_file(rules or settings.select.rules)
    judged = judge_folder(folder, rule_set)
    views = [_view(one, settings.select.indication_text) for one in judged]
    if as_json:
        answer({"rules": rule_set.name, "rules_hash": rule_set.hash, "series": views})
    else:
        _tell(rule_set, views)
    _end(folder, rule_set, judged)


def _end(folder: Path, rule_set: RuleSet, judged: Sequence[JudgedSeries]) -> None:
    choices = {one.choice for one in judged}
    if not choices & {"chosen", "tied"}:
        raise NothingEligible(f"{len(judged)} series below {folder}, none eligible by {rule_set.name}")
    if "tied" in choices:
        raise typer.Exit(_WARNING)


# --- judging ----------------------------------------------------------------------------------------------------------


def judge_folder(folder: Path, rule_set: RuleSet) -> list[JudgedSeries]:
    """Every series below a folder, judged for itself and beside the others of its study."""
    found = enumerate(series_below(folder).items(), 1)
    judged = [_judge(number, uid, files, rule_set) for number, (uid, files) in found]
    studies: dict[str, list[JudgedSeries]] = defaultdict(list)
    for one in judged:
        studies[one.stated("StudyInstanceUID")].append(one)
    return [one for study in studies.values() for one in _ranked(study, rule_set)]


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


def _judge(number: int, uid: str, files: list[Path], rule_set: RuleSet) -> JudgedSeries:
    from npc_rtnode.adapters.dicom.series import DicomSeriesReader

    wanted = sorted({*rule_set.keywords(), *INDICATION_KEYWORDS, *_TOLD})
    try:
        attributes = DicomSeriesReader().attributes(files, wanted)
    except Unreadable as error:
        verdict = Verdict("instances can be read", Truth.FALSE, f"{error.code}: {error.detail}")
        return JudgedSeries(number, uid, tuple(files), SeriesAttributes(0, {}), (verdict,), decide([verdict]))
    verdicts = rule_set.evaluate(attributes)
    return JudgedSeries(number, uid, tuple(files), attributes, verdicts, decide(verdicts))


def _ranked(study: Sequence[JudgedSeries], rule_set: RuleSet) -> Iterator[JudgedSeries]:
    candidates = [Candidate(one.number, one.attributes) for one in study if one.decision.eligible]
    standings = stand(candidates, rule_set.preferences)
    return (replace(one, standing=standings.get(one.number)) for one in study)


# --- telling ----------------------------------------------------------------------------------------------------------


def _view(one: JudgedSeries, patterns: tuple[str, ...]) -> View:
    indication = judge_indication(False, texts_of(one.attributes), patterns, None)
    ranked = [one.standing.verdict] if one.standing else []
    return {
        "series": one.number,
        "series_uid": one.uid,
        "study_uid": one.stated("StudyInstanceUID"),
        "series_number": one.stated("SeriesNumber"),
        "description": one.stated("SeriesDescription"),
        "files": len(one.files),
        "came_to": one.decision.outcome,
        "choice": one.choice,
        "rank": one.standing.place if one.standing else None,
        "reasons": list(one.reasons),
        "verdicts": [
            {"rule": v.rule, "truth": v.truth, "because": v.because} for v in (*one.verdicts, indication, *ranked)
        ],
    }


def _tell(rule_set: RuleSet, views: Sequence[View]) -> None:
    for number, study_uid in enumerate(dict.fromkeys(view["study_uid"] for view in views), 1):
        rows = (_row(view) for view in views if view["study_uid"] == study_uid)
        table(f"study {number} by {rule_set.name}", ("series", "no.", "description", "files", "choice", "why"), rows)
    for view in views:
        out().print("\n".join(_told(view)), markup=False)


def _row(view: View) -> tuple[object, ...]:
    choice = view["choice"].replace("_", " ") + (f" ({view['rank']})" if view["rank"] else "")
    said = (view["series"], view["series_number"], shown(view["description"])[1:-1], view["files"], choice)
    return (*said, "; ".join(view["reasons"] if view["rank"] else (text.split(":")[0] for text in view["reasons"])))


def _told(view: View) -> list[str]:
    described = shown(view["description"]) if view["description"] else "(no description)"
    head = f"series {view['series']}: {view['choice'].upper()}  {described}  {view['files']} files"
    return [head, *(f"  {v['truth']:<8}{v['rule']}: {v['because']}" for v in view["verdicts"]), ""]
