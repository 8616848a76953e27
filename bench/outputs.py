"""`make check-outputs`: does every reader see in the structure set the very mask that was meant?

Five smooth shapes on eight geometries and twenty ragged masks go through the node's own reader of MR files and its own
writer to real files; three readers that share no code bring them back (bench/readers.py). Beside each case stands what
plain rt-utils makes of the same mask, which must stay worse: it is the reason for our own contours (ADR 0002, 0012).
Ends with one line `RESULT {json}`; exit status 1 if a figure misses its limit.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bench.readers import dcmrtstruct2nii_masks, own_raster, plain_rt_utils, plastimatch_mask
from npc_rtnode.adapters.dicom.rtstruct import write_rtstruct
from npc_rtnode.adapters.dicom.series import DicomSeriesReader
from npc_rtnode.adapters.dicom.verify import structure_facts
from npc_rtnode.domain.contouring import contours_of
from npc_rtnode.domain.geometry import Stack, stack_of
from npc_rtnode.domain.outline import Probabilities
from npc_rtnode.domain.prediction import Prediction
from npc_rtnode.domain.rasterising import dice
from npc_rtnode.domain.records import WrittenObject
from npc_rtnode.errors import GeometryRefused
from tests.builders.mr_series import make_series
from tests.builders.outputs import plan_of, prediction_of
from tests.peers import find_peer

Mask = NDArray[np.bool_]
Array = NDArray[np.float64]
Depth = Callable[[Array, Array, Array], Array]

GEOMETRIES: Final[dict[str, dict[str, Any]]] = {
    "axial": {},
    "oblique": {"orientation": "oblique"},
    "double_oblique": {"orientation": "double_oblique"},
    "sagittal": {"orientation": "sagittal"},
    "coronal": {"orientation": "coronal"},
    "anisotropic": {"rows": 64, "columns": 128, "spacing_mm": (0.9375, 0.46875)},
    "non_square": {"rows": 72, "columns": 104},
    "feet_first": {"orientation": "feet_first", "descending": True},
}
GRID: Final = {"rows": 80, "columns": 80, "spacing_mm": (0.9375, 0.9375), "slices": 20, "step_mm": 3.0}
UNEVEN: Final[dict[str, dict[str, Any]]] = {
    "a slice missing": {"gap_at": 7},
    "a slice 0.6 mm off": {"jitter_mm": [0.6 if k == 9 else 0.0 for k in range(20)]},
    "steps that grow": {"jitter_mm": [0.02 * k * k for k in range(20)]},
}
BLUR_MM: Final = 0.6  # depth at which the probability is 0.73
THRESHOLD: Final = 0.5
RAGGED: Final = 20

LEAST: Final = {"dice_min": 0.9999, "rt_utils_worse_by_min": 0.01, "uneven_refused": float(len(UNEVEN))}
MOST: Final = {
    "voxel_volume_error_max": 0.0002,
    "polygon_volume_error_smooth_max": 0.002,
    "polygon_volume_error_max": 0.005,
    "centroid_mm_max": 0.02,
    "off_plane_mm_max": 0.001,
    "surface_mm_max": 0.10,
    "points_max": 1500.0,
    "ms_per_slice_median": 15.0,
}

# --- what is outlined -------------------------------------------------------------------------------------------------


def ball(z: Array, y: Array, x: Array) -> Array:
    """A ball of 36 mm, off the middle: how deep a point lies in it, mm."""
    return 18.2 - np.sqrt((z - 1.3) ** 2 + (y + 2.1) ** 2 + (x - 1.7) ** 2)


def tube(z: Array, y: Array, x: Array) -> Array:
    """A tube along the normal, with an island in its hole."""
    from_axis = np.hypot(y - 1.4, x + 0.9)
    wall = np.minimum(19.3 - from_axis, from_axis - 9.6)
    return np.minimum(np.maximum(wall, 3.4 - from_axis), 20.0 - np.abs(z))


def two_parts(z: Array, y: Array, x: Array) -> Array:
    """Two ellipsoids apart."""
    left = 1 - np.sqrt((z / 18) ** 2 + (y / 13.1) ** 2 + ((x + 12.3) / 9.2) ** 2)
    right = 1 - np.sqrt((z / 12) ** 2 + ((y - 3.7) / 8.3) ** 2 + ((x - 12.9) / 10.4) ** 2)
    return np.maximum(left * 9.2, right * 8.3)


def crescent(z: Array, y: Array, x: Array) -> Array:
    """A crescent of at most 3 mm."""
    thin = np.minimum(17.1 - np.hypot(y, x), np.hypot(y + 1.6, x + 1.5) - 16.3)
    return np.minimum(thin, 20.0 - np.abs(z))


def clover(z: Array, y: Array, x: Array) -> Array:
    """Five lobes, with waists between them."""
    radius = (14.3 + 4.2 * np.sin(5 * np.arctan2(y - 0.6, x + 0.4))) * np.sqrt(np.clip(1 - (z / 25) ** 2, 0, 1))
    return (radius - np.hypot(y - 0.6, x + 0.4)) * 0.7


SHAPES: Final[dict[str, Depth]] = {f.__name__: f for f in (ball, tube, two_parts, crescent, clover)}


@dataclass(frozen=True)
class Case:
    """A mask, what it was cut from, and, where there is one, the surface that it is the image of."""

    name: str
    mask: Mask
    probability: NDArray[np.float32]
    depth: Depth | None = None


def smooth_case(name: str, stack: Stack) -> Case:
    """A shape as a good network would see it: the probability falls smoothly through one half at its surface."""
    depth = SHAPES[name](*_middle_mm(np.indices(stack.grid.shape).astype(float), stack))
    probability = (1 / (1 + np.exp(-np.clip(depth / BLUR_MM, -30, 30)))).astype(np.float32)
    return Case(name, probability >= THRESHOLD, probability, SHAPES[name])


def _middle_mm(index: Array, stack: Stack) -> Array:
    """Voxel indices `[axis, ...]` to millimetres along slices, rows and columns from the middle of the grid."""
    middle = (np.array(stack.grid.shape) - 1) / 2
    shape = (3,) + (1,) * (index.ndim - 1)
    return np.asarray((index - middle.reshape(shape)) * np.array(stack.grid.spacing_mm).reshape(shape))


def ragged_case(number: int, stack: Stack) -> Case:
    """Smoothed noise with specks, a checkerboard and rings in rings, which no probability bears out.

    Every other one has nothing but 0 and 1 for probabilities.
    """
    noise = np.random.default_rng(number)
    blur = noise.uniform(0.7, 1.8)
    field = ndimage.gaussian_filter(noise.standard_normal(stack.grid.shape), (0.5, blur, blur))
    logit = 3 * (field / field.std() - noise.uniform(-0.3, 0.5))
    z, y, x = _middle_mm(np.indices(stack.grid.shape).astype(float), stack)
    mask = (logit > 0) & (z**2 + y**2 + x**2 < noise.uniform(17, 26) ** 2)
    _add_awkward(mask, noise)
    certain = np.where(mask, 20.0, -20.0)
    return Case(f"ragged_{number:02d}", mask, (1 / (1 + np.exp(-certain if number % 2 else -logit))).astype(np.float32))


def _add_awkward(mask: Mask, noise: np.random.Generator) -> None:
    """Lone voxels, a checkerboard, four rings one in the other, and on some a part at the image's edge."""
    mask[tuple(noise.integers(2, size - 2, 12) for size in mask.shape)] = True
    mask[4, 4:16, 5:17] = np.indices((12, 12)).sum(axis=0) % 2 == 0
    rows, columns = np.indices((19, 19)) - 9
    mask[5, 4:23, 4:23] = np.isin(np.maximum(abs(rows), abs(columns)), [0, 1, 4, 5, 8])
    if noise.random() < 0.5:
        mask[6, :3, 30:40] = mask[7, 20:30, -2:] = True


