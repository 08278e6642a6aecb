"""
Partitions that the code of a consumer has no more.
"""

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from consumer import Consumer
from consumer.service import refuse_unread_partitions
from consumer.settings import ConsumerSettings
from consumer.storage.generations import Generation, Generations, State
from consumer.storage.tables import consumer_generations, consumer_partitions
from outbox.errors import ConfigurationError


@pytest.fixture
async def engine(tmp_path):
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/consumer.db")
    async with engine.begin() as connection:
        for table in (consumer_generations, consumer_partitions):
            await connection.run_sync(table.create)
    yield engine
    await engine.dispose()


async def test_a_consumer_that_would_not_read_its_partitions_is_refused(engine, tmp_path):
    def settings(broker):
        return ConsumerSettings(
            _env_file=None,
            database_url="sqlite+aiosqlite:///consumer.db",
            broker_url=broker,
        )

    rabbitmq = settings("amqp://localhost/")
    embedded = settings(f"sqlite:///{tmp_path}/broker.db")
    before = Consumer("etl", bindings=["#"], ordered=True)
    await refuse_unread_partitions(before, rabbitmq, engine)
    async with engine.begin() as connection:
        await Generations("etl").add(connection, Generation(0, 1, State.DRAINING))
        await Generations("etl").add(connection, Generation(1, 4, State.CURRENT))

    with pytest.raises(ConfigurationError, match="declare it with partitions=4"):
        await refuse_unread_partitions(before, rabbitmq, engine)

    after = Consumer("etl", bindings=["#"], ordered=True, partitions=8)
    for consumer, found in ((after, rabbitmq), (before, embedded)):
        await refuse_unread_partitions(consumer, found, engine)
