"""Phantom studies as a PACS would hold them: the second door to `model`, for the demo and for tests of a whole node."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PhantomStudy:
    """A written study with known truth: `mask` is `[slice, row, column]` on the grid `affine` (index → LPS mm)."""

    files: tuple[Path, ...]
    wanted: tuple[Path, ...]  # the contrast-enhanced T1 among them
    mask: NDArray[np.bool_]
    affine: NDArray[np.float64]
    stage: str
    volume_cc: float


def write_study(folder: Path, index: int, cohort: str = "demo") -> PhantomStudy:
    """A study of two series: T1 without contrast, then contrast-enhanced T1, which alone is for the node."""
    from model.phantom import make_case, small_profile, write_dicom_series

    case = make_case(cohort, index, profile=small_profile())
    wanted = write_dicom_series(case, folder / "t1c", series_number=4)
    plain = write_dicom_series(
        case, folder / "t1", series_number=3, contrast=False, series_description="Ax T1 NPC phantom"
    )
    return PhantomStudy(
        files=(*plain, *wanted),
        wanted=tuple(wanted),
        mask=case.mask,
        affine=case.affine,
        stage=case.stage,
        volume_cc=case.volume_cc,
    )
