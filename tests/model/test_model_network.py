"""The network keeps the paper's shape: units, grids, attention, norms."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from model.network import (
    PRESETS,
    STRIDES,
    Attention3d,
    Bottleneck,
    FlatConv,
    MultiTaskNet,
    NetworkConfig,
    UNet8,
    _volumes,
    build,
    pooled,
)

TINY = PRESETS["tiny"]


def window(grid: tuple[int, int, int], count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 1, *grid, generator=generator)


def test_eight_encoder_and_seven_decoder_units():
    """The U-Net has the paper's 8 encoder and 7 decoder units."""
    net = UNet8(TINY)
    assert (len(net.encoder), len(net.decoder), len(net.pools)) == (8, 7, 7)


def test_pooling_reproduces_the_paper_grids():
    """Ceil-mode pooling takes 21 x 224 x 224 through the sizes of A1."""
    grid, sizes = (21, 224, 224), [(21, 224, 224)]
    for stride in STRIDES:
        grid = pooled(grid, stride)
        sizes.append(grid)
    assert [size[1] for size in sizes] == [224, 112, 56, 28, 14, 7, 4, 2]
    assert [size[0] for size in sizes] == [21, 21, 21, 21, 11, 6, 3, 3]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_a_flat_convolution_is_the_volume_s(layout):
    """Slice by slice in 2-D gives what a 1x3x3 convolution of the volume gives, borders and gradients included."""
    flat = FlatConv(3, 5, (1, 3, 3), bias=False)
    nn.utils.convert_conv3d_weight_memory_format(flat, layout)
    volume = torch.randn(2, 3, 4, 7, 6, generator=torch.Generator().manual_seed(2))
    wanted = torch.nn.functional.conv3d(volume, flat.weight, padding=(0, 1, 1))
    assert torch.allclose(flat(volume), wanted, atol=1e-6)
    (mine,) = torch.autograd.grad(flat(volume).square().sum(), flat.weight)
    (theirs,) = torch.autograd.grad(wanted.square().sum(), flat.weight)
    assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("grid", [(21, 32, 32), (21, 45, 45), (21, 56, 64)])
def test_map_has_the_size_of_its_window(grid):
    """Any in-plane size comes back at its own size, odd ones too."""
    net = build(dataclasses.replace(TINY, grid=grid)).eval()
    with torch.inference_mode():
        gtv, stage = net(window(grid, 1))
    assert gtv.shape == (1, 1, *grid)
    assert stage.shape == (1, 4)


def test_another_window_size_is_refused():
    """Positions are learned for one grid, so another size is an error and not a guess."""
    with pytest.raises(ValueError, match="built for a window"):
        build(TINY)(torch.zeros(1, 1, 21, 40, 40))


def test_a_wrong_number_of_units_is_refused():
    """Widths for seven or nine units do not make the paper's net."""
    with pytest.raises(ValueError, match="8 encoder units"):
        build(dataclasses.replace(TINY, widths=(4, 8, 16)))


def test_last_three_bottlenecks_attend():
    """3, 4, 6, 3 bottlenecks, of which the final three attend with four heads instead of convolving."""
    blocks = [block for block in build(TINY).stager.blocks if isinstance(block, Bottleneck)]
    attends = [any(isinstance(layer, Attention3d) for layer in block.middle) for block in blocks]
    assert attends == [False] * 13 + [True] * 3
    assert all(layer.heads == 4 for block in blocks for layer in block.middle if isinstance(layer, Attention3d))


def test_attention_is_softmax_of_qk_plus_qp():
    """One call with keys k + p gives the paper's q.k + q.p."""
    torch.manual_seed(0)
    layer = Attention3d(8, (2, 3, 3), heads=2)
    x = torch.randn(1, 8, 2, 3, 3)
    q, k, v = layer.qkv(x).reshape(3, 2, 4, 18).unbind(0)
    p = (layer.rz + layer.ry + layer.rx).reshape(2, 4, 18)
    weights = torch.softmax((q.transpose(1, 2) @ k + q.transpose(1, 2) @ p) / 2.0, dim=-1)
    expected = (weights @ v.transpose(1, 2)).transpose(1, 2).reshape(1, 8, 2, 3, 3)
    assert torch.allclose(layer(x), expected, atol=1e-5)


