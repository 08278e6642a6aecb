"""
The transport for Redis on servers in other states and groups, and what its management tells.
"""

from datetime import timedelta

import pytest
from yarl import URL

from outbox.errors import BrokerUnavailable
from outbox.redis_urls import expanded
from outbox.transports.base import Outcome, QueueDepth
from outbox.transports.broker_figures import QueueFigures
from outbox.transports.redis.management import RedisManagement
from outbox.transports.redis.transport import RedisTransport
from outbox.transports.topology import Binding, Topology
from tests.contracts.test_connection_count import Metric
from tests.contracts.test_transport import (
    EVENTS,
    OTHER,
    WORK,
    a_message,
    publish,
    receive,
    receive_bodies,
    retry,
    topology_of,
    wait_until_empty,
)
from tests.support.eventually import eventually
from tests.support.servers.redis_groups import RedisCluster, RedisPair

POLL = timedelta(milliseconds=10)


@pytest.fixture
async def transport(redis_url: str) -> RedisTransport:
    transport = RedisTransport([URL(redis_url)], name="test", poll=POLL)
    await transport.declare(topology_of(WORK))
    return transport


async def test_a_server_whose_memory_is_full_takes_no_message_and_consumers_go_on(
    transport, redis_server
):
    await publish(transport, a_message(b"first"), a_message(b"second"))
    async with transport.publisher() as publisher:
        async with redis_server.configured(maxmemory="1"):
            with pytest.raises(BrokerUnavailable, match="memory is full"):
                await publisher.ready()
            refused = await publisher.publish([a_message()], within=timedelta(seconds=5))
            async with transport.subscribe(WORK.name, prefetch=1) as subscription:
                failed = await receive(subscription)
                assert await retry(subscription, failed, attempt=1) is Outcome.ACKED
                received = await receive_bodies(subscription, 2)

        await publisher.ready()
        accepted = await publisher.publish([a_message()], within=timedelta(seconds=5))

    assert (refused, accepted) == ([Outcome.UNKNOWN], [Outcome.ACKED])
    assert received == [b"second", b"first"]
    assert await transport.depth(WORK.name) == QueueDepth(1, 0)


async def test_a_cluster_keeps_every_promise_in_one_slot(redis_binaries):
    cluster = RedisCluster(redis_binaries)
    try:
        await cluster.start()
        urls = [URL(each) for each in expanded(cluster.url)]
        transport = RedisTransport(urls, name="test", poll=POLL)
        for queues in (WORK, OTHER):
            await transport.declare(topology_of(queues))
        await publish(transport, a_message(b"first"), a_message(b"second"))

        async with transport.subscribe(WORK.name, prefetch=1) as subscription:
            await retry(subscription, await receive(subscription), attempt=1)
            assert await receive_bodies(subscription, 2) == [b"second", b"first"]

        await wait_until_empty(transport, WORK.name)
        assert await transport.depth(OTHER.name) == QueueDepth(2, 0)
    finally:
        cluster.close()


async def test_figures_tell_of_each_queue_what_waits_and_what_is_held(transport, redis_url):
    management = RedisManagement([URL(redis_url)], name="test")
    await publish(transport, a_message(), a_message(), a_message())
    async with transport.subscribe(WORK.name, prefetch=2) as subscription:
        await receive(subscription)
        await receive(subscription)

        figures = await management.figures()

    assert {queue.name: queue for queue in figures.queues}[WORK.name] == QueueFigures(
        name=WORK.name, messages=3, unsettled=2, consumers=1
    )
    [node] = figures.nodes or []
    assert (node.memory_used or 0) > 0
    assert node.memory_limit is None
    assert figures.version


async def test_a_full_memory_is_an_alarm(transport, redis_server, redis_url):
    management = RedisManagement([URL(redis_url)], name="test")
    assert list((await management.health()).alarms) == []

    async with redis_server.configured(maxmemory="1"):
        [alarm] = (await management.health()).alarms

    assert alarm.startswith("memory on ")


async def test_missing_bindings_are_found_and_queues_are_listed(transport, redis_url):
    management = RedisManagement([URL(redis_url)], name="test")
    missing = Binding(EVENTS, WORK.name, "lab.#")
    wanted = topology_of(WORK)

    found = await management.missing_bindings(
        Topology(wanted.exchanges, wanted.queues, [*wanted.bindings, missing])
    )

    assert found == [missing]
    assert await management.queues("work.r") == [WORK.retry(WORK.delays[0])]
    assert await management.is_bound(WORK.name, EVENTS)
    assert not await management.is_bound(WORK.dead, EVENTS)


async def test_connections_count_until_they_are_closed(redis_url):
    metric = Metric()
    transport = RedisTransport(
        [URL(redis_url)], name="test", poll=POLL, connections=metric.counter
    )
    await transport.declare(topology_of(WORK))
    assert metric.value == 0

    async with transport.publisher() as publisher:
        await publisher.ready()
        assert metric.value == 1
        async with transport.subscribe(WORK.name, prefetch=1):
            assert metric.value >= 2
        await eventually(metric.becomes(1))
    assert metric.value == 0


async def test_an_unreachable_server_is_unavailable_and_its_password_is_not_shown(redis_url):
    url = URL(redis_url).with_port(1)
    transport = RedisTransport([url], name="test")

    with pytest.raises(BrokerUnavailable) as refused:
        await transport.depth(WORK.name)

    assert url.password
    assert url.password not in str(refused.value)


async def test_a_publish_that_waits_for_a_replica_survives_the_loss_of_the_primary(redis_binaries):
    pair = RedisPair(redis_binaries)
    try:
        await pair.start()
        await pair.sees_replica()
        urls = [URL(each) for each in expanded(pair.url())]
        transport = RedisTransport(urls, name="test", poll=POLL, replicas=1)
        await transport.declare(topology_of(WORK))
        primary = await pair.primary()
        replica = next(server for server in pair.servers if server is not primary)

        assert await publish(transport, a_message(b"on both")) == [Outcome.ACKED]
        with replica.frozen():
            async with transport.publisher() as publisher:
                outcomes = await publisher.publish([a_message()], within=timedelta(seconds=1))
        assert outcomes == [Outcome.UNKNOWN]
        assert await publish(transport, a_message(b"on both again")) == [Outcome.ACKED]
        await primary.kill()
        await pair.fail_over_from(primary)

        async with transport.subscribe(WORK.name, prefetch=1) as subscription:
            received = await receive_bodies(subscription, 3)
    finally:
        pair.close()
    assert received == [b"on both", b"{}", b"on both again"]
