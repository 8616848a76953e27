"""The hospital around the node: phantom studies with a name that must never leak, a scanner, a TPS and an archive."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.uid import UID
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE

from model.phantom import Phantom, make_case, small_profile
from model.phantom.dicom import write_dicom_series
from npc_rtnode.adapters.dicom.calling import pause_reactor
from npc_rtnode.adapters.dicom.simulator import StoredObject
from npc_rtnode.domain.identifiers import derived_uid
from tests.acceptance.node import Node
from tests.fakes.scp import Faults, FaultySCP

PATIENT_NAME, PATIENT_ID = "ROENTGEN^WILHELM", "PID778899"
CANARIES = ("ROENTGEN", "WILHELM", PATIENT_ID)
"""In every phantom study here; found anywhere but in DICOM bytes, it is a leak."""
CASE = 1
"""The demo's phantom: its tumour is drawn well by the shipped bundle."""
SUCCESS, CANNOT_UNDERSTAND = 0x0000, 0xC000


@cache
def phantom(index: int = CASE) -> Phantom:
    """Drawn once for all tests."""
    return make_case("demo", index, profile=small_profile())


@dataclass(frozen=True)
class Slice:
    """One instance as it will be sent: names for the command, and the data set's bytes."""

    sop_class: str
    sop_uid: str
    transfer_syntax: str
    encoded: bytes

    def truncated(self) -> Slice:
        """The same with its second half lost."""
        return replace(self, encoded=self.encoded[: len(self.encoded) // 2])


@dataclass(frozen=True)
class Study:
    """A written study of one series: its files, lowest slice first."""

    uid: str
    files: tuple[Path, ...]

    @property
    def slices(self) -> list[Slice]:
        """As they will be sent."""
        return [slice_of(path) for path in self.files]


UNSAID: dict[str, Any] = {
    "study_description": "MR head",
    "series_description": "Ax T1 C+ FS",
    "without": ("ProtocolName",),
}
"""Wishes for a study of which nobody says that it is meant for NPC."""
UNCOUNTED: dict[str, Any] = {"without": ("ImagesInAcquisition",)}
"""Wishes for a series that does not tell how many slices it should have."""


def make_study(folder: Path, name: str, *, without: Sequence[str] = (), **wishes: Any) -> Study:
    """The phantom's contrast-enhanced T1 as a study of its own; `name` gives its UIDs, `without` what to leave out."""
    uid = derived_uid(name, "acceptance study")
    place = folder / name / str(wishes.get("series_number", "wanted"))
    files = write_dicom_series(
        phantom(), place, study_uid=uid, patient_name=PATIENT_NAME, patient_id=PATIENT_ID, **wishes
    )
    if without:
        for path in files:
            _leave_out(path, without)
    return Study(uid, tuple(files))


def _leave_out(path: Path, keywords: Sequence[str]) -> None:
    ds = dcmread(path)
    for keyword in keywords:
        delattr(ds, keyword)
    ds.save_as(path)


def slice_of(path: Path) -> Slice:
    """A DICOM file without its meta group."""
    data = path.read_bytes()
    meta = dcmread(path, specific_tags=["SOPInstanceUID"]).file_meta
    offset = 132 + 12 + int(meta.FileMetaInformationGroupLength)
    return Slice(
        str(meta.MediaStorageSOPClassUID),
        str(meta.MediaStorageSOPInstanceUID),
        str(meta.TransferSyntaxUID),
        data[offset:],
    )


# --- the scanner ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scanner:
    """A sender that puts bytes on the wire as they are, whatever they are."""

    port: int
    calling_ae: str = "PACS"
    called_ae: str = "NPC_RTNODE"

    def associate(self, slices: Iterable[Slice]) -> Association:
        """Ask for an association that can carry these."""
        ae = AE(self.calling_ae)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 30
        ae.connection_timeout = 10
        for sop_class, syntax in sorted({(item.sop_class, item.transfer_syntax) for item in slices}):
            ae.add_requested_context(sop_class, syntax)
        return ae.associate("127.0.0.1", self.port, ae_title=self.called_ae)

    @contextmanager
    def association(self, slices: Sequence[Slice]) -> Iterator[Association]:
        """An association that must be accepted, released in the end."""
        assoc = self.associate(slices)
        assert assoc.is_established, f"{self.calling_ae} to {self.called_ae}: no association"
        try:
            yield assoc
        finally:
            if assoc.is_established:
                assoc.release()

    def send(self, slices: Sequence[Slice]) -> list[int | None]:
        """Send all in one association; the status of each, None where no answer came."""
        with self.association(slices) as assoc:
            return [store(assoc, item) for item in slices]

    def send_all(self, slices: Sequence[Slice]) -> None:
        """Send all; each must be answered Success."""
        statuses = self.send(slices)
        assert statuses == [SUCCESS] * len(slices), statuses

    def send_until_lost(self, slices: Sequence[Slice], on_answer: Callable[[int], None]) -> list[Slice]:
        """Send until the connection is gone; what was acknowledged. `on_answer` is told after each how many."""
        acknowledged: list[Slice] = []
        with self.association(slices) as assoc:
            for item in slices:
                if store(assoc, item) != SUCCESS:
                    break
                acknowledged.append(item)
                on_answer(len(acknowledged))
        return acknowledged


def store(assoc: Association, item: Slice) -> int | None:
    """C-STORE these very bytes (pynetdicom's send_c_store would decode and encode them); None without an answer."""
    if not assoc.is_established:
        return None
    context = next(c for c in assoc.accepted_contexts if (c.abstract_syntax, c.transfer_syntax[0]) == _kind_of(item))
    request = C_STORE()
    request.MessageID, request.Priority = 1, 0
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = UID(item.sop_class), UID(item.sop_uid)
    request.DataSet = BytesIO(item.encoded)
    pause_reactor(assoc)
    assoc.dimse.send_msg(request, context.context_id)
    _, answer = assoc.dimse.get_msg(block=True)
    if answer is None:
        assoc._reactor_checkpoint.set()
        return None
    return int(answer.Status)


def _kind_of(item: Slice) -> tuple[str, str]:
    return item.sop_class, item.transfer_syntax


# --- TPS and archive --------------------------------------------------------------------------------------------------


class Destination(FaultySCP):
    """A TPS or archive on a port of its own that can be down, misbehave, or keep an object in its hands."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, Faults())
        self.folder = folder
        self.port = 0
        self.in_hand = threading.Event()
        """Set as soon as an object is here and not yet answered."""
        self.go_on = threading.Event()
        self.go_on.set()

    def up(self) -> Destination:
        """Serve, always on the same port."""
        self.port = self.start(self.port)
        return self

    def down(self) -> None:
        """Nobody listens there any more."""
        self.stop()

    def stop(self) -> None:
        """Let waiting handlers go, then stop."""
        self.go_on.set()
        super().stop()

    def on_store(self, event: Any) -> int:
        """As FaultySCP, but waits while `go_on` is cleared."""
        self.in_hand.set()
        self.go_on.wait(60)
        return super().on_store(event)

    def of_study(self, uid: str) -> list[StoredObject]:
        """What arrived of this study, in order."""
        return [item for item in list(self.received) if dcmread(item.path).StudyInstanceUID == uid]


def leaks(node: Node) -> list[str]:
    """Where the patient's name or number stands though it never may: logs, ledger, the CLI's words, file names."""
    places = {"log": node.log_text(), "ledger": repr(node.tables()), "CLI": "\n".join(node.said)}
    places["file names"] = "\n".join(str(path.relative_to(node.home)) for path in node.home.rglob("*"))
    return [f"{canary} in the {place}" for place, text in places.items() for canary in CANARIES if canary in text]
