"""A whole node among peers of other makers that speak mutual TLS alone: Orthanc as PACS, DCMTK as scanner and TPS.

Both ways and for every service: images in, results out, the question of completeness, C-MOVE with its sub-operations,
storage commitment with its report on an association of ours. Each side shows a certificate of the hospital's authority
and asks the other for one.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from tests.acceptance.dcmtk import Storescp, Storescu, class_of, program
from tests.acceptance.hospital import Study, make_study
from tests.acceptance.node import Node, View, example, free_port
from tests.acceptance.orthanc import Orthanc
from tests.acceptance.test_archive import QUIET_S, commitment, series_reference
from tests.acceptance.test_main_job import RTSTRUCT
from tests.builders.certificates import Authority, Pair

pytestmark = [pytest.mark.acceptance, pytest.mark.peer("Orthanc", "storescu", "storescp"), pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    """The hospital's own."""
    return Authority(folder / "pki")


@pytest.fixture(scope="module")
def pairs(authority: Authority) -> dict[str, Pair]:
    """Who has which certificate."""
    return {name: authority.sign(name) for name in ("node", "pacs", "tps", "scanner")}


def dcmtk_tls(pair: Pair, authority: Authority) -> list[str]:
    """DCMTK's options for mutual TLS, without downgrading."""
    known = ["+tls", str(pair.key), str(pair.certificate), "+cf", str(authority.trusted)]
    return [*known, "--profile-bcp195-nd"]


@pytest.fixture(scope="module")
def tps(folder: Path, pairs: dict[str, Pair], authority: Authority) -> Iterator[Storescp]:
    """DCMTK's storescp, by TLS."""
    scp = Storescp(folder / "tps")
    scp.options = dcmtk_tls(pairs["tps"], authority)
    with scp as running:
        yield running


@pytest.fixture(scope="module")
def unstarted(folder: Path, pairs: dict[str, Pair], authority: Authority) -> Orthanc:
    """Orthanc: where it will be, and by which certificate."""
    orthanc = Orthanc(folder / "pacs")
    orthanc.certificates = pairs["pacs"], authority.trusted
    return orthanc


@pytest.fixture(scope="module")
def settings(tps: Storescp, unstarted: Orthanc, pairs: dict[str, Pair], authority: Authority) -> View:
    """Nobody is called or answered without TLS; a certificate stands for each AE title, in and out."""
    made = example(tps=tps.port, pacs=unstarted.port)
    made["assemble"] = {"quiet_s": QUIET_S, "released_s": 1, "asked_apart_s": 2}
    made["tls"] = authority.settings(pairs["node"]).model_dump(include={"certificate", "key", "trusted"})
    shown = {name: [pair.fingerprint] for name, pair in pairs.items()}
    here = {"networks": ["127.0.0.1/32"]}
    made["listener"]["peers"] = [
        {"ae_title": "PACS", **here, "certificates": shown["pacs"], "roles": ["store", "commit"]},
        {"ae_title": "SCANNER", **here, "certificates": shown["scanner"]},
    ]
    for remote in [*made["destinations"], *made["archives"]]:
        remote |= {"tls": True, "certificates": shown[remote["name"]]}
    made["archives"][0] |= {"port": unstarted.port, "answers_for": ["PACS"]}
    made["qa"] = {"enabled": True, "at": ""}
    return made


@pytest.fixture(scope="module")
def pacs(node: Node, unstarted: Orthanc) -> Iterator[Orthanc]:
    """Orthanc, which knows the node and the scanner."""
    unstarted.modalities = {"node": ("NPC_RTNODE", node.port), "scanner": ("SCANNER", free_port())}
    with unstarted as running:
        yield running


@pytest.fixture(scope="module")
def routed(node: Node, pacs: Orthanc, pairs: dict[str, Pair], authority: Authority, folder: Path) -> Study:
    """A study that the scanner has sent to Orthanc, and Orthanc to the node."""
    study = make_study(folder / "sent", "by tls")
    scan(pacs, study, pairs, authority, folder)
    assert pacs.send("node", pacs.find("Study", StudyInstanceUID=study.uid))["FailedInstancesCount"] == 0
    return study


def scan(pacs: Orthanc, study: Study, pairs: dict[str, Pair], authority: Authority, folder: Path) -> None:
    """The scanner: DCMTK's storescu to Orthanc, by TLS as well."""
    storescu = Storescu(pacs.port, folder / "storescu", calling_ae="SCANNER", called_ae="PACS")
    storescu.send_all(study.files, *dcmtk_tls(pairs["scanner"], authority))


def test_images_come_and_results_go_by_tls(node: Node, routed: Study, pacs: Orthanc, tps: Storescp) -> None:
    """From Orthanc to the node, from the node to DCMTK's TPS and to Orthanc; the series was closed by Orthanc's word,
    asked by C-FIND over TLS, long before it would have been quiet."""
    job = node.delivered(routed.uid, 240)
    (series,) = node.series(routed.uid)
    assert f"pacs has {len(routed.files)} instances" in series["closed_because"]
    assert {row.calling_ae for row in node.associations()} == {"PACS"}
    (arrived,) = tps.of_study(routed.uid)
    assert class_of(arrived) == RTSTRUCT
    assert [kind for kind in pacs.modalities_of(routed.uid) if kind != "MR"] == ["RTSTRUCT", "SR"]
    assert {d["state"] for d in node.deliveries(routed.uid)} == {"SENT"}
    assert job["state"] == "DELIVERED"


