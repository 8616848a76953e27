"""What `doctor` looks at: each check says what it found and, where something is off, what to do."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npc_rtnode.adapters.database import health, schema
from npc_rtnode.adapters.database.commitments import CommitmentLedger
from npc_rtnode.adapters.database.constancy import ConstancyLedger
from npc_rtnode.adapters.database.recipes import RecipeLedger
from npc_rtnode.app import LATE_S, RESULTS_MB, Home, Station
from npc_rtnode.cli.qa import newest
from npc_rtnode.cli.status import admission_of
from npc_rtnode.domain.admission import Level
from npc_rtnode.domain.constancy import RunState
from npc_rtnode.errors import NodeError
from npc_rtnode.settings import Destination, InferSettings, ListenerSettings, Settings, TlsSettings

if TYPE_CHECKING:
    from npc_rtnode.adapters.dicom.expiry import Expiry
    from npc_rtnode.adapters.predictor import BundlePredictor

GOOD, WARNING, FAULT = "good", "warning", "fault"


@dataclass(frozen=True)
class Check:
    """One thing looked at."""

    name: str
    outcome: str
    said: str
    fix: str = ""


def examine(settings: Settings, golden: bool) -> list[Check]:
    """Every check, in the order in which things depend on one another."""
    return [
        *_home(settings),
        *_ledger(settings),
        *_listener(settings),
        _rules(settings),
        *_bundle(settings.infer, golden),
        _libraries(),
        *_certificates(settings.tls),
        *_way_of_the_phantom(settings),
        *_destinations(settings),
        _clock(settings),
    ]


def _home(settings: Settings) -> Iterator[Check]:
    root = settings.node.home
    if not os.access(root if root.exists() else root.parent, os.W_OK):
        yield Check("home", FAULT, f"{root} cannot be written by this user", "create it and give it to the node's user")
        return
    yield Check("home", GOOD, f"{root} is writable")
    yield from _disks(root if root.exists() else root.parent, settings.listener.reserve_free_mb)


def _disks(root: Path, reserve_mb: int) -> Iterator[Check]:
    """The home's file system, and those of the folders in it that are mounted by themselves."""
    yield _disk("disk", root, reserve_mb, "free space, or the node refuses instances with A700")
    if (spool := root / "spool").is_mount():
        yield _disk("disk of spool", spool, reserve_mb, "free space, or the node refuses instances with A700")
    for folder in (root / "work", root / "outbox"):
        if folder.is_mount():
            yield _disk(f"disk of {folder.name}", folder, RESULTS_MB, "free space, or jobs wait as DISK_LOW")


def _disk(name: str, folder: Path, wanted_mb: int, fix: str) -> Check:
    free_mb = shutil.disk_usage(folder).free >> 20
    low = free_mb <= wanted_mb
    said = f"{free_mb} MB free, {wanted_mb} MB wanted free"
    return Check(name, FAULT if low else GOOD, said, fix if low else "")


def _ledger(settings: Settings) -> Iterator[Check]:
    try:
        with closing(Station(settings)) as station:
            yield from _ledger_of(station)
    except (NodeError, OSError) as error:
        yield Check("ledger", FAULT, _coded(error), "`npc-rtnode db upgrade`; is the database up, and may we write?")


def _ledger_of(station: Station) -> Iterator[Check]:
    schema.require_head(station.engine)
    health.require_rights(station.sessions)
    counts, weak = station.queries.counts(), health.not_durable(station.engine)
    yield Check("ledger", GOOD, f"{station.engine.dialect.name}, schema at {schema.head()}, writable")
    if weak:
        yield Check(
            "durability", FAULT, f"the server runs with {', '.join(weak)}", "power loss loses instances: set on"
        )
    refused, back = counts["rejected_associations"], counts["came_back"]
    said = f"{counts['instances']} instances, {refused} associations refused, {back} own objects came back"
    yield Check("traffic", GOOD, said)
    yield _journal(len(station.notes.damaged()), station.late_records())
    yield _admission(station, counts)
    yield _commitments(CommitmentLedger(station.sessions).counts())
    for host, words in RecipeLedger(station.sessions).told(station.clock()).items():
        yield Check(
            f"worker host {host}",
            WARNING,
            words,
            "on that host: give it the node's bundle and settings, or mend what it says",
        )
    if said := newest(ConstancyLedger(station.sessions)):
        alarm = RunState.ALARM in said
        yield Check("constancy", WARNING if alarm else GOOD, said, "`npc-rtnode qa trend`" if alarm else "")


