"""The one door to the model: open a bundle folder, predict on plain arrays, prove that it still answers as it did.

    bundle = Bundle.open(default_bundle())
    prediction = bundle.predict(voxels, affine)   # [slice, row, column] and index -> LPS mm

Commands: ``python -m model.bundle make|verify|show --help``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from scipy import ndimage

from model import checks, labels, preprocess
from model.engine import AGREEMENTS, Agreement, Engine, EngineError, make_engine
from model.manifest import (
    FILE,
    Band,
    BundleError,
    GridSpec,
    LimitFinding,
    Manifest,
    Postprocess,
    file_sha256,
    read_manifest,
    verify_files,
)
from model.network import MultiTaskNet, NetworkConfig, build
from model.phantom import generator_sha256, golden_profile, make_case
from model.postprocess import clean
from model.preprocess import TRAINED_LIMITS, InputError, Volume, Window

__all__ = [
    "Bundle",
    "BundleError",
    "GoldenResult",
    "InputError",
    "LimitFinding",
    "Manifest",
    "Prediction",
    "default_bundle",
    "make_bundle",
    "read_manifest",
]

WEIGHTS: Final = "weights.safetensors"
CARD: Final = "card.md"
GOLDEN: Final = "golden.npz"
THREADS_VARIABLE: Final = "NPC_RTNODE_TORCH_THREADS"
REACH_MM: Final = 26.0
"""In-plane, the second look stays centred on the body while the tumour's centre is within this distance."""

TUMOUR_MEAN_MM: Final = (-6.0, 0.0)
TUMOUR_SD_MM: Final = (7.0, 18.0)
"""Tumour's centre from the body's centroid in-plane (y, x) over 525 training phantoms: -6.2 +- 4.4 and 0.7 +- 14.4 mm,
widened. Without it a false tumour in the neck, 25 mm behind, won in 3 of 60 evaluation cases."""

LEAST_CC: Final = 0.3
"""A new bundle draws nothing smaller: the smallest training phantom has 3 cc, a false tumour often a few voxels."""

USEFUL_AUC: Final = 0.65
"""Below this the card says that the stage is not to be read."""

SURVEY_STEP: Final = 5
"""Slices between windows of the first look: about a quarter of a window."""

ROUNDING: Final = 0.001
"""A map may be stored in half precision, which moves a probability by up to a quarter of this."""

GOLDEN_DICE: Final = 0.99
GOLDEN_PROBABILITY: Final = 0.02
Floats = NDArray[np.float32]
Point = tuple[float, float, float]


@dataclass(frozen=True)
class Prediction:
    """What the model says about one volume, on the caller's own grid.

    measured: numbers about this answer by gate (``model.checks``); bands: what the bundle allows of them, by gate.
    features: the picture and its outline as ``checks.features`` names them; unusual: those farthest out, in words.
    sight: ``checks.sight`` of the very voxels and affine that were given, ``[slice, (x, y, z)]`` in LPS mm.
    """

    probability: NDArray[np.float32]
    mask: NDArray[np.bool_]
    stage_probabilities: tuple[float, float, float, float]
    dropped_cc: float
    limits: tuple[LimitFinding, ...]
    measured: Mapping[str, float] = field(default_factory=dict)
    bands: Mapping[str, Band] = field(default_factory=dict)
    features: Mapping[str, float] = field(default_factory=dict)
    unusual: str = ""
    sight: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 3)))


@dataclass(frozen=True)
class Look:
    """The answer on the network's window: the map (z, y, x), raw stage logits (4,), and how steady both are."""

    window: Window
    probability: Floats
    stage_logits: Floats
    steadiness: Mapping[str, float]


@dataclass(frozen=True)
class GoldenResult:
    """Whether this machine still says what the laboratory said about the golden case."""

    agrees: bool
    dice: float
    max_dp: float
    message: str


def default_bundle() -> Path:
    """The bundle shipped with the package."""
    return Path(__file__).parent / "bundles" / "default"


