"""Who reads a structure set: the node's own rasteriser, plastimatch, dcmrtstruct2nii. And plain rt-utils, as a writer.

The readers share no code: ours fills scanlines over least-squares planes in this process, plastimatch is C++,
dcmrtstruct2nii is scikit-image's polygon over ITK's geometry. Each answers with a mask on the stack's own voxels.
"""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from numpy.typing import NDArray

from npc_rtnode.adapters.dicom.verify import structure_facts
from npc_rtnode.domain.geometry import Stack
from npc_rtnode.domain.rasterising import PlacedRing, Raster, rasterise
from npc_rtnode.domain.records import ObjectKind, WrittenObject

Mask = NDArray[np.bool_]

DCMRTSTRUCT2NII = """
import sys, pydicom
pydicom.read_file = pydicom.dcmread  # gone in pydicom 3; dcmrtstruct2nii 5 still says it
from dcmrtstruct2nii import dcmrtstruct2nii
images, *files = sys.argv[1:]
for rtstruct, out in zip(files[::2], files[1::2]):
    dcmrtstruct2nii(rtstruct, images, out, gzip=False, convert_original_dicom=False)
"""


def own_raster(written: WrittenObject, stack: Stack) -> Raster:
    """What the node's own rasteriser makes of the bytes."""
    index = {header.reference: k for k, header in enumerate(stack.slices)}
    facts = structure_facts(written)
    return rasterise([PlacedRing(index[c.referenced[0]], c.points_mm) for c in facts.contours], stack)


def plastimatch_mask(plastimatch: str, rtstruct: Path, images: Path, out: Path, stack: Stack) -> Mask:
    """What plastimatch makes of a file with one ROI; `out` is a folder that it makes."""
    command = [plastimatch, "convert", "--input", rtstruct, "--referenced-ct", images]
    command += ["--output-prefix", out, "--prefix-format", "nrrd"]
    subprocess.run(command, check=True, capture_output=True)
    return _on_the_stack(_only_file(out, "*.nrrd"), stack)


def dcmrtstruct2nii_masks(rtstructs: Sequence[Path], images: Path, out: Path, stack: Stack) -> list[Mask]:
    """What dcmrtstruct2nii makes of files with one ROI each, all of the same images; one process for all of them."""
    folders = [out / str(number) for number in range(len(rtstructs))]
    files = [str(path) for pair in zip(rtstructs, folders, strict=True) for path in pair]
    command = [sys.executable, "-c", DCMRTSTRUCT2NII, str(images), *files]
    subprocess.run(command, check=True, capture_output=True)
    return [_on_the_stack(_only_file(folder, "*.nii"), stack) for folder in folders]


def _only_file(folder: Path, pattern: str) -> Path:
    (file,) = folder.glob(pattern)
    return file


def _on_the_stack(file: Path, stack: Stack) -> Mask:
    """A reader's image at the stack's voxel centres; a centre outside that image is not covered."""
    image = sitk.ReadImage(str(file))
    voxels = sitk.GetArrayViewFromImage(image)
    steps = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    indices = np.indices(stack.grid.shape).reshape(3, -1)
    centres = stack.grid.affine[:3, :3] @ indices + stack.grid.affine[:3, 3:]
    i, j, k = np.rint(np.linalg.solve(steps, centres - np.array(image.GetOrigin())[:, None])).astype(int)
    within = np.all([(n >= 0) & (n < size) for n, size in zip((i, j, k), image.GetSize(), strict=True)], axis=0)
    seen = np.zeros(indices.shape[1], dtype=bool)
    seen[within] = voxels[k[within], j[within], i[within]] > 0
    return np.asarray(seen.reshape(stack.grid.shape))


def plain_rt_utils(files: Sequence[Path], mask: Mask) -> WrittenObject:
    """The object rt-utils makes by itself; only what our reader wants and it lacks is added (ROIVolume, a frame)."""
    from rt_utils import ds_helper
    from rt_utils.rtstruct import RTStruct

    headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
    buffer = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        structure = RTStruct(headers, ds_helper.create_rtstruct_dataset(headers))
        structure.add_roi(mask=np.moveaxis(mask, 0, -1), name="GTVp")
        ds = structure.ds
        ds.FrameOfReferenceUID = headers[0].FrameOfReferenceUID
        ds.StructureSetROISequence[0].ROIVolume = "1"
        ds.save_as(buffer, enforce_file_format=True)
    return WrittenObject(ObjectKind.RTSTRUCT, ds.SOPClassUID, ds.SOPInstanceUID, buffer.getvalue())
