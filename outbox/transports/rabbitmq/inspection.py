"""
Attempts that RabbitMQ checks like the real thing, and that have no effect.

    publish    in a transaction that is rolled back: the broker checks the permission, also that of
               the topic, when it receives the message, and would route it only at the commit
    consume    with an argument of a wrong type: the broker refuses the argument (406) only after
               it has allowed the user to read the queue
    bind       by removing a binding that no queue has, with a routing key made of chance

Measured with RabbitMQ 3.10, 4.0 and 4.3. A publish on a connection is also how the broker comes
to say that an alarm blocks publishers, after which it reads nothing more from the connection; so
publishes come last.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, assert_never

import aiormq
from aio_pika.abc import AbstractConnection

from outbox.errors import BrokerUnavailable
from outbox.transports.inspection import (
    Act,
    Answer,
    BindingOf,
    BrokerFacts,
    Consuming,
    Permission,
    Publishing,
)
from outbox.transports.rabbitmq.connection import connection_errors
from outbox.transports.rabbitmq.in_flight import is_blocked

RABBITMQ = "RabbitMQ"
ANSWERS_WITHIN_SECONDS = 10.0
_LOOKS_AGAIN_SECONDS = 0.02
_OF_TOPIC = "access to topic"


async def inspect(connection: AbstractConnection, acts: Sequence[Act]) -> BrokerFacts:
    """
    Return what the broker of *connection* says, also about attempts at *acts*.

    The connection is of no more use if the broker blocks it. Raises BrokerUnavailable.
    """
    transport = connection.transport
    if transport is None:
        raise BrokerUnavailable("the connection was lost")
    properties = transport.connection.server_properties
    product = _text(properties.get("product"))
    attempts = _Attempts(connection)
    answers: list[Answer] = []
    if product != RABBITMQ:
        # Another broker may take the attempts at their word.
        acts = ()
    for act in sorted(acts, key=lambda act: isinstance(act, Publishing)):
        answers += await attempts.at(act)
    return BrokerFacts(
        product=product,
        version=_text(properties.get("version")),
        is_encrypted=transport.connection.url.scheme == "amqps",
        is_blocked=attempts.is_blocked,
        answers=answers,
    )


class _Attempts:
    """Makes attempts on channels of *connection*, since a refusal closes the channel."""

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection
        self.is_blocked: bool | None = None

    async def at(self, act: Act) -> list[Answer]:
        match act:
            case Publishing():
                return await self._publishing(act)
            case Consuming(queue):
                return [Answer(act, await self._permission(partial(_consume, queue)))]
            case BindingOf(exchange, queue):
                unbind = partial(_unbind, exchange, queue)
                permission = await self._permission(unbind)
                if permission is Permission.REFUSED_BY_KEY:
                    permission = Permission.UNKNOWN  # it might allow the pattern of a binding
                return [Answer(act, permission)]
            case _:
                assert_never(act)

    async def _publishing(self, act: Publishing) -> list[Answer]:
        answers = []
        keys: Sequence[str | None] = act.routing_keys or (None,)
        for key in keys:
            permission = Permission.BLOCKED
            if not self.is_blocked:
                tried = _unused_key() if key is None else key
                permission = await self._permission(partial(_publish, act.exchange, tried))
                self.is_blocked = permission is Permission.BLOCKED
            if permission is Permission.REFUSED_BY_KEY and key is None:
                permission = Permission.UNKNOWN
            answers.append(Answer(act, permission, key))
        return answers

    async def _permission(self, attempt: Any) -> Permission:
        errors = aiormq.exceptions
        with connection_errors("MQ_BROKER_URL: while rights were tried"):
            try:
                async with asyncio.timeout(ANSWERS_WITHIN_SECONDS), self._channel() as channel:
                    answer: Permission = await attempt(channel)
                    return answer
            except errors.ChannelNotFoundEntity:
                return Permission.MISSING
            except errors.ChannelAccessRefused as error:
                # The text is read for its meaning and dropped.
                is_topic = _OF_TOPIC in str(error)
                return Permission.REFUSED_BY_KEY if is_topic else Permission.REFUSED
            except errors.ChannelPreconditionFailed:
                return Permission.GRANTED
            except errors.ChannelClosed:
                return Permission.UNKNOWN

    @asynccontextmanager
    async def _channel(self) -> AsyncIterator[Any]:
        opened = await self._connection.channel(publisher_confirms=False)
        channel = await opened.get_underlay_channel()
        yield channel
        if not is_blocked(channel.connection):
            await opened.close()


async def _publish(exchange: str, routing_key: str, channel: Any) -> Permission:
    await channel.tx_select()
    # Without body and headers, since no queue gets it.
    await channel.basic_publish(b"", exchange=exchange, routing_key=routing_key)
    rollback = asyncio.ensure_future(channel.tx_rollback())
    try:
        while not rollback.done():
            await asyncio.wait({rollback}, timeout=_LOOKS_AGAIN_SECONDS)
            if is_blocked(channel.connection):
                return Permission.BLOCKED
        await rollback
    finally:
        rollback.cancel()
    return Permission.GRANTED


async def _consume(queue: str, channel: Any) -> Permission:
    """Return only if the broker took the argument; then the subscription ends with the channel."""
    await channel.basic_qos(prefetch_count=1)
    await channel.basic_consume(queue, _ignore, arguments={"x-priority": "none"})
    return Permission.GRANTED


async def _unbind(exchange: str, queue: str, channel: Any) -> Permission:
    await channel.queue_unbind(queue, exchange, routing_key=_unused_key())
    return Permission.GRANTED


async def _ignore(_message: object) -> None:
    """Take no message; those that arrive go back when the channel closes."""


def _unused_key() -> str:
    return f"outbox-check.{secrets.token_hex(16)}"


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value or "")
