"""What a bundle measures of its own answer: numbers that can be checked by hand, and bands learned from cases."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from model import calibrate, checks
from model.bundle import default_bundle
from model.checks import Look
from model.manifest import DEFAULT_BANDS, BundleError, GridSpec, file_sha256, read_manifest
from model.preprocess import Window
from npc_rtnode.domain import plausibility
from npc_rtnode.domain.geometry import Grid
from npc_rtnode.domain.prediction import Prediction

GRID = GridSpec((6, 20, 20), (6.0, 2.0, 2.0), 1)
STAGES = np.array([0.1, 0.2, 0.3, 0.4])


def bump(y: float, x: float, shape: tuple[int, int, int] = GRID.shape) -> np.ndarray:
    """A smooth map around a place in the window."""
    rows, columns = np.indices(shape[1:])
    plane = 1 / (1 + np.exp((rows - y) ** 2 + (columns - x) ** 2 - 16.0))
    return np.repeat(plane[None], shape[0], axis=0).astype(np.float32)


def look(y: float, x: float, stages: np.ndarray = STAGES) -> Look:
    """One look that finds the tumour there."""
    return Look(bump(y, x), stages)


def test_looks_that_agree_have_dice_one() -> None:
    """The shifted window lies half a voxel further, so there the same place has half a voxel less: it is moved back."""
    found = checks.steadiness([look(10, 10), look(10, 10), look(9.5, 9.5)], 0.5)
    assert found["MIRROR_DICE"] == 1.0
    assert found["SHIFT_DICE"] >= 0.95
    astray = checks.steadiness([look(10, 10), look(10, 10), look(10.5, 10.5)], 0.5)
    assert astray["SHIFT_DICE"] < 0.9
    assert found["STAGE_SWING"] == 0.0


def test_looks_that_disagree_show_it() -> None:
    """Another place in the mirror, another stage in the shift: Dice falls, the swing is the largest difference."""
    other = np.array([0.4, 0.2, 0.3, 0.1])
    found = checks.steadiness([look(10, 10), look(10, 14), look(9.5, 9.5, other)], 0.5)
    assert found["MIRROR_DICE"] < 0.6
    assert found["STAGE_SWING"] == pytest.approx(0.3)


def test_an_outline_is_counted_as_one_would_by_hand() -> None:
    """Two boxes of 4 and 1 voxels of 0.5 cc, 3 voxels dropped: volume, parts, extent, share."""
    mask = np.zeros((6, 20, 20), bool)
    mask[2, 3:5, 3:5] = mask[5, 9, 9] = True
    found = checks.wholeness(mask, (20.0, 5.0, 5.0), 1.5)
    assert found == {"VOLUME": 2.5, "EXTENT": 80.0, "PARTS": 2.0, "DROPPED_SHARE": 0.375}
    assert checks.wholeness(np.zeros_like(mask), (20.0, 5.0, 5.0), 1.5)["DROPPED_SHARE"] == 1.0


def test_the_node_measures_the_same() -> None:
    """Volume, extent, share, confidence and doubt are measured on both sides of the door, by two implementations."""
    probability = bump(10, 8)
    mask = probability >= 0.5
    here = checks.wholeness(mask, GRID.spacing_mm, 0.4) | checks.sureness(probability, mask)
    grid = Grid(GRID.shape, np.diag([*GRID.spacing_mm, 1.0]))
    said = Prediction(probability, mask, (0.1, 0.2, 0.3, 0.4), 0.4)
    there = {g.code: g.measure(grid, said) for g in plausibility.GAUGES if g.measure and g.code in here}
    assert set(there) == {"VOLUME", "EXTENT", "DROPPED_SHARE", "CONFIDENCE", "DOUBT"}
    assert {code: here[code] for code in there} == pytest.approx(there)


def test_sight_is_where_the_light_is() -> None:
    """One bright voxel a slice lies at its own place in LPS mm; a dark slice counts as its middle."""
    voxels = np.full((3, 5, 7), 10.0, np.float32)
    voxels[0, 1, 2] = voxels[1, 4, 6] = 500.0
    affine = np.array([[0, 0, 2.0, -5], [0, 3.0, 0, 1], [4.0, 0, 0, 9], [0, 0, 0, 1]])
    assert checks.sight(voxels, affine) == pytest.approx(np.array([[-1, 4, 9], [7, 13, 13], [1, 7, 17]]))


def window(seed: int, tumour: float = 1.0) -> tuple[Window, np.ndarray]:
    """A noisy window with a bright spot, and the map that outlines it."""
    rng = np.random.default_rng(seed)
    probability = bump(10 + rng.normal(0, 1), 10 + rng.normal(0, 1))
    values = (rng.normal(0, 1, GRID.shape) + tumour * probability).astype(np.float32)
    return Window(values, np.ones(6, bool), np.arange(6), (0.0, 0.0), (1.0, 1.0)), probability


def features(seed: int, tumour: float = 1.0) -> dict[str, float]:
    """Of that window."""
    return checks.features(*window(seed, tumour), 0.5, GRID)


def test_an_ordinary_case_is_near_and_a_strange_one_far_and_named() -> None:
    """Distance about 1 for a case of the same kind; a tumour ten times as bright is far out by its grey value."""
    reference = checks.reference_of([features(seed) for seed in range(80)])
    ordinary = [checks.unusualness(features(seed), reference)[0] for seed in range(80, 100)]
    assert 0.5 < float(np.median(ordinary)) < 1.5
    far, named = checks.unusualness(features(100, tumour=10.0), reference)
    assert far > 3 * max(ordinary)
    assert "tumour" in named


def test_nothing_outlined_has_no_features() -> None:
    """There is no tumour whose grey value could be named."""
    shown, probability = window(1)
    assert checks.features(shown, probability * 0, 0.5, GRID) == {}


# --- calibration --------------------------------------------------------------------------------------------------


def cases(count: int) -> list[calibrate.Case]:
    """Cases as a bundle would measure them, a little different each."""
    rng = np.random.default_rng(3)
    return [
        calibrate.Case(
            {
                "VOLUME": float(np.exp(rng.normal(3, 0.5))),
                "EXTENT": rng.normal(45, 6),
                "PARTS": 1.0,
                "DROPPED_SHARE": abs(rng.normal(0, 0.01)),
                "CONFIDENCE": 1 - abs(rng.normal(0, 0.03)),
                "DOUBT": abs(rng.normal(0.2, 0.05)),
                "MIRROR_DICE": 1 - abs(rng.normal(0, 0.04)),
                "SHIFT_DICE": 1 - abs(rng.normal(0, 0.02)),
                "STAGE_SWING": abs(rng.normal(0, 0.1)),
            },
            features(k),
        )
        for k in range(count)
    ]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A bundle folder that may be calibrated."""
    return Path(shutil.copytree(default_bundle(), tmp_path / "bundle"))


