"""The room that knows everybody: builds the two roles, starts them in order, stops them in order.

`receive` is small and never imports torch; `work` assembles, selects, infers, writes and delivers. They share the spool
and the ledger, nothing else.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import signal
import ssl
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Protocol

from filelock import FileLock, Timeout

import npc_rtnode
from npc_rtnode import log
from npc_rtnode.adapters.database import schema
from npc_rtnode.adapters.database.admission import AdmissionLedger
from npc_rtnode.adapters.database.carrier import CPU, GPU, RESOURCES, Embedded
from npc_rtnode.adapters.database.carrier import sending as send_to
from npc_rtnode.adapters.database.clock import LedgerClock
from npc_rtnode.adapters.database.commitments import CommitmentLedger
from npc_rtnode.adapters.database.constancy import ConstancyLedger
from npc_rtnode.adapters.database.desk import Desk, Word
from npc_rtnode.adapters.database.disks import DiskLedger
from npc_rtnode.adapters.database.engine import Sessions, open_engine
from npc_rtnode.adapters.database.intake import IntakeLedger
from npc_rtnode.adapters.database.owner import require_signed, sign
from npc_rtnode.adapters.database.pauses import RECEIVE, Pauses
from npc_rtnode.adapters.database.presence import Presence
from npc_rtnode.adapters.database.queries import Queries
from npc_rtnode.adapters.database.recipes import RecipeLedger
from npc_rtnode.adapters.database.retention import RetentionLedger
from npc_rtnode.adapters.database.series import SeriesLedger
from npc_rtnode.adapters.database.studies import StudyLedger
from npc_rtnode.adapters.database.work import WorkLedger
from npc_rtnode.adapters.dicom.sameness import InstanceReader
from npc_rtnode.adapters.doorbell import Porter, ring
from npc_rtnode.adapters.exchange import (
    OUTBOX,
    SPOOL,
    WORK,
    Counter,
    Errand,
    FetchedPredictions,
    FetchedSpool,
    Rooms,
    Secret,
)
from npc_rtnode.adapters.intake_journal import IntakeJournal, JournalReader
from npc_rtnode.adapters.predictions import PredictionFolder
from npc_rtnode.adapters.rules import load_rule_file
from npc_rtnode.adapters.spool import FileSpool
from npc_rtnode.domain.admission import Marks
from npc_rtnode.domain.closing import Patience
from npc_rtnode.domain.constancy import Limits, site_zone
from npc_rtnode.domain.disks import Room
from npc_rtnode.domain.identifiers import digest_of
from npc_rtnode.domain.leases import LeaseWatch
from npc_rtnode.domain.recipe import Recipe
from npc_rtnode.domain.retention import Days, Place
from npc_rtnode.domain.retry import COMPUTE, RetryPolicy, describe, passes
from npc_rtnode.errors import (
    BundleFault,
    CannotListen,
    ConfigFault,
    DiskLow,
    FilesAway,
    HostTaken,
    LedgerUnavailable,
    MomentFault,
    PeerBusy,
    PeerError,
    TlsFailed,
    Unreachable,
)
from npc_rtnode.pipeline.admit import Gatekeeper
from npc_rtnode.pipeline.assemble import Assembler
from npc_rtnode.pipeline.attempt import Barrier
from npc_rtnode.pipeline.commit import Committer, Requests
from npc_rtnode.pipeline.constancy import Constancy, Plan, Shelves
from npc_rtnode.pipeline.deliver import Deliverer
from npc_rtnode.pipeline.disks import DiskWatch
from npc_rtnode.pipeline.infer import Inferrer
from npc_rtnode.pipeline.receive import Receiver
from npc_rtnode.pipeline.recipe import Likeness, Orders
from npc_rtnode.pipeline.replay import Replayer
from npc_rtnode.pipeline.select import Policy, Selector
from npc_rtnode.pipeline.sweep import Janitor, Pulse, Recovery, Retention
from npc_rtnode.pipeline.write import Letterhead, Writer
from npc_rtnode.ports import (
    Carrier,
    Clock,
    PhantomSource,
    PredictionStore,
    Predictor,
    ProofShelf,
    SeriesReader,
    Shelf,
    Spool,
)
from npc_rtnode.schedule import Metronome, Tick
from npc_rtnode.settings import Destination, Settings, content_hash

if TYPE_CHECKING:  # an extra that one engine needs
    from npc_rtnode.adapters.database.courier import Courier
    from npc_rtnode.adapters.database.procrastinated import Procrastinated

logger = log.get(__name__)
MEGABYTE = 1024 * 1024
JANITOR_S, RETENTION_S = 300, 3600
"""How often litter is looked for, and bytes that have been kept long enough."""

DISKS_S = 60
"""How often the clock looks at every disk."""

RESULTS_MB = 64
"""Free space that a few results under way need; home and spool have listener.reserve_free_mb for that."""

ADMISSION_S = 2
"""How often the listener's door looks at disk and backlog."""