# --- through the writer and back --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scene:
    """One geometry: the series as files, and as the node reads it."""

    name: str
    folder: Path
    files: list[Path]
    stack: Stack

    @property
    def images(self) -> Path:
        """The folder that holds the series and nothing else."""
        return self.files[0].parent


def scene(name: str, folder: Path) -> Scene:
    """Write the series and read it with the node's own reader."""
    files = make_series(folder / "mr", **{**GRID, **GEOMETRIES[name]})
    return Scene(name, folder, files, stack_of(DicomSeriesReader().headers(files)))


@dataclass(frozen=True)
class Seen:
    """How far one reader's mask is from the one that was meant."""

    dice: float
    volume_error: float
    centroid_mm: float


@dataclass(frozen=True)
class Row:
    """One case: what the readers saw, and the contours' own figures."""

    case: str
    geometry: str
    cc: float
    smooth: bool
    seen: dict[str, Seen]
    polygon_error: float
    off_plane_mm: float
    surface_mm: float
    points: int
    ms_per_slice: float
    rt_utils: Seen
    rt_utils_polygon_error: float


def compared(seen: Mask, meant: Mask, stack: Stack) -> Seen:
    """Dice, relative error of the voxel volume, distance of the centroids."""
    if not seen.any():
        return Seen(0.0, 1.0, float("inf"))
    step = np.argwhere(seen).mean(axis=0) - np.argwhere(meant).mean(axis=0)
    centroid_mm = float(np.linalg.norm(stack.grid.affine[:3, :3] @ step))
    return Seen(dice(seen, meant), abs(int(seen.sum()) / int(meant.sum()) - 1), centroid_mm)


