"""Every setting of the node, typed, with its unit in the name and its reason beside it.

One TOML file; `NPC_RTNODE_<SECTION>__<KEY>` in the environment overrides one value. An unknown key is an error. The
reference of all settings is deploy/example.toml, generated from this schema (`npc-rtnode config example`).
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import tomllib
from collections.abc import Collection
from datetime import time, timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from npc_rtnode.domain.clauses import REGEX_FLAGS
from npc_rtnode.domain.identifiers import digest_of
from npc_rtnode.domain.priority import CLINICAL, LEAST, MOST
from npc_rtnode.domain.profiles import PROFILES, Encoding, ObjectOrder, ProfileName, orders_for, segmented
from npc_rtnode.domain.records import ObjectKind
from npc_rtnode.domain.windows import OffPeak, Window
from npc_rtnode.errors import ConfigFault

CONTENT_VERSION: Final = 3
"""Part of every work key: raise it with every change of code that changes an object's content (ADR 0003)."""

_PLAIN_TEXT = re.compile(r"[\x21-\x5b\x5d-\x7e]+( [\x21-\x5b\x5d-\x7e]+)*")
_AE_TITLE = re.compile(r"[\x20-\x5b\x5d-\x7e]{1,16}")  # PS3.5 6.2: AE, no backslash, no control characters

_CERTIFICATE = re.compile(r"sha256:[0-9a-fA-F]{64}|dns:[A-Za-z0-9._*-]{1,253}|ip:[0-9a-fA-F.:]{2,45}")


def _ae_title(text: str) -> str:
    if not _AE_TITLE.fullmatch(text) or text != text.strip() or not text:
        raise ValueError("an AE title has 1 to 16 printable characters, no backslash, no space at either end")
    return text


def _network(text: str) -> str:
    return str(ipaddress.ip_network(text, strict=True))


def _plain_text(text: str) -> str:
    if not _PLAIN_TEXT.fullmatch(text):
        raise ValueError("printable ASCII only, no backslash, no space at either end and no two in a row")
    return text


def _host(text: str) -> str:
    if not text or re.search(r"\s", text):
        raise ValueError("a host is a name or an address, and has no spaces")
    return text


def _certificate(text: str) -> str:
    if not _CERTIFICATE.fullmatch(text):
        raise ValueError("a certificate is named by sha256:64 hexadecimal digits, dns:NAME or ip:ADDRESS")
    return text.lower()


def _pattern(text: str) -> str:
    try:
        pattern = re.compile(text, REGEX_FLAGS)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{text!r} is not a regular expression: {error}") from None
    if pattern.search(""):
        raise ValueError(f"{text!r} is found in every text, so it states nothing")
    return text


AETitle = Annotated[str, AfterValidator(_ae_title)]
Network = Annotated[str, AfterValidator(_network)]
Host = Annotated[str, AfterValidator(_host)]
Certificate = Annotated[str, AfterValidator(_certificate)]
PlainText = Annotated[str, AfterValidator(_plain_text)]
Pattern = Annotated[str, AfterValidator(_pattern)]
Resource = Annotated[str, Field(pattern=r"^(gpu|cpu|send:[a-z0-9][a-z0-9_-]{0,31})$")]
Port = Annotated[int, Field(ge=0, le=65535)]
OtherPort = Annotated[int, Field(ge=1, le=65535)]
Byte = Annotated[int, Field(ge=0, le=255)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Pause = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Times = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)]
DaysKept = Annotated[float, Field(ge=0, le=36500, allow_inf_nan=False)]
_MOST_IS: Final = 2**31 - 1  # Integer String, PS3.5 6.2


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class NodeSettings(_Section):
    """Where the node lives."""

    home: Path = Field(
        Path("/var/lib/npc-rtnode"), description="Spool, work and (with SQLite) the ledger live below it."
    )
    site: str = Field("unnamed site", max_length=64, description="Shown in reports and alarms.")
    utc_offset: str = Field(
        "+0000", pattern=r"^[+-](0\d|1[0-4])[0-5]\d$", description="TimezoneOffsetFromUTC written into every object."
    )


