"""
What processes leave behind that have ended: sessions, transactions, locks, connections.

Processes that were cut off may leave sessions that a server has yet to find dead, so that these
looks are repeated for a while, and what is there at the end of it is written down.
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
    """Write down what is there although all processes have ended."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    found = await _look(environment, engine)
    while found and time.monotonic() < deadline:
        await asyncio.sleep(INTERVAL_SECONDS)
        found = await _look(environment, engine)
    for kind, count in found.items():
        write(Leftover(time.time(), kind, count))


async def _look(environment: Environment, engine: AsyncEngine) -> dict[str, int]:
    """How many of each kind there are; kinds of which there are none are left out."""
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
