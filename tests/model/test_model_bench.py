"""`make bench-infer` compares what it says it compares, and a picture of phantoms shows them."""

from __future__ import annotations

import numpy as np
import pytest

from bench import infer
from model.phantom import sheet
from model.statistics import result_line


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
    told = infer.figures(found)
    assert (told["cpu_s_per_case"], told["parity_dice"], told["parity_dp"]) == pytest.approx((1.5, 56 / 60, 0.02))
    assert told["cpu_s_torch_bf16"] == 0.8
    assert "cpu_s_openvino" not in told


def test_a_result_line_holds_numbers_only():
    """One line of flat JSON; what is not a number is refused, and a figure that could not be had is null, not NaN."""
    assert result_line({"n": 3, "dice": 0.98765432}) == 'RESULT {"n": 3, "dice": 0.987654}'
    assert result_line({"asd": float("nan")}) == 'RESULT {"asd": null}'
    with pytest.raises(TypeError, match="path"):
        result_line({"path": "torch"})


def test_a_tile_shows_the_truth(small_phantom):
    """The truth is outlined in red on a grey picture, and a sheet has as many rows as it needs."""
    picture = sheet.tile(small_phantom(0))
    red = (picture == sheet.RED).all(axis=2)
    grey = (picture[..., 0] == picture[..., 1]) & (picture[..., 1] == picture[..., 2])
    assert picture.shape == (sheet.TILE, sheet.TILE, 3)
    assert 10 < red.sum() < 400
    assert (red | grey).all()
    assert sheet.sheet("test", 1).size == (sheet.COLUMNS * sheet.TILE, sheet.TILE)
