"""Which phantoms make a cohort: the paper's 320 with its folds, its 150 external ones, fresh external ones by seed.

    study = paper_cohort()               # 320 members with stage and fold, the paper's scanner mix
    phantom = study[0].make()

Cohorts differ by name, a case's seed is a hash of name and index, so no two cohorts ever share a head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from model.labels import STAGES
from model.phantom import Phantom, ScannerProfile, draw_profile, make_case, seed_of

PAPER_FOLDS: Final[tuple[Mapping[str, int], ...]] = (
    {"T1": 8, "T2": 47, "T3": 28, "T4": 22},
    {"T1": 8, "T2": 47, "T3": 28, "T4": 22},
    {"T1": 10, "T2": 46, "T3": 31, "T4": 23},
)
"""T categories of the three folds of data set 1: 105 + 105 + 110 patients (table 1)."""

EXTERNAL_STAGES: Final[Mapping[str, int]] = {"T1": 12, "T2": 66, "T3": 41, "T4": 31}
"""T categories of the external 150; the paper does not give them, so they are those of data set 1 (plan 6.1-6)."""

EXTERNAL_COVERAGE_MM: Final = 235.0
"""The longest stack: beyond it the working grid ends."""


@dataclass(frozen=True)
class Member:
    """One case of a cohort: ``fold`` is 0..2 where the cohort has folds and -1 elsewhere; ``stage`` None is drawn."""

    cohort: str
    index: int
    stage: str | None = None
    fold: int = -1
    external: bool = False
    tumour: bool = True

    def make(self) -> Phantom:
        """The phantom itself."""
        profile = external_profile(self.cohort, self.index) if self.external else None
        return make_case(self.cohort, self.index, stage=self.stage, profile=profile, tumour=self.tumour)


def paper_cohort() -> tuple[Member, ...]:
    """Data set 1: 320 members in three folds, in an order that says nothing about the stage."""
    planned = [(s, fold) for fold, counts in enumerate(PAPER_FOLDS) for s in STAGES for _ in range(counts[s])]
    order = np.random.default_rng(320).permutation(len(planned))
    return tuple(Member("paper-1", index, *planned[int(k)]) for index, k in enumerate(order))


def external_paper_cohort() -> tuple[Member, ...]:
    """Data set 2: 150 members on other scanners."""
    planned = [stage for stage in STAGES for _ in range(EXTERNAL_STAGES[stage])]
    order = np.random.default_rng(150).permutation(len(planned))
    return tuple(Member("paper-2", index, planned[int(k)], external=True) for index, k in enumerate(order))


def external_cohort(seed: int, count: int) -> tuple[Member, ...]:
    """Fresh external members, stages drawn by the paper's shares; every ``seed`` is another cohort."""
    return tuple(Member(f"external-{seed}", index, external=True) for index in range(count))


def free_cohort(seed: int, count: int) -> tuple[Member, ...]:
    """Heads without tumour on external scanners."""
    return tuple(Member(f"free-{seed}", index, external=True, tumour=False) for index in range(count))


def external_profile(cohort: str, index: int) -> ScannerProfile:
    """A series of data set 2: 512 x 512, .4688-.5078 mm, 40-76 slices of 3-6.7 mm, as long as the head allows."""
    rng = np.random.default_rng((seed_of(cohort, index), 3))
    base = draw_profile(rng)
    spacing = round(float(rng.uniform(3.0, EXTERNAL_COVERAGE_MM / 40)), 2)
    slices = int(rng.integers(40, max(41, min(76, int(EXTERNAL_COVERAGE_MM / spacing)) + 1)))
    slack = min(30.0, slices * spacing / 2 - 44)
    z = -4 - 0.12 * (slices * spacing - 100) + float(rng.uniform(-slack, slack))
    pixel = round(float(rng.uniform(0.4688, 0.5078)), 4)
    return replace(
        base, matrix=512, pixel_mm=pixel, slices=slices, spacing_mm=spacing, centre_mm=(*base.centre_mm[:2], z)
    )