class DatabaseSettings(_Section):
    """The ledger."""

    url: str = Field(
        "",
        description=(
            "Empty means SQLite below home. PostgreSQL: postgresql+psycopg://npc_rtnode@db.example/npc_rtnode, the "
            "password in ~/.pgpass, or after the user as :PASSWORD with @ : / % as %40 %3A %2F %25. "
            "One database, one node."
        ),
    )


class CalledAE(_Section):
    """One AE title that this node answers to."""

    ae_title: AETitle = Field(description="What the sender calls.")
    indication: Literal["npc", "unknown"] = Field(
        "unknown", description="npc: everything routed to this title is meant for nasopharyngeal carcinoma."
    )
    priority: int = Field(
        CLINICAL,
        ge=LEAST,
        le=MOST,
        description="How urgent what comes here is, 0 to 100; it grows by one for every minute of waiting.",
    )


class Peer(_Section):
    """One system that may send to us: an AE title and the addresses it may call from."""

    ae_title: AETitle = Field(description="The calling AE title, case-sensitive.")
    networks: tuple[Network, ...] = Field(min_length=1, description="CIDR networks, e.g. 10.1.2.3/32.")
    certificates: tuple[Certificate, ...] = Field(
        (),
        description="With [tls]: the certificates that speak for this AE title, each as sha256:FINGERPRINT, or by a "
        "subjectAltName as dns:NAME or ip:ADDRESS.",
    )
    plaintext: bool = Field(False, description="With [tls]: it may call listener.plaintext_port, without TLS.")
    roles: tuple[Literal["store", "commit"], ...] = Field(
        ("store",), min_length=1, description="store: it may send. commit: it may ask for storage commitment."
    )


class ListenerSettings(_Section):
    """The Storage SCP."""

    host: Host = Field("127.0.0.1", description="Address to bind.")
    port: Port = Field(11112, description="0 takes any free port. With [tls] in force it speaks TLS alone.")
    plaintext_port: int = Field(
        -1,
        ge=-1,
        le=65535,
        description="With [tls], a second port without TLS for peers with plaintext = true; -1: none.",
    )
    called: tuple[CalledAE, ...] = Field((CalledAE(ae_title="NPC_RTNODE"),), min_length=1)
    peers: tuple[Peer, ...] = Field((), description="Who may send. Nobody else is answered.")
    max_associations: int = Field(20, ge=1, le=200, description="More are rejected as a transient condition.")
    max_pdu_bytes: int = Field(131072, ge=4096, le=1048576, description="Largest P-DATA PDU that we offer to take.")
    max_object_mb: int = Field(512, ge=1, le=4096, description="A larger object is refused.")
    idle_timeout_s: Seconds = Field(60, description="An association silent for this long is aborted.")
    fast_store: bool = Field(
        True,
        description="C-STORE is read, kept and answered in one thread, past the DICOM library's queues. false: only if "
        "a sender is suspected not to get on with it.",
    )
    journal_mb: int = Field(
        1024,
        ge=32,
        le=65536,
        description="While the ledger is away, so much of what is received waits in the intake journal; more is not "
        "taken (A700).",
    )
    reserve_free_mb: int = Field(2048, ge=0, description="With less free space than this, nothing is accepted (A700).")


class TlsSettings(_Section):
    """Certificates, PEM files; with them every caller must use mutual TLS (BCP 195), and destinations may."""

    certificate: str = Field("", description="Ours, with its intermediates. Empty: no TLS. Read again when it changes.")
    key: str = Field("", description="Its private key, not encrypted, readable by the node's user alone.")
    trusted: str = Field("", description="The authorities whose certificates peers may show.")
    warn_days: int = Field(30, ge=7, le=365, description="A certificate that ends within so many days is told.")

    @property
    def in_force(self) -> bool:
        """Whether this node has certificates."""
        return bool(self.certificate)

    @model_validator(mode="after")
    def _all_or_none(self) -> TlsSettings:
        named = [bool(self.certificate), bool(self.key), bool(self.trusted)]
        if any(named) and not all(named):
            raise ValueError("certificate, key and trusted are set together or not at all")
        return self


