"""`fsck`: the fourteen promises of the node, looked at on disk and in the ledger; nothing is changed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from npc_rtnode.adapters.database import schema
from npc_rtnode.adapters.database.admission import AdmissionLedger
from npc_rtnode.adapters.database.proof import ProofLedger
from npc_rtnode.app import LATE_S, MEGABYTE, Station, utc_now
from npc_rtnode.cli.console import AsJson, Config, answer, out, settings_of, table
from npc_rtnode.domain.invariants import BY_CODE, HouseFacts, Looked
from npc_rtnode.pipeline.fsck import Checker
from npc_rtnode.pipeline.sweep import LEFT_S

TOLD = 20
"""So many breaches of one promise are told; `--json` has all of them."""
FILES_OPEN = 800
"""Of the receiver: select() fails above 1024 (intake.md 1.2 row 12)."""
THREADS_BESIDE = 64
"""Of the receiver, beside two for each association that it may have."""


def fsck(
    config: Config = None,
    quick: Annotated[bool, typer.Option(help="Sizes instead of digests; the received bytes are not walked.")] = False,
    log_files: Annotated[
        list[Path] | None, typer.Option("--log", help="A log file in which no patient may be named; may be repeated.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Look at all fourteen promises; exit 1 when one is broken. May run beside a node at work; reads only."""
    station = Station(settings_of(config))
    schema.require_head(station.engine)
    found = checker(station, quick, log_files or []).run()
    station.close()
    if as_json:
        answer({"whole": all(one.holds for one in found), "promises": [_document(one) for one in found]})
    else:
        _print(found)
    if not all(one.holds for one in found):
        raise typer.Exit(1)


def checker(station: Station, quick: bool = False, log_files: list[Path] | None = None) -> Checker:
    """Everything that `fsck` looks at, of this node."""
    from npc_rtnode.adapters.dicom.proof import ProofReader

    return Checker(
        pages=ProofLedger(station.sessions),
        shelves=station.proof_shelves,
        reader=ProofReader(),
        house=lambda: HouseFacts(tuple(_numbers(station))),
        texts=lambda: _texts(station, log_files or []),
        clock=utc_now,
        quick=quick,
    )


def _document(one: Looked) -> dict[str, Any]:
    promise = BY_CODE[one.code]
    return {
        "code": one.code,
        "promise": promise.says,
        "checked": one.checked,
        "broken": len(one.breaches),
        "skipped": one.skipped,
        "counts": dict(one.counts),
        "breaches": list(one.breaches),
        "todo": "" if one.holds else promise.todo,
    }


def _print(found: list[Looked]) -> None:
    rows = [
        (one.code, "holds" if one.holds else "BROKEN", one.checked, len(one.breaches), one.skipped, _told(one))
        for one in found
    ]
    table("", ("promise", "outcome", "checked", "broken", "skipped", "what"), rows)
    for one in (one for one in found if not one.holds):
        more = [f"  … and {len(one.breaches) - TOLD} more"] if len(one.breaches) > TOLD else []
        said = [f"{one.code}: {BY_CODE[one.code].todo}", *(f"  {words}" for words in one.breaches[:TOLD]), *more]
        out().print("\n".join(said), markup=False)


def _told(one: Looked) -> str:
    counts = ", ".join(f"{number} {what}" for what, number in one.counts.items())
    return BY_CODE[one.code].says + (f" ({counts})" if counts else "")


# --- the machine ------------------------------------------------------------------------------------------------------


def _numbers(station: Station) -> Iterator[tuple[str, float, float]]:
    """I12: what is counted on this machine, with its bound."""
    short = station.settings.listener.reserve_free_mb * MEGABYTE - station.spool.free_bytes()
    yield "MB of the spool's reserve that are not free", max(0, short // MEGABYTE), 0
    yield f"unfinished files older than {LEFT_S} s", sum(_is_old(path) for path in _parts(station.home.root)), 0
    if limit := station.settings.admission.max_backlog:
        yield "jobs that wait", AdmissionLedger(station.sessions).backlog(), limit
    yield f"records of the intake journal that wait for longer than {LATE_S} s", station.late_records(), 0
    yield "stretches of the intake journal that could not be read", len(station.notes.damaged()), 0
    yield "instances that the ledger could not take and that were not sent again", station.queries.without_row(), 0
    if pid := _receiver(station.home.listener_file):
        yield from _process(pid, THREADS_BESIDE + 2 * station.settings.listener.max_associations)


def _parts(root: Path) -> Iterator[Path]:
    for folder in ("spool/incoming", "outbox/incoming", "work"):
        yield from (root / folder).glob("*.part")


def _is_old(path: Path) -> bool:
    with suppress(FileNotFoundError):
        return utc_now().timestamp() - path.stat().st_mtime > LEFT_S
    return False


def _receiver(listener_file: Path) -> int | None:
    """The receiver's process, where one says that it listens."""
    with suppress(FileNotFoundError, ValueError, KeyError):
        pid = int(json.loads(listener_file.read_text("ascii"))["pid"])
        return pid if Path(f"/proc/{pid}").exists() else None
    return None


def _process(pid: int, threads: int) -> Iterator[tuple[str, float, float]]:
    with suppress(OSError):  # it has ended meanwhile, or is another user's
        yield "files that the receiver has open", len(os.listdir(f"/proc/{pid}/fd")), FILES_OPEN
        yield "threads of the receiver", len(os.listdir(f"/proc/{pid}/task")), threads


def _texts(station: Station, log_files: list[Path]) -> Iterator[tuple[str, str]]:
    """I11 beside the ledger: names of files and folders below the home, and logs line by line."""
    yield "a file name", "\n".join(str(path.relative_to(station.home.root)) for path in station.home.root.rglob("*"))
    for path in log_files:
        with path.open("r", encoding="utf-8", errors="replace") as stream:
            yield from ((f"{path.name}, line {number}", line) for number, line in enumerate(stream, 1))
