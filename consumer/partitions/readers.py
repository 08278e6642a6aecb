"""
The subscriptions of the partitions of one process, each in a task of its own.

Each of them opens a connection and closes it, so they do it side by side.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias

from consumer.partitions.balance import Assigned
from consumer.partitions.subscription import PartitionsSubscription
from outbox.errors import BrokerUnavailable, TopologyMismatch
from outbox.transports.base import Subscription

Subscribe: TypeAlias = Callable[[str], AbstractAsyncContextManager[Subscription]]


class Readers:
    """Readers of the partitions of *merged*, which *subscribe* subscribes to by their queues."""

    def __init__(self, merged: PartitionsSubscription, subscribe: Subscribe) -> None:
        self.merged = merged
        self._subscribe = subscribe
        self._readers: dict[str, _Reader] = {}
        self._ending: set[asyncio.Task[None]] = set()

    async def add(self, partitions: Iterable[Assigned]) -> None:
        """
        Read *partitions* too.

        Raises BrokerUnavailable if one of them cannot be read.
        """
        added = [_Reader(self.merged, each, self._subscribe) for each in partitions]
        self._readers |= {each.queue: each for each in added}
        await asyncio.gather(*(each.is_subscribed for each in added))

    def may_become(self, partitions: Sequence[Assigned]) -> bool:
        """
        Whether the readers can be those of *partitions* without an end of the subscription.

        They cannot if a partition goes whose messages are in the dispatcher, or may be.
        """
        kept = {each.queue for each in partitions}
        return all(self.merged.is_idle(queue) for queue in self._readers if queue not in kept)

    def become(self, partitions: Sequence[Assigned]) -> None:
        """
        Read *partitions*, each in its mode, and no others.

        It waits for none: if one cannot be read, *merged* is lost.
        """
        kept = {each.queue: each for each in partitions}
        for queue in self._readers.keys() - kept.keys():
            reader = self._readers.pop(queue)
            reader.closing.set()
            self._ending.add(reader.task)
            reader.task.add_done_callback(self._on_end)
        for each in partitions:
            self.merged.change(each)
        for each in partitions:
            if each.queue not in self._readers:
                reader = self._readers[each.queue] = _Reader(self.merged, each, self._subscribe)
                reader.is_subscribed.add_done_callback(self._on_subscribed)

    async def close(self) -> None:
        """End all readers; raises what a reader has raised, other than a lost connection."""
        self.merged.closing.set()
        for reader in self._readers.values():
            reader.closing.set()
        tasks = {*self._ending, *(reader.task for reader in self._readers.values())}
        if tasks:
            await asyncio.wait(tasks)
        for task in tasks:
            task.result()

    def _on_end(self, task: asyncio.Task[None]) -> None:
        # One that has raised is kept: `close` raises its error.
        if not task.cancelled() and task.exception() is None:
            self._ending.discard(task)

    def _on_subscribed(self, subscribed: "asyncio.Future[None]") -> None:
        error = None if subscribed.cancelled() else subscribed.exception()
        if isinstance(error, BrokerUnavailable):
            self.merged.fail(error)


class _Reader:
    """One partition of *merged*; it ends when `closing` is set."""

    def __init__(
        self, merged: PartitionsSubscription, assigned: Assigned, subscribe: Subscribe
    ) -> None:
        self.queue = assigned.queue
        self.closing = asyncio.Event()
        self.is_subscribed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.task = asyncio.ensure_future(self._read(merged, assigned, subscribe))

    async def _read(
        self, merged: PartitionsSubscription, assigned: Assigned, subscribe: Subscribe
    ) -> None:
        try:
            async with subscribe(self.queue) as source:
                if not self.is_subscribed.cancelled():
                    self.is_subscribed.set_result(None)
                await merged.read(assigned, source, self.closing)
        except (BrokerUnavailable, TopologyMismatch) as error:
            # A queue that is missing may just have been deleted, as the next look will tell.
            if not self.is_subscribed.done():
                self.is_subscribed.set_exception(BrokerUnavailable(str(error)))
