"""
The relay: claim, publish, settle.

    claim     rows that are ready, locked against other relays
    publish   persistent, mandatory, confirmed; one deadline for the batch
    settle    acked: delete · unroutable, refused: later · hopeless: dead_letters · unknown: leave

A crash between any two of these, or in the middle of one, means that rows are published again.
While a server is away nothing is claimed, no transaction is open, and no attempt is counted.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from outbox.backoff import Exponential, RetryPolicy
from outbox.errors import BrokerUnavailable, Unavailable, UnreadableMessage
from outbox.runtime.probes import Health
from outbox.runtime.service import pause
from outbox.transports.base import Outcome, Publisher
from outbox.wire import codec
from relay.ordering_key_hash import OrderingKeyHasher
from relay.poll_interval import ClaimResult, LoadMeter, PollInterval
from relay.row import Row
from relay.storage.base import OutboxStore
from relay.telemetry import Telemetry
from relay.verdict import decide
from relay.wakeup import WakeSignal, Wakeup
from relay.waves import waves


@dataclass(frozen=True, slots=True)
class Limits:
    """
    Bounds of one batch.

    Args:
        rows: Most rows.
        bytes: Most bytes of their bodies.
        publishing: How long the broker may take to confirm it.

    """

    rows: int
    bytes: int
    publishing: timedelta


class Relay:
    """
    Moves committed events from the outbox to the broker.

    Every event is published at least once, and the events of one ordering key in the order in
    which they were inserted.

    There are two shifts. While the batch of one waits for its confirms or is settled, the other
    one claims and publishes the next: whoever finds that there is more to do rings for the other.
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
        limits: Limits,
        policy: RetryPolicy,
        poll_interval: PollInterval,
        reconnect: Exponential,
        telemetry: Telemetry,
        health: Health,
        jitter: Callable[[], float],
    ) -> None:
        self._store = store
        self._publisher = publisher
        self._wakeup = wakeup
        self._wake_signal = wake_signal
        self._exchange = exchange
        self._key_hasher = key_hasher
        self._limits = limits
        self._policy = policy
        self._poll_interval = poll_interval
        self._reconnect = reconnect
        self._telemetry = telemetry
        self._health = health
        self._jitter = jitter
        self._load = LoadMeter()
        self._reachable = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Work until *stop* is set; the batches in flight are finished first."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._primary_loop(stop))
                group.create_task(self._secondary_loop(stop))
                await stop.wait()
                self._reachable.set()
                self._wake_signal.close(waiting=2)
        finally:
            await self._wakeup.close()

    async def _primary_loop(self, stop: asyncio.Event) -> None:
        """Work, look again from time to time, and wait for servers that are away."""
        wait, failures = timedelta(0), 0
        while not stop.is_set():
            try:
                found = await self.run_once()
                if not found.rows and not found.more and await self._wakeup.arm():
                    found = await self.run_once()
            except Unavailable as error:
                failures += 1
                wait = self._reconnect.delay(failures, jitter=self._jitter()) or timedelta(0)
                self._reachable.clear()
                self._health.down("servers")
                self._telemetry.availability.down(error, pause=wait)
                await pause(stop, wait)
            else:
                wait = self._poll_interval.after(found, woken=self._wakeup.armed, previous=wait)
                failures = 0
                self._reachable.set()
                self._health.up("servers")
                self._telemetry.availability.up()
                if wait:
                    await self._wake_signal.wait(wait)

    async def _secondary_loop(self, stop: asyncio.Event) -> None:
        """Work when the bell rings, until nothing is found; servers are the first shift's care."""
        while not stop.is_set():
            await self._reachable.wait()
            await self._wake_signal.wait()
            try:
                await self._until_nothing_is_found(stop)
            except Unavailable:
                self._reachable.clear()
                self._wake_signal.notify()

    async def _until_nothing_is_found(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            found = await self.run_once()
            if found.rows:
                continue
            if not found.more:
                return
            await self._wake_signal.wait(self._poll_interval.shortest)

    async def run_once(self) -> ClaimResult:
        """
        Claim one batch, publish it, settle every row.

        Returns what was found, from which the pace is derived.
        Raises BrokerUnavailable if the broker gave no answer for some rows, after settling the
        others, and DatabaseUnavailable.
        """
        await self._publisher.ready()
        async with self._store.claim(limit=self._limits.rows, size=self._limits.bytes) as claim:
            found = ClaimResult(len(claim.rows), claim.more)
            if not found.rows:
                return found
            if found.more:
                self._wake_signal.notify()
            outcomes = await self._publish(claim.rows)
            verdicts = [
                decide(row, outcomes[row.id], self._policy, jitter=self._jitter())
                for row in claim.rows
                if row.id in outcomes
            ]
            await claim.settle(verdicts)
        self._telemetry.settled(verdicts)
        if Outcome.UNKNOWN in outcomes.values():
            raise BrokerUnavailable("no answer to a publish")
        if self._load.is_high(found.rows, now=self._clock()):
            await self._look_instead_of_listening()
        return found

    async def _look_instead_of_listening(self) -> None:
        if self._wakeup.armed:
            await self._wakeup.disarm()
            # Whoever waits to be woken would wait in vain.
            self._wake_signal.notify()

    async def _publish(self, rows: Sequence[Row]) -> dict[int, Outcome]:
        """
        Publish *rows*, those of a key one after another, until one of the key fails.

        Returns outcomes by row id; a row without one was not published.
        """
        began = self._clock()
        deadline = began + self._limits.publishing.total_seconds()
        outcomes: dict[int, Outcome] = {}
        stopped: set[str] = set()
        for wave in waves(rows):
            going = [row for row in wave if row.ordering_key not in stopped] if stopped else wave
            within = timedelta(seconds=max(deadline - self._clock(), 0))
            outcomes |= await self._publish_wave(going, within)
            stopped |= {
                row.ordering_key
                for row in going
                if row.ordering_key is not None and outcomes[row.id] is not Outcome.ACKED
            }
        self._telemetry.published(rows, outcomes, took=timedelta(seconds=self._clock() - began))
        return outcomes

    async def _publish_wave(self, rows: Sequence[Row], within: timedelta) -> dict[int, Outcome]:
        outcomes: dict[int, Outcome] = {}
        messages: dict[int, codec.WireMessage] = {}
        for row in rows:
            try:
                envelope = codec.from_row(row.values)
            except UnreadableMessage:
                outcomes[row.id] = Outcome.MALFORMED
            else:
                messages[row.id] = codec.to_wire(
                    envelope,
                    exchange=self._exchange,
                    lane=self._key_hasher.lane(envelope.ordering_key),
                )
        if messages:
            answers = await self._publisher.publish(list(messages.values()), within=within)
            outcomes |= zip(messages, answers, strict=True)
        return outcomes

    @staticmethod
    def _clock() -> float:
        """Seconds that never go back."""
        return asyncio.get_running_loop().time()
