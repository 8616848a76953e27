"""What the objects say, before DICOM: the sentences, the numbers and the labels a reader's eye falls on.

Everything said here is ASCII, so that it reads the same whatever character set the patient's name needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from npc_rtnode.domain.geometry import Grid
from npc_rtnode.domain.identifiers import derived_uid
from npc_rtnode.domain.prediction import BundleStatement, Prediction
from npc_rtnode.domain.profiles import Form, ObjectOrder
from npc_rtnode.domain.records import Finding, ObjectKind, SentBefore
from npc_rtnode.domain.staging import TStaging, staging_of

SYNTHETIC_NOTICE: Final = "SYNTHETIC PHANTOM WEIGHTS - NOT FOR CLINICAL USE"
SYNTHETIC_LABEL: Final = "NOT FOR CLINIC"  # SH, 16 characters
PHANTOM_NOTICE: Final = "Phantom series: a made head with known truth, no patient"
IMAGING_ONLY: Final = (
    "Imaging only: proposed by an algorithm from one MR series, without clinical examination or endoscopy. "
    "A draft for a physician to check, change or reject."
)
NOT_VISIBLE: Final = (
    "Cranial-nerve palsy and other clinical facts are not visible to the model; where they decide the T category it is "
    "wrong without knowing."
)
ANSWERS: Final = "The model answers T1 to T4 only: no tumour, Tis and TX are not among its answers."
CALIBRATED: Final = "The four probabilities are calibrated, as the bundle's card states, and sum to 1.0000."
NOT_CALIBRATED: Final = "The four probabilities are not calibrated; they sum to 1.0000."
NOT_CHECKED: Final = ("histology", "prior radiotherapy", "metastasis, nodal or distant")
VOLUME_DEFINITION: Final = "Volume is the number of voxels inside times the volume of one voxel."

TRACKED: Final = "GTVp"
"""Tracking identifier of the lesion, in the segmentation and in the report."""

_LONG_STRING: Final = 64  # LO, PS3.5 6.2
_SHORT_TEXT: Final = 1024  # ST
_LONG_TEXT_PART: Final = 100  # of a line in a text that holds others


class ContentChoices(Protocol):
    """What a site chooses about its objects (settings.ContentSettings)."""

    @property
    def roi_name(self) -> str:
        """TG-263 style, at most 16 characters."""

    @property
    def roi_color(self) -> tuple[int, int, int]:
        """Red, green, blue, 0-255."""

    @property
    def structure_set_label(self) -> str:
        """At most 16 characters."""

    @property
    def manufacturer(self) -> str:
        """Of the node as a device."""

    @property
    def device_serial(self) -> str:
        """Of the node as a device."""

    @property
    def series_number_rtstruct(self) -> int:
        """Of the structure set's own series."""

    @property
    def series_number_sr(self) -> int:
        """Of the report's own series."""

    @property
    def series_number_seg(self) -> int:
        """Of the segmentation's own series."""

    @property
    def series_number_preview(self) -> int:
        """Of the preview image's own series."""

    @property
    def series_number_pdf(self) -> int:
        """Of the preview document's own series."""

    @property
    def uncertain_below(self) -> float:
        """A top probability below this is called uncertain, 0-1."""


