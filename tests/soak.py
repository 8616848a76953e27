"""`make soak`: ten thousand seeded cases against a living receiver, with the deadlines that it has in the clinic.

Prints a line a batch, every offender by name (`seed/number`, which makes it again), and one line RESULT {json}: flat,
numbers only. Every figure after `seconds` and `cases_per_s` must be 0; the exit code says whether they are.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tests.fakes import fuzz
from tests.fakes.receiver import Receiver

BATCH = 1000
SUMMED = ("cases", "successes", "seconds", "crashes", "hangs", "false_successes", "unserved")
"""Of each batch its own; all other figures stand at the end for the whole run."""


def main() -> int:
    """Run it; 0 when nothing was found."""
    options = _options()
    deadlines = (options.pdu_s, options.associate_s)
    with (
        tempfile.TemporaryDirectory(prefix="npc-rtnode-soak-") as folder,
        Receiver(Path(folder), deadlines, idle_timeout_s=options.idle_s) as receiver,
    ):
        reports = list(_reports(receiver, options.seed, options.cases))
        code, seconds = receiver.terminate() if receiver.alive else (1, 0.0)
    figures = _together(reports) | {"exit_code": code, "sigterm_s": round(seconds, 1)}
    print("RESULT", json.dumps(figures))
    return int(code != 0 or not all(report.clean for report in reports))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pdu-s", type=float, default=4.0, help="deadline of a PDU")
    parser.add_argument("--associate-s", type=float, default=10.0, help="deadline of an association request")
    parser.add_argument("--idle-s", type=float, default=15.0, help="idle_timeout_s of the receiver")
    return parser.parse_args()


def _reports(receiver: Receiver, seed: int, count: int) -> Iterator[fuzz.Report]:
    """One a batch, on one receiver that is never restarted: what leaks, adds up."""
    rest = fuzz.warmed_up(receiver)
    cases = iter(fuzz.seeded(seed, count))
    while batch := list(islice(cases, BATCH)):
        report = fuzz.run(receiver, batch, rest)
        print(json.dumps(report.figures()), *report.offenders, sep="\n  ", flush=True)
        yield report
        if not receiver.alive:
            return


def _together(reports: list[fuzz.Report]) -> dict[str, float]:
    last = reports[-1].figures()
    sums = {name: round(sum(report.figures()[name] for report in reports), 1) for name in SUMMED}
    return last | sums | {"cases_per_s": round(sums["cases"] / max(sums["seconds"], 0.1), 1)}


if __name__ == "__main__":
    sys.exit(main())