class Bundle:
    """Weights, manifest and golden case of one folder, ready to predict. Make it with :meth:`open`."""

    def __init__(self, folder: Path, manifest: Manifest, engine: Engine, sha256: str) -> None:
        self.folder = folder
        self.manifest = manifest
        self.sha256 = sha256
        self.engine = engine

    @property
    def runs_on(self) -> str:
        """The engine in force."""
        return self.engine.name

    @classmethod
    def open(cls, folder: Path, device: str = "cpu", threads: int | None = None, engine: str = "torch") -> Bundle:
        """Check every file's SHA-256, load the weights strictly. Raises ``BundleError``.

        ``threads`` (or the environment variable NPC_RTNODE_TORCH_THREADS) sets torch's CPU threads for the process;
        ``engine`` is one of ``model.engine.ENGINES``. An engine other than torch that does not agree with torch on the
        golden case is not used: ``runs_on`` says which one is.
        """
        wanted = threads if threads is not None else _threads_from_environment()
        if wanted is not None:
            torch.set_num_threads(wanted)
        manifest = read_manifest(folder)
        verify_files(folder, manifest)
        network = _load(folder / WEIGHTS, manifest)
        sha256 = file_sha256(folder / FILE)
        plain = cls(folder, manifest, make_engine("torch", network, device), sha256)
        return plain if engine == "torch" else plain._faster(engine, network, device)

    def _faster(self, name: str, network: MultiTaskNet, device: str) -> Bundle:
        """This bundle on another engine if the two agree, else itself. Raises ``BundleError`` for an unknown engine."""
        try:
            other = Bundle(self.folder, self.manifest, make_engine(name, network, device), self.sha256)
        except EngineError as error:
            raise BundleError(str(error)) from error
        return other if other.agrees_with(self, AGREEMENTS[name]) else self

    def agrees_with(self, reference: Bundle, limit: Agreement) -> bool:
        """Whether both say the same of the golden case, within ``limit``."""
        voxels, affine = self._golden()
        mine, theirs = (bundle.predict(voxels, affine) for bundle in (self, reference))
        dice, max_dp = difference(mine, theirs)
        return dice >= limit.dice and max_dp <= limit.probability

    def _golden(self) -> tuple[Floats, NDArray[np.float64]]:
        with np.load(self.folder / GOLDEN, allow_pickle=False) as golden:
            return golden["voxels"].astype(np.float32), golden["affine"]

    def predict(self, voxels: NDArray[Any], affine: NDArray[np.float64]) -> Prediction:
        """GTV and T stage of one axial volume. ``voxels`` [slice, row, column]; ``affine`` index -> LPS mm.

        Two looks (A21): windows along the stack find the tumour; one window at its height, centred in-plane on the body
        so that its place in the head is seen, gives the answer. What the gates ask of it is measured on the way.
        Raises ``InputError`` where the volume cannot be given to the network.
        """
        affine = np.asarray(affine, dtype=np.float64)
        volume = preprocess.orient(voxels, affine)
        scaled, start = self._scaled(volume)
        look = self._look(scaled, self._find(scaled, start) if self.manifest.window == "roi" else start)
        canonical = preprocess.paste(scaled, look.window, look.probability)
        mask, dropped = clean(canonical, volume.spacing_mm, self.manifest.postprocess)
        features = checks.features(look.window, look.probability, self.manifest.threshold, self.manifest.grid)
        usual, unusual = self._usual(features)
        whole = checks.wholeness(mask, volume.spacing_mm, dropped) | checks.sureness(canonical, mask)
        return Prediction(
            probability=volume.to_native(canonical),
            mask=volume.to_native(mask.astype(np.float32)) > 0,
            stage_probabilities=_calibrated(look.stage_logits, self.manifest),
            dropped_cc=dropped,
            limits=preprocess.outside(preprocess.measure(volume) | features, self.manifest.input_limits),
            measured=dict(look.steadiness) | whole | usual | checks.inside(volume.voxels, mask),
            bands=self._bands,
            features=features,
            unusual=unusual,
            sight=checks.sight(voxels, affine),
        )

    @property
    def _bands(self) -> dict[str, Band]:
        """The manifest's, and what follows from the threshold: no voxel that is outlined may lie below it."""
        least = self.manifest.threshold - ROUNDING
        return dict(self.manifest.bands) | {"LEAST_PROBABILITY": Band("", hold_low=least)}

    def _usual(self, features: Mapping[str, float]) -> tuple[dict[str, float], str]:
        """How unusual the case is; without a reference, or without an outline, that is left unsaid."""
        reference = self.manifest.reference
        if reference is None:
            return {"REFERENCE_CASES": 0.0}, ""
        cases = {"REFERENCE_CASES": float(reference.cases)}
        if not features:
            return cases, ""
        distance, unusual = checks.unusualness(features, reference)
        return cases | {"OUT_OF_DISTRIBUTION": distance}, unusual

    def _scaled(self, volume: Volume) -> tuple[Volume, Point]:
        """The z-scored volume and where its window starts from, in mm from the first voxel."""
        body, steps = preprocess.body_mask(volume)
        whole = self.manifest.intensity == "volume"
        scaled = preprocess.normalise_whole(volume) if whole else preprocess.normalise(volume, body, steps)
        on_image = self.manifest.window == "image"
        z, y, x = preprocess.image_centre_mm(volume) if on_image else preprocess.body_centre_mm(volume, body, steps)
        dz, dy, dx = self.manifest.centre_offset_mm
        return scaled, (z + dz, y + dy, x + dx)

    def verify(self) -> GoldenResult:
        """Predict the golden case and compare with the expected answer stored beside it."""
        with np.load(self.folder / GOLDEN, allow_pickle=False) as golden:
            voxels, affine = golden["voxels"].astype(np.float32), golden["affine"]
            expected = np.unpackbits(golden["mask"], count=voxels.size).reshape(voxels.shape).astype(bool)
            stages = golden["stage_probabilities"]
        prediction = self.predict(voxels, affine)
        dice = dice_of(prediction.mask, expected)
        max_dp = float(np.abs(np.asarray(prediction.stage_probabilities) - stages).max())
        agrees = dice >= GOLDEN_DICE and max_dp <= GOLDEN_PROBABILITY
        verdict = "agrees with" if agrees else "DISAGREES with"
        message = f"this machine {verdict} the laboratory: Dice {dice:.4f}, largest stage difference {max_dp:.5f}"
        if self.engine.name != "torch":
            message += f" (engine {self.engine.name})"
        return GoldenResult(agrees, dice, max_dp, message)

    def _find(self, scaled: Volume, start: Point) -> Point:
        """First look: ``start`` moved to the height of the tumour, and in-plane only where that is far off."""
        grid = self.manifest.grid
        found = likeliest(self._survey(scaled, start), self.manifest.threshold, grid)
        if found is None:
            return start
        z = (found[0] - SURVEY_STEP) * grid.spacing_mm[0]
        seen = (s + (f - (n - 1) / 2) * mm for s, f, n, mm in _in_plane(start, found, grid))
        y, x = (min(max(s, c - REACH_MM), c + REACH_MM) for s, c in zip(start[1:], seen, strict=True))
        return z, y, x

    def _survey(self, scaled: Volume, start: Point) -> Floats:
        """Mean map along the whole stack; lattice slice k lies at (k - SURVEY_STEP) slices from the first voxel.

        Every slice is seen in several windows, the middle of a window counting most: shown no tumour, the network draws
        one somewhere, but not in the same place twice.
        """
        grid = self.manifest.grid
        depth = grid.shape[0]
        length = int((scaled.voxels.shape[0] - 1) * scaled.spacing_mm[0] / grid.spacing_mm[0]) + 1
        total = np.zeros((length + depth + 2 * SURVEY_STEP, *grid.shape[1:]), dtype=np.float32)
        weight = np.zeros((len(total), 1, 1), dtype=np.float32)
        middle = ((len(total) - 1) / 2 - SURVEY_STEP) * grid.spacing_mm[0]
        tall = preprocess.cut(scaled, (middle, *start[1:]), replace(grid, shape=total.shape))
        trust = (1 - np.abs(np.arange(depth) - (depth - 1) / 2) / (depth / 2 + 1)).astype(np.float32)
        for first in survey_starts(length, depth):
            place = slice(first + SURVEY_STEP, first + SURVEY_STEP + depth)
            share = (trust * tall.valid[place])[:, None, None]
            total[place] += self.engine.glance(tall.values[place]) * share
            weight[place] += share
        return np.asarray(total / np.maximum(weight, 1e-6), dtype=np.float32)

    def _look(self, scaled: Volume, centre: Point) -> Look:
        """The second look, with its mirror image and a copy half a voxel off: the two that say how steady it is."""
        grid = self.manifest.grid
        window = preprocess.cut(scaled, centre, grid)
        y, x = (c + checks.SHIFT_VOXELS * mm for c, mm in zip(centre[1:], grid.spacing_mm[1:], strict=True))
        probability, logits = self.engine.forward(window.values)
        turned, other = self.engine.forward(window.values[:, :, ::-1])
        mirrored = turned[:, :, ::-1]
        shifted = self.engine.forward(preprocess.cut(scaled, (centre[0], y, x), grid).values)
        looks = [self._judged(*said) for said in ((probability, logits), (mirrored, other), shifted)]
        steadiness = checks.steadiness(looks, self.manifest.threshold)
        if self.manifest.flip_average:
            probability = np.asarray((probability + mirrored) / 2, dtype=np.float32)
            logits = np.asarray((logits + other) / 2, dtype=np.float32)
        return Look(window, probability, logits, steadiness)

    def _judged(self, probability: Floats, logits: Floats) -> checks.Look:
        return checks.Look(probability, np.array(_calibrated(logits, self.manifest)))