LATE_S = 5
"""A record of the intake journal that the ledger does not have after so long waits for something."""

_MOUNT_AWAY = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.ENOTCONN})
"""What a network file system says while it is away; the mount point may look whole."""

RECIPE_S = 15
"""How often the node looks for jobs of another bundle or other settings, and a further host compares its own."""

CONSTANCY_S = 5
"""How often the worker looks whether a constancy run is due, asked for or at its end."""

NODE = "node"
"""The owner of leases of the node's own worker; further hosts have a name in the settings."""

ALARM_S = 6 * 3600
"""How often the log tells of certificates that end soon."""


def utc_now() -> datetime:
    """The clock of the whole node."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Home:
    """The folders of one node; everything below belongs to its user alone."""

    root: Path

    def made(self) -> Home:
        """Create what is missing."""
        for folder in (self.root, self.root / "run"):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self

    @property
    def listener_file(self) -> Path:
        """Where the receiver says which port it listens on."""
        return self.root / "run" / "listener.json"

    @property
    def bell(self) -> Path:
        """Where the receiver rings for the worker."""
        return self.root / "run" / "work.bell"

    @property
    def told_to_stop(self) -> Path:
        """Left by a worker that was told to stop, for the next one: what it still had in hand then killed nobody."""
        return self.root / "run" / "work.stopped"

    @property
    def journal(self) -> Path:
        """The intake journal: on the spool's file system, because it holds the same bytes for a while."""
        return self.root / "spool" / "journal"

    @property
    def key_file(self) -> Path:
        """By which a home is known."""
        return self.root / "site.key"

    def site_key(self) -> str:
        """A secret that keys study references; made once."""
        path = self.key_file
        if not path.exists():
            with NamedTemporaryFile("w", dir=self.root, encoding="ascii") as part:  # for this user alone
                part.write(secrets.token_hex(32))
                part.flush()
                with suppress(FileExistsError):  # the other role was first; whoever reads it reads all of it
                    os.link(part.name, path)
        return path.read_text("ascii")

    def lock(self, role: str) -> FileLock:
        """One process per role; raises MomentFault when another has it."""
        lock = FileLock(self.root / "run" / f"{role}.lock")
        try:
            lock.acquire(timeout=5)
        except Timeout:
            raise MomentFault(f"another process already runs the {role} role of {self.root}") from None
        return lock


@contextmanager
def _home_faults(root: Path) -> Iterator[None]:
    """A home that cannot be made is a matter of the set-up."""
    try:
        yield
    except OSError as error:
        todo = "give it to the node's user, or set node.home to a folder that this user may write to"
        raise ConfigFault(f"node.home {root}: {error.strerror}: {todo}") from error


