"""Select: the rules say which series the bundle may see, a separate rule says for whom; every verdict is kept.

A study is judged when it has settled. Each of its series is judged for itself; those that pass are ranked, since two
would give two structure sets of one tumour; what came of all of them is recorded in one transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from npc_rtnode import log
from npc_rtnode.domain.identifiers import input_digest, work_key
from npc_rtnode.domain.indication import INDICATION_KEYWORDS, judge_indication, texts_of
from npc_rtnode.domain.lifecycle import Event
from npc_rtnode.domain.prediction import BundleStatement
from npc_rtnode.domain.priority import CLINICAL
from npc_rtnode.domain.records import (
    Choice,
    OpenSeries,
    OpenStudy,
    SeriesAttributes,
    Truth,
    Verdict,
    WorkIdentity,
    WorkOrder,
)
from npc_rtnode.domain.references import STRUCTURE_SET, judge_references
from npc_rtnode.domain.retry import describe, passes
from npc_rtnode.domain.rules import RuleSet
from npc_rtnode.domain.selection import INDICATION_UNKNOWN, Candidate, Outcome, Standing, decide, stand
from npc_rtnode.errors import Unreadable
from npc_rtnode.pipeline.attempt import contained, fault_barrier
from npc_rtnode.ports import Clock, SeriesReader, Spool, StudyPages

logger = log.get(__name__)
_SAID_SO = "released by a person"
_NOTHING_KNOWN = SeriesAttributes(0, {})


@dataclass(frozen=True)
class Judged:
    """One series judged for itself: what its own verdicts came to, and what they leave open."""

    series: OpenSeries
    attributes: SeriesAttributes
    verdicts: tuple[Verdict, ...]
    outcome: Outcome
    reasons: tuple[str, ...] = ()
    indication: Verdict | None = None  # None where the series could not be judged at all: no word lifts that

    @property
    def candidate(self) -> bool:
        """Whether the rules let it pass, or a person lifted every doubt that they had."""
        if self.indication is None:
            return False
        return self.outcome is Outcome.ELIGIBLE or (self.outcome is Outcome.HELD and not self.left(self.reasons))

    def left(self, doubts: Iterable[str]) -> tuple[str, ...]:
        """A doubt that a person has given their word on, in these very words, holds no more; any other still does."""
        return tuple(doubt for doubt in doubts if doubt not in self.series.waived)


@dataclass(frozen=True)
class Policy:
    """What selection is made with: rules, who is meant for NPC, and which bundle and settings a job will use."""

    rules: RuleSet
    npc_called_aes: frozenset[str]
    indication_text: tuple[str, ...]
    bundle: Callable[[], BundleStatement]
    settings_hash: str
    priorities: Mapping[str, int] = field(default_factory=dict)  # by called AE title; others are clinical

    def keywords(self) -> list[str]:
        """Every attribute that a decision looks at."""
        return sorted({*self.rules.keywords(), *INDICATION_KEYWORDS})

    def order(self, series: OpenSeries, indication: str, priority: int | None = None) -> WorkOrder:
        """The job that this series would be, by today's bundle and settings; as urgent as what its AE title takes."""
        bundle = self.bundle()
        work = WorkIdentity(series.series_uid, input_digest(series.inputs), bundle.sha256, self.settings_hash)
        urgent = self.priorities.get(series.called_ae, CLINICAL) if priority is None else priority
        return WorkOrder(work, work_key(work), f"{bundle.name} {bundle.version}", indication, urgent)

    def judge(self, series: OpenSeries, attributes: SeriesAttributes, known: Sequence[Verdict] = ()) -> Judged:
        """The series for itself: the verdicts `known` already, the rules', and for whom it is."""
        verdicts = (*known, *self.rules.evaluate(attributes))
        called = series.called_ae in self.npc_called_aes
        said = _SAID_SO if any(reason.startswith(INDICATION_UNKNOWN) for reason in series.waived) else None
        indication = judge_indication(called, texts_of(attributes), self.indication_text, said)
        decision = decide(verdicts)
        return Judged(series, attributes, verdicts, decision.outcome, decision.reasons, indication)

    def choose(self, judged: Sequence[Judged], selected: Sequence[Candidate]) -> list[tuple[OpenSeries, Choice]]:
        """What becomes of each series of a study, beside the others and beside those that have a job already."""
        candidates = [Candidate(j.series.series_id, j.attributes, j.series.waived) for j in judged if j.candidate]
        standings = stand([*candidates, *selected], self.rules.preferences)
        crowd = len(candidates) + len(selected) > 1
        return [(one.series, self._choice(one, standings, crowd)) for one in judged]

    def _choice(self, judged: Judged, standings: Mapping[int, Standing], crowd: bool) -> Choice:
        standing = standings.get(judged.series.series_id)
        event, reasons = _decided(judged, standing)
        because = judged.indication.because if judged.indication else ""
        order = self.order(judged.series, because) if event is Event.SELECTED else None
        verdicts = (
            *judged.verdicts,
            *_told(judged.indication),
            *_told(standing.verdict if standing and crowd else None),
        )
        return Choice(event, verdicts, reasons, self.rules.hash, order)


