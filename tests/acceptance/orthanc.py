"""Orthanc as the hospital's PACS: its own routing by a Lua script, its own archive, asked by its REST interface.

A server of this test alone: its own configuration and storage in a temporary folder, HTTP for this machine only, DICOM
for the modalities that the test names.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from tests.acceptance.dcmtk import program
from tests.acceptance.node import free_port
from tests.acceptance.program import Program
from tests.builders.certificates import Pair

ROUTE_MR = """\
function OnStoredInstance(id, tags, metadata, origin)
   if tags['Modality'] == 'MR' and string.find(tags['SeriesDescription'] or '', 'T1', 1, true) then
      SendToModality(id, 'node')
   end
end
"""
"""Routing as a site would write it: T1 series of MR go to the node."""

ROUTE_EVERYTHING = """\
function OnStoredInstance(id, tags, metadata, origin)
   SendToModality(id, 'node')
end
"""
"""Routing as a careless site would write it: what the node itself sends comes back to it."""

REST_S = 30.0


class Orthanc(Program):
    """One Orthanc; `modalities` are the AE titles that may send to it and be sent to, with their ports, by name."""

    def __init__(self, folder: Path, ae_title: str = "PACS") -> None:
        """On ports that stay the same over `down` and `up`."""
        super().__init__(folder, free_port())
        self.ae_title = ae_title
        self.http_port = free_port()
        self.modalities: dict[str, tuple[str, int]] = {}
        self.lua = ""
        self.certificates: tuple[Pair, Path] | None = None
        """Its own, and whom it trusts; with them it speaks mutual TLS alone, with everybody."""

    @property
    def ports(self) -> Sequence[int]:
        """DICOM and HTTP."""
        return [self.port, self.http_port]

    def command(self) -> Sequence[str]:
        """Configuration and script are written anew at every start."""
        (self.folder / "route.lua").write_text(self.lua, "ascii")
        config = self.folder / "orthanc.json"
        config.write_text(json.dumps(self._configuration()), "ascii")
        return [program("Orthanc"), str(config)]

    def _configuration(self) -> dict[str, Any]:
        """Whoever is no modality of ours, by title and address, may do nothing."""
        return {
            "Name": "npc_rtnode tests",
            "StorageDirectory": str(self.folder / "storage"),
            "IndexDirectory": str(self.folder / "storage"),
            "Plugins": [],
            "LuaScripts": [str(self.folder / "route.lua")],
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomAet": self.ae_title,
            "DicomPort": self.port,
            "DicomCheckCalledAet": True,
            "DicomAlwaysAllowStore": False,
            "DicomCheckModalityHost": True,
            "DicomModalities": {name: self._modality(*place) for name, place in self.modalities.items()},
            "DicomAssociationCloseDelay": 0,
            "StableAge": 1,
            **self._tls(),
        }

    def _modality(self, ae_title: str, port: int) -> dict[str, Any]:
        return {"AET": ae_title, "Host": "127.0.0.1", "Port": port, "UseDicomTls": self.certificates is not None}

    def _tls(self) -> dict[str, Any]:
        """Orthanc's settings of DICOM TLS (1.9.3 and later), both as server and as client."""
        if self.certificates is None:
            return {}
        pair, trusted = self.certificates
        return {
            "DicomTlsEnabled": True,
            "DicomTlsRemoteCertificateRequired": True,
            "DicomTlsCertificate": str(pair.certificate),
            "DicomTlsPrivateKey": str(pair.key),
            "DicomTlsTrustedCertificates": str(trusted),
        }

    # --- REST ---------------------------------------------------------------------------------------------------------

    def get(self, path: str) -> Any:
        """A JSON document."""
        return json.loads(self.fetch(path))

    def fetch(self, path: str, body: Any = None) -> bytes:
        """A document as bytes; with a body by POST."""
        data = None if body is None else json.dumps(body).encode()
        with urlopen(Request(f"http://127.0.0.1:{self.http_port}{path}", data), timeout=REST_S) as answer:
            return bytes(answer.read())

    def find(self, level: str, **query: str) -> list[str]:
        """Orthanc's identifiers of the resources that match."""
        return list(json.loads(self.fetch("/tools/find", {"Level": level, "Query": query})))

    def modalities_of(self, study_uid: str) -> list[str]:
        """The Modality of each instance of a study, sorted."""
        found = self.find("Instance", StudyInstanceUID=study_uid)
        return sorted(str(self.get(f"/instances/{each}/simplified-tags")["Modality"]) for each in found)

    def download(self, study_uid: str, folder: Path) -> list[Path]:
        """Every instance of a study as the files that Orthanc gives out."""
        folder.mkdir(parents=True, exist_ok=True)
        kept = []
        for each in self.find("Instance", StudyInstanceUID=study_uid):
            kept.append(folder / f"{each}.dcm")
            kept[-1].write_bytes(self.fetch(f"/instances/{each}/file"))
        return kept

    def send(self, modality: str, resources: Sequence[str]) -> Any:
        """Orthanc's own C-STORE of these resources, in one association, waited for; how many failed."""
        body = {"Resources": list(resources), "Synchronous": True}
        return json.loads(self.fetch(f"/modalities/{modality}/store", body))