class Station:
    """What every role and every admin verb shares: home, ledger, spool."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        reserve = settings.listener.reserve_free_mb * MEGABYTE
        with _home_faults(settings.node.home):
            self.home = Home(settings.node.home).made()
            self.root = self._require_mounted() if settings.work.store else self.home.root
            self.spool = FileSpool(self.root / "spool", reserve)
            self.outbox = FileSpool(self.root / "outbox", 0)
        self.engine = open_engine(settings.database_url)
        self._distributed = self._procrastinated()
        self.carrier: Carrier = self._distributed or Embedded()
        self.sessions = Sessions(self.engine, self.carrier)

    @property
    def is_mounted(self) -> bool:
        """On a further host with work.store: whether it is a node's home, and not the empty folder below a mount."""
        return os.path.exists(Home(Path(self.settings.work.store)).key_file)  # also False where the mount is broken

    def _require_mounted(self) -> Path:
        """The node's home as it is mounted; FilesAway, and nothing is made there, where it is not."""
        if not self.is_mounted:
            raise FilesAway(f"work.store {self.settings.work.store} holds no site.key: the node's home is not mounted.")
        return Path(self.settings.work.store)

    def _procrastinated(self) -> Procrastinated | None:
        """The carrier that reaches other hosts, where it is asked for; ConfigFault where its package is missing."""
        if self.settings.work.engine != "procrastinate":
            return None
        try:
            from npc_rtnode.adapters.database.procrastinated import Procrastinated
        except ModuleNotFoundError:
            raise ConfigFault(
                "work.engine: procrastinate is not installed; install npc-rtnode[procrastinate]"
            ) from None
        return Procrastinated(self.engine, self.settings.work.silent_s, self.settings.work.night)

    def upgrade(self) -> None:
        """The ledger's tables, and the carrier's where it has some, as this program knows them."""
        if self._distributed:
            from npc_rtnode.adapters.database import procrastinated

            schema.upgrade(self.engine, procrastinated.make_tables)
        else:
            schema.upgrade(self.engine)

    def require_schema(self) -> None:
        """SchemaFault where the tables are not the ones that this program knows."""
        schema.require_head(self.engine)
        if self._distributed:
            from npc_rtnode.adapters.database.procrastinated import require_tables

            require_tables(self.engine)

    @cached_property
    def clock(self) -> LedgerClock:
        """The clock of all who share the ledger."""
        return LedgerClock(self.sessions)

    @cached_property
    def queries(self) -> Queries:
        """Reads."""
        return Queries(self.sessions, self.settings.select.study_quiet_s)

    @cached_property
    def studies(self) -> StudyLedger:
        """Studies whose series are compared."""
        return StudyLedger(self.sessions, self.settings.select.study_quiet_s)

    @cached_property
    def desk(self) -> Desk:
        """An operator's deeds."""
        return Desk(self.sessions)

    def policy(self, predictor: Predictor) -> Policy:
        """Selection by the settings and the rule file in force now; ConfigFault if they choose what no bundle wants."""
        settings, rules = self.settings, load_rule_file(self.settings.select.rules)
        if rules.role not in predictor.inputs():
            wanted = ", ".join(predictor.inputs())
            raise ConfigFault(f"the rule set {rules.name} chooses {rules.role} series, the bundle wants {wanted}")
        return Policy(
            rules=rules,
            npc_called_aes=frozenset(c.ae_title for c in settings.listening().called if c.indication == "npc"),
            indication_text=settings.select.indication_text,
            bundle=predictor.statement,
            settings_hash=content_hash(settings),
            priorities={called.ae_title: called.priority for called in settings.listener.called},
        )

    def recipe(self, predictor: Predictor) -> Recipe:
        """What this host would make answers with now. Raises BundleFault."""
        bundle = predictor.statement()
        return Recipe(bundle.sha256, content_hash(self.settings), f"{bundle.name} {bundle.version}")

    @property
    def predictions(self) -> PredictionFolder:
        """Predictions between infer and write."""
        with _home_faults(self.root):
            return PredictionFolder(self.root / "work")

    @property
    def shelves(self) -> dict[Place, Shelf]:
        """Every folder whose files the ledger names."""
        return {Place.SPOOL: self.spool, Place.WORK: self.predictions, Place.OUTBOX: self.outbox}

    @property
    def proof_shelves(self) -> dict[Place, ProofShelf]:
        """Every folder whose files have a digest for a name."""
        return {Place.SPOOL: self.spool, Place.OUTBOX: self.outbox}

    def errand(self) -> Errand | None:
        """How a further host reaches the node's files; None where they lie here."""
        work = self.settings.work
        if not work.node:
            return None
        return Errand(work.node, Secret(Path(work.secret)), self._tls_to_node())

    def _tls_to_node(self) -> Callable[[], ssl.SSLContext] | None:
        """By the certificates as they are at each request: a renewed one is shown without a restart."""
        from npc_rtnode.adapters.dicom.tls import Credentials, client_context

        tls = self.settings.tls
        return Credentials(tls, lambda tls: client_context(tls, (), [])).context if tls.in_force else None

    def counter(self) -> Counter | None:
        """Where further hosts fetch files and leave results; None where nobody does."""
        from npc_rtnode.adapters.dicom.tls import Credentials

        work, tls = self.settings.work, self.settings.tls
        if not work.listen:
            return None
        context = Credentials(tls).context if tls.in_force else None
        rooms = Rooms({SPOOL: self.spool, OUTBOX: self.outbox}, self.root / WORK)
        return Counter(work.address, rooms, Secret(Path(work.secret)), context)

    def forget_fetched(self) -> int:
        """On a further host: what was fetched goes again after a while; how many files."""
        kept_s = self.settings.work.cache_h * 3600
        oldest = time.time() - kept_s
        gone = sum(shelf.sweep_parts(kept_s, utc_now()) for shelf in self.shelves.values())
        for shelf in (self.spool, self.outbox):
            for name in list(shelf.names()):
                gone += shelf.path(name).stat().st_mtime < oldest and shelf.remove(name)
        for name in self.predictions.older_than(kept_s, utc_now()):
            gone += self.predictions.remove(name)
        return gone

    def rooms(self) -> list[Room]:
        """The file systems under this home, each once, but for the spool's on the node itself: that is its door's."""
        known = set() if self.settings.work.host else {_device(self.root / "spool")}
        wanted = {"": self.settings.listener.reserve_free_mb, "spool": self.settings.listener.reserve_free_mb}
        found = []
        for name in ("", *Place):
            folder = self.home.root / name
            if (device := _device(folder)) not in {None, *known}:
                known.add(device)
                room = wanted.get(name, RESULTS_MB) * MEGABYTE
                found.append(Room(self._disk_name(name), _free_bytes(folder), room))
        return found

    def _disk_name(self, folder: str) -> str:
        host = self.settings.work.host
        return f"{folder or 'home'}@{host}"[:64] if host else folder or "home"

    def disk_watch(self) -> DiskWatch:
        """Who looks at them."""
        return DiskWatch(DiskLedger(self.sessions), self.rooms, utc_now)

    def janitor(self) -> Janitor:
        """Clears what crashes left."""
        return Janitor(RetentionLedger(self.sessions), self.shelves, self.predictions, utc_now)

    def retention(self) -> Retention:
        """Removes what has been kept long enough, by the settings in force."""
        limits = {name.removesuffix("_days"): days for name, days in self.settings.retain}
        return Retention(RetentionLedger(self.sessions), self.shelves, Days(**limits), utc_now)

    @property
    def notes(self) -> JournalReader:
        """The intake journal, for looking only."""
        return JournalReader(self.home.journal)

    def late_records(self) -> int:
        """How many records of the intake journal the ledger should have by now."""
        oldest = utc_now() - timedelta(seconds=LATE_S)
        return sum(noted.entry.at < oldest for noted in self.notes.waiting(self.queries.entered()))

    @property
    def marks(self) -> Marks:
        """Where the door warns, shuts and opens again."""
        admission, reserve = self.settings.admission, self.settings.listener.reserve_free_mb * MEGABYTE
        return Marks(
            warn_bytes=reserve * admission.warn_below,
            refuse_bytes=reserve * admission.refuse_below,
            reopen_bytes=reserve * admission.reopen_above,
            max_backlog=admission.max_backlog,
        )

    def gatekeeper(self) -> Gatekeeper:
        """Who stands at the listener's door."""
        pauses = Pauses(self.sessions)
        return Gatekeeper(
            AdmissionLedger(self.sessions),
            self.spool.free_bytes,
            self.marks,
            utc_now,
            lambda: pauses.all().get(RECEIVE),
        )

    def letterhead(self) -> Letterhead:
        """What every object says about this node."""
        node = self.settings.node
        return Letterhead(self.settings.content, node.utc_offset, node.site, npc_rtnode.__version__)

    def take(self, role: str) -> FileLock:
        """The role's lock, and the ledger signed: MomentFault where the role runs, ConfigFault on another's ledger.

        A further worker host has a home of its own and signs nothing: the node has, by the key in the home mounted.
        """
        if not self.settings.work.host:
            sign(self.sessions, self.home.site_key(), utc_now())
        elif self.settings.work.store:
            require_signed(self.sessions, Home(self.root).key_file.read_text("ascii"))
        return self.home.lock(role)

    def close(self) -> None:
        """Let go of the ledger."""
        self.engine.dispose()


