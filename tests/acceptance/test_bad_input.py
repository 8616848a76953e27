"""Bad input and bad destinations: a clear coded outcome each time, nothing lost, and the neighbours unharmed."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import CTImageStorage, RTStructureSetStorage

from tests.acceptance.hospital import (
    CANNOT_UNDERSTAND,
    PATIENT_ID,
    PATIENT_NAME,
    SUCCESS,
    UNCOUNTED,
    UNSAID,
    Destination,
    Scanner,
    Study,
    make_study,
    slice_of,
)
from tests.acceptance.node import Node, View, example, free_port
from tests.builders.mr_series import make_series
from tests.fakes.scp import Faults

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def settings(tps: Destination, archive: Destination) -> View:
    """The example's, and a second peer that may call from another address only."""
    changed = example(tps=tps.port, pacs=archive.port)
    changed["listener"]["peers"].append({"ae_title": "ELSEWHERE", "networks": ["127.0.0.9/32"]})
    return changed


@pytest.fixture(autouse=True)
def _healthy_again(tps: Destination) -> Iterator[None]:
    """The TPS is well before every test, whatever the one before made of it."""
    yield
    tps.faults = Faults()


@pytest.fixture
def study(request: pytest.FixtureRequest, folder: Path) -> Study:
    """A whole phantom study of this test's own."""
    return make_study(folder / "sent", request.node.name)


def small_series(folder: Path, name: str, **wishes: Any) -> tuple[str, list[Path]]:
    """A cheap series of 12 small slices that no model needs to see: its study's UID and its files."""
    files = make_series(
        folder / "sent" / name,
        slices=12,
        seed=name,
        study_seed=name,
        patient_name_bytes=PATIENT_NAME.encode(),
        patient_id=PATIENT_ID,
        **wishes,
    )
    return str(dcmread(files[0]).StudyInstanceUID), files


def owed_to(node: Node, study: Study, destination: str) -> View:
    """The delivery of this study there, which exists."""
    delivery = node.delivery(study.uid, destination)
    assert delivery is not None, node.story()
    return delivery


# --- who may send -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("caller", "reason"),
    [
        ({"calling_ae": "STRANGER"}, "calling AE title not recognised"),
        ({"calling_ae": "ELSEWHERE"}, "calling AE title not recognised for this address"),
        ({"called_ae": "SOMEBODY"}, "called AE title not recognised"),
    ],
    ids=["unknown calling AE", "known AE from a wrong network", "unknown called AE"],
)
def test_who_is_not_known_is_rejected_at_the_door(
    node: Node, folder: Path, caller: dict[str, str], reason: str
) -> None:
    """The association is rejected, nothing is stored, and who called stands in the journal with the reason."""
    _, files = small_series(folder, "never taken")
    before, told = len(node.instances()), len(node.events("REJECTED"))
    assoc = Scanner(node.port, **caller).associate([slice_of(files[0])])
    assert assoc.is_rejected
    node.wait_for(lambda: len(node.events("REJECTED")) == told + 1, 10)
    detail = node.events("REJECTED")[-1].detail
    assert detail["reason"].startswith(reason)
    assert detail["calling_ae"] == caller.get("calling_ae", "PACS")
    assert len(node.instances()) == before


def test_an_unknown_address_is_not_even_heard(node: Node) -> None:
    """A connection from an address of no peer is closed before a byte is read, whatever title it would have named."""
    before = len(node.instances())
    with socket.create_connection(("127.0.0.1", node.port), timeout=10, source_address=("127.0.0.5", 0)) as line:
        assert line.recv(1) == b""
    node.wait_for(lambda: any(row.detail["peer_ip"] == "127.0.0.5" for row in node.events("REJECTED")), 10)
    assert len(node.instances()) == before


# --- what is sent -----------------------------------------------------------------------------------------------------


