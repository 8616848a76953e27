"""The spool on a real file system that is really full: ENOSPC in mid-object, several writers at once."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from npc_rtnode.adapters.database.engine import open_engine
from npc_rtnode.adapters.predictions import PredictionFolder
from npc_rtnode.adapters.spool import FileSpool
from npc_rtnode.domain.prediction import Answer, Prediction
from npc_rtnode.domain.records import StoreOutcome
from npc_rtnode.errors import DiskLow, LedgerUnavailable
from tests.builders.ledger import Ledger
from tests.fakes.disk import MEGABYTE, PAGE, SmallDisk
from tests.fakes.pipeline import STATEMENT

_NOISE = np.random.default_rng(1).random((8, 64, 64), dtype=np.float32)
ANSWER = Answer(Prediction(_NOISE, _NOISE > 0.5, (0.1, 0.6, 0.2, 0.1), 0.0), STATEMENT)

NO_ADMISSION = -(1 << 40)
"""A reserve so negative that the look before the first byte never refuses: the disk itself has to."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """Eight megabytes."""
    made = SmallDisk(tmp_path / "disk", 8 * MEGABYTE)
    yield made
    made.close()


def parts(spool: Path) -> list[Path]:
    """Unfinished files."""
    return list(spool.rglob("*.part"))


def content(number: int, size: int = MEGABYTE) -> bytes:
    """Bytes of their own."""
    return number.to_bytes(4, "big") * (size // 4)


def test_full_in_the_middle_of_an_object(disk: SmallDisk) -> None:
    """The write itself fails: DiskLow, no part is left to keep the disk full, and with room the same bytes go in."""
    spool = FileSpool(disk.place, NO_ADMISSION)
    disk.leave(MEGABYTE)
    with pytest.raises(DiskLow, match="ENOSPC"):
        spool.keep([content(1, 3 * MEGABYTE)])
    assert parts(disk.place) == []
    assert disk.free == MEGABYTE
    disk.leave(4 * MEGABYTE)
    sha256 = spool.keep([content(1, 3 * MEGABYTE)])
    assert spool.read(sha256) == content(1, 3 * MEGABYTE)


def test_several_writers_and_too_little_room(disk: SmallDisk) -> None:
    """Each was let in, together they are too many: whoever is told a digest has whole bytes there, the rest DiskLow."""
    spool = FileSpool(disk.place, 0)
    disk.leave(4 * MEGABYTE + PAGE)

    def keep(number: int) -> str | None:
        try:
            return spool.keep([content(number)])
        except DiskLow:
            return None

    with ThreadPoolExecutor(12) as pool:
        kept = list(pool.map(keep, range(12)))
    assert 1 <= sum(sha256 is not None for sha256 in kept) <= 4
    for number, sha256 in enumerate(kept):
        if sha256:
            assert sha256 == hashlib.sha256(content(number)).hexdigest()
            assert spool.read(sha256) == content(number)
    assert parts(disk.place) == []
    disk.leave(12 * MEGABYTE)
    assert all(keep(number) for number in range(12))


def test_not_one_byte_left(disk: SmallDisk) -> None:
    """Refused before the first byte, and what is there can still be read."""
    spool = FileSpool(disk.place, 0)
    sha256 = spool.keep([content(7)])
    disk.leave(0)
    with pytest.raises(DiskLow, match="0 MiB free"):
        spool.keep([b"x"])
    assert spool.keep([content(7)]) == sha256, "what is there already needs no room"
    assert spool.read(sha256) == content(7)


def test_a_prediction_that_finds_no_room(disk: SmallDisk) -> None:
    """DiskLow names the errno, no part is left, and an older answer of the same key stands."""
    folder = PredictionFolder(disk.place)
    disk.leave(0)
    with pytest.raises(DiskLow, match="ENOSPC"):
        folder.save("a" * 64, ANSWER)
    assert parts(disk.place) == []
    disk.leave(MEGABYTE)
    folder.save("a" * 64, ANSWER)
    disk.leave(0)
    with pytest.raises(DiskLow):
        folder.save("a" * 64, ANSWER)
    assert folder.load("a" * 64) is not None
    assert parts(disk.place) == []


def test_a_ledger_that_finds_no_room(disk: SmallDisk, sqlite_template: Path) -> None:
    """SQLITE_FULL is LedgerUnavailable in words; nothing of that transaction is there, and with room it goes in."""
    shutil.copy(sqlite_template, disk.place / "ledger.db")
    ledger = Ledger(open_engine(f"sqlite:///{disk.place / 'ledger.db'}"))
    ledger.receive("1.2.3.0")
    disk.leave(0)
    numbers = iter(range(1, 5000))
    with pytest.raises(LedgerUnavailable, match="SQLITE_FULL: the disk under it is full; make space"):
        all(ledger.receive(f"1.2.3.{number}") for number in numbers)
    refused = next(numbers) - 1
    assert ledger.queries.counts()["instances"] == refused, "numbers 0 to the one before it"
    disk.leave(4 * MEGABYTE)
    assert ledger.receive(f"1.2.3.{refused}") is StoreOutcome.STORED
    assert ledger.queries.chain_is_whole()
    ledger.engine.dispose()
