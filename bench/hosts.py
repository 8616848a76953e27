"""Two worker hosts with one core each beside one, over the same queue of series.

    python -m bench.hosts [--pairs 3] [--each 8]

A node that receives, chooses and sends, on PostgreSQL with procrastinate as carrier; further hosts (`serve --only work`
with a home of their own, files fetched from the node by their digest) infer and write. A host with all its children is
held on one core, with one thread of inference. In each round inference is paused, the same phantoms are sent under new
UIDs until all of them wait in the queue, and inference goes on. Measured is, by the ledger, the time from the first
inference begun to the last series written: inferred, drawn, read back, judged. Filling and draining thus count against
two hosts as they would at a site. Sending is the node's work, and is paused until the round is over. Rounds of one host
and of both are alternated, and it is the one and the other host in turn that works alone. Every host has inferred a
series before its round: its child is warm.

Beside it stands what the machine has to give: the same volumes through bare `predict`, in one process on one core and
in two on two. The rest (node, database, TPS and PACS) is kept off the hosts' cores where there are more than two; where
there are not, it takes its time from the same ones, and the table says so.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from bench.chain import START_S, Course, Site, courses, node, reached, send, serve, stop
from model.phantom import Phantom, make_case, small_profile, write_dicom_series
from npc_rtnode.adapters.database.desk import Word
from npc_rtnode.adapters.database.pauses import Pauses
from npc_rtnode.adapters.dicom.series import DicomSeriesReader
from npc_rtnode.adapters.predictor import BundlePredictor
from npc_rtnode.app import utc_now
from npc_rtnode.domain.identifiers import derived_uid
from npc_rtnode.settings import InferSettings
from tests.acceptance.node import free_port
from tests.postgres import Server

WARM_UPS: Final = 20
PATIENCE_S: Final = 300.0
ROUND_LOOK_S: Final = 1.0
"""Looking takes its time from the hosts' cores, where there are no others."""
BARE: Final = 3
"""Volumes of a run of bare inference."""
NAMES: Final = ("host-a", "host-b")


# --- cores ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cores:
    """One for each host, and those of everything else."""

    hosts: tuple[int, int]
    others: frozenset[int]

    @property
    def apart(self) -> bool:
        """Whether the rest has cores of its own."""
        return not self.others & {*self.hosts}


def cores() -> Cores:
    """Of this process; hosts get the last two, others what is left, or all where nothing is."""
    mine = sorted(os.sched_getaffinity(0))
    if len(mine) < 2:
        raise SystemExit("two hosts with one core each need two cores")
    return Cores((mine[-2], mine[-1]), frozenset(mine[:-2] or mine))


