"""Every geometry a clinic may send: a landmark drawn where it is in the patient, or a refusal with its number.

The whole way: files → reader → a predictor that takes what is bright → RTSTRUCT and SR and their gates → two readers
of the structure set. `pytest -s` prints a line for each case.
"""

from __future__ import annotations

import gzip
import random
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from npc_rtnode.adapters.dicom.objects import DicomObjects
from npc_rtnode.adapters.dicom.series import DicomSeriesReader
from npc_rtnode.adapters.dicom.verify import structure_facts
from npc_rtnode.domain.gates import Outcome
from npc_rtnode.domain.geometry import judge_stack
from npc_rtnode.domain.rasterising import PlacedRing, rasterise
from npc_rtnode.domain.records import WrittenObject
from npc_rtnode.errors import GeometryRefused, InputFault
from tests.builders.headers import real_files
from tests.builders.landmarks import Scan
from tests.builders.mr_series import make_series
from tests.builders.outputs import plan_of, prediction_of, seen

READER, OBJECTS = DicomSeriesReader(), DicomObjects()
AWAY_MM = 0.05
"""A centroid may be this far from the truth; a voxel is 0.5 to 7 mm."""

GE_STEPS = (0.0, 0.02, -0.04, 0.05, 0.01, -0.05, 0.0, 0.03, -0.02, 0.04)  # off the even grid, as GE writes 6.96 to 7.07

RIGHT = {
    "head first supine": Scan(),
    "head first prone": Scan("prone", position="HFP"),
    "head first, on the left side": Scan("decubitus_left", position="HFDL"),
    "head first, on the right side": Scan("decubitus_right", position="HFDR"),
    "feet first supine": Scan("feet_first", position="FFS", descending=True),
    "feet first prone": Scan("feet_first_prone", position="FFP", descending=True),
    "sagittal acquired": Scan("sagittal"),
    "coronal acquired": Scan("coronal"),
    "oblique": Scan("oblique"),
    "double oblique": Scan("double_oblique"),
    "non-square pixels and matrix": Scan(spacing_mm=(0.75, 0.5), rows=40, columns=64, step_mm=4.0),
    "double oblique, non-square": Scan("double_oblique", (0.5, 0.9), 2.5, 64, 48),
    "sagittal, non-square": Scan("sagittal", (0.6, 0.9), 2.0, 60, 44),
    "on the left side, non-square": Scan("decubitus_left", (0.6, 0.9), 2.0, 60, 44, position="HFDL"),
    "thin slices": Scan(step_mm=0.6, radii_mm=(3.0, 2.5)),
    "jitter as GE writes it": Scan(step_mm=6.97, jitter_mm=GE_STEPS * 2),
}


def tell(case: str, outcome: str, number: str) -> None:
    """One line of the table."""
    print(f"\n{case:<44} {outcome:<26} {number}", end="")


# --- right ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drawn:
    """What the node made of one scan."""

    scan: Scan
    images: Path
    rtstruct: WrittenObject


@pytest.fixture(scope="module")
def draw(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Drawn]:
    """The structure set of a case, written and passed by every gate; made once a module."""
    made: dict[str, Drawn] = {}

    def drawn(case: str) -> Drawn:
        if case not in made:
            made[case] = through_the_node(RIGHT[case], tmp_path_factory.mktemp("scan"))
        return made[case]

    return drawn


def through_the_node(scan: Scan, folder: Path) -> Drawn:
    """Files in any order, volume, what is bright, objects, gates."""
    files = scan.write(folder / "mr")
    random.Random(7).shuffle(files)
    volume = READER.volume(files)
    path_of = {header.sop_uid: path for header, path in zip(READER.headers(files), files, strict=True)}
    sources = [path_of[header.sop_uid] for header in volume.stack.slices]
    bright = volume.voxels > 500
    prediction, plan = prediction_of(bright, **seen(volume, bright)), plan_of()
    objects = OBJECTS.write(volume.stack, sources, prediction, plan)
    gates = OBJECTS.judge(volume.stack, sources, prediction, plan, objects)
    held = {gate.name: gate.message for gate in gates if gate.outcome is Outcome.HOLD}
    assert held == {}
    return Drawn(scan, folder / "mr", objects[0])


