"""
The deliveries of several partitions as one subscription.

    partition ──▶ handled ──▶ buffer ──▶ dispatcher
       │
       ├────────▶ marker: when all before it are settled, the partition is recorded as drained
       └────────▶ behind the marker: forwarded to the current generation, then acked

A partition that is lost ends the whole subscription, as a queue does that is lost: the dispatcher
lets its handlers go on, and settles the redeliveries in their place.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

from consumer.database_retry import DatabaseRetry
from consumer.message_copies import forwarded_copy
from consumer.partition_marker import is_drain_marker
from consumer.partitions.balance import Assigned, Mode
from outbox.errors import BrokerUnavailable
from outbox.runtime.service import pause
from outbox.transports.base import Outcome, Subscription
from outbox.transports.delivery import Delivery, DeliveryBuffer
from outbox.wire.codec import WireMessage

FORWARDS_WITHIN = timedelta(seconds=30)
_TAKE_LIMIT = 1_000


class DrainRecords(Protocol):
    """The record of drained partitions; methods raise DatabaseUnavailable."""

    async def is_drained(self, assigned: Assigned) -> bool:
        """Whether a partition is drained."""

    async def drained(self, assigned: Assigned) -> bool:
        """Record that a partition is drained; returns whether its generation is draining."""


@dataclass(slots=True, eq=False)
class Part:
    """
    One partition that is read.

    Args:
        is_open: Set once its messages may be handled.
        is_drained: None until its first delivery: the process that read it before may record that
            only when it is cut off.
        unsettled: How many of its deliveries are being handled.
        is_settled: Set while there are none.

    """

    assigned: Assigned
    source: Subscription
    is_open: asyncio.Event = field(default_factory=asyncio.Event)
    is_drained: bool | None = None
    unsettled: int = 0
    is_settled: asyncio.Event = field(default_factory=asyncio.Event)

    def took(self, count: int) -> None:
        """Count deliveries that are handled from now on."""
        self.unsettled += count
        if self.unsettled:
            self.is_settled.clear()

    def settled(self, count: int) -> None:
        """Count deliveries that are settled."""
        self.unsettled -= count
        if self.unsettled == 0:
            self.is_settled.set()


class PartitionsSubscription:
    """
    The subscriptions of partitions as one, ordered in each partition.

    *records* has those that are drained, and *entrance* returns the exchange to forward to.
    """

    def __init__(
        self,
        *,
        records: DrainRecords,
        entrance: Callable[[], str],
        database_retry: DatabaseRetry,
    ) -> None:
        self.closing = asyncio.Event()
        self._parts: dict[str, Part] = {}
        # Queues that were opened, some of them perhaps before they were subscribed to.
        self._opened: set[str] = set()
        self._records = records
        self._entrance = entrance
        self._database_retry = database_retry
        self._buffer = DeliveryBuffer()
        self._unsettled: dict[int, tuple[Part, Delivery]] = {}
        self._last_tag = 0

    async def read(self, assigned: Assigned, source: Subscription, closing: asyncio.Event) -> None:
        """Receive the deliveries of *source*, of one partition, until *closing* is set."""
        part = Part(assigned, source)
        if assigned.mode is Mode.FORWARD:
            part.is_drained = True
        part.is_settled.set()
        self._parts[assigned.queue] = part
        if assigned.mode is not Mode.WAIT or assigned.queue in self._opened:
            part.is_open.set()
        pump = asyncio.ensure_future(self._pump(part))
        await closing.wait()
        if not self.closing.is_set():
            # It is not read any more: it forwards what it has, and the queue can be deleted.
            # One that waits has handled and forwarded nothing: its messages go back at once.
            await source.stop()
            if part.is_open.is_set():
                await asyncio.wait({pump}, timeout=FORWARDS_WITHIN.total_seconds())
        pump.cancel()
        await asyncio.wait({pump})
        # A partition that came back meanwhile has another reader already.
        if not self.closing.is_set() and self._parts.get(assigned.queue) is part:
            del self._parts[assigned.queue]
        if not pump.cancelled():
            pump.result()

    def change(self, assigned: Assigned) -> None:
        """Read a partition in another mode; only its marker ends that its messages are handled."""
        if assigned.mode is Mode.WAIT:
            return
        self._opened.add(assigned.queue)
        if (part := self._parts.get(assigned.queue)) is not None:
            part.is_open.set()

    def is_idle(self, queue: str) -> bool:
        """Whether no message of *queue* is handled, or will be."""
        part = self._parts.get(queue)
        if part is None:
            return True
        is_handled = part.is_open.is_set() and not part.is_drained
        return part.unsettled == 0 and not is_handled

    def fail(self, lost: BrokerUnavailable) -> None:
        """End the subscription as *lost*."""
        self._buffer.fail(str(lost))

    async def take(self, limit: int) -> list[Delivery]:
        return await self._buffer.take(limit)

    async def raise_prefetch(self, prefetch: int) -> None:
        """Do nothing: an ordered subscription has its whole *prefetch* from the start."""

    async def stop(self) -> None:
        for part in self._parts.values():
            await part.source.stop()
        self._buffer.end()

    async def ack(self, *deliveries: Delivery) -> None:
        found: dict[Part, list[Delivery]] = {}
        for delivery in deliveries:
            if (taken := self._unsettled.pop(delivery.tag, None)) is not None:
                found.setdefault(taken[0], []).append(taken[1])
        for part, taken_from in found.items():
            await part.source.ack(*taken_from)
            part.settled(len(taken_from))

    async def replace(self, delivery: Delivery, copy: WireMessage) -> Outcome:
        part, taken = self._unsettled[delivery.tag]
        outcome = await part.source.replace(taken, copy)
        if outcome is Outcome.ACKED and self._unsettled.pop(delivery.tag, None) is not None:
            part.settled(1)
        return outcome

    async def release(self, delivery: Delivery) -> None:
        """Do nothing: all deliveries go back together when the subscription ends."""

    async def _pump(self, part: Part) -> None:
        try:
            while deliveries := await part.source.take(_TAKE_LIMIT):
                await part.is_open.wait()
                await self._receive(part, deliveries)
        except BrokerUnavailable as lost:
            self.fail(lost)
        except Exception:
            self._buffer.end()
            raise

    async def _receive(self, part: Part, deliveries: Sequence[Delivery]) -> None:
        if part.is_drained is None:
            part.is_drained = await self._recorded(self._records.is_drained, part)
            if part.is_drained is None:
                return
        handled: list[Delivery] = []
        for delivery in deliveries:
            if is_drain_marker(delivery.message):
                self._handle(part, handled)
                handled = []
                await self._drain(part, delivery)
            elif part.is_drained and delivery.decode_error is None:
                await self._forward(part, delivery)
            else:
                handled.append(delivery)
        self._handle(part, handled)

    def _handle(self, part: Part, deliveries: Sequence[Delivery]) -> None:
        """Pass *deliveries* on, with tags that are theirs alone among all partitions."""
        part.took(len(deliveries))
        passed: list[Delivery] = []
        for delivery in deliveries:
            self._last_tag += 1
            self._unsettled[self._last_tag] = (part, delivery)
            passed.append(
                Delivery(
                    delivery.message,
                    self._last_tag,
                    delivery.redelivered,
                    delivery.decode_error,
                    delivery.decode_detail,
                )
            )
        if passed:
            self._buffer.put(passed)

    async def _drain(self, part: Part, marker: Delivery) -> None:
        """Settle *marker* once all before it is settled, and record that the part is drained."""
        await part.is_settled.wait()
        if not part.is_drained:
            drained = await self._recorded(self._records.drained, part)
            if drained is None:
                return
            part.is_drained = drained
        await part.source.ack(marker)

    async def _recorded(
        self, ask: Callable[[Assigned], Awaitable[bool]], part: Part
    ) -> bool | None:
        """
        The answer of *ask*; None while the subscription ends, whose messages go back then.
        """
        answer = await self._database_retry.run(
            lambda: ask(part.assigned), self.closing, longest=timedelta.max
        )
        if answer is None:
            self._buffer.end()
        return answer

    async def _forward(self, part: Part, delivery: Delivery) -> None:
        failures = 0
        while not self.closing.is_set():
            copy = forwarded_copy(
                delivery.message, exchange=self._entrance(), queue=part.assigned.queue
            )
            if await part.source.replace(delivery, copy) is Outcome.ACKED:
                return
            failures += 1
            await pause(self.closing, self._database_retry.pause_after(failures))
