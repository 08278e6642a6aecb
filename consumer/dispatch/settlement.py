"""
Doing what a verdict says: to the broker, and to the database for what is given up or parked.

The broker is told last. What is not told, because the process stops or a server is away, is
delivered again.
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import assert_never

from consumer.database_retry import DatabaseRetry
from consumer.execution.ordering import Lanes
from consumer.queues import ConsumerQueues
from consumer.republish import retry_copy
from consumer.storage.dead_letters import DeadLetterWriter
from consumer.telemetry import Telemetry
from consumer.verdict import (
    DUPLICATE,
    Done,
    Filtered,
    GiveUp,
    Parked,
    TryAgain,
    Verdict,
    Wait,
    level_for,
)
from outbox.runtime.service import pause
from outbox.transports.base import Outcome, Subscription
from outbox.transports.delivery import Delivery


class Settlement:
    """Settles deliveries of *queues*; *lanes* are those of an ordered consumer."""

    def __init__(
        self,
        *,
        queues: ConsumerQueues,
        dead_letter_writer: DeadLetterWriter,
        lanes: Lanes | None,
        database_retry: DatabaseRetry,
        telemetry: Telemetry,
    ) -> None:
        self._queues = queues
        self._dead_letter_writer = dead_letter_writer
        self._lanes = lanes
        self._database_retry = database_retry
        self._telemetry = telemetry

    async def settle(
        self,
        subscription: Subscription,
        deliveries: Sequence[Delivery],
        verdicts: Sequence[Verdict],
        stop: asyncio.Event,
    ) -> list[timedelta | None] | None:
        """
        Carry out *verdicts* on *deliveries*.

        Returns for each None, or how long to wait before it is handled again; or None for all if
        some could not be settled, and have to come again.
        Raises BrokerUnavailable if the subscription is lost.
        """
        all_settled = True
        waits: list[timedelta | None] = []
        acks: list[Delivery] = []
        settled: list[tuple[str | None, Verdict]] = []
        for delivery, verdict in zip(deliveries, verdicts, strict=True):
            waits.append(verdict.delay if isinstance(verdict, Wait) else None)
            done = await self._carry_out(subscription, delivery, verdict, stop)
            if done is None:
                all_settled = all_settled and isinstance(verdict, Wait)
                continue
            settled.append((delivery.message.type, done))
            if not isinstance(done, TryAgain):
                acks.append(delivery)
        if acks:
            await subscription.ack(*acks)
        self._telemetry.settled(settled)
        return waits if all_settled else None

    async def exchange(
        self, subscription: Subscription, deliveries: Sequence[Delivery]
    ) -> list[Delivery]:
        """
        Put copies of *deliveries* into the queue in their place: they are counted anew.

        Returns those for which the broker took no copy.
        Raises BrokerUnavailable if the subscription is lost.
        """
        return [
            delivery
            for delivery in deliveries
            if Outcome.ACKED
            is not await subscription.replace(
                delivery, retry_copy(delivery.message, queue=self._queues.name)
            )
        ]

    async def _carry_out(
        self, subscription: Subscription, delivery: Delivery, verdict: Verdict, stop: asyncio.Event
    ) -> Verdict | None:
        """What has become of *delivery*; None if that is not known yet."""
        match verdict:
            case Done() | Filtered() | Parked():
                return verdict
            case Wait():
                return None
            case GiveUp():
                return await self._give_up(delivery, verdict, stop)
            case TryAgain() if self._lanes is not None and (lane := self._lanes.lane_of(delivery)):
                park = partial(self._lanes.park, delivery, lane, verdict)
                return await self._database_retry.run(park, stop)
            case TryAgain():
                return await self._retry(subscription, delivery, verdict, stop)
            case _:
                assert_never(verdict)

    async def _give_up(
        self, delivery: Delivery, verdict: GiveUp, stop: asyncio.Event
    ) -> Verdict | None:
        write = partial(
            self._dead_letter_writer.write,
            delivery.message,
            reason=verdict.code,
            attempts=verdict.attempt,
        )
        written = await self._database_retry.run(write, stop)
        if written is None:
            return None
        return verdict if written else DUPLICATE

    async def _retry(
        self,
        subscription: Subscription,
        delivery: Delivery,
        verdict: TryAgain,
        stop: asyncio.Event,
    ) -> Verdict | None:
        """
        Put a copy into a retry queue, however long that takes; handing the original back would
        call the handler again at once, and use up the delivery limit.
        """
        level = level_for(verdict.delay, sorted(self._queues.retry_queues))
        copy = retry_copy(
            delivery.message,
            queue=self._queues.retry_queues[level],
            attempt=verdict.attempt,
            not_before=datetime.now(UTC) + verdict.delay if verdict.delay > level else None,
        )
        failures = 0
        while True:
            outcome = await subscription.replace(delivery, copy)
            if outcome is Outcome.ACKED:
                return TryAgain(verdict.attempt, level, failed=verdict.failed)
            if outcome is Outcome.REJECTED:
                return await self._give_up(delivery, GiveUp(verdict.attempt, outcome.value), stop)
            if stop.is_set():
                return None
            failures += 1
            await pause(stop, self._database_retry.pause_after(failures))
