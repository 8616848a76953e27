"""Every object that a test lets the node write is shown to others: dciodvfy, dcentvfy, DCMTK, our own checks.

`Watch` remembers what passes through the one door to DICOM bytes (adapters/dicom/identity.encode), or arrives at a
destination; the fixtures in the conftests ask it after every test. A warning that is not on the list below fails.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import pydicom
import pytest
from pydicom.dataset import Dataset

from npc_rtnode.adapters.dicom import identity
from npc_rtnode.adapters.dicom.kinds import KINDS
from npc_rtnode.adapters.dicom.simulator import StoringSCP
from npc_rtnode.adapters.dicom.verify import decimal_values
from npc_rtnode.domain.identifiers import sha256_hex
from npc_rtnode.domain.records import ObjectKind
from tests.peers import REQUIRED, find_peer

ALLOWED: Final = (
    # What the source's own bytes say is copied as it stands, and dciodvfy says of the images what it says of these.
    re.compile(r"^Warning - </PatientName.*Retired Person Name form$"),
    # dciodvfy of 2022 does not know the term GBK, nor the bytes that it makes legal.
    re.compile(r"^Error - </Patient(Name|ID)\(.*Character invalid for character repertoire"),
    re.compile(r"^Warning - </(Patient|Study)(Name|ID|Date|Time)\(.* needed to build DICOMDIR$"),
)
TOGETHER: Final = (
    # The images are not among the objects; that every reference exists is for the gates, and four tests with images.
    re.compile(r"^Error - Missing SOPInstanceUID that was referenced"),
    # A structure set's Study has it by its Study IE, others by the request in their Series or equipment (PS3.3 C.12.4).
    re.compile(r"^Warning - Different information entities for attribute - Element=<AccessionNumber>"),
)
"""What dcentvfy may say of a study's objects without their images."""
_REPORTS: Final = {KINDS[kind].sop_class_uid for kind in (ObjectKind.SR, ObjectKind.SR_ENHANCED, ObjectKind.SR_TEXT)}


def complaints(dciodvfy: str, file: Path) -> list[str]:
    """dciodvfy's errors and warnings; its exit status says nothing (outputs.md 0.6)."""
    done = subprocess.run([dciodvfy, "-new", file], capture_output=True, check=False)
    lines = (done.stdout + done.stderr).decode("utf-8", "replace").splitlines()
    return [line for line in lines if line.startswith(("Error", "Warning"))]


def objections(encoded: bytes) -> list[str]:
    """What anybody has against these bytes; empty for a good object."""
    ds = pydicom.dcmread(BytesIO(encoded))
    with tempfile.TemporaryDirectory(prefix="npc-rtnode-proof-") as folder:
        file = Path(folder) / "object.dcm"
        file.write_bytes(encoded)
        said = [*_said_by_dciodvfy(file), *(_said_by_dcmtk(file) if ds.SOPClassUID in _REPORTS else [])]
    return [f"{ds.Modality}: {line}" for line in (*said, *own_objections(ds))]


def _said_by_dciodvfy(file: Path) -> list[str]:
    program = _peer("dciodvfy")
    found = complaints(program, file) if program else []
    return [line for line in found if not any(allowed.search(line) for allowed in ALLOWED)]


def disagreements(objects: Sequence[bytes]) -> list[str]:
    """What dcentvfy finds between objects of one study: another patient, study, frame of reference or equipment."""
    program = _peer("dcentvfy")
    if program is None or len(objects) < 2:
        return []
    with tempfile.TemporaryDirectory(prefix="npc-rtnode-proof-") as folder:
        files = [Path(folder) / str(number) for number in range(len(objects))]
        for file, encoded in zip(files, objects, strict=True):
            file.write_bytes(encoded)
        done = subprocess.run([program, *files], capture_output=True, check=False)
    lines = (done.stdout + done.stderr).decode("utf-8", "replace").splitlines()
    found = [line for line in lines if line.startswith(("Error", "Warning"))]
    return [line for line in found if not any(allowed.search(line) for allowed in TOGETHER)]


