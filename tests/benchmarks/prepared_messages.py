"""
Messages as the relay would publish them, made beforehand, and the product's publisher for them.
"""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7
from yarl import URL

from outbox.encryption.encryptor import Encryptor
from outbox.event import Event
from outbox.transports.base import Outcome, Publisher
from outbox.transports.rabbitmq.transport import RabbitMQTransport
from outbox.wire import codec, row_codec
from tests.benchmarks import outbox_rows

BATCH = 500
IN_FLIGHT = 2
WITHIN = timedelta(seconds=60)

_jitter = random.Random(2)
_bodies = [outbox_rows.body(_jitter, number=number) for number in range(outbox_rows.STOCK)]
_numbers = itertools.count()


def messages(
    count: int,
    *,
    exchange: str,
    routing_key: str,
    event_type: str,
    encryptor: Encryptor | None = None,
) -> list[codec.WireMessage]:
    """*count* messages with ids of their own, their bodies encrypted by *encryptor*."""
    found = []
    for _ in range(count):
        row = a_row(routing_key, event_type)
        if encryptor is not None:
            row = encryptor.encrypted(row, compression="none")
        found.append(
            codec.to_wire(row_codec.from_row({**row, "exchange": None}), exchange=exchange)
        )
    return found


def a_row(routing_key: str, event_type: str) -> dict[str, Any]:
    """The row of an event with the next of the bodies."""
    identity: UUID = uuid7()
    event = Event(event_type, None, id=identity, routing_key=routing_key)
    return {**row_codec.to_row(event), "body": _bodies[next(_numbers) % outbox_rows.STOCK]}


@asynccontextmanager
async def publisher(broker_url: str, *, name: str) -> AsyncIterator[Publisher]:
    """The product's publisher, connected."""
    transport = RabbitMQTransport([URL(broker_url)], heartbeat_seconds=60, name=name)
    async with transport.publisher() as to:
        await to.ready()
        yield to


async def publish_all(to: Publisher, batches: Iterator[list[codec.WireMessage]]) -> None:
    """
    Publish *batches*, two calls in flight.

    Raises RuntimeError if a message is not confirmed.
    """

    async def publish() -> None:
        for batch in batches:
            outcomes = await to.publish(batch, within=WITHIN)
            if any(outcome is not Outcome.ACKED for outcome in outcomes):
                raise RuntimeError("not everything was confirmed")

    async with asyncio.TaskGroup() as group:
        for _ in range(IN_FLIGHT):
            group.create_task(publish())
