"""Faults planted in the node's own chain, at the places where one could happen, and what stops them.

A chain is the node's steps on one series: files, reader, network, stored answer, objects, gates. A fault replaces what
passes at one place; all else is the real thing. Each fault says how a second implementation would see that it is one.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom import dcmread
from scipy import ndimage

from bench import beside
from model.bundle import Bundle
from model.phantom import Phantom, make_case, small_profile, write_dicom_series
from npc_rtnode.adapters.dicom.objects import DicomObjects
from npc_rtnode.adapters.dicom.series import DicomSeriesReader
from npc_rtnode.adapters.predictions import PredictionFolder
from npc_rtnode.adapters.predictor import BundlePredictor, predict_here
from npc_rtnode.domain.gates import RELEASABLE, GateResult, Outcome, before_sending, before_writing, warnings_of
from npc_rtnode.domain.geometry import Stack, Volume, stack_of
from npc_rtnode.domain.identifiers import digest_of
from npc_rtnode.domain.prediction import Answer, BundleStatement, Prediction
from npc_rtnode.domain.records import ObjectKind, WrittenObject
from npc_rtnode.domain.report import ObjectPlan
from npc_rtnode.errors import NodeError
from npc_rtnode.settings import ContentSettings, InferSettings

READER: Final = DicomSeriesReader()
OBJECTS: Final = DicomObjects()
CONTENT: Final = ContentSettings()
WHEN: Final = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

Mask = NDArray[np.bool_]
Objects = tuple[WrittenObject, ...]


def same(value: Any) -> Any:
    """No fault here."""
    return value


@dataclass(frozen=True)
class Run:
    """What came of one series: gates, or the refusal before there were any; objects where some were written."""

    gates: tuple[GateResult, ...] = ()
    refusal: str = ""
    objects: Objects = ()
    prediction: Prediction | None = None

    @property
    def stopped_by(self) -> tuple[str, ...]:
        """Codes of what holds."""
        held = dict.fromkeys(gate.name for gate in self.gates if gate.outcome is Outcome.HOLD)
        return (self.refusal,) if self.refusal else tuple(held)

    @property
    def rtstruct(self) -> bytes | None:
        """The structure set's bytes."""
        return next((item.encoded for item in self.objects if item.kind is ObjectKind.RTSTRUCT), None)


@dataclass(frozen=True)
class Chain:
    """The node's steps; each field but the first two is a place to plant a fault."""

    bundle: Bundle
    store: PredictionFolder
    volume: Callable[[Volume], Volume] = same  # between the reader and the network
    answer: Callable[[Prediction], Prediction] = same  # between the network and the writers
    stack: Callable[[Stack], Stack] = same  # the stack that the writers are given
    objects: Callable[[Objects], Objects] = same  # between the writers and the second reader

    def run(self, files: Sequence[Path]) -> Run:
        """From files to the gates' answers; a typed refusal on the way is an answer too."""
        try:
            return self.judge(files, self.predict(files))
        except NodeError as error:
            found = re.search(r"\b[A-Z][A-Z0-9]+(?:_[A-Z0-9]+)+\b|\bGAP\b|\bSHEAR\b", error.detail)
            return Run(refusal=f"{error.code}{f' ({found.group()})' if found else ''}")

    def predict(self, files: Sequence[Path]) -> Prediction:
        """What the store gives back after the network has spoken."""
        said = predict_here(self.bundle, self.volume(READER.volume(files)))
        self.store.save("gate-table", Answer(said, statement(self.bundle)))
        answer = self.store.load("gate-table")
        if answer is None:
            raise RuntimeError("the prediction store gave nothing back")
        return answer.prediction

    def judge(self, files: Sequence[Path], said: Prediction) -> Run:
        """The write stage: objects of an answer, read back and judged."""
        prediction = self.answer(said)
        true_stack, sources = stack_and_sources(files)
        stack = self.stack(true_stack)
        before = before_writing(stack, prediction.mask, prediction)
        if any(gate.outcome is Outcome.HOLD and gate.name not in RELEASABLE for gate in before):
            return Run(before, prediction=prediction)
        plan = plan_of(self.bundle, files, warnings_of(before_sending(stack, prediction, CONTENT.uncertain_below)))
        objects = self.objects(OBJECTS.write(stack, sources, prediction, plan))
        return Run(OBJECTS.judge(stack, sources, prediction, plan, objects), objects=objects, prediction=prediction)


