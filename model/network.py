"""The network in one sitting: U-Net of 8 encoder and 7 decoder units, map x image, 3-D BoTNet-50, feature fusion.

Paper section 2.3; holes filled as A1..A15 of the design. Shapes stand beside the lines as (channels, z, y, x) for the
paper's 21 x 224 x 224 window. Norms: InstanceNorm inside the U-Net, BatchNorm in the T-net and the fusion module,
because a global average over an InstanceNorm is a constant (A7).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Triple = tuple[int, int, int]

STRIDES: Final[tuple[Triple, ...]] = ((1, 2, 2),) * 3 + ((2, 2, 2),) * 3 + ((1, 2, 2),)
"""Pooling after encoder units 1..7 as (z, y, x): z is pooled once the pixel has grown to the slice (A2). A unit is two
convolutions and a pooling; read as two units a level ("8 units" on four levels) it would pool four times only (A3)."""


@dataclass(frozen=True)
class NetworkConfig:
    """Everything that shapes the weights. ``grid`` is fixed at build time: the positions of A13 are learned for it.

    ``pixel_mm`` is the in-plane pixel of the window. ``gate`` "shifted" multiplies the map by the image above its
    minimum, so that outside the tumour is air as in raw MR; "plain" multiplies the z-scores, where outside is average
    tissue and a tumour of average grey vanishes (A8).
    """

    grid: Triple = (21, 56, 56)
    pixel_mm: float = 1.875
    channels: int = 1
    classes: int = 4
    widths: tuple[int, ...] = (8, 16, 32, 48, 64, 64, 64, 64)
    flat_levels: int = 2
    pool: str = "max"
    stem_stride: Triple = (1, 2, 2)
    stem_pool: Triple = (1, 2, 2)
    gate: str = "shifted"
    stage_width: int = 12
    stage_blocks: tuple[int, ...] = (3, 4, 6, 3)
    heads: int = 4
    fusion_width: int = 64
    dropout: float = 0.1
    levels: int = 0
    """Tissue categories the U-Net names beside the map (0: none; "plus" has 5: no tumour tissue, T1 .. T4 tissue)."""
    invaded: int = 0
    """Structures whose invasion is told beside the stage (design 5.2-2)."""
    ordinal: bool = False
    """Three more logits for "at least T2, T3, T4" (design 5.2-3)."""
    wiring: str = "joint"
    """"joint" is the paper's; its ablations (table 5): "no_fusion" pools and concatenates the four features instead of
    fusing them, "separate" stages from the product alone, with the map held still (A12, A29)."""

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> NetworkConfig:
        """Back from JSON, where tuples became lists."""
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in raw.items()}
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)


PAPER: Final = NetworkConfig(
    grid=(21, 224, 224),
    pixel_mm=0.46875,
    widths=(32, 64, 128, 256, 320, 320, 320, 320),
    flat_levels=0,
    gate="plain",
    stage_width=64,
    fusion_width=256,
)
"""The paper's reading (A1..A15): its window, base 32 doubled up to 320 (A5), 3x3x3 throughout, ResNet-50's widths,
fusion 256."""

PRESETS: Final[Mapping[str, NetworkConfig]] = {
    "paper": PAPER,
    "aniso": dataclasses.replace(PAPER, flat_levels=3),  # 1x3x3 while a pixel is thinner than a slice (A6)
    "small": NetworkConfig(),  # a quarter of the pixels and widths, for phantoms on a processor
    "plus": NetworkConfig(grid=(21, 64, 64), levels=5, invaded=20, ordinal=True),  # small, and what 5.2 adds
    "tiny": NetworkConfig(
        grid=(21, 32, 32),
        widths=(4, 8, 8, 16, 16, 16, 16, 16),
        stage_width=4,
        fusion_width=16,
        dropout=0.0,
    ),
}


def pooled(size: Triple, stride: Triple) -> Triple:
    """Grid after one ceil-mode pooling: 7 -> 4 -> 2 (A1)."""
    z, y, x = (-(-n // s) for n, s in zip(size, stride, strict=True))
    return z, y, x


class FlatConv(nn.Conv3d):
    """A 1x3x3 convolution of a volume, done slice by slice in 2-D: the same, in half the processor's time."""

    def forward(self, x: Tensor) -> Tensor:
        """(inside, z, y, x) -> (outside, z, y, x)."""
        batch, width, slices, *plane = x.shape
        flat = x.transpose(1, 2).reshape(batch * slices, width, *plane)
        done = F.conv2d(flat, self.weight[:, :, 0], padding=1)
        return done.reshape(batch, slices, -1, *plane).transpose(1, 2)