class Selector:
    """Judges the complete series of studies that have settled."""

    def __init__(self, pages: StudyPages, spool: Spool, reader: SeriesReader, policy: Policy, clock: Clock) -> None:
        self._pages = pages
        self._spool = spool
        self._reader = reader
        self._policy = policy
        self._clock = clock

    def run(self) -> int:
        """Judge every study that has settled; how many were looked at."""
        waiting = self._pages.settled(self._clock())
        for study in waiting:
            with fault_barrier(partial(self._give_up, study)):
                self._choose(study)
        return len(waiting)

    def _choose(self, study: OpenStudy) -> None:
        judged = [self._judge(series) for series in (*study.complete, *study.again)]
        selected = [
            Candidate(series.series_id, self._compared(series), series.waived, selected=True)
            for series in study.selected
        ]
        self._record(study, self._policy.choose(judged, selected))

    def _record(self, study: OpenStudy, choices: Sequence[tuple[OpenSeries, Choice]]) -> None:
        if self._pages.choose(choices, self._clock()):
            for series, choice in choices:
                logger.info("series judged", study=study.reference, series=series.series_id, came_to=choice.event)

    def _give_up(self, study: OpenStudy, error: Exception) -> None:
        """What passes by itself, a bundle that is away, decides nothing: the study is looked at again."""
        if passes(error):
            return
        judged = [self._unjudged(series, error) for series in study.complete]
        self._record(study, self._policy.choose(judged, ()))

    def _judge(self, series: OpenSeries) -> Judged:
        """One series for itself; whatever goes wrong with it holds it, and no other series of the study."""
        came_to: list[Judged] = []
        with contained(lambda error: came_to.append(self._unjudged(series, error))):
            came_to.append(self._read(series))
        return came_to[0]

    def _read(self, series: OpenSeries) -> Judged:
        try:
            return self._policy.judge(series, self._attributes(series), self._references(series))
        except Unreadable as error:
            verdict = Verdict("instances can be read", Truth.FALSE, error.detail)
            reasons = (f"{error.code}: {error.detail}",)
            return Judged(series, _NOTHING_KNOWN, (verdict,), Outcome.SET_ASIDE, reasons)

    def _unjudged(self, series: OpenSeries, error: Exception) -> Judged:
        verdict = Verdict("the series can be judged", Truth.UNKNOWN, describe(error))
        return Judged(series, _NOTHING_KNOWN, (verdict,), Outcome.HELD, (verdict.because,))

    def _compared(self, series: OpenSeries) -> SeriesAttributes:
        """What a series that has a job already is compared by; nothing, and so last, where it cannot be read now."""
        found = [_NOTHING_KNOWN]
        with contained(lambda _: None):
            found.append(self._attributes(series))
        return found[-1]

    def _attributes(self, series: OpenSeries) -> SeriesAttributes:
        files = [self._spool.path(sha256) for _, sha256 in series.inputs]
        return self._reader.attributes(files, self._policy.keywords())

    def _references(self, series: OpenSeries) -> list[Verdict]:
        """Where the images lie that a structure set was drawn on; other series reference nothing that is asked for."""
        if series.modality != STRUCTURE_SET:
            return []
        return [self._matched(self._spool.path(sha256)) for _, sha256 in series.inputs]

    def _matched(self, structure_set: Path) -> Verdict:
        named = self._reader.references(structure_set)
        return judge_references(named, self._pages.whereabouts(named))


def _decided(judged: Judged, standing: Standing | None) -> tuple[Event, tuple[str, ...]]:
    """FALSE sets aside, and so does a better series; UNKNOWN holds: a rule, the indication, which one is meant."""
    if judged.outcome is Outcome.SET_ASIDE:
        return Event.SET_ASIDE, judged.reasons
    if judged.indication is None:
        return Event.HELD, judged.reasons
    if standing is not None and standing.outcome is Outcome.SET_ASIDE:
        return Event.SET_ASIDE, standing.reasons
    unindicated = (
        () if judged.indication.truth is Truth.TRUE else (f"{INDICATION_UNKNOWN}: {judged.indication.because}",)
    )
    doubts = [*judged.reasons, *unindicated, *(standing.reasons if standing else ())]
    left = judged.left(doubts)
    return (Event.HELD, left) if left else (Event.SELECTED, ())


def _told(verdict: Verdict | None) -> tuple[Verdict, ...]:
    return (verdict,) if verdict else ()