def survey_starts(length: int, depth: int) -> list[int]:
    """First slices of the windows of the first look: every quarter window, hanging over both ends by that much."""
    last = max(length - depth + SURVEY_STEP, -SURVEY_STEP)
    return [*range(-SURVEY_STEP, last, SURVEY_STEP), last]


def likeliest(mean: Floats, threshold: float, grid: GridSpec) -> Point | None:
    """Centre of mass (z, y, x) of the component that holds most probability, weighed by where tumours lie in the head.

    None where nothing reaches the threshold.
    """
    parts, count = ndimage.label(mean >= threshold)
    if not count:
        return None
    masses = np.bincount(parts.ravel(), weights=mean.ravel())[1:]
    centres = ndimage.center_of_mass(mean, parts, range(1, count + 1))
    scores = [mass * _plausible(centre, grid) for mass, centre in zip(masses, centres, strict=True)]
    z, y, x = (float(c) for c in centres[int(np.argmax(scores))])
    return z, y, x


def _plausible(centre: Point, grid: GridSpec) -> float:
    """Weight of an in-plane place: a normal law around the training tumours' mean offset from the body's centroid."""
    offsets = ((c - (n - 1) / 2) * mm for c, n, mm in zip(centre[1:], grid.shape[1:], grid.spacing_mm[1:], strict=True))
    distance = sum(((o - m) / sd) ** 2 for o, m, sd in zip(offsets, TUMOUR_MEAN_MM, TUMOUR_SD_MM, strict=True))
    return float(np.exp(-distance / 2)) + 1e-9


