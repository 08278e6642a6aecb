"""
Malformed messages, and a publisher that writes raw frames.
"""

import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aio_pika
import pamqp.frame
from aiormq.abc import ChannelFrame
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from outbox.transports.rabbitmq.publish_gather import properties
from outbox.wire.codec import WireMessage
from tests.support.frames import frame, header, nested_tables, short, table

FLAGS = Basic.Properties.flags
# Properties that RabbitMQ accepts from a publisher and delivers. It refuses types of values that
# it does not know, by closing the publisher's connection.
MALFORMED_PROPERTIES = {
    "a timestamp in microseconds": (
        FLAGS["timestamp"],
        struct.pack(">Q", 1_764_000_000_000_000),
    ),
    "the largest timestamp": (FLAGS["timestamp"], struct.pack(">Q", 2**63 - 1)),
    "a content type that is no text": (FLAGS["content_type"], short(b"\xff\xfe")),
    "an id that is no text": (FLAGS["message_id"], short(b"\xff\xfe")),
    "a header's name that is no text": (FLAGS["headers"], table(short(b"\xff") + b"t\x01")),
    "the largest timestamp in a header": (
        FLAGS["headers"],
        table(short(b"at") + b"T" + struct.pack(">Q", 2**63 - 1)),
    ),
    "1,500 tables in each other": (FLAGS["headers"], nested_tables(1500)),
}


@asynccontextmanager
async def raw_channel(url: str) -> AsyncIterator[Any]:
    """A channel of a new publisher, without confirms."""
    async with await aio_pika.connect(url) as connection:
        wrapper = await connection.channel(publisher_confirms=False)
        yield await wrapper.get_underlay_channel()


async def publish_raw(
    channel: Any, body: bytes, flags: int = 0, properties: bytes = b"", *, queue: str
) -> None:
    """Publish *body* to *queue*, with the raw bytes *properties*."""
    number = channel.number
    method = pamqp.frame.marshal(Basic.Publish(exchange="", routing_key=queue), number)
    content = header(number, len(body), flags, properties) + frame(3, number, body)
    await write(channel, method + content)


async def publish_as_it_is(
    channel: Any, message: WireMessage, *, times: int = 1, **changes: Any
) -> None:
    """
    Publish *message* *times* times, with *changes* to its properties; it needs no id.

    No confirm is awaited, so the same id may be in flight several times.
    """
    number, body = channel.number, message.body
    content = ContentHeader(properties=properties(message), body_size=len(body))
    for name, value in changes.items():
        setattr(content.properties, name, value)
    method = Basic.Publish(exchange=message.exchange, routing_key=message.routing_key)
    frames = [pamqp.frame.marshal(part, number) for part in (method, content)]
    limit = channel.connection.connection_tune.frame_max - 8
    pieces = (body[start : start + limit] for start in range(0, len(body), limit))
    await write(
        channel, b"".join([*frames, *(frame(3, number, piece) for piece in pieces)]) * times
    )


async def write(channel: Any, frames: bytes) -> None:
    await channel.write_queue.put(ChannelFrame(payload=frames, should_close=False))