def away_mm(places: NDArray[np.float64], scan: Scan) -> float:
    """How far the centroids of what lies near either ball are from the truth, the worse of the two."""
    first, second = scan.centres_mm
    nearer = np.linalg.norm(places - first, axis=1) < np.linalg.norm(places - second, axis=1)
    found = [places[nearer].mean(axis=0), places[~nearer].mean(axis=0)]
    return float(max(np.linalg.norm(np.array(found) - scan.centres_mm, axis=1)))


def seen_by_us(drawn: Drawn) -> NDArray[np.float64]:
    """LPS of every pixel inside our own rasteriser's rings, each placed by pydicom from the image that a ring names."""
    images = {ds.SOPInstanceUID: ds for ds in map(dcmread, drawn.images.iterdir())}
    stack = READER.volume(sorted(drawn.images.iterdir())).stack
    index = {header.reference: k for k, header in enumerate(stack.slices)}
    rings = [PlacedRing(index[c.referenced[0]], c.points_mm) for c in structure_facts(drawn.rtstruct).contours]
    mask = rasterise(rings, stack).mask
    named = [images[header.sop_uid] for header in stack.slices]
    return np.array([pixel_centre(named[k], row, column) for k, row, column in np.argwhere(mask)])


def cosines(ds: Dataset) -> NDArray[np.float64]:
    """Row direction and column direction."""
    return np.array(ds.ImageOrientationPatient, float).reshape(2, 3)


def pixel_centre(ds: Dataset, row: int, column: int) -> NDArray[np.float64]:
    """PS3.3 equation C.7.6.2.1-1, from the image alone."""
    along_row, along_column = cosines(ds)
    down, right = ds.PixelSpacing
    return np.array(ds.ImagePositionPatient, float) + along_row * right * column + along_column * down * row


def read_nrrd(file: Path) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Voxels `[x, y, z]` and the affine from index to LPS mm of plastimatch's NRRD."""
    head, body = file.read_bytes().split(b"\n\n", 1)
    fields = dict(line.split(": ", 1) for line in head.decode().splitlines() if ": " in line and line[0] != "#")
    sizes = [int(n) for n in fields["sizes"].split()]
    voxels = np.frombuffer(gzip.decompress(body), dtype=np.uint8).reshape(sizes, order="F")
    affine = np.eye(4)
    for axis, direction in enumerate(fields["space directions"].split()):
        affine[:3, axis] = [float(v) for v in direction.strip("()").split(",")]
    affine[:3, 3] = [float(v) for v in fields["space origin"].strip("()").split(",")]
    return voxels, affine


def seen_by_plastimatch(plastimatch: str, drawn: Drawn, out: Path) -> NDArray[np.float64]:
    """LPS of every voxel of plastimatch's own mask on plastimatch's own grid."""
    (out / "rs.dcm").write_bytes(drawn.rtstruct.encoded)
    command = [plastimatch, "convert", "--input", out / "rs.dcm", "--referenced-ct", drawn.images]
    command += ["--output-prefix", out / "masks", "--prefix-format", "nrrd"]
    subprocess.run(command, check=True, capture_output=True)
    voxels, affine = read_nrrd(next((out / "masks").glob("*.nrrd")))
    indices = np.argwhere(voxels > 0)
    return np.asarray((affine @ np.column_stack([indices, np.ones(len(indices))]).T)[:3].T)


@pytest.mark.parametrize("case", RIGHT)
def test_the_landmark_is_drawn_where_it_is(draw: Callable[[str], Drawn], case: str) -> None:
    """Both balls' centroids, from the written bytes by our own rasteriser, within 0.05 mm of their places in LPS."""
    drawn = draw(case)
    away = away_mm(seen_by_us(drawn), drawn.scan)
    tell(case, "right, our rasteriser", f"{away:.3f} mm off")
    assert away < AWAY_MM


