"""How long our certificates are good, told before they end: in the log, and by `doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509

from npc_rtnode import log
from npc_rtnode.errors import ConfigFault
from npc_rtnode.settings import TlsSettings

logger = log.get(__name__)

LAST_DAYS: Final = 7
"""From here on a certificate's end is a fault, not a warning."""


@dataclass(frozen=True)
class Expiry:
    """The first of the certificates in one file to end."""

    what: str  # the setting that names the file
    until: datetime

    def days_left(self, now: datetime) -> int:
        """Whole days; negative once it has ended."""
        return (self.until - now).days


def expiries(settings: TlsSettings) -> list[Expiry]:
    """Of our certificate and of the authorities that we trust; raises ConfigFault for a file that cannot be read."""
    files = {"tls.certificate": settings.certificate, "tls.trusted": settings.trusted}
    return [Expiry(what, _first_to_end(what, Path(name))) for what, name in files.items()]


def _first_to_end(what: str, path: Path) -> datetime:
    try:
        return min(one.not_valid_after_utc for one in x509.load_pem_x509_certificates(path.read_bytes()))
    except (OSError, ValueError):
        raise ConfigFault(f"{what}: it is no PEM file of certificates that can be read") from None


def say_expiries(settings: TlsSettings, now: datetime) -> None:
    """The alarm in the log: an error within 7 days of the end and after it, a warning within `tls.warn_days`."""
    for one in expiries(settings):
        left = one.days_left(now)
        if left < settings.warn_days:
            say = logger.error if left < LAST_DAYS else logger.warning
            say("a certificate ends soon" if left >= 0 else "a certificate has ended", what=one.what, days_left=left)
