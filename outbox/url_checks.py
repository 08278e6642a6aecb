"""
The server URLs that settings refuse: unknown schemes, and insecure connections beyond loopback.
"""

import os
import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from outbox import redis_urls
from outbox.postgres_server import PostgresServer, server_of
from outbox.setting_words import EMPTY, NO_SCHEME, NOT_A_URL

if TYPE_CHECKING:
    # The URL class of aio-pika. A producer may lack it, and checks the URL of a key database.
    from yarl import URL as BrokerUrl  # noqa: N811

_LOOPBACK = {"localhost", "127.0.0.1", "::1", "", None}
_DATABASE_PARAMETERS = {
    "host",
    "port",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "pgbouncer",
    "target_session_attrs",
    "prepared_statement_cache_size",
}
_FILES_OF_DATABASE = {
    "sslrootcert": "no certificate is verified",
    "sslcert": "TLS is not certain",
    "sslkey": "TLS is not certain",
}
_NOT_IN_HOSTS = set("@?# \t")
_BROKER_PARAMETERS = {
    "auth",
    "cafile",
    "capath",
    "certfile",
    "heartbeat",
    "keyfile",
    "name",
    "no_verify_ssl",
    "timeout",
}
_BROKERS: dict[str, tuple[str, AbstractSet[str]]] = {
    "amqp": ("amqps", _BROKER_PARAMETERS),
    "amqps": ("amqps", _BROKER_PARAMETERS),
    "redis": ("rediss", redis_urls.PARAMETERS),
    "rediss": ("rediss", redis_urls.PARAMETERS),
}
"""The scheme with TLS, and the parameters, of each scheme of a server."""
_MANAGEMENT_PARAMETERS = {"cafile", "certfile", "keyfile"}
_FILES_OF_TLS = ("cafile", "capath", "certfile", "keyfile")
_VERIFYING_MODES = {"require", "verify-ca", "verify-full"}
"""Modes in which a file with authorities is read; `require` verifies only with such a file."""


_NO_PARAMETERS = (
    "a SQLite URL has no parameters: write ? and # in the name of a file as %3F and %23"
)


def database_url(text: str) -> URL:
    """Return *text*, the MQ_DATABASE_URL, parsed; raises ValueError if it is none."""
    if not text:
        raise ValueError(f"MQ_DATABASE_URL: {EMPTY}")
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        # A ValueError quotes the text in the place of the port, which is often a password.
        problem = NOT_A_URL if "://" in text else NO_SCHEME
        raise ValueError(f"MQ_DATABASE_URL: {problem}") from None
    # make_url drops a text behind ? that has no =, and would open another file.
    if url.drivername.startswith("sqlite") and "?" in text:
        raise ValueError(f"MQ_DATABASE_URL: {_NO_PARAMETERS}")
    # SQLAlchemy does not know this scheme of libpq.
    return url.set(drivername="postgresql") if url.drivername == "postgres" else url


def check_database(url: URL, *, allow_insecure: bool) -> None:
    """Raise ValueError if the process must not connect to the database at *url*."""
    scheme = url.drivername.split("+")[0]
    if scheme == "sqlite":
        if not url.database or url.database == ":memory:":
            raise ValueError("MQ_DATABASE_URL: SQLite needs a file, as in sqlite:///outbox.db")
        return
    if scheme != "postgresql":
        raise ValueError("MQ_DATABASE_URL: scheme must be postgresql or sqlite")
    server = _checked_server(url)
    if not _is_local(server) and not allow_insecure and server.sslmode != "verify-full":
        raise ValueError(
            f"MQ_DATABASE_URL: beyond loopback{_source_of_host(url)} add ?sslmode=verify-full, "
            "or set MQ_ALLOW_INSECURE=true"
        )
    _check_files_of_database(url, server)


def _check_files_of_database(url: URL, server: PostgresServer) -> None:
    """Raise ValueError if a file for TLS that *url* names would be ignored."""
    for name, purpose in _FILES_OF_DATABASE.items():
        if name in url.query and server.sslmode not in _VERIFYING_MODES:
            raise ValueError(
                f"MQ_DATABASE_URL: {name} needs sslmode=verify-full; with this mode {purpose}"
            )
    if "sslkey" in url.query and "sslcert" not in url.query:
        raise ValueError(
            "MQ_DATABASE_URL: has sslkey without sslcert: name the certificate of the key too"
        )


def is_local(url: URL) -> bool:
    """Return whether the checked database at *url* is a file, or a server on this host."""
    return url.drivername.startswith("sqlite") or _is_local(server_of(url, os.environ))


def _is_local(server: PostgresServer) -> bool:
    return all(host.startswith("/") or host in _LOOPBACK for host, _ in server.addresses)


def check_schema(url: URL, schema: str | None) -> None:
    """Raise ValueError if the database at *url* has no schemas, and *schema* names one."""
    if schema is not None and url.get_backend_name() == "sqlite":
        raise ValueError("MQ_DATABASE_SCHEMA: a SQLite file has no schemas: remove it")


def check_broker(url: "BrokerUrl", *, allow_insecure: bool) -> None:
    """Raise ValueError if the process must not connect to the broker at *url*."""
    _check_broker_parts(url)
    if url.scheme == "sqlite":
        return
    if allow_insecure or url.host in _LOOPBACK:
        return
    if url.scheme != (secure := _BROKERS[url.scheme][0]):
        raise ValueError(
            f"MQ_BROKER_URL: beyond loopback use {secure}, or set MQ_ALLOW_INSECURE=true"
        )
    if url.query.get("no_verify_ssl", "0") != "0":
        raise ValueError("MQ_BROKER_URL: no_verify_ssl needs MQ_ALLOW_INSECURE=true")
    if url.scheme in redis_urls.SCHEMES:
        if url.password is None and "certfile" not in url.query:
            raise ValueError("MQ_BROKER_URL: has no password: that needs MQ_ALLOW_INSECURE=true")
    elif url.user in {None, "guest"}:
        raise ValueError("MQ_BROKER_URL: guest credentials need MQ_ALLOW_INSECURE=true")