def test_our_results_come_back_by_tls_and_are_known(node: Node, routed: Study, pacs: Orthanc) -> None:
    """Orthanc sends the whole study again, RTSTRUCT and SR with it: Success for all, nothing is made of it."""
    node.delivered(routed.uid, 240)
    before = node.queries.counts()["came_back"]
    assert pacs.send("node", pacs.find("Study", StudyInstanceUID=routed.uid))["FailedInstancesCount"] == 0
    node.wait_for(lambda: node.queries.counts()["came_back"] == before + 2, 30)
    assert [len(series["jobs"]) for series in node.series(routed.uid)] == [1]


def test_a_study_is_fetched_by_tls(
    node: Node, pacs: Orthanc, pairs: dict[str, Pair], authority: Authority, folder: Path
) -> None:
    """`pull`: C-FIND and C-MOVE by TLS, and the sub-operations come to our TLS port as from any sender."""
    study = make_study(folder / "sent", "older by tls", accession_number="A-2024-18")
    scan(pacs, study, pairs, authority, folder)
    done = node.cli("pull", "--accession", "A-2024-18", "--reason", "backfill")
    assert done.returncode == 0, done.stderr
    assert f"a series of {len(study.files)} instances came from pacs" in done.stdout
    node.settle()
    (series,) = node.series(study.uid)
    assert (series["instances"], series["associations"][0]["calling_ae"]) == (len(study.files), "PACS")


def test_commitment_is_asked_for_and_told_by_tls(node: Node, pacs: Orthanc, routed: Study) -> None:
    """N-ACTION to our port; the N-EVENT-REPORT goes out by a TLS association of ours."""
    names = [(item.sop_class, item.sop_uid) for item in routed.slices]
    asked = commitment(pacs, names)
    node.wait_for(lambda: pacs.get(f"/storage-commitment/{asked}")["Status"] != "Pending", 150)
    told = pacs.get(f"/storage-commitment/{asked}")
    assert told["Status"] == "Success"
    assert len(told["Success"]) == len(names)


def test_plaintext_gets_nowhere_either_way(node: Node, pacs: Orthanc, routed: Study, folder: Path) -> None:
    """DCMTK without TLS is not answered by our port, our own tools without it not by Orthanc's."""
    bare = [program("storescu"), "-aet", "PACS", "-aec", "NPC_RTNODE", "127.0.0.1", node.port, routed.files[0]]
    assert subprocess.run(list(map(str, bare)), capture_output=True, check=False, timeout=60).returncode != 0
    assert node.cli("echo", f"PACS@127.0.0.1:{pacs.port}").returncode == 60
    assert node.cli("echo", "pacs").returncode == 0, "by the settings' own TLS it is"


def test_another_certificate_is_no_pacs_and_what_is_owed_waits(
    node: Node, pacs: Orthanc, pairs: dict[str, Pair], authority: Authority, routed: Study, folder: Path
) -> None:
    """Orthanc comes up with a certificate that is bound to nobody: its images are not taken, and nothing is sent to it;
    with its own certificate again what is owed to it goes out by itself."""
    node.delivered(routed.uid, 240)
    study = make_study(folder / "sent", "by a stranger")
    scan(pacs, study, pairs, authority, folder)
    pacs.down()
    pacs.certificates = authority.sign("stranger"), authority.trusted
    pacs.up()
    found = pacs.find("Study", StudyInstanceUID=study.uid)
    with pytest.raises(HTTPError, match="500"):
        pacs.send("node", found)
    assert node.study(study.uid) is None
    assert "for this certificate" in str(node.associations()[-1].how)
    said = node.cli("echo", "pacs")
    assert (said.returncode, "TLS_FAILED" in said.stderr) == (61, True), said.stderr
    assert node.cli("resend", series_reference(node, routed.uid), "--to", "pacs", "--reason", "a test").returncode == 0
    node.wait_for(lambda: _last_errors(node, routed) == {"TLS_FAILED"}, 60)
    pacs.down()
    pacs.certificates = pairs["pacs"], authority.trusted
    pacs.up()
    node.delivered(routed.uid, 240)
    assert pacs.send("node", found)["FailedInstancesCount"] == 0


def test_the_constancy_phantom_comes_by_tls(node: Node) -> None:
    """`qa run` on a node without any other port: it calls itself with its own certificate, and the run passes."""
    done = node.cli("qa", "run", "--json")
    assert (done.returncode, json.loads(done.stdout)["state"]) == (0, "PASSED"), f"{done.stdout}{done.stderr}"
    assert node.associations()[-1].calling_ae == "NPC_QA"


def _last_errors(node: Node, study: Study) -> set[Any]:
    owed = [one for one in node.deliveries(study.uid) if one["destination"] == "pacs"]
    return {(one["last_error"] or "").split(":")[0] for one in owed}
