"""What one more instance costs while the ledger grows: the same slices to receivers on ledgers of 1k … 1M rows.

Timed is not the acknowledgement but the whole: from the first byte sent until the ledger has every row; beside it the
processor time of the receiver's processes (and of PostgreSQL's) per instance over the same stretch. Rounds alternate
over the levels, ratios are of the same round. The rows of earlier rounds stay, which is little even at 1k.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

from bench import ledgers
from bench.receivers import Node
from bench.senders import RawSenders
from bench.slices import Shipment
from tests.postgres import Server

LEVELS: Final = (1_000, 10_000, 100_000, 1_000_000)
SIDE: Final = 256
WARM_UP: Final = 20


class Cost(NamedTuple):
    """Of one instance, milliseconds."""

    wall_ms: float
    cpu_ms: float


Costs = dict[int, list[Cost]]
"""By level, one a round."""


class Plan(NamedTuple):
    """What is measured."""

    levels: tuple[int, ...]
    rounds: int
    instances: int


def measure(folder: Path, plan: Plan, senders: RawSenders, server: Server | None = None) -> Costs:
    """Ledgers filled, then rounds over them; with `server` they are PostgreSQL's."""
    urls = {level: _filled(folder, level, server) for level in plan.levels}
    costs: Costs = {level: [] for level in plan.levels}
    for turn in range(plan.rounds):
        at = turn % len(plan.levels)
        for level in (*plan.levels[at:], *plan.levels[:at]):
            with Node(folder / str(level), urls[level], server) as node:  # a ledger belongs to one home
                costs[level].append(_cost(node, senders, plan.instances, f"growth {level} {turn}"))
    return costs


def _filled(folder: Path, level: int, server: Server | None) -> str:
    print(f"filling a ledger with {level} instances", flush=True)
    if server is None:
        url = f"sqlite:///{folder / f'{level}.db'}"
        ledgers.fill(url, level)
        return url
    url = server.create(f"growth_{level}")
    ledgers.fill(url, level)
    for statement in ("VACUUM ANALYZE", "CHECKPOINT"):  # as autovacuum would have had the years to do
        server.do(statement, f"growth_{level}")
    return url


def _cost(node: Node, senders: RawSenders, instances: int, seed: str) -> Cost:
    warm_up = Shipment(f"{seed} warm-up", WARM_UP, SIDE)
    senders.send(node.port, [warm_up])
    node.given(warm_up.count, warm_up.pixel_bytes)
    node.settled()
    os.sync()
    before, shipment = node.cpu_s(), Shipment(seed, instances, SIDE)
    span = senders.send(node.port, [shipment])
    node.given(shipment.count, shipment.pixel_bytes)
    done, cpu = node.settled(), node.cpu_s() - before
    node.check()
    return Cost(1000 * (done - span.begin) / instances, 1000 * cpu / instances)


# --- figures ----------------------------------------------------------------------------------------------------------


def ratios(costs: Costs) -> tuple[float, float]:
    """Wall and processor time at the largest ledger over the smallest: medians of same-round ratios."""
    small, large = costs[min(costs)], costs[max(costs)]
    pairs = list(zip(large, small, strict=True))
    return median(b.wall_ms / a.wall_ms for b, a in pairs), median(b.cpu_ms / a.cpu_ms for b, a in pairs)


def short(level: int) -> str:
    """1000 -> 1k, 1000000 -> 1m."""
    return f"{level // 10**6}m" if level >= 10**6 else f"{level // 1000}k"


def figures(costs: Costs, suffix: str = "") -> dict[str, float]:
    """`growth_1m_over_1k` is the worse of both ratios; each by itself, and the cost of an instance at each level."""
    name = f"{short(max(costs))}_over_{short(min(costs))}{suffix}"
    wall, cpu = ratios(costs)
    told = {f"growth_{name}": max(wall, cpu), f"growth_wall_{name}": wall, f"growth_cpu_{name}": cpu}
    for level, found in costs.items():
        told[f"wall_ms_{short(level)}{suffix}"] = median(cost.wall_ms for cost in found)
        told[f"cpu_ms_{short(level)}{suffix}"] = median(cost.cpu_ms for cost in found)
    return told


def table(costs: Costs, database: str) -> Sequence[str]:
    """A line a level, and the ratios."""
    lines = [f"{'ledger rows':>12}{'ms an instance':>16}{'of them CPU':>13}   ({database}, until the row is in it)"]
    for level, found in sorted(costs.items()):
        wall, cpu = median(c.wall_ms for c in found), median(c.cpu_ms for c in found)
        lines.append(f"{level:12d}{wall:16.2f}{cpu:13.2f}")
    wall, cpu = ratios(costs)
    return [*lines, f"{'last : first':>12}{wall:16.3f}{cpu:13.3f}   (medians of same-round ratios; target 1.25)"]
