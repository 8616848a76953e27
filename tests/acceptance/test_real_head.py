"""A real head (shared/data): written and proven like any other, and held, because the weights have seen only phantoms.

The shipped bundle draws next to nothing on a head that is no phantom; how little changes with every training run. So
these tests run a commissioning bundle: the same weights with a threshold low enough that something is outlined. What is
outlined means nothing; that an outline on real geometry is written, read back and kept from patients is what counts.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from bench.readers import plastimatch_mask
from model.bundle import Bundle, default_bundle
from model.manifest import file_sha256
from npc_rtnode.adapters.dicom.series import DicomSeriesReader
from npc_rtnode.domain.gates import RELEASABLE
from npc_rtnode.domain.geometry import stack_of
from npc_rtnode.domain.prediction import FAR_OUTSIDE
from npc_rtnode.domain.rasterising import dice
from tests.acceptance.hospital import Destination, Scanner, Slice, slice_of
from tests.acceptance.node import Node, View, example
from tests.builders.headers import real_files

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(400)]

HEAD = "mr_t1_axial_head_datalad"
OUTLINED_CC = 6.0
MAY_WAIT = RELEASABLE
"""The slab is 33 mm thick, of 0.67 mm slices, and holds no tumour: several gates may well want a person to look."""


def codes(reasons: list[str]) -> set[str]:
    """The codes of reasons."""
    return {reason.split(":")[0] for reason in reasons}


@pytest.fixture(scope="module")
def files() -> list[Path]:
    """Fifty axial slices of a defaced volunteer."""
    return real_files(HEAD)


@pytest.fixture(scope="module")
def slices(files: list[Path]) -> list[Slice]:
    """As they will be sent."""
    return [slice_of(path) for path in files]


@pytest.fixture(scope="module")
def study_uid(files: list[Path]) -> str:
    """Of the volunteer's study."""
    return DicomSeriesReader().headers(files[:1])[0].study_uid


@pytest.fixture(scope="module")
def commissioning_bundle(folder: Path, files: list[Path]) -> Path:
    """The shipped weights with the threshold under which they outline a few cc of this head."""
    return commissioning_copy(folder, files)


def commissioning_copy(folder: Path, files: list[Path]) -> Path:
    """A copy of the shipped bundle whose threshold outlines OUTLINED_CC of this series."""
    volume = DicomSeriesReader().volume(files)
    grid = volume.stack.grid
    said = Bundle.open(default_bundle()).predict(volume.voxels.astype(np.float32), grid.affine).probability
    rank = max(int(said.size - OUTLINED_CC / grid.voxel_cc), 0)
    threshold = float(np.partition(said, rank, axis=None)[rank])
    assert threshold > 0, "the network looked at fewer voxels than are to be outlined"
    copy = shutil.copytree(default_bundle(), folder / "commissioning")
    change_manifest(copy, {"name": "commissioning"}, {"postprocess": {"threshold": threshold}})
    answer_the_golden_case_anew(copy)
    return copy


def change_manifest(bundle: Path, values: View, below: dict[str, View]) -> None:
    """Replace values of bundle.json, and values in its tables."""
    manifest = json.loads((bundle / "bundle.json").read_text("utf-8"))
    manifest.update(values)
    for table, changes in below.items():
        manifest[table].update(changes)
    (bundle / "bundle.json").write_text(json.dumps(manifest), "utf-8")


def answer_the_golden_case_anew(bundle: Path) -> None:
    """Another threshold outlines another volume of the golden case too: what is expected is what it now says."""
    with np.load(bundle / "golden.npz", allow_pickle=False) as stored:
        golden = {name: stored[name] for name in stored.files}
    said = Bundle.open(bundle).predict(golden["voxels"].astype(np.float32), golden["affine"])
    golden |= {"mask": np.packbits(said.mask), "stage_probabilities": np.array(said.stage_probabilities)}
    np.savez_compressed(bundle / "golden.npz", **golden)
    change_manifest(bundle, {}, {"files": {"golden.npz": file_sha256(bundle / "golden.npz")}})


@pytest.fixture(scope="module")
def settings(tps: Destination, archive: Destination, commissioning_bundle: Path) -> View:
    """Any axial T1 goes, and the bundle is the commissioning one."""
    changed = example(tps=tps.port, pacs=archive.port)
    changed["select"]["rules"] = "any_axial_t1"
    changed["infer"] = {"bundle": str(commissioning_bundle)}
    return changed


@pytest.fixture(scope="module")
def held(node: Node, slices: list[Slice], study_uid: str) -> View:
    """The job of the head, sent to the AE title that deploy/example.toml keeps for NPC."""
    Scanner(node.port, called_ae="NPC_MR").send_all(slices)
    node.wait_for(lambda: node.jobs(study_uid) and node.final(study_uid), 240)
    return node.jobs(study_uid)[-1]


@pytest.fixture(scope="module")
def commissioning_site(folder: Path, settings: View) -> Iterator[Node]:
    """A node of its own, all of whose destinations are test systems."""
    changed = {**settings, "destinations": [{**d, "test": True} for d in settings["destinations"]]}
    with Node(folder / "test site", changed) as running:
        yield running