NO_TLS: Final = TlsSettings()


class AssembleSettings(_Section):
    """When a series counts as complete."""

    quiet_s: Seconds = Field(30, description="No new instance for this long, and geometrically whole: complete.")
    released_s: Pause = Field(
        5,
        description="The same, after the sender released the one association that brought all of the series; and when "
        "an archive that answers for the sender is first asked.",
    )
    asked_apart_s: Seconds = Field(
        5, description="An archive that has as many instances as are here, said twice this far apart: complete."
    )


class SelectSettings(_Section):
    """Which series the bundle sees, and for whom."""

    rules: str = Field("npc_ce_t1", min_length=1, description="A shipped rule set by name, or the path of a TOML file.")
    study_quiet_s: Pause = Field(
        60,
        description="The complete series of a study are compared when nothing of the study has come for this long and "
        "none of its series is still being received. With only one series routed per study this is a delay: lower it. "
        "Scanners that send each series as it ends need more. 0 judges each series at once, by itself.",
    )
    indication_text: tuple[Pattern, ...] = Field(
        (r"\bNPC\b", r"nasophar\w*[ -]+(ca|carcinoma|cancer|neoplasm)\b", "鼻咽癌"),
        description="Regular expressions, case-insensitive; one found in an order or description text states the "
        "indication. Name the disease: a body part alone says where was scanned, and is none.",
    )


class InferSettings(_Section):
    """The model run."""

    bundle: Path | None = Field(None, description="A bundle folder; without it the shipped synthetic-phantom bundle.")
    device: str = Field("cpu", pattern=r"^(cpu|cuda(:\d+)?)$", description="cpu, cuda or cuda:N.")
    engine: Literal["torch", "torch-bf16", "openvino", "openvino-bf16"] = Field(
        "torch",
        description="How the network is run. An engine other than torch must agree with torch on the bundle's golden "
        "case at every start, else torch is used; changing it makes other objects with other UIDs.",
    )
    timeout_s: Seconds = Field(600, description="Wall-clock limit; the process is killed then.")
    threads: int = Field(0, ge=0, description="CPU threads for inference; 0 leaves it to torch.")
    memory_mb: int = Field(
        0, ge=0, description="Data that the inference process may have in memory; it is refused more. 0 sets no limit."
    )
    cpu_fallback: bool = Field(
        True, description="With device cuda: what is twice out of memory there is done on the CPU, and says so."
    )


