"""The one door to `model`: a warm child process that holds the bundle, and can be killed.

A CUDA fault, a run-away allocation or a hang takes the child, never the node (house.md). Plain arrays go in, plain
numbers come out; torch is loaded in the child alone, and a bundle that is replaced on disk is opened anew, so that no
answer ever carries another bundle's name.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import resource
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from npc_rtnode import log
from npc_rtnode.domain.geometry import Volume
from npc_rtnode.domain.prediction import FAR_OUTSIDE, T_STAGES, Band, BundleStatement, Prediction
from npc_rtnode.domain.records import Finding
from npc_rtnode.errors import (
    BundleFault,
    GeometryRefused,
    InferenceCrashed,
    InferenceOutOfMemory,
    InferenceTimeout,
    InputFault,
    NodeStopping,
)
from npc_rtnode.kinship import begin, die_with
from npc_rtnode.settings import InferSettings

if TYPE_CHECKING:
    from model.manifest import Manifest

logger = log.get(__name__)
_GEOMETRY_CODES: Final = frozenset(  # of model.preprocess.InputError: where the voxels are, not what they hold
    (
        "AFFINE",
        "SHEAR",
        "NOT_3D",
        "ORIENTATION",
        "SLICE_SPACING",
        "PIXEL_SPACING",
        "FIELD_TOO_SMALL",
        "TOO_FEW_SLICES",
        "TOO_MANY_SLICES",
        "MATRIX_TOO_SMALL",
        "MATRIX_TOO_LARGE",
        "TOO_MANY_VOXELS",
    )
)
_DATA: Final = ("synthetic", "clinical")
_ON_DEVICE: Final = re.compile(r"out of memory|cu(blas|dnn|fft|solver)\w*_(alloc_failed|not_initialized)")
"""Torch's own words, and those of CUDA's libraries, which find no room for their workspace when they are first used."""
_PARTING_S: Final = 3.0
FAR: Final = 1.75
"""Beyond this many times a limit of training, or this part of it, an input is far from anything that was learned."""


class OpenedBundle(Protocol):
    """What the child needs of `model.bundle.Bundle`."""

    sha256: str

    @property
    def runs_on(self) -> str:
        """The engine in force, which is torch where the wanted one did not agree with it."""

    def predict(self, voxels: NDArray[Any], affine: NDArray[np.float64]) -> Any:
        """One answer, with the fields of `model.bundle.Prediction`."""

    def verify(self) -> Any:
        """The golden case on this machine, with the fields of `model.bundle.GoldenResult`."""


@dataclass(frozen=True)
class Machine:
    """What the network runs on, chosen when a site is installed; threads None leaves it to torch."""

    device: str
    threads: int | None
    engine: str
    memory_mb: int = 0  # data that the child may have in memory; 0: no limit of ours


OpenBundle = Callable[[Path, Machine], OpenedBundle]
"""Called in the child, so it must be importable by name."""


def open_bundle(folder: Path, machine: Machine) -> OpenedBundle:
    """The real one: `model.bundle`, which loads torch."""
    from model.bundle import Bundle

    return Bundle.open(folder, machine.device, machine.threads, machine.engine)


class BundlePredictor:
    """Fulfils ports.Predictor. The child starts with the first `predict` and stays; one prediction runs at a time.

    Every child runs the bundle's golden case on the device in force before it answers anything.
    """

    def __init__(self, settings: InferSettings, opener: OpenBundle = open_bundle) -> None:
        """`opener` is replaced by tests alone."""
        self._settings = settings
        self._opener = opener
        self._child: _Child | None = None
        self._retired = False
        self._lock = threading.Lock()

    def statement(self) -> BundleStatement:
        """Which bundle speaks; reads `bundle.json`, loads no model. Raises BundleFault."""
        manifest, sha256 = self._manifest()
        return BundleStatement(
            name=manifest.name,
            version=manifest.version,
            sha256=sha256,
            data=manifest.data,
            statement=manifest.statement,
            staging_edition=manifest.staging_edition,
            threshold=manifest.threshold,
            calibrated=manifest.temperature != 1.0,  # what a bundle has whose temperature was never fitted
        )

    def inputs(self) -> tuple[str, ...]:
        """The channels that the bundle wants to see, as its manifest names them. Raises BundleFault."""
        return self._manifest()[0].inputs

    def predict(self, volume: Volume, statement: BundleStatement) -> Prediction:
        """One answer of the bundle stated, within `timeout_s` seconds of wall clock, opening and golden case included.

        Raises InferenceTimeout (the child was killed), InferenceCrashed (it died), InferenceOutOfMemory, BundleFault
        (also when the folder holds another bundle by now), GeometryRefused or InputFault. After any of them the next
        call starts afresh.
        """
        with self._lock:
            return self._predict(volume, statement.sha256)

    def _predict(self, volume: Volume, sha256: str) -> Prediction:
        """On the machine of the settings; short of memory, in a fresh child, and at last on the CPU where it may."""
        short: list[str] = []
        for machine in self._ladder():
            try:
                with self._deadline(sha256, machine) as child:
                    said = child.ask(volume)
            except InferenceOutOfMemory as error:
                self._discard()
                short.append(f"{machine.device} ({error.detail})")
                logger.warning("out of memory, the next rung is tried", device=machine.device, because=error.detail)
            else:
                return replace(_as_prediction(said, volume), ran_on=_ran(machine, short))
        raise InferenceOutOfMemory(f"Tried on {', then '.join(short)}.")

    def _ladder(self) -> list[Machine]:
        """The rungs of ADR 0022: as set up; the same in a fresh child, which has nothing else there; the CPU."""
        settings = self._settings
        wanted = Machine(settings.device, settings.threads or None, settings.engine, settings.memory_mb)
        spare = settings.cpu_fallback and settings.device != "cpu"
        return [wanted, wanted, *([replace(wanted, device="cpu")] if spare else [])]

    def prove(self) -> str:
        """Open the bundle as `predict` does, golden case included, and say how that went; raises as `predict` does."""
        sha256 = self.statement().sha256
        with self._lock, self._deadline(sha256, self._ladder()[0]) as child:
            return child.proof

    def interrupt(self) -> None:
        """Have a `predict` that is under way raise NodeStopping now; with none under way, the idle child ends."""
        if child := self._child:
            child.stop()

    def retire(self) -> None:
        """When the node stops: as `interrupt`, and a `predict` that had not come so far yet raises NodeStopping too."""
        self._retired = True
        self.interrupt()

    def close(self) -> None:
        """End the child; a later `predict` starts another."""
        with self._lock:
            self._discard()

    def _manifest(self) -> tuple[Manifest, str]:
        """The manifest of a bundle that this node knows how to report, and the digest of the very bytes it was in."""
        from model.manifest import FILE, BundleError, file_sha256, read_manifest

        try:
            before = file_sha256(self._folder / FILE)
            manifest = read_manifest(self._folder)
            if file_sha256(self._folder / FILE) != before:
                raise BundleFault("It was replaced while it was being read.")
        except (BundleError, OSError) as error:
            raise BundleFault(str(error)) from None
        _refuse_strange(manifest)
        return manifest, before

    @property
    def _folder(self) -> Path:
        if self._settings.bundle:
            return self._settings.bundle
        import model

        return Path(model.__path__[0]) / "bundles" / "default"  # as model.bundle.default_bundle, without torch

    @contextmanager
    def _deadline(self, sha256: str, machine: Machine) -> Iterator[_Child]:
        """A child with that bundle, killed when the time is over: whatever it hangs in, the pipe then ends."""
        child = self._warm(sha256, machine)
        if self._retired:  # looked at once the child can be seen by `interrupt`: one of the two stops it
            raise NodeStopping
        watchdog = threading.Timer(self._settings.timeout_s, child.time_is_over)
        watchdog.start()
        try:
            child.await_bundle(sha256)
            yield child
        except (EOFError, OSError):
            self._discard()
            child.tell_why()
        except BundleFault:
            self._discard()
            raise
        finally:
            watchdog.cancel()

    def _warm(self, sha256: str, machine: Machine) -> _Child:
        if self._child and (self._child.is_gone() or not self._child.serves(sha256, machine)):
            self._discard()  # died while idle, or holds a bundle that has been replaced: nobody's attempt failed
        if self._child is None:
            self._child = _Child((self._opener, self._folder, machine))
        return self._child

    def _discard(self) -> None:
        if self._child:
            self._child.end()
        self._child = None


def _refuse_strange(manifest: Manifest) -> None:
    """The objects say T1 to T4, and whether patients were trained on: a bundle that differs would be misquoted."""
    if manifest.stage_classes != T_STAGES:
        found, wanted = (", ".join(map(str, stages)) for stages in (manifest.stage_classes, T_STAGES))
        raise BundleFault(f"Its stage classes are {found}; this node reports {wanted}.")
    if manifest.data not in _DATA:
        raise BundleFault(f"It says it was trained on {manifest.data!r} data; known are {' and '.join(_DATA)}.")


def predict_here(bundle: OpenedBundle, volume: Volume) -> Prediction:
    """The child's answer without the child, for measurements: no deadline, and a fault takes the caller with it.

    Raises GeometryRefused or InputFault.
    """
    kind, content = _answer_to(bundle, volume.voxels, volume.stack.grid.affine)
    if kind == "input":
        _refuse(*content)
    return _as_prediction(content, volume)


def _refuse(code: str, message: str) -> NoReturn:
    raise (GeometryRefused if code in _GEOMETRY_CODES else InputFault)(f"{code}: {message}")


# --- here: the child as seen from the parent --------------------------------------------------------------------------


class _Child:
    """A process and the pipe to it. A thread of its own starts it and waits for it: on Linux a child dies with the
    *thread* that started it, and the callers' threads come and go."""

    def __init__(self, order: tuple[OpenBundle, Path, Machine]) -> None:
        self._machine = order[2]
        self.sha256 = ""  # of the opened bundle, once it is and agrees with its golden case
        self.proof = ""  # what the golden case came to
        self._late = False
        self._stopping = False
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs, os.getpid(), *order), daemon=True)
        self._started = threading.Event()
        self._keeper = threading.Thread(target=self._keep, args=(theirs,), name="predictor-child", daemon=True)
        self._keeper.start()
        self._started.wait()

    def _keep(self, theirs: Connection) -> None:
        try:
            begin(self._process)
        finally:
            theirs.close()
            self._started.set()
        self._process.join()

    def await_bundle(self, wanted: str) -> None:
        """Returns once the bundle is open and proven; BundleFault when it cannot be, or is not the one wanted."""
        if not self.sha256:
            self.sha256, self.proof = self._answer()
        if self.sha256 != wanted:
            raise BundleFault("The folder holds another bundle by now than the one that was to answer.")

    def serves(self, sha256: str, machine: Machine) -> bool:
        """Whether it is on that machine, and holds that bundle or is still opening one."""
        return self._machine == machine and self.sha256 in ("", sha256)

    def ask(self, volume: Volume) -> _Said:
        """Send one volume, wait for what is said of it."""
        grid = volume.stack.grid
        self._pipe.send((np.ascontiguousarray(volume.voxels, dtype=np.float32), grid.affine))
        said: _Said = self._answer()
        return said

    def _answer(self) -> Any:
        kind, content = self._pipe.recv()
        if kind == "bundle":
            raise BundleFault(content)
        if kind == "input":
            _refuse(*content)
        if kind == "memory":
            raise InferenceOutOfMemory(content)
        return content

    def is_gone(self) -> bool:
        """Whether the process has ended."""
        return not self._keeper.is_alive()

    def time_is_over(self) -> None:
        """Called by the watchdog."""
        self._late = True
        self._process.kill()

    def stop(self) -> None:
        """Called when the node stops."""
        self._stopping = True
        with suppress(ValueError, AttributeError):  # it never started
            self._process.kill()

    def tell_why(self) -> NoReturn:
        """After its end: whether it was stopped, was too slow or died; without an input, that was no input's fault."""
        if self._stopping:
            raise NodeStopping from None
        if self._late:
            raise InferenceTimeout from None
        if not self.sha256:
            raise BundleFault(
                f"On {self._machine.device} its process died before it was open (exit code {self._process.exitcode}); "
                "no input had been shown to it: look at the device's driver and memory."
            ) from None
        raise InferenceCrashed(f"Exit code {self._process.exitcode}.") from None

    def end(self) -> None:
        """Close the pipe, which ends an idle child; kill one that is busy."""
        self._pipe.close()
        self._keeper.join(_PARTING_S)
        with suppress(ValueError, AttributeError):  # it never started
            self._process.kill()
        self._keeper.join(_PARTING_S)


