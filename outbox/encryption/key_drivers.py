"""
The engines by which a producer asks a key database: with the driver that it has.

    postgresql   psycopg, psycopg2 or asyncpg: the first one that is installed, or the one that the
                 URL names. asyncpg runs in an event loop of its own
    sqlite       sqlite3

Consumers and commands use `outbox.key_store` instead.
"""

import asyncio
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import URL

from outbox.errors import ConfigurationError
from outbox.postgres_server import PostgresServer, server_of

Answer = TypeVar("Answer")
Work = Callable[[sa.Connection], Answer]

APPLICATION = "outbox producer keys"
CONNECT_SECONDS = 3
_DRIVERS = {"psycopg": "psycopg", "psycopg_async": "psycopg", "psycopg2": "psycopg2"}
_ORDER = ("psycopg", "psycopg2", "asyncpg")


class Session(Protocol):
    """At most one connection to a key database, used by one thread at a time."""

    def run(self, work: Work[Answer], /) -> Answer:
        """Call *work* with the connection, each of whose statements is its own transaction."""
        ...

    def close(self) -> None:
        """Close the connection, if there is one."""
        ...


def session(url: URL, *, setting: str, statement_seconds: float) -> Session:
    """
    Return a session for the database of *url*, not connected yet.

    Raises ConfigurationError, which begins with *setting*, if a driver or a file is missing, and
    ValueError, which begins with MQ_DATABASE_URL, if a part of *url* cannot work.
    """
    if url.get_backend_name() == "sqlite":
        return _Direct(_sqlite(url, setting=setting, busy_seconds=statement_seconds))
    driver = _driver(url, setting=setting)
    server, pooled = server_of(url, os.environ), "pgbouncer" in url.query
    milliseconds = round(statement_seconds * 1000)
    if driver == "asyncpg":
        return _InLoop(server, pooled=pooled, milliseconds=milliseconds)
    return _Direct(_libpq(driver, server, pooled=pooled, milliseconds=milliseconds))


def _driver(url: URL, *, setting: str) -> str:
    named = url.drivername.partition("+")[2]
    wanted = (_DRIVERS.get(named, named),) if named else _ORDER
    for driver in wanted:
        try:
            importlib.import_module(driver)
        except ImportError:
            continue
        return driver
    raise ConfigurationError(f"{setting}: needs one of the packages {', '.join(wanted)}")


class _Direct:
    """A synchronous driver."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def run(self, work: Work[Answer], /) -> Answer:
        with self._engine.connect() as connection:
            return work(connection)

    def close(self) -> None:
        self._engine.dispose()


class _InLoop:
    """asyncpg, in an event loop that runs only during a call."""

    def __init__(self, server: PostgresServer, *, pooled: bool, milliseconds: int) -> None:
        # SQLAlchemy's asyncio needs greenlet, which comes with asyncpg by the extra `postgres`.
        from sqlalchemy.ext.asyncio import create_async_engine  # noqa: PLC0415

        from outbox.postgres_tls import tls_of  # noqa: PLC0415 - only this driver needs a context

        settings = {"application_name": APPLICATION}
        if not pooled:
            settings["statement_timeout"] = str(milliseconds)
        arguments: dict[str, Any] = {
            "host": [host for host, _ in server.addresses],
            "port": [port for _, port in server.addresses],
            "user": server.user,
            "password": server.password,
            "database": server.database,
            "target_session_attrs": server.target_session_attrs,
            "ssl": tls_of(server),
            "timeout": CONNECT_SECONDS,
            "server_settings": settings,
        }
        if pooled:
            arguments["statement_cache_size"] = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._engine = create_async_engine(
            sa.URL.create("postgresql+asyncpg", query=_query(pooled=pooled)),
            connect_args=arguments,
            **_ENGINE,
        )

    def run(self, work: Work[Answer], /) -> Answer:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        return self._loop.run_until_complete(self._run(work))

    async def _run(self, work: Work[Answer]) -> Answer:
        async with self._engine.connect() as connection:
            return await connection.run_sync(work)

    def close(self) -> None:
        if self._loop is not None:
            self._loop.run_until_complete(self._engine.dispose())
            self._loop.close()


_ENGINE: dict[str, Any] = {
    "pool_size": 1,
    "max_overflow": 0,
    "isolation_level": "AUTOCOMMIT",
    "hide_parameters": True,
}


def _query(*, pooled: bool) -> dict[str, str]:
    # A pooler in transaction mode may give each transaction another server connection.
    return {"prepared_statement_cache_size": "0"} if pooled else {}


def _libpq(driver: str, server: PostgresServer, *, pooled: bool, milliseconds: int) -> sa.Engine:
    """An engine for psycopg or psycopg2, whose parameters are those of libpq."""
    over_network = any(not host.startswith("/") for host, _ in server.addresses)
    arguments: dict[str, Any] = {
        "host": ",".join(host for host, _ in server.addresses),
        "port": ",".join(str(port) for _, port in server.addresses),
        "user": server.user,
        "password": server.password,
        "dbname": server.database,
        "target_session_attrs": server.target_session_attrs,
        "sslmode": server.sslmode or ("prefer" if over_network else "disable"),
        "sslrootcert": server.sslrootcert,
        "sslcert": server.sslcert,
        "sslkey": server.sslkey,
        "connect_timeout": CONNECT_SECONDS,
        "application_name": APPLICATION,
    }
    if not pooled:
        arguments["options"] = f"-c statement_timeout={milliseconds}"
    elif driver == "psycopg":
        arguments["prepare_threshold"] = None
    given = {name: value for name, value in arguments.items() if value is not None}
    if pooled and driver == "psycopg":
        given["prepare_threshold"] = None
    return sa.create_engine(f"postgresql+{driver}://", connect_args=given, **_ENGINE)


def _sqlite(url: URL, *, setting: str, busy_seconds: float) -> sa.Engine:
    if not Path(url.database or "").is_file():
        raise ConfigurationError(f"{setting}: the file does not exist: run `relay keys init`")
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=url.database),
        connect_args={"timeout": busy_seconds, "check_same_thread": False},
        poolclass=sa.QueuePool,
        **_ENGINE,
    )

    @sa.event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute("PRAGMA synchronous = FULL")

    return engine
