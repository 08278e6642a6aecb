"""
Why a connection could not be made, in words for an operator and without the texts of libraries.

Those texts may quote addresses, certificates or the URL with its password.
"""

import errno
import re
import socket
import ssl
from collections.abc import Iterator

_CERTIFICATE = {
    9: "is not valid yet",
    10: "has expired",
    18: "is self-signed, and not in the file of authorities",
    19: "is signed by an unknown authority",
    20: "is signed by an unknown authority",
    21: "is signed by an unknown authority",
    23: "has been revoked",
    62: "is for another host name",
    64: "is for another IP address",
}
"""Codes of OpenSSL, X509_V_ERR_..."""

_NO_TLS = {
    "WRONG_VERSION_NUMBER",
    "RECORD_LAYER_FAILURE",
    "HTTP_REQUEST",
    "PACKET_LENGTH_TOO_LONG",
}

_OF_CLIENT = {
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the server demands a certificate of the client",
    "TLSV1_ALERT_UNKNOWN_CA": "the server does not know the authority of the client's certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the client's certificate has expired",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the server does not accept the client's certificate",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "the server does not accept the client's certificate",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "the server refuses the handshake, as one that demands a"
    " certificate of the client does, or that shares no cipher with it",
}
"""Alerts by which a server refuses the certificate of the client, in the words of OpenSSL."""

_VERSIONS = {
    "TLSV1_ALERT_PROTOCOL_VERSION",
    "UNSUPPORTED_PROTOCOL",
    "NO_PROTOCOLS_AVAILABLE",
}
"""Faults of a handshake without a version of TLS that both sides accept."""

_TLS = "TLS: "
_HANDSHAKE_FAILED = "the handshake failed"

CLOSED = "the server closed the connection"

_CONNECTION = {
    errno.ECONNREFUSED: "connection refused: no server listens there",
    errno.ETIMEDOUT: "no answer in time",
    errno.EHOSTUNREACH: "there is no route to the host",
    errno.ENETUNREACH: "there is no route to the host",
    errno.ECONNRESET: CLOSED,
    errno.ECONNABORTED: CLOSED,
    errno.EPIPE: CLOSED,
    errno.ENOENT: "no server listens on the socket",
    errno.EACCES: "the socket may not be used by this user",
    errno.EMFILE: "this process has too many open files",
    errno.EADDRNOTAVAIL: "the address cannot be used",
}

# asyncio joins the errors of all addresses of a host into the text of one error without a number.
_NUMBER = re.compile(r"\[Errno (\d+)\]")


def kind_of(error: BaseException) -> str | None:
    """Return in words why *error* ended a connection, or None if it is no error of the network."""
    found = [kind for each in _chain(error) if (kind := _kind(each)) is not None]
    return found[0] if found else None


def blames_client(kind: str) -> bool:
    """Return whether *kind* of a failure may come from a certificate of the client."""
    return kind == CLOSED or kind.removeprefix(_TLS) in _OF_CLIENT.values()


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The *error* after its causes: clients wrap the errors of the network in their own."""
    causes = [error]
    while (cause := causes[-1].__cause__) is not None and cause not in causes:
        causes.append(cause)
    yield from reversed(causes)


def _kind(error: BaseException) -> str | None:
    match error:
        case ssl.SSLError():
            return f"{_TLS}{_tls_fault(error)}"
        case socket.gaierror():
            return "the host name cannot be resolved"
        case TimeoutError():
            return "no answer in time"
        case EOFError():
            return CLOSED
        case OSError():
            return _CONNECTION.get(_number(error))
    return None


def _tls_fault(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        fault = _CERTIFICATE.get(error.verify_code, "is not accepted")
        return f"the server's certificate {fault}"
    if error.reason in _NO_TLS:
        return "the port does not speak TLS"
    if error.reason in _VERSIONS:
        return "the server speaks no version of TLS that is accepted: 1.2 or 1.3"
    if (refusal := _OF_CLIENT.get(error.reason)) is not None:
        return refusal
    return f"the handshake failed ({error.reason.lower()})" if error.reason else _HANDSHAKE_FAILED


def _number(error: OSError) -> int:
    if error.errno is None and (numbers := _NUMBER.findall(str(error))):
        return int(numbers[-1])
    if error.errno is None and isinstance(error, ConnectionRefusedError):
        return errno.ECONNREFUSED
    if error.errno is None and isinstance(error, ConnectionError):
        return errno.ECONNRESET  # "the connection was lost", in the words of asyncio and asyncpg
    return error.errno or 0
