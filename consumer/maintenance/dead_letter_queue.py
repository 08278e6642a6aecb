"""
Collecting what the broker gave up by itself, from the dead queue into `dead_letters`.

    <queue>.dead ──▶ expired in the work queue? ──▶ back to the work queue, a few times
                 └─▶ everything else            ──▶ dead_letters, with the broker's reason
"""

import asyncio
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TypeAlias

from consumer import republish
from consumer.database_retry import DatabaseRetry
from consumer.queues import ConsumerQueues
from consumer.storage.dead_letters import DeadLetterWriter
from consumer.telemetry import Telemetry
from consumer.verdict import GiveUp
from outbox.errors import BrokerUnavailable
from outbox.runtime.service import pause
from outbox.runtime.shield import shielded
from outbox.transports.base import Outcome, Subscription, Transport
from outbox.transports.delivery import Delivery
from outbox.wire.codec import WireMessage

_PREFETCH = 50
LASTING = timedelta(minutes=1)
"""A subscription that has lived for so long was not ended by a message in front."""


@dataclass(frozen=True, slots=True)
class Requeue:
    """Put it into the work queue again."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Move it to `dead_letters`; *code* is the broker's reason."""

    code: str


Decision: TypeAlias = Requeue | DeadLetter


@dataclass(frozen=True, slots=True)
class RequeuePolicy:
    """Which *reasons* of the broker are no fault of the message, and how often it comes back."""

    reasons: Collection[str]
    most: int

    def decide(self, delivery: Delivery, *, queue: str) -> Decision:
        """Requeue or dead-letter *delivery*, which the broker dead-lettered from *queue*."""
        reason = republish.dead_letter_reason(delivery.message, queue=queue)
        if reason in self.reasons and delivery.headers.requeues < self.most:
            return Requeue()
        return DeadLetter(reason)


class DeadLetterQueueWorker:
    """Empties the dead queue of *queues*."""

    def __init__(
        self,
        *,
        transport: Transport,
        queues: ConsumerQueues,
        policy: RequeuePolicy,
        dead_letter_writer: DeadLetterWriter,
        database_retry: DatabaseRetry,
        telemetry: Telemetry,
        lasting: timedelta = LASTING,
    ) -> None:
        self._transport = transport
        self._queues = queues
        self._policy = policy
        self._dead_letter_writer = dead_letter_writer
        self._database_retry = database_retry
        self._telemetry = telemetry
        self._lasting = lasting.total_seconds()

    async def run(self, stop: asyncio.Event) -> None:
        """Work until *stop* is set. A broker that is away is the workers' to report."""
        clock = asyncio.get_running_loop().time
        failures = 0
        while not stop.is_set():
            was_well = False
            with suppress(BrokerUnavailable):
                async with self._transport.subscribe(
                    self._queues.dead, prefetch=_PREFETCH
                ) as subscription:
                    began = clock()
                    collected = await self._empty(subscription, stop)
                    was_well = collected or clock() - began >= self._lasting
            # A message that ends each connection may lie in front: it is not hurried after.
            failures = 1 if was_well else failures + 1
            await pause(stop, self._database_retry.pause_after(failures))

    async def _empty(self, subscription: Subscription, stop: asyncio.Event) -> bool:
        """Work until the subscription is lost or *stop* is set; whether anything was collected."""
        collected = False
        async with asyncio.TaskGroup() as group:
            stopper = group.create_task(_stop_when(stop, subscription))
            try:
                while deliveries := await subscription.take(_PREFETCH):
                    await self._collect(subscription, deliveries, stop)
                    collected = True
            except BrokerUnavailable:
                pass
            finally:
                stopper.cancel()
        return collected

    async def _collect(
        self, subscription: Subscription, deliveries: Sequence[Delivery], stop: asyncio.Event
    ) -> None:
        queue = self._queues.name
        for delivery in deliveries:
            message = republish.original_message(delivery.message, queue=queue)
            decision = self._policy.decide(delivery, queue=queue)
            if isinstance(decision, Requeue):
                requeues = delivery.headers.requeues + 1
                copy = republish.requeue_copy(message, queue=queue, requeues=requeues)
                if await self._return(subscription, delivery, copy, stop) is not Outcome.REJECTED:
                    continue
                decision = DeadLetter(Outcome.REJECTED.value)
            attempts = delivery.headers.failed_attempts
            if await self._dead_letter(message, decision.code, attempts, stop):
                await subscription.ack(delivery)

    async def _return(
        self,
        subscription: Subscription,
        delivery: Delivery,
        copy: WireMessage,
        stop: asyncio.Event,
    ) -> Outcome | None:
        """ACKED, REJECTED if no broker will ever take *copy*, or None if the process stops."""
        failures = 0
        while not stop.is_set():
            outcome = await subscription.replace(delivery, copy)
            if outcome is Outcome.ACKED:
                self._telemetry.requeued(delivery.message.type)
            if outcome in {Outcome.ACKED, Outcome.REJECTED}:
                return outcome
            failures += 1
            await pause(stop, self._database_retry.pause_after(failures))
        return None

    async def _dead_letter(
        self, message: WireMessage, code: str, attempts: int, stop: asyncio.Event
    ) -> bool:
        write = partial(self._dead_letter_writer.write, message, reason=code, attempts=attempts)
        written = await self._database_retry.run(write, stop, longest=timedelta.max)
        if written:
            self._telemetry.settled([(message.type, GiveUp(attempts, code))])
        return written is not None


async def _stop_when(stop: asyncio.Event, subscription: Subscription) -> None:
    await stop.wait()
    try:
        await shielded(subscription.stop())
    except BrokerUnavailable:
        return
