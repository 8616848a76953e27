"""The values that travel between rooms: frozen, plain, no DICOM library, no database row.

Units stand in the names; arrays are `[slice, row, column]`, points LPS millimetres, times aware UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from npc_rtnode.domain.lifecycle import Event, SeriesState
from npc_rtnode.domain.priority import CLINICAL

Vector = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at and what it came to; `value` and `limit` are the numbers that decided it."""

    code: str
    message: str
    value: float | None = None
    limit: float | None = None

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


# --- receive ----------------------------------------------------------------------------------------------------------


class StoreOutcome(StrEnum):
    """What became of one C-STORE; the listener's one table turns it into a status word."""

    STORED = "STORED"
    DUPLICATE = "DUPLICATE"  # same SOP Instance UID, same bytes, or the same elements in another encoding
    CONFLICT = "CONFLICT"  # same UID, other content: both kept, series quarantined
    OWN_OBJECT = "OWN_OBJECT"  # our own result coming back from a PACS that routes everything
    MISMATCH = "MISMATCH"  # data set and command disagree on class or instance
    UNREADABLE = "UNREADABLE"  # truncated, malformed or without identifying elements
    NO_RESOURCES = "NO_RESOURCES"  # disk low, ledger away: the sender should try again


@dataclass(frozen=True, slots=True)
class AssociationInfo:
    """Who called: one association as the listener saw it."""

    association_id: str
    calling_ae: str
    called_ae: str
    peer_ip: str


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """What a C-STORE command announces, before a byte of the data set is there (PS3.7 9.3.1.1)."""

    association: AssociationInfo
    sop_class_uid: str
    sop_uid: str
    transfer_syntax_uid: str


@dataclass(frozen=True, slots=True)
class ReceivedInstance(StoreRequest):
    """One instance as it came, in memory: `encoded` is the data set's bytes, untouched, in `transfer_syntax_uid`."""

    encoded: bytes


@dataclass(frozen=True, slots=True)
class InstanceIdentity:
    """The few elements of a data set that say which instance it is (PS3.3 C.7 and C.12)."""

    sop_class_uid: str
    sop_uid: str
    study_uid: str
    series_uid: str
    modality: str


@dataclass(frozen=True, slots=True)
class Arrival:
    """One instance whose bytes are already safe, and how it compares with the copies before it."""

    identity: InstanceIdentity
    received: StoreRequest
    sha256: str  # of the file; empty on the way into the intake journal, which finds it when it is read
    size: int
    same_as: str | None = None  # SHA-256 of a kept copy: the same elements, encoded in another way
    differs_in: tuple[str, ...] = ()  # keywords of the elements in which it is not the copy that is kept


@dataclass(frozen=True, slots=True)
class FoundObject:
    """An object of ours that lies in the outbox, and that the ledger does not know: the ledger is older."""

    sop_uid: str
    sha256: str
    size: int


# --- the intake journal -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Opened:
    """An association was accepted."""

    at: datetime
    association: AssociationInfo


@dataclass(frozen=True, slots=True)
class Rejected:
    """A caller was refused."""

    at: datetime
    association: AssociationInfo
    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    """An instance was refused; nothing of it was acknowledged."""

    at: datetime
    request: StoreRequest
    outcome: StoreOutcome
    reason: str


@dataclass(frozen=True, slots=True)
class Arrived:
    """An instance is safe; its sender is told Success."""

    at: datetime
    arrival: Arrival


@dataclass(frozen=True, slots=True)
class Ended:
    """An association ended; `refused` are the images of it that were not taken."""

    at: datetime
    association: AssociationInfo
    how: str
    refused: tuple[str, ...] = ()


IntakeEntry = Opened | Rejected | Refused | Arrived | Ended
"""What the receiver notes down, in the order in which it happened."""


# --- storage commitment -----------------------------------------------------------------------------------------------


ObjectName = tuple[str, str]
"""SOP Class UID and SOP Instance UID."""


@dataclass(frozen=True, slots=True)
class CommitmentRequest:
    """A peer asks whether these instances are safe here (PS3.4 J.3.2)."""

    calling_ae: str
    transaction_uid: str
    wanted: tuple[ObjectName, ...]


@dataclass(frozen=True, slots=True)
class Holding:
    """One content that is kept of an instance."""

    sop_uid: str
    sop_class_uid: str
    sha256: str
    counts: bool = True  # it is the instance's content, or another encoding of it
    in_conflict: bool = False  # another content under a UID that has one; nobody has chosen yet


@dataclass(frozen=True, slots=True)
class CommitmentReport:
    """What is committed, and with which FailureReason (0008,1197) the rest is not."""

    committed: tuple[ObjectName, ...]
    refused: tuple[tuple[ObjectName, int], ...]


