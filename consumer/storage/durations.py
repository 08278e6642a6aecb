"""
Durations of handler calls, written to the rows of the dedup store once a second, many at once.

In the handler's transaction they would cost one more round trip for each message. Written later,
they still cost a second version of the row: measured, a tenth of a busy consumer's rate. So only a
sample of each second is written.
A process that ends loses the durations that it has not written; no other part depends on them.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from functools import cache

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from consumer.storage.tables import processed_messages
from consumer.storage.values_table import ValuesTable
from outbox.database.errors import driver_errors_translated
from outbox.errors import DatabaseUnavailable
from outbox.runtime.service import pause
from outbox.runtime.shield import commit

WRITE_EVERY = timedelta(seconds=1)
SAMPLE = 100
"""At most this number of durations, the first ones, are written each second."""

Durations = Mapping[str, timedelta]
"""Durations of handler calls, by the idempotency key of their message."""


class DurationWriter:
    """
    Writes durations to the rows of one *consumer*.

    *take* returns the durations since its last call, at most `SAMPLE`.
    """

    def __init__(self, engine: AsyncEngine, consumer: str, take: Callable[[], Durations]) -> None:
        self._engine = engine
        self._consumer = consumer
        self._take = take

    async def run(self, stop: asyncio.Event) -> None:
        """Write each second until *stop* is set, and once more."""
        while not stop.is_set():
            await pause(stop, WRITE_EVERY)
            await self.write()

    async def write(self) -> None:
        """Write the durations since the last call; `Worker` reports an unavailable database."""
        durations = self._take()
        if not durations:
            return
        with suppress(DatabaseUnavailable), driver_errors_translated():
            async with self._engine.connect() as connection:
                await record_durations(connection, self._consumer, durations)
                await commit(connection)


async def record_durations(
    connection: AsyncConnection, consumer: str, durations: Durations
) -> None:
    """
    Add *durations* to completed messages of *consumer*.

    Rows that other transactions have locked are left out, so that no transaction waits.
    """
    rows = [(key, duration.total_seconds()) for key, duration in durations.items()]
    if connection.dialect.name == "sqlite":
        # A join would read all rows of the consumer as long as SQLite has no statistics.
        each = [{"of_consumer": consumer, "key": key, "took": took} for key, took in rows]
        await connection.execute(_UPDATE_ONE, each)
        return
    parameters = {"of_consumer": consumer, **_durations().parameters(rows)}
    await connection.execute(_update(), parameters)


_UPDATE_ONE = (
    sa.update(processed_messages)
    .where(
        processed_messages.c.consumer == sa.bindparam("of_consumer"),
        processed_messages.c.idempotency_key == sa.bindparam("key"),
    )
    .values(processing_duration_seconds=sa.bindparam("took"))
)


@cache
def _durations() -> ValuesTable:
    return ValuesTable("postgresql", {"idempotency_key": sa.Text(), "seconds": sa.Double()})


@cache
def _update() -> sa.Executable:
    table, given = processed_messages, _durations().table.c
    is_own = table.c.consumer == sa.bindparam("of_consumer", type_=sa.Text)
    rows = sa.select(table.c.idempotency_key, given.seconds).where(
        is_own, table.c.idempotency_key == given.idempotency_key
    )
    # A transaction that waits for no lock takes part in no deadlock.
    free = rows.with_for_update(of=table, skip_locked=True).subquery("free")
    return (
        sa.update(table)
        .where(is_own, table.c.idempotency_key == free.c.idempotency_key)
        .values(processing_duration_seconds=free.c.seconds)
    )
