"""The intake journal: nothing acknowledged is lost and nothing is doubled, wherever it is killed or torn."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from npc_rtnode.adapters import intake_journal
from npc_rtnode.adapters.dicom.sameness import InstanceReader
from npc_rtnode.adapters.intake_journal import IntakeJournal, JournalReader
from npc_rtnode.adapters.spool import FileSpool
from npc_rtnode.domain.identifiers import derived_uid
from npc_rtnode.domain.records import (
    Arrival,
    Arrived,
    AssociationInfo,
    Ended,
    InstanceIdentity,
    IntakeEntry,
    Opened,
    Refused,
    Rejected,
    StoreOutcome,
    StoreRequest,
)
from npc_rtnode.errors import DiskLow, MomentFault, NodeStopping, SchemaFault, Unreadable
from tests.builders import pdu
from tests.builders.intake import SEGMENT, Intake
from tests.builders.ledger import MR, NOON, Ledger
from tests.builders.mr_series import SeriesSpec, slice_dataset
from tests.builders.pdu import encoded
from tests.fakes.disk import MEGABYTE, SmallDisk
from tests.fakes.pipeline import hand_over
from tests.fakes.raw_peer import ACCEPTED, RawPeer
from tests.fakes.receiver import ROOT, Receiver, eventually

INFO: Final = AssociationInfo("a-1", "PACS", "NPC_RTNODE", "127.0.0.1")
EXPLICIT: Final = "1.2.840.10008.1.2.1"


def arrived(number: int, content: bytes) -> Arrived:
    """A record of that content, as the receiver writes it."""
    uid = f"1.2.3.{number}"
    identity = InstanceIdentity(MR, uid, "1.2", "1.2.3", "MR")
    request = StoreRequest(INFO, MR, uid, EXPLICIT)
    return Arrived(NOON, Arrival(identity, request, "", len(content)))


def named(entry: Arrived, content: bytes) -> Arrived:
    """The record with the SHA-256 of its content: as it is read, and as earlier versions wrote it."""
    return replace(entry, arrival=replace(entry.arrival, sha256=hashlib.sha256(content).hexdigest()))


def content(number: int, size: int = 5000) -> bytes:
    """Bytes of their own."""
    return bytes([number]) * size


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the journal lies."""
    return tmp_path / "journal"


def opened(folder: Path, applied: int = 0, most: int = 64 * SEGMENT) -> IntakeJournal:
    """A journal, taken up."""
    journal = IntakeJournal(folder, most, SEGMENT)
    journal.open(applied)
    return journal


def fill(folder: Path, count: int) -> None:
    """So many arrivals by a process that has gone."""
    journal = opened(folder)
    for number in range(1, count + 1):
        journal.append(arrived(number, content(number)), content(number))
    journal.close()


def numbers(journal: IntakeJournal, after: int = 0) -> list[int]:
    """Of the records that can be read."""
    return [noted.number for noted in journal.read(after, 1000)]


def segment(folder: Path) -> Path:
    """The one there is."""
    (path,) = folder.glob("*.seg")
    return path


# --- what is written is read ------------------------------------------------------------------------------------------


def test_every_kind_comes_back_as_it_was(folder: Path) -> None:
    """Entries and content, in order, by another journal object too; files and folder are the owner's alone."""
    request = StoreRequest(INFO, MR, "1.2.3", EXPLICIT)
    entries: list[IntakeEntry] = [
        Opened(NOON, INFO),
        named(arrived(1, b"content"), b"content"),
        Refused(NOON, request, StoreOutcome.UNREADABLE, "cut"),
        Ended(NOON, INFO, "released", ("1.2.3",)),
        Rejected(NOON, INFO, "unknown"),
    ]
    journal = opened(folder)
    for entry in entries:
        journal.append(entry, b"content" if isinstance(entry, Arrived) else b"")
    journal.close()
    again = opened(folder)
    found = again.read(0, 100)
    assert [noted.entry for noted in found] == entries
    assert [noted.content.read() if noted.content else None for noted in found] == [None, b"content", None, None, None]
    assert {path.stat().st_mode & 0o777 for path in (folder, segment(folder))} == {0o700, 0o600}
    assert (again.append(Opened(NOON, INFO)), numbers(again, 4)) == (6, [5, 6])
    again.close()


def test_the_digest_of_a_content_is_found_when_it_is_read(folder: Path) -> None:
    """A sender does not wait for it; who enters records and who takes the journal up later has it all the same."""
    journal = opened(folder)
    journal.append(arrived(1, content(1)), content(1))
    whole = [named(arrived(1, content(1)), content(1))]
    assert [noted.entry for noted in journal.read(0, 100)] == whole
    journal.close()
    again = opened(folder)
    assert [noted.entry for noted in again.read(0, 100)] == whole
    again.close()


@pytest.mark.parametrize("with_digest", [False, True])
def test_a_content_that_was_not_all_written_is_cut_at_the_end(folder: Path, with_digest: bool) -> None:
    """Its record stands there whole, its last page does not: nobody was told Success, and its number is free."""
    journal, entry = opened(folder), arrived(1, content(1))
    journal.append(named(entry, content(1)) if with_digest else entry, content(1))
    journal.close()
    with segment(folder).open("r+b") as stream:
        os.pwrite(stream.fileno(), bytes(100), 5000)
    again = opened(folder)
    assert (numbers(again), again.append(Opened(NOON, INFO))) == ([], 1)
    again.close()


def test_a_content_that_changed_since_is_set_aside_and_never_entered(folder: Path) -> None:
    """What is read back is compared with what was received, in the running process too."""
    journal = opened(folder)
    for number in (1, 2):
        journal.append(arrived(number, content(number)), content(number))
    with segment(folder).open("r+b") as stream:
        os.pwrite(stream.fileno(), b"x", 5000)
    assert (numbers(journal), len(JournalReader(folder).damaged())) == ([2], 1)
    journal.close()


