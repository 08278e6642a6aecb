"""
Several partitions as one subscription, without a broker.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from consumer.partition_marker import drain_marker
from consumer.partitions.balance import Assigned, Mode
from consumer.partitions.subscription import PartitionsSubscription
from outbox.errors import BrokerUnavailable
from outbox.transports.base import Outcome
from outbox.transports.delivery import Delivery, DeliveryBuffer
from outbox.wire.codec import WireMessage
from tests.support.eventually import eventually


class Source:
    """A partition whose deliveries the test puts; it records what is settled."""

    def __init__(self) -> None:
        self.buffer = DeliveryBuffer()
        self.acked: list[int] = []
        self.copies: list[WireMessage] = []
        self.outcomes = [Outcome.ACKED]

    def put(self, *messages: WireMessage) -> None:
        for message in messages:
            self.last_tag = getattr(self, "last_tag", 0) + 1
            self.buffer.put([Delivery(message, self.last_tag, redelivered=False)])

    async def take(self, limit: int) -> list[Delivery]:
        return await self.buffer.take(limit)

    async def ack(self, *deliveries: Delivery) -> None:
        self.acked += [delivery.tag for delivery in deliveries]

    async def replace(self, delivery: Delivery, copy: WireMessage) -> Outcome:
        self.copies.append(copy)
        outcome = self.outcomes.pop() if len(self.outcomes) > 1 else self.outcomes[0]
        if outcome is Outcome.ACKED:
            self.acked.append(delivery.tag)
        return outcome

    async def stop(self) -> None:
        self.buffer.end()


class Records:
    """Which partitions are drained, and whether their generation is draining."""

    def __init__(self, *, is_draining: bool = True) -> None:
        self.is_draining = is_draining
        self.found: list[str] = []

    async def is_drained(self, assigned: Assigned) -> bool:
        return assigned.queue in self.found

    async def drained(self, assigned: Assigned) -> bool:
        if self.is_draining:
            self.found.append(assigned.queue)
        return self.is_draining


class Retry:
    """Work that succeeds at once."""

    async def run(self, work: Callable[[], Awaitable[Any]], _stop: Any, **_: Any) -> Any:
        return await work()

    def pause_after(self, _failures: int) -> timedelta:
        return timedelta(0)


@asynccontextmanager
async def reading(*modes: Mode, records: Records | None = None):
    """A subscription to a partition in each of *modes*, with their sources."""
    merged = PartitionsSubscription(
        records=records or Records(), entrance=lambda: "q.g2", database_retry=Retry()
    )
    sources = [Source() for _ in modes]
    closing = asyncio.Event()
    parts = [Assigned(1, number, f"q.g1.{number}", mode) for number, mode in enumerate(modes)]
    tasks = [
        asyncio.create_task(merged.read(part, source, closing))
        for part, source in zip(parts, sources, strict=True)
    ]
    try:
        yield SimpleNamespace(
            merged=merged, sources=sources, parts=parts, closing=closing, tasks=tasks
        )
    finally:
        merged.closing.set()
        closing.set()
        await asyncio.gather(*tasks)


def a_message(name: str) -> WireMessage:
    return WireMessage("main", "key", b"", message_id=name)


async def test_deliveries_of_all_partitions_are_taken_and_acked_where_they_came_from():
    async with reading(Mode.HANDLE, Mode.HANDLE) as it:
        first, second = it.sources
        first.put(a_message("a"), a_message("b"))
        second.put(a_message("c"))
        taken: list[Delivery] = []
        while len(taken) < 3:
            taken += await it.merged.take(10)

        assert len({delivery.tag for delivery in taken}) == 3
        await it.merged.ack(*taken)
        await it.merged.ack(*taken)

        assert (sorted(first.acked), second.acked) == ([1, 2], [1])


async def test_a_marker_is_acked_once_all_before_it_is_settled():
    records = Records()
    async with reading(Mode.DRAIN, records=records) as it:
        (source,) = it.sources
        source.put(a_message("before"), drain_marker("q.g1.0"), a_message("behind"))
        (before,) = await it.merged.take(10)
        assert records.found == []
        assert source.acked == []

        await it.merged.ack(before)
        await eventually(lambda: source.acked == [1, 2, 3])

        assert records.found == ["q.g1.0"]
        (copy,) = source.copies
        assert (copy.exchange, copy.message_id) == ("q.g2", "behind")


async def test_a_message_that_is_forwarded_is_published_until_the_broker_takes_it():
    async with reading(Mode.FORWARD) as it:
        (source,) = it.sources
        source.outcomes = [Outcome.ACKED, Outcome.NACKED, Outcome.RETURNED]
        source.put(a_message("late"))
        await eventually(lambda: source.acked == [1])
        assert len(source.copies) == 3


async def test_a_marker_means_nothing_while_no_generation_drains():
    async with reading(Mode.HANDLE, records=Records(is_draining=False)) as it:
        (source,) = it.sources
        source.put(drain_marker("q.g1.0"), a_message("after"))
        (after,) = await it.merged.take(10)
        assert after.message.message_id == "after"
        assert source.acked == [1]


async def test_a_partition_that_another_process_has_drained_is_forwarded():
    records = Records()
    records.found.append("q.g1.0")
    async with reading(Mode.DRAIN, records=records) as it:
        it.sources[0].put(a_message("late"))
        await eventually(lambda: it.sources[0].acked == [1])
        assert len(it.sources[0].copies) == 1


async def test_a_partition_waits_until_it_is_opened():
    async with reading(Mode.WAIT) as it:
        (source,), (part,) = it.sources, it.parts
        source.put(a_message("first"))
        await eventually(lambda: not len(source.buffer))
        assert it.merged.is_idle(part.queue)

        it.merged.change(Assigned(part.generation, part.number, part.queue, Mode.HANDLE))

        (first,) = await it.merged.take(10)
        assert first.message.message_id == "first"
        assert not it.merged.is_idle(part.queue)


async def test_a_partition_that_is_lost_ends_the_subscription():
    async with reading(Mode.HANDLE, Mode.HANDLE) as it:
        it.sources[1].buffer.fail("the queue was deleted")
        with pytest.raises(BrokerUnavailable, match="the queue was deleted"):
            await it.merged.take(10)


async def test_a_subscription_that_stops_gives_no_more_deliveries():
    async with reading(Mode.HANDLE) as it:
        await it.merged.stop()
        assert await it.merged.take(10) == []


async def test_a_partition_that_is_given_up_forwards_what_it_has():
    async with reading(Mode.FORWARD) as it:
        (source,) = it.sources
        source.outcomes = [Outcome.ACKED, *[Outcome.NACKED] * 20]
        source.put(*(a_message(str(number)) for number in range(5)))
        await eventually(lambda: not len(source.buffer))
        it.closing.set()
        await eventually(lambda: source.acked == [1, 2, 3, 4, 5])


async def test_a_partition_that_is_given_up_while_it_waits_is_left_at_once():
    async with reading(Mode.WAIT) as it:
        (source,) = it.sources
        source.put(a_message("first"))
        await eventually(lambda: not len(source.buffer))
        it.closing.set()
        async with asyncio.timeout(5):
            await asyncio.wait(it.tasks)
        assert source.acked == []


async def test_a_partition_that_comes_back_is_read_though_its_older_reader_still_ends():
    async with reading(Mode.FORWARD) as it:
        (older,), (part,), closing = it.sources, it.parts, asyncio.Event()
        older.outcomes = [Outcome.NACKED]
        older.put(a_message("late"))
        await eventually(lambda: older.copies)
        it.closing.set()
        waits = Assigned(part.generation, part.number, part.queue, Mode.WAIT)
        again = Source()
        reader = asyncio.create_task(it.merged.read(waits, again, closing))
        await asyncio.sleep(0)
        older.outcomes = [Outcome.ACKED]
        await asyncio.wait(it.tasks)

        it.merged.change(Assigned(part.generation, part.number, part.queue, Mode.HANDLE))
        again.put(a_message("first"))
        async with asyncio.timeout(5):
            (first,) = await it.merged.take(10)
        assert first.message.message_id == "first"

        closing.set()
        await reader