@dataclass(frozen=True)
class _Said:
    """What comes back through the pipe: `model.bundle.Prediction` with nothing of `model` in it."""

    probability: NDArray[np.float32]
    mask: NDArray[np.bool_]
    stage_probabilities: tuple[float, float, float, float]
    dropped_cc: float
    limits: tuple[tuple[str, float, float, float, str], ...]  # name, value, low, high, unit
    measured: dict[str, float]
    bands: dict[str, tuple[Any, ...]]  # the fields of Band
    unusual: str
    sight: NDArray[np.float64]


def _as_prediction(said: _Said, volume: Volume) -> Prediction:
    if not said.mask.shape == said.probability.shape == volume.voxels.shape:
        raise InferenceCrashed(f"It answered {said.mask.shape} to a volume of {volume.voxels.shape}.")
    return Prediction(
        probability=said.probability,
        mask=said.mask,
        stage_probabilities=said.stage_probabilities,
        dropped_cc=said.dropped_cc,
        findings=tuple(_finding(*limit) for limit in said.limits),
        measured=said.measured,
        bands={code: Band(*ends) for code, ends in said.bands.items()},
        unusual=said.unusual,
        sight=said.sight,
    )


def _ran(machine: Machine, short: Sequence[str]) -> str:
    """Where it was computed, and what was too small for it before."""
    return f"{machine.device}, after out of memory on {', then '.join(short)}" if short else machine.device


