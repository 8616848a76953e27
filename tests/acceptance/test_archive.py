"""Orthanc as an archive that is asked, fetched from, and answered: completeness by C-FIND while it is still filling,
backfill by C-MOVE, and storage commitment."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from npc_rtnode.adapters.database.commitments import CommitmentLedger
from npc_rtnode.adapters.dicom.archive import Archives, series_of, studies_of
from npc_rtnode.errors import AssociationRejected, NotFound, PeerError, Unreachable
from npc_rtnode.settings import NO_TLS, Archive
from tests.acceptance.dcmtk import Storescp, Storescu
from tests.acceptance.hospital import SUCCESS, Scanner, make_study, store
from tests.acceptance.node import Node, View, example, free_port
from tests.acceptance.orthanc import ROUTE_EVERYTHING, Orthanc

pytestmark = [pytest.mark.acceptance, pytest.mark.peer("Orthanc", "storescu", "storescp"), pytest.mark.timeout(600)]

QUIET_S = 300
"""Long: what closes a series before has not waited for it."""
APART_S, BREATH_S = 6, 2
"""Between two questions to the PACS; and what a scanner rests between two bursts, so that it is asked meanwhile."""


@pytest.fixture(scope="module")
def tps(folder: Path) -> Iterator[Storescp]:
    """A treatment planning system."""
    with Storescp(folder / "tps") as scp:
        yield scp


@pytest.fixture(scope="module")
def unstarted(folder: Path) -> Orthanc:
    """The PACS: where it will be."""
    return Orthanc(folder / "pacs")


@pytest.fixture(scope="module")
def settings(tps: Storescp, unstarted: Orthanc) -> View:
    """The PACS answers for what it sends itself, and is asked some seconds apart."""
    made = example(tps=tps.port, pacs=unstarted.port)
    made["assemble"] = {"quiet_s": QUIET_S, "released_s": 1, "asked_apart_s": APART_S}
    made["select"] = {"study_quiet_s": 600}  # what comes after closing is told elsewhere
    made["listener"]["peers"][0]["roles"] = ["store", "commit"]
    made["archives"][0] |= {"port": unstarted.port, "answers_for": ["PACS"]}
    return made


@pytest.fixture(scope="module")
def pacs(node: Node, unstarted: Orthanc) -> Iterator[Orthanc]:
    """Orthanc, which knows scanner and node."""
    unstarted.modalities = {"node": ("NPC_RTNODE", node.port), "scanner": ("SCANNER", free_port())}
    with unstarted as running:
        yield running


def scan(pacs: Orthanc, folder: Path, files: Sequence[Path]) -> None:
    """The scanner: storescu to Orthanc."""
    Storescu(pacs.port, folder / "storescu", calling_ae="SCANNER", called_ae="PACS").send_all(files)


def archive(pacs: Orthanc, **wishes: object) -> Archive:
    """Orthanc as the settings describe it."""
    usual = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": pacs.port, "answers_for": ["PACS"]}
    return Archive.model_validate({**usual, "timeout_s": 30, **wishes})


def test_orthanc_says_how_many_instances_a_series_has(pacs: Orthanc, folder: Path) -> None:
    """By the series it is asked about; 0 for one that it does not know."""
    study = make_study(folder / "sent", "counted")
    scan(pacs, folder, study.files)
    sources, headers = Archives([archive(pacs)], NO_TLS), study.slices
    (found,) = series_of(archive(pacs), NO_TLS, study.uid)
    assert found.instances == len(study.files) == len(headers)
    assert sources.count("PACS", study.uid, found.series_uid) == len(study.files)
    assert sources.count("PACS", study.uid, "1.2.3.4.5") == 0


def _refusal(asked: Archive) -> type[PeerError]:
    """What a question comes to; the end of the connection may overtake the word before it (seen once in a busy run)."""
    with pytest.raises(PeerError) as refused:
        series_of(asked, NO_TLS, "1.2")
    return refused.type


def test_who_cannot_be_asked_is_told_by_its_code(pacs: Orthanc) -> None:
    """A closed port, a title that is not known there, an accession number that nothing has."""
    with pytest.raises(Unreachable):
        series_of(archive(pacs, port=free_port()), NO_TLS, "1.2")
    refusals = {_refusal(archive(pacs, ae_title="NOBODY")) for _ in range(3)}
    assert {AssociationRejected} <= refusals <= {AssociationRejected, PeerError}
    with pytest.raises(NotFound, match="pacs has no study with this accession number"):
        studies_of(archive(pacs), NO_TLS, "NO-SUCH-NUMBER")


def test_a_filling_pacs_is_waited_for_and_a_full_one_closes_at_once(node: Node, pacs: Orthanc, folder: Path) -> None:
    """Orthanc has the first 12 slices and routes them: it then has more than it has sent, and nothing closes; with the
    rest sent too, the same number said twice closes the series long before it would be quiet."""
    study = make_study(folder / "sent", "filling", without=["ImagesInAcquisition"])
    half, rest = study.files[:12], study.files[12:]
    scan(pacs, folder, half)
    first = pacs.find("Instance", StudyInstanceUID=study.uid)
    scan(pacs, folder, rest)
    assert pacs.send("node", first)["FailedInstancesCount"] == 0
    node.wait_for(lambda: len(node.series(study.uid)) == 1 and len(node.series(study.uid)[0]["asked"]) >= 2, 150)
    (series,) = node.series(study.uid)
    assert (series["state"], series["asked"][-1]["instances"]) == ("RECEIVING", len(study.files))
    late = [each for each in pacs.find("Instance", StudyInstanceUID=study.uid) if each not in first]
    assert pacs.send("node", late)["FailedInstancesCount"] == 0
    node.wait_for(lambda: node.states(study.uid) != ["RECEIVING"], QUIET_S / 2)
    (series,) = node.series(study.uid)
    assert series["closed_because"].startswith(f"pacs has {len(study.files)} instances, and had")
    said = node.cli("why", series_reference(node, study.uid)).stdout
    assert "source said" in said
    assert series["closed_because"] in said


@pytest.fixture
def routing(pacs: Orthanc) -> Iterator[None]:
    """Orthanc sends on what it stores, as long as this test lasts."""
    for script in (ROUTE_EVERYTHING, ""):
        pacs.down()
        pacs.lua = script
        pacs.up()
        if script:
            yield


@pytest.mark.usefixtures("routing")
def test_a_pacs_that_fills_while_it_is_asked_closes_nothing_too_soon(node: Node, pacs: Orthanc, folder: Path) -> None:
    """Bursts of four slices reach Orthanc, which sends each on at once: asked meanwhile it has as many as the node,
    and some seconds later more. Nothing is closed between two bursts; at the end all twenty are, as one revision."""
    study = make_study(folder / "sent", "bursts", without=["ImagesInAcquisition"])
    said = []
    for first in range(0, len(study.files), 4):
        scan(pacs, folder, study.files[first : first + 4])
        time.sleep(BREATH_S)
        assert node.states(study.uid) == ["RECEIVING"], f"after {first + 4} slices\n{node.story()}"
        said += [one["instances"] for one in node.series(study.uid)[0]["asked"]]
    assert any(number and number < len(study.files) for number in said), f"it was asked while it filled: {said}"
    node.wait_for(lambda: node.states(study.uid) != ["RECEIVING"], QUIET_S / 2)
    (series,) = node.series(study.uid)
    assert (series["revision"], series["instances"]) == (1, len(study.files))
    assert series["closed_because"].startswith(f"pacs has {len(study.files)} instances, and had")


def test_an_aborted_half_is_not_closed_by_a_pacs_that_has_the_same_half(
    node: Node, pacs: Orthanc, folder: Path
) -> None:
    """The transfer was cut, and the archive that was filled by it says the very number that is here: nobody asks it,
    nothing is closed."""
    study = make_study(folder / "sent", "cut", without=["ImagesInAcquisition"])
    half = study.slices[:12]
    scan(pacs, folder, study.files[:12])
    scanner = Scanner(node.port)
    with scanner.association(half) as assoc:
        assert [store(assoc, item) for item in half] == [SUCCESS] * len(half)
        assoc.abort()
    time.sleep(2 * APART_S + BREATH_S)
    (series,) = node.series(study.uid)
    assert (series["state"], series["asked"]) == ("RECEIVING", [])


def series_reference(node: Node, uid: str) -> str:
    """The short reference of a study."""
    view = node.study(uid)
    assert view is not None
    return str(view["study"])


# --- backfill ---------------------------------------------------------------------------------------------------------


def test_a_study_is_fetched_by_its_accession_number(node: Node, pacs: Orthanc, folder: Path) -> None:
    """`pull` has Orthanc send it: it comes through the listener as from any sender, and who wanted it is on record."""
    study = make_study(folder / "sent", "older", accession_number="A-2024-17")
    scan(pacs, folder, study.files)
    ask = ("pull", "--accession", "A-2024-17", "--reason", "backfill of last year")
    planned = node.cli(*ask, "--dry-run")
    assert (planned.returncode, node.series(study.uid)) == (0, []), planned.stderr
    assert f"a series of {len(study.files)} instances is fetched from pacs" in planned.stdout
    done = node.cli(*ask)
    assert done.returncode == 0, done.stderr
    node.settle()
    (series,) = node.series(study.uid)
    assert series["instances"] == len(study.files)
    assert [one["calling_ae"] for one in series["associations"]] == ["PACS"]
    told = [e for e in node.queries.history(series_reference(node, study.uid)) if e["event"].startswith("PULL")]
    assert [e["event"] for e in told] == ["PULL_ASKED", "PULLED"]
    assert told[1]["detail"] == {
        "reason": "backfill of last year",
        "archive": "pacs",
        "came": len(study.files),
        "sent": len(study.files),
        "failed": 0,
    }
    assert all(e["actor"].startswith("operator:") for e in told)


def test_what_cannot_be_fetched_is_told(node: Node, pacs: Orthanc) -> None:
    """An accession number that nothing has, an archive that nobody named: exit 2, and the words say which."""
    unknown = node.cli("pull", "--accession", "NO-SUCH", "--reason", "x")
    assert (unknown.returncode, "E: NOT_FOUND" in unknown.stderr) == (2, True), unknown.stderr
    nobody = node.cli("pull", "--accession", "A", "--from", "elsewhere", "--reason", "x")
    assert (nobody.returncode, "no archive is called" in nobody.stderr) == (2, True), nobody.stderr


# --- storage commitment -----------------------------------------------------------------------------------------------


def commitment(pacs: Orthanc, names: list[tuple[str, str]]) -> str:
    """Have Orthanc ask the node for commitment of these instances; Orthanc's own name of the transaction."""
    body = {"DicomInstances": [{"SOPClassUID": sop_class, "SOPInstanceUID": uid} for sop_class, uid in names]}
    return str(json.loads(pacs.fetch("/modalities/node/storage-commitment", body))["ID"])


