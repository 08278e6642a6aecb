"""
Publishing to RabbitMQ: each message gets its own outcome, independent of the others.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

from outbox.errors import BrokerUnavailable
from outbox.transports.base import Outcome
from outbox.transports.rabbitmq.confirm_channel import ChannelProvider, Connect, MethodName
from outbox.transports.rabbitmq.confirms import (
    Confirm,
    closed_channel,
    is_final,
    nothing_sent,
    of_each_kind,
    outcomes_of,
)
from outbox.transports.rabbitmq.in_flight import windows
from outbox.wire.codec import WireMessage

_ATTEMPTS_TO_SEND = 3


class RabbitMQPublisher:
    """
    Publishes on one channel of its own connection, which is replaced when it is lost.

    Batches of several callers are in flight together if their message ids differ.
    """

    def __init__(self, connect: Connect, *, method: MethodName = "batch") -> None:
        self._channels = ChannelProvider(connect, method=method)
        # Held while a channel is opened, and while messages are published one by one.
        self._turn = asyncio.Lock()

    async def ready(self) -> None:
        # Nearly always: without a timer, and without a turn.
        channel = self._channels.usable
        if channel is not None and not channel.is_blocked:
            return
        async with self._turn:
            await (await self._channels.channel()).unblocked()
            # A channel that was kept because it was blocked may need replacement now.
            await self._channels.channel()

    async def publish(
        self, messages: Sequence[WireMessage], *, within: timedelta
    ) -> list[Outcome]:
        now = asyncio.get_running_loop().time
        deadline = now() + within.total_seconds()
        confirms: list[Confirm] = []
        for window in windows(messages):
            part = messages[window.start : window.stop]
            confirms += await self._publish_window(part, deadline)
            if all(map(is_final, of_each_kind(confirms))):
                # A slow broker may have needed all the time for this window alone.
                deadline = now() + within.total_seconds()
        return outcomes_of(confirms)

    async def close(self) -> None:
        """Close the connection; safe to call at any time."""
        await self._channels.close()

    async def _publish_window(
        self, messages: Sequence[WireMessage], deadline: float
    ) -> list[Confirm]:
        confirms = await self._publish_together(messages, deadline)
        if any(map(closed_channel, of_each_kind(confirms))):
            # One message closed the channel, and perhaps the connection, so the others have no
            # confirm. Published one by one, each message gets its own outcome.
            left = [position for position, confirm in enumerate(confirms) if not is_final(confirm)]
            alone = await self._publish_alone([messages[position] for position in left], deadline)
            for position, confirm in zip(left, alone, strict=True):
                confirms[position] = confirm
        return confirms

    async def _publish_together(
        self, messages: Sequence[WireMessage], deadline: float
    ) -> list[Confirm]:
        confirms: list[Confirm] = []
        for _ in range(_ATTEMPTS_TO_SEND):
            channel = None if self._turn.locked() else self._channels.usable
            if channel is None:
                try:
                    async with self._my_turn(deadline):
                        channel = await self._channels.channel()
                except (BrokerUnavailable, TimeoutError) as error:
                    return [error] * len(messages)
            confirms = await channel.publish(messages, deadline=deadline)
            if not nothing_sent(confirms):
                break
            # Another batch closed the channel while this one waited until it could be in flight.
        return confirms

    async def _publish_alone(
        self, messages: Sequence[WireMessage], deadline: float
    ) -> list[Confirm]:
        """
        Publish one message after another, on a connection that no other caller uses.

        Each confirm is then about its own message: if the channel closes, that message closed it.
        """
        alone = self._channels.another()
        confirms: list[Confirm] = []
        try:
            async with self._my_turn(deadline):
                try:
                    for message in messages:
                        channel = await alone.channel()
                        confirms += await channel.publish([message], deadline=deadline)
                finally:
                    self._channels.adopt(alone.release())
        except (BrokerUnavailable, TimeoutError) as error:
            confirms += [error] * (len(messages) - len(confirms))
        return confirms

    @asynccontextmanager
    async def _my_turn(self, deadline: float) -> AsyncIterator[None]:
        async with asyncio.timeout_at(deadline), self._turn:
            yield
