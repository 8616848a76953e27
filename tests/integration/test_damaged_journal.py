"""Damage in the middle of the intake journal, on a whole receiver: what is around it arrives, and it is shown."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from npc_rtnode.adapters.intake_journal import JournalReader
from npc_rtnode.cli import app
from npc_rtnode.cli.checks import examine
from npc_rtnode.domain.identifiers import derived_uid
from npc_rtnode.settings import load_settings
from tests.builders import pdu
from tests.builders.mr_series import SeriesSpec, slice_dataset
from tests.builders.pdu import encoded
from tests.fakes.raw_peer import ACCEPTED, RawPeer
from tests.fakes.receiver import Receiver

PAGE = 4096


def slices(count: int) -> list[tuple[bytes, str]]:
    """Small slices, each encoded and with its SOP Instance UID."""
    made = []
    for at in range(count):
        ds = slice_dataset(SeriesSpec(rows=8, columns=8, slices=count), at)
        ds.SOPInstanceUID = derived_uid(str(at), "damaged journal")
        made.append((encoded(ds), str(ds.SOPInstanceUID)))
    return made


def send(node: Receiver, sent: list[tuple[bytes, str]]) -> list[int | None]:
    """The status of each, in one association."""
    with RawPeer(node.port) as peer:
        assert peer.associate() == ACCEPTED
        return [peer.answer(pdu.store(data, uid)) for data, uid in sent]


@contextlib.contextmanager
def ledger_held(home: Path) -> Iterator[None]:
    """Another writes the ledger all that time: what is acknowledged stays in the journal."""
    with contextlib.closing(sqlite3.connect(home / "ledger.db")) as ledger:
        ledger.execute("BEGIN IMMEDIATE")
        yield
        ledger.rollback()


def spoil(journal: Path, uid: str) -> None:
    """Turn over bits in the record that names this instance, as a disk may."""
    (segment,) = journal.glob("*.seg")
    data = segment.read_bytes()
    at = data.index(uid.encode()) // PAGE * PAGE + 100
    with segment.open("r+b") as stream:
        stream.seek(at)
        stream.write(bytes(byte ^ 0xFF for byte in data[at : at + 16]))


def fsck(config: Path) -> tuple[int, list[dict[str, Any]]]:
    """Its exit code, and the promises that are broken."""
    done = CliRunner().invoke(app, ["fsck", "--json", "--config", str(config)])
    return done.exit_code, [one for one in json.loads(done.stdout)["promises"] if one["broken"]]


def doctor(config: Path) -> str:
    """What it says of the journal."""
    found = examine(load_settings(config, {}), golden=False)
    return next(check.outcome for check in found if check.name == "intake journal")


def test_a_damaged_record_costs_itself_alone_and_is_shown(tmp_path: Path) -> None:
    """Five slices wait in the journal, the receiver is killed, the third's record rots: after the next start the other
    four are in ledger and spool, the third is set aside with its bytes and said by fsck and doctor until a person has
    removed it; sent again, it is taken as any other."""
    sent = slices(5)
    data, lost = sent[2]
    with Receiver(tmp_path) as node:
        journal = node.home / "spool" / "journal"
        with ledger_held(node.home):
            assert send(node, sent) == [0] * 5
            node.process.kill()
            node.process.wait(30)
        spoil(journal, lost)
        node._start()
        assert sorted(node.rows()) == sorted(uid for _, uid in sent if uid != lost)
        assert [len(node.kept(uid)) for _, uid in sent] == [1, 1, 0, 1, 1]
        (aside,) = JournalReader(journal).damaged()
        assert data in (journal / aside).read_bytes()
        assert node.said().count("a record of the intake journal cannot be read; set aside") == 1
        code, (broken,) = fsck(node._config)
        assert (code, broken["code"]) == (1, "I12")
        assert broken["breaches"] == ["stretches of the intake journal that could not be read: 1, at most 0"]
        assert doctor(node._config) == "fault"
        assert send(node, sent[2:3]) == [0]
        assert len(node.kept(lost)) == 1
        (journal / aside).unlink()
        assert fsck(node._config) == (0, [])
        assert node.terminate()[0] == 0
