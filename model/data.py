"""Training cases: native phantoms through the clinic's own preprocessing, kept as wide windows on disk, cut at random.

A cached case is the window of :func:`model.preprocess.cut`, grown by ``MARGIN`` and centred on the tumour. A training
window is a whole-voxel shift of it, so it is what the clinic would compute at that centre.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from model import preprocess
from model.labels import STAGES
from model.manifest import GridSpec
from model.phantom import Phantom, generator_sha256, make_case

Floats = NDArray[np.float32]

MARGIN: Final = (8, 14, 14)
"""Voxels (z, y, x) a cached case is wider than the window on every side: 48 mm along the body, 26 mm in-plane."""

CLOSE_SHARE: Final = 0.7
"""Share of training windows placed as the second look places them. The rest are first looks, up to 48 mm off in z."""


@dataclass(frozen=True)
class Case:
    """One cached case: image (float16) and mask share (0..255) on the wide window, and its stage as 0..3.

    ``body`` is where the clinic would centre the window in-plane, (y, x) in pixels from the wide window's centre.
    """

    image: NDArray[np.float16]
    mask: NDArray[np.uint8]
    stage: int
    body: tuple[float, float]


@dataclass(frozen=True)
class Batch:
    """image and target (b, 1, z, y, x), stage (b,), close (b,): True where the window is a second look."""

    image: Tensor
    target: Tensor
    stage: Tensor
    close: Tensor


def wide(grid: GridSpec) -> GridSpec:
    """The grid grown by the margin."""
    z, y, x = (n + 2 * m for n, m in zip(grid.shape, MARGIN, strict=True))
    return replace(grid, shape=(z, y, x))


def prepare(phantom: Phantom, grid: GridSpec, jitter_mm: float = 3.0) -> Case:
    """Clinic preprocessing of a native phantom onto the wide window, off the tumour's centre by up to half a slice."""
    volume = preprocess.orient(phantom.voxels.astype(np.float32), phantom.affine)
    body, steps = preprocess.body_mask(volume)
    scaled = preprocess.normalise(volume, body, steps)
    where = np.nonzero(phantom.mask)
    phase = np.random.default_rng(phantom.index).uniform(-jitter_mm, jitter_mm)
    z, y, x = (float(axis.mean()) * mm for axis, mm in zip(where, volume.spacing_mm, strict=True))
    centre = (z + phase, y, x)
    image = preprocess.cut(scaled, centre, wide(grid)).values
    mask = preprocess.cut_mask(scaled, phantom.mask, centre, wide(grid))
    share = (mask.clip(0, 1) * 255).round().astype(np.uint8)
    _, body_y, body_x = preprocess.body_centre_mm(scaled, body, steps)
    offset = ((body_y - y) / grid.spacing_mm[1], (body_x - x) / grid.spacing_mm[2])
    return Case(image.astype(np.float16), share, STAGES.index(phantom.stage), offset)


# --- cache ------------------------------------------------------------------------------------------------------


def cache_folder(root: Path, grid: GridSpec) -> Path:
    """One folder per generator and grid: a changed phantom never meets old files."""
    return root / f"{generator_sha256()[:12]}-{'x'.join(str(n) for n in grid.shape)}"