@contextmanager
def on(wanted: Collection[int]) -> Iterator[None]:
    """Whatever is started within, and its children, runs on these cores alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, wanted)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


# --- hosts ------------------------------------------------------------------------------------------------------------


@dataclass
class Host:
    """A further worker host on its core."""

    name: str
    core: int
    config: Path
    process: subprocess.Popen[bytes] | None = field(default=None)
    warm: bool = field(default=False)

    def start(self) -> None:
        """Its children are on the same core, because they are its children."""
        with on({self.core}):
            self.process = serve(self.config, "--only", "work")
        if os.sched_getaffinity(self.process.pid) != {self.core}:
            raise SystemExit(f"{self.name} is not on core {self.core} alone")

    def stop(self) -> None:
        """In order."""
        if self.process is not None:
            stop(self.process)
        self.process, self.warm = None, False

    @property
    def is_up(self) -> bool:
        """Whether it runs; one that has ended by itself ends the bench."""
        if self.process is not None and self.process.poll() is not None:
            raise SystemExit(f"{self.name} ended with {self.process.returncode}")
        return self.process is not None


@dataclass(frozen=True)
class Round:
    """One queue, emptied by so many hosts."""

    hosts: int
    seconds: float  # from the first inference begun to the last series written
    by: dict[str, int]  # series by who inferred them

    def __str__(self) -> str:
        """For a table."""
        return f"{self.seconds:.1f} ({'+'.join(map(str, self.by.values()))})"


@dataclass
class Queue:
    """The node, its hosts, and phantoms that are sent again and again under new UIDs."""

    site: Site
    hosts: tuple[Host, Host]
    folder: Path
    phantoms: Sequence[Phantom]
    sent: int = field(default=0)
    rounds: list[Round] = field(default_factory=list)

    def round(self, *wanted: Host) -> None:
        """The queue filled while nobody infers, and emptied by these hosts while nobody sends."""
        for host in self.hosts:
            if host not in wanted:
                host.stop()
        self._warm(wanted)
        each = len(self.phantoms)
        with self._paused("send"):
            with self._paused("infer"):
                self._send(each)
                reached(self.site, "QUEUED", each, PATIENCE_S, ROUND_LOOK_S)
            reached(self.site, "WRITTEN", each, PATIENCE_S + 60 * each, ROUND_LOOK_S)
        self._all_delivered()
        self.rounds.append(passed(courses(self.site, each), {host.name for host in wanted}))

    def _all_delivered(self) -> None:
        reached(self.site, "DELIVERED", self.sent, PATIENCE_S, ROUND_LOOK_S)

    @contextmanager
    def _paused(self, lane: str) -> Iterator[None]:
        pauses, word = Pauses(self.site.station.sessions), Word("bench", "a round of hosts", utc_now())
        pauses.pause(lane, (), word)
        yield
        pauses.resume(lane, replace(word, at=utc_now()))
        self.site.station.carrier.recover(self.site.station.clock())  # as every worker does within 15 s

    def _warm(self, wanted: Sequence[Host]) -> None:
        """A series for each at once, until every one of them has inferred since it was started."""
        for host in wanted:
            if not host.is_up:
                host.start()
        for _ in range(WARM_UPS):
            if all(host.warm for host in wanted):
                return
            self._send(len(wanted))
            self._all_delivered()
            by = inferred_by(courses(self.site, len(wanted)))
            for host in wanted:
                host.warm = (host.is_up and host.warm) or host.name in by
        raise SystemExit("a host did not take its part of the work in time")

    def _send(self, count: int) -> None:
        for phantom in itertools.islice(itertools.cycle(self.phantoms), count):
            self.sent += 1
            uid = derived_uid(f"hosts {self.sent}", "bench")
            send(self.site, write_dicom_series(phantom, self.folder / str(self.sent), study_uid=uid))
            shutil.rmtree(self.folder / str(self.sent))


def inferred_by(found: Sequence[Course]) -> Counter[str]:
    """How many series each host inferred."""
    return Counter(worker for one in found for worker in one.workers)


def passed(found: Sequence[Course], hosts: Collection[str]) -> Round:
    """A round by the ledger; SystemExit where a series was begun twice, or by somebody else."""
    by = inferred_by(found)
    if not {*by} <= {*hosts} or by.total() != len(found):
        raise SystemExit(f"{len(found)} series for {', '.join(sorted(hosts))} were begun by {dict(by)}")
    begun, written = min(one.when("begun") for one in found), max(one.when("written") for one in found)
    return Round(len(hosts), (written - begun).total_seconds(), dict(sorted(by.items())))


# --- the site ---------------------------------------------------------------------------------------------------------

_WORK: Final = """\
[database]
url = "{url}"