@dataclass(frozen=True)
class ObjectPlan:
    """All that shapes the objects besides the images and the prediction; the same plan gives the same bytes.

    created_at: aware UTC, frozen in the work row; utc_offset: `+HHMM`, as TimezoneOffsetFromUTC; phantom: the series is
    marked as one of ours; result_revision: 1 for the first result of a series revision; orders: what is to be written;
    supersedes: what was sent of earlier results of this series, the newest first.
    """

    work_key: str
    created_at: datetime
    content: ContentChoices
    utc_offset: str
    site: str
    bundle: BundleStatement
    software_version: str
    indication: str
    findings: tuple[Finding, ...]
    phantom: bool
    result_revision: int
    orders: tuple[ObjectOrder, ...] = (ObjectOrder(ObjectKind.RTSTRUCT), ObjectOrder(ObjectKind.SR))
    supersedes: tuple[SentBefore, ...] = ()

    @property
    def local_time(self) -> datetime:
        """created_at where the site is."""
        sign = -1 if self.utc_offset.startswith("-") else 1
        offset = timedelta(hours=int(self.utc_offset[1:3]), minutes=int(self.utc_offset[3:5]))
        return self.created_at.astimezone(timezone(sign * offset))

    def uid(self, what: str) -> str:
        """The UID of one thing in this result: object, series or tracked lesion."""
        return derived_uid(self.work_key, what)

    def object_uid(self, order: ObjectOrder) -> str:
        """The SOP Instance UID of what is ordered."""
        return self.uid(order.name)

    def series_uid(self, order: ObjectOrder) -> str:
        """The Series Instance UID of what is ordered: a series of its own."""
        return self.uid(f"series-{order.name}")

    def predecessor(self, kind: ObjectKind, variant: str = "") -> SentBefore | None:
        """What an object takes the place of: the newest of its form that was sent, else of its kind in any form.

        A form that nobody was sent has no object to be named: its UID could be computed, and nothing would have it.
        """
        sent = [one for one in self.supersedes if one.kind is kind]
        own = [one for one in sent if one.variant == variant]
        return next(iter([*own, *sent]), None)

    def roi_name(self, form: Form) -> str:
        """ROIName (LO) in this form."""
        return plain(form.roi_name or self.content.roi_name, _LONG_STRING)


@dataclass(frozen=True)
class ReportContent:
    """The report as sentences and numbers; volume_cc has three decimals, as both objects write it."""

    staging: TStaging
    volume_cc: float
    dropped_cc: float
    bundle: BundleStatement
    indication: str
    findings: tuple[Finding, ...]
    phantom: bool
    site_label: str
    supersedes: str | None = None  # SOP Instance UID of the structure set that this result replaces

    @property
    def volume_text(self) -> str:
        """cm3, three decimals: the one spelling in ROIVolume and in the SR."""
        return f"{self.volume_cc:.3f}"

    @property
    def volume_said(self) -> str:
        """`19.8 cm3`; below one cubic centimetre with all three decimals."""
        return f"{self.volume_cc:.1f} cm3" if self.volume_cc >= 1 else f"{self.volume_text} cm3"

    @property
    def stage_line(self) -> str:
        """One line for systems that show no SR: `AI cT3 p=.69; T1 .02 T2 .11 T4 .18; 24.0 cc; UNVERIFIED`."""
        shares = self.staging.hundredths
        top = "" if self.staging.uncertain else f" p={_short(shares[self.staging.top])}"
        rest = [s for s in shares if self.staging.uncertain or s != self.staging.top]
        others = " ".join(f"{stage} {_short(shares[stage])}" for stage in rest)
        return f"AI {self.staging.text}{top}; {others}; {self.volume_cc:.1f} cc; UNVERIFIED"

    @property
    def edition_line(self) -> str:
        """By which edition of the staging system."""
        return plain(f"Staging edition: {self.staging.edition}", _LONG_TEXT_PART)

    @property
    def notices(self) -> tuple[str, ...]:
        """What a reader must see first; empty for a clinical bundle on a patient's series."""
        said = [SYNTHETIC_NOTICE] if self.bundle.synthetic else []
        return tuple(said + ([PHANTOM_NOTICE] if self.phantom else []))

    @property
    def description(self) -> str:
        """ROIDescription and StructureSetDescription (ST): notices, stage, edition, warnings, what was not checked."""
        said = [
            *self.notices,
            self.stage_line,
            self.edition_line,
            *([self.warnings_line] if self.findings else []),
            *self.replaced,
        ]
        return plain(". ".join([*said, self.not_checked]), _SHORT_TEXT)

    @property
    def replaced(self) -> tuple[str, ...]:
        """Which structure set this result takes the place of; empty for a first result."""
        return (f"Supersedes structure set {self.supersedes}",) if self.supersedes else ()

    @property
    def warnings_line(self) -> str:
        """Every warning by its code with the number that decided it and the limit: `WARNINGS: DOUBT 0.61 (0.5)`."""
        return "WARNINGS: " + ", ".join(_in_short(finding) for finding in self.findings)

    @property
    def label(self) -> str:
        """StructureSetLabel (SH)."""
        return SYNTHETIC_LABEL if self.bundle.synthetic else plain(self.site_label, 16)

    @property
    def title(self) -> str:
        """StructureSetName and SeriesDescription (LO)."""
        return SYNTHETIC_NOTICE if self.bundle.synthetic else "AI draft, unverified: GTV and T category from MR"

    @property
    def algorithm_name(self) -> str:
        """The bundle's name (LO)."""
        return plain(self.bundle.name, _LONG_STRING)

    @property
    def algorithm_version(self) -> str:
        """The bundle's version and the beginning of its hash (LO)."""
        return plain(f"{self.bundle.version} {self.bundle.sha256[:12]}", _LONG_STRING)

    @property
    def algorithm_parameters(self) -> tuple[str, ...]:
        """What makes the run repeatable."""
        return (f"threshold={self.bundle.threshold:g}", f"bundle sha256={self.bundle.sha256}")

    @property
    def not_checked(self) -> str:
        """What nobody looked at."""
        return "NOT checked: " + "; ".join(NOT_CHECKED)

    @property
    def calibration(self) -> str:
        """What the probabilities are worth, as the bundle states it."""
        return CALIBRATED if self.bundle.calibrated else NOT_CALIBRATED

    @property
    def sentences(self) -> tuple[str, ...]:
        """Comments of the SR, in the order a reader should meet them."""
        said = [IMAGING_ONLY, NOT_VISIBLE, f"{self.not_checked}.", VOLUME_DEFINITION]
        said += [f"Staging edition: {self.staging.edition}. {ANSWERS}", self.calibration]
        if self.dropped_cc > 0:
            said.append(f"Post-processing left out {self.dropped_cc:.3f} cc in small or distant parts.")
        said += [f"Warning: {finding}" for finding in self.findings]
        said += [f"{sentence}." for sentence in self.replaced]
        said += [f"Bundle: {self.bundle.statement}"] if self.bundle.statement else []
        return tuple(plain(sentence, _SHORT_TEXT) for sentence in said)


