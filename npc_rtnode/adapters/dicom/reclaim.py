"""Stored files of which no ledger says any more what they are: read as they were when they were handed over."""

from __future__ import annotations

from pathlib import Path

from pydicom.filereader import read_file_meta_info

from npc_rtnode.adapters.dicom.elements import UNREADABLE, quietly, read_elements, uid_of
from npc_rtnode.adapters.dicom.structure import StructureReader
from npc_rtnode.domain.records import Arrival, AssociationInfo, StoreRequest
from npc_rtnode.errors import Unreadable


class StoredFileReader:
    """Fulfils ports.StoredReader. The names of the files are their digests."""

    def arrival(self, file: Path, association: AssociationInfo) -> Arrival:
        """The instance by its own file meta group, walked to its last byte as the receiver did; raises Unreadable."""
        structure, request = StructureReader(), _request(file, association)
        data, prefix = file.read_bytes(), structure.file_prefix(request)
        if not data.startswith(prefix):
            raise Unreadable(f"The file {file.name[:12]} was not written by a receiver.")
        identity = structure.identify(memoryview(data)[len(prefix) :], request.transfer_syntax_uid)
        return Arrival(identity, request, file.name, len(data))

    def sop_uid(self, file: Path) -> str:
        """Of an object of ours."""
        if uid := uid_of(read_elements(file, ["SOPInstanceUID"]), "SOPInstanceUID"):
            return uid
        raise Unreadable(f"The file {file.name[:12]} names no instance.")


def _request(file: Path, association: AssociationInfo) -> StoreRequest:
    try:
        with quietly():
            meta = read_file_meta_info(file)
            uids = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID
    except UNREADABLE as error:
        raise Unreadable(f"The file {file.name[:12]} has no file meta group ({type(error).__name__}).") from None
    return StoreRequest(association, *map(str, uids))