def stack_and_sources(files: Sequence[Path]) -> tuple[Stack, tuple[Path, ...]]:
    """As the write stage makes them: the stack of the headers, and the files in its order."""
    headers = {header.sop_uid: (path, header) for path in files for header in READER.headers([path])}
    stack = stack_of([header for _, header in headers.values()])
    return stack, tuple(headers[header.sop_uid][0] for header in stack.slices)


def statement(bundle: Bundle) -> BundleStatement:
    """Of a bundle opened here."""
    m = bundle.manifest
    return BundleStatement(m.name, m.version, bundle.sha256, m.data, m.statement, m.staging_edition, m.threshold)


def plan_of(bundle: Bundle, files: Sequence[Path], findings: Any) -> ObjectPlan:
    """A plan that depends on the series and nothing else."""
    return ObjectPlan(
        work_key=digest_of([str(files[0].name), bundle.sha256]),
        created_at=WHEN,
        content=CONTENT,
        utc_offset="+0000",
        site="gate table",
        bundle=statement(bundle),
        software_version="npc_rtnode",
        indication="phantom",
        findings=findings,
        phantom=True,
        result_revision=1,
    )


# --- the workshop -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Workshop:
    """Two phantoms of one scanner on disk, and the answers to them without fault."""

    folder: Path
    bundle: Bundle
    seed: int = 0

    @cached_property
    def phantom(self) -> Phantom:
        """The one that faults are planted in."""
        return make_case(f"gate-table-{self.seed}", 0, stage="T3", profile=small_profile())

    @cached_property
    def other(self) -> Phantom:
        """Another patient on the same scanner."""
        return make_case(f"gate-table-{self.seed}", 1, stage="T3", profile=small_profile())

    @cached_property
    def files(self) -> list[Path]:
        """Of the phantom."""
        return write_dicom_series(self.phantom, self.folder / "phantom")

    @cached_property
    def other_files(self) -> list[Path]:
        """Of the other."""
        return write_dicom_series(self.other, self.folder / "other")

    @cached_property
    def chain(self) -> Chain:
        """Without fault."""
        return Chain(self.bundle, PredictionFolder(self.folder / "store"))

    @cached_property
    def clean(self) -> Run:
        """The phantom through the chain without fault."""
        return self.chain.run(self.files)

    @cached_property
    def other_clean(self) -> Run:
        """The other through the chain without fault."""
        return self.chain.run(self.other_files)

    @cached_property
    def image(self) -> sitk.Image:
        """The phantom's series as SimpleITK stacks it."""
        return beside.image_of(self.folder / "phantom")

    @cached_property
    def truth(self) -> Mask:
        """The phantom's tumour on SimpleITK's grid, from the generator's own affine."""
        return beside.placed(self.phantom.mask, self.phantom.affine, self.image)

    @property
    def said(self) -> Prediction:
        """The clean answer."""
        if self.clean.prediction is None:
            raise RuntimeError(f"the clean phantom was refused: {self.clean.stopped_by}")
        return self.clean.prediction

    def stores(self, **faults: Any) -> Run:
        """The clean answer through the write stage with a fault there."""
        return replace(self.chain, **faults).judge(self.files, self.said)

    def sees(self, **faults: Any) -> Run:
        """The whole chain with a fault in it."""
        return replace(self.chain, **faults).run(self.files)


@dataclass(frozen=True)
class Fault:
    """One planted fault: where, what, and how it is made; `confirm` is the second opinion where no Dice can be had."""

    where: str
    what: str
    plant: Callable[[Workshop], Run]
    confirm: Callable[[Workshop, Run], str] | None = None


# --- between the reader and the network ---------------------------------------------------------------------------


