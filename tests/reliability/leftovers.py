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

from tests.reliability.history import Record, Residue
from tests.support.environment import Environment

PATIENCE_SECONDS = 15.0
LOOK_EVERY_SECONDS = 0.25

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


async def left_behind(
    site: Environment, engine: AsyncEngine, write: Callable[[Record], None]
) -> None:
    """Write down what is there although all processes have ended."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    found = await _look(site, engine)
    while found and time.monotonic() < deadline:
        await asyncio.sleep(LOOK_EVERY_SECONDS)
        found = await _look(site, engine)
    for kind, count in found.items():
        write(Residue(time.time(), kind, count))


async def _look(site: Environment, engine: AsyncEngine) -> dict[str, int]:
    """How many of each kind there are; kinds of which there are none are left out."""
    found: dict[str, int] = {}
    async with engine.connect() as connection:
        for kind, statement in _IN_POSTGRES.items():
            found[kind] = await connection.scalar(sa.text(statement)) or 0
    depths = await site.rabbitmq.http.queues(site.vhost)
    found["messages without an answer"] = sum(depth.unacked for depth in depths.values())
    found["connections to RabbitMQ"] = len(await site.rabbitmq.http.connections(site.vhost))
    return {kind: count for kind, count in found.items() if count}
