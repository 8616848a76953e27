"""Two contents under one SOP Instance UID, two patients or two studies under one series UID: over the wire, to the end.

Whatever is sent is kept; what cannot be one patient's one series gets no contour, and a person is told what to do.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import ImplicitVRLittleEndian, RLELossless

from tests.acceptance.hospital import (
    PATIENT_ID,
    PATIENT_NAME,
    Destination,
    Scanner,
    Slice,
    Study,
    make_study,
    slice_of,
)
from tests.acceptance.node import Node, View
from tests.builders.mr_series import make_series

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(400)]

WORD = "asked the technician"


@pytest.fixture
def study(request: pytest.FixtureRequest, folder: Path) -> Study:
    """A whole phantom study of this test's own."""
    return make_study(folder / "sent", request.node.name)


def changed(path: Path, **attributes: Any) -> Slice:
    """The slice of this file with other values: the same UID, another content."""
    ds = dcmread(path)
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return _as_sent(ds)


def re_encoded(path: Path) -> Slice:
    """The same elements in implicit VR, sequences with undefined lengths."""
    ds = dcmread(path)
    for element in ds:
        if element.VR == "SQ":
            element.is_undefined_length = True
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    return _as_sent(ds)


def compressed(path: Path) -> Slice:
    """The same image in RLE."""
    ds = dcmread(path)
    ds.compress(RLELossless, generate_instance_uid=False)
    return _as_sent(ds)


def _as_sent(ds: Dataset) -> Slice:
    buffer = BytesIO()
    implicit = ds.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
    dcmwrite(buffer, ds, implicit_vr=implicit, little_endian=True, enforce_file_format=True)
    meta = dcmread(BytesIO(buffer.getvalue()), specific_tags=["SOPInstanceUID"]).file_meta
    encoded = buffer.getvalue()[144 + meta.FileMetaInformationGroupLength :]
    return Slice(str(ds.SOPClassUID), str(ds.SOPInstanceUID), str(ds.file_meta.TransferSyntaxUID), encoded)


def only_series(node: Node, uid: str) -> View:
    """The one series revision of a study."""
    (series,) = node.series(uid)
    return series


def assert_both_are_kept(node: Node, *slices: Slice) -> None:
    """The spool holds the data sets of all of these, byte for byte."""
    kept = [node.station.spool.read(sha256) for sha256 in node.copies(slices[0].sop_uid)]
    for item in slices:
        assert any(file.endswith(item.encoded) for file in kept)


# --- two contents under one SOP Instance UID --------------------------------------------------------------------------


def test_another_encoding_is_the_same_image(node: Node, scanner: Scanner, study: Study, tps: Destination) -> None:
    """A PACS sends the series again in implicit VR: acknowledged, kept, no conflict, one result."""
    again = [re_encoded(path) for path in study.files]
    assert {item.transfer_syntax for item in again} != {item.transfer_syntax for item in study.slices}
    scanner.send_all(study.slices)
    scanner.send_all(again)
    node.delivered(study.uid)
    scanner.send_all(again)
    assert only_series(node, study.uid)["state"] == "SELECTED"
    assert only_series(node, study.uid)["instances"] == len(study.slices)
    assert len(tps.of_study(study.uid)) == 1
    assert_both_are_kept(node, study.slices[3], again[3])


def test_a_conflict_quarantines_until_a_person_chooses(
    node: Node, scanner: Scanner, study: Study, tps: Destination
) -> None:
    """One slice comes with another content: Success, both kept, no result, told wherever one looks; then a choice."""
    other = changed(study.files[7], ImageComments="sent a second time", AcquisitionNumber=9)
    scanner.send_all([*study.slices[:12], other])
    scanner.send_all(study.slices[12:])
    node.wait_for(lambda: node.states(study.uid) == ["QUARANTINED"], 30)
    assert_both_are_kept(node, study.slices[7], other)
    assert "conflicting contents under one SOP Instance UID" in node.log_text()
    (reason,) = only_series(node, study.uid)["reasons"]
    assert reason.endswith("They differ in AcquisitionNumber, ImageComments")
    assert "QUARANTINED" in node.cli("studies", "list").stdout
    story = node.cli("why", study.uid).stdout
    assert reason in story
    assert [f" {number}: " in line for number, line in zip((1, 2), rivals_told(story), strict=True)] == [True, True]
    assert (node.jobs(study.uid), tps.of_study(study.uid)) == ([], [])
    assert_only_a_choice_helps(node, study)
    chosen = node.cli("release", study.uid, "--keep", "first", "--reason", WORD)
    assert chosen.returncode == 0, chosen.stderr
    node.delivered(study.uid)
    assert len(tps.of_study(study.uid)) == 1
    assert WORD in node.cli("why", study.uid).stdout
    scanner.send_all([other, study.slices[7]])
    assert only_series(node, study.uid)["state"] == "SELECTED", "what was decided stays decided"
    assert_both_are_kept(node, study.slices[7], other)


def rivals_told(story: str) -> list[str]:
    """The lines of `why` that tell the contents to choose from."""
    lines = story.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("  in conflict"))
    return [line for line in lines[at : at + 2] if "from PACS" in line]


def assert_only_a_choice_helps(node: Node, study: Study) -> None:
    """Neither a release without a choice nor another look leads out; a rehearsed choice changes nothing."""
    for verb in (("release",), ("reprocess", "--from", "select")):
        refused = node.cli(verb[0], study.uid, *verb[1:], "--reason", WORD)
        assert refused.returncode == 2, refused.stdout
    rehearsed = node.cli("release", study.uid, "--keep", "last", "--reason", WORD, "--dry-run")
    assert (rehearsed.returncode, rehearsed.stdout.startswith("would do: series")) == (0, True)
    node.settle()
    assert node.states(study.uid) == ["QUARANTINED"]


