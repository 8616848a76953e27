"""A hospital's folder becomes training cases, and what is wrong in it is named before anything is trained."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from rt_utils import RTStructBuilder

from model import cohort
from model.bundle import dice_of
from model.cohort import CohortError, Entry
from model.data import Source, grid_of, prepare
from model.network import PRESETS
from model.phantom import make_case, small_profile, write_dicom_series
from model.phantom.structure import write_structure_set


@pytest.fixture(scope="module")
def patient(tmp_path_factory, small_phantom) -> Path:
    """A patient's folder: the series, another series, a note, and the structure set of the first."""
    folder = tmp_path_factory.mktemp("patient")
    phantom = small_phantom(0)
    files = write_dicom_series(phantom, folder / "t1c")
    write_dicom_series(phantom, folder / "t1", series_number=3, contrast=False)
    write_structure_set(phantom, files, folder / "rs.dcm")
    (folder / "note.txt").write_text("seen")
    return folder


@pytest.fixture
def copied(patient, tmp_path) -> Path:
    """The same folder, to be spoiled."""
    return Path(shutil.copytree(patient, tmp_path / "patient"))


def entry(folder: Path, **changes: object) -> Entry:
    """A row of the table."""
    return replace(Entry("p1", folder, None, "T3"), **changes)


def test_truth_survives_dicom(patient, small_phantom):
    """Series and structure set read back give the phantom's voxels, its place in space and, to .99, its mask."""
    subject = cohort.load(entry(patient))
    phantom = small_phantom(0)
    assert np.array_equal(subject.voxels, phantom.voxels)
    assert np.allclose(subject.affine, phantom.affine, atol=1e-3)
    assert dice_of(subject.mask, phantom.mask) > 0.99
    assert subject.volume_cc == pytest.approx(phantom.volume_cc, rel=0.01)


def test_another_maker_reads_the_same_structure(patient, small_phantom):
    """rt-utils, which knows nothing of us, draws the same tumour from the structure set."""
    read = RTStructBuilder.create_from(str(patient / "t1c"), str(patient / "rs.dcm")).get_roi_mask_by_name("GTVp")
    assert dice_of(read.transpose(2, 0, 1), small_phantom(0).mask) > 0.9


def test_a_ring_keeps_its_hole():
    """Two contours of one slice, one in the other, are a ring."""
    square = np.array([[2.0, 2, 0], [12, 2, 0], [12, 12, 0], [2, 12, 0]])
    hole = np.array([[5.0, 5, 0], [9, 5, 0], [9, 9, 0], [5, 9, 0]])
    half = np.array((0.5, 0.5, 0.0))
    affine = np.eye(4)[[2, 1, 0, 3]]
    ring = cohort.rasterise([square + half, hole + half], (1, 16, 16), affine)
    assert (ring.sum(), bool(ring[0, 7, 7]), bool(ring[0, 4, 4])) == (100 - 16, False, True)


def test_nifti_pairs_are_read(tmp_path, small_phantom):
    """Image and mask files on one grid are read as they lie; on two grids they are refused."""
    phantom = small_phantom(0)
    columns = phantom.affine[:3, [2, 1, 0]]
    for name, array in (("image.nii.gz", phantom.voxels), ("mask.nrrd", phantom.mask.astype(np.uint8))):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(np.linalg.norm(columns, axis=0).tolist())
        image.SetOrigin(phantom.affine[:3, 3].tolist())
        sitk.WriteImage(image, str(tmp_path / name))
    row = Entry("p2", tmp_path / "image.nii.gz", tmp_path / "mask.nrrd", "T2")
    subject = cohort.load(row)
    assert np.array_equal(subject.mask, phantom.mask)
    assert np.allclose(subject.affine, phantom.affine, atol=1e-3)
    image.SetOrigin((0.0, 0.0, 50.0))
    sitk.WriteImage(image, str(tmp_path / "mask.nrrd"))
    with pytest.raises(CohortError, match="not on one grid"):
        cohort.load(row)


def test_a_patient_becomes_a_case_like_its_phantom(patient, small_phantom):
    """Through DICOM or not, the same head gives the same training case, but for what only a phantom knows."""
    grid = grid_of(PRESETS["tiny"])
    real = prepare(Source.of_subject(cohort.load(entry(patient))), grid, jitter_mm=0.0)
    known = prepare(Source.of_phantom(small_phantom(0)), grid, jitter_mm=0.0)
    assert np.abs(real.image.astype(float) - known.image.astype(float)).mean() < 0.02
    assert (real.mask >= 128).sum() == pytest.approx((known.mask >= 128).sum(), rel=0.03)
    assert (real.told, known.told) == (False, True)
    assert not real.levels.any()