def report_of(
    mask: NDArray[np.bool_], grid: Grid, prediction: Prediction, plan: ObjectPlan, structure: str = ""
) -> ReportContent:
    """What is to be said of one result, and of its structure set of that variant."""
    edition, limit = plan.bundle.staging_edition, plan.content.uncertain_below
    replaced = plan.predecessor(ObjectKind.RTSTRUCT, structure)
    return ReportContent(
        staging=staging_of(prediction.stage_probabilities, edition, limit),
        volume_cc=volume_cc(mask, grid),
        dropped_cc=prediction.dropped_cc,
        bundle=plan.bundle,
        indication=plain(plan.indication, _SHORT_TEXT),
        findings=tuple(dict.fromkeys((*plan.findings, *prediction.findings))),
        phantom=plan.phantom,
        site_label=plan.content.structure_set_label,
        supersedes=replaced.sop_uid if replaced else None,
    )


def volume_cc(mask: NDArray[np.bool_], grid: Grid) -> float:
    """Voxels inside times the volume of one, cubic centimetres to three decimals."""
    return round(int(np.count_nonzero(mask)) * grid.voxel_cc, 3)


def plain(text: str, limit: int) -> str:
    """ASCII in any character set: other letters as `U+9F3B`, backslashes and control characters gone, cut to length."""
    spelled = "".join(_spelled(letter) for letter in text)
    return " ".join(spelled.split())[:limit].rstrip()


def _spelled(letter: str) -> str:
    if letter == "\\":
        return "/"
    if not letter.isascii():
        return f" U+{ord(letter):04X} "
    return letter if letter.isprintable() else " "


def _in_short(finding: Finding) -> str:
    numbers = "" if finding.value is None else f" {finding.value:.3g}"
    return f"{finding.code}{numbers}" + ("" if finding.limit is None else f" ({finding.limit:.3g})")


def _short(hundredths: int) -> str:
    """`.69`, or `1.00`."""
    return f"{hundredths / 100:.2f}".removeprefix("0")
