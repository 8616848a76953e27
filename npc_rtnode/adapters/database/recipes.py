"""The ledger's page of recipes: the node's own, jobs that wait under another one, and hosts that have another one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from npc_rtnode.adapters.database.engine import Sessions
from npc_rtnode.adapters.database.journal import Note, move, tell
from npc_rtnode.adapters.database.tables import EventRow, JobRow
from npc_rtnode.adapters.database.waiting import by_recipe, free
from npc_rtnode.domain.lifecycle import Event, JobState, SeriesState
from npc_rtnode.domain.recipe import Recipe
from npc_rtnode.domain.retry import OTHER_ORDER

BATCH: Final = 200
"""Jobs in one transaction; other writers wait for it."""
_GONE: Final = timedelta(hours=13)
"""A host says every six hours what is still so."""
_RECIPE, _IN_FORCE = "recipe", "IN_FORCE"
_HOST, _UNFIT, _FIT = "host", "OTHER_RECIPE", "SAME_RECIPE"


class RecipeLedger:
    """Fulfils ports.RecipePages."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def in_force(self) -> Recipe | None:
        """The node's, as it said last; None where no node of this release has worked yet."""
        with self._sessions.reading() as session:
            return _in_force(session)

    def renew(self, recipe: Recipe, now: datetime) -> int:
        """This is the node's own from now on. Jobs that wait under another are ordered anew, the oldest first; how
        many, BATCH at most."""
        if self._stands(recipe):  # nobody who writes waits for this
            return 0
        with self._sessions.writing() as session:
            if _in_force(session) != recipe:
                detail = {"settings": recipe.settings_hash, "bundle": recipe.bundle}
                tell(session, _RECIPE, recipe.bundle_hash, _IN_FORCE, Note(now, detail=detail))
            rows = session.scalars(_others(recipe).order_by(JobRow.id).limit(BATCH)).all()
            for row in rows:
                _order_anew(session, row, now)
            return len(rows)

    def _stands(self, recipe: Recipe) -> bool:
        with self._sessions.reading() as session:
            return _in_force(session) == recipe and session.scalars(_others(recipe).limit(1)).first() is None

    def unfit(self, host: str, because: str, now: datetime) -> None:
        """What a host says of its own recipe; nothing where it is the node's, or where it has stopped."""
        with self._sessions.writing() as session:
            tell(session, _HOST, host, _UNFIT if because else _FIT, Note(now, detail={"because": because}))

    def told(self, now: datetime) -> dict[str, str]:
        """The hosts that begin nothing because of it, each with what it said last, and when; without those that have
        gone, because they say it again as long as it is so."""
        rows = [row for row in self._unfit_hosts() if row.at > now - _GONE]
        return {row.subject_id: f"{row.detail['because']} (said {row.at:%Y-%m-%d %H:%M} UTC)" for row in rows}

    def said_by(self, host: str) -> str:
        """Why it begins nothing, as it said last; empty where it begins everything."""
        return next((str(row.detail["because"]) for row in self._unfit_hosts() if row.subject_id == host), "")

    def _unfit_hosts(self) -> Sequence[EventRow]:
        newest = select(func.max(EventRow.seq)).where(EventRow.subject == _HOST).group_by(EventRow.subject_id)
        with self._sessions.reading() as session:
            return session.scalars(select(EventRow).where(EventRow.seq.in_(newest), EventRow.event == _UNFIT)).all()


def _others(recipe: Recipe) -> Select[JobRow]:
    """Jobs that wait under another recipe; what a person keeps back is left as it is until it goes on."""
    return free(select(JobRow)).where(JobRow.state.in_((JobState.QUEUED, JobState.PREDICTED)), ~by_recipe(recipe))


def _in_force(session: Session) -> Recipe | None:
    """All of them are read, a few in a node's life: the newest alone would be looked for among all events."""
    said = session.scalars(select(EventRow).where(EventRow.subject == _RECIPE).order_by(EventRow.seq)).all()
    return Recipe(said[-1].subject_id, said[-1].detail["settings"], said[-1].detail["bundle"]) if said else None


def _order_anew(session: Session, row: JobRow, now: datetime) -> None:
    note = Note(now, detail={"because": OTHER_ORDER})
    row.reasons = [OTHER_ORDER]
    move(session, row, Event.CANCELLED, note)
    if row.series.state == SeriesState.SELECTED:
        move(session, row.series, Event.RECONSIDERED, note)
