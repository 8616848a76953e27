"""A ledger above real folders: real MR files received, a structure set and a report delivered, `fsck` at hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from npc_rtnode.adapters.database.proof import ProofLedger
from npc_rtnode.adapters.dicom.proof import ProofReader
from npc_rtnode.adapters.dicom.sameness import InstanceReader
from npc_rtnode.adapters.spool import FileSpool
from npc_rtnode.domain.identifiers import derived_uid
from npc_rtnode.domain.invariants import HouseFacts, Looked
from npc_rtnode.domain.lifecycle import Event, JobState
from npc_rtnode.domain.records import (
    Closing,
    ObjectKind,
    ReceivedInstance,
    SendReceipt,
    StoreOutcome,
    WrittenObject,
)
from npc_rtnode.domain.retention import Place
from npc_rtnode.pipeline.fsck import Checker
from tests.builders.intake import Intake
from tests.builders.ledger import QUIET_S, Ledger
from tests.builders.mr_series import make_series
from tests.fakes.pipeline import hand_over

RTSTRUCT, SR = "1.2.840.10008.5.1.4.1.1.481.3", "1.2.840.10008.5.1.4.1.1.88.33"
_WHOSE = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "AccessionNumber")
Change = Callable[[Dataset], None]


def _unchanged(_ds: Dataset) -> None:
    pass


@dataclass
class House:
    """One study of `slices` slices; what `fsck` is told of the machine stands in `facts` and `said`."""

    ledger: Ledger
    root: Path
    slices: int = 4
    facts: HouseFacts = field(default_factory=lambda: HouseFacts((("unfinished files", 0, 0),)))
    said: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.spool = FileSpool(self.root / "spool", 0)
        self.outbox = FileSpool(self.root / "outbox", 0)
        self.files = make_series(self.root.parent / "sent", slices=self.slices, rows=8, columns=8)

    # --- a study's way through the house ------------------------------------------------------------------------------

    def receive(self) -> None:
        """Every file as the listener would hand it over."""
        sink = Intake(self.ledger, self.root / "spool", self.spool, InstanceReader())
        for file in self.files:
            assert hand_over(sink, received(self.ledger, file)) is StoreOutcome.STORED
        sink.replayer.secure()
        sink.journal.close()

    def complete(self) -> None:
        """Received, quiet, whole."""
        self.receive()
        self.ledger.end()
        self.ledger.later(QUIET_S + 1)
        (quiet,) = self.ledger.series.quiet(self.ledger.now)
        assert self.ledger.series.close(quiet, Closing(Event.CLOSED_WHOLE, "quiet and whole"), self.ledger.now)

    def queue(self) -> int:
        """Selected, with its job."""
        self.complete()
        (series,) = self.ledger.complete()
        job = self.ledger.choose(series)
        assert job is not None
        return job

    def write(self, structure: Change = _unchanged, report: Change = _unchanged) -> None:
        """Inferred and written; each object may be changed before it is stored."""
        self.queue()
        self.ledger.predicted()
        job = self.ledger.in_hand(JobState.PREDICTED, "write")
        made = (
            _object(ObjectKind.RTSTRUCT, RTSTRUCT, self.files, structure),
            _object(ObjectKind.SR, SR, self.files, report),
        )
        stored = tuple((item, self.outbox.keep([item.encoded])) for item in made)
        (plan, _), (paper, _) = stored
        owed = ((plan.sop_uid, "tps"), (plan.sop_uid, "pacs"), (paper.sop_uid, "pacs"))
        result = self.ledger.result(job, objects=stored, owed=owed)
        self.ledger.work.commit_result(job.lease, result, self.ledger.now)

    def deliver(self, structure: Change = _unchanged, report: Change = _unchanged) -> None:
        """All of it, to the end."""
        self.write(structure, report)
        for destination in ("tps", "pacs"):
            while (owed := self.ledger.work.claim_delivery(destination, self.ledger.now, 60)) is not None:
                self.ledger.work.sent(owed.lease, SendReceipt(0, False, self.ledger.now))
        assert self.ledger.job_state() == "DELIVERED"

    # --- what is said of it -------------------------------------------------------------------------------------------

    def check(self, quick: bool = False) -> dict[str, Looked]:
        """What `fsck` finds, by promise."""
        checker = Checker(
            pages=ProofLedger(self.ledger.sessions),
            shelves={Place.SPOOL: self.spool, Place.OUTBOX: self.outbox},
            reader=ProofReader(),
            house=lambda: self.facts,
            texts=lambda: self.said,
            clock=lambda: self.ledger.now,
            quick=quick,
        )
        return {one.code: one for one in checker.run()}

    def broken(self) -> set[str]:
        """The promises that are broken."""
        return {code for code, one in self.check().items() if not one.holds}


def received(ledger: Ledger, file: Path) -> ReceivedInstance:
    """A DICOM file as it comes over the wire."""
    meta = dcmread(file, specific_tags=["SOPInstanceUID"]).file_meta
    encoded = file.read_bytes()[132 + 12 + int(meta.FileMetaInformationGroupLength) :]
    syntax = str(meta.TransferSyntaxUID)
    uids = str(meta.MediaStorageSOPClassUID), str(meta.MediaStorageSOPInstanceUID)
    return ReceivedInstance(ledger.association, *uids, syntax, encoded)


def _object(kind: ObjectKind, sop_class: str, files: list[Path], change: Change) -> WrittenObject:
    """The least that an object of ours must say; the writers' own are checked in tests of theirs."""
    sources = [dcmread(file, stop_before_pixels=True) for file in files]
    ds = Dataset()
    for keyword in _WHOSE:
        setattr(ds, keyword, sources[0][keyword].value)
    ds.SpecificCharacterSet = sources[0].SpecificCharacterSet
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = sop_class, derived_uid("house", kind), str(kind)
    ds.FrameOfReferenceUID = sources[0].FrameOfReferenceUID
    ds.ReferencedFrameOfReferenceSequence = [_references(sources)]
    change(ds)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = sop_class, ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return WrittenObject(kind, sop_class, str(ds.SOPInstanceUID), buffer.getvalue())


def _references(sources: list[Dataset]) -> Dataset:
    """PS3.3 C.8.8.5: frame of reference, study, series, every image."""
    frame, study, series = Dataset(), Dataset(), Dataset()
    series.ContourImageSequence = [_image(source) for source in sources]
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID = sources[0].FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    return frame


def _image(source: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    return item


def images(ds: Dataset) -> list[Dataset]:
    """The images that a structure set of this house references."""
    frame = ds.ReferencedFrameOfReferenceSequence[0]
    found: list[Dataset] = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0].ContourImageSequence
    return found
