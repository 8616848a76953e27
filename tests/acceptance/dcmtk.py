"""DCMTK around the node: storescu as scanner, storescp as TPS, dcmqrscp as PACS, and what its readers say of a file."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pydicom.tag import Tag

from tests.acceptance.node import free_port
from tests.acceptance.program import Program
from tests.peers import find_peer

SUCCESS = "Success"
NO_CONTEXT = "refused in negotiation"
NO_CLASS = "left out: no SOP class or instance"
NOT_WHOLE = "left out: not a whole DICOM file"
UNSAID = "nothing was said of it"

SENDING = re.compile(r"I: Sending file: (?P<file>.+)")
ANSWER = re.compile(r"[IWE]: Received Store Response \((?P<status>.+)\)")
REFUSED = re.compile(r"E: No presentation context for: ")
ALL_REFUSED = re.compile(r"[EF]: No Acceptable Presentation Contexts")
WITHOUT_CLASS = re.compile(r"[WE]: (missing SOP class|No SOP Class) .*in file: (?P<file>[^,]+)")
BROKEN = re.compile(r"[WE]: Bad DICOM file: (?P<file>[^:]+): ")
"""storescu's verbose words, line by line; every name of a file is the one that it was given."""

PROFILE = """\
[[TransferSyntaxes]]
[AsItIs]
TransferSyntax1 = {syntax}
[[PresentationContexts]]
[Exactly]
{contexts}
[[Profiles]]
[Exactly]
PresentationContexts = Exactly
"""
"""A storescu configuration that proposes each class in one transfer syntax, so that nothing is converted on the way."""

WORDS = """\
log4cplus.rootLogger = ERROR, console
log4cplus.logger.dcmtk.apps.storescu = INFO
log4cplus.appender.console = log4cplus::ConsoleAppender
log4cplus.appender.console.logToStdErr = true
log4cplus.appender.console.layout = log4cplus::PatternLayout
log4cplus.appender.console.layout.ConversionPattern = %P: %m%n
"""
"""storescu speaks of files and answers; dcmdata would speak of each of the 600 000 zeros at the end of one GE file."""


def program(name: str) -> str:
    """The path of a program that the test's `peer` marker has asked for."""
    found = find_peer(name)
    assert found, f"{name} is not installed: mark the test with peer({name!r})"
    return found


def run(name: str, *args: str | Path, expect: int = 0) -> str:
    """Run one of DCMTK's tools; what it said on both streams."""
    done = subprocess.run([program(name), *map(str, args)], capture_output=True, check=False, timeout=120)
    said = (done.stdout + done.stderr).decode("utf-8", "backslashreplace")
    assert done.returncode == expect, f"{name} ended with {done.returncode}\n{said}"
    return said


# --- the scanner ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """How a file wants to travel: its SOP Class and transfer syntax, empty where its meta group does not say."""

    sop_class: str
    syntax: str


def kind_of(path: Path) -> Kind:
    """What the file's meta group says (PS3.10 7.1)."""
    try:
        meta = dcmread(path, specific_tags=["SOPClassUID"]).file_meta
    except (InvalidDicomError, OSError, AttributeError):
        return Kind("", "")
    sop_class, syntax = meta.get("MediaStorageSOPClassUID", ""), meta.get("TransferSyntaxUID", "")
    return Kind(str(sop_class), str(syntax)) if sop_class and syntax else Kind("", "")


@dataclass(frozen=True)
class Storescu:
    """DCMTK's storescu on its way to one listener."""

    port: int
    work: Path
    calling_ae: str = "PACS"
    called_ae: str = "NPC_RTNODE"

    def send_as_they_are(self, files: Sequence[Path]) -> dict[Path, str]:
        """Every file in its own transfer syntax and no other, one association a syntax; what became of each."""
        outcomes: dict[Path, str] = {}
        for syntax in dict.fromkeys(kind_of(path).syntax for path in files):
            outcomes |= self._send_in(syntax, [path for path in files if kind_of(path).syntax == syntax])
        return outcomes

    def send(self, files: Sequence[Path], *options: str | Path) -> dict[Path, str]:
        """One association with storescu's own proposals, or those of the options."""
        address = ["-aet", self.calling_ae, "-aec", self.called_ae, "127.0.0.1", str(self.port)]
        words = self._written("words.cfg", WORDS)
        command = [program("storescu"), "-lc", words, "-nh", *options, *address, *files]
        done = subprocess.run(list(map(str, command)), capture_output=True, check=False, timeout=300)
        return outcomes_of(done.stderr.decode("utf-8", "replace"), files)

    def send_all(self, files: Sequence[Path], *options: str | Path) -> None:
        """As `send`; each must be answered Success."""
        outcomes = self.send(files, *options)
        assert set(outcomes.values()) == {SUCCESS}, outcomes

    def _send_in(self, syntax: str, files: Sequence[Path]) -> dict[Path, str]:
        if not syntax:
            return self.send(files, "-R")
        return self.send(files, "-xf", self._profile(syntax, {kind_of(path).sop_class for path in files}), "Exactly")

    def _profile(self, syntax: str, classes: Iterable[str]) -> Path:
        contexts = [f"PresentationContext{n} = {uid}\\AsItIs" for n, uid in enumerate(sorted(classes), 1)]
        return self._written("profile.cfg", PROFILE.format(syntax=syntax, contexts="\n".join(contexts)))

    def _written(self, name: str, text: str) -> Path:
        self.work.mkdir(parents=True, exist_ok=True)
        path = self.work / name
        path.write_text(text, "ascii")
        return path


