"""
Looking from time to time whether the queue is still the one that was declared.

RabbitMQ moves a consumer whose queue was deleted to another one that has been made under its name
at once, and says nothing. That one may drop what this one keeps.
"""

import asyncio
from contextlib import suppress
from datetime import timedelta

from outbox.errors import BrokerUnavailable
from outbox.runtime.service import pause
from outbox.topology import Queue, Topology
from outbox.transports.base import Transport

INSPECT_EVERY = timedelta(seconds=15)


class Inspector:
    """Compares *queue* with what is in the broker, after each pause of *every*."""

    def __init__(
        self, *, transport: Transport, queue: Queue, every: timedelta = INSPECT_EVERY
    ) -> None:
        self._transport = transport
        self._expected = Topology(queues=[queue])
        self._every = every

    async def run(self, stop: asyncio.Event) -> None:
        """
        Work until *stop* is set. A broker that is away is the workers' to report.

        Raises TopologyMismatch if the queue is gone, or has other arguments.
        """
        await pause(stop, self._every)
        while not stop.is_set():
            with suppress(BrokerUnavailable):
                await self._transport.verify(self._expected)
            await pause(stop, self._every)
