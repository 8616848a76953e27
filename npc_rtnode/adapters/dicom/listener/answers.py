"""What a sender is told: the status of each outcome, and what is wrong with a command before its data set counts."""

from __future__ import annotations

from typing import Final, NamedTuple

from pydicom.dataset import Dataset
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import PresentationContext

from npc_rtnode.adapters.dicom.listener.fast_store import StoreCommand
from npc_rtnode.adapters.dicom.structure import checked_uid
from npc_rtnode.domain.records import StoreOutcome
from npc_rtnode.errors import Unreadable


class Answer(NamedTuple):
    """Of a C-STORE-RSP."""

    status: int
    comment: str  # (0000,0902) ErrorComment, LO: at most 64 characters, never a text from a peer


STATUS: Final = {  # PS3.4 B.2.3: what a sender is told of each outcome
    StoreOutcome.STORED: Answer(0x0000, ""),
    StoreOutcome.DUPLICATE: Answer(0x0000, ""),
    StoreOutcome.CONFLICT: Answer(0x0000, ""),
    StoreOutcome.OWN_OBJECT: Answer(0x0000, ""),
    StoreOutcome.MISMATCH: Answer(0xA900, "Data set and command disagree on SOP Class or Instance"),
    StoreOutcome.UNREADABLE: Answer(0xC000, "Data set is truncated, malformed or unidentified"),
    StoreOutcome.NO_RESOURCES: Answer(0xA700, "Out of resources for now, please send again"),
}
_WRONG_CLASS: Final = Answer(0xA900, "SOP Class is not that of the presentation context")
_BAD_COMMAND: Final = Answer(0xC000, "The command lacks a valid SOP Class or Instance UID")


def status_of(answer: Answer) -> Dataset:
    """As the library wants it."""
    status = Dataset()
    status.Status = answer.status
    if answer.comment:
        status.ErrorComment = answer.comment
    return status


def command_fault(command: C_STORE | Dataset | StoreCommand, context: PresentationContext) -> Answer | None:
    """What is wrong with the command itself (rows 17, 18)."""
    try:
        checked_uid(said(command, "AffectedSOPInstanceUID"), "SOP Instance UID")
        sop_class = checked_uid(said(command, "AffectedSOPClassUID"), "SOP Class UID")
    except Unreadable:
        return _BAD_COMMAND
    return _WRONG_CLASS if sop_class != str(context.abstract_syntax) else None


def said(command: C_STORE | Dataset | StoreCommand, keyword: str) -> str:
    """An element of the command as text; "" where it is not there."""
    return str(getattr(command, keyword, None) or "")
