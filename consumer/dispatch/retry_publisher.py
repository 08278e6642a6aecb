"""
Retries: publishing copies of failed messages, and acking the originals.

    chosen queue    the shortest delay that is long enough, else the longest delay
    copy            counts the attempt; carries `not before` if the queue's delay is too short
    publish         until the broker confirms the copy; only then is the original acked

To requeue the original instead would call the handler again at once, and use up the delivery limit
of the queue.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from consumer.database_retry import DatabaseRetry
from consumer.message_copies import renewed_copy, retry_copy, waiting_since
from consumer.queues import ConsumerQueues
from consumer.telemetry import Telemetry
from consumer.verdict import DeadLetter, TryAgain, retry_queue_delay
from outbox.runtime.service import pause
from outbox.transports.base import Outcome, Subscription
from outbox.transports.delivery import Delivery


@dataclass(frozen=True, slots=True)
class RetryPublisher:
    """Publishes copies to *queues*; *database_retry* sets the pauses between publishes."""

    queues: ConsumerQueues
    database_retry: DatabaseRetry
    telemetry: Telemetry

    async def retry(
        self,
        subscription: Subscription,
        delivery: Delivery,
        verdict: TryAgain,
        stop: asyncio.Event,
    ) -> TryAgain | DeadLetter | None:
        """
        Publish a copy of *delivery* to a retry queue, however long the broker refuses it.

        Returns the verdict with the delay of that queue, DeadLetter for a copy that the broker
        rejects, or None if *stop* is set before; the original is unsettled in the last two cases.
        Raises BrokerUnavailable if the subscription is lost.
        """
        delay = retry_queue_delay(verdict.delay, sorted(self.queues.retry_queues))
        copy = retry_copy(
            waiting_since(delivery.message, verdict.unsupported_since),
            queue=self.queues.retry_queues[delay],
            attempt=verdict.attempt,
            not_before=datetime.now(UTC) + verdict.delay if verdict.delay > delay else None,
            failed=verdict.failed,
        )
        failures = 0
        with self.telemetry.copy(copy.routing_key) as not_taken:
            while True:
                outcome = await subscription.replace(delivery, copy)
                if outcome is Outcome.ACKED:
                    return replace(verdict, delay=delay)
                if outcome is Outcome.REJECTED:
                    return DeadLetter(verdict.attempt, outcome.value)
                if stop.is_set():
                    return None
                not_taken(outcome)
                failures += 1
                await pause(stop, self.database_retry.pause_after(failures))

    async def renew(
        self, subscription: Subscription, deliveries: Sequence[Delivery]
    ) -> list[Delivery]:
        """
        Replace *deliveries* by copies in the work queue, whose redeliveries are counted from 0.

        Returns those for which the broker took no copy.
        Raises BrokerUnavailable if the subscription is lost.
        """
        return [
            delivery
            for delivery in deliveries
            if Outcome.ACKED
            is not await subscription.replace(
                delivery, renewed_copy(delivery.message, queue=self.queues.name)
            )
        ]
