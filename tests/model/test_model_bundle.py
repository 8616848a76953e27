"""The door: whole bundles open, damaged ones do not, and the shipped one finds tumours it has never seen."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model import bundle as door
from model.bundle import Bundle, BundleError, InputError, default_bundle, dice_of
from model.engine import AGREEMENTS, TorchEngine
from model.manifest import GridSpec, Manifest, Postprocess, file_sha256, read_manifest
from model.phantom import make_case, small_profile
from model.postprocess import clean


@pytest.fixture
def copy(tmp_path) -> Path:
    """A copy of the shipped bundle that may be spoiled."""
    return Path(shutil.copytree(default_bundle(), tmp_path / "bundle"))


def spoil_json(folder: Path, **changes: object) -> None:
    raw = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps(raw | changes))


def test_golden_case_agrees(shipped):
    """The machine running this test says what the laboratory said."""
    result = shipped.verify()
    assert result.agrees, result.message
    assert result.dice == pytest.approx(1, abs=0.01)


def test_shipped_bundle_says_what_it_is(shipped):
    """Manifest and card carry the statement, T1c in, GTVp out, four stages, and the figures are measured ones."""
    manifest = shipped.manifest
    assert manifest.data == "synthetic"
    assert manifest.statement == "synthetic phantom - not for clinical use"
    assert manifest.statement in (default_bundle() / "card.md").read_text()
    assert (manifest.inputs, manifest.structures) == (("t1c",), ("GTVp",))
    assert manifest.stage_classes == ("T1", "T2", "T3", "T4")
    assert manifest.metrics["n"] >= 60
    assert shipped.sha256 == file_sha256(default_bundle() / "bundle.json")


def test_shipped_bundle_is_small(shipped):
    """At most 13 MB in all and under 1 MB for the golden case."""
    sizes = {path.name: path.stat().st_size for path in default_bundle().iterdir()}
    assert set(sizes) == {"bundle.json", "weights.safetensors", "card.md", "golden.npz"}
    assert sum(sizes.values()) < 13e6
    assert sizes["golden.npz"] < 1e6


@pytest.mark.parametrize(("index", "stage"), [(100, "T2"), (101, "T3"), (102, "T4")])
def test_shipped_bundle_finds_unseen_tumours(shipped, index, stage):
    """On phantoms of a cohort it never met it draws the tumour with Dice .6 or more and sound probabilities."""
    phantom = make_case("test", index, stage=stage, profile=small_profile())
    prediction = shipped.predict(phantom.voxels.astype(np.float32), phantom.affine)
    assert dice_of(prediction.mask, phantom.mask) >= 0.6
    assert prediction.probability.shape == prediction.mask.shape == phantom.voxels.shape
    assert (prediction.probability.dtype, prediction.mask.dtype) == (np.float32, np.bool_)
    assert 0 <= prediction.probability.min() <= prediction.probability.max() <= 1
    assert sum(prediction.stage_probabilities) == pytest.approx(1)
    assert prediction.limits == ()


@pytest.fixture(scope="module")
def plain(shipped, small_phantom) -> door.Prediction:
    """The shipped bundle's answer on one small phantom."""
    phantom = small_phantom(0)
    return shipped.predict(phantom.voxels.astype(np.float32), phantom.affine)


def test_prediction_is_the_same_every_time(shipped, small_phantom, plain):
    """Same voxels, same bytes."""
    phantom = small_phantom(0)
    one, other = plain, shipped.predict(phantom.voxels.astype(np.float32), phantom.affine)
    assert one.probability.tobytes() == other.probability.tobytes()
    assert one.stage_probabilities == other.stage_probabilities


@pytest.mark.parametrize("turn", ["feet first", "mirrored columns", "swapped in-plane"])
def test_array_order_does_not_move_the_mask(shipped, small_phantom, plain, turn):
    """However the head lies in the array, the same place in the patient is drawn."""
    phantom = small_phantom(0)
    voxels, affine = phantom.voxels.astype(np.float32), phantom.affine.copy()
    if turn == "swapped in-plane":
        turned = shipped.predict(voxels.transpose(0, 2, 1), affine[:, [0, 2, 1, 3]]).mask.transpose(0, 2, 1)
    else:
        axis = 0 if turn == "feet first" else 2
        affine[:3, 3] += affine[:3, axis] * (voxels.shape[axis] - 1)
        affine[:3, axis] *= -1
        turned = np.flip(shipped.predict(np.flip(voxels, axis), affine).mask, axis)
    assert np.array_equal(plain.mask, turned)