def rows_of(where: Scene, cases: Sequence[Case], plastimatch: str) -> Iterator[Row]:
    """Every case of one geometry, written, read by all, and compared."""
    written = [written_by_the_node(where, case) for case in cases]
    paths = [_saved(where.folder / f"{case.name}.dcm", item) for case, item in zip(cases, written, strict=True)]
    nii = dcmrtstruct2nii_masks(paths, where.images, where.folder / "nii", where.stack)
    for case, item, path, nii_mask in zip(cases, written, paths, nii, strict=True):
        pm_mask = plastimatch_mask(plastimatch, path, where.images, where.folder / f"{case.name}.pm", where.stack)
        yield row(where, case, item, {"plastimatch": pm_mask, "dcmrtstruct2nii": nii_mask})


def written_by_the_node(where: Scene, case: Case) -> WrittenObject:
    """The structure set as the node writes it."""
    prediction: Prediction = replace(prediction_of(case.mask), probability=case.probability)
    return write_rtstruct(where.stack, where.files, case.mask, prediction, plan_of())


def _saved(path: Path, written: WrittenObject) -> Path:
    path.write_bytes(written.encoded)
    return path


def row(where: Scene, case: Case, written: WrittenObject, others: dict[str, Mask]) -> Row:
    """The figures of one case."""
    raster = own_raster(written, where.stack)
    theirs = own_raster(plain_rt_utils(where.files, case.mask), where.stack)
    cc = int(case.mask.sum()) * where.stack.grid.voxel_cc
    masks = {"own": raster.mask, **others}
    return Row(
        case=case.name,
        geometry=where.name,
        cc=cc,
        smooth=case.depth is not None,
        seen={name: compared(mask, case.mask, where.stack) for name, mask in masks.items()},
        polygon_error=abs(raster.polygon_cc / cc - 1),
        off_plane_mm=raster.off_plane_mm,
        surface_mm=off_the_surface(case, where.stack),
        points=max(len(contour.points_mm) for contour in structure_facts(written).contours),
        ms_per_slice=milliseconds(case, where.stack),
        rt_utils=compared(theirs.mask, case.mask, where.stack),
        rt_utils_polygon_error=abs(theirs.polygon_cc / cc - 1),
    )


def off_the_surface(case: Case, stack: Stack) -> float:
    """Mean distance of the contours' points from the shape that the mask is the image of, mm; 0 for ragged masks."""
    if case.depth is None:
        return 0.0
    contours = contours_of(case.mask, stack, Probabilities(case.probability, THRESHOLD))
    index = np.vstack([np.insert(c.points_px[:, ::-1], 0, c.slice_index, axis=1) for c in contours]).T
    return float(np.abs(case.depth(*_middle_mm(index, stack))).mean())


def milliseconds(case: Case, stack: Stack) -> float:
    """Processor time for the contours of one slice that has any."""
    began = time.process_time()
    contours_of(case.mask, stack, Probabilities(case.probability, THRESHOLD))
    return 1000 * (time.process_time() - began) / int(case.mask.any(axis=(1, 2)).sum())


def uneven_refused(folder: Path) -> int:
    """How many of the uneven stacks the node refuses to place contours on."""
    refused = 0
    for number, wishes in enumerate(UNEVEN.values()):
        headers = DicomSeriesReader().headers(make_series(folder / f"uneven{number}", **{**GRID, **wishes}))
        try:
            stack_of(headers)
        except GeometryRefused:
            refused += 1
    return refused


