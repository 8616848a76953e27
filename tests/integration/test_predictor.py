"""The predictor's child: it answers, it may be slow, die, refuse or be replaced, and the node goes on."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.manifest import FILE, GridSpec, Limit, Manifest, Postprocess
from npc_rtnode.adapters.predictor import BundlePredictor, OpenBundle
from npc_rtnode.domain.geometry import Grid, Stack, Volume
from npc_rtnode.domain.identifiers import sha256_hex
from npc_rtnode.domain.prediction import FAR_OUTSIDE, Band, Prediction
from npc_rtnode.domain.retry import COMPUTE, Postpone, decide
from npc_rtnode.errors import (
    BundleFault,
    GeometryRefused,
    InferenceCrashed,
    InferenceOutOfMemory,
    InferenceTimeout,
    InputFault,
    NodeStopping,
)
from npc_rtnode.settings import InferSettings
from tests.fakes import bundles

SLEEPS, DIES, CONSTANT, SHEARED, RAISES, WRONG_SHAPE, EATS = 1, 2, 3, 4, 5, 6, 7
MANIFEST = Manifest(
    name="fake", version="0", data="synthetic", statement="not for patients", inputs=("t1c",), structures=("GTVp",),
    stage_classes=("T1", "T2", "T3", "T4"), staging_edition="AJCC8", grid=GridSpec(), network={},
    postprocess=Postprocess(), temperature=1.0, flip_average=False, centre_offset_mm=(0.0, 0.0, 0.0),
    input_limits={"pixel_mm": Limit(0.3, 1.2, "mm")}, metrics={}, generator_sha256="",
)  # fmt: skip


def volume(first: float = 0.0) -> Volume:
    """Three slices of 4 x 5 voxels; the first voxel is a wish to the fake bundle."""
    voxels = np.linspace(0, 1, 60, dtype=np.float32).reshape(3, 4, 5)
    voxels.flat[0] = first
    affine = np.diag([0.4, 0.5, 0.5, 1.0])
    return Volume(voxels, Stack(Grid((3, 4, 5), affine), ()))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle folder with a manifest and nothing else."""
    (tmp_path / FILE).write_text(MANIFEST.to_json())
    return tmp_path


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[..., BundlePredictor]]:
    """Predictors with the opener wished for, closed at the end."""
    with ExitStack() as stack:

        def start_one(opener: OpenBundle = bundles.open_echoing, **wishes: Any) -> BundlePredictor:
            one = BundlePredictor(InferSettings(**{"bundle": folder, "timeout_s": 30, **wishes}), opener)
            stack.callback(one.close)
            return one

        yield start_one


def child_of(predictor: BundlePredictor) -> int:
    """The child's pid, which the fake answers with."""
    return int(ask(predictor).dropped_cc)


def ask(predictor: BundlePredictor, wish: float = 0.0) -> Prediction:
    """One answer of the bundle in force."""
    return predictor.predict(volume(wish), predictor.statement())


