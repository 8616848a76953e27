"""The scanner: contrast, partial volume, slice profile, bias, ghost, Rician noise, zero filling, 16-bit scaling."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from model.labels import NEVER, tissue_levels
from model.labels import Tissue as T
from model.phantom.anatomy import ORIGIN_MM, SHAPE, STEP_MM
from model.phantom.fields import Floats, interpolation_rows, separable, smooth_field, zero_fill_rows

Positions = NDArray[np.float64]

MAX_ACQUIRED: Final = 288
"""Largest acquired matrix; larger ones are zero-filled, as scanners do."""

SCANNERS: Final = (
    ("GE MEDICAL SYSTEMS", "Optima MR360", 1.5, 280),
    ("GE MEDICAL SYSTEMS", "Signa HDxt", 1.5, 43),
    ("Philips Medical Systems", "Ingenia", 3.0, 4),
    ("Philips Medical Systems", "Achieva", 3.0, 5),
    ("SIEMENS", "Avanto", 1.5, 24),
)
"""Make, model, field (T) and series of the paper's data set 1 before exclusion."""


@dataclass(frozen=True)
class ScannerProfile:
    """How one series was taken. ``centre_mm`` is the stack's centre from the nasopharynx, LPS (x, y, z)."""

    manufacturer: str = "GE MEDICAL SYSTEMS"
    model: str = "Optima MR360"
    field_t: float = 1.5
    matrix: int = 512
    pixel_mm: float = 0.4688
    slices: int = 32
    spacing_mm: float = 6.0
    centre_mm: tuple[float, float, float] = (0.0, 5.0, -15.0)
    fat_saturated: bool = False
    noise: float = 0.025
    ghost: float = 0.0
    bias: float = 0.15
    peak: int = 1200
    repetition_ms: float = 620.0
    echo_ms: float = 11.0

    @property
    def acquired(self) -> int:
        """Acquired matrix before zero filling."""
        return min(self.matrix, MAX_ACQUIRED)


def small_profile() -> ScannerProfile:
    """A quick series for tests: 256 x 256 x 20."""
    return ScannerProfile(matrix=256, pixel_mm=0.92, slices=20, spacing_mm=6.0)


def golden_profile() -> ScannerProfile:
    """A series small enough to travel inside a bundle."""
    return ScannerProfile(matrix=200, pixel_mm=1.09, slices=19, spacing_mm=6.5, centre_mm=(3.0, 8.0, -8.0), noise=0.02)


def draw_profile(rng: np.random.Generator) -> ScannerProfile:
    """A series from the paper's mix of scanners: .34-1.09 mm pixels, 3.5-7 mm slices, 256-672 matrix."""
    shares = np.array([count for *_, count in SCANNERS], dtype=float)
    maker, model, field, _ = SCANNERS[int(rng.choice(len(SCANNERS), p=shares / shares.sum()))]
    matrix = int(rng.choice((256, 320, 384, 448, 512, 560, 640, 672), p=(0.12, 0.12, 0.1, 0.06, 0.5, 0.04, 0.03, 0.03)))
    pixel = float(np.clip(rng.uniform(220, 278) / matrix, 0.34, 1.09))
    spacing = round(float(np.clip(rng.normal(5.9, 0.9), 3.5, 7.0)), 1)
    coverage = float(rng.uniform(100, 240))
    slack = min(30.0, coverage / 2 - 44)
    middle = -4 - 0.12 * (coverage - 100)
    return ScannerProfile(
        manufacturer=maker,
        model=model,
        field_t=field,
        matrix=matrix,
        pixel_mm=round(pixel, 4),
        slices=int(np.clip(round(coverage / spacing), 16, 120)),
        spacing_mm=spacing,
        centre_mm=(float(rng.normal(0, 8)), float(rng.normal(6, 8)), middle + float(rng.uniform(-slack, slack))),
        fat_saturated=bool(rng.random() < (0.35 if maker.startswith("GE") else 0.5)),
        noise=float(rng.uniform(0.015, 0.04)),
        ghost=float(rng.uniform(0.01, 0.04)) if rng.random() < 0.3 else 0.0,
        bias=float(rng.uniform(0.05, 0.25)),
        peak=int(rng.uniform(500, 2500)),
        repetition_ms=round(float(rng.uniform(450, 750)), 1),
        echo_ms=round(float(rng.uniform(8, 15)), 1),
    )


