"""When the intake journal is entered: the end of an association is not waited out, a stream of them is gathered."""

from __future__ import annotations

import errno
import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from npc_rtnode.adapters.dicom.sameness import InstanceReader
from npc_rtnode.adapters.spool import FileSpool
from npc_rtnode.domain.records import AssociationInfo
from npc_rtnode.pipeline import replay
from npc_rtnode.pipeline.receive import Receiver
from npc_rtnode.pipeline.replay import Replayer
from tests.builders.intake import Intake
from tests.builders.ledger import Ledger

PATIENCE_S = 60.0


class Clocked:
    """A receiving side that follows its journal, gathers for ever, and tells when an association's end is entered."""

    def __init__(self, ledger: Ledger, folder: Path) -> None:
        spool, reader = FileSpool(folder / "spool", 0), InstanceReader()
        self.seconds, self.known = 0.0, threading.Semaphore(0)
        journal = Intake(ledger, folder, spool, reader, at_once=False).journal
        self.replayer = Replayer(
            journal, ledger.intake, spool, reader, lambda: ledger.now, self.known.release, lambda: self.seconds
        )
        journal.stirred = self.replayer.stir
        self.receiver = Receiver(
            spool, journal, reader, lambda: ledger.now, self.replayer.entered, self.replayer.hasten
        )

    @contextmanager
    def following(self) -> Iterator[None]:
        """The thread runs."""
        self.replayer.start()
        try:
            yield
        finally:
            self.replayer.stop()

    def association(self, name: str) -> None:
        """One that comes and goes."""
        self.receiver.opened(caller(name))
        self.receiver.closed(caller(name), "released")


def caller(name: str) -> AssociationInfo:
    """An association by its identifier."""
    return AssociationInfo(name, "PACS", "NPC_RTNODE", "127.0.0.1")


@pytest.fixture
def side(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clocked:
    """Nothing is entered because it was quiet: nobody lives so long."""
    monkeypatch.setattr(replay, "GATHER_S", 3600.0)
    monkeypatch.setattr(replay, "LONGEST_GATHER_S", 7200.0)
    return Clocked(ledger, tmp_path)


def test_an_associations_end_is_entered_at_once(side: Clocked) -> None:
    """The ledger has it although the journal gathers for an hour; and so has the next one, some seconds later."""
    with side.following():
        for name in ("first", "second"):
            side.association(name)
            assert side.known.acquire(timeout=PATIENCE_S)
            side.seconds += 7200


def test_an_association_for_each_image_is_gathered(side: Clocked) -> None:
    """Ends that come one upon the other are entered together, with the next that comes after a while."""
    with side.following():
        side.association("first")
        assert side.known.acquire(timeout=PATIENCE_S)
        for number in range(5):
            side.association(f"next {number}")
        assert not side.known.acquire(timeout=0.2)
        side.seconds += 7200
        side.association("last")
        assert side.known.acquire(timeout=PATIENCE_S)
    assert not side.known.acquire(blocking=False)
    assert side.replayer.waiting == 0


def test_while_another_association_is_open_nothing_is_hastened(side: Clocked) -> None:
    """Entering would slow its sender; with the last one's end all is entered together."""
    with side.following():
        side.receiver.opened(caller("long"))
        side.association("short")
        assert not side.known.acquire(timeout=0.2)
        side.receiver.closed(caller("long"), "aborted")
        assert side.known.acquire(timeout=PATIENCE_S)
    assert not side.known.acquire(blocking=False)


def test_who_readies_segments_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file can be opened for a segment ahead of a burst: records are entered all the same."""

    class Burst:
        last = property(lambda self: next(self.numbers))

        def __init__(self) -> None:
            self.numbers, self.asked = itertools.count(), 0

        def prepare(self, quiet: bool = True) -> None:
            self.asked += 1
            raise OSError(errno.EMFILE, "")

    monkeypatch.setattr(replay, "GATHER_S", 0.01)
    monkeypatch.setattr(replay, "LONGEST_GATHER_S", 0.03)
    journal: Any = Burst()
    nobody: Any = None
    assert not Replayer(journal, nobody, nobody, nobody, nobody)._gather()
    assert journal.asked == 3
