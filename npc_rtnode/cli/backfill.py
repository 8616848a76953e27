"""`pull`: have an archive send an older study to this node, through the same listener as everything else."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from npc_rtnode.adapters.database import schema
from npc_rtnode.adapters.database.desk import Word
from npc_rtnode.app import Station, utc_now
from npc_rtnode.cli.console import AsJson, Config, DryRun, Reason, lines, operator, settings_of
from npc_rtnode.errors import ConfigFault, NotFound, PeerError
from npc_rtnode.settings import Archive, Settings

if TYPE_CHECKING:
    from npc_rtnode.adapters.dicom.archive import Found, Moved

MODALITY = "MR"
"""Of the series that are fetched; the node reads no other."""

Accession = Annotated[str, typer.Option(help="The accession number of the study.")]
From = Annotated[str | None, typer.Option("--from", help="The archive by its name; not needed where there is one.")]


def pull(
    accession: Accession,
    reason: Reason,
    archive: From = None,
    config: Config = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Have an archive send the MR series of a study here (C-FIND, C-MOVE); exit 60 when not all of it comes."""
    settings = settings_of(config)
    source, station = _archive(settings, archive), Station(settings)
    schema.require_head(station.engine)
    word = Word(operator(), reason, utc_now(), dry_run)
    lines([_fetch(station, source, found, word) for found in _series(settings, source, accession)], dry_run, as_json)


def _archive(settings: Settings, name: str | None) -> Archive:
    if name is None and len(settings.archives) != 1:
        known = ", ".join(one.name for one in settings.archives) or "none"
        raise ConfigFault(f"name the archive by --from; configured in [[archives]]: {known}")
    return settings.archives[0] if name is None else settings.archive(name)


def _series(settings: Settings, source: Archive, accession: str) -> list[Found]:
    from npc_rtnode.adapters.dicom.archive import series_of, studies_of

    studies = studies_of(source, settings.tls, accession)
    found = [one for study in studies for one in series_of(source, settings.tls, study, modality=MODALITY)]
    if not found:
        raise NotFound(f"{source.name} has no {MODALITY} series under this accession number")
    return found


def _fetch(station: Station, source: Archive, found: Found, word: Word) -> str:
    """One series; asked for and come, both stand in the journal with who wanted it."""
    from npc_rtnode.adapters.dicom.archive import pull as move

    asked = f"{found.instances if found.instances is not None else '?'} instances"
    if word.dry_run:
        return f"a series of {asked} is fetched from {source.name}"
    study = station.desk.pull(found.study_uid, station.home.site_key(), word, {"archive": source.name, "asked": asked})
    settings = station.settings
    moved = move(source, settings.tls, found, settings.listener.called[0].ae_title)
    word = replace(word, at=utc_now())
    said = {"archive": source.name, "came": moved.completed + moved.warnings, "failed": moved.failed}
    station.desk.pull(found.study_uid, station.home.site_key(), word, said)
    return _told(source, moved, study)


def _told(source: Archive, moved: Moved, study: str) -> str:
    if moved.failed:
        raise PeerError(
            f"{moved.failed} instances of study {study} did not come from {source.name}: does the receiver run, and "
            "does the archive have its address? What came is kept"
        )
    if not moved.completed + moved.warnings:
        raise PeerError(
            f"{source.name} says that it is done, and has sent nothing of study {study}: does it know this node's "
            "address under the called AE title?"
        )
    return f"study {study}: a series of {moved.completed + moved.warnings} instances came from {source.name}"
