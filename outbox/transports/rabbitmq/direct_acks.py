"""
Acks by documented calls of aiormq, one call for each, for `MQ_DELIVERY_METHOD=callback`.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from outbox.transports.rabbitmq.acks import AckTracker
from outbox.transports.rabbitmq.connection import connection_errors


class DirectAcks:
    """Acks that are sent at once, by documented calls of aiormq."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self._settled = AckTracker()
        # Held while writing: an ack with `multiple` must not overtake another one.
        self._turn = asyncio.Lock()

    @property
    def waiting(self) -> int:
        return self._settled.waiting

    async def ack(self, tags: Sequence[int]) -> None:
        self._settled.ack(tags)
        with connection_errors():
            async with self._turn:
                acks = self._settled.collect()
                if acks.up_to is not None:
                    await self._channel.basic_ack(acks.up_to, multiple=True)
                for tag in acks.single:
                    await self._channel.basic_ack(tag)

    async def release(self, tags: Sequence[int]) -> None:
        with connection_errors():
            async with self._turn:
                for tag in self._settled.unsettled(tags):
                    await self._channel.basic_nack(tag, requeue=True)
                    self._settled.mark_settled([tag])

    def flush(self) -> None:
        return

    async def close(self) -> None:
        return