def _admission(station: Station, counts: dict[str, Any]) -> Check:
    door = admission_of(station)
    numbers = f"{door['free_mb']} MB free, {door['backlog']} jobs wait"
    past = f"{counts['refused_for_now']} associations and {counts['images_refused']} images were refused so far"
    said = f"{door['level']}: {door['because'] or numbers}; shut {door['times_shut']} times, {past}"
    outcome = {Level.OPEN: GOOD, Level.LOW: WARNING}.get(door["level"], FAULT)
    fix = "free space, or wait until the backlog is worked off: senders are asked to try again"
    return Check("admission", outcome, said, "" if outcome == GOOD else fix)


def _journal(damaged: int, late: int) -> Check:
    """What was acknowledged and is not in the ledger: it cannot be read, or it waits."""
    said = f"{damaged} stretches cannot be read, {late} records wait for longer than {LATE_S} s"
    if damaged:
        fix = "look at the disk (smartctl, dmesg); have what came then sent again; remove spool/journal/damaged-*"
        return Check("intake journal", FAULT, said, fix)
    fix = "does the receiver run? is the database up, and may it be written?" if late else ""
    return Check("intake journal", WARNING if late else GOOD, said, fix)


def _commitments(counts: dict[str, int]) -> Check:
    """What is owed to who asked whether its instances are safe here."""
    owed, failed = counts.get("PENDING", 0), counts.get("FAILED", 0)
    said = f"{counts.get('REPORTED', 0)} reported, {owed} owed, {failed} given up"
    fix = "the log names the reason; the requester may ask again" if failed else ""
    return Check("storage commitment", WARNING if failed else GOOD, said, fix)


def _coded(error: NodeError | OSError) -> str:
    return f"{error.code}: {error}" if isinstance(error, NodeError) else str(error)


def _listener(settings: Settings) -> Iterator[Check]:
    listener = settings.listener
    if not listener.peers:
        yield Check("peers", WARNING, "nobody is named in listener.peers: every sender is refused", "name the PACS")
    else:
        yield Check("peers", GOOD, ", ".join(f"{p.ae_title} from {' '.join(p.networks)}" for p in listener.peers))
    yield _port(settings, listener)


def _port(settings: Settings, listener: ListenerSettings) -> Check:
    path = Home(settings.node.home).listener_file
    if path.exists():
        running = json.loads(path.read_text("ascii"))
        if os.path.exists(f"/proc/{running['pid']}"):
            return Check("port", GOOD, f"our receiver listens on {listener.host}:{running['port']}")
    try:
        with socket.create_server((listener.host, listener.port)):
            return Check("port", GOOD, f"{listener.host}:{listener.port} is free; the node is not running")
    except OSError as error:
        return Check(
            "port", FAULT, f"{listener.host}:{listener.port}: {error.strerror}", "another program has the port"
        )


def _rules(settings: Settings) -> Check:
    from npc_rtnode.adapters.rules import load_rule_file

    try:
        rules = load_rule_file(settings.select.rules)
    except NodeError as error:
        return Check("rules", FAULT, str(error), "`npc-rtnode rules test FOLDER` with the mended file")
    return Check("rules", GOOD, f"{rules.name} ({rules.hash[:12]})")


def _bundle(infer: InferSettings, golden: bool) -> Iterator[Check]:
    from npc_rtnode.adapters.predictor import BundlePredictor

    predictor = BundlePredictor(infer)
    try:
        bundle = predictor.statement()
    except NodeError as error:
        yield Check("bundle", FAULT, str(error), "set infer.bundle to a whole bundle folder")
        return
    said = f"{bundle.name} {bundle.version} ({bundle.sha256[:12]}), data: {bundle.data}"
    fix = "only phantoms and test destinations get its results" if bundle.synthetic else ""
    yield Check("bundle", WARNING if bundle.synthetic else GOOD, said, fix)
    if golden:
        yield _golden_case(predictor)


