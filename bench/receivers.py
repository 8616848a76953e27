"""The receivers that are compared, each a process of its own, started, asked what it has, and ended by its pid.

Peers are given what helps them: TCP_NODELAY where DCMTK listens to that variable, 128 KiB PDUs. Orthanc has its
defaults (SyncStorageArea is on: files are synced, its index is not), but for ports, folders, AE title, that PDU size
and no passwords on loopback. storescp has no way to be durable; a column of its own runs it under
bench/fsync_on_close.c, which a C compiler makes. This node runs `serve --only receive` as shipped, with SQLite or
PostgreSQL.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, Self
from urllib.request import urlopen

from sqlalchemy import Engine, func, select

from bench.senders import CALLED, CALLING
from bench.slices import LARGEST_PDU
from npc_rtnode.adapters.database import schema
from npc_rtnode.adapters.database.engine import as_reader, open_engine
from npc_rtnode.adapters.database.tables import InstanceRow
from npc_rtnode.adapters.spool import FileSpool
from tests.acceptance.node import free_port
from tests.acceptance.program import Program
from tests.postgres import Server

ROOT: Final = Path(__file__).parents[1]
SHIM: Final = ROOT / "bench" / "fsync_on_close.c"
LAG_S: Final = 120.0
"""A row that is not in the ledger so long after its acknowledgement counts as lost."""
SPARES: Final = 6
"""Segments of its intake journal that this node writes with zeros while it has nothing to do."""
POLL_S: Final = 0.005
TICKS: Final = os.sysconf("SC_CLK_TCK")


class NotKept(RuntimeError):
    """A receiver has answered Success to what it does not have, or was not what it was said to be."""


class Kept(NamedTuple):
    """What a receiver really has."""

    instances: int
    bytes: int


class Receiver(Program):
    """One receiver; `sent` and `sent_bytes` are what it was given and has answered with Success."""

    single = True
    """Whether its memory is that of one process that stays."""

    def __init__(self, folder: Path) -> None:
        """On a free port; nothing is started before `with`."""
        super().__init__(folder, free_port())
        self.sent = self.sent_bytes = 0
        self.store = folder / "store"
        self.store.mkdir(exist_ok=True)

    def up(self) -> Self:
        """One that does not come up in time is ended again."""
        try:
            return super().up()
        except BaseException:
            self.down()
            raise

    @abstractmethod
    def kept(self) -> Kept:
        """What it has now."""

    def given(self, instances: int, pixel_bytes: int) -> None:
        """It has answered so much with Success."""
        self.sent, self.sent_bytes = self.sent + instances, self.sent_bytes + pixel_bytes

    def settled(self) -> float:
        """When nothing that was acknowledged was still to be done (time.monotonic); waited for."""
        return time.monotonic()

    def check(self) -> None:
        """It runs, and has each instance that it took. Raises NotKept."""
        if self._process is None or self._process.poll() is not None:
            raise NotKept(f"{type(self).__name__} has ended\n{self.said()}")
        has = self.kept()
        if has.instances != self.sent or has.bytes < self.sent_bytes:
            gave = f"{self.sent} instances of {self.sent_bytes} bytes of pixels"
            raise NotKept(f"{type(self).__name__} took {gave} and has {has.instances} of {has.bytes} bytes")

    # --- what it costs ------------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """Of its first process. Raises NotKept."""
        if self._process is None:
            raise NotKept(f"{type(self).__name__} is not running")
        return self._process.pid

    def cpu_s(self) -> float:
        """Processor seconds of its processes so far."""
        return cpu_s(self.pid)

    def peak_mb(self) -> float:
        """The most memory (VmHWM) of its processes since `forget_peak`, added up, MiB."""
        return sum(_status(pid, "VmHWM") for pid in family(self.pid)) / 1024

    def forget_peak(self) -> None:
        """Begin the count of `peak_mb` anew (proc(5), clear_refs)."""
        for pid in family(self.pid):
            Path(f"/proc/{pid}/clear_refs").write_text("5", "ascii")


# --- peers ------------------------------------------------------------------------------------------------------------


class Storescp(Receiver):
    """DCMTK's storescp; without --fork it serves one association at a time."""

    def __init__(self, folder: Path, program: str, fork: bool = False, shim: Path | None = None) -> None:
        """With `shim`, the library of `built_shim`, it syncs file and folder before it answers."""
        super().__init__(folder)
        self._program, self._fork, self._shim = program, fork, shim
        self._synced = folder / "synced"
        self.single = not fork

    def command(self) -> Sequence[str]:
        """Its own writer of files, as it comes."""
        options = ["-dhl", "-pdu", str(LARGEST_PDU), "-od", str(self.store), *(["--fork"] if self._fork else [])]
        return ["env", "TCP_NODELAY=1", *self._durable(), self._program, *options, str(self.port)]

    def _durable(self) -> list[str]:
        if self._shim is None:
            return []
        self._synced.write_bytes(bytes(8))
        return [f"LD_PRELOAD={self._shim}", f"FSYNC_COUNT={self._synced}"]

    def kept(self) -> Kept:
        """Its files."""
        return files_below(self.store)

    def check(self) -> None:
        """The shim must have synced every one of its files too."""
        super().check()
        if self._shim is not None:
            synced = struct.unpack("=q", self._synced.read_bytes())[0]
            if synced < self.sent:
                raise NotKept(f"storescp was to sync {self.sent} files and synced {synced}")


