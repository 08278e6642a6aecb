"""
The server, the login and the TLS mode that a URL of Postgres means, with the PG variables.

The driver fills gaps of the URL from variables such as PGHOST. What it would read is read here
instead, so that it is checked like the URL, and the driver gets every value explicitly.
"""

import getpass
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.engine import URL

SOCKETS = ("/run/postgresql", "/var/run/postgresql", "/tmp")  # noqa: S108 - where servers listen
USUAL_PORT = 5432
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
SESSION_ATTRIBUTES = (
    "any",
    "primary",
    "standby",
    "prefer-standby",
    "read-write",
    "read-only",
)

_OTHER_HOSTS = ("PGSERVICE", "PGHOSTADDR")
"""Variables in which programs with libpq find a host, and this driver does not."""


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """
    All that a connection needs to know; *addresses* are pairs of a host or directory and a port.

    The password may be missing: then the driver looks in the password file. Errors about the
    certificate of the client begin with *certificate_setting*.
    """

    addresses: Sequence[tuple[str, int]]
    user: str
    password: str | None
    database: str
    sslmode: str | None
    sslrootcert: str | None
    sslcert: str | None
    sslkey: str | None
    certificate_setting: str
    target_session_attrs: str

    @property
    def shown(self) -> str:
        """The addresses for an error message."""
        return ", ".join(
            f"{host}/.s.PGSQL.{port}" if host.startswith("/") else f"{host}:{port}"
            for host, port in self.addresses
        )


def server_of(url: URL, variables: Mapping[str, str]) -> PostgresServer:
    """
    Return the server of *url*, whose gaps are filled from *variables* of the environment.

    Raises ValueError, with a text that names the setting and no value, if a part cannot work.
    """
    user = url.username or variables.get("PGUSER") or _user_of_process()
    password = url.password or variables.get("PGPASSWORD")
    return PostgresServer(
        addresses=tuple(_addresses(url, variables)),
        user=user,
        password=str(password) if password else None,
        database=url.database or variables.get("PGDATABASE") or user,
        sslmode=_one_of(SSL_MODES, "sslmode", "PGSSLMODE", url, variables),
        sslrootcert=_text(url, "sslrootcert") or variables.get("PGSSLROOTCERT") or None,
        sslcert=_text(url, "sslcert") or variables.get("PGSSLCERT") or None,
        sslkey=_text(url, "sslkey") or variables.get("PGSSLKEY") or None,
        certificate_setting="MQ_DATABASE_URL: sslcert, sslkey"
        if "sslcert" in url.query
        else "PGSSLCERT, PGSSLKEY",
        target_session_attrs=_one_of(
            SESSION_ATTRIBUTES, "target_session_attrs", "PGTARGETSESSIONATTRS", url, variables
        )
        or "any",
    )


def _addresses(url: URL, variables: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    in_query = _texts(url, "host")
    if in_query and url.host:
        raise ValueError("MQ_DATABASE_URL: has a host before the path and another one in ?host=")
    hosts: Sequence[str]
    if in_query:
        hosts = in_query
    elif url.host:
        # A host in brackets is an IPv6 address, whose colons separate no port.
        hosts = [f"[{url.host}]" if ":" in url.host else url.host]
    elif variables.get("PGHOST"):
        hosts = variables["PGHOST"].split(",")
    elif found := [name for name in _OTHER_HOSTS if variables.get(name)]:
        raise ValueError(f"MQ_DATABASE_URL: has no host, and {found[0]} is not read: add a host")
    else:
        hosts = [*SOCKETS, "localhost"]
    ports = _ports(url, variables)
    if len(ports) not in {1, len(hosts)}:
        raise ValueError(
            "MQ_DATABASE_URL: has another number of hosts than of ports, which PGPORT may name"
        )
    for number, host in enumerate(hosts):
        yield _address(host.strip(), ports[number % len(ports)])


def _ports(url: URL, variables: Mapping[str, str]) -> list[int]:
    if url.port is not None:
        return [url.port]
    if in_query := _texts(url, "port"):
        return [_port("MQ_DATABASE_URL", text) for text in in_query]
    in_variable = variables.get("PGPORT") or str(USUAL_PORT)
    return [_port("PGPORT", text) for text in in_variable.split(",")]


def _address(host: str, port: int) -> tuple[str, int]:
    if not host:
        raise ValueError("MQ_DATABASE_URL: a host of the list is empty")
    if host.startswith("/"):
        return host, port
    if host.startswith("["):
        name, _, own_port = host[1:].partition("]")
        own_port = own_port.removeprefix(":")
    elif host.count(":") > 1:  # an IPv6 address without brackets has no port
        name, own_port = host, ""
    else:
        name, _, own_port = host.partition(":")
    return name, _port("MQ_DATABASE_URL", own_port) if own_port else port


def _port(setting: str, text: str) -> int:
    if not (text.strip().isdecimal() and 0 < int(text) < 65_536):  # noqa: PLR2004 - ports of TCP
        raise ValueError(f"{setting}: a port must be a number from 1 to 65535")
    return int(text)


def _one_of(
    allowed: Sequence[str], parameter: str, name: str, url: URL, variables: Mapping[str, str]
) -> str | None:
    of_url = _text(url, parameter)
    value = of_url or variables.get(name)
    if not value:
        return None
    if value not in allowed:
        where = f"MQ_DATABASE_URL: {parameter}" if of_url else name
        raise ValueError(f"{where}: must be one of {', '.join(allowed)}")
    return value


def _text(url: URL, parameter: str) -> str | None:
    value = url.query.get(parameter)
    if isinstance(value, tuple):
        raise ValueError(f"MQ_DATABASE_URL: {parameter} is there twice")  # noqa: TRY004 - a value
    return value or None


def _texts(url: URL, parameter: str) -> list[str]:
    value = url.query.get(parameter, ())
    parts = [value] if isinstance(value, str) else list(value)
    return [each for part in parts for each in part.split(",")]


def _user_of_process() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        raise ValueError("MQ_DATABASE_URL: has no user") from None