[work]
engine = "procrastinate"
secret = "{secret}"
"""
_NODE: Final = 'resources = ["send:tps", "send:pacs"]\nlisten = "{address}"\n'
_HOST: Final = 'resources = ["gpu", "cpu"]\nhost = "{name}"\nnode = "http://{address}"\n'


@contextmanager
def queue(folder: Path, phantoms: Sequence[Phantom], on_cores: Cores) -> Iterator[Queue]:
    """A site without a series in it; whatever was started is ended."""
    folder.mkdir()
    with ExitStack() as stack:
        stack.enter_context(on(on_cores.others))
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="npc-rtnode-postgres-")))
        url = stack.enter_context(Server(place)).create("ledger")
        secret, address = _secret(folder), f"127.0.0.1:{free_port()}"
        work = _WORK.format(url=url, secret=secret)
        site = stack.enter_context(node(folder, 1, work + _NODE.format(address=address)))
        hosts = []
        for name, core in zip(NAMES, on_cores.hosts, strict=True):
            said = work + _HOST.format(name=name, address=address)
            hosts.append(Host(name, core, site.ends.settings(folder / f"{name}.toml", folder / name, 1, said)))
            stack.callback(hosts[-1].stop)
        yield Queue(site, (hosts[0], hosts[1]), folder / "sent", phantoms)


def _secret(folder: Path) -> Path:
    path = folder / "secret"
    path.touch(0o600)
    path.write_text("s" * 48, "ascii")
    return path


def rounds(folder: Path, pairs: int, phantoms: Sequence[Phantom], on_cores: Cores) -> list[Round]:
    """One host, both, the other host, both, and so on."""
    with queue(folder, phantoms, on_cores) as waiting:
        for number in range(pairs):
            waiting.round(waiting.hosts[number % 2])
            waiting.round(*waiting.hosts)
        return waiting.rounds


# --- bare inference ---------------------------------------------------------------------------------------------------


class Bare:
    """A process on one core that predicts the same volumes whenever it is told to, in a warm child as the node has."""

    def __init__(self, core: int, series: Sequence[Sequence[Path]]) -> None:
        """Started, and warm at its first answer."""
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_predict, args=(theirs, core, [list(files) for files in series]))
        self._process.start()
        theirs.close()

    def answer(self) -> float:
        """Seconds that all the volumes took."""
        if not self._pipe.poll(PATIENCE_S):
            raise SystemExit("bare inference did not end in time")
        try:
            return float(self._pipe.recv())
        except EOFError:
            raise SystemExit("bare inference ended without an answer") from None

    def go(self) -> None:
        """Predict them now."""
        self._pipe.send("go")

    def stop(self) -> None:
        """Ended."""
        self._pipe.close()
        self._process.join(START_S)
        self._process.kill()


def _predict(pipe: Connection, core: int, series: Sequence[list[Path]]) -> None:
    os.sched_setaffinity(0, {core})
    volumes = [DicomSeriesReader().volume(files) for files in series]
    predictor = BundlePredictor(InferSettings(threads=1))
    statement = predictor.statement()
    predictor.predict(volumes[0], statement)
    pipe.send(0.0)
    try:
        while pipe.recv():
            begun = time.monotonic()
            for volume in volumes:
                predictor.predict(volume, statement)
            pipe.send(time.monotonic() - begun)
    except EOFError:
        predictor.close()


@contextmanager
def warm(series: Sequence[Sequence[Path]], on_cores: Cores) -> Iterator[list[Bare]]:
    """One for each host's core; they wait until they are told to go."""
    with ExitStack() as stack:
        both = [Bare(core, series) for core in on_cores.hosts]
        for one in both:
            stack.callback(one.stop)
        for one in both:
            one.answer()
        yield both


def bare(both: Sequence[Bare], pairs: int) -> list[tuple[int, float]]:
    """How many processes, and seconds until all of them had all volumes: one, two, the other one, two, and so on."""
    return [_timed(some) for number in range(pairs) for some in ([both[number % 2]], both)]


def _timed(processes: Sequence[Bare]) -> tuple[int, float]:
    for one in processes:
        one.go()
    return len(processes), max(one.answer() for one in processes)


