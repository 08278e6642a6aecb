"""
Messages that the broker dead-letters by itself.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest

from consumer import message_copies
from outbox.wire.codec import WireMessage
from outbox.wire.headers import EXCHANGE_HEADER, REQUEUES_HEADER, ROUTING_KEY_HEADER
from tests.support.consumer_deployment import EXCHANGE, ConsumerDeployment, a_message, once
from tests.support.eventually import eventually

LIMIT, TTL = 2, timedelta(seconds=1)


@pytest.fixture
async def deployment(urls, tmp_path) -> AsyncIterator[ConsumerDeployment]:
    async with ConsumerDeployment(
        urls,
        tmp_path,
        MQ_MESSAGE_TTL_SECONDS=f"{TTL.total_seconds():g}",
        MQ_MAX_REQUEUES="1",
    ) as deployment:
        assert await (await deployment.consumer()).terminate() == 0
        yield deployment


async def are_dead(deployment: ConsumerDeployment, count: int) -> bool:
    """Whether *count* messages are in the dead queue."""
    depth = await deployment.broker.depth(f"{deployment.queue}.dead")
    return depth is not None and depth.messages == count


def returned(message: WireMessage) -> WireMessage:
    """*message* as if it had been put back into the queue once before."""
    return replace(message, headers={**message.headers, REQUEUES_HEADER: 1})


async def test_an_expired_message_is_requeued_until_its_limit(deployment):
    late, too_late = a_message("test.happened"), returned(a_message("test.happened"))
    failing = a_message("test.wants.to.wait", seconds=0.01)
    await deployment.publish(late, too_late, failing)
    # The embedded broker moves expired messages only when a client reads the queue.
    clock = asyncio.get_running_loop().time
    expired_at = clock() + 1.5 * TTL.total_seconds()
    await eventually(lambda: clock() > expired_at)

    consumer = await deployment.consumer()
    dead = (await deployment.wait_for_dead_letters(1))[too_late.message_id]
    await deployment.applies(2)

    assert await deployment.attempts() == once(late) + once(failing, attempt=2)
    assert (dead["source"], dead["queue"]) == (deployment.app, deployment.queue)
    assert (dead["reason"], dead["attempts"]) == ("expired", 0)
    assert (dead["exchange"], dead["routing_key"]) == (EXCHANGE, "test.happened")
    assert (dead["body"], dead["type"]) == (too_late.body, too_late.type)
    assert await consumer.terminate() == 0
    assert await are_dead(deployment, 0)


async def test_a_message_delivered_too_often_is_dead_lettered_unchanged(
    postgres_url, rabbitmq_url, tmp_path
):
    """
    Also if it was dead-lettered as a copy for a retry.

    With `callback` the broker counts the deliveries: a message may end the connection unread.
    """
    async with ConsumerDeployment(
        (postgres_url, rabbitmq_url),
        tmp_path,
        MQ_DELIVERY_LIMIT=str(LIMIT),
        MQ_DELIVERY_METHOD="callback",
    ) as deployment:
        assert await (await deployment.consumer()).terminate() == 0
        await is_dead_lettered_unchanged(deployment)


async def is_dead_lettered_unchanged(deployment: ConsumerDeployment) -> None:
    fresh, other = a_message("test.happened"), a_message("test.is.filtered", wanted=True)
    retry_copy = message_copies.retry_copy(other, queue=deployment.queue, attempt=3)
    await deployment.publish(fresh, retry_copy)
    for _ in range(LIMIT + 1):
        async with deployment.broker.subscribe(deployment.queue, prefetch=2) as subscription:
            deliveries = await subscription.take(2)
            while len(deliveries) < 2:
                deliveries += await subscription.take(1)
    await eventually(lambda: are_dead(deployment, 2))

    await deployment.consumer()
    dead = await deployment.wait_for_dead_letters(2)

    assert {row["reason"] for row in dead.values()} == {"delivery_limit"}
    row, copy = dead[fresh.message_id], dead[other.message_id]
    assert (row["exchange"], row["routing_key"]) == (EXCHANGE, fresh.routing_key)
    assert (row["attempts"], copy["attempts"]) == (0, 3)
    assert copy["headers"][EXCHANGE_HEADER] == EXCHANGE
    assert copy["headers"][ROUTING_KEY_HEADER] == other.routing_key
    assert not any("death" in name for row in dead.values() for name in row["headers"])
    assert await deployment.applied() == []
