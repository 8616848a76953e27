"""Shapes, a stack, a prediction and a plan: what the output room needs, with truth known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from model import checks
from npc_rtnode.adapters.dicom.series import DicomSeriesReader
from npc_rtnode.domain.geometry import Grid, Stack, Volume
from npc_rtnode.domain.identifiers import derived_uid
from npc_rtnode.domain.plausibility import DISTANCE, GAUGES, REFERENCE
from npc_rtnode.domain.prediction import Band, BundleStatement, Prediction
from npc_rtnode.domain.records import SliceHeader
from npc_rtnode.domain.report import ObjectPlan
from npc_rtnode.settings import ContentSettings
from tests.builders.mr_series import SeriesSpec

Mask = NDArray[np.bool_]


def _axes(shape: tuple[int, int, int]) -> tuple[NDArray[np.float64], ...]:
    """Coordinates from -1 to 1 along slices, rows and columns."""
    grids = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    return tuple(np.asarray(grid, dtype=np.float64) for grid in grids)


def ball(shape: tuple[int, int, int]) -> Mask:
    """A ball off the middle."""
    z, y, x = _axes(shape)
    return np.asarray((z - 0.05) ** 2 + (y + 0.1) ** 2 + (x - 0.2) ** 2 < 0.45**2)


def tube(shape: tuple[int, int, int]) -> Mask:
    """A tube along the normal with a hole, and an island in the hole."""
    z, y, x = _axes(shape)
    radius = np.hypot(y - 0.1, x + 0.15)
    return np.asarray((np.abs(z) < 0.6) & (((radius < 0.6) & (radius > 0.3)) | (radius < 0.1)))


def two_parts(shape: tuple[int, int, int]) -> Mask:
    """Two ellipsoids apart, and one lone pixel."""
    z, y, x = _axes(shape)
    left = z**2 + (2 * y) ** 2 + (3 * (x + 0.5)) ** 2 < 0.6**2
    right = z**2 + (3 * (y - 0.2)) ** 2 + (2 * (x - 0.5)) ** 2 < 0.5**2
    both = np.asarray(left | right)
    both[shape[0] // 2, 2, 2] = True
    return both


def crescent(shape: tuple[int, int, int]) -> Mask:
    """A thin crescent, one to three pixels wide."""
    z, y, x = _axes(shape)
    return np.asarray((np.abs(z) < 0.5) & (np.hypot(y, x) < 0.7) & (np.hypot(y + 0.08, x + 0.08) > 0.68))


def ragged(shape: tuple[int, int, int]) -> Mask:
    """Smoothed noise: many parts, holes, diagonal touches; the same every time."""
    noise = ndimage.gaussian_filter(np.random.default_rng(11).standard_normal(shape), (0.5, 1.1, 1.1))
    z, y, x = _axes(shape)
    return np.asarray((noise > 0.02) & (z**2 + y**2 + x**2 < 0.7))


SHAPES: dict[str, Callable[[tuple[int, int, int]], Mask]] = {
    "ball": ball,
    "tube": tube,
    "two_parts": two_parts,
    "crescent": crescent,
    "ragged": ragged,
}

GEOMETRIES: dict[str, dict[str, Any]] = {
    "axial": {},
    "oblique": {"orientation": "oblique"},
    "non_square_anisotropic": {"rows": 40, "columns": 64, "spacing_mm": (0.9375, 0.46875), "step_mm": 6.0},
    "feet_first": {"orientation": "feet_first", "descending": True},
    "sagittal_anisotropic": {"orientation": "sagittal", "rows": 60, "columns": 44, "spacing_mm": (0.46875, 0.9375)},
    "oblique_anisotropic": {"orientation": "oblique", "rows": 40, "columns": 64, "spacing_mm": (0.9375, 0.46875)},
}


def stack_for(**wishes: Any) -> Stack:
    """The stack of the series that `make_series(**wishes)` writes, without reading a file."""
    spec = SeriesSpec(**wishes)
    rows_dir, columns_dir = spec.cosines
    affine = np.eye(4)
    affine[:3, 0] = np.cross(rows_dir, columns_dir) * spec.step_mm
    affine[:3, 1] = columns_dir * spec.spacing_mm[0]
    affine[:3, 2] = rows_dir * spec.spacing_mm[1]
    affine[:3, 3] = spec.position(0)
    slices = tuple(_header(spec, k) for k in spec.present)
    return Stack(Grid((len(slices), spec.rows, spec.columns), affine), slices)


def _header(spec: SeriesSpec, index: int) -> SliceHeader:
    x, y, z = (round(v, 6) for v in spec.position(index))
    a, b, c, d, e, f = (round(float(v), 8) for v in spec.cosines.ravel())
    return SliceHeader(
        sop_uid=derived_uid(spec.seed, f"instance-{index}"),
        sha256="",
        study_uid=derived_uid(spec.study_seed, "study"),
        patient_key="",
        frame_of_reference_uid=derived_uid(spec.study_seed, "frame"),
        position=(x, y, z),
        orientation=(a, b, c, d, e, f),
        rows=spec.rows,
        columns=spec.columns,
        spacing_mm=spec.spacing_mm,
    )


def bundle_statement(**wishes: Any) -> BundleStatement:
    """A synthetic bundle's statement."""
    said: dict[str, Any] = {
        "name": "unit-test bundle",
        "version": "1.2.3",
        "sha256": "ab" * 32,
        "data": "synthetic",
        "statement": "Trained on phantoms.",
        "staging_edition": "UICC/AJCC 8th edition (T category unchanged in the 9th)",
        "threshold": 0.5,
    }
    return BundleStatement(**{**said, **wishes})


