"""Bundle and settings: a worker host that has others than the node leaves the node's jobs alone, and says so.

It called them off once, and the node ordered the very same again, without end.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select

from npc_rtnode.adapters.database.recipes import RecipeLedger
from npc_rtnode.adapters.database.tables import EventRow, JobRow
from npc_rtnode.adapters.database.work import WorkLedger
from npc_rtnode.app import Home, WorkRole, utc_now
from npc_rtnode.domain.lifecycle import Event, JobState
from npc_rtnode.domain.recipe import Recipe, unfit
from npc_rtnode.domain.retry import GiveUp
from npc_rtnode.pipeline.recipe import PAUSE_S, Likeness, Orders
from npc_rtnode.settings import Settings, content_hash
from tests.builders.ledger import Ledger

NODES = Recipe("b" * 64, "s" * 64, "npc 2")
"""What tests.builders.ledger orders by."""
OLD_BUNDLE, OTHER_SETTINGS = (
    replace(NODES, bundle_hash="a" * 64, bundle="npc 1"),
    replace(NODES, settings_hash="t" * 64),
)
ON_A_SERVER = pytest.mark.parametrize("backend", [pytest.param("postgresql", marks=pytest.mark.postgres)])
"""SQLite has no second host."""
WAITING = (JobState.QUEUED, JobState.PREDICTED)


def events(ledger: Ledger, subject: str) -> list[tuple[str, str]]:
    """Of all of this kind, in order: which, and what happened."""
    with ledger.sessions.reading() as session:
        rows = session.scalars(select(EventRow).where(EventRow.subject == subject).order_by(EventRow.seq))
        return [(row.subject_id, row.event) for row in rows]


def guest(url: str, folder: Path, **infer: object) -> Settings:
    """A further host with the node's home mounted."""
    home = Home(folder / "node").made()
    home.site_key()
    work = {"host": "gpu-1", "store": str(home.root)}
    return Settings.model_validate(
        {"node": {"home": folder / "host"}, "database": {"url": url}, "work": work, "infer": infer}
    )


@ON_A_SERVER
def test_what_the_node_ordered_is_not_called_off_by_a_host_with_another_bundle(
    ledger: Ledger, database_url: str, tmp_path: Path
) -> None:
    """Neither what waits for inference nor, with other settings, what waits for writing; nothing circulates."""
    job = ledger.queued_job()
    role = WorkRole(guest(database_url, tmp_path))
    with closing(role._station):
        assert not role._stages["gpu"].run()
        assert not role._stages["gpu"].run(job), "whoever brings it"
        assert ledger.job_state() == JobState.QUEUED
        ledger.predicted()
        assert not role._stages["cpu"].run()
        assert ledger.job_state() == JobState.PREDICTED
    assert Event.CANCELLED not in {event for _, event in events(ledger, "job")}
    assert ledger.series_states() == ["SELECTED"]


@pytest.mark.parametrize(
    ("own", "lacks"),
    [
        (NODES, frozenset()),
        (replace(NODES, bundle="by another name"), frozenset()),
        (OLD_BUNDLE, {JobState.QUEUED}),
        (OTHER_SETTINGS, {*WAITING}),
    ],
)
def test_another_bundle_infers_nothing_and_other_settings_write_nothing_either(
    ledger: Ledger, own: Recipe, lacks: set[JobState]
) -> None:
    """The pure rule and the ledger's claims say the same: what is predicted has its bundle's answer already."""
    assert unfit(own, NODES, WAITING) == lacks
    pages = WorkLedger(ledger.sessions, "gpu-1", recipe=lambda: own)
    ledger.queued_job()
    taken = pages.claim_job(JobState.QUEUED, "infer", ledger.now, 60)
    assert (taken is None) is (JobState.QUEUED in lacks)
    if taken is None:
        ledger.predicted()
    else:
        pages.predicted(taken.lease, {}, ledger.now)
    assert (pages.claim_job(JobState.PREDICTED, "write", ledger.now, 60) is None) is (JobState.PREDICTED in lacks)


