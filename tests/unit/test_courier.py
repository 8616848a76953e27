"""What the courier asks of procrastinate and of the network, with neither of them there."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("procrastinate", reason="an extra of its own")

from procrastinate.exceptions import ConnectorException
from psycopg.conninfo import conninfo_to_dict

from npc_rtnode.adapters.database.courier import Courier

URL = "postgresql+psycopg://node:word@db.example:5433/ledger?sslmode=verify-full"


def courier(url: str = URL) -> Courier:
    """Not started."""
    return Courier(url, {"gpu": lambda _: None}, 10, 45)


class EndingWorkers:
    """A procrastinate whose worker ends without a word, as it does when its heartbeat failed, or by an error."""

    def __init__(self, error: Exception | None = None) -> None:
        self.begun, self.error = 0, error

    async def run_worker_async(self, **_options: Any) -> None:
        """The third one is called back."""
        self.begun += 1
        if self.begun == 3:
            raise asyncio.CancelledError
        if self.error is not None:
            raise self.error


def test_a_lane_whose_worker_ends_by_itself_begins_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its neighbours go on fetching, so nobody else would notice a resource that is fetched no more."""
    monkeypatch.setattr("npc_rtnode.adapters.database.courier.AGAIN_S", 0)
    workers = EndingWorkers()
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(courier()._lane(workers, "gpu"))  # type: ignore[arg-type]
    assert workers.begun == 3


def test_a_lane_that_lost_its_server_takes_no_other_along(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its neighbours would be called back, and wait for the longest work under way before anything is sent again."""
    monkeypatch.setattr("npc_rtnode.adapters.database.courier.AGAIN_S", 0)
    workers = EndingWorkers(ConnectorException("away"))
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(courier()._lane(workers, "gpu"))  # type: ignore[arg-type]
    assert workers.begun == 3


def test_a_fault_without_a_name_ends_the_courier() -> None:
    """A worker that fetches nothing must not stay up."""
    with pytest.raises(ZeroDivisionError):
        asyncio.run(courier()._lane(EndingWorkers(ZeroDivisionError()), "gpu"))  # type: ignore[arg-type]


def test_a_courier_that_is_stopped_as_it_begins_fetches_nothing() -> None:
    """The word to stop may come before there is anything to call back; the role's end would wait for ever."""
    stopped = courier("postgresql://node@127.0.0.1:1/none")
    stopped._stopping.set()
    asyncio.run(asyncio.wait_for(stopped._fetch(), 5))


def test_a_server_that_vanished_is_noticed_by_the_courier_too() -> None:
    """The ledger's limits of the network hold for its connections; what the URL says besides is kept."""
    said = conninfo_to_dict(courier()._conninfo)
    assert (said["tcp_user_timeout"], said["keepalives_idle"], said["connect_timeout"]) == ("10000", "5", "10")
    assert (said["host"], said["port"], said["password"], said["sslmode"]) == (
        "db.example",
        "5433",
        "word",
        "verify-full",
    )


class LastingWorkers:
    """A procrastinate whose workers work until they are called back."""

    def __init__(self) -> None:
        self.told: list[str] = []

    async def run_worker_async(self, **_options: Any) -> None:
        """Says when it begins, and when it was called back."""
        self.told.append("begun")
        try:
            await asyncio.Event().wait()
        finally:
            self.told.append("called back")


def test_a_lane_fetches_nothing_while_its_work_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it fetched then would be lost to hosts that would begin it: its worker is called back, and comes again."""
    monkeypatch.setattr("npc_rtnode.adapters.database.courier.LOOK_S", 0.001)
    workers, answers = LastingWorkers(), [False, False, True, True, False, True, True]
    one = Courier(URL, {"gpu": lambda _: None}, 10, 45, lambda _: answers.pop(0))
    with pytest.raises(IndexError):
        asyncio.run(one._lane(workers, "gpu"))  # type: ignore[arg-type]
    assert workers.told == ["begun", "called back", "begun", "called back"]
