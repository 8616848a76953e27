"""Select: the rules say which series the bundle may see, a separate rule says for whom; every verdict is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from npc_rtnode import log
from npc_rtnode.domain.identifiers import input_digest, work_key
from npc_rtnode.domain.indication import INDICATION_KEYWORDS, judge_indication, texts_of
from npc_rtnode.domain.lifecycle import Event
from npc_rtnode.domain.prediction import BundleStatement
from npc_rtnode.domain.records import (
    Choice,
    OpenSeries,
    SeriesAttributes,
    Truth,
    Verdict,
    WorkIdentity,
    WorkOrder,
)
from npc_rtnode.domain.references import STRUCTURE_SET, judge_references
from npc_rtnode.domain.retry import describe
from npc_rtnode.domain.selection import RuleSet, decide
from npc_rtnode.errors import Unreadable
from npc_rtnode.pipeline.attempt import fault_barrier
from npc_rtnode.ports import Clock, SeriesPages, SeriesReader, Spool

logger = log.get(__name__)
_INDICATION = "INDICATION_UNKNOWN"
_SAID_SO = "released by a person"


@dataclass(frozen=True)
class Policy:
    """What selection is made with: rules, who is meant for NPC, and which bundle and settings a job will use."""

    rules: RuleSet
    npc_called_aes: frozenset[str]
    indication_text: tuple[str, ...]
    bundle: Callable[[], BundleStatement]
    settings_hash: str

    def keywords(self) -> list[str]:
        """Every attribute that a decision looks at."""
        return sorted({*self.rules.keywords(), *INDICATION_KEYWORDS})

    def order(self, series: OpenSeries, indication: str) -> WorkOrder:
        """The job that this series would be, by today's bundle and settings."""
        bundle = self.bundle()
        work = WorkIdentity(series.series_uid, input_digest(series.inputs), bundle.sha256, self.settings_hash)
        return WorkOrder(work, work_key(work), f"{bundle.name} {bundle.version}", indication)

    def choose(self, series: OpenSeries, attributes: SeriesAttributes, known: tuple[Verdict, ...] = ()) -> Choice:
        """Verdicts (those `known` already come first), decision and, where both rules say yes, the order."""
        verdicts = (*known, *self.rules.evaluate(attributes))
        called = series.called_ae in self.npc_called_aes
        said = _SAID_SO if any(reason.startswith(_INDICATION) for reason in series.waived) else None
        indication = judge_indication(called, texts_of(attributes), self.indication_text, said)
        event, reasons = _decide(verdicts, indication, series)
        order = self.order(series, indication.because) if event is Event.SELECTED else None
        return Choice(event, (*verdicts, indication), reasons, self.rules.hash, order)


class Selector:
    """Judges complete series."""

    def __init__(self, pages: SeriesPages, spool: Spool, reader: SeriesReader, policy: Policy, clock: Clock) -> None:
        self._pages = pages
        self._spool = spool
        self._reader = reader
        self._policy = policy
        self._clock = clock

    def run(self) -> int:
        """Judge every complete series; how many were looked at."""
        waiting = self._pages.complete()
        for series in waiting:
            with fault_barrier(partial(self._give_up, series)):
                self._record(series, self._choice(series))
        return len(waiting)

    def _record(self, series: OpenSeries, choice: Choice) -> None:
        self._pages.choose(series, choice, self._clock())
        logger.info("series judged", study=series.study_reference, series=series.series_id, came_to=choice.event)

    def _give_up(self, series: OpenSeries, error: Exception) -> None:
        because = describe(error)
        verdict = Verdict("the series can be judged", Truth.UNKNOWN, because)
        self._record(series, Choice(Event.HELD, (verdict,), (because,), self._policy.rules.hash))

    def _choice(self, series: OpenSeries) -> Choice:
        files = [self._spool.path(sha256) for _, sha256 in series.inputs]
        try:
            attributes = self._reader.attributes(files, self._policy.keywords())
            known = tuple(self._matched(file) for file in files if series.modality == STRUCTURE_SET)
        except Unreadable as error:
            verdict = Verdict("instances can be read", Truth.FALSE, error.detail)
            return Choice(Event.SET_ASIDE, (verdict,), (f"{error.code}: {error.detail}",), self._policy.rules.hash)
        return self._policy.choose(series, attributes, known)

    def _matched(self, structure_set: Path) -> Verdict:
        """Where the images lie that one structure set was drawn on."""
        named = self._reader.references(structure_set)
        return judge_references(named, self._pages.whereabouts(named))


def _decide(verdicts: tuple[Verdict, ...], indication: Verdict, series: OpenSeries) -> tuple[Event, tuple[str, ...]]:
    """FALSE sets aside; what is UNKNOWN holds: a rule, the indication, or which of two candidates is meant.

    A doubt that a person has given their word on, in these very words, holds no more; any other still does.
    """
    decision = decide(verdicts)
    if decision.set_aside:
        return Event.SET_ASIDE, decision.reasons
    doubts = [*decision.reasons]
    if indication.truth is not Truth.TRUE:
        doubts.append(f"{_INDICATION}: {indication.because}")
    if series.rivals:
        names = ", ".join(str(number) for number in series.rivals)
        doubts.append(f"SECOND_CANDIDATE: series {names} of this study is selected already; two would meet at the TPS")
    left = tuple(doubt for doubt in doubts if doubt not in series.waived)
    return (Event.HELD, left) if left else (Event.SELECTED, ())
