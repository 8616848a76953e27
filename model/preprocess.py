"""From a native series to the network's window and back. The one path that training and the clinic share.

Steps (2.4 and A20..A27): check, turn the axes to canonical order, clip and z-score inside the body mask, resample with
a cubic B-spline in-plane and the nearest slice through-plane, cut the window; and the inverse for the probability map.
Canonical order is [inferior -> superior, anterior -> posterior, right -> left], i.e. growing LPS (z, y, x).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from model.manifest import GridSpec, Limit, LimitFinding

Floats = NDArray[np.float32]
Matrix = NDArray[np.float64]
Mask = NDArray[np.bool_]

MIN_SLICES: Final = 8
MAX_SLICES: Final = 400
MIN_MATRIX: Final = 64
MAX_MATRIX: Final = 2048
MAX_VOXELS: Final = 2**28
IN_PLANE_MM: Final = (0.2, 2.0)
BETWEEN_SLICES_MM: Final = (0.5, 10.0)
MIN_FIELD_MM: Final = 105.0
MAX_VALUE: Final = 2.0**24
"""Beyond it float32 loses whole numbers: no MR series is that bright, an overflowed or miscast one may be."""

MAX_TILT_DEGREES: Final = 30.0
MAX_SHEAR: Final = 0.02
"""Largest cosine between two axes of the affine: 1.1 degrees of gantry tilt."""

TRAINED_LIMITS: Final[Mapping[str, Limit]] = {
    "rows": Limit(256, 672, "pixels"),
    "columns": Limit(256, 672, "pixels"),
    "slices": Limit(16, 70, "slices"),
    "pixel_mm": Limit(0.34, 1.09, "mm"),
    "slice_spacing_mm": Limit(3.5, 7.0, "mm"),
    "coverage_mm": Limit(95.0, 245.0, "mm"),
    "field_of_view_mm": Limit(215.0, 285.0, "mm"),
    "tilt_degrees": Limit(0.0, 8.0, "degrees"),
}
"""What the synthetic training cohort covers; outside it a prediction is made and the finding is reported."""


class InputError(ValueError):
    """The volume cannot be given to the network. ``code`` is stable; the message names the value and the limit."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Volume:
    """Voxels in canonical order with their spacing (z, y, x); remembers how to turn a map back."""

    voxels: Floats
    spacing_mm: tuple[float, float, float]
    order: tuple[int, int, int]
    flips: tuple[int, ...]
    tilt_degrees: float

    def turned(self, native: NDArray[Any]) -> NDArray[Any]:
        """An array of the caller's order, such as a mask, turned as the voxels were."""
        return np.ascontiguousarray(np.flip(native.transpose(self.order), self.flips))

    def to_native(self, canonical: Floats) -> Floats:
        """Undo the flips and the transpose: canonical order -> the caller's [slice, row, column]."""
        return np.ascontiguousarray(np.flip(canonical, self.flips).transpose(np.argsort(self.order)))


@dataclass(frozen=True)
class Window:
    """The network's window of one volume: values, where they came from, and which slices are real (A22, A24)."""

    values: Floats
    valid: Mask
    source: NDArray[np.intp]
    start_px: tuple[float, float]
    step_px: tuple[float, float]


# --- refusals ---------------------------------------------------------------------------------------------------


def orient(voxels: Floats, affine: Matrix) -> Volume:
    """Check the input and turn it to canonical order. Raises ``InputError``."""
    spacing, directions = _check_affine(affine)
    _check_shape(voxels, spacing)
    _check_values(voxels)
    order, signs = _axes(directions)
    turned = voxels.transpose(order)
    flips = tuple(axis for axis in range(3) if signs[axis] < 0)
    z, y, x = (float(spacing[axis]) for axis in order)
    tilt = float(np.degrees(np.arccos(min(1.0, abs(directions[2, 0])))))
    return Volume(np.ascontiguousarray(np.flip(turned, flips), dtype=np.float32), (z, y, x), order, flips, tilt)


def _check_affine(affine: Matrix) -> tuple[Matrix, Matrix]:
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise InputError("AFFINE", f"the affine must be a finite 4x4 matrix, got shape {affine.shape}")
    columns = affine[:3, :3]
    spacing = np.linalg.norm(columns, axis=0)
    if spacing.min() < 1e-6:
        raise InputError("AFFINE", f"the affine has an axis of length {spacing.min():.3g} mm")
    directions = columns / spacing
    cosine = float(np.abs(directions.T @ directions - np.eye(3)).max())
    if cosine > MAX_SHEAR:
        raise InputError("SHEAR", f"axes are not perpendicular: cosine {cosine:.3f}, limit {MAX_SHEAR}")
    return spacing, directions