class WorkSettings(_Section):
    """Who does the work: the node alone, or further hosts that share its ledger (PostgreSQL)."""

    engine: Literal["embedded", "procrastinate"] = Field(
        "embedded",
        description="How waiting work reaches a worker. embedded: workers look at the ledger every two seconds. "
        "procrastinate: PostgreSQL tells them at once (needs npc-rtnode[procrastinate]; not on SQLite).",
    )
    host: str = Field(
        "",
        pattern=r"^([a-z0-9][a-z0-9_.-]{0,62})?$",
        description="The name of a further worker host, another for each; empty: this is the node itself.",
    )
    resources: tuple[Resource, ...] = Field(
        (), description="What this host takes: gpu (infer), cpu (write), send:DESTINATION. Empty: everything."
    )
    beat_s: Seconds = Field(10, description="How often a worker says that it still works on what it has in hand.")
    silent_s: Seconds = Field(
        45, description="Work whose worker is not heard of for so long is given to another; at least three beats."
    )

    listen: str = Field(
        "",
        pattern=r"^(.+:\d{1,5})?$",
        description="On the node: HOST:PORT where further hosts fetch files and leave results; empty: nobody does. "
        "With [tls] it speaks mutual TLS, without it loopback alone is allowed.",
    )
    node: str = Field(
        "",
        pattern=r"^(https?://[^/\s]+:\d{1,5})?$",
        description="On a further host: the node's work.listen, as https://HOST:PORT; empty: store is used.",
    )
    store: str = Field(
        "", description="On a further host: the node's home as it is mounted here, where files are not fetched."
    )
    secret: str = Field(
        "", description="A file with at least 32 random characters, the same on the node and its hosts, mode 600."
    )
    cache_h: Seconds = Field(24, description="Fetched files are removed from a further host after so many hours.")

    off_peak: str = Field(
        "",
        pattern=r"^(([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d)?$",
        description="HH:MM-HH:MM: inference of less urgent jobs waits for these hours; empty: it never waits.",
    )
    off_peak_zone: str = Field("UTC", description="By whose wall clock, as Europe/Paris; the nights of change count.")
    off_peak_below: int = Field(50, ge=0, le=101, description="Jobs of a lower priority wait.")
    off_peak_deadline_h: Seconds = Field(24, description="A job that has waited for so many hours waits no longer.")

    @model_validator(mode="after")
    def _zone_is_known(self) -> WorkSettings:
        try:
            ZoneInfo(self.off_peak_zone)
        except (OSError, LookupError, ValueError):
            raise ValueError(f"off_peak_zone: no time zone is called {self.off_peak_zone!r}") from None
        return self

    @property
    def night(self) -> OffPeak | None:
        """What waits for which hours."""
        if not self.off_peak:
            return None
        begin, end = (time.fromisoformat(text) for text in self.off_peak.split("-"))
        window = Window(begin, end, ZoneInfo(self.off_peak_zone))
        return OffPeak(window, self.off_peak_below, timedelta(hours=self.off_peak_deadline_h))

    @model_validator(mode="after")
    def _files_have_a_way(self) -> WorkSettings:
        if self.host and bool(self.node) == bool(self.store):
            raise ValueError("a further host needs one of node (files are fetched) and store (they are mounted)")
        if (self.listen or self.node) and not self.secret:
            raise ValueError("secret: listen and node need the file with the shared secret")
        return self

    @property
    def address(self) -> tuple[str, int]:
        """Where the node listens for its hosts."""
        host, _, port = self.listen.rpartition(":")
        return host, int(port)

    @model_validator(mode="after")
    def _three_beats(self) -> WorkSettings:
        if self.silent_s < 3 * self.beat_s:
            raise ValueError(f"silent_s is {self.silent_s:g}: at least three times beat_s, which is {self.beat_s:g}")
        return self

    def takes(self, resource: str) -> bool:
        """Whether this host does such work."""
        return not self.resources or resource in self.resources


class ContentSettings(_Section):
    """What shapes the objects: a change here makes other objects with other UIDs (ADR 0003)."""

    roi_name: PlainText = Field(
        "GTVp^AI", min_length=1, max_length=16, description="TG-263 style, at most 16 characters."
    )
    roi_color: tuple[Byte, Byte, Byte] = Field((230, 40, 40), description="ROIDisplayColor, red green blue, 0-255.")
    structure_set_label: PlainText = Field("AI DRAFT GTVp", min_length=1, max_length=16)
    manufacturer: PlainText = Field("npc_rtnode", min_length=1, max_length=64)
    device_serial: PlainText = Field("1", min_length=1, max_length=64)
    series_number_rtstruct: int = Field(9001, ge=1, le=_MOST_IS)
    series_number_sr: int = Field(9002, ge=1, le=_MOST_IS)
    series_number_seg: int = Field(9003, ge=1, le=_MOST_IS)
    series_number_preview: int = Field(9005, ge=1, le=_MOST_IS)
    series_number_pdf: int = Field(9006, ge=1, le=_MOST_IS)
    uncertain_below: float = Field(
        0.6, ge=0, le=1, description="A top stage probability below this is called uncertain."
    )


class DeliverSettings(_Section):
    """How delivery insists."""

    first_retry_s: Seconds = Field(60, description="First pause after a transient failure; it grows fourfold.")
    longest_retry_s: Seconds = Field(3600, description="No pause is longer.")
    horizon_h: Seconds = Field(168, description="After this many hours a delivery that cannot be made has FAILED.")


