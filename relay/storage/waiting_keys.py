"""
The routing keys of the first rows in the outbox.
"""

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.checks.unroutable import Waiting
from outbox.database.engine import DEFERRED
from outbox.database.errors import driver_errors_translated
from outbox.tables import outbox

COUNTED_ROWS = 10_000
"""A count of all rows would read the whole table."""
MOST_KEYS = 100

# The index on the primary key gives the first rows, however many there are.
_FIRST = sa.select(outbox.c.exchange, outbox.c.routing_key).order_by(outbox.c.id)
_first = _FIRST.limit(COUNTED_ROWS).subquery()
_events = sa.func.count()
_KEYS = (
    sa.select(_first.c.exchange, _first.c.routing_key, _events.label("events"))
    .group_by(_first.c.exchange, _first.c.routing_key)
    .order_by(_events.desc(), _first.c.routing_key)
    .limit(MOST_KEYS)
)


async def read(engine: AsyncEngine, *, exchange: str) -> list[Waiting]:
    """
    Return the most frequent routing keys of the first rows; *exchange* is that of rows without.

    Raises DatabaseUnavailable.
    """
    with driver_errors_translated():
        async with engine.connect() as connection:
            await connection.execution_options(**DEFERRED)
            found = (await connection.execute(_KEYS)).all()
    return [
        Waiting(exchange if row.exchange is None else row.exchange, row.routing_key, row.events)
        for row in found
    ]
