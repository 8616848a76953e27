"""The receiving side whole: receiver, intake journal, replay, over one ledger and one spool."""

from __future__ import annotations

from pathlib import Path

from npc_rtnode.adapters.intake_journal import IntakeJournal
from npc_rtnode.pipeline.receive import Receiver
from npc_rtnode.pipeline.replay import Replayer
from npc_rtnode.ports import DatasetReader, Spool
from tests.builders.ledger import Ledger

SEGMENT = 1 << 20


class Intake(Receiver):
    """A Receiver whose records are in the ledger at once, or with `at_once=False` when `replayer.run()` is called."""

    def __init__(self, ledger: Ledger, folder: Path, spool: Spool, reader: DatasetReader, at_once: bool = True) -> None:
        """The journal lies in `folder`/journal."""
        self.journal = IntakeJournal(folder / "journal", 64 * SEGMENT, SEGMENT)
        self.replayer = Replayer(self.journal, ledger.intake, spool, reader, lambda: ledger.now)
        self.replayer.take_up()
        if at_once:
            self.journal.stirred = self.replayer.run
        super().__init__(spool, self.journal, reader, lambda: ledger.now, self.replayer.entered)