class Destination(_Section):
    """Where objects are owed to."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$", description="Short name used by the CLI and in logs.")
    ae_title: AETitle
    host: Host
    port: Annotated[int, Field(ge=1, le=65535)]
    objects: tuple[ObjectKind, ...] = Field(
        (ObjectKind.RTSTRUCT,),
        min_length=1,
        description=f"What is owed to it, of {', '.join(ObjectKind)}. SR names the SEG where both are asked for.",
    )
    profile: ProfileName = Field("generic", description="Which planning system it is like: limits and encoding follow.")
    roi_name: PlainText | Literal[""] = Field(
        "", max_length=64, description="Its own name for the ROI, e.g. where ^ is not taken; empty: content.roi_name."
    )
    test: bool = Field(False, description="true only for a system that no patient is treated from.")
    enhanced_mr: bool = Field(
        False, description="true only for a system that holds Enhanced MR and shows contours on its frames."
    )
    transfer_syntax: Literal["profile", "implicit", "explicit"] = Field(
        "profile", description="VR encoding offered first; profile: the one of its profile."
    )
    calling_ae: AETitle = Field("NPC_RTNODE", description="How we introduce ourselves to it.")
    timeout_s: Seconds = Field(30, description="Silence that ends an attempt.")
    wall_clock_s: Seconds = Field(120, description="The sending process is killed after this.")
    tls: bool = Field(False, description="Call it by mutual TLS, with the certificates of [tls].")
    certificates: tuple[Certificate, ...] = Field(
        (), description="With tls: the certificates it may answer with, named as in listener.peers; else those of host."
    )

    @model_validator(mode="after")
    def _fits_its_profile(self) -> Destination:
        profile = PROFILES[self.profile]
        if len(self.roi_name) > profile.roi_name_most:
            most = profile.roi_name_most
            raise ValueError(f"roi_name has {len(self.roi_name)} characters, the profile {self.profile} takes {most}")
        foreign = [str(kind) for kind in self.objects if profile.takes is not None and kind not in profile.takes]
        if foreign:
            raise ValueError(
                f"the profile {self.profile} is not known to take {', '.join(foreign)}: leave it out, or set profile = "
                '"generic" for a system that does'
            )
        return self

    @property
    def encoding(self) -> Encoding:
        """VR encoding offered first."""
        return PROFILES[self.profile].encoding if self.transfer_syntax == "profile" else self.transfer_syntax


class Archive(_Section):
    """A system that we may call: to ask what a series should have, to report commitment to, to pull studies from."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$", description="Short name used by the CLI and in logs.")
    ae_title: AETitle
    host: Host
    port: OtherPort
    answers_for: tuple[AETitle, ...] = Field(
        (), description="Calling AE titles whose series it holds: it is asked before one of theirs is closed."
    )
    calling_ae: AETitle = Field("NPC_RTNODE", description="How we introduce ourselves to it.")
    timeout_s: Seconds = Field(10, description="Silence that ends a call.")
    wall_clock_s: Seconds = Field(30, description="The calling process is killed after this, or this after an answer.")
    tls: bool = Field(False, description="Call it by mutual TLS, with the certificates of [tls].")
    certificates: tuple[Certificate, ...] = Field((), description="As at destinations.")


class AdmissionSettings(_Section):
    """When new associations are refused for a while (transient): little disk, or more work than is got through."""

    warn_below: Times = Field(5, description="`status` and `doctor` warn below so many times listener.reserve_free_mb.")
    refuse_below: Times = Field(
        2,
        description="Free space below so many times listener.reserve_free_mb: new associations are refused, those that "
        "stand go on down to the reserve itself. 0 refuses none.",
    )
    reopen_above: Times = Field(3, description="Taken again only above so many times listener.reserve_free_mb.")
    max_backlog: int = Field(
        500,
        ge=0,
        description="With more jobs than this waiting for inference or writing, new associations are refused until "
        "four fifths of it are left. 0 sets no limit.",
    )

    @model_validator(mode="after")
    def _marks_ascend(self) -> AdmissionSettings:
        if not self.refuse_below <= self.reopen_above <= self.warn_below:
            said = f"{self.refuse_below:g}, {self.reopen_above:g}, {self.warn_below:g}"
            raise ValueError(f"refuse_below, reopen_above and warn_below must not descend; they are {said}")
        return self


