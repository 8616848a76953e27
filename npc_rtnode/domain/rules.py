"""A rule set: the clauses that a series must satisfy to take a role in the bundle, and which of several is preferred.

All top-level clauses must be TRUE. Of the series of a study that satisfy them the preferences choose one, in their
order; where they cannot tell two apart, a person does.
"""

from __future__ import annotations

from dataclasses import dataclass

from npc_rtnode.domain.clauses import Node, Preference, canonical, tags_of
from npc_rtnode.domain.evaluation import verdict_of
from npc_rtnode.domain.facts import CONCLUDED
from npc_rtnode.domain.identifiers import digest_of
from npc_rtnode.domain.records import SeriesAttributes, Verdict


@dataclass(frozen=True)
class RuleSet:
    """Top-level clauses that a series must all satisfy to take `role` in the bundle, and the order of preference."""

    name: str
    role: str
    clauses: tuple[Node, ...]
    description: str = ""
    preferences: tuple[Preference, ...] = ()

    @property
    def hash(self) -> str:
        """Digest of what the rules say, not of how the file is laid out; the order of preferences is part of it."""
        said = {"name": self.name, "role": self.role, "clauses": [canonical(node) for node in self.clauses]}
        return digest_of({**said, "prefer": [canonical(item) for item in self.preferences]})

    def keywords(self) -> tuple[str, ...]:
        """The DICOM attributes that the rules ask for, sorted; the reader's own facts are not among them."""
        asked = set(tags_of((*self.clauses, *self.preferences)))
        behind = {keyword for tag in asked & CONCLUDED.keys() for keyword in CONCLUDED[tag].keywords}
        return tuple(sorted({tag for tag in asked if not tag.startswith("@")} | behind))

    def evaluate(self, attributes: SeriesAttributes) -> tuple[Verdict, ...]:
        """One verdict a top-level clause, with the tag values that decided it."""
        return tuple(verdict_of(node, attributes) for node in self.clauses)
