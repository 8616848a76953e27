"""The demo's study page: what the ledger says and what the written RTSTRUCT outlines, as the page's plain values."""

from __future__ import annotations

from typing import Any

from npc_rtnode.cli.console import NOTICE
from npc_rtnode.domain.gates import StructureFacts
from npc_rtnode.domain.geometry import Grid, Volume
from npc_rtnode.domain.rasterising import PlacedRing
from npc_rtnode.domain.report import SYNTHETIC_NOTICE
from npc_rtnode.drawing.views import axes_of, ring_of
from npc_rtnode.settings import ContentSettings
from npc_rtnode.web.study_page import StudyPage

View = dict[str, Any]
_STEPS = {
    ("series", "BORN"): "Received",
    ("series", "CLOSED_WHOLE"): "Complete",
    ("series", "SELECTED"): "Selected",
    ("job", "PREDICTED"): "Segmented",
    ("job", "WRITTEN"): "Written, checked",
    ("job", "DELIVERED"): "Delivered",
}


def page_of(view: View, structure: StructureFacts, placed: list[PlacedRing], volume: Volume) -> StudyPage:
    """The page of the study's only selected series; outlines come from the structure set that was read back."""
    study, series = view["studies"][0], selected(view)
    job = series["jobs"][-1]
    results, grid = job["results"], volume.stack.grid
    t1, t2, t3, t4 = results["stage_probabilities"]
    return StudyPage(
        reference=study["study"],
        facts=_facts(series, job, grid),
        state=job["state"],
        timeline=_timeline(view["history"], series, job),
        voxels=volume.voxels,
        spacing_mm=grid.spacing_mm,
        axes=axes_of(grid),
        rings=tuple(ring_of(ring, grid) for ring in placed),
        probability=None,
        stage_probabilities=(t1, t2, t3, t4),
        uncertain_below=ContentSettings().uncertain_below,
        measurements=_measurements(results, structure),
        checks=tuple((gate["outcome"], f"{gate['gate']}: {gate['message']}") for gate in results["gates"]),
        deliveries=tuple(
            (d["destination"], item["kind"], d["state"], d["status"] or "")
            for item in job["objects"]
            for d in item["deliveries"]
        ),
        notices=(NOTICE, *((SYNTHETIC_NOTICE,) if results["synthetic"] else ())),
    )


def selected(view: View) -> View:
    """The series of the study that has a job."""
    return next(dict(series) for series in view["studies"][0]["series"] if series["jobs"])


def _facts(series: View, job: View, grid: Grid) -> tuple[str, ...]:
    between, rows, columns = grid.spacing_mm
    return (
        f"{series['modality']}, {grid.shape[0]} slices",
        f"{columns:.2f} x {rows:.2f} x {between:.2f} mm",
        f"bundle {job['bundle']}",
        *([f"computed on {job['results']['ran_on']}"] if job["results"].get("ran_on") else []),
    )


def _timeline(history: list[View], series: View, job: View) -> tuple[tuple[str, str, str], ...]:
    subjects = {f"series {series['series']}", f"job {job['job']}"}
    rows = []
    for event in history:
        kind = event["subject"].split()[0]
        label = _STEPS.get((kind, event["event"])) or _STEPS.get((kind, event["to"] or ""))
        if label and event["subject"] in subjects:
            rows.append((label, event["at"][11:19], f"{series['instances']} images" if label == "Received" else ""))
    return tuple(rows)


def _measurements(results: View, structure: StructureFacts) -> tuple[tuple[str, str], ...]:
    slices = len({contour.referenced for contour in structure.contours})
    return (
        ("Volume", f"{results['volume_cc']:.1f} cm3"),
        ("Sup-inf extent", f"{slices * results['spacing_mm'][0]:.0f} mm, {slices} slices"),
        ("Contours", str(len(structure.contours))),
        ("Dropped by post-processing", f"{results['dropped_cc']:.1f} cm3"),
    )
