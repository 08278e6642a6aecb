"""
The publisher of omni-box, tuned.

It publishes the rows of a batch one after another, so several batches are under way at once, each
with a session of its own. Many more are slower: each claim passes over the rows that the other
ones have locked.
Each row has a partition key of its own, so no row waits for another one.
It does not delete rows: it marks them as completed.
"""

import asyncio
import logging
import os
import sys

import orjson
import structlog
import uvloop
from omni_box import OutboxPublisher
from omni_box.core.models.entities import OutboxEvent
from omni_box.core.protocols import EventPublisher, EventRepository
from omni_box.infra.storage.postgres import PostgresOutboxRepository
from omni_box.infra.storage.postgres.orm import OutboxEventDBBase
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase

from tests.benchmarks.peers.publishing import Publish, publisher

WORKERS, BATCH = 16, 250
IDLE_SECONDS = 0.1


class Base(DeclarativeBase):
    """The declarative base that the library asks for."""


class OutboxRow(OutboxEventDBBase, Base):
    """The table as the library declares it."""


class RabbitPublisher(EventPublisher):
    """Publishes through RabbitMQ; the library itself only has Kafka."""

    def __init__(self, publish: Publish) -> None:
        self._publish = publish

    async def publish(self, event: OutboxEvent, repo: EventRepository[OutboxEvent]) -> None:  # noqa: ARG002
        """Publish one event."""
        await self._publish(str(event.id), orjson.dumps(event.payload))


async def prepare() -> None:
    """Create the table."""
    engine = create_async_engine(os.environ["MQ_DATABASE_URL"])
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    await engine.dispose()
    print("ready", flush=True)


async def run() -> None:
    """Relay until the process is ended."""
    engine = create_async_engine(os.environ["MQ_DATABASE_URL"], pool_size=WORKERS, max_overflow=0)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    async with publisher() as publish, asyncio.TaskGroup() as group:
        broker = RabbitPublisher(publish)

        async def work(name: str) -> None:
            while True:
                async with sessions() as session, session.begin():
                    repository = PostgresOutboxRepository(session, model_class=OutboxRow)
                    result = await OutboxPublisher(repository, broker).publish_batch(
                        worker_id=name, batch_size=BATCH
                    )
                if not result.processed_event_ids:
                    await asyncio.sleep(IDLE_SECONDS)

        for number in range(WORKERS):
            group.create_task(work(f"worker-{number}"))
        print("ready", flush=True)


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    uvloop.run({"prepare": prepare, "run": run}[sys.argv[1]]())
