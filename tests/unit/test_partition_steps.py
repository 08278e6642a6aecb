"""
The steps from one number of partitions to another, with a broker that does all it is asked for.
"""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from consumer.partition_queues import PartitionQueues
from consumer.partitions.dead_lettering import DeadLettering
from consumer.partitions.scaling import Scaling
from consumer.queues import ConsumerQueues
from consumer.storage.generations import State
from consumer.storage.tables import consumer_generations, consumer_members, consumer_partitions
from outbox.errors import ConfigurationError

QUEUES = PartitionQueues(ConsumerQueues("q", ["#"], []), "main", "dlx")


class Broker:
    """It has no queue with a message."""

    async def declare(self, topology):
        """Take every topology."""

    async def verify(self, topology):
        """Have every topology."""

    async def remove(self, _topology):
        return []

    async def depth(self, _queue):
        return None


@asynccontextmanager
async def steps(tmp_path, *, message_ttl=None, management=None):
    """The steps of a consumer, with the database that has its generations."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/consumer.db")
    tables = (consumer_generations, consumer_partitions, consumer_members)
    async with engine.begin() as connection:
        for table in tables:
            await connection.run_sync(table.create)
    dead_lettering = DeadLettering(
        replace(QUEUES.base, message_ttl=message_ttl), management, quiet_for=timedelta(0)
    )
    scaling = Scaling("etl", engine, Broker(), QUEUES, dead_lettering, overlap=timedelta(0))
    try:
        yield SimpleNamespace(scaling=scaling, engine=engine, said=[], stop=asyncio.Event())
    finally:
        await engine.dispose()


async def drained(engine):
    """All partitions have come to their markers."""
    async with engine.begin() as connection:
        await connection.execute(sa.update(consumer_partitions).values(drained_at=sa.func.now()))


async def scaled(it, partitions):
    async with asyncio.timeout(10):
        return await it.scaling.scale(partitions, it.stop, it.said.append)


async def test_a_process_that_declares_nothing_starts_while_the_number_changes(tmp_path):
    async with steps(tmp_path) as it:
        with pytest.raises(ConfigurationError, match="are not declared"):
            await it.scaling.verify()
        await it.scaling.plan(4)
        with pytest.raises(ConfigurationError, match="are not declared"):
            await it.scaling.verify()
        await it.scaling.begin(4)
        await it.scaling.plan(8)
        assert await it.scaling.verify() == 4


async def test_a_number_that_is_set_before_the_first_process_leaves_the_work_queue_to_it(tmp_path):
    async with steps(tmp_path) as it:
        assert await scaled(it, 4)
        assert it.said == ["the first process handles the messages that were published before"]


async def test_a_command_that_finds_another_at_work_goes_on_until_its_own_number(
    tmp_path, monkeypatch
):
    async with steps(tmp_path) as it:
        await it.scaling.begin(4)
        await drained(it.engine)
        begin, plan = it.scaling.begin, it.scaling.plan
        planned = []

        async def second(partitions):
            """Another command is the first to plan its number; what is drained is recorded."""
            if not planned:
                await plan(6)
            planned.append(partitions)
            await plan(partitions)

        async def drains(partitions):
            found = await begin(partitions)
            await drained(it.engine)
            return found

        monkeypatch.setattr(it.scaling, "plan", second)
        monkeypatch.setattr(it.scaling, "begin", drains)

        assert await scaled(it, 8)

        assert [each for each in it.said if "get all" in each] == [
            "6 partitions get all messages, instead of 4",
            "8 partitions get all messages, instead of 6",
        ]
        async with it.engine.connect() as connection:
            rows = await connection.execute(
                sa.select(consumer_generations.c.partitions).where(
                    consumer_generations.c.state == State.CURRENT.value
                )
            )
            assert rows.scalars().all() == [8]


async def retired(it):
    """The first of two generations is drained, and read by no process."""
    await it.scaling.begin(4)
    await it.scaling.plan(8)
    await it.scaling.begin(8)
    await drained(it.engine)


async def test_partitions_are_deleted_once_the_broker_has_dead_lettered_their_messages(tmp_path):
    held = [{"q.g1.0": 2}, {"q.g1.0": 1}, {}]
    asked = []

    async def held_by(topology):
        asked.append(topology)
        return held.pop(0)

    management = SimpleNamespace(held=held_by)
    async with steps(tmp_path, message_ttl=timedelta(seconds=1), management=management) as it:
        await retired(it)
        assert await scaled(it, 8)
        assert len(asked) == 3
        assert it.said == ["the 4 partitions before are deleted"]


async def test_partitions_whose_dead_letters_cannot_be_seen_are_kept(tmp_path):
    async with steps(tmp_path, message_ttl=timedelta(seconds=1)) as it:
        await retired(it)
        assert await scaled(it, 8)
        (said,) = it.said
        assert said.startswith("the 4 partitions before are kept")
        async with it.engine.connect() as connection:
            states = await connection.scalars(sa.select(consumer_generations.c.state))
            assert sorted(states) == ["current", "draining", "retired"]