class RetainSettings(_Section):
    """Days after the last event of a series for which its bytes are kept; 0 keeps them until a person purges the study.

    Nothing goes of a study of which anything is under way, held, owed, undelivered or in conflict.
    """

    delivered_days: DaysKept = Field(30, description="Inputs of a series whose result was delivered.")
    set_aside_days: DaysKept = Field(14, description="Inputs of a series that was not used.")
    stalled_days: DaysKept = Field(30, description="Inputs of a series of which slices are missing.")
    quarantined_days: DaysKept = Field(0, description="Inputs of a series that must not be used; never a conflict.")
    predictions_days: DaysKept = Field(7, description="Probability maps of jobs that have ended.")
    objects_days: DaysKept = Field(180, description="Our own objects after delivery; `resend` needs them.")


class QaSettings(_Section):
    """Daily constancy: one phantom, always the same, through the whole live chain (ADR 0024)."""

    enabled: bool = Field(False, description="Whether this node sends itself its constancy phantom.")
    at: str = Field(
        "05:00",
        pattern=r"^(([01]\d|2[0-3]):[0-5]\d)?$",
        description="Local time (node.utc_offset) of the daily run; missed, it is made up on the same day. Empty: only "
        "by `npc-rtnode qa run`.",
    )
    ae_title: AETitle = Field(
        "NPC_QA", description="The AE title that the phantom is sent by and to; it is taken from this machine alone."
    )
    destination: str = Field(
        "",
        description="The destination (test = true) that constancy results are owed to; it gets nothing else. Empty: "
        "they go nowhere.",
    )
    dice_least: float = Field(0.7, ge=0, le=1, description="A Dice below this against the phantom's truth is an alarm.")
    baseline_runs: int = Field(
        20,
        ge=3,
        le=365,
        description="So many first runs of a phantom, bundle and settings give the limits of the times.",
    )
    sigma: float = Field(3, ge=1, le=10, description="A time above the mean by so many standard deviations: alarm.")
    patience_s: Seconds = Field(3600, description="A run that has not come to its end after this is an alarm.")

    @property
    def reserved(self) -> str | None:
        """The destination that gets constancy results alone; None where there is none."""
        return self.destination if self.enabled and self.destination else None


NO_QA: Final = QaSettings()


