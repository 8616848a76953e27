"""What the demo proves: the objects that arrived, read back with nothing of the writer, against the phantom's truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread

from npc_rtnode.adapters.dicom.constancy import placed
from npc_rtnode.adapters.dicom.kinds import kind_of
from npc_rtnode.adapters.dicom.series import DicomSeriesReader
from npc_rtnode.adapters.dicom.verify import report_facts, segmentation_facts, structure_facts
from npc_rtnode.adapters.phantoms import PhantomStudy
from npc_rtnode.adapters.predictions import PredictionFolder
from npc_rtnode.domain.gates import ReportFacts, SegmentationFacts
from npc_rtnode.domain.geometry import Stack, stack_of
from npc_rtnode.domain.rasterising import dice, rasterise
from npc_rtnode.domain.records import ObjectKind, WrittenObject
from npc_rtnode.domain.vocabulary import CT_CATEGORIES

VOLUME_TOLERANCE_CC = 0.001
AT_THE_PACS = "PDF, PREVIEW, RTSTRUCT, SEG, SR"
View = dict[str, Any]


def compare(study: PhantomStudy, tps: Sequence[Path], pacs: Sequence[Path], dice_least: float) -> View:
    """Checks on what arrived; `ok` only if every one holds."""
    kinds = [", ".join(sorted(str(_read(path).kind) for path in arrived)) for arrived in (tps, pacs)]
    checks = [
        _check("objects at the TPS", kinds[0], "RTSTRUCT", kinds[0] == "RTSTRUCT"),
        _check("objects at the PACS", kinds[1], AT_THE_PACS, kinds[1] == AT_THE_PACS),
    ]
    if all(check["holds"] for check in checks):
        checks += _contents(study, tps, pacs, dice_least)
    return {"ok": all(check["holds"] for check in checks), "checks": checks}


def _contents(study: PhantomStudy, tps: Sequence[Path], pacs: Sequence[Path], dice_least: float) -> list[View]:
    at_pacs = {item.kind: item for item in map(_read, pacs)}
    structure, report = structure_facts(_read(tps[0])), report_facts(at_pacs[ObjectKind.SR])
    stack = stack_of(DicomSeriesReader().headers(study.wanted))
    mask = rasterise(placed(structure.contours, stack), stack).mask
    overlap, volume = dice(mask, study.mask), float(mask.sum()) * stack.grid.voxel_cc
    said, agrees = _stage(report, study.stage)
    apart = int(np.count_nonzero(segmented(segmentation_facts(at_pacs[ObjectKind.SEG]), stack) != mask))
    same = _read(tps[0]).encoded == at_pacs[ObjectKind.RTSTRUCT].encoded
    return [
        _check("grid of the truth", "same" if _same_grid(study, stack) else "other", "same", _same_grid(study, stack)),
        _check("GTV Dice against truth", round(overlap, 4), f">= {dice_least}", overlap >= dice_least),
        _check("T-stage in the SR", said, f"c{study.stage}, or a set with it", agrees),
        _check(
            "volume SR / contours, cc",
            f"{report.volume_cc:.3f} / {volume:.3f}",
            "equal",
            _near(report.volume_cc, volume),
        ),
        _check(
            "SR measures this RTSTRUCT",
            report.measured_from == structure.sop_uid,
            True,
            report.measured_from == structure.sop_uid,
        ),
        _check("voxels SEG other than contours", apart, 0, apart == 0),
        _check("RTSTRUCT bytes TPS = PACS", same, True, same),
        _check(
            "marked unapproved, unverified",
            f"{structure.approval}, {report.verification}",
            "both",
            _unapproved(structure, report),
        ),
    ]


def _stage(report: ReportFacts, truth: str) -> tuple[str, bool]:
    """What the SR says of the stage: one coded category, or the set it calls uncertain; whether truth is in it."""
    if report.category is not None:
        said = next((stage for stage, code in CT_CATEGORIES.items() if code.value == report.category), "unknown")
        return f"c{said}", said == truth
    text = next((text for text in report.texts if text.startswith("uncertain")), "nothing")
    return text, f"c{truth}" in text.replace(":", " ").split()


def segmented(facts: SegmentationFacts, stack: Stack) -> NDArray[np.bool_]:
    """The SEG's frames on the slices that they reference."""
    index = {header.reference: k for k, header in enumerate(stack.slices)}
    mask = np.zeros(stack.grid.shape, dtype=np.bool_)
    for frame in facts.frames:
        mask[index[frame.referenced[0]]] |= frame.pixels
    return mask


def _unapproved(structure: Any, report: Any) -> bool:
    return bool(structure.approval == "UNAPPROVED" and report.verification == "UNVERIFIED")


def _near(one: float, other: float) -> bool:
    return abs(one - other) <= VOLUME_TOLERANCE_CC


def _same_grid(study: PhantomStudy, stack: Stack) -> bool:
    return stack.grid.shape == study.mask.shape and bool(np.allclose(stack.grid.affine, study.affine, atol=1e-3))


def _check(name: str, found: object, wanted: object, holds: bool) -> View:
    return {"check": name, "found": found, "wanted": wanted, "holds": holds}


def _read(path: Path) -> WrittenObject:
    ds = dcmread(path, specific_tags=["SOPClassUID", "SOPInstanceUID"])
    return WrittenObject(kind_of(ds.SOPClassUID), ds.SOPClassUID, ds.SOPInstanceUID, path.read_bytes())


def write_page(folder: Path, view: View, tps: Sequence[Path], wanted: Sequence[Path]) -> None:
    """The static study page and its picture, drawn from the RTSTRUCT that arrived."""
    from npc_rtnode.cli.page import page_of, selected
    from npc_rtnode.web.study_page import picture, render

    if not tps:
        return
    structure, volume = structure_facts(_read(tps[0])), DicomSeriesReader().volume(wanted)
    page = page_of(view, structure, placed(structure.contours, volume.stack), volume)
    stored = PredictionFolder(folder / "home" / "work").load(selected(view)["jobs"][-1]["work_key"])
    page = replace(page, probability=stored.prediction.probability if stored else None)
    (folder / "study.html").write_text(render(page), "utf-8")
    (folder / "study.png").write_bytes(picture(page))
