"""The intake journal: what was received, in order, made durable by one flush of one file (ADR 0020).

`folder/00000000000000000001-0123456789abcdef.seg` holds records from that number on. A record is a head, the entry as
text, and the content of an instance where it is not too large; each begins on a page of its own. Segments are written
with zeros before they are used, and used again after that: a flush then touches nothing but the bytes written. The
second half of the name is drawn anew for each use, and the check sums begin with it: what a segment holds of an earlier
use is no record of it, nor is anything that a sender puts into a content to look like one. A content that nobody has
the SHA-256 of yet has a check sum of its own, and gets its name when it is read: the sender does not wait for that.

One process writes (a lock in the folder says so), any may read.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import secrets
import struct
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

import xxhash
from pydantic import TypeAdapter, ValidationError

from npc_rtnode import log
from npc_rtnode.domain.records import Arrived, Ended, IntakeEntry, Opened, Refused, Rejected
from npc_rtnode.errors import DiskLow, MomentFault, NodeError, NodeStopping, SchemaFault, Unreadable
from npc_rtnode.faults import disk_faults

logger = log.get(__name__)

SEGMENT_BYTES: Final = 16 << 20
_SPARES: Final = 32
"""Used segments that are kept to be used again; no more than half of what the journal may take."""
_PRESSING: Final = 24
"""So many full segments are let go of under load too; the files of a burst are better made durable after it."""
_AHEAD: Final = 6
"""Segments that are written with zeros when it is quiet and room is plenty."""
_AT_ONCE: Final = 2
"""So many of them at a beat, and ahead of a burst that needs more; records wait for the ledger meanwhile."""
_ROOM_S: Final = 10.0
"""How long a record waits for the ledger to take others; then the sender is asked to try again."""
_FLUSHERS: Final = 4
"""Flushes of a segment at the same time."""
_OWED: Final = 1000
"""Ends of associations that wait in memory for a disk that fails; older ones are let go of."""
_PAGE: Final = 4096
_MAGIC: Final = b"NPJ1"
_HEAD: Final = struct.Struct("<4sIQII")
"""Magic, CRC-32 of the segment's token, the rest and the text, number, bytes of the text, bytes of the content."""
_NAME: Final = re.compile(r"(\d{20})(?:-([0-9a-f]{16}))?")
"""Of a segment: its first number, its token (earlier versions gave none)."""
_TEXT_LIMIT: Final = 1 << 20
_OPENED: Final = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
_NEW_FILE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_COPIES_NOT: Final = frozenset({errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})


@dataclass(frozen=True, slots=True)
class _Unnamed:
    """An arrival without the SHA-256 of its content; XXH3 (128 bits) says whether that is whole."""

    arrived: Arrived
    xxh3: str


_KINDS: Final[dict[str, TypeAdapter[Any]]] = {
    kind.__name__: TypeAdapter(kind) for kind in (Opened, Rejected, Refused, Arrived, Ended, _Unnamed)
}