def gap(folder: Path) -> None:
    sorted((folder / "t1c").iterdir())[7].unlink()


def no_structures(folder: Path) -> None:
    (folder / "rs.dcm").unlink()


def two_structures(folder: Path) -> None:
    ds = pydicom.dcmread(folder / "rs.dcm")
    ds.SOPInstanceUID += ".1"
    ds.save_as(folder / "rs2.dcm")


def only_nodes(folder: Path) -> None:
    ds = pydicom.dcmread(folder / "rs.dcm")
    ds.StructureSetROISequence[0].ROIName = "GTVn"
    ds.save_as(folder / "rs.dcm")


def another_patient(folder: Path) -> None:
    ds = pydicom.dcmread(folder / "rs.dcm")
    for contour in ds.ROIContourSequence[0].ContourSequence:
        contour.ContourData = [str(float(v) + 2.9 * (k % 3 == 2)) for k, v in enumerate(contour.ContourData)]
    ds.save_as(folder / "rs.dcm")


def unnamed_series(folder: Path) -> None:
    ds = pydicom.dcmread(folder / "rs.dcm")
    del ds.ReferencedFrameOfReferenceSequence
    ds.save_as(folder / "rs.dcm")


def empty_folder(folder: Path) -> None:
    shutil.rmtree(folder / "t1c")
    shutil.rmtree(folder / "t1")


SPOILED = {
    gap: "a slice is missing",
    no_structures: "0 structure sets",
    two_structures: "2 structure sets",
    only_nodes: "0 of 1 ROI names",
    another_patient: "drawn on another series",
    unnamed_series: "2 MR series, 0 of them named",
    empty_folder: "0 MR series",
}


@pytest.mark.parametrize("spoil", SPOILED, ids=lambda spoil: spoil.__name__)
def test_what_is_wrong_is_named(copied, spoil):
    """Every fault of a folder ends in a sentence that says what was found."""
    spoil(copied)
    with pytest.raises(CohortError, match=SPOILED[spoil]):
        cohort.load(entry(copied))


def test_the_report_comes_before_training(copied, tmp_path):
    """One good patient, one with a gap, one that is not there: the report counts and explains, nothing is raised."""
    broken = Path(shutil.copytree(copied, tmp_path / "broken"))
    gap(broken)
    table = tmp_path / "table.csv"
    table.write_text("patient,image,contours,stage,fold\na,patient,,T3,0\nb,broken,,cT2,1\nc,nowhere,,T4,2\n")
    usable, report = cohort.survey(cohort.read_table(table))
    assert [e.patient for e in usable] == ["a"]
    assert set(report.refused) == {"b", "c"}
    assert "usable 1 (T1 0, T2 0, T3 1, T4 0), refused 2" in report.text()
    assert "REFUSED b: slice distances run from" in report.text()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("patient,image,stage\na,b,T1\n", "lacks the columns contours"),
        ("patient,image,contours,stage\na,b,,T7\n", "none of T1, T2, T3, T4"),
        ("patient,image,contours,stage\na,b,,T1\na,c,,T2\n", "names a more than once"),
        ("patient,image,contours,stage\n", "has no rows"),
    ],
)
def test_a_bad_table_is_refused(tmp_path, text, says):
    """Columns, stages and names are checked as soon as the table is read."""
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(CohortError, match=says):
        cohort.read_table(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("name", "fits"),
    [("GTVp", True), ("GTVp^AI", True), ("GTV_nx", True), ("gtv", True), ("GTVn", False), ("GTVn_L", False),
     ("CTVp", False), ("PGTV", False), ("GTV-T", True)],
)  # fmt: skip
def test_usual_names_of_the_tumour_fit(name, fits):
    """The pattern that is used when none is given takes the primary and leaves nodes and targets."""
    assert bool(cohort.re.search(cohort.GTV_NAMES, name)) is fits


def test_a_phantom_is_a_valid_structure_set(patient, small_phantom):
    """Every contour is closed, planar, on the slice it names, and the set says that it is synthetic."""
    ds = pydicom.dcmread(patient / "rs.dcm")
    contours = ds.ROIContourSequence[0].ContourSequence
    assert "synthetic" in ds.StructureSetDescription
    assert {c.ContourGeometricType for c in contours} == {"CLOSED_PLANAR"}
    assert all(len({float(v) for v in c.ContourData[2::3]}) == 1 for c in contours)
    assert len(contours) >= int(small_phantom(0).mask.any(axis=(1, 2)).sum())
    assert make_case("test", 0, profile=small_profile()).stage == small_phantom(0).stage
