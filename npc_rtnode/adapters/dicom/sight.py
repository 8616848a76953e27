"""Where each slice's brightness lies by its own file: what the model must have seen, if it saw these images.

The reader for the model decodes instances with SimpleITK and orders them; here pydicom decodes them one by one, and
each is placed by its own header. Voxels in another order, of another series or on another grid show as a difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from npc_rtnode.adapters.dicom.series import planes_of
from npc_rtnode.domain.gates import Sight
from npc_rtnode.domain.geometry import Array, Stack
from npc_rtnode.domain.records import ImageReference, SliceHeader

Plane = NDArray[np.float32]


def filed_sight(stack: Stack, sources: Sequence[Path], mask: NDArray[np.bool_]) -> Sight:
    """What the files alone say of every slice of the stack, and of the pixels under the mask.

    Brightness counts from the slice's darkest pixel; padding is as dark as the darkest pixel of all. Raises Unreadable,
    or LookupError where a file holds no such slice.
    """
    found: dict[ImageReference, tuple[SliceHeader, Plane]] = {}
    for path in dict.fromkeys(sources):
        found |= {header.reference: (header, plane) for header, plane in planes_of(path)}
    darkest = min(float(np.nanmin(plane)) for _, plane in found.values() if not np.isnan(plane).all())
    there = (found[header.reference] for header in stack.slices)
    lit = [(header, np.nan_to_num(plane, nan=darkest)) for header, plane in there]
    grey = np.concatenate([plane[part] for (_, plane), part in zip(lit, mask, strict=True)]).astype(np.float64)
    centres = np.array([_centre(header, plane) for header, plane in lit])
    return Sight(centres, float(grey.mean()), float(grey.std()))


def _centre(header: SliceHeader, plane: Plane) -> Array:
    light = plane.astype(np.float64)
    light -= light.min()
    row, column = (_balance(light.sum(axis=axis)) for axis in (1, 0))
    return _placed(header, row, column)


def _balance(weights: Array) -> float:
    """Index at which a line of weights balances; its middle where there are none."""
    total = float(weights.sum())
    return float(weights @ np.arange(len(weights))) / total if total else (len(weights) - 1) / 2


def _placed(header: SliceHeader, row: float, column: float) -> Array:
    """PS3.3 C.7.6.2.1.1: the direction of a row is the way its columns go."""
    cosines = np.array(header.orientation, dtype=np.float64)
    between_rows, between_columns = header.spacing_mm or (np.nan, np.nan)
    origin = np.array(header.position, dtype=np.float64)
    return np.asarray(origin + cosines[:3] * between_columns * column + cosines[3:] * between_rows * row)
