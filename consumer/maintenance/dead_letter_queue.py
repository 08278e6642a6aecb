"""
Empties the dead queue, to which the broker dead-letters messages by itself.

    <queue>.dead ──▶ a reason of MQ_REQUEUE_REASONS ──▶ work queue, at most MQ_MAX_REQUEUES times
                 └─▶ any other reason               ──▶ `dead_letters`, with the broker's reason
"""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TypeAlias

from consumer import message_copies
from consumer.database_retry import DatabaseRetry
from consumer.partition_marker import is_drain_marker
from consumer.queues import ConsumerQueues
from consumer.storage.dead_letters import DeadLetterWriter
from consumer.telemetry import Telemetry
from consumer.verdict import DeadLetter
from outbox.errors import BrokerUnavailable, TopologyMismatch
from outbox.runtime.service import pause
from outbox.runtime.shield import shielded
from outbox.transports.base import Outcome, Subscription, Transport
from outbox.transports.delivery import Delivery
from outbox.wire.codec import WireMessage

_PREFETCH = 50
_WORK = "dead_queue"
STABLE_AFTER = timedelta(minutes=1)
"""A subscription that lasted this long was not ended by the first message of the queue."""


@dataclass(frozen=True, slots=True)
class Requeue:
    """Publish a copy to the work queue."""


Decision: TypeAlias = Requeue | DeadLetter


@dataclass(frozen=True, slots=True)
class RequeuePolicy:
    """Messages with one of *reasons* are requeued, each at most *max_requeues* times."""

    reasons: Collection[str]
    max_requeues: int

    def decide(self, delivery: Delivery, *, queue: str) -> Decision:
        """Requeue or dead-letter *delivery*, which the broker dead-lettered from *queue*."""
        reason = message_copies.dead_letter_reason(delivery.message, queue=queue)
        if reason in self.reasons and delivery.headers.requeues < self.max_requeues:
            return Requeue()
        return DeadLetter(delivery.headers.failed_attempts, reason)


class DeadLetterQueueWorker:
    """
    Requeues or dead-letters the messages in the dead queue of *queues*.

    *stable_after* is how long a subscription has to last for the next one to follow quickly.
    """

    def __init__(
        self,
        *,
        transport: Transport,
        queues: ConsumerQueues,
        policy: RequeuePolicy,
        dead_letter_writer: DeadLetterWriter,
        database_retry: DatabaseRetry,
        telemetry: Telemetry,
        stable_after: timedelta = STABLE_AFTER,
    ) -> None:
        self._transport = transport
        self._queues = queues
        self._policy = policy
        self._dead_letter_writer = dead_letter_writer
        self._database_retry = database_retry
        self._telemetry = telemetry
        self._stable_after = stable_after.total_seconds()

    async def run(self, stop: asyncio.Event) -> None:
        """Empty the queue until *stop* is set. `Worker` reports an unreachable broker."""
        clock = asyncio.get_running_loop().time
        failures = 0
        while not stop.is_set():
            was_stable = False
            try:
                async with self._transport.subscribe(
                    self._queues.dead, prefetch=_PREFETCH
                ) as subscription:
                    self._telemetry.availability.background(_WORK, None)
                    began = clock()
                    has_processed = await self._drain(subscription, stop)
                    was_stable = has_processed or clock() - began >= self._stable_after
            except BrokerUnavailable as error:
                if error.refused:
                    self._telemetry.availability.background(_WORK, error)
            except TopologyMismatch:
                # `TopologyMonitor` reports that the queue is missing, and declares it again.
                pass
            # The first message of the queue may end each connection: pauses grow.
            failures = 1 if was_stable else failures + 1
            await pause(stop, self._database_retry.pause_after(failures))

    async def _drain(self, subscription: Subscription, stop: asyncio.Event) -> bool:
        """Work until the subscription ends. Returns whether it has processed a delivery."""
        has_processed = False
        async with asyncio.TaskGroup() as group:
            unsubscribe = group.create_task(_unsubscribe_when(stop, subscription))
            try:
                while deliveries := await subscription.take(_PREFETCH):
                    await self._process(subscription, deliveries, stop)
                    has_processed = True
            except BrokerUnavailable:
                pass
            finally:
                unsubscribe.cancel()
        return has_processed

    async def _process(
        self, subscription: Subscription, deliveries: Sequence[Delivery], stop: asyncio.Event
    ) -> None:
        queue = self._queues.name
        for delivery in deliveries:
            if is_drain_marker(delivery.message):
                # It has expired, and its partition gets another one.
                await subscription.ack(delivery)
                continue
            message = message_copies.original_message(delivery.message, queue=queue)
            decision = self._policy.decide(delivery, queue=queue)
            if isinstance(decision, Requeue):
                requeues = delivery.headers.requeues + 1
                copy = message_copies.requeue_copy(message, queue=queue, requeues=requeues)
                if await self._requeue(subscription, delivery, copy, stop) is not Outcome.REJECTED:
                    continue
                decision = DeadLetter(delivery.headers.failed_attempts, Outcome.REJECTED.value)
            if await self._dead_letter(message, decision, stop):
                await subscription.ack(delivery)

    async def _requeue(
        self,
        subscription: Subscription,
        delivery: Delivery,
        copy: WireMessage,
        stop: asyncio.Event,
    ) -> Outcome | None:
        """ACKED, REJECTED if no broker will ever take *copy*, or None if *stop* is set."""
        failures = 0
        with self._telemetry.copy(copy.routing_key) as not_taken:
            while not stop.is_set():
                outcome = await subscription.replace(delivery, copy)
                if outcome is Outcome.ACKED:
                    self._telemetry.requeued(delivery.message.type)
                if outcome in {Outcome.ACKED, Outcome.REJECTED}:
                    return outcome
                not_taken(outcome)
                failures += 1
                await pause(stop, self._database_retry.pause_after(failures))
        return None

    async def _dead_letter(
        self, message: WireMessage, verdict: DeadLetter, stop: asyncio.Event
    ) -> bool:
        """Returns whether *message* is in `dead_letters`, or was completed before."""
        write = partial(
            self._dead_letter_writer.write,
            message,
            reason=verdict.code,
            attempts=verdict.attempt,
        )
        written = await self._database_retry.run(write, stop, longest=timedelta.max)
        if written:
            self._telemetry.settled([(message, verdict)])
        return written is not None


async def _unsubscribe_when(stop: asyncio.Event, subscription: Subscription) -> None:
    await stop.wait()
    try:
        await shielded(subscription.stop())
    except BrokerUnavailable:
        return