def built_shim(folder: Path) -> Path | None:
    """The library made of bench/fsync_on_close.c; None without a C compiler, or where it cannot make one."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    library = folder / "fsync_on_close.so"
    command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(SHIM), "-ldl"]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        print(f"{SHIM.name} was not compiled: {made.stderr[-500:]}", file=sys.stderr)
        return None
    return library


class Orthanc(Receiver):
    """Orthanc with its defaults."""

    def __init__(self, folder: Path, program: str) -> None:
        """Two ports."""
        super().__init__(folder)
        self._program, self._http_port = program, free_port()

    @property
    def ports(self) -> Sequence[int]:
        """DICOM and HTTP."""
        return [self.port, self._http_port]

    def command(self) -> Sequence[str]:
        """With a configuration of what differs from the defaults."""
        config = self.folder / "orthanc.json"
        config.write_text(json.dumps(self._configuration()), "ascii")
        return ["env", "TCP_NODELAY=1", self._program, str(config)]

    def _configuration(self) -> dict[str, Any]:
        return {
            "StorageDirectory": str(self.store),
            "IndexDirectory": str(self.store),
            "HttpPort": self._http_port,
            "AuthenticationEnabled": False,
            "DicomAet": CALLED,
            "DicomPort": self.port,
            "MaximumPduLength": LARGEST_PDU,
        }

    def kept(self) -> Kept:
        """By its own statistics."""
        with closing(urlopen(f"http://127.0.0.1:{self._http_port}/statistics", timeout=30)) as answer:
            said = json.load(answer)
        return Kept(int(said["CountInstances"]), int(said["TotalUncompressedSize"]))


class PynetdicomApp(Receiver):
    """`python -m pynetdicom storescp`."""

    def command(self) -> Sequence[str]:
        """On loopback, with large PDUs."""
        options = ["-ba", "127.0.0.1", "-pdu", str(LARGEST_PDU), "-od", str(self.store)]
        return [sys.executable, "-m", "pynetdicom", "storescp", *options, str(self.port)]

    def kept(self) -> Kept:
        """Its files."""
        return files_below(self.store)


def files_below(folder: Path) -> Kept:
    """How many files lie there, and how large they are together."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return Kept(len(sizes), sum(sizes))


# --- this node --------------------------------------------------------------------------------------------------------

SETTINGS: Final = """\
[node]
home = "{home}"
[database]
url = "{url}"
[listener]
port = {port}
[[listener.called]]
ae_title = "{called}"
[[listener.peers]]
ae_title = "{calling}"
networks = ["127.0.0.0/8"]
"""