# --- told -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """Both comparisons, of the same phantoms."""

    cores: Cores
    each: int
    rounds: list[Round]
    volumes: int
    bare: list[tuple[int, float]]

    def seconds(self, hosts: int) -> float:
        """Median seconds a series."""
        return statistics.median(one.seconds for one in self.rounds if one.hosts == hosts) / self.each

    def bare_seconds(self, processes: int) -> float:
        """Median seconds a volume, of all processes together."""
        return statistics.median(s for n, s in self.bare if n == processes) / self.volumes / processes

    def told(self) -> dict[str, float]:
        """For the RESULT line."""
        found = {
            "two_hosts_ratio": self.seconds(1) / self.seconds(2),
            "two_bare_ratio": self.bare_seconds(1) / self.bare_seconds(2),
            "one_host_s_each": self.seconds(1),
            "two_hosts_s_each": self.seconds(2),
            "one_bare_s_each": self.bare_seconds(1),
            "one_host_ratio_to_inference": self.seconds(1) / self.bare_seconds(1),
        }
        return {"hosts_queued": self.each, **{name: round(value, 4) for name, value in found.items()}}

    def table(self) -> None:
        """What was measured, where it ran, and what came out."""
        print(
            f"worker hosts, {self.each} queued series a round, from the first inference begun to the last one written"
        )
        print(f"{'':28} {'s a series':>10} {'to bare':>8}   s of each round, by so many series a host")
        for count, words in ((1, "one host, one core"), (2, "two hosts, one core each")):
            each = "  ".join(map(str, (one for one in self.rounds if one.hosts == count)))
            _row(words, self.seconds(count), self.seconds(count) / self.bare_seconds(count), each)
        for count, words in ((1, "bare inference, one core"), (2, "bare inference, two cores")):
            _row(words, self.bare_seconds(count), 1, "  ".join(f"{s:.1f}" for n, s in self.bare if n == count))
        found, (first, second) = self.told(), self.cores.hosts
        print(f"two over one: {found['two_hosts_ratio']:.2f} hosts, {found['two_bare_ratio']:.2f} bare inference")
        print(f"hosts on cores {first} and {second}; {_elsewhere(self.cores)}")


def _row(words: str, seconds: float, to_bare: float, each: str) -> None:
    print(f"{words:28} {seconds:>10.3f} {to_bare:>8.2f}   {each}")


def _elsewhere(found: Cores) -> str:
    others = ", ".join(map(str, sorted(found.others)))
    if found.apart:
        return f"node, PostgreSQL, TPS and PACS on {others}"
    return (
        f"node, PostgreSQL, TPS and PACS on {others} too: beside one host they have the other core, beside two they "
        "take from the hosts' own"
    )


def compared(folder: Path, pairs: int, each: int) -> Comparison:
    """Both, one after the other: bare inference before the hosts and after them."""
    on_cores = cores()
    phantoms = [make_case("bench", index, profile=small_profile()) for index in range(each)]
    series = [write_dicom_series(one, folder / "bare" / str(one.index)) for one in phantoms[:BARE]]
    with warm(series, on_cores) as both:
        before = bare(both, max(pairs // 2, 1))
        found = rounds(folder / "hosts", pairs, phantoms, on_cores)
        after = bare(both, max(pairs - pairs // 2, 1))
    return Comparison(on_cores, each, found, len(series), [*before, *after])


def add_options(parser: argparse.ArgumentParser) -> None:
    """How much is measured."""
    parser.add_argument("--pairs", type=int, default=3, help="rounds of one host and of two; 0 leaves the hosts out")
    parser.add_argument("--each", type=int, default=8, help="series queued for a round of hosts, an even number")


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """These rounds alone; the last line is RESULT {json}."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="npc-rtnode-hosts-") as folder:
        found = compared(Path(folder), options.pairs, options.each)
    found.table()
    print("RESULT " + json.dumps(found.told()))
    return found.told()


if __name__ == "__main__":
    main()
    sys.exit(0)
