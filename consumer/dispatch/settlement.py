"""
Settling deliveries as their verdicts say: in the database, and then with the broker.

| verdict               | database                   | broker                              |
|-----------------------|----------------------------|-------------------------------------|
| Done, Filtered        | –                          | ack                                 |
| Parked                | –, the attempt parked it   | ack                                 |
| DeadLetter            | write the dead letter      | ack                                 |
| TryAgain              | –                          | publish a copy for the retry, ack   |
| TryAgain, in a lane   | park the message           | ack                                 |
| Wait                  | –                          | –, the delivery is handled later    |

The ack comes last. A delivery that is not acked, because the process stops or a server is
unreachable, is delivered again.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import assert_never

from consumer.database_retry import DatabaseRetry
from consumer.dispatch.retry_publisher import RetryPublisher
from consumer.execution.ordering import Lanes
from consumer.queues import ConsumerQueues
from consumer.storage.dead_letters import DeadLetterWriter
from consumer.telemetry import Telemetry
from consumer.verdict import DUPLICATE, DeadLetter, Done, Filtered, Parked, TryAgain, Verdict, Wait
from outbox.transports.base import Subscription
from outbox.transports.delivery import Delivery


class Settlement:
    """
    Settles deliveries of *queues*.

    *lanes* are those of an ordered consumer. `retries` publishes the copies.
    """

    def __init__(
        self,
        *,
        queues: ConsumerQueues,
        dead_letter_writer: DeadLetterWriter,
        lanes: Lanes | None,
        database_retry: DatabaseRetry,
        telemetry: Telemetry,
    ) -> None:
        self.retries = RetryPublisher(queues, database_retry)
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

        Returns for each delivery None, or the time after which to handle it again. Returns None
        for all if some could not be settled, and the broker has to deliver them again.
        Raises BrokerUnavailable if the subscription is lost.
        """
        all_settled = True
        waits: list[timedelta | None] = []
        acks: list[Delivery] = []
        settled: list[tuple[str | None, Verdict]] = []
        for delivery, verdict in zip(deliveries, verdicts, strict=True):
            waits.append(verdict.delay if isinstance(verdict, Wait) else None)
            done = await self._apply(subscription, delivery, verdict, stop)
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

    async def _apply(
        self, subscription: Subscription, delivery: Delivery, verdict: Verdict, stop: asyncio.Event
    ) -> Verdict | None:
        """The verdict as it was carried out; None if it was not."""
        match verdict:
            case Done() | Filtered() | Parked():
                return verdict
            case Wait():
                return None
            case DeadLetter():
                return await self._dead_letter(delivery, verdict, stop)
            case TryAgain() if self._lanes is not None and (lane := self._lanes.lane_of(delivery)):
                park = partial(self._lanes.park, delivery, lane, verdict)
                return await self._database_retry.run(park, stop)
            case TryAgain():
                retried = await self.retries.retry(subscription, delivery, verdict, stop)
                if isinstance(retried, DeadLetter):
                    return await self._dead_letter(delivery, retried, stop)
                return retried
            case _:
                assert_never(verdict)

    async def _dead_letter(
        self, delivery: Delivery, verdict: DeadLetter, stop: asyncio.Event
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
