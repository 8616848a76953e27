"""Slice headers for geometry tests, without a file: one call, one stack, every awkward thing a keyword.

headers = make_headers(slices=20, gap_at=(7,), jitter_mm=0.05, orientation=OBLIQUE)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from npc_rtnode.domain.records import SliceHeader

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
FEET_FIRST = (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
OBLIQUE = (0.999, -0.022340658, 0.038694235, 0.027225, 0.991202, -0.129578)  # made orthonormal below


def cosines(orientation: Sequence[float]) -> tuple[float, ...]:
    """Six direction cosines, made exactly orthonormal."""
    row, column = np.array(orientation, dtype=float).reshape(2, 3)
    column = column / np.linalg.norm(column)
    row = row - (row @ column) * column
    return tuple(float(v) for v in (*(row / np.linalg.norm(row)), *column))


def make_headers(
    slices: int = 20,
    step_mm: float = 3.0,
    gap_at: Sequence[int] = (),
    jitter_mm: Sequence[float] | float = 0.0,
    shear_mm: float = 0.0,
    orientation: Sequence[float] = AXIAL,
    origin_mm: Sequence[float] = (-110.0, -95.5, 40.25),
    **fields: Any,
) -> list[SliceHeader]:
    """Headers in ascending order; `gap_at` are the indices left out, `shear_mm` the sideways drift a slice.

    A single `jitter_mm` moves every second slice by that much; other keywords replace header fields.
    """
    six = cosines(orientation)
    row, normal = np.array(six[:3]), np.cross(six[:3], six[3:])
    jitter = np.resize([0.0, jitter_mm], slices) if isinstance(jitter_mm, float) else np.array(jitter_mm)
    places = [np.array(origin_mm) + normal * (k * step_mm + jitter[k]) + row * k * shear_mm for k in range(slices)]
    headers = [_header(k, place, six) for k, place in enumerate(places) if k not in gap_at]
    return [replace(header, **fields) for header in headers]


def _header(index: int, place: Any, orientation: tuple[float, ...]) -> SliceHeader:
    x, y, z = (float(v) for v in place)
    return SliceHeader(
        sop_uid=f"2.25.1{index:03d}",
        sha256=f"{index:064x}",
        study_uid="2.25.7",
        patient_key="a" * 64,
        frame_of_reference_uid="2.25.8",
        position=(x, y, z),
        orientation=orientation,  # type: ignore[arg-type]
        rows=256,
        columns=320,
        spacing_mm=(0.75, 0.5),
    )


def change_one(headers: Sequence[SliceHeader], index: int, **fields: Any) -> list[SliceHeader]:
    """The same headers with the fields of one replaced."""
    return [replace(header, **fields) if k == index else header for k, header in enumerate(headers)]


def real_folder(name: str) -> Path:
    """A folder of real data (shared/data/README.md), or a skip that says what is missing."""
    beside = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    folder = Path(os.environ.get("NPC_RTNODE_TEST_DATA", beside)) / name
    if not folder.is_dir():
        pytest.skip(f"real data not here: {folder} (set NPC_RTNODE_TEST_DATA)")
    return folder


def real_files(name: str) -> list[Path]:
    """Every file of a real series, sorted by name."""
    return sorted(path for path in real_folder(name).iterdir() if path.is_file())