def test_no_instance_norm_where_the_stage_is_pooled():
    """A7: InstanceNorm lives in the U-Net only; the T-net and the fusion use BatchNorm."""
    net = build(TINY)
    after = [module for part in (net.stager, net.fusion, net.classifier) for module in part.modules()]
    assert not any(isinstance(module, nn.InstanceNorm3d) for module in after)
    assert any(isinstance(module, nn.BatchNorm3d) for module in after)


def test_stage_logits_differ_between_cases_at_birth():
    """A7: an untrained net already answers two different windows differently."""
    net = build(TINY)
    net.train()(window(TINY.grid, 4))
    one, other = window(TINY.grid, 2)
    with torch.inference_mode():
        _, stage = net.eval()(torch.stack((one, 1.5 * other + 0.5)))
    assert float((stage[0] - stage[1]).abs().max()) > 1e-3


def test_gradients_reach_the_unet_from_the_stage():
    """A9: the stage loss alone moves the segmentation head, through the product."""
    net = build(TINY)
    _, stage = net(window(TINY.grid))
    stage[:, 0].sum().backward()
    gradient = net.unet.head.weight.grad
    assert gradient is not None
    assert float(gradient.abs().sum()) > 0


def test_same_seed_same_weights():
    """Building is reproducible and does not disturb the global generator."""
    before = torch.random.get_rng_state()
    one, other = build(TINY, seed=3), build(TINY, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_config_survives_json():
    """A config read back from a manifest builds the same shapes."""
    small = PRESETS["small"]
    raw = {name: list(value) if isinstance(value, tuple) else value for name, value in small.to_dict().items()}
    assert NetworkConfig.from_dict(raw) == small


def test_segment_then_stage_is_forward():
    """The two halves used by training and by the first look give what one pass gives."""
    net: MultiTaskNet = build(TINY).eval()
    x = window(TINY.grid, 1)
    with torch.inference_mode():
        drawn = net.segment(x)
        whole = net(x)
        assert torch.equal(whole[0], drawn.gtv)
        assert torch.equal(whole[1], net.stage(x, drawn).stage)


PLUS = dataclasses.replace(TINY, levels=5, invaded=20, ordinal=True)


def test_plus_tells_tissue_order_and_structures():
    """The plus wiring names five tissue categories a voxel, three cumulative stages and twenty structures."""
    net = build(PLUS).eval()
    x = window(PLUS.grid, 1)
    with torch.inference_mode():
        drawn = net.segment(x)
        staged = net.stage(x, drawn)
    assert drawn.levels is not None
    assert staged.ordinal is not None
    assert staged.invaded is not None
    assert drawn.levels.shape == (1, 5, *PLUS.grid)
    assert (staged.stage.shape, staged.ordinal.shape, staged.invaded.shape) == ((1, 4), (1, 3), (1, 20))


def test_plain_presets_keep_the_paper_product():
    """Without the plus heads the T-net sees one channel, map x image, and nothing reaches the classifier beside it."""
    net = build(TINY)
    assert net.stager.stem[0].in_channels == 1
    assert net.classifier.in_features == TINY.fusion_width
    assert (net.unet.levels, net.ordinal, net.invaded) == (None, None, None)


def test_plus_adds_context_and_keeps_the_product():
    """Plus sees the product, the image and four shares of the map; eight volumes go straight to the classifier."""
    net = build(PLUS)
    assert net.stager.stem[0].in_channels == 6
    assert net.classifier.in_features == PLUS.fusion_width + 8


def test_volumes_grow_with_the_share_and_forget_hesitation():
    """A compact sure share counts; the same amount spread thinly over the window counts for nothing."""
    sure, thin = torch.zeros(1, 1, 5, 20, 20), torch.full((1, 1, 5, 20, 20), 0.01)
    sure[0, 0, 2, 8:12, 8:13] = 1.0
    assert float(sure.sum()) == pytest.approx(float(thin.sum()))
    for large, small in zip(_volumes(sure)[0], _volumes(thin)[0], strict=True):
        assert large > 1
        assert small < 0.2


def on_paper(preset: str) -> MultiTaskNet:
    """A preset's network without a single weight in memory."""
    with torch.device("meta"):
        return MultiTaskNet(PRESETS[preset]).eval()


COUNTED = {  # millions of weights and GFLOP of one window (1 MAC = 2 FLOP): U-Net, T-net, fusion
    "paper": ((59.901, 27.303, 8.118), (1104.69, 151.02, 2.35)),
    "aniso": ((58.168, 27.303, 8.118), (598.51, 151.02, 2.35)),
    "small": ((2.398, 0.971, 0.497), (2.55, 0.40, 0.01)),
    "plus": ((2.398, 0.980, 0.497), (3.27, 0.87, 0.01)),
    "tiny": ((0.169, 0.111, 0.032), (0.10, 0.02, 0.00)),
}


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_weights_and_work_are_as_counted(preset):
    """Parameters and FLOPs of every preset, counted layer by layer, are those of docs/model.md."""
    net = on_paper(preset)
    weights, work = COUNTED[preset]
    parts = (net.unet, net.stager, net.fusion)
    assert [sum(p.numel() for p in part.parameters()) / 1e6 for part in parts] == pytest.approx(weights, abs=6e-4)
    with FlopCounterMode(display=False, depth=2) as counter:
        net(torch.empty(1, 1, *net.config.grid, device="meta"))
    counts = counter.get_flop_counts()
    found = [sum(counts[f"MultiTaskNet.{name}"].values()) / 1e9 for name in ("unet", "stager", "fusion")]
    assert found == pytest.approx(work, abs=6e-3)


def test_paper_features_have_the_paper_grids():
    """Encoder 7, encoder 8 and decoder 1 of the paper's window, and the T-net's last grid 3 x 7 x 7 (A1, A15)."""
    net = on_paper("paper")
    drawn = net.segment(torch.empty(1, 1, 21, 224, 224, device="meta"))
    assert [tuple(feature.shape[1:]) for feature in drawn.shared] == [(320, 3, 4, 4), (320, 3, 2, 2), (320, 3, 4, 4)]
    assert drawn.gtv.shape == (1, 1, 21, 224, 224)
    assert (net.stager.grid, net.stager.width) == ((3, 7, 7), 2048)
    assert net.config.gate == "plain"


def stage_gradient(wiring: str) -> float:
    """How strongly the stage pulls at the U-Net."""
    net = build(dataclasses.replace(TINY, wiring=wiring))
    _, stage = net(window(TINY.grid))
    stage.square().sum().backward()
    return sum(float(p.grad.abs().sum()) for p in net.unet.parameters() if p.grad is not None)


def test_ablations_are_wired_as_the_paper_says():
    """wo-FFA joins all four features and trains the U-Net; Separate-training sees the product alone and does not."""
    joined = build(dataclasses.replace(TINY, wiring="no_fusion"))
    apart = build(dataclasses.replace(TINY, wiring="separate"))
    assert joined.classifier.in_features == sum(joined.unet.shared_widths) + joined.stager.width
    assert apart.classifier.in_features == apart.stager.width
    assert stage_gradient("joint") > 0
    assert stage_gradient("no_fusion") > 0
    assert stage_gradient("separate") == 0
    with pytest.raises(ValueError, match="wiring must be one of"):
        build(dataclasses.replace(TINY, wiring="apart"))
