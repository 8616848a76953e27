"""The spool keeps what it said it keeps: whole, once, under a name of its own, or it says DiskLow."""

from __future__ import annotations

import errno
import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

import pytest

from npc_rtnode.adapters.spool import FileSpool
from npc_rtnode.domain.identifiers import sha256_hex
from npc_rtnode.errors import DiskLow, NotFound, Unreadable

PARTS = (b"preamble and meta", b"data set" * 1000)


@pytest.fixture
def spool(tmp_path: Path) -> FileSpool:
    """A spool with no reserve."""
    return FileSpool(tmp_path / "spool", reserve_free_bytes=0)


def parts_left(spool: FileSpool) -> list[Path]:
    return list((spool.path("0" * 64).parent.parent / "incoming").iterdir())


def failing(number: int) -> Any:
    """Stands in for a system call that answers with this errno."""

    def call(*_: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return call


def test_joined_parts_are_kept_under_their_digest(spool: FileSpool) -> None:
    """keep returns the SHA-256 of the joined parts, and path and read find them there."""
    sha256 = spool.keep(PARTS)
    assert sha256 == sha256_hex(b"".join(PARTS))
    assert spool.path(sha256).read_bytes() == spool.read(sha256) == b"".join(PARTS)
    assert spool.path(sha256).parent.name == sha256[:2]
    assert parts_left(spool) == []


def test_only_the_owner_may_look(spool: FileSpool) -> None:
    """Files are 0600 and folders 0700."""
    path = spool.path(spool.keep(PARTS))
    modes = [stat.S_IMODE(place.stat().st_mode) for place in (path, path.parent, path.parent.parent)]
    assert modes == [0o600, 0o700, 0o700]


def test_the_same_bytes_again_are_not_written_again(spool: FileSpool) -> None:
    """A second keep of the same bytes finds the first file, untouched."""
    before = spool.path(spool.keep(PARTS)).stat()
    after = spool.path(spool.keep([b"".join(PARTS)])).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_a_torn_file_under_the_digest_is_replaced(spool: FileSpool) -> None:
    """Bytes that do not have the digest of their name do not count as kept."""
    sha256 = spool.keep(PARTS)
    spool.path(sha256).write_bytes(b"torn")
    assert spool.keep(PARTS) == sha256
    assert spool.read(sha256) == b"".join(PARTS)


def test_changed_bytes_are_not_handed_out(spool: FileSpool) -> None:
    """read refuses bytes whose digest has changed."""
    sha256 = spool.keep(PARTS)
    spool.path(sha256).write_bytes(b"".join(PARTS)[:-1] + b"?")
    with pytest.raises(Unreadable):
        spool.read(sha256)


def test_unknown_digest(spool: FileSpool) -> None:
    """Bytes that were never kept are not found."""
    with pytest.raises(NotFound):
        spool.read("0" * 64)


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_nothing_but_a_digest_becomes_a_path(spool: FileSpool, name: str) -> None:
    """A name that is not 64 lower-case hexadecimal digits never reaches the file system."""
    with pytest.raises(NotFound):
        spool.path(name)


def test_reserve_is_never_written_into(tmp_path: Path) -> None:
    """With less free space than the reserve, DiskLow comes before the first byte."""
    spool = FileSpool(tmp_path, reserve_free_bytes=1 << 60)
    with pytest.raises(DiskLow):
        spool.keep(PARTS)
    assert parts_left(spool) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("call", ["fsync", "open"])
def test_a_failing_disk_is_disk_low(spool: FileSpool, monkeypatch: pytest.MonkeyPatch, number: int, call: str) -> None:
    """ENOSPC, EDQUOT and EIO become DiskLow and leave no part behind."""
    monkeypatch.setattr(os, call, failing(number))
    with pytest.raises(DiskLow):
        spool.keep(PARTS)
    monkeypatch.undo()
    assert parts_left(spool) == []


def test_other_faults_stay_what_they_are(spool: FileSpool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many open files is no lack of disk: the OSError goes on, and nothing is left behind."""
    monkeypatch.setattr(os, "fsync", failing(errno.EMFILE))
    with pytest.raises(OSError, match="Too many open files"):
        spool.keep(PARTS)
    monkeypatch.undo()
    assert parts_left(spool) == []


def test_file_then_rename_then_folder(spool: FileSpool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is synced before it gets its name, and the folder after (intake.md 2.3, the order oracle)."""
    order: list[str] = []
    fsync, rename = os.fsync, os.rename

    def seen_fsync(handle: int) -> None:
        order.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def seen_rename(source: Any, target: Any) -> None:
        order.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(os, "rename", seen_rename)
    spool.keep(PARTS)
    assert order == ["file", "rename", "folder"]


def test_a_part_becomes_an_object_as_it_is_kept(spool: FileSpool) -> None:
    """Written in pieces, readable on the way, it ends under the digest of them all, and no part is left."""
    part = spool.begin()
    for piece in PARTS:
        part.write(piece)
    with part.reading(len(PARTS[0])) as view:
        assert view == PARTS[1]
    assert [path.suffix for path in parts_left(spool)] == [".part"]
    assert part.size == sum(map(len, PARTS))
    assert part.keep() == sha256_hex(b"".join(PARTS))
    part.discard()
    assert spool.read(sha256_hex(b"".join(PARTS))) == b"".join(PARTS)
    assert parts_left(spool) == []


def test_a_part_of_bytes_that_are_here_goes(spool: FileSpool) -> None:
    """The first file stays untouched, and the part leaves nothing."""
    before = spool.path(spool.keep(PARTS)).stat()
    part = spool.begin()
    part.write(b"".join(PARTS))
    assert spool.path(part.keep()).stat().st_ino == before.st_ino
    assert parts_left(spool) == []
    part.discard()


@pytest.mark.parametrize("here_before", [False, True])
def test_what_was_kept_can_be_read_until_it_is_let_go(spool: FileSpool, here_before: bool) -> None:
    """Also when the file that it became is gone by now, and when it was never renamed since the spool had it."""
    if here_before:
        spool.keep(PARTS)
    part = spool.begin()
    part.write(b"".join(PARTS))
    spool.path(part.keep()).unlink()
    with part.reading() as whole:
        assert spool.read(spool.keep([whole])) == b"".join(PARTS)
    part.discard()
    assert parts_left(spool) == []


def test_a_discarded_part_leaves_nothing(spool: FileSpool) -> None:
    """Neither file nor descriptor, however often it is said, and what it read is gone with it."""
    descriptors = len(os.listdir("/proc/self/fd"))
    part = spool.begin()
    part.write(PARTS[1])
    with pytest.raises(Unreadable), part.reading():
        raise Unreadable
    part.discard()
    part.discard()
    assert parts_left(spool) == []
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_a_part_never_writes_into_the_reserve(tmp_path: Path) -> None:
    """The look at the free space comes before each piece, not only before the first."""
    spool = FileSpool(tmp_path, reserve_free_bytes=0)
    part = spool.begin()
    part.write(b"first")
    spool._reserve = 1 << 60
    with pytest.raises(DiskLow):
        part.write(b"second")
    part.discard()
    assert parts_left(spool) == []


def test_the_janitor_removes_old_parts_only(spool: FileSpool) -> None:
    """A part left by a crash goes after its time; one being written and finished objects stay."""
    sha256 = spool.keep(PARTS)
    incoming = spool.path(sha256).parent.parent / "incoming"
    now = datetime.now(UTC)
    for name, age_s in (("old.part", 7200.0), ("new.part", 60.0)):
        (incoming / name).write_bytes(b"half")
        when = (now - timedelta(seconds=age_s)).timestamp()
        os.utime(incoming / name, (when, when))
    assert spool.sweep_parts(older_than_s=3600, now=now) == 1
    assert [part.name for part in parts_left(spool)] == ["new.part"]
    assert spool.read(sha256)


def test_what_is_removed_is_gone_and_can_be_kept_again(spool: FileSpool) -> None:
    """names tells what lies there, remove whether it was there; other files in the folders are no objects."""
    sha256 = spool.keep(PARTS)
    (spool.path(sha256).parent / "note.txt").write_text("not an object", "ascii")
    assert list(spool.names()) == [sha256]
    assert (spool.remove(sha256), spool.remove(sha256)) == (True, False)
    assert list(spool.names()) == []
    assert spool.keep(PARTS) == sha256
    with pytest.raises(NotFound):
        spool.remove("../escaped")
