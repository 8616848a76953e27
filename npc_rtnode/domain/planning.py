"""How much one node carries: a discrete-event model of the chain, from a site's own counts.

A study's series pass one ingest server (the receiver), the matched one waits its quiet time, then for a GPU, a core
and the lane of each destination; every wait comes of queueing, none is put in. Same numbers and seed, same answer. What
it is for is the order in which things saturate; docs/planning.md says how far it agrees with a running node.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, log, sqrt
from typing import Any, Final

import numpy as np
import simpy

HOUR_S: Final = 3600.0
DAY_S: Final = 24 * HOUR_S
OFFICE_HOURS: Final = (0.0,) * 8 + (1.0,) * 10 + (0.0,) * 6
FAULTY: Final = ("ingest", "gpu", "cpu", "push")
LOOK_S: Final = 10.0
"""So often a queue is looked at after an outage."""
Process = Generator[Any, Any, None]


@dataclass(frozen=True)
class Outage:
    """One resource is away: from `at_h` hours after the beginning, for `hours`; what it has in hand it ends first."""

    what: str
    at_h: float
    hours: float


@dataclass(frozen=True)
class Site:
    """A site's counts. `hour_weights`: when studies end, 24 shares of a day; `matched`: share of studies with a job."""

    hospitals: int = 1
    studies_per_day: float = 30.0
    hour_weights: tuple[float, ...] = OFFICE_HOURS
    series_per_study: int = 8
    slices: int = 150
    mb_per_slice: float = 0.5
    matched: float = 1.0
    ingest_slices_per_s: float = 175.0
    quiet_s: float = 30.0
    gpus: int = 1
    gpu_s: float = 45.0
    gpu_cv: float = 0.5
    cores: int = 4
    cpu_s: float = 20.0
    cpu_cv: float = 0.2
    destinations: int = 1
    push_s: float = 4.0
    push_cv: float = 0.2
    days: int = 5
    seed: int = 0
    outages: tuple[Outage, ...] = ()
    arrivals_s: tuple[float, ...] = ()
    """Instead of a random process: when each study begins to come."""

    @property
    def working_hours(self) -> int:
        """Hours of a day in which studies come."""
        return sum(weight > 0 for weight in self.hour_weights) or 24

    @property
    def gb_per_day(self) -> float:
        """What comes in."""
        return self.hospitals * self.studies_per_day * self.series_per_study * self.slices * self.mb_per_slice / 1000


@dataclass(frozen=True)
class Forecast:
    """What came of it. Seconds from the last slice of the matched series to the last acknowledgement."""

    jobs: int
    turnaround_p50_s: float
    turnaround_p95_s: float
    gpu_wait_p95_s: float
    load: dict[str, float]
    """By resource: service asked for, as a share of what working hours hold; above 1 it cannot be done by day."""
    queue_peak: int
    gb_per_day: float
    drain_h: tuple[float, ...] = ()
    """For each outage: hours from its end until nobody waits for that resource any more."""
    unfinished: int = 0

    @property
    def first(self) -> str:
        """The resource that saturates first."""
        return max(self.load, key=lambda name: self.load[name])


def simulate(site: Site) -> Forecast:
    """Run the model; studies of `days` days come, and it goes on until all of them are through."""
    return _Node(site).run()


def flaws(site: Site) -> list[str]:
    """What is wrong with a site's numbers, in words; empty when it can be simulated."""
    positive = (
        "hospitals",
        "studies_per_day",
        "series_per_study",
        "slices",
        "ingest_slices_per_s",
        "days",
        "destinations",
    )
    least = [f"{name} is {getattr(site, name)}, it must be above 0" for name in positive if not getattr(site, name) > 0]
    few = [
        f"{name} is {getattr(site, name)}, it must be at least 1"
        for name in ("gpus", "cores")
        if getattr(site, name) < 1
    ]
    times = ("quiet_s", "gpu_s", "gpu_cv", "cpu_s", "cpu_cv", "push_s", "push_cv", "mb_per_slice")
    below = [
        f"{name} is {getattr(site, name)}, it must not be below 0" for name in times if not getattr(site, name) >= 0
    ]
    hours = site.hour_weights
    shape = [] if len(hours) == 24 and min(hours) >= 0 and sum(hours) > 0 else ["hour_weights are 24 shares, not all 0"]
    share = [] if 0 <= site.matched <= 1 else [f"matched is {site.matched}, it is a share from 0 to 1"]
    away = [
        f"an outage of {one.what!r}: it is one of {', '.join(FAULTY)}" for one in site.outages if one.what not in FAULTY
    ]
    return [*least, *few, *below, *shape, *share, *away]


def enough_gpus(site: Site, busy: float = 0.65) -> int:
    """So many GPUs that none is asked for more than this share of a working day."""
    jobs = site.hospitals * site.studies_per_day * site.matched
    return max(1, ceil(jobs * site.gpu_s / (site.working_hours * HOUR_S * busy)))


def rows(site: Site, hospitals: Sequence[int]) -> Iterator[tuple[Site, Forecast]]:
    """The site at each size: with the GPUs that it has, and with enough of them where those are too few."""
    for count in hospitals:
        sized = replace(site, hospitals=count)
        yield sized, simulate(sized)
        if (gpus := enough_gpus(sized)) > site.gpus:
            more = replace(sized, gpus=gpus)
            yield more, simulate(more)