def outcomes_of(said: str, files: Sequence[Path]) -> dict[Path, str]:
    """What storescu's words say of each file."""
    outcomes, current = dict.fromkeys(files, UNSAID), files[0]
    for line in said.splitlines():
        if found := SENDING.match(line):
            current = Path(found["file"])
        elif found := ANSWER.match(line):
            outcomes[current] = found["status"]
        elif REFUSED.match(line):
            outcomes[current] = NO_CONTEXT
        elif found := WITHOUT_CLASS.match(line):
            outcomes[Path(found["file"])] = NO_CLASS
        elif found := BROKEN.match(line):
            outcomes[Path(found["file"])] = NOT_WHOLE
        elif ALL_REFUSED.match(line):
            outcomes |= {path: NO_CONTEXT for path, outcome in outcomes.items() if outcome == UNSAID}
    return outcomes


# --- TPS and PACS -----------------------------------------------------------------------------------------------------


class Storescp(Program):
    """A TPS that writes every object exactly as it was read from the wire."""

    def __init__(self, folder: Path, ae_title: str = "TPS") -> None:
        """On a port that stays the same over `down` and `up`."""
        super().__init__(folder, free_port())
        self.ae_title = ae_title
        self.arrivals = folder / "arrivals"
        self.arrivals.mkdir(exist_ok=True)
        self.options: Sequence[str] = ()

    def command(self) -> Sequence[str]:
        """One process, bit preserving."""
        kept = ["-od", str(self.arrivals), "+B", "-fe", ".dcm"]
        return [program("storescp"), *self.options, "-aet", self.ae_title, "-dhl", *kept, str(self.port)]

    def of_study(self, uid: str) -> list[Path]:
        """The files that arrived of this study."""
        return files_of_study(self.arrivals, uid)


class Dcmqrscp(Program):
    """A PACS that stores, finds and moves; `hosts` are the AE titles that it may send to, with their ports."""

    def __init__(self, folder: Path, ae_title: str = "PACS") -> None:
        """On a port that stays the same over `down` and `up`."""
        super().__init__(folder, free_port())
        self.ae_title = ae_title
        self.hosts: dict[str, int] = {}
        self.store = folder / "store"
        self.store.mkdir(exist_ok=True)

    def command(self) -> Sequence[str]:
        """A child an association (with --single-process 3.6.7 ends after one); the configuration is written anew."""
        config = self.folder / "dcmqrscp.cfg"
        hosts = "\n".join(f"h{n} = ({title}, localhost, {port})" for n, (title, port) in enumerate(self.hosts.items()))
        place = {"port": self.port, "hosts": hosts, "ae_title": self.ae_title, "store": self.store}
        config.write_text(ARCHIVE.format(**place), "ascii")
        return [program("dcmqrscp"), "-dhl", "-c", str(config)]

    def of_study(self, uid: str) -> list[Path]:
        """The files that it keeps of this study."""
        return files_of_study(self.store, uid)

    def find(self, level: str, **keys: str) -> list[str]:
        """C-FIND by findscu: the values of the last key in every answer."""
        asked = [
            word for key, value in {"QueryRetrieveLevel": level, **keys}.items() for word in ("-k", f"{key}={value}")
        ]
        said = run("findscu", "-v", "-S", *asked, "-aec", self.ae_title, "127.0.0.1", str(self.port))
        answers = said.split("Find Response:")[1:]
        tag = dictionary_tag(list(keys)[-1])
        return [found[1].strip() for answer in answers if (found := re.search(rf"\({tag}\) .. \[(.*?)\]", answer))]

    def move(self, study_uid: str, to: str) -> None:
        """C-MOVE of a study by movescu; every sub-operation must succeed."""
        keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study_uid}"]
        said = run("movescu", "-v", "-S", *keys, "-aec", self.ae_title, "-aem", to, "127.0.0.1", str(self.port))
        assert "Received Final Move Response (Success)" in said, said


ARCHIVE = """\
NetworkTCPPort = {port}
MaxPDUSize = 65536
MaxAssociations = 16
HostTable BEGIN
{hosts}
HostTable END
VendorTable BEGIN
VendorTable END
AETable BEGIN
{ae_title} {store} RW (200, 1024mb) ANY
AETable END
"""


def dictionary_tag(keyword: str) -> str:
    """gggg,eeee of a keyword, as DCMTK prints it."""
    tag = Tag(keyword)
    return f"{tag.group:04x},{tag.element:04x}"


def files_of_study(folder: Path, uid: str) -> list[Path]:
    """The DICOM files of one study below a folder; others, an index say, are no concern."""
    kept = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with suppress(InvalidDicomError, OSError):
            if dcmread(path, specific_tags=["StudyInstanceUID"]).get("StudyInstanceUID") == uid:
                kept.append(path)
    return kept


def class_of(path: Path) -> str:
    """The SOP Class that a file's meta group names."""
    return kind_of(path).sop_class
