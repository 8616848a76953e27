"""Every folder of real data, sent by DCMTK to a running node: how each ends, and why, in one table.

`pytest -s` prints the table; it is also written to `folders.txt` in this module's temporary folder. Every file is sent
in the transfer syntax that it lies in and in no other: nothing is converted on the way, and what the node does not take
is refused in negotiation. The called AE title is the one meant for NPC, so that the indication hides no other reason.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread, uid

from npc_rtnode.adapters.dicom.elements import read_elements
from npc_rtnode.adapters.dicom.pixels import FORM_KEYWORDS, decoded, form_of
from npc_rtnode.adapters.dicom.series import DicomSeriesReader
from tests.acceptance.dcmtk import NO_CLASS, NO_CONTEXT, NOT_WHOLE, SUCCESS, Storescu, kind_of
from tests.acceptance.hospital import Destination, Scanner, slice_of
from tests.acceptance.node import Node, View, example
from tests.builders.headers import real_folder

pytestmark = [pytest.mark.acceptance, pytest.mark.peer("storescu"), pytest.mark.timeout(600)]

CANNOT_UNDERSTAND = "Error: CannotUnderstand"
"""How storescu names C000."""
Ends = tuple[str, str]
"""The state that a series ends in, and a pattern that one of its reasons matches."""


@dataclass(frozen=True)
class Row:
    """One folder: how its series end, and what became of files that were not answered Success, by name."""

    ends: tuple[Ends, ...] = ()
    left: Mapping[str, str] = field(default_factory=dict)


def aside(*reasons: str) -> tuple[Ends, ...]:
    """Series that are set aside, for these reasons."""
    return tuple(("SET_ASIDE", reason) for reason in reasons)


CONFLICT: Ends = ("QUARANTINED", "^CONFLICT: one SOP Instance UID came with two different contents")

JOBS = {"mr_study_nema_enhanced_tumour": [("HELD", "^(ENHANCED_MR|EMPTY_MASK): ")]}
"""The folders that start a job, and how it ends: no destination here holds Enhanced MR, and a bundle of phantoms
may well outline nothing in a brain."""

LAST = "nasty_pydicom"
"""Sent when all else is settled: its MR_small is of one series with the Toshiba image of WG04."""

TABLE = {
    "background": Row(left={"datalad_t1_axial_full.nii.gz": NO_CLASS}),
    "charset_pydicom": Row(
        (*aside(*['^modality: Modality is "OT"'] * 10), CONFLICT),  # chrFren and chrFrenMulti share their UID
        {
            "chrJapMulti.dcm": NO_CONTEXT,  # Computed Radiography does not travel with an MR study
            "chrJapMultiExplicitIR6.dcm": NO_CONTEXT,
            "chrKoreanMulti.dcm": NO_CONTEXT,
            "chrSQEncoding.dcm": NO_CLASS,
            "chrSQEncoding1.dcm": NO_CLASS,
        },
    ),
    "mr_canon_galan_dti_1vol": Row(aside('^no other weighting: SeriesDescription is "DTI_PA-ortho"')),
    "mr_ge_premier_3plane_localizer": Row(aside('^not a localizer: SeriesDescription is "3-Plane Localizer"')),
    "mr_ge_signa_pd_axial_head": Row(aside('^no other weighting: SeriesDescription is "FSE PD AXIAL OBL"')),
    "mr_hitachi_echelon_jp_charset": Row(aside('^stack: @stack is "TOO_FEW_SLICES')),
    "mr_philips_achieva_epi_2vol": Row(aside('^stack: @stack is "DUPLICATE_POSITION"')),
    "mr_siemens_ce_t1_hn_vsseg": Row(aside('^stack: @stack is "TOO_FEW_SLICES"')),
    "mr_siemens_mosaic_epi": Row(aside('^not a mosaic: @mosaic is "yes"')),
    "mr_t1_axial_head_datalad": Row(
        aside('^contrast: ContrastBolusAgent is missing, .*SeriesDescription is "anat-T1w"')
    ),
    "mr_uih_dti_vframe_mosaic": Row(aside('^not a mosaic: @mosaic is "yes"')),
    "mr_uih_t1_sag_slab": Row(aside(r'^plane: @plane is "sagittal" \([0-9.]+ degrees off')),
    "nasty_dicom2nifti_failing": Row(
        aside(
            '^modality: Modality is "CT"',
            '^stack: @stack is "TOO_FEW_SLICES NO_FRAME_OF_REFERENCE"',
            '^stack: @stack is ".*MIXED_ORIENTATION',
        )
    ),
    "rt_dicompyler_breast": Row(aside("^structure set: matched 0 of 98 referenced images; 98 not here$")),
    "rt_ibsi_sts002_philips_t1": Row(
        aside('^acquired: ImageType is "DERIVED', "^structure set: matched 0 of 35 referenced images; 35 not here$")
    ),
    "rt_rtutils_mim_phantom_ct": Row(  # MIM's two share their UID; each alone: tests/integration/test_references.py
        (
            *aside('^modality: Modality is "CT"', r"^structure set: matched 2 of 2 referenced images, in series \d+$"),
            CONFLICT,
        )
    ),
    "rt_sts001_mr_t2fs": Row(
        aside(
            '^no other weighting: SeriesDescription is "AXIAL SE T2 FAT SAT',
            r"^structure set: matched 40 of 40 referenced images, in series \d+$",
        )
    ),
    "ts_nema_wg04_mr1_toshiba_mr3_ge": Row(aside(*['^stack: @stack is "TOO_FEW_SLICES DUPLICATE_POSITION"'] * 2)),
    "ts_same_image_9_syntaxes": Row(aside('^not a mosaic: @mosaic is "yes"'), {"3.dcm": NO_CONTEXT}),
    "ts_siemens_j2k_fragmented": Row(aside(r'^plane: @plane is "sagittal" \([0-9.]+ degrees off')),
    "vol_ce_t1_tumour_mask_brain1": Row(left={"brain1_image.nrrd": NO_CLASS, "brain1_label.nrrd": NO_CLASS}),
    "mr_study_nema_enhanced_tumour": Row(
        (
            ("SELECTED", "^contrast: ContrastBolusAgent"),
            *aside('^not before contrast: SeriesDescription is ".* T1 AXIAL PRE GAD"'),
        )
    ),
    "mr_enhanced_siemens_xa30_t1": Row(
        aside(r'^plane: @plane is "sagittal" \([0-9.]+ degrees off', '^modality: Modality is "SR"')
    ),
    LAST: Row(
        aside(
            '^modality: Modality is "SR"',
            '^modality: Modality is "SR"',
            "^structure set: it references no image$",
            '^stack: @stack is "TOO_FEW_SLICES',
        ),
        {
            "ExplVR_BigEndNoMeta.dcm": NO_CONTEXT,
            "ExplVR_LitEndNoMeta.dcm": NO_CONTEXT,
            "MR_small_bigendian.dcm": NO_CONTEXT,
            "MR_small_padded.dcm": CANNOT_UNDERSTAND,
            "MR_truncated.dcm": NOT_WHOLE,
            "UN_sequence.dcm": NO_CLASS,
            "badVR.dcm": NO_CONTEXT,
            "empty_charset_LEI.dcm": NO_CLASS,
            "image_dfl.dcm": NO_CONTEXT,
            "meta_missing_tsyntax.dcm": NO_CLASS,
            "nested_priv_SQ.dcm": NO_CLASS,
            "no_meta.dcm": NO_CLASS,
            "no_meta_group_length.dcm": NO_CLASS,
            "priv_SQ.dcm": NO_CLASS,
            "rtplan_truncated.dcm": NOT_WHOLE,
        },
    ),
}

SYNTAXES = {
    "1.dcm": uid.ExplicitVRLittleEndian,
    "2.dcm": uid.ImplicitVRLittleEndian,
    "3.dcm": uid.ExplicitVRBigEndian,
    "4.dcm": uid.RLELossless,
    "5.dcm": uid.JPEGLosslessSV1,
    "6.dcm": uid.JPEGLosslessSV1,
    "7.dcm": uid.JPEGLSLossless,
    "8.dcm": uid.JPEGLSLossless,
    "9.dcm": uid.JPEG2000Lossless,
}
"""The nine files of one image; the third is the one that is refused."""


@dataclass(frozen=True)
class Sent:
    """One folder after all is quiet: what storescu said of each file, and the series as the ledger has them."""

    outcomes: Mapping[Path, str]
    series: tuple[View, ...]

    @property
    def left(self) -> dict[str, str]:
        """Files that were not answered Success, by name."""
        return {path.name: outcome for path, outcome in self.outcomes.items() if outcome != SUCCESS}


def files_of(folder: str) -> list[Path]:
    """Every file below a folder of real data, in order."""
    return sorted(path for path in real_folder(folder).rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def settings(tps: Destination, archive: Destination) -> View:
    """A site that is being commissioned: every destination is a test system. One folder comes over six associations."""
    changed = example(tps=tps.port, pacs=archive.port)
    changed["assemble"] = {"quiet_s": 3}
    changed["destinations"] = [{**destination, "test": True} for destination in changed["destinations"]]
    return changed


@pytest.fixture(scope="module")
def sent(node: Node, folder: Path) -> dict[str, Sent]:
    """Every folder of the table, sent one after the other, when nothing is under way any more."""
    storescu = Storescu(node.port, folder / "storescu", called_ae="NPC_MR")
    first = send_folders(node, storescu, [name for name in TABLE if name != LAST])
    return first | send_folders(node, storescu, [LAST])


def send_folders(node: Node, storescu: Storescu, names: Iterable[str]) -> dict[str, Sent]:
    """Send these without waiting for one another, then wait until nothing is under way any more."""
    said: dict[str, tuple[dict[Path, str], set[str]]] = {}
    for name in names:
        before = {row.id for row in node.associations()}
        outcomes = storescu.send_as_they_are(files_of(name))
        said[name] = outcomes, {row.id for row in node.associations()} - before
    node.wait_for(node.settled, 240)
    return {name: Sent(outcomes, tuple(node.fed_by(fed))) for name, (outcomes, fed) in said.items()}


def reason_for(series: View, pattern: str) -> str | None:
    """The first of a series' reasons that matches."""
    return next((reason for reason in told(series) if re.search(pattern, reason)), None)


