"""Synthetic heads with nasopharyngeal carcinoma and known truth. Everything here is invented; nothing is a patient.

    phantom = make_case("demo", 0)
    write_dicom_series(phantom, Path("demo"))

One (cohort, index) is one head, always the same bytes. Cohorts never share a seed: the seed is a hash of both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from model.labels import NO_TUMOUR, PAPER_STAGE_COUNTS, STAGES
from model.phantom.anatomy import Head, draw_head
from model.phantom.dicom import write_dicom_series
from model.phantom.image import (
    ScannerProfile,
    draw_profile,
    golden_profile,
    native_axes,
    native_levels,
    render,
    small_profile,
)
from model.phantom.tumour import GrowthError, Tumour, grow

__all__ = [
    "GENERATOR_VERSION",
    "Head",
    "Phantom",
    "ScannerProfile",
    "Tumour",
    "draw_anatomy",
    "draw_profile",
    "generator_sha256",
    "golden_profile",
    "make_case",
    "seed_of",
    "small_profile",
    "stack_centre_mm",
    "write_dicom_series",
]

GENERATOR_VERSION: Final = 2
"""Raised with every change of what a case looks like; frozen while weights trained on it are shipped."""

TRAINING_SHARES: Final = {"T1": 0.2, "T2": 0.28, "T3": 0.26, "T4": 0.26}
"""Stages of the training cohort: early and advanced ones made commoner than in the paper, so that all are learned."""


@dataclass(frozen=True)
class Phantom:
    """One synthetic series. Arrays are [slice, row, column]; ``affine`` maps index to LPS mm (voxel centres).

    ``levels`` holds the T category that each voxel's own tissue would give once invaded, under the tumour too.
    """

    cohort: str
    index: int
    voxels: NDArray[np.int16]
    mask: NDArray[np.bool_]
    levels: NDArray[np.uint8]
    affine: NDArray[np.float64]
    spacing_mm: tuple[float, float, float]
    stage: str
    invaded: Mapping[str, float]
    profile: ScannerProfile

    @property
    def volume_cc(self) -> float:
        """Tumour volume on the native grid."""
        return float(self.mask.sum()) * float(np.prod(self.spacing_mm)) / 1000.0


def seed_of(cohort: str, index: int) -> int:
    """128-bit seed of one case."""
    return int.from_bytes(hashlib.sha256(f"npc_rtnode phantom/{cohort}/{index}".encode()).digest()[:16], "big")


def make_case(
    cohort: str,
    index: int,
    *,
    stage: str | None = None,
    profile: ScannerProfile | None = None,
    tumour: bool = True,
) -> Phantom:
    """One phantom. ``stage`` is drawn from the cohort's distribution (the paper's, except for "train") when None.

    Without ``tumour`` it is the same head before anything grew: the mask is empty and the stage ``NO_TUMOUR``.
    """
    head, grown = draw_anatomy(cohort, index, stage=stage)
    if not tumour:
        grown = Tumour(np.zeros_like(grown.mask), {}, NO_TUMOUR)
    scanner_rng, image_rng = (np.random.default_rng((seed_of(cohort, index), part)) for part in (3, 4))
    taken = profile if profile is not None else draw_profile(scanner_rng)
    voxels, mask = render(image_rng, head.labels, grown.mask, taken)
    return Phantom(
        cohort=cohort,
        index=index,
        voxels=voxels,
        mask=mask,
        levels=native_levels(head.labels, taken),
        affine=_affine(taken),
        spacing_mm=(taken.spacing_mm, taken.pixel_mm, taken.pixel_mm),
        stage=grown.stage,
        invaded=grown.invaded,
        profile=taken,
    )


def draw_anatomy(cohort: str, index: int, *, stage: str | None = None) -> tuple[Head, Tumour]:
    """Head and tumour on the working grid, before any scanner. A head in which nothing grows is drawn again."""
    seed = seed_of(cohort, index)
    wanted = stage if stage is not None else _draw_stage(cohort, seed)
    if wanted not in STAGES:
        raise ValueError(f"stage must be one of {', '.join(STAGES)}, got {wanted!r}")
    for attempt in range(5):
        head = draw_head(np.random.default_rng((seed, 1, attempt)))
        try:
            return head, grow(np.random.default_rng((seed, 2, attempt)), head, wanted)
        except GrowthError:
            continue
    raise GrowthError(f"no {wanted} tumour grew in five heads of {cohort}/{index}")


def stack_centre_mm(cohort: str, index: int) -> tuple[float, float, float]:
    """Where the middle of the drawn series lies from the nasopharynx, LPS (x, y, z)."""
    return draw_profile(np.random.default_rng((seed_of(cohort, index), 3))).centre_mm


def _draw_stage(cohort: str, seed: int) -> str:
    shares = TRAINING_SHARES if cohort == "train" else PAPER_STAGE_COUNTS
    weights = np.array([shares[stage] for stage in STAGES], dtype=float)
    return STAGES[int(np.random.default_rng((seed, 0)).choice(len(STAGES), p=weights / weights.sum()))]


def _affine(profile: ScannerProfile) -> NDArray[np.float64]:
    """[slice, row, column, 1] -> LPS mm: slices up, rows to posterior, columns to left."""
    z, y, x = native_axes(profile, profile.matrix)
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2] = profile.spacing_mm, profile.pixel_mm, profile.pixel_mm
    affine[:, 3] = (x[0], y[0], z[0], 1.0)
    return affine


@lru_cache(maxsize=1)
def generator_sha256() -> str:
    """Hash of the generator's source: two phantoms of one (cohort, index) are the same only under the same hash."""
    digest = hashlib.sha256()
    for name in ("anatomy", "fields", "image", "tumour"):
        digest.update((Path(__file__).parent / f"{name}.py").read_bytes())
    return digest.hexdigest()