class LogSettings(_Section):
    """What is said while running."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console"] = "json"


class Settings(_Section):
    """All of it."""

    node: NodeSettings = NodeSettings()
    database: DatabaseSettings = DatabaseSettings()
    listener: ListenerSettings = ListenerSettings()
    tls: TlsSettings = TlsSettings()
    assemble: AssembleSettings = AssembleSettings()
    select: SelectSettings = SelectSettings()
    infer: InferSettings = InferSettings()
    work: WorkSettings = WorkSettings()
    content: ContentSettings = ContentSettings()
    deliver: DeliverSettings = DeliverSettings()
    destinations: tuple[Destination, ...] = ()
    archives: tuple[Archive, ...] = ()
    admission: AdmissionSettings = AdmissionSettings()
    retain: RetainSettings = RetainSettings()
    qa: QaSettings = QaSettings()
    log: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _names_are_unique(self) -> Settings:
        for what, named in (("destinations", self.destinations), ("archives", self.archives)):
            names = [one.name for one in named]
            if len(names) != len(set(names)):
                raise ValueError(
                    f"{what}: two have the same name: {sorted(n for n in set(names) if names.count(n) > 1)}"
                )
        return self

    @model_validator(mode="after")
    def _hosts_share_a_server(self) -> Settings:
        served = self.database.url.startswith("postgresql")
        if not served and self.work.engine != "embedded":
            raise ValueError(f"work.engine {self.work.engine} needs PostgreSQL: set database.url, or use embedded")
        if not served and self.work.host:
            raise ValueError(
                "work.host: a further worker host shares the node's ledger by PostgreSQL: set database.url"
            )
        if self.work.host == "node":
            raise ValueError("work.host: `node` is the name of the node itself, give this host another")
        self._files_travel_safely()
        known = {"gpu", "cpu", *(f"send:{d.name}" for d in self.destinations)}
        if strange := [resource for resource in self.work.resources if resource not in known]:
            raise ValueError(f"work.resources: {', '.join(strange)} is none of {', '.join(sorted(known))}")
        return self

    def _files_travel_safely(self) -> None:
        work = self.work
        if work.listen and not self.tls.in_force and not is_loopback(work.address[0]):
            raise ValueError(f"work.listen {work.listen}: beyond loopback files travel by TLS alone: set [tls]")
        if work.node and work.node.startswith("https") != self.tls.in_force:
            raise ValueError("work.node: https needs the certificates of [tls], and with them nothing else is used")

    @model_validator(mode="after")
    def _reports_find_their_way(self) -> Settings:
        known = {archive.ae_title for archive in self.archives}
        lost = [p.ae_title for p in self.listener.peers if "commit" in p.roles and p.ae_title not in known]
        if lost:
            raise ValueError(
                f"listener.peers: {', '.join(lost)} may ask for commitment, and no [[archives]] of that AE title says "
                "where the report goes"
            )
        return self

    @model_validator(mode="after")
    def _open_doors_need_names(self) -> Settings:
        if not self.listener.peers and not is_loopback(self.listener.host):
            raise ValueError(
                f"listener.peers is empty and listener.host {self.listener.host} is not a loopback address: "
                "name who may send, or bind to 127.0.0.1"
            )
        return self

    @model_validator(mode="after")
    def _certificates_are_bound(self) -> Settings:
        if self.tls.in_force:
            unbound = [p.ae_title for p in self.listener.peers if not (p.certificates or p.plaintext)]
            if unbound:
                raise ValueError(
                    f"listener.peers: {', '.join(unbound)} can never call: [tls] is set, and neither certificates nor "
                    "plaintext = true says how it may"
                )
        elif wanting := self._called_by_tls():
            raise ValueError(f"{', '.join(wanting)}: tls is asked for, and [tls] names no certificate")
        return self

    @model_validator(mode="after")
    def _constancy_stays_apart(self) -> Settings:
        if not self.qa.enabled:
            return self
        if self.qa.ae_title in {
            *(c.ae_title for c in self.listener.called),
            *(p.ae_title for p in self.listener.peers),
        }:
            raise ValueError(f"qa.ae_title {self.qa.ae_title} is used in [listener]: constancy needs one of its own")
        if self.qa.destination and not self.destination(self.qa.destination).test:
            raise ValueError(
                f"qa.destination {self.qa.destination} is no test system: set test = true, or name another"
            )
        return self

    def listening(self, own_names: Collection[str] = ()) -> ListenerSettings:
        """The listener's settings in force: with constancy, its AE title too, for callers on this machine alone, and
        where they call by TLS, with a certificate of these names, which are this node's own."""
        if not self.qa.enabled:
            return self.listener
        title, clear, names = self.qa.ae_title, self.tls.in_force and not self.calls_itself_by_tls, tuple(own_names)
        own = Peer(ae_title=title, networks=_own_networks(self.own_host), plaintext=clear, certificates=names)
        called = (*self.listener.called, CalledAE(ae_title=title, indication="npc"))
        return self.listener.model_copy(update={"called": called, "peers": (*self.listener.peers, own)})

    @property
    def calls_itself_by_tls(self) -> bool:
        """Whether the phantom comes by TLS: where there is no other port."""
        return self.tls.in_force and self.listener.plaintext_port < 0

    @property
    def own_host(self) -> str:
        """Where this machine reaches its own listener."""
        host = self.listener.host
        return {"0.0.0.0": "127.0.0.1", "::": "::1", "localhost": "127.0.0.1"}.get(host, host)  # noqa: S104 - compared only

    def _called_by_tls(self) -> list[str]:
        return [*(d.name for d in self.destinations if d.tls), *(a.name for a in self.archives if a.tls)]

    @property
    def orders(self) -> tuple[ObjectOrder, ...]:
        """The objects that one result is written as."""
        return orders_for(self.destinations, self.content.roi_name)

    @property
    def database_url(self) -> str:
        """The URL in force."""
        return self.database.url or f"sqlite:///{self.node.home / 'ledger.db'}"

    def destination(self, name: str) -> Destination:
        """The destination of that name; ConfigFault names the ones there are."""
        for destination in self.destinations:
            if destination.name == name:
                return destination
        known = ", ".join(d.name for d in self.destinations) or "none"
        raise ConfigFault(f"no destination is called {name!r}; configured: {known}")

    def archive(self, name: str) -> Archive:
        """The archive of that name; ConfigFault names the ones there are."""
        for archive in self.archives:
            if archive.name == name:
                return archive
        known = ", ".join(one.name for one in self.archives) or "none"
        raise ConfigFault(f"no archive is called {name!r}; configured: {known}")


