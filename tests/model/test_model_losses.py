"""The losses pull the right way and their weights do not run away."""

from __future__ import annotations

import pytest
import torch

from model.losses import (
    LEAST_WEIGHT,
    WEIGHTS,
    LiteralWeights,
    RenormalisedWeights,
    SegmentationLoss,
    UncertaintyWeights,
    invasion_loss,
    ordinal_loss,
    tissue_loss,
)


def settle(rule: torch.nn.Module, steps: int, losses: tuple[float, float], lr: float = 0.01) -> list[float]:
    """Task weights after Adam has played with them against fixed task losses."""
    optimiser = torch.optim.Adam(rule.parameters(), lr=lr)
    values = torch.tensor(losses)
    for _ in range(steps):
        optimiser.zero_grad()
        rule(values).backward()
        optimiser.step()
    return rule.weights()


def test_literal_lambda_collapses_and_the_log_form_does_not():
    """A16: lambda * L falls below zero; exp(-s) L + s settles at 1 / L."""
    assert max(settle(LiteralWeights(), 400, (0.3, 0.8))) < 0
    seg, stage = settle(UncertaintyWeights(), 400, (0.3, 0.8))
    assert abs(seg - 1 / 0.3) < 0.1
    assert abs(stage - 1 / 0.8) < 0.1


def test_literal_lambda_makes_the_task_worse():
    """A16 in full: once lambda is below zero, training drives a learnable task away from its answer."""
    answer, other = torch.nn.Parameter(torch.tensor(0.5)), torch.nn.Parameter(torch.tensor(0.5))
    for rule, learned in ((LiteralWeights(1), answer), (UncertaintyWeights(1), other)):
        optimiser = torch.optim.Adam([*rule.parameters(), learned], lr=0.02)
        for _ in range(400):
            optimiser.zero_grad()
            rule(((learned - 1).square() + 0.2)[None]).backward()
            optimiser.step()
    assert abs(other.item() - 1) < 0.05
    assert abs(answer.item() - 1) > 1


def test_renormalised_lambdas_stay_on_the_ground():
    """The third way of A16: the harder task loses weight, none falls below the floor, the sum stays 2."""
    seg, stage = settle(RenormalisedWeights(), 2000, (0.3, 0.8))
    assert seg + stage == pytest.approx(2)
    assert stage < seg
    assert stage >= LEAST_WEIGHT


def test_weights_have_names():
    """Every way of weighing can be chosen by name and begins with one for each task."""
    for make in WEIGHTS.values():
        assert make().weights() == pytest.approx([1.0, 1.0])


def test_tissue_counts_double_inside_the_tumour():
    """A tissue named wrongly under the tumour costs far more than the same number of voxels elsewhere."""
    levels = torch.zeros(1, 4, 8, 8, dtype=torch.long)
    target = torch.zeros(1, 1, 4, 8, 8)
    target[:, :, 1:3, 2:6, 2:6] = 1
    right = torch.nn.functional.one_hot(levels, 5).permute(0, 4, 1, 2, 3).float() * 8
    wrong_in, wrong_out = right.clone(), right.clone()
    wrong_in[:, :, 1:3, 2:6, 2:6] = right[:, [1, 0, 2, 3, 4], 1:3, 2:6, 2:6]
    wrong_out[:, :, 0, 4:8, :] = right[:, [1, 0, 2, 3, 4], 0, 4:8, :]
    assert tissue_loss(wrong_in, levels, target) > 3 * tissue_loss(wrong_out, levels, target)
    assert tissue_loss(right, levels, target) < 0.02
    assert torch.isfinite(tissue_loss(right, levels, torch.zeros_like(target)))


def test_a_missed_tongue_is_dear():
    """Forty voxels of T4 tissue missed by the map cost more than as many missed in the body of the tumour."""
    levels = torch.ones(1, 6, 20, 20, dtype=torch.long)
    levels[:, :, 12:] = 4
    target = torch.zeros(1, 1, 6, 20, 20)
    target[:, :, :, 2:12, 2:16] = 1
    target[:, :, 2:4, 12:16, 5:10] = 1
    tongue, body = 20 * target - 10, 20 * target - 10
    tongue[:, :, 2:4, 12:16, 5:10] = -10
    body[:, :, 2:4, 4:8, 5:10] = -10
    cost = [float(invasion_loss(logits, levels, target)) for logits in (tongue, body, 20 * target - 10)]
    assert cost[0] > 4 * cost[1] > 4 * cost[2]
    assert float(invasion_loss(tongue[:0], levels[:0], target[:0])) == 0


def test_ordinal_loss_knows_neighbours():
    """T4 called T3 costs less than T4 called T1."""
    says = {"T1": (-6.0, -6.0, -6.0), "T3": (6.0, 6.0, -6.0), "T4": (6.0, 6.0, 6.0)}
    cost = {name: float(ordinal_loss(torch.tensor([logits]), torch.tensor([3]))) for name, logits in says.items()}
    assert cost["T4"] < 0.01 < cost["T3"] < cost["T1"]


def test_lambda_stays_within_its_limits():
    """A task that is solved does not get an endless weight."""
    weight = settle(UncertaintyWeights(), 500, (0.0, 1.0))[0]
    assert 15 < weight <= 20.1


def test_a_good_map_costs_less_than_a_bad_one():
    """Jaccard + focal: the truth is nearly free, nothing and everything are dear."""
    loss = SegmentationLoss()
    target = torch.zeros(1, 1, 4, 8, 8)
    target[:, :, 1:3, 2:6, 2:6] = 1
    good, empty, full = (float(loss(logits, target)) for logits in (20 * target - 10, 0 * target - 10, 0 * target + 10))
    assert good < 0.05
    assert empty > 0.9
    assert full > 0.5
