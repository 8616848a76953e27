"""``bundle.json`` as a frozen value: read, checked and written without importing torch."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

FILE: Final = "bundle.json"
FORMAT: Final = 1
WINDOWS: Final = ("roi", "body", "image")
INTENSITIES: Final = ("body", "volume")


class BundleError(Exception):
    """A bundle folder is missing, damaged or of an unknown kind. The message names the file and what to do."""


@dataclass(frozen=True)
class GridSpec:
    """The window the network sees: ``shape`` voxels of ``spacing_mm``, both (z, y, x).

    ``oversample`` spline samples per pixel and axis are averaged into one pixel: 4 x 0.46875 mm makes 1.875 mm, so a
    reduced grid is the paper's grid (0.4688 mm) block-averaged, and 1 is the paper's grid itself.
    """

    shape: tuple[int, int, int] = (21, 56, 56)
    spacing_mm: tuple[float, float, float] = (6.0, 1.875, 1.875)
    oversample: int = 4

    @property
    def extent_mm(self) -> tuple[float, float, float]:
        """Full size of the window in mm, (z, y, x)."""
        z, y, x = (n * mm for n, mm in zip(self.shape, self.spacing_mm, strict=True))
        return z, y, x


@dataclass(frozen=True)
class Limit:
    """A range of one measured input that training covered, ends included."""

    low: float
    high: float
    unit: str


@dataclass(frozen=True)
class LimitFinding:
    """A measured input outside what training covered: a warning, not a refusal."""

    name: str
    value: float
    low: float
    high: float
    unit: str


@dataclass(frozen=True)
class Postprocess:
    """A26: threshold, then the largest component and those of ``keep_cc`` or more within ``reach_mm`` of it.

    A largest component under ``least_cc`` is no tumour: nothing is kept.
    """

    threshold: float = 0.5
    keep_cc: float = 0.3
    reach_mm: float = 15.0
    least_cc: float = 0.0


@dataclass(frozen=True)
class Band:
    """Where a measured number is expected: outside ``warn`` it is said, outside ``hold`` a person decides.

    The ends themselves are inside; None is no end.
    """

    unit: str = ""
    warn_low: float | None = None
    warn_high: float | None = None
    hold_low: float | None = None
    hold_high: float | None = None


DEFAULT_BANDS: Final[Mapping[str, Band]] = {
    "VOLUME": Band("cc", 1.0, 150.0, 0.3, 300.0),
    "EXTENT": Band("mm", None, 95.0, None, 125.0),
    "PARTS": Band("parts", None, 2, None, 4),
    "DROPPED_SHARE": Band("", None, 0.1, None, 0.5),
    "CONFIDENCE": Band("", 0.85, None, 0.6, None),
    "DOUBT": Band("", None, 0.5, None, 1.5),
    "MIRROR_DICE": Band("", 0.8, None, 0.5, None),
    "SHIFT_DICE": Band("", 0.85, None, 0.5, None),
    "STAGE_SWING": Band("", None, 0.25, None, None),
    "OUT_OF_DISTRIBUTION": Band("SD", None, 5.0, None, 10.0),
    "REFERENCE_CASES": Band("cases", 50, None, None, None),
}
"""For a bundle that was never calibrated (``python -m model.calibrate``): wide, from the literature's volumes (0.3 to
150 cc), the window's size and a Dice of about .6 between members of an ensemble. VOLUME and EXTENT are the outline's,
PARTS and DROPPED_SHARE say how it hangs together, CONFIDENCE and DOUBT are read off the map, the three after them
compare the answer with those to the mirrored and the shifted image."""


@dataclass(frozen=True)
class Reference:
    """Ordinary cases as named features: their number, mean, and the inverse of their covariance (shrunk)."""

    cases: int
    features: tuple[str, ...]
    mean: tuple[float, ...]
    precision: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Manifest:
    """What a bundle says about itself. ``files`` holds the SHA-256 of every other file in the folder."""

    name: str
    version: str
    data: str
    statement: str
    inputs: tuple[str, ...]
    structures: tuple[str, ...]
    stage_classes: tuple[str, ...]
    staging_edition: str
    grid: GridSpec
    network: Mapping[str, Any]
    postprocess: Postprocess
    temperature: float
    flip_average: bool
    centre_offset_mm: tuple[float, float, float]
    input_limits: Mapping[str, Limit]
    metrics: Mapping[str, Any]
    generator_sha256: str
    files: Mapping[str, str] = field(default_factory=dict)
    stage_offset: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    """Added to the stage logits after the temperature: log of how common each class is expected to be."""
    window: str = "roi"
    """Where the window lies (A21): "roi" at the tumour the first look finds, "body" on the body, "image" (paper)."""
    intensity: str = "body"
    """What the z-score is taken over (A23): "body" clipped inside the head, "volume" all voxels as they are (paper)."""
    bands: Mapping[str, Band] = field(default_factory=lambda: dict(DEFAULT_BANDS))
    """What the gates allow of an answer, by gate; what a bundle does not name is DEFAULT_BANDS'."""
    reference: Reference | None = None
    """What an input is compared with to say how unusual it is; None in a bundle that was never calibrated."""
    format: int = FORMAT

    @property
    def threshold(self) -> float:
        """Probability from which a voxel belongs to the structure."""
        return self.postprocess.threshold

    def to_json(self) -> str:
        """The text of ``bundle.json``."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, lower-case hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """Read ``bundle.json`` of a bundle folder; no weights, no torch. Raises ``BundleError``."""
    path = folder / FILE
    try:
        raw = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise BundleError(f"{path} is missing: point the setting at a bundle folder or reinstall the bundle") from error
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} cannot be read ({error}): restore the bundle from its release") from error
    return _manifest(raw, path)


def _manifest(raw: Any, path: Path) -> Manifest:
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise BundleError(f"{path} is not bundle format {FORMAT}: install a bundle made for this release")
    try:
        return _from_dict(raw)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(
            f"{path} lacks or misspells a field ({error!r}): restore the bundle from its release"
        ) from error


def _from_dict(raw: dict[str, Any]) -> Manifest:
    fields = dict(raw)
    for name in ("inputs", "structures", "stage_classes", "centre_offset_mm", "stage_offset"):
        if name in fields:
            fields[name] = tuple(fields[name])
    grid = dict(raw["grid"])
    fields["grid"] = GridSpec(tuple(grid["shape"]), tuple(grid["spacing_mm"]), int(grid["oversample"]))
    fields["postprocess"] = Postprocess(**raw["postprocess"])
    fields["input_limits"] = {name: Limit(**limit) for name, limit in raw["input_limits"].items()}
    fields["bands"] = dict(DEFAULT_BANDS) | {name: Band(**band) for name, band in raw.get("bands", {}).items()}
    fields["reference"] = _reference(raw.get("reference"))
    for name, known in (("window", WINDOWS), ("intensity", INTENSITIES)):
        if fields.get(name, known[0]) not in known:
            raise ValueError(f"{name} is {fields[name]!r}, known are {', '.join(known)}")
    return Manifest(**fields)


def _reference(raw: dict[str, Any] | None) -> Reference | None:
    if raw is None:
        return None
    precision = tuple(tuple(float(value) for value in row) for row in raw["precision"])
    features, mean = tuple(raw["features"]), tuple(float(value) for value in raw["mean"])
    if {len(mean), len(precision), *(len(row) for row in precision)} != {len(features)}:
        raise ValueError(f"reference: {len(features)} features, but mean or precision has another size")
    return Reference(int(raw["cases"]), features, mean, precision)


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Check every file of the folder against the manifest's SHA-256. Raises ``BundleError`` naming the file."""
    for name, expected in sorted(manifest.files.items()):
        path = folder / name
        if Path(name).name != name:
            raise BundleError(f"{folder / FILE} lists {name!r}, which is not a plain file name: do not use this bundle")
        if not path.is_file():
            raise BundleError(f"{path} is missing: restore the bundle from its release")
        if file_sha256(path) != expected:
            raise BundleError(f"{path} does not match its SHA-256 in {FILE}: it is damaged, restore the bundle")
    _refuse_strangers(folder, manifest)


def _refuse_strangers(folder: Path, manifest: Manifest) -> None:
    known = {FILE, *manifest.files}
    strangers = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name not in known)
    if strangers:
        raise BundleError(f"{folder / strangers[0]} is not listed in {FILE}: remove it or restore the bundle")
