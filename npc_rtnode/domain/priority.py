"""Who is served first: a priority from 0 to 100 that grows while the work waits, so that nothing waits for ever.

All that waits grows equally fast, so the order of two never changes, and one number that is written once says it:
`rank_at`, when the work was first due, moved forward by its priority. Whatever has the earliest is served first.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

CLINICAL: Final = 80
"""What is received from a scanner."""
REPROCESS: Final = 20
"""What an operator orders anew."""
LEAST, MOST = 0, 100
AGEING_S: Final = 60
"""So many seconds of waiting are worth one point: a job of 0 overtakes new ones of 80 after 80 minutes."""


def rank_at(first_due_at: datetime, priority: int) -> datetime:
    """The moment by which waiting work is ordered, the earliest first."""
    return first_due_at - timedelta(seconds=priority * AGEING_S)