def test_orthanc_is_told_what_is_safe_here(node: Node, pacs: Orthanc, folder: Path) -> None:
    """Orthanc asks by N-ACTION and is told by N-EVENT-REPORT on an association of ours: of what it has sent, Success;
    with one that never came, Failure, by its reason."""
    study = make_study(folder / "sent", "committed")
    Storescu(node.port, folder / "storescu").send_all(study.files)
    names = [(item.sop_class, item.sop_uid) for item in study.slices]
    whole, lacking = commitment(pacs, names), commitment(pacs, [*names[:2], (names[0][0], "1.2.3.4.5")])
    for each, status in ((whole, "Success"), (lacking, "Failure")):
        node.wait_for(lambda each=each: pacs.get(f"/storage-commitment/{each}")["Status"] != "Pending", 150)  # type: ignore[misc]
        assert pacs.get(f"/storage-commitment/{each}")["Status"] == status
    told = pacs.get(f"/storage-commitment/{lacking}")
    assert [one["SOPInstanceUID"] for one in told["Success"]] == [uid for _, uid in names[:2]]
    assert [(one["SOPInstanceUID"], one["FailureReason"]) for one in told["Failures"]] == [("1.2.3.4.5", 0x0112)]


def test_a_report_is_owed_over_a_crash(node: Node, pacs: Orthanc, folder: Path) -> None:
    """The worker is killed before it can answer, and the whole node after it: the report comes after the restart."""
    study = make_study(folder / "sent", "owed")
    Storescu(node.port, folder / "storescu").send_all(study.files)
    node.kill9("work")
    asked = commitment(pacs, [(item.sop_class, item.sop_uid) for item in study.slices[:3]])
    node.kill9_all()
    assert CommitmentLedger(node.station.sessions).counts()["PENDING"] == 1
    node.restart()
    node.wait_for(lambda: pacs.get(f"/storage-commitment/{asked}")["Status"] == "Success", 200)
