"""
The loop of a consumer: one subscription after another, each with a dispatcher of its own.
"""

import asyncio
from datetime import timedelta

from consumer.database_retry import DatabaseRetry
from consumer.dispatch.delivery_queue import DeliveryQueue
from consumer.dispatch.dispatcher import Dispatcher
from consumer.dispatch.settlement import Settlement
from consumer.execution.executor import Executor
from consumer.telemetry import Telemetry
from outbox.errors import BrokerUnavailable
from outbox.runtime.probes import Health
from outbox.runtime.service import pause
from outbox.transports.base import Transport


class Worker:
    """
    Handles the deliveries of *queue*, up to *concurrency* at a time, and reconnects.

    *ordered* says whether the queue has a single active consumer.
    """

    def __init__(
        self,
        *,
        transport: Transport,
        queue: str,
        delivery_queue: DeliveryQueue,
        executor: Executor,
        settlement: Settlement,
        database_retry: DatabaseRetry,
        concurrency: int,
        prefetch: int,
        ordered: bool,
        telemetry: Telemetry,
        health: Health,
    ) -> None:
        self._transport = transport
        self._queue = queue
        self._delivery_queue = delivery_queue
        self._executor = executor
        self._settlement = settlement
        self._database_retry = database_retry
        self._concurrency = concurrency
        self._prefetch = prefetch
        self._ordered = ordered
        self._telemetry = telemetry
        self._health = health

    async def run(self, stop: asyncio.Event) -> None:
        """Handle deliveries until *stop* is set; batches in flight are finished first."""
        failures = 0
        while not stop.is_set():
            # Without a database no delivery could be handled, but each would be counted.
            await self._database_retry.run(self._executor.ready, stop, longest=timedelta.max)
            try:
                # The dispatcher raises a prefetch of 1 with a second subscription, which a queue
                # with a single active consumer would leave idle.
                first = self._prefetch if self._ordered else 1
                async with self._transport.subscribe(
                    self._queue, prefetch=first, ordered=self._ordered
                ) as subscription:
                    self._health.up("broker")
                    self._telemetry.availability.up()
                    failures = 0
                    await Dispatcher(
                        subscription,
                        delivery_queue=self._delivery_queue,
                        executor=self._executor,
                        settlement=self._settlement,
                        database_retry=self._database_retry,
                        concurrency=self._concurrency,
                        prefetch=self._prefetch,
                        is_prefetch_raised=self._ordered,
                    ).run(stop)
                error = BrokerUnavailable("the connection was lost")
            except BrokerUnavailable as unavailable:
                error = unavailable
            if stop.is_set():
                return
            failures += 1
            wait = self._database_retry.pause_after(failures)
            self._health.down("broker")
            self._telemetry.availability.down(error, pause=wait)
            await pause(stop, wait)
