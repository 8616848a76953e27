"""Admit: whether new associations are taken, asked at each one; every change of that is told and recorded."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

from npc_rtnode import log
from npc_rtnode.domain.admission import Level, Marks, Standing, judge
from npc_rtnode.domain.retry import code_of
from npc_rtnode.errors import LedgerUnavailable
from npc_rtnode.ports import AdmissionPages, Clock

logger = log.get(__name__)
FOR_NOW = "for now"
"""How the reason of a refusal begins that will pass by itself; they are counted by it."""


class Gatekeeper:
    """Stands at the listener's door. Disk is looked at anew for each caller, the backlog at each beat."""

    def __init__(
        self,
        pages: AdmissionPages,
        free_bytes: Callable[[], int],
        marks: Marks,
        clock: Clock,
        paused: Callable[[], str | None] = lambda: None,
    ) -> None:
        """`paused`: a person's word that nothing is to be received for now."""
        self._pages = pages
        self._free_bytes = free_bytes
        self._marks = marks
        self._clock = clock
        self._lock = Lock()
        self._standing = Standing(Level.OPEN)
        self._recorded: Level | None = None  # a restart goes on from what its ledger says
        self._backlog = 0
        self._paused_by = paused
        self._paused: str | None = None

    def refusal(self) -> str | None:
        """Why a caller is refused for now, or None; in our own words and numbers."""
        if self._paused:
            return f"{FOR_NOW}: PAUSED {self._paused}"
        standing = self._judge()
        return f"{FOR_NOW}: {standing.finding}" if standing.level is Level.SHUT else None

    def look(self) -> bool:
        """At each beat: how much waits, how the door stands, and whether that is another level than the last one."""
        try:
            self._paused = self._paused_by()
            self._backlog = self._pages.backlog()
            return self._record(self._judge())
        except LedgerUnavailable as error:  # the last backlog stands; senders are told A700 meanwhile
            logger.warning("backlog not known", because=code_of(error))
            return False

    def _judge(self) -> Standing:
        with self._lock:
            self._standing = judge(self._standing.level, self._room(), self._backlog, self._marks)
            return self._standing

    def _room(self) -> int:
        """A disk that does not even answer has no room."""
        try:
            return self._free_bytes()
        except OSError:
            return 0

    def _record(self, standing: Standing) -> bool:
        if standing.level is (self._recorded or self._pages.last()):
            self._recorded = standing.level
            return False
        self._pages.admission_changed(standing, self._clock())
        self._recorded = standing.level
        say = logger.info if standing.level is Level.OPEN else logger.error
        say("admission", level=standing.level, because=str(standing.finding) if standing.finding else "room again")
        return True