def _in_plane(start: Point, found: Point, grid: GridSpec) -> Iterator[tuple[float, float, int, float]]:
    """For y and x: window centre in mm, place in the window, window size, pixel in mm."""
    return zip(start[1:], found[1:], grid.shape[1:], grid.spacing_mm[1:], strict=True)


def _calibrated(logits: Floats, manifest: Manifest) -> tuple[float, float, float, float]:
    scaled = logits.astype(np.float64) / manifest.temperature + np.asarray(manifest.stage_offset)
    shares = np.exp(scaled - scaled.max())
    t1, t2, t3, t4 = (float(p) for p in shares / shares.sum())
    return t1, t2, t3, t4


def difference(one: Prediction, other: Prediction) -> tuple[float, float]:
    """Dice of the two masks and the largest difference of a stage probability."""
    stages = np.subtract(one.stage_probabilities, other.stage_probabilities)
    return dice_of(one.mask, other.mask), float(np.abs(stages).max())


def dice_of(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Dice coefficient; 1 for two empty masks."""
    total = int(a.sum()) + int(b.sum())
    return 1.0 if total == 0 else 2.0 * int((a & b).sum()) / total


def _threads_from_environment() -> int | None:
    text = os.environ.get(THREADS_VARIABLE, "")
    return int(text) if text.isdigit() and int(text) > 0 else None


def _halve(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Kernels as float16 for the disk; vectors (norms, biases) keep their precision."""
    return {
        name: (tensor.half() if tensor.is_floating_point() and tensor.ndim > 1 else tensor).contiguous().cpu()
        for name, tensor in state.items()
    }


def _widen(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Back to float32, in which everything is computed; ``classifier.1`` is how bundle 0.1.0 names the classifier."""
    named = {name.replace("classifier.1.", "classifier."): tensor for name, tensor in state.items()}
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in named.items()}


def _load(path: Path, manifest: Manifest) -> MultiTaskNet:
    try:
        network = build(NetworkConfig.from_dict(manifest.network))
        network.load_state_dict(_widen(load_file(path)), strict=True)
    except (SafetensorError, RuntimeError, TypeError, ValueError) as error:
        raise BundleError(f"{path} does not fit the network in {FILE} ({error}): restore the bundle") from error
    if network.config.grid != manifest.grid.shape:
        raise BundleError(
            f"{path.parent / FILE}: the grid {manifest.grid.shape} is not the network's: restore the bundle"
        )
    return network


# --- making one -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """What training and evaluation know and a bundle must state."""

    name: str
    version: str
    network: NetworkConfig
    grid: GridSpec
    temperature: float
    metrics: dict[str, Any]
    centre_offset_mm: Point
    threshold: float = 0.5
    flip_average: bool = True
    stage_offset: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)


def expected_offset(counts: Mapping[str, int]) -> tuple[float, ...]:
    """Log shares of the stages in the population expected, less those of balanced training."""
    total = sum(counts.values())
    return tuple(round(float(np.log(counts[stage] * len(labels.STAGES) / total)), 4) for stage in labels.STAGES)


def make_bundle(folder: Path, state: dict[str, torch.Tensor], recipe: Recipe) -> Bundle:
    """Write a bundle folder: weights, card, golden case, manifest. One that is there is replaced once all is well."""
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    _write_bundle(part, state, recipe)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    return Bundle.open(folder)


def _write_bundle(folder: Path, state: dict[str, torch.Tensor], recipe: Recipe) -> None:
    save_file(_halve(state), folder / WEIGHTS)
    (folder / WEIGHTS).chmod(0o644)
    manifest = _manifest_of(recipe)
    (folder / CARD).write_text(card(manifest), encoding="utf-8")
    engine = make_engine("torch", _load(folder / WEIGHTS, manifest), "cpu")
    _write_golden(folder / GOLDEN, Bundle(folder, manifest, engine, ""))
    files = {name: file_sha256(folder / name) for name in (WEIGHTS, CARD, GOLDEN)}
    (folder / FILE).write_text(replace(manifest, files=files).to_json(), encoding="utf-8")


def _manifest_of(recipe: Recipe) -> Manifest:
    return Manifest(
        name=recipe.name,
        version=recipe.version,
        data="synthetic",
        statement=labels.STATEMENT,
        inputs=(labels.CHANNEL,),
        structures=(labels.STRUCTURE,),
        stage_classes=labels.STAGES,
        staging_edition=labels.STAGING_EDITION,
        grid=recipe.grid,
        network=recipe.network.to_dict(),
        postprocess=Postprocess(threshold=recipe.threshold, least_cc=LEAST_CC),
        temperature=recipe.temperature,
        flip_average=recipe.flip_average,
        stage_offset=recipe.stage_offset,
        centre_offset_mm=recipe.centre_offset_mm,
        input_limits=dict(TRAINED_LIMITS),
        metrics=recipe.metrics,
        generator_sha256=generator_sha256(),
    )


def _write_golden(path: Path, bundle: Bundle) -> None:
    phantom = make_case("golden", 0, stage="T3", profile=golden_profile())
    top = max(1, int(np.percentile(phantom.voxels, 99.8)))
    voxels = (np.clip(phantom.voxels, 0, top).astype(np.float32) * (255.0 / top)).round().astype(np.uint8)
    prediction = bundle.predict(voxels.astype(np.float32), phantom.affine)
    np.savez_compressed(
        path,
        voxels=voxels,
        affine=phantom.affine,
        mask=np.packbits(prediction.mask),
        stage_probabilities=np.asarray(prediction.stage_probabilities),
        truth=np.packbits(phantom.mask),
    )


def card(manifest: Manifest) -> str:
    """The model card that travels with the weights (MODEL_CARD.md holds the long form)."""
    lines = [f"# {manifest.name} {manifest.version}", "", f"**{manifest.statement}**", ""]
    lines += [
        "Trained and measured on computer-drawn heads only; no figure below predicts clinical performance.",
        f"Draws: {', '.join(manifest.structures)}. Stages: {', '.join(manifest.stage_classes)}"
        f" ({manifest.staging_edition}).",
        f"Window: {manifest.grid.shape} voxels of {manifest.grid.spacing_mm} mm (z, y, x), at the height of the tumour"
        " the first look finds, centred in-plane on the body.",
        f"Threshold {manifest.threshold}, stage temperature {manifest.temperature:.3f},"
        f" mirror averaging {'on' if manifest.flip_average else 'off'}.",
        "",
        _staging_verdict(manifest.metrics),
        "",
        "## Measured on unseen phantoms",
        "",
    ]
    lines += [f"- {name}: {_plain(value)}" for name, value in sorted(manifest.metrics.items())]
    lines += _reliability_table(manifest.metrics.get("reliability", []))
    lines += ["", "## Inputs covered by training", ""]
    lines += [f"- {name}: {x.low:g} to {x.high:g} {x.unit}" for name, x in sorted(manifest.input_limits.items())]
    return "\n".join(lines) + "\n"


def _reliability_table(table: list[list[float]]) -> list[str]:
    """How often the most likely stage was right, by how sure the bundle said it was."""
    if not table:
        return []
    head = ["", "## How sure, how right", "", "| phantoms | said | right |", "| --- | --- | --- |"]
    return [*head, *(f"| {n} | {said:.2f} | {right:.2f} |" for n, said, right in table)]


def _staging_verdict(metrics: Mapping[str, Any]) -> str:
    """One plain sentence about the stage, so that nobody reads it out of a table wrongly."""
    auc = metrics.get("auc_early_advanced")
    if auc is None:
        return "**Staging has not been measured.**"
    if auc < USEFUL_AUC:
        return f"**Staging is no better than chance (T1-2 against T3-4: AUC {auc:.2f}). Do not read the stage.**"
    return f"Staging tells T1-2 from T3-4 with an AUC of {auc:.2f} on phantoms."


def _plain(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else json.dumps(value, sort_keys=True)


# --- commands ---------------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    """``make`` from a training run, ``verify`` and ``show`` a folder."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except BundleError as error:
        print(f"bundle error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model.bundle", description=__doc__)
    verbs = parser.add_subparsers(required=True)
    make = verbs.add_parser("make", help="make a bundle folder from a training checkpoint and an evaluation")
    make.add_argument("checkpoint", type=Path, help="runs/NAME/best.safetensors, with best.json beside it")
    make.add_argument("--out", type=Path, default=default_bundle())
    make.add_argument("--name", default="npc-phantom-plus")
    make.add_argument("--version", default="0.2.0")
    make.add_argument("--metrics", type=Path, help="JSON written by python -m model.evaluate")
    make.add_argument("--no-flip", action="store_true", help="do not average over the mirror image")
    make.set_defaults(run=_make)
    for name, run, text in (("verify", _verify, "check hashes, golden case"), ("show", _show, "print the manifest")):
        verb = verbs.add_parser(name, help=text)
        verb.add_argument("folder", type=Path, nargs="?", default=default_bundle())
        verb.set_defaults(run=run)
    return parser


def _make(options: argparse.Namespace) -> int:
    facts = json.loads(options.checkpoint.with_suffix(".json").read_text(encoding="utf-8"))
    measured = json.loads(options.metrics.read_text(encoding="utf-8")) if options.metrics else {}
    grid = facts["grid"]
    temperature = float(measured.pop("temperature", 1.0))
    offset = tuple(measured.pop("stage_offset", expected_offset(labels.PAPER_STAGE_COUNTS)))
    recipe = Recipe(
        name=options.name,
        version=options.version,
        network=NetworkConfig.from_dict(facts["network"]),
        grid=GridSpec(tuple(grid["shape"]), tuple(grid["spacing_mm"]), grid["oversample"]),
        temperature=temperature,
        metrics={**facts.get("training", {}), **measured},
        centre_offset_mm=tuple(facts["centre_offset_mm"]),
        flip_average=not options.no_flip,
        stage_offset=offset,
    )
    bundle = make_bundle(options.out, load_file(options.checkpoint), recipe)
    print(f"{options.out}: {bundle.manifest.name} {bundle.manifest.version}, sha256 {bundle.sha256}")
    return 0


def _verify(options: argparse.Namespace) -> int:
    result = Bundle.open(options.folder).verify()
    print(result.message)
    return 0 if result.agrees else 1


def _show(options: argparse.Namespace) -> int:
    manifest = read_manifest(options.folder)
    print(manifest.to_json(), end="")
    print(f"sha256 {hashlib.sha256((options.folder / FILE).read_bytes()).hexdigest()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
