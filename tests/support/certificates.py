"""
Certificates of a test: of authorities of its own, valid or not, and signed by themselves.
"""

import ipaddress
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

DAY = timedelta(days=1)
YEAR = timedelta(days=365)


class Pair(NamedTuple):
    """The files of a certificate and of its key."""

    certificate: Path
    key: Path

    def replace_by(self, other: "Pair") -> None:
        """Put *other* in the place of these files, as an operator rotates a certificate."""
        for mine, its in zip(self, other, strict=True):
            mine.write_bytes(its.read_bytes())


class Authority:
    """An authority, whose certificate is in the file *path* of *folder*."""

    def __init__(self, folder: Path, name: str = "ca.pem") -> None:
        self._authority = trustme.CA()
        self._folder = folder
        self.path = folder / name
        self._authority.cert_pem.write_to_path(self.path)

    def context(self, host: str, *, days: float = 365) -> ssl.SSLContext:
        """Return the context of a server with a certificate for *host* that ends in *days*."""
        ends = datetime.now(tz=UTC) + timedelta(days=days)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(host, not_after=ends).configure_cert(context)
        return context

    def pair(
        self,
        host: str,
        *,
        owner: str = "test",
        name: str | None = None,
        begins: timedelta = -YEAR,
        ends: timedelta = YEAR,
    ) -> Pair:
        """
        Write a certificate for *host* and for the user *owner*, and its key.

        It is valid from *begins* to *ends*, seen from now; *name* begins the names of its files.
        """
        now = datetime.now(tz=UTC)
        issued = self._authority.issue_cert(
            host, common_name=owner, not_before=now + begins, not_after=now + ends
        )
        pair = _files(self._folder, f"{self.path.stem}-{name or owner}")
        issued.cert_chain_pems[0].write_to_path(pair.certificate)
        issued.private_key_pem.write_to_path(pair.key)
        return pair


def self_signed(folder: Path, host: str) -> Pair:
    """Write a certificate for the address *host* that no authority has signed, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    now = datetime.now(tz=UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + YEAR)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    pair = _files(folder, "self-signed")
    pair.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    pair.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return pair


def _files(folder: Path, name: str) -> Pair:
    return Pair(folder / f"{name}.crt", folder / f"{name}.key")
