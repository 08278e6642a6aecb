"""
The TLS argument of asyncpg, as `sslmode` of libpq means it.
"""

import ssl

from outbox.certificate_expiry import remember_client, remember_expiry
from outbox.errors import ConfigurationError
from outbox.postgres_server import PostgresServer
from outbox.tls_files import SYSTEM, Stamp, context_with, load_certificate, stamp_of


class TlsArgument:
    """
    The TLS argument for new connections to *server*, with its files as they are.

    They are read again when one was replaced, and not each time: the authorities of the operating
    system take 50 ms of the event loop. Raises ConfigurationError if a file cannot be used.
    """

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._stamp = self._stamp_now()
        self._value = tls_of(server)

    def now(self) -> ssl.SSLContext | str | bool:
        """
        Return the argument.

        Raises ConfigurationError if a file cannot be used now.
        """
        stamp = self._stamp_now()
        if stamp != self._stamp:
            self._value = tls_of(self._server)
            self._stamp = stamp
        return self._value

    def _stamp_now(self) -> Stamp:
        server = self._server
        return stamp_of(server.sslrootcert or SYSTEM, server.sslcert, server.sslkey)


def tls_of(server: PostgresServer) -> ssl.SSLContext | str | bool:
    """
    Return the context, the mode that the driver implements itself, or False for plaintext.

    Raises ConfigurationError if a file with certificates or a key cannot be used, or if there is
    a key without a certificate.
    """
    over_network = any(not host.startswith("/") for host, _ in server.addresses)
    mode = server.sslmode or ("prefer" if over_network else "disable")
    if mode == "disable":
        return False
    if server.sslkey and not server.sslcert:
        raise ConfigurationError(
            "PGSSLKEY: is set, and PGSSLCERT is not: name the certificate of the key too"
        )
    verifies = mode not in {"allow", "prefer"}
    if not verifies and server.sslcert is None:
        return mode
    context = context_with(
        "MQ_DATABASE_URL: sslrootcert", server.sslrootcert if verifies else None
    )
    if server.sslcert:
        load_certificate(server.certificate_setting, context, server.sslcert, server.sslkey)
        remember_client("database", server.sslcert)
    if not verifies:
        return mode  # the driver makes its own context, with the same certificate
    context.check_hostname = mode == "verify-full"
    if mode == "require" and server.sslrootcert is None:
        context.verify_mode = ssl.CERT_NONE
    remember_expiry("database", context)
    return context
