"""
AMQP frames as RabbitMQ could send them, legal or not.
"""

import struct
from collections.abc import Iterable

import pamqp.frame
from pamqp.commands import Basic


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


def header(channel: int, size: int, flags: int, properties: bytes) -> bytes:
    """A content header with the raw bytes *properties*, legal or not."""
    return frame(2, channel, struct.pack(">HHQH", Basic.frame_id, 0, size, flags) + properties)


def bodies(channel: int, body: bytes, *, at_most: int) -> Iterable[bytes]:
    return (
        frame(3, channel, body[start : start + at_most]) for start in range(0, len(body), at_most)
    )


def deliver(channel: int, tag: int, *, exchange: str = "", routing_key: str = "work") -> bytes:
    return pamqp.frame.marshal(
        Basic.Deliver(
            consumer_tag="ctag",
            delivery_tag=tag,
            redelivered=False,
            exchange=exchange,
            routing_key=routing_key,
        ),
        channel,
    )


def short(data: bytes) -> bytes:
    return bytes([len(data)]) + data


def table(entries: bytes) -> bytes:
    return struct.pack(">I", len(entries)) + entries


def nested_tables(depth: int) -> bytes:
    entries = b""
    for _ in range(depth):
        entries = short(b"t") + b"F" + table(entries)
    return table(entries)
