"""The fourteen promises of the node (intake.md 2.5), what `fsck` found of each, and the judgements that need no disk.

A promise that could not be looked at says so (`skipped`); it is never counted as kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True)
class Promise:
    """What is always true, and what to do where it is not."""

    code: str
    says: str
    todo: str


PROMISES: Final = (
    Promise(
        "I1",
        "what was acknowledged lies in the spool with its digest, and has its row",
        "have the series sent again; if files are damaged, look at the disk (smartctl, dmesg) first",
    ),
    Promise("I2", "what was acknowledged passes the structural walk", "have the series sent again; report it"),
    Promise(
        "I3",
        "every instance is in one place: assembling, work, set aside, quarantined or removed",
        "stop the node, keep a copy of the ledger, report it",
    ),
    Promise(
        "I4",
        "every selected series has one current job for one bundle and settings",
        "`npc-rtnode reprocess --from select` for that study",
    ),
    Promise(
        "I5",
        "one structure set for one work key at each destination",
        "look at the destination; delete the one that is not the newest there",
    ),
    Promise(
        "I6",
        "a structure set references its own inputs: all of them, of its study and frame of reference",
        "do not use the structure set; `npc-rtnode hold` the study, report it",
    ),
    Promise(
        "I7",
        "SENT means that the destination accepted that very object; nothing else is shown as sent",
        "compare with the destination; then `npc-rtnode resend`",
    ),
    Promise(
        "I8",
        "no lease is older than twice its time",
        "is the worker running? `npc-rtnode doctor`; restart it, it takes work back",
    ),
    Promise("I9", "no work is tried beyond its limit: it is quarantined, with a reason", "`npc-rtnode why`; report it"),
    Promise(
        "I10",
        "every change of state, refusal, delivery and removal is in the event chain, and the chain is whole",
        "keep a copy of the ledger; compare it with a backup: somebody or something has changed rows",
    ),
    Promise(
        "I11",
        "no patient's name or number is in the ledger, in a file name or in a log",
        "report it; restrict who may read the place that is named",
    ),
    Promise(
        "I12",
        "disk, queue, open files and threads are within their bounds, and no litter is left",
        "make space, or restart the role that is named; the janitor clears litter within minutes",
    ),
    Promise(
        "I13",
        "nothing waits for itself: what is due is done within its bound",
        "is the worker running? `npc-rtnode doctor`; `npc-rtnode why` for the study",
    ),
    Promise(
        "I14",
        "every object names the patient and the study of its inputs",
        "do not use the objects; `npc-rtnode hold` the study, report it",
    ),
)
BY_CODE: Final = {promise.code: promise for promise in PROMISES}


@dataclass(frozen=True, slots=True)
class Looked:
    """What came of looking at one promise: how many things, which of them break it, how many could not be looked at."""

    code: str
    checked: int
    breaches: tuple[str, ...] = ()
    skipped: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether no breach was found."""
        return not self.breaches


def looked(code: str, said: Iterable[str], **counts: int) -> Looked:
    """One entry a thing looked at: empty where it is as promised, else the breach in words."""
    found = list(said)
    return Looked(code, len(found), tuple(words for words in found if words), counts=counts)


@dataclass(frozen=True, slots=True)
class ClaimedInstance:
    """One instance as the ledger has it; `there` unless its bytes were removed."""

    instance: int
    series_id: int
    study_uid: str
    series_uid: str
    sop_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    sha256: str
    size: int
    there: bool


@dataclass(frozen=True, slots=True)
class ClaimedObject:
    """One of our own objects as the ledger has it."""

    kind: str
    sop_uid: str
    sha256: str
    there: bool


@dataclass(frozen=True, slots=True)
class ClaimedResult:
    """One job that has objects: what it was made of, and what it made."""

    job_id: int
    study_uid: str
    inputs: tuple[tuple[str, str, bool], ...]  # (SOP Instance UID, SHA-256, whether the bytes are there)
    objects: tuple[ClaimedObject, ...]