@dataclass
class _Tally:
    turnarounds: list[float] = field(default_factory=list)
    gpu_waits: list[float] = field(default_factory=list)
    asked_s: dict[str, float] = field(default_factory=lambda: dict.fromkeys(FAULTY, 0.0))
    queue_peak: int = 0
    drains: dict[int, float] = field(default_factory=dict)


class _Node:
    """One run of the model."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._random = np.random.default_rng(site.seed)
        self._env = env = simpy.Environment()
        self._tally = _Tally()
        self._servers: dict[str, list[simpy.PriorityResource]] = {
            "ingest": [simpy.PriorityResource(env, 1)],
            "gpu": [simpy.PriorityResource(env, site.gpus)],
            "cpu": [simpy.PriorityResource(env, site.cores)],
            "push": [simpy.PriorityResource(env, 1) for _ in range(site.destinations)],
        }

    def run(self) -> Forecast:
        for at in self._arrivals():
            self._env.process(self._study(at))
        for number, outage in enumerate(self._site.outages):
            self._env.process(self._outage(number, outage))
        self._env.run()
        return self._forecast()

    # --- what happens -------------------------------------------------------------------------------------------------

    def _arrivals(self) -> list[float]:
        """A Poisson process by the hour; each hospital's studies are independent, so their sum is one too."""
        site = self._site
        if site.arrivals_s:
            return list(site.arrivals_s)
        shares = np.array(site.hour_weights) / sum(site.hour_weights)
        counts = self._random.poisson(np.tile(shares * site.hospitals * site.studies_per_day, site.days))
        times = [hour * HOUR_S + self._random.uniform(0, HOUR_S, count) for hour, count in enumerate(counts)]
        return sorted(float(at) for at in np.concatenate(times))

    def _study(self, at: float) -> Process:
        """Its series come one after the other; the matched one, if there is one, goes its way alone."""
        site = self._site
        yield self._env.timeout(at)
        chosen = int(self._random.integers(site.series_per_study)) if self._random.random() < site.matched else -1
        for number in range(site.series_per_study):
            yield from self._served("ingest", 0, site.slices / site.ingest_slices_per_s)
            if number == chosen:
                self._env.process(self._job())

    def _job(self) -> Process:
        site, arrived = self._site, self._env.now
        yield self._env.timeout(site.quiet_s)
        closed = self._env.now
        gpu_s = self._drawn(site.gpu_s, site.gpu_cv)
        yield from self._served("gpu", 0, gpu_s)
        self._tally.gpu_waits.append(self._env.now - closed - gpu_s)
        yield from self._served("cpu", 0, self._drawn(site.cpu_s, site.cpu_cv))
        lanes = [self._env.process(self._push(lane)) for lane in range(site.destinations)]
        yield self._env.all_of(lanes)
        self._tally.turnarounds.append(self._env.now - arrived)

    def _push(self, lane: int) -> Process:
        yield from self._served("push", lane, self._drawn(self._site.push_s, self._site.push_cv))

    def _served(self, what: str, number: int, seconds: float) -> Process:
        server = self._servers[what][number]
        with server.request(priority=1) as turn:
            if what == "gpu":
                self._tally.queue_peak = max(self._tally.queue_peak, len(server.queue))
            yield turn
            yield self._env.timeout(seconds)
        self._tally.asked_s[what] += seconds / len(self._servers[what])

    def _outage(self, number: int, outage: Outage) -> Process:
        """Whoever is served ends first; then nobody is, until it is over."""
        yield self._env.timeout(outage.at_h * HOUR_S)
        until = self._env.now + outage.hours * HOUR_S
        servers = self._servers[outage.what]
        taken = [(server, server.request(priority=0)) for server in servers for _ in range(int(server.capacity))]
        yield self._env.timeout(until - self._env.now)
        for server, turn in taken:
            server.release(turn) if turn.triggered else turn.cancel()
        while any(server.queue for server in servers):
            yield self._env.timeout(LOOK_S)
        self._tally.drains[number] = (self._env.now - until) / HOUR_S

    def _drawn(self, mean: float, cv: float) -> float:
        """Lognormal: a time is never negative, and some are long."""
        if not mean or not cv:
            return mean
        spread = log(1 + cv * cv)
        return float(self._random.lognormal(log(mean) - spread / 2, sqrt(spread)))

    # --- what came of it ----------------------------------------------------------------------------------------------

    def _forecast(self) -> Forecast:
        site, tally = self._site, self._tally
        capacity = {name: sum(one.capacity for one in those) / len(those) for name, those in self._servers.items()}
        working_s = site.days * site.working_hours * HOUR_S
        load = {name: tally.asked_s[name] / (working_s * capacity[name]) for name in FAULTY}
        drains = tuple(tally.drains[number] for number in sorted(tally.drains))
        p50, p95 = _percentiles(tally.turnarounds)
        waits = _percentiles(tally.gpu_waits)[1]
        return Forecast(len(tally.turnarounds), p50, p95, waits, load, tally.queue_peak, site.gb_per_day, drains)


def _percentiles(values: Sequence[float]) -> tuple[float, float]:
    if not values:
        return 0.0, 0.0
    half, most = np.percentile(values, (50, 95))
    return float(half), float(most)
