"""
Messages that the client library cannot read arrive between healthy ones, and can be settled.
"""

import asyncio
import struct
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from yarl import URL

from outbox.transports.base import QueueDepth, Subscription
from outbox.transports.delivery import Delivery
from outbox.transports.rabbitmq.frame_decoder import MALFORMED
from outbox.transports.rabbitmq.transport import RabbitMQTransport
from outbox.transports.topology import Queue, Topology
from tests.support.eventually import eventually
from tests.support.frames import short, table
from tests.support.malformed_messages import FLAGS, MALFORMED_PROPERTIES, publish_raw, raw_channel

WORK = "work"
SOON = timedelta(seconds=10)


@pytest.fixture
async def transport(rabbitmq_url: str) -> RabbitMQTransport:
    transport = RabbitMQTransport([URL(rabbitmq_url)], heartbeat_seconds=5, name="test")
    await transport.declare(Topology([], [Queue(WORK, {"x-queue-type": "quorum"})]))
    return transport


@pytest.fixture
async def channel(rabbitmq_url: str) -> AsyncIterator[Any]:
    """Offer a channel of a publisher that writes frames as it likes."""
    async with raw_channel(rabbitmq_url) as channel:
        yield channel


async def publish(channel: Any, body: bytes, flags: int = 0, properties: bytes = b"") -> None:
    await publish_raw(channel, body, flags, properties, queue=WORK)


async def receive(subscription: Subscription, count: int) -> list[Delivery]:
    deliveries: list[Delivery] = []
    async with asyncio.timeout(SOON.total_seconds()):
        while len(deliveries) < count:
            deliveries += await subscription.take(count)
    return deliveries


async def test_hostile_messages_arrive_flawed_in_a_healthy_stream_and_can_be_acked(
    transport, channel
):
    for name, hostile in MALFORMED_PROPERTIES.items():
        await publish(channel, b"before " + name.encode())
        await publish(channel, name.encode(), *hostile)
    await publish(channel, b"last")
    expected = [
        (body, decode_error)
        for name in MALFORMED_PROPERTIES
        for body, decode_error in ((f"before {name}", None), (name, MALFORMED))
    ]

    async with transport.subscribe(WORK, prefetch=100) as subscription:
        deliveries = await receive(subscription, len(expected) + 1)
        found = [
            (delivery.message.body.decode(), delivery.decode_error) for delivery in deliveries
        ]
        await subscription.ack(*deliveries)

        assert found == [*expected, ("last", None)]
        assert not any(delivery.redelivered for delivery in deliveries)
        await publish(channel, b"over the same connection")
        [delivery] = await receive(subscription, 1)
        assert delivery.tag == len(deliveries) + 1
        await subscription.ack(delivery)

    async def empty() -> bool:
        return await transport.depth(WORK) == QueueDepth(messages=0, consumers=0)

    await eventually(empty)


async def test_the_readable_parts_of_a_hostile_message_are_kept(transport, channel):
    flags = FLAGS["content_type"] | FLAGS["headers"] | FLAGS["message_id"] | FLAGS["timestamp"]
    headers = table(short(b"source") + b"S" + table(b"phone") + short(b"\xff") + b"t\x01")
    stamp = struct.pack(">Q", 2**63 - 1)
    await publish(channel, b"{}", flags, short(b"text/plain") + headers + short(b"id") + stamp)

    async with transport.subscribe(WORK, prefetch=1) as subscription:
        [delivery] = await receive(subscription, 1)

    message = delivery.message
    assert delivery.decode_error == MALFORMED
    assert (message.content_type, message.message_id, message.body) == ("text/plain", "id", b"{}")
    assert message.headers == {"source": "phone"}
    assert message.timestamp is None
