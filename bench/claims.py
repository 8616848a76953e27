"""What it costs to claim a job from a ledger that has a long life behind it: seconds a claim, by rows of finished work.

The past is written by the database itself, row by row of a shape that the node writes: a study with one series and one
delivered job each. Then a few jobs are queued, and claimed one after the other by the node's own code.
"""

from __future__ import annotations

import statistics
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from sqlalchemy import text

from npc_rtnode.adapters.database import schema
from npc_rtnode.adapters.database.engine import Sessions, open_engine
from npc_rtnode.adapters.database.work import WorkLedger
from npc_rtnode.domain.lifecycle import JobState

CLAIMS: Final = 60
_AT: Final = "2026-01-01 00:00:00.000000"
_ASSOCIATION: Final = """
INSERT INTO associations (id, calling_ae, called_ae, peer_ip, opened_at, refused)
VALUES ('past', 'PACS', 'NPC_RTNODE', '127.0.0.1', :at, '[]')"""
_PAST: Final = (
    """
INSERT INTO studies (id, study_uid, reference, first_received_at)
WITH RECURSIVE n(i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i < :last)
SELECT i, '2.25.' || i, 'S' || i, :at FROM n""",
    """
INSERT INTO series (id, study_id, series_uid, revision, modality, called_ae, state, reasons, waived, troubles,
 last_association_id, first_received_at, last_received_at, asked)
WITH RECURSIVE n(i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i < :last)
SELECT i, i, '2.25.9' || i, 1, 'MR', 'NPC_RTNODE', 'SELECTED', '[]', '[]', 0, 'past', :at, :at, '[]' FROM n""",
    """
INSERT INTO jobs (id, series_id, work_key, result_revision, input_digest, bundle_hash, bundle_name, settings_hash,
 indication, state, reasons, releasable, content_at, results, created_at, due_at, first_due_at, attempts, crashes)
WITH RECURSIVE n(i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i < :last)
SELECT i, i, printf('%064d', i), 1, 'd', 'b', 'bench', 's', 'npc', :state, '[]', 1, :at, '{}', :at, :at, :at, 1, 0
FROM n""",
)


def seconds_a_claim(folder: Path, rows: int) -> float:
    """Median of `CLAIMS` claims in a new ledger with so many finished jobs."""
    engine = open_engine(f"sqlite:///{folder / f'{rows}-{time.monotonic_ns()}.db'}")
    schema.upgrade(engine)
    sessions = Sessions(engine)
    with sessions.writing() as session:
        session.execute(text(_ASSOCIATION), {"at": _AT})
        for first, last, state in ((1, rows, "DELIVERED"), (rows + 1, rows + CLAIMS, "QUEUED")):
            known = {"first": first, "last": last, "state": state, "at": _AT}
            for statement in _PAST:
                session.execute(text(statement), {k: v for k, v in known.items() if f":{k}" in statement})
    pages, seconds = WorkLedger(sessions), []
    for _ in range(CLAIMS):
        begun = time.perf_counter()
        job = pages.claim_job(JobState.QUEUED, "infer", datetime.now(UTC), 60)
        seconds.append(time.perf_counter() - begun)
        if job is None:
            raise SystemExit("a queued job could not be claimed")
    engine.dispose()
    return statistics.median(seconds)
