"""A26: from a probability map to the mask a clinician sees, and how much was thrown away."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from model.manifest import Postprocess

Mask = NDArray[np.bool_]


def clean(
    probability: NDArray[np.float32], spacing_mm: tuple[float, float, float], rule: Postprocess
) -> tuple[Mask, float]:
    """Threshold, keep the largest component and sizeable ones close to it; returns (mask, dropped volume in cc)."""
    raw = probability >= rule.threshold
    if not raw.any():
        return raw, 0.0
    box = ndimage.find_objects(raw.astype(np.int8))[0]
    kept = np.zeros_like(raw)
    voxel_cc = float(np.prod(spacing_mm)) / 1000.0
    kept[box] = _keep(raw[box], spacing_mm, voxel_cc, rule)
    return kept, float(int(raw.sum()) - int(kept.sum())) * voxel_cc


def _keep(raw: Mask, spacing_mm: tuple[float, float, float], voxel_cc: float, rule: Postprocess) -> Mask:
    labels, count = ndimage.label(raw, structure=np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    main = 1 + int(np.argmax(sizes))
    if sizes[main - 1] * voxel_cc < rule.least_cc:
        return np.zeros_like(raw)
    large = [index for index in range(1, count + 1) if sizes[index - 1] * voxel_cc >= rule.keep_cc and index != main]
    keep = labels == main
    if large:
        distance = ndimage.distance_transform_edt(~keep, sampling=spacing_mm)
        near = [index for index in large if distance[labels == index].min() <= rule.reach_mm]
        keep |= np.isin(labels, near)
    return np.asarray(keep, dtype=np.bool_)
