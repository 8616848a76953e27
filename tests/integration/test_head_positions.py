"""One head on the table in every position: files → reader → shipped bundle, and the tumour is the same tumour.

The positions differ in the order of the voxels and in the headers alone, so any difference in the answer is a mistake
about orientation: PatientPosition is never believed, direction cosines are.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model.bundle import Bundle, default_bundle
from model.phantom import Phantom, make_case
from npc_rtnode.adapters.dicom.series import DicomSeriesReader
from npc_rtnode.domain.geometry import Volume
from npc_rtnode.domain.rasterising import dice
from tests.builders.mr_series import ORIENTATIONS, make_series

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

Indices = NDArray[np.intp]
POSITIONS = {
    "prone": "HFP",
    "feet_first": "FFS",
    "feet_first_prone": "FFP",
    "decubitus_left": "HFDL",
    "decubitus_right": "HFDR",
}


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    """A head with a tumour large enough for Dice to mean something."""
    return make_case("geometry", 0, stage="T3")


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """The shipped one."""
    torch.set_num_threads(1)
    return Bundle.open(default_bundle())


@pytest.fixture(scope="module")
def supine(phantom: Phantom, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> NDArray[np.bool_]:
    """The tumour drawn on the head first supine, on the phantom's own grid."""
    volume = acquired(phantom, "axial", "HFS", tmp_path_factory.mktemp("supine"))
    np.testing.assert_array_equal(volume.voxels, phantom.voxels)
    mask = bundle.predict(volume.voxels, volume.stack.grid.affine).mask
    assert dice(mask, phantom.mask) > 0.3
    return mask


def acquired(phantom: Phantom, orientation: str, position: str, folder: Path) -> Volume:
    """The phantom written as a scanner would with the head in that position, and read back."""
    row, column = np.array(ORIENTATIONS[orientation]).reshape(2, 3)
    steps = np.column_stack([np.cross(row, column), column, row]) * phantom.spacing_mm
    turn = np.rint(np.linalg.inv(phantom.affine[:3, :3]) @ steps)  # a signed permutation: new index to old
    shape = np.array(phantom.voxels.shape)
    start = np.where(turn.sum(axis=1) < 0, shape - 1, 0)
    slices, rows, columns = (int(n) for n in np.abs(turn.T) @ shape)
    x, y, z = (phantom.affine @ [*start, 1])[:3]
    index = np.einsum("ij,jabc->iabc", turn, np.indices((slices, rows, columns))) + start[:, None, None, None]
    files = make_series(
        folder,
        slices=slices,
        rows=rows,
        columns=columns,
        spacing_mm=phantom.spacing_mm[1:],
        step_mm=phantom.spacing_mm[0],
        orientation=orientation,
        origin_mm=(float(x), float(y), float(z)),
        voxels=phantom.voxels[tuple(index.astype(np.intp))],
        attributes={"PatientPosition": position, "BitsStored": 16, "HighBit": 15},
    )
    return DicomSeriesReader().volume(files)


def on_the_grid_of(phantom: Phantom, mask: NDArray[np.bool_], affine: NDArray[np.float64]) -> NDArray[np.bool_]:
    """The mask on the phantom's grid, voxel by voxel through LPS."""
    found = np.argwhere(mask)
    places = affine @ np.column_stack([found, np.ones(len(found))]).T
    old = np.rint(np.linalg.inv(phantom.affine) @ places)[:3].astype(np.intp)
    moved = np.zeros(phantom.mask.shape, dtype=bool)
    moved[tuple(old)] = True
    return moved


@pytest.mark.parametrize(("orientation", "position"), POSITIONS.items())
def test_the_same_tumour_in_every_position(
    tmp_path: Path, phantom: Phantom, bundle: Bundle, supine: NDArray[np.bool_], orientation: str, position: str
) -> None:
    """Prone, feet first or on a side: the tumour in LPS is the one drawn supine, Dice at least 0.98."""
    volume = acquired(phantom, orientation, position, tmp_path)
    affine = volume.stack.grid.affine
    mask = bundle.predict(volume.voxels, affine).mask
    agreement = dice(on_the_grid_of(phantom, mask, affine), supine)
    print(f"\n{position}: Dice {agreement:.4f} with supine", end="")
    assert agreement >= 0.98


def test_the_position_that_the_header_names_is_not_believed(tmp_path: Path, phantom: Phantom) -> None:
    """PatientPosition FFP over head first supine cosines changes nothing: the standard gives the cosines the say."""
    said = acquired(phantom, "axial", "FFP", tmp_path)
    np.testing.assert_array_equal(said.voxels, phantom.voxels)
    np.testing.assert_allclose(said.stack.grid.affine, phantom.affine, atol=1e-5)