class TestTheNode:
    """Its recipe counts, and is in the ledger."""

    def orders(self, ledger: Ledger, recipe: Recipe) -> Orders:
        """Of a node that has this one now."""
        return Orders(RecipeLedger(ledger.sessions), lambda: recipe, lambda: ledger.now)

    def test_after_an_upgrade_what_waits_goes_on_under_the_new_bundle(self, ledger: Ledger) -> None:
        """Ordered anew once, whichever host was to infer it; the new job stays, the old one is not made again."""
        old = ledger.queued_job()
        new = replace(NODES, bundle_hash="c" * 64, bundle="npc 3")
        assert self.orders(ledger, NODES).run() == 0
        assert self.orders(ledger, new).run() == 1
        assert (ledger.job_state(), ledger.series_states()) == ("CANCELLED", ["COMPLETE"])
        (series,) = ledger.complete()
        ledger_order = ledger.order(series, bundle=new.bundle_hash)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ledger, "order", lambda _series: ledger_order)
            again = ledger.choose(series)
        assert self.orders(ledger, new).run() == 0
        assert [one for one in events(ledger, "job") if one[0] == str(old)][-1] == (str(old), Event.CANCELLED)
        assert (again != old, ledger.job_state()) == (True, JobState.QUEUED)

    @pytest.mark.parametrize("ended", ["failed", "written"])
    def test_a_bundle_that_is_taken_back_makes_its_old_order_the_newest(self, ledger: Ledger, ended: str) -> None:
        """The job of its key is the one that it had before, under its old number; its result counts."""
        first, other = ledger.queued_job(), replace(NODES, bundle_hash="c" * 64)
        ledger.later(60)
        self.orders(ledger, other).run()
        assert self.chosen(ledger, other) != first
        if ended == "failed":
            ledger.work.failed(ledger.in_hand(JobState.QUEUED, "infer").lease, GiveUp("INPUT_REFUSED"), ledger.now)
        else:
            ledger.predicted()
            writing = ledger.in_hand(JobState.PREDICTED, "write")
            ledger.work.commit_result(writing.lease, ledger.result(writing), ledger.now)
        self.orders(ledger, NODES).run()
        ledger.desk.reconsider(ledger.study(), ledger.word())
        ledger.later(600)
        self.chosen(ledger, NODES)
        ledger.predicted()
        writing = ledger.in_hand(JobState.PREDICTED, "write")
        assert writing.lease.subject_id == first
        ledger.work.commit_result(writing.lease, ledger.result(writing), ledger.now)
        with ledger.sessions.reading() as session:
            assert session.get_one(JobRow, first).state == JobState.WRITTEN

    def chosen(self, ledger: Ledger, recipe: Recipe) -> int | None:
        """The one series is selected under this recipe; the number of its newest job."""
        (series,) = ledger.complete()
        order = ledger.order(series, bundle=recipe.bundle_hash)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ledger, "order", lambda _series: order)
            return ledger.choose(series)

    def test_what_is_predicted_keeps_its_bundles_answer(self, ledger: Ledger) -> None:
        """Another bundle changes nothing of it; other settings would write it under UIDs that mean something else."""
        ledger.queued_job()
        ledger.predicted()
        assert self.orders(ledger, replace(NODES, bundle_hash="c" * 64)).run() == 0
        assert self.orders(ledger, OTHER_SETTINGS).run() == 1
        assert ledger.job_state() == "CANCELLED"

    def test_what_a_worker_has_in_hand_is_left_to_it(self, ledger: Ledger) -> None:
        """Nothing is taken out of a host's hands for it."""
        ledger.queued_job()
        ledger.in_hand(JobState.QUEUED, "infer")
        assert self.orders(ledger, OTHER_SETTINGS).run() == 0
        assert ledger.job_state() == JobState.PREDICTING

    def test_what_is_in_force_is_told_once(self, ledger: Ledger) -> None:
        """An event when it changes, also back to an earlier one; in between nothing is written at all."""
        pages = RecipeLedger(ledger.sessions)
        assert pages.in_force() is None
        for recipe in (NODES, NODES, OLD_BUNDLE, NODES, NODES):
            self.orders(ledger, recipe).run()
            assert pages.in_force() == recipe
        assert len(events(ledger, "recipe")) == 3
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ledger.sessions, "writing", lambda: pytest.fail("it stands in the way of who writes"))
            assert pages.renew(NODES, ledger.now) == 0