class Unit(nn.Module):
    """One encoder or decoder unit: twice convolution, InstanceNorm, LeakyReLU; ``flat`` convolves in-plane only."""

    def __init__(self, inside: int, outside: int, *, flat: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in (inside, outside):
            layers += [
                FlatConv(width, outside, (1, 3, 3), bias=False)
                if flat
                else nn.Conv3d(width, outside, 3, padding=1, bias=False),
                nn.InstanceNorm3d(outside, affine=True),
                nn.LeakyReLU(0.01, inplace=True),
            ]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(inside, z, y, x) -> (outside, z, y, x)."""
        return cast("Tensor", self.layers(x))


class Pool(nn.Module):
    """Ceil-mode pooling by maximum or mean; an axis shorter than the stride is taken whole (A1, A4)."""

    def __init__(self, stride: Triple, kind: str) -> None:
        super().__init__()
        self.stride = stride
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        """(c, z, y, x) -> (c, z / stride, y / stride, x / stride), rounded up."""
        z, y, w = (min(s, n) for s, n in zip(self.stride, x.shape[2:], strict=True))
        pool = F.max_pool3d if self.kind == "max" else F.avg_pool3d
        return pool(x, (z, y, w), (z, y, w), ceil_mode=True)


class Up(nn.Module):
    """Decoder unit: up-convolution, crop to the skip's size, concatenate, ``Unit``."""

    def __init__(self, below: int, skip: int, stride: Triple, *, flat: bool) -> None:
        super().__init__()
        self.raise_ = nn.ConvTranspose3d(below, skip, stride, stride)
        self.unit = Unit(2 * skip, skip, flat=flat)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(below, z', y', x') and (skip, z, y, x) -> (skip, z, y, x)."""
        z, y, w = skip.shape[2:]
        up = self.raise_(x)[:, :, :z, :y, :w]
        return cast("Tensor", self.unit(torch.cat((up, skip), dim=1)))


def _head(width: int) -> nn.Conv3d:
    """Last 1x1x1 convolution, four times the usual weights and a map that starts near 5 %.

    Soft Jaccard counts every background voxel: from a flat map of one half the first 300 steps only learn the scale.
    """
    head = nn.Conv3d(width, 1, 1)
    with torch.no_grad():
        head.weight.mul_(4.0)
        if head.bias is not None:
            head.bias.fill_(-3.0)
    return head


Shared = tuple[Tensor, Tensor, Tensor]


class Drawn(NamedTuple):
    """What the U-Net gives: ``gtv`` logits (b, 1, z, y, x), ``levels`` logits (b, 5, z, y, x) or None, e7, e8, d1."""

    gtv: Tensor
    levels: Tensor | None
    shared: Shared


class Staged(NamedTuple):
    """What the T-net gives, all logits: ``stage`` (b, 4), ``ordinal`` (b, 3) or None, ``invaded`` (b, n) or None."""

    stage: Tensor
    ordinal: Tensor | None
    invaded: Tensor | None


class UNet8(nn.Module):
    """Eight encoder units, seven decoder units, 1x1x1 convolution (2.3.1): logits and the three shared features."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        widths = config.widths
        if len(widths) != len(STRIDES) + 1:
            raise ValueError(f"the U-Net has {len(STRIDES) + 1} encoder units, got {len(widths)} widths")
        inputs = (config.channels, *widths[:-1])
        self.encoder = nn.ModuleList(
            Unit(i, o, flat=level < config.flat_levels) for level, (i, o) in enumerate(zip(inputs, widths, strict=True))
        )
        self.pools = nn.ModuleList(Pool(stride, config.pool) for stride in STRIDES)
        self.decoder = nn.ModuleList(
            Up(widths[level + 1], widths[level], STRIDES[level], flat=level < config.flat_levels)
            for level in reversed(range(len(STRIDES)))
        )
        self.head = _head(widths[0])
        self.levels = nn.Conv3d(widths[0], config.levels, 1) if config.levels else None
        self.shared_widths = (widths[-2], widths[-1], widths[-2])

    def forward(self, x: Tensor) -> Drawn:
        """(c, 21, 224, 224) -> logits (1, 21, 224, 224) and [e7 (., 3, 4, 4), e8 (., 3, 2, 2), d1 (., 3, 4, 4)]."""
        skips: list[Tensor] = []
        for unit, pool in zip(self.encoder, (*self.pools, nn.Identity()), strict=True):
            skips.append(unit(x))  # z 21 21 21 21 11 6 3 3, in-plane 224 112 56 28 14 7 4 2
            x = pool(skips[-1])
        first = x = self.decoder[0](x, skips[-2])
        for unit, skip in zip(self.decoder[1:], reversed(skips[:-2]), strict=True):
            x = unit(x, skip)
        levels = None if self.levels is None else self.levels(x)
        return Drawn(self.head(x), levels, (skips[-2], skips[-1], first))


class Attention3d(nn.Module):
    """Multi-head self-attention over voxels with learned factorised positions p = Rz + Ry + Rx (A13).

    The logits q.k + q.p are q.(k + p), so one scaled dot-product call does it; q, k, v are 1x1x1 convolutions.
    """

    def __init__(self, width: int, grid: Triple, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"{heads} heads do not divide {width} channels")
        self.heads = heads
        self.grid = grid
        self.qkv = nn.Conv3d(width, 3 * width, 1, bias=False)
        each = width // heads
        z, y, x = grid
        scale = each**-0.5
        self.rz = nn.Parameter(scale * torch.randn(heads, each, z, 1, 1))
        self.ry = nn.Parameter(scale * torch.randn(heads, each, 1, y, 1))
        self.rx = nn.Parameter(scale * torch.randn(heads, each, 1, 1, x))

    def forward(self, x: Tensor) -> Tensor:
        """(width, *grid) -> (width, *grid)."""
        batch, width = x.shape[:2]
        each = width // self.heads
        q, k, v = self.qkv(x).reshape(batch, 3, self.heads, each, -1).transpose(-1, -2).unbind(1)
        p = (self.rz + self.ry + self.rx).reshape(self.heads, each, -1).transpose(-1, -2)
        mixed = F.scaled_dot_product_attention(q, k + p, v)  # (batch, heads, voxels, each)
        return mixed.transpose(-1, -2).reshape(batch, width, *self.grid)


class Bottleneck(nn.Module):
    """ResNet-50 bottleneck 1x1x1, 3x3x3, 1x1x1 (x4); with ``grid`` the middle one is attention, then pooling (A14)."""

    expansion: Final = 4

    def __init__(self, inside: int, width: int, stride: Triple, *, grid: Triple | None = None, heads: int = 4) -> None:
        super().__init__()
        outside = width * self.expansion
        self.reduce = nn.Sequential(nn.Conv3d(inside, width, 1, bias=False), nn.BatchNorm3d(width), nn.ReLU(True))
        middle: list[nn.Module]
        if grid is None:
            middle = [nn.Conv3d(width, width, 3, stride, padding=1, bias=False)]
        else:
            middle = [Attention3d(width, grid, heads), nn.AvgPool3d(stride, stride, ceil_mode=True)]
        self.middle = nn.Sequential(*middle, nn.BatchNorm3d(width), nn.ReLU(True))
        self.expand = nn.Sequential(nn.Conv3d(width, outside, 1, bias=False), nn.BatchNorm3d(outside))
        nn.init.zeros_(cast("nn.BatchNorm3d", self.expand[1]).weight)  # every branch starts silent: quicker to train
        self.shortcut: nn.Module = nn.Identity()
        if inside != outside or stride != (1, 1, 1):
            self.shortcut = nn.Sequential(nn.Conv3d(inside, outside, 1, stride, bias=False), nn.BatchNorm3d(outside))

    def forward(self, x: Tensor) -> Tensor:
        """(inside, z, y, x) -> (4 width, z / stride, y / stride, x / stride)."""
        return F.relu(self.expand(self.middle(self.reduce(x))) + self.shortcut(x))


class BoTNet3d(nn.Module):
    """ResNet-50 (3, 4, 6, 3) in 3-D whose last three bottlenecks attend instead of convolve (2.3.2; strides A15)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        width = config.stage_width
        inputs = config.channels * 2 + config.levels - 1 if config.levels else config.channels
        self.stem = nn.Sequential(
            nn.Conv3d(inputs, width, (3, 7, 7), config.stem_stride, padding=(1, 3, 3), bias=False),
            nn.BatchNorm3d(width),
            nn.ReLU(True),
        )
        self.pool = nn.MaxPool3d(config.stem_pool, config.stem_pool, ceil_mode=True)
        grid = pooled(pooled(config.grid, config.stem_stride), config.stem_pool)
        blocks: list[nn.Module] = []
        inside = width
        for stage, count in enumerate(config.stage_blocks):
            for index in range(count):
                stride: Triple = (2, 2, 2) if index == 0 and stage > 0 else (1, 1, 1)
                attends = stage == len(config.stage_blocks) - 1 and index >= count - 3
                now = width * 2**stage
                blocks.append(Bottleneck(inside, now, stride, grid=grid if attends else None, heads=config.heads))
                inside = now * Bottleneck.expansion
                grid = pooled(grid, stride)
        self.blocks = nn.Sequential(*blocks)
        self.grid = grid
        self.width = inside

    def forward(self, x: Tensor) -> Tensor:
        """(c, 21, 224, 224) -> (32 w, 3, 7, 7)."""
        return cast("Tensor", self.blocks(self.pool(self.stem(x))))


class Fusion(nn.Module):
    """Feature-fusion-aware module over encoder 7, encoder 8, decoder 1 and the T-net (A12)."""

    def __init__(self, widths: tuple[int, ...], grid: Triple, config: NetworkConfig) -> None:
        super().__init__()
        d = config.fusion_width
        self.grid = grid
        self.points = nn.ModuleList(
            nn.Sequential(nn.Conv3d(width, d, 1, bias=False), nn.BatchNorm3d(d), nn.ReLU(True)) for width in widths
        )
        self.mix = nn.Sequential(
            nn.Conv3d(d * len(widths), d, 3, padding=1, bias=False), nn.BatchNorm3d(d), nn.ReLU(True)
        )
        self.attention = Attention3d(d, grid, config.heads)
        self.linear = nn.Conv3d(d, d, 1)
        nn.init.zeros_(self.linear.weight)
        self.norm = nn.BatchNorm3d(d)

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        """Four maps on their own grids -> (d,): resized, mixed, attended with a residual, averaged over the grid."""
        same = [
            F.interpolate(point(feature), size=self.grid, mode="trilinear", align_corners=False)
            for point, feature in zip(self.points, features, strict=True)
        ]
        x = self.mix(torch.cat(same, dim=1))  # (d, 3, 7, 7)
        x = F.relu(self.norm(x + self.linear(self.attention(x))))
        return x.mean(dim=(2, 3, 4))


class Pooled(nn.Module):
    """What stands in for the fusion in both ablations: every feature averaged over its grid, side by side (A12)."""

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        """Maps on their own grids -> (sum of their channels,)."""
        return torch.cat([feature.mean(dim=(2, 3, 4)) for feature in features], dim=1)


WIRINGS: Final = ("joint", "no_fusion", "separate")


class MultiTaskNet(nn.Module):
    """GTV map and T stage from one window (figure 2). With ``levels``, the T-net also sees where the map lies.

    The paper's product tells the T-net what the tumour looks like and hides what it lies in. "plus" adds, beside the
    product, the image and the map's share in tissue of every category, and hands the volumes of those shares straight
    to the classifier: what the TNM rule counts, as far as the network can tell.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.unet = UNet8(config)
        self.stager = BoTNet3d(config)
        self.fusion, fused = self._joint()
        width = fused + 2 * max(0, config.levels - 1)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(width, config.classes)
        self.ordinal = nn.Linear(width, config.classes - 1) if config.ordinal else None
        self.invaded = nn.Linear(width, config.invaded) if config.invaded else None

    def _joint(self) -> tuple[nn.Module, int]:
        """What joins U-Net and T-net, and the width of what it gives."""
        config = self.config
        if config.wiring not in WIRINGS:
            raise ValueError(f"wiring must be one of {', '.join(WIRINGS)}, got {config.wiring!r}")
        shared = self.unet.shared_widths if config.wiring != "separate" else ()
        widths = (*shared, self.stager.width)
        if config.wiring == "joint":
            return Fusion(widths, self.stager.grid, config), config.fusion_width
        return Pooled(), sum(widths)

    def segment(self, x: Tensor) -> Drawn:
        """(batch, c, *grid) -> map, tissue categories and the three shared features."""
        if tuple(x.shape[2:]) != self.config.grid:
            raise ValueError(f"this network was built for a window of {self.config.grid}, got {tuple(x.shape[2:])}")
        return cast("Drawn", self.unet(x))

    def stage(self, x: Tensor, drawn: Drawn) -> Staged:
        """What :meth:`segment` took and gave -> stage logits (batch, classes) and what else is told of it."""
        if self.config.wiring == "separate":
            levels = None if drawn.levels is None else drawn.levels.detach()
            drawn = Drawn(drawn.gtv.detach(), levels, drawn.shared)
        seen, volumes = self._seen(x, drawn)
        shared = () if self.config.wiring == "separate" else drawn.shared
        fused = self.fusion((*shared, self.stager(seen)))
        told = torch.cat((self.dropout(fused), volumes), dim=1)
        ordinal, invaded = (None if head is None else head(told) for head in (self.ordinal, self.invaded))
        return Staged(self.classifier(told), ordinal, invaded)

    def _seen(self, x: Tensor, drawn: Drawn) -> tuple[Tensor, Tensor]:
        """The T-net's input, and the volumes for the classifier (batch, 0 without ``levels``)."""
        image = x - x.amin(dim=(2, 3, 4), keepdim=True) if self.config.gate == "shifted" else x
        gtv = torch.sigmoid(drawn.gtv)  # the paper's product; gradients flow through both (A9)
        if drawn.levels is None:
            return gtv * image, x.new_zeros(len(x), 0)
        shares = gtv * torch.softmax(drawn.levels, dim=1)[:, 1:]
        return torch.cat((gtv * image, x, shares), dim=1), _volumes(shares)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, c, *grid) -> GTV logits (batch, 1, *grid) and stage logits (batch, classes)."""
        drawn = self.segment(x)
        return drawn.gtv, self.stage(x, drawn).stage


def _volumes(shares: Tensor) -> Tensor:
    """(b, k, z, y, x) -> (b, 2 k): for each category log-volume and the most that one 3 x 3 neighbourhood holds."""
    sure = shares.float() ** 2 * (3 - 2 * shares.float())  # a map that hesitates everywhere adds up to nothing
    total = torch.log1p(sure.sum(dim=(2, 3, 4)) / 4)
    peak = F.avg_pool3d(sure, (1, 3, 3), stride=1).amax(dim=(2, 3, 4))
    return torch.cat((total, 4 * peak), dim=1)


def build(config: NetworkConfig, seed: int = 0) -> MultiTaskNet:
    """A freshly initialised network; the same seed gives the same weights and leaves the global generator alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MultiTaskNet(config)
