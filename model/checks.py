"""What a bundle measures about its own answer, for the gates: how whole, how sure, how steady and how usual it is.

Numbers only, each of which can be checked by hand; what they may be stands in the manifest (``Manifest.bands``), and
whoever asked decides what follows. Everything is computed on the network's window, so that scanners compare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from model.manifest import GridSpec, Reference
from model.preprocess import Window

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
Matrix = NDArray[np.float64]

SHIFT_VOXELS: Final = 0.5
"""How far the shifted look lies off the answer's, in rows and columns of the window."""

DOUBTFUL: Final = (0.2, 0.8)
"""A voxel with a probability between these is doubtful."""

FARTHEST: Final = 3
"""So many features are named where a case is unusual."""


@dataclass(frozen=True)
class Look:
    """One look of the network at the window: the map (z, y, x) and the calibrated stage probabilities (4,)."""

    probability: Floats
    stages: Matrix


def steadiness(looks: Sequence[Look], threshold: float) -> dict[str, float]:
    """Of a plain, a mirrored and a shifted look: MIRROR_DICE, SHIFT_DICE of their outlines, STAGE_SWING of the stages.

    The mirrored map has been turned back; the shifted one lies SHIFT_VOXELS further in y and x and is moved here.
    """
    plain, mirrored, shifted = looks
    outline = plain.probability >= threshold
    stages = np.stack([look.stages for look in looks])
    return {
        "MIRROR_DICE": _dice(outline, mirrored.probability >= threshold),
        "SHIFT_DICE": _dice(outline, moved_back(shifted.probability) >= threshold),
        "STAGE_SWING": float(np.ptp(stages, axis=0).max()),
    }


def moved_back(probability: Floats) -> Floats:
    """A map sampled half a voxel further in y and x, on the window's own voxels: the mean of the two on either side."""
    for axis in (1, 2):
        before = np.roll(probability, 1, axis=axis)
        edge = [slice(None)] * 3
        edge[axis] = slice(0, 1)
        before[tuple(edge)] = probability[tuple(edge)]
        probability = np.asarray((before + probability) / 2, dtype=np.float32)
    return probability


def _dice(a: Mask, b: Mask) -> float:
    """Dice coefficient; 1 for two empty masks."""
    total = int(a.sum()) + int(b.sum())
    return 1.0 if total == 0 else 2.0 * int((a & b).sum()) / total


# --- the outline --------------------------------------------------------------------------------------------------


def wholeness(mask: Mask, spacing_mm: tuple[float, float, float], dropped_cc: float) -> dict[str, float]:
    """VOLUME (cc), EXTENT (mm, longest edge of the box around it), PARTS (26-connected), DROPPED_SHARE of all found."""
    voxel_cc = float(np.prod(spacing_mm)) / 1000.0
    volume = int(mask.sum()) * voxel_cc
    found = volume + dropped_cc
    if not volume:
        return {"VOLUME": 0.0, "EXTENT": 0.0, "PARTS": 0.0, "DROPPED_SHARE": float(found > 0)}
    box = ndimage.find_objects(mask.astype(np.int8))[0]
    sizes = [(span.stop - span.start) * mm for span, mm in zip(box, spacing_mm, strict=True)]
    _, parts = ndimage.label(mask[box], structure=np.ones((3, 3, 3)))
    return {"VOLUME": volume, "EXTENT": max(sizes), "PARTS": float(parts), "DROPPED_SHARE": dropped_cc / found}


def sureness(probability: Floats, mask: Mask) -> dict[str, float]:
    """CONFIDENCE: mean probability inside the outline; DOUBT: doubtful voxels anywhere for each voxel outlined."""
    inside = int(mask.sum())
    if not inside:
        return {"CONFIDENCE": 0.0, "DOUBT": 0.0}
    low, high = DOUBTFUL
    doubtful = int(np.count_nonzero((probability > low) & (probability < high)))
    return {"CONFIDENCE": float(probability[mask].mean(dtype=np.float64)), "DOUBT": doubtful / inside}


# --- how usual ----------------------------------------------------------------------------------------------------


def features(window: Window, probability: Floats, threshold: float, grid: GridSpec) -> dict[str, float]:
    """The picture and what was outlined in it as named numbers; grey values in SD of the body about its mean.

    Empty where nothing in the window reaches the threshold, or no slice of it is real.
    """
    outline = (probability >= threshold) & window.valid[:, None, None]
    if not outline.any():
        return {}
    return _picture(window.values[window.valid]) | _outlined(window.values, outline, grid)