def _check_shape(voxels: Floats, spacing: Matrix) -> None:
    if voxels.ndim != 3:
        raise InputError("NOT_3D", f"a volume has 3 axes [slice, row, column], got {voxels.ndim}")
    slices, rows, columns = voxels.shape
    _within("TOO_FEW_SLICES", "number of slices", slices, MIN_SLICES, np.inf)
    _within("TOO_MANY_SLICES", "number of slices", slices, 0, MAX_SLICES)
    _within("MATRIX_TOO_SMALL", "smaller matrix side", min(rows, columns), MIN_MATRIX, np.inf)
    _within("MATRIX_TOO_LARGE", "larger matrix side", max(rows, columns), 0, MAX_MATRIX)
    _within("TOO_MANY_VOXELS", "number of voxels", voxels.size, 0, MAX_VOXELS)
    _within("SLICE_SPACING", "slice spacing in mm", float(spacing[0]), *BETWEEN_SLICES_MM)
    for mm, count in zip(spacing[1:], (rows, columns), strict=True):
        _within("PIXEL_SPACING", "pixel spacing in mm", float(mm), *IN_PLANE_MM)
        _within("FIELD_TOO_SMALL", "in-plane field of view in mm", float(mm) * count, MIN_FIELD_MM, np.inf)


def _check_values(voxels: Floats) -> None:
    if not np.issubdtype(voxels.dtype, np.number) or np.iscomplexobj(voxels):
        raise InputError("NOT_NUMERIC", f"voxels must be real numbers, got {voxels.dtype}")
    low, high = float(voxels.min()), float(voxels.max())
    if not np.isfinite((low, high)).all():
        raise InputError("NOT_FINITE", f"voxels contain NaN or infinity (least {low}, greatest {high})")
    _within("OVERFLOW", "greatest absolute voxel value", max(abs(low), abs(high)), 0, MAX_VALUE)
    if high - low < 1e-6 * max(1.0, abs(high)):
        raise InputError("CONSTANT", f"every voxel is {low:g}: there is no image")