@dataclass(frozen=True, slots=True)
class CommitmentInHand:
    """A request that is owed its report; `attempts` counts the one that begins now."""

    commitment_id: int
    calling_ae: str
    transaction_uid: str
    wanted: tuple[ObjectName, ...]
    attempts: int
    requested_at: datetime


# --- assemble, select -------------------------------------------------------------------------------------------------


ImageReference = tuple[str, int | None]
"""SOP Instance UID and, for a frame of a multi-frame instance, its ReferencedFrameNumber (PS3.3 10.3)."""


@dataclass(frozen=True, slots=True)
class FrameTraits:
    """What a frame of a multi-frame instance says of itself beside its place (PS3.3 C.7.6.16.2).

    `stack` is its StackID, empty where it names none. `contrast` holds, by keyword, what would make two frames two
    pictures of one place: echo, time point, component. `part` is (UID of the concatenation, number of the part, parts
    in all or 0 where unsaid), None outside of one.
    """

    stack: str = ""
    contrast: tuple[tuple[str, str], ...] = ()
    part: tuple[str, int, int] | None = None


@dataclass(frozen=True, slots=True)
class SliceHeader:
    """What geometry needs to know of one slice; None where the data set does not say.

    A slice is a single-frame instance (`frame` is None), or one frame of a multi-frame instance (`frame` counts from 1,
    `frames` is how many the instance has). An instance with several frames and no `frame` was not taken apart.
    `patient_key` is a digest of the raw identity bytes: two patients in one series are seen, and no name travels.
    """

    sop_uid: str
    sha256: str
    study_uid: str
    patient_key: str
    frame_of_reference_uid: str | None
    position: Vector | None
    orientation: tuple[float, float, float, float, float, float] | None
    rows: int | None
    columns: int | None
    spacing_mm: tuple[float, float] | None  # (between rows, between columns), PS3.3 10.7.1.3
    frames: int = 1
    images_in_acquisition: int | None = None
    frame: int | None = None
    traits: FrameTraits = FrameTraits()

    @property
    def reference(self) -> ImageReference:
        """How another object names this slice; without a frame number where the instance is all of it."""
        return self.sop_uid, self.frame if self.frames > 1 else None


AttributeValue = str | float | int
AttributeValues = tuple[AttributeValue, ...]


@dataclass(frozen=True, slots=True)
class SeriesAttributes:
    """The series as rules see it: for each keyword one entry a slice, None where the element is missing or empty.

    `derived` holds judged facts that no single element states (`@plane`, `@slices`, `@spacing_mm`, `@stack`), constant
    over the series.
    """

    slices: int
    values: Mapping[str, tuple[AttributeValues | None, ...]]
    derived: Mapping[str, AttributeValue] = field(default_factory=dict)


class Truth(StrEnum):
    """Three-valued: a missing tag is neither true nor false."""

    TRUE = "TRUE"
    FALSE = "FALSE"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One rule's answer on one series, with the tag values that decided it, as stored in the ledger."""

    rule: str
    truth: Truth
    because: str


@dataclass(frozen=True, slots=True)
class Asked:
    """What a source said when it was asked how many instances a series has; None: no answer, and why."""

    at: datetime
    source: str
    instances: int | None
    because: str = ""


@dataclass(frozen=True, slots=True)
class Closing:
    """How a quiet series was judged: CLOSED_WHOLE, CLOSED_PARTIAL or QUARANTINED, and in whose words."""

    event: Event
    because: str
    reasons: tuple[str, ...] = ()


# --- work -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WorkIdentity:
    """What makes two computations the same one (ADR 0003): every part shapes content, nothing else does."""

    series_uid: str
    input_digest: str
    bundle_hash: str
    settings_hash: str


class ObjectKind(StrEnum):
    """The kinds of object the node writes, in the order in which they are written: each names only earlier ones."""

    SEG = "SEG"  # Segmentation, binary
    RTSTRUCT = "RTSTRUCT"
    SR = "SR"  # Comprehensive SR, PS3.16 TID 1500
    SR_ENHANCED = "SR_ENHANCED"  # Enhanced SR, and
    SR_TEXT = "SR_TEXT"  # Basic Text SR: for a PACS that shows no other
    PREVIEW = "PREVIEW"  # Secondary Capture: the first page as a picture
    PDF = "PDF"  # Encapsulated PDF: the pages


@dataclass(frozen=True, slots=True)
class WrittenObject:
    """One finished object: the very bytes that are ever sent (a DICOM file, PS3.10)."""

    kind: ObjectKind
    sop_class_uid: str
    sop_uid: str
    encoded: bytes
    variant: str = ""  # of its form (domain/profiles)