def test_findings_name_what_training_did_not_cover(shipped, small_phantom):
    """A stack of 12 slices is predicted, and said to be shorter than any in training."""
    phantom = small_phantom(0)
    voxels = phantom.voxels[4:16].astype(np.float32)
    found = {finding.name: finding for finding in shipped.predict(voxels, phantom.affine).limits}
    assert found["slices"].value == 12
    assert found["slices"].low == 16


def test_predict_refuses_what_is_no_image(shipped):
    """Refusals pass the door with their code."""
    with pytest.raises(InputError) as caught:
        shipped.predict(np.zeros((20, 256, 256), np.float32), np.diag([6.0, 1.0, 1.0, 1.0])[[2, 1, 0, 3]])
    assert caught.value.code == "CONSTANT"


def test_one_changed_bit_is_noticed(copy):
    """A single bit of the weights is enough to refuse the bundle, and the message names the file."""
    path = copy / "weights.safetensors"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(BundleError, match=r"weights\.safetensors does not match"):
        Bundle.open(copy)


@pytest.mark.parametrize("name", ["weights.safetensors", "card.md", "golden.npz", "bundle.json"])
def test_a_missing_file_is_named(copy, name):
    """Every file is needed; the error says which one and what to do."""
    (copy / name).unlink()
    with pytest.raises(BundleError, match=name.replace(".", r"\.")):
        Bundle.open(copy)


def test_a_stranger_in_the_folder_is_refused(copy):
    """A file nobody hashed does not travel with a bundle."""
    (copy / "extra.pkl").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"extra\.pkl"):
        Bundle.open(copy)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 99}', '{"format": 1}'])
def test_an_unreadable_manifest_is_a_bundle_error(copy, text):
    """Rubbish in bundle.json is told apart from a bug."""
    (copy / "bundle.json").write_text(text)
    with pytest.raises(BundleError, match=r"bundle\.json"):
        read_manifest(copy)


def test_weights_of_another_network_do_not_load(copy):
    """Loading is strict: a manifest that describes another net is refused."""
    network = json.loads((copy / "bundle.json").read_text())["network"]
    spoil_json(copy, network=network | {"fusion_width": 32})
    with pytest.raises(BundleError, match="does not fit"):
        Bundle.open(copy)


def test_paths_out_of_the_folder_are_refused(copy):
    """A manifest cannot point at files elsewhere."""
    spoil_json(copy, files={"../weights.safetensors": "0"})
    with pytest.raises(BundleError, match="plain file name"):
        Bundle.open(copy)


def test_manifest_survives_json(shipped, tmp_path):
    """Writing and reading a manifest gives the same value."""
    (tmp_path / "bundle.json").write_text(shipped.manifest.to_json())
    assert read_manifest(tmp_path) == shipped.manifest
    assert isinstance(shipped.manifest, Manifest)


