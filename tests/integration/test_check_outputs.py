"""`make check-outputs`: three readers see the mask that was meant, and would see it if it were another."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from bench import outputs
from bench.readers import dcmrtstruct2nii_masks, own_raster, plastimatch_mask
from npc_rtnode.domain.contouring import to_patient
from npc_rtnode.domain.records import ObjectKind, WrittenObject

FINE: dict[str, float] = {
    **dict.fromkeys(outputs.MOST, 0.0),
    "dice_min": 1.0,
    "rt_utils_worse_by_min": 0.02,
    "uneven_refused": float(len(outputs.UNEVEN)),
}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.peer("plastimatch", "dcmrtstruct2nii")
def test_a_reduced_run_meets_every_figure(capsys: pytest.CaptureFixture[str]) -> None:
    """Three shapes and two ragged masks on three geometries: exit 0, a RESULT line of numbers, rt-utils far behind."""
    arguments = ["--geometries", "double_oblique", "coronal", "anisotropic", "--ragged", "4"]
    status = outputs.main([*arguments, "--shapes", "tube", "crescent", "clover"])
    *table, last = capsys.readouterr().out.splitlines()
    found = json.loads(last.removeprefix("RESULT "))
    assert (status, len(table)) == (0, 1 + 3 * 3 + 4)
    assert all(isinstance(value, (int, float)) for value in found.values())
    assert (found["dice_min"], found["voxel_volume_error_max"], found["cases"]) == (1.0, 0.0, 13)
    assert found["polygon_volume_error_max"] < 0.001
    assert found["rt_utils_dice_max"] < 0.98
    assert found["rt_utils_polygon_volume_error_max"] > 0.05


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.peer("plastimatch", "dcmrtstruct2nii")
def test_every_reader_sees_a_contour_that_was_moved(tmp_path: Path, peer: Callable[[str], str]) -> None:
    """All contours one pixel further right: each of the three readers finds the mask moved by that pixel, no other."""
    where = outputs.scene("oblique", tmp_path)
    case = outputs.smooth_case("clover", where.stack)
    written = outputs.written_by_the_node(where, case)
    pixel_mm = np.subtract(*(to_patient(np.array([[x, 0.0]]), where.stack.slices[0])[0] for x in (1.0, 0.0)))
    file = tmp_path / "moved.dcm"
    move(written, pixel_mm, file)
    moved = WrittenObject(ObjectKind.RTSTRUCT, written.sop_class_uid, written.sop_uid, file.read_bytes())
    meant = np.roll(case.mask, 1, axis=2)
    masks = [
        own_raster(moved, where.stack).mask,
        plastimatch_mask(peer("plastimatch"), file, where.images, tmp_path / "pm", where.stack),
        *dcmrtstruct2nii_masks([file], where.images, tmp_path / "nii", where.stack),
    ]
    for mask in masks:
        seen = outputs.compared(mask, case.mask, where.stack)
        assert seen.centroid_mm == pytest.approx(0.9375, abs=0.01)
        assert seen.dice < 0.97
        assert outputs.compared(mask, meant, where.stack).dice > 0.999


def move(written: WrittenObject, by_mm: np.ndarray, file: Path) -> None:
    """The structure set with every contour moved, as a file."""
    file.write_bytes(written.encoded)
    ds = dcmread(file)
    for item in ds.ROIContourSequence[0].ContourSequence:
        points = np.array(item.ContourData, dtype=float).reshape(-1, 3) + by_mm
        item.ContourData = [f"{value:.3f}" for value in points.ravel()]
    ds.save_as(file)


def test_uneven_stacks_are_refused(tmp_path: Path) -> None:
    """A missing slice, one off its place, steps that grow: the node places no contour on any of them."""
    assert outputs.uneven_refused(tmp_path) == len(outputs.UNEVEN) == 3


def test_nothing_missed_is_status_0(capsys: pytest.CaptureFixture[str]) -> None:
    """Figures within every limit."""
    assert outputs.verdict(FINE) == 0
    assert json.loads(capsys.readouterr().out.removeprefix("RESULT ")) == FINE


@pytest.mark.parametrize("key", [*outputs.LEAST, *outputs.MOST])
@pytest.mark.parametrize("no_number", [False, True])
def test_a_figure_that_misses_its_limit_is_told_and_is_status_1(
    key: str, no_number: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each one by itself, a little beyond its limit or no number at all."""
    beyond = outputs.LEAST[key] * 0.9999 if key in outputs.LEAST else outputs.MOST[key] * 1.0001
    found = {**FINE, key: float("nan") if no_number else beyond}
    assert [said.split()[0] for said in outputs.misses(found)] == [key]
    assert outputs.verdict(found) == 1
    assert f"MISSED {key}" in capsys.readouterr().out


def test_a_reader_that_sees_nothing_is_no_agreement(tmp_path: Path) -> None:
    """An empty mask has Dice 0, the whole volume as its error, and no centroid."""
    where = outputs.scene("axial", tmp_path)
    mask = outputs.smooth_case("ball", where.stack).mask
    assert outputs.compared(np.zeros_like(mask), mask, where.stack) == outputs.Seen(0.0, 1.0, float("inf"))
