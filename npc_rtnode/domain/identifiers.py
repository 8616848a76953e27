"""Names that are computed, never drawn: work keys, UIDs, study references (ADR 0003)."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable

from npc_rtnode.domain.records import WorkIdentity

_REFERENCE_ALPHABET = "23456789ABCDEFGHJKMNPQRSTVWXYZ"  # no 0/O, 1/I/L, U: it is read over the telephone


def sha256_hex(data: bytes) -> str:
    """SHA-256 of bytes as 64 hexadecimal characters."""
    return hashlib.sha256(data).hexdigest()


def digest_of(value: object) -> str:
    """SHA-256 of a JSON-able value in one canonical spelling (sorted keys, no spaces)."""
    return sha256_hex(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode())


def input_digest(instances: Iterable[tuple[str, str]]) -> str:
    """Digest of the (SOP Instance UID, SHA-256) pairs of a series revision, whatever order they came in."""
    return digest_of(sorted(instances))


def work_key(work: WorkIdentity) -> str:
    """The key under which exactly one result is ever committed."""
    return digest_of([work.series_uid, work.input_digest, work.bundle_hash, work.settings_hash])


def derived_uid(key: str, what: str) -> str:
    """A UID below 2.25 (PS3.5 B.2) from a key and what it names: the same key always gives the same UID.

    The first 128 bits of SHA-256, with the version and variant bits that ITU-T X.667 wants of a UUID.
    """
    digest = hashlib.sha256(f"{key}/{what}".encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"


def study_reference(study_uid: str, site_key: str) -> str:
    """A short name for a study, safe in logs and URLs: keyed, so that nobody can look the UID up from it.

    Six characters of a 30-letter alphabet (729 million values), shown as `R7Q-4KD`.
    """
    number = int.from_bytes(hashlib.sha256(f"{site_key}/{study_uid}".encode()).digest()[:8])
    letters = []
    for _ in range(6):
        number, index = divmod(number, len(_REFERENCE_ALPHABET))
        letters.append(_REFERENCE_ALPHABET[index])
    return "".join(letters[:3]) + "-" + "".join(letters[3:])