@dataclass(frozen=True, slots=True)
class Content:
    """Fulfils ports.Content: the bytes of one instance inside a segment."""

    file: Path
    at: int
    size: int
    xxh3: str = ""
    """Its check sum, where its record does not say its SHA-256."""

    def copy_into(self, handle: int) -> None:
        """Copy within the kernel, where its file systems can."""
        source = os.open(self.file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            at, left = self.at, self.size
            while left:
                copied = _copy(source, handle, left, at)
                if copied == 0:
                    raise OSError(errno.EIO, "the journal ends before its content does")
                at, left = at + copied, left - copied
        finally:
            os.close(source)

    def read(self) -> bytes:
        """All of it."""
        with self.file.open("rb") as stream:
            stream.seek(self.at)
            return stream.read(self.size)


@dataclass(frozen=True, slots=True)
class Noted:
    """One record of the journal."""

    number: int
    entry: IntakeEntry
    content: Content | None


class _Segment:
    """One file of the journal, opened for writing by its one writer."""

    def __init__(self, path: Path, under: Path | None = None) -> None:
        """It may still lie `under` another name."""
        self.path = path
        self.first, self.token = _named(path)
        self.handle, *flushers = _open_often(path if under is None else under, 1 + _FLUSHERS)
        self._flushers: SimpleQueue[int] = SimpleQueue()
        for handle in flushers:
            self._flushers.put(handle)
        self.size = os.fstat(self.handle).st_size
        self.end = self.flushed = 0
        self.last = self.first - 1
        self.broken = False
        self.ends: list[tuple[int, bytes]] = []
        """Of associations, with where each record of one stops: as far as they are not flushed."""

    @contextmanager
    def flusher(self) -> Iterator[int]:
        """A file of its own for one flush: the kernel tells of a fault once to each open file, so all of them were
        opened before anything was written. Of no use once the segment is closed."""
        handle = self._flushers.get()
        try:
            yield handle
        finally:
            self._flushers.put(handle)

    def close_flushed(self) -> None:
        """Where nothing is left to write or to flush, keep nothing open."""
        if self.broken or self.flushed >= self.end:
            self.close()

    def close(self) -> None:
        """Waits for who flushes; who comes later has nothing left to flush."""
        if self.handle < 0:
            return
        for handle in [self._flushers.get() for _ in range(_FLUSHERS)]:
            os.close(handle)
        self._flushers.put(-1)
        os.close(self.handle)
        self.handle = -1


class IntakeJournal:
    """Fulfils ports.IntakeJournal. Every method but `open` and `close` may be called from several threads at once."""

    def __init__(self, folder: Path, most_bytes: int, segment_bytes: int = SEGMENT_BYTES) -> None:
        """`most_bytes` of records wait for the ledger at most, though never less than two segments."""
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._most = max(most_bytes // segment_bytes, 2)
        self._lock = threading.Lock()  # the order of records
        self._room = threading.Condition(self._lock)
        self._segments: list[_Segment] = []
        self._next = 1
        self._closed = False
        self._broke = False  # a segment has since it was looked at last
        self._cursor = (0, 0)  # the record that was read last, and where the next one begins
        self._outside: deque[tuple[int, int]] = deque()  # contents that are not in the spool yet: number, bytes
        self._owed: deque[bytes] = deque(maxlen=_OWED)  # ends of associations that a failing disk did not take
        self.waiting_bytes = 0
        """Of contents that are not in the spool yet, where each will take as much room again."""
        self.stirred: Callable[[], object] = lambda: None
        """Called after each record that is in."""

    # --- from start to end --------------------------------------------------------------------------------------------

    def open(self, applied: int) -> None:
        """Take up what an earlier process left; numbers go on after `applied` and after every record that is here.

        MomentFault where another process writes here.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _sync_folder(self._folder.parent)
        self._owner = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._owner)
            raise MomentFault(f"another process writes the intake journal {self._folder}") from error
        try:
            with _disk_faults():
                self._take_up()
        except (OSError, NodeError):
            self.close()
            raise
        self._next = max([applied, *(segment.last for segment in self._segments)]) + 1
        if self._segments and applied + 1 < self._segments[0].first and self._next > applied + 1:
            logger.error("the ledger is older than the intake journal", ledger=applied, oldest=self._segments[0].first)

    def _take_up(self) -> None:
        for unfinished in self._folder.glob("new-*"):
            unfinished.unlink()
        for path in _segments(self._folder):
            self._segments.append(_Segment(path))
            self._close_flushed()
            _take_up(self._segments[-1], damaged=self._set_aside)

    def close(self) -> None:
        """Let go of it; what waits is there for the next process. Nothing is written from now on."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._room.notify_all()
            for segment in self._segments:
                segment.close()
            self._segments.clear()
            os.close(self._owner)

    def _set_aside(self, path: Path, begin: int, end: int) -> None:
        """A stretch that cannot be read, with records after it: kept for a person to look at, and read no more."""
        first, _ = _named(path)
        kept = self._folder / f"damaged-{first:020d}-{begin}"
        if not kept.exists():  # or it was told at an earlier start
            _write_durably(kept, _pread(path, begin, end - begin))
            logger.error("a record of the intake journal cannot be read; set aside", segment=first, at=begin)
        with path.open("r+b") as stream:
            os.pwrite(stream.fileno(), bytes(_HEAD.size), begin)
            os.fdatasync(stream.fileno())

    # --- writing ------------------------------------------------------------------------------------------------------

    def append(self, entry: IntakeEntry, content: bytes | bytearray = b"", wait: bool = True) -> int:
        """Write a record and, with `wait`, return once it is durable; its number. The SHA-256 of an arrival with a
        content may be empty: it is found when the record is read.

        Raises DiskLow when the disk fails, or when more waits for the ledger than may; NodeStopping after `close`. A
        failed write or flush is never tried again on the same segment: its records are not acknowledged, the next ones
        go into another.
        """
        text = _text_of(entry, content)
        with _disk_faults():
            with self._lock:
                segment, number, end = self._written(text, content)
            if wait:
                self._make_durable(segment, number, end)
        self.stirred()
        return number

    def _written(self, text: bytes, content: bytes | bytearray) -> tuple[_Segment, int, int]:
        try:
            self._write_owed()
            return self._write(text, content)
        except (OSError, DiskLow):
            if _is_end(text):
                self._owed.append(text)
            raise

    def _make_durable(self, segment: _Segment, number: int, end: int) -> None:
        try:
            self._flush(segment, end)
        except OSError:
            with self._lock:
                self._forget(number)
            raise

    def _forget(self, number: int) -> None:
        """A content that will never come into the spool."""
        for one in [one for one in self._outside if one[0] == number]:
            self._outside.remove(one)
            self.waiting_bytes -= one[1]

    def _write_owed(self) -> None:
        """Which images were refused hangs on the end of an association; it is written as soon as there is room."""
        self._forsake_broken()
        while self._owed and self._has_room(_HEAD.size + len(self._owed[0])):
            self._write(self._owed[0], b"")
            self._owed.popleft()

    def _write(self, text: bytes, content: bytes | bytearray) -> tuple[_Segment, int, int]:
        size = _HEAD.size + len(text) + len(content)
        segment, number = self._segment_for(size), self._next
        self._next = number + 1  # whatever becomes of it: what a failed write leaves has that number
        rest = struct.pack("<QII", number, len(text), len(content))
        head = _MAGIC + struct.pack("<L", _sum(segment.token, rest, text)) + rest
        try:
            if os.pwritev(segment.handle, [head, text, content], segment.end) != size:
                raise OSError(errno.ENOSPC, "a short write")
        except OSError:
            segment.broken = self._broke = True
            raise
        segment.last = number
        segment.end += _pages(size)
        if _is_end(text):
            segment.ends.append((segment.end, text))
        self._outside.append((number, len(content)))
        self.waiting_bytes += len(content)
        return segment, number, segment.end

    def _segment_for(self, size: int) -> _Segment:
        until = time.monotonic() + _ROOM_S
        while not self._fits(size):
            if len(self._segments) < self._most:
                self._segments.append(self._begin_segment(size))
                self._close_flushed()
            elif not self._room.wait(until - time.monotonic()):
                waiting = len(self._segments) * self._segment_bytes >> 20
                raise DiskLow(f"{waiting} MiB of what was received wait for the ledger; no more is taken until then.")
        return self._segments[-1]

    def _has_room(self, size: int) -> bool:
        return self._fits(size) or len(self._segments) < self._most

    def _fits(self, size: int) -> bool:
        if self._closed:
            raise NodeStopping
        self._forsake_broken()
        newest = self._segments[-1] if self._segments else None
        return newest is not None and not newest.broken and newest.end + size <= newest.size

    def _forsake_broken(self) -> None:
        """A disk that fails for a while does not fill the journal: segments of which nothing was ever flushed go."""
        if not self._broke:
            return
        self._broke = False
        for segment in [one for one in self._segments if one.broken]:
            self._owed.extend(text for _, text in segment.ends)
            segment.ends.clear()
            if not segment.flushed:
                self._segments.remove(segment)
                self._reuse(segment)

    def _begin_segment(self, size: int) -> _Segment:
        spares = (path for path in self._folder.glob("spare-*") if path.stat().st_size >= size)
        spare = next(spares, None) or _new_spare(self._folder, max(self._segment_bytes, _pages(size)))
        path = self._folder / f"{self._next:020d}-{secrets.token_hex(8)}.seg"
        segment = _Segment(path, under=spare)
        try:
            spare.rename(path)
            os.fsync(self._owner)
        except OSError:
            segment.close()
            with suppress(OSError):
                path.unlink()
            raise
        return segment

    def _close_flushed(self) -> None:
        for segment in self._segments[:-1]:
            segment.close_flushed()

    def _flush(self, segment: _Segment, end: int) -> None:
        """Flush, unless another has that began after the record was written. Several flush at once: a disk does more of
        them side by side than one after another (2.4 times as many with four)."""
        with segment.flusher() as handle:
            if segment.flushed >= end:
                return
            if segment.broken:
                raise _not_flushed()
            written = segment.end  # all of it is in the file: whoever writes does so before the end is moved
            try:
                os.fdatasync(handle)
            except OSError:
                segment.broken = self._broke = True
                raise
        with self._lock:
            if segment.broken:
                raise _not_flushed()
            segment.flushed = max(segment.flushed, written)
            segment.ends = [one for one in segment.ends if one[0] > segment.flushed]

    # --- reading ------------------------------------------------------------------------------------------------------

    def read(self, after: int, most: int) -> list[Noted]:
        """Up to `most` records after that number, in order, each of them durable."""
        found: list[Noted] = []
        with self._lock:
            if self._owed or self._broke:
                with suppress(OSError, MomentFault):
                    self._write_owed()
            wanted = [segment for segment in self._segments if segment.last > after]
        for segment in wanted:
            if segment.broken and not segment.flushed:
                continue
            if not segment.broken:
                with _disk_faults():
                    self._flush(segment, segment.end)
            found += self._read_segment(segment, after, most - len(found))
            if len(found) == most:
                break
        return found

    def _read_segment(self, segment: _Segment, after: int, most: int) -> list[Noted]:
        number, at = self._cursor
        begin = at if number == after and segment.first <= number <= segment.last else 0
        last, size = number if begin else segment.first - 1, segment.flushed
        found: list[Noted] = []
        for noted, end in _frames(segment.path, begin, size, self._set_aside, _with_digest):
            if len(found) == most:
                return found
            self._cursor = noted.number, end
            last = noted.number
            if noted.number > after:
                found.append(noted)
        self._ends_with(segment, last, size)
        return found

    def _ends_with(self, segment: _Segment, last: int, size: int) -> None:
        """Nobody waits for a record that cannot be read and stands behind all others; it has been set aside."""
        with self._lock:
            if segment.end == size:
                segment.last = last

    @property
    def last(self) -> int:
        """The number of the newest record."""
        return self._next - 1

    # --- letting go ---------------------------------------------------------------------------------------------------

    def entered(self, upto: int) -> None:
        """Records up to that number are in the ledger, and their contents in the spool."""
        with self._lock:
            while self._outside and self._outside[0][0] <= upto:
                self.waiting_bytes -= self._outside.popleft()[1]

    def release(self, upto: int) -> None:
        """Records up to that number are safe elsewhere: their segments may be used again."""
        with self._lock:
            done = [one for one in self._segments[:-1] if one.last <= upto]
            for segment in done:
                self._segments.remove(segment)
                self._reuse(segment)
            self._room.notify_all()

    def presses(self) -> bool:
        """Whether full segments should be let go of now, and not only when it is quiet."""
        return len(self._segments) - 1 >= min(_PRESSING, self._most // 2)

    def is_full(self) -> bool:
        """Whether soon no more is taken until the ledger has taken some."""
        segments = list(self._segments)  # another thread may take some away
        return len(segments) >= self._most and segments[-1].end > self._segment_bytes // 2

    def prepare(self, quiet: bool = True) -> None:
        """Have segments ready for when the one in use is full: two, and step by step more when it is quiet and room is
        plenty."""
        with _disk_faults():
            room, ready = os.statvfs(self._folder), len(list(self._folder.glob("spare-*")))
            plenty = room.f_bavail * room.f_frsize > 4 * _AHEAD * self._segment_bytes
            wanted = min(_AHEAD if quiet and plenty else _AT_ONCE, self._most - len(self._segments))
            for _ in range(min(wanted - ready, _AT_ONCE)):
                _new_spare(self._folder, self._segment_bytes)

    def _reuse(self, segment: _Segment) -> None:
        segment.close()
        if segment.broken or len(list(self._folder.glob("spare-*"))) >= min(_SPARES, self._most // 2):
            segment.path.unlink()
        else:
            segment.path.rename(self._folder / f"spare-{segment.path.stem}")


@dataclass(frozen=True)
class JournalReader:
    """What another process may know of the journal in a folder; it need not be there."""

    folder: Path

    def waiting(self, after: int) -> list[Noted]:
        """Records that came after that number, as far as they can be read now."""
        found: list[Noted] = []
        paths = _segments(self.folder)
        for path, following in zip(paths, [*paths[1:], None], strict=False):
            if following is None or _named(following)[0] > after + 1:
                with suppress(FileNotFoundError):  # let go of meanwhile: what it held has been entered
                    found += [noted for noted, _ in _frames(path, 0, None) if noted.number > after]
        return found

    def damaged(self) -> list[str]:
        """Stretches that could not be read and were set aside."""
        return sorted(path.name for path in self.folder.glob("damaged-*"))


def _not_flushed() -> OSError:
    return OSError(errno.EIO, "the segment could not be flushed")


# --- files ------------------------------------------------------------------------------------------------------------


def _segments(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.seg") if _NAME.fullmatch(path.stem))


def _named(path: Path) -> tuple[int, bytes]:
    """The first number of a segment, and its token."""
    found = _NAME.fullmatch(path.stem)
    if found is None:
        raise ValueError(f"{path.name} is no segment")
    return int(found[1]), bytes.fromhex(found[2] or "")


def _open_often(path: Path, times: int) -> list[int]:
    """Open files of their own, so many or none."""
    handles: list[int] = []
    try:
        while len(handles) < times:
            handles.append(os.open(path, _OPENED))
    except OSError:
        for handle in handles:
            os.close(handle)
        raise
    return handles


def _new_spare(folder: Path, size: int) -> Path:
    """A file of zeros: what is written into it later changes neither its size nor where it lies. It has the name of a
    spare once it is whole."""
    name = secrets.token_hex(10)
    path = folder / f"new-{name}"
    handle = os.open(path, _NEW_FILE, 0o600)
    try:
        left, zeros = size, bytes(1 << 20)
        while left:
            left -= os.write(handle, zeros[:left])
        os.fsync(handle)
        return path.rename(folder / f"spare-{name}")
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(handle)


def _write_durably(path: Path, data: bytes) -> None:
    """All of it under that name, or nothing."""
    part = path.with_name(f"new-{path.name}")
    with part.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    part.rename(path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _copy(source: int, handle: int, size: int, at: int) -> int:
    """As many bytes as one call takes."""
    try:
        return os.copy_file_range(source, handle, size, offset_src=at)
    except OSError as error:
        if error.errno not in _COPIES_NOT:
            raise
        return os.write(handle, os.pread(source, size, at))


def _take_up(segment: _Segment, damaged: Callable[[Path, int, int], None]) -> None:
    """A segment of an earlier process; its end is behind its last record, a torn one there is written over."""
    for noted, end in _frames(segment.path, 0, None, damaged, _if_whole):
        segment.last, segment.end = noted.number, end
    if torn := _frame(segment.path, segment.handle, segment.end, segment.last):
        said = "the last record of a segment is not whole, it was being written or is damaged; cut"
        logger.warning(said, segment=segment.first, number=torn[0].number)
    if segment.end < segment.size:
        os.pwrite(segment.handle, bytes(_HEAD.size), segment.end)
    os.fdatasync(segment.handle)  # its process may have ended between writing and flushing
    segment.flushed = segment.end


# --- records ----------------------------------------------------------------------------------------------------------


def _text_of(entry: IntakeEntry, content: bytes | bytearray = b"") -> bytes:
    """The entry as it is written; Unreadable where it would be too long to be read again."""
    written: IntakeEntry | _Unnamed = entry
    if content and isinstance(entry, Arrived) and not entry.arrival.sha256:
        written = _Unnamed(entry, xxhash.xxh3_128_hexdigest(content))
    kind = type(written).__name__
    text = f"{kind} ".encode() + _KINDS[kind].dump_json(written, warnings=False)
    if len(text) > _TEXT_LIMIT:
        raise Unreadable(f"What would be noted of it is longer than {_TEXT_LIMIT} bytes.")
    return text


def _is_end(text: bytes) -> bool:
    return text.startswith(b"Ended ")


def _entry_of(text: bytes) -> IntakeEntry | _Unnamed:
    """What `_text_of` wrote; SchemaFault where another version did."""
    kind, _, said = text.partition(b" ")
    try:
        entry: IntakeEntry | _Unnamed = _KINDS[kind.decode("ascii", "replace")].validate_json(said)
    except (KeyError, ValidationError):
        said_by = "The intake journal holds a record of another version; that version, started once more, enters it."
        raise SchemaFault(said_by) from None
    return entry


def _sum(token: bytes, rest: bytes, text: bytes) -> int:
    return zlib.crc32(text, zlib.crc32(rest, zlib.crc32(token)))


def _pages(size: int) -> int:
    """Rounded up to whole pages."""
    return -(-size // _PAGE) * _PAGE


def _frames(
    path: Path,
    begin: int,
    end: int | None,
    damaged: Callable[[Path, int, int], None] | None = None,
    judged: Callable[[Noted], Noted | None] = lambda noted: noted,
) -> Iterator[tuple[Noted, int]]:
    """Each record from there on, as it is `judged`, with where the next begins; what cannot be read is told to
    `damaged`: between two, or also at the `end` where all before it was whole once."""
    last, at = _named(path)[0] - 1, begin
    with path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size if end is None else end
        while at < size:
            frame = _frame(path, stream.fileno(), at, last)
            noted = judged(frame[0]) if frame else None
            if frame is None or noted is None:
                resumed = _resumes(path, stream.fileno(), at, size, last)
                if damaged and (resumed or end):
                    damaged(path, at, resumed or size)
                if resumed is None:
                    return
                at = resumed
                continue
            last, at = noted.number, frame[1]
            yield noted, at


def _resumes(path: Path, handle: int, at: int, size: int, last: int) -> int | None:
    """Where the next readable record stands behind one that is not."""
    pages = range(at + _PAGE, size, _PAGE)
    return next((page for page in pages if _frame(path, handle, page, last) is not None), None)


def _frame(path: Path, handle: int, at: int, last: int) -> tuple[Noted, int] | None:
    """The record that stands there, if it is whole and of this use of the segment, and where the next one would."""
    data = os.pread(handle, _PAGE, at)
    if len(data) < _HEAD.size or data[:4] != _MAGIC:
        return None
    _, crc, number, text_size, size = _HEAD.unpack_from(data)
    if number <= last or text_size > _TEXT_LIMIT:
        return None
    body = _HEAD.size + text_size
    text = data[_HEAD.size : body] if body <= len(data) else os.pread(handle, text_size, at + _HEAD.size)
    if _sum(_named(path)[1], data[8 : _HEAD.size], text) != crc:
        return None
    said = _entry_of(text)
    entry, xxh3 = (said.arrived, said.xxh3) if isinstance(said, _Unnamed) else (said, "")
    content = Content(path, at + body, size, xxh3) if size else None
    return Noted(number, entry, content), at + _pages(body + size)


def _if_whole(noted: Noted) -> Noted | None:
    """The record, if all of its content was written before the process or the power went."""
    if noted.content is None or not isinstance(noted.entry, Arrived):
        return noted
    if noted.content.xxh3:
        whole = xxhash.xxh3_128_hexdigest(noted.content.read()) == noted.content.xxh3
    else:
        whole = hashlib.sha256(noted.content.read()).hexdigest() == noted.entry.arrival.sha256
    return noted if whole else None


def _with_digest(noted: Noted) -> Noted | None:
    """The record with the SHA-256 of its content; None where that is not what was written."""
    if noted.content is None or not noted.content.xxh3 or not isinstance(noted.entry, Arrived):
        return noted
    content = noted.content.read()
    if xxhash.xxh3_128_hexdigest(content) != noted.content.xxh3:
        return None
    arrival = replace(noted.entry.arrival, sha256=hashlib.sha256(content).hexdigest())
    return replace(noted, entry=replace(noted.entry, arrival=arrival))


def _pread(path: Path, at: int, size: int) -> bytes:
    with path.open("rb") as stream:
        return os.pread(stream.fileno(), size, at)


def _disk_faults() -> AbstractContextManager[None]:
    return disk_faults("intake journal")