def test_an_rtstruct_is_written_proven_and_held(node: Node, held: View, tps: Destination, archive: Destination) -> None:
    """Both objects are stored and no gate finds them wrong, yet the job is HELD for its synthetic weights."""
    assert held["state"] == "HELD", node.story()
    assert {"SYNTHETIC_WEIGHTS", FAR_OUTSIDE} <= codes(held["reasons"]) <= {"SYNTHETIC_WEIGHTS", *MAY_WAIT}
    assert not held["releasable"]
    assert {item["kind"] for item in held["objects"]} == {"RTSTRUCT", "SR"}
    for item in held["objects"]:
        assert len(node.station.outbox.read(item["sha256"])) == item["size"]
    gates = {gate["gate"]: gate["outcome"] for gate in held["results"]["gates"]}
    assert len(gates) > 10
    assert {name for name, outcome in gates.items() if outcome not in {"pass", "warn"}} <= MAY_WAIT
    assert held["results"]["phantom"] is False
    assert held["results"]["volume_cc"] > 0
    assert (tps.received, archive.received) == ([], [])


@pytest.mark.peer("dciodvfy", "plastimatch")
def test_others_read_what_is_held(
    tmp_path: Path, node: Node, held: View, files: list[Path], peer: Callable[[str], str]
) -> None:
    """Oblique geometry, oblong pixels: dciodvfy finds no error, plastimatch sees the model's mask (Dice >= 0.999)."""
    for item in held["objects"]:
        path = tmp_path / f"{item['kind']}.dcm"
        path.write_bytes(node.station.outbox.read(item["sha256"]))
        done = subprocess.run([peer("dciodvfy"), "-new", path], capture_output=True, check=False)
        assert b"\nError" not in b"\n" + done.stdout + done.stderr
    answer = node.predictions().load(held["work_key"])
    assert answer is not None
    stack = stack_of(DicomSeriesReader().headers(files))
    seen = plastimatch_mask(peer("plastimatch"), tmp_path / "RTSTRUCT.dcm", files[0].parent, tmp_path / "mask", stack)
    assert dice(seen, answer.prediction.mask) >= 0.999


@pytest.mark.parametrize("verb", ["release", "resend", "retry"])
def test_no_verb_lets_it_go(
    node: Node, held: View, study_uid: str, tps: Destination, archive: Destination, verb: str
) -> None:
    """Whatever an operator says: exit 2 and a named refusal, the job stays HELD, nothing arrives anywhere."""
    said = node.cli(verb, study_uid, "--reason", "I want it")
    assert said.returncode == 2
    assert said.stderr.startswith(("E: FORBIDDEN", "E: NOT_FOUND"))
    after = node.jobs(study_uid)[-1]
    assert (after["state"], after["reasons"]) == ("HELD", held["reasons"])
    assert node.deliveries(study_uid) == []
    assert (tps.received, archive.received) == ([], [])


def test_a_hold_on_top_is_lifted_and_nothing_else(
    node: Node, held: View, study_uid: str, tps: Destination, archive: Destination
) -> None:
    """An operator may hold the study too; the release of that hold releases nothing of the job."""
    assert node.cli("hold", study_uid, "--reason", "let me look").returncode == 0
    assert node.cli("release", study_uid, "--reason", "I have looked").returncode == 0
    again = node.cli("release", study_uid, "--reason", "I want it")
    assert (again.returncode, again.stderr.split(":")[:2]) == (2, ["E", " FORBIDDEN"])
    after = node.jobs(study_uid)[-1]
    assert (after["state"], after["releasable"], after["reasons"]) == ("HELD", False, held["reasons"])
    assert node.deliveries(study_uid) == []
    assert (tps.received, archive.received) == ([], [])


def test_reprocessing_does_not_let_it_go_either(
    node: Node, held: View, study_uid: str, tps: Destination, archive: Destination
) -> None:
    """Judged anew or inferred anew, the same work key has the same result, and it stays HELD."""
    for start in ("select", "infer"):
        assert node.cli("reprocess", study_uid, "--from", start, "--reason", "again").returncode == 0
        node.wait_for(lambda: node.final(study_uid), 60)
    assert node.job_states(study_uid) == ["HELD"]
    assert (tps.received, archive.received) == ([], [])


def test_test_systems_get_it(
    commissioning_site: Node, held: View, slices: list[Slice], study_uid: str, tps: Destination, archive: Destination
) -> None:
    """Where every destination says test = true, the same series is delivered, if need be on a person's word."""
    site = commissioning_site
    Scanner(site.port, called_ae="NPC_MR").send_all(slices)
    site.wait_for(lambda: site.jobs(study_uid) and site.final(study_uid), 240)
    assert codes(site.jobs(study_uid)[-1]["reasons"]) == codes(held["reasons"]) - {"SYNTHETIC_WEIGHTS"}
    if site.job_states(study_uid) == ["HELD"]:
        assert site.cli("release", study_uid, "--reason", "the slab ends there").returncode == 0
    site.delivered(study_uid)
    assert len(tps.of_study(study_uid)) == 1
    assert len(archive.of_study(study_uid)) == 2
