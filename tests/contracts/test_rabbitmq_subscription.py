"""
RabbitMQ's subscription beyond the contract of all transports, with both of its methods.

The frame reader uses internals of aiormq; these tests fail if a new version changes them.
"""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import aio_pika
import aiormq
import pytest
from structlog.testing import capture_logs
from yarl import URL

from outbox.errors import BrokerUnavailable
from outbox.transports.base import Outcome, QueueDepth, Subscription
from outbox.transports.delivery import Delivery
from outbox.transports.rabbitmq import frame_reader as rabbitmq_tap
from outbox.transports.rabbitmq.transport import RabbitMQTransport
from outbox.transports.topology import Queue, Topology
from outbox.wire.codec import WireMessage
from tests.support.eventually import eventually
from tests.support.proxy import Proxy

WORK = "work"
WAITING = "waiting"
SOON = timedelta(seconds=10)
TOPOLOGY = Topology(
    [],
    [
        Queue(WORK, {"x-queue-type": "quorum"}),
        Queue(
            WAITING,
            {
                "x-queue-type": "quorum",
                "x-message-ttl": 1,
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": WORK,
            },
        ),
    ],
)


@pytest.fixture(params=["frames", "callback"])
def method(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
async def url(rabbitmq_url: str) -> str:
    await a_transport(rabbitmq_url, "frames").declare(TOPOLOGY)
    return rabbitmq_url


@pytest.fixture
async def transport(url: str, method: str) -> RabbitMQTransport:
    return a_transport(url, method)


@pytest.fixture
async def channel(url: str) -> AsyncIterator[Any]:
    """A channel of another connection."""
    async with await aio_pika.connect(url) as connection:
        wrapper = await connection.channel()
        yield await wrapper.get_underlay_channel()


def a_transport(url: str, method: str, heartbeat_seconds: int = 10) -> RabbitMQTransport:
    return RabbitMQTransport(
        [URL(url)], heartbeat_seconds=heartbeat_seconds, name="test", delivery_method=method
    )


def a_message(body: bytes = b"{}", **changes: Any) -> WireMessage:
    values = {"exchange": "", "routing_key": WORK, "message_id": str(uuid4())}
    return WireMessage(body=body, **{**values, **changes})


async def publish(url: str, *messages: WireMessage) -> None:
    async with a_transport(url, "frames").publisher() as publisher:
        outcomes = await publisher.publish(messages, within=SOON)
    assert set(outcomes) == {Outcome.ACKED}


async def receive(subscription: Subscription, count: int) -> list[Delivery]:
    deliveries: list[Delivery] = []
    async with asyncio.timeout(SOON.total_seconds()):
        while len(deliveries) < count:
            deliveries += await subscription.take(count - len(deliveries))
    return deliveries


async def wait_until_left(transport: RabbitMQTransport, messages: int) -> None:
    async def left() -> bool:
        return await transport.depth(WORK) == QueueDepth(messages, consumers=0)

    await eventually(left, message=f"{messages} messages are not left")


def channel_of(subscription: Any) -> Any:
    return subscription._channel


async def test_bodies_of_any_size_arrive_intact(url, transport):
    sizes = [0, 1, 131_063, 131_064, 131_065, 600_000]
    bodies = [bytes([number]) * size for number, size in enumerate(sizes)]
    await publish(url, *map(a_message, bodies))

    async with transport.subscribe(WORK, prefetch=10) as subscription:
        deliveries = await receive(subscription, len(bodies))

    assert [delivery.message.body for delivery in deliveries] == bodies


async def test_both_methods_read_the_same(url):
    """The messages were dead-lettered, so their headers contain `x-death`, an array of tables."""
    message = a_message(
        routing_key=WAITING,
        type="health.größe",
        correlation_id="c",
        timestamp=datetime(2026, 1, 2, tzinfo=UTC),
        content_type="application/json",
        content_encoding="gzip",
        priority=9,
        headers={"source": "läuft 🩺", "number": 2**40, "small": -3, "yes": True},
    )
    await publish(url, message, a_message(priority=9, routing_key=WAITING))
    await publish(url, message, a_message(priority=9, routing_key=WAITING))
    found = []
    for method in ("frames", "callback"):
        async with a_transport(url, method).subscribe(WORK, prefetch=2) as subscription:
            deliveries = await receive(subscription, 2)
            await subscription.stop()
            await subscription.ack(*deliveries)
        first = next(each.message for each in deliveries if each.message.type)
        [death] = first.headers["x-death"]
        assert isinstance(death.pop("time"), datetime)
        found.append((first, death))

    assert found[0] == found[1]
    death = found[0][1]
    assert (death["queue"], death["reason"], death["count"]) == (WAITING, "expired", 1)


async def test_many_deliveries_may_be_unsettled(url, transport):
    bodies = [str(number).encode() for number in range(5000)]
    await publish(url, *map(a_message, bodies))

    async with transport.subscribe(WORK, prefetch=5000) as subscription:
        deliveries = await receive(subscription, 5000)
        assert [delivery.message.body for delivery in deliveries] == bodies
        await subscription.ack(*deliveries)

    await wait_until_left(transport, 0)


async def test_settling_in_any_order_settles_these_deliveries_only(url, transport):
    bodies = [str(number).encode() for number in range(300)]
    await publish(url, *map(a_message, bodies))
    jitter = random.Random(7)
    async with transport.subscribe(WORK, prefetch=300) as subscription:
        deliveries = await receive(subscription, 300)
        jitter.shuffle(deliveries)
        acked, replaced, released = deliveries[:150], deliveries[150:180], deliveries[180:200]
        for delivery in (*acked[:70], *released[:10]):
            settle = subscription.ack if delivery in acked else subscription.release
            await settle(delivery)
        copies = [subscription.replace(each, a_message(b"copy")) for each in replaced]
        assert set(await asyncio.gather(*copies)) == {Outcome.ACKED}
        await asyncio.gather(
            *map(subscription.ack, acked[70:]), *map(subscription.release, released[10:])
        )

    unsettled = Counter(each.message.body for each in (*released, *deliveries[200:]))
    unsettled[b"copy"] = 30
    async with transport.subscribe(WORK, prefetch=300) as subscription:
        left = await receive(subscription, 150)
        await subscription.ack(*left)
    assert Counter(each.message.body for each in left) == unsettled
    await wait_until_left(transport, 0)


async def test_an_ack_is_sent_even_without_another_take(url, transport):
    await publish(url, a_message(b"1"), a_message(b"2"))

    async with transport.subscribe(WORK, prefetch=1) as subscription:
        [first] = await receive(subscription, 1)
        await subscription.ack(first)

        await eventually(lambda: len(subscription._buffer) == 1)


async def test_acks_one_by_one_are_few_writes(url):
    await publish(url, *(a_message() for _ in range(1000)))
    async with a_transport(url, "frames").subscribe(WORK, prefetch=1000) as subscription:
        deliveries = await receive(subscription, 1000)
        queue, written = channel_of(subscription).write_queue, []
        put = queue.put_nowait
        queue.put_nowait = lambda frame: (written.append(frame), put(frame))

        for delivery in deliveries:
            await subscription.ack(delivery)

    assert sum(len(frame.payload) for frame in written) < 21 * 20
    await wait_until_left(a_transport(url, "frames"), 0)


async def test_another_take_does_not_flush_a_few_acks(url):
    await publish(url, *(a_message() for _ in range(110)))
    async with a_transport(url, "frames").subscribe(WORK, prefetch=100) as subscription:
        deliveries = await receive(subscription, 100)
        queue, written = channel_of(subscription).write_queue, []
        put = queue.put_nowait
        queue.put_nowait = lambda frame: (written.append(frame), put(frame))

        for delivery in deliveries[:10]:
            await subscription.ack(delivery)
            taking = asyncio.create_task(subscription.take(1))
            await asyncio.sleep(0)
            taking.cancel()

        assert written == []
        assert len(await receive(subscription, 10)) == 10
        assert len(written) <= 2  # on a slow machine the delay of acks may pass


async def test_acking_twice_is_harmless(url, transport):
    await publish(url, a_message(b"1"), a_message(b"2"))

    async with transport.subscribe(WORK, prefetch=1) as subscription:
        [first] = await receive(subscription, 1)
        await subscription.ack(first, first)
        [second] = await receive(subscription, 1)
        await subscription.ack(first, second)
        await subscription.release(first)

    await wait_until_left(transport, 0)


async def test_raising_the_prefetch_under_load_loses_and_requeues_no_message(url, transport):
    bodies = [str(number).encode() for number in range(2000)]
    await publish(url, *map(a_message, bodies[:1000]))
    received: list[Delivery] = []

    async def consume(subscription: Subscription) -> None:
        while len(received) < len(bodies):
            deliveries = await subscription.take(50)
            received.extend(deliveries)
            await subscription.ack(*deliveries)

    async with (
        transport.subscribe(WORK, prefetch=2) as subscription,
        asyncio.timeout(SOON.total_seconds()),
        asyncio.TaskGroup() as tasks,
    ):
        tasks.create_task(consume(subscription))
        for prefetch in (20, 10, 200, 400):
            await subscription.raise_prefetch(prefetch)
        await publish(url, *map(a_message, bodies[1000:]))

    assert sorted(delivery.message.body for delivery in received) == sorted(bodies)
    assert not any(delivery.redelivered for delivery in received)
    await wait_until_left(transport, 0)


async def test_a_queue_that_is_deleted_ends_the_subscription(transport, channel):
    async with transport.subscribe(WORK, prefetch=1) as subscription:
        await channel.queue_delete(WORK)

        with pytest.raises(BrokerUnavailable):
            await receive(subscription, 1)


async def test_a_queue_that_the_user_may_not_read_is_named(
    url, method, rabbitmq_server, rabbitmq_vhost
):
    lent = rabbitmq_server.http.lent_user(rabbitmq_vhost, configure=".*", read="^$")
    async with lent as (user, password):
        transport = a_transport(str(URL(url).with_user(user).with_password(password)), method)
        with pytest.raises(BrokerUnavailable, match=f"queue {WORK}: .* may not read it") as raised:
            async with transport.subscribe(WORK, prefetch=1):
                raise AssertionError

    assert raised.value.refused


async def test_a_channel_that_the_broker_closes_ends_the_subscription(url, transport):
    """An unknown tag makes the broker close the channel with 406, as a delivery timeout does."""
    await publish(url, a_message())
    async with transport.subscribe(WORK, prefetch=1) as subscription:
        [delivery] = await receive(subscription, 1)
        await channel_of(subscription).basic_ack(999)

        with pytest.raises(BrokerUnavailable):
            await receive(subscription, 1)
        assert await is_quick(subscription.ack(delivery))

    await wait_until_left(transport, 1)


async def test_a_lost_connection_is_raised_by_take_and_blocks_no_ack(url, method):
    await publish(url, *(a_message() for _ in range(3)))
    async with (
        Proxy(url) as proxy,
        a_transport(proxy.url, method).subscribe(WORK, prefetch=3) as subscription,
    ):
        deliveries = await receive(subscription, 3)
        await proxy.cut()

        assert await is_quick(subscription.ack(*deliveries))
        with pytest.raises(BrokerUnavailable):
            await receive(subscription, 1)
        assert await is_quick(subscription.ack(*deliveries))


async def test_a_silent_peer_is_noticed(url, method, monkeypatch):
    monkeypatch.setattr(aiormq.Connection, "HEARTBEAT_GRACE_MULTIPLIER", 1)
    async with (
        Proxy(url) as proxy,
        a_transport(proxy.url, method, heartbeat_seconds=1).subscribe(
            WORK, prefetch=1
        ) as subscription,
    ):
        await proxy.drop_all()

        with pytest.raises(BrokerUnavailable):
            await receive(subscription, 1)


async def test_a_subscription_that_ends_normally_logs_nothing(url, transport, caplog):
    caplog.set_level(logging.INFO)
    await publish(url, *(a_message() for _ in range(10)))
    caplog.clear()

    with capture_logs() as logs:
        async with transport.subscribe(WORK, prefetch=10) as subscription:
            deliveries = await receive(subscription, 10)
            await subscription.ack(*deliveries[:5])
            await subscription.stop()
            await subscription.ack(*deliveries[5:])

    assert logs == []
    assert caplog.messages == []


async def test_the_installed_client_library_supports_frame_reading(url):
    async with a_transport(url, "frames").subscribe(WORK, prefetch=1) as subscription:
        assert subscription.method == "frames"


async def test_deliveries_come_by_callback_if_the_client_library_is_another(url, monkeypatch):
    monkeypatch.setattr(rabbitmq_tap.FrameReadingConnection, "_reader_arguments", lambda _: {})
    await publish(url, a_message(b"1"), a_message(b"2"))

    with capture_logs() as logs:
        async with a_transport(url, "frames").subscribe(WORK, prefetch=10) as subscription:
            deliveries = await receive(subscription, 2)
            await subscription.ack(*deliveries)

    assert [delivery.message.body for delivery in deliveries] == [b"1", b"2"]
    assert [line["event"] for line in logs] == ["frame_deliveries_unavailable"]
    assert logs[0]["missing"] == "transport_factory"


@pytest.mark.parametrize(
    ("owner", "name", "value"),
    [
        ("connection", "frame_reader", None),
        ("frame_reader", "received", False),
        ("frame_reader", "out_of_sync", True),
        ("channel", "number", None),
        ("channel", "write_queue", None),
    ],
)
async def test_a_client_library_without_the_internals_that_frames_need_is_incompatible(
    url, owner, name, value
):
    async with await aio_pika.connect(
        url, connection_class=rabbitmq_tap.FrameReadingConnection
    ) as connection:
        channel = await (await connection.channel()).get_underlay_channel()
        owners: dict[str, Any] = {
            "connection": connection,
            "channel": channel,
            "frame_reader": connection.frame_reader,
        }
        assert rabbitmq_tap.incompatibility(connection, channel) is None
        original = getattr(owners[owner], name)

        setattr(owners[owner], name, value)

        assert rabbitmq_tap.incompatibility(connection, channel) is not None
        setattr(owners[owner], name, original)


async def is_quick(call: Any) -> bool:
    """Whether *call* returns, or raises BrokerUnavailable, before heartbeats fail."""
    try:
        async with asyncio.timeout(2):
            await call
    except BrokerUnavailable:
        return True
    except TimeoutError:
        return False
    return True