@dataclass(frozen=True, slots=True)
class ObjectFacts:
    """What a file says of itself: patient and study, frames of reference, and the instances that it references."""

    identity: Mapping[str, bytes]
    study_uid: str
    frames: frozenset[str]
    references: frozenset[str]


@dataclass(frozen=True, slots=True)
class HouseFacts:
    """What the machine says: each number with the bound that it must keep."""

    numbers: tuple[tuple[str, float, float], ...]  # (what, how many, at most)


def judge_references(job_id: int, facts: ObjectFacts, source: ObjectFacts, inputs: frozenset[str]) -> str:
    """I6 for one structure set: the first thing that is not as promised, or nothing."""
    name = f"job {job_id}: the structure set"
    if foreign := len(facts.references - inputs):
        return f"{name} references {foreign} instances that are no inputs of it"
    if missing := len(inputs - facts.references):
        return f"{name} leaves out {missing} of {len(inputs)} inputs"
    if facts.study_uid != source.study_uid:
        return f"{name} is in another study than its inputs"
    if not facts.frames or not facts.frames <= source.frames:
        return f"{name} is in another frame of reference than its inputs"
    return ""


def judge_identity(job_id: int, kind: str, facts: ObjectFacts, source: ObjectFacts) -> str:
    """I14 for one object: the elements, by keyword, in which it is not its source; no value of any."""
    other = [word for word, value in source.identity.items() if facts.identity.get(word) != value]
    return f"job {job_id}: the {kind} differs from its inputs in {', '.join(other)}" if other else ""


def judge_bounds(facts: HouseFacts) -> Looked:
    """I12: each number against its bound."""
    said = [
        f"{what}: {value:g}, at most {most:g}" if value > most else ""
        for what, value, most in facts.numbers  # one line each, also where all is well
    ]
    return looked("I12", said)


SHORT: Final = 4
"""Bytes: names and numbers of up to so many would be found everywhere; they are not looked for, and are skipped."""


def patterns_of(name: str, number: str) -> list[re.Pattern[str]]:
    """How a patient would be recognised in a text: the whole name as it may be written, and the number as a word."""
    wanted = [text for text in (*_spellings(name), number) if _is_telling(text)]
    return [_pattern(text) for text in dict.fromkeys(wanted)]


def _spellings(name: str) -> list[str]:
    """A Person Name as it stands, and its parts in either order with whatever people put between them."""
    found = [name]
    for group in name.split("="):  # alphabetic, ideographic, phonetic (PS3.5 6.2.1)
        words = [word for word in re.split(r"[\^ ,]+", group) if word]
        turned = (words, words[::-1]) if words[1:] else ()
        found += [group, *(between.join(part) for between in ("^", " ", ", ", "_", "") for part in turned)]
    return found


def _is_telling(text: str) -> bool:
    return len(text.encode()) > SHORT


def _pattern(text: str) -> re.Pattern[str]:
    """As a word of its own; scripts without spaces between words are found anywhere."""
    words = rf"(?<![\w.-]){re.escape(text)}(?![\w-])" if text.isascii() else re.escape(text)
    return re.compile(words, re.IGNORECASE)


def find_patients(texts: Iterable[tuple[str, str]], patients: Sequence[tuple[str, str]]) -> Looked:
    """I11: in which texts, by the place where they stand, some patient is named; never the text or the patient."""
    patterns = [pattern for name, number in patients for pattern in patterns_of(name, number)]
    said = [
        f"a patient is named in {where}" if any(pattern.search(text) for pattern in patterns) else ""
        for where, text in texts
    ]
    short = sum(bool(text) and not _is_telling(text) for patient in patients for text in patient)
    return Looked("I11", len(said), tuple(dict.fromkeys(filter(None, said))), short, {"patients": len(patients)})
