"""Bytes as they came: content-addressed files, durable before anybody is told so (intake.md 2.2).

`root/ab/abcdef…` is the object whose SHA-256 is `abcdef…`; `root/incoming` holds unfinished `.part` files. A name is
made of our own digest or of random bits, never of a text from a peer (pynetdicom #823, CVE-2026-56445).
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import secrets
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol

from npc_rtnode.errors import DiskLow, NotFound, Unreadable
from npc_rtnode.faults import disk_faults

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_NEW_FILE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_INCOMING: Final = "incoming"


class Copyable(Protocol):
    """Bytes in another file."""

    def copy_into(self, handle: int) -> None:
        """Copy all of them to where that descriptor stands."""


class FileSpool:
    """A spool below one folder; every method may be called from several threads and processes at once."""

    def __init__(self, root: Path, reserve_free_bytes: int) -> None:
        """Make the folders (0700) and make them durable; `reserve_free_bytes` is never written into."""
        self._root = root
        self._reserve = reserve_free_bytes
        _make_folders(root)

    def keep(self, data: Sequence[bytes | memoryview]) -> str:
        """Write, fsync, rename, fsync the directory; returns the SHA-256 of the joined parts.

        Bytes that are here already, whole, are not written again. Raises DiskLow before the first byte when less than
        the reserve would stay free, and DiskLow when the disk itself fails (ENOSPC, EDQUOT, EIO, EROFS): a failed fsync
        is never tried again on the same file, the part is removed and the sender sends anew.
        """
        sha256 = _digest(data)
        with disk_faults("spool"):
            if _holds(self.path(sha256), sha256):
                _sync_folder(self.path(sha256).parent)  # another thread may have only just renamed it
                return sha256
            self.admit(sum(map(len, data)))
        return self._written(data)

    def begin(self) -> Part:
        """An object of which not all is there yet; DiskLow when already its first byte would go into the reserve."""
        with disk_faults("spool"):
            self.admit(1)
            return Part(self, self._root / _INCOMING / f"{secrets.token_hex(16)}.part")

    def lay(self, content: Copyable, sha256: str, anew: bool = False) -> None:
        """Put content that is durable elsewhere in its place here, whole but not durable before `settle`; DiskLow.

        With `anew` it takes the place of a file that is there, whatever can be read of that.
        """
        with disk_faults("spool"):
            if anew or not _holds(self.path(sha256), sha256):
                self._copy(content, sha256)

    def _copy(self, content: Copyable, sha256: str) -> None:
        part = self._root / _INCOMING / f"{secrets.token_hex(16)}.part"
        handle = os.open(part, _NEW_FILE, 0o600)
        try:
            content.copy_into(handle)
            part.rename(self.path(sha256))
        finally:
            os.close(handle)
            with suppress(OSError):
                part.unlink()

    def settle(self, names: Collection[str]) -> None:
        """Make durable what was laid there, where it still is; DiskLow when the disk fails."""
        with disk_faults("spool"):
            for name in names:
                with suppress(FileNotFoundError):
                    _sync(self.path(name), os.O_RDONLY)
            for folder in {self.path(name).parent for name in names}:
                _sync_folder(folder)

    def path(self, sha256: str) -> Path:
        """Where those bytes lie, or would lie; NotFound for anything but 64 lower-case hexadecimal digits."""
        if not _DIGEST.fullmatch(sha256):
            raise NotFound(f"{sha256[:80]!r} is not a SHA-256.")
        return self._root / sha256[:2] / sha256

    def read(self, sha256: str) -> bytes:
        """The bytes, their digest checked; NotFound when they are not here, Unreadable when they have changed."""
        try:
            data = self.path(sha256).read_bytes()
        except FileNotFoundError:
            raise NotFound(f"The spool does not hold {sha256}.") from None
        if _digest([data]) != sha256:
            raise Unreadable(f"Spool object {sha256} no longer has that digest.")
        return data

    def names(self) -> Iterator[str]:
        """The digests of all objects that lie here, in no order; what is not named by a digest is left out."""
        for number in range(256):
            yield from filter(_DIGEST.fullmatch, os.listdir(self._root / f"{number:02x}"))

    def remove(self, sha256: str) -> bool:
        """Take an object away; whether it was there."""
        try:
            self.path(sha256).unlink()
        except FileNotFoundError:
            return False
        return True

    def free_bytes(self) -> int:
        """What this process may still write on the spool's file system."""
        room = os.statvfs(self._root)
        return room.f_bavail * room.f_frsize

    def sweep_parts(self, older_than_s: float, now: datetime) -> int:
        """Remove unfinished parts last written more than `older_than_s` ago (a crash left them); returns how many."""
        oldest = now.timestamp() - older_than_s
        return sum(_remove_if_older(part, oldest) for part in (self._root / _INCOMING).glob("*.part"))

    def admit(self, size: int) -> None:
        """DiskLow when `size` bytes more would go into the reserve."""
        free = self.free_bytes()
        if free - size < self._reserve:
            raise DiskLow(f"{free >> 20} MiB free, {self._reserve >> 20} MiB are kept in reserve.")

    def _written(self, data: Sequence[bytes | memoryview]) -> str:
        part = self.begin()
        try:
            for piece in data:
                part.write(piece)
            return part.keep()
        finally:
            part.discard()


