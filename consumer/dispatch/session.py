"""
One subscription, from its first delivery to the end of the last batch that it began.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from outbox.errors import BrokerUnavailable
from outbox.runtime.service import pause
from outbox.runtime.shield import shielded
from outbox.transports.base import Subscription

IDLE = timedelta(minutes=5)
"""
The time without a delivery after which a subscription is replaced.

If a work queue is deleted and declared again at once, with the same arguments, RabbitMQ 3.10 hands
its messages to the old subscription, which never gets them, and tells no client.
"""


@dataclass(slots=True, eq=False)
class Session:
    """
    The state of *subscription*.

    Args:
        unsubscribe: Some deliveries cannot be settled: the broker must send no more.
        closing: No further batch is started, and retries against servers end.
        batches: The tasks of batches in flight.
        deliveries: How many deliveries the subscription got.
        lost: Why the subscription was lost. Then no delivery of it can be settled any more.
        was_idle: It is replaced, because it got no delivery for a while.
        is_prefetch_raised: It has the whole prefetch.

    """

    subscription: Subscription
    unsubscribe: asyncio.Event = field(default_factory=asyncio.Event)
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    batches: set["asyncio.Task[None]"] = field(default_factory=set)
    deliveries: int = 0
    lost: BrokerUnavailable | None = None
    was_idle: bool = False
    is_prefetch_raised: bool = True

    async def raise_prefetch(self, prefetch: int) -> None:
        """Give the subscription a *prefetch* that is larger than its first one of 1."""
        self.is_prefetch_raised = True
        if prefetch > 1:
            await self.subscription.raise_prefetch(prefetch)

    async def unsubscribe_when(self, event: asyncio.Event) -> None:
        """Stop the subscription once *event* is set."""
        await event.wait()
        try:
            # Otherwise the broker would go on sending deliveries that are not handled here.
            await shielded(self.subscription.stop())
        except BrokerUnavailable:
            return

    async def end_when_idle(self, is_empty: Callable[[], bool]) -> None:
        """Stop the subscription once it got no delivery for `IDLE`, and *is_empty*."""
        while not self.closing.is_set():
            before = self.deliveries
            await pause(self.closing, IDLE)
            # A subscription that was lost is closing before it has been idle for long.
            if self.deliveries == before and is_empty() and not self.closing.is_set():
                self.was_idle = True
                self.unsubscribe.set()
                return

    async def batches_end(self) -> None:
        """Wait for the batches in flight."""
        while self.batches:
            await asyncio.wait(self.batches)