def _within(code: str, what: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        limit = f"at most {high:g}" if value > high else f"at least {low:g}"
        raise InputError(code, f"{what} is {value:g}, must be {limit}")


def _axes(directions: Matrix) -> tuple[tuple[int, int, int], tuple[float, float, float]]:
    """Array axes standing for (z, y, x) and their signs; slices must run along the body within 30 degrees."""
    along = float(np.degrees(np.arccos(min(1.0, abs(directions[2, 0])))))
    if along > MAX_TILT_DEGREES:
        raise InputError(
            "ORIENTATION",
            f"slices are tilted {along:.0f} degrees from axial, at most {MAX_TILT_DEGREES:.0f}: not an axial series",
        )
    rows_are_y = abs(directions[1, 1]) >= abs(directions[1, 2])
    y, x = (1, 2) if rows_are_y else (2, 1)
    signs = (float(directions[2, 0]), float(directions[1, y]), float(directions[0, x]))
    if min(abs(s) for s in signs[1:]) < np.cos(np.radians(MAX_TILT_DEGREES)):
        raise InputError("ORIENTATION", f"the image is rotated in-plane by more than {MAX_TILT_DEGREES:.0f} degrees")
    return (0, y, x), signs


def measure(volume: Volume) -> dict[str, float]:
    """The inputs that ``input_limits`` speak about."""
    slices, rows, columns = volume.voxels.shape
    z, y, x = volume.spacing_mm
    return {
        "rows": rows,
        "columns": columns,
        "slices": slices,
        "pixel_mm": max(y, x),
        "slice_spacing_mm": z,
        "coverage_mm": slices * z,
        "field_of_view_mm": max(rows * y, columns * x),
        "tilt_degrees": volume.tilt_degrees,
    }


def outside(measured: Mapping[str, float], limits: Mapping[str, Limit]) -> tuple[LimitFinding, ...]:
    """Every measured input outside its limit (half a percent of slack for rounded tags)."""
    return tuple(
        LimitFinding(name, measured[name], limit.low, limit.high, limit.unit)
        for name, limit in limits.items()
        if name in measured and not limit.low * 0.995 <= measured[name] <= limit.high * 1.005
    )


# --- intensity and body -----------------------------------------------------------------------------------------


def otsu(values: Floats) -> float:
    """Otsu's threshold over 128 bins, on values clipped at the mean of those above the mean (air against the rest)."""
    bright = values[values > values.mean()]
    top = float(bright.mean()) if bright.size else float(values.max())
    counts, edges = np.histogram(np.minimum(values, top), bins=128)
    middle = (edges[1:] + edges[:-1]) / 2
    weight = np.cumsum(counts) / counts.sum()
    moment = np.cumsum(counts * middle) / counts.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (moment[-1] * weight - moment) ** 2 / (weight * (1 - weight))
    return float(middle[int(np.nanargmax(np.where(np.isfinite(between), between, -1.0)))])


def body_mask(volume: Volume) -> tuple[Mask, tuple[int, int, int]]:
    """Head against air on a grid thinned to about 4 mm: Otsu, largest component, filled slice by slice (A21, A23)."""
    steps = (1, *(max(1, round(4.0 / mm)) for mm in volume.spacing_mm[1:]))
    thin = ndimage.uniform_filter(volume.voxels[:, :: steps[1], :: steps[2]], size=(1, 3, 3))
    above = thin > otsu(thin)
    labels, count = ndimage.label(above)
    if count:
        above = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    filled = np.stack([ndimage.binary_fill_holes(plane) for plane in above])
    return filled, (1, steps[1], steps[2])


def body_centre_mm(volume: Volume, body: Mask, steps: tuple[int, int, int]) -> tuple[float, float, float]:
    """Crop centre of A21: middle of the stack in z, centroid of the body mask in y and x; mm from the first voxel."""
    planes, rows, columns = (np.arange(n) * s for n, s in zip(body.shape, steps, strict=True))
    total = max(1, int(body.sum()))
    y = float((body.sum(axis=(0, 2)) * rows).sum() / total)
    x = float((body.sum(axis=(0, 1)) * columns).sum() / total)
    middle = float(planes[-1]) / 2
    dz, dy, dx = volume.spacing_mm
    return middle * dz, y * dy, x * dx


def image_centre_mm(volume: Volume) -> tuple[float, float, float]:
    """Crop centre of the paper's reading: the middle of the image, mm from the first voxel (A21)."""
    z, y, x = ((n - 1) / 2 * mm for n, mm in zip(volume.voxels.shape, volume.spacing_mm, strict=True))
    return z, y, x


def normalise_whole(volume: Volume) -> Volume:
    """Subtract the mean and divide by the SD of all voxels, as the paper says; air counts (A23)."""
    scaled = (volume.voxels - float(volume.voxels.mean())) / float(volume.voxels.std())
    return Volume(scaled.astype(np.float32), volume.spacing_mm, volume.order, volume.flips, volume.tilt_degrees)


def normalise(volume: Volume, body: Mask, steps: tuple[int, int, int]) -> Volume:
    """Clip at the 0.5 and 99.5 percentile, then z-score with the body's mean and SD (A23)."""
    thin = volume.voxels[:: steps[0], :: steps[1], :: steps[2]]
    low, high = np.percentile(thin, (0.5, 99.5))
    inside = np.clip(thin[body] if body.any() else thin, low, high)
    deviation = float(inside.std())
    if deviation <= 0:
        raise InputError("CONSTANT", "the head has one grey value only: there is no image")
    scaled = (np.clip(volume.voxels, low, high) - float(inside.mean())) / deviation
    return Volume(scaled.astype(np.float32), volume.spacing_mm, volume.order, volume.flips, volume.tilt_degrees)


# --- resampling -------------------------------------------------------------------------------------------------


def _cubic_weights(t: Matrix) -> Matrix:
    """Cubic B-spline values at the four knots around a point; ``t`` is the fraction past the second. (n,) -> (n, 4)."""
    u = 1 - t
    return np.stack((u**3, 3 * t**3 - 6 * t**2 + 4, 3 * u**3 - 6 * u**2 + 4, t**3), axis=-1) / 6


def spline_matrix(points: Matrix, size: int) -> Floats:
    """Rows that evaluate a cubic B-spline of ``size`` coefficients at ``points``; mirrored knots, zero outside."""
    matrix = np.zeros((len(points), size))
    base = np.floor(points).astype(int)
    weights = _cubic_weights(points - base)
    inside = (points >= -0.5) & (points <= size - 0.5)
    for knot in range(4):
        index = np.abs(base - 1 + knot)
        index = np.where(index >= size, 2 * (size - 1) - index, index).clip(0, size - 1)
        np.add.at(matrix, (np.arange(len(points)), index), weights[:, knot] * inside)
    return matrix.astype(np.float32)


def linear_matrix(points: Matrix, size: int) -> Floats:
    """Rows that interpolate ``size`` samples linearly at ``points``; clamped for half a sample, zero beyond."""
    held = np.clip(points, 0, size - 1)
    base = np.minimum(np.floor(held).astype(int), max(size - 2, 0))
    matrix = np.zeros((len(points), size), dtype=np.float32)
    inside = (points >= -0.5) & (points <= size - 0.5)
    rows = np.arange(len(points))
    np.add.at(matrix, (rows, base), (1 - (held - base)) * inside)
    np.add.at(matrix, (rows, np.minimum(base + 1, size - 1)), (held - base) * inside)
    return matrix


def _coordinates(centre_mm: float, count: int, step_mm: float, spacing_mm: float) -> Matrix:
    """Source indices of ``count`` window samples centred at ``centre_mm``."""
    return np.asarray((centre_mm + (np.arange(count) - (count - 1) / 2) * step_mm) / spacing_mm, dtype=np.float64)


def _pooled_rows(matrix: Floats, group: int) -> Floats:
    """Average every ``group`` rows: the block mean of the reduced grid."""
    return np.asarray(matrix.reshape(-1, group, matrix.shape[1]).mean(axis=1))


def _source_slices(volume: Volume, centre_mm: float, grid: GridSpec) -> tuple[NDArray[np.intp], Mask]:
    """Nearest native slice for every window slice (ties go up, so that none is skipped) and whether it is real."""
    points = _coordinates(centre_mm, grid.shape[0], grid.spacing_mm[0], volume.spacing_mm[0])
    last = volume.voxels.shape[0] - 1
    reach = max(0.5, 0.5 * grid.spacing_mm[0] / volume.spacing_mm[0])
    valid = (points >= -reach) & (points <= last + reach)
    return np.clip(np.floor(points + 0.5), 0, last).astype(np.intp), valid


def cut(volume: Volume, centre_mm: tuple[float, float, float], grid: GridSpec) -> Window:
    """The window centred at ``centre_mm``: spline in-plane, nearest slice through-plane, minimum as padding (A22)."""
    source, valid = _source_slices(volume, centre_mm[0], grid)
    start, step, matrices = [], [], []
    for axis in (1, 2):
        spacing, size = volume.spacing_mm[axis], volume.voxels.shape[axis]
        fine = _coordinates(
            centre_mm[axis], grid.shape[axis] * grid.oversample, grid.spacing_mm[axis] / grid.oversample, spacing
        )
        matrices.append(_pooled_rows(spline_matrix(fine, size), grid.oversample))
        coarse = _coordinates(centre_mm[axis], grid.shape[axis], grid.spacing_mm[axis], spacing)
        start.append(float(coarse[0]))
        step.append(grid.spacing_mm[axis] / spacing)
    values = _resample(volume.voxels, source, valid, matrices[0], matrices[1])
    return Window(values, valid, source, (start[0], start[1]), (step[0], step[1]))


def _resample(voxels: Floats, source: NDArray[np.intp], valid: Mask, rows: Floats, columns: Floats) -> Floats:
    floor = float(voxels.min())
    out = np.full((len(source), rows.shape[0], columns.shape[0]), floor, dtype=np.float32)
    r0, r1 = _support(rows)
    c0, c1 = _support(columns)
    outside = rows.sum(axis=1)[:, None] * columns.sum(axis=1)[None, :] < 0.5
    done: dict[int, Floats] = {}
    for index in np.flatnonzero(valid):
        plane = int(source[index])
        if plane not in done:
            done[plane] = _spline_plane(voxels[plane, r0:r1, c0:c1], rows[:, r0:r1], columns[:, c0:c1])
            done[plane][outside] = floor
        out[index] = done[plane]
    return out


def _support(matrix: Floats, margin: int = 16) -> tuple[int, int]:
    """Columns of a resampling matrix that are used, with a margin in which the spline's prefilter dies out."""
    used = np.flatnonzero(matrix.any(axis=0))
    if not used.size:
        return 0, matrix.shape[1]
    return max(0, int(used[0]) - margin), min(matrix.shape[1], int(used[-1]) + 1 + margin)


def _spline_plane(plane: Floats, rows: Floats, columns: Floats) -> Floats:
    coefficients = ndimage.spline_filter(plane, order=3, mode="mirror", output=np.float32)
    result: Floats = rows @ coefficients @ columns.T
    return result


def cut_mask(volume: Volume, mask: Mask, centre_mm: tuple[float, float, float], grid: GridSpec) -> Floats:
    """A canonical mask on the same window as ``cut``: block-averaged linear in-plane, same slices; 0..1 (A25)."""
    source, valid = _source_slices(volume, centre_mm[0], grid)
    matrices = []
    for axis in (1, 2):
        fine = _coordinates(
            centre_mm[axis],
            grid.shape[axis] * grid.oversample,
            grid.spacing_mm[axis] / grid.oversample,
            volume.spacing_mm[axis],
        )
        matrices.append(_pooled_rows(linear_matrix(fine, volume.voxels.shape[axis]), grid.oversample))
    planes = (mask[source] & valid[:, None, None]).astype(np.float32)
    return np.asarray(matrices[0] @ planes @ matrices[1].T, dtype=np.float32)


def cut_labels(
    volume: Volume, labels: NDArray[np.uint8], centre_mm: tuple[float, float, float], grid: GridSpec, fill: int
) -> NDArray[np.uint8]:
    """Canonical labels at the nearest native voxel of every voxel of the window of ``cut``; ``fill`` outside."""
    source, valid = _source_slices(volume, centre_mm[0], grid)
    near, inside = [], []
    for axis in (1, 2):
        points = _coordinates(centre_mm[axis], grid.shape[axis], grid.spacing_mm[axis], volume.spacing_mm[axis])
        near.append(np.rint(points).astype(int))
        inside.append((near[-1] >= 0) & (near[-1] < labels.shape[axis]))
    y, x = (n.clip(0, labels.shape[axis] - 1) for axis, n in enumerate(near, start=1))
    known = valid[:, None, None] & inside[0][None, :, None] & inside[1][None, None, :]
    return np.where(known, labels[np.ix_(source, y, x)], np.uint8(fill))


def paste(volume: Volume, window: Window, probability: Floats) -> Floats:
    """Inverse of ``cut`` for a map on the window: canonical native grid, zero outside the window (A24).

    Every native slice takes the linear blend of the window slices whose *source* slices surround it.
    """
    through = through_matrix(window, volume.voxels.shape[0])
    rows, columns = (_back(volume.voxels.shape[axis], window, probability.shape[axis], axis - 1) for axis in (1, 2))
    blended = np.tensordot(through, probability, axes=(1, 0)).astype(np.float32)
    result = np.zeros(volume.voxels.shape, dtype=np.float32)
    for index in np.flatnonzero(through.any(axis=1)):
        result[index] = rows @ blended[index] @ columns.T
    return result


def _back(pixels: int, window: Window, size: int, side: int) -> Floats:
    """(native pixels, window pixels) along rows (side 0) or columns (side 1)."""
    points = (np.arange(pixels, dtype=np.float64) - window.start_px[side]) / window.step_px[side]
    return linear_matrix(points, size)


def through_matrix(window: Window, slices: int) -> Floats:
    """(native slices, window slices): blend by source slice; window slices that share a source are averaged."""
    usable = np.flatnonzero(window.valid)
    matrix = np.zeros((slices, len(window.source)), dtype=np.float32)
    if not usable.size:
        return matrix
    known, member = np.unique(window.source[usable], return_inverse=True)
    share = np.zeros((len(known), len(window.source)), dtype=np.float32)
    share[member, usable] = 1.0
    share /= share.sum(axis=1, keepdims=True)
    reach = 0.5 * float(np.diff(known).max(initial=1))
    for index in range(slices):
        if known[0] - reach <= index <= known[-1] + reach:
            matrix[index] = _between(known, index) @ share
    return matrix


def _between(known: NDArray[np.intp], index: int) -> Floats:
    """Linear weights over the sorted known slices for one native slice."""
    weights = np.zeros(len(known), dtype=np.float32)
    right = int(np.searchsorted(known, index).clip(0, len(known) - 1))
    left = max(right - 1, 0)
    gap = int(known[right] - known[left])
    fraction = 1.0 if gap == 0 else float(np.clip((index - known[left]) / gap, 0, 1))
    weights[left] += 1 - fraction
    weights[right] += fraction
    return weights
