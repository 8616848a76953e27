"""The preview's words and numbers: from the images, the result and the structure set read back to one plain page.

Only here are the patient's name and number decoded, in the character set that the images declare, and only for the
page: the object's own identity elements stay raw bytes (adapters/dicom/identity).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from npc_rtnode.adapters.dicom.elements import read_elements, value_of
from npc_rtnode.adapters.dicom.series import DicomSeriesReader, clean_text
from npc_rtnode.adapters.dicom.verify import structure_facts
from npc_rtnode.domain.gates import Outcome, StructureFacts, before_writing
from npc_rtnode.domain.geometry import Stack
from npc_rtnode.domain.measuring import measures_of, place_of, side_of
from npc_rtnode.domain.prediction import Prediction
from npc_rtnode.domain.rasterising import PlacedRing
from npc_rtnode.domain.records import WrittenObject
from npc_rtnode.domain.report import ObjectPlan, ReportContent, plain, report_of
from npc_rtnode.drawing.preview import PreviewPage
from npc_rtnode.drawing.views import axes_of, ring_of

DRAFT: Final = (
    "AI DRAFT - UNVERIFIED: a radiation oncologist must check, change or reject every contour and the category"
)
"""Over every page, whoever trained the bundle."""

_SHOWN: Final = {
    "PatientID": "ID",
    "PatientBirthDate": "born",
    "PatientSex": "sex",
    "StudyDate": "study",
    "StudyTime": "at",
    "AccessionNumber": "accession",
    "StudyDescription": "",
    "SeriesNumber": "series",
    "SeriesDescription": "",
    "InstitutionName": "",
}
_DATE: Final = re.compile(r"(\d{4})(\d\d)(\d\d)")
_TIME: Final = re.compile(r"(\d\d)(\d\d)(\d\d)?(\.\d+)?")


def page_of(
    stack: Stack,
    sources: Sequence[Path],
    mask: NDArray[np.bool_],
    prediction: Prediction,
    plan: ObjectPlan,
    rtstruct: WrittenObject,
) -> PreviewPage:
    """The page of one result; `sources` in the order of the stack's slices. Outlines are read from the RTSTRUCT."""
    facts = structure_facts(rtstruct)
    rings, content = placed(facts, stack), report_of(mask, stack.grid, prediction, plan, rtstruct.variant)
    patient = read_elements(sources[0], ("SpecificCharacterSet", "PatientName", *_SHOWN))
    return PreviewPage(
        title=content.title,
        created_at=plan.local_time,
        voxels=DicomSeriesReader().volume(list(dict.fromkeys(sources))).voxels,
        spacing_mm=stack.grid.spacing_mm,
        axes=axes_of(stack.grid),
        rings=tuple(ring_of(ring, stack.grid) for ring in rings),
        places=tuple(place_of(stack.grid, index) for index in range(len(stack.slices))),
        colour=plan.content.roi_color,
        notices=content.notices,
        draft=DRAFT,
        patient=_name(patient),
        facts=tuple(_patient_facts(patient)),
        statement=content.staging.text,
        uncertain=content.staging.uncertain,
        uncertain_below=plan.content.uncertain_below,
        stages=tuple(content.staging.probabilities.items()),
        roi_name=facts.roi_name,
        measurements=tuple(_measurements(rings, mask, stack, content)),
        concerns=tuple(_concerns(stack, mask, prediction, content)),
        unchecked=(f"{content.not_checked}.",),
        small_print=_small_print(plan, content),
    )


def placed(facts: StructureFacts, stack: Stack) -> list[PlacedRing]:
    """The contours on the slices that they reference; one that references no slice of the stack has no place."""
    index = {header.reference: k for k, header in enumerate(stack.slices)}
    return [
        PlacedRing(index[contour.referenced[0]], contour.points_mm)
        for contour in facts.contours
        if len(contour.referenced) == 1 and contour.referenced[0] in index
    ]


# --- whose images these are -------------------------------------------------------------------------------------------


def _name(ds: Dataset) -> str:
    """Family name first, as DICOM writes it; alphabetic, ideographic and phonetic forms side by side (PS3.5 6.2.1)."""
    forms = (" ".join(re.split(r"\s*\^\s*", form)).strip() for form in _text(ds, "PatientName").split("="))
    return "  /  ".join(form for form in forms if form) or "no name"


def _patient_facts(ds: Dataset) -> Iterator[tuple[str, str]]:
    for keyword, label in _SHOWN.items():
        said = _text(ds, keyword)
        said = _as_date(said) if keyword.endswith("Date") else _as_time(said) if keyword.endswith("Time") else said
        if said:
            yield label, said


def _text(ds: Dataset, keyword: str) -> str:
    """An element's text in the declared character set; empty where it is absent or cannot be decoded."""
    value = value_of(ds, keyword)
    return "" if value is None else clean_text(str(value))


def _as_date(said: str) -> str:
    found = _DATE.fullmatch(said)
    return "-".join(found.groups()) if found else said


def _as_time(said: str) -> str:
    found = _TIME.fullmatch(said)
    return f"{found[1]}:{found[2]}" if found else said


# --- the result -------------------------------------------------------------------------------------------------------


def _measurements(
    rings: Sequence[PlacedRing], mask: NDArray[np.bool_], stack: Stack, content: ReportContent
) -> Iterator[tuple[str, str]]:
    """Volume as the report says it, extents, and where it lies."""
    measures = measures_of(rings, mask, stack)
    across, deep, high = measures.extent_mm
    yield "Volume", content.volume_said
    yield "Extent R-L x A-P x H-F", f"{across:.0f} x {deep:.0f} x {high:.0f} mm"
    yield "Longest in one slice", f"{measures.diameter_mm:.0f} mm"
    yield "Centroid, mm", ", ".join(_short(side_of(at, axis)) for axis, at in enumerate(measures.centroid_mm))
    yield "Centroid slice", f"{measures.centroid_slice + 1} of {len(stack.slices)}"
    yield "Contours", f"{measures.contours} on {measures.slices} slices"
    yield "Slice distance", f"{stack.grid.spacing_mm[0]:.1f} mm"


def _short(place: str) -> str:
    return place.removesuffix(" mm")


def _concerns(stack: Stack, mask: NDArray[np.bool_], prediction: Prediction, content: ReportContent) -> Iterable[str]:
    """What the checks before writing found, what the objects warn of, and what was left out; each once."""
    judged = before_writing(stack, mask, prediction)
    found = [str(gate.finding) for gate in judged if gate.outcome is not Outcome.PASS]
    found += [str(finding) for finding in content.findings]
    if content.dropped_cc > 0:
        found.append(f"Post-processing left out {content.dropped_cc:.3f} cc in small or distant parts.")
    return dict.fromkeys(plain(said, 400) for said in found)


def _small_print(plan: ObjectPlan, content: ReportContent) -> tuple[str, ...]:
    bundle, at = content.bundle, f"{plan.local_time:%Y-%m-%d %H:%M:%S} {plan.utc_offset}"
    return (
        f"Model {plain(bundle.name, 64)} {plain(bundle.version, 32)}, SHA-256 {bundle.sha256[:16]}. "
        f"Written {at} by {plain(plan.software_version, 64)}, {plain(plan.site, 64)}. "
        + ". ".join([f"Result revision {plan.result_revision}", *content.replaced])
        + ".",
        f"{plain(content.staging.edition, 100)}. Proposed from one MR series, without clinical examination or "
        "endoscopy. Contours lie in the frame of reference of this MR; places are those of each slice's middle in it.",
        f"Indication: {content.indication or 'not stated'}.",
    )