def test_a_truncated_instance_is_refused_and_its_neighbours_are_kept(
    node: Node, scanner: Scanner, folder: Path
) -> None:
    """C000 for the one, Success for the others of the same association; nothing of it is kept, the journal says why."""
    uid, files = small_series(folder, "truncated")
    whole = [slice_of(path) for path in files]
    sent = [*whole[:5], whole[5].truncated(), *whole[6:]]
    refused = len(node.events("INSTANCE_REFUSED"))
    assert scanner.send(sent) == [SUCCESS] * 5 + [CANNOT_UNDERSTAND] + [SUCCESS] * 6
    assert whole[5].sop_uid not in node.instances()
    assert {item.sop_uid for item in whole} - {whole[5].sop_uid} <= set(node.instances())
    said = node.events("INSTANCE_REFUSED")
    assert len(said) == refused + 1
    assert said[-1].detail["outcome"] == "UNREADABLE"
    node.wait_for(lambda: node.states(uid) == ["STALLED"], 30)


@pytest.mark.parametrize(("modality", "sop_class"), [("CT", CTImageStorage), ("RTSTRUCT", RTStructureSetStorage)])
def test_another_modality_is_set_aside(
    node: Node, scanner: Scanner, folder: Path, modality: str, sop_class: str
) -> None:
    """What travels with an MR study is taken and set aside, with a reason that names what was wanted."""
    uid, files = small_series(folder, modality, attributes={"Modality": modality, "SOPClassUID": sop_class})
    scanner.send_all([slice_of(path) for path in files])
    node.wait_for(lambda: node.states(uid) == ["SET_ASIDE"], 30)
    (series,) = node.series(uid)
    assert series["modality"] == modality
    assert any(reason.startswith("modality: ") and modality in reason for reason in series["reasons"])
    assert series["jobs"] == []


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"PhotometricInterpretation": "MONOCHROME1"}, "INVERTED_GREY: PhotometricInterpretation MONOCHROME1"),
        ({"RescaleSlope": "0", "RescaleIntercept": "0"}, "RESCALE: RescaleSlope 0"),
    ],
    ids=["inverted", "slope 0"],
)
def test_grey_values_that_mean_nothing_certain_are_set_aside(
    node: Node, scanner: Scanner, folder: Path, attributes: dict[str, str], said: str
) -> None:
    """A well-formed series whose pixels cannot be used: no job, its code and number and count in `why`."""
    name = said.split(":")[0]
    uid, files = small_series(folder, name, attributes={"QualityControlImage": "YES", **attributes})
    scanner.send_all([slice_of(path) for path in files])
    node.wait_for(lambda: node.states(uid) == ["SET_ASIDE"], 30)
    assert node.jobs(uid) == []
    told = " ".join(node.cli("why", uid).stdout.split())
    assert f'grey values: @pixels is "{said}' in told
    assert "12 of 12 images" in told


def test_pixels_that_are_padding_alone_end_the_job(node: Node, scanner: Scanner, folder: Path) -> None:
    """What only the decoded pixels show: the series is selected, then FAILED, code and number in `why`."""
    wishes = {"voxels": np.full((12, 64, 64), 7), "rows": 64, "columns": 64}
    stated = {"QualityControlImage": "YES", "PixelPaddingValue": 7}
    uid, files = small_series(folder, "padding alone", attributes=stated, **wishes)
    scanner.send_all([slice_of(path) for path in files])
    node.wait_for(lambda: node.job_states(uid) == ["FAILED"], 120)
    told = " ".join(node.cli("why", uid).stdout.split())
    assert "PIXELS_REFUSED" in told
    assert "ALL_PADDING: all 49152 pixels are padding" in told


def test_a_partial_series_is_never_inferred_until_it_is_whole(
    node: Node, scanner: Scanner, study: Study, tps: Destination
) -> None:
    """An inner slice is missing: STALLED with GAP, no job, no release; when it comes, the series is delivered."""
    slices = study.slices
    scanner.send_all([*slices[:9], *slices[10:]])
    node.wait_for(lambda: node.states(study.uid) == ["STALLED"], 30)
    (series,) = node.series(study.uid)
    assert any(reason.startswith("GAP: about 1 slices missing") for reason in series["reasons"])
    assert series["jobs"] == []
    refused = node.cli("release", study.uid, "--reason", "the scanner was short of time")
    assert refused.returncode == 2
    assert "FORBIDDEN" in refused.stderr
    assert node.states(study.uid) == ["STALLED"]
    scanner.send_all([slices[9]])
    job = node.delivered(study.uid)
    assert job["results"]["slices"] == len(slices)
    assert len(tps.of_study(study.uid)) == 1


