"""Mutual TLS as PS3.15 B.12 has it (BCP 195: RFC 8996, RFC 9325), both ways, with certificates that may be renewed.

TLS 1.2 with forward secrecy and AEAD suites, or TLS 1.3. Both sides show a certificate of a trusted authority, and a
certificate counts for the AE title that the settings bind it to: by the SHA-256 of the certificate, or by a DNS name or
an IP address among its subjectAltNames (ADR 0017). Files are read again when they change; a set that does not fit
together is told and the old one stays.
"""

from __future__ import annotations

import hashlib
import ssl
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from npc_rtnode import log
from npc_rtnode.errors import ConfigFault, TlsFailed
from npc_rtnode.settings import TlsSettings

logger = log.get(__name__)

SUITES: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2 (RFC 9325 4.2); those of TLS 1.3 are AEAD by definition."""
HANDSHAKE_S: Final = 4.0
"""A caller has this long for its whole handshake (intake.md 1.2, row 14)."""

_TURNS: Final = 4
"""So often each side speaks in a handshake at most, with one turn to spare."""

_Stamp = tuple[tuple[int, int, int], ...]


class Credentials:
    """Our certificate and whom we trust, as contexts that follow the files."""

    def __init__(self, settings: TlsSettings, make: Callable[[TlsSettings], ssl.SSLContext] | None = None) -> None:
        """Reads the files; raises ConfigFault when they are missing, unreadable or no pair. For callers, unless `make`
        says otherwise."""
        self._settings = settings
        self._make = make or server_context
        self._lock = threading.Lock()
        self._tried, self._context = self._stamp(), self._make(settings)

    def context(self) -> ssl.SSLContext:
        """For the next caller: by the files as they are now, or as they last were in order."""
        with self._lock:
            if (stamp := self._stamp()) != self._tried:
                self._tried = stamp
                self._read_again()
            return self._context

    def _read_again(self) -> None:
        try:
            self._context = self._make(self._settings)
        except ConfigFault as error:
            logger.error("new certificates cannot be used, the old ones stay in force", because=error.detail)
        else:
            logger.info("certificates read again")

    def _stamp(self) -> _Stamp:
        return tuple(_stamp(Path(name)) for name in _files(self._settings))


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        known = path.stat()
    except OSError:
        return (0, 0, 0)
    return known.st_mtime_ns, known.st_size, known.st_ino


def _files(settings: TlsSettings) -> tuple[str, str, str]:
    return settings.certificate, settings.key, settings.trusted


# --- contexts ---------------------------------------------------------------------------------------------------------


def server_context(settings: TlsSettings) -> ssl.SSLContext:
    """For callers: they must show a certificate of an authority that we trust."""
    return _filled(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), settings)


def client_context(settings: TlsSettings, bound: Sequence[str], failures: list[str]) -> ssl.SSLContext:
    """For calling: the answering certificate must be one that `bound` names, else name the host that was called.

    Why a handshake failed is left in `failures`: pynetdicom tells no more than that there is no connection.
    """
    context = _filled(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), settings)
    context.check_hostname = not bound
    context.sslsocket_class = _bound_socket(frozenset(bound), failures)
    return context


def _filled(context: ssl.SSLContext, settings: TlsSettings) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(SUITES)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(settings.certificate, settings.key, password=_no_password)
        context.load_verify_locations(settings.trusted)
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        raise ConfigFault(f"tls: certificate, key and trusted do not make a set that can be read: {said}") from None
    return context


def _no_password() -> str:
    """Nobody is there to type one; the library would ask on the terminal."""
    raise ValueError("the key is encrypted")


def _bound_socket(bound: frozenset[str], failures: list[str]) -> type[ssl.SSLSocket]:
    """A socket on which nothing is said before the peer's certificate is the one that was meant."""

    class BoundSocket(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            try:
                super().do_handshake(block)
                if bound and not bound & names_shown(self):
                    raise ssl.SSLCertVerificationError("its certificate is none of those that are bound to it")
            except OSError as error:
                failures.append(_said(error))
                raise

    return BoundSocket


def _said(error: OSError) -> str:
    """OpenSSL's reason, without addresses, file names or values of the certificate."""
    if isinstance(error, TimeoutError):
        return "the peer did not finish its handshake in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        return getattr(error, "verify_message", "") or str(error.args[-1])
    return (getattr(error, "reason", None) or type(error).__name__).replace("_", " ").lower()


# --- what a peer shows ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shown:
    """What the certificate of a caller says: the names it may be bound by, and how long it is good."""

    names: frozenset[str]
    until: datetime


def shake_hands(connection: Any, context: ssl.SSLContext) -> tuple[ssl.SSLSocket, Shown]:
    """TLS on an accepted connection, within HANDSHAKE_S in all; raises TlsFailed, and the connection is done with."""
    connection.settimeout(HANDSHAKE_S)
    secured = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
    try:
        secured.do_handshake()
        return secured, Shown(names_shown(secured), _until(secured))
    except OSError as error:
        secured.close()
        raise TlsFailed(f"{_said(error)}.") from None


def names_of_ours(settings: TlsSettings) -> frozenset[str]:
    """By what our own certificate can be bound, as it shows in a handshake with ourselves, without any network.

    Raises TlsFailed where we would not trust ourselves (`trusted` has not our authority, or the certificate is not for
    both sides), ConfigFault where the files cannot be read.
    """
    to_us, to_them = ssl.MemoryBIO(), ssl.MemoryBIO()
    calling = client_context(settings, ("ourselves",), []).wrap_bio(to_us, to_them)
    called = server_context(settings).wrap_bio(to_them, to_us, server_side=True)
    try:
        for side in (calling, called) * _TURNS:
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
        return names_shown(called)
    except OSError as error:
        raise TlsFailed(f"Of our own certificate: {_said(error)}.") from None


def names_shown(connection: ssl.SSLSocket | ssl.SSLObject) -> frozenset[str]:
    """By what the peer's certificate can be bound: `sha256:…`, `dns:…`, `ip:…`; nothing without a certificate."""
    encoded, said = connection.getpeercert(True), connection.getpeercert()
    if not encoded or not said:
        return frozenset()
    alternatives: Iterable[Any] = said.get("subjectAltName", ())
    kinds = {"DNS": "dns", "IP Address": "ip"}
    named = {f"{kinds[kind]}:{value.lower()}" for kind, value in alternatives if kind in kinds}
    return frozenset({f"sha256:{hashlib.sha256(encoded).hexdigest()}", *named})


def _until(connection: ssl.SSLSocket) -> datetime:
    said = connection.getpeercert() or {}
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(said["notAfter"])), UTC)
