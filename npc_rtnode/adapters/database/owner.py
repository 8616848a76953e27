"""Whose ledger this is: the first node that serves on a database signs it, and no other node works on it after that.

Two nodes on one PostgreSQL database would take back each other's work at every start, and look for bytes in a spool
that is not theirs. The lock files below `node.home` cannot see another machine; the ledger can (ADR 0011).
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select

from npc_rtnode.adapters.database.engine import Sessions
from npc_rtnode.adapters.database.journal import Note, tell
from npc_rtnode.adapters.database.tables import EventRow
from npc_rtnode.domain.identifiers import digest_of
from npc_rtnode.errors import ConfigFault

_SUBJECT, _SIGNED = "ledger", "SIGNED"
SIGNATURE = select(EventRow.subject_id).where(EventRow.subject == _SUBJECT).order_by(EventRow.seq).limit(1)
"""Who signed first."""


def sign(sessions: Sessions, site_key: str, now: datetime) -> None:
    """Sign a ledger that nobody has signed; ConfigFault where another home's key has signed it."""
    mark = mark_of(site_key)
    with sessions.writing() as session:
        signed = session.scalar(SIGNATURE)
        if signed is None:
            tell(session, _SUBJECT, mark, _SIGNED, Note(now))
        else:
            require_ours(signed, mark)


def require_signed(sessions: Sessions, site_key: str) -> None:
    """ConfigFault where another home's key has signed; a ledger that nobody has signed yet is taken as it is."""
    with sessions.reading() as session:
        if signed := session.scalar(SIGNATURE):
            require_ours(signed, mark_of(site_key))


def mark_of(site_key: str) -> str:
    """What a node signs with; the key cannot be read from it."""
    return digest_of([_SUBJECT, site_key])


def require_ours(signed: str, mark: str) -> None:
    """ConfigFault where another home's key has signed."""
    if signed != mark:
        raise ConfigFault(
            "database.url names the ledger of another node (another node.home, with another site.key): "
            "give this node a database of its own, or put that site.key back"
        )