def of_one_result(written: Iterable[bytes]) -> list[list[bytes]]:
    """Objects that belong together: of one study and one moment; of one SOP Instance the last bytes."""
    results: dict[tuple[str, ...], dict[str, bytes]] = {}
    for encoded in written:
        ds = pydicom.dcmread(BytesIO(encoded), stop_before_pixels=True)
        moment = str(ds.get("InstanceCreationDate", "")), str(ds.get("InstanceCreationTime", ""))
        key = str(ds.StudyInstanceUID), *moment
        results.setdefault(key, {})[str(ds.SOPInstanceUID)] = encoded
    return [list(one.values()) for one in results.values()]


def _said_by_dcmtk(file: Path) -> list[str]:
    """dsrdump and dsr2html read the tree, complain of nothing but a character set that DCMTK's VR checker lacks."""
    said = []
    for command in (["dsrdump", "+Pc"], ["dsr2html", "+U8"]):
        if program := _peer(command[0]):
            done = subprocess.run([program, *command[1:], file], capture_output=True, check=False)
            said += [f"{command[0]} exits {done.returncode}"] if done.returncode else []
            said += [line for line in done.stderr.decode("latin-1").splitlines() if line.startswith("E:")]
    return said


def _peer(program: str) -> str | None:
    """Where it is; in CI it must be somewhere."""
    found = find_peer(program)
    if found is None and REQUIRED:
        pytest.fail(f"{program} is not installed (deploy/peers.sh)")
    return found


# --- what no tool looks at (outputs.md 5, point 7) --------------------------------------------------------------------


def own_objections(ds: Dataset) -> list[str]:
    """Facts of one object that must agree with each other; what needs the images too is domain/gates' business."""
    checks = _CHECKS.get(str(ds.Modality), {})
    longest = max((len(value) for value in decimal_values(ds)), default=0)
    common = {"a DS has over 16 characters": longest <= 16, "no time zone": "TimezoneOffsetFromUTC" in ds}
    return [
        what for what, right in (*common.items(), *((what, check(ds)) for what, check in checks.items())) if not right
    ]


def _items(ds: Dataset) -> Iterator[Dataset]:
    for item in ds.get("ContentSequence", []):
        yield item
        yield from _items(item)


def _named(ds: Dataset, code: str) -> list[Dataset]:
    return [i for i in _items(ds) if "ConceptNameCodeSequence" in i and i.ConceptNameCodeSequence[0].CodeValue == code]


def _number(item: Dataset) -> float:
    number = item.TextValue.split()[0] if item.ValueType == "TEXT" else item.MeasuredValueSequence[0].NumericValue
    return float(number)


def _contours(ds: Dataset) -> list[Dataset]:
    return list(ds.ROIContourSequence[0].ContourSequence)


def _one_frame(ds: Dataset) -> bool:
    (listed,), (roi,) = ds.ReferencedFrameOfReferenceSequence, ds.StructureSetROISequence
    return ds.FrameOfReferenceUID == listed.FrameOfReferenceUID == roi.ReferencedFrameOfReferenceUID


def _one_number(ds: Dataset) -> bool:
    (roi,), (outline,), (seen,) = ds.StructureSetROISequence, ds.ROIContourSequence, ds.RTROIObservationsSequence
    return roi.ROINumber == outline.ReferencedROINumber == seen.ReferencedROINumber


