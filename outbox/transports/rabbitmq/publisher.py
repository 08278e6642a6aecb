"""
Publishing to RabbitMQ: the outcome of each message, whatever becomes of the others.
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
    answered,
    nothing_sent,
    outcome_of,
    shows_culprit,
)
from outbox.transports.rabbitmq.in_flight import windows
from outbox.wire.codec import WireMessage

_ATTEMPTS_TO_SEND = 3


class RabbitMQPublisher:
    """
    Publishes on one channel of its own connection, which is replaced when it is lost.

    Batches of several callers are in flight together, as far as their message ids differ.
    """

    def __init__(self, connect: Connect, *, method: MethodName = "batch") -> None:
        self._dialer = ChannelProvider(connect, method=method)
        # Held to open a link, and while messages are published one by one.
        self._turn = asyncio.Lock()

    async def ready(self) -> None:
        async with self._turn:
            await (await self._dialer.link()).unblocked()
            # A link that was kept because it was blocked may have to be replaced now.
            await self._dialer.link()

    async def publish(
        self, messages: Sequence[WireMessage], *, within: timedelta
    ) -> list[Outcome]:
        deadline = asyncio.get_running_loop().time() + within.total_seconds()
        answers: list[Confirm] = []
        for window in windows(messages):
            part = messages[window.start : window.stop]
            answers += await self._publish_window(part, deadline)
        return [outcome_of(answer) for answer in answers]

    async def close(self) -> None:
        """Close the connection; safe to call at any time."""
        await self._dialer.close()

    async def _publish_window(
        self, messages: Sequence[WireMessage], deadline: float
    ) -> list[Confirm]:
        answers = await self._publish_together(messages, deadline)
        if any(map(shows_culprit, answers)):
            # One message closed the channel and took its neighbours with it, perhaps with the
            # whole connection. Alone, each shows what is the matter with it.
            left = [position for position, answer in enumerate(answers) if not answered(answer)]
            alone = await self._publish_alone([messages[position] for position in left], deadline)
            for position, answer in zip(left, alone, strict=True):
                answers[position] = answer
        return answers

    async def _publish_together(
        self, messages: Sequence[WireMessage], deadline: float
    ) -> list[Confirm]:
        answers: list[Confirm] = []
        for _ in range(_ATTEMPTS_TO_SEND):
            try:
                async with self._my_turn(deadline):
                    link = await self._dialer.link()
            except (BrokerUnavailable, TimeoutError) as error:
                return [error] * len(messages)
            answers = await link.publish(messages, deadline=deadline)
            if not nothing_sent(answers):
                break
            # Another batch closed the channel while this one was waiting for its room.
        return answers

    async def _publish_alone(
        self, messages: Sequence[WireMessage], deadline: float
    ) -> list[Confirm]:
        """
        Publish one message after another, on a connection that no other caller publishes on.

        Each answer is thus about its message; a channel that closes was closed by it.
        """
        alone = self._dialer.another()
        answers: list[Confirm] = []
        try:
            async with self._my_turn(deadline):
                try:
                    for message in messages:
                        link = await alone.link()
                        answers += await link.publish([message], deadline=deadline)
                finally:
                    self._dialer.adopt(alone.release())
        except (BrokerUnavailable, TimeoutError) as error:
            answers += [error] * (len(messages) - len(answers))
        return answers

    @asynccontextmanager
    async def _my_turn(self, deadline: float) -> AsyncIterator[None]:
        async with asyncio.timeout_at(deadline), self._turn:
            yield
