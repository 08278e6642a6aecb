"""
What the embedded broker costs: commits, and those of them that wait for the disk. Counted.
"""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from outbox.transports.base import Outcome
from outbox.transports.delivery import Delivery
from outbox.transports.sqlite import consumers, schema
from outbox.transports.sqlite.connection import SqliteConnection
from outbox.transports.sqlite.subscription import Intervals
from outbox.transports.sqlite.transport import SqliteTransport
from outbox.transports.topology import Queue, Topology
from outbox.wire.codec import WireMessage

SOON = timedelta(seconds=10)
QUEUE = "work"
AT_ONCE = 100


class Commits:
    """Counts the transactions of all connections that `prepare` opens."""

    def __init__(self) -> None:
        self.all = 0
        self.durable = 0
        self._prepare = schema.prepare

    def prepare(self, connection: sqlite3.Connection) -> None:
        """Stands in for `schema.prepare`."""
        self._prepare(connection)
        is_durable = True

        def trace(statement: str) -> None:
            nonlocal is_durable
            if statement.startswith("PRAGMA synchronous"):
                is_durable = statement.endswith("FULL")
            if statement == "COMMIT":
                self.all += 1
                self.durable += is_durable

        connection.set_trace_callback(trace)

    async def of(self, work: Callable[[], Awaitable[object]]) -> tuple[int, int]:
        """All commits and the durable ones during *work*."""
        before = (self.all, self.durable)
        await work()
        return self.all - before[0], self.durable - before[1]


@pytest.fixture
def commits(monkeypatch) -> Commits:
    commits = Commits()
    monkeypatch.setattr(schema, "prepare", commits.prepare)
    return commits


@pytest.fixture
async def broker(tmp_path: Path, commits) -> SqliteTransport:
    broker = SqliteTransport(tmp_path / "broker.db", poll=timedelta(milliseconds=10))
    await broker.declare(Topology(queues=[Queue(QUEUE)]))
    return broker


def messages(count: int) -> list[WireMessage]:
    return [
        WireMessage(exchange="", routing_key=QUEUE, message_id=f"{n}", body=b"{}")
        for n in range(count)
    ]


async def publish(broker: SqliteTransport, count: int) -> None:
    async with broker.publisher() as publisher:
        assert await publisher.publish(messages(count), within=SOON) == [Outcome.ACKED] * count


async def test_a_batch_waits_for_the_disk_once_before_it_is_confirmed(broker, commits):
    assert await commits.of(partial(publish, broker, AT_ONCE)) == (1, 1)


async def test_deliveries_and_acks_do_not_wait_for_the_disk(broker, commits):
    await publish(broker, 10 * AT_ONCE)
    async with broker.subscribe(QUEUE, prefetch=AT_ONCE) as subscription:

        async def consume() -> None:
            left = 10 * AT_ONCE
            while left:
                deliveries = await subscription.take(AT_ONCE)
                await subscription.ack(*deliveries)
                left -= len(deliveries)

        transactions, durable = await commits.of(consume)

    assert transactions <= 10 * len(["claim", "ack"]) + 1
    assert durable == 0


async def test_messages_that_are_acked_one_by_one_are_claimed_in_ranges(tmp_path, commits):
    broker = SqliteTransport(tmp_path / "broker.db", poll=SOON)
    await broker.declare(Topology(queues=[Queue(QUEUE)]))
    await publish(broker, 2 * AT_ONCE)
    async with broker.subscribe(QUEUE, prefetch=AT_ONCE) as subscription:

        async def consume() -> None:
            left: list[Delivery] = []
            for _ in range(2 * AT_ONCE):
                left = left or await subscription.take(AT_ONCE)
                await subscription.ack(left.pop())

        transactions, _ = await commits.of(consume)

    claims = transactions - 2 * AT_ONCE
    assert claims <= 2 + 4


async def test_a_retry_waits_for_the_disk(broker, commits):
    await publish(broker, 1)
    async with broker.subscribe(QUEUE, prefetch=1) as subscription:
        [delivery] = await subscription.take(1)
        [copy] = messages(1)

        _, durable = await commits.of(partial(subscription.replace, delivery, copy))

    assert durable == 1


async def test_a_durable_operation_makes_the_whole_transaction_durable(tmp_path, commits):
    connection = SqliteConnection(tmp_path / "file.db", prepare=schema.prepare)
    await connection.write(lambda _db, _now: None, durable=False)

    async def both() -> None:
        await asyncio.gather(
            *(connection.write(lambda _db, _now: None, durable=each) for each in (False,) * 3),
            connection.write(lambda _db, _now: None),
        )

    transactions, durable = await commits.of(both)
    await connection.close()

    assert durable == 1
    assert transactions <= 2


async def test_messages_of_a_lost_consumer_come_back_while_others_keep_coming(broker, tmp_path):
    await publish(broker, 1)
    stranger = SqliteConnection(tmp_path / "broker.db", prepare=schema.prepare)
    owner = await stranger.write(partial(consumers.join, queue=QUEUE, lease=60_000))
    await stranger.write(
        lambda db, _now: db.execute("UPDATE messages SET owner = ?", (owner,)).rowcount
    )
    await publish(broker, 20)
    async with broker.subscribe(QUEUE, prefetch=1) as subscription:
        [first] = await subscription.take(1)
        assert not first.redelivered

        await stranger.write(partial(consumers.extend, owner=owner, lease=-1))
        await stranger.close()
        await subscription.ack(first)
        taken = []
        while not any(each.redelivered for each in taken):
            [delivery] = await subscription.take(1)
            taken.append(delivery)
            await subscription.ack(delivery)

        assert len(taken) < 5


def test_a_subscription_polls_more_slowly_the_longer_nothing_comes():
    intervals = Intervals(lease=SOON, poll=timedelta(milliseconds=50))
    pauses = [intervals.pause(timedelta(0))]
    for _ in range(2):
        pauses.append(intervals.pause(pauses[-1]))

    assert [each / timedelta(milliseconds=1) for each in pauses] == [25, 50, 50]


async def test_messages_gather_before_the_next_claim_of_an_empty_queue(tmp_path, commits):
    broker = SqliteTransport(tmp_path / "broker.db", poll=SOON)
    await broker.declare(Topology(queues=[Queue(QUEUE)]))
    await publish(broker, 3)

    async def consume_all() -> None:
        async with broker.subscribe(QUEUE, prefetch=AT_ONCE) as subscription:
            await subscription.ack(*await subscription.take(AT_ONCE))

    transactions, _ = await commits.of(consume_all)

    assert transactions == len(["join", "claim", "ack", "leave"])
