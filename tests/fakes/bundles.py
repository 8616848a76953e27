"""Bundles for the predictor's child; their openers are named functions, since the child imports them."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model.manifest import FILE, Band, BundleError, LimitFinding, file_sha256
from model.preprocess import InputError
from npc_rtnode.adapters.predictor import Machine


class Echoing:
    """Answers with the voxels as probability, and the child's pid as dropped_cc."""

    def __init__(self, folder: Path) -> None:
        self.sha256: Final = file_sha256(folder / FILE)
        self.runs_on = "torch"

    def predict(self, voxels: NDArray[Any], affine: NDArray[np.float64]) -> Any:
        """What the first voxel asks for."""
        wish = int(voxels.flat[0])
        if wish == 1:
            time.sleep(60)
        if wish == 2:
            os._exit(7)
        if wish == 3:
            raise InputError("CONSTANT", "every voxel is 3: there is no image")
        if wish == 4:
            raise InputError("SHEAR", "axes are not perpendicular")
        if wish == 5:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return Answer(voxels[1:] if wish == 6 else voxels, affine)

    def verify(self) -> Any:
        """A machine that agrees."""
        return Golden(True, "this machine agrees with the laboratory")


class Greedy(Echoing):
    """On CUDA it has too little memory; on the CPU it takes as much as it is asked to."""

    def __init__(self, folder: Path, machine: Machine) -> None:
        super().__init__(folder)
        self._machine = machine

    def predict(self, voxels: NDArray[Any], affine: NDArray[np.float64]) -> Any:
        """As torch says it, or by taking a gigabyte."""
        if self._machine.device.startswith("cuda"):
            with Path(os.environ.get("NPC_RTNODE_TEST_TRIES", os.devnull)).open("a") as tries:
                tries.write(f"{os.getpid()}\n")
            raise RuntimeError(
                os.environ.get("NPC_RTNODE_TEST_SAYS", "CUDA out of memory. Tried to allocate 20.00 MiB.")
            )
        if voxels.flat[0] == 7:
            np.ones(1 << 27).sum()
        return Answer(voxels, affine)


def open_greedy(folder: Path, machine: Machine) -> Greedy:
    """An opener."""
    return Greedy(folder, machine)


class Goldless(Echoing):
    """A bundle without a golden case."""

    def verify(self) -> Any:
        """What numpy says then."""
        raise FileNotFoundError("golden.npz")


class Disagreeing(Echoing):
    """A machine that computes something else."""

    def verify(self) -> Any:
        """Far off."""
        return Golden(False, "this machine DISAGREES with the laboratory: Dice 0.1234")


@dataclass(frozen=True)
class Golden:
    """The fields of model.bundle.GoldenResult that are asked for."""

    agrees: bool
    message: str


class Answer:
    """The fields of model.bundle.Prediction."""

    def __init__(self, voxels: NDArray[Any], affine: NDArray[np.float64]) -> None:
        self.probability, self.mask = voxels, voxels > 0.5
        self.stage_probabilities = (float(affine[0, 0]), 0.2, 0.3, 0.1)
        self.dropped_cc = float(os.getpid())
        self.limits = (LimitFinding("pixel_mm", 0.2, 0.3, 1.2, "mm"), LimitFinding("rows", 20, 256, 672, "pixels"))
        self.measured, self.unusual = {"PARTS": 1.0}, "edges +4.0 SD"
        self.bands = {"PARTS": Band("parts", None, 2, None, 4)}
        self.sight = np.zeros((len(voxels), 3))


def open_echoing(folder: Path, machine: Machine) -> Echoing:
    """A bundle that answers."""
    return Echoing(folder)


def open_slowly(folder: Path, machine: Machine) -> Echoing:
    """A bundle that takes a minute to open."""
    time.sleep(60)
    return Echoing(folder)


def open_dying(folder: Path, machine: Machine) -> Echoing:
    """A bundle whose opening takes the process along, as a driver that does not fit its card does."""
    os._exit(7)


def open_disagreeing(folder: Path, machine: Machine) -> Echoing:
    """A bundle whose golden case comes out wrong here."""
    return Disagreeing(folder)


def open_goldless(folder: Path, machine: Machine) -> Echoing:
    """A bundle that cannot prove anything."""
    return Goldless(folder)


def open_damaged(folder: Path, machine: Machine) -> Echoing:
    """A bundle that cannot be opened."""
    raise BundleError("weights.safetensors does not match its SHA-256")