def _golden_case(predictor: BundlePredictor) -> Check:
    try:
        return Check("golden case", GOOD, predictor.prove())
    except NodeError as error:
        return Check("golden case", FAULT, str(error), "do not use this machine; see RUNBOOK")
    finally:
        predictor.close()


def _libraries() -> Check:
    try:
        import cv2  # noqa: F401 - rt-utils needs it, and its non-headless build fails without X libraries
        import rt_utils  # noqa: F401
    except ImportError as error:
        return Check("libraries", FAULT, str(error), "install opencv-python-headless by the shims in deploy/shims")
    return Check("libraries", GOOD, "rt-utils and OpenCV load")


def _certificates(tls: TlsSettings) -> Iterator[Check]:
    """How long they are good, whether they fit together, and whether the key is for the node's user alone."""
    from npc_rtnode.adapters.dicom.expiry import expiries
    from npc_rtnode.adapters.dicom.tls import server_context

    if not tls.in_force:
        yield Check("TLS", GOOD, "not set up: DICOM travels as plain text")
        return
    try:
        server_context(tls)
        yield from (_expiry(one, tls.warn_days) for one in expiries(tls))
    except NodeError as error:
        yield Check("TLS", FAULT, _coded(error), "make the three files of [tls] a set that this user may read")
        return
    if os.stat(tls.key).st_mode & 0o077:
        yield Check("tls.key", WARNING, "others than the node's user may read the private key", "chmod 600")


def _way_of_the_phantom(settings: Settings) -> Iterator[Check]:
    """Where constancy calls this node by TLS: whether the node would trust itself."""
    from npc_rtnode.adapters.dicom.tls import names_of_ours

    if not (settings.qa.enabled and settings.calls_itself_by_tls):
        return
    fix = "have tls.trusted name the authority of tls.certificate, or set listener.plaintext_port"
    try:
        names_of_ours(settings.tls)
    except NodeError as error:
        yield Check("constancy by TLS", FAULT, _coded(error), fix)
    else:
        yield Check("constancy by TLS", GOOD, "the phantom comes with this node's own certificate")


def _expiry(one: Expiry, warn_days: int) -> Check:
    from npc_rtnode.adapters.dicom.expiry import LAST_DAYS

    left = one.days_left(datetime.now(UTC))
    outcome = FAULT if left < LAST_DAYS else WARNING if left < warn_days else GOOD
    fix = "" if outcome == GOOD else "renew it: a changed file is read again without a restart"
    return Check(one.what, outcome, f"good until {one.until:%Y-%m-%d}, {left} days", fix)


def _destinations(settings: Settings) -> Iterator[Check]:
    if not settings.destinations:
        yield Check("destinations", WARNING, "none is configured: every result is held", "add [[destinations]]")
    for destination in settings.destinations:
        yield _destination(destination, settings.tls)


def _destination(destination: Destination, tls: TlsSettings) -> Check:
    from npc_rtnode.adapters.dicom.sender import DicomSender

    name, sender = f"destination {destination.name}", DicomSender(tls=tls)
    try:
        seconds = sender.echo(destination)
        takes = sender.negotiate(destination)
    except NodeError as error:
        return Check(name, FAULT, f"{error.code}: {error}", "is it up, and does it know our AE title and address?")
    refused = [str(kind) for kind in destination.objects if not takes[kind]]
    taken = ", ".join(kind for kind, yes in takes.items() if yes) or "none of our objects"
    said = f"C-ECHO {seconds * 1000:.0f} ms; accepts {taken}"
    if refused:
        return Check(name, FAULT, said, f"it does not accept {', '.join(refused)}: change its set-up or `objects`")
    return Check(name, GOOD, said)


def _clock(settings: Settings) -> Check:
    here = datetime.now().astimezone().strftime("%z")
    said = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC; objects say {settings.node.utc_offset}, this machine {here}"
    same = here == settings.node.utc_offset
    return Check("clock", GOOD if same else WARNING, said, "" if same else "set node.utc_offset to the site's offset")
