"""Training cases: native volumes through the clinic's own preprocessing, kept as wide windows on disk, cut at random.

A cached case is the window of :func:`model.preprocess.cut`, grown by ``MARGIN`` and centred on the tumour. A training
window is a whole-voxel shift of it, so it is what the clinic would compute at that centre.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from model import preprocess
from model.cohort import Subject
from model.labels import NEVER, NO_TUMOUR, STAGES, STRUCTURES, invaded_of
from model.manifest import GridSpec
from model.network import PRESETS, NetworkConfig
from model.phantom import Phantom, generator_sha256, make_case

Floats = NDArray[np.float32]

MARGIN_MM: Final = (48.0, 26.25)
"""How much a cached case is wider than the window on every side, along the body and in-plane."""

CLOSE_SHARE: Final = 0.7
"""Share of training windows placed as the second look places them. The rest are first looks, up to 48 mm off in z."""


NOTHING_INVADED: Final = (False,) * len(STRUCTURES)

FREE_EVERY: Final = 12
"""Every so many-th head of a cached cohort has no tumour: a network that has never seen one invents it."""


@dataclass(frozen=True)
class Source:
    """What a case is made of, whoever it comes from. ``levels`` and ``invaded`` are known of phantoms alone.

    ``stage`` is 0..3, or -1 without tumour; arrays are [slice, row, column], ``affine`` maps index to LPS mm.
    """

    voxels: Floats
    affine: NDArray[np.float64]
    mask: NDArray[np.bool_]
    stage: int
    seed: int
    levels: NDArray[np.uint8] | None = None
    invaded: tuple[bool, ...] = NOTHING_INVADED

    @classmethod
    def of_phantom(cls, phantom: Phantom) -> Source:
        """A phantom with all that is known of it."""
        return cls(
            voxels=phantom.voxels.astype(np.float32),
            affine=phantom.affine,
            mask=phantom.mask,
            stage=-1 if phantom.stage == NO_TUMOUR else STAGES.index(phantom.stage),
            seed=phantom.index,
            levels=phantom.levels,
            invaded=invaded_of(phantom.invaded),
        )

    @classmethod
    def of_subject(cls, subject: Subject) -> Source:
        """A patient: image, contours, stage."""
        seed = int.from_bytes(hashlib.sha256(subject.patient.encode()).digest()[:8], "big")
        return cls(subject.voxels, subject.affine, subject.mask, STAGES.index(subject.stage), seed)


@dataclass(frozen=True)
class Case:
    """One cached case on the wide window: image (float16), mask share (0..255), category of the tissue (0..4).

    ``invaded`` flags every structure of ``labels.STRUCTURES``. ``levels`` is 0 where no tumour may grow and else the T
    category that the tissue of the voxel would give once invaded. Of both nothing is known unless ``told``.
    ``body`` is where the clinic would centre the window in-plane, (y, x) in pixels from the wide window's centre.
    """

    image: NDArray[np.float16]
    mask: NDArray[np.uint8]
    levels: NDArray[np.uint8]
    stage: int
    invaded: NDArray[np.bool_]
    body: tuple[float, float]
    told: bool = True


@dataclass(frozen=True)
class Sample:
    """One window: image, target (z, y, x), levels (z, y, x), stage, invaded (structures,), told, and whether whole.

    ``whole`` is True where the window holds a whole tumour: only such a window teaches the stage.
    """

    image: Tensor
    target: Tensor
    levels: Tensor
    stage: int
    invaded: Tensor
    told: bool
    whole: bool


@dataclass(frozen=True)
class Batch:
    """Samples stacked: image, target (b, 1, z, y, x), levels (b, z, y, x), invaded (b, structures), the rest (b,)."""

    image: Tensor
    target: Tensor
    levels: Tensor
    stage: Tensor
    invaded: Tensor
    told: Tensor
    whole: Tensor

    def to(self, device: str) -> Batch:
        """The same batch on another device."""
        return Batch(*(getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)))


def grid_of(network: NetworkConfig) -> GridSpec:
    """The window on the network's own grid: 6 mm slices, in-plane a multiple of the paper's 0.4688 mm."""
    return GridSpec(network.grid, (6.0, network.pixel_mm, network.pixel_mm), max(1, round(network.pixel_mm / 0.46875)))


def margin(grid: GridSpec) -> tuple[int, int, int]:
    """``MARGIN_MM`` in voxels (z, y, x): 8, 14, 14 at 1.875 mm."""
    along, across = MARGIN_MM
    z, y, x = (round(mm / step) for mm, step in zip((along, across, across), grid.spacing_mm, strict=True))
    return z, y, x


def wide(grid: GridSpec) -> GridSpec:
    """The grid grown by the margin."""
    z, y, x = (n + 2 * m for n, m in zip(grid.shape, margin(grid), strict=True))
    return replace(grid, shape=(z, y, x))


def prepare(source: Source, grid: GridSpec, jitter_mm: float = 3.0) -> Case:
    """Clinic preprocessing of a native volume onto the wide window, off the tumour's centre by up to half a slice.

    Without tumour the window lies around the origin, which in a phantom is the nasopharynx. Raises ``InputError``.
    """
    volume = preprocess.orient(source.voxels, source.affine)
    body, steps = preprocess.body_mask(volume)
    scaled = preprocess.normalise(volume, body, steps)
    mask = volume.turned(source.mask)
    z, y, x = _middle_mm(mask, volume, source.affine)
    centre = (z + np.random.default_rng(source.seed).uniform(-jitter_mm, jitter_mm), y, x)
    broad = wide(grid)
    share = preprocess.cut_mask(scaled, mask, centre, broad)
    _, body_y, body_x = preprocess.body_centre_mm(scaled, body, steps)
    return Case(
        image=preprocess.cut(scaled, centre, broad).values.astype(np.float16),
        mask=(share.clip(0, 1) * 255).round().astype(np.uint8),
        levels=_levels(source, scaled, centre, broad),
        stage=source.stage,
        invaded=np.array(source.invaded),
        body=((body_y - y) / grid.spacing_mm[1], (body_x - x) / grid.spacing_mm[2]),
        told=source.levels is not None,
    )


def _levels(
    source: Source, volume: preprocess.Volume, centre: tuple[float, float, float], broad: GridSpec
) -> NDArray[np.uint8]:
    if source.levels is None:
        return np.zeros(broad.shape, np.uint8)
    levels = preprocess.cut_labels(volume, volume.turned(source.levels), centre, broad, NEVER)
    return np.where(levels == NEVER, 0, levels).astype(np.uint8)


def _middle_mm(
    mask: NDArray[np.bool_], volume: preprocess.Volume, affine: NDArray[np.float64]
) -> tuple[float, float, float]:
    """The tumour's centre of mass, or the origin, in mm from the first voxel of the turned volume."""
    if mask.any():
        z, y, x = (float(a.mean()) * mm for a, mm in zip(np.nonzero(mask), volume.spacing_mm, strict=True))
        return z, y, x
    at = (np.linalg.inv(affine) @ (0, 0, 0, 1))[list(volume.order)]
    turned = [n - 1 - p if a in volume.flips else p for a, (p, n) in enumerate(zip(at, mask.shape, strict=True))]
    z, y, x = (float(p) * mm for p, mm in zip(turned, volume.spacing_mm, strict=True))
    return z, y, x


