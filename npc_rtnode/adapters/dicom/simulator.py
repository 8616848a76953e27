"""A PACS or TPS for demonstrations and tests: takes every object, on this machine alone, and remembers it.

It is no part of the daemon. It asks nobody who they are, so it binds to 127.0.0.1 and nothing else.
"""

from __future__ import annotations

import secrets
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made by pynetdicom at import
from pynetdicom.transport import ThreadedAssociationServer

from npc_rtnode.adapters.dicom.listener.offer import STORAGE_CLASSES
from npc_rtnode.adapters.dicom.structure import TRANSFER_SYNTAXES, StructureReader
from npc_rtnode.domain.identifiers import sha256_hex
from npc_rtnode.domain.records import AssociationInfo, ReceivedInstance

SUCCESS: Final = 0x0000


@dataclass(frozen=True)
class StoredObject:
    """One object as it came: its names, its bytes, and the file that it became."""

    sop_class_uid: str
    sop_uid: str
    transfer_syntax_uid: str
    calling_ae: str
    encoded: bytes
    path: Path


class StoringSCP:
    """A Storage SCP that says yes; `received` grows in the order of arrival."""

    def __init__(self, ae_title: str, folder: Path, storage_classes: tuple[str, ...] = STORAGE_CLASSES) -> None:
        """Files go to `folder` (made if absent); classes left out are refused as presentation contexts."""
        self.received: list[StoredObject] = []
        self._folder = folder
        self._server: ThreadedAssociationServer | None = None
        self._lock = threading.Lock()
        self._ae = AE(ae_title)
        for storage_class in storage_classes:
            self._ae.add_supported_context(storage_class, list(TRANSFER_SYNTAXES))
        self._ae.add_supported_context(Verification)

    def start(self, port: int = 0) -> int:
        """Serve in a thread; returns the port (0 takes any free one)."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._server = self._ae.start_server(("127.0.0.1", port), block=False, evt_handlers=self.handlers())
        assert self._server is not None  # noqa: S101  # block=False always returns a server
        return int(self._server.server_address[1])

    def stop(self) -> None:
        """Abort what is open and close the port."""
        self._ae.shutdown()

    def handlers(self) -> list[Any]:
        """pynetdicom event handlers."""
        return [(evt.EVT_C_STORE, self.on_store)]

    def on_store(self, event: Any) -> int:
        """Keep the object under the digest of its bytes; the status to answer with."""
        received = _received(event)
        data = StructureReader().file_prefix(received) + received.encoded
        path = self._folder / f"{sha256_hex(data)}.dcm"
        part = self._folder / f"{secrets.token_hex(8)}.part"
        part.write_bytes(data)
        part.replace(path)  # whoever reads what came before, the same bytes perhaps, finds them whole
        with self._lock:
            self.received.append(
                StoredObject(
                    received.sop_class_uid,
                    received.sop_uid,
                    received.transfer_syntax_uid,
                    received.association.calling_ae,
                    received.encoded,
                    path,
                )
            )
        return SUCCESS


def _received(event: Any) -> ReceivedInstance:
    request, requestor = event.request, event.assoc.requestor
    info = AssociationInfo("", str(requestor.ae_title), str(event.assoc.acceptor.ae_title), str(requestor.address))
    return ReceivedInstance(
        info,
        str(request.AffectedSOPClassUID),
        str(request.AffectedSOPInstanceUID),
        str(event.context.transfer_syntax),
        request.DataSet.getvalue(),
    )
