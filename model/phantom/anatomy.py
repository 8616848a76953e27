"""A head and neck painted from about a hundred superellipsoids in LPS millimetres, origin in the nasopharynx."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from model.labels import Tissue as T
from model.phantom.fields import Box, Floats, smooth_field

ORIGIN_MM: Final = (-100.0, -112.0, -91.0)
STEP_MM: Final = (2.0, 1.4, 1.4)
SHAPE: Final = (95, 164, 130)
"""Working grid (z, y, x): 190 x 230 x 182 mm around the nasopharynx."""

SCALE_SD: Final = 0.06
DISPLACEMENT_MM: Final = 3.0
ROTATION_DEGREES: Final = 8.0
JITTER: Final = 0.07
"""How much heads differ: size per axis, bending (SD), turning (largest, about each axis), size of single organs."""

Point = tuple[float, float, float]
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Head:
    """Tissue numbers on the working grid and the anatomical coordinates (x, y, z) of every voxel."""

    labels: NDArray[np.uint8]
    coordinates: tuple[Floats, Floats, Floats]


class _Painter:
    """Paints superellipsoids in order; every call jitters its centre and size a little."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.labels = np.zeros(SHAPE, dtype=np.uint8)
        self.linear = _pose(rng)
        self.inverse = np.linalg.inv(self.linear)
        self.coordinates = _warp(rng, self.linear)

    def one(self, tissue: T, centre: Point, radii: Point, *, power: int = 2, tilt: float = 0, yaw: float = 0) -> None:
        """One superellipsoid: ``centre`` and ``radii`` in mm (x, y, z), ``tilt`` about x, ``yaw`` about z, degrees."""
        c = np.asarray(centre) + self.rng.normal(0, 0.6, 3)
        r = np.asarray(radii) * np.clip(1 + JITTER * self.rng.standard_normal(3), 0.8, 1.2)
        self._fill(int(tissue), c, r, power, np.radians(tilt), np.radians(yaw))

    def pair(self, tissue: T, centre: Point, radii: Point, *, power: int = 2, tilt: float = 0, yaw: float = 0) -> None:
        """The same on both sides; ``centre`` names the left one."""
        x, y, z = centre
        self.one(tissue, (x, y, z), radii, power=power, tilt=tilt, yaw=yaw)
        self.one(tissue, (-x, y, z), radii, power=power, tilt=tilt, yaw=-yaw)

    def shell(self, wall: T, inner: T, centre: Point, radii: Point, thickness: float, *, power: int = 2) -> None:
        """A wall with another tissue inside."""
        c = np.asarray(centre) + self.rng.normal(0, 0.6, 3)
        r = np.asarray(radii) * np.clip(1 + JITTER * self.rng.standard_normal(3), 0.8, 1.2)
        self._fill(int(wall), c, r, power, 0.0, 0.0)
        self._fill(int(inner), c, np.maximum(r - thickness, 0.5), power, 0.0, 0.0)

    def _fill(self, tissue: int, c: Vector, r: Vector, power: int, tilt: float, yaw: float) -> None:
        box = self._box(c, r, rotated=bool(tilt or yaw))
        x, y, z = (axis[box] - np.float32(offset) for axis, offset in zip(self.coordinates, c, strict=True))
        if tilt:
            y, z = _rotate(y, z, tilt)
        if yaw:
            x, y = _rotate(x, y, yaw)
        q = sum((axis * np.float32(1 / radius)) ** 2 for axis, radius in zip((x, y, z), r, strict=True))
        if power == 4:
            squares = [(axis * np.float32(1 / radius)) ** 2 for axis, radius in zip((x, y, z), r, strict=True)]
            q = sum(square * square for square in squares)
        self.labels[box][q <= 1] = tissue

    def _box(self, c: Vector, r: Vector, *, rotated: bool) -> Box:
        half = np.full(3, np.linalg.norm(r)) if rotated else r
        middle = self.inverse @ c
        reach = np.abs(self.inverse) @ half + 3 * DISPLACEMENT_MM
        slices = []
        for axis, (origin, step, size) in enumerate(zip(ORIGIN_MM, STEP_MM, SHAPE, strict=True)):
            world = 2 - axis
            first = int((middle[world] - reach[world] - origin) // step)
            last = int((middle[world] + reach[world] - origin) // step) + 2
            slices.append(slice(min(max(first, 0), size), min(max(last, 0), size)))
        return slices[0], slices[1], slices[2]


def _rotate(a: Floats, b: Floats, angle: float) -> tuple[Floats, Floats]:
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return cosine * a + sine * b, cosine * b - sine * a


def _pose(rng: np.random.Generator) -> NDArray[np.float64]:
    """World -> anatomy: head rotation about the three axes and a scale per axis."""
    pitch, roll, yaw = np.radians(rng.uniform(-ROTATION_DEGREES, ROTATION_DEGREES, 3))
    scale = np.clip(1 + SCALE_SD * rng.standard_normal(3), 0.85, 1.15)
    rx = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    ry = np.array([[np.cos(roll), 0, np.sin(roll)], [0, 1, 0], [-np.sin(roll), 0, np.cos(roll)]])
    rz = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
    return np.asarray(np.diag(1 / scale) @ rx @ ry @ rz)


def world_axes() -> tuple[Floats, Floats, Floats]:
    """World coordinates of the working grid's samples along z, y and x, in mm."""
    z, y, x = (
        (origin + step * np.arange(size)).astype(np.float32)
        for origin, step, size in zip(ORIGIN_MM, STEP_MM, SHAPE, strict=True)
    )
    return z, y, x


def _warp(rng: np.random.Generator, linear: NDArray[np.float64]) -> tuple[Floats, Floats, Floats]:
    z, y, x = world_axes()
    out = []
    for row in linear.astype(np.float32):
        straight = row[2] * z[:, None, None] + row[1] * y[None, :, None] + row[0] * x[None, None, :]
        bend = np.clip(smooth_field(rng, SHAPE, (5, 5, 5)), -2.5, 2.5) * np.float32(DISPLACEMENT_MM)
        out.append(straight + bend)
    return out[0], out[1], out[2]


def draw_head(rng: np.random.Generator) -> Head:
    """One patient without tumour."""
    painter = _Painter(rng)
    _outline(painter)
    _brain(painter)
    _neck(painter)
    _chewing(painter)
    _skull_base(painter)
    _sinuses(painter)
    _airway(painter)
    _confounders(painter)
    return Head(painter.labels, painter.coordinates)


def _outline(p: _Painter) -> None:
    for tissue, shrink in ((T.SKIN_FAT, 0.0), (T.SOFT, 5.0)):
        p.one(tissue, (0, 8, 30), (77 - shrink, 98 - shrink, 100 - shrink))
        p.one(tissue, (0, 28, -90), (58 - shrink, 58 - shrink, 120), power=4)
        p.one(tissue, (0, -32, -28), (57 - shrink, 60 - shrink, 48 - shrink))
        p.one(tissue, (0, -86, 0), (13 - shrink, 18 - shrink, 20 - shrink))


def _brain(p: _Painter) -> None:
    p.one(T.VAULT, (0, 10, 78), (71, 88, 56))
    p.pair(T.VAULT, (36, -2, 40), (29, 36, 26))
    p.one(T.VAULT, (0, 60, 18), (58, 40, 38))
    p.one(T.CSF, (0, 10, 78), (67, 84, 51))
    p.pair(T.CSF, (36, -2, 40), (25, 32, 21))
    p.one(T.CSF, (0, 60, 19), (53, 36, 33))
    p.one(T.BRAIN, (0, 10, 80), (64, 81, 49))
    p.pair(T.BRAIN, (36, -2, 40), (23, 30, 19))
    p.one(T.BRAIN, (0, 66, 20), (49, 29, 29))
    p.one(T.CSF, (0, 36, 24), (17, 13, 18))
    p.one(T.BRAIN, (0, 38, 27), (13, 10, 15))


def _neck(p: _Painter) -> None:
    p.one(T.SOFT, (0, 62, -70), (40, 22, 60), power=4)
    p.one(T.SPINE, (0, 33, -72), (11, 10, 48), power=4)
    p.pair(T.SPINE, (18, 30, -19), (9, 9, 8))
    p.one(T.SPINE, (0, 25, -17), (14, 4, 6))
    p.one(T.SPINE, (0, 32, -24), (7, 6, 18))
    p.one(T.CSF, (0, 49, -60), (9, 8, 75), power=4)
    p.one(T.CORD, (0, 49, -60), (6, 5, 75), power=4)
    p.pair(T.LONGUS, (8, 18, -32), (7.5, 5, 44))
    p.pair(T.MASSETER, (44, 34, -62), (8, 14, 42))
    p.one(T.TONGUE, (0, -36, -36), (22, 29, 19))
    p.one(T.MANDIBLE, (0, -78, -48), (14, 6, 10))
    p.pair(T.MANDIBLE, (28, -55, -48), (5, 30, 10), yaw=-28)


def _chewing(p: _Painter) -> None:
    p.pair(T.MASTICATOR_FAT, (42, -24, 6), (15, 19, 24))
    p.pair(T.TEMPORALIS, (51, -22, 24), (7, 18, 20))
    p.pair(T.MASSETER, (54, -22, -20), (7, 14, 24))
    p.pair(T.MANDIBLE, (45, -12, -18), (4, 13, 26), power=4)
    p.pair(T.PAROTID, (50, 13, -20), (11, 14, 22))
    p.pair(T.LATERAL_PTERYGOID, (30, -8, 8), (11, 12, 8))
    p.pair(T.MEDIAL_PTERYGOID, (29, -9, -14), (6.5, 10, 18))
    p.pair(T.PARAPHARYNGEAL, (22, 2, -6), (5.5, 11, 22))
    p.pair(T.CAROTID, (23, 17, -30), (3, 3, 45))
    p.pair(T.JUGULAR, (29, 22, -34), (5, 5, 44))


def _skull_base(p: _Painter) -> None:
    p.one(T.CLIVUS, (0, 22, 15), (12, 6.5, 18), tilt=-28)
    p.pair(T.PETROUS, (32, 28, 16), (21, 8, 8), yaw=25)
    p.one(T.SPHENOID, (0, 2, 27), (17, 14, 10), power=4)
    p.pair(T.GREATER_WING, (30, -14, 22), (15, 8, 7))
    p.pair(T.PTERYGOID_PROCESS, (16, -19, 3), (4, 6.5, 17))
    p.pair(T.CAVERNOUS, (14, 6, 40), (6, 11, 7))
    p.one(T.PITUITARY, (0, 8, 41), (6, 5, 4))
    p.pair(T.CAROTID, (14, 8, 39), (2.4, 7, 2.4))


def _sinuses(p: _Painter) -> None:
    rng = p.rng
    swelling = 1.2 + (rng.random(3) < 0.25) * rng.uniform(1.5, 4, 3)
    p.shell(T.SINUS_MUCOSA, T.SINUS_AIR, (0, -1, 27), (12, 10, 8), float(swelling[0]))
    for side, thick in zip((-1, 1), swelling[1:], strict=True):
        p.shell(T.SINUS_MUCOSA, T.SINUS_AIR, (side * 30, -46, 2), (16, 18, 18), float(thick))
    p.shell(T.SINUS_MUCOSA, T.SINUS_AIR, (0, -38, 29), (11, 22, 11), 1.5, power=4)
    p.pair(T.ORBIT, (31, -50, 36), (17, 24, 16))
    p.pair(T.GLOBE, (31, -62, 36), (12, 12, 12))
    p.one(T.SINUS_MUCOSA, (0, -38, 29), (1.5, 20, 10), power=4)


def _airway(p: _Painter) -> None:
    p.one(T.NASAL_MUCOSA, (0, -46, 4), (16, 34, 20), power=4)
    p.one(T.NASAL_AIR, (0, -47, 4), (13, 33, 17), power=4)
    p.pair(T.NASAL_MUCOSA, (7, -44, -4), (3.6, 26, 5))
    p.pair(T.NASAL_MUCOSA, (6.5, -40, 9), (2.8, 20, 4))
    p.one(T.NASAL_MUCOSA, (0, -48, 4), (1.5, 33, 18), power=4)
    p.one(T.VAULT, (0, -44, -18), (21, 26, 2.5))
    p.shell(T.HYPOPHARYNX, T.HYPOPHARYNX_AIR, (0, 8, -78), (16, 10, 24), 4.5)
    p.shell(T.OROPHARYNX, T.OROPHARYNX_AIR, (0, 1, -36), (17, 12, 26), 5.0)
    p.one(T.NASOPHARYNX, (0, 1, 1), (20, 15, 17))
    p.one(T.NASOPHARYNX_AIR, (0, -4, -1), (11, 10, 12))
    p.pair(T.NASOPHARYNX_AIR, (13, 6, 2), (4.5, 3, 7), yaw=-30)


def _confounders(p: _Painter) -> None:
    rng = p.rng
    if rng.random() < 0.3:
        p.one(T.ADENOID, (0, 9, 8), (9, 5, 6))
    if rng.random() < 0.25:
        p.one(T.CYST, (float(rng.uniform(-5, 5)), 10, float(rng.uniform(-4, 8))), (3.5, 3, 3.5))
    for _ in range(int(min(rng.poisson(1.2), 4))):
        side = float(rng.choice((-1.0, 1.0)))
        size = float(rng.uniform(4, 10))
        where = (side * float(rng.uniform(30, 40)), float(rng.uniform(14, 34)), float(rng.uniform(-80, -28)))
        p.one(T.NODE, where, (size, size, size * 1.3))
