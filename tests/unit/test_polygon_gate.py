"""The gate on the polygons' volume: what a planning system computes from the contours is what the report says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from npc_rtnode.domain.contouring import contours_of
from npc_rtnode.domain.gates import POLYGON_MOST, POLYGON_NEVER, Outcome, _judge_polygon
from npc_rtnode.domain.rasterising import PlacedRing, Raster, rasterise
from tests.builders.outputs import SHAPES, stack_for

STACK = stack_for()


def grown(share: float, cc: float) -> Raster:
    """The ball's contours as read back, every one of them larger by this share of its area; the ball said to be cc."""
    mask = SHAPES["ball"](STACK.grid.shape)
    rings = []
    for contour in contours_of(mask, STACK):
        middle = contour.points_mm.mean(axis=0)
        rings.append(PlacedRing(contour.slice_index, middle + (contour.points_mm - middle) * np.sqrt(1 + share)))
    raster = rasterise(rings, STACK)
    return replace(raster, polygon_cc=raster.polygon_cc * cc / (int(mask.sum()) * STACK.grid.voxel_cc))


@pytest.mark.parametrize(
    ("share", "cc", "outcome", "limit"),
    [
        (0.0, 6.0, Outcome.PASS, POLYGON_MOST),
        (0.0019, 6.0, Outcome.PASS, POLYGON_MOST),
        (-0.003, 6.0, Outcome.WARN, POLYGON_MOST),
        (0.0049, 6.0, Outcome.WARN, POLYGON_MOST),
        (0.0051, 6.0, Outcome.HOLD, POLYGON_NEVER),
        (-0.02, 1.0, Outcome.HOLD, POLYGON_NEVER),
        (-0.02, 0.9, Outcome.WARN, POLYGON_MOST),
    ],
)
def test_polygon_volume_is_kept_within_its_bounds(share: float, cc: float, outcome: Outcome, limit: float) -> None:
    """0.2 % is told; 0.5 % holds from 1 cc upwards, and the number that decided is in the result."""
    result = _judge_polygon(grown(share, cc), cc)
    assert (result.name, result.outcome, result.limit) == ("POLYGON_VOLUME", outcome, limit)
    assert result.value == pytest.approx(abs(share), abs=1e-6)