# --- cache ------------------------------------------------------------------------------------------------------


def cache_folder(root: Path, grid: GridSpec) -> Path:
    """One folder per generator and grid: a changed phantom never meets old files."""
    return root / f"{generator_sha256()[:12]}-{'x'.join(str(n) for n in grid.shape)}"


def cohort_folder(root: Path, table: Path, grid: GridSpec) -> Path:
    """One folder per table and grid."""
    name = hashlib.sha256(table.read_bytes()).hexdigest()[:12]
    return root / f"{name}-{'x'.join(str(n) for n in grid.shape)}"


def fill_cache(folder: Path, cohort: str, indices: range, grid: GridSpec) -> Iterator[Path]:
    """Make the cases that are missing, one file each, and name every file as it is ready."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in indices:
        path = folder / f"{cohort}-{index:05d}.npz"
        if not path.exists():
            phantom = make_case(cohort, index, tumour=index % FREE_EVERY != FREE_EVERY - 1)
            part = path.with_suffix(".part.npz")
            save_case(part, prepare(Source.of_phantom(phantom), grid), grid)
            part.rename(path)
        yield path


def save_case(path: Path, case: Case, grid: GridSpec) -> None:
    """One file; the body offset in mm."""
    body = np.array(case.body) * grid.spacing_mm[1:]
    np.savez(
        path,
        image=case.image,
        mask=case.mask,
        levels=case.levels,
        stage=np.array(case.stage),
        invaded=case.invaded,
        body=body,
        told=np.array(case.told),
    )


def load_case(path: Path, grid: GridSpec) -> Case:
    """One cached file."""
    with np.load(path, allow_pickle=False) as stored:
        y, x = (float(mm) / step for mm, step in zip(stored["body"], grid.spacing_mm[1:], strict=True))
        return Case(stored["image"], stored["mask"], stored["levels"], int(stored["stage"]), stored["invaded"], (y, x))


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


def batches(cases: list[Case], grid: GridSpec, rng: np.random.Generator, size: int) -> Iterator[Batch]:
    """One epoch of augmented batches, the stages equally common; the last incomplete one is left out."""
    order = balanced_order([case.stage for case in cases], rng)
    for first in range(0, len(order) - size + 1, size):
        yield stack([augmented(cases[i], grid, rng) for i in order[first : first + size]])


def balanced_order(stages: list[int], rng: np.random.Generator) -> NDArray[np.intp]:
    """As many draws as cases: every T category equally often, heads without tumour as often as they come."""
    known = np.asarray(stages)
    free = known < 0
    counts = np.bincount(known[~free], minlength=len(STAGES))
    weights = np.ones(len(known))
    weights[~free] = (~free).sum() / (np.count_nonzero(counts) * counts[known[~free]])
    return rng.choice(len(known), len(known), p=weights / weights.sum())


def stack(samples: list[Sample]) -> Batch:
    """Samples to one batch."""
    return Batch(
        torch.stack([s.image for s in samples])[:, None],
        torch.stack([s.target for s in samples])[:, None],
        torch.stack([s.levels for s in samples]),
        torch.tensor([s.stage for s in samples]),
        torch.stack([s.invaded for s in samples]),
        torch.tensor([s.told for s in samples]),
        torch.tensor([s.whole for s in samples]),
    )


def _sample(case: Case, image: Tensor, target: Tensor, levels: Tensor, whole: bool) -> Sample:
    invaded = torch.from_numpy(case.invaded).float()
    return Sample(image, target, levels.long(), case.stage, invaded, case.told, whole)


def centred(case: Case, grid: GridSpec) -> Sample:
    """The window of the second look when the first was right (to the pixel), unchanged."""
    edge = margin(grid)
    moves = (0, *(int(np.clip(round(b), -m, m)) for b, m in zip(case.body, edge[1:], strict=True)))
    z, y, x = (slice(m + d, m + d + n) for m, d, n in zip(edge, moves, grid.shape, strict=True))
    image = torch.from_numpy(case.image[z, y, x].astype(np.float32))
    target = torch.from_numpy((case.mask[z, y, x] >= 128).astype(np.float32))
    return _sample(case, image, target, torch.from_numpy(case.levels[z, y, x]), case.stage >= 0)


def augmented(case: Case, grid: GridSpec, rng: np.random.Generator) -> Sample:
    """A random window of one case, moved, turned, mirrored and re-contrasted (A20)."""
    close = bool(rng.random() < CLOSE_SHARE)
    edge = margin(grid)
    reach, spread = (2, 5.6 / grid.spacing_mm[1]) if close else (edge[0], 15.0 / grid.spacing_mm[1])
    shift = int(rng.integers(-reach, reach + 1))
    planes = slice(edge[0] + shift, edge[0] + shift + grid.shape[0])
    wanted = (b + rng.uniform(-spread, spread) for b in case.body)
    move = tuple(float(np.clip(w, -m, m)) for w, m in zip(wanted, edge[1:], strict=True))
    both = np.stack((case.image[planes].astype(np.float32), case.mask[planes].astype(np.float32) / 255))
    where = _turn(both.shape[2:], grid, rng, (move[0], move[1]))
    turned = _resample(torch.from_numpy(both), where, "bilinear")
    levels = _resample(torch.from_numpy(case.levels[planes].astype(np.float32))[None], where, "nearest")[0]
    target = (turned[1] >= 0.5).float()
    inside = float(turned[1].sum()) * _zoom(where, both.shape[2:])
    whole = case.stage >= 0 and inside >= 0.97 * float(case.mask.sum(dtype=np.int64)) / 255
    return _sample(case, _contrast(turned[0], rng), target, levels, whole)


def _turn(broad: tuple[int, ...], grid: GridSpec, rng: np.random.Generator, move: tuple[float, float]) -> Tensor:
    """Sampling places (1, y, x, 2) in-plane: rotation to 10 degrees, scale to 10 %, mirror, shift in pixels."""
    angle = float(np.radians(rng.uniform(-1, 1) * 10))
    scale = float(1 + rng.uniform(-1, 1) * 0.1)
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    high, wide_ = broad
    ratio_y, ratio_x = grid.shape[1] / high, grid.shape[2] / wide_
    cosine, sine = np.cos(angle) * scale, np.sin(angle) * scale
    theta = torch.tensor(
        [
            [mirror * cosine * ratio_x, -sine * ratio_y * high / wide_, 2 * move[1] / wide_],
            [mirror * sine * ratio_x * wide_ / high, cosine * ratio_y, 2 * move[0] / high],
        ],
        dtype=torch.float32,
    )
    return F.affine_grid(theta[None], [1, 1, *grid.shape[1:]], align_corners=False)


def _zoom(where: Tensor, broad: tuple[int, ...]) -> float:
    """Area of the wide window that one pixel of the sampled window stands for."""
    high, wide_ = (n / 2 for n in broad)
    across = (where[0, 0, 1] - where[0, 0, 0]) * torch.tensor((wide_, high))
    return float(across.square().sum())


def _resample(planes: Tensor, where: Tensor, mode: str) -> Tensor:
    """(channels, z, wide y, wide x) -> (channels, z, y, x)."""
    flat = planes.reshape(1, -1, *planes.shape[2:])
    sampled = F.grid_sample(flat, where, mode=mode, padding_mode="border", align_corners=False)
    return sampled.reshape(*planes.shape[:2], *where.shape[1:3])


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
    parser.add_argument("--preset", choices=sorted(PRESETS), default="plus")
    options = parser.parse_args(arguments)
    grid = grid_of(PRESETS[options.preset])
    folder = cache_folder(options.cache, grid)
    for path in fill_cache(folder, options.cohort, range(options.first, options.first + options.count), grid):
        print(path, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
