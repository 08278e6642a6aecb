"""
Replaying a consumer's dead letters, with both brokers.
"""

import asyncio
from collections import Counter
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from yarl import URL

from consumer.message_copies import retry_copy
from consumer.queues import ConsumerQueues
from consumer.replay import QueueDestination
from consumer.storage.completed import CompletedMessages
from outbox.transports.base import Outcome, Transport
from outbox.transports.delivery import Delivery
from outbox.transports.rabbitmq.transport import RabbitMQTransport
from outbox.transports.sqlite.transport import SqliteTransport
from outbox.wire import codec
from outbox.wire.headers import (
    EXCHANGE_HEADER,
    IDEMPOTENCY_KEY_HEADER,
    OCCURRED_AT_HEADER,
    REPLAY_HEADER,
    ROUTING_KEY_HEADER,
    VERSION_HEADER,
    parse,
)
from tests.support.builders import AN_INSTANT
from tests.support.dead_letters import (
    QUEUE,
    a_dead_letter,
    a_run,
    audited,
    remaining,
    write_dead_letter,
    write_dead_letters,
)
from tests.support.eventually import eventually

SOON = timedelta(seconds=20)
MINE = ConsumerQueues(QUEUE, bindings=["test.#"], delays=[timedelta(milliseconds=100)])
OTHER = ConsumerQueues("other", bindings=["test.#"], delays=[timedelta(seconds=1)])


def transport_to(url: str) -> Transport:
    if url.startswith("sqlite"):
        return SqliteTransport(
            Path(url.removeprefix("sqlite:///")), poll=timedelta(milliseconds=10)
        )
    return RabbitMQTransport([URL(url)], heartbeat_seconds=5, name="test")


@pytest.fixture(params=["embedded_broker_url", "rabbitmq_url"])
def broker_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(request.param)
    return url


@pytest.fixture
async def transport(broker_url: str) -> Transport:
    transport = transport_to(broker_url)
    for queues in (MINE, OTHER):
        await transport.declare(
            queues.topology(main_exchange="health_data_exchange", dlx_exchange="health_data_dlx")
        )
    return transport


async def received(transport: Transport, count: int) -> list[Delivery]:
    deliveries: list[Delivery] = []
    async with (
        asyncio.timeout(SOON.total_seconds()),
        transport.subscribe(QUEUE, prefetch=count + 1) as subscription,
    ):
        while len(deliveries) < count:
            taken = await subscription.take(count)
            await subscription.ack(*taken)
            deliveries += taken
    return deliveries


async def depth(transport: Transport, queue: str) -> int:
    found = await transport.depth(queue)
    assert found is not None
    return found.messages


async def holds(transport: Transport, count: int) -> bool:
    return await depth(transport, QUEUE) == count


async def test_a_replayed_dead_letter_returns_unchanged_to_its_own_queue_only(engine, transport):
    kept = a_dead_letter(correlation_id="c", priority="high")
    kept["headers"] |= {
        "x-outbox-attempt": 4,
        "x-death": "<list>",
        "x-first-death-queue": QUEUE,
        "source": "s",
        "odd": "<float>",
    }
    await write_dead_letter(engine, kept)
    run = await a_run(engine)

    async with transport.publisher() as publisher:
        await run.replay(QueueDestination(publisher, queue="unused"))

    (delivery,) = await received(transport, 1)
    message = delivery.message
    assert (message.message_id, message.body) == (kept["message_id"], kept["body"])
    assert (message.exchange, message.routing_key) == ("", QUEUE)
    assert parse(message.headers).failed_attempts == 0
    assert parse(message.headers).replay == run.audit.run
    assert set(message.headers) == {
        VERSION_HEADER,
        IDEMPOTENCY_KEY_HEADER,
        OCCURRED_AT_HEADER,
        EXCHANGE_HEADER,
        ROUTING_KEY_HEADER,
        REPLAY_HEADER,
        "source",
    }
    envelope = codec.from_wire(message)
    assert (envelope.exchange, envelope.routing_key) == ("health_data_exchange", "test.happened")
    assert (envelope.occurred_at, envelope.correlation_id) == (AN_INSTANT, "c")
    assert envelope.priority == "high"
    assert await depth(transport, "other") == 0


async def test_a_copy_is_still_known_as_replayed_after_a_retry(engine, transport):
    await write_dead_letter(engine, a_dead_letter())
    run = await a_run(engine)
    async with transport.publisher() as publisher:
        await run.replay(QueueDestination(publisher, queue=QUEUE))

    async with (
        asyncio.timeout(SOON.total_seconds()),
        transport.subscribe(QUEUE, prefetch=1) as subscription,
    ):
        (first,) = await subscription.take(1)
        waiting = retry_copy(first.message, queue=MINE.retry(MINE.delays[0]), attempt=1)
        assert await subscription.replace(first, waiting) is Outcome.ACKED
        (second,) = await subscription.take(1)
        await subscription.ack(second)

    assert second.headers.failed_attempts == 1
    assert second.headers.replay == run.audit.run


async def test_a_dead_letter_without_a_queue_goes_to_the_consumers_queue(engine, transport):
    await write_dead_letter(engine, a_dead_letter(queue=None))

    async with transport.publisher() as publisher:
        await (await a_run(engine)).replay(QueueDestination(publisher, queue=QUEUE))

    assert len(await received(transport, 1)) == 1


async def test_a_dead_letter_of_another_publisher_is_replayed_under_its_id(engine, transport):
    headers = {"source": "s"}
    await write_dead_letter(engine, a_dead_letter(message_id="msg-456", headers=headers))

    async with transport.publisher() as publisher:
        await (await a_run(engine)).replay(
            QueueDestination(publisher, queue=QUEUE), duplicates=CompletedMessages("effects")
        )

    (delivery,) = await received(transport, 1)
    assert codec.from_wire(delivery.message).idempotency_key == "msg-456"


async def test_a_dead_letter_that_the_broker_refuses_stays(engine, transport):
    gone, *_ = await write_dead_letter(
        engine,
        a_dead_letter(),
        a_dead_letter(queue="missing"),
        a_dead_letter(message_id=None),
        a_dead_letter(message_id="1 7"),
        a_dead_letter(priority="urgent"),
        a_dead_letter(headers=["no object"]),
    )
    run = await a_run(engine)

    async with transport.publisher() as publisher:
        await run.replay(
            QueueDestination(publisher, queue=QUEUE), duplicates=CompletedMessages("effects")
        )

    assert run.summary.left == Counter(malformed=2, no_identity=2, unroutable=1)
    assert gone not in [row["id"] for row in await remaining(engine)]
    assert len(await received(transport, 1)) == 1


async def test_two_concurrent_replays_deliver_each_of_a_thousand_dead_letters_once(
    engine, transport
):
    ids = await write_dead_letters(engine, 1_000)

    async def replay() -> int:
        async with transport.publisher() as publisher:
            run = await a_run(engine)
            await run.replay(QueueDestination(publisher, queue=QUEUE))
            return run.summary.done

    done = await asyncio.gather(replay(), replay())

    assert sum(done) == 1_000
    assert sum(messages for _, messages in await audited(engine)) == 1_000
    await eventually(partial(holds, transport, 1_000))
    delivered = [delivery.message.message_id for delivery in await received(transport, 1_000)]
    assert sorted(delivered) == sorted(ids)
    assert await remaining(engine) == []