def fill_cache(folder: Path, cohort: str, indices: range, grid: GridSpec) -> Iterator[Path]:
    """Make the cases that are missing, one file each, and name every file as it is ready."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in indices:
        path = folder / f"{cohort}-{index:05d}.npz"
        if not path.exists():
            case = prepare(make_case(cohort, index), grid)
            part = path.with_suffix(".part.npz")
            save_case(part, case, grid)
            part.rename(path)
        yield path


def save_case(path: Path, case: Case, grid: GridSpec) -> None:
    """One file; the body offset in mm."""
    body = np.array(case.body) * grid.spacing_mm[1:]
    np.savez(path, image=case.image, mask=case.mask, stage=case.stage, body=body)


def load_case(path: Path, grid: GridSpec) -> Case:
    """One cached file."""
    with np.load(path, allow_pickle=False) as stored:
        y, x = (float(mm) / step for mm, step in zip(stored["body"], grid.spacing_mm[1:], strict=True))
        return Case(stored["image"], stored["mask"], int(stored["stage"]), (y, x))


class Cases:
    """Cases of one cohort held in memory; :meth:`refresh` takes up files that were added meanwhile."""

    def __init__(self, folder: Path, cohort: str, grid: GridSpec) -> None:
        self.folder = folder
        self.grid = grid
        self.cohort = cohort
        self._held: dict[str, Case] = {}

    def refresh(self) -> int:
        """Load new files; the number of cases held."""
        for path in sorted(self.folder.glob(f"{self.cohort}-?????.npz")):
            if path.name not in self._held:
                self._held[path.name] = load_case(path, self.grid)
        return len(self._held)

    def all(self) -> list[Case]:
        """Every case held, in the order of their index."""
        return [self._held[name] for name in sorted(self._held)]


# --- windows and augmentation -----------------------------------------------------------------------------------


def batches(
    cases: list[Case], grid: GridSpec, rng: np.random.Generator, size: int, close_share: float = CLOSE_SHARE
) -> Iterator[Batch]:
    """One epoch of augmented batches in random order; the last incomplete one is left out."""
    order = rng.permutation(len(cases))
    for first in range(0, len(order) - size + 1, size):
        yield stack([augmented(cases[i], grid, rng, close_share) for i in order[first : first + size]])


def stack(samples: list[tuple[Tensor, Tensor, int, bool]]) -> Batch:
    """Samples to one batch."""
    images, targets, stages, close = zip(*samples, strict=True)
    return Batch(
        torch.stack(images)[:, None],
        torch.stack(targets)[:, None],
        torch.tensor(stages),
        torch.tensor(close),
    )


def centred(case: Case, grid: GridSpec) -> tuple[Tensor, Tensor, int, bool]:
    """The window of the second look when the first was right (to the pixel), unchanged."""
    moves = (0, *(int(np.clip(round(b), -m, m)) for b, m in zip(case.body, MARGIN[1:], strict=True)))
    z, y, x = (slice(m + d, m + d + n) for m, d, n in zip(MARGIN, moves, grid.shape, strict=True))
    image = torch.from_numpy(case.image[z, y, x].astype(np.float32))
    target = torch.from_numpy((case.mask[z, y, x] >= 128).astype(np.float32))
    return image, target, case.stage, True


def augmented(
    case: Case, grid: GridSpec, rng: np.random.Generator, close_share: float = CLOSE_SHARE
) -> tuple[Tensor, Tensor, int, bool]:
    """A random window of one case, moved, turned, mirrored and re-contrasted (A20): image, target, stage, close."""
    close = bool(rng.random() < close_share)
    reach, spread = (0, 1.5) if close else (MARGIN[0], 8.0)
    shift = int(rng.integers(-reach, reach + 1))
    planes = slice(MARGIN[0] + shift, MARGIN[0] + shift + grid.shape[0])
    wanted = (b + rng.uniform(-spread, spread) for b in case.body)
    move = tuple(float(np.clip(w, -m, m)) for w, m in zip(wanted, MARGIN[1:], strict=True))
    both = np.stack((case.image[planes].astype(np.float32), case.mask[planes].astype(np.float32) / 255))
    turned = _in_plane(torch.from_numpy(both), grid, rng, (move[0], move[1]), gentle=close)
    image = _contrast(turned[0], rng)
    return image, (turned[1] >= 0.5).float(), case.stage, close


def _in_plane(
    both: Tensor, grid: GridSpec, rng: np.random.Generator, move: tuple[float, float], *, gentle: bool
) -> Tensor:
    """(2, z, wide y, wide x) -> (2, z, y, x): rotation to 12 (gentle: 5) degrees, scale, mirror, shift in pixels."""
    angle = float(np.radians(rng.uniform(-1, 1) * (5 if gentle else 12)))
    scale = float(1 + rng.uniform(-1, 1) * (0.05 if gentle else 0.13))
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    high, broad = both.shape[2:]
    ratio_y, ratio_x = grid.shape[1] / high, grid.shape[2] / broad
    cosine, sine = np.cos(angle) * scale, np.sin(angle) * scale
    theta = torch.tensor(
        [
            [mirror * cosine * ratio_x, -sine * ratio_y * high / broad, 2 * move[1] / broad],
            [mirror * sine * ratio_x * broad / high, cosine * ratio_y, 2 * move[0] / high],
        ],
        dtype=torch.float32,
    )
    flat = both.reshape(1, -1, high, broad)
    where = F.affine_grid(theta[None], [1, flat.shape[1], *grid.shape[1:]], align_corners=False)
    sampled = F.grid_sample(flat, where, mode="bilinear", padding_mode="border", align_corners=False)
    return sampled.reshape(2, *grid.shape)


def _contrast(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Gamma, brightness and contrast, bias, blur, noise."""
    low, high = image.min(), image.max()
    unit = ((image - low) / (high - low + 1e-6)).clamp(0, 1)
    image = unit ** float(rng.uniform(0.75, 1.4)) * (high - low) + low
    image = image * float(rng.uniform(0.85, 1.18)) + float(rng.uniform(-0.2, 0.2))
    if rng.random() < 0.3:
        knots = torch.from_numpy(rng.normal(0, 0.12, (1, 1, 3, 4, 4)).astype(np.float32))
        image = image * (1 + F.interpolate(knots, size=image.shape, mode="trilinear", align_corners=True)[0, 0])
    if rng.random() < 0.2:
        image = F.avg_pool2d(image[:, None], 3, stride=1, padding=1, count_include_pad=False)[:, 0]
    if rng.random() < 0.5:
        noise = rng.standard_normal(tuple(image.shape), dtype=np.float32) * np.float32(rng.uniform(0, 0.15))
        image = image + torch.from_numpy(noise)
    return image


def main(arguments: list[str] | None = None) -> int:
    """Fill the training cache."""
    parser = argparse.ArgumentParser(prog="python -m model.data", description=main.__doc__)
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    parser.add_argument("--cohort", default="train")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000)
    options = parser.parse_args(arguments)
    grid = GridSpec()
    folder = cache_folder(options.cache, grid)
    for path in fill_cache(folder, options.cohort, range(options.first, options.first + options.count), grid):
        print(path, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
