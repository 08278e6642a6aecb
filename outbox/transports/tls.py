"""
The context of TLS for a broker, from the URL that names its files.
"""

import ssl

from yarl import URL

from outbox.certificate_expiry import remember_client, remember_expiry
from outbox.errors import BrokerUnavailable, ConfigurationError
from outbox.tls_files import context_with, load_certificate

_SCHEMES = {"amqps", "rediss"}


def context_of(url: URL, *, address: str) -> ssl.SSLContext | None:
    """
    Return a context that verifies the broker at *url*, with the files that its query names.

    None for plaintext. `no_verify_ssl`, which the settings refuse without MQ_ALLOW_INSECURE,
    switches the verification off.
    Raises BrokerUnavailable, which names *address*, if a file cannot be used: while a process
    runs, an operator may be replacing it.
    """
    query = url.query
    if url.scheme not in _SCHEMES:
        return None
    try:
        context = context_with(
            "capath" if "capath" in query and "cafile" not in query else "cafile",
            query.get("cafile"),
            query.get("capath"),
        )
        if certificate := query.get("certfile"):
            load_certificate("certfile, keyfile", context, certificate, query.get("keyfile"))
            remember_client("broker", certificate)
    except ConfigurationError as error:
        raise BrokerUnavailable(f"to {address}: {error}", refused=True) from None
    if query.get("no_verify_ssl", "0") != "0":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    remember_expiry("broker", context)
    return context