def _device(folder: Path) -> int | None:
    """By which file systems are told apart; None where there is no such folder."""
    try:
        return folder.stat().st_dev
    except OSError:
        return None


def _free_bytes(folder: Path) -> int:
    """A disk that does not even answer has no room."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0


class ReceiveRole:
    """The listener and what it needs, in a process of its own."""

    def __init__(self, settings: Settings) -> None:
        from npc_rtnode.adapters.dicom.expiry import say_expiries
        from npc_rtnode.adapters.dicom.listener.server import Listener  # pynetdicom is needed by this role alone
        from npc_rtnode.adapters.dicom.tls import Credentials

        self._station = Station(settings)
        self._station.require_schema()
        site_key, waits = self._station.home.site_key(), settings.assemble
        released_s = min(waits.released_s, waits.quiet_s)
        self._intake = IntakeLedger(self._station.sessions, site_key, waits.quiet_s, released_s)
        bell = self._station.home.bell
        journal = IntakeJournal(self._station.home.journal, settings.listener.journal_mb * MEGABYTE)
        reader, spool = InstanceReader(), self._station.spool
        self._replayer = Replayer(journal, self._intake, spool, reader, utc_now, lambda: ring(bell))
        journal.stirred = self._replayer.stir
        sink = Receiver(spool, journal, reader, utc_now, self._replayer.entered, self._replayer.hasten)
        self._door = self._station.gatekeeper()
        credentials = Credentials(settings.tls) if settings.tls.in_force else None
        commitments = Requests(CommitmentLedger(self._station.sessions), utc_now, self._replayer.run)
        self._listener = Listener(
            settings.listening(_own_names(settings)), sink, self._congestion, credentials, commitments
        )
        alarm = [Tick("certificates", lambda: say_expiries(settings.tls, utc_now()), ALARM_S)] if credentials else []
        self._metronome = Metronome([Tick("admission", self._door.look, ADMISSION_S), *alarm])

    def start(self) -> int:
        """Sweep what a crash left, listen, say where; returns the port. CannotListen where that is not to be had."""
        self._lock = self._station.take("receive")
        self._station.spool.sweep_parts(0, utc_now())  # nobody but this role begins any
        if waited := self._replayer.take_up():
            logger.warning("records of the intake journal that the ledger had not taken yet", count=waited)
        if lost := self._intake.close_lost_associations(utc_now()):
            logger.warning("associations that the last process left open", count=lost)
        self._replayer.start()
        port = self._listen()
        self._metronome.start()
        ports = self._listener.ports
        _write_atomically(self._station.home.listener_file, {"pid": os.getpid(), "port": port, "ports": ports})
        said = self._station.settings
        logger.info("listening", host=said.listener.host, ports=ports, tls=said.tls.in_force)
        return port

    def _listen(self) -> int:
        try:
            return self._listener.start()
        except CannotListen:
            self._let_go()
            raise

    def stop(self) -> None:
        """Stop listening; what was acknowledged is safe already."""
        self._listener.stop(grace_s=5)
        self._metronome.stop()
        self._let_go()

    def _let_go(self) -> None:
        """What was received goes into the ledger, and another process may take the role."""
        self._replayer.stop()
        self._station.home.listener_file.unlink(missing_ok=True)
        self._lock.release()
        self._station.close()

    def _congestion(self) -> str | None:
        return self._door.refusal() or self._replayer.congestion()


@dataclass(frozen=True)
class _Files:
    """The node's files as this host reaches them."""

    spool: Spool
    outbox: Spool
    predictions: PredictionStore


