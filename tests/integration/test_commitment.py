"""Storage Commitment on the wire and in the ledger: asked by pynetdicom's SCU, answered on an association of ours."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, evt

from npc_rtnode.adapters.database.commitments import CommitmentLedger
from npc_rtnode.adapters.dicom.commitment import PUSH_MODEL, PUSH_MODEL_INSTANCE, CommitmentReporter, read_request
from npc_rtnode.adapters.dicom.listener.server import Listener
from npc_rtnode.adapters.spool import FileSpool
from npc_rtnode.domain.records import CommitmentReport, CommitmentRequest
from npc_rtnode.errors import ConfigFault, LedgerUnavailable, NodeError, PeerBusy, Unreachable, Unreadable
from npc_rtnode.pipeline.commit import Committer, Requests
from npc_rtnode.settings import NO_TLS, Archive, ListenerSettings, Peer
from tests.builders.ledger import MR, Ledger
from tests.fakes.pipeline import FakeSpool
from tests.integration.test_listener import RecordingSink

HERE = ("127.0.0.1/32",)


class Requester:
    """A PACS: asks our listener, and takes the report on its own port."""

    def __init__(self, status: int = 0x0000) -> None:
        self.reports: list[tuple[int, Dataset]] = []
        self.told = threading.Event()
        self.status = status
        self._ae = AE("PACS")
        self._ae.add_supported_context(PUSH_MODEL, scu_role=False, scp_role=True)
        handlers: list[Any] = [(evt.EVT_N_EVENT_REPORT, self._on_report)]
        server = self._ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        assert server is not None
        self.port = int(server.server_address[1])

    def _on_report(self, event: Any) -> tuple[int, None]:
        self.reports.append((event.event_type, event.event_information))
        self.told.set()
        return self.status, None

    def stop(self) -> None:
        """Close the port."""
        self._ae.shutdown()

    @property
    def archive(self) -> Archive:
        """As our settings describe it."""
        return Archive(name="pacs", ae_title="PACS", host="127.0.0.1", port=self.port, timeout_s=10, wall_clock_s=40)


@pytest.fixture
def requester() -> Iterator[Requester]:
    """One that says yes."""
    one = Requester()
    yield one
    one.stop()


@dataclass
class Sink:
    """Remembers what was asked for, or raises."""

    error: NodeError | None = None
    asked: list[CommitmentRequest] = field(default_factory=list)

    def request(self, request: CommitmentRequest) -> None:
        """Keep it."""
        if self.error:
            raise self.error
        self.asked.append(request)


@pytest.fixture
def listen() -> Iterator[Callable[..., int]]:
    """Starts listeners that hand requests to this sink; the port."""
    with contextlib.ExitStack() as stack:

        def start(sink: Any, roles: tuple[Any, ...] = ("store", "commit")) -> int:
            settings = ListenerSettings(port=0, peers=(Peer(ae_title="PACS", networks=HERE, roles=roles),))
            listener = Listener(settings, RecordingSink(), commitments=sink)
            port = listener.start()
            stack.callback(listener.stop, 0.5)
            return port

        yield start


def ask(port: int, *names: tuple[str, str], transaction: str = "1.2.3.4", action: int = 1) -> int | None:
    """N-ACTION by pynetdicom's SCU; the status, None where the service is not offered."""
    ae = AE("PACS")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 5
    ae.add_requested_context(PUSH_MODEL)
    assoc = ae.associate("127.0.0.1", port, ae_title="NPC_RTNODE")
    if not assoc.is_established:
        return None
    information = Dataset()
    information.TransactionUID = transaction
    information.ReferencedSOPSequence = [item(*name) for name in names]
    status, _ = assoc.send_n_action(information, action, PUSH_MODEL, PUSH_MODEL_INSTANCE)
    assoc.release()
    return int(status.Status) if "Status" in status else -1


def item(sop_class: str, sop_uid: str) -> Dataset:
    """One reference."""
    made = Dataset()
    made.ReferencedSOPClassUID, made.ReferencedSOPInstanceUID = sop_class, sop_uid
    return made


# --- the request ------------------------------------------------------------------------------------------------------