@dataclass(frozen=True, slots=True)
class SendReceipt:
    """The peer's answer for that very Message ID and SOP Instance UID."""

    status: int
    warning: bool
    at: datetime


@dataclass(frozen=True, slots=True)
class OpenSeries:
    """One series revision that a stage looks at: its inputs are (SOP Instance UID, SHA-256) in order of arrival.

    `seen` is how many instances the revision had then; closing fails if more have come since.
    """

    series_id: int
    study_reference: str
    series_uid: str
    revision: int
    called_ae: str
    modality: str
    inputs: tuple[tuple[str, str], ...]
    last_received_at: datetime
    operators_word: str | None = None
    waived: tuple[str, ...] = ()  # the doubts that the operator's word was given on, in the words they were told
    doubts: tuple[Finding, ...] = ()  # what the transfer itself leaves open: aborted, images refused
    state: SeriesState = (
        SeriesState.COMPLETE
    )  # as it was seen: a choice on a series that has moved on counts for nothing

    calling_ae: str = ""  # who sent last
    released_alone: bool = False  # one association brought all there is, and was released
    asked: tuple[Asked, ...] = ()  # what its source was asked, oldest first

    def with_answer(self, answer: Asked) -> OpenSeries:
        """The same with one answer more."""
        return replace(self, asked=(*self.asked, answer))

    @property
    def seen(self) -> int:
        """How many instances were there."""
        return len(self.inputs)


@dataclass(frozen=True, slots=True)
class OpenStudy:
    """A study of which nothing more is coming: its series that wait for a choice, and those they are compared with."""

    reference: str
    complete: tuple[OpenSeries, ...]
    again: tuple[OpenSeries, ...] = ()  # were judged beside others, or their job came to nothing: judged with the rest
    selected: tuple[OpenSeries, ...] = ()  # have a job already, and keep it


@dataclass(frozen=True, slots=True)
class WorkOrder:
    """Everything a job is made of, frozen when it is queued."""

    work: WorkIdentity
    work_key: str
    bundle_name: str
    indication: str
    priority: int = CLINICAL


@dataclass(frozen=True, slots=True)
class Choice:
    """What selection came to: SELECTED with an order, SET_ASIDE or HELD, with every verdict."""

    event: Event
    verdicts: tuple[Verdict, ...]
    reasons: tuple[str, ...]
    rules_hash: str
    order: WorkOrder | None = None


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on one thing for a while; `token` fences off whoever overslept."""

    subject: str  # "job" or "delivery"
    subject_id: int
    stage: str
    token: str
    attempts: int
    first_due_at: datetime


@dataclass(frozen=True, slots=True)
class SentBefore:
    """An object of an earlier result of the series that some destination accepted; variant as in ObjectOrder."""

    kind: ObjectKind
    variant: str
    work_key: str
    sop_uid: str

    @property
    def name(self) -> str:
        """As ObjectOrder has it."""
        return f"{self.kind}/{self.variant}" if self.variant else str(self.kind)


@dataclass(frozen=True)
class WorkRef:
    """One piece of work that waits, as a carrier carries it: which, for whom, how urgent, and from when on."""

    subject: str  # "job" or "delivery"
    subject_id: int
    resource: str  # "gpu", "cpu" or "send:<destination>"
    rank_at: datetime  # domain/priority
    due_at: datetime


@dataclass(frozen=True, slots=True)
class JobInHand:
    """A claimed job, with what its stage needs."""

    lease: Lease
    series: OpenSeries
    work_key: str
    result_revision: int
    bundle_hash: str
    settings_hash: str
    indication: str
    content_at: datetime
    supersedes: tuple[SentBefore, ...] = ()  # what was sent of the series' earlier results, the newest first


@dataclass(frozen=True, slots=True)
class DeliveryInHand:
    """A claimed delivery: which stored object goes where."""

    lease: Lease
    study_reference: str
    job_id: int
    work_key: str
    destination: str
    kind: ObjectKind
    sop_class_uid: str
    sop_uid: str
    sha256: str
    synthetic: bool
    phantom: bool
    enhanced_mr: bool = False
    constancy: bool = False  # of the phantom that this node sends itself


@dataclass(frozen=True, slots=True)
class ResultToCommit:
    """What the write stage hands to the ledger: the objects, where they are owed, and why they wait, if they do."""

    objects: tuple[tuple[WrittenObject, str], ...]  # (object, SHA-256 of its stored bytes)
    owed: tuple[tuple[str, str], ...]  # (SOP Instance UID, destination)
    holds: tuple[Finding, ...]
    releasable: bool
    results: Mapping[str, object]
