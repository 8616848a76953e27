"""The lives of a series, a job and a delivery: three tables, two rules on top, a ten-line engine.

docs/lifecycle.md is generated from these tables. Rule one: a crash is an ordinary event (INTERRUPTED), and every
working state has a row for it. Rule two: what a table does not list is refused, by `IllegalTransition`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class SeriesState(StrEnum):
    """Where one revision of a series stands."""

    RECEIVING = "RECEIVING"  # instances are coming, or its quiet time has not run out
    STALLED = "STALLED"  # quiet but not whole: partial, never inferred (a short count alone may be released)
    COMPLETE = "COMPLETE"  # quiet and judged; waits for selection
    SELECTED = "SELECTED"  # a job exists
    HELD = "HELD"  # waits for a person's word
    SET_ASIDE = "SET_ASIDE"  # not for this node, with reasons
    QUARANTINED = "QUARANTINED"  # must not be used: conflicting bytes, two patients, unreadable
    SUPERSEDED = "SUPERSEDED"  # a later revision of the same series took its place


class JobState(StrEnum):
    """Where one job (one bundle on one series revision) stands."""

    QUEUED = "QUEUED"  # waits for inference
    PREDICTING = "PREDICTING"  # a worker has it
    PREDICTED = "PREDICTED"  # the answer is stored; waits to be written
    WRITING = "WRITING"  # a worker has it
    WRITTEN = "WRITTEN"  # objects proven and owed to destinations
    HELD = "HELD"  # waits for a person; what nobody may release says so
    DELIVERED = "DELIVERED"  # every destination accepted every object it is owed
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    QUARANTINED = "QUARANTINED"  # crashed its worker three times


class DeliveryState(StrEnum):
    """Where one delivery (one object owed to one destination) stands."""

    PENDING = "PENDING"  # owed; waits for its time and its lane
    SENDING = "SENDING"  # a child process is at it
    SENT = "SENT"  # accepted: that very message, that very object
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class Event(StrEnum):
    """What can happen to a series, a job or a delivery."""

    INSTANCE_STORED = "INSTANCE_STORED"
    CONFLICT_FOUND = "CONFLICT_FOUND"
    CONFLICT_SETTLED = "CONFLICT_SETTLED"  # an operator says which of two contents counts
    CLOSED_WHOLE = "CLOSED_WHOLE"
    CLOSED_PARTIAL = "CLOSED_PARTIAL"
    SELECTED = "SELECTED"
    SET_ASIDE = "SET_ASIDE"
    SUPERSEDED = "SUPERSEDED"
    RECONSIDERED = "RECONSIDERED"  # judged anew: an operator asks, or another series of the study came or fell away
    BEGUN = "BEGUN"
    DONE = "DONE"
    HELD = "HELD"
    RELEASED = "RELEASED"
    POSTPONED = "POSTPONED"  # a transient failure: tried again at a stated time
    INTERRUPTED = "INTERRUPTED"  # the worker died; nothing is wrong with the work
    FAILED = "FAILED"
    QUARANTINED = "QUARANTINED"
    CANCELLED = "CANCELLED"
    RETRIED = "RETRIED"  # an operator asks for another try
    RESENT = "RESENT"  # an operator asks for the stored objects to be sent again
    ALL_SENT = "ALL_SENT"


class IllegalTransition(Exception):
    """The table of this life has no such row."""


Life = Mapping[StrEnum, Mapping[Event, StrEnum]]

_S, _J, _D = SeriesState, JobState, DeliveryState

SERIES: Life = {
    _S.RECEIVING: {
        Event.INSTANCE_STORED: _S.RECEIVING,
        Event.CLOSED_WHOLE: _S.COMPLETE,
        Event.CLOSED_PARTIAL: _S.STALLED,
        Event.CONFLICT_FOUND: _S.QUARANTINED,
        Event.QUARANTINED: _S.QUARANTINED,
        Event.POSTPONED: _S.RECEIVING,
        Event.INTERRUPTED: _S.RECEIVING,
    },
    _S.STALLED: {
        Event.INSTANCE_STORED: _S.RECEIVING,
        Event.RELEASED: _S.COMPLETE,
        Event.CONFLICT_FOUND: _S.QUARANTINED,
        Event.RECONSIDERED: _S.RECEIVING,
    },
    _S.COMPLETE: {
        Event.SELECTED: _S.SELECTED,
        Event.SET_ASIDE: _S.SET_ASIDE,
        Event.HELD: _S.HELD,
        Event.QUARANTINED: _S.QUARANTINED,
        Event.CONFLICT_FOUND: _S.QUARANTINED,
        Event.SUPERSEDED: _S.SUPERSEDED,
        Event.INTERRUPTED: _S.COMPLETE,
    },
    _S.SELECTED: {
        Event.CONFLICT_FOUND: _S.QUARANTINED,
        Event.SUPERSEDED: _S.SUPERSEDED,
        Event.RECONSIDERED: _S.COMPLETE,
    },
    _S.HELD: {
        Event.RELEASED: _S.COMPLETE,
        Event.CONFLICT_FOUND: _S.QUARANTINED,
        Event.SUPERSEDED: _S.SUPERSEDED,
        Event.RECONSIDERED: _S.COMPLETE,
    },
    _S.SET_ASIDE: {
        Event.RELEASED: _S.COMPLETE,  # only where another series was preferred, never against a rule
        Event.CONFLICT_FOUND: _S.QUARANTINED,
        Event.SUPERSEDED: _S.SUPERSEDED,
        Event.RECONSIDERED: _S.COMPLETE,
    },
    _S.QUARANTINED: {Event.RECONSIDERED: _S.RECEIVING, Event.CONFLICT_SETTLED: _S.RECEIVING},
    _S.SUPERSEDED: {},
}

JOB: Life = {
    _J.QUEUED: {Event.BEGUN: _J.PREDICTING, Event.CANCELLED: _J.CANCELLED},
    _J.PREDICTING: {
        Event.DONE: _J.PREDICTED,
        Event.HELD: _J.HELD,
        Event.POSTPONED: _J.QUEUED,
        Event.INTERRUPTED: _J.QUEUED,
        Event.FAILED: _J.FAILED,
        Event.QUARANTINED: _J.QUARANTINED,
        Event.CANCELLED: _J.CANCELLED,
    },
    _J.PREDICTED: {Event.BEGUN: _J.WRITING, Event.CANCELLED: _J.CANCELLED},
    _J.WRITING: {
        Event.DONE: _J.WRITTEN,
        Event.HELD: _J.HELD,
        Event.POSTPONED: _J.PREDICTED,
        Event.INTERRUPTED: _J.PREDICTED,
        Event.FAILED: _J.FAILED,
        Event.QUARANTINED: _J.QUARANTINED,
        Event.CANCELLED: _J.CANCELLED,
    },
    _J.WRITTEN: {
        Event.ALL_SENT: _J.DELIVERED,
        Event.HELD: _J.HELD,
        Event.FAILED: _J.FAILED,
        Event.RESENT: _J.WRITTEN,
        Event.CANCELLED: _J.CANCELLED,
    },
    _J.HELD: {Event.RELEASED: _J.WRITTEN, Event.CANCELLED: _J.CANCELLED, Event.RETRIED: _J.QUEUED},
    _J.DELIVERED: {Event.RESENT: _J.WRITTEN},
    _J.FAILED: {Event.RETRIED: _J.QUEUED, Event.RESENT: _J.WRITTEN, Event.CANCELLED: _J.CANCELLED},
    _J.QUARANTINED: {Event.RETRIED: _J.QUEUED, Event.CANCELLED: _J.CANCELLED},
    _J.CANCELLED: {Event.RETRIED: _J.QUEUED},
}

DELIVERY: Life = {
    _D.PENDING: {Event.BEGUN: _D.SENDING, Event.CANCELLED: _D.CANCELLED},
    _D.SENDING: {
        Event.DONE: _D.SENT,
        Event.POSTPONED: _D.PENDING,
        Event.INTERRUPTED: _D.PENDING,
        Event.FAILED: _D.FAILED,
    },
    _D.SENT: {Event.RESENT: _D.PENDING},
    _D.FAILED: {Event.RESENT: _D.PENDING, Event.CANCELLED: _D.CANCELLED},
    _D.CANCELLED: {Event.RESENT: _D.PENDING},
}

LIVES: Mapping[str, Life] = {"series": SERIES, "job": JOB, "delivery": DELIVERY}
BIRTH: Mapping[str, StrEnum] = {"series": _S.RECEIVING, "job": _J.QUEUED, "delivery": _D.PENDING}
WORKING: Mapping[str, frozenset[StrEnum]] = {
    "series": frozenset({_S.RECEIVING, _S.COMPLETE}),
    "job": frozenset({_J.PREDICTING, _J.WRITING}),
    "delivery": frozenset({_D.SENDING}),
}


def after(subject: str, state: str, event: Event) -> StrEnum:
    """The state that `event` leads to; raises IllegalTransition where the table has no row."""
    life = LIVES[subject]
    current = type(BIRTH[subject])(state)
    try:
        return life[current][event]
    except KeyError:
        raise IllegalTransition(f"a {subject} that is {state} cannot be {event}") from None