def test_a_request_is_a_value_with_who_asked(listen: Callable[..., int]) -> None:
    """Success once the sink has it."""
    sink = Sink()
    assert ask(listen(sink), (MR, "1.2.3.1"), (MR, "1.2.3.2")) == 0x0000
    assert sink.asked == [CommitmentRequest("PACS", "1.2.3.4", ((MR, "1.2.3.1"), (MR, "1.2.3.2")))]


def test_a_ledger_that_is_away_is_no_success(listen: Callable[..., int]) -> None:
    """The requester hears "resource limitation" and may ask again."""
    assert ask(listen(Sink(LedgerUnavailable("busy"))), (MR, "1.2.3.1")) == 0x0213


def test_what_is_no_request_is_refused(listen: Callable[..., int]) -> None:
    """Another action, no names, a name that is no UID: each by its status, and nothing reaches the sink."""
    sink = Sink()
    port = listen(sink)
    assert ask(port, (MR, "1.2.3.1"), action=2) == 0x0123
    assert ask(port) == 0x0115
    assert sink.asked == []
    for encoded in (b"", b"\x08\x00", bytes(5 << 20)):
        with pytest.raises(Unreadable):
            read_request(encoded, PUSH_MODEL.__class__("1.2.840.10008.1.2"))


def test_the_service_is_offered_to_its_role_alone(listen: Callable[..., int]) -> None:
    """A peer that may only store finds no presentation context for it."""
    assert ask(listen(Sink(), ("store",)), (MR, "1.2.3.1")) is None


# --- the report -------------------------------------------------------------------------------------------------------


def test_the_report_names_what_is_safe_and_why_the_rest_is_not(requester: Requester) -> None:
    """Event type 2 with both sequences; type 1 without a failure."""
    reporter = CommitmentReporter([requester.archive], NO_TLS)
    reporter.report("PACS", "1.2.3.4", CommitmentReport(((MR, "1.2.3.1"),), (((MR, "1.2.3.2"), 0x0112),)))
    reporter.report("PACS", "1.2.3.5", CommitmentReport(((MR, "1.2.3.1"),), ()))
    (first, told), (second, all_well) = requester.reports
    assert (first, second) == (2, 1)
    assert told.TransactionUID == "1.2.3.4"
    assert [one.ReferencedSOPInstanceUID for one in told.ReferencedSOPSequence] == ["1.2.3.1"]
    assert [(one.ReferencedSOPInstanceUID, one.FailureReason) for one in told.FailedSOPSequence] == [
        ("1.2.3.2", 0x0112)
    ]
    assert "FailedSOPSequence" not in all_well


def test_a_report_that_is_not_accepted_is_still_owed() -> None:
    """Another status than Success, or nobody there, raises what is tried again."""
    unwilling = Requester(status=0x0110)
    report = CommitmentReport(((MR, "1.2.3.1"),), ())
    try:
        with pytest.raises(NodeError, match="status 0110"):
            CommitmentReporter([unwilling.archive], NO_TLS).report("PACS", "1.2", report)
    finally:
        unwilling.stop()
    with pytest.raises(Unreachable):
        CommitmentReporter([unwilling.archive], NO_TLS).report("PACS", "1.2", report)
    with pytest.raises(ConfigFault, match="nowhere to go"):
        CommitmentReporter([], NO_TLS).report("PACS", "1.2", report)


# --- the ledger -------------------------------------------------------------------------------------------------------


@dataclass
class FakeReporter:
    """Remembers reports, or raises one error a call."""

    errors: list[NodeError] = field(default_factory=list)
    told: list[tuple[str, str, CommitmentReport]] = field(default_factory=list)

    def report(self, ae_title: str, transaction_uid: str, report: CommitmentReport) -> None:
        """Take it."""
        if self.errors:
            raise self.errors.pop(0)
        self.told.append((ae_title, transaction_uid, report))


def wanted(*sop_uids: str, transaction: str = "1.9") -> CommitmentRequest:
    """A request of PACS."""
    return CommitmentRequest("PACS", transaction, tuple((MR, sop_uid) for sop_uid in sop_uids))