def _own_networks(host: str) -> tuple[str, ...]:
    """From where a call of this machine to itself comes: the very address that it calls, or a loopback one."""
    try:
        return (str(ipaddress.ip_network(host)), "127.0.0.0/8")
    except ValueError:
        return ("127.0.0.0/8", "::1/128")


def is_loopback(host: str) -> bool:
    """Whether binding to this host is reachable from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def content_hash(settings: Settings) -> str:
    """Hash of what shapes an object's content, of the settings and of the code: part of the work key."""
    return digest_of(
        {
            "version": CONTENT_VERSION,
            "content": settings.content.model_dump(mode="json"),
            "engine": settings.infer.engine,
            "utc_offset": settings.node.utc_offset,
            "site": settings.node.site,
            "segmentation": segmented(settings.orders),
        }
    )


def load_settings(path: Path | None, environ: dict[str, str] | None = None) -> Settings:
    """Read, override from the environment, validate. ConfigFault lists all mistakes at once, each with its path."""
    raw = _read(path) if path else {}
    _override(raw, dict(os.environ) if environ is None else environ)
    try:
        return Settings.model_validate(raw)
    except ValidationError as error:
        lines = _text_lines(path)
        raise ConfigFault("\n".join(_explain(item, lines) for item in error.errors())) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigFault(f"{path} does not exist; `npc-rtnode config example` prints one to start from") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigFault(f"{path}: {error}") from None


def _override(raw: dict[str, Any], environ: dict[str, str]) -> None:
    mistakes = []
    for name, value in environ.items():
        if name.startswith("NPC_RTNODE_") and "__" in name:
            section, key = name.removeprefix("NPC_RTNODE_").lower().split("__", 1)
            if _is_list(section) or not isinstance(raw.setdefault(section, {}), dict):
                mistakes.append(f"{name}: {section} is not a section with single values; set it in the file")
            else:
                raw[section][key] = value
    if mistakes:
        raise ConfigFault("\n".join(mistakes))


def _is_list(section: str) -> bool:
    """Whether it is a list of tables, of which an environment variable can name none."""
    field = Settings.model_fields.get(section)
    return field is not None and not isinstance(field.annotation, type)


def _text_lines(path: Path | None) -> list[str]:
    return path.read_text("utf-8").splitlines() if path and path.exists() else []


def _explain(item: Any, lines: list[str]) -> str:
    place = ".".join(str(part) for part in item["loc"]) or "settings"
    key = str(item["loc"][-1]) if item["loc"] else ""
    number = next((i for i, line in enumerate(lines, 1) if re.match(rf"\s*\[*{re.escape(key)}\b", line)), None)
    where = f" (line {number})" if number and key else ""
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        message = "no such setting" + _did_you_mean(item["loc"])
    return f"{place}{where}: {message}"


def _did_you_mean(loc: tuple[int | str, ...]) -> str:
    model = _model_at(loc[:-1])
    close = difflib.get_close_matches(str(loc[-1]), model.model_fields if model else (), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _model_at(loc: tuple[int | str, ...]) -> type[BaseModel] | None:
    model: type[BaseModel] | None = Settings
    for part in loc:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(str(part)) if model else None
        model = _section_of(field.annotation) if field else None
    return model


def _section_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((a for a in get_args(annotation) if isinstance(a, type) and issubclass(a, BaseModel)), None)
