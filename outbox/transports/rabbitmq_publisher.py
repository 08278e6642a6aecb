"""
Publishing to RabbitMQ, and what its answers mean.
"""

import asyncio
import struct
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, TypeAlias

import aiormq
from aio_pika.abc import AbstractChannel, AbstractConnection
from pamqp.commands import Basic

from outbox.codec import APP_ID, WireMessage
from outbox.errors import BrokerUnavailable
from outbox.transports.base import Outcome
from outbox.transports.rabbitmq_connection import CONNECTION_ERRORS, close, connection_errors

UNBLOCKED_SECONDS = 1.0

_PERSISTENT = 2

_Answer: TypeAlias = Basic.Ack | Basic.Nack | Basic.Reject | BaseException | None

# What says that a message, and not the network, ended the channel. Publishes that are written to a
# channel after the broker has closed it end the connection too, as an error of the protocol.
_CULPRIT_SHOWN = (
    aiormq.exceptions.ChannelClosed,
    aiormq.exceptions.ConnectionChannelError,
    aiormq.exceptions.ConnectionUnexpectedFrame,
)
# What the client raises for a message that it cannot put into frames.
_CANNOT_BE_WRITTEN = (TypeError, ValueError, ArithmeticError, struct.error)
_ANSWERED = (
    Basic.Ack,
    Basic.Nack,
    Basic.Reject,
    aiormq.exceptions.PublishError,
    aiormq.exceptions.DeliveryError,
    *_CANNOT_BE_WRITTEN,
)


class RabbitMQPublisher:
    """
    Publishes on one channel of its own connection, which is replaced when it is lost.

    One batch at a time, whoever calls: no two publishes in flight may share a message id.
    """

    def __init__(self, connect: Callable[[], Awaitable[AbstractConnection]]) -> None:
        self._connect = connect
        self._connection: AbstractConnection | None = None
        self._channel: AbstractChannel | None = None
        self._turn = asyncio.Lock()

    async def ready(self) -> None:
        async with self._turn:
            await self._open()
            await self._unblocked()

    async def publish(
        self, messages: Sequence[WireMessage], *, within: timedelta
    ) -> list[Outcome]:
        deadline = asyncio.get_running_loop().time() + within.total_seconds()
        try:
            async with asyncio.timeout_at(deadline):
                await self._turn.acquire()
        except TimeoutError:
            return [Outcome.UNKNOWN] * len(messages)
        try:
            return await self._publish(messages, deadline)
        finally:
            self._turn.release()

    async def close(self) -> None:
        """Close the connection; safe to call at any time."""
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            await close(connection)

    async def _publish(self, messages: Sequence[WireMessage], deadline: float) -> list[Outcome]:
        answers = await self._publish_together(messages, deadline)
        if len(messages) > 1 and any(isinstance(answer, _CULPRIT_SHOWN) for answer in answers):
            # One message closed the channel and took its neighbours with it, perhaps with the
            # whole connection. Alone, each shows what is the matter with it.
            await self.close()
            for index, answer in enumerate(answers):
                if not isinstance(answer, _ANSWERED):
                    alone = await self._publish_together([messages[index]], deadline)
                    answers[index] = alone[0]
        return [_outcome(answer) for answer in answers]

    async def _publish_together(
        self, messages: Sequence[WireMessage], deadline: float
    ) -> list[_Answer]:
        try:
            async with asyncio.timeout_at(deadline):
                channel = await (await self._open()).get_underlay_channel()
        except (BrokerUnavailable, *CONNECTION_ERRORS) as error:
            return [error] * len(messages)
        answers = await asyncio.gather(
            *(_publish_one(channel, message, deadline) for message in messages),
            return_exceptions=True,
        )
        return list(answers)

    async def _unblocked(self) -> None:
        """
        Raises BrokerUnavailable while the broker blocks publishers, for want of memory or disk.

        aiormq keeps what is published meanwhile, and sends it when the alarm has ended: of each
        batch that is published again by then, there would be one copy more.
        """
        if self._connection is None or self._connection.transport is None:
            raise BrokerUnavailable("not connected")
        with connection_errors("the broker blocks publishers"):
            async with asyncio.timeout(UNBLOCKED_SECONDS):
                await self._connection.transport.connection.ready()

    async def _open(self) -> AbstractChannel:
        if self._connection is None or self._connection.is_closed:
            await self.close()
            self._connection = await self._connect()
        if self._channel is None or self._channel.is_closed:
            try:
                with connection_errors():
                    self._channel = await self._connection.channel(
                        publisher_confirms=True, on_return_raises=True
                    )
            except BrokerUnavailable:
                await self.close()
                raise
        return self._channel


async def _publish_one(channel: Any, message: WireMessage, deadline: float) -> _Answer:
    async with asyncio.timeout_at(deadline):
        answer: _Answer = await channel.basic_publish(
            message.body,
            exchange=message.exchange,
            routing_key=message.routing_key,
            properties=properties(message),
            mandatory=True,
        )
        return answer


def _outcome(answer: _Answer) -> Outcome:
    """What the broker's *answer*, or the error in its place, means for the message."""
    errors = aiormq.exceptions
    match answer:
        case Basic.Ack():
            return Outcome.ACKED
        case errors.PublishError() | errors.ChannelNotFoundEntity():
            # Returned, or its exchange is missing: both heal when the topology does.
            return Outcome.RETURNED
        case (
            Basic.Nack() | Basic.Reject() | errors.DeliveryError() | errors.ChannelAccessRefused()
        ):
            return Outcome.NACKED
        case (
            errors.ChannelClosed()
            | TypeError()
            | ValueError()
            | ArithmeticError()
            | struct.error()
        ):
            # The broker refuses it for good, or the client cannot write it.
            return Outcome.REJECTED
        case _:
            # No time left, connection lost, or the stray cancellation of a silent peer.
            return Outcome.UNKNOWN


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
