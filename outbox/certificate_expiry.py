"""
When certificates end: those that servers have presented, and those that this process presents.

A server's certificate is read from each handshake, also where it is not verified; a certificate of
the client is read from its file when it is asked for, because an operator may have replaced it.
Only the certificate itself counts, not those of its authorities.
"""

import re
import ssl
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

WARNED_BEFORE = timedelta(days=30)

Server: TypeAlias = Literal["database", "broker", "management"]
Role: TypeAlias = Literal["server", "client"]

SETTINGS: dict[Server, str] = {
    "database": "MQ_DATABASE_URL",
    "broker": "MQ_BROKER_URL",
    "management": "MQ_MANAGEMENT_URL",
}
"""The setting that names each server."""

_PRESENTED: dict[Server, datetime] = {}
"""The end of the certificate that each server has presented last."""
_FILES: dict[Server, Path] = {}
"""The file of the certificate that this process presents to each server."""

_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_VERSION = 0xA0
_UTC_TIME = 0x17
_LONG_FORM = 0x80


@dataclass(frozen=True, slots=True)
class CertificateExpiry:
    """The certificate of *role* in connections to *server* ends at *ends*."""

    server: Server
    role: Role
    ends: datetime

    def __str__(self) -> str:
        whose = "the server's certificate" if self.role == "server" else "the client's certificate"
        return f"{SETTINGS[self.server]}: {whose} expires at {self.ends:%Y-%m-%d %H:%M} UTC"


def expiries() -> list[CertificateExpiry]:
    """Return the ends of all certificates that this process knows of, the servers' first."""
    presented = [CertificateExpiry(server, "server", ends) for server, ends in _PRESENTED.items()]
    own = [
        CertificateExpiry(server, "client", ends)
        for server, file in _FILES.items()
        if (ends := end_of_file(file)) is not None
    ]
    return sorted(presented, key=str) + sorted(own, key=str)


def remember_expiry(server: Server, context: ssl.SSLContext) -> None:
    """Let *context* remember when the certificate ends that *server* presents."""

    def remember(connection: ssl.SSLObject | ssl.SSLSocket) -> None:
        if (ends := end_of_peer(connection)) is not None:
            _PRESENTED[server] = ends

    class Remembering(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            remember(self)

    class RememberingSocket(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            super().do_handshake(block)
            remember(self)

    context.sslobject_class = Remembering
    context.sslsocket_class = RememberingSocket


def remember_client(server: Server, file: str | Path) -> None:
    """Remember that this process presents the certificate in *file* to *server*."""
    _FILES[server] = Path(file)


def forget() -> None:
    """Forget all servers and files, as a test does that begins."""
    _PRESENTED.clear()
    _FILES.clear()


def client_problem(server: Server, now: datetime) -> str | None:
    """
    Return why the certificate of the client in connections to *server* is not valid at *now*.

    None if it is valid, or if there is none. Many servers close the connection without a reason.
    """
    validity = _validity_of_file(_FILES[server]) if server in _FILES else None
    if validity is None or validity.begins <= now <= validity.ends:
        return None
    problem = "is not valid yet" if now < validity.begins else "has expired"
    return f"TLS: the client's certificate {problem}"


def end_of_peer(connection: ssl.SSLObject | ssl.SSLSocket) -> datetime | None:
    """Return when the certificate of the peer of *connection* ends, or None without one."""
    certificate = connection.getpeercert(binary_form=True)
    with suppress(ValueError):
        return end_of(certificate) if certificate else None
    return None


def end_of_file(file: Path) -> datetime | None:
    """Return when the first certificate of a PEM *file* ends, or None if there is none."""
    validity = _validity_of_file(file)
    return validity.ends if validity else None


def end_of(certificate: bytes) -> datetime:
    """Return when a *certificate* in DER form ends; raises ValueError if it is none."""
    return validity_of(certificate).ends


class Validity(NamedTuple):
    """The first and the last moment at which a certificate is valid."""

    begins: datetime
    ends: datetime


def validity_of(certificate: bytes) -> Validity:
    """
    Return when a *certificate* in DER form is valid; raises ValueError if it is none.

    The `ssl` module parses no certificate that it has not verified.
    """
    signed = _element(_element(certificate).content).content
    parts = list(_elements(signed))
    if parts and parts[0].tag == _VERSION:
        del parts[0]
    try:
        _serial, _algorithm, _issuer, validity, *_ = parts
        begins, ends = _elements(validity.content)
    except ValueError:
        raise ValueError("is no certificate") from None
    return Validity(_time(begins), _time(ends))


def _validity_of_file(file: Path) -> Validity | None:
    with suppress(OSError, ValueError):
        if found := _BLOCK.search(file.read_bytes()):
            return validity_of(ssl.PEM_cert_to_DER_cert(found[0].decode("ascii")))
    return None


def _time(element: "_Element") -> datetime:
    text = element.content.decode("ascii")
    if element.tag == _UTC_TIME:
        # Two digits of the year mean 1950 to 2049, as RFC 5280 says.
        text = ("20" if text < "50" else "19") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


class _Element(NamedTuple):
    """An element of DER, and the bytes after it."""

    tag: int
    content: bytes
    rest: bytes


def _elements(data: bytes) -> Iterator[_Element]:
    while data:
        element = _element(data)
        yield element
        data = element.rest


def _element(data: bytes) -> _Element:
    if len(data) < 2:  # noqa: PLR2004 - a tag and a length
        raise ValueError("is no certificate")
    tag, length, start = data[0], data[1], 2
    if length & _LONG_FORM:
        start += length - _LONG_FORM
        length = int.from_bytes(data[2:start], "big")
    end = start + length
    if end > len(data):
        raise ValueError("is no certificate")
    return _Element(tag, data[start:end], data[end:])
