"""Lanes that a person has stopped: receive, infer, send, or sending to one destination; a row, and events."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Select, select

from npc_rtnode.adapters.database.desk import Word
from npc_rtnode.adapters.database.engine import Sessions
from npc_rtnode.adapters.database.journal import tell
from npc_rtnode.adapters.database.tables import PauseRow
from npc_rtnode.errors import NotFound

RECEIVE: Final = "receive"
LANES: Final = (RECEIVE, "infer", "send")
_SUBJECT: Final = "lane"


class Pauses:
    """What is under way when a lane is paused is finished; nothing more is begun there until it is resumed."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def pause(self, lane: str, destinations: Collection[str], word: Word) -> str:
        """Stop a lane; NotFound names the ones there are."""
        known = [*LANES, *(f"send:{name}" for name in destinations)]
        if lane not in known:
            raise NotFound(f"no lane is called {lane!r}; known: {', '.join(known)}")
        with self._sessions.writing() as session:
            row = session.scalar(_in_force(lane))
            if row is not None:
                return f"{lane} is paused already: {_words(row)}"
            session.add(PauseRow(lane=lane, actor=word.note.actor, reason=word.reason, since=word.at))
            tell(session, _SUBJECT, lane, "PAUSED", word.note)
            if word.dry_run:
                session.rollback()
            return f"{lane} is paused; what is under way there is finished"

    def resume(self, lane: str, word: Word) -> str:
        """Let a lane go on."""
        with self._sessions.writing() as session:
            row = session.scalar(_in_force(lane))
            if row is None:
                raise NotFound(f"{lane!r} is not paused; `npc-rtnode status` shows what is")
            was = _words(row)
            row.ended_at = word.at
            tell(session, _SUBJECT, lane, "RESUMED", word.note)
            if word.dry_run:
                session.rollback()
            return f"{lane} goes on; it was paused {was}"

    def all(self) -> dict[str, str]:
        """Every paused lane, with who, since when and why."""
        with self._sessions.reading() as session:
            return {row.lane: _words(row) for row in session.scalars(_in_force())}


def _in_force(lane: str | None = None) -> Select[PauseRow]:
    query = select(PauseRow).where(PauseRow.ended_at.is_(None)).order_by(PauseRow.lane)
    return query if lane is None else query.where(PauseRow.lane == lane)


def _words(row: Any) -> str:
    since: datetime = row.since
    return f"by {row.actor} since {since:%Y-%m-%d %H:%M} UTC: {row.reason}"
