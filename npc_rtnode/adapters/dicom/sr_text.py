"""The report for a PACS that shows text alone: Enhanced SR (PS3.3 A.35.2) and Basic Text SR (A.35.1), after TID 2000.

Both say what the Comprehensive SR says, in sections a person reads from top to bottom. Enhanced SR has numbers as
numbers; Basic Text SR, which may hold none, has them as text of the same spelling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from npc_rtnode.adapters.dicom.coding import coded
from npc_rtnode.adapters.dicom.identity import read_sources
from npc_rtnode.adapters.dicom.reporting import (
    CONTAINS,
    Reported,
    category_of,
    code,
    document,
    filed,
    insert_notices,
    key_slice,
    name_frame,
    observer,
    source_of_measurement,
    stage,
    text,
    texts,
)
from npc_rtnode.domain import vocabulary
from npc_rtnode.domain.geometry import Stack
from npc_rtnode.domain.prediction import Prediction
from npc_rtnode.domain.profiles import ObjectOrder
from npc_rtnode.domain.records import ObjectKind, WrittenObject
from npc_rtnode.domain.report import ObjectPlan, report_of
from npc_rtnode.domain.vocabulary import Code

if TYPE_CHECKING:
    from highdicom.sr import ContainerContentItem, ContentItem

Value = Callable[[Code, str, Code], "ContentItem"]
"""How a number is said: its name, its spelling, its unit."""


def write_text_sr(
    stack: Stack,
    sources: Sequence[Path],
    mask: NDArray[np.bool_],
    prediction: Prediction,
    plan: ObjectPlan,
    rtstruct: WrittenObject,
    order: ObjectOrder,
) -> WrittenObject:
    """SR_ENHANCED or SR_TEXT, as ordered, Explicit VR Little Endian; `sources` in the order of the stack's slices."""
    from highdicom.sr import EnhancedSR

    images = read_sources(stack, sources)
    content = report_of(mask, stack.grid, prediction, plan, rtstruct.variant)
    case = Reported(order, images, content, plan, key_slice(mask), rtstruct)
    tree = _tree(case, _as_number if order.kind is ObjectKind.SR_ENHANCED else _as_text)
    name_frame(case, tree)
    return filed(case, document(case, tree, EnhancedSR))


def _tree(case: Reported, value: Value) -> Dataset:
    """TID 2000: what was reported, by which device, findings, conclusions."""
    root = _container(vocabulary.IMAGING_REPORT, None)
    root.ContentSequence = _items(
        [
            code(vocabulary.LANGUAGE, vocabulary.LANGUAGE_EN_US),
            *observer(case.plan),
            code(vocabulary.PROCEDURE_REPORTED, vocabulary.MR_IMAGING),
            _section(vocabulary.FINDINGS, [_finding(case), *_measured(case, value), _key_image(case)]),
            _section(vocabulary.CONCLUSIONS, [stage(case.content), *texts(case)]),
        ],
    )
    insert_notices(case, root)
    return root


def _finding(case: Reported) -> ContentItem:
    said = case.content
    where = f"{vocabulary.GTV_PRIMARY.meaning}, {vocabulary.NASOPHARYNX.meaning}"
    return text(
        vocabulary.FINDING, f"{where}: {said.stage_line}. Algorithm {said.algorithm_name} {said.algorithm_version}."
    )


def _measured(case: Reported, value: Value) -> list[ContentItem]:
    """The volume with what it was measured on, and four probabilities with what each is the probability of."""
    volume = value(vocabulary.VOLUME, case.content.volume_text, vocabulary.CUBIC_CENTIMETRE)
    method = code(vocabulary.MEASUREMENT_METHOD, vocabulary.VOXEL_SUM)
    volume.ContentSequence = _items([method, source_of_measurement(case)])
    measured = [volume]
    for name, share in case.content.staging.probabilities.items():
        item = value(vocabulary.PROBABILITY, f"{share:.4f}", vocabulary.NO_UNITS)
        item.ContentSequence = _items([category_of(case.content, name)])
        measured.append(item)
    return measured


def _as_number(name: Code, spelled: str, unit: Code) -> ContentItem:
    from highdicom.sr import NumContentItem

    return NumContentItem(coded(name), float(spelled), coded(unit), relationship_type=CONTAINS)


def _as_text(name: Code, spelled: str, unit: Code) -> ContentItem:
    return text(name, spelled if unit == vocabulary.NO_UNITS else f"{spelled} {unit.value}")


def _key_image(case: Reported) -> ContentItem:
    from highdicom.sr import ImageContentItem

    header = case.images.headers[case.key]
    return ImageContentItem(
        coded(vocabulary.KEY_IMAGE), header.SOPClassUID, header.SOPInstanceUID, relationship_type=CONTAINS
    )


def _section(title: Code, items: Sequence[ContentItem]) -> ContainerContentItem:
    section = _container(title, CONTAINS)
    section.ContentSequence = _items(items)
    return section


def _container(title: Code, relationship: str | None) -> ContainerContentItem:
    from highdicom.sr import ContainerContentItem

    return ContainerContentItem(coded(title), relationship_type=relationship)


def _items(items: Sequence[ContentItem]) -> Any:
    from highdicom.sr import ContentSequence

    return ContentSequence(items)
