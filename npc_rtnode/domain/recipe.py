"""What makes an answer besides its input: a bundle, and the settings that shape content. Both stand in the work key.

Only a host with the recipe of a job can make of it what its key says. With another one it has nothing to do with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from npc_rtnode.domain.lifecycle import JobState


@dataclass(frozen=True)
class Recipe:
    """SHA-256 of the bundle and of the settings that shape content; `bundle` is the bundle's name for people."""

    bundle_hash: str
    settings_hash: str
    bundle: str

    def __str__(self) -> str:
        return f"bundle {self.bundle} ({self.bundle_hash[:12] or 'none'}), settings {self.settings_hash[:12]}"


def unfit(own: Recipe, other: Recipe, states: Iterable[JobState]) -> frozenset[JobState]:
    """Of these states, the ones in which work of the other recipe waits that this one would make something else of.

    What is predicted has its bundle's answer already: only the settings shape the rest.
    """
    same_settings = own.settings_hash == other.settings_hash
    same = {JobState.QUEUED: same_settings and own.bundle_hash == other.bundle_hash, JobState.PREDICTED: same_settings}
    return frozenset(state for state in states if not same[state])
