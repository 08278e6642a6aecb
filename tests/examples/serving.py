"""
Relay and consumer in the process of the test, with the loops that their own processes run.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

import consumer.service
import relay.service
from consumer import Consumer
from consumer.settings import ConsumerSettings
from consumer.storage.tables import processed_messages
from outbox.database.engine import create_engine
from outbox.tables import dead_letters
from relay.settings import RelaySettings
from tests.support.eventually import eventually

_COMPLETED = sa.select(processed_messages.c.message_id).filter_by(status="completed")


class App:
    """Access to the database of an example; `settled` waits for the consumer."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine

    async def rows(self, statement: sa.Select[Any]) -> list[tuple[Any, ...]]:
        async with self.engine.connect() as connection:
            return [tuple(row) for row in await connection.execute(statement)]

    async def settled(self, count: int) -> None:
        """Wait until *count* messages are completed or dead letters."""

        async def enough() -> bool:
            completed = await self.rows(_COMPLETED)
            return len(completed) + len(await self.reasons()) >= count

        await eventually(enough, within=20)

    async def reasons(self) -> list[str]:
        """The reasons of all dead letters."""
        rows = await self.rows(sa.select(dead_letters.c.reason).order_by(dead_letters.c.id))
        return [reason for (reason,) in rows]


@asynccontextmanager
async def database(url: str, *tables: sa.MetaData) -> AsyncIterator[App]:
    """The database at *url*, with *tables* of an example."""
    engine = create_engine(make_url(url), pool_size=5, application_name="example")
    async with engine.begin() as connection:
        for each in tables:
            await connection.run_sync(each.create_all)
    yield App(engine)
    await engine.dispose()


@asynccontextmanager
async def serving(*consumers: Consumer, database_url: str, directory: Path) -> AsyncIterator[None]:
    """Run a relay and *consumers* in this block."""
    shared: dict[str, Any] = {
        "database_url": database_url,
        "broker_url": f"sqlite:///{directory / 'broker.db'}",
        "metrics_port": 0,
    }
    of_relay = RelaySettings(**shared, poll_max_seconds=0.1)
    of_consumer = ConsumerSettings(**shared)
    # Before the relay publishes: events without a queue would wait.
    for each in consumers:
        await consumer.service.prepare(each, of_consumer)
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(relay.service.serve(of_relay, stop))
        for each in consumers:
            group.create_task(consumer.service.serve(each, of_consumer, stop))
        try:
            yield
        finally:
            stop.set()