def test_a_late_slice_makes_a_revision_that_waits_for_a_person(
    node: Node, scanner: Scanner, folder: Path, tps: Destination
) -> None:
    """After delivery another slice comes: revision 2, HELD as SUPERSEDES_DELIVERED; released, it is another object."""
    late = make_study(folder / "sent", "late slice", **UNCOUNTED)
    scanner.send_all(late.slices[:-1])
    first = node.delivered(late.uid)
    scanner.send_all(late.slices[-1:])
    node.wait_for(lambda: len(node.jobs(late.uid)) == 2 and node.final(late.uid))
    superseded, series = node.series(late.uid)
    assert (superseded["state"], superseded["revision"]) == ("SUPERSEDED", 1)
    assert (series["state"], series["revision"]) == ("SELECTED", 2)
    (held,) = series["jobs"]
    assert held["state"] == "HELD"
    assert [reason.split(":")[0] for reason in held["reasons"]] == ["SUPERSEDES_DELIVERED"]
    assert len(tps.of_study(late.uid)) == 1, "nothing has left before the word"
    released = node.cli("release", late.uid, "--reason", "the apex belongs to it")
    assert released.returncode == 0, released.stderr
    second = node.delivered(late.uid)
    assert second["work_key"] != first["work_key"]
    uids = [item.sop_uid for item in tps.of_study(late.uid)]
    assert len(uids) == len(set(uids)) == 2


def test_an_unknown_indication_waits_for_an_operators_word(
    node: Node, scanner: Scanner, folder: Path, tps: Destination
) -> None:
    """Nobody says NPC: HELD before the model sees it; `release --reason` delivers it, and `why` keeps the word."""
    unsaid = make_study(folder / "sent", "no indication", **UNSAID)
    scanner.send_all(unsaid.slices)
    node.wait_for(lambda: node.states(unsaid.uid) == ["HELD"], 30)
    (series,) = node.series(unsaid.uid)
    assert [reason.split(":")[0] for reason in series["reasons"]] == ["INDICATION_UNKNOWN"]
    assert series["jobs"] == []
    word = "tumour board 23 Nov, biopsy proven"
    released = node.cli("release", unsaid.uid, "--reason", word)
    assert released.returncode == 0, released.stderr
    job = node.delivered(unsaid.uid)
    assert "operator" in job["indication"]
    assert word not in job["indication"], "free text of an operator goes into no report"
    assert len(tps.of_study(unsaid.uid)) == 1
    assert word in node.cli("why", unsaid.uid).stdout


# --- destinations -----------------------------------------------------------------------------------------------------


def test_a_tps_that_is_down_is_tried_again_until_it_is_up(
    node: Node, scanner: Scanner, study: Study, tps: Destination, archive: Destination
) -> None:
    """PENDING with UNREACHABLE and a later time, the archive served meanwhile; once up, the next try delivers."""
    tps.down()
    scanner.send_all(study.slices)
    node.wait_for(lambda: (node.delivery(study.uid, "tps") or {"last_error": None})["last_error"])
    owed = owed_to(node, study, "tps")
    assert owed["last_error"].startswith("UNREACHABLE")
    assert owed["state"] in {"PENDING", "SENDING"}
    assert owed["sent_at"] is None
    first = owed["attempts"][0]
    assert first["outcome"] == "POSTPONED"
    assert datetime.fromisoformat(owed["due_at"]) > datetime.fromisoformat(first["ended_at"])
    node.wait_for(lambda: len(archive.of_study(study.uid)) == 2)
    assert node.job_states(study.uid) == ["WRITTEN"]
    echo = node.cli("echo", "tps")
    assert (echo.returncode, "UNREACHABLE" in echo.stderr) == (60, True)
    tps.up()
    node.delivered(study.uid)
    assert len(tps.of_study(study.uid)) == 1
    assert owed_to(node, study, "tps")["status"] == "0x0000"