_Check = Callable[[Dataset], Any]
_CHECKS: Final[dict[str, dict[str, _Check]]] = {
    "RTSTRUCT": {
        "it is approved": lambda ds: ds.ApprovalStatus == "UNAPPROVED",
        "its label has over 16 characters": lambda ds: len(ds.StructureSetLabel) <= 16,
        "its sequences disagree on the ROI number": _one_number,
        "it has more than one frame of reference": _one_frame,
        "a contour has under 3 points, or miscounts them": lambda ds: all(
            len(c.ContourData) == 3 * c.NumberOfContourPoints >= 9 for c in _contours(ds)
        ),
        "a contour has over 1,500 points": lambda ds: all(c.NumberOfContourPoints <= 1500 for c in _contours(ds)),
        "a contour names other than one image": lambda ds: all(len(c.ContourImageSequence) == 1 for c in _contours(ds)),
    },
    "SR": {
        "it is verified": lambda ds: ds.VerificationFlag == "UNVERIFIED",
        "its probabilities do not sum to 1": lambda ds: round(sum(map(_number, _named(ds, "122157"))), 9) == 1.0,
        "it has other than four probabilities": lambda ds: len(_named(ds, "122157")) == 4,
        "it has other than one volume": lambda ds: len(_named(ds, "118565006")) == 1,
        "a cT category has no edition": lambda ds: all(_named(item, "370129005") for item in _named(ds, "399504009")),
    },
    "SEG": {
        "it is not binary": lambda ds: ds.SegmentationType == "BINARY",
        "it has other than one segment": lambda ds: len(ds.SegmentSequence) == 1,
        "its frames disagree with its bits": lambda ds: (
            len(ds.PixelData) == -(-ds.NumberOfFrames * ds.Rows * ds.Columns // 16) * 2
        ),
        "a frame names other than one image": lambda ds: all(
            len(group.DerivationImageSequence[0].SourceImageSequence) == 1
            for group in ds.PerFrameFunctionalGroupsSequence
        ),
    },
    "OT": {
        "the name on it is not said to be burned in": lambda ds: ds.BurnedInAnnotation == "YES",
        "its samples disagree with its size": lambda ds: len(ds.PixelData) == -(-ds.Rows * ds.Columns * 3 // 2) * 2,
        "it names no structure set": lambda ds: len(ds.SourceInstanceSequence) == 1,
    },
    "DOC": {
        "the name on it is not said to be burned in": lambda ds: ds.BurnedInAnnotation == "YES",
        "it is verified": lambda ds: ds.VerificationFlag == "UNVERIFIED",
        "it is no PDF": lambda ds: bytes(ds.EncapsulatedDocument).startswith(b"%PDF-"),
        "its length is not the document's": lambda ds: (
            0 <= len(ds.EncapsulatedDocument) - ds.EncapsulatedDocumentLength <= 1
        ),
    },
}


# --- the watch --------------------------------------------------------------------------------------------------------


@dataclass
class Watch:
    """Objects that were written and not looked at yet; the same bytes are looked at once a test run."""

    waiting: dict[str, bytes] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)

    def remember(self, encoded: bytes) -> None:
        """Look at it when the test is over."""
        if (digest := sha256_hex(encoded)) not in self.seen:
            self.waiting[digest] = encoded

    def ask(self) -> list[str]:
        """What there is against what waits."""
        waiting, self.waiting = self.waiting, {}
        self.seen.update(waiting)
        results = of_one_result(waiting.values())
        with ThreadPoolExecutor(max_workers=2) as pool:  # others' programs do the work, and there are two processors
            said = [*pool.map(objections, waiting.values()), *pool.map(disagreements, results)]
        return [line for lines in said for line in lines]


def watch_writers(patch: pytest.MonkeyPatch) -> Watch:
    """A watch over everything that is written in this process while the patch lasts."""
    watch, encode = Watch(), identity.encode

    def watched(*arguments: Any) -> bytes:
        encoded = encode(*arguments)
        watch.remember(encoded)
        return encoded

    patch.setattr(identity, "encode", watched)
    return watch


def watch_arrivals(patch: pytest.MonkeyPatch) -> Watch:
    """A watch over everything of ours that any destination in this process stores while the patch lasts."""
    watch, store = Watch(), StoringSCP.on_store

    def watched(scp: StoringSCP, event: Any) -> int:
        status = store(scp, event)
        path = scp.received[-1].path
        creator = pydicom.dcmread(path, specific_tags=["InstanceCreatorUID"]).get("InstanceCreatorUID")
        if creator == identity.CREATOR_UID:
            watch.remember(path.read_bytes())
        return status

    patch.setattr(StoringSCP, "on_store", watched)
    return watch
