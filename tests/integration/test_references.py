"""The images that real and damaged structure sets reference."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage

from npc_rtnode.adapters.dicom.references import referenced_images
from npc_rtnode.errors import Unreadable
from tests.builders.headers import real_folder


def structure_set(path: Path, **sequences: list[Dataset]) -> Path:
    """A structure set of these sequences and nothing else."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = RTStructureSetStorage, "2.25.1"
    for keyword, items in sequences.items():
        setattr(ds, keyword, items)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = RTStructureSetStorage, "2.25.1"
    ds.save_as(path, enforce_file_format=True)
    return path


def image(uid: str) -> Dataset:
    """An item that references one image."""
    item = Dataset()
    item.ReferencedSOPInstanceUID = uid
    return item


def nested(items: list[Dataset], *keywords: str) -> list[Dataset]:
    """The items below one-item sequences of these names, the innermost first."""
    for keyword in keywords:
        outer = Dataset()
        setattr(outer, keyword, items)
        items = [outer]
    return items


@pytest.mark.parametrize(
    ("file", "count"),
    [
        ("rt_sts001_mr_t2fs/rtstruct/1-1.dcm", 40),
        ("rt_ibsi_sts002_philips_t1/rtstruct/RS.dcm", 35),
        ("rt_rtutils_mim_phantom_ct/invalid_reference_rt.dcm", 5),
        ("rt_rtutils_mim_phantom_ct/non_existent_reference_rt.dcm", 3),  # its list is empty, its contours name three
        ("rt_rtutils_mim_phantom_ct/rt.dcm", 2),
        ("rt_dicompyler_breast/rtss.dcm", 98),
    ],
)
def test_real_structure_sets_name_as_many_images_as_is_known(file: str, count: int) -> None:
    """MIM's, rt-utils' and the planning systems' files, by the counts of their description."""
    assert len(referenced_images(real_folder(file.split("/")[0]) / file.split("/", 1)[1])) == count


def test_the_forty_are_the_forty() -> None:
    """The UIDs are those of the images that lie beside the structure set."""
    folder = real_folder("rt_sts001_mr_t2fs")
    images = {dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID for path in (folder / "images").iterdir()}
    assert set(referenced_images(folder / "rtstruct" / "1-1.dcm")) == images


def test_an_image_that_only_a_contour_names_counts_too_and_each_once(tmp_path: Path) -> None:
    """Some writers leave the list of images out; what both places name is one image."""
    listed = nested(
        [image("2.25.7"), image("2.25.8")],
        "ContourImageSequence",
        "RTReferencedSeriesSequence",
        "RTReferencedStudySequence",
    )
    drawn = nested([image("2.25.8"), image("2.25.9")], "ContourImageSequence", "ContourSequence")
    path = structure_set(tmp_path / "rs.dcm", ReferencedFrameOfReferenceSequence=listed, ROIContourSequence=drawn)
    assert referenced_images(path) == ("2.25.7", "2.25.8", "2.25.9")


def test_what_names_no_image_gives_none(tmp_path: Path) -> None:
    """Empty sequences, items without a UID and a structure set without either are no error."""
    assert referenced_images(structure_set(tmp_path / "bare.dcm")) == ()
    empty = nested([Dataset()], "ContourImageSequence", "ContourSequence")
    path = structure_set(tmp_path / "rs.dcm", ReferencedFrameOfReferenceSequence=[], ROIContourSequence=empty)
    assert referenced_images(path) == ()


def test_what_is_no_dicom_file_is_unreadable(tmp_path: Path) -> None:
    """A typed refusal that names the digest."""
    path = tmp_path / "rs.dcm"
    path.write_bytes(b"not DICOM at all")
    with pytest.raises(Unreadable, match="instance with digest"):
        referenced_images(path)
