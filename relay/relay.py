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
from datetime import timedelta

from outbox import codec
from outbox.backoff import Exponential, RetryPolicy
from outbox.errors import BrokerUnavailable, Unavailable, UnreadableMessage
from outbox.runtime.probes import Health
from outbox.runtime.service import pause
from outbox.transports.base import Outcome, Publisher
from relay.lanes import waves
from relay.pace import Pace
from relay.storage.base import OutboxStore, Row
from relay.telemetry import Telemetry
from relay.verdict import decide


class Relay:
    """
    Moves committed events from the outbox to the broker.

    Every event is published at least once, and the events of one ordering key in the order in
    which they were inserted.
    """

    def __init__(
        self,
        *,
        store: OutboxStore,
        publisher: Publisher,
        exchange: str,
        limit: int,
        publish_timeout: timedelta,
        policy: RetryPolicy,
        pace: Pace,
        reconnect: Exponential,
        telemetry: Telemetry,
        health: Health,
        chance: Callable[[], float],
    ) -> None:
        self._store = store
        self._publisher = publisher
        self._exchange = exchange
        self._limit = limit
        self._publish_timeout = publish_timeout
        self._policy = policy
        self._pace = pace
        self._reconnect = reconnect
        self._telemetry = telemetry
        self._health = health
        self._chance = chance

    async def run(self, stop: asyncio.Event) -> None:
        """Work until *stop* is set; the batch in flight is finished first."""
        wait, failures = timedelta(0), 0
        while not stop.is_set():
            try:
                await self._publisher.ready()
                claimed = await self.run_once()
            except Unavailable as error:
                failures += 1
                wait = self._reconnect.delay(failures, chance=self._chance()) or timedelta(0)
                self._health.down("servers")
                self._telemetry.availability.down(error, pause=wait)
            else:
                wait = self._pace.after(claimed, limit=self._limit, previous=wait)
                failures = 0
                self._health.up("servers")
                self._telemetry.availability.up()
            if wait:
                await pause(stop, wait)

    async def run_once(self) -> int:
        """
        Claim one batch, publish it, settle every row.

        Returns the number of rows claimed, from which `run` derives its pace.
        Raises BrokerUnavailable if the broker gave no answer for some of them, after settling the
        others, and DatabaseUnavailable.
        """
        clock = asyncio.get_running_loop().time
        async with self._store.claim(limit=self._limit) as claim:
            if not claim.rows:
                return 0
            began = clock()
            outcomes = await self._publish(claim.rows)
            verdicts = [
                decide(row, outcomes.get(row.id), self._policy, chance=self._chance())
                for row in claim.rows
            ]
            await claim.settle(verdicts)
        self._telemetry.settled(verdicts, took=timedelta(seconds=clock() - began))
        if Outcome.UNKNOWN in outcomes.values():
            raise BrokerUnavailable("no answer to a publish")
        return len(claim.rows)

    async def _publish(self, rows: Sequence[Row]) -> dict[int, Outcome]:
        """
        Publish *rows*, those of a key one after another, until one of the key fails.

        Returns outcomes by row id; a row without one was not published.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._publish_timeout.total_seconds()
        outcomes: dict[int, Outcome] = {}
        stopped: set[str] = set()
        for wave in waves(rows):
            going = [row for row in wave if row.ordering_key not in stopped]
            within = timedelta(seconds=max(deadline - clock(), 0))
            outcomes |= await self._publish_wave(going, within)
            stopped |= {
                row.ordering_key
                for row in going
                if row.ordering_key is not None and outcomes[row.id] is not Outcome.ACKED
            }
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
                messages[row.id] = codec.to_wire(envelope, exchange=self._exchange)
        if messages:
            answers = await self._publisher.publish(list(messages.values()), within=within)
            outcomes |= zip(messages, answers, strict=True)
        return outcomes