def told(series: View) -> list[str]:
    """A series' reasons; of one that was selected, its verdicts."""
    chosen = [f"{verdict['rule']}: {verdict['because']}" for verdict in series["verdicts"]]
    return list(series["reasons"]) or chosen


def compared(row: Row, series: Iterable[View]) -> tuple[list[tuple[View, str]], list[Ends]]:
    """Each series with the reason that the row names for it, "?" for none; and those ends of the row that none has."""
    reasons, missing = {view["series"]: "?" for view in series}, []
    for state, pattern in row.ends:
        free = [view for view in series if view["state"] == state and reasons[view["series"]] == "?"]
        found = next(((view, reason) for view in free if (reason := reason_for(view, pattern))), None)
        if found is None:
            missing.append((state, pattern))
        else:
            reasons[found[0]["series"]] = found[1]
    return [(view, reasons[view["series"]]) for view in series], missing


def lines_of(name: str, row: Row, sent: Sent) -> list[str]:
    """A folder's lines of the table: what was taken, then each series with the reason that the row names."""
    counts = Counter(sent.outcomes.values())
    lines = [f"{name}: " + ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())]
    for view, reason in compared(row, sent.series)[0]:
        lines.append(f"    {view['modality']:<9}{view['instances']:>3}  {view['state']:<12}{reason}")
    return lines


