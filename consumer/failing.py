"""
The messages of a consumer that have failed and wait for their next attempt. Read only.
"""

from collections.abc import Sequence

from consumer.assembly import database
from consumer.consumer import Consumer
from consumer.settings import ConsumerSettings
from consumer.storage import failing_reads
from consumer.storage.failing_reads import FailingMessage
from consumer.storage.tables import failing_messages
from outbox.database import migrate, privileges, row_access
from outbox.database.privileges import Rights
from outbox.dead_letters.source import reading

_RIGHTS: Rights = {failing_messages: ("SELECT",)}


async def failing(
    consumer: Consumer, settings: ConsumerSettings, *, limit: int
) -> Sequence[FailingMessage]:
    """
    The failing messages of *consumer* that failed last, at most *limit*.

    Raises SchemaMismatch and DatabaseUnavailable.
    """
    async with database(consumer, settings) as engine:
        await migrate.verify(engine)
        await privileges.verify(engine, _RIGHTS)
        await row_access.verify(engine, _RIGHTS)
        async with reading(engine) as connection:
            return await failing_reads.listed(connection, consumer.name, limit=limit)
