"""How the network is run: torch as it is, torch in bfloat16, or OpenVINO. Chosen when a site is installed, not per job.

"torch" is the reference and the default. Any other engine must agree with it on the golden case when the bundle is
opened (``Bundle.open``), or the bundle falls back to torch and says so: the same series gives the same bytes on every
run of a site.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.network import MultiTaskNet

Floats = NDArray[np.float32]


class EngineError(ValueError):
    """An engine is not known or not installed. The message says what to do."""


class Engine(Protocol):
    """A network ready to run on windows (z, y, x) of its grid."""

    name: str

    def glance(self, values: Floats) -> Floats:
        """The map (z, y, x) alone: what the first look needs."""

    def forward(self, values: Floats) -> tuple[Floats, Floats]:
        """The map (z, y, x) and the stage logits (4,)."""


@dataclass(frozen=True)
class Agreement:
    """How close an engine must come to torch on the golden case: Dice of the masks, largest stage difference."""

    dice: float
    probability: float


AGREEMENTS: Final = {
    "torch-bf16": Agreement(0.99, 0.03),
    "openvino": Agreement(0.999, 0.01),
    "openvino-bf16": Agreement(0.99, 0.03),
}
ENGINES: Final = ("torch", *AGREEMENTS)


def make_engine(name: str, network: MultiTaskNet, device: str) -> Engine:
    """The engine of that name. Raises ``EngineError``."""
    if name not in ENGINES:
        raise EngineError(f"engine {name!r} is none of {', '.join(ENGINES)}: mend the setting")
    if name.startswith("openvino"):
        return OpenVinoEngine(name, network)
    return TorchEngine(name, network, device)


class TorchEngine:
    """PyTorch, float32 or with bfloat16 where autocast deems it safe."""

    def __init__(self, name: str, network: MultiTaskNet, device: str) -> None:
        self.name = name
        self._network = network.to(device).eval()
        self._device = device
        self._half = name.endswith("bf16")

    def glance(self, values: Floats) -> Floats:
        """The map alone."""
        with self._mode(), self._precision():
            gtv = self._network.segment(self._tensor(values)).gtv
        return _map(gtv)

    def forward(self, values: Floats) -> tuple[Floats, Floats]:
        """Map and stage logits."""
        with self._mode(), self._precision():
            gtv, stage = self._network(self._tensor(values))
        return _map(gtv), stage[0].float().cpu().numpy()

    def _mode(self) -> Any:
        return torch.inference_mode()

    def _precision(self) -> Any:
        return torch.autocast(torch.device(self._device).type, torch.bfloat16, enabled=self._half)

    def _tensor(self, values: Floats) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values))[None, None].to(self._device)


def _map(gtv: Tensor) -> Floats:
    with torch.inference_mode():
        probability: Floats = torch.sigmoid(gtv.float())[0, 0].cpu().numpy()
    return probability


class OpenVinoEngine:
    """OpenVINO on the processor, on the weights of the bundle; the precision is pinned, never left to the machine."""

    def __init__(self, name: str, network: MultiTaskNet) -> None:
        self.name = name
        try:
            import openvino
        except ImportError as error:
            raise EngineError(f"engine {name} needs OpenVINO: pip install 'npc-rtnode[openvino]'") from error
        core = openvino.Core()
        pinned = {
            "INFERENCE_PRECISION_HINT": "bf16" if name.endswith("bf16") else "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        window = torch.zeros(1, network.config.channels, *network.config.grid)
        network = network.cpu().eval()
        self._glance, self._forward = (
            core.compile_model(openvino.convert_model(torch.export.export(part, (window,))), "CPU", pinned)
            for part in (_MapOnly(network).eval(), network)
        )

    def glance(self, values: Floats) -> Floats:
        """The map alone."""
        (gtv,) = self._glance(_window(values)).values()
        return _squash(gtv)

    def forward(self, values: Floats) -> tuple[Floats, Floats]:
        """Map and stage logits."""
        gtv, stage = self._forward(_window(values)).values()
        return _squash(gtv), np.array(stage[0], dtype=np.float32)


class _MapOnly(nn.Module):
    def __init__(self, network: MultiTaskNet) -> None:
        super().__init__()
        self.unet = network.unet

    def forward(self, x: Tensor) -> Tensor:
        """(1, c, z, y, x) -> map logits."""
        gtv: Tensor = self.unet(x).gtv
        return gtv


def _window(values: Floats) -> Floats:
    return np.ascontiguousarray(values)[None, None]


def _squash(logits: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(logits[0, 0], -60, 60))), dtype=np.float32)
