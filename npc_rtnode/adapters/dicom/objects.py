"""Every object of one result, and the proof of them: fulfils ports.ObjectWriter. One more kind is one more line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from npc_rtnode.adapters.dicom.preview import write_pdf, write_preview
from npc_rtnode.adapters.dicom.rtstruct import write_rtstruct
from npc_rtnode.adapters.dicom.seg import write_seg
from npc_rtnode.adapters.dicom.sight import filed_sight
from npc_rtnode.adapters.dicom.sr import write_sr
from npc_rtnode.adapters.dicom.sr_text import write_text_sr
from npc_rtnode.adapters.dicom.verify import READING_FAULTS, verify
from npc_rtnode.domain.gates import GateResult, before_sending, gate_error, judge_sight
from npc_rtnode.domain.geometry import Stack
from npc_rtnode.domain.prediction import Prediction
from npc_rtnode.domain.profiles import ObjectOrder
from npc_rtnode.domain.records import ObjectKind, WrittenObject
from npc_rtnode.domain.report import ObjectPlan


@dataclass(frozen=True)
class Desk:
    """What every writer is handed, and what lies there already; `sources` are the files of `stack.slices`, in order."""

    stack: Stack
    sources: Sequence[Path]
    prediction: Prediction
    plan: ObjectPlan
    done: dict[ObjectOrder, WrittenObject] = field(default_factory=dict)

    def structure(self, order: ObjectOrder) -> WrittenObject:
        """The structure set that this object names."""
        return self.done[order.needs[0]]


def _rtstruct(desk: Desk, order: ObjectOrder) -> WrittenObject:
    return write_rtstruct(desk.stack, desk.sources, desk.prediction.mask, desk.prediction, desk.plan, order.form)


def _seg(desk: Desk, _: ObjectOrder) -> WrittenObject:
    return write_seg(desk.stack, desk.sources, desk.prediction.mask, desk.prediction, desk.plan)


def _text_sr(desk: Desk, order: ObjectOrder) -> WrittenObject:
    structure = desk.structure(order)
    return write_text_sr(desk.stack, desk.sources, desk.prediction.mask, desk.prediction, desk.plan, structure, order)


def _sr(desk: Desk, order: ObjectOrder) -> WrittenObject:
    structure = desk.structure(order)
    return write_sr(desk.stack, desk.sources, desk.prediction.mask, desk.prediction, desk.plan, structure, order.form)


def _preview(desk: Desk, order: ObjectOrder) -> WrittenObject:
    write = write_preview if order.kind is ObjectKind.PREVIEW else write_pdf
    structure = desk.structure(order)
    return write(desk.stack, desk.sources, desk.prediction.mask, desk.prediction, desk.plan, structure, order.form)


WRITERS: Final[Mapping[ObjectKind, Callable[[Desk, ObjectOrder], WrittenObject]]] = {
    ObjectKind.SEG: _seg,
    ObjectKind.RTSTRUCT: _rtstruct,
    ObjectKind.SR: _sr,
    ObjectKind.SR_ENHANCED: _text_sr,
    ObjectKind.SR_TEXT: _text_sr,
    ObjectKind.PREVIEW: _preview,
    ObjectKind.PDF: _preview,
}


class DicomObjects:
    """Writes what the plan orders, in its order: each object names only earlier ones."""

    def write(
        self, stack: Stack, sources: Sequence[Path], prediction: Prediction, plan: ObjectPlan
    ) -> tuple[WrittenObject, ...]:
        """Every object that the plan orders."""
        desk = Desk(stack, sources, prediction, plan)
        for order in plan.orders:
            desk.done[order] = WRITERS[order.kind](desk, order)
        return tuple(desk.done.values())

    def judge(
        self,
        stack: Stack,
        sources: Sequence[Path],
        prediction: Prediction,
        plan: ObjectPlan,
        objects: Sequence[WrittenObject],
    ) -> tuple[GateResult, ...]:
        """The input's gates, then every gate on the bytes read back."""
        return (
            *before_sending(stack, prediction, plan.content.uncertain_below),
            *_sight(stack, sources, prediction),
            *verify(stack, sources, prediction.mask, prediction, plan, *objects),
        )


def _sight(stack: Stack, sources: Sequence[Path], prediction: Prediction) -> tuple[GateResult, ...]:
    """Whether the model looked at these very images, in this very order and place."""
    try:
        return judge_sight(prediction, filed_sight(stack, sources, prediction.mask), stack)
    except READING_FAULTS as error:
        return (gate_error("SEEN_SLICES", error),)
