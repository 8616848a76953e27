"""Grow a tumour from a recess of the nasopharynx towards chosen structures; its stage is read off afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from model.labels import STAGES, STRUCTURES, Tissue, stage_of, tissue_levels
from model.phantom.anatomy import ORIGIN_MM, SHAPE, STEP_MM, Head
from model.phantom.fields import Box, Floats, smooth_field

Mask = NDArray[np.bool_]

WEIGHTS: Final[Mapping[int, Mapping[str, float]]] = {
    1: {"nasal cavity": 0.5, "oropharynx": 0.5},
    2: {
        "parapharyngeal space": 0.5,
        "prevertebral muscle": 0.25,
        "medial pterygoid muscle": 0.15,
        "lateral pterygoid muscle": 0.1,
    },
    3: {
        "clivus": 0.3,
        "pterygoid process": 0.25,
        "sphenoid bone": 0.2,
        "petrous bone": 0.1,
        "paranasal sinus": 0.1,
        "cervical vertebra": 0.05,
    },
    4: {
        "cavernous sinus": 0.3,
        "intracranial": 0.2,
        "masticator space": 0.25,
        "parotid gland": 0.08,
        "orbit": 0.07,
        "hypopharynx": 0.1,
    },
}
"""How often each structure is the one a tumour of that category reaches for."""

AGAIN: Final = {1: 0.8, 2: 0.8, 3: 0.35, 4: 0.2}
"""How often a second structure of the highest category is reached for."""

BELOW: Final = {1: 0.0, 2: 0.8, 3: 0.6, 4: 0.45}
"""How often each lower category has a structure reached for, by the category of the tumour."""

VOLUME_MEDIAN_CC: Final = 12.0
VOLUME_SIGMA: Final = 0.5
VOLUME_RANGE_CC: Final = (4.0, 45.0)
"""One volume law for every stage, so that size alone does not give the stage away (6.3)."""

TRIES: Final = 40
VOXEL_MM3: Final = float(np.prod(STEP_MM))
_LEVELS: Final = np.array(tissue_levels(), dtype=np.uint8)


class GrowthError(RuntimeError):
    """No tumour of the wanted stage could be grown in this head."""


@dataclass(frozen=True)
class Tumour:
    """A grown tumour on the working grid, the structures it invades in mm3 and its stage by the TNM rule."""

    mask: Mask
    invaded: Mapping[str, float]
    stage: str


def invasion(labels: NDArray[np.uint8], mask: Mask) -> dict[str, float]:
    """Tumour volume inside every structure, in mm3; structures it does not touch are left out."""
    counts = np.bincount(labels[mask], minlength=len(Tissue)) * VOXEL_MM3
    volumes = {name: float(counts[list(tissues)].sum()) for name, tissues in STRUCTURES.items()}
    return {name: volume for name, volume in volumes.items() if volume > 0}


def allowed(labels: NDArray[np.uint8], stage: str) -> Mask:
    """Voxels a tumour of that stage may occupy: tissues of its level or below."""
    return np.asarray(_LEVELS[labels] <= STAGES.index(stage) + 1)


def grow(rng: np.random.Generator, head: Head, stage: str) -> Tumour:
    """A connected tumour of the wanted stage. Its volume is drawn before the stage is looked at."""
    volume = float(np.clip(VOLUME_MEDIAN_CC * np.exp(VOLUME_SIGMA * rng.standard_normal()), *VOLUME_RANGE_CC)) * 1000
    for attempt in range(TRIES):
        tumour = _try(rng, head, stage, volume, reach=1.0 + 0.06 * attempt)
        if tumour is not None and tumour.stage == stage:
            return tumour
    raise GrowthError(f"no {stage} tumour grew in {TRIES} tries")


def _try(rng: np.random.Generator, head: Head, stage: str, volume: float, reach: float) -> Tumour | None:
    box = _region()
    labels = head.labels[box]
    seed = _seed(rng, head, box)
    field = _body(rng, labels.shape, seed, volume)
    for anchor in _anchors(rng, labels, seed, stage):
        np.maximum(field, _tongue(rng, labels.shape, seed, anchor, reach), out=field)
    field += 1.3 * smooth_field(rng, field.shape, (9, 9, 9))
    room = allowed(labels, stage)
    room[seed] = True
    grown = _component(field, room, seed, volume)
    if grown is None:
        return None
    mask = np.zeros(SHAPE, dtype=np.bool_)
    mask[box] = grown
    found = invasion(head.labels, mask)
    return Tumour(mask, found, stage_of(found))


def _region() -> Box:
    """The part of the working grid a tumour can reach: 75 mm to the sides, 70 in front, 45 behind, 95 down, 60 up."""
    limits = ((-95.0, 60.0), (-72.0, 46.0), (-72.0, 72.0))
    z, y, x = (
        slice(int((low - origin) / step), int((high - origin) / step))
        for (low, high), origin, step in zip(limits, ORIGIN_MM, STEP_MM, strict=True)
    )
    return z, y, x


def _seed(rng: np.random.Generator, head: Head, box: Box) -> tuple[int, int, int]:
    """A mucosal voxel near one Rosenmueller recess."""
    side = float(rng.choice((-1.0, 1.0)))
    target = (side * 14.0, float(rng.normal(4, 2)), float(rng.normal(2, 4)))
    x, y, z = (axis[box] for axis in head.coordinates)
    distance = (x - target[0]) ** 2 + (y - target[1]) ** 2 + (z - target[2]) ** 2
    distance[head.labels[box] != Tissue.NASOPHARYNX] = np.inf
    k, j, i = np.unravel_index(int(np.argmin(distance)), distance.shape)
    return int(k), int(j), int(i)


def _offsets(shape: tuple[int, ...], point: tuple[float, ...]) -> tuple[Floats, Floats, Floats]:
    z, y, x = (
        ((np.arange(size) - at) * step).astype(np.float32) for size, at, step in zip(shape, point, STEP_MM, strict=True)
    )
    return z[:, None, None], y[None, :, None], x[None, None, :]


def _body(rng: np.random.Generator, shape: tuple[int, ...], seed: tuple[int, int, int], volume: float) -> Floats:
    """Level set of the main mass: an ellipsoid around the seed, in mm (positive inside)."""
    radius = float((3 * volume / (4 * np.pi)) ** (1 / 3))
    stretch = np.exp(rng.normal(0, 0.15, 3))
    z, y, x = _offsets(shape, seed)
    distance = np.sqrt((z / stretch[0]) ** 2 + (y / stretch[1]) ** 2 + (x / stretch[2]) ** 2)
    return np.asarray(np.float32(radius) - distance, dtype=np.float32)


def _anchors(
    rng: np.random.Generator, labels: NDArray[np.uint8], seed: tuple[int, int, int], stage: str
) -> list[tuple[int, int, int]]:
    """Voxels to reach for: one or two structures of the wanted level, often one of every level below.

    Early tumours reach as far as late ones, only elsewhere: a long tumour is not therefore an advanced one.
    """
    wanted = STAGES.index(stage) + 1
    names: list[str] = []
    for level in range(1, wanted + 1):
        weights = WEIGHTS[level]
        count = 1 + int(rng.random() < AGAIN[level]) if level == wanted else int(rng.random() < BELOW[wanted])
        chosen = rng.choice(len(weights), count, replace=False, p=list(weights.values()))
        names += [list(weights)[int(index)] for index in chosen]
    found = [_anchor(rng, labels, seed, name) for name in names]
    return [anchor for anchor in found if anchor is not None]


def _anchor(
    rng: np.random.Generator, labels: NDArray[np.uint8], seed: tuple[int, int, int], name: str
) -> tuple[int, int, int] | None:
    """A voxel of the structure, among the nearest third to the seed."""
    where = np.argwhere(np.isin(labels, STRUCTURES[name]))
    if not len(where):
        return None
    distance = np.linalg.norm((where - np.asarray(seed)) * np.asarray(STEP_MM), axis=1)
    near = where[distance <= np.quantile(distance, 0.05) + 7.0]
    k, j, i = near[int(rng.integers(len(near)))]
    return int(k), int(j), int(i)


def _tongue(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    seed: tuple[int, int, int],
    anchor: tuple[int, int, int],
    reach: float,
) -> Floats:
    """Level set of a bent capsule from seed to anchor, thicker at its end."""
    steps = np.asarray(STEP_MM)
    start, end = np.asarray(seed, dtype=float), np.asarray(anchor, dtype=float)
    bend = (start + end) / 2 + rng.normal(0, 3.0, 3) / steps
    root, tip = float(rng.uniform(4.5, 6.5)) * reach, float(rng.uniform(5.0, 8.0)) * reach
    first = _capsule(shape, start, bend, root, (root + tip) / 2)
    return np.maximum(first, _capsule(shape, bend, end, (root + tip) / 2, tip))


def _capsule(
    shape: tuple[int, ...], start: NDArray[np.float64], end: NDArray[np.float64], r0: float, r1: float
) -> Floats:
    axis = (end - start) * np.asarray(STEP_MM)
    length = float(axis @ axis) + 1e-6
    z, y, x = _offsets(shape, tuple(start))
    along = np.clip((z * axis[0] + y * axis[1] + x * axis[2]) / length, 0, 1).astype(np.float32)
    distance = np.sqrt((z - along * axis[0]) ** 2 + (y - along * axis[1]) ** 2 + (x - along * axis[2]) ** 2)
    return np.asarray(r0 + along * (r1 - r0) - distance, dtype=np.float32)


def _component(field: Floats, room: Mask, seed: tuple[int, int, int], volume: float) -> Mask | None:
    """The part connected to the seed at the level that gives the wanted volume (moved by -3 to 2.5 mm at most)."""
    inside = field[room]
    count = min(int(volume / VOXEL_MM3), inside.size - 1)
    level = float(np.clip(-np.partition(-inside, count)[count], -3.0, 2.5))
    labels, _ = ndimage.label((field > level) & room)
    number = int(labels[seed])
    if number == 0:
        return None
    filled: Mask = ndimage.binary_fill_holes(labels == number) & room
    return filled
