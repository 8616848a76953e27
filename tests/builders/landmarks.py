"""Two bright balls at known places in the patient, scanned in any geometry: what is drawn must lie there and nowhere
else.

    scan = Scan(orientation="decubitus_left", spacing_mm=(0.75, 0.5))
    files = scan.write(folder)

Each ball's centre is the centre of a voxel, so that its voxels' centroid is its centre exactly. The first ball's place
is the same in every scan; the scan's origin follows from it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.builders.mr_series import SeriesSpec, make_series

LANDMARK_MM = (12.3, -40.2, 7.7)
"""Centre of the first ball, LPS."""

FIRST, SECOND = (7, 22, 17), (12, 27, 35)  # indices [slice, row, column] of the two centres
DARK, BRIGHT = 100, 1000


@dataclass(frozen=True)
class Scan:
    """A geometry; the words of SeriesSpec, and everything else of it in `wishes`."""

    orientation: str = "axial"
    spacing_mm: tuple[float, float] = (0.9375, 0.9375)
    step_mm: float = 3.0
    rows: int = 48
    columns: int = 56
    slices: int = 20
    jitter_mm: tuple[float, ...] = ()
    radii_mm: tuple[float, float] = (8.5, 6.5)
    position: str = "HFS"
    descending: bool = False

    @cached_property
    def spec(self) -> SeriesSpec:
        """As the series builder wants it, without its voxels."""
        spec = SeriesSpec(
            slices=self.slices,
            rows=self.rows,
            columns=self.columns,
            spacing_mm=self.spacing_mm,
            step_mm=self.step_mm,
            orientation=self.orientation,
            jitter_mm=self.jitter_mm,
            attributes={"PatientPosition": self.position},
            descending=self.descending,
        )
        x, y, z = np.array(LANDMARK_MM) - self._offset(spec, FIRST)
        return replace(spec, origin_mm=(float(x), float(y), float(z)))

    @staticmethod
    def _offset(spec: SeriesSpec, index: tuple[int, int, int]) -> NDArray[np.float64]:
        """PS3.3 C.7.6.2.1.1, from the first voxel to another, LPS mm; jitter left aside."""
        row_direction, column_direction = spec.cosines
        k, row, column = index
        down, right = row * spec.spacing_mm[0], column * spec.spacing_mm[1]
        along = np.cross(row_direction, column_direction) * k * spec.step_mm
        return np.asarray(along + column_direction * down + row_direction * right)

    @property
    def centres_mm(self) -> NDArray[np.float64]:
        """Where the two balls are, LPS mm, two rows."""
        between = self._offset(self.spec, SECOND) - self._offset(self.spec, FIRST)
        return np.array([LANDMARK_MM, np.array(LANDMARK_MM) + between])

    def voxels(self) -> NDArray[np.int64]:
        """What a scanner with these slices, at the places where they really are, would see."""
        image = np.full((self.slices, self.rows, self.columns), DARK)
        row_direction, column_direction = self.spec.cosines
        down = np.arange(self.rows)[:, None, None] * self.spacing_mm[0] * column_direction
        right = np.arange(self.columns)[None, :, None] * self.spacing_mm[1] * row_direction
        for k in range(self.slices):
            places = np.array(self.spec.position(k)) + down + right
            for centre, radius in zip(self.centres_mm, self.radii_mm, strict=True):
                image[k][np.linalg.norm(places - centre, axis=-1) <= radius + 1e-6] = BRIGHT
        return image

    def write(self, folder: Path, **more: Any) -> list[Path]:
        """The series as files, in ascending order along the normal."""
        fields = {name: getattr(self.spec, name) for name in SeriesSpec.__dataclass_fields__}
        return make_series(folder, **{**fields, "voxels": self.voxels(), **more})
