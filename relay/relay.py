"""
The relay: claim, publish, settle.

    claim     ready rows, locked against other relays
    publish   persistent, mandatory, confirmed; one deadline for the batch
    settle    acked: delete · unroutable, refused: retry later · rejected, malformed: dead-letter ·
              unknown: leave

A crash between any two steps, or during one, means that rows are published again. While a server
is unavailable the relay claims no rows, holds no transaction open, and counts no attempt.
"""

import asyncio
from collections.abc import Callable
from datetime import timedelta

from outbox.backoff import Exponential, RetryPolicy
from outbox.errors import BrokerUnavailable, Unavailable
from outbox.runtime.probes import Health
from outbox.runtime.service import pause
from outbox.transports.base import Outcome, Publisher
from outbox.wire.cloudevents_writer import CloudEventsWriter
from relay.batch_publisher import BatchPublisher
from relay.batch_size import BatchSize
from relay.ordering_key_hash import OrderingKeyHasher
from relay.poll_interval import ClaimResult, LoadMeter, PollInterval
from relay.storage.base import OutboxStore
from relay.telemetry import Telemetry
from relay.verdict import decide
from relay.wakeup import Looks, WakeSignal, Wakeup


class Relay:
    """
    Moves committed events from the outbox to the broker.

    Every event is published at least once, and the events of one ordering key in the order in
    which they were inserted.

    Two loops work on the outbox. While the batch of one loop waits for its confirms or is settled,
    the other loop claims and publishes the next batch. A loop that expects more ready rows wakes
    the other loop.
    """

    def __init__(
        self,
        *,
        store: OutboxStore,
        publisher: Publisher,
        wakeup: Wakeup,
        wake_signal: WakeSignal,
        exchange: str,
        key_hasher: OrderingKeyHasher,
        batch_size: BatchSize,
        policy: RetryPolicy,
        refused_policy: RetryPolicy | None = None,
        poll_interval: PollInterval,
        reconnect: Exponential,
        telemetry: Telemetry,
        health: Health,
        jitter: Callable[[], float],
        cloudevents: CloudEventsWriter | None = None,
        require_encryption: bool = False,
    ) -> None:
        self._store = store
        self._publisher = publisher
        self._wakeup = wakeup
        self._wake_signal = wake_signal
        self._size = batch_size
        self._policy = policy
        self._refused_policy = refused_policy
        self._poll_interval = poll_interval
        self._reconnect = reconnect
        self._telemetry = telemetry
        self._health = health
        self._jitter = jitter
        self._batches = BatchPublisher(
            publisher=publisher,
            exchange=exchange,
            key_hasher=key_hasher,
            batch_size=batch_size,
            telemetry=telemetry,
            cloudevents=cloudevents,
            require_encryption=require_encryption,
        )
        self._load = LoadMeter()
        self._reachable = asyncio.Event()
        self._looks = Looks(wakeup, clock=self._clock)

    async def run(self, stop: asyncio.Event) -> None:
        """Work until *stop* is set; finishes the batches in flight first."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._primary_loop(stop))
                group.create_task(self._secondary_loop(stop))
                await stop.wait()
                self._reachable.set()
                self._wake_signal.close(waiting=2)
        finally:
            await self._wakeup.close()
            await self._store.close()

    async def _primary_loop(self, stop: asyncio.Event) -> None:
        """Claim, pause, and claim again; on errors wait for the servers and reconnect."""
        wait, failures, notified = timedelta(0), 0, True
        while not stop.is_set():
            before = self._wake_signal.total
            try:
                claimed = await self._claim(notified=notified)
            except Unavailable as error:
                failures += 1
                notified = True
                wait = self._reconnect.delay(failures, jitter=self._jitter()) or timedelta(0)
                self._reachable.clear()
                self._health.waits_for(*error.waits_for)
                self._telemetry.availability.down(error, pause=wait)
                await pause(stop, wait)
            else:
                wait, notified = self._next(claimed, before=before, previous=wait)
                failures = 0
                self._reachable.set()
                self._health.waits_for()
                self._telemetry.availability.up()
                if wait:
                    notified = await self._wake_signal.wait(wait)

    def _next(
        self, claimed: ClaimResult, *, before: int, previous: timedelta
    ) -> tuple[timedelta, bool]:
        """
        The pause after a claim, and whether the next claim needs no look before it.

        *before* is the number of notifications when the claim began.
        """
        wait = self._poll_interval.after(
            claimed,
            woken=self._wakeup.armed,
            notified=self._wake_signal.total > before,
            previous=previous,
        )
        if wait and self._wakeup.armed and (claimed.rows or claimed.more):
            # A row whose transaction commits late is below the hints of claims, so they miss it.
            due_in = self._looks.due_in()
            return due_in if claimed.rows else max(due_in, wait), False
        return wait, not wait

    async def _claim(self, *, notified: bool) -> ClaimResult:
        """Run once, and arm the notifications if no row was ready."""
        if not notified and await self._looks.find_nothing():
            await self._publisher.ready()
            return ClaimResult(0, more=False)
        claimed = await self.run_once()
        if not claimed.rows and not claimed.more and await self._wakeup.arm():
            claimed = await self.run_once()
        return claimed

    async def _secondary_loop(self, stop: asyncio.Event) -> None:
        """Claim when woken, until no row is ready; the primary loop handles lost servers."""
        while not stop.is_set():
            await self._reachable.wait()
            await self._wake_signal.wait()
            try:
                await self._run_until_empty(stop)
            except Unavailable:
                self._reachable.clear()
                self._wake_signal.notify()

    async def _run_until_empty(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            before = self._wake_signal.total
            claimed = await self.run_once()
            if not claimed.rows and not claimed.more:
                return
            wait, notified = self._next(claimed, before=before, previous=timedelta(0))
            if wait:
                notified = await self._wake_signal.wait(wait)
            if not notified and await self._looks.find_nothing():
                return

    async def run_once(self) -> ClaimResult:
        """
        Claim one batch, publish it, settle every row.

        Returns the size of the claim, which decides the next pause.
        Raises BrokerUnavailable if the broker did not confirm some rows, after settling the
        others, and DatabaseUnavailable.
        """
        await self._publisher.ready()
        async with self._store.claim(limit=self._size.rows, size=self._size.bytes) as claim:
            claimed = ClaimResult(len(claim.rows), claim.more)
            if not claimed.rows:
                return claimed
            if claimed.more:
                self._wake_signal.notify()
            outcomes = await self._batches.publish(claim.rows)
            verdicts = [
                decide(
                    row,
                    outcomes[row.id],
                    self._policy,
                    refused=self._refused_policy,
                    jitter=self._jitter(),
                )
                for row in claim.rows
                if row.id in outcomes
            ]
            verdicts = list(await claim.settle(verdicts))
        self._telemetry.settled(verdicts)
        if Outcome.UNKNOWN in outcomes.values():
            raise BrokerUnavailable("no answer to a publish")
        if self._load.is_high(claimed.rows, now=self._clock()):
            await self._stop_notifications()
        return claimed

    async def _stop_notifications(self) -> None:
        """Poll instead: under high load, frequent claims cost less than notifications."""
        if self._wakeup.armed:
            await self._wakeup.disarm()
            # The other loop may still wait for a notification.
            self._wake_signal.notify()

    @staticmethod
    def _clock() -> float:
        """Seconds that never go back."""
        return asyncio.get_running_loop().time()
