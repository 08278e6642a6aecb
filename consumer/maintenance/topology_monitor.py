"""
Looking from time to time whether the queue is still the one that was declared.

RabbitMQ moves a consumer whose queue was deleted to another one that has been made under its name
at once, and says nothing. That one may drop what this one keeps.
"""

import asyncio
import random
from collections.abc import Callable
from datetime import timedelta

from outbox.errors import BrokerUnavailable, TopologyMismatch
from outbox.runtime import logs
from outbox.runtime.service import pause
from outbox.transports.base import Transport
from outbox.transports.topology import Queue, Topology

INSPECT_EVERY = timedelta(seconds=15)
ANSWERS_WITHIN = timedelta(seconds=10)


class TopologyMonitor:
    """
    Compares *queue* with what is in the broker, again and again.

    Args:
        every: The longest pause between two looks; jitter takes up to half of it.
        within: How long the broker may take; one that takes longer is away.
        chance: A number in [0, 1), for jitter.

    """

    def __init__(
        self,
        *,
        transport: Transport,
        queue: Queue,
        every: timedelta = INSPECT_EVERY,
        within: timedelta = ANSWERS_WITHIN,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._transport = transport
        self._expected = Topology(queues=[queue])
        self._every = every
        self._within = within
        self._jitter = jitter

    async def run(self, stop: asyncio.Event) -> None:
        """
        Work until *stop* is set, or until the broker's user may not compare the arguments.

        A broker that is away is the workers' to report.
        Raises TopologyMismatch if the queue is gone, or has other arguments, in two looks in a
        row: a cluster that has just lost a node may deny that there is a queue, for a moment.
        """
        is_suspect = False
        while True:
            wait = self._every * (1 - self._jitter() / 2)
            await pause(stop, wait / 3 if is_suspect else wait)
            if stop.is_set():
                return
            try:
                async with asyncio.timeout(self._within.total_seconds()):
                    not_compared = await self._transport.verify(self._expected)
            except TopologyMismatch:
                if is_suspect:
                    raise
                is_suspect = True
            except (BrokerUnavailable, TimeoutError):
                is_suspect = False
            else:
                is_suspect = False
                if not_compared:
                    # Each further look would be an error in the broker's log.
                    logs.get("topology").warning("arguments_not_compared", of=not_compared[0])
                    return