def test_the_last_content_of_a_segment_that_changed_since_is_set_aside(folder: Path) -> None:
    """With nothing readable behind it there: it is said, other segments are read on, this one is used again."""
    journal, size = opened(folder), SEGMENT // 2 + 1000
    for number in (1, 2, 3):
        journal.append(arrived(number, content(number, size)), content(number, size))
    first, second, _ = sorted(folder.glob("*.seg"))
    for path in (first, second):
        with path.open("r+b") as stream:
            os.pwrite(stream.fileno(), b"x", 5000)
    assert (numbers(journal), len(JournalReader(folder).damaged())) == ([3], 2)
    journal.release(3)
    assert (journal.append(Opened(NOON, INFO)), numbers(journal, 3)) == (4, [4])
    journal.close()


def test_the_newest_content_that_changed_since_is_set_aside_once(folder: Path) -> None:
    """Nothing comes behind it: it is said at once and once, and who comes later is read."""
    journal = opened(folder)
    for number in (1, 2):
        journal.append(arrived(number, content(number)), content(number))
    with segment(folder).open("r+b") as stream:
        os.pwrite(stream.fileno(), b"x", 2 * 4096 + 3000)  # the second begins on the third page
    assert (numbers(journal), len(JournalReader(folder).damaged())) == ([1], 1)
    assert (numbers(journal, 1), len(JournalReader(folder).damaged())) == ([], 1)
    assert (journal.append(Opened(NOON, INFO)), numbers(journal, 1)) == (3, [3])
    assert len(JournalReader(folder).damaged()) == 1
    journal.close()


def test_segments_are_used_again_and_their_past_counts_for_nothing(folder: Path) -> None:
    """Many times the journal's size goes through it; what a segment held before is never read as new."""
    journal, size, seen = opened(folder, most=2 * SEGMENT), SEGMENT // 3, 0
    for number in range(1, 40):
        journal.append(arrived(number % 200, content(number, size)), content(number, size))
        found = journal.read(seen, 10)
        assert [noted.number for noted in found] == [number]
        assert found[0].content is not None
        assert found[0].content.read() == content(number, size)
        seen = number
        journal.release(seen)
    assert len(list(folder.iterdir())) <= 4
    journal.close()
    assert numbers(opened(folder), 39) == []


def test_numbers_never_go_back(folder: Path) -> None:
    """A journal that was lost goes on behind the ledger's position, or its records would count as known."""
    journal = opened(folder, applied=41)
    assert journal.append(Opened(NOON, INFO)) == 42


def test_two_writers_are_one_too_many(folder: Path) -> None:
    """The second is told so, and whoever only reads is not held up."""
    first = opened(folder)
    first.append(Opened(NOON, INFO))
    with pytest.raises(MomentFault, match="another process"):
        opened(folder)
    assert [noted.number for noted in JournalReader(folder).waiting(0)] == [1]
    first.close()
    opened(folder).close()


