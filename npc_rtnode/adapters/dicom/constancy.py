"""An RTSTRUCT against a phantom's truth: read back from its bytes, filled on the grid of the images it was drawn on."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.uid import RTStructureSetStorage

from npc_rtnode.adapters.dicom.series import DicomSeriesReader
from npc_rtnode.adapters.dicom.verify import structure_facts
from npc_rtnode.domain.gates import ContourFacts
from npc_rtnode.domain.geometry import Stack, stack_of
from npc_rtnode.domain.rasterising import PlacedRing, dice, rasterise
from npc_rtnode.domain.records import ObjectKind, WrittenObject


def measure(structure: bytes, sources: Sequence[Path], truth: NDArray[np.bool_]) -> tuple[float, float]:
    """Dice of its contours against the truth, and their volume in cc. Fulfils ports.StructureMeasurer."""
    named = dcmread(BytesIO(structure), specific_tags=["SOPInstanceUID"]).SOPInstanceUID
    facts = structure_facts(WrittenObject(ObjectKind.RTSTRUCT, RTStructureSetStorage, named, structure))
    stack = stack_of(DicomSeriesReader().headers(sources))
    mask = rasterise(placed(facts.contours, stack), stack).mask
    return dice(mask, truth), float(mask.sum()) * stack.grid.voxel_cc


def placed(contours: Sequence[ContourFacts], stack: Stack) -> list[PlacedRing]:
    """Contours on the slices that they reference."""
    index = {header.reference: k for k, header in enumerate(stack.slices)}
    return [PlacedRing(index[contour.referenced[0]], contour.points_mm) for contour in contours]