def voxels(change: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> Callable[[Workshop], Run]:
    """The network is given other voxels on the right stack."""
    return lambda shop: shop.sees(volume=lambda v: replace(v, voxels=np.ascontiguousarray(change(v.voxels))))


def left_out(v: NDArray[np.float32]) -> NDArray[np.float32]:
    """A slice in the middle lost, those above moved down, the last doubled."""
    middle = len(v) // 2
    return np.concatenate([v[:middle], v[middle + 1 :], v[-1:]])


def of_the_other(shop: Workshop) -> Run:
    """The pixels of another patient."""
    other = READER.volume(shop.other_files).voxels
    return shop.sees(volume=lambda v: replace(v, voxels=other))


def grid(change: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Callable[[Workshop], Run]:
    """The reader places the whole stack wrongly: network and writers are given the same wrong grid and headers."""

    def plant(shop: Workshop) -> Run:
        return shop.sees(volume=lambda v: replace(v, stack=moved(v.stack, change)), stack=lambda s: moved(s, change))

    return plant


def moved(stack: Stack, change: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Stack:
    """A stack on another affine, its slices' headers with it."""
    affine = change(stack.grid.affine.copy())
    slices = []
    for k, header in enumerate(stack.slices):
        x, y, z = (float(c) for c in (affine @ (k, 0, 0, 1))[:3])
        down, right = (float(np.linalg.norm(affine[:3, axis])) for axis in (1, 2))
        cosines = (*affine[:3, 2] / right, *affine[:3, 1] / down)
        slices.append(replace(header, position=(x, y, z), spacing_mm=(down, right), orientation=cosines))
    return replace(stack, grid=replace(stack.grid, affine=affine), slices=tuple(slices))


def shifted(x_mm: float = 0.0, slices: float = 0.0) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """The affine moved to the left, and along the slices."""

    def change(affine: NDArray[np.float64]) -> NDArray[np.float64]:
        affine[:3, 3] += np.array([x_mm, 0, 0]) + slices * affine[:3, 0]
        return affine

    return change


def upside_down(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Slices placed from the other end."""
    slices = 20
    affine[:3, 3] += (slices - 1) * affine[:3, 0]
    affine[:3, 0] *= -1
    return affine


def swapped_spacing(shop: Workshop) -> Run:
    """Pixels twice as wide as they are high, and the reader takes one spacing for the other."""
    p = shop.phantom
    wide = replace(
        p,
        voxels=p.voxels[:, :, ::2],
        mask=p.mask[:, :, ::2],
        spacing_mm=(*p.spacing_mm[:2], 2 * p.spacing_mm[2]),
        affine=p.affine @ np.diag([1, 1, 2, 1]),
    )
    files = write_dicom_series(wide, shop.folder / "wide", series_number=5)

    def change(affine: NDArray[np.float64]) -> NDArray[np.float64]:
        rows, columns = (float(np.linalg.norm(affine[:3, axis])) for axis in (1, 2))
        affine[:3, 1] *= columns / rows
        affine[:3, 2] *= rows / columns
        return affine

    wrong = replace(
        shop.chain,
        volume=lambda v: replace(v, stack=moved(v.stack, change)),
        stack=lambda s: moved(s, change),
    )
    return wrong.run(files)


# --- in the network -----------------------------------------------------------------------------------------------


@dataclass
class Faulty:
    """An engine whose maps go through a fault; stages are the real ones."""

    real: Any
    fault: Callable[[NDArray[np.float32], int], NDArray[np.float32]]
    name: str = "torch"
    calls: int = field(default=0)

    def glance(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """The map alone."""
        return self.fault(self.real.glance(values), self.calls)

    def forward(self, values: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Map and stage logits."""
        self.calls += 1
        probability, logits = self.real.forward(values)
        return self.fault(probability, self.calls), logits


def network(fault: Callable[[NDArray[np.float32], int], NDArray[np.float32]]) -> Callable[[Workshop], Run]:
    """The same bundle on an engine with that fault."""

    def plant(shop: Workshop) -> Run:
        real = shop.bundle
        return shop.sees(bundle=Bundle(real.folder, real.manifest, Faulty(real.engine, fault), real.sha256))

    return plant


def nothing(p: NDArray[np.float32], _: int) -> NDArray[np.float32]:
    """No voxel."""
    return np.zeros_like(p)


def speck(p: NDArray[np.float32], _: int) -> NDArray[np.float32]:
    """One voxel of the window, 0.02 cc."""
    out = np.zeros_like(p)
    out[tuple(n // 2 for n in p.shape)] = 1.0
    return out


def everything(p: NDArray[np.float32], _: int) -> NDArray[np.float32]:
    """The whole window."""
    return np.full_like(p, 0.99)


def scattered(p: NDArray[np.float32], _: int) -> NDArray[np.float32]:
    """Eight balls in the corners of the window, of one cubic centimetre or more each."""
    out = np.zeros_like(p)
    for z in (3, -6):
        for y in (4, -10):
            for x in (4, -10):
                out[z : z + 3 or None, y : y + 6, x : x + 6] = 0.97
    return out


def unsure(p: NDArray[np.float32], _: int) -> NDArray[np.float32]:
    """A map that is hardly above its threshold wherever it is, and hardly below around."""
    near = ndimage.binary_dilation(p >= 0.5, iterations=4)
    return np.where(p >= 0.5, 0.52, np.where(near, 0.45, 0.0)).astype(np.float32)


def unsteady(p: NDArray[np.float32], call: int) -> NDArray[np.float32]:
    """Each look finds the tumour somewhere else."""
    return np.asarray(np.roll(p, 7 * call, axis=1))


def mirrored(p: NDArray[np.float32], _: int) -> NDArray[np.float32]:
    """The map of every look mirrored."""
    return np.ascontiguousarray(p[:, :, ::-1])


def off_by_one(p: NDArray[np.float32], _: int) -> NDArray[np.float32]:
    """The map of every look one voxel (1.9 mm) off."""
    return np.asarray(np.roll(p, 1, axis=2))


def proven(fault: Callable[[NDArray[np.float32], int], NDArray[np.float32]]) -> Callable[[Workshop], Run]:
    """What only the golden case can see, which is run at every start."""

    def plant(shop: Workshop) -> Run:
        real = shop.bundle
        proof = Bundle(real.folder, real.manifest, Faulty(real.engine, fault), real.sha256).verify()
        return Run() if proof.agrees else Run(refusal="BUNDLE_FAULT (golden case)")

    return plant


def damaged_weights(shop: Workshop) -> Run:
    """One byte of the weights changed: the child's own door refuses the bundle."""
    copy = Path(shutil.copytree(shop.bundle.folder, shop.folder / "damaged", dirs_exist_ok=True))
    weights = bytearray((copy / "weights.safetensors").read_bytes())
    weights[len(weights) // 2] ^= 0xFF
    (copy / "weights.safetensors").write_bytes(weights)
    predictor = BundlePredictor(InferSettings(bundle=copy))
    try:
        predictor.prove()
    except NodeError as error:
        return Run(refusal=f"{error.code} (SHA-256)")
    finally:
        predictor.close()
    return Run()


# --- between the network and the writers --------------------------------------------------------------------------


def outline(change: Callable[[Mask], Mask]) -> Callable[[Workshop], Run]:
    """The outline changes and its map does not."""
    return lambda shop: shop.stores(answer=lambda p: replace(p, mask=np.ascontiguousarray(change(p.mask))))


def both(change: Callable[[Any], Any]) -> Callable[[Workshop], Run]:
    """Outline and map change together, as a wrong way back to the native order would do."""

    def turn(p: Prediction) -> Prediction:
        turned = (np.ascontiguousarray(change(array)) for array in (p.mask, p.probability))
        mask, probability = turned
        return replace(p, mask=mask, probability=probability)

    return lambda shop: shop.stores(answer=turn)


def slice_lost(mask: Mask) -> Mask:
    """The slice where the outline is largest left out."""
    out = mask.copy()
    out[int(np.argmax(np.count_nonzero(mask, axis=(1, 2))))] = False
    return out


def answer_of_the_other(shop: Workshop) -> Run:
    """Another patient's answer under this job's key."""
    said = shop.other_clean.prediction
    return shop.stores(answer=lambda _: said)


# --- in the written bytes -----------------------------------------------------------------------------------------


def written(kind: ObjectKind, change: Callable[[Any], None]) -> Callable[[Workshop], Run]:
    """One object's bytes altered after it was written."""

    def alter(objects: Objects) -> Objects:
        return tuple(altered(item, change) if item.kind is kind else item for item in objects)

    return lambda shop: shop.stores(objects=alter)


def altered(item: WrittenObject, change: Callable[[Any], None]) -> WrittenObject:
    """The object's bytes with one thing changed in them."""
    ds = dcmread(BytesIO(item.encoded))
    change(ds)
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return replace(item, encoded=buffer.getvalue())


def contours(ds: Any) -> Any:
    """The contour items."""
    return ds.ROIContourSequence[0].ContourSequence


def points(change: Callable[[Any, Any], Any]) -> Callable[[Any], None]:
    """Every contour's points through a function of the points and the middle of them all."""

    def alter(ds: Any) -> None:
        rings = [np.array(item.ContourData, dtype=float).reshape(-1, 3) for item in contours(ds)]
        middle = np.concatenate(rings).mean(axis=0)
        for item, ring in zip(contours(ds), rings, strict=True):
            item.ContourData = [f"{value:.3f}" for value in np.ravel(change(ring, middle))]

    return alter


def turned_over(ring: Any, middle: Any) -> Any:
    """Left and right exchanged about the middle of the outline."""
    return ring * [-1, 1, 1] + 2 * middle * [1, 0, 0]


def next_slice(ds: Any) -> None:
    """Every contour on the image above, its points moved there: in every way consistent, and wrong."""
    series = ds.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    order = [str(item.ReferencedSOPInstanceUID) for item in series.ContourImageSequence]
    points(lambda ring, _: np.add(ring, [0, 0, small_profile().spacing_mm]))(ds)
    for item in contours(ds):
        image = item.ContourImageSequence[0]
        image.ReferencedSOPInstanceUID = order[order.index(str(image.ReferencedSOPInstanceUID)) + 1]


def first_dropped(ds: Any) -> None:
    """One contour less."""
    del contours(ds)[0]


def other_image(ds: Any) -> None:
    """A contour on an image that is not of this series."""
    contours(ds)[0].ContourImageSequence[0].ReferencedSOPInstanceUID = "2.25.1"


def other_series(ds: Any) -> None:
    """The right images said to be of another series."""
    frame = ds.ReferencedFrameOfReferenceSequence[0]
    frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0].SeriesInstanceUID = "2.25.1"


def other_frame(ds: Any) -> None:
    """The region in another frame of reference than the images."""
    ds.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = "2.25.1"


def other_patient(ds: Any) -> None:
    """Another patient's identity."""
    ds.PatientID = "SOMEBODY-ELSE"


def other_alphabet(ds: Any) -> None:
    """The same bytes declared as another character set."""
    ds.SpecificCharacterSet = "GB18030"


def other_stage(ds: Any) -> None:
    """The report's largest probability given to another stage."""
    items = [i for i in every_item(ds) if i.ValueType == "NUM" and i.ConceptNameCodeSequence[0].CodeValue == "122157"]
    values = [item.MeasuredValueSequence[0].NumericValue for item in items]
    for item, value in zip(items, values[1:] + values[:1], strict=True):
        item.MeasuredValueSequence[0].NumericValue = value


def other_volume(ds: Any) -> None:
    """The report measures something else than the structure set."""
    named = (item for item in every_item(ds) if item.ValueType == "NUM")
    volume = next(item for item in named if item.ConceptNameCodeSequence[0].CodeValue == "118565006")
    volume.MeasuredValueSequence[0].NumericValue = "1.5"


def silent(ds: Any) -> None:
    """The structure set without what its gates warned of."""
    ds.StructureSetDescription = str(ds.StructureSetDescription).split("WARNINGS")[0]


def every_item(ds: Any) -> list[Any]:
    """Every content item of a report."""
    below = list(ds.get("ContentSequence", []))
    return [*below, *(item for child in below for item in every_item(child))]


def objects_of_the_other(shop: Workshop) -> Run:
    """Another patient's finished objects in place of these."""
    return shop.stores(objects=lambda _: shop.other_clean.objects)


# --- in the files -------------------------------------------------------------------------------------------------


def slice_missing(shop: Workshop) -> Run:
    """One file of the series did not come."""
    return shop.chain.run([path for k, path in enumerate(shop.files) if k != 9])


def slice_of_the_other(shop: Workshop) -> Run:
    """One file is another patient's slice of the same place."""
    return shop.chain.run([shop.other_files[k] if k == 9 else path for k, path in enumerate(shop.files)])


def two_series(shop: Workshop) -> Run:
    """A second series of the study came under the first one's name."""
    second = write_dicom_series(shop.phantom, shop.folder / "second", series_number=9)
    return shop.chain.run([*shop.files[:10], *second[10:]])


def altered_files(shop: Workshop, name: str, change: Callable[[Any, int], None]) -> list[Path]:
    """A copy of the series with something changed in every file."""
    folder = shop.folder / name
    folder.mkdir(exist_ok=True)
    for k, path in enumerate(shop.files):
        ds = dcmread(path)
        change(ds, k)
        ds.save_as(folder / path.name)
    return sorted(folder.iterdir())


def half_the_spacing(shop: Workshop) -> Run:
    """The files themselves state half the pixel spacing: a head as small as a fist."""

    def change(ds: Any, _: int) -> None:
        ds.PixelSpacing = [float(mm) / 2 for mm in ds.PixelSpacing]

    return shop.chain.run(altered_files(shop, "halved", change))


def inverted(shop: Workshop) -> Run:
    """Grey values turned over, as of another weighting or a photometric interpretation misread upstream."""

    def change(ds: Any, _: int) -> None:
        top = int(shop.phantom.voxels.max())
        ds.PixelData = (top - ds.pixel_array.astype(int)).clip(0).astype("<u2").tobytes()

    return shop.chain.run(altered_files(shop, "inverted", change))


def noise(shop: Workshop) -> Run:
    """Nothing but noise: a coil that failed."""
    rng = np.random.default_rng(5)

    def change(ds: Any, _: int) -> None:
        ds.PixelData = rng.rayleigh(200, (ds.Rows, ds.Columns)).astype("<u2").tobytes()

    return shop.chain.run(altered_files(shop, "noise", change))


# --- material that the bundle is not for --------------------------------------------------------------------------


def real_series(name: str) -> Callable[[Workshop], Run]:
    """A series of the test data."""
    return lambda shop: shop.chain.run([p for p in sorted((shared() / name).rglob("*")) if is_image(p)])


def is_image(path: Path) -> bool:
    """A DICOM image, not a structure set or text beside it."""
    if not path.is_file():
        return False
    try:
        return "Rows" in dcmread(path, stop_before_pixels=True)
    except Exception:  # noqa: BLE001 - whatever it is, it is no image
        return False


def shared() -> Path:
    """The folder of real DICOM."""
    import os

    return Path(os.environ["NPC_RTNODE_TEST_DATA"])


def real_head(shop: Workshop) -> Run:
    """A whole real head without tumour (T1, no contrast) on a usual grid of 5 mm slices, as an MR series."""
    head = sitk.ReadImage(str(shared() / "background" / "datalad_t1_axial_full.nii.gz"), sitk.sitkFloat32)
    centre = np.array(head.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in head.GetSize()]))
    size, spacing = (448, 448, 36), (0.5, 0.5, 5.0)
    usual = sitk.Image(size, sitk.sitkFloat32)
    usual.SetSpacing(spacing)
    usual.SetOrigin([float(c - (n - 1) / 2 * mm) for c, n, mm in zip(centre, size, spacing, strict=True)])
    grey = sitk.GetArrayFromImage(sitk.Resample(head, usual, sitk.Transform(), sitk.sitkLinear, 0.0))
    grey = np.clip(grey / max(1.0, float(np.percentile(grey, 99.9))) * 1500, 0, 4000).astype(np.int16)
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = 5.0, 0.5, 0.5, 1.0
    affine[:3, 3] = usual.GetOrigin()
    made = replace(
        shop.phantom, cohort="real-head", voxels=grey, mask=np.zeros(grey.shape, bool), affine=affine,
        spacing_mm=(5.0, 0.5, 0.5),
    )  # fmt: skip
    return shop.chain.run(write_dicom_series(made, shop.folder / "real"))


# --- the list -----------------------------------------------------------------------------------------------------


SLAB: Final = "mr_t1_axial_head_datalad"
LOCALIZER: Final = "mr_ge_premier_3plane_localizer"


def differs(keyword: str) -> Callable[[Workshop, Run], str]:
    """pydicom reads another value in the structure set than in the images."""

    def confirm(shop: Workshop, run: Run) -> str:
        found, wanted = dcmread(BytesIO(run.rtstruct or b"")).get(keyword), dcmread(shop.files[0]).get(keyword)
        return f"{keyword} differs" if found != wanted else "SAME"

    return confirm


def changed(kind: ObjectKind) -> Callable[[Workshop, Run], str]:
    """The object's bytes are not the clean ones."""

    def confirm(shop: Workshop, run: Run) -> str:
        clean = {item.kind: item.encoded for item in shop.clean.objects}
        return "bytes differ" if {i.kind: i.encoded for i in run.objects}.get(kind) != clean[kind] else "SAME"

    return confirm


def told(text: str) -> Callable[[Workshop, Run], str]:
    """What anyone sees without geometry."""
    return lambda _shop, _run: text


def faults(files_there: bool) -> list[Fault]:
    """Every fault; those that need the real files only where these are."""
    reader, net, after = "reader > network", "network", "network > writers"
    rtstruct, sr = ObjectKind.RTSTRUCT, ObjectKind.SR
    bytes_of, files = "written bytes", "files"
    found = [
        Fault(reader, "left and right exchanged in the voxels", voxels(lambda v: v[:, :, ::-1])),
        Fault(reader, "slices in reverse order", voxels(lambda v: v[::-1])),
        Fault(reader, "voxels one slice off", voxels(lambda v: np.roll(v, 1, axis=0))),
        Fault(reader, "rows and columns exchanged", voxels(lambda v: v.transpose(0, 2, 1))),
        Fault(reader, "a slice left out, the rest moved up", voxels(left_out)),
        Fault(reader, "voxels half a pixel off", voxels(lambda v: ndimage.shift(v, (0, 0, 0.5), order=1))),
        Fault(reader, "pixels of another patient", of_the_other),
        Fault("affine", "half a pixel to the left", grid(shifted(x_mm=0.46))),
        Fault("affine", "one slice up", grid(shifted(slices=1))),
        Fault("affine", "half a slice up", grid(shifted(slices=0.5))),
        Fault("affine", "slices counted from the other end", grid(upside_down)),
        Fault("affine", "row and column spacing exchanged", swapped_spacing, told("pixels are 1 : 2")),
        Fault(net, "empty map", network(nothing), told("nothing outlined")),
        Fault(net, "a speck", network(speck), told("one voxel")),
        Fault(net, "the whole head", network(everything)),
        Fault(net, "eight far parts", network(scattered)),
        Fault(net, "a map hardly above its threshold", network(unsure), told("p 0.52 inside, 0.45 around")),
        Fault(net, "every look finds it elsewhere", network(unsteady)),
        Fault(net, "every map mirrored", proven(mirrored), told("mirrored")),
        Fault(net, "every map one voxel off", proven(off_by_one), told("1.9 mm")),
        Fault(net, "one byte of the weights", damaged_weights, told("SHA-256")),
        Fault(after, "outline mirrored, map not", outline(lambda m: m[:, :, ::-1])),
        Fault(after, "outline one slice off, map not", outline(lambda m: np.roll(m, 1, axis=0))),
        Fault(after, "outline one pixel off, map not", outline(lambda m: np.roll(m, 1, axis=2))),
        Fault(after, "a slice of the outline left out", outline(slice_lost)),
        Fault(after, "outline of the whole volume", outline(np.ones_like)),
        Fault(after, "outline transposed", outline(lambda m: m.transpose(0, 2, 1))),
        Fault(after, "outline and map mirrored", both(lambda a: a[:, :, ::-1])),
        Fault(after, "outline and map upside down", both(lambda a: a[::-1])),
        Fault(after, "outline and map one slice off", both(lambda a: np.roll(a, 1, axis=0))),
        Fault(after, "outline and map one pixel off", both(lambda a: np.roll(a, 1, axis=2))),
        Fault(after, "another patient's answer", answer_of_the_other),
        Fault(bytes_of, "contours half a pixel off", written(rtstruct, points(lambda r, _: np.add(r, [0.46, 0, 0])))),
        Fault(bytes_of, "contours mirrored", written(rtstruct, points(turned_over))),
        Fault(bytes_of, "contours and references one slice up", written(rtstruct, next_slice)),
        Fault(bytes_of, "a contour dropped", written(rtstruct, first_dropped)),
        Fault(bytes_of, "a contour on a strange image", written(rtstruct, other_image), changed(rtstruct)),
        Fault(bytes_of, "another series referenced", written(rtstruct, other_series), changed(rtstruct)),
        Fault(bytes_of, "another frame of reference", written(rtstruct, other_frame), changed(rtstruct)),
        Fault(bytes_of, "another patient's ID", written(rtstruct, other_patient), differs("PatientID")),
        Fault(bytes_of, "another character set", written(rtstruct, other_alphabet), differs("SpecificCharacterSet")),
        Fault(bytes_of, "another patient's ID in the report", written(sr, other_patient), changed(sr)),
        Fault(bytes_of, "probabilities exchanged in the report", written(sr, other_stage), changed(sr)),
        Fault(bytes_of, "another volume in the report", written(sr, other_volume), changed(sr)),
        Fault(bytes_of, "another patient's objects", objects_of_the_other),
        Fault(files, "a slice missing", slice_missing, told("19 of 20 files")),
        Fault(files, "a slice of another patient", slice_of_the_other, told("two PatientIDs")),
        Fault(files, "two series mixed", two_series, told("two SeriesInstanceUIDs")),
        Fault(files, "half the pixel spacing stated", half_the_spacing, told("head of half the width")),
        Fault("material", "grey values turned over", inverted, told("not T1")),
        Fault("material", "nothing but noise", noise, told("no anatomy")),
    ]  # fmt: skip
    real = [
        Fault("material", "real head without tumour, 5 mm slices", real_head, told("no tumour")),
        Fault("material", "real head without tumour, thin slab", real_series(SLAB), told("no tumour")),
        Fault("material", "real thigh, T2 with fat saturation", real_series("rt_sts001_mr_t2fs"), told("no head")),
        Fault("material", "real head, proton density", real_series("mr_ge_signa_pd_axial_head"), told("not T1")),
        Fault("material", "real localizer in three planes", real_series(LOCALIZER), told("no stack")),
        Fault("material", "real CT", real_series("rt_rtutils_mim_phantom_ct"), told("not MR")),
    ]  # fmt: skip
    return found + (real if files_there else [])


REAL_FAULTS: Final = 6
SMALLEST: Final[Mapping[str, tuple[float, ...]]] = {
    "contours in-plane, mm": (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.46, 0.6, 0.92),
    "contours along the normal, mm": (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1),
    "grid in-plane, mm": (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.46),
    "grid along the normal, slices": (0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5),
    "voxels in-plane, pixels": (0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    "outline and map in-plane, pixels": (1.0, 2.0),
}


def shift(kind: str, size: float) -> Callable[[Workshop], Run]:
    """The shift of that kind and size as a fault."""
    return {
        "contours in-plane, mm": written(ObjectKind.RTSTRUCT, points(lambda r, _: np.add(r, [size, 0, 0]))),
        "contours along the normal, mm": written(ObjectKind.RTSTRUCT, points(lambda r, _: np.add(r, [0, 0, size]))),
        "grid in-plane, mm": lambda shop: shop.stores(stack=lambda s: moved(s, shifted(x_mm=size))),
        "grid along the normal, slices": lambda shop: shop.stores(stack=lambda s: moved(s, shifted(slices=size))),
        "voxels in-plane, pixels": lambda shop: shop.stores(answer=lambda p: seen_off(shop, p, size)),
        "outline and map in-plane, pixels": both(lambda a: np.roll(a, int(size), axis=2)),
    }[kind]


def seen_off(shop: Workshop, p: Prediction, pixels: float) -> Prediction:
    """The answer as if the network had seen every pixel so far to the left."""
    return replace(p, sight=p.sight + pixels * shop.phantom.affine[:3, 2])