def _picture(values: Floats) -> dict[str, float]:
    dark, middle, bright = (float(q) for q in np.percentile(values, (10, 50, 90)))
    steps = (np.abs(np.diff(values, axis=axis)).mean(dtype=np.float64) for axis in (1, 2))
    return {
        "grey_p10": dark,
        "grey_p50": middle,
        "grey_p90": bright,
        "grey_sd": float(values.std(dtype=np.float64)),
        "edges": float(sum(steps)) / 2,
        "symmetry": _correlation(values, values[:, :, ::-1]),
        "slice_likeness": _correlation(values[1:], values[:-1]) if len(values) > 1 else 0.0,
    }


def _correlation(a: Floats, b: Floats) -> float:
    one, other = (v.astype(np.float64) - v.mean(dtype=np.float64) for v in (a, b))
    scale = float(np.sqrt((one**2).sum() * (other**2).sum()))
    return float((one * other).sum()) / scale if scale else 0.0


def _outlined(values: Floats, outline: Mask, grid: GridSpec) -> dict[str, float]:
    around = ndimage.binary_dilation(outline, np.ones((1, 5, 5))) & ~outline
    inside, rim = values[outline], values[around] if around.any() else values[outline]
    z, y, x = (
        (c.mean() - (n - 1) / 2) * mm for c, n, mm in zip(outline.nonzero(), grid.shape, grid.spacing_mm, strict=True)
    )
    return {
        "tumour_grey": float(inside.mean(dtype=np.float64)),
        "tumour_grey_sd": float(inside.std(dtype=np.float64)),
        "tumour_contrast": float(inside.mean(dtype=np.float64) - rim.mean(dtype=np.float64)),
        "tumour_z_mm": float(z),
        "tumour_y_mm": float(y),
        "tumour_x_mm": float(abs(x)),
        "tumour_log_cc": float(np.log(outline.sum() * np.prod(grid.spacing_mm) / 1000.0)),
    }


def unusualness(found: Mapping[str, float], reference: Reference) -> tuple[float, str]:
    """Mahalanobis distance from the reference, in SD of one feature's equivalent, and what lies farthest out in words.

    The distance is divided by the square root of the number of features, so that an ordinary case is near 1.
    """
    off = np.array([found[name] for name in reference.features]) - np.asarray(reference.mean)
    precision = np.asarray(reference.precision)
    distance = float(np.sqrt(max(0.0, float(off @ precision @ off)) / len(off)))
    alone = off / np.sqrt(np.diag(np.linalg.inv(precision)))
    order = np.argsort(-np.abs(alone))[:FARTHEST]
    return distance, ", ".join(f"{reference.features[k].replace('_', ' ')} {alone[k]:+.1f} SD" for k in order)


def reference_of(cases: Sequence[Mapping[str, float]], shrink: float = 0.1) -> Reference:
    """Mean and precision of the cases' features; the covariance is shrunk towards its diagonal, so that it inverts."""
    names = tuple(sorted(cases[0]))
    table = np.array([[case[name] for name in names] for case in cases])
    covariance = np.cov(table, rowvar=False)
    diagonal = np.diag(np.maximum(np.diag(covariance), 1e-9))
    precision = np.linalg.inv((1 - shrink) * covariance + shrink * diagonal)
    rows = tuple(tuple(float(v) for v in row) for row in precision)
    return Reference(len(cases), names, tuple(float(v) for v in table.mean(axis=0)), rows)


# --- what was looked at -------------------------------------------------------------------------------------------


def inside(voxels: NDArray[Any], mask: Mask) -> dict[str, float]:
    """INSIDE_MEAN and INSIDE_SD: grey values under the outline, as they were given; nothing for an empty outline.

    Whoever has the files can measure them again: an outline that was moved since lies on other grey values.
    """
    if not mask.any():
        return {}
    grey = np.asarray(voxels[mask], dtype=np.float64)
    return {"INSIDE_MEAN": float(grey.mean()), "INSIDE_SD": float(grey.std())}


def sight(voxels: NDArray[Any], affine: Matrix) -> Matrix:
    """Centre of brightness of every slice, ``[slice, (x, y, z)]`` in LPS mm, of the very arrays that were given.

    Whoever has the files can say where it should lie: voxels in another order, or on another grid, are seen by it.
    """
    rows, columns = np.arange(voxels.shape[1]), np.arange(voxels.shape[2])
    found = np.empty((len(voxels), 3))
    for k, plane in enumerate(voxels):
        dark = float(plane.min())
        along_rows = plane.sum(axis=1, dtype=np.float64) - dark * len(columns)
        along_columns = plane.sum(axis=0, dtype=np.float64) - dark * len(rows)
        total = float(along_rows.sum())
        row = float(along_rows @ rows) / total if total else (len(rows) - 1) / 2
        column = float(along_columns @ columns) / total if total else (len(columns) - 1) / 2
        found[k] = (affine @ (k, row, column, 1.0))[:3]
    return found
