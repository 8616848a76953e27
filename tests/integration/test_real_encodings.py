"""What scanners write, rewritten by DCMTK in the other VR encoding, is the same image (adapters/dicom/sameness)."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from npc_rtnode.adapters.dicom.sameness import differences
from tests.builders.headers import real_folder

OTHER = {ExplicitVRLittleEndian: "+ti", ImplicitVRLittleEndian: "+te"}
"""What dcmconv is told for each syntax."""
MR_FOLDERS = (
    "mr_canon_galan_dti_1vol",
    "mr_enhanced_siemens_xa30_t1",
    "mr_ge_premier_3plane_localizer",
    "mr_ge_signa_pd_axial_head",
    "mr_hitachi_echelon_jp_charset",
    "mr_philips_achieva_epi_2vol",
    "mr_siemens_ce_t1_hn_vsseg",
    "mr_siemens_mosaic_epi",
    "mr_study_nema_enhanced_tumour",
    "mr_t1_axial_head_datalad",
    "mr_uih_t1_sag_slab",
    "rt_sts001_mr_t2fs",
)


def native_files(folder: Path) -> Iterator[tuple[Path, str]]:
    """Files that lie there in one of the two encodings, with what turns them into the other."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            syntax = dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID
        except (InvalidDicomError, AttributeError):
            continue
        if syntax in OTHER:
            yield path, OTHER[syntax]


@pytest.mark.peer("dcmconv")
@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # values that break their VR, in the real files
@pytest.mark.parametrize("name", MR_FOLDERS)
def test_a_real_image_in_the_other_vr_encoding_is_the_same(
    name: str, tmp_path: Path, peer: Callable[[str], str]
) -> None:
    """Private elements, odd texts, padding and sequences of every maker make no difference; one letter does."""
    path, option = next(native_files(real_folder(name)))
    rewritten = tmp_path / "rewritten.dcm"
    subprocess.run([peer("dcmconv"), option, str(path), str(rewritten)], check=True, capture_output=True)
    data = rewritten.read_bytes()
    assert differences(path.read_bytes(), data) == ()
    uid = str(dcmread(path, specific_tags=["SeriesInstanceUID"]).SeriesInstanceUID).encode()
    changed = data.replace(uid, uid[:-1] + (b"1" if uid.endswith(b"2") else b"2"))
    assert "SeriesInstanceUID" in differences(path.read_bytes(), changed)
