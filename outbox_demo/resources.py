"""
The tables and queues of a run: created before it, removed after it.

On the user's own servers the demo creates and removes only tables, rows and queues with the name
of the run.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aio_pika
import sqlalchemy as sa
from aio_pika.exceptions import AMQPError
from sqlalchemy.ext.asyncio import AsyncConnection

from consumer import assembly, service
from consumer.settings import ConsumerSettings
from consumer.storage.tables import processed_messages
from outbox.database.engine import create_engine
from outbox.database.errors import driver_errors_translated
from outbox.errors import BrokerUnavailable
from outbox.tables import dead_letters, outbox
from outbox_demo.etl import consumer_of
from outbox_demo.run import Run
from outbox_demo.tables import Tables


@dataclass(frozen=True, slots=True)
class Resources:
    """The tables and queues of *run* on the servers that *settings* name."""

    run: Run
    settings: ConsumerSettings

    async def create(self) -> None:
        """
        Create the tables, the queues and their bindings; the schema must exist.

        Raises Unavailable, and ConfigurationError for a broker with another topology.
        """
        async with self._database() as connection:
            await connection.run_sync(Tables.of(self.run).metadata.create_all)
        # Before the relay starts: it delays unroutable events by a second and more.
        await service.prepare(consumer_of(self.run), self.settings)

    async def queued(self) -> int:
        """The messages in the queue; some brokers also count those that a consumer holds."""
        consumer = consumer_of(self.run)
        queue = assembly.queues(consumer, self.settings).name
        depth = await assembly.broker(consumer, self.settings).depth(queue)
        return 0 if depth is None else depth.messages

    async def remove_from_database(self) -> None:
        """
        Remove the tables and the rows of the run.

        Raises DatabaseUnavailable.
        """
        unpublished = outbox.c.routing_key.startswith(self.run.prefix, autoescape=True)
        dead = dead_letters.c.routing_key.startswith(self.run.prefix, autoescape=True)
        processed = processed_messages.c.consumer == self.run.consumer
        async with self._database() as connection:
            await connection.execute(sa.delete(outbox).where(unpublished))
            await connection.execute(sa.delete(dead_letters).where(dead))
            await connection.execute(sa.delete(processed_messages).where(processed))
            await connection.run_sync(Tables.of(self.run).metadata.drop_all)

    async def remove_from_broker(self) -> None:
        """
        Remove the queues of the run; the embedded broker cannot remove queues, and keeps them.

        Raises BrokerUnavailable.
        """
        if self.settings.brokers[0].scheme == "sqlite":
            return
        queues = assembly.declared(consumer_of(self.run), self.settings).queues
        try:
            async with await aio_pika.connect(self.settings.brokers[0]) as connection:
                channel = await connection.channel()
                for queue in queues:
                    await channel.queue_delete(queue.name)
        except (AMQPError, OSError, TimeoutError) as error:
            raise BrokerUnavailable(type(error).__name__) from None

    @asynccontextmanager
    async def _database(self) -> AsyncIterator[AsyncConnection]:
        """A transaction on a connection of its own."""
        engine = create_engine(
            self.settings.database,
            pool_size=2,
            application_name="outbox-demo",
            schema=self.settings.database_schema,
        )
        try:
            with driver_errors_translated():
                async with engine.begin() as connection:
                    yield connection
        finally:
            await engine.dispose()