def is_gone(pid: int, seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return not Path(f"/proc/{pid}").exists()


def test_arrays_and_numbers_come_back(start: Callable[..., BundlePredictor]) -> None:
    """Voxels and affine go through the pipe unchanged; findings say what lies outside training."""
    asked = volume()
    predictor = start()
    said = predictor.predict(asked, predictor.statement())
    assert np.array_equal(said.probability, asked.voxels)
    assert said.mask.dtype == np.bool_
    assert said.stage_probabilities == (0.4, 0.2, 0.3, 0.1)
    near, far = said.findings
    assert (near.code, near.value, near.limit) == ("OUTSIDE_TRAINING_PIXEL_MM", 0.2, 0.3)
    assert (far.code, far.value, far.limit) == (FAR_OUTSIDE, 20, 256)
    assert (said.measured, said.unusual) == ({"PARTS": 1.0}, "edges +4.0 SD")
    assert said.bands == {"PARTS": Band("parts", None, 2, None, 4)}
    assert said.sight.shape == (len(said.mask), 3)


def test_the_child_stays_warm_and_is_one(start: Callable[..., BundlePredictor]) -> None:
    """Two predictions come from one process, also from threads that come and go."""
    predictor = start()
    pids = [child_of(predictor)]
    for _ in range(2):
        thread = threading.Thread(target=lambda: pids.append(child_of(predictor)))
        thread.start()
        thread.join()
    assert len(set(pids)) == 1
    assert pids[0] != os.getpid()


def test_a_child_started_from_a_thread_outlives_the_thread(start: Callable[..., BundlePredictor]) -> None:
    """PR_SET_PDEATHSIG is about the thread that starts a child: the lane's thread may end, the child stays."""
    predictor, pids = start(), []
    thread = threading.Thread(target=lambda: pids.append(child_of(predictor)))
    thread.start()
    thread.join()
    time.sleep(0.2)
    assert child_of(predictor) == pids[0]


def test_close_ends_the_child(start: Callable[..., BundlePredictor]) -> None:
    """No process stays behind; a later prediction starts another."""
    predictor = start()
    pid = child_of(predictor)
    predictor.close()
    assert is_gone(pid)
    assert child_of(predictor) != pid


def test_an_interrupted_prediction_is_nobodys_fault(start: Callable[..., BundlePredictor]) -> None:
    """When the node stops, the prediction under way ends at once as NodeStopping, which is tried again later."""
    predictor = start()
    child_of(predictor)
    threading.Timer(0.5, predictor.interrupt).start()
    with pytest.raises(NodeStopping):
        ask(predictor, SLEEPS)


def test_a_stop_is_heard_by_a_prediction_that_had_not_begun(start: Callable[..., BundlePredictor]) -> None:
    """The lane was still reading the series when the node was stopped: nothing is computed, no end is waited for."""
    predictor = start()
    predictor.retire()
    with pytest.raises(NodeStopping):
        ask(predictor, SLEEPS)


def test_a_prediction_under_way_ends_when_the_node_stops(start: Callable[..., BundlePredictor]) -> None:
    """As by an interruption."""
    predictor = start()
    child_of(predictor)
    threading.Timer(0.5, predictor.retire).start()
    with pytest.raises(NodeStopping):
        ask(predictor, SLEEPS)


def test_too_slow_is_killed(start: Callable[..., BundlePredictor]) -> None:
    """A prediction past its limit is InferenceTimeout, the child is gone, the next one works."""
    predictor = start(timeout_s=6)
    pid = child_of(predictor)
    with pytest.raises(InferenceTimeout):
        ask(predictor, SLEEPS)
    assert is_gone(pid)
    assert child_of(predictor) != pid


def test_opening_counts_against_the_limit(start: Callable[..., BundlePredictor]) -> None:
    """A bundle that never opens is a timeout too."""
    with pytest.raises(InferenceTimeout):
        ask(start(bundles.open_slowly, timeout_s=1))


@pytest.mark.parametrize(("wish", "said"), [(DIES, "Exit code 7"), (RAISES, "Exit code 1")])
def test_a_dead_child_is_a_crash(start: Callable[..., BundlePredictor], wish: int, said: str) -> None:
    """A process that dies, or an error without a name: InferenceCrashed with the exit code, and the next one works."""
    predictor = start()
    with pytest.raises(InferenceCrashed, match=said):
        ask(predictor, wish)
    assert child_of(predictor)


def test_a_child_that_dies_before_it_has_an_input_is_a_crash_of_no_input(start: Callable[..., BundlePredictor]) -> None:
    """A driver that was upgraded under the host kills every child at its opening: no job of the queue is to blame."""
    with pytest.raises(BundleFault, match="exit code 7") as caught:
        ask(start(bundles.open_dying))
    now = datetime(2026, 11, 26, tzinfo=UTC)
    decision = decide(caught.value, 3, now, now, COMPUTE)
    assert isinstance(decision, Postpone)
    assert not decision.counts


def test_what_is_too_much_for_the_gpu_is_done_on_the_cpu(
    start: Callable[..., BundlePredictor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """CUDA out of memory, injected in the child: a fresh child, then the CPU; the answer and the log say each rung."""
    tries = tmp_path / "tries"
    monkeypatch.setenv("NPC_RTNODE_TEST_TRIES", str(tries))
    said = ask(start(bundles.open_greedy, device="cuda"))
    assert said.ran_on == "cpu, after out of memory on cuda (no device memory), then cuda (no device memory)"
    assert len(set(tries.read_text().split())) == 2, "the second try had a process of its own"
    assert capsys.readouterr().out.count("out of memory, the next rung is tried") == 2


@pytest.mark.parametrize(
    "said",
    [
        "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 139.80 GiB of which 21.56 MiB",
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
        "CUDA error: an illegal memory access was encountered",
    ],
)
def test_every_word_for_a_full_card_is_known(
    start: Callable[..., BundlePredictor], monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    """As a card that another program had filled said them (the first three); any other error of CUDA is a crash."""
    monkeypatch.setenv("NPC_RTNODE_TEST_SAYS", said)
    wanted = InferenceCrashed if "illegal" in said else InferenceOutOfMemory
    with pytest.raises(wanted):
        ask(start(bundles.open_greedy, device="cuda", cpu_fallback=False))


def test_out_of_memory_without_leave_for_the_cpu(
    start: Callable[..., BundlePredictor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the CPU may not be used the attempt fails with its own code, and may be tried again later."""
    monkeypatch.setenv("NPC_RTNODE_TEST_TRIES", str(tmp_path / "tries"))
    with pytest.raises(InferenceOutOfMemory, match="Tried on cuda") as caught:
        ask(start(bundles.open_greedy, device="cuda", cpu_fallback=False))
    assert caught.value.transient


def test_the_child_has_no_more_memory_than_it_may(start: Callable[..., BundlePredictor]) -> None:
    """A gigabyte is taken without a limit, and refused with one; the next volume is answered."""
    assert ask(start(bundles.open_greedy), EATS).ran_on == "cpu"
    capped = start(bundles.open_greedy, memory_mb=700)
    with pytest.raises(InferenceOutOfMemory, match="no memory"):
        ask(capped, EATS)
    assert ask(capped).ran_on == "cpu"


def test_killed_between_predictions(start: Callable[..., BundlePredictor]) -> None:
    """A child that the kernel took while idle is replaced, and no attempt counts as a crash for it."""
    predictor = start()
    pid = child_of(predictor)
    os.kill(pid, signal.SIGKILL)
    assert is_gone(pid)
    time.sleep(0.1)
    assert child_of(predictor) != pid


@pytest.mark.parametrize(
    ("wish", "kind", "code"), [(CONSTANT, InputFault, "CONSTANT"), (SHEARED, GeometryRefused, "SHEAR")]
)
def test_refused_input_is_the_inputs_fault(
    start: Callable[..., BundlePredictor], wish: int, kind: type[InputFault], code: str
) -> None:
    """The model's own refusal keeps its code, and the child stays."""
    predictor = start()
    pid = child_of(predictor)
    with pytest.raises(kind, match=code) as caught:
        ask(predictor, wish)
    assert type(caught.value) is kind
    assert child_of(predictor) == pid


def test_an_answer_of_another_shape_is_no_answer(start: Callable[..., BundlePredictor]) -> None:
    """A mask that does not fit the volume never leaves the door."""
    with pytest.raises(InferenceCrashed):
        ask(start(), WRONG_SHAPE)


def test_a_damaged_bundle_is_ours(start: Callable[..., BundlePredictor], folder: Path) -> None:
    """Weights that do not match, a manifest that is missing: BundleFault."""
    with pytest.raises(BundleFault, match="SHA-256"):
        ask(start(bundles.open_damaged))
    (folder / FILE).unlink()
    with pytest.raises(BundleFault):
        start().statement()


def test_a_replaced_bundle_is_opened_anew(start: Callable[..., BundlePredictor], folder: Path) -> None:
    """After the folder has changed, the warm child with the old weights answers no more."""
    predictor = start()
    old = predictor.statement()
    pid = child_of(predictor)
    (folder / FILE).write_text(dataclasses.replace(MANIFEST, version="1").to_json())
    assert predictor.statement().sha256 != old.sha256
    assert child_of(predictor) != pid


def test_no_answer_carries_another_bundles_name(start: Callable[..., BundlePredictor], folder: Path) -> None:
    """Whoever asks the bundle that was there a moment ago gets BundleFault, warm child or none, and never an answer."""
    predictor = start()
    old = predictor.statement()
    (folder / FILE).write_text(dataclasses.replace(MANIFEST, version="1").to_json())
    with pytest.raises(BundleFault, match="another bundle"):
        predictor.predict(volume(), old)
    new = child_of(predictor)
    with pytest.raises(BundleFault, match="another bundle"):
        predictor.predict(volume(), old)
    assert is_gone(new)
    assert child_of(predictor)


def test_a_child_proves_its_machine_before_it_answers(start: Callable[..., BundlePredictor]) -> None:
    """A golden case that comes out otherwise is BundleFault with its words, for an answer as for a proof."""
    predictor = start(bundles.open_disagreeing)
    with pytest.raises(BundleFault, match=r"On cpu by torch, this machine DISAGREES with the laboratory: Dice 0\.1234"):
        ask(predictor)
    with pytest.raises(BundleFault, match="DISAGREES"):
        predictor.prove()
    with pytest.raises(BundleFault, match=r"golden case cannot be run .*golden\.npz"):
        start(bundles.open_goldless).prove()


def test_an_engine_that_is_not_used_is_said(start: Callable[..., BundlePredictor]) -> None:
    """A site that asked for OpenVINO on a machine where it differs is told that torch answers."""
    said = start(engine="openvino").prove()
    assert said.startswith("On cpu by torch (openvino differs from torch on the golden case and is not used), this")


def test_a_proof_opens_the_child_that_then_answers(start: Callable[..., BundlePredictor]) -> None:
    """`prove` says what the golden case came to on the device in force; the same child stays for predictions."""
    predictor = start()
    assert predictor.prove() == "On cpu by torch, this machine agrees with the laboratory"
    pid = child_of(predictor)
    assert predictor.prove().endswith("agrees with the laboratory")
    assert child_of(predictor) == pid


def test_a_proof_may_be_too_slow(start: Callable[..., BundlePredictor]) -> None:
    """A machine that never gets done is a timeout, as in a prediction."""
    with pytest.raises(InferenceTimeout):
        start(bundles.open_slowly, timeout_s=1).prove()


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"stage_classes": ("T1", "T2", "T3")}, "T1, T2, T3; this node reports T1, T2, T3, T4"),
        ({"stage_classes": ("T4", "T3", "T2", "T1")}, "T4, T3, T2, T1"),
        ({"stage_classes": ("N0", "N1", "N2", "N3")}, "N0, N1, N2, N3"),
        ({"data": "Synthetic"}, "'Synthetic'"),
        ({"data": ""}, "synthetic and clinical"),
    ],
)
def test_a_bundle_of_another_kind_is_refused(
    start: Callable[..., BundlePredictor], folder: Path, wish: dict[str, Any], said: str
) -> None:
    """Other stages, or data of an unknown kind: no statement, so nothing is ever said in its name."""
    (folder / FILE).write_text(dataclasses.replace(MANIFEST, **wish).to_json())
    predictor = start()
    for question in (predictor.statement, predictor.inputs, predictor.prove):
        with pytest.raises(BundleFault, match=said):
            question()


def test_the_inputs_are_the_manifests(start: Callable[..., BundlePredictor]) -> None:
    """Which channels the bundle was trained on, for selection to compare with."""
    assert start().inputs() == ("t1c",)


def test_the_statement_is_the_manifest(start: Callable[..., BundlePredictor], folder: Path) -> None:
    """Name, version, digest, data and threshold, as the objects will carry them."""
    said = start().statement()
    assert (said.name, said.version, said.data, said.synthetic) == ("fake", "0", "synthetic", True)
    assert said.sha256 == sha256_hex((folder / FILE).read_bytes())
    assert said.threshold == 0.5


def test_the_parent_never_loads_torch() -> None:
    """The statement of the shipped bundle comes without torch; only a child loads it."""
    code = (
        "import sys\n"
        "from npc_rtnode.adapters.predictor import BundlePredictor\n"
        "from npc_rtnode.settings import InferSettings\n"
        "assert BundlePredictor(InferSettings()).statement().synthetic\n"
        "sys.exit('torch' in sys.modules or 'scipy' in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env={**os.environ, "PYTHONPATH": "."})


def test_the_child_dies_with_its_parent(folder: Path, tmp_path: Path) -> None:
    """A node killed with SIGKILL leaves no child that holds a GPU."""
    script = tmp_path / "parent.py"
    script.write_text(
        "import sys, time\n"
        "from pathlib import Path\n"
        "from npc_rtnode.adapters.predictor import BundlePredictor\n"
        "from npc_rtnode.settings import InferSettings\n"
        "from tests.fakes.bundles import open_echoing\n"
        "from tests.integration.test_predictor import child_of\n"
        "if __name__ == '__main__':\n"
        "    predictor = BundlePredictor(InferSettings(bundle=Path(sys.argv[1])), open_echoing)\n"
        "    print(child_of(predictor), flush=True)\n"
        "    time.sleep(60)\n"
    )
    command = [sys.executable, str(script), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": "."}) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        parent.kill()
    assert is_gone(pid)


def test_the_shipped_bundle_answers_through_the_door() -> None:
    """The real one, once: a volume too small for it is refused with its code, by a child that has loaded torch."""
    predictor = BundlePredictor(InferSettings(timeout_s=100, threads=1))
    try:
        with pytest.raises(GeometryRefused, match="TOO_FEW_SLICES"):
            ask(predictor)
        assert predictor.prove().startswith("On cpu by torch, this machine agrees with the laboratory: Dice ")
    finally:
        predictor.close()
