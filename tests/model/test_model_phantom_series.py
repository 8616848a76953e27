"""A written phantom is a clean, marked, coherent MR series."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest

from model.phantom import write_dicom_series


def dciodvfy() -> str:
    """The validator beside the running Python, or on the path."""
    found = shutil.which("dciodvfy", path=str(Path(sys.executable).parent)) or shutil.which("dciodvfy")
    if found is None:
        pytest.skip("dicom3tools is not installed")
    return found


def errors(path: Path) -> list[str]:
    run = subprocess.run([dciodvfy(), str(path)], capture_output=True, text=True, check=False)
    return [line for line in (run.stdout + run.stderr).splitlines() if line.startswith("Error")]


@pytest.mark.parametrize("contrast", [True, False])
def test_validator_finds_no_error(small_phantom, tmp_path, contrast):
    """dciodvfy has no complaint about the first and the last instance."""
    paths = write_dicom_series(small_phantom(0), tmp_path, contrast=contrast)
    assert errors(paths[0]) == errors(paths[-1]) == []


def test_series_reads_back_as_the_phantom(small_phantom, tmp_path):
    """Pixels, positions, orientation and spacing give back voxels and affine."""
    phantom = small_phantom(0)
    read = [pydicom.dcmread(path) for path in write_dicom_series(phantom, tmp_path)]
    assert np.array_equal(np.stack([ds.pixel_array for ds in read]), phantom.voxels)
    for index in (0, len(read) - 1):
        position = (phantom.affine @ (index, 0, 0, 1))[:3]
        assert [float(v) for v in read[index].ImagePositionPatient] == pytest.approx(position, abs=1e-6)
    assert [float(v) for v in read[0].ImageOrientationPatient] == [1, 0, 0, 0, 1, 0]
    assert [float(v) for v in read[0].PixelSpacing] == pytest.approx(phantom.spacing_mm[1:])
    assert len({ds.SOPInstanceUID for ds in read}) == len(read)


def test_series_says_that_it_is_a_phantom(small_phantom, tmp_path):
    """Quality-control flags, comment and contrast agent are there; without contrast the agent is not."""
    phantom = small_phantom(0)
    ds = pydicom.dcmread(write_dicom_series(phantom, tmp_path / "a")[0])
    assert (ds.QualityControlSubject, ds.QualityControlImage) == ("YES", "YES")
    assert "not for clinical use" in ds.PatientComments
    assert ds.ContrastBolusAgent
    assert "nasopharynx" in ds.StudyDescription.lower()
    plain = pydicom.dcmread(write_dicom_series(phantom, tmp_path / "b", contrast=False, series_number=2)[0])
    assert "ContrastBolusAgent" not in plain


def test_series_of_one_study_share_study_and_frame(small_phantom, tmp_path):
    """Another series number is another series in the same study and frame of reference; the same one the same UIDs."""
    phantom = small_phantom(0)
    one, two, again = (
        pydicom.dcmread(write_dicom_series(phantom, tmp_path / name, series_number=number)[0])
        for name, number in (("a", 3), ("b", 4), ("c", 3))
    )
    assert one.StudyInstanceUID == two.StudyInstanceUID
    assert one.FrameOfReferenceUID == two.FrameOfReferenceUID
    assert one.SeriesInstanceUID != two.SeriesInstanceUID
    assert one.SOPInstanceUID == again.SOPInstanceUID != two.SOPInstanceUID
    assert one.SeriesInstanceUID.startswith("2.25.")


def test_names_beyond_ascii_survive(small_phantom, tmp_path):
    """Patient and institution keep their letters under the stated character set, and stay valid."""
    path = write_dicom_series(small_phantom(0), tmp_path, patient_name="李^四", institution="Hôpital")[0]
    assert str(pydicom.dcmread(path).PatientName) == "李^四"
    assert errors(path) == []
