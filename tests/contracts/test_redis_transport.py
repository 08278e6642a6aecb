"""
What the transport for Redis promises beyond the contract of all transports.
"""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from functools import partial

import pytest
from redis.asyncio import Redis
from yarl import URL

from consumer.queues import ConsumerQueues
from outbox.errors import BrokerUnavailable
from outbox.transports.base import Outcome, QueueDepth
from outbox.transports.redis.addresses import open_client
from outbox.transports.redis.messages import Messages
from outbox.transports.redis.transport import RedisTransport
from outbox.transports.topology import Binding, Topology
from tests.contracts.test_transport import (
    EVENTS,
    OTHER,
    SINGLE,
    WORK,
    a_message,
    publish,
    receive,
    receive_bodies,
    receive_many,
    retry,
    topology_of,
    wait_until_empty,
)
from tests.support.eventually import eventually

LEASE = timedelta(milliseconds=600)
POLL = timedelta(milliseconds=10)


@pytest.fixture
async def transport(redis_url: str) -> RedisTransport:
    transport = RedisTransport([URL(redis_url)], name="test", poll=POLL)
    for queues in (WORK, OTHER, SINGLE):
        await transport.declare(topology_of(queues))
    return transport


@pytest.fixture
def hasty(redis_url: str) -> RedisTransport:
    """With leases so short that a test can wait for their end."""
    return RedisTransport([URL(redis_url)], name="test", poll=POLL, lease=LEASE)


async def take_away_lease(client: Redis) -> None:
    """Let all leases end now."""
    for owner in await client.zrange("{mq}:leases", 0, -1):
        await client.zadd("{mq}:leases", {owner: 1})


async def test_messages_of_a_process_that_died_come_back_in_order_after_its_lease(
    transport, redis_client
):
    bodies = [b"1", b"2", b"3", b"4"]
    await publish(transport, *map(a_message, bodies))
    messages = Messages(redis_client)
    await messages.join(SINGLE.name, "killed", lease=LEASE)
    claimed = await messages.claim(SINGLE.name, "killed", limit=2, lease=LEASE, first_tag=1)
    assert claimed is not None
    assert [delivery.message.body for _, delivery in claimed.entries] == bodies[:2]

    async with transport.subscribe(SINGLE.name, prefetch=9, ordered=True) as successor:
        received = await receive_many(successor, 4)

        assert [delivery.message.body for delivery in received] == bodies
        assert [delivery.redelivered for delivery in received] == [True, True, False, False]
        assert received[0].message.headers["x-delivery-count"] == 1
        assert "x-delivery-count" not in received[2].message.headers


async def test_a_handler_that_runs_for_longer_than_a_lease_keeps_its_message(hasty, transport):
    await publish(transport, a_message(b"slow"))

    async with (
        hasty.subscribe(WORK.name, prefetch=1) as slow,
        hasty.subscribe(WORK.name, prefetch=1) as idle,
    ):
        held = await receive(slow)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(LEASE.total_seconds() * 2):
                await idle.take(1)
        await slow.ack(held)

    await wait_until_empty(transport, WORK.name)


@pytest.mark.parametrize("settling", ["ack", "release", "replace"])
async def test_a_consumer_that_lost_its_lease_settles_nothing(transport, redis_client, settling):
    await publish(transport, a_message(b"taken over"))
    async with AsyncExitStack() as stack:
        late = await stack.enter_async_context(transport.subscribe(WORK.name, prefetch=1))
        held = await receive(late)
        await take_away_lease(redis_client)
        await Messages(redis_client).sweep()

        settle = partial(retry, late, held, attempt=1)
        if settling != "replace":
            settle = partial(getattr(late, settling), held)
        with pytest.raises(BrokerUnavailable, match="lease"):
            await settle()
        with pytest.raises(BrokerUnavailable):
            await late.take(1)

    async with transport.subscribe(WORK.name, prefetch=9) as successor:
        assert await receive_bodies(successor, 1) == [b"taken over"]
    await wait_until_empty(transport, WORK.name)
    assert await transport.depth(WORK.retry(WORK.delays[0])) == QueueDepth(0, 0)


async def test_a_publisher_reaches_a_queue_that_was_bound_after_it_had_connected(transport):
    await publish(transport, a_message())
    async with transport.publisher() as publisher:
        await publisher.ready()
        stranger = a_message(b"found", routing_key="lab.result")
        [before] = await publisher.publish([stranger], within=timedelta(seconds=5))

        await transport.declare(Topology(bindings=[Binding(EVENTS, OTHER.name, "lab.#")]))
        [after] = await publisher.publish([stranger], within=timedelta(seconds=5))

    assert (before, after) == (Outcome.RETURNED, Outcome.ACKED)
    async with transport.subscribe(OTHER.name, prefetch=1) as subscription:
        assert await receive_bodies(subscription, 2) == [b"{}", b"found"]


