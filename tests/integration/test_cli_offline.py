"""`run` and `rules test` without a network: what is held is not written, what is shown cannot move the cursor."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread

from npc_rtnode import __main__
from npc_rtnode.cli import offline, rules
from npc_rtnode.domain.geometry import Volume
from npc_rtnode.domain.prediction import BundleStatement, Prediction
from npc_rtnode.errors import NothingEligible
from npc_rtnode.settings import Settings
from tests.builders.enhanced import make_enhanced
from tests.builders.mr_series import make_series
from tests.builders.outputs import bundle_statement, prediction_of, seen

ROWS = 24


class Drawing:
    """A predictor that outlines a block from this slice on."""

    first = 2

    def __init__(self, settings: Any) -> None:
        self.asked: list[BundleStatement] = []

    def statement(self) -> BundleStatement:
        """A clinical bundle, so that nothing but gates can hold."""
        return bundle_statement(data="clinical")

    def predict(self, volume: Volume, statement: BundleStatement) -> Prediction:
        """The block, for whoever names the bundle."""
        assert statement == self.statement()
        mask = np.zeros(volume.voxels.shape, bool)
        mask[self.first : self.first + 3, 6:14, 6:14] = True
        return prediction_of(mask, **seen(volume, mask))

    def close(self) -> None:
        """Nothing to end."""


class CutOff(Drawing):
    """The same from the first slice on."""

    first = 0


def done(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    predictor: type[Drawing],
    make: Callable[[Path], list[Path]] = make_series,
) -> tuple[dict[str, Any], Path]:
    """What `run` reports of one series, and where it writes."""
    monkeypatch.setattr(offline, "BundlePredictor", predictor)
    make(folder / "mr")
    (view,) = offline.process(folder / "mr", folder / "out", Settings(), None)
    return view, folder / "out"


def test_what_passes_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Both objects lie in the folder that is named."""
    view, output = done(monkeypatch, tmp_path, Drawing)
    assert (view["failed"], view["released"]) == (False, True), view["gates"]
    assert sorted(path.name for path in Path(view["folder"]).iterdir()) == ["RTSTRUCT.dcm", "SR.dcm"]
    assert output in Path(view["folder"]).parents


def test_one_file_of_frames_is_a_series_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`run` on an Enhanced MR file writes both objects, each contour on its frame; the file counts once."""
    view, _ = done(monkeypatch, tmp_path, Drawing, make_enhanced)
    assert (view["failed"], view["released"]) == (False, True), view["gates"]
    structure = dcmread(Path(view["folder"]) / "RTSTRUCT.dcm")
    frames = [
        item.ContourImageSequence[0].ReferencedFrameNumber for item in structure.ROIContourSequence[0].ContourSequence
    ]
    assert frames == [3, 4, 5]


def test_what_is_held_before_writing_is_only_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An outline at the first slice: the gate is told, and no file exists."""
    view, output = done(monkeypatch, tmp_path, CutOff)
    assert ("BORDER_SLICE", "hold") in [(gate["gate"], gate["outcome"]) for gate in view["gates"]]
    assert (view["failed"], view["released"], view["folder"]) == (True, False, None)
    assert not list(output.rglob("*.dcm"))


def test_what_is_held_when_read_back_is_only_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Objects that were made and failed their own check never reach the disk."""
    write = offline.DicomObjects.write

    def swapped(self: Any, stack: Any, sources: Any, prediction: Prediction, plan: Any) -> Any:
        other = replace(prediction, mask=np.roll(prediction.mask, 2, axis=2))
        return write(self, stack, sources, other, plan)

    monkeypatch.setattr(offline.DicomObjects, "write", swapped)
    view, output = done(monkeypatch, tmp_path, Drawing)
    assert ("ROUND_TRIP_DICE", "hold") in [(gate["gate"], gate["outcome"]) for gate in view["gates"]]
    assert (view["failed"], view["folder"]) == (True, None)
    assert not list(output.rglob("*.dcm"))


def test_a_description_cannot_move_the_cursor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Escape sequences in DICOM text are shown, never obeyed by the terminal."""
    for path in make_series(tmp_path):
        ds = dcmread(path)
        ds.SeriesDescription = "T1\x1b[2J\x1b[31m"
        ds.save_as(path)
    with suppress(NothingEligible):
        rules.test(tmp_path)
    told = capsys.readouterr().out
    assert "\x1b" not in told
    assert "T1" in told


def test_what_is_written_is_the_users_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mask is set before anything else runs."""
    seen: list[int] = []
    before = os.umask(0o022)
    try:
        monkeypatch.setattr(__main__, "app", lambda: seen.append(os.umask(0o022)))
        __main__.main()
    finally:
        os.umask(before)
    assert seen == [0o077]