def check_brokers(urls: Sequence["BrokerUrl"]) -> None:
    """Raise ValueError if *urls*, the list of MQ_BROKER_URL, are not those of one broker."""
    if len({url.scheme for url in urls}) > 1:
        raise ValueError("MQ_BROKER_URL: all URLs of the list must have one scheme")
    if urls[0].scheme in redis_urls.SCHEMES:
        redis_urls.check_list(urls)


def broker_url(text: str) -> "BrokerUrl":
    """
    Return *text* as a URL.

    Raises ValueError also if a user or password has a character that ends it too early.
    """
    from yarl import URL as BrokerUrl  # noqa: N811, PLC0415 - a producer may lack it

    after_authority = re.split(r"[/?#]", text.partition("://")[2], maxsplit=1)[1:]
    if any("@" in part for part in after_authority):
        raise ValueError
    return BrokerUrl(text)


def management_url(text: str) -> "BrokerUrl":
    """Return *text* as a URL, or raise ValueError."""
    if not text.strip():
        raise ValueError(f"MQ_MANAGEMENT_URL: {EMPTY}")
    try:
        return broker_url(text.strip())
    except ValueError:
        raise ValueError(f"MQ_MANAGEMENT_URL: {NOT_A_URL}") from None


def check_management(url: "BrokerUrl", *, allow_insecure: bool) -> None:
    """Raise ValueError if the process must not ask RabbitMQ's management API at *url*."""
    if url.scheme not in {"http", "https"} or url.host is None:
        raise ValueError("MQ_MANAGEMENT_URL: must be a URL as in https://user:password@host:15671")
    if set(url.query) - _MANAGEMENT_PARAMETERS:
        known = ", ".join(sorted(_MANAGEMENT_PARAMETERS))
        raise ValueError(f"MQ_MANAGEMENT_URL: has a parameter that is none of {known}")
    _check_tls_parameters("MQ_MANAGEMENT_URL", url, scheme="https")
    if allow_insecure or url.host in _LOOPBACK:
        return
    if url.scheme == "http":
        raise ValueError(
            "MQ_MANAGEMENT_URL: beyond loopback use https, or set MQ_ALLOW_INSECURE=true"
        )
    if url.user in {None, "guest"}:
        raise ValueError("MQ_MANAGEMENT_URL: guest credentials need MQ_ALLOW_INSECURE=true")


def _checked_server(url: URL) -> PostgresServer:
    """The server of *url*; raises ValueError if a part of the URL cannot work."""
    unknown = set(url.query) - _DATABASE_PARAMETERS
    if unknown:
        known = ", ".join(sorted(_DATABASE_PARAMETERS))
        raise ValueError(f"MQ_DATABASE_URL: has a parameter that is none of {known}")
    cache_size = str(url.query.get("prepared_statement_cache_size", "0"))
    if not cache_size.isdecimal():
        raise ValueError("MQ_DATABASE_URL: prepared_statement_cache_size must be a whole number")
    if "://" in (url.database or "") or "," in (url.host or ""):
        raise ValueError(
            "MQ_DATABASE_URL: must be one URL: several hosts are ?host=a:5432&host=b:5432"
        )
    server = server_of(url, os.environ)
    if any(set(host) & _NOT_IN_HOSTS for host, _ in server.addresses):
        # The rest of a password, if its @ is not written as %40.
        raise ValueError(f"MQ_DATABASE_URL: {NOT_A_URL}")
    return server


def _source_of_host(url: URL) -> str:
    return "" if url.host or "host" in url.query else " (the host is that of PGHOST)"


def _check_broker_parts(url: "BrokerUrl") -> None:
    if url.scheme == "sqlite":
        if url.path in {"", "/", "/:memory:"}:
            raise ValueError("MQ_BROKER_URL: SQLite needs a file, as in sqlite:///broker.db")
        if url.query or url.fragment:
            # Otherwise a#1.db and a#2.db would be one file, and their services share one broker.
            raise ValueError(f"MQ_BROKER_URL: {_NO_PARAMETERS}")
        return
    if url.scheme not in _BROKERS:
        raise ValueError("MQ_BROKER_URL: scheme must be amqps, amqp, rediss, redis or sqlite")
    if url.host is None:
        raise ValueError("MQ_BROKER_URL: has no host")
    encrypted, parameters = _BROKERS[url.scheme]
    if set(url.query) - parameters:
        known = ", ".join(sorted(parameters))
        raise ValueError(f"MQ_BROKER_URL: has a parameter that is none of {known}")
    _check_tls_parameters("MQ_BROKER_URL", url, scheme=encrypted)
    if url.scheme in redis_urls.SCHEMES:
        redis_urls.check(url)


def _check_tls_parameters(setting: str, url: "BrokerUrl", *, scheme: str) -> None:
    """Raise ValueError if a parameter of *url* for TLS would be ignored."""
    for name in (*_FILES_OF_TLS, "no_verify_ssl"):
        if name not in url.query:
            continue
        if url.scheme != scheme:
            raise ValueError(f"{setting}: {name} needs {scheme}")
        if not url.query[name]:
            raise ValueError(f"{setting}: {name} is empty: give it a value, or remove it")
    if "keyfile" in url.query and "certfile" not in url.query:
        raise ValueError(
            f"{setting}: has keyfile without certfile: name the certificate of the key too"
        )