def test_a_tps_that_refuses_is_named_and_retried_on_a_persons_word(
    node: Node, scanner: Scanner, study: Study, tps: Destination
) -> None:
    """A900 is final: FAILED, named with its status, exit code 62 for a person who tries; `retry` delivers later."""
    tps.faults = Faults(statuses=[0xA900])
    scanner.send_all(study.slices)
    node.wait_for(lambda: node.jobs(study.uid) and node.final(study.uid))
    (job,) = node.jobs(study.uid)
    assert job["state"] == "FAILED"
    assert job["reasons"] == ["NOT_DELIVERED to tps: OBJECT_REFUSED: The peer refused the object. Status A900."]
    assert owed_to(node, study, "tps")["state"] == "FAILED"
    assert tps.of_study(study.uid) == []
    tps.faults = Faults(statuses=[0xA900])
    sent = node.cli("send", "tps", str(study.files[0]))
    assert sent.returncode == 62, sent.stdout + sent.stderr
    assert "OBJECT_REFUSED" in sent.stderr
    again = node.cli("retry", study.uid, "--reason", "the TPS has been mended")
    assert again.returncode == 0, again.stderr
    node.delivered(study.uid)
    assert [item.sop_uid for item in tps.of_study(study.uid)] == [
        o["sop_uid"] for o in job["objects"] if o["kind"] == "RTSTRUCT"
    ]


def test_a_busy_tps_is_given_time(node: Node, scanner: Scanner, study: Study, tps: Destination) -> None:
    """A700 is a matter of the moment: postponed as PEER_BUSY, then delivered by itself."""
    tps.faults = Faults(statuses=[0xA700])
    scanner.send_all(study.slices)
    node.delivered(study.uid)
    attempts = owed_to(node, study, "tps")["attempts"]
    assert [attempt["outcome"] for attempt in attempts] == ["POSTPONED", "DONE"]
    assert attempts[0]["detail"] == "PEER_BUSY: The peer is out of resources for now. Status A700."
    assert len(tps.of_study(study.uid)) == 1


def test_an_answer_for_another_object_counts_for_nothing(
    node: Node, scanner: Scanner, study: Study, tps: Destination
) -> None:
    """Success for another SOP Instance UID is PEER_CONFUSED and never SENT; the right answer later is."""
    tps.faults = Faults(wrong_sop_uid=True)
    scanner.send_all(study.slices)
    node.wait_for(lambda: (node.delivery(study.uid, "tps") or {"last_error": None})["last_error"])
    owed = owed_to(node, study, "tps")
    assert owed["last_error"].startswith("PEER_CONFUSED")
    assert (owed["sent_at"], owed["status"]) == (None, None)
    assert owed["state"] != "SENT"
    tps.faults = Faults()
    job = node.delivered(study.uid)
    assert {item.sop_uid for item in tps.of_study(study.uid)} == {
        o["sop_uid"] for o in job["objects"] if o["kind"] == "RTSTRUCT"
    }


def test_nothing_else_was_hurt(node: Node) -> None:
    """No role has died of it, every line of the log is one JSON object, and the hash chain of events is whole."""
    lines = [json.loads(line) for line in node.log_text().splitlines()]
    assert len(lines) > 20
    assert [line for line in lines if line["event"].startswith("role died")] == []
    assert [line for line in lines if "tick failed" in line["event"]] == []
    assert json.loads(node.cli("db", "check", "--json").stdout)["event_chain_whole"] is True


def test_a_dead_port_is_exit_code_60(node: Node) -> None:
    """Whoever types an address where nobody listens is told so by the documented code."""
    echo = node.cli("echo", f"NOBODY@127.0.0.1:{free_port()}")
    assert echo.returncode == 60
    assert echo.stderr.startswith("E: UNREACHABLE")
