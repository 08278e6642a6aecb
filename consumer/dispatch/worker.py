"""
The loop of a consumer: one subscription after another.
"""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Protocol

from consumer.database_retry import DatabaseRetry
from consumer.dispatch.dispatcher import Dispatcher
from consumer.execution.delivery_batch import ReadyExecutor
from consumer.telemetry import Telemetry
from outbox.errors import BrokerUnavailable
from outbox.runtime.probes import Health
from outbox.runtime.service import pause
from outbox.transports.base import Subscription

_LASTING_SECONDS = 2
"""A subscription that is lost earlier is a failure like one that could not be started: the broker
may close the connection because of the next message, again and again."""


class Source(Protocol):
    """A transport, as far as a worker needs it, or the partitions of this process."""

    def subscribe(
        self, queue: str, *, prefetch: int, ordered: bool = False
    ) -> AbstractAsyncContextManager[Subscription]:
        """Subscribe to *queue*; see `Transport.subscribe`."""


class Worker:
    """
    Handles the deliveries of *queue* by *dispatcher*, and reconnects.

    *executor* says whether the database answers, and the source of keys. *ordered* says whether
    the queue has a single active consumer. *was_renewed* says whether the last subscription ended
    only for the next one to begin.
    """

    def __init__(
        self,
        *,
        source: Source,
        queue: str,
        dispatcher: Dispatcher,
        executor: ReadyExecutor,
        database_retry: DatabaseRetry,
        ordered: bool,
        telemetry: Telemetry,
        health: Health,
        was_renewed: Callable[[], bool] = lambda: False,
    ) -> None:
        self._source = source
        self._was_renewed = was_renewed
        self._queue = queue
        self._dispatcher = dispatcher
        self._executor = executor
        self._database_retry = database_retry
        self._ordered = ordered
        self._telemetry = telemetry
        self._health = health

    async def run(self, stop: asyncio.Event) -> None:
        """Handle deliveries until *stop* is set; batches in flight are finished first."""
        # Handlers outlive the subscription that has delivered their messages.
        async with asyncio.TaskGroup() as group:
            loop, failures = asyncio.get_running_loop(), 0
            while not stop.is_set():
                # Without a database no delivery could be handled.
                await self._database_retry.run(self._executor.ready, stop, longest=timedelta.max)
                try:
                    async with self._source.subscribe(
                        self._queue,
                        prefetch=self._dispatcher.first_prefetch,
                        ordered=self._ordered,
                    ) as subscription:
                        self._health.up("broker")
                        self._telemetry.availability.up()
                        began = loop.time()
                        lost = await self._dispatcher.run(subscription, stop, group)
                        if loop.time() - began >= _LASTING_SECONDS:
                            failures = 0
                        if lost is not None and not stop.is_set():
                            # At once: closing what is left of the connection may take seconds.
                            self._health.down("broker")
                    if self._dispatcher.was_idle or (lost is None and self._was_renewed()):
                        continue
                    error = lost or BrokerUnavailable("the connection was lost")
                except BrokerUnavailable as unavailable:
                    error = unavailable
                if stop.is_set():
                    return
                failures += 1
                wait = self._database_retry.pause_after(failures)
                self._health.down("broker")
                self._telemetry.availability.down(error, pause=wait)
                await pause(stop, wait)
