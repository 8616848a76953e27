"""Phantom studies as a PACS would hold them: the second door to `model`, for the demo, for tests of a whole node, and
for the daily constancy.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

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


CONSTANCY_COHORT, CONSTANCY_INDEX = "demo", 1
CONSTANCY_SHA256 = "fc0d7728ac294edc29c695f0b41dc2070b497b9c01d8432fbac4365a45c7062e"
"""The constancy phantom's voxels, truth and grid. Another digest is another phantom: its trend begins anew."""


class ConstancyPhantom:
    """Fulfils ports.PhantomSource. Drawn when it is first asked for; some seconds."""

    @cached_property
    def _case(self) -> Any:
        from model.phantom import make_case, small_profile

        return make_case(CONSTANCY_COHORT, CONSTANCY_INDEX, profile=small_profile())

    def identity(self) -> str:
        """SHA-256 of voxels, truth and grid."""
        digest = hashlib.sha256()
        for array, kind in ((self._case.voxels, "<i2"), (self._case.mask, "|u1"), (self._case.affine, "<f8")):
            digest.update(repr(array.shape).encode())
            digest.update(np.ascontiguousarray(array, dtype=kind).tobytes())
        return digest.hexdigest()

    def frozen(self) -> str:
        """What it must be."""
        return CONSTANCY_SHA256

    def write(self, folder: Path, study_uid: str, day: str) -> list[Path]:
        """The contrast-enhanced T1 alone, dated `day` (ISO); marked as a quality-control phantom in every instance."""
        from model.phantom import write_dicom_series

        return write_dicom_series(
            self._case,
            folder,
            study_uid=study_uid,
            study_date=day.replace("-", ""),
            patient_name="ZZQA^CONSTANTIA",
            patient_id="ZZQA-000001",
        )

    def truth(self) -> NDArray[np.bool_]:
        """The tumour."""
        mask: NDArray[np.bool_] = self._case.mask
        return mask
