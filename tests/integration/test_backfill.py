"""`pull`: C-MOVE as the archive tells of it, and beside it what the ledger has; the archive's numbers are no proof."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from pydicom import dcmread, uid
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.presentation import build_context
from typer.testing import CliRunner, Result

from npc_rtnode.adapters.database import schema
from npc_rtnode.adapters.dicom import archive as module
from npc_rtnode.adapters.dicom.archive import FIND, MOVE, Found, Moved, pull
from npc_rtnode.adapters.dicom.calling import Call, pause_reactor
from npc_rtnode.adapters.intake_journal import IntakeJournal
from npc_rtnode.app import ReceiveRole, Station, utc_now
from npc_rtnode.cli import app, backfill
from npc_rtnode.cli.backfill import Fetched
from npc_rtnode.domain.identifiers import study_reference
from npc_rtnode.domain.records import AssociationInfo, Opened
from npc_rtnode.errors import NotAllCame
from npc_rtnode.settings import NO_TLS, Archive, Settings, load_settings
from tests.builders.mr_series import make_series

SERIES = Found("1.2", "1.2.3", 3)
CONFIG = """
node.home = {home}
[listener]
port = 0
reserve_free_mb = 0
peers = [{{ ae_title = "PACS", networks = ["127.0.0.1/32"] }}]
[[archives]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = {port}
timeout_s = 60
wall_clock_s = 100
"""


def _send_surely(event: Any) -> None:
    """Or pynetdicom's own thread takes an answer of ours now and then, and one more sub-operation has failed."""
    assoc, send = event.assoc, event.assoc.send_c_store

    def surely(*said: Any, **more: Any) -> Dataset:
        pause_reactor(assoc)
        return cast("Dataset", send(*said, **more))

    assoc.send_c_store = surely


@dataclass
class FalseArchive:
    """An archive on the wire that sends what it has of one series, and tells of it what it was told to."""

    sends: list[Dataset] = field(default_factory=list)
    names: tuple[str, str] = ("", "")  # study and series, in its answers
    counts: int = 0  # in its answer to C-FIND
    claims: int | None = None  # completed sub-operations, in its answers to C-MOVE; None tells the truth
    to_port: int = 0

    def start(self) -> int:
        """Serve in a thread; the port."""
        self._ae = AE("PACS")
        for context in (FIND, MOVE):
            self._ae.add_supported_context(context)
        handlers = [
            (evt.EVT_C_FIND, self._on_find),
            (evt.EVT_C_MOVE, self._on_move),
            (evt.EVT_DIMSE_SENT, self._on_answer),
        ]
        server = self._ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        assert server is not None
        return int(server.server_address[1])

    def stop(self) -> None:
        """Close the port."""
        self._ae.shutdown()

    def _on_find(self, event: Any) -> Iterator[Any]:
        match = Dataset()
        match.QueryRetrieveLevel, match.AccessionNumber = event.identifier.QueryRetrieveLevel, "A1"
        match.StudyInstanceUID, match.SeriesInstanceUID = self.names
        match.Modality, match.NumberOfSeriesRelatedInstances = "MR", self.counts
        yield 0xFF00, match

    def _on_move(self, event: Any) -> Iterator[Any]:
        contexts = [build_context(uid.MRImageStorage, uid.ExplicitVRLittleEndian)] if self.sends else []
        surely = [(evt.EVT_ESTABLISHED, _send_surely)]
        yield "127.0.0.1", self.to_port or 1, {"contexts": contexts, "evt_handlers": surely}
        yield len(self.sends)
        for instance in self.sends:
            yield 0xFF00, instance

    def _on_answer(self, event: Any) -> None:
        command = event.message.command_set
        if self.claims is not None and "NumberOfCompletedSuboperations" in command:
            command.NumberOfCompletedSuboperations = self.claims


@pytest.fixture(scope="module")
def archive() -> Iterator[FalseArchive]:
    """It has nothing to send yet, and says Success."""
    made = FalseArchive()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def port(archive: FalseArchive) -> int:
    """Where it answers."""
    return archive.start()


@pytest.fixture(scope="module")
def config(archive: FalseArchive, port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The settings of a node whose receiver runs, and whose archive that is."""
    folder = tmp_path_factory.mktemp("node")
    path = folder / "node.toml"
    path.write_text(CONFIG.format(home=json.dumps(str(folder / "home")), port=port), "utf-8")
    settings = load_settings(path, {})
    station = Station(settings)
    schema.upgrade(station.engine)
    station.close()
    role = ReceiveRole(settings)
    archive.to_port = role.start()
    yield path
    role.stop()


@pytest.fixture
def series(archive: FalseArchive, request: pytest.FixtureRequest, tmp_path: Path) -> list[Dataset]:
    """Five slices that the archive has, of a series of their own; it tells the truth of them."""
    files = make_series(tmp_path, slices=5, seed=request.node.name, study_seed=request.node.name)
    archive.sends = [dcmread(path) for path in files]
    archive.names = archive.sends[0].StudyInstanceUID, archive.sends[0].SeriesInstanceUID
    archive.counts, archive.claims = 5, None
    return list(archive.sends)


def pulled(config: Path) -> Result:
    """What the verb came to."""
    return CliRunner().invoke(app, ["pull", "--accession", "A1", "--reason", "backfill", "--config", str(config)])


def recorded(config: Path, study_uid: str) -> dict[str, Any]:
    """What the ledger says of the last pull of that study."""
    station = Station(load_settings(config, {}))
    told = station.queries.history(study_reference(study_uid, station.home.site_key()))
    station.close()
    return dict([one for one in told if one["event"] == "PULLED"][-1]["detail"])


@pytest.mark.usefixtures("series")
def test_what_came_is_counted_here(archive: FalseArchive, config: Path) -> None:
    """All of it: exit 0 and both sides' numbers; once more, with nothing new to keep: the same."""
    for _ in range(2):
        done = pulled(config)
        assert done.exit_code == 0, done.exception
        assert "a series of 5 instances came from pacs; 5 are here" in done.stdout
        counted = {"archive": "pacs", "reason": "backfill", "came": 5, "sent": 5, "failed": 0}
        assert recorded(config, archive.names[0]) == counted


@pytest.mark.parametrize(
    "case",
    [
        (3, 5, 5, "2 instances are missing: pacs says 5 in the series, 5 sent, 0 failed; 3 are here"),
        (3, 3, 5, "2 instances are missing: pacs says 3 in the series, 5 sent, 0 failed; 3 are here"),
        (4, 5, None, "1 instances are missing: pacs says 5 in the series, 4 sent, 0 failed; 4 are here"),
        (0, 5, None, "5 instances are missing: pacs says 5 in the series, 0 sent, 0 failed; 0 are here"),
    ],
    ids=["claims all", "claims more than it counts", "leaves one out", "sends nothing"],
)
def test_an_archive_that_counts_falsely_is_not_believed(
    archive: FalseArchive, config: Path, series: list[Dataset], case: tuple[int, int, int | None, str]
) -> None:
    """It sends fewer than it counts, or than it says that it sent: exit 60, what is missing, and the rest is kept."""
    sends, archive.counts, archive.claims, said = case
    archive.sends = series[:sends]
    done = pulled(config)
    assert isinstance(done.exception, NotAllCame)
    assert (done.exception.exit_code, done.stdout) == (60, "")
    assert said in str(done.exception)
    assert str(done.exception).endswith("What came is kept.")


def test_slices_of_another_series_are_no_slices_of_this_one(
    archive: FalseArchive, config: Path, series: list[Dataset], tmp_path: Path
) -> None:
    """Five were asked for and five came, but not these: what counts is what the ledger has of the series asked for."""
    other = make_series(tmp_path / "other", slices=2, seed="other", study_seed="other")
    archive.sends = [*series[:3], *map(dcmread, other)]
    done = pulled(config)
    assert isinstance(done.exception, NotAllCame)
    assert "2 instances are missing: pacs says 5 in the series, 5 sent, 0 failed; 3 are here" in str(done.exception)
    assert recorded(config, archive.names[0])["came"] == 3


def test_sub_operations_that_failed_are_told(archive: FalseArchive, config: Path, series: list[Dataset]) -> None:
    """What our receiver refuses is not here: its number, and where to look."""
    spoiled = series[4].copy()
    del spoiled.SeriesInstanceUID
    archive.sends = [*series[:4], spoiled]
    done = pulled(config)
    assert isinstance(done.exception, NotAllCame)
    assert "1 instances are missing: pacs says 5 in the series, 4 sent, 1 failed; 4 are here" in str(done.exception)


def test_a_ledger_that_takes_nothing_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the intake journal has and the ledger has not is counted, and told as late and not as lost."""
    monkeypatch.setattr(backfill, "PATIENCE_S", 0.2)
    station = Station(Settings.model_validate({"node": {"home": tmp_path}, "listener": {"reserve_free_mb": 0}}))
    schema.upgrade(station.engine)
    journal = IntakeJournal(station.home.journal, 0)
    journal.open(0)
    journal.append(Opened(utc_now(), AssociationInfo("a1", "PACS", "US", "127.0.0.1")))
    assert backfill._awaited(station) == 1
    journal.close()
    station.close()


def test_a_last_answer_without_counts_takes_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers of sub-operations are optional in the final answer (PS3.7 9.3.4.2): the ones told before count."""
    answers = [(0xFF00, (1, 0, 0)), (0xFF00, (2, 1, 0)), (0x0000, (0, 0, 0))]
    monkeypatch.setattr(module, "in_a_child", lambda *_: iter(answers))
    archive = Archive(name="pacs", ae_title="PACS", host="127.0.0.1", port=1)
    assert pull(archive, NO_TLS, SERIES, "NPC_RTNODE") == Moved(2, 1, 0)


@pytest.mark.parametrize(
    ("moved", "here", "late", "hint"),
    [
        (Moved(3, 0, 0), 1, 2, "2 records of the intake journal wait for the ledger"),
        (Moved(2, 0, 1), 3, 0, "Does the receiver run"),
        (Moved(0, 0, 0), 0, 0, "Does the archive know this node's address"),
        (Moved(2, 1, 0), 2, 0, "Compare with the archive's own list"),
    ],
)
def test_what_to_look_at(moved: Moved, here: int, late: int, hint: str) -> None:
    """Each shortfall has its first thing to look at; a failed sub-operation is one though all is here from before."""
    fetched = Fetched("pacs", "R7Q-4KD", SERIES, moved, here, late)
    assert not fetched.is_whole
    assert hint in fetched.told()


def test_counts_of_an_answer() -> None:
    """What is not there is 0."""
    status = Dataset()
    status.NumberOfCompletedSuboperations = 4
    assert module._counts(status) == (4, 0, 0)


class Quick:
    """An association whose reactor says once that it is paused and is not, as pynetdicom's does on a busy machine."""

    def __init__(self) -> None:
        self._reactor_checkpoint = threading.Event()
        self._reactor_checkpoint.set()
        self._said = iter([True, False])

    @property
    def _is_paused(self) -> bool:
        return next(self._said, not self._reactor_checkpoint.is_set())

    def _asked(self, *_: object) -> Iterator[tuple[Dataset, None]]:
        assert not self._reactor_checkpoint.is_set()
        assert next(self._said, None) is None, "it was believed at once"
        status = Dataset()
        status.Status = 0
        yield status, None

    send_c_find = send_c_move = _asked

    def is_alive(self) -> bool:
        """Its thread runs."""
        return True

    def release(self) -> None:
        """Nothing holds it."""


@pytest.mark.parametrize(("ask", "more"), [(module._find, ()), (module._move, ("HERE",))])
def test_no_answer_is_taken_by_the_librarys_own_thread(
    ask: Callable[..., None], more: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is paused, and believed to be only when it lasts, before anything is asked."""
    monkeypatch.setattr(module, "associate", lambda *_: Quick())
    said: list[object] = []
    ask(said.append, Call("127.0.0.1", 1, "PACS", "HERE", 1.0), {}, *more)
    assert said == ([(0, (0, 0, 0))] if more else [[]])
