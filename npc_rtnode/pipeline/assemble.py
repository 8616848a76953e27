"""Assemble: a series that is quiet is judged; whole is complete, partial is named as such and never inferred."""

from __future__ import annotations

from functools import partial

from npc_rtnode import log
from npc_rtnode.domain.completeness import REMOVED_CODES, Completeness, Kind, doubted, judge
from npc_rtnode.domain.lifecycle import Event
from npc_rtnode.domain.records import Closing, OpenSeries
from npc_rtnode.domain.retry import describe
from npc_rtnode.pipeline.attempt import fault_barrier
from npc_rtnode.ports import Clock, SeriesPages, SeriesReader, Spool

logger = log.get(__name__)

_EVENTS = {
    Kind.WHOLE: Event.CLOSED_WHOLE,
    Kind.NOT_A_STACK: Event.CLOSED_WHOLE,
    Kind.PARTIAL: Event.CLOSED_PARTIAL,
    Kind.UNUSABLE: Event.QUARANTINED,
}
_WORDS = {
    Kind.WHOLE: "quiet and geometrically whole",
    Kind.NOT_A_STACK: "quiet; it will never be one even stack",
    Kind.PARTIAL: "quiet but not whole",
    Kind.UNUSABLE: "quiet and unusable",
}


class Assembler:
    """Closes quiet series."""

    def __init__(self, pages: SeriesPages, spool: Spool, reader: SeriesReader, clock: Clock) -> None:
        self._pages = pages
        self._spool = spool
        self._reader = reader
        self._clock = clock

    def run(self) -> int:
        """Judge every series whose quiet time has run out; how many were looked at."""
        waiting = self._pages.quiet(self._clock())
        for series in waiting:
            with fault_barrier(partial(self._give_up, series)):
                self._close(series, self._judge(series))
        return len(waiting)

    def _close(self, series: OpenSeries, closing: Closing) -> None:
        if self._pages.close(series, closing, self._clock()):
            logger.info("series closed", study=series.study_reference, series=series.series_id, because=closing.because)

    def _give_up(self, series: OpenSeries, error: Exception) -> None:
        self._pages.trouble(series, describe(error), self._clock())

    def _judge(self, series: OpenSeries) -> Closing:
        removed = [finding for finding in series.doubts if finding.code in REMOVED_CODES]
        if removed:  # there is nothing to be read: partial, until the sender sends all of it again
            return _closing(Completeness(Kind.PARTIAL, tuple(removed)), series.seen)
        headers = self._reader.headers([self._spool.path(sha256) for _, sha256 in series.inputs])
        judged = judge(headers, image_series=series.modality == "MR")
        return _closing(doubted(judged, series.doubts), series.seen)


def _closing(completeness: Completeness, instances: int) -> Closing:
    because = f"{_WORDS[completeness.kind]}; {instances} instances"
    return Closing(_EVENTS[completeness.kind], because, tuple(str(finding) for finding in completeness.findings))
