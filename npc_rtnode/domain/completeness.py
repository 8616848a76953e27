"""Is a series whole? A judgement over headers, with a reason for every answer; DICOM itself has no word for "the end".

What geometry cannot see is said here once: slices missing at either end, or every second slice missing, leave an even
stack. ImagesInAcquisition, where it is stated and larger than the count, and the source's own count (domain/closing)
are the only hints about those.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from npc_rtnode.domain.geometry import identity_findings, judge_stack
from npc_rtnode.domain.records import Finding, SliceHeader


class Kind(StrEnum):
    """What a quiet series turned out to be."""

    WHOLE = "WHOLE"  # one even stack: complete
    PARTIAL = "PARTIAL"  # slices are missing that may still come: stalled, never inferred
    NOT_A_STACK = "NOT_A_STACK"  # complete as it is, and no volume: selection sets it aside
    UNUSABLE = "UNUSABLE"  # two patients or two studies in one series: quarantined


IDENTITY_CODES = frozenset({"MIXED_PATIENT", "MIXED_STUDY"})
"""Findings that forbid any use of the series."""

RELEASABLE_CODES = frozenset({"COUNT_SHORT", "ABORTED", "REFUSED", "SOURCE_HAS_MORE"})
"""Partial by these alone, a person may declare the series complete.

A gap is never released: a contour would be drawn through anatomy that nobody sent.
"""

INCOMPLETE_CODES = frozenset({"GAP", "COUNT_SHORT", "PART_MISSING"})
"""Findings that further slices can heal."""

REMOVED_CODES = frozenset({"PURGED"})
"""Inputs whose bytes retention has removed: nothing can be judged of the series until it is sent again."""

_HEALED_WITH_THEM = frozenset({"TOO_FEW_SLICES"})


@dataclass(frozen=True)
class Completeness:
    """The judgement and the findings that led to it."""

    kind: Kind
    findings: tuple[Finding, ...] = ()


def judge(headers: Sequence[SliceHeader], image_series: bool) -> Completeness:
    """Judge what was received of a series; `image_series` is False for RTSTRUCT, SR, PR and other non-images."""
    if not image_series:
        return _judge_non_image(headers)
    findings = judge_stack(headers).findings
    return Completeness(_kind({finding.code for finding in findings}), findings)


def transfer_doubts(cut_short: str | None, refused: int) -> list[Finding]:
    """What the transfer itself leaves open: an association that did not end by release, images that were not taken.

    A contiguous part of a stack looks whole to geometry; only the sender's own end tells that it was all.
    """
    doubts = []
    if cut_short:
        doubts.append(Finding("ABORTED", f"the association that sent it was {cut_short} before it was released"))
    if refused:
        said = f"{refused} images of its association were refused and have not come since"
        doubts.append(Finding("REFUSED", said, float(refused), 0.0))
    return doubts


def doubted(completeness: Completeness, doubts: Sequence[Finding]) -> Completeness:
    """The judgement in the light of the transfer: what looks whole, or is merely small, is partial under a doubt."""
    small = {finding.code for finding in completeness.findings} <= INCOMPLETE_CODES | _HEALED_WITH_THEM
    if not doubts or completeness.kind is Kind.UNUSABLE or not small:
        return completeness
    return Completeness(Kind.PARTIAL, (*completeness.findings, *doubts))


def _judge_non_image(headers: Sequence[SliceHeader]) -> Completeness:
    mixed = tuple(identity_findings(headers))
    if mixed:
        return Completeness(Kind.UNUSABLE, mixed)
    finding = Finding("NOT_AN_IMAGE_SERIES", "not a series of images that this node reads")
    return Completeness(Kind.NOT_A_STACK, (finding,))


def _kind(codes: set[str]) -> Kind:
    """The table of codes: identity first, then what no further slice can heal, then what one can."""
    if codes & IDENTITY_CODES:
        return Kind.UNUSABLE
    if not codes:
        return Kind.WHOLE
    heals = codes & INCOMPLETE_CODES and codes <= INCOMPLETE_CODES | _HEALED_WITH_THEM
    return Kind.PARTIAL if heals else Kind.NOT_A_STACK
