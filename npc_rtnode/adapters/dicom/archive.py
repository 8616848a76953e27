"""A PACS as we call it: how many instances it has of a series, which series have an accession number, and "send them".

Study Root Query/Retrieve (PS3.4 C). Each call runs in a child process with a wall clock, as sending does. What comes of
a C-MOVE comes through our own listener, like everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydicom import uid
from pydicom.dataset import Dataset
from pynetdicom.presentation import build_context

from npc_rtnode.adapters.dicom.calling import Call, associate, call_to, in_a_child, one_answer, pause_reactor
from npc_rtnode.errors import NotFound, ObjectRefused, PeerBusy, PeerError
from npc_rtnode.settings import Archive, TlsSettings

FIND: Final = uid.UID("1.2.840.10008.5.1.4.1.2.2.1")  # Study Root Query/Retrieve Information Model - FIND
MOVE: Final = uid.UID("1.2.840.10008.5.1.4.1.2.2.2")  # … - MOVE
_PENDING: Final = (0xFF00, 0xFF01)
_UNKNOWN_DESTINATION: Final = 0xA801
_MATCHES: Final = 10_000
"""More answers than this to one question are no answer to it."""

Keys = dict[str, str]


@dataclass(frozen=True)
class Found:
    """One series as the archive tells of it; `instances` is None where it does not say."""

    study_uid: str
    series_uid: str
    instances: int | None


@dataclass(frozen=True)
class Moved:
    """What a C-MOVE came to: how many sub-operations went well, with a warning, or not at all."""

    completed: int
    warnings: int
    failed: int


class Archives:
    """Fulfils ports.Sources."""

    def __init__(self, archives: Sequence[Archive], tls: TlsSettings) -> None:
        """`tls` has the certificates for archives that are called by TLS."""
        self._by_sender = {sender: archive for archive in archives for sender in archive.answers_for}
        self._tls = tls

    def answers_for(self, calling_ae: str) -> bool:
        """Whether one of them holds what this AE title sends."""
        return calling_ae in self._by_sender

    def name(self, calling_ae: str) -> str:
        """Its name in the settings."""
        return self._by_sender[calling_ae].name

    def count(self, calling_ae: str, study_uid: str, series_uid: str) -> int | None:
        """NumberOfSeriesRelatedInstances; 0 for a series that it does not know, None where it does not say."""
        found = series_of(self._by_sender[calling_ae], self._tls, study_uid, series_uid)
        if not found:
            return 0
        return found[0].instances if len(found) == 1 else None


def series_of(
    archive: Archive, tls: TlsSettings, study_uid: str, series_uid: str = "", modality: str = ""
) -> list[Found]:
    """The series of a study; raises PeerError."""
    keys = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": series_uid, "Modality": modality}
    rows = _ask(archive, tls, {"QueryRetrieveLevel": "SERIES", **keys, "NumberOfSeriesRelatedInstances": ""})
    asked = {"SeriesInstanceUID": series_uid, "Modality": modality}
    wanted = [row for row in rows if all(row[key] == value for key, value in asked.items() if value)]
    return [
        Found(study_uid, row["SeriesInstanceUID"], _number(row["NumberOfSeriesRelatedInstances"])) for row in wanted
    ]


def studies_of(archive: Archive, tls: TlsSettings, accession: str) -> list[str]:
    """The Study Instance UIDs that have this accession number; raises PeerError, and NotFound where there is none."""
    rows = _ask(archive, tls, {"QueryRetrieveLevel": "STUDY", "AccessionNumber": accession, "StudyInstanceUID": ""})
    found = [row["StudyInstanceUID"] for row in rows if row["AccessionNumber"] == accession and row["StudyInstanceUID"]]
    if not found:
        raise NotFound(f"{archive.name} has no study with this accession number")
    return found


def pull(archive: Archive, tls: TlsSettings, series: Found, to_ae: str) -> Moved:
    """Have the archive send one series to this AE title of ours; raises PeerError when it does not."""
    keys = {
        "QueryRetrieveLevel": "SERIES",
        "StudyInstanceUID": series.study_uid,
        "SeriesInstanceUID": series.series_uid,
    }
    answers = list(in_a_child(_move, (call_to(archive, tls), keys, to_ae), archive.wall_clock_s))
    if not answers:
        raise PeerError(f"{archive.name} did not say what came of it.")
    status = answers[-1][0]
    if status == _UNKNOWN_DESTINATION:
        raise ObjectRefused(f"{archive.name} does not know the AE title {to_ae} as a place to send to (A801).")
    if status not in (0x0000, 0xB000):
        refusal = PeerBusy if 0xA700 <= status <= 0xA7FF else ObjectRefused
        raise refusal(f"{archive.name} answered C-MOVE with status {status:04X}.")
    return Moved(*map(max, zip(*(counts for _, counts in answers), strict=True)))  # the last answer may leave them out


def _ask(archive: Archive, tls: TlsSettings, keys: Keys) -> list[Keys]:
    found: list[Keys] = one_answer(_find, (call_to(archive, tls), keys), archive.wall_clock_s)
    return found


def _number(text: str) -> int | None:
    return int(text) if text.isdigit() else None


# --- there: in the child ----------------------------------------------------------------------------------------------


def _find(say: Callable[[Any], None], call: Call, keys: Keys) -> None:
    assoc = associate(call, [build_context(FIND)])
    pause_reactor(assoc)
    rows = [
        {key: str(match.get(key) or "") for key in keys} for match in _matches(assoc.send_c_find(_query(keys), FIND))
    ]
    say(rows)
    assoc.release()


def _matches(answers: Iterator[tuple[Dataset, Dataset | None]]) -> Iterator[Dataset]:
    """The identifiers of pending answers; anything but Success at the end is an error."""
    for number, (status, identifier) in enumerate(answers):
        code = status.get("Status")
        if code in _PENDING and identifier is not None and number < _MATCHES:
            yield identifier
        elif code == 0x0000:
            return
        else:
            raise PeerError("It ended the query without an answer." if code is None else f"Status {code:04X}.")
    raise PeerError("It ended the query without an answer.")


def _move(say: Callable[[Any], None], call: Call, keys: Keys, to_ae: str) -> None:
    """Each answer of the archive is a sign of life; the last one says what came of it."""
    assoc = associate(call, [build_context(MOVE)])
    pause_reactor(assoc)
    for status, _ in assoc.send_c_move(_query(keys), to_ae, MOVE):
        if "Status" not in status:
            raise PeerError("It ended the retrieval without an answer.")
        say((int(status.Status), _counts(status)))
    assoc.release()


def _counts(status: Dataset) -> tuple[int, int, int]:
    kinds = ("Completed", "Warning", "Failed")
    counted = [int(status.get(f"NumberOf{kind}Suboperations") or 0) for kind in kinds]
    return counted[0], counted[1], counted[2]


def _query(keys: Keys) -> Dataset:
    query = Dataset()
    for key, value in keys.items():
        setattr(query, key, value or None)
    return query