_PLAIN: Final = {
    T.AIR: 0.01, T.SKIN_FAT: 0.95, T.SOFT: 0.42, T.VAULT: 0.08, T.BRAIN: 0.42, T.CSF: 0.13, T.CORD: 0.40,
    T.MASTICATOR_FAT: 0.88, T.MASSETER: 0.37, T.TEMPORALIS: 0.37, T.MANDIBLE: 0.18, T.MEDIAL_PTERYGOID: 0.37,
    T.LATERAL_PTERYGOID: 0.37, T.PAROTID: 0.66, T.PARAPHARYNGEAL: 0.88, T.CAROTID: 0.07, T.JUGULAR: 0.76,
    T.SPINE: 0.50, T.LONGUS: 0.35, T.CLIVUS: 0.70, T.PETROUS: 0.14, T.SPHENOID: 0.48, T.GREATER_WING: 0.42,
    T.PTERYGOID_PROCESS: 0.28, T.SINUS_AIR: 0.02, T.SINUS_MUCOSA: 0.76, T.CAVERNOUS: 0.82, T.PITUITARY: 0.80,
    T.ORBIT: 0.88, T.GLOBE: 0.20, T.NASAL_AIR: 0.02, T.NASAL_MUCOSA: 0.78, T.NASOPHARYNX_AIR: 0.02,
    T.NASOPHARYNX: 0.76, T.OROPHARYNX_AIR: 0.02, T.OROPHARYNX: 0.70, T.HYPOPHARYNX_AIR: 0.02, T.HYPOPHARYNX: 0.66,
    T.TONGUE: 0.43, T.ADENOID: 0.66, T.CYST: 0.17, T.NODE: 0.56, T.TUMOUR: 0.60,
}  # fmt: skip
"""Signal after contrast medium without fat saturation, as a share of full scale (invented, ordered as in life)."""

_FAT_TISSUES: Final = {
    T.SKIN_FAT: 0.22, T.MASTICATOR_FAT: 0.20, T.PARAPHARYNGEAL: 0.20, T.ORBIT: 0.20, T.CLIVUS: 0.25, T.SPHENOID: 0.20,
    T.GREATER_WING: 0.20, T.SPINE: 0.24, T.PAROTID: 0.46, T.MANDIBLE: 0.12, T.TUMOUR: 0.64, T.NASOPHARYNX: 0.82,
    T.NASAL_MUCOSA: 0.86, T.SINUS_MUCOSA: 0.84,
}  # fmt: skip
"""What fat saturation changes."""