class TestAHost:
    """It compares itself with the node."""

    def test_it_says_whose_fault_it_is_and_goes_on_when_it_is_mended(self, ledger: Ledger) -> None:
        """Both bundles by name; in the ledger once, and no more when the node has the same, or when the host stops."""
        pages, said = RecipeLedger(ledger.sessions), []

        def record(because: str) -> None:
            said.append(because)
            pages.unfit("gpu-1", because, ledger.now)

        host = Likeness(lambda: OLD_BUNDLE, pages.in_force, WAITING, record)
        assert not host.look(), "a node that has not said anything yet"
        pages.renew(NODES, ledger.now)
        assert host.look()
        assert not host.look()
        assert not host.begins(JobState.QUEUED)
        assert host.begins(JobState.PREDICTED)
        told = pages.told(ledger.now)["gpu-1"]
        for words in ("OTHER_RECIPE", "Here: bundle npc 1 (aaaaaaaaaaaa)", "the node's: bundle npc 2", "no inference:"):
            assert words in told
        pages.renew(OLD_BUNDLE, ledger.now)
        assert host.look()
        assert (host.begins(JobState.QUEUED), pages.told(ledger.now)) == (True, {})
        pages.renew(NODES, ledger.now)
        host.look()
        host.leave()
        assert (len(said), said[-1], pages.told(ledger.now)) == (4, "", {})

    def test_one_that_cannot_leaves_the_jobs_to_others_for_a_while(self, ledger: Ledger) -> None:
        """A broken device would take one job after the other and have each wait ten minutes: it takes one in that time,
        and says so until an inference came to its end."""
        pages, clock = RecipeLedger(ledger.sessions), [0.0]
        pages.renew(NODES, ledger.now)
        host = Likeness(
            lambda: NODES,
            pages.in_force,
            WAITING,
            lambda because: pages.unfit("gpu-1", because, ledger.now),
            monotonic=lambda: clock[0],
        )
        host.failed("BUNDLE_FAULT: its process died")
        assert (host.begins(JobState.QUEUED), host.begins(JobState.PREDICTED)) == (False, True)
        host.look()
        assert "BUNDLE_FAULT: its process died" in pages.told(ledger.now)["gpu-1"]
        clock[0] = PAUSE_S
        assert host.begins(JobState.QUEUED)
        host.look()
        assert pages.told(ledger.now), "not before one has come to its end"
        host.works()
        host.look()
        assert pages.told(ledger.now) == {}

    def test_what_a_killed_process_has_said_is_taken_back_by_the_next_one(self, ledger: Ledger) -> None:
        """Or `status` would speak for ever of a host that works."""
        pages = RecipeLedger(ledger.sessions)
        pages.renew(NODES, ledger.now)
        pages.unfit("gpu-1", "OTHER_RECIPE: …", ledger.now)
        said = pages.said_by("gpu-1")
        Likeness(
            lambda: NODES, pages.in_force, WAITING, lambda words: pages.unfit("gpu-1", words, ledger.now), said
        ).look()
        assert (said, pages.told(ledger.now), pages.said_by("gpu-1")) == ("OTHER_RECIPE: …", {}, "")

    def test_what_is_still_so_is_said_again_and_who_is_gone_is_forgotten(self, ledger: Ledger) -> None:
        """A host that was scrapped while it was unfit is spoken of for half a day."""
        pages, clock, said = RecipeLedger(ledger.sessions), [0.0], []
        pages.renew(NODES, ledger.now)
        host = Likeness(lambda: OLD_BUNDLE, pages.in_force, WAITING, said.append, monotonic=lambda: clock[0])
        for hours in (0, 1, 7, 8, 14):
            clock[0] = hours * 3600.0
            host.look()
        assert len(said) == 3
        pages.unfit("gpu-1", said[-1], ledger.now)
        assert "gpu-1" in pages.told(ledger.later(7 * 3600))
        assert pages.told(ledger.later(7 * 3600)) == {}

    def test_it_minds_only_what_it_does(self, ledger: Ledger) -> None:
        """A host that only writes needs no bundle of its own."""
        pages = RecipeLedger(ledger.sessions)
        pages.renew(NODES, ledger.now)
        assert not Likeness(lambda: OLD_BUNDLE, pages.in_force, (JobState.PREDICTED,), _nothing).look()

    @ON_A_SERVER
    def test_one_whose_bundle_cannot_be_read_says_that(self, ledger: Ledger, database_url: str, tmp_path: Path) -> None:
        """It begins no inference, names the fault, and the node's bundle; `status` shows it to a person."""
        settings = guest(database_url, tmp_path, bundle=str(tmp_path / "none"))
        RecipeLedger(ledger.sessions).renew(replace(NODES, settings_hash=content_hash(settings)), ledger.now)
        role = WorkRole(settings)
        with closing(role._station):
            assert role._likeness is not None
            role._likeness.look()
            assert (role._begins("gpu"), role._begins("cpu"), role._begins("send:tps")) == (False, True, True)
        told = RecipeLedger(ledger.sessions).told(utc_now())["gpu-1"]
        assert "Here: bundle none, BUNDLE_FAULT: " in told
        assert "the node's: bundle npc 2" in told


def _nothing(_because: str) -> None:
    raise AssertionError("there is nothing to say")
