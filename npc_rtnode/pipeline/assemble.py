"""Assemble: close a series when its source, its sender or time says so; partial is named as such and never inferred."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from npc_rtnode import log
from npc_rtnode.domain.closing import BY_QUIET, Ask, Close, Look, Patience, Wait, next_step, stated_count
from npc_rtnode.domain.completeness import REMOVED_CODES, Completeness, Kind, doubted, judge
from npc_rtnode.domain.lifecycle import Event
from npc_rtnode.domain.records import Asked, Closing, Finding, OpenSeries, SliceHeader
from npc_rtnode.domain.retry import describe
from npc_rtnode.errors import NodeError
from npc_rtnode.pipeline.attempt import fault_barrier
from npc_rtnode.ports import Clock, SeriesPages, SeriesReader, Sources, Spool

logger = log.get(__name__)

_EVENTS = {
    Kind.WHOLE: Event.CLOSED_WHOLE,
    Kind.NOT_A_STACK: Event.CLOSED_WHOLE,
    Kind.PARTIAL: Event.CLOSED_PARTIAL,
    Kind.UNUSABLE: Event.QUARANTINED,
}


class Assembler:
    """Looks at series that are due, and closes those that are over."""

    def __init__(
        self,
        pages: SeriesPages,
        spool: Spool,
        reader: SeriesReader,
        clock: Clock,
        patience: Patience = BY_QUIET,
        sources: Sources | None = None,
    ) -> None:
        """`sources` are the systems that can be asked how many instances a series has."""
        self._pages = pages
        self._spool = spool
        self._reader = reader
        self._clock = clock
        self._patience = patience
        self._sources = sources

    def run(self) -> int:
        """Look at every series that is due; how many."""
        waiting = self._pages.quiet(self._clock())
        for series in waiting:
            with fault_barrier(partial(self._give_up, series)):
                self._look(series)
        return len(waiting)

    def _look(self, series: OpenSeries) -> None:
        """One step; after an answer of the source one more."""
        headers = self._headers(series)
        step = self._step(series, headers)
        if isinstance(step, Ask):
            series = self._ask(series, headers[0].study_uid)
            step = self._step(series, headers)
        if isinstance(step, Close):
            self._close(series, step)
        elif isinstance(step, Wait):
            self._pages.wait(series, step.until)

    def _headers(self, series: OpenSeries) -> Sequence[SliceHeader]:
        return (
            () if _removed(series) else self._reader.headers([self._spool.path(sha256) for _, sha256 in series.inputs])
        )

    def _step(self, series: OpenSeries, headers: Sequence[SliceHeader]) -> Close | Ask | Wait:
        judged = _judged(series, headers)
        source = self._sources is not None and series.modality == "MR" and self._sources.answers_for(series.calling_ae)
        return next_step(Look(series, judged, stated_count(headers), source, self._patience, self._clock()))

    def _ask(self, series: OpenSeries, study_uid: str) -> OpenSeries:
        """The series with one answer more, which is in the ledger."""
        answer = self._answer(series, study_uid)
        self._pages.asked(series, answer)
        return series.with_answer(answer)

    def _answer(self, series: OpenSeries, study_uid: str) -> Asked:
        if self._sources is None:
            return Asked(self._clock(), "nobody", None, "no source is configured")
        name = self._sources.name(series.calling_ae)
        try:
            count = self._sources.count(series.calling_ae, study_uid, series.series_uid)
        except NodeError as error:
            return Asked(self._clock(), name, None, error.code)
        return Asked(self._clock(), name, count, "" if count is not None else "it does not say")

    def _close(self, series: OpenSeries, step: Close) -> None:
        reasons = tuple(str(finding) for finding in step.completeness.findings)
        closing = Closing(_EVENTS[step.completeness.kind], step.because, reasons)
        if self._pages.close(series, closing, self._clock()):
            logger.info("series closed", study=series.study_reference, series=series.series_id, because=closing.because)

    def _give_up(self, series: OpenSeries, error: Exception) -> None:
        self._pages.trouble(series, describe(error), self._clock())


def _judged(series: OpenSeries, headers: Sequence[SliceHeader]) -> Completeness:
    if removed := _removed(series):  # there is nothing to be read: partial, until the sender sends all of it again
        return Completeness(Kind.PARTIAL, removed)
    return doubted(judge(headers, image_series=series.modality == "MR"), series.doubts)


def _removed(series: OpenSeries) -> tuple[Finding, ...]:
    return tuple(finding for finding in series.doubts if finding.code in REMOVED_CODES)
