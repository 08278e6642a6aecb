"""
The transport for Redis when the server, a user's rights or an entry are not as they should be.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from redis.asyncio import Redis
from yarl import URL

from consumer.queues import ConsumerQueues
from outbox.errors import BrokerUnavailable
from outbox.transports.base import Outcome, QueueDepth
from outbox.transports.redis import script_runner
from outbox.transports.redis.addresses import open_client
from outbox.transports.redis.messages import Messages
from outbox.transports.redis.transport import RedisTransport
from outbox.transports.topology import Queue, Topology
from tests.contracts.test_transport import (
    SINGLE,
    WORK,
    a_message,
    publish,
    topology_of,
)
from tests.support.eventually import eventually
from tests.support.servers.private_redis import PrivateRedis
from tests.support.servers.redis_groups import Member

LEASE = timedelta(milliseconds=600)
POLL = timedelta(milliseconds=10)
SHORT = timedelta(milliseconds=300)


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    client = open_client([URL(redis_url)], name="test")
    yield client
    await client.aclose()


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


async def test_a_message_of_a_queue_that_was_declared_later_is_dead_lettered(transport, client):
    sweeper = Messages(client)
    await sweeper.declarations()
    queues = ConsumerQueues("later", bindings=["later"], delays=[], message_ttl=POLL)
    await transport.declare(topology_of(queues))
    await publish(transport, a_message(b"expired", routing_key="later"))

    async def is_dead() -> bool:
        await sweeper.sweep()
        return await sweeper.depth(queues.dead) == QueueDepth(1, 0)

    await eventually(is_dead)


async def test_an_expired_message_is_dropped_though_a_queue_was_declared_since(transport, client):
    await transport.declare(Topology(queues=[Queue("plain", {"x-message-ttl": 1})]))
    await publish(transport, a_message(exchange="", routing_key="plain"))
    sweeper = Messages(client)
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
