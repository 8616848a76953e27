"""`echo` and `send`: the two things an administrator tries first."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from npc_rtnode.cli.console import AsJson, Config, DryRun, answer, err, out, settings_of
from npc_rtnode.errors import ConfigFault, Forbidden, ObjectRefused
from npc_rtnode.settings import Destination, Settings

if TYPE_CHECKING:
    from npc_rtnode.adapters.dicom.sender import FileOutcome

_ADDRESS = re.compile(r"(?P<ae>[^@]{1,16})@(?P<host>[^:@]+|\[[0-9a-fA-F:]+\]):(?P<port>\d{1,5})")
Peer = Annotated[str, typer.Argument(help="AET@HOST:PORT, or the name of a configured destination.")]
Calling = Annotated[str | None, typer.Option("-aet", "--calling-aet", help="Our AE title towards the peer.")]
Called = Annotated[str | None, typer.Option("-aec", "--called-aet", help="The peer's AE title, if not as named.")]


def echo(peer: Peer, aet: Calling = None, aec: Called = None, config: Config = None, as_json: AsJson = False) -> None:
    """C-ECHO a peer; exit 60 unreachable, 61 rejected."""
    from npc_rtnode.adapters.dicom.sender import DicomSender

    settings = settings_of(config)
    destination = _destination(settings, peer, aet, aec)
    seconds = DicomSender(tls=settings.tls).echo(destination)
    if as_json:
        answer(
            {"ok": True, "peer": f"{destination.ae_title}@{destination.host}:{destination.port}", "seconds": seconds}
        )
    else:
        out().print(f"{destination.ae_title} answers after {seconds * 1000:.0f} ms", markup=False)


def send(
    peer: Peer,
    files: Annotated[list[Path], typer.Argument(exists=True, help="DICOM files or folders.")],
    aet: Calling = None,
    aec: Called = None,
    config: Config = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """C-STORE files to a peer, for tests and backfill; exit 62 when it refuses any.

    Results of this node go to a configured destination with `test = true` alone; `resend` is the way for the others.
    """
    from npc_rtnode.adapters.dicom.sender import send_files

    settings = settings_of(config)
    destination = _destination(settings, peer, aet, aec)
    paths = sorted(p for f in files for p in ([f] if f.is_file() else f.rglob("*")) if p.is_file())
    if not (destination.test and aec is None):
        _refuse_results(paths)
    if dry_run:
        out().print(
            f"would send {len(paths)} files to {destination.ae_title}@{destination.host}:{destination.port}",
            markup=False,
        )
        return
    results = send_files(paths, destination, destination.calling_ae, settings.tls)
    refused = [result for result in results if not result.stored]
    if as_json:
        answer(
            {"sent": len(results) - len(refused), "refused": [{"file": str(r.path), "why": _why(r)} for r in refused]}
        )
    else:
        out().print(f"{len(results) - len(refused)} accepted, {len(refused)} refused")
    for result in refused:
        err().print(f"{result.path}: {_why(result)}", markup=False)
    if refused:
        raise ObjectRefused(f"{len(refused)} of {len(results)}")


def _refuse_results(paths: list[Path]) -> None:
    """ADR 0006: no verb carries a held result to a system that patients are treated from, and files forget their hold.

    Raises Forbidden, or Unreadable for what is no DICOM file, before anything is sent.
    """
    from pydicom.tag import Tag

    from npc_rtnode.adapters.dicom.identity import CREATOR_UID, raw_bytes, read_raw

    creators = [raw_bytes(read_raw(path, ["InstanceCreatorUID"]), Tag("InstanceCreatorUID")) for path in paths]
    own = sum(creator.rstrip(b"\0 ") == CREATOR_UID.encode("ascii") for creator in creators)
    if own:
        raise Forbidden(
            f"{own} of {len(paths)} files are results of this node. `npc-rtnode resend` sends a result that may be "
            "sent; by `send` it goes to a configured destination with test = true alone, named as in the settings."
        )


def _why(result: FileOutcome) -> str:
    return result.error or f"status 0x{result.status:04X}"


def _destination(settings: Settings, peer: str, aet: str | None, aec: str | None) -> Destination:
    match = _ADDRESS.fullmatch(peer)
    if match is None:
        found = settings.destination(peer)
    else:
        host = match["host"].strip("[]")
        found = _made(name="peer", ae_title=match["ae"], host=host, port=int(match["port"]))
    changes = {key: value for key, value in (("calling_ae", aet), ("ae_title", aec)) if value}
    return _made(**{**found.model_dump(), **changes})


def _made(**values: object) -> Destination:
    try:
        return Destination.model_validate(values)
    except ValueError as error:
        raise ConfigFault(str(error)) from None