class Part:
    """An object on its way into the spool, in a file of its own: nothing of it counts before `keep`.

    Fulfils ports.Part, for one thread at a time. Whoever begins one ends it by `discard`: until then what was written
    can be read, even if retention has removed the file that it became.
    """

    def __init__(self, spool: FileSpool, path: Path) -> None:
        """Make the file, for its owner alone."""
        self._spool = spool
        self._path = path
        self._digest = hashlib.sha256()
        self._stream = open(os.open(path, _NEW_FILE, 0o600), "wb", buffering=0)  # noqa: SIM115  (closed by its end)
        self.size = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append, digest on the way; DiskLow when it would go into the reserve, or when the disk fails."""
        with disk_faults("spool"):
            self._spool.admit(len(data))
            view = memoryview(data)
            while view:
                view = view[self._stream.write(view) :]
        self._digest.update(data)
        self.size += len(data)

    @contextmanager
    def reading(self, skip: int = 0) -> Iterator[memoryview]:
        """What was written, from byte `skip` on, mapped and not loaded; the view is gone after the `with`."""
        with (
            mmap.mmap(self._stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            memoryview(mapped) as whole,
            whole[skip:] as view,
        ):
            yield view

    def keep(self) -> str:
        """fsync, rename, fsync the directory; the SHA-256 of all that was written.

        Bytes that are here already, whole, stay as they are. A failed fsync is never tried again: DiskLow.
        """
        sha256 = self._digest.hexdigest()
        final = self._spool.path(sha256)
        try:
            with disk_faults("spool"):
                if not _holds(final, sha256):
                    os.fsync(self._stream.fileno())
                    self._path.rename(final)
                _sync_folder(final.parent)  # also for a copy that another thread has only just renamed
        finally:
            self._unlink()
        return sha256

    def discard(self) -> None:
        """Close it; the file goes, where it was not kept and has not gone before."""
        self._stream.close()
        self._unlink()

    def _unlink(self) -> None:
        with suppress(OSError):
            self._path.unlink()


def _digest(data: Sequence[bytes | memoryview]) -> str:
    digest = hashlib.sha256()
    for piece in data:
        digest.update(piece)
    return digest.hexdigest()


def _holds(final: Path, sha256: str) -> bool:
    """Whether the object is there with that digest; a torn or rotten one counts as absent and is replaced."""
    try:
        with final.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == sha256
    except FileNotFoundError:
        return False


def _make_folders(root: Path) -> None:
    """All folders at once: afterwards no `keep` has to make a parent durable."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in (_INCOMING, *(f"{number:02x}" for number in range(256))):
        (root / name).mkdir(mode=0o700, exist_ok=True)
    _sync_folder(root)
    _sync_folder(root.parent)


def _sync_folder(folder: Path) -> None:
    _sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, how: int) -> None:
    handle = os.open(path, how | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove_if_older(part: Path, oldest: float) -> bool:
    try:
        if part.stat().st_mtime >= oldest:
            return False
        part.unlink()
    except FileNotFoundError:  # its writer finished it, or another janitor was here
        return False
    return True