def test_the_last_content_after_a_delivery_waits_for_a_word(
    node: Node, scanner: Scanner, study: Study, tps: Destination
) -> None:
    """The result has left when the conflict comes: the new content makes a second result, HELD before it goes."""
    scanner.send_all(study.slices)
    first = node.delivered(study.uid)
    scanner.send_all([changed(study.files[0], ImageComments="rescued")])
    node.settle()
    assert node.states(study.uid) == ["QUARANTINED"]
    assert node.cli("release", study.uid, "--keep", "last", "--reason", WORD).returncode == 0
    node.wait_for(lambda: len(node.jobs(study.uid)) == 2 and node.final(study.uid))
    held = node.jobs(study.uid)[-1]
    assert [reason.split(":")[0] for reason in held["reasons"]] == ["SUPERSEDES_DELIVERED"]
    assert held["work_key"] != first["work_key"]
    assert len(tps.of_study(study.uid)) == 1


def test_compressed_and_plain_is_a_conflict_that_says_so(node: Node, scanner: Scanner, folder: Path) -> None:
    """The receiver decodes no pixels: RLE beside plain pixels is a conflict, and the reason names the encodings."""
    uid, files = small_series(folder, "compressed")
    scanner.send_all([slice_of(path) for path in files])
    scanner.send_all([compressed(files[2])])
    node.settle()
    assert node.states(uid) == ["QUARANTINED"]
    (reason,) = only_series(node, uid)["reasons"]
    assert "RLE Lossless; pixels are not decoded" in reason


# --- two patients, two studies under one series UID -------------------------------------------------------------------


def small_series(folder: Path, name: str, part: str = "", **wishes: Any) -> tuple[str, list[Path]]:
    """A cheap series of 12 small slices: its study's UID and its files, in order."""
    usual = {"patient_name_bytes": PATIENT_NAME.encode(), "patient_id": PATIENT_ID, "study_seed": name}
    files = make_series(folder / "sent" / f"{name}{part}", slices=12, seed=name, **{**usual, **wishes})
    return str(dcmread(files[0]).StudyInstanceUID), files


@pytest.mark.parametrize(
    "other",
    [
        {"patient_id": f"{PATIENT_ID}B"},
        {"patient_name_bytes": b"ROENTGEN^WILHELMINA"},
        {"attributes": {"IssuerOfPatientID": "OTHER HOSPITAL"}},
        {"charset": "ISO_IR 192", "patient_name_bytes": "RÖNTGEN^WILHELM".encode()},
    ],
    ids=["another patient ID", "another name", "another issuer", "the same name in another character set"],
)
def test_two_patients_in_one_series(
    node: Node,
    scanner: Scanner,
    folder: Path,
    tps: Destination,
    request: pytest.FixtureRequest,
    other: dict[str, Any],
) -> None:
    """Half of the slices say another patient: QUARANTINED as MIXED_PATIENT, no job, and no verb uses it."""
    spelled = {"patient_name_bytes": "RÖNTGEN^WILHELM".encode("latin-1")} if "charset" in other else {}
    uid, files = small_series(folder, request.node.name, **spelled)
    _, others = small_series(folder, request.node.name, " of another", **other)
    mixed = [*files[:6], *others[6:]]
    scanner.send_all([slice_of(path) for path in mixed])
    node.wait_for(lambda: node.states(uid) == ["QUARANTINED"], 30)
    assert_nobody_can_use(node, uid, "MIXED_PATIENT: 2 different patient identities", tps)
    assert len(node.instances()) >= len(mixed), "all of it is kept"


def test_two_studies_in_one_series(node: Node, scanner: Scanner, folder: Path, tps: Destination) -> None:
    """Half of the slices name another study: QUARANTINED as MIXED_STUDY, wherever one looks for it."""
    uid, files = small_series(folder, "two studies")
    other_uid, others = small_series(folder, "two studies", " of another", study_seed="another study")
    assert uid != other_uid
    scanner.send_all([slice_of(path) for path in (*files[:6], *others[6:])])
    node.wait_for(lambda: node.states(uid) == ["QUARANTINED"], 30)
    assert_nobody_can_use(node, uid, "MIXED_STUDY: 2 different studies", tps)


def assert_nobody_can_use(node: Node, uid: str, reason: str, tps: Destination) -> None:
    """The reason is told, there is no job, nothing left, and release, reprocess and a choice are all refused."""
    series = only_series(node, uid)
    assert any(told.startswith(reason) for told in series["reasons"]), series["reasons"]
    assert (series["jobs"], tps.of_study(uid)) == ([], [])
    for verb in (("release",), ("release", "--keep", "first"), ("reprocess", "--from", "select")):
        refused = node.cli(verb[0], uid, *verb[1:], "--reason", WORD)
        assert refused.returncode == 2, refused.stdout
    assert "the sender must send it anew" in node.cli("release", uid, "--reason", WORD).stderr
    assert reason in node.cli("why", uid).stdout
    node.settle()
    assert node.states(uid) == ["QUARANTINED"]


def test_one_patients_healthy_series_is_not_hurt(node: Node, scanner: Scanner, study: Study, tps: Destination) -> None:
    """After all that, the next study is delivered as ever, and the hash chain of events is whole."""
    scanner.send_all(study.slices)
    node.delivered(study.uid)
    assert len(tps.of_study(study.uid)) == 1
    assert node.cli("db", "check").returncode == 0