def _finding(name: str, value: float, low: float, high: float, unit: str) -> Finding:
    message = f"{name.replace('_', ' ')} is {value:.4g} {unit}, training covered {low:.4g} to {high:.4g} {unit}"
    code = FAR_OUTSIDE if _is_far(value, low, high) else f"OUTSIDE_TRAINING_{name.upper()}"
    return Finding(code, message, value, low if value < low else high)


def _is_far(value: float, low: float, high: float) -> bool:
    """Of what is always above 0, FAR times less or more than was covered; of the rest, the range over FAR beyond it."""
    if low > 0:
        return not low / FAR <= value <= high * FAR
    return not low - (high - low) / FAR <= value <= high + (high - low) / FAR


# --- there: in the child ----------------------------------------------------------------------------------------------


def _serve(pipe: Connection, parent: int, opener: OpenBundle, folder: Path, machine: Machine) -> None:
    """The child's whole life: open, prove, say so, answer until the pipe ends. What it cannot name, it dies of.

    Out of memory it says so and ends: the next child has all of it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    die_with(parent)
    _limit_memory(machine.memory_mb)
    try:
        _live(pipe, opener, folder, machine)
    except (MemoryError, RuntimeError) as error:  # torch says it by a RuntimeError of its own, and by its words alone
        if (words := _short_of_memory(error)) is None:
            raise
        pipe.send(("memory", words))


def _limit_memory(megabytes: int) -> None:
    """Heap and private mappings; not the address space, of which CUDA reserves far more than it uses."""
    if megabytes:
        resource.setrlimit(resource.RLIMIT_DATA, (megabytes << 20, megabytes << 20))


def _short_of_memory(error: Exception) -> str | None:
    """In a few words of ours whether that was it."""
    said = str(error).lower()
    if isinstance(error, MemoryError) or "can't allocate memory" in said or "cannot allocate memory" in said:
        return "no memory"
    return "no device memory" if _ON_DEVICE.search(said) else None


def _live(pipe: Connection, opener: OpenBundle, folder: Path, machine: Machine) -> None:
    from model.manifest import BundleError

    try:
        bundle = opener(folder, machine)
    except BundleError as error:
        pipe.send(("bundle", str(error)))
        return
    agrees, proof = _prove(bundle, machine)
    if not agrees:
        pipe.send(("bundle", proof))
        return
    pipe.send(("open", (bundle.sha256, proof)))
    with suppress(EOFError):
        while True:
            pipe.send(_answer_to(bundle, *pipe.recv()))


def _prove(bundle: OpenedBundle, machine: Machine) -> tuple[bool, str]:
    """Whether this machine still says of the golden case what the laboratory's said, and the words."""
    from model.preprocess import InputError

    try:
        golden = bundle.verify()
    except (OSError, LookupError, ValueError, InputError) as error:
        return False, f"Its golden case cannot be run ({type(error).__name__}: {error})."
    return bool(golden.agrees), f"On {_named(bundle, machine)}, {golden.message}"


