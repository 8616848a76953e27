"""A contact sheet of phantoms: the slice with most tumour of each, its truth outlined.

python -m model.phantom.sheet docs/phantoms.png --count 40
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from model.phantom import Phantom, make_case

TILE: Final = 104
FIELD_MM: Final = 180.0
COLUMNS: Final = 8
RED: Final = (255, 60, 60)


def tile(phantom: Phantom) -> NDArray[np.uint8]:
    """(TILE, TILE, 3) picture of one phantom's middle ``FIELD_MM``."""
    at = int(phantom.mask.sum(axis=(1, 2)).argmax())
    plane = _middle(phantom.voxels[at].astype(np.float64), phantom.spacing_mm[1])
    mask = _middle(phantom.mask[at].astype(np.float64), phantom.spacing_mm[1]) > 0
    grey = np.clip(plane / np.percentile(plane, 99.5), 0, 1) * 255
    small = np.asarray(Image.fromarray(grey.astype(np.uint8)).resize((TILE, TILE)))
    drawn = np.asarray(Image.fromarray(mask).resize((TILE, TILE)))
    picture = np.stack([small] * 3, axis=-1)
    picture[drawn & ~ndimage.binary_erosion(drawn)] = RED
    return picture


def _middle(plane: NDArray[np.float64], pixel_mm: float) -> NDArray[np.float64]:
    half = int(FIELD_MM / pixel_mm / 2)
    rows, columns = (slice(max(0, n // 2 - half), n // 2 + half) for n in plane.shape)
    return plane[rows, columns]


def sheet(cohort: str, count: int) -> Image.Image:
    """The first ``count`` cases of a cohort in rows of ``COLUMNS``."""
    tiles = [tile(make_case(cohort, index)) for index in range(count)]
    blank = np.zeros_like(tiles[0])
    tiles += [blank] * (-count % COLUMNS)
    rows = [np.concatenate(tiles[k : k + COLUMNS], axis=1) for k in range(0, len(tiles), COLUMNS)]
    return Image.fromarray(np.concatenate(rows))


def main(arguments: list[str] | None = None) -> int:
    """Write the sheet."""
    parser = argparse.ArgumentParser(prog="python -m model.phantom.sheet", description=main.__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--cohort", default="sheet")
    parser.add_argument("--count", type=int, default=40)
    options = parser.parse_args(arguments)
    sheet(options.cohort, options.count).quantize(64).save(options.path, optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
