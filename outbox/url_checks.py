"""
The server URLs that settings refuse: unknown schemes, and insecure connections beyond loopback.
"""

from sqlalchemy.engine import URL
from yarl import URL as BrokerUrl  # noqa: N811 - the URL class of aio-pika

_LOOPBACK = {"localhost", "127.0.0.1", "::1", "", None}
_DATABASE_PARAMETERS = {
    "host",
    "port",
    "sslmode",
    "sslrootcert",
    "pgbouncer",
    "target_session_attrs",
    "prepared_statement_cache_size",
}


def check_database(url: URL, *, allow_insecure: bool) -> None:
    """Raise ValueError if the process must not connect to the database at *url*."""
    scheme = url.drivername.split("+")[0]
    if scheme == "sqlite":
        if not url.database or url.database == ":memory:":
            raise ValueError("MQ_DATABASE_URL: SQLite needs a file, as in sqlite:///outbox.db")
        return
    if scheme != "postgresql":
        raise ValueError("MQ_DATABASE_URL: scheme must be postgresql or sqlite")
    unknown = set(url.query) - _DATABASE_PARAMETERS
    if unknown:
        raise ValueError(f"MQ_DATABASE_URL: unknown parameter {min(unknown)}")
    hosts = [url.host, *_as_list(url.query.get("host", ()))]
    local = all(host is None or _is_local(host) for host in hosts)
    if not local and not allow_insecure and url.query.get("sslmode") != "verify-full":
        raise ValueError(
            "MQ_DATABASE_URL: beyond loopback add ?sslmode=verify-full, "
            "or set MQ_ALLOW_INSECURE=true"
        )


def check_broker(url: BrokerUrl, *, allow_insecure: bool) -> None:
    """Raise ValueError if the process must not connect to the broker at *url*."""
    if url.scheme == "sqlite":
        if len(url.path) <= 1:
            raise ValueError("MQ_BROKER_URL: SQLite needs a file, as in sqlite:///broker.db")
        return
    if url.scheme not in {"amqp", "amqps"}:
        raise ValueError("MQ_BROKER_URL: scheme must be amqps, amqp or sqlite")
    if allow_insecure or url.host in _LOOPBACK:
        return
    if url.scheme == "amqp":
        raise ValueError("MQ_BROKER_URL: beyond loopback use amqps, or set MQ_ALLOW_INSECURE=true")
    if url.query.get("no_verify_ssl", "0") != "0":
        raise ValueError("MQ_BROKER_URL: no_verify_ssl needs MQ_ALLOW_INSECURE=true")
    if url.user in {None, "guest"}:
        raise ValueError("MQ_BROKER_URL: guest credentials need MQ_ALLOW_INSECURE=true")


def _as_list(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _is_local(host: str) -> bool:
    # "host:port" as in SQLAlchemy's multihost form; a path is a Unix socket.
    return host.startswith("/") or host.rsplit(":", 1)[0] in _LOOPBACK or host in _LOOPBACK
