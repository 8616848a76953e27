"""The losses pull the right way and their weights do not run away."""

from __future__ import annotations

import torch

from model.losses import SegmentationLoss, UncertaintyWeights


def settle(steps: int, losses: tuple[float, float], literal: bool) -> list[float]:
    """Task weights after Adam has played with them against fixed task losses."""
    rule = UncertaintyWeights()
    raw = torch.nn.Parameter(torch.ones(2))
    optimiser = torch.optim.Adam([raw] if literal else rule.parameters(), lr=0.01)
    values = torch.tensor(losses)
    for _ in range(steps):
        optimiser.zero_grad()
        ((raw * values).sum() if literal else rule(values)).backward()
        optimiser.step()
    return raw.detach().tolist() if literal else rule.weights()


def test_literal_lambda_collapses_and_the_log_form_does_not():
    """A16: lambda * L falls below zero; exp(-s) L + s settles at 1 / L."""
    assert max(settle(400, (0.3, 0.8), literal=True)) < 0
    seg, stage = settle(400, (0.3, 0.8), literal=False)
    assert abs(seg - 1 / 0.3) < 0.1
    assert abs(stage - 1 / 0.8) < 0.1


def test_lambda_stays_within_its_limits():
    """A task that is solved does not get an endless weight."""
    weight = settle(500, (0.0, 1.0), literal=False)[0]
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