async def test_processes_that_sweep_at_once_move_each_message_once(transport, redis_url):
    bodies = [str(number).encode() for number in range(60)]
    copies = [
        replace(a_message(body), exchange="", routing_key=WORK.retry(WORK.delays[0]))
        for body in bodies
    ]
    await publish(transport, *copies)

    async with AsyncExitStack() as stack:
        sweepers = []
        for _ in range(4):
            client = open_client([URL(redis_url)], name="sweeper")
            stack.push_async_callback(client.aclose)
            sweepers.append(Messages(client))

        async def all_moved() -> bool:
            await asyncio.gather(*(each.sweep() for each in sweepers))
            return await transport.depth(WORK.name) == QueueDepth(60, 0)

        await eventually(all_moved)

    async with transport.subscribe(WORK.name, prefetch=60) as subscription:
        assert sorted(await receive_bodies(subscription, 60)) == sorted(bodies)


async def test_urgent_messages_overtake_those_that_wait(transport):
    waiting = [a_message(str(number).encode(), priority=4) for number in range(3)]
    later = a_message(b"later", priority=0)
    urgent = a_message(b"urgent", priority=9)
    await publish(transport, later, *waiting, urgent)

    async with transport.subscribe(WORK.name, prefetch=1) as subscription:
        received = await receive_bodies(subscription, 5)

    assert received == [b"urgent", b"0", b"1", b"2", b"later"]


async def test_a_message_at_its_delivery_limit_goes_to_the_dead_queue(transport):
    queues = ConsumerQueues("limited", bindings=["limit"], delays=[], delivery_limit=1)
    await transport.declare(topology_of(queues))
    await publish(transport, a_message(b"poison", routing_key="limit"))

    for _ in range(2):
        async with transport.subscribe(queues.name, prefetch=1) as subscription:
            await receive(subscription)

    # Any subscription of the server sweeps.
    async with transport.subscribe(queues.dead, prefetch=1) as dead:
        letter = await receive(dead)
        await dead.ack(letter)
    assert letter.message.body == b"poison"
    assert letter.message.headers["x-first-death-reason"] == "delivery_limit"
    assert letter.message.headers["x-first-death-queue"] == queues.name
    await wait_until_empty(transport, queues.name)


async def test_a_message_that_expires_goes_to_the_dead_queue_unless_it_is_held(transport):
    queues = ConsumerQueues(
        "fleeting", bindings=["fleeting"], delays=[], message_ttl=timedelta(milliseconds=150)
    )
    await transport.declare(topology_of(queues))
    held, waiting = (a_message(body, routing_key="fleeting") for body in (b"held", b"waiting"))
    await publish(transport, held, waiting)

    async with (
        transport.subscribe(queues.name, prefetch=1) as subscription,
        transport.subscribe(queues.dead, prefetch=1) as dead,
    ):
        delivery = await receive(subscription)
        letter = await receive(dead)
        await dead.ack(letter)
        await subscription.ack(delivery)

    assert (delivery.message.body, letter.message.body) == (b"held", b"waiting")
    assert letter.message.headers["x-first-death-reason"] == "expired"
    await wait_until_empty(transport, queues.name)


async def test_an_entry_that_no_publisher_of_ours_wrote_is_delivered_as_malformed(
    transport, redis_client
):
    await redis_client.xadd("{mq}:queue:work:normal", {"anything": "else"})

    async with transport.subscribe(WORK.name, prefetch=1) as subscription:
        delivery = await receive(subscription)
        await subscription.ack(delivery)

    assert (delivery.decode_error, delivery.message.body) == ("malformed", b"")
    await wait_until_empty(transport, WORK.name)


async def test_the_names_of_keys_and_of_consumers_tell_nothing_of_a_message(
    transport, redis_client
):
    await publish(transport, a_message(b"secret", correlation_id="patient-7"))
    async with transport.subscribe(WORK.name, prefetch=1) as subscription:
        await receive(subscription)

        names = b"\n".join(await redis_client.keys())

    assert b"patient-7" not in names
    assert all(name.startswith(b"{mq}:") for name in names.split(b"\n"))


async def test_settled_messages_leave_nothing_behind(transport, redis_client):
    await publish(transport, *(a_message() for _ in range(20)))
    for queue in (WORK.name, OTHER.name, SINGLE.name):
        async with transport.subscribe(queue, prefetch=20, ordered=queue == SINGLE.name) as work:
            await receive_bodies(work, 20)

    for key in ("{mq}:expiring", "{mq}:leases", "{mq}:owners", "{mq}:consumers:work"):
        assert not await redis_client.exists(key), key
    assert await redis_client.xinfo_consumers("{mq}:queue:work:normal", "consumers") == []