@pytest.mark.peer("plastimatch")
@pytest.mark.parametrize("case", RIGHT)
def test_plastimatch_sees_the_landmark_there(
    draw: Callable[[str], Drawn], peer: Callable[[str], str], tmp_path: Path, case: str
) -> None:
    """Another maker's reader, with its own idea of the images' geometry, puts both centroids within 0.05 mm."""
    drawn = draw(case)
    away = away_mm(seen_by_plastimatch(peer("plastimatch"), drawn, tmp_path), drawn.scan)
    tell(case, "right, plastimatch", f"{away:.3f} mm off")
    assert away < AWAY_MM


# --- refused ----------------------------------------------------------------------------------------------------------


def two_series(folder: Path, one: dict[str, Any], other: dict[str, Any]) -> list[Path]:
    """Instances of two builders' series as if they came as one."""
    return [*make_series(folder / "a", **one), *make_series(folder / "b", **{"seed": "other", **other})]


def altered(text: bytes, folder: Path) -> list[Path]:
    """A series whose PixelSpacing is another text of at most 12 characters."""
    files = make_series(folder, spacing_mm=(0.875, 0.8125))
    for path in files:
        path.write_bytes(path.read_bytes().replace(b"0.875\\0.8125", text.ljust(12)))
    return files


def shifted(index: int, along_mm: float) -> tuple[float, ...]:
    """The jitter of one slice of twenty."""
    return tuple(along_mm if k == index else 0.0 for k in range(20))


def each(count: int, index: int, **changes: Any) -> list[dict[str, Any]]:
    """Nothing changed but on one slice."""
    return [changes if k == index else {} for k in range(count)]


EPI = {"orientation": "oblique", "slices": 10}
CREEP = tuple(0.09 * min(k, 10) for k in range(20))

