"""
The relay's two loops and its wake signal, on a real database, with a broker that takes its time.

Poll intervals are long here: a loop that sleeps although there is work misses the deadline by far.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

import outbox
from outbox.backoff import Exponential
from outbox.database.engine import create_engine
from outbox.errors import BrokerUnavailable
from outbox.runtime.probes import Health
from outbox.transports.base import Outcome
from outbox.wire.codec import WireMessage
from relay.batch_size import BatchSize
from relay.ordering_key_hash import OrderingKeyHasher
from relay.poll_interval import PollInterval
from relay.relay import Relay
from relay.storage.postgres import PostgresStore
from relay.storage.postgres_notify import PostgresWakeup
from relay.telemetry import Telemetry
from relay.wakeup import WakeSignal
from tests.support.builders import an_event
from tests.support.eventually import eventually

LONGEST = timedelta(seconds=60)
LARGE = {"content_type": "application/octet-stream", "payload": b"x" * 1_000}


class SlowBroker:
    """A publisher that confirms while `going` is set."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.under_way = 0
        self.fails = False
        self.failures = 0
        self.going = asyncio.Event()
        self.going.set()

    async def ready(self) -> None:
        if self.fails:
            self.failures += 1
            raise BrokerUnavailable("unreachable")

    async def publish(
        self, messages: Sequence[WireMessage], *, within: timedelta
    ) -> list[Outcome]:
        del within
        self.under_way += 1
        await self.going.wait()
        self.under_way -= 1
        if self.fails:
            self.failures += 1
            return [Outcome.UNKNOWN] * len(messages)
        self.sent += [message.type or "" for message in messages]
        return [Outcome.ACKED] * len(messages)


@pytest.fixture
async def engine(postgres_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(make_url(postgres_url), pool_size=20, application_name="test")
    yield engine
    await engine.dispose()


@asynccontextmanager
async def at_work(
    engine: AsyncEngine,
    broker: SlowBroker,
    *,
    rows: int = 500,
    size: int = 1_000_000,
    longest: timedelta = LONGEST,
) -> AsyncIterator[PostgresWakeup]:
    """Run a relay until the block ends; it is idle when the block begins."""
    wake_signal, stop = WakeSignal(), asyncio.Event()
    wakeup = PostgresWakeup(engine, notify=wake_signal.notify)
    relay = Relay(
        store=PostgresStore(engine, publish_timeout=timedelta(seconds=10)),
        publisher=broker,
        wakeup=wakeup,
        wake_signal=wake_signal,
        exchange="x",
        key_hasher=OrderingKeyHasher(b"secret"),
        batch_size=BatchSize(rows, size, timeout=timedelta(seconds=10)),
        policy=Exponential(),
        poll_interval=PollInterval(min(timedelta(milliseconds=20), longest), longest),
        reconnect=Exponential(first=timedelta(milliseconds=50), cap=timedelta(seconds=1)),
        telemetry=Telemetry(CollectorRegistry(), exchange="x"),
        health=Health("servers"),
        jitter=lambda: 0.5,
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(relay.run(stop))
        await eventually(lambda: wakeup.armed)
        # One event through, so that both loops are idle.
        await add(engine, an_event(type="first"))
        await eventually(lambda: broker.sent == ["first"])
        broker.sent.clear()
        yield wakeup
        broker.going.set()
        stop.set()


async def add(engine: AsyncEngine, *events: outbox.Event) -> None:
    async with engine.begin() as connection:
        await connection.execute(outbox.insert(*events))


async def sends(broker: SlowBroker, count: int) -> None:
    await eventually(lambda: len(broker.sent) >= count, within=15)


async def test_the_next_event_of_a_key_follows_though_it_came_while_the_first_was_held(engine):
    broker = SlowBroker()
    async with at_work(engine, broker):
        broker.going.clear()
        await add(engine, an_event(type="k.1", ordering_key="k"))
        await eventually(lambda: broker.under_way)
        await add(engine, an_event(type="k.2", ordering_key="k"))
        # The other loop cannot claim it, and has ended its claim when this one is published.
        await add(engine, an_event(type="other"))
        await eventually(lambda: broker.under_way == 2)
        broker.going.set()

        await sends(broker, 3)
    assert broker.sent.index("k.1") < broker.sent.index("k.2")


async def test_many_events_of_one_key_follow_each_other(engine):
    broker = SlowBroker()
    async with at_work(engine, broker):
        await add(engine, *(an_event(type=f"k.{n}", ordering_key="k") for n in range(40)))

        await sends(broker, 40)
    assert broker.sent == [f"k.{n}" for n in range(40)]


async def test_a_burst_that_ends_listening_leaves_no_loop_asleep(engine):
    broker = SlowBroker()
    async with at_work(engine, broker) as wakeup:
        await add(engine, *(an_event() for _ in range(100)))
        await sends(broker, 100)
        await add(engine, an_event())
        await sends(broker, 101)
        await eventually(lambda: wakeup.armed)


async def test_events_of_transactions_that_commit_late_follow_among_others(engine):
    """Their ids are below those of events that were claimed before."""
    broker, rounds = SlowBroker(), 10
    async with at_work(engine, broker):
        for number in range(1, rounds + 1):
            async with engine.connect() as late:
                await late.execute(outbox.insert(an_event(type="late")))
                await add(engine, an_event(type="before"))
                await sends(broker, 3 * number - 2)
                await asyncio.gather(late.commit(), add(engine, an_event(type="beside")))
            await sends(broker, 3 * number)


async def test_waves_that_were_skipped_follow(engine):
    broker = SlowBroker()
    async with at_work(engine, broker):
        crowd = [an_event() for _ in range(20)]
        await add(engine, *crowd, *(an_event(ordering_key="k") for _ in range(5)))

        await sends(broker, 25)


async def test_rows_that_did_not_fit_follow(engine):
    broker = SlowBroker()
    async with at_work(engine, broker, size=1_500):
        broker.going.clear()
        await add(engine, *(an_event(**LARGE) for _ in range(7)))
        # The first has locked all of them, and takes two.
        await eventually(lambda: broker.under_way)
        broker.going.set()

        await sends(broker, 7)


async def test_the_next_batch_is_published_while_one_waits_for_its_confirms(engine):
    broker = SlowBroker()
    async with at_work(engine, broker, rows=10):
        broker.going.clear()
        await add(engine, *(an_event() for _ in range(100)))
        await eventually(lambda: broker.under_way == 2)
        broker.going.set()

        await sends(broker, 100)


async def test_after_an_outage_no_loop_sleeps(engine):
    broker = SlowBroker()
    async with at_work(engine, broker):
        broker.fails = True
        await add(engine, *(an_event() for _ in range(10)))
        await add(engine, an_event(ordering_key="k"))
        await eventually(lambda: broker.failures >= 2)
        broker.fails = False

        await sends(broker, 11)
        broker.sent.clear()
        await add(engine, an_event())
        await sends(broker, 1)
