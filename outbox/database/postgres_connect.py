"""
Connecting to Postgres: explicit arguments for the driver, and its errors in our own words.
"""

from datetime import UTC, datetime
from typing import Any

import asyncpg  # type: ignore[import-untyped]

from outbox.certificate_expiry import client_problem
from outbox.errors import ConfigurationError, DatabaseUnavailable
from outbox.network_errors import blames_client, kind_of
from outbox.postgres_server import PostgresServer
from outbox.postgres_tls import TlsArgument

_CLOSED = "08003"
_LOGIN = {
    "28": "the server refuses user, password or certificate, or pg_hba.conf has no line for it",
    "28P01": "the server refuses the password, or the user does not exist",
    "3D000": "the database does not exist",
    "42501": "the user may not connect to the database: GRANT CONNECT ON DATABASE",
    "53300": "the server has no connection left for this user or database",
    "55000": "the database does not accept connections",
    "57P03": "the server is starting up or shutting down",
    "57P": "the server is shutting down",
    "08P01": "the server, or a connection pooler before it, refuses this kind of connection",
    _CLOSED: "the server closed the connection, as one that does not accept the client's"
    " certificate does",
    "25006": "the server is read-only, as a standby is",
}
"""Reasons by SQLSTATE, or by its beginning."""

_LASTING = ("28", "3D000", "42501")
"""A person has to change the settings or the server before a connection can succeed."""

_POOLER = {
    False: "; behind PgBouncer in transaction mode add ?pgbouncer=1",
    True: "; the log of the pooler has the reason",
}

# Not as a parameter of the connection: that would replace the role's search_path, in which a
# handler finds its own tables, and poolers refuse it.
_PUT_FIRST = (
    "SELECT set_config('search_path', concat_ws(', ', quote_ident($1),"
    " nullif(current_setting('search_path'), '')), false)"
)


def explicit_arguments(server: PostgresServer) -> dict[str, Any]:
    """
    Return the arguments by which the driver reads neither variables nor files in their place.

    The TLS argument is missing: `connect` adds it, because its files may be replaced.
    """
    return {
        "host": [host for host, _ in server.addresses],
        "port": [port for _, port in server.addresses],
        "user": server.user,
        "password": server.password,
        "database": server.database,
        "direct_tls": False,
        "target_session_attrs": server.target_session_attrs,
    }


async def connect(
    server: PostgresServer,
    tls: TlsArgument,
    *,
    pooled: bool,
    schema: str | None,
    **arguments: Any,
) -> Any:
    """
    Connect to *server* with the *arguments* of asyncpg; *schema* is the first to be searched.

    Not behind a pooler, if *pooled*: there the session belongs to other clients as well.

    Raises DatabaseUnavailable, which names the setting, the server and the reason, and
    ConfigurationError if the driver refuses its arguments.
    """
    try:
        connection = await asyncpg.connect(**arguments, ssl=_now(tls))
        if schema is not None and not pooled:
            await _search_first(connection, schema, within=arguments["timeout"])
    except (OSError, asyncpg.PostgresError) as error:
        state = getattr(error, "sqlstate", None) or ""
        reason = _reason(error, state, pooled=pooled)
        raise DatabaseUnavailable(
            f"MQ_DATABASE_URL: cannot connect to {server.shown}: {reason}",
            refused=state.startswith(_LASTING),
        ) from None
    except asyncpg.exceptions.TargetServerAttributeNotMatched:
        raise DatabaseUnavailable(
            f"MQ_DATABASE_URL: cannot connect to {server.shown}: no server is "
            f"{server.target_session_attrs}"
        ) from None
    except asyncpg.InterfaceError:
        raise ConfigurationError(
            "MQ_DATABASE_URL: the driver refuses its parameters, or those of the PG variables"
        ) from None
    return connection


def _now(tls: TlsArgument) -> Any:
    """
    Return the value of *tls* now.

    Raises DatabaseUnavailable if a file cannot be used: while a process runs, an operator may be
    replacing it.
    """
    try:
        return tls.now()
    except ConfigurationError as error:
        raise DatabaseUnavailable(str(error), refused=True) from None


async def _search_first(connection: Any, schema: str, *, within: float) -> None:
    try:
        await connection.fetchval(_PUT_FIRST, schema, timeout=within)
    except BaseException:
        connection.terminate()
        raise


def _reason(error: Exception, state: str, *, pooled: bool) -> str:
    kind = kind_of(error)
    if state == _CLOSED or (kind and blames_client(kind)):
        found = client_problem("database", datetime.now(UTC))
        if found is not None:
            return found
    if state:
        words = [_LOGIN[key] for key in (state, state[:3], state[:2]) if key in _LOGIN]
        more = _POOLER[pooled] if state == "08P01" else ""
        return f"{words[0] if words else 'the server refuses the connection'} ({state}){more}"
    if "rejected SSL upgrade" in str(error):
        return "TLS: the server does not offer TLS, or is no Postgres"
    return kind or "the connection was lost"
