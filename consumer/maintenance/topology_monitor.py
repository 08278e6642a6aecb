"""
Checks from time to time that the work queue is still the one that was declared.

If a queue is deleted and another one is declared at once under its name, RabbitMQ moves the
consumer to the new queue without an error. The new one may drop messages that the old one keeps.
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
    Compares *queue* with the queue of that name in the broker, again and again.

    Args:
        every: The longest pause between two checks; jitter shortens it by up to half.
        within: Time for the broker's answer; a broker that takes longer counts as unreachable.
        jitter: Returns a number in [0, 1).

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
        Check until *stop* is set, or until the broker does not let its user compare arguments.

        `Worker` reports an unreachable broker.
        Raises TopologyMismatch if the queue does not exist, or has other arguments, in two checks
        in a row: a cluster that has just lost a node may deny for a moment that a queue exists.
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
                    # Each further check would be an error in the broker's log.
                    logs.get("topology").warning("arguments_not_compared", of=not_compared[0])
                    return
