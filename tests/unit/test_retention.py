"""What may go, over every state that a study can be in: nothing that is under way, held, owed or undelivered."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from npc_rtnode.domain.lifecycle import JobState, SeriesState
from npc_rtnode.domain.retention import (
    Days,
    KeptFile,
    Place,
    SeriesStanding,
    StudyStanding,
    due,
    everything,
    kept_because,
)
from tests.builders.ledger import NOON

AT_REST = {
    SeriesState.STALLED,
    SeriesState.SELECTED,
    SeriesState.SET_ASIDE,
    SeriesState.QUARANTINED,
    SeriesState.SUPERSEDED,
}
ENDED = {JobState.DELIVERED, JobState.CANCELLED}
"""Written out here: a state that is added to a life is needed until somebody says here that it is not."""

FILES = {place: (KeptFile(str(place), 1),) for place in Place}


@st.composite
def series(draw: st.DrawFn) -> SeriesStanding:
    """Any state with any jobs, some of them what no ledger should ever hold."""
    few = st.integers(0, 2)
    return SeriesStanding(
        series_id=draw(few),
        state=draw(st.sampled_from(SeriesState)),
        conflict=draw(st.sampled_from([False, False, False, True])),
        jobs=tuple(draw(st.lists(st.sampled_from(JobState), max_size=3))),
        owed=draw(st.sampled_from([0, 0, 0, 1])),
        leases=draw(st.sampled_from([0, 0, 0, 1])),
        last_at=NOON - timedelta(days=draw(st.floats(0, 4000))),
        files=FILES,
        commitments=draw(st.sampled_from([0, 0, 0, 1])),
    )


STUDIES = st.builds(
    StudyStanding,
    reference=st.just("R7Q-4KD"),
    hold=st.sampled_from([None, None, None, "ada: wait"]),
    series=st.lists(series(), min_size=1, max_size=3).map(tuple),
)
LIMITS = st.sampled_from([0.0, 0.001, 7.0, 180.0])
DAYS = st.builds(Days, *[LIMITS] * 6)


def needed(study: StudyStanding) -> bool:
    """Whether anybody still needs anything of it; written without a look at the judgement under test."""
    return study.hold is not None or any(
        one.conflict
        or one.owed > 0
        or one.leases > 0
        or one.commitments > 0
        or one.state not in AT_REST
        or any(job not in ENDED for job in one.jobs)
        for one in study.series
    )


@settings(max_examples=400, deadline=None)
@given(study=STUDIES, days=DAYS)
def test_nothing_goes_of_what_anybody_needs(study: StudyStanding, days: Days) -> None:
    """By the schedule not one file, by a person's word a refusal with its reason; and what nobody needs may go."""
    if needed(study):
        assert due(study, days, NOON) == ()
        assert kept_because(study) is not None
    else:
        assert kept_because(study) is None
        assert len(everything(study)) == len(study.series) * len(Place)


@settings(max_examples=200, deadline=None)
@given(study=STUDIES, days=DAYS)
def test_what_goes_has_had_its_days(study: StudyStanding, days: Days) -> None:
    """Never sooner than the shortest limit, never for a limit of 0, and no inputs of a choice that came to nothing."""
    standings = {id(one): one for one in study.series}.values()
    for parcel in due(study, days, NOON):
        assert days.shortest is not None
        of = [one for one in standings if one.series_id == parcel.series_id]
        assert max(NOON - one.last_at for one in of) >= timedelta(days=days.shortest)
        if parcel.place is Place.SPOOL:
            assert any(one.state is not SeriesState.SELECTED or JobState.DELIVERED in one.jobs for one in of)


def test_without_days_nothing_goes() -> None:
    """All limits 0, however old."""
    old = SeriesStanding(1, SeriesState.SET_ASIDE, False, (), 0, 0, NOON - timedelta(days=9999), FILES)
    assert due(StudyStanding("x", None, (old,)), Days(0, 0, 0, 0, 0, 0), NOON) == ()
