"""Every object of one result, and the proof of them: fulfils ports.ObjectWriter. One more kind is one more line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from npc_rtnode.adapters.dicom.rtstruct import write_rtstruct
from npc_rtnode.adapters.dicom.sight import filed_sight
from npc_rtnode.adapters.dicom.sr import write_sr
from npc_rtnode.adapters.dicom.verify import READING_FAULTS, verify
from npc_rtnode.domain.gates import GateResult, before_sending, gate_error, judge_sight
from npc_rtnode.domain.geometry import Stack
from npc_rtnode.domain.prediction import Prediction
from npc_rtnode.domain.records import ObjectKind, WrittenObject
from npc_rtnode.domain.report import ObjectPlan


class DicomObjects:
    """Writes RTSTRUCT and SR; `sources` are the files of `stack.slices`, in that order."""

    def write(
        self, stack: Stack, sources: Sequence[Path], prediction: Prediction, plan: ObjectPlan
    ) -> tuple[WrittenObject, ...]:
        """The RTSTRUCT of the mask, and the SR that measures it."""
        rtstruct = write_rtstruct(stack, sources, prediction.mask, prediction, plan)
        return rtstruct, write_sr(stack, sources, prediction.mask, prediction, plan, rtstruct)

    def judge(
        self,
        stack: Stack,
        sources: Sequence[Path],
        prediction: Prediction,
        plan: ObjectPlan,
        objects: Sequence[WrittenObject],
    ) -> tuple[GateResult, ...]:
        """The input's gates, then every gate on the bytes read back."""
        by_kind = {item.kind: item for item in objects}
        rtstruct, report = by_kind[ObjectKind.RTSTRUCT], by_kind[ObjectKind.SR]
        return (
            *before_sending(stack, prediction, plan.content.uncertain_below),
            *_sight(stack, sources, prediction),
            *verify(stack, sources, prediction.mask, prediction, plan, rtstruct, report),
        )


def _sight(stack: Stack, sources: Sequence[Path], prediction: Prediction) -> tuple[GateResult, ...]:
    """Whether the model looked at these very images, in this very order and place."""
    try:
        return judge_sight(prediction, filed_sight(stack, sources, prediction.mask), stack)
    except READING_FAULTS as error:
        return (gate_error("SEEN_SLICES", error),)