class _Run(Protocol):
    def __call__(self, only: int | None = None) -> bool:
        """Do one piece of work, or that very one; False when there is none to begin."""


@dataclass(frozen=True)
class _Stage:
    name: str
    run: _Run
    wakes: tuple[str, ...] = ()


class WorkRole:
    """Assemble, select, infer, write, deliver: lanes that look at the ledger."""

    def __init__(self, settings: Settings) -> None:
        from npc_rtnode.adapters.dicom.calling import make_ready  # these rooms are heavy and the receiver has no
        from npc_rtnode.adapters.dicom.objects import DicomObjects  # use for them
        from npc_rtnode.adapters.dicom.sender import DicomSender
        from npc_rtnode.adapters.dicom.series import DicomSeriesReader
        from npc_rtnode.adapters.predictor import BundlePredictor

        self._station = Station(settings)
        self._station.require_schema()
        self._clock = self._station.clock
        self._recipes = RecipeLedger(self._station.sessions)
        host, recipe = settings.work.host, self._recipe if settings.work.host else None
        self._pages = WorkLedger(self._station.sessions, host or NODE, settings.work.night, recipe)
        self._presence = Presence(self._station.engine, host or NODE)
        self._series = SeriesLedger(self._station.sessions)
        self._predictor = BundlePredictor(settings.infer)
        self._objects = DicomObjects()
        self._sender = DicomSender(tls=settings.tls)
        self._reader: SeriesReader = DicomSeriesReader()
        self._stopping = threading.Event()
        self._in_hand: dict[str, str] = {}
        self._errand = self._station.errand()
        self._had_files = True
        self._files = self._reach()
        self._likeness = self._compared()
        self._courier = self._couriers()
        self._metronome = Metronome(self._ticks())
        self._porter = Porter(self._station.home.bell, lambda: self._metronome.wake("assemble"))
        self._make_ready = make_ready

    def start(self) -> None:
        """Take back what a crash left, then beat."""
        self._lock = self._station.take("work")
        self._have_the_name()
        self._make_ready()
        self._take_back()
        if self._likeness:
            self._likeness.look()
        else:
            self._cancel_unknown()
        self._counter = None if self._likeness else self._station.counter()
        if self._counter:
            self._counter.start()
        self._metronome.start()
        self._porter.start()
        if self._courier:
            self._courier.start()

    def _have_the_name(self) -> None:
        """Before anything is taken back: another process of this name is at work on it."""
        try:
            self._presence.hold()
        except HostTaken:
            self._lock.release()
            self._station.close()
            raise

    def _keep_the_name(self) -> None:
        """A server that was away has forgotten who has it; whoever came meanwhile keeps it, and this role ends."""
        try:
            self._presence.hold()
        except HostTaken as error:
            logger.error("this role ends", because=describe(error))
            os.kill(os.getpid(), signal.SIGTERM)

    def _take_back(self) -> None:
        """A stop that took longer than its supervisor waits, or with the ledger away, is no crash of an input."""
        told = self._station.home.told_to_stop
        died = not told.exists()
        if recovered := self._pages.recover_all(self._clock(), died):
            logger.warning("work taken back after a crash" if died else "work taken back after a stop", count=recovered)
        told.unlink(missing_ok=True)

    def _cancel_unknown(self) -> None:
        known = [destination.name for destination in self._station.settings.destinations]
        if orphaned := self._pages.cancel_unknown(known, self._clock()):
            logger.warning("deliveries to destinations that are configured no more", count=orphaned)

    def stop(self) -> None:
        """Begin nothing more, end a prediction under way (it goes on after the next start), wait for the rest."""
        self._stopping.set()
        with suppress(OSError):  # a full disk: it stops all the same
            self._station.home.told_to_stop.touch()
        self._porter.stop()
        self._predictor.retire()
        self._metronome.stop()
        if self._courier:
            self._courier.stop()
        if self._counter:
            self._counter.stop()
        self._predictor.close()
        if self._likeness:
            with suppress(LedgerUnavailable):
                self._likeness.leave()
        self._presence.leave()
        self._lock.release()
        self._station.close()

    def _ticks(self) -> list[Tick]:
        lanes, work = self._lanes(), self._station.settings.work
        beating = Tick("pulse", self._pulse().beat, work.beat_s)
        recovery = Tick("recover", self._recovery().run, work.silent_s / 3, wakes=tuple(lane.name for lane in lanes))
        present = Tick("presence", self._keep_the_name, work.beat_s)
        beside = self._guest(self._likeness, recovery.wakes) if self._likeness else self._house()
        return [*beside, *lanes, beating, present, recovery]

    def _guest(self, likeness: Likeness, lanes: tuple[str, ...]) -> list[Tick]:
        """What a further host does besides its work: what it fetched does not stay, and its own set-up is looked at."""
        from npc_rtnode.adapters.dicom.expiry import say_expiries

        tls = self._station.settings.tls
        return [
            Tick("recipe", likeness.look, RECIPE_S, wakes=lanes),
            Tick("disks", self._station.disk_watch().look, DISKS_S),
            *([Tick("cache", self._station.forget_fetched, JANITOR_S)] if self._errand else []),
            *([Tick("certificates", lambda: say_expiries(tls, utc_now()), ALARM_S)] if tls.in_force else []),
        ]

    def _house(self) -> list[Tick]:
        """What the node itself does, wherever the work is done."""
        return [
            Tick("assemble", self._assemble(), 2, wakes=("select",)),
            Tick("select", self._select(), 2, wakes=("infer",)),
            Tick("recipe", self._orders().run, RECIPE_S, wakes=("select",)),
            Tick("commit", self._until_none(self._committer().run), 2),
            *([Tick("constancy", self._constancy().run, CONSTANCY_S)] if self._station.settings.qa.enabled else []),
            Tick("disks", self._station.disk_watch().look, DISKS_S),
            Tick("janitor", self._station.janitor().run, JANITOR_S),
            Tick("retention", self._station.retention().run, RETENTION_S),
        ]

    @cached_property
    def _stages(self) -> dict[str, _Stage]:
        """The work that this host takes, by resource."""
        destinations, takes = self._station.settings.destinations, self._station.settings.work.takes
        sending = tuple(f"deliver:{destination.name}" for destination in destinations)
        stages = {
            GPU: _Stage("infer", self._inferrer().run, ("write",)),
            CPU: _Stage("write", self._writer().run, sending),
            **{send_to(d.name): _Stage(f"deliver:{d.name}", self._deliverer(d).run) for d in destinations},
        }
        return {
            resource: replace(stage, run=self._willing(resource, stage.run))
            for resource, stage in stages.items()
            if takes(resource)
        }

    def _lanes(self) -> list[Tick]:
        """Each resource in a lane of its own that looks at the ledger; none where a courier brings the work."""
        stages = () if self._courier else self._stages.values()
        return [Tick(stage.name, self._until_none(stage.run), 2, wakes=stage.wakes) for stage in stages]

    def _couriers(self) -> Courier | None:
        if self._station.settings.work.engine == "embedded":
            return None
        from npc_rtnode.adapters.database.courier import Courier

        work, lanes = self._station.settings.work, {name: stage.run for name, stage in self._stages.items()}
        return Courier(self._station.settings.database_url, lanes, work.beat_s, work.silent_s, self._begins)

    def _reach(self) -> _Files:
        station, errand = self._station, self._errand
        if errand is None:
            return _Files(station.spool, station.outbox, station.predictions)
        return _Files(
            FetchedSpool(station.spool, errand, SPOOL),
            FetchedSpool(station.outbox, errand, OUTBOX),
            FetchedPredictions(station.predictions, station.root / WORK, errand),
        )

    def _willing(self, resource: str, run: _Run) -> _Run:
        """Claim nothing while the role stops: the courier fetches until the last tick has ended."""
        return lambda only=None: (
            not self._stopping.is_set() and self._begins(resource) and self._tried(resource, run, only)
        )

    def _tried(self, resource: str, run: _Run, only: int | None) -> bool:
        """Run it; what came to an end here without a word on the bundle or its device was able to."""
        failures = self._likeness.failures if self._likeness else 0
        begun = run(only)
        if self._likeness and begun and resource == GPU and failures == self._likeness.failures:
            self._likeness.works()
        return begun

    def _begins(self, resource: str) -> bool:
        """Not while the node's files cannot be had, nor what would become something else here: another host may."""
        if self._likeness is None:
            return True
        alike = all(self._likeness.begins(state) for state, name in RESOURCES.items() if name == resource)
        return alike and self._are_files_there()

    def _compared(self) -> Likeness | None:
        """Who compares a further host with the node; None on the node itself."""
        work = self._station.settings.work
        if not work.host:
            return None
        takes = [state for state, resource in RESOURCES.items() if work.takes(resource)]

        def record(because: str) -> None:
            self._recipes.unfit(work.host, because, self._clock())

        return Likeness(self._recipe, self._recipes.in_force, takes, record, self._recipes.said_by(work.host))

    def _recipe(self) -> Recipe:
        """A further host's own; without a bundle that can be read it makes nothing, and that is said."""
        try:
            return self._station.recipe(self._predictor)
        except BundleFault as error:
            return Recipe("", content_hash(self._station.settings), f"none, {describe(error)}")

    def _orders(self) -> Orders:
        return Orders(self._recipes, lambda: self._station.recipe(self._predictor), self._clock)

    def _are_files_there(self) -> bool:
        because = self._errand.unanswered() if self._errand else self._unmounted()
        if because and self._had_files:
            logger.warning("the node's files cannot be had: nothing is begun", because=because)
        elif not because and not self._had_files:
            logger.info("the node's files can be had again")
        self._had_files = not because
        return self._had_files

    def _unmounted(self) -> str:
        return "" if self._station.is_mounted else "FILES_AWAY: work.store holds no site.key, it is not mounted"

    def _pulse(self) -> Pulse:
        return Pulse(self._pages, self._in_hand, self._station.settings.work.silent_s, self._clock, self._lost)

    def _lost(self, stages: Collection[str]) -> None:
        """A prediction that nobody waits for is ended; what else is under way ends by itself, and records nothing."""
        if "infer" in stages:
            self._predictor.interrupt()

    def _recovery(self) -> Recovery:
        watch = LeaseWatch(self._station.settings.work.silent_s)
        return Recovery(self._pages, self._station.carrier, watch, self._in_hand, self._clock, time.monotonic)

    def _assemble(self) -> Callable[[], int]:
        from npc_rtnode.adapters.dicom.archive import Archives

        settings = self._station.settings
        waits = settings.assemble
        patience = Patience(waits.quiet_s, waits.released_s, waits.asked_apart_s)
        sources = Archives(settings.archives, settings.tls)
        assembler = Assembler(self._series, self._station.spool, self._reader, utc_now, patience, sources)

        def look() -> int:
            if late := self._station.late_records():
                logger.warning("no series is closed before the ledger has what was received", records=late)
                return 0
            closed = assembler.run()
            if due := self._series.next_due(utc_now()):
                self._metronome.ring("assemble", due)
            return closed

        return look

    def _select(self) -> Callable[[], int]:
        policy = self._station.policy(self._predictor)
        selector = Selector(self._station.studies, self._station.spool, self._reader, policy, utc_now)

        def look() -> int:
            judged = selector.run()
            if due := self._station.studies.next_settling(utc_now()):
                self._metronome.ring("select", due)
            return judged

        return look

    def _inferrer(self) -> Inferrer:
        return Inferrer(
            self._pages,
            self._files.spool,
            self._reader,
            self._predictor,
            self._files.predictions,
            content_hash(self._station.settings),
            self._barrier(COMPUTE),
        )

    def _writer(self) -> Writer:
        return Writer(
            pages=self._pages,
            spool=self._files.spool,
            outbox=self._files.outbox,
            reader=self._reader,
            store=self._files.predictions,
            objects=self._objects,
            letterhead=self._station.letterhead(),
            settings_hash=content_hash(self._station.settings),
            destinations=self._station.settings.destinations,
            barrier=self._barrier(COMPUTE),
            qa=self._station.settings.qa,
        )

    def _constancy(self) -> Constancy:
        from npc_rtnode.adapters.phantoms import ConstancyPhantom

        return constancy(self._station, ConstancyPhantom(), utc_now)

    def _committer(self) -> Committer:
        from npc_rtnode.adapters.dicom.commitment import CommitmentReporter

        settings = self._station.settings
        reporter = CommitmentReporter(settings.archives, settings.tls)
        return Committer(CommitmentLedger(self._station.sessions), self._station.spool, reporter, utc_now)

    def _deliverer(self, destination: Destination) -> Deliverer:
        deliver = self._station.settings.deliver
        policy = RetryPolicy(deliver.first_retry_s, deliver.longest_retry_s, horizon_s=deliver.horizon_h * 3600)
        return Deliverer(self._pages, self._files.outbox, self._sender, destination, self._barrier(policy))

    def _until_none(self, run: Callable[[], bool]) -> Callable[[], bool]:
        """Look until nothing is due; whether anything was done."""

        def look() -> bool:
            done = False
            while not self._stopping.is_set() and run():
                done = True
            return done

        return look

    def _barrier(self, policy: RetryPolicy) -> Barrier:
        silent_s = self._station.settings.work.silent_s
        return Barrier(self._pages, policy, self._clock, self._in_hand, silent_s, self._cause)

    def _cause(self, error: Exception) -> Exception:
        """With the node's home no longer mounted, what would end the work is no word on the work: nothing can be read.

        What a peer has said stays what it is, and so does what waits by itself, but for a folder that has no room.
        """
        if self._likeness and isinstance(error, BundleFault):
            self._likeness.failed(describe(error))
        store = self._station.settings.work.store
        if not store or isinstance(error, PeerError):
            return error
        if _is_of_the_mount(error):
            return FilesAway(f"work.store {store} cannot be read at the moment ({describe(error)}).")
        waits = passes(error) and not isinstance(error, DiskLow)
        if waits or self._station.is_mounted:
            return error
        return FilesAway(f"work.store {store} holds no site.key any more: the node's home is not mounted.")