def test_manifest_reads_without_torch():
    """The daemon may look at a bundle without paying for torch; the door itself does not load MONAI."""
    code = (
        "import sys; from pathlib import Path; import model.manifest as m;"
        f"m.read_manifest(Path({str(default_bundle())!r})); assert 'torch' not in sys.modules;"
        "import model.bundle; assert 'monai' not in sys.modules; assert 'npc_rtnode' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(door.__file__).parents[1])


def test_threads_come_from_the_environment(monkeypatch):
    """NPC_RTNODE_TORCH_THREADS is read when it is a positive number."""
    monkeypatch.setenv("NPC_RTNODE_TORCH_THREADS", "3")
    assert door._threads_from_environment() == 3
    monkeypatch.setenv("NPC_RTNODE_TORCH_THREADS", "many")
    assert door._threads_from_environment() is None


def test_postprocessing_keeps_the_main_mass_and_near_sizeable_ones():
    """A26: largest component, plus those of 0.3 cc or more within 15 mm; the rest is dropped and counted."""
    probability = np.zeros((10, 60, 60), np.float32)
    probability[2:8, 10:20, 10:20] = 1  # 600 voxels: the tumour
    probability[2:6, 10:20, 25:35] = 1  # 400 voxels, 5 mm away: kept
    probability[2:6, 45:55, 45:55] = 1  # 400 voxels, far away: dropped
    probability[8:9, 24:26, 10:12] = 1  # 4 voxels nearby: dropped
    mask, dropped = clean(probability, (1.0, 1.0, 1.0), Postprocess())
    assert mask.sum() == 1000
    assert dropped == pytest.approx(0.404)
    assert clean(np.zeros_like(probability), (1.0, 1.0, 1.0), Postprocess())[1] == 0


def test_a_few_voxels_are_no_tumour():
    """With ``least_cc`` a map whose largest piece is smaller gives nothing, and what was dropped is counted."""
    probability = np.zeros((10, 60, 60), np.float32)
    probability[2:4, 10:20, 10:20] = 1
    mask, dropped = clean(probability, (1.0, 1.0, 1.0), Postprocess(least_cc=0.3))
    assert not mask.any()
    assert dropped == pytest.approx(0.2)
    assert clean(probability, (1.0, 1.0, 1.0), Postprocess(least_cc=0.2))[0].sum() == 200


@pytest.mark.parametrize("engine", ["torch-bf16", "openvino", "openvino-bf16"])
def test_another_engine_says_the_same(shipped, small_phantom, plain, engine):
    """Opened on another engine the bundle proves itself on the golden case, and draws an unseen phantom alike."""
    if engine.startswith("openvino"):
        pytest.importorskip("openvino")
    other = Bundle.open(default_bundle(), engine=engine)
    phantom = small_phantom(0)
    dice, max_dp = door.difference(other.predict(phantom.voxels.astype(np.float32), phantom.affine), plain)
    limit = AGREEMENTS[engine]
    assert other.engine.name in (engine, "torch")
    assert other.engine.name == engine or engine.endswith("bf16")  # bfloat16 may fall back, float32 may not
    assert dice >= min(limit.dice, 0.99)
    assert max_dp <= 2 * limit.probability


def test_an_engine_that_disagrees_is_not_used(monkeypatch):
    """The self-test can fail: an engine whose stages are off leaves the bundle on torch."""
    forward = TorchEngine.forward

    def off(self, values):
        probability, logits = forward(self, values)
        return probability, logits + np.float32((0, 3, 0, 0)) if self.name == "torch-bf16" else logits

    monkeypatch.setattr(TorchEngine, "forward", off)
    assert Bundle.open(default_bundle(), engine="torch-bf16").engine.name == "torch"


def test_an_unknown_engine_is_refused():
    """The message names the engines there are."""
    with pytest.raises(BundleError, match="none of torch, torch-bf16, openvino"):
        Bundle.open(default_bundle(), engine="fast")


def test_a_false_tumour_behind_the_throat_does_not_win():
    """The first look weighs a candidate by where tumours lie from the body's centroid, and takes it if it is alone."""
    grid = GridSpec()
    mean = np.zeros((40, 56, 56), np.float32)
    mean[5:10, 40:46, 25:31] = 1  # 180 voxels, 28 mm behind the centroid
    alone = door.likeliest(mean, 0.5, grid)
    assert alone is not None
    assert alone[0] == pytest.approx(7)
    mean[25:28, 22:27, 30:35] = 0.9  # 75 voxels where tumours are
    both = door.likeliest(mean, 0.5, grid)
    assert both is not None
    assert both[0] == pytest.approx(26)
    assert door.likeliest(np.zeros_like(mean), 0.5, grid) is None


def test_windows_of_the_first_look_leave_nothing_out():
    """Every slice of a stack of any length lies in at least two windows of the first look."""
    for length in (3, 10, 21, 22, 40, 70):
        starts = door.survey_starts(length, 21)
        seen = [sum(first <= k < first + 21 for first in starts) for k in range(length)]
        assert min(seen) >= min(2, len(starts))
        assert starts[0] >= -door.SURVEY_STEP


def test_first_look_covers_long_stacks(shipped, small_phantom):
    """A tumour 60 mm off the middle of a long stack is still found: the windows of the first look overlap."""
    profile = replace(small_profile(), slices=36, centre_mm=(0.0, 5.0, -58.0))
    phantom = make_case("test", 103, stage="T2", profile=profile)
    prediction = shipped.predict(phantom.voxels.astype(np.float32), phantom.affine)
    assert dice_of(prediction.mask, phantom.mask) >= 0.5


def test_commands_show_and_verify(capsys):
    """``show`` and ``verify`` speak about the shipped bundle; a bad folder is an error, not a trace."""
    assert door.main(["show"]) == 0
    assert "synthetic phantom - not for clinical use" in capsys.readouterr().out
    assert door.main(["verify"]) == 0
    assert "agrees" in capsys.readouterr().out
    assert door.main(["show", "/nowhere"]) == 1
    assert "bundle error" in capsys.readouterr().err
