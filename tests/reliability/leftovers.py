"""
Finds what ended processes leave behind: sessions, transactions, locks, connections.

A server may take a while to end the sessions of processes that were cut off. The checks are
therefore repeated, and what still exists at the end is recorded.
"""

import asyncio
import time
from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.reliability.history import Leftover, Record
from tests.support.environment import Environment

TIMEOUT_SECONDS = 15.0
INTERVAL_SECONDS = 0.25

_IN_POSTGRES = {
    "sessions in Postgres": """
        SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database()
        AND (application_name LIKE 'relay %' OR application_name LIKE 'consumer %')
    """,
    "open transactions": """
        SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND state LIKE 'idle in transaction%'
    """,
    "prepared transactions": """
        SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()
    """,
    "advisory locks": """
        SELECT count(*) FROM pg_locks
        WHERE locktype = 'advisory'
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    """,
}


async def record_leftovers(
    environment: Environment, engine: AsyncEngine, write: Callable[[Record], None]
) -> None:
    """Record what still exists although all processes have ended."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    found = await _look(environment, engine)
    while found and time.monotonic() < deadline:
        await asyncio.sleep(INTERVAL_SECONDS)
        found = await _look(environment, engine)
    for kind, count in found.items():
        write(Leftover(time.time(), kind, count))


async def _look(environment: Environment, engine: AsyncEngine) -> dict[str, int]:
    """The count of each kind of leftover that exists."""
    found: dict[str, int] = {}
    async with engine.connect() as connection:
        for kind, statement in _IN_POSTGRES.items():
            found[kind] = await connection.scalar(sa.text(statement)) or 0
    depths = await environment.rabbitmq.http.queues(environment.vhost)
    found["messages without an answer"] = sum(depth.unacked for depth in depths.values())
    found["connections to RabbitMQ"] = len(
        await environment.rabbitmq.http.connections(environment.vhost)
    )
    return {kind: count for kind, count in found.items() if count}