def test_calibration_writes_bands_reference_and_limits(copy: Path) -> None:
    """Warn within what the cases have, hold beyond the worst of them and never inside of the default."""
    known = cases(60)
    calibrate.calibrate(copy, known)
    manifest = read_manifest(copy)
    assert manifest.reference is not None
    assert manifest.reference.cases == 60
    mirror, default = manifest.bands["MIRROR_DICE"], DEFAULT_BANDS["MIRROR_DICE"]
    worst = min(case.measured["MIRROR_DICE"] for case in known)
    assert (mirror.hold_low or 0) <= min(worst, default.hold_low or 0) < (mirror.warn_low or 0)
    far = manifest.bands["OUT_OF_DISTRIBUTION"]
    assert 0 < (far.warn_high or 0) < (far.hold_high or 0) < 6
    assert manifest.bands["STAGE_SWING"].hold_high is None
    assert {"grey_p50", "edges"} <= set(manifest.input_limits)
    assert manifest.files == read_manifest(default_bundle()).files


def test_a_calibration_that_was_cut_goes_on(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cases on file are not measured again, half a line counts as none, and cases of other weights are refused."""
    known, rows, asked = cases(6), tmp_path / "rows.jsonl", []

    def measure(folder: Path, indices: range, jobs: int) -> list[calibrate.Case]:
        asked.append(list(indices))
        return [known[index] for index in indices]

    monkeypatch.setattr(calibrate, "measure", measure)
    assert calibrate.gather(copy, 4, 1, rows) == known[:4]
    rows.write_text(rows.read_text()[:-40])
    assert calibrate.gather(copy, 6, 1, rows) == known
    assert asked == [[0, 1, 2, 3], [3, 4, 5]]
    rows.write_text(rows.read_text().replace('"weights": "', '"weights": "0', 1))
    with pytest.raises(BundleError, match="other weights"):
        calibrate.gather(copy, 6, 1, rows)


def test_a_calibration_is_repeatable(copy: Path) -> None:
    """The same cases give the same bytes, and so the same bundle hash."""
    calibrate.calibrate(copy, cases(60))
    first = file_sha256(copy / "bundle.json")
    calibrate.calibrate(copy, cases(60))
    assert file_sha256(copy / "bundle.json") == first


def test_too_few_cases_are_refused(copy: Path) -> None:
    """A hundredth of 20 cases is nothing; the bundle stays as it was."""
    before = file_sha256(copy / "bundle.json")
    with pytest.raises(BundleError, match="at least 50"):
        calibrate.calibrate(copy, cases(20))
    assert file_sha256(copy / "bundle.json") == before


def test_a_reference_that_does_not_fit_is_refused(copy: Path) -> None:
    """Features, mean and precision must have one size."""
    calibrate.calibrate(copy, cases(60))
    text = (copy / "bundle.json").read_text().replace('"edges",', "", 1)
    (copy / "bundle.json").write_text(text)
    with pytest.raises(BundleError, match=r"bundle\.json"):
        read_manifest(copy)


def test_an_old_bundle_has_default_bands_and_no_reference(copy: Path) -> None:
    """A manifest from before is read, and says that nothing was calibrated."""
    raw = json.loads((copy / "bundle.json").read_text())
    raw.pop("bands", None), raw.pop("reference", None)
    (copy / "bundle.json").write_text(json.dumps(raw))
    manifest = read_manifest(copy)
    assert (manifest.bands, manifest.reference) == (dict(DEFAULT_BANDS), None)
