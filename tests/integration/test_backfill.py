"""C-MOVE as the archive tells of it: what its answers add up to; "done" without anything sent is no success."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, evt

from npc_rtnode.adapters.dicom import archive as module
from npc_rtnode.adapters.dicom.archive import MOVE, Found, Moved, pull
from npc_rtnode.cli.backfill import _told
from npc_rtnode.errors import PeerError
from npc_rtnode.settings import NO_TLS, Archive

SERIES = Found("1.2", "1.2.3", 3)


@pytest.fixture
def serve() -> Iterator[Callable[[], Archive]]:
    """An archive that has nothing to send, and says Success."""
    ae = AE("PACS")
    ae.add_supported_context(MOVE)

    def on_move(event: Any) -> Iterator[Any]:
        yield "127.0.0.1", 1, {"contexts": []}
        yield 0

    def start() -> Archive:
        server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_MOVE, on_move)])
        assert server is not None
        port = int(server.server_address[1])
        return Archive(name="pacs", ae_title="PACS", host="127.0.0.1", port=port, timeout_s=10, wall_clock_s=60)

    yield start
    ae.shutdown()


def test_done_without_anything_sent_is_no_success(serve: Callable[[], Archive]) -> None:
    """Success with no sub-operation: the verb says so, and ends with the peer's fault."""
    archive = serve()
    moved = pull(archive, NO_TLS, SERIES, "NPC_RTNODE")
    assert moved == Moved(0, 0, 0)
    with pytest.raises(PeerError, match="has sent nothing of study R7Q-4KD"):
        _told(archive, moved, "R7Q-4KD")


def test_a_last_answer_without_counts_takes_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers of sub-operations are optional in the final answer (PS3.7 9.3.4.2): the ones told before count."""
    answers = [(0xFF00, (1, 0, 0)), (0xFF00, (2, 1, 0)), (0x0000, (0, 0, 0))]
    monkeypatch.setattr(module, "in_a_child", lambda *_: iter(answers))
    archive = Archive(name="pacs", ae_title="PACS", host="127.0.0.1", port=1)
    moved = pull(archive, NO_TLS, SERIES, "NPC_RTNODE")
    assert moved == Moved(2, 1, 0)
    assert _told(archive, moved, "R7Q-4KD").endswith("a series of 3 instances came from pacs")


def test_counts_of_an_answer() -> None:
    """What is not there is 0."""
    status = Dataset()
    status.NumberOfCompletedSuboperations = 4
    assert module._counts(status) == (4, 0, 0)
