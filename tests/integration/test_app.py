"""The room that knows everybody: what it refuses to build, and what it makes once."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from npc_rtnode.adapters.database import schema
from npc_rtnode.adapters.database.work import WorkLedger
from npc_rtnode.adapters.intake_journal import IntakeJournal
from npc_rtnode.app import MEGABYTE, Home, ReceiveRole, Station, WorkRole, utc_now
from npc_rtnode.cli.checks import examine
from npc_rtnode.cli.fsck import checker
from npc_rtnode.domain.records import AssociationInfo, Opened
from npc_rtnode.errors import CannotListen, ConfigFault, FilesAway, LedgerUnavailable, MomentFault, SchemaFault
from npc_rtnode.settings import DatabaseSettings, Settings
from tests.fakes.pipeline import FakePredictor


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A node in a folder of its own, on any free port."""
    return Settings.model_validate({"node": {"home": tmp_path / "home"}, "listener": {"port": 0, "reserve_free_mb": 1}})


@pytest.fixture
def station(settings: Settings) -> Iterator[Station]:
    """Its ledger, upgraded."""
    made = Station(settings)
    schema.upgrade(made.engine)
    yield made
    made.close()


def test_a_node_does_not_start_on_a_schema_that_it_does_not_know(settings: Settings) -> None:
    """Without `db upgrade` the receiver refuses, and says which verb mends it."""
    with pytest.raises(SchemaFault, match="npc-rtnode db upgrade"):
        ReceiveRole(settings)


def test_a_home_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """A file in the way, a read-only disk, another user's folder: the setting is named, and what to do."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigFault, match=r"node\.home .*file/home: Not a directory: give it"):
        Station(Settings.model_validate({"node": {"home": tmp_path / "file" / "home"}}))


def test_a_home_that_is_not_mounted_is_told(tmp_path: Path) -> None:
    """A further host makes no spool of its own in the empty folder below a mount, but says that it is empty."""
    work = {"host": "gpu-1", "store": str(tmp_path / "mount")}
    view = {"node": {"home": tmp_path / "home"}, "database": {"url": "postgresql://node@localhost/none"}, "work": work}
    settings = Settings.model_validate(view)
    (tmp_path / "mount").mkdir()
    with pytest.raises(FilesAway, match=r"work\.store .*/mount holds no site\.key"):
        Station(settings)
    assert list((tmp_path / "mount").iterdir()) == []
    Home(tmp_path / "mount").site_key()
    made = Station(settings)
    assert (made.root, made.is_mounted) == (tmp_path / "mount", True)
    made.close()


def test_a_ledger_that_cannot_be_opened_is_told(settings: Settings, tmp_path: Path) -> None:
    """SQLite's own name for it, in our words, by whatever verb."""
    url = {"url": f"sqlite:///{tmp_path / 'no' / 'such' / 'folder' / 'ledger.db'}"}
    with pytest.raises(LedgerUnavailable, match="SQLITE_CANTOPEN: its file cannot be opened by this user"):
        ReceiveRole(settings.model_copy(update={"database": DatabaseSettings(**url)}))


def test_a_role_runs_once(station: Station) -> None:
    """A second process of the same role on the same home is refused while the first lives."""
    lock = station.home.lock("work")
    try:
        with pytest.raises(MomentFault, match="already runs the work role"):
            Home(station.home.root).lock("work")
    finally:
        lock.release()


def test_a_receiver_that_cannot_listen_lets_go_of_everything(station: Station, settings: Settings) -> None:
    """Its port is another program's: what waited in its journal is in the ledger, and the next one starts at once."""
    journal = IntakeJournal(station.home.journal, 64 * MEGABYTE)
    journal.open(0)
    journal.append(Opened(utc_now(), AssociationInfo("a1", "SCANNER", "US", "127.0.0.1")))
    journal.close()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        taken = settings.model_copy(update={"listener": settings.listener.model_copy(update={"port": port})})
        with pytest.raises(CannotListen, match=rf"listener\.port, 127\.0\.0\.1:{port}"):
            ReceiveRole(taken).start()
    assert station.queries.entered() == 1
    role = ReceiveRole(taken)
    assert role.start() == port
    role.stop()