def test_one_flush_serves_many(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen records while flushes are slow: all durable, in fewer flushes than records."""
    journal, flush, flushes, let = opened(folder), os.fdatasync, list[int](), threading.Event()

    def slow(handle: int) -> None:
        flushes.append(handle)
        assert let.wait(30)
        flush(handle)

    monkeypatch.setattr(os, "fdatasync", slow)
    with ThreadPoolExecutor(16) as pool:
        written = [pool.submit(journal.append, Opened(NOON, INFO)) for _ in range(16)]
        assert eventually(lambda: journal.last == 16, 30)
        let.set()
        assert sorted(future.result() for future in written) == list(range(1, 17))
    assert len(flushes) <= 8, "four that began before all was written, and four behind them"
    assert numbers(journal) == list(range(1, 17))


def test_flushes_go_side_by_side(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two records are flushed at the same time, each through an open file of its own (a fault is told to each once)."""
    journal, flush, inside, handles = opened(folder), os.fdatasync, threading.Barrier(2), set[int]()
    journal.append(Opened(NOON, INFO))

    def together(handle: int) -> None:
        handles.add(handle)
        inside.wait(30)
        flush(handle)

    monkeypatch.setattr(os, "fdatasync", together)
    with ThreadPoolExecutor(2) as pool:
        written = [pool.submit(journal.append, arrived(turn, b"x"), b"x") for turn in (1, 2)]
        assert sorted(future.result() for future in written) == [2, 3]
    monkeypatch.undo()
    assert len(handles) == 2
    assert numbers(journal) == [1, 2, 3]


def test_a_flush_counts_for_what_was_written_before_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written while another flushes is not durable by that flush."""
    journal, flush, flushed = opened(folder), os.fdatasync, list[int]()

    def meddling(handle: int) -> None:
        flush(handle)
        flushed.append(handle)
        if len(flushed) == 1:
            journal.append(arrived(2, b"y"), b"y", wait=False)
            with ThreadPoolExecutor(1) as pool:
                assert pool.submit(journal.append, arrived(3, b"z"), b"z").result() == 3

    monkeypatch.setattr(os, "fdatasync", meddling)
    assert journal.append(arrived(1, b"x"), b"x") == 1
    assert len(flushed) == 2
    assert numbers(journal) == [1, 2, 3]


def test_full_segments_are_not_kept_open(folder: Path) -> None:
    """A ledger that is away for long costs disk and no files, in this process and in the next."""
    for _ in range(2):
        before = len(os.listdir("/proc/self/fd"))
        journal = opened(folder)
        for number in range(8):
            journal.append(arrived(number, content(number, SEGMENT // 2)), content(number, SEGMENT // 2))
        assert len(list(folder.glob("*.seg"))) >= 8
        assert len(os.listdir("/proc/self/fd")) - before < 8
        journal.close()
        assert len(os.listdir("/proc/self/fd")) == before


def test_a_segment_is_let_go_of_while_another_flushes_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger may be quicker than the flush of who has written: that one is acknowledged, and nobody waits on."""
    journal, flush, begun, let = opened(folder), os.fdatasync, threading.Event(), threading.Event()

    def late(handle: int) -> None:
        if not begun.is_set():
            begun.set()
            assert let.wait(30)
        flush(handle)

    monkeypatch.setattr(os, "fdatasync", late)
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(journal.append, arrived(1, b"x"), b"x")
        assert begun.wait(30)
        big = content(2, SEGMENT - 4096)
        assert pool.submit(journal.append, arrived(2, big), big).result(30) == 2
        assert numbers(journal) == [1, 2]
        gone = pool.submit(journal.release, 1)
        let.set()
        assert (slow.result(30), gone.result(30)) == (1, None)
    assert len(list(folder.glob("*.seg"))) == 1
    journal.close()


# --- what is torn -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", [0, 3, 23, 100, 4095, 4096, 5000])
def test_a_torn_tail_is_cut(folder: Path, left: int) -> None:
    """Only so many bytes of the last record reached the disk: not acknowledged, gone, and the next one is whole."""
    fill(folder, 3)
    data = bytearray(segment(folder).read_bytes())
    begin = 2 * 8192
    data[begin + left :] = bytes(len(data) - begin - left)
    segment(folder).write_bytes(data)
    journal = opened(folder)
    assert numbers(journal) == [1, 2]
    journal.append(arrived(4, b"x"), b"x")
    assert numbers(journal, 2) == [3]
    journal.close()
    assert JournalReader(folder).damaged() == []


@pytest.mark.parametrize("at", [0, 5, 30, 4200])
def test_damage_in_the_middle_is_said_and_set_aside(folder: Path, at: int) -> None:
    """A record that cannot be read with others behind it: those are read, and it is kept for a person, told once."""
    fill(folder, 3)
    data = bytearray(segment(folder).read_bytes())
    data[8192 + at] ^= 0xFF
    segment(folder).write_bytes(data)
    for _ in range(2):
        journal = opened(folder)
        assert numbers(journal) == [1, 3]
        journal.close()
        (kept,) = JournalReader(folder).damaged()
        assert (folder / kept).stat().st_size == 8192
        (folder / kept).touch()


# --- what fails -------------------------------------------------------------------------------------------------------


def test_a_failed_flush_is_never_tried_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DiskLow, and the next record goes into another segment (a second fsync would say that all is well)."""
    journal = opened(folder)
    journal.append(arrived(1, b"x"), b"x")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "")))
        with pytest.raises(DiskLow, match="EIO"):
            journal.append(arrived(2, b"y"), b"y")
    journal.append(arrived(3, b"z"), b"z")
    assert numbers(journal) == [1, 3]
    assert len(list(folder.glob("*.seg"))) == 2


def test_a_failed_flush_fails_those_beside_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has flushed well while another failed is not believed either: the segment is broken for all."""
    journal, flush, inside, handles = opened(folder), os.fdatasync, threading.Barrier(2), list[int]()
    journal.append(Opened(NOON, INFO))

    def one_fails(handle: int) -> None:
        turn = inside.wait(30)
        handles.append(handle)
        if turn == 0:
            raise OSError(errno.EIO, "")
        assert eventually(lambda: journal._segments[-1].broken, 30)
        flush(handle)

    monkeypatch.setattr(os, "fdatasync", one_fails)
    with ThreadPoolExecutor(2) as pool:
        written = [pool.submit(journal.append, arrived(turn, b"x"), b"x") for turn in (1, 2)]
        assert [type(future.exception()) for future in written] == [DiskLow, DiskLow]
    monkeypatch.undo()
    assert journal.append(arrived(4, b"z"), b"z") == 4
    assert numbers(journal) == [1, 4]


def test_a_full_disk_is_disk_low_and_passes(tmp_path: Path) -> None:
    """No room for another segment: DiskLow, nothing half made is left; with room it goes on."""
    disk = SmallDisk(tmp_path / "disk", 8 * MEGABYTE)
    try:
        journal = opened(disk.place / "journal")
        journal.append(Opened(NOON, INFO))
        disk.leave(SEGMENT // 2)
        big = content(1, SEGMENT - 4096)
        with pytest.raises(DiskLow, match="ENOSPC"):
            journal.append(arrived(1, big), big)
        assert list(journal._folder.glob("spare-*")) == []
        disk.leave(4 * SEGMENT)
        journal.append(arrived(1, big), big)
        assert numbers(journal)[-1] == journal.last
        journal.close()
    finally:
        disk.close()


def test_more_than_may_wait_is_not_taken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing is entered the journal fills to its bound, then DiskLow says so; what is entered makes room."""
    monkeypatch.setattr(intake_journal, "_ROOM_S", 0.05)
    journal, big = opened(folder, most=2 * SEGMENT), content(1, SEGMENT // 2)
    for _ in range(2):
        journal.append(arrived(1, big), big)
    with pytest.raises(DiskLow, match="2 MiB of what was received wait for the ledger"):
        journal.append(arrived(1, big), big)
    assert journal.is_full()
    journal.release(1)
    journal.append(arrived(1, big), big)


# --- into the ledger --------------------------------------------------------------------------------------------------


@pytest.fixture
def spool(tmp_path: Path) -> FileSpool:
    """A real one."""
    return FileSpool(tmp_path / "spool", 0)


def a_slice(ledger: Ledger, number: int) -> Any:
    """One instance as the listener hands it over."""
    from npc_rtnode.domain.records import ReceivedInstance

    ds = slice_dataset(SeriesSpec(rows=8, columns=8), 0)
    ds.SOPInstanceUID = derived_uid(f"journal {number}", "journal")
    return ReceivedInstance(ledger.association, MR, str(ds.SOPInstanceUID), EXPLICIT, encoded(ds))


def test_replayed_twice_counts_once(ledger: Ledger, tmp_path: Path, spool: FileSpool) -> None:
    """Records that the ledger has already change nothing, whoever brings them again."""
    receiver = Intake(ledger, tmp_path, spool, InstanceReader(), at_once=False)
    for number in range(3):
        assert hand_over(receiver, a_slice(ledger, number)) is StoreOutcome.STORED
    receiver.closed(ledger.association, "released")
    records = [(noted.number, noted.entry) for noted in receiver.journal.read(0, 100)]
    receiver.replayer.run()
    before = ledger.queries.history(ledger.study()), ledger.queries.counts()
    assert ledger.intake.replay(records, ledger.later(5), lambda _: None) == {}
    assert (ledger.queries.history(ledger.study()), ledger.queries.counts()) == before
    assert ledger.queries.counts()["instances"] == 3


def test_files_torn_by_a_power_loss_are_laid_again(ledger: Ledger, tmp_path: Path, spool: FileSpool) -> None:
    """Rows are there, files not durable yet: one is torn, one is gone, one was removed by retention, and only the first
    two come back from the journal."""
    receiver = Intake(ledger, tmp_path, spool, InstanceReader())
    for number in range(3):
        hand_over(receiver, a_slice(ledger, number))
    uids = [a_slice(ledger, number).sop_uid for number in range(3)]
    torn, gone, removed = (spool.path(ledger.copies(uid)[0]) for uid in uids)
    torn.write_bytes(torn.read_bytes()[:100])
    gone.unlink()
    removed.unlink()
    receiver.journal.close()
    ledger.intake.gone = lambda names: {removed.name}  # type: ignore[method-assign]
    again = Intake(ledger, tmp_path, spool, InstanceReader())
    assert [len(spool.read(path.name)) > 100 for path in (torn, gone)] == [True, True]
    assert not removed.exists()
    assert ledger.intake.position() == (again.journal.last, again.journal.last)


def test_files_are_durable_before_the_journal_lets_go(
    ledger: Ledger, tmp_path: Path, spool: FileSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fsync of each file, then of its folder, then the ledger's word, then the segment is free."""
    told: list[str] = []
    receiver = Intake(ledger, tmp_path, spool, InstanceReader())
    hand_over(receiver, a_slice(ledger, 1))
    sync, secured, release = os.fsync, ledger.intake.secured, receiver.journal.release

    def spy(handle: int) -> None:
        told.append("folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "file")
        sync(handle)

    monkeypatch.setattr(os, "fsync", spy)

    def telling(word: str, deed: Callable[[int], None]) -> Callable[[int], None]:
        def do(number: int) -> None:
            told.append(word)
            deed(number)

        return do

    monkeypatch.setattr(ledger.intake, "secured", telling("ledger", secured))
    monkeypatch.setattr(receiver.journal, "release", telling("free", release))
    receiver.replayer.secure()
    assert told == ["file", "folder", "ledger", "free"]


def test_a_large_batch_and_its_order(ledger: Ledger, tmp_path: Path, spool: FileSpool) -> None:
    """Two associations mixed, a copy, a conflict: as if each had been entered by itself, in order."""
    receiver = Intake(ledger, tmp_path, spool, InstanceReader(), at_once=False)
    other = replace(ledger.association, association_id="a-2")
    receiver.opened(other)
    for number in range(20):
        sent = a_slice(ledger, number)
        hand_over(receiver, replace(sent, association=other) if number % 2 else sent)
    hand_over(receiver, a_slice(ledger, 3))
    receiver.closed(other, "released")
    assert receiver.replayer.run() == 23
    assert ledger.queries.counts()["instances"] == 20
    assert ledger.series_states() == ["RECEIVING"]
    changed = a_slice(ledger, 3)
    hand_over(receiver, replace(changed, encoded=changed.encoded[:-1] + b"\x55"))
    receiver.replayer.run()
    assert ledger.series_states() == ["QUARANTINED"]


# --- what others send, fail and leave ---------------------------------------------------------------------------------


def hostile_content(size: int, entry: IntakeEntry, number: int) -> bytes:
    """Bytes that hold, at every page of the segment that they will come to lie on, a frame as a journal might have."""
    kind = type(entry).__name__
    said = f"{kind} ".encode() + intake_journal._KINDS[kind].dump_json(entry)
    rest = struct.pack("<QII", number, len(said), 0)
    frame = b"NPJ1" + struct.pack("<L", zlib.crc32(said, zlib.crc32(rest))) + rest + said
    own = arrived(1, bytes(size))
    before = 24 + len(b"Arrived ") + len(intake_journal._KINDS["Arrived"].dump_json(own))
    return (bytes(-before % 4096) + frame.ljust(4096, b"\0") * (size // 4096 + 1))[:size]


LIE: Final = Rejected(NOON, INFO, "a lie")


def test_content_that_looks_like_records_is_never_one_when_torn(folder: Path) -> None:
    """A sender's data set with whole frames of a high number on its pages: damaged, it is set aside, nothing more."""
    lying = hostile_content(40_000, LIE, 10**12)
    journal = opened(folder)
    journal.append(arrived(1, lying), lying)
    journal.append(arrived(2, b"x"), b"x")
    journal.close()
    with segment(folder).open("r+b") as stream:
        stream.write(b"\xff")
    journal = opened(folder)
    assert numbers(journal) == [2]
    assert journal.append(Opened(NOON, INFO)) == 3


def test_content_of_an_earlier_use_is_never_a_record(folder: Path) -> None:
    """The same in a segment that is used again: behind the newest record stands what it held before."""
    journal, big = opened(folder, most=2 * SEGMENT), SEGMENT - 2000
    lying = hostile_content(big, LIE, 10**12)
    for _ in range(3):
        journal.append(arrived(1, lying), lying)
        journal.release(journal.last)
    journal.append(arrived(1, b"x"), b"x")
    journal.close()
    assert [noted.number for noted in JournalReader(folder).waiting(3)] == [4]
    assert numbers(opened(folder), 3) == [4]


def test_what_could_not_be_read_again_is_not_written(folder: Path) -> None:
    """An entry with a longer text than a reader takes is refused, and what comes after it is read."""
    journal = opened(folder)
    with pytest.raises(Unreadable, match="longer"):
        journal.append(Ended(NOON, INFO, "released", ("1" * 60,) * 20_000))
    journal.append(Opened(NOON, INFO))
    assert numbers(journal) == [journal.last]


def test_a_disk_that_fails_for_a_while_leaves_room(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More failed flushes than there may be segments: once the disk is well again, so is the journal."""
    monkeypatch.setattr(intake_journal, "_ROOM_S", 0.05)
    journal = opened(folder, most=3 * SEGMENT)
    journal.append(arrived(1, b"x"), b"x")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "")))
        for _ in range(7):
            with pytest.raises(DiskLow, match="EIO"):
                journal.append(arrived(2, b"y"), b"y")
    assert journal.append(arrived(3, b"z"), b"z") == journal.last
    assert numbers(journal) == [1, journal.last]
    assert len(list(folder.glob("*.seg"))) <= 3


def test_after_a_failed_write_another_segment_is_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a failed write left is not known: its number is not given again, in no segment."""
    journal, write = opened(folder), os.pwritev
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwritev", lambda *given: write(*given) and 0)
        with pytest.raises(DiskLow):
            journal.append(arrived(1, b"x"), b"x")
    assert journal.append(arrived(2, b"y"), b"y") == 2
    assert numbers(journal) == [2]


def test_no_file_is_left_open_where_no_more_can_be(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EMFILE while a segment is begun: nothing of it stays, in no table and on no disk; later it goes on."""
    journal, really, before = opened(folder), os.open, len(os.listdir("/proc/self/fd"))
    journal.prepare()
    handles = list[int]()

    def few(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if flags & os.O_RDWR and str(path).startswith(str(folder)):
            handles.append(0)
            if len(handles) % 3 == 0:
                raise OSError(errno.EMFILE, "")
        return really(path, flags, *more, **named)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", few)
        for _ in range(5):
            with pytest.raises(OSError, match="24"):
                journal.append(Opened(NOON, INFO))
    assert len(os.listdir("/proc/self/fd")) == before
    assert list(folder.glob("*.seg")) == []
    journal.append(Opened(NOON, INFO))
    assert numbers(journal) == [journal.last]


def test_nothing_is_written_once_it_is_closed(folder: Path) -> None:
    """A thread that comes late is told that the node stops; the folder may be another's by then."""
    journal = opened(folder)
    journal.append(Opened(NOON, INFO))
    journal.close()
    with pytest.raises(NodeStopping):
        journal.append(Opened(NOON, INFO))
    assert len(list(folder.glob("*.seg"))) == 1


def test_a_spare_is_whole_before_it_can_be_taken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody finds it while it is being written; what a crash left half is cleared, and a short one is in no way."""
    journal, write, seen = opened(folder), os.write, set[int]()

    def looking(handle: int, data: bytes) -> int:
        seen.update(path.stat().st_size for path in folder.glob("spare-*"))
        return write(handle, data)

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", looking)
        journal.prepare(quiet=False)
    assert seen == {SEGMENT}
    journal.close()
    (folder / "new-left").write_bytes(b"half")
    (folder / "spare-00000000000000000000").write_bytes(b"")
    journal = opened(folder)
    journal.append(Opened(NOON, INFO))
    assert not (folder / "new-left").exists()
    assert segment(folder).stat().st_size == SEGMENT
    assert (folder / "spare-00000000000000000000").exists()


def test_segments_are_ready_before_they_are_needed(folder: Path) -> None:
    """Two at once, so that records are not kept from the ledger: two under load, more step by step when it is quiet."""

    def ready(quiet: bool, times: int) -> int:
        for _ in range(times):
            journal.prepare(quiet=quiet)
        return len(list(folder.glob("spare-*")))

    journal = opened(folder)
    assert [ready(False, 3), ready(True, 1), ready(True, 30), ready(False, 1)] == [2, 4, 6, 6]
    journal.close()
    small = IntakeJournal(folder / "small", 4 * SEGMENT, SEGMENT)
    small.open(0)
    for _ in range(9):
        small.prepare()
    assert len(list((folder / "small").glob("spare-*"))) == 4, "no more than may ever be full"
    small.close()


def test_who_waited_for_room_looks_again_whether_it_fits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two waiting: the second is not written behind the end of the segment that the first began."""
    monkeypatch.setattr(intake_journal, "_ROOM_S", 30.0)
    journal, big = opened(folder, most=3 * SEGMENT), content(1, SEGMENT * 3 // 4)
    for _ in range(3):
        journal.append(arrived(1, big), big)
    with ThreadPoolExecutor(2) as pool:
        written = [pool.submit(journal.append, arrived(1, big), big) for _ in range(2)]
        assert eventually(lambda: len(journal._room._waiters) == 2, 30)  # type: ignore[attr-defined]
        journal.release(2)
        assert sorted(future.result(30) for future in written) == [4, 5]
    assert {path.stat().st_size for path in folder.glob("*.seg")} == {SEGMENT}


def test_a_read_only_disk_is_the_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that has made itself read-only after a fault says EROFS: DiskLow too."""
    journal = opened(folder)
    monkeypatch.setattr(os, "pwritev", lambda *_: (_ for _ in ()).throw(OSError(errno.EROFS, "")))
    with pytest.raises(DiskLow, match="EROFS"):
        journal.append(Opened(NOON, INFO))


def test_the_journal_s_own_name_is_durable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder in which it lies is flushed before anything is acknowledged by it."""
    sync, synced = os.fsync, set[str]()

    def spy(handle: int) -> None:
        synced.add(os.readlink(f"/proc/self/fd/{handle}"))
        sync(handle)

    monkeypatch.setattr(os, "fsync", spy)
    opened(folder).close()
    assert str(folder.parent) in synced


def test_a_segment_that_goes_while_it_is_looked_at(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node lets go of one while `status` reads: what it held has been entered, and that is no fault."""
    journal = opened(folder)
    journal.append(Opened(NOON, INFO))
    paths = intake_journal._segments(folder)
    monkeypatch.setattr(intake_journal, "_segments", lambda _: [folder / f"{0:020d}.seg", *paths])
    assert [noted.number for noted in JournalReader(folder).waiting(-2)] == [1]


def test_where_the_kernel_does_not_copy(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without copy_file_range: the content is read and written."""
    fill(folder, 1)
    (noted,) = opened(folder).read(0, 1)
    monkeypatch.setattr(os, "copy_file_range", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.EXDEV, "")))
    with (tmp_path / "copy").open("wb", buffering=0) as stream:
        assert noted.content is not None
        noted.content.copy_into(stream.fileno())
    assert (tmp_path / "copy").read_bytes() == content(1)


def test_the_end_of_an_association_outlives_a_failing_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which images were refused hangs on it: written again where its segment broke, or where it was not written."""
    journal = opened(folder)
    ends = [Ended(NOON, INFO, how, ("1.2.3",)) for how in ("released", "aborted")]
    journal.append(ends[0], wait=False)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "")))
        with pytest.raises(DiskLow):
            journal.append(arrived(1, b"x"), b"x")
        patched.setattr(os, "pwritev", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "")))
        with pytest.raises(DiskLow):
            journal.append(ends[1], wait=False)
    assert [noted.entry for noted in journal.read(0, 10)] == ends
    journal.append(arrived(2, b"y"), b"y")
    assert len(numbers(journal)) == 3


def test_what_was_not_taken_waits_for_no_room(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Contents whose flush failed never come into the spool: no room there is counted for them."""
    journal = opened(folder)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "")))
        with pytest.raises(DiskLow):
            journal.append(arrived(1, b"x"), b"x")
    assert journal.waiting_bytes == 0
    journal.append(arrived(2, b"yy"), b"yy")
    assert journal.waiting_bytes == 2
    journal.entered(journal.last)
    assert journal.waiting_bytes == 0


def test_a_last_record_that_is_cut_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Torn by a power loss or damaged since: nobody can know, so the log says which record it was."""
    fill(folder, 3)
    data = bytearray(segment(folder).read_bytes())
    data[2 * 8192 + 5000] ^= 0xFF
    segment(folder).write_bytes(data)
    assert numbers(opened(folder)) == [1, 2]
    assert re.search(r"not whole.*number=3", capsys.readouterr().out)


def test_a_record_of_another_version(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole, and of a kind that this program does not know: nothing is cut, and it is said what to do."""
    fill(folder, 1)
    with monkeypatch.context() as patched:
        patched.delitem(intake_journal._KINDS, "_Unnamed")
        with pytest.raises(SchemaFault, match="another version"):
            opened(folder)
    assert numbers(opened(folder)) == [1]


def test_a_journal_of_many_segments_is_taken_up_with_few_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a ledger that was away for long has left is opened one after another: a process may have 1024."""
    journal = opened(folder)
    for number in range(12):
        journal.append(arrived(number, content(number, SEGMENT // 2)), content(number, SEGMENT // 2))
    journal.close()
    before, take_up, most = len(os.listdir("/proc/self/fd")), intake_journal._take_up, list[int]()

    def counting(*given: Any, **named: Any) -> None:
        most.append(len(os.listdir("/proc/self/fd")) - before)
        take_up(*given, **named)

    monkeypatch.setattr(intake_journal, "_take_up", counting)
    journal = opened(folder)
    assert len(most) >= 12
    assert max(most) < 16
    journal.close()
    journal.close()


def test_a_journal_without_tokens_is_taken_up(folder: Path) -> None:
    """Earlier versions named segments by their number alone: what waits there is read, and the next gets a token."""
    said = b"Opened " + intake_journal._KINDS["Opened"].dump_json(Opened(NOON, INFO))
    rest = struct.pack("<QII", 7, len(said), 0)
    folder.mkdir()
    frame = b"NPJ1" + struct.pack("<L", zlib.crc32(said, zlib.crc32(rest))) + rest + said
    (folder / f"{7:020d}.seg").write_bytes(frame.ljust(2 * 4096, b"\0"))
    journal = opened(folder, applied=6)
    assert numbers(journal, 6) == [7]
    journal.append(Opened(NOON, INFO))
    journal.append(Opened(NOON, INFO))
    assert numbers(journal, 6) == [7, 8, 9]
    journal.release(9)
    assert [len(path.stem) for path in folder.glob("*.seg")] == [37]


# --- entering, when something fails -----------------------------------------------------------------------------------


def test_records_without_contents_let_go_of_their_segments(ledger: Ledger, tmp_path: Path, spool: FileSpool) -> None:
    """Calls that bring nothing small (echoes, refusals, large objects alone) do not fill the journal for ever."""
    receiver = Intake(ledger, tmp_path, spool, InstanceReader(), at_once=False)
    for _ in range(600):
        receiver.journal.append(Opened(NOON, INFO), wait=False)
    receiver.replayer.run()
    receiver.replayer.secure()
    assert len(list((tmp_path / "journal").glob("*.seg"))) == 1
    assert ledger.intake.position() == (600, 600)


def test_under_load_segments_are_let_go_of_between_batches(
    ledger: Ledger, tmp_path: Path, spool: FileSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sender that does not pause keeps entering from ever being done; the journal must not fill meanwhile."""
    monkeypatch.setattr("npc_rtnode.pipeline.replay.BATCH", 2)
    receiver = Intake(ledger, tmp_path, spool, InstanceReader(), at_once=False)
    for number in range(4):
        hand_over(receiver, a_slice(ledger, number))
    monkeypatch.setattr(receiver.journal, "presses", lambda: True)
    receiver.replayer.run()
    assert ledger.intake.position() == (4, 4)


@pytest.mark.parametrize("restarted", [False, True])
def test_a_file_whose_fsync_failed_is_laid_anew(
    ledger: Ledger, tmp_path: Path, spool: FileSpool, monkeypatch: pytest.MonkeyPatch, restarted: bool
) -> None:
    """A second fsync of it would say that all is well, in this process and in the next: another file takes its place
    before the journal lets go."""
    receiver = Intake(ledger, tmp_path, spool, InstanceReader())
    hand_over(receiver, a_slice(ledger, 1))
    kept = spool.path(ledger.copies(a_slice(ledger, 1).sop_uid)[0])
    doubted = kept.open("rb")
    sync = os.fsync

    def failing(handle: int) -> None:
        if os.fstat(handle).st_ino == os.fstat(doubted.fileno()).st_ino:
            raise OSError(errno.EIO, "")
        sync(handle)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", failing)
        with pytest.raises(DiskLow, match="EIO"):
            receiver.replayer.secure()
    assert ledger.intake.position()[1] == 0
    if restarted:
        receiver.journal.close()
        Intake(ledger, tmp_path, spool, InstanceReader())
    else:
        receiver.replayer.secure()
    assert ledger.intake.position()[1] == 1
    with doubted:
        assert kept.stat().st_ino != os.fstat(doubted.fileno()).st_ino
    assert spool.read(kept.name)


def test_a_comparison_that_breaks_holds_up_no_other(ledger: Ledger, tmp_path: Path, spool: FileSpool) -> None:
    """Two files under one UID that the comparison cannot take differ: both are kept and told, the next is entered."""
    reader = InstanceReader()
    reader.differences = lambda *_: (_ for _ in ()).throw(RecursionError())  # type: ignore[method-assign]
    receiver = Intake(ledger, tmp_path, spool, reader, at_once=False)
    first = a_slice(ledger, 1)
    for sent in (first, replace(first, encoded=first.encoded[:-1] + b"\x55"), a_slice(ledger, 2)):
        assert hand_over(receiver, sent) is StoreOutcome.STORED
    assert receiver.replayer.run() == 3
    assert [len(ledger.copies(a_slice(ledger, number).sop_uid)) for number in (1, 2)] == [2, 1]
    assert ledger.series_states() == ["QUARANTINED"]


def test_a_fault_that_passes_sets_nothing_aside(
    ledger: Ledger, tmp_path: Path, spool: FileSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more files can be opened, say: the record is entered later."""
    receiver = Intake(ledger, tmp_path, spool, InstanceReader(), at_once=False)
    hand_over(receiver, a_slice(ledger, 1))
    with monkeypatch.context() as patched:
        patched.setattr(spool, "lay", lambda *_: (_ for _ in ()).throw(OSError(errno.EMFILE, "")))
        with pytest.raises(OSError, match="24"):
            receiver.replayer.run()
    assert ledger.intake.position()[0] == 0
    assert receiver.replayer.run() == 1
    assert ledger.copies(a_slice(ledger, 1).sop_uid)


def test_what_is_set_aside_is_durable_and_not_called_stored(
    ledger: Ledger, tmp_path: Path, spool: FileSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes of a record that the ledger cannot take are flushed as others are; who waits for its row hears that."""
    receiver = Intake(ledger, tmp_path, spool, InstanceReader(), at_once=False)
    monkeypatch.setattr(ledger.intake, "_arrived", lambda *_: (_ for _ in ()).throw(ValueError()))
    hand_over(receiver, a_slice(ledger, 1))
    large = receiver.journal.append(arrived(2, b"x"))
    assert receiver.replayer.entered(large) is StoreOutcome.NO_RESOURCES
    settled, settle = set[str](), spool.settle
    monkeypatch.setattr(spool, "settle", lambda names: (settled.update(names), settle(names)))
    receiver.replayer.secure()
    assert settled == set(spool.names())
    assert len(settled) == 1


def test_what_was_acknowledged_and_has_no_row_is_counted(
    ledger: Ledger, tmp_path: Path, spool: FileSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it has been sent again and entered; other records that were set aside bring no instance."""
    receiver = Intake(ledger, tmp_path, spool, InstanceReader(), at_once=False)
    one = a_slice(ledger, 1)
    with monkeypatch.context() as patched:
        patched.setattr(ledger.intake, "_enter", lambda *_: (_ for _ in ()).throw(ValueError()))
        hand_over(receiver, one)
        receiver.rejected(ledger.association, "unknown")
        receiver.replayer.run()
    assert ledger.queries.without_row() == 1
    hand_over(receiver, one)
    receiver.replayer.run()
    assert ledger.queries.without_row() == 0


def test_no_room_for_a_spare_at_the_start(
    ledger: Ledger, tmp_path: Path, spool: FileSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The port is opened, and senders hear what is the matter."""
    monkeypatch.setattr(IntakeJournal, "prepare", lambda *_: (_ for _ in ()).throw(DiskLow()))
    Intake(ledger, tmp_path, spool, InstanceReader())


def test_a_very_long_list_of_refused_images_can_be_told(ledger: Ledger, tmp_path: Path, spool: FileSpool) -> None:
    """Tens of thousands refused on one association: its end is noted, read and entered."""
    receiver = Intake(ledger, tmp_path, spool, InstanceReader(), at_once=False)
    receiver._refused[ledger.association.association_id] += [f"1.2.{10**55 + number}" for number in range(20_000)]
    receiver.closed(ledger.association, "released")
    assert receiver.replayer.run() == 1


def test_a_large_object_whose_record_was_not_entered_is_not_stored(
    ledger: Ledger, tmp_path: Path, spool: FileSpool
) -> None:
    """Its sender waits for the row; where there is none, it hears no Success."""
    receiver = Intake(ledger, tmp_path, spool, InstanceReader(), at_once=False)
    large = receiver.journal.append(arrived(2, b"x"))
    receiver.journal.read = lambda *_: []  # type: ignore[method-assign]
    assert receiver.replayer.entered(large) is StoreOutcome.NO_RESOURCES


# --- killed -----------------------------------------------------------------------------------------------------------

_DIES: Final = """
import os, signal, sys
from npc_rtnode.adapters import intake_journal, spool
from npc_rtnode.adapters.database import intake
from npc_rtnode.pipeline import replay
where, turn, after = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "after"
places = {"write": (os, "pwritev"), "flush": (os, "fdatasync"), "copy": (os, "copy_file_range"),
          "fsync": (os, "fsync"), "commit": (intake.IntakeLedger, "replay"),
          "secured": (intake.IntakeLedger, "secured"),
          "release": (intake_journal.IntakeJournal, "release")}
owner, name = places[where]
real, count = getattr(owner, name), [0]
def dying(*args, **more):
    count[0] += armed[0]
    if count[0] == turn and not after:
        os.kill(os.getpid(), signal.SIGKILL)
    result = real(*args, **more)
    if count[0] == turn:
        os.kill(os.getpid(), signal.SIGKILL)
    return result
armed = [0]
setattr(owner, name, dying)
replay.IDLE_S = 0.2
from npc_rtnode.adapters.dicom.listener.server import Listener
start = Listener.start
def started(self):
    armed[0] = 1
    return start(self)
Listener.start = started
sys.argv = ["npc-rtnode", "serve", "--only", "receive", "--config", sys.argv[4]]
from npc_rtnode.__main__ import main
main()
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    """A receiver that was started once: the kill points run on its home, each on what the last one left."""
    with Receiver(tmp_path_factory.mktemp("killed")) as running:
        running.terminate()
        yield running


POINTS: Final = [
    (where, turn, when)
    for where in ("write", "flush", "copy", "commit", "fsync", "secured", "release")
    for turn in ((1, 3) if where in {"write", "flush", "copy"} else (1,))
    for when in ("before", "after")
]


@pytest.mark.parametrize(("where", "turn", "when"), POINTS)
def test_killed_at_each_step(node: Receiver, where: str, turn: int, when: str) -> None:
    """SIGKILL before or after each step: what was acknowledged is there once, whole; the rest is sent again and is."""
    sent = [a_dataset(f"{where} {turn} {when} {at}") for at in range(6)]
    acknowledged = []
    with killed_at(node, where, turn, when) as process, RawPeer(node.port) as peer:
        if peer.associate() == ACCEPTED:
            for data, uid in sent:
                if peer.answer(pdu.store(data, uid)) != 0:
                    break
                acknowledged.append(uid)
        assert process.wait(30) == -signal.SIGKILL
    node._start()
    rows = node.rows()
    assert [len(rows.get(uid, [])) for uid in acknowledged] == [1] * len(acknowledged)
    with RawPeer(node.port) as peer:
        assert peer.associate() == ACCEPTED
        assert [peer.answer(pdu.store(data, uid)) for data, uid in sent] == [0] * len(sent)
    assert all(len(node.kept(uid)) == 1 for _, uid in sent)
    assert node.terminate()[0] == 0
    assert node.parts() == []
    assert JournalReader(node.home / "spool" / "journal").damaged() == []


def a_dataset(name: str) -> tuple[bytes, str]:
    """A slice of that name."""
    ds = slice_dataset(SeriesSpec(rows=8, columns=8), 0)
    ds.SOPInstanceUID = derived_uid(name, "killed")
    return encoded(ds), str(ds.SOPInstanceUID)


class killed_at:  # read as a phrase
    """A receiver on that home which kills itself there."""

    def __init__(self, node: Receiver, *point: object) -> None:
        self._node, self._point = node, [str(word) for word in point]

    def __enter__(self) -> subprocess.Popen[bytes]:
        """Listening."""
        command = [sys.executable, "-c", _DIES, *self._point, str(self._node._config)]
        with self._node._log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        self._node.process = self._process
        assert eventually(self._node._listens, 60), self._node.said()
        return self._process

    def __exit__(self, *_: object) -> None:
        """Gone in any case."""
        self._process.kill()
        self._process.wait(30)


# --- the order --------------------------------------------------------------------------------------------------------

_CALLS: Final = "pwritev,pwritev2,fdatasync,sendto"


@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace")
def test_no_answer_before_the_flush(tmp_path: Path) -> None:
    """As the kernel saw it: between two answers of Success on one association a record was written and flushed."""
    with Receiver(tmp_path) as running:
        trace = tmp_path / "trace"
        command = ["strace", "-f", "-q", "-e", f"trace={_CALLS}", "-o", str(trace), "-p", str(running.process.pid)]
        tracer = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            assert eventually(lambda: "TracerPid:\t0" not in status_of(running), 10)
            with RawPeer(running.port) as peer:
                assert peer.associate() == ACCEPTED
                assert [peer.store(*a_dataset(f"order {at}")) for at in range(10)] == [0] * 10
        finally:
            tracer.send_signal(signal.SIGINT)
            tracer.wait(20)
    steps = "".join(map(step_of, trace.read_text("utf-8").splitlines()))
    assert steps.count("S") == 10
    assert [before for before in steps.split("S")[:-1] if not re.search("W.*F", before)] == [], steps


def status_of(running: Receiver) -> str:
    """What the kernel says of the process."""
    return Path(f"/proc/{running.process.pid}/status").read_text("ascii")


def step_of(line: str) -> str:
    """W for a written record, F for a flush that is over, S for an answer to a C-STORE; nothing else counts."""
    if re.search(r"pwritev2?\(", line):
        return "W"
    if ("fdatasync(" in line and "= 0" in line) or "fdatasync resumed" in line:
        return "F"
    return "S" if "sendto(" in line and '"\\4\\0' in line else ""


def test_nothing_waits_of_a_journal_that_is_not_there(tmp_path: Path) -> None:
    """A node that has never received anything has no journal, and that is no fault."""
    assert JournalReader(tmp_path / "none").waiting(0) == []
    assert JournalReader(tmp_path / "none").damaged() == []