def _is_of_the_mount(error: BaseException | None) -> bool:
    """Whether a file system that is away for a moment lies behind it, whatever was made of that."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _MOUNT_AWAY:
            return True
        error = error.__cause__ or error.__context__
    return False


def constancy(station: Station, phantom: PhantomSource, clock: Clock) -> Constancy:
    """The daily constancy of this node, which calls its own listener wherever that says it listens."""
    from npc_rtnode.adapters.dicom.constancy import measure  # heavy: it reads structure sets

    settings, qa = station.settings, station.settings.qa
    secret = digest_of(["constancy", station.home.site_key()])
    limits = Limits(qa.baseline_runs, qa.sigma, qa.dice_least)
    plan = Plan(qa.at, site_zone(settings.node.utc_offset), qa.patience_s, limits, secret)

    def finish(study_uid: str) -> object:
        return station.desk.abandon(study_uid, Word("node", "constancy: measured, owed to nobody", clock()))

    return Constancy(
        pages=ConstancyLedger(station.sessions),
        phantom=phantom,
        send=lambda files: _send_to_ourselves(station, files),
        measure=measure,
        shelves=Shelves(station.spool, station.outbox),
        plan=plan,
        clock=clock,
        finish=finish,
    )


def _send_to_ourselves(station: Station, files: Sequence[Path]) -> None:
    """C-STORE over the wire, as any sender; raises a PeerError where not every instance was taken."""
    from npc_rtnode.adapters.dicom.sender import send_files

    settings, title = station.settings, station.settings.qa.ae_title
    us = Destination(
        name="ourselves",
        ae_title=title,
        host=settings.own_host,
        port=_own_port(station),
        tls=settings.calls_itself_by_tls,
        certificates=tuple(_own_names(settings)),
    )
    outcomes = send_files(files, us, title, settings.tls)
    lost = [one.error or f"status 0x{one.status or 0:04X}" for one in outcomes if not one.stored]
    if lost:
        raise PeerBusy(f"{len(lost)} of {len(files)} instances of the phantom were not taken: {lost[0]}")


def _own_port(station: Station) -> int:
    """Where the receiver says that it listens; with TLS the plain port of this machine, where it has one."""
    try:
        said = json.loads(station.home.listener_file.read_text("ascii"))
    except (OSError, ValueError):
        raise Unreachable("the receiver does not listen") from None
    return int(said["ports"][-1])


def _own_names(settings: Settings) -> Collection[str]:
    """By what our own certificate is known where the phantom comes by TLS; none, and it is told, where it cannot be."""
    from npc_rtnode.adapters.dicom.tls import names_of_ours

    if not (settings.qa.enabled and settings.calls_itself_by_tls):
        return ()
    try:
        return names_of_ours(settings.tls)
    except TlsFailed as error:
        logger.error("the constancy phantom cannot come by TLS", because=error.detail)
        return ()


def _write_atomically(path: Path, value: dict[str, object]) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(value), "ascii")
    part.replace(path)
