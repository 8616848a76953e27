"""Completeness by C-FIND: the node asks Orthanc how many instances a series has, while Orthanc is still filling."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from npc_rtnode.adapters.dicom.archive import Archives, series_of, studies_of
from npc_rtnode.errors import AssociationRejected, NotFound, Unreachable
from npc_rtnode.settings import NO_TLS, Archive
from tests.acceptance.dcmtk import Storescp, Storescu
from tests.acceptance.hospital import make_study
from tests.acceptance.node import Node, View, example, free_port
from tests.acceptance.orthanc import Orthanc

pytestmark = [pytest.mark.acceptance, pytest.mark.peer("Orthanc", "storescu", "storescp"), pytest.mark.timeout(400)]

QUIET_S = 40
"""Long: what closes a series before has not waited for it."""


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
    """The PACS answers for what it sends itself, and is asked two seconds apart."""
    made = example(tps=tps.port, pacs=unstarted.port)
    made["assemble"] = {"quiet_s": QUIET_S, "released_s": 1, "asked_apart_s": 2}
    made["select"] = {"study_quiet_s": 600}  # what comes after closing is told elsewhere
    made["archives"][0] |= {"port": unstarted.port, "answers_for": ["PACS"]}
    return made


@pytest.fixture(scope="module")
def pacs(node: Node, unstarted: Orthanc) -> Iterator[Orthanc]:
    """Orthanc, which knows scanner and node."""
    unstarted.modalities = {"node": ("NPC_RTNODE", node.port), "scanner": ("SCANNER", free_port())}
    with unstarted as running:
        yield running


def scan(pacs: Orthanc, folder: Path, files: list[Path]) -> None:
    """The scanner: storescu to Orthanc."""
    Storescu(pacs.port, folder / "storescu", calling_ae="SCANNER", called_ae="PACS").send_all(files)


def archive(pacs: Orthanc, **wishes: object) -> Archive:
    """Orthanc as the settings describe it."""
    usual = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": pacs.port, "answers_for": ["PACS"]}
    return Archive.model_validate({**usual, "timeout_s": 5, **wishes})


def test_orthanc_says_how_many_instances_a_series_has(pacs: Orthanc, folder: Path) -> None:
    """By the series it is asked about; 0 for one that it does not know."""
    study = make_study(folder / "sent", "counted")
    scan(pacs, folder, study.files)
    sources, headers = Archives([archive(pacs)], NO_TLS), study.slices
    (found,) = series_of(archive(pacs), NO_TLS, study.uid)
    assert found.instances == len(study.files) == len(headers)
    assert sources.count("PACS", study.uid, found.series_uid) == len(study.files)
    assert sources.count("PACS", study.uid, "1.2.3.4.5") == 0


def test_who_cannot_be_asked_is_told_by_its_code(pacs: Orthanc) -> None:
    """A closed port, a title that is not known there, an accession number that nothing has."""
    with pytest.raises(Unreachable):
        series_of(archive(pacs, port=free_port()), NO_TLS, "1.2")
    with pytest.raises(AssociationRejected):
        series_of(archive(pacs, ae_title="NOBODY"), NO_TLS, "1.2")
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
    node.wait_for(lambda: len(node.series(study.uid)) == 1 and len(node.series(study.uid)[0]["asked"]) >= 3, 30)
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


def series_reference(node: Node, uid: str) -> str:
    """The short reference of a study."""
    view = node.study(uid)
    assert view is not None
    return str(view["study"])
