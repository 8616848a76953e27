"""Storage Commitment Push Model as SCP (PS3.4 J.3): the request as a value, and the report on an association of ours.

The report always goes out on a new association, to the address that `archives` has for the requester's AE title: it may
be owed over a restart, and many requesters release at once. We propose to be its SCP by role selection (PS3.7 D.3.3.4).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any, Final

from pydicom import uid
from pydicom.dataset import Dataset
from pynetdicom.dimse_primitives import N_ACTION, N_EVENT_REPORT
from pynetdicom.dsutils import decode, encode
from pynetdicom.presentation import build_context, build_role

from npc_rtnode.adapters.dicom.calling import Call, associate, call_to, exchange, one_answer
from npc_rtnode.adapters.dicom.structure import checked_uid
from npc_rtnode.domain.records import CommitmentReport, ObjectName
from npc_rtnode.errors import ConfigFault, PeerError, Unreadable
from npc_rtnode.settings import Archive, TlsSettings

PUSH_MODEL: Final = uid.UID("1.2.840.10008.1.20.1")
PUSH_MODEL_INSTANCE: Final = uid.UID("1.2.840.10008.1.20.1.1")
REQUEST: Final = 1  # ActionTypeID, PS3.4 J.3.2.1
ALL_COMMITTED, FAILURES_EXIST = 1, 2  # EventTypeID, PS3.4 J.3.3.1
REQUEST_LIMIT: Final = 4 << 20
"""Bytes of one request: tens of thousands of references."""

_SYNTAXES: Final[list[str | uid.UID]] = [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian]


def is_request(message: N_ACTION) -> bool:
    """Whether it asks for what this service is for: action 1 on the well-known instance."""
    named = (message.RequestedSOPClassUID, message.RequestedSOPInstanceUID, message.ActionTypeID)
    return named == (PUSH_MODEL, PUSH_MODEL_INSTANCE, REQUEST)


def read_request(encoded: bytes, transfer_syntax: uid.UID) -> tuple[str, tuple[ObjectName, ...]]:
    """Transaction UID and the names asked for; raises Unreadable when they cannot be read."""
    if not 0 < len(encoded) <= REQUEST_LIMIT:
        raise Unreadable(f"A request of {len(encoded)} bytes; at most {REQUEST_LIMIT} are read.")
    try:
        told = decode(BytesIO(encoded), transfer_syntax.is_implicit_VR, transfer_syntax.is_little_endian)
        transaction = checked_uid(str(told.TransactionUID), "Transaction UID")
        names = tuple(_name(item) for item in told.ReferencedSOPSequence)
    except (ArithmeticError, AttributeError, EOFError, LookupError, NotImplementedError, TypeError, ValueError):
        raise Unreadable("It is no request for storage commitment.") from None
    if not names:
        raise Unreadable("It names no instance.")
    return transaction, names


def _name(item: Dataset) -> ObjectName:
    sop_class = checked_uid(str(item.ReferencedSOPClassUID), "SOP Class UID")
    return sop_class, checked_uid(str(item.ReferencedSOPInstanceUID), "SOP Instance UID")


class CommitmentReporter:
    """Fulfils ports.Reporter."""

    def __init__(self, archives: Sequence[Archive], tls: TlsSettings) -> None:
        """A requester is known by its AE title."""
        self._archives = {archive.ae_title: archive for archive in archives}
        self._tls = tls

    def report(self, ae_title: str, transaction_uid: str, report: CommitmentReport) -> None:
        """N-EVENT-REPORT; returns when the requester has accepted that very report, else raises a PeerError."""
        archive = self._archives.get(ae_title)
        if archive is None:
            raise ConfigFault("no [[archives]] has the AE title of the requester: the report has nowhere to go")
        order = (call_to(archive, self._tls), _event_type(report), _information(transaction_uid, report))
        one_answer(_report, order, archive.wall_clock_s)


def _event_type(report: CommitmentReport) -> int:
    return FAILURES_EXIST if report.refused else ALL_COMMITTED


def _information(transaction_uid: str, report: CommitmentReport) -> Dataset:
    """Event Information (PS3.4 table J.3-2)."""
    told = Dataset()
    told.TransactionUID = transaction_uid
    if report.committed:
        told.ReferencedSOPSequence = [_item(name) for name in report.committed]
    if report.refused:
        told.FailedSOPSequence = [_item(name, reason) for name, reason in report.refused]
    return told


def _item(name: ObjectName, reason: int | None = None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = name
    if reason is not None:
        item.FailureReason = reason
    return item


# --- there: in the child ----------------------------------------------------------------------------------------------


def _report(say: Callable[[Any], None], call: Call, event_type: int, told: Dataset) -> None:
    contexts = [build_context(PUSH_MODEL, _SYNTAXES)]
    assoc = associate(call, contexts, ext_neg=[build_role(PUSH_MODEL, scp_role=True)])
    context = assoc.accepted_contexts[0]
    syntax = context.transfer_syntax[0]
    request = N_EVENT_REPORT()
    request.MessageID, request.EventTypeID = 1, event_type
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = PUSH_MODEL, PUSH_MODEL_INSTANCE
    request.EventInformation = BytesIO(encode(told, syntax.is_implicit_VR, syntax.is_little_endian) or b"")
    status = int(exchange(assoc, request, context).Status)
    if status != 0:
        raise PeerError(f"The report was answered with status {status:04X}.")
    say(status)
    assoc.release()
