"""Ledgers that have been in use for a while: as many instance rows as are asked for, in bulk, in a sensible shape.

Series of 60 instances, four to a study, an association each, three events each with their hashes chained as the journal
does it (its own check of the chain passes). All series were judged and set aside long ago. Nothing is in the spool: a
receiver looks at the rows of what comes, and at files only where the same instance was here before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Final

from sqlalchemy import Engine, func, insert, select

from bench.slices import fixed_uid
from npc_rtnode.adapters.database import schema
from npc_rtnode.adapters.database.engine import open_engine
from npc_rtnode.adapters.database.journal import GENESIS, event_hash
from npc_rtnode.adapters.database.tables import (
    AssociationRow,
    EventRow,
    InstanceRow,
    InstanceState,
    SeriesRow,
    StudyRow,
)
from npc_rtnode.domain.lifecycle import Event, SeriesState, after
from tests.builders.pdu import EXPLICIT, MR

SERIES, STUDY = 60, 4
"""Instances of a series, series of a study."""
CHUNK: Final = 20_000
FIRST: Final = datetime(2020, 1, 1, tzinfo=UTC)
APART: Final = timedelta(minutes=2)
"""One series comes so long after the other."""
Row = dict[str, Any]


def fill(url: str, instances: int) -> None:
    """Make the ledger at that URL, new and empty, one with so many instances."""
    engine = open_engine(url)
    try:
        schema.upgrade(engine)
        series = -(-instances // SERIES)
        for table, rows in (
            (AssociationRow, map(_association, range(series))),
            (StudyRow, map(_study, range(-(-series // STUDY)))),
            (SeriesRow, map(_series, range(series))),
            (InstanceRow, map(_instance, range(instances))),
            (EventRow, _events(series)),
        ):
            _put(engine, table.__table__, rows)
        _check(engine, instances)
    finally:
        engine.dispose()


def _put(engine: Engine, table: Any, rows: Iterable[Row]) -> None:
    """In their order and without ids, so that the database numbers them from 1."""
    left = iter(rows)
    while chunk := list(islice(left, CHUNK)):
        with engine.begin() as connection:
            connection.execute(insert(table), chunk)


def _check(engine: Engine, instances: int) -> None:
    with engine.begin() as connection:
        found = connection.execute(select(func.count(InstanceRow.id), func.max(InstanceRow.id))).one()
    if tuple(found) != (instances, instances):
        raise ValueError(f"{instances} rows were made in an empty ledger, and it counts and numbers {tuple(found)}")


# --- rows -------------------------------------------------------------------------------------------------------------


def _at(series: int) -> datetime:
    return FIRST + series * APART


def _association(series: int) -> Row:
    ended = _at(series) + timedelta(seconds=30)
    named = {"id": f"00000000-0000-4000-8000-{series:012d}", "calling_ae": "PACS", "called_ae": "NPC_RTNODE"}
    return {
        **named,
        "peer_ip": "127.0.0.1",
        "opened_at": _at(series),
        "ended_at": ended,
        "how": "released",
        "last_series_id": series + 1,
        "refused": [],
    }


def _study(study: int) -> Row:
    return {
        "study_uid": fixed_uid(f"old study {study}"),
        "reference": f"OLD-{study:08d}",
        "first_received_at": _at(study * STUDY),
    }


def _series(series: int) -> Row:
    over = _at(series) + timedelta(seconds=90)
    times = {"first_received_at": _at(series), "last_received_at": _at(series), "closed_at": over}
    return {
        **times,
        "study_id": series // STUDY + 1,
        "series_uid": fixed_uid(f"old series {series}"),
        "revision": 1,
        "modality": "MR",
        "called_ae": "NPC_RTNODE",
        "state": SeriesState.SET_ASIDE,
        "reasons": ["NOT_ASKED_FOR: made for a measurement"],
        "last_association_id": _association(series)["id"],
        "closed_because": "QUIET",
        "rules_hash": "0" * 64,
    }


def _instance(number: int) -> Row:
    series = number // SERIES
    return {
        "series_id": series + 1,
        "association_id": f"00000000-0000-4000-8000-{series:012d}",
        "sop_uid": f"2.25.{10**38 + number * 7919}",
        "sop_class_uid": MR,
        "transfer_syntax_uid": EXPLICIT,
        "sha256": hashlib.sha256(number.to_bytes(8, "big")).hexdigest(),
        "size": 526_000,
        "state": InstanceState.KEPT,
        "received_at": FIRST + series * APART,
    }


def _events(series: int) -> Iterator[Row]:
    """BORN, CLOSED_WHOLE, SET_ASIDE of each series, chained."""
    previous = GENESIS
    for number in range(series):
        state: SeriesState | None = None
        for event in ("BORN", Event.CLOSED_WHOLE, Event.SET_ASIDE):
            then = SeriesState.RECEIVING if state is None else SeriesState(str(after("series", state, Event(event))))
            row = _event(number, str(event), state, then) | {"previous_hash": previous}
            previous = row["hash"] = event_hash(EventRow(**row))
            state = then
            yield row


def _event(series: int, event: str, before: SeriesState | None, then: SeriesState) -> Row:
    return {
        "at": _at(series),
        "actor": "node",
        "subject": "series",
        "subject_id": str(series + 1),
        "event": event,
        "from_state": before,
        "to_state": then,
        "detail": {},
    }