MEASURED: dict[str, float] = {
    "PARTS": 1.0,
    "MIRROR_DICE": 0.95,
    "SHIFT_DICE": 0.96,
    "STAGE_SWING": 0.05,
    "REFERENCE_CASES": 100.0,
    "OUT_OF_DISTRIBUTION": 1.1,
}
BANDS: dict[str, Band] = {gauge.code: Band() for gauge in (*GAUGES, REFERENCE, DISTANCE)} | {
    "LEAST_PROBABILITY": Band("", hold_low=0.499)
}


def seen(volume: Volume, mask: Mask) -> dict[str, Any]:
    """What the model's side says of the voxels it was given and of those outlined, as wishes for `prediction_of`."""
    measured = MEASURED | checks.inside(volume.voxels, mask)
    return {"measured": measured, "sight": checks.sight(volume.voxels, volume.stack.grid.affine)}


def prediction_of(
    mask: Mask, stages: tuple[float, float, float, float] = (0.02, 0.11, 0.69, 0.18), **wishes: Any
) -> Prediction:
    """A prediction whose mask is the given one, sure and steady by all that was measured; no band has an end."""
    said = {"dropped_cc": 0.0, "measured": MEASURED, "bands": BANDS} | wishes
    return Prediction(mask.astype(np.float32), mask, stages, **said)


def prediction_on(
    files: Sequence[Path], mask: Mask, stages: tuple[float, float, float, float] = (0.02, 0.11, 0.69, 0.18)
) -> Prediction:
    """The same, made by a model that looked at these files; a file may be named once for each of its frames."""
    volume = DicomSeriesReader().volume(list(dict.fromkeys(files)))
    return prediction_of(mask, stages, **seen(volume, mask))


def plan_of(**wishes: Any) -> ObjectPlan:
    """A plan with every field filled; keywords replace fields."""
    fields: dict[str, Any] = {
        "work_key": "f" * 64,
        "created_at": datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC),
        "content": ContentSettings(),
        "utc_offset": "+0800",
        "site": "Test site",
        "bundle": bundle_statement(),
        "software_version": "npc_rtnode 0.1.0",
        "indication": "called AE title NPC_RTNODE states npc",
        "findings": (),
        "phantom": True,
        "result_revision": 1,
    }
    return ObjectPlan(**{**fields, **wishes})
