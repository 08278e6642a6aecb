"""
The contract of all transports.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal
from uuid import uuid4

import pytest
from yarl import URL

from consumer.message_copies import retry_copy
from consumer.queues import ConsumerQueues
from outbox.errors import TopologyMismatch
from outbox.transports.base import Outcome, QueueDepth, Subscription, Transport
from outbox.transports.delivery import Delivery
from outbox.transports.inspection import Act, BindingOf, Consuming, Permission, Publishing
from outbox.transports.rabbitmq.transport import RabbitMQTransport
from outbox.transports.redis.transport import RedisTransport
from outbox.transports.sqlite.transport import SqliteTransport
from outbox.transports.topology import Binding, Exchange, Queue, Topology
from outbox.wire.codec import WireMessage
from outbox.wire.headers import ATTEMPT_HEADER, EXCHANGE_HEADER, ROUTING_KEY_HEADER
from tests.reliability.simulation.broker import Broker
from tests.reliability.simulation.transport import SimulatedTransport
from tests.support.eventually import eventually

EVENTS = "events"
DEAD_LETTERS = "dead-letters"
SOON = timedelta(seconds=10)
DELAY = timedelta(milliseconds=200)
WORK = ConsumerQueues("work", bindings=["health.#"], delays=[DELAY])
OTHER = ConsumerQueues("other", bindings=["health.#"], delays=[DELAY])
SINGLE = ConsumerQueues("single", bindings=["health.#"], delays=[], single_active=True)


@pytest.fixture(params=["sqlite", "simulated", "rabbitmq", "rabbitmq by callback", "redis"])
def transport(request: pytest.FixtureRequest, tmp_path: Path) -> Transport:
    if request.param == "simulated":
        return SimulatedTransport(Broker(delay=lambda: 0.001))
    if request.param == "sqlite":
        return SqliteTransport(tmp_path / "broker.db", poll=timedelta(milliseconds=10))
    if request.param == "redis":
        url = URL(request.getfixturevalue("redis_url"))
        return RedisTransport([url], name="test", poll=timedelta(milliseconds=10))
    url = URL(request.getfixturevalue("rabbitmq_url"))
    method: Literal["frames", "callback"] = "frames"
    if request.param == "rabbitmq by callback":
        method = "callback"
    return RabbitMQTransport([url], heartbeat_seconds=5, name="test", delivery_method=method)


@pytest.fixture
async def declared(transport: Transport) -> AsyncIterator[Transport]:
    """The transport, with the queues of both consumers declared."""
    for queues in (WORK, OTHER):
        await transport.declare(topology_of(queues))
    return transport


def topology_of(queues: ConsumerQueues) -> Topology:
    return queues.topology(main_exchange=EVENTS, dlx_exchange=DEAD_LETTERS)


def a_message(body: bytes = b"{}", **changes) -> WireMessage:
    values = {
        "exchange": EVENTS,
        "routing_key": "health.uploaded",
        "message_id": str(uuid4()),
        "type": "health.uploaded",
    }
    return WireMessage(body=body, **{**values, **changes})


async def publish(transport: Transport, *messages: WireMessage) -> list[Outcome]:
    async with transport.publisher() as publisher:
        await publisher.ready()
        return await publisher.publish(messages, within=SOON)


async def receive(subscription: Subscription) -> Delivery:
    async with asyncio.timeout(SOON.total_seconds()):
        [delivery] = await subscription.take(1)
    return delivery


async def receive_many(subscription: Subscription, count: int) -> list[Delivery]:
    deliveries: list[Delivery] = []
    async with asyncio.timeout(SOON.total_seconds()):
        while len(deliveries) < count:
            deliveries += await subscription.take(count - len(deliveries))
    return deliveries


async def retry(subscription: Subscription, delivery: Delivery, *, attempt: int) -> Outcome:
    copy = retry_copy(delivery.message, queue=WORK.retry(DELAY), attempt=attempt)
    return await subscription.replace(delivery, copy)


async def receive_bodies(subscription: Subscription, count: int) -> list[bytes]:
    bodies = []
    for _ in range(count):
        delivery = await receive(subscription)
        bodies.append(delivery.message.body)
        await subscription.ack(delivery)
    return bodies


async def wait_until_empty(transport: Transport, queue: str) -> None:
    async def empty() -> bool:
        return await transport.depth(queue) == QueueDepth(messages=0, consumers=0)

    await eventually(empty, message=f"{queue} still holds something")


async def test_a_confirmed_message_arrives_with_every_property_intact(declared):
    message = a_message(
        b"\x00\xff{}",
        routing_key="health.größe",
        type="health.größe",
        correlation_id="Überweisung 7",
        timestamp=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
        content_type="application/json",
        content_encoding="gzip",
        priority=9,
        headers={"source": "läuft 🩺", "schema-version": 3, "flag": True, "large": 2**40},
    )

    outcomes = await publish(declared, message)

    assert outcomes == [Outcome.ACKED]
    async with declared.subscribe(WORK.name, prefetch=1) as subscription:
        delivery = await receive(subscription)
        assert delivery.message == replace(
            message, timestamp=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        )
        assert delivery.message.headers["flag"] is True
        assert not delivery.redelivered


async def test_absent_properties_stay_absent(declared):
    message = a_message(b"", type=None)

    await publish(declared, message)

    async with declared.subscribe(WORK.name, prefetch=1) as subscription:
        assert (await receive(subscription)).message == message


async def test_each_outcome_belongs_to_its_message_and_neighbours_get_through(declared):
    neighbours = [a_message(str(number).encode()) for number in range(30)]
    strangers = [
        a_message(routing_key="nobody.listens"),
        a_message(exchange="no-such-exchange"),
        a_message(routing_key="k" * 256),
        a_message(exchange="", routing_key="no-such-queue"),
    ]

    outcomes = await publish(declared, neighbours[0], *strangers, *neighbours[1:])

    assert outcomes == [
        Outcome.ACKED,
        Outcome.RETURNED,
        Outcome.RETURNED,
        Outcome.REJECTED,
        Outcome.RETURNED,
        *[Outcome.ACKED] * 29,
    ]
    arrived = set()
    async with declared.subscribe(WORK.name, prefetch=10) as subscription:
        # A neighbour may arrive twice if its first confirm was lost with the channel.
        while len(arrived) < len(neighbours):
            arrived.update(await receive_bodies(subscription, 1))
    assert arrived == {neighbour.body for neighbour in neighbours}


async def test_nothing_is_published_for_an_empty_batch(declared):
    assert await publish(declared) == []


async def test_the_default_exchange_leads_to_the_queue_of_that_name(declared):
    message = a_message(exchange="", routing_key=WORK.name)

    assert await publish(declared, message) == [Outcome.ACKED]

    async with declared.subscribe(WORK.name, prefetch=1) as subscription:
        assert (await receive(subscription)).message == message


async def test_the_same_message_published_twice_arrives_twice(declared):
    message = a_message(b"twin")

    await publish(declared, message)
    await publish(declared, message)

    async with declared.subscribe(WORK.name, prefetch=2) as subscription:
        assert await receive_bodies(subscription, 2) == [b"twin", b"twin"]


@pytest.mark.parametrize(
    ("pattern", "routing_key", "outcome"),
    [
        ("health.processing.#", "health.processing", Outcome.ACKED),
        ("health.processing.#", "health.processing.steps.walked", Outcome.ACKED),
        ("health.processing.#", "health.uploaded", Outcome.RETURNED),
        ("health.*", "health.uploaded", Outcome.ACKED),
        ("health.*", "health", Outcome.RETURNED),
        ("health.*", "health.processing.steps", Outcome.RETURNED),
    ],
)
async def test_topic_patterns_choose_the_queue(transport, pattern, routing_key, outcome):
    queues = ConsumerQueues("work", bindings=[pattern], delays=[])
    await transport.declare(topology_of(queues))

    assert await publish(transport, a_message(routing_key=routing_key)) == [outcome]


async def test_a_direct_exchange_compares_the_whole_key(transport):
    await transport.declare(
        Topology(
            [Exchange(DEAD_LETTERS, "direct")],
            [Queue("direct", {"x-queue-type": "quorum"})],
            [Binding(DEAD_LETTERS, "direct", "a.#")],
        )
    )

    outcomes = await publish(
        transport,
        a_message(exchange=DEAD_LETTERS, routing_key="a.#"),
        a_message(exchange=DEAD_LETTERS, routing_key="a.b"),
    )

    assert outcomes == [Outcome.ACKED, Outcome.RETURNED]


async def test_each_bound_queue_gets_its_own_copy(declared):
    await publish(declared, a_message(b"copied"))

    for queues in (WORK, OTHER):
        async with declared.subscribe(queues.name, prefetch=1) as subscription:
            assert await receive_bodies(subscription, 1) == [b"copied"]


async def test_a_queue_with_two_fitting_patterns_gets_one_copy(transport):
    queues = ConsumerQueues("work", bindings=["health.#", "#.uploaded"], delays=[])
    await transport.declare(topology_of(queues))

    await publish(transport, a_message(b"only one"), a_message(b"next"))

    async with transport.subscribe(queues.name, prefetch=1) as subscription:
        assert sorted(await receive_bodies(subscription, 2)) == [b"next", b"only one"]


async def test_an_unsettled_message_is_redelivered_after_the_subscription_ends(declared):
    await publish(declared, a_message(b"unsettled"))
    async with declared.subscribe(WORK.name, prefetch=1) as subscription:
        assert not (await receive(subscription)).redelivered

    async with declared.subscribe(WORK.name, prefetch=1) as subscription:
        delivery = await receive(subscription)

        assert delivery.message.body == b"unsettled"
        assert delivery.redelivered


async def test_an_acked_message_is_not_redelivered(declared):
    await publish(declared, a_message(b"acked"))
    async with declared.subscribe(WORK.name, prefetch=1) as subscription:
        await receive_bodies(subscription, 1)

    await wait_until_empty(declared, WORK.name)


async def test_the_block_of_a_subscription_raises_its_own_errors(declared):
    with pytest.raises(ZeroDivisionError):
        async with declared.subscribe(WORK.name, prefetch=1):
            raise ZeroDivisionError


async def test_a_released_message_is_redelivered(declared):
    message = a_message()
    await publish(declared, message)

    async with declared.subscribe(WORK.name, prefetch=1) as subscription:
        await subscription.release(await receive(subscription))
        again = await receive(subscription)

        assert again.message.message_id == message.message_id
        assert again.redelivered


async def test_a_retry_comes_back_after_its_delay_with_attempt_and_origin(declared):
    message = a_message(b"again", headers={"source": "phone"}, correlation_id="c", priority=4)
    await publish(declared, message)

    async with declared.subscribe(WORK.name, prefetch=1) as subscription:
        started = time.monotonic()
        outcome = await retry(subscription, await receive(subscription), attempt=1)
        first = await receive(subscription)
        waited = time.monotonic() - started
        await retry(subscription, first, attempt=2)
        second = await receive(subscription)

    assert outcome is Outcome.ACKED
    assert waited >= DELAY.total_seconds()
    assert [delivery.headers.failed_attempts for delivery in (first, second)] == [1, 2]
    for delivery in (first, second):
        ours = {k: v for k, v in delivery.message.headers.items() if "death" not in k}
        ours.pop(ATTEMPT_HEADER)
        assert ours == {
            "source": "phone",
            EXCHANGE_HEADER: EVENTS,
            ROUTING_KEY_HEADER: "health.uploaded",
        }
        assert not delivery.redelivered
        assert replace(delivery.message, headers={}) == replace(
            message, exchange="", routing_key=WORK.name, headers={}
        )


async def test_a_retry_replaces_the_message_and_reaches_no_other_consumer(declared):
    await publish(declared, a_message(b"retried"))

    async with (
        declared.subscribe(WORK.name, prefetch=10) as work,
        declared.subscribe(OTHER.name, prefetch=10) as other,
    ):
        await retry(work, await receive(work), attempt=1)
        assert await receive_bodies(other, 1) == [b"retried"]
        assert await receive_bodies(work, 1) == [b"retried"]
        await publish(declared, a_message(b"later"))

        assert await receive_bodies(other, 1) == [b"later"]
        assert await receive_bodies(work, 1) == [b"later"]
    for queue in (WORK.name, OTHER.name, WORK.retry(DELAY)):
        await wait_until_empty(declared, queue)


async def test_a_message_whose_copy_is_not_confirmed_is_not_settled(declared):
    await publish(declared, a_message(b"kept"))

    async with declared.subscribe(WORK.name, prefetch=1) as subscription:
        delivery = await receive(subscription)
        nowhere = retry_copy(delivery.message, queue="no-such-queue", attempt=1)
        assert await subscription.replace(delivery, nowhere) is Outcome.RETURNED
    async with declared.subscribe(WORK.name, prefetch=1) as subscription:
        assert await receive_bodies(subscription, 1) == [b"kept"]


async def test_several_copies_may_be_published_at_once(declared):
    await publish(declared, *(a_message(str(number).encode()) for number in range(30)))

    async with declared.subscribe(WORK.name, prefetch=30) as subscription:
        deliveries = await receive_many(subscription, 30)
        outcomes = await asyncio.gather(
            *(retry(subscription, delivery, attempt=1) for delivery in deliveries)
        )
        bodies = await receive_bodies(subscription, 30)

    assert outcomes == [Outcome.ACKED] * 30
    assert sorted(bodies) == sorted(str(number).encode() for number in range(30))
    await wait_until_empty(declared, WORK.name)


async def test_take_returns_at_most_its_limit_in_the_order_of_the_queue(declared):
    bodies = [str(number).encode() for number in range(30)]
    await publish(declared, *map(a_message, bodies))

    async with declared.subscribe(WORK.name, prefetch=30) as subscription:
        first = await subscription.take(7)
        others = await receive_many(subscription, 30 - len(first))
        await subscription.ack(*first, *others)

    assert 1 <= len(first) <= 7
    assert [delivery.message.body for delivery in (*first, *others)] == bodies
    await wait_until_empty(declared, WORK.name)


async def test_a_limit_below_one_is_refused(declared):
    async with declared.subscribe(WORK.name, prefetch=1) as subscription:
        with pytest.raises(ValueError, match="limit"):
            await subscription.take(0)


async def test_acking_nothing_does_nothing(declared):
    async with declared.subscribe(WORK.name, prefetch=1) as subscription:
        await subscription.ack()


async def test_prefetch_limits_unsettled_messages(declared):
    async with declared.subscribe(WORK.name, prefetch=2) as greedy:
        await publish(declared, a_message(b"1"), a_message(b"2"))
        held = [await receive(greedy), await receive(greedy)]
        await publish(declared, a_message(b"3"))
        async with declared.subscribe(WORK.name, prefetch=1) as modest:
            third = await receive(modest)
            assert third.message.body == b"3"
            await publish(declared, a_message(b"4"))

            await greedy.ack(held[0])

            assert (await receive(greedy)).message.body == b"4"


async def test_a_raised_prefetch_allows_as_many_unsettled_messages(declared):
    bodies = [str(number).encode() for number in range(8)]
    await publish(declared, *map(a_message, bodies[:7]))
    async with declared.subscribe(WORK.name, prefetch=2) as greedy:
        held = await receive_many(greedy, 2)

        await greedy.raise_prefetch(5)

        held += await receive_many(greedy, 3)
        async with declared.subscribe(WORK.name, prefetch=2) as modest:
            others = await receive_many(modest, 2)
            await greedy.raise_prefetch(1)
            await publish(declared, a_message(bodies[7]))
            await greedy.ack(*held[:3])
            held += await receive_many(greedy, 1)
            await modest.ack(*others)
        await greedy.ack(*held[3:])

    assert [each.message.body for each in (*held[:5], *others, *held[5:])] == bodies
    assert not any(delivery.redelivered for delivery in (*held, *others))
    await wait_until_empty(declared, WORK.name)


async def test_a_stopped_subscription_cannot_raise_its_prefetch(declared):
    async with declared.subscribe(WORK.name, prefetch=1) as stopped:
        await stopped.stop()
        await stopped.raise_prefetch(10)
        await publish(declared, a_message(b"for somebody else"))

        assert await stopped.take(1) == []
        async with declared.subscribe(WORK.name, prefetch=1) as successor:
            assert await receive_bodies(successor, 1) == [b"for somebody else"]


async def test_two_subscriptions_share_a_queue_without_doubles(declared):
    expected = [str(number).encode() for number in range(40)]
    received: list[bytes] = []

    async def consume(subscription: Subscription) -> None:
        while deliveries := await subscription.take(2):
            received.extend(delivery.message.body for delivery in deliveries)
            await subscription.ack(*deliveries)

    async with (
        declared.subscribe(WORK.name, prefetch=3) as first,
        declared.subscribe(WORK.name, prefetch=3) as second,
        asyncio.TaskGroup() as tasks,
    ):
        tasks.create_task(consume(first))
        tasks.create_task(consume(second))
        await publish(declared, *(a_message(body) for body in expected))
        await eventually(lambda: len(received) >= len(expected))
        await first.stop()
        await second.stop()

    assert sorted(received) == sorted(expected)
    await wait_until_empty(declared, WORK.name)


async def test_stop_ends_take_and_requeues_prefetched_messages(declared):
    bodies = [b"1", b"2", b"3"]
    await publish(declared, *map(a_message, bodies))

    async with declared.subscribe(WORK.name, prefetch=3) as stopped:
        held = await receive(stopped)
        await stopped.stop()

        assert await stopped.take(3) == []
        async with declared.subscribe(WORK.name, prefetch=3) as successor:
            others = await receive_bodies(successor, 2)
        await stopped.ack(held)

    assert sorted([held.message.body, *others]) == bodies
    await wait_until_empty(declared, WORK.name)


async def test_one_of_two_subscriptions_of_a_single_active_queue_gets_every_message(transport):
    bodies = [str(number).encode() for number in range(9)]
    await transport.declare(topology_of(SINGLE))
    async with (
        transport.subscribe(SINGLE.name, prefetch=2, ordered=True) as first,
        transport.subscribe(SINGLE.name, prefetch=2, ordered=True) as second,
    ):
        waiting = asyncio.create_task(second.take(9))
        await publish(transport, *map(a_message, bodies))

        assert await receive_bodies(first, 9) == bodies
        await second.stop()
        assert await waiting == []
    await wait_until_empty(transport, SINGLE.name)


@pytest.mark.parametrize("settled", [[], [1, 3], [0, 1, 2, 3, 4]])
async def test_unsettled_messages_of_an_ordered_subscription_go_first_and_in_order_to_the_next(
    transport, settled
):
    """Some messages were taken; others were prefetched or on their way."""
    bodies = [str(number).encode() for number in range(20)]
    await transport.declare(topology_of(SINGLE))
    await publish(transport, *map(a_message, bodies))
    async with AsyncExitStack() as ending:
        first = await ending.enter_async_context(
            transport.subscribe(SINGLE.name, prefetch=8, ordered=True)
        )
        held = await receive_many(first, 5)
        async with transport.subscribe(SINGLE.name, prefetch=20, ordered=True) as second:
            await first.stop()
            assert await first.take(1) == []
            await first.ack(*(held[number] for number in settled))
            await ending.aclose()

            received = await receive_many(second, 20 - len(settled))
            await second.ack(*received)

    left = [body for number, body in enumerate(bodies) if number not in settled]
    assert [delivery.message.body for delivery in received] == left
    assert all(delivery.redelivered for delivery in received[: 5 - len(settled)])
    await wait_until_empty(transport, SINGLE.name)


async def test_stop_wakes_every_waiting_take(declared):
    async with declared.subscribe(WORK.name, prefetch=1) as subscription:
        waiting = [asyncio.create_task(subscription.take(1)) for _ in range(3)]
        await subscription.stop()
        await subscription.stop()

        async with asyncio.timeout(SOON.total_seconds()):
            assert await asyncio.gather(*waiting) == [[], [], []]


async def test_concurrent_acks_all_arrive(declared):
    await publish(declared, *(a_message() for _ in range(30)))

    async with declared.subscribe(WORK.name, prefetch=30) as subscription:
        deliveries = [await receive(subscription) for _ in range(30)]
        await asyncio.gather(*map(subscription.ack, deliveries))

    await wait_until_empty(declared, WORK.name)


async def test_declare_can_be_repeated(declared):
    await declared.declare(topology_of(WORK))

    await declared.verify(topology_of(WORK))


async def test_a_queue_with_other_arguments_is_a_mismatch_that_names_it(declared):
    changed = replace(WORK, message_ttl=timedelta(minutes=1))

    with pytest.raises(TopologyMismatch, match="queue work "):
        await declared.declare(topology_of(changed))


async def test_an_exchange_of_another_kind_is_a_mismatch_that_names_it(declared):
    for look in (declared.declare, declared.verify):
        with pytest.raises(TopologyMismatch, match=f"^exchange {EVENTS} .* another type$"):
            await look(Topology([Exchange(EVENTS, "direct")]))


@pytest.mark.parametrize(
    ("argument", "changes"),
    [
        ("x-message-ttl", {"message_ttl": timedelta(minutes=1)}),
        ("x-delivery-limit", {"delivery_limit": 7}),
        ("x-single-active-consumer", {"single_active": True}),
    ],
)
async def test_a_setting_that_the_queue_does_not_have_is_named_as_its_argument(
    declared, argument, changes
):
    for look in (declared.verify, declared.declare):
        with pytest.raises(TopologyMismatch) as refused:
            await look(topology_of(replace(WORK, **changes)))

        assert str(refused.value) == f"queue work exists with another {argument}"
        assert refused.value.argument == argument


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("x-message-ttl", 77),
        ("x-dead-letter-exchange", EVENTS),
        ("x-dead-letter-routing-key", "elsewhere"),
        ("x-dead-letter-strategy", "at-most-once"),
        ("x-overflow", "drop-head"),
    ],
)
async def test_a_retry_queue_with_other_arguments_is_named_with_the_difference(
    transport, argument, value
):
    wanted = topology_of(WORK)
    queues = [
        replace(queue, arguments={**queue.arguments, argument: value})
        if queue.name == WORK.retry(DELAY)
        else queue
        for queue in wanted.queues
    ]
    await transport.declare(replace(wanted, queues=queues))

    with pytest.raises(TopologyMismatch, match=f"^queue work.retry.200ms .* another {argument}$"):
        await transport.verify(wanted)


@pytest.mark.parametrize("missing", [WORK.dead, WORK.retry(DELAY), WORK.name])
async def test_a_missing_queue_is_named_and_not_declared(transport, missing):
    wanted = topology_of(WORK)
    others = [queue for queue in wanted.queues if queue.name != missing]
    await transport.declare(Topology(wanted.exchanges, others))

    for _ in range(2):
        with pytest.raises(TopologyMismatch, match=f"^queue {missing} does not exist$"):
            await transport.verify(wanted)


async def test_a_topology_as_declared_is_compared_in_one_step(declared):
    assert await declared.verify(topology_of(WORK)) == []


async def test_verify_names_missing_queues_and_exchanges(declared):
    with pytest.raises(TopologyMismatch, match="exchange nowhere "):
        await declared.verify(Topology([Exchange("nowhere", "topic")]))
    with pytest.raises(TopologyMismatch, match="queue nothing "):
        await declared.verify(Topology([Exchange(EVENTS, "topic")], [Queue("nothing")]))
    await declared.verify(topology_of(WORK))


async def test_subscribing_to_a_missing_queue_names_it(transport):
    with pytest.raises(TopologyMismatch, match="queue work "):
        async with transport.subscribe(WORK.name, prefetch=1):
            pytest.fail("subscribed to nothing")


async def test_depth_counts_messages_and_consumers(declared):
    async def depth_is(messages: int, consumers: int) -> None:
        async def reached() -> bool:
            return await declared.depth(WORK.name) == QueueDepth(messages, consumers)

        await eventually(reached, message=f"depth is not {messages}, {consumers}")

    assert await declared.depth("no-such-queue") is None
    await depth_is(0, 0)
    async with declared.subscribe(WORK.name, prefetch=1):
        await depth_is(0, 1)
    await publish(declared, a_message(), a_message())
    await depth_is(2, 0)


async def test_an_inspection_tries_each_act_and_no_queue_gets_or_loses_a_message(declared):
    await publish(declared, a_message(b"kept"))
    acts: list[Act] = [
        Publishing(EVENTS, ("health.uploaded",)),
        Publishing(""),
        Consuming(WORK.name),
        BindingOf(EVENTS, WORK.name),
    ]

    facts = await declared.inspect(acts)

    assert {answer.act: answer.permission for answer in facts.answers} == dict.fromkeys(
        acts, Permission.GRANTED
    )
    assert (bool(facts.product), bool(facts.version), facts.is_blocked or False) == (
        True,
        True,
        False,
    )
    async with declared.subscribe(WORK.name, prefetch=10) as subscription:
        delivery = await receive(subscription)
        assert (delivery.message.body, delivery.redelivered) == (b"kept", False)
        await subscription.ack(delivery)
    await wait_until_empty(declared, WORK.name)
    assert await publish(declared, a_message()) == [Outcome.ACKED]


async def test_publishers_may_be_called_at_once_even_with_one_message_id(declared):
    """A client library that identifies returned messages by their id must not mix these up."""
    routable = a_message()
    stranger = replace(routable, routing_key="nobody.listens")
    async with declared.publisher() as publisher:
        await publisher.ready()
        outcomes = await asyncio.gather(
            *(publisher.publish([message], within=SOON) for message in [routable, stranger] * 20)
        )

    assert outcomes == [[Outcome.ACKED], [Outcome.RETURNED]] * 20
