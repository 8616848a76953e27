"""A worker host with the node's home mounted: when the mount goes away in mid-job, the job waits for it."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from npc_rtnode.adapters.database.engine import Sessions
from npc_rtnode.adapters.database.tables import DeliveryRow, JobRow
from npc_rtnode.app import Home, Station, WorkRole
from npc_rtnode.domain.records import OpenSeries, WorkOrder
from npc_rtnode.errors import (
    BundleFault,
    ContextRefused,
    FilesAway,
    InferenceCrashed,
    OutputFault,
    PeerStalled,
    Unreadable,
)
from npc_rtnode.settings import Settings
from tests.builders.ledger import Ledger
from tests.builders.outputs import ball, prediction_of, stack_for

pytestmark = pytest.mark.parametrize("backend", [pytest.param("postgresql", marks=pytest.mark.postgres)])


class Host:
    """The role of a worker host, and the way to take its mount away."""

    def __init__(self, url: str, folder: Path) -> None:
        self._mount, self._away = folder / "mount", folder / "away"
        Home(self._mount).made().site_key()
        tps = {"name": "tps", "ae_title": "TPS", "host": "127.0.0.1", "port": 1, "test": True}
        work = {"host": "gpu-1", "store": str(self._mount)}
        view = {"node": {"home": folder / "home"}, "database": {"url": url}, "work": work, "destinations": [tps]}
        self.role = WorkRole(Settings.model_validate(view))

    @property
    def station(self) -> Station:
        """What it stands on."""
        return self.role._station

    def unmount(self) -> None:
        """What is left is the empty folder below."""
        self._mount.rename(self._away)
        self._mount.mkdir()

    def mount(self) -> None:
        """As it was; nothing was written below it meanwhile."""
        self._mount.rmdir()
        self._away.rename(self._mount)

    def run(self, resource: str) -> None:
        """One piece of work, which it begins."""
        assert self.role._stages[resource].run()

    def order(self, ledger: Ledger) -> Callable[[OpenSeries], WorkOrder]:
        """By its own bundle and settings."""
        recipe, ordered = self.role._recipe(), ledger.order
        return lambda series: ordered(series, recipe.bundle_hash, recipe.settings_hash)


@pytest.fixture
def host(ledger: Ledger, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """With a job of its own bundle queued."""
    made = Host(database_url, tmp_path)
    monkeypatch.setattr(ledger, "order", made.order(ledger))
    with closing(made.station):
        yield made


@pytest.fixture
def goes_away(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mount, as soon as anything is in hand."""

    def after(claim: Callable[..., Any]) -> Callable[..., Any]:
        def claimed(*args: object) -> object:
            try:
                return claim(*args)
            finally:
                host.unmount()

        return claimed

    for name in ("claim_job", "claim_delivery"):
        monkeypatch.setattr(host.role._pages, name, after(getattr(host.role._pages, name)))


def only(sessions: Sessions, table: type[JobRow | DeliveryRow]) -> tuple[str, int, str]:
    """State, attempts that count and the last error's code of the one row."""
    with sessions.reading() as session:
        row = session.scalars(select(table).order_by(table.id)).first()
        assert row is not None
        return row.state, row.attempts, str(row.last_error).partition(":")[0]


@pytest.mark.usefixtures("goes_away")
def test_what_waits_for_inference_waits_on(ledger: Ledger, host: Host) -> None:
    """Files that are not found then are not gone."""
    ledger.queued_job()
    host.run("gpu")
    assert only(ledger.sessions, JobRow) == ("QUEUED", 0, "FILES_AWAY")
    host.mount()


def test_an_answer_is_not_left_below_the_mount(ledger: Ledger, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was inferred before the mount went; there nobody would find it, and the next stage would fail for it."""
    ledger.queued_job()
    stack = stack_for()

    def predict(*_: object) -> object:
        host.unmount()
        return prediction_of(ball(stack.grid.shape))

    monkeypatch.setattr(host.role._reader, "volume", lambda _: None)
    monkeypatch.setattr(host.role._predictor, "predict", predict)
    host.run("gpu")
    assert only(ledger.sessions, JobRow) == ("QUEUED", 0, "FILES_AWAY")
    host.mount()


@pytest.mark.usefixtures("goes_away")
def test_what_waits_to_be_written_waits_on(ledger: Ledger, host: Host) -> None:
    """A prediction that cannot be read then is not lost."""
    ledger.queued_job()
    ledger.predicted()
    host.run("cpu")
    assert only(ledger.sessions, JobRow) == ("PREDICTED", 0, "FILES_AWAY")
    host.mount()


@pytest.mark.usefixtures("goes_away")
def test_what_waits_to_be_sent_waits_on(ledger: Ledger, host: Host) -> None:
    """And its study is sent nothing else instead."""
    ledger.written()
    host.run("send:tps")
    assert only(ledger.sessions, DeliveryRow) == ("PENDING", 0, "FILES_AWAY")
    host.mount()


def test_a_mount_that_hiccups_has_the_work_wait(host: Host) -> None:
    """It looks whole, and a file below it could not be read: whatever was made of that."""
    for number in (errno.ESTALE, errno.EIO, errno.ETIMEDOUT):
        unreadable = Unreadable("It cannot be read.")
        unreadable.__context__ = OSError(number, "away")  # as `raise … from None` leaves it
        assert isinstance(host.role._cause(unreadable), FilesAway)
    plain = Unreadable("It is no DICOM file.")
    assert host.role._cause(plain) is plain
    refused = PeerStalled()
    refused.__context__ = TimeoutError(errno.ETIMEDOUT, "the peer's")
    assert host.role._cause(refused) is refused


def test_a_host_whose_device_fails_begins_no_other_inference(
    ledger: Ledger, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others have the jobs meanwhile; it goes on as soon as one has come to its end here."""
    ledger.queued_job()
    monkeypatch.setattr(host.role._reader, "volume", lambda _: None)
    monkeypatch.setattr(host.role._predictor, "predict", _dies)
    host.run("gpu")
    assert only(ledger.sessions, JobRow) == ("QUEUED", 0, "BUNDLE_FAULT")
    assert (host.role._begins("gpu"), host.role._begins("cpu")) == (False, True)
    assert host.role._likeness is not None
    host.role._likeness.works()
    assert host.role._begins("gpu")


def _dies(*_: object) -> object:
    raise BundleFault("its process died before it was open")


def test_what_has_another_cause_keeps_it(ledger: Ledger, host: Host) -> None:
    """What a peer said may mean that it has the object, a crash counts; and with the mount there all is as it was."""
    assert isinstance(host.role._cause(OutputFault()), OutputFault)
    host.unmount()
    assert isinstance(host.role._cause(OutputFault()), FilesAway)
    assert isinstance(host.role._cause(FileNotFoundError()), FilesAway)
    for error in (PeerStalled(), ContextRefused(), InferenceCrashed()):
        assert host.role._cause(error) is error
    host.mount()
