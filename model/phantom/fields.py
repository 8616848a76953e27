"""Random smooth fields and separable resampling, the arithmetic every phantom step needs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Box = tuple[slice, slice, slice]


def spline_rows(size: int, knots: int) -> Floats:
    """(size, knots + 3) cubic B-spline weights that stretch a few random knots over ``size`` samples."""
    position = np.linspace(0, knots, size, endpoint=False)
    base = position.astype(int)
    t = position - base
    rows = np.zeros((size, knots + 3))
    u = 1 - t
    weights = (u**3, 3 * t**3 - 6 * t**2 + 4, 3 * u**3 - 6 * u**2 + 4, t**3)
    for knot, weight in enumerate(weights):
        rows[np.arange(size), base + knot] = weight / 6
    return rows.astype(np.float32)


def separable(values: Floats, z: Floats, y: Floats, x: Floats) -> Floats:
    """Apply one matrix per axis: (Z, Y, X) -> (z rows, y rows, x rows)."""
    first = np.tensordot(z, values, axes=(1, 0))
    result: Floats = np.matmul(np.matmul(y, first), x.T)
    return result


def smooth_field(rng: np.random.Generator, shape: tuple[int, int, int], knots: tuple[int, int, int]) -> Floats:
    """Smooth random field of about unit SD on ``shape`` from ``knots`` random values per axis."""
    seed = rng.standard_normal(tuple(k + 3 for k in knots)).astype(np.float32)
    z, y, x = (spline_rows(n, k) for n, k in zip(shape, knots, strict=True))
    return 2.2 * separable(seed, z, y, x)


def interpolation_rows(points: NDArray[np.float64], size: int, *, clamp: bool) -> Floats:
    """Linear interpolation of ``size`` samples at ``points``; beyond the ends held (``clamp``) or zero."""
    inside = np.ones(len(points)) if clamp else ((points >= 0) & (points <= size - 1)).astype(float)
    held = np.clip(points, 0, size - 1)
    base = np.minimum(held.astype(int), size - 2)
    rows = np.zeros((len(points), size), dtype=np.float32)
    index = np.arange(len(points))
    rows[index, base] = (1 - (held - base)) * inside
    rows[index, base + 1] += (held - base) * inside
    return rows


def zero_fill_rows(acquired: int, displayed: int) -> Floats:
    """(displayed, acquired) Fourier interpolation, as a scanner zero-fills k-space."""
    if acquired == displayed:
        return np.eye(acquired, dtype=np.float32)
    spectrum = np.fft.fftshift(np.fft.fft(np.eye(acquired), axis=0), axes=0)
    before = displayed // 2 - acquired // 2
    padded = np.zeros((displayed, acquired), dtype=complex)
    padded[before : before + acquired] = spectrum
    image = np.fft.ifft(np.fft.ifftshift(padded, axes=0), axis=0).real * (displayed / acquired)
    return image.astype(np.float32)
