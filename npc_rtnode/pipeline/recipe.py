"""Recipe: the node orders anew what waits under another bundle or other settings; a worker host that has others waits.

Without it a host with another bundle would call off what the node ordered, the node would order the very same again,
and so on without end (ADR 0022).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from npc_rtnode import log
from npc_rtnode.domain.lifecycle import JobState
from npc_rtnode.domain.recipe import Recipe, unfit
from npc_rtnode.domain.retry import describe
from npc_rtnode.errors import OtherRecipe
from npc_rtnode.ports import Clock, RecipePages

logger = log.get(__name__)
PAUSE_S: Final = 600.0
"""A host whose inference failed through no fault of an input leaves the jobs to others for so long, then tries one."""
SAY_AGAIN_S: Final = 6 * 3600.0
"""What is still so is said again; who has said nothing for twice as long has gone."""
_NOT_BEGUN = {JobState.QUEUED: "no inference", JobState.PREDICTED: "no writing"}


@dataclass(frozen=True)
class Orders:
    """On the node, whose recipe counts."""

    pages: RecipePages
    recipe: Callable[[], Recipe]
    clock: Clock

    def run(self) -> int:
        """Say which recipe is in force, and order anew what waits under another; how many jobs. Raises BundleFault."""
        recipe, replaced = self.recipe(), 0
        while more := self.pages.renew(recipe, self.clock()):
            replaced += more
        if replaced:
            logger.warning("jobs of another bundle or other settings are ordered anew", count=replaced)
        return replaced


class Likeness:
    """On a worker host: whether it would make of the node's jobs what the node would, and whether it can."""

    def __init__(
        self,
        own: Callable[[], Recipe],
        node: Callable[[], Recipe | None],
        takes: Collection[JobState],
        record: Callable[[str], object],
        said: str = "",
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`takes`: in which states the work waits that this host does; `record`: why it is not begun, empty: it is;
        `said`: what an earlier process of this host has said last."""
        self._own, self._node = own, node
        self._takes = takes
        self._record = record
        self._monotonic = monotonic
        self._unfit: frozenset[JobState] = frozenset()
        self._said, self._said_at = said, monotonic()
        self._broken, self._again_at = "", 0.0
        self.failures = 0
        """How often inference failed here through no fault of an input."""

    def begins(self, state: JobState) -> bool:
        """Whether work that waits in this state is begun here."""
        rests = state is JobState.QUEUED and self._broken and self._monotonic() < self._again_at
        return state not in self._unfit and not rests

    def failed(self, because: str) -> None:
        """Inference could not be had here: a host with a broken device would take one job after the other from those
        who can, and have each wait."""
        self.failures += 1
        self._broken, self._again_at = because, self._monotonic() + PAUSE_S

    def works(self) -> None:
        """An inference came to its end here."""
        self._broken = ""

    def look(self) -> bool:
        """Compare; what has changed is said in the log and the ledger; whether it has."""
        own, node = self._own(), self._node()
        self._unfit = unfit(own, node, self._takes) if node else frozenset()
        because = describe(_fault(own, node, self._unfit)) if node and self._unfit else self._broken
        changed = because != self._said
        if changed or (because and self._monotonic() - self._said_at > SAY_AGAIN_S):
            self._say(because)
        return changed

    def leave(self) -> None:
        """A host that stops is in nobody's way."""
        if self._said:
            self._record("")

    def _say(self, because: str) -> None:
        if because:
            logger.error("what cannot be done here as on the node is not begun", because=because)
        else:
            logger.info("this host does what the node would: its jobs are begun again")
        self._record(because)
        self._said, self._said_at = because, self._monotonic()


def _fault(own: Recipe, node: Recipe, states: Collection[JobState]) -> OtherRecipe:
    begun = " and ".join(words for state, words in _NOT_BEGUN.items() if state in states)
    return OtherRecipe(f"Here: {own}; the node's: {node}. It begins {begun}: give it the node's, and restart it.")
