"""`pull`: have an archive send an older study to this node, through the same listener as everything else.

An archive's counts are its own word. What came is counted in the ledger, and where that is less, the verb says so.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Final

import typer

from npc_rtnode.adapters.database import schema
from npc_rtnode.adapters.database.desk import Word
from npc_rtnode.app import Station, utc_now
from npc_rtnode.cli.console import AsJson, Config, DryRun, Reason, lines, operator, settings_of
from npc_rtnode.errors import ConfigFault, NotAllCame, NotFound
from npc_rtnode.settings import Archive, Settings

if TYPE_CHECKING:
    from npc_rtnode.adapters.dicom.archive import Found, Moved

MODALITY = "MR"
"""Of the series that are fetched; the node reads no other."""

PATIENCE_S: Final = 60.0
"""What was received is in the ledger seconds later; where the database is away, it is waited for so long."""
_LOOK_S: Final = 0.1

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
    """Have an archive send the MR series of a study here (C-FIND, C-MOVE); exit 60 when not all of it is here then."""
    settings = settings_of(config)
    source, station = _archive(settings, archive), Station(settings)
    schema.require_head(station.engine)
    word, wanted = Word(operator(), reason, utc_now(), dry_run), _series(settings, source, accession)
    if dry_run:
        lines([f"a series of {_number(one)} instances is fetched from {source.name}" for one in wanted], True, as_json)
        return
    fetched = [_fetch(station, source, one, word) for one in wanted]
    lines([one.told() for one in fetched if one.is_whole], False, as_json)
    if short := [one.told() for one in fetched if not one.is_whole]:
        raise NotAllCame(" ".join([*short, "What came is kept."]))


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


def _number(found: Found) -> str:
    return "?" if found.instances is None else str(found.instances)


@dataclass(frozen=True)
class Fetched:
    """One series, by the archive's words and by our ledger."""

    archive: str
    study: str
    found: Found
    moved: Moved
    here: int
    late: int = 0  # records that the ledger has not taken yet

    @property
    def sent(self) -> int:
        """How many instances the archive says that it has sent."""
        return self.moved.completed + self.moved.warnings

    @property
    def missing(self) -> int:
        """How many instances of which the archive has told, whenever it did, are not in the ledger."""
        return max(self.found.instances or 0, self.sent + self.moved.failed) - self.here

    @property
    def is_whole(self) -> bool:
        """Whether something was sent, nothing failed, and the ledger has all of it."""
        return self.sent > 0 and self.moved.failed == 0 and self.missing <= 0

    def told(self) -> str:
        """In a sentence, with what to look at where it is not whole."""
        if self.is_whole:
            return (
                f"study {self.study}: a series of {self.sent} instances came from {self.archive}; {self.here} are here"
            )
        counts = f"{_number(self.found)} in the series, {self.sent} sent, {self.moved.failed} failed"
        missing = f"study {self.study}: of a series {max(self.missing, 0)} instances are missing"
        return f"{missing}: {self.archive} says {counts}; {self.here} are here. {self._hint()}"

    def _hint(self) -> str:
        if self.late:
            return f"{self.late} records of the intake journal wait for the ledger: look again (`npc-rtnode status`)."
        if self.moved.failed:
            return "Does the receiver run, and does the archive have its address?"
        if not self.sent:
            return "Does the archive know this node's address under the called AE title?"
        return "Compare with the archive's own list of the series, and pull again."


def _fetch(station: Station, source: Archive, found: Found, word: Word) -> Fetched:
    """One series; asked for and come, both stand in the journal with who wanted it."""
    from npc_rtnode.adapters.dicom.archive import pull as move

    settings, site_key = station.settings, station.home.site_key()
    asked = {"archive": source.name, "asked": f"{_number(found)} instances"}
    study = station.desk.pull(found.study_uid, site_key, word, asked)
    moved = move(source, settings.tls, found, settings.listener.called[0].ae_title)
    late = _awaited(station)
    fetched = Fetched(source.name, study, found, moved, station.queries.instances_of(found.series_uid), late)
    came = {"archive": source.name, "came": fetched.here, "sent": fetched.sent, "failed": moved.failed}
    station.desk.pull(found.study_uid, site_key, replace(word, at=utc_now()), came)
    return fetched


def _awaited(station: Station) -> int:
    """Wait until the ledger has every record that the intake journal has now; how many it does not have after all."""
    numbers = _waiting(station)
    deadline = time.monotonic() + PATIENCE_S
    while numbers and time.monotonic() < deadline:
        time.sleep(_LOOK_S)
        entered = station.queries.entered()
        numbers = [number for number in numbers if number > entered]
    return len(numbers)


def _waiting(station: Station) -> list[int]:
    while True:
        with suppress(FileNotFoundError):  # a segment that the journal let go of meanwhile: the ledger has it
            return [noted.number for noted in station.notes.waiting(station.queries.entered())]
