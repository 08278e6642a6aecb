"""
Whether the broker still moves messages of a generation to the dead queue, before it is deleted.
"""

import asyncio
from datetime import timedelta

from consumer.queues import ConsumerQueues
from outbox.transports.management import Management
from outbox.transports.topology import Topology

QUIET_FOR = timedelta(seconds=15)
"""Longer than the broker takes to report what a queue holds: it does so every 5 seconds."""


class DeadLettering:
    """
    The messages that the broker itself dead-letters: expired, or delivered too often.

    A queue holds each until the dead queue has it, and counts it no more; if the queue is deleted
    before, the message is lost. Only *management* knows of them.
    """

    def __init__(
        self,
        queues: ConsumerQueues,
        management: Management | None,
        *,
        quiet_for: timedelta = QUIET_FOR,
    ) -> None:
        self._is_possible = queues.message_ttl is not None or queues.delivery_limit is not None
        self._management = management
        self._quiet_for = quiet_for
        self._since: dict[tuple[str, ...], float] = {}

    @property
    def is_unknown(self) -> bool:
        """Whether it is possible, and cannot be seen."""
        return self._is_possible and self._management is None

    async def is_over(self, topology: Topology) -> bool:
        """
        Whether the queues of *topology*, which is asked about until then, hold no message.

        Raises BrokerUnavailable, and ConfigurationError if the user may not ask.
        """
        if not self._is_possible:
            return True
        if self._management is None:
            return False
        if await self._management.held(topology):
            self._since.clear()
            return False
        now = asyncio.get_running_loop().time()
        names = tuple(queue.name for queue in topology.queues)
        return now - self._since.setdefault(names, now) >= self._quiet_for.total_seconds()
