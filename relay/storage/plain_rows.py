"""
Rows of the outbox that are not encrypted.
"""

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.database.engine import DEFERRED
from outbox.database.errors import driver_errors_translated
from outbox.tables import outbox
from outbox.wire.encrypted import ENCODING
from relay.storage.waiting_keys import COUNTED_ROWS

_first = sa.select(outbox.c.content_encoding).order_by(outbox.c.id).limit(COUNTED_ROWS).subquery()
_PLAIN = (
    sa.select(sa.func.count())
    .select_from(_first)
    .where(_first.c.content_encoding.is_distinct_from(ENCODING))
)


async def count(engine: AsyncEngine) -> int:
    """Count those among the first COUNTED_ROWS. Raises DatabaseUnavailable."""
    with driver_errors_translated():
        async with engine.connect() as connection:
            await connection.execution_options(**DEFERRED)
            return int((await connection.execute(_PLAIN)).scalar_one())
