"""
A retry comes when it is due, whatever the priorities of the other messages that wait.
"""

import asyncio
from datetime import timedelta

import pytest

from consumer.message_copies import renewed_copy, retry_copy
from consumer.queues import ConsumerQueues
from outbox import Priority
from outbox.transports.base import Outcome
from outbox.wire import codec
from tests.support.builders import an_event, on_the_wire
from tests.support.consumer_deployment import broker

DELAY = timedelta(seconds=1)
QUEUES = ConsumerQueues("work", bindings=[], delays=[DELAY])
SOON = timedelta(seconds=5)
NORMAL = 5


@pytest.fixture(params=["rabbitmq_url", "embedded_broker_url"])
def transport(request):
    return broker(request.getfixturevalue(request.param))


async def test_messages_of_high_priority_delay_no_retry_of_the_others(transport):
    """RabbitMQ 4.0 looks at the time to live of the message that it would deliver next only."""
    await transport.declare(QUEUES.topology(main_exchange="events", dlx_exchange="dead"))
    clock = asyncio.get_running_loop().time
    stop = asyncio.Event()

    def copy(priority: Priority):
        message = on_the_wire(an_event(priority=priority), exchange="events")
        return retry_copy(message, queue=QUEUES.retry(DELAY), attempt=1)

    async def keep_failing(publisher) -> None:
        while not stop.is_set():
            await publisher.publish([copy(Priority.HIGH)], within=SOON)
            await asyncio.sleep(0.3)

    async with (
        transport.publisher() as publisher,
        transport.subscribe("work", prefetch=100) as subscription,
        asyncio.TaskGroup() as group,
    ):
        began = clock()
        outcomes = await publisher.publish(
            [copy(Priority.NORMAL) for _ in range(NORMAL)], within=SOON
        )
        assert outcomes == [Outcome.ACKED] * NORMAL
        group.create_task(keep_failing(publisher))
        returned: dict[Priority, int] = {Priority.NORMAL: 0, Priority.HIGH: 0}
        async with asyncio.timeout(20):
            while returned[Priority.NORMAL] < NORMAL or not returned[Priority.HIGH]:
                for delivery in await subscription.take(10):
                    returned[codec.priority_of(delivery.message)] += 1
                    renewed = renewed_copy(delivery.message, queue="work")
                    assert renewed.priority == (delivery.headers.priority or 4)
                    await subscription.ack(delivery)
        took = clock() - began
        stop.set()

    assert took < 4, returned
