"""Recipe: the node orders anew what waits under another bundle or other settings; a worker host that has others waits.

Without it a host with another bundle would call off what the node ordered, the node would order the very same again,
and so on without end (ADR 0022).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from npc_rtnode import log
from npc_rtnode.domain.lifecycle import JobState
from npc_rtnode.domain.recipe import Recipe, unfit
from npc_rtnode.domain.retry import describe
from npc_rtnode.errors import OtherRecipe
from npc_rtnode.ports import Clock, RecipePages

logger = log.get(__name__)
_NOT_BEGUN = {JobState.QUEUED: "no inference", JobState.PREDICTED: "no writing"}


@dataclass(frozen=True)
class Orders:
    """On the node, whose recipe counts."""

    pages: RecipePages
    recipe: Callable[[], Recipe]
    clock: Clock

    def run(self) -> int:
        """Say which recipe is in force, and order anew what waits under another; how many jobs. Raises BundleFault."""
        replaced = self.pages.renew(self.recipe(), self.clock())
        if replaced:
            logger.warning("jobs of another bundle or other settings are ordered anew", count=replaced)
        return replaced


class Likeness:
    """On a worker host: whether it would make of the node's jobs what the node would."""

    def __init__(
        self,
        own: Callable[[], Recipe],
        node: Callable[[], Recipe | None],
        takes: Collection[JobState],
        record: Callable[[str], object],
    ) -> None:
        """`takes`: in which states the work waits that this host does; `record`: why it is not begun, empty: it is."""
        self._own, self._node = own, node
        self._takes = takes
        self._record = record
        self._unfit: frozenset[JobState] = frozenset()
        self._said = ""

    def begins(self, state: JobState) -> bool:
        """Whether work that waits in this state is begun here."""
        return state not in self._unfit

    def look(self) -> bool:
        """Compare; what has changed is said in the log and the ledger; whether it has."""
        own, node = self._own(), self._node()
        self._unfit = unfit(own, node, self._takes) if node else frozenset()
        because = describe(_fault(own, node, self._unfit)) if node and self._unfit else ""
        changed = because != self._said
        if changed:
            self._say(because)
        return changed

    def leave(self) -> None:
        """A host that stops is in nobody's way."""
        if self._said:
            self._record("")

    def _say(self, because: str) -> None:
        if because:
            logger.error("what would become something else here is not begun", because=because)
        else:
            logger.info("this host's bundle and settings are the node's: its jobs are begun again")
        self._record(because)
        self._said = because


def _fault(own: Recipe, node: Recipe, states: Collection[JobState]) -> OtherRecipe:
    begun = " and ".join(words for state, words in _NOT_BEGUN.items() if state in states)
    return OtherRecipe(f"Here: {own}; the node's: {node}. It begins {begun}: give it the node's, and restart it.")
