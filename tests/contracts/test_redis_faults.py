"""
The transport for Redis when the server, a user's rights or an entry are not as they should be.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from redis.exceptions import ResponseError
from yarl import URL

from consumer.queues import ConsumerQueues
from outbox.errors import BrokerUnavailable
from outbox.transports.base import Outcome, QueueDepth
from outbox.transports.redis import script_runner
from outbox.transports.redis.addresses import open_client
from outbox.transports.redis.connect_errors import unavailable
from outbox.transports.redis.messages import Messages
from outbox.transports.redis.transport import RedisTransport
from outbox.transports.topology import Queue, Topology
from tests.contracts.test_redis_inspection import USER, rights_of_page, user_with
from tests.contracts.test_transport import (
    SINGLE,
    WORK,
    a_message,
    publish,
    receive,
    receive_bodies,
    topology_of,
)
from tests.support.eventually import eventually
from tests.support.servers.private_redis import PrivateRedis
from tests.support.servers.redis_groups import Member

LEASE = timedelta(milliseconds=600)
POLL = timedelta(milliseconds=10)
SHORT = timedelta(milliseconds=300)


@pytest.fixture
async def transport(redis_url: str) -> RedisTransport:
    transport = RedisTransport([URL(redis_url)], name="test", poll=POLL, lease=LEASE)
    for queues in (WORK, SINGLE):
        await transport.declare(topology_of(queues))
    return transport


@pytest.fixture
async def private(redis_binaries: Path) -> AsyncIterator[Member]:
    """Give a server that the test may stop."""
    server = Member(PrivateRedis(redis_binaries))
    try:
        await server.start()
        yield server
    finally:
        server.node.close()


async def test_a_publish_that_waits_for_replicas_is_unknown_when_the_server_has_stopped(private):
    transport = RedisTransport([URL(private.url())], name="test", replicas=1)
    await transport.declare(topology_of(WORK))

    async with transport.publisher() as publisher:
        assert await publisher.publish([a_message()], within=SHORT) == [Outcome.UNKNOWN]
        await private.kill()
        outcomes = await publisher.publish([a_message()], within=timedelta(seconds=5))

    assert outcomes == [Outcome.UNKNOWN]


async def test_a_consumer_that_loses_a_right_forgets_no_message(
    transport, redis_server, redis_url
):
    await publish(transport, a_message(b"held"))
    async with user_with(redis_server, redis_url, *rights_of_page()) as url:
        limited = RedisTransport([URL(url)], name="test", poll=POLL, lease=LEASE)
        async with limited.subscribe(WORK.name, prefetch=1) as subscription:
            await receive(subscription)
            await redis_server.call("ACL", "SETUSER", USER, "-xpending")

    async with transport.subscribe(WORK.name, prefetch=1) as successor:
        assert await receive_bodies(successor, 1) == [b"held"]


async def test_a_consumer_without_a_right_names_it_as_the_reason(
    transport, redis_server, redis_url
):
    async with user_with(redis_server, redis_url, *rights_of_page(), "-xpending") as url:
        limited = RedisTransport([URL(url)], name="test", poll=POLL, lease=LEASE)
        async with limited.subscribe(WORK.name, prefetch=1) as subscription:
            with pytest.raises(BrokerUnavailable, match="the user lacks a right") as refused:
                await receive(subscription)

    assert refused.value.refused


async def test_a_message_of_a_queue_that_was_declared_later_is_dead_lettered(
    transport, redis_client
):
    sweeper = Messages(redis_client)
    await sweeper.declarations()
    queues = ConsumerQueues("later", bindings=["later"], delays=[], message_ttl=POLL)
    await transport.declare(topology_of(queues))
    await publish(transport, a_message(b"expired", routing_key="later"))

    async def is_dead() -> bool:
        await sweeper.sweep()
        return await sweeper.depth(queues.dead) == QueueDepth(1, 0)

    await eventually(is_dead)


async def test_an_expired_message_is_dropped_though_a_queue_was_declared_since(
    transport, redis_client
):
    await transport.declare(Topology(queues=[Queue("plain", {"x-message-ttl": 1})]))
    await publish(transport, a_message(exchange="", routing_key="plain"))
    sweeper = Messages(redis_client)
    await sweeper.declarations()
    await transport.declare(Topology(queues=[Queue("later")]))

    async def is_dropped() -> bool:
        await sweeper.sweep()
        return await sweeper.depth("plain") == QueueDepth(0, 0)

    await eventually(is_dropped)


async def test_a_server_that_does_not_answer_is_unavailable_to_a_publisher(private, monkeypatch):
    monkeypatch.setattr(script_runner, "WRITABLE_WITHIN", SHORT)
    transport = RedisTransport([URL(private.url())], name="test")
    async with transport.publisher() as publisher:
        await publisher.ready()
        with private.frozen():
            async with asyncio.timeout(5):
                with pytest.raises(BrokerUnavailable, match="no answer in time"):
                    await publisher.ready()


@pytest.mark.parametrize(
    "properties", ['{"timestamp": 1e999, "headers": {}}', "[" * 100_000], ids=["stamp", "nested"]
)
async def test_a_foreign_entry_with_values_out_of_range_is_malformed(
    transport, redis_client, properties
):
    entry = {"exchange": "", "routing_key": "", "properties": properties, "body": ""}
    await redis_client.xadd(f"{{mq}}:queue:{WORK.name}:normal", entry)

    async with transport.subscribe(WORK.name, prefetch=1) as subscription:
        delivery = await receive(subscription)
        await subscription.ack(delivery)

    assert delivery.decode_error == "malformed"


async def test_an_expired_message_lets_no_later_one_pass_those_that_were_given_back(
    transport, redis_client
):
    messages = Messages(redis_client)
    for owner in ("first", "second"):
        await messages.join(WORK.name, owner, lease=LEASE)
    await publish(transport, *map(a_message, (b"expired", b"1", b"2")))
    held = await messages.claim(WORK.name, "first", limit=3, lease=LEASE, first_tag=1)
    assert held is not None
    await messages.give_back(WORK.name, "first", keep=[])
    await publish(transport, a_message(b"3"))
    place = held.entries[0][0]
    await redis_client.zadd("{mq}:expiring", {place.text + b":" + WORK.name.encode(): 1})

    full_page = await messages.claim(WORK.name, "second", limit=1, lease=LEASE, first_tag=1)
    await messages.sweep()
    rest = await messages.claim(WORK.name, "second", limit=9, lease=LEASE, first_tag=1)

    assert full_page is not None
    assert rest is not None
    assert (full_page.entries, full_page.overdue) == ([], True)
    assert [delivery.message.body for _, delivery in rest.entries] == [b"1", b"2", b"3"]


async def test_a_consumer_that_finds_no_message_writes_nothing(private):
    transport = RedisTransport([URL(private.url())], name="test")
    await transport.declare(topology_of(WORK))
    client = open_client([URL(private.url())], name="test")
    messages = Messages(client)
    await messages.join(WORK.name, "idle", lease=LEASE)

    async def claim() -> None:
        await messages.claim(WORK.name, "idle", limit=1, lease=LEASE, first_tag=1)

    await claim()
    before = (await private.facts("persistence"))["rdb_changes_since_last_save"]
    for _ in range(3):
        await claim()
    after = (await private.facts("persistence"))["rdb_changes_since_last_save"]
    await client.aclose()

    assert after == before


@pytest.mark.parametrize(
    "reply",
    [
        "ACL failure in script: User relay has no permissions to run the 'xadd' command",
        "The user executing the script can't run this command or subcommand script: 1f0c",
    ],
    ids=["7.2", "7.0"],
)
def test_a_right_that_a_script_lacks_stays_until_a_person_grants_it(reply):
    error = unavailable(ResponseError(reply), "MQ_BROKER_URL")

    assert error.refused
    assert str(error) == "MQ_BROKER_URL: the user lacks a right: grant it with ACL SETUSER"