# --- the table --------------------------------------------------------------------------------------------------------


def test_every_folder_is_a_row_of_the_table() -> None:
    """A folder that is added without a row is noticed."""
    there = {path.name for path in real_folder("charset_pydicom").parent.iterdir() if path.is_dir()}
    assert set(TABLE) == there - {"LICENSES"}


@pytest.mark.parametrize("name", TABLE)
def test_a_folder_ends_as_its_row_says(sent: dict[str, Sent], name: str) -> None:
    """Every file is acknowledged or named, and every series ends in the row's state with a reason in words."""
    row, came = TABLE[name], sent[name]
    assert came.left == row.left
    series, missing = compared(row, came.series)
    assert missing == []
    assert [(view["state"], view["reasons"]) for view, reason in series if reason == "?"] == []


def test_nothing_else_starts_a_job(sent: dict[str, Sent]) -> None:
    """No structure set, no report, no other weighting ever reaches the model; what does ends for the reason named."""
    jobs = {name: [job for view in came.series for job in view["jobs"]] for name, came in sent.items()}
    started = {name: found for name, found in jobs.items() if found}
    assert {name: [job["state"] for job in found] for name, found in started.items()} == {
        name: [state for state, _ in ends] for name, ends in JOBS.items()
    }
    for name, ends in JOBS.items():
        for job, (_, pattern) in zip(started[name], ends, strict=True):
            assert any(re.search(pattern, reason) for reason in job["reasons"]), job["reasons"]