class Node(Receiver):
    """This node's receiver as it is shipped: an object is answered when its bytes and its record are synced."""

    def __init__(self, folder: Path, url: str = "", server: Server | None = None) -> None:
        """`url`: a PostgreSQL database (of `server`), or a SQLite ledger that is there; empty: SQLite, new."""
        super().__init__(folder)
        self._url = url or f"sqlite:///{self.store / 'ledger.db'}"
        self._server = server
        self._engine: Engine = open_engine(self._url)
        self._before = 0

    def up(self) -> Self:
        """The ledger made, if it is not; rows that it has already are not counted as received."""
        self.store.chmod(0o700)
        schema.upgrade(self._engine)
        self._before = self._ask(select(func.max(InstanceRow.id))) or 0
        super().up()
        self._wait_for_spares()
        return self

    def _wait_for_spares(self) -> None:
        """As it is some seconds after its first start. Raises NotKept."""
        deadline = time.monotonic() + LAG_S
        while len(list((self.store / "spool" / "journal").glob("spare-*"))) < SPARES:
            if time.monotonic() > deadline:
                raise NotKept(f"the journal has no {SPARES} segments ready {LAG_S:g} s after the start")
            time.sleep(POLL_S * 10)

    def down(self) -> None:
        """The process first, then our own connections."""
        super().down()
        self._engine.dispose()

    def command(self) -> Sequence[str]:
        """`serve --only receive` of this checkout."""
        config = self.folder / "node.toml"
        place = {"home": self.store, "url": self._url, "port": self.port, "called": CALLED, "calling": CALLING}
        config.write_text(SETTINGS.format(**place), "utf-8")
        serve = [sys.executable, "-m", "npc_rtnode", "serve", "--only", "receive", "--config", str(config)]
        return ["env", f"PYTHONPATH={ROOT}", *serve]

    def settled(self) -> float:
        """When its ledger had the rows of all that it has acknowledged. Raises NotKept."""
        deadline = time.monotonic() + LAG_S
        while (rows := self.rows()) < self.sent:
            if time.monotonic() > deadline:
                raise NotKept(f"{rows} of {self.sent} rows in the ledger {LAG_S:g} s after the last Success")
            time.sleep(POLL_S)
        return time.monotonic()

    def rows(self) -> int:
        """Instances in the ledger that have come since the start."""
        return int(self._ask(select(func.count()).where(InstanceRow.id > self._before)) or 0)

    def kept(self) -> Kept:
        """Distinct instances that have both a row and the file that the row names."""
        query = select(InstanceRow.sop_uid, InstanceRow.sha256).where(InstanceRow.id > self._before)
        with as_reader(self._engine).connect() as connection:
            digests = {row.sop_uid: row.sha256 for row in connection.execute(query)}
        spool = FileSpool(self.store / "spool", 0)
        sizes = [path.stat().st_size for path in map(spool.path, digests.values()) if path.exists()]
        return Kept(len(sizes), sum(sizes))

    def cpu_s(self) -> float:
        """With PostgreSQL the server's processes too."""
        return super().cpu_s() + (cpu_s(server_pid(self._server)) if self._server else 0.0)

    def _ask(self, query: Any) -> Any:
        with as_reader(self._engine).connect() as connection:
            return connection.scalar(query)


def server_pid(server: Server) -> int:
    """The postmaster's."""
    return int((server.folder / "data" / "postmaster.pid").read_text("ascii").split()[0])


# --- /proc ------------------------------------------------------------------------------------------------------------


def family(pid: int) -> Iterator[int]:
    """A process and all that descend from it."""
    yield pid
    for child in _children(pid):
        yield from family(child)


def _children(pid: int) -> list[int]:
    """Of all its threads; one that ends meanwhile has none."""
    found: list[int] = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):
            found += map(int, listing.read_text("ascii").split())
    return found


def cpu_s(pid: int) -> float:
    """Processor seconds of a process, of its children, and of those children that have ended."""
    return sum(_own_cpu_s(each) + _ended_children_s(each) for each in family(pid))


def _own_cpu_s(pid: int) -> float:
    """By its own clock, in nanoseconds (clock_getcpuclockid(3): the clock's number is made of the pid)."""
    return time.clock_gettime((~pid << 3) | 2)


def _ended_children_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / TICKS


def _status(pid: int, key: str) -> int:
    status = Path(f"/proc/{pid}/status").read_text("ascii", "replace")
    return int(status.split(f"{key}:")[1].split()[0])
