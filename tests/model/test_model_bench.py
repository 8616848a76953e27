"""`make bench-infer` compares what it says it compares, and a picture of phantoms shows them."""

from __future__ import annotations

import numpy as np
import pytest

from bench import infer
from model.phantom import sheet


def path(name: str, mask: np.ndarray, stages: tuple[float, ...], cpu_s: float) -> dict:
    """What one timed path gives."""
    run = {"engine": name, "cpu_s": cpu_s, "wall_s": cpu_s, "peak_gib": 1.0}
    return {**run, "masks": [np.packbits(mask)], "stages": [stages]}


def test_parity_is_against_torch_and_a_fallback_is_no_figure(capsys):
    """Dice and stage difference are those of the arrays; an engine that fell back is shown and not counted."""
    mask = np.zeros((4, 8, 8), bool)
    mask[1:3, 2:6, 2:6] = True
    less = mask.copy()
    less[1, 2, 2:6] = False
    paths = {
        "torch": path("torch", mask, (0.1, 0.2, 0.3, 0.4), 1.5),
        "torch-bf16": path("torch-bf16", less, (0.1, 0.2, 0.32, 0.38), 0.8),
        "openvino": path("torch", mask, (0.1, 0.2, 0.3, 0.4), 1.5),
        "openvino-bf16": None,
    }
    found = infer.table("shipped", paths)
    assert "fell back to torch" in capsys.readouterr().out
    assert set(found) == {"torch", "torch-bf16"}
    assert found["torch-bf16"][1:] == pytest.approx((2 * 28 / 60, 0.02))
    lines = infer.results(found)
    assert lines[:3] == ["RESULT cpu_s_per_case=1.500", "RESULT parity_dice=0.93333", "RESULT parity_dp=0.02000"]
    assert "RESULT cpu_s_torch_bf16=0.800" in lines


def test_a_tile_shows_the_truth(small_phantom):
    """The truth is outlined in red on a grey picture, and a sheet has as many rows as it needs."""
    picture = sheet.tile(small_phantom(0))
    red = (picture == sheet.RED).all(axis=2)
    grey = (picture[..., 0] == picture[..., 1]) & (picture[..., 1] == picture[..., 2])
    assert picture.shape == (sheet.TILE, sheet.TILE, 3)
    assert 10 < red.sum() < 400
    assert (red | grey).all()
    assert sheet.sheet("test", 1).size == (sheet.COLUMNS * sheet.TILE, sheet.TILE)
