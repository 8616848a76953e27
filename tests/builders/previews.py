"""Previews of a shape with truth known, as the pipeline writes them, and what to look for on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray

from npc_rtnode.adapters.dicom.objects import DicomObjects
from npc_rtnode.domain.gates import GateResult, Outcome
from npc_rtnode.domain.geometry import Stack
from npc_rtnode.domain.prediction import Prediction
from npc_rtnode.domain.profiles import ObjectOrder
from npc_rtnode.domain.records import ObjectKind, WrittenObject
from npc_rtnode.domain.report import ObjectPlan
from tests.builders.mr_series import make_series
from tests.builders.outputs import Mask, plan_of, prediction_on, stack_for, tube

SURE = (0.02, 0.11, 0.69, 0.18)
UNSURE = (0.02, 0.45, 0.43, 0.10)
ORDERS = tuple(ObjectOrder(kind) for kind in (ObjectKind.RTSTRUCT, ObjectKind.PREVIEW, ObjectKind.PDF))
_NOT_OF_THE_STACK = ("charset", "patient_name_bytes", "patient_id", "implicit", "attributes", "voxels")


@dataclass(frozen=True)
class Previewed:
    """One result with its previews."""

    stack: Stack
    files: Sequence[Path]
    prediction: Prediction
    plan: ObjectPlan
    objects: tuple[WrittenObject, ...]

    @property
    def rtstruct(self) -> WrittenObject:
        """What the outlines are read from."""
        return self.objects[0]

    @property
    def image(self) -> WrittenObject:
        """The Secondary Capture."""
        return self.objects[1]

    @property
    def document(self) -> WrittenObject:
        """The Encapsulated PDF."""
        return self.objects[2]

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """The image as pydicom decodes it."""
        return np.asarray(pydicom.dcmread(BytesIO(self.image.encoded)).pixel_array)

    @property
    def pdf(self) -> bytes:
        """The PDF in the document."""
        ds = pydicom.dcmread(BytesIO(self.document.encoded))
        return bytes(ds.EncapsulatedDocument)[: ds.EncapsulatedDocumentLength]

    def judged(self, *objects: WrittenObject) -> dict[str, GateResult]:
        """The gates on these objects, by name; on all, where none is given."""
        results = DicomObjects().judge(self.stack, self.files, self.prediction, self.plan, objects or self.objects)
        return {result.name: result for result in results}

    def holding(self, *objects: WrittenObject) -> set[str]:
        """The names of the gates that hold."""
        return {name for name, result in self.judged(*objects).items() if result.outcome is Outcome.HOLD}


def preview(
    folder: Path,
    shape: Callable[[tuple[int, int, int]], Mask] = tube,
    stages: tuple[float, float, float, float] = SURE,
    plan: ObjectPlan | None = None,
    **wishes: Any,
) -> Previewed:
    """Structure set and both previews of a shape on the series that the keywords describe (`make_series`)."""
    files = make_series(folder, **wishes)
    stack = stack_for(**{key: value for key, value in wishes.items() if key not in _NOT_OF_THE_STACK})
    prediction = prediction_on(files, shape(stack.grid.shape), stages)
    ordered = replace(plan or plan_of(), orders=ORDERS)
    objects = DicomObjects().write(stack, files, prediction, ordered)
    return Previewed(stack, files, prediction, ordered, objects)


def drawn(pixels: NDArray[np.uint8], colour: tuple[int, int, int], apart: int = 60) -> NDArray[np.bool_]:
    """Where a colour is on a page `[row, column]`, or one that differs by no more than `apart` in each part."""
    off = np.abs(pixels.astype(int) - np.array(colour))
    return np.asarray((off <= apart).all(axis=-1))
