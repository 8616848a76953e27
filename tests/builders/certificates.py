"""An authority and the certificates that it signs, made anew in a test's own folder."""

from __future__ import annotations

import hashlib
import ipaddress
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from npc_rtnode.settings import TlsSettings


@dataclass(frozen=True)
class Pair:
    """A certificate and its key as PEM files."""

    certificate: Path
    key: Path

    @property
    def fingerprint(self) -> str:
        """As the settings name it."""
        return f"sha256:{hashlib.sha256(ssl.PEM_cert_to_DER_cert(self.certificate.read_text('ascii'))).hexdigest()}"


class Authority:
    """Signs what it is asked to; `trusted` is the file that others trust it by."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.trusted = folder / f"{name}.pem"
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        made = self._begun(self._name, self._key, 365).add_extension(constraints, critical=True)
        self.trusted.write_bytes(_pem(made.sign(self._key, hashes.SHA256())))

    def sign(self, name: str, days: float = 365, dns: str = "", address: str = "127.0.0.1") -> Pair:
        """A certificate good for so many days from an hour ago, with these subjectAltNames."""
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.IPAddress(ipaddress.ip_address(address))] if address else []
        names += [x509.DNSName(dns)] if dns else []
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = self._begun(subject, key, days).add_extension(x509.SubjectAlternativeName(names), critical=False)
        pair = Pair(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        pair.certificate.write_bytes(_pem(made.sign(self._key, hashes.SHA256())))
        pair.key.write_bytes(_key_pem(key))
        pair.key.chmod(0o600)
        return pair

    def settings(self, pair: Pair, **wishes: object) -> TlsSettings:
        """[tls] for whoever has this pair and trusts this authority."""
        named = {"certificate": str(pair.certificate), "key": str(pair.key), "trusted": str(self.trusted)}
        return TlsSettings.model_validate({**named, **wishes})

    def _begun(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, days: float) -> x509.CertificateBuilder:
        begin = datetime.now(UTC) - timedelta(hours=1)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin - timedelta(days=400))
            .not_valid_after(begin + timedelta(days=days))
        )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, form, serialization.NoEncryption())