# --- the judgement ----------------------------------------------------------------------------------------------------


def figures(rows: Sequence[Row], refused: int) -> dict[str, float]:
    """The worst of everything; fractions, millimetres, counts."""
    seen = [one for row in rows for one in row.seen.values()]
    smooth = [row for row in rows if row.smooth]
    return {
        "dice_min": min(one.dice for one in seen),
        "voxel_volume_error_max": max(one.volume_error for one in seen),
        "polygon_volume_error_max": max(row.polygon_error for row in rows),
        "polygon_volume_error_smooth_max": max((row.polygon_error for row in smooth), default=0.0),
        "centroid_mm_max": max(one.centroid_mm for one in seen),
        "off_plane_mm_max": max(row.off_plane_mm for row in rows),
        "surface_mm_max": max(row.surface_mm for row in rows),
        "points_max": max(row.points for row in rows),
        "ms_per_slice_median": float(np.median([row.ms_per_slice for row in rows])),
        "cases": len(rows),
        "uneven_refused": refused,
        "rt_utils_dice_max": max(row.rt_utils.dice for row in rows),
        "rt_utils_dice_min": min(row.rt_utils.dice for row in rows),
        "rt_utils_polygon_volume_error_max": max(row.rt_utils_polygon_error for row in rows),
        "rt_utils_worse_by_min": min(min(s.dice for s in row.seen.values()) - row.rt_utils.dice for row in rows),
    }


def misses(found: dict[str, float]) -> list[str]:
    """Every figure beyond its limit, said with the limit. A figure that is no number misses."""
    low = [f"{key} {found[key]:g}, at least {limit:g}" for key, limit in LEAST.items() if not found[key] >= limit]
    high = [f"{key} {found[key]:g}, at most {limit:g}" for key, limit in MOST.items() if not found[key] <= limit]
    return low + high


HEAD: Final = (
    f"{'case':<12}{'geometry':<16}{'cc':>7}{'own':>9}{'plasti.':>9}{'dcm2nii':>9}{'poly %':>9}"
    f"{'surf mm':>9}{'points':>8}{'ms/slice':>9}{'rt-utils':>10}{'poly %':>8}"
)


def line(row: Row) -> str:
    """One row of the table: Dice by reader, the contours' own figures, and plain rt-utils beside them."""
    dices = "".join(f"{seen.dice:9.5f}" for seen in row.seen.values())
    return (
        f"{row.case:<12}{row.geometry:<16}{row.cc:7.1f}{dices}{100 * row.polygon_error:9.4f}{row.surface_mm:9.3f}"
        f"{row.points:8d}{row.ms_per_slice:9.1f}{row.rt_utils.dice:10.4f}{100 * row.rt_utils_polygon_error:8.2f}"
    )


def cases_of(where: Scene, shapes: Sequence[str], ragged: Sequence[int]) -> list[Case]:
    """The shapes on this geometry, and the ragged masks of these numbers."""
    return [smooth_case(name, where.stack) for name in shapes] + [ragged_case(n, where.stack) for n in ragged]


def measured(options: argparse.Namespace, plastimatch: str, folder: Path) -> dict[str, float]:
    """All cases, a line of the table each, and their figures; the ragged masks are dealt out to the geometries."""
    print(HEAD)
    rows: list[Row] = []
    for number, name in enumerate(options.geometries):
        where = scene(name, folder / name)
        ragged = range(number, options.ragged, len(options.geometries))
        for row in rows_of(where, cases_of(where, options.shapes, ragged), plastimatch):
            rows.append(row)
            print(line(row), flush=True)
    return figures(rows, uneven_refused(folder))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--geometries", nargs="+", choices=GEOMETRIES, default=list(GEOMETRIES))
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--ragged", type=int, default=RAGGED, help="how many ragged masks")
    options = parser.parse_args(arguments)
    plastimatch = find_peer("plastimatch")
    if plastimatch is None or find_peer("dcmrtstruct2nii") is None:
        print("plastimatch and dcmrtstruct2nii are needed; the dev extra has them", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        return verdict(measured(options, plastimatch, Path(folder)))


def verdict(found: dict[str, float]) -> int:
    """Say what missed, then the RESULT line; 1 if anything did."""
    missed = misses(found)
    for said in missed:
        print(f"MISSED {said}")
    print("RESULT", json.dumps({key: round(value, 9) for key, value in found.items()}))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
