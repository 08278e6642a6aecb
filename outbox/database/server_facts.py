"""
What a Postgres server tells about itself and about the way to it.

Every statement only reads.
"""

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncConnection

from outbox.certificate_expiry import end_of_peer
from outbox.clock_difference import ClockDifference, between
from outbox.database.engine import create_engine
from outbox.database.errors import with_deadline

_ANSWERS_WITHIN = timedelta(seconds=20)
_TURNS = 10
"""How often two connections take turns until a pooler has shown that it shares its sessions."""
_READINGS = 3
"""How often the clock is read; the quickest answer says most."""

_VERSION = sa.text("SELECT current_setting('server_version_num')::int")
_CLOCK = sa.text("SELECT clock_timestamp()")
_SESSION = sa.text("SELECT pg_backend_pid()")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """
    One Postgres server.

    Args:
        version: Its version, as in (15, 8).
        clock: The difference between its clock and that of this host.
        is_encrypted: Whether the connection from here uses TLS.
        certificate_ends: When the certificate ends that the server or the pooler has presented,
            verified or not; None without TLS.
        is_pooled: Whether a connection pooler answers in place of the server.
        shares_sessions: Whether the pooler gives one session of the server to several clients, as
            PgBouncer does in transaction mode.

    """

    version: tuple[int, ...]
    clock: ClockDifference
    is_encrypted: bool
    certificate_ends: datetime | None
    is_pooled: bool
    shares_sessions: bool


async def read(url: URL, *, application_name: str) -> ServerFacts:
    """
    Return the facts about the server of *url*, on two connections of their own.

    Raises DatabaseUnavailable and ConfigurationError.
    """
    # As behind a pooler, so that the statements succeed behind one as well.
    engine = create_engine(
        url.update_query_dict({"pgbouncer": "1"}), pool_size=2, application_name=application_name
    )
    try:
        async with (
            with_deadline(_ANSWERS_WITHIN),
            engine.connect() as first,
            engine.connect() as second,
        ):
            driver = (await first.get_raw_connection()).driver_connection
            own = await _session(first)
            is_pooled = own != _claimed_session(driver)
            return ServerFacts(
                version=_version(await _scalar(first, _VERSION)),
                clock=await _clock(first),
                is_encrypted=_tls_of(driver) is not None,
                certificate_ends=_end_of_certificate(driver),
                is_pooled=is_pooled,
                shares_sessions=is_pooled and await _share_sessions(first, second),
            )
    finally:
        await engine.dispose()


async def _share_sessions(first: AsyncConnection, second: AsyncConnection) -> bool:
    """
    Return whether both connections had the same session of the server, or one had several.

    Between transactions a pooler in transaction mode hands on the session that became free last,
    so the first turn nearly always shows it. In session mode neither ever happens.
    """
    seen: dict[AsyncConnection, set[int]] = {first: set(), second: set()}
    for _ in range(_TURNS):
        for connection, sessions in seen.items():
            sessions.add(await _session(connection))
        if seen[first] & seen[second] or len(seen[first]) > 1 or len(seen[second]) > 1:
            return True
    return False


async def _session(connection: AsyncConnection) -> int:
    return int(await _scalar(connection, _SESSION))


async def _scalar(connection: AsyncConnection, statement: sa.TextClause) -> Any:
    """Execute *statement* in a transaction of its own."""
    async with connection.begin():
        return await connection.scalar(statement)


async def _clock(connection: AsyncConnection) -> ClockDifference:
    readings = []
    for _ in range(_READINGS):
        async with connection.begin():
            before = datetime.now(UTC)
            server = await connection.scalar(_CLOCK)
            readings.append(between(server, before=before, after=datetime.now(UTC)))
    return min(readings, key=lambda reading: reading.most - reading.least)


def _version(number: int) -> tuple[int, ...]:
    return number // 10_000, number % 10_000


def _claimed_session(driver: Any) -> int:
    """The session that was announced at login; a pooler announces none of the server's."""
    return int(driver.get_server_pid())


def _tls_of(driver: Any) -> ssl.SSLObject | None:
    # asyncpg has no accessor for it, and its transport is private.
    found: ssl.SSLObject | None = driver._transport.get_extra_info("ssl_object")  # noqa: SLF001
    return found


def _end_of_certificate(driver: Any) -> datetime | None:
    tls = _tls_of(driver)
    return None if tls is None else end_of_peer(tls)
