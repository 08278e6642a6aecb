"""
The loop of a consumer: deliveries in, attempts side by side, settlements out.

A delivery is acked only after its effects are committed, and never when that is in doubt. While
the database is away a worker keeps its delivery and tries again: handing it back would use up the
delivery limit of the queue, and dead-letter healthy messages.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import assert_never

from consumer.attempt import Attempts
from consumer.telemetry import Telemetry
from consumer.verdict import Done, GiveUp, Retry, Verdict
from outbox.backoff import Exponential
from outbox.codec import retried
from outbox.errors import BrokerUnavailable, DatabaseUnavailable
from outbox.runtime.probes import Health
from outbox.runtime.service import pause
from outbox.topology import ConsumerQueues
from outbox.transports.base import Delivery, Outcome, Subscription, Transport


class Workers:
    """*concurrency* workers that share one subscription of *queues*."""

    def __init__(
        self,
        *,
        transport: Transport,
        queues: ConsumerQueues,
        attempts: Attempts,
        concurrency: int,
        prefetch: int,
        reconnect: Exponential,
        telemetry: Telemetry,
        health: Health,
        chance: Callable[[], float],
    ) -> None:
        self._transport = transport
        self._queues = queues
        self._attempts = attempts
        self._concurrency = concurrency
        self._prefetch = prefetch
        self._reconnect = reconnect
        self._telemetry = telemetry
        self._health = health
        self._chance = chance

    async def run(self, stop: asyncio.Event) -> None:
        """Work until *stop* is set; deliveries in flight are finished first."""
        failures = 0
        while not stop.is_set():
            try:
                async with self._transport.subscribe(
                    self._queues.name, prefetch=self._prefetch
                ) as subscription:
                    self._health.up("broker")
                    self._telemetry.availability.up()
                    failures = 0
                    await self._consume(subscription, stop)
                error = BrokerUnavailable("the connection was lost")
            except BrokerUnavailable as unavailable:
                error = unavailable
            if stop.is_set():
                return
            failures += 1
            wait = self._wait(failures)
            self._health.down("broker")
            self._telemetry.availability.down(error, pause=wait)
            await pause(stop, wait)

    async def _consume(self, subscription: Subscription, stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            stopper = group.create_task(_stop_when(stop, subscription))
            workers = [
                group.create_task(self._work(subscription, stop)) for _ in range(self._concurrency)
            ]
            await asyncio.wait(workers)
            if not stop.is_set():
                stopper.cancel()

    async def _work(self, subscription: Subscription, stop: asyncio.Event) -> None:
        """Handle deliveries until the subscription ends or its connection is lost."""
        try:
            while taken := await subscription.take(1):
                delivery = taken[0]
                attempt = partial(self._attempts.make, delivery)
                verdict = await self._until_done(attempt, stop)
                if verdict is None:
                    return
                await self._settle(subscription, delivery, verdict, stop)
        except BrokerUnavailable:
            # What was not acked comes again; of that, what was committed is dropped as duplicate.
            return

    async def _until_done(
        self, work: Callable[[], Awaitable[Verdict]], stop: asyncio.Event
    ) -> Verdict | None:
        """The result of *work*, or None if the process stops while the database is away."""
        failures = 0
        while True:
            try:
                verdict = await work()
            except DatabaseUnavailable as error:
                failures += 1
                wait = self._wait(failures)
                self._health.down("database")
                self._telemetry.availability.down(error, pause=wait)
                if stop.is_set():
                    return None
                await pause(stop, wait)
            else:
                if failures:
                    self._telemetry.availability.up()
                self._health.up("database")
                return verdict

    async def _settle(
        self,
        subscription: Subscription,
        delivery: Delivery,
        verdict: Verdict,
        stop: asyncio.Event,
    ) -> None:
        match verdict:
            case Done() | GiveUp():
                await subscription.ack(delivery)
            case Retry():
                settled = await self._retry(subscription, delivery, verdict, stop)
                if settled is None:
                    return
                verdict = settled
            case _:
                assert_never(verdict)
        self._telemetry.settled(
            delivery.message.type, verdict, source=self._attempts.consumer.name
        )

    async def _retry(
        self, subscription: Subscription, delivery: Delivery, retry: Retry, stop: asyncio.Event
    ) -> Verdict | None:
        """
        Put a copy into the retry queue, however long that takes; handing the original back would
        call the handler again at once, and use up the delivery limit.

        Returns what became of it, or None if the process stops before that is known.
        """
        queue = self._queues.retry_queues[retry.delay]
        copy = retried(delivery.message, queue=queue, attempt=retry.attempt)
        failures = 0
        while True:
            outcome = await subscription.replace(delivery, copy)
            if outcome is Outcome.ACKED:
                return retry
            if outcome is Outcome.REJECTED:
                given_up = GiveUp(retry.attempt, outcome.value)
                burial = partial(self._attempts.give_up, delivery, given_up)
                buried = await self._until_done(burial, stop)
                if buried is not None:
                    await subscription.ack(delivery)
                return buried
            if stop.is_set():
                return None
            failures += 1
            await pause(stop, self._wait(failures))

    def _wait(self, failures: int) -> timedelta:
        return self._reconnect.delay(failures, chance=self._chance()) or timedelta(0)


async def _stop_when(stop: asyncio.Event, subscription: Subscription) -> None:
    await stop.wait()
    try:
        await subscription.stop()
    except BrokerUnavailable:
        return
