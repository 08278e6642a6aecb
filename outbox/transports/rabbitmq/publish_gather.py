"""
Publishing with the documented call of aiormq: one task for each message, all at the same time.

This method is slower than `publish_batch`, but needs only the public interface of aiormq.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

from pamqp.commands import Basic

from outbox.transports.rabbitmq.confirms import Confirm
from outbox.transports.rabbitmq.in_flight import InFlight, wait_for_confirms
from outbox.wire.codec import APP_ID, WireMessage

_PERSISTENT = 2


async def publish_gathered(
    channel: Any, messages: Sequence[WireMessage], *, in_flight: InFlight, deadline: float
) -> list[Confirm]:
    """Publish *messages* on aiormq's *channel*; return one confirm for each."""
    identified = [identify(message) for message in messages]
    # A message id that is not text cannot be encoded, so it never is in flight.
    ids = {id_ for message in identified if isinstance(id_ := message.message_id, str)}
    async with in_flight.room(ids, deadline=deadline):
        tasks = [asyncio.ensure_future(_publish(channel, message)) for message in identified]
        try:
            await wait_for_confirms(tasks, connection=channel.connection, deadline=deadline)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return [_confirm_of(task) for task in tasks]


def identify(message: WireMessage) -> WireMessage:
    """Return *message* with an id, which aiormq needs to match a returned message."""
    return message if message.message_id else replace(message, message_id=uuid4().hex)


def properties(message: WireMessage) -> Basic.Properties:
    return Basic.Properties(
        message_id=message.message_id,
        message_type=message.type,
        correlation_id=message.correlation_id,
        reply_to=message.reply_to,
        timestamp=message.timestamp,
        content_type=message.content_type,
        content_encoding=message.content_encoding,
        priority=message.priority,
        headers=dict(message.headers),
        delivery_mode=_PERSISTENT,
        app_id=APP_ID,
    )


async def _publish(channel: Any, message: WireMessage) -> Confirm:
    confirm: Confirm = await channel.basic_publish(
        message.body,
        exchange=message.exchange,
        routing_key=message.routing_key,
        properties=properties(message),
        mandatory=True,
        wait=False,
    )
    return confirm


def _confirm_of(task: "asyncio.Task[Confirm]") -> Confirm:
    # Cancelled by us at the deadline, or by aiormq because the peer is silent.
    if task.cancelled():
        return TimeoutError()
    return task.exception() or task.result()
