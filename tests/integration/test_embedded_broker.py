"""
The broker in a SQLite file: dying processes, leases, and the file itself.
"""

import asyncio
import fcntl
import sqlite3
import stat
import sys
import textwrap
import threading
import time
from contextlib import AsyncExitStack, closing, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from consumer.message_copies import retry_copy
from consumer.queues import ConsumerQueues
from outbox.errors import BrokerUnavailable, SchemaMismatch
from outbox.transports.base import Outcome, QueueDepth, Subscription
from outbox.transports.delivery import Delivery
from outbox.transports.sqlite import schema as sqlite_schema
from outbox.transports.sqlite.connection import SqliteConnection
from outbox.transports.sqlite.transport import SqliteTransport
from outbox.wire.codec import WireMessage
from tests.support.eventually import eventually
from tests.support.processes import ChildProcess

LEASE = timedelta(milliseconds=300)
POLL = timedelta(milliseconds=10)
SOON = timedelta(seconds=10)
DELAY = timedelta(milliseconds=200)
LONG_LEASE = timedelta(seconds=1)
LONGER_THAN_THAT = timedelta(milliseconds=1500)
WORK = ConsumerQueues(
    "work", bindings=["health.#"], delays=[DELAY, LONGER_THAN_THAT], delivery_limit=2
)
CHILD = """
import asyncio, os, sys, threading
from datetime import timedelta
from pathlib import Path
from outbox.errors import BrokerUnavailable
from outbox.transports.sqlite.transport import SqliteTransport

path, lease, poll = Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
transport = SqliteTransport(path, lease=timedelta(seconds=lease), poll=timedelta(seconds=poll))

def say(line):
    os.write(1, (line + "\\n").encode())
"""
HOLD_ONE = """
async def main():
    async with transport.subscribe("work", prefetch=1) as subscription:
        [delivery] = await subscription.take(1)
        say("received")
        try:
            await subscription.take(1)
        except BrokerUnavailable:
            say("lost")
        try:
            await subscription.ack(delivery)
        except BrokerUnavailable:
            say("ack refused")

asyncio.run(main())
"""
CONSUME_IN_TWO_THREADS = """
async def work(subscription):
    while deliveries := await subscription.take(3):
        await subscription.ack(*deliveries)
        for delivery in deliveries:
            say("acked " + delivery.message.message_id)

async def main():
    async with transport.subscribe("work", prefetch=7) as subscription:
        await asyncio.gather(work(subscription), work(subscription), work(subscription))

threads = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "broker.db"


@pytest.fixture
async def broker(path: Path) -> SqliteTransport:
    """Offer a broker with the queues of one consumer."""
    broker = SqliteTransport(path, poll=POLL)
    await broker.declare(topology_of(WORK))
    return broker


def topology_of(queues: ConsumerQueues):
    return queues.topology(main_exchange="events", dlx_exchange="dead-letters")


def child(path: Path, script: str, *, log: Path, lease: timedelta = LEASE) -> ChildProcess:
    program = textwrap.dedent(CHILD + script)
    seconds = [str(each.total_seconds()) for each in (lease, POLL)]
    return ChildProcess([sys.executable, "-c", program, str(path), *seconds], log=log)


def a_message(body: bytes = b"{}", **changes) -> WireMessage:
    values = {"exchange": "events", "routing_key": "health.a", "message_id": str(uuid4())}
    return WireMessage(body=body, **{**values, **changes})


async def publish(broker: SqliteTransport, *messages: WireMessage) -> list[Outcome]:
    async with broker.publisher() as publisher:
        return await publisher.publish(messages, within=SOON)


async def receive(subscription: Subscription) -> Delivery:
    async with asyncio.timeout(SOON.total_seconds()):
        [delivery] = await subscription.take(1)
    return delivery


async def retry(subscription: Subscription, delivery: Delivery, delay: timedelta) -> Outcome:
    copy = retry_copy(delivery.message, queue=WORK.retry(delay), attempt=1)
    return await subscription.replace(delivery, copy)


async def test_messages_of_a_killed_process_are_redelivered_after_its_lease(
    broker, path, tmp_path
):
    await publish(broker, a_message(b"survives"))
    async with child(path, HOLD_ONE, log=tmp_path / "log") as victim:
        await victim.wait_for_line("received")
        victim.kill()

    async with broker.subscribe(WORK.name, prefetch=1) as subscription:
        delivery = await receive(subscription)

    assert delivery.message.body == b"survives"
    assert delivery.message.headers["x-delivery-count"] == 1
    assert delivery.redelivered


async def test_a_living_process_keeps_its_lease(broker, path, tmp_path):
    await publish(broker, a_message(b"held"))
    async with child(path, HOLD_ONE, log=tmp_path / "log", lease=LONG_LEASE) as holder:
        await holder.wait_for_line("received")
        await publish(broker, a_message(b"comes back"))

        async with broker.subscribe(WORK.name, prefetch=2) as subscription:
            first = await receive(subscription)
            await retry(subscription, first, LONGER_THAN_THAT)
            second = await receive(subscription)

        assert [each.message.body for each in (first, second)] == [b"comes back"] * 2
        assert holder.running


async def test_a_process_that_wakes_after_its_lease_cannot_settle(broker, path, tmp_path):
    await publish(broker, a_message(b"fenced"))
    async with child(path, HOLD_ONE, log=tmp_path / "log") as sleeper:
        await sleeper.wait_for_line("received")
        sleeper.freeze()
        async with broker.subscribe(WORK.name, prefetch=1) as subscription:
            delivery = await receive(subscription)

            sleeper.thaw()

            await sleeper.wait_for_line("ack refused")
            assert "lost" in sleeper.output
            await subscription.ack(delivery)
    assert await broker.depth("work") == QueueDepth(messages=0, consumers=0)


async def test_many_processes_and_threads_lose_nothing_and_double_nothing(broker, path, tmp_path):
    messages = [a_message() for _ in range(600)]
    async with AsyncExitStack() as stack:
        children = [
            await stack.enter_async_context(
                child(path, CONSUME_IN_TWO_THREADS, log=tmp_path / f"log{number}", lease=SOON)
            )
            for number in range(4)
        ]

        async def all_are_there() -> bool:
            depth = await broker.depth("work")
            return depth is not None and depth.consumers == 8

        await eventually(all_are_there)
        for start in range(0, len(messages), 50):
            await publish(broker, *messages[start : start + 50])

        def acked() -> list[str]:
            lines = [line for each in children for line in each.output.splitlines()]
            return [line.removeprefix("acked ") for line in lines]

        await eventually(lambda: len(acked()) >= len(messages), within=20)
        depth = await broker.depth("work")

        assert depth is not None
        assert depth.messages == 0
        assert sorted(acked()) == sorted(str(each.message_id) for each in messages)


async def test_a_message_beyond_the_delivery_limit_goes_to_the_dead_queue(broker):
    await publish(broker, a_message(b"poison", headers={"source": "phone"}))

    for _ in range(WORK.delivery_limit + 1):
        async with broker.subscribe(WORK.name, prefetch=1) as subscription:
            await receive(subscription)

    assert await broker.depth("work") == QueueDepth(0, 0)
    dead = replace(WORK, name=WORK.dead)
    async with broker.subscribe(dead.name, prefetch=1) as subscription:
        message = (await receive(subscription)).message
    assert message.body == b"poison"
    assert (message.exchange, message.routing_key) == ("dead-letters", "work")
    assert message.headers["source"] == "phone"
    assert message.headers["x-first-death-reason"] == "delivery_limit"


async def test_releasing_a_message_is_no_failed_delivery(broker):
    await publish(broker, a_message(b"patient"))

    async with broker.subscribe(WORK.name, prefetch=1) as subscription:
        for _ in range(WORK.delivery_limit + 2):
            await subscription.release(await receive(subscription))
        delivery = await receive(subscription)

    assert "x-delivery-count" not in delivery.message.headers


async def test_prefetched_messages_that_no_handler_tried_have_not_failed(broker):
    await publish(broker, a_message(b"tried"), a_message(b"prefetched"))
    for _ in range(WORK.delivery_limit + 1):
        async with broker.subscribe(WORK.name, prefetch=2) as subscription:
            await receive(subscription)

    async with broker.subscribe(WORK.name, prefetch=2) as subscription:
        delivery = await receive(subscription)

    assert delivery.message.body == b"prefetched"
    assert "x-delivery-count" not in delivery.message.headers


async def test_a_message_that_is_not_taken_in_time_goes_to_the_dead_queue(path):
    broker = SqliteTransport(path, poll=POLL)
    hasty = replace(WORK, name="hasty", message_ttl=timedelta(milliseconds=100))
    await broker.declare(topology_of(hasty))
    async with broker.subscribe(hasty.name, prefetch=1) as busy:
        await publish(broker, a_message(b"taken"), a_message(b"too late"))
        taken = await receive(busy)

        async with broker.subscribe(hasty.dead, prefetch=1) as subscription:
            dead = await receive(subscription)

        assert (taken.message.body, dead.message.body) == (b"taken", b"too late")
        assert dead.message.headers["x-first-death-reason"] == "expired"


async def test_higher_priorities_come_first_and_equal_ones_in_order(broker):
    priorities = [(b"a", 4), (b"b", 0), (b"c", 9), (b"d", None), (b"e", 9)]
    await publish(broker, *(a_message(body, priority=rank) for body, rank in priorities))

    async with broker.subscribe(WORK.name, prefetch=2) as subscription:
        bodies = []
        for _ in priorities:
            delivery = await receive(subscription)
            bodies.append(delivery.message.body)
            await subscription.ack(delivery)

    assert bodies == [b"c", b"e", b"a", b"d", b"b"]


async def test_a_locked_file_makes_a_publish_unknown_in_time_and_never_half_done(broker, path):
    with closing(sqlite3.connect(path, isolation_level=None)) as stranger:
        stranger.execute("BEGIN IMMEDIATE")
        async with broker.publisher() as publisher:
            started = time.monotonic()
            outcomes = await publisher.publish(
                [a_message(), a_message()], within=timedelta(milliseconds=100)
            )
            waited = time.monotonic() - started
            stranger.execute("ROLLBACK")

            assert outcomes == [Outcome.UNKNOWN, Outcome.UNKNOWN]
            assert waited < 2
            assert await publisher.publish([a_message()], within=SOON) == [Outcome.ACKED]
    assert await broker.depth("work") in [QueueDepth(1, 0), QueueDepth(3, 0)]


async def test_a_cancelled_publish_stores_the_whole_batch_or_nothing(broker, path):
    with closing(sqlite3.connect(path, isolation_level=None)) as stranger:
        stranger.execute("BEGIN IMMEDIATE")
        async with broker.publisher() as publisher:
            batch = [a_message() for _ in range(50)]
            publishing = asyncio.create_task(publisher.publish(batch, within=SOON))
            await publisher_has_begun(path)
            publishing.cancel()
            with suppress(asyncio.CancelledError):
                await publishing
            stranger.execute("ROLLBACK")
            assert await publisher.publish([a_message()], within=SOON) == [Outcome.ACKED]
    assert await broker.depth("work") in [QueueDepth(1, 0), QueueDepth(51, 0)]


async def publisher_has_begun(path: Path) -> None:
    def taken() -> bool:
        return is_locked(path.with_name(path.name + "-lock"))

    await eventually(taken)


def is_locked(lock: Path) -> bool:
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


async def test_a_file_that_was_replaced_is_noticed_before_anything_is_confirmed(broker, path):
    async with broker.publisher() as publisher:
        await publisher.ready()
        for file in path.parent.glob("broker.db*"):
            file.unlink()
        await broker.declare(topology_of(WORK))

        assert await publisher.publish([a_message()], within=SOON) == [Outcome.UNKNOWN]
        assert await publisher.publish([a_message()], within=SOON) == [Outcome.ACKED]
    assert await broker.depth("work") == QueueDepth(messages=1, consumers=0)


async def test_a_subscription_notices_that_its_file_is_gone(broker, path):
    async with broker.subscribe(WORK.name, prefetch=1) as subscription:
        path.unlink()

        with pytest.raises(BrokerUnavailable):
            await receive(subscription)


async def test_a_missing_directory_makes_the_broker_unavailable(tmp_path):
    broker = SqliteTransport(tmp_path / "nowhere" / "broker.db")

    async with broker.publisher() as publisher:
        with pytest.raises(BrokerUnavailable, match="MQ_BROKER_URL: the folder"):
            await publisher.ready()
        assert await publisher.publish([a_message()], within=SOON) == [Outcome.UNKNOWN]


@pytest.mark.parametrize("content", ["a table", "a text"])
async def test_a_file_of_something_else_is_refused_and_left_alone(path, content):
    if content == "a table":
        with closing(sqlite3.connect(path)) as stranger:
            stranger.execute("CREATE TABLE outbox (id)")
    else:
        path.write_text("no database at all " * 100)
    before = path.read_bytes()

    with pytest.raises(SchemaMismatch):
        await SqliteTransport(path).verify(topology_of(WORK))

    assert path.read_bytes() == before


async def test_only_the_owner_can_read_the_file(broker, path):
    async with broker.publisher() as publisher:
        await publisher.ready()
        modes = {stat.S_IMODE(each.stat().st_mode) for each in path.parent.glob("broker.db*")}

    assert modes == {0o600}


async def test_operations_that_wait_at_the_same_time_share_a_transaction(path):
    transactions: list[int] = []

    def clock() -> int:
        transactions.append(len(transactions))
        return 0

    connection = SqliteConnection(path, prepare=sqlite_schema.prepare, clock=clock)
    all_wait = threading.Event()
    first = asyncio.create_task(connection.write(lambda _db, _now: all_wait.wait(10)))
    await eventually(lambda: transactions)
    others = asyncio.gather(
        *(connection.write(lambda _db, _now, number=number: number) for number in range(20))
    )
    # After the first steps of the others, which are due before it.
    asyncio.get_running_loop().call_soon(all_wait.set)

    assert await first
    assert await others == list(range(20))
    await connection.close()
    assert len(transactions) == 2
