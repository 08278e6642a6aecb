"""
Publishing with the documented call of aiormq, once for each message, all at the same time.

The slower of two ways, and the one that asks for nothing but aiormq's public interface.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

from pamqp.commands import Basic

from outbox.transports.rabbitmq.confirms import Confirm
from outbox.transports.rabbitmq.in_flight import InFlight, wait_for_answers
from outbox.wire.codec import APP_ID, WireMessage

_PERSISTENT = 2


async def publish_gathered(
    channel: Any, messages: Sequence[WireMessage], *, in_flight: InFlight, deadline: float
) -> list[Confirm]:
    """Publish *messages* on aiormq's *channel*; one answer for each."""
    identified = [identify(message) for message in messages]
    # What is no text cannot be written either, and shares its name with nobody.
    ids = {id_ for message in identified if isinstance(id_ := message.message_id, str)}
    async with in_flight.room(ids, deadline=deadline):
        tasks = [asyncio.ensure_future(_publish(channel, message)) for message in identified]
        try:
            await wait_for_answers(tasks, connection=channel.connection, deadline=deadline)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return [_answer(task) for task in tasks]


def identify(message: WireMessage) -> WireMessage:
    """*message* with an id: aiormq could not attribute its return without."""
    return message if message.message_id else replace(message, message_id=uuid4().hex)


def properties(message: WireMessage) -> Basic.Properties:
    return Basic.Properties(
        message_id=message.message_id,
        message_type=message.type,
        correlation_id=message.correlation_id,
        timestamp=message.timestamp,
        content_type=message.content_type,
        content_encoding=message.content_encoding,
        priority=message.priority,
        headers=dict(message.headers),
        delivery_mode=_PERSISTENT,
        app_id=APP_ID,
    )


async def _publish(channel: Any, message: WireMessage) -> Confirm:
    answer: Confirm = await channel.basic_publish(
        message.body,
        exchange=message.exchange,
        routing_key=message.routing_key,
        properties=properties(message),
        mandatory=True,
        wait=False,
    )
    return answer


def _answer(task: "asyncio.Task[Confirm]") -> Confirm:
    # Cancelled by us, for want of time, or by aiormq, whose peer is silent.
    if task.cancelled():
        return TimeoutError()
    return task.exception() or task.result()