def committer(ledger: Ledger, spool: Any, reporter: Any) -> Committer:
    """The stage on this ledger."""
    return Committer(CommitmentLedger(ledger.sessions), spool, reporter, lambda: ledger.now)


def test_only_what_ledger_and_disk_agree_on_is_committed(ledger: Ledger) -> None:
    """Two instances in the ledger, one of them on the disk, one in nobody's memory."""
    spool, reporter = FakeSpool(), FakeReporter()
    for number in (1, 2):
        ledger.receive(f"1.2.3.{number}")
    spool.kept[ledger.arrival("1.2.3.1", "1.2.3", "", "1.2").sha256] = b""
    Requests(CommitmentLedger(ledger.sessions), lambda: ledger.now).request(wanted("1.2.3.1", "1.2.3.2", "1.2.3.3"))
    assert committer(ledger, spool, reporter).run()
    ((who, transaction, report),) = reporter.told
    assert (who, transaction, report.committed) == ("PACS", "1.9", ((MR, "1.2.3.1"),))
    assert [(name[1], reason) for name, reason in report.refused] == [("1.2.3.2", 0x0112), ("1.2.3.3", 0x0112)]
    assert not committer(ledger, spool, reporter).run()
    assert CommitmentLedger(ledger.sessions).counts() == {"REPORTED": 1}
    assert ledger.queries.chain_is_whole()


def test_a_damaged_file_is_not_committed(ledger: Ledger, tmp_path: Path) -> None:
    """One changed byte in the real spool: processing failure, for it is no longer what was acknowledged."""
    spool, reporter = FileSpool(tmp_path / "spool", 0), FakeReporter()
    sha256 = spool.keep([b"an instance"])
    spool.path(sha256).write_bytes(b"an Instance")
    ledger.receive("1.2.3.1")
    pages = CommitmentLedger(ledger.sessions)
    pages.request(wanted("1.2.3.1"), ledger.now)
    with ledger.sessions.writing() as session:
        from npc_rtnode.adapters.database.tables import InstanceRow

        session.query(InstanceRow).one().sha256 = sha256
    committer(ledger, spool, reporter).run()
    assert reporter.told[0][2].refused == (((MR, "1.2.3.1"), 0x0110),)


def test_instances_in_conflict_are_not_committed(ledger: Ledger) -> None:
    """Two contents under one UID: until a person has chosen, neither is what the requester may delete."""
    ledger.receive("1.2.3.1")
    ledger.receive("1.2.3.1", content="other")
    pages, reporter = CommitmentLedger(ledger.sessions), FakeReporter()
    pages.request(wanted("1.2.3.1"), ledger.now)
    committer(ledger, FakeSpool(), reporter).run()
    assert reporter.told[0][2].refused == (((MR, "1.2.3.1"), 0x0110),)


def test_a_report_is_owed_over_failures_and_restarts(ledger: Ledger) -> None:
    """It waits longer after each failure, and another process finds it in the ledger; then it is told once."""
    pages, reporter = CommitmentLedger(ledger.sessions), FakeReporter([Unreachable("x"), PeerBusy("y")])
    pages.request(wanted("1.2.3.1"), ledger.now)
    for pause_s in (10, 40):
        assert committer(ledger, FakeSpool(), reporter).run()
        assert not committer(ledger, FakeSpool(), reporter).run()
        ledger.later(pause_s)
    assert committer(ledger, FakeSpool(), reporter).run()
    assert len(reporter.told) == 1
    assert CommitmentLedger(ledger.sessions).counts() == {"REPORTED": 1}


def test_a_requester_that_stays_away_is_given_up_after_a_day(ledger: Ledger) -> None:
    """FAILED, counted by `doctor`; asking again makes it owed again."""
    pages, reporter = CommitmentLedger(ledger.sessions), FakeReporter([Unreachable("x")] * 99)
    pages.request(wanted("1.2.3.1"), ledger.now)
    for _ in range(40):
        committer(ledger, FakeSpool(), reporter).run()
        ledger.later(3600)
    assert pages.counts() == {"FAILED": 1}
    pages.request(wanted("1.2.3.1"), ledger.now)
    assert pages.counts() == {"PENDING": 1}