def _named(bundle: OpenedBundle, machine: Machine) -> str:
    """The device and the engine; an engine that was asked for and is not used is said."""
    if bundle.runs_on == machine.engine:
        return f"{machine.device} by {machine.engine}"
    instead = f"{machine.engine} differs from torch on the golden case and is not used"
    return f"{machine.device} by {bundle.runs_on} ({instead})"


def _answer_to(bundle: OpenedBundle, voxels: NDArray[np.float32], affine: NDArray[np.float64]) -> tuple[str, Any]:
    from model.preprocess import InputError

    try:
        found = bundle.predict(voxels, affine)
    except InputError as error:
        return "input", (error.code, str(error))
    t1, t2, t3, t4 = (float(share) for share in found.stage_probabilities)
    return "said", _Said(
        probability=np.asarray(found.probability, dtype=np.float32),
        mask=np.asarray(found.mask, dtype=np.bool_),
        stage_probabilities=(t1, t2, t3, t4),
        dropped_cc=float(found.dropped_cc),
        limits=tuple((one.name, one.value, one.low, one.high, one.unit) for one in found.limits),
        measured={code: float(value) for code, value in found.measured.items()},
        bands={code: _ends(band) for code, band in found.bands.items()},
        unusual=str(found.unusual),
        sight=np.asarray(found.sight, dtype=np.float64),
    )


def _ends(band: Any) -> tuple[Any, ...]:
    return band.unit, band.warn_low, band.warn_high, band.hold_low, band.hold_high
