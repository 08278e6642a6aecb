"""
Deliveries that are repeated, or that the broker takes back.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aio_pika
import pytest

from tests.reliability import process_faults
from tests.reliability.fault_run import FaultRun
from tests.reliability.outcomes import QUEUE_PREFIX
from tests.reliability.producers import Load
from tests.reliability.roles import FREE, ORDERED
from tests.support.eventually import eventually

pytestmark = [pytest.mark.selection, pytest.mark.timeout(300)]

EXCHANGE = "health_data_exchange"
TIMES = 10


class Storm:
    """Sends each message of a run to both consumers TIMES more."""

    def __init__(self) -> None:
        self.copies = 0

    @asynccontextmanager
    async def raging(self, url: str) -> AsyncIterator[None]:
        async with await aio_pika.connect(url) as connection:
            channel = await connection.channel(publisher_confirms=False)
            queue = await channel.declare_queue("storm", exclusive=True)
            await queue.bind(EXCHANGE, "run.#")
            copying = asyncio.create_task(self._copy(queue, channel.default_exchange))
            try:
                yield
            finally:
                copying.cancel()
                await asyncio.wait({copying})

    async def _copy(
        self, queue: aio_pika.abc.AbstractQueue, exchange: aio_pika.abc.AbstractExchange
    ) -> None:
        async with queue.iterator(no_ack=True) as messages:
            async for message in messages:
                for _ in range(TIMES):
                    for consumer in (FREE, ORDERED):
                        await exchange.publish(message, f"{QUEUE_PREFIX}{consumer}")
                        self.copies += 1


async def test_messages_delivered_ten_times_to_eight_processes_have_one_effect(
    environment, tmp_path
):
    """F24: a storm of duplicates, into the queues of both consumers, side by side."""
    storm = Storm()
    load = Load(events_per_second=15)
    async with FaultRun(environment, tmp_path, consumers=4, load=load) as run:
        async with run.record_fault("storm of duplicates"), storm.raging(environment.broker_url):
            await run.makes_progress(200)
            # On a busy machine the storm is slower than the run.
            await eventually(lambda: storm.copies >= 50 * TIMES, within=60)
        await run.makes_progress(20)


async def test_a_handler_that_takes_longer_than_the_broker_waits_has_one_effect(
    environment, tmp_path
):
    """F26: the handler takes 20 s; after 5 s the broker redelivers to another process."""
    async with (
        environment.rabbitmq.impatient(milliseconds=5_000),
        FaultRun(environment, tmp_path) as run,
    ):
        await run.makes_progress()
        async with process_faults.handler_slow(run, 20):
            await run.wait(12)
        await run.makes_progress()
        logs = [process.log for process in run.supervisor.processes if process.starts]

        assert any("consumer_timeout" in log.read_text() for log in logs)