def test_a_role_that_stops_claims_nothing(station: Station, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever still brings it work: what began now would be killed with the role, and count as a crash of its input."""
    role = WorkRole(station.settings)
    with closing(role._station):
        role._stopping.set()
        claims: list[object] = []
        monkeypatch.setattr(role._pages, "claim_job", lambda *_: claims.append(_))
        assert not any(stage.run(1) for stage in role._stages.values())
        assert len(role._stages) == 2
        assert claims == []
    role._predictor.close()


def test_a_stop_that_took_too_long_is_no_crash_of_the_input(station: Station, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told to stop and killed in the middle of it, or stopped with the ledger away: the next start blames nobody."""
    counted: list[bool] = []

    def recover(_pages: WorkLedger, _now: datetime, died: bool = True) -> int:
        counted.append(died)
        return 0

    monkeypatch.setattr(WorkLedger, "recover_all", recover)
    for ends in (False, True, True):
        role = WorkRole(station.settings)
        monkeypatch.setattr(role._metronome, "start", lambda: None)
        role.start()
        monkeypatch.setattr(role._metronome, "stop", (lambda: None) if ends else _killed)
        with suppress(KeyboardInterrupt):
            role.stop()
        role._lock.release()
    assert counted == [True, False, False]


def _killed() -> None:
    raise KeyboardInterrupt


def test_the_site_key_is_made_once_and_for_its_user_alone(tmp_path: Path) -> None:
    """References stay the same over restarts, and nobody else can read the key."""
    home = Home(tmp_path / "home").made()
    first = home.site_key()
    assert Home(tmp_path / "home").site_key() == first
    assert (tmp_path / "home" / "site.key").stat().st_mode & 0o077 == 0


def test_both_roles_read_the_same_whole_site_key(tmp_path: Path) -> None:
    """Many that start on a new home at once all read one key of full length."""
    home = Home(tmp_path / "home").made()
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: home.site_key(), range(64)))
    assert [len(key) for key in keys] == [64]
    assert [path.name for path in home.root.iterdir() if path.is_file()] == ["site.key"]


def test_a_role_does_not_work_on_another_nodes_ledger(station: Station, settings: Settings, tmp_path: Path) -> None:
    """Two homes on one database: the first that serves has it, the second is refused before it touches anything."""
    station.take("work").release()
    second = settings.model_copy(
        update={
            "node": settings.node.model_copy(update={"home": tmp_path / "second"}),
            "database": settings.database.model_copy(update={"url": settings.database_url}),
        }
    )
    stranger = Station(second)
    with pytest.raises(ConfigFault, match="the ledger of another node"):
        stranger.take("work")
    stranger.close()


def test_rules_must_choose_what_the_bundle_wants(station: Station) -> None:
    """A rule set for another role than the bundle's input is a mistake in the settings, not a wrong inference."""
    assert station.policy(FakePredictor()).rules.role == "t1c"
    with pytest.raises(ConfigFault, match="chooses t1c series, the bundle wants t2"):
        station.policy(FakePredictor(roles=("t2",)))


def test_doctor_tells_what_came_and_was_refused(station: Station) -> None:
    """Counts of instances, refused associations and returned own objects stand among the checks."""
    checks = {check.name: check for check in examine(station.settings, golden=False)}
    assert checks["traffic"].said == "0 instances, 0 associations refused, 0 own objects came back"
    assert checks["peers"].outcome == "warning"
    assert (checks["intake journal"].outcome, checks["intake journal"].fix) == ("good", "")


def test_records_that_wait_for_long_are_late(station: Station) -> None:
    """What was acknowledged some time ago and is not in the ledger counts as late, for the worker and for `fsck`."""
    journal = IntakeJournal(station.home.journal, 64 * MEGABYTE, MEGABYTE)
    journal.open(0)
    caller = AssociationInfo("a-1", "PACS", "NPC_RTNODE", "127.0.0.1")
    journal.append(Opened(utc_now(), caller))
    assert station.late_records() == 0, "it has come just now"
    journal.append(Opened(utc_now() - timedelta(seconds=60), caller))
    assert station.late_records() == 1
    (bounds,) = [one for one in checker(station).run() if one.code == "I12"]
    assert [words for words in bounds.breaches if "intake journal" in words]
    journal.close()


def test_what_a_host_has_fetched_does_not_stay(tmp_path: Path) -> None:
    """What was not used for the hours of the settings goes from a further host, what broke off too; the rest stays."""
    work = {"host": "gpu-1", "node": "http://127.0.0.1:1", "secret": "/s", "cache_h": 1}
    url = "postgresql+psycopg://u@127.0.0.1:1/x"  # never connected to
    said = {"node": {"home": tmp_path / "home"}, "database": {"url": url}, "work": work}
    guest = Station(Settings.model_validate(said))
    old, fresh = (guest.spool.keep([data]) for data in (b"a slice", b"another"))
    hours_ago = time.time() - 2 * 3600
    os.utime(guest.spool.path(old), (hours_ago, hours_ago))
    broken_off = [guest.root / "outbox" / "incoming" / "a.part", guest.root / "work" / "b.part"]
    for part in broken_off:
        part.parent.mkdir(exist_ok=True)
        part.touch()
        os.utime(part, (hours_ago, hours_ago))
    assert guest.forget_fetched() == 1 + len(broken_off)
    assert list(guest.spool.names()) == [fresh]
    assert not any(part.exists() for part in broken_off)
    guest.close()