REFUSED: dict[str, tuple[Callable[[Path], list[Path]], str, float | None, float | None]] = {
    "gap after the first slice": (lambda d: make_series(d, gap_at=1), "GAP", 6.0, 4.5),
    "gap in the middle, one slice": (lambda d: make_series(d, gap_at=9), "GAP", 6.0, 4.5),
    "gap in the middle, three slices": (lambda d: make_series(d, gap_at=(8, 9, 10)), "GAP", 12.0, 4.5),
    "several gaps": (lambda d: make_series(d, gap_at=(3, 9, 15)), "GAP", 6.0, 4.5),
    "gap before the last slice": (lambda d: make_series(d, gap_at=18), "GAP", 6.0, 4.5),
    "every second slice of the second half": (lambda d: make_series(d, gap_at=(11, 13, 15, 17)), "GAP", 6.0, 4.5),
    "one slice 0.3 mm off": (lambda d: make_series(d, jitter_mm=shifted(9, 0.3)), "UNEVEN_SPACING", 0.3, 0.1),
    "steps that creep, each within tolerance": (
        lambda d: make_series(d, jitter_mm=CREEP),
        "UNEVEN_SPACING",
        0.9 * 9 / 19,
        0.309,
    ),
    "one slice twice, under another UID": (
        lambda d: two_series(d, {}, {"slices": 1}),
        "DUPLICATE_POSITION",
        1,
        0,
    ),
    "two time points": (lambda d: two_series(d, EPI, EPI), "DUPLICATE_POSITION", 10, 0),
    "two echoes, interleaved": (
        lambda d: sorted(two_series(d, {}, {"attributes": {"EchoTime": "60"}}), key=lambda path: path.name),
        "DUPLICATE_POSITION",
        20,
        0,
    ),
    "localizer in three planes": (
        lambda d: [
            path
            for plane in ("axial", "sagittal", "coronal")
            for path in make_series(d / plane, slices=4, orientation=plane, seed=plane)
        ],
        "MIXED_ORIENTATION",
        1.0,
        0.001,
    ),
    "one slice turned by 180 degrees": (
        lambda d: make_series(d, slice_attributes=each(20, 9, ImageOrientationPatient=[-1, 0, 0, 0, -1, 0])),
        "MIXED_ORIENTATION",
        2.0,
        0.001,
    ),
    "tilted gantry, 14 degrees": (lambda d: make_series(d, shear_mm=0.75), "SHEARED", 14.25, 0.2),
    "tilted by a hair, 0.2 degrees": (lambda d: make_series(d, shear_mm=0.0112), "SHEARED", 0.2128, 0.2),
    "cosines not orthogonal": (
        lambda d: make_series(d, attributes={"ImageOrientationPatient": [1, 0, 0, 0.1, 0.994987, 0]}),
        "NOT_ORTHONORMAL",
        0.1,
        0.001,
    ),
    "single slice": (lambda d: make_series(d, slices=1), "TOO_FEW_SLICES", 1, 8),
    "seven slices": (lambda d: make_series(d, slices=7), "TOO_FEW_SLICES", 7, 8),
    "one slice of another pixel spacing": (
        lambda d: make_series(d, slice_attributes=each(20, 9, PixelSpacing=[0.95, 0.9375])),
        "MIXED_SPACING",
        0.95 / 0.9375 - 1,
        1e-4,
    ),
    "one slice of another matrix": (
        lambda d: two_series(d, {"gap_at": 9}, {"rows": 40, "gap_at": [k for k in range(20) if k != 9]}),
        "MIXED_MATRIX",
        2,
        1,
    ),
    "pixel spacing negative": (lambda d: altered(b"-0.9\\0.9", d), "NO_SPACING", 20, 0),
    "pixel spacing zero": (lambda d: altered(b"0\\0.9", d), "NO_SPACING", 20, 0),
    "pixel spacing NaN": (lambda d: altered(b"nan\\0.9", d), "NO_SPACING", 20, 0),
    "pixel spacing one number": (lambda d: altered(b"0.9", d), "NO_SPACING", 20, 0),
    "one slice without position": (
        lambda d: make_series(d, slice_attributes=each(20, 9, ImagePositionPatient=None)),
        "NO_POSITION",
        1,
        0,
    ),
    "one slice of another frame of reference": (
        lambda d: make_series(d, slice_attributes=each(20, 9, FrameOfReferenceUID="2.25.99")),
        "MIXED_FRAME_OF_REFERENCE",
        2,
        1,
    ),
    "all slices at one place": (
        lambda d: make_series(d, slices=10, step_mm=0.0),
        "DUPLICATE_POSITION",
        9,
        0,
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_the_number_that_decided_it(tmp_path: Path, case: str) -> None:
    """Each bad stack comes to its one finding, value and limit; the reader decodes nothing of it."""
    make, code, value, limit = REFUSED[case]
    files = make(tmp_path)
    (finding,) = [f for f in judge_stack(READER.headers(files)).findings if f.code == code]
    tell(case, code, f"{finding.value:.4g} (limit {finding.limit:.4g})")
    assert finding.value == pytest.approx(value, rel=1e-3)
    assert finding.limit == pytest.approx(limit, rel=1e-3)
    with pytest.raises(GeometryRefused, match=f"{code}: "):
        READER.volume(files)


# --- real scanners ----------------------------------------------------------------------------------------------------

REAL_ACCEPTED = {  # folder: the smallest and the largest step between slices, mm
    "mr_t1_axial_head_datalad": (0.667, 0.667),
    "mr_ge_signa_pd_axial_head": (6.96, 7.07),
    "mr_canon_galan_dti_1vol": (3.0, 3.0),
    "rt_sts001_mr_t2fs/images": (5.2, 5.2),
    "rt_ibsi_sts002_philips_t1/images": (3.27, 3.27),
}

REAL_REFUSED = {  # folder: all its findings in order, and the number of the one that it was collected for
    "mr_philips_achieva_epi_2vol": ("DUPLICATE_POSITION", 35),
    "mr_ge_premier_3plane_localizer": ("COUNT_SHORT MIXED_ORIENTATION", 1.0),
    "mr_hitachi_echelon_jp_charset": ("NO_FRAME_OF_REFERENCE TOO_FEW_SLICES", 4),
    "mr_siemens_ce_t1_hn_vsseg": ("TOO_FEW_SLICES", 3),
    "mr_siemens_mosaic_epi": ("DUPLICATE_POSITION TOO_FEW_SLICES", 2),
    "mr_uih_dti_vframe_mosaic": ("TOO_FEW_SLICES NO_POSITION", 2),
    "mr_uih_t1_sag_slab": ("TOO_FEW_SLICES", 4),
    "ts_siemens_j2k_fragmented": ("TOO_FEW_SLICES", 6),
    "ts_same_image_9_syntaxes": ("DUPLICATE_POSITION", 8),
    "nasty_dicom2nifti_failing/gantrytilting": ("TOO_FEW_SLICES NO_FRAME_OF_REFERENCE SHEARED", 1.2096),
    "nasty_dicom2nifti_failing/sliceorientation": (
        "TOO_FEW_SLICES NO_FRAME_OF_REFERENCE MIXED_SPACING MIXED_ORIENTATION",
        1.2364,
    ),
    "nasty_dicom2nifti_failing/slicecount": ("NO_FRAME_OF_REFERENCE TOO_FEW_SLICES", 2),
}


@pytest.mark.parametrize("folder", REAL_ACCEPTED)
def test_real_series_is_right(folder: str) -> None:
    """Voxels are pydicom's pixels, lying where their headers say but for GE's 0.09 mm of noise; steps are as known."""
    files = real_files(folder)
    volume = READER.volume(files)
    read = {ds.SOPInstanceUID: ds for ds in map(dcmread, files)}
    ordered = [read[header.sop_uid] for header in volume.stack.slices]
    corner = tuple(n - 1 for n in volume.voxels.shape)
    placed = [float(np.cross(*cosines(ds)) @ np.array(ds.ImagePositionPatient, float)) for ds in ordered]
    low, high = min(np.diff(placed)), max(np.diff(placed))
    away = np.linalg.norm((volume.stack.grid.affine @ [*corner, 1])[:3] - pixel_centre(ordered[-1], *corner[1:]))
    tell(folder, "accepted", f"steps {low:.3f} to {high:.3f} mm, far corner {away:.4f} mm off its header")
    assert (low, high) == pytest.approx(REAL_ACCEPTED[folder], abs=0.006)
    assert away < 0.1
    for k in (0, len(ordered) // 2, -1):
        measured = ordered[k].pixel_array != ordered[k].get("PixelPaddingValue")
        np.testing.assert_array_equal(volume.voxels[k][measured], ordered[k].pixel_array[measured])


@pytest.mark.parametrize("folder", REAL_REFUSED)
def test_real_series_is_refused(folder: str) -> None:
    """Each is refused for all that is wrong with it, and the number is the one that it was collected for."""
    codes, value = REAL_REFUSED[folder]
    files = real_files(folder)
    judgement = judge_stack(READER.headers(files))
    tell(folder, codes.split()[-1], "; ".join(f"{f.code} {f.value:.4g} ({f.limit:.4g})" for f in judgement.findings))
    assert set(judgement.codes) == set(codes.split())
    (decisive,) = [finding for finding in judgement.findings if finding.code == codes.split()[-1]]
    assert decisive.value == pytest.approx(value, rel=1e-3)
    with pytest.raises(GeometryRefused, match=codes.split()[-1]):
        READER.volume(files)


def test_nasty_files_are_refused_by_code() -> None:
    """Broken, truncated, deflated, no image at all: one by one through the reader, each a fault of the input."""
    for path in real_files("nasty_pydicom"):
        with pytest.raises(InputFault) as fault:
            READER.volume([path])
        tell(path.name, fault.value.code, str(fault.value)[:90])
        assert fault.value.code in {"UNREADABLE", "GEOMETRY_REFUSED"}