def render(
    rng: np.random.Generator, labels: NDArray[np.uint8], mask: NDArray[np.bool_], profile: ScannerProfile
) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
    """Native voxels and native tumour mask, [slice, row, column] with rows to posterior and columns to left."""
    z, y, x = _sampling(profile)
    signal = separable(_contrast(rng, labels, mask, profile), z, y, x)
    signal *= np.exp(np.float32(profile.bias) * smooth_field(rng, signal.shape, (2, 2, 2)))
    if profile.ghost:
        signal += profile.ghost * np.roll(signal, signal.shape[1] // 2, axis=1)
    real, imaginary = (np.float32(profile.noise) * rng.standard_normal(signal.shape, np.float32) for _ in range(2))
    magnitude = np.hypot(signal + real, imaginary)
    display = _zero_fill(profile.acquired, profile.matrix)
    voxels = np.clip(np.matmul(np.matmul(display, magnitude), display.T) * profile.peak, 0, 32000)
    truth = _native_mask(mask, profile)
    return voxels.round().astype(np.int16), truth


@lru_cache(maxsize=8)
def _zero_fill(acquired: int, displayed: int) -> Floats:
    return zero_fill_rows(acquired, displayed)


def native_axes(profile: ScannerProfile, matrix: int) -> tuple[Positions, Positions, Positions]:
    """Sample positions (z, y, x) in mm from the nasopharynx; the first sample is the same for every matrix."""
    x0, y0, z0 = profile.centre_mm
    field = profile.matrix * profile.pixel_mm
    plane = np.arange(matrix) * (field / matrix) - (profile.matrix - 1) / 2 * profile.pixel_mm
    stack = (np.arange(profile.slices) - (profile.slices - 1) / 2) * profile.spacing_mm
    return np.asarray(stack + z0), np.asarray(plane + y0), np.asarray(plane + x0)


def _rows(points: NDArray[np.float64], axis: int, *, clamp: bool) -> Floats:
    return interpolation_rows((points - ORIGIN_MM[axis]) / STEP_MM[axis], SHAPE[axis], clamp=clamp)


def _slice_rows(profile: ScannerProfile) -> Floats:
    """(slices, working z): the mean over 85 % of the slice spacing."""
    z, _, _ = native_axes(profile, profile.matrix)
    half = 0.85 * profile.spacing_mm / 2
    parts = [_rows(z + shift, 0, clamp=True) for shift in np.linspace(-half, half, 5)]
    return np.asarray(np.mean(parts, axis=0), dtype=np.float32)


def _sampling(profile: ScannerProfile) -> tuple[Floats, Floats, Floats]:
    _, y, x = native_axes(profile, profile.acquired)
    return _slice_rows(profile), _rows(y, 1, clamp=False), _rows(x, 2, clamp=False)


def _contrast(
    rng: np.random.Generator, labels: NDArray[np.uint8], mask: NDArray[np.bool_], profile: ScannerProfile
) -> Floats:
    """Signal on the working grid: tissue table with jitter, texture, tumour heterogeneity, necrosis, soft margins."""
    table = np.array([_PLAIN[t] for t in T], dtype=np.float32)
    if profile.fat_saturated:
        for tissue, value in _FAT_TISSUES.items():
            table[tissue] = value
    table *= np.clip(1 + 0.07 * rng.standard_normal(len(table)), 0.8, 1.2).astype(np.float32)
    table[T.TUMOUR] = np.clip(table[T.TUMOUR], 0.52, 0.70)
    painted = np.where(mask, np.uint8(T.TUMOUR), labels)
    signal = table[painted]
    signal *= 1 + np.float32(0.04) * smooth_field(rng, SHAPE, (24, 36, 30))
    _heterogeneity(rng, signal, mask)
    return np.asarray(ndimage.gaussian_filter(signal, (0.35, 0.5, 0.5), truncate=2.0), dtype=np.float32)


def _heterogeneity(rng: np.random.Generator, signal: Floats, mask: NDArray[np.bool_]) -> None:
    """Patchy uptake inside the tumour; a dark core in some large ones. In place."""
    found = ndimage.find_objects(mask.astype(np.int8))
    if not found:
        return
    box = found[0]
    inside = mask[box]
    patches = 1 + 0.06 * smooth_field(rng, inside.shape, (6, 8, 8))
    signal[box][inside] *= patches[inside]
    if inside.sum() * np.prod(STEP_MM) > 12000 and rng.random() < 0.35:
        depth = ndimage.distance_transform_edt(inside, sampling=STEP_MM)
        signal[box][depth > max(5.0, 0.7 * float(depth.max()))] *= 0.6


def native_levels(labels: NDArray[np.uint8], profile: ScannerProfile) -> NDArray[np.uint8]:
    """T category that the tissue of every native voxel would give once invaded (nearest; ``NEVER`` outside)."""
    z, y, x = native_axes(profile, profile.matrix)
    levels = np.array(tissue_levels(), dtype=np.uint8)[labels]
    steps = [np.rint((p - ORIGIN_MM[a]) / STEP_MM[a]).astype(int) for a, p in enumerate((z, y, x))]
    inside = [(s >= 0) & (s < n) for s, n in zip(steps, SHAPE, strict=True)]
    taken = levels[np.ix_(*(s.clip(0, n - 1) for s, n in zip(steps, SHAPE, strict=True)))]
    known = inside[0][:, None, None] & inside[1][None, :, None] & inside[2][None, None, :]
    return np.where(known, taken, np.uint8(NEVER))


def _native_mask(mask: NDArray[np.bool_], profile: ScannerProfile) -> NDArray[np.bool_]:
    """Truth on the native grid: at least half of the voxel's slice profile is tumour."""
    truth = np.zeros((profile.slices, profile.matrix, profile.matrix), dtype=np.bool_)
    _, y, x = native_axes(profile, profile.matrix)
    z_rows, y_rows, x_rows = _slice_rows(profile), _rows(y, 1, clamp=False), _rows(x, 2, clamp=False)
    through = np.tensordot(z_rows, mask.astype(np.float32), axes=(1, 0))
    for index in np.flatnonzero(through.any(axis=(1, 2))):
        truth[index] = y_rows @ through[index] @ x_rows.T >= 0.5
    return truth