def test_the_table_is_printed(sent: dict[str, Sent], folder: Path) -> None:
    """Folder, state and reason, for a person."""
    lines = [line for name, row in TABLE.items() for line in lines_of(name, row, sent[name])]
    (folder / "folders.txt").write_text("\n".join(lines) + "\n", "utf-8")
    print("\n" + "\n".join(lines))
    assert not [line for line in lines if line.endswith("?")]


# --- bytes and pixels -------------------------------------------------------------------------------------------------


def test_a_file_that_ends_in_zeros_is_one_image_as_it_lies_and_as_dcmtk_sends_it(
    node: Node, sent: dict[str, Sent]
) -> None:
    """DCMTK makes an empty command group at the front of them; sent raw, the same image is a duplicate and no conflict.

    The series is an even stack: its jitter is tolerated, SpacingBetweenSlices not believed.
    """
    (before,) = sent["mr_ge_signa_pd_axial_head"].series
    assert (before["state"], before["instances"]) == ("SET_ASIDE", 20)
    assert {verdict["rule"]: verdict["truth"] for verdict in before["verdicts"]}["stack"] == "TRUE"
    Scanner(node.port, called_ae="NPC_MR").send_all(
        [slice_of(real_folder("mr_ge_signa_pd_axial_head") / "brain_001.dcm")]
    )
    node.wait_for(node.settled, 60)
    (after,) = [
        view for view in node.fed_by(row.id for row in node.associations()) if view["series"] == before["series"]
    ]
    assert (after["state"], after["instances"]) == ("SET_ASIDE", 20)


def test_of_nine_syntaxes_eight_come_to_the_same_pixels(node: Node, sent: dict[str, Sent]) -> None:
    """What is taken decodes, in the node's own reader, to the pixels of the file; big endian is refused at the door."""
    outcomes = {path.name: outcome for path, outcome in sent["ts_same_image_9_syntaxes"].outcomes.items()}
    assert {
        name: uid.UID(kind_of(real_folder("ts_same_image_9_syntaxes") / name).syntax) for name in outcomes
    } == SYNTAXES
    assert {name for name, outcome in outcomes.items() if outcome == NO_CONTEXT} == {"3.dcm"}
    assert {name for name, outcome in outcomes.items() if outcome == SUCCESS} == set(SYNTAXES) - {"3.dcm"}
    expected = dcmread(real_folder("ts_same_image_9_syntaxes") / "3.dcm").pixel_array
    for name in set(SYNTAXES) - {"3.dcm"}:
        row = node.instances()[slice_of(real_folder("ts_same_image_9_syntaxes") / name).sop_uid]
        assert row.transfer_syntax_uid == SYNTAXES[name], "it came as it was"
        path = node.station.spool.path(row.sha256)
        (header,) = DicomSeriesReader().headers([path])
        assert np.array_equal(decoded(path, header, form_of(read_elements(path, FORM_KEYWORDS))), expected), name


def test_character_sets_are_kept_byte_for_byte(node: Node, sent: dict[str, Sent]) -> None:
    """Every file of the twelve character sets that the node takes lies in the spool with the data set's very bytes."""
    taken = [path for path, outcome in sent["charset_pydicom"].outcomes.items() if outcome == SUCCESS]
    wanted = {(item.sop_uid, item.encoded) for item in map(slice_of, taken)}
    uids = {sop_uid for sop_uid, _ in wanted}
    rows = [row for row in node.instance_rows() if row.sop_uid in uids]
    assert len(wanted) == len(rows) == 12
    assert {(row.sop_uid, slice_of(node.station.spool.path(row.sha256)).encoded) for row in rows} == wanted
