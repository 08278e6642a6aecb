"""
Observers on real brokers: copies that take nothing from a consumer, and hide no lost event.
"""

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from yarl import URL

from consumer.queues import ConsumerQueues
from outbox.errors import BrokerUnavailable, TopologyMismatch
from outbox.transports.base import Outcome, QueueDepth, Transport
from outbox.transports.observation import MOST_COPIES, Copy, Observation
from outbox.transports.rabbitmq.transport import RabbitMQTransport
from outbox.transports.sqlite.transport import SqliteTransport
from outbox.transports.topology import Binding
from outbox.wire.codec import WireMessage
from tests.support.eventually import eventually

EVENTS, DEAD_LETTERS, NAME = "events", "dead-letters", "work.watch.1"
SOON = timedelta(seconds=10)
WORK = ConsumerQueues("work", bindings=["health.#"], delays=[timedelta(seconds=1)])
TOPOLOGY = WORK.topology(main_exchange=EVENTS, dlx_exchange=DEAD_LETTERS)
SHORT = timedelta(milliseconds=200)


@pytest.fixture(params=["sqlite", "rabbitmq"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Transport:
    if request.param == "rabbitmq":
        return a_rabbitmq(request.getfixturevalue("traced_rabbitmq_url"))
    poll = timedelta(milliseconds=10)
    return SqliteTransport(tmp_path / "broker.db", poll=poll, lease=timedelta(seconds=1))


@pytest.fixture
async def transport(broker: Transport) -> Transport:
    """A broker with a work queue, and with its tracer on if it is RabbitMQ."""
    await broker.declare(TOPOLOGY)
    return broker


def a_rabbitmq(url: str) -> RabbitMQTransport:
    return RabbitMQTransport([URL(url)], heartbeat_seconds=5, name="test")


def a_message(routing_key: str = "health.uploaded", **changes) -> WireMessage:
    values = {"exchange": EVENTS, "message_id": str(uuid4()), "type": routing_key, "body": b"{}"}
    return WireMessage(routing_key=routing_key, **{**values, **changes})


def chosen(*patterns: str, exchange: str = EVENTS) -> list[Binding]:
    return [Binding(exchange, NAME, pattern) for pattern in patterns]


async def publish(transport: Transport, *messages: WireMessage) -> list[Outcome]:
    async with transport.publisher() as publisher:
        await publisher.ready()
        return await publisher.publish(messages, within=SOON)


async def copies(observation: Observation, count: int) -> list[Copy]:
    found: list[Copy] = []
    async with asyncio.timeout(SOON.total_seconds()):
        while len(found) < count:
            found += await observation.take(count - len(found))
    return found


async def test_an_observer_gets_a_copy_and_the_consumer_its_message(transport):
    message = a_message(
        correlation_id="upload 7",
        timestamp=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        content_type="application/json",
        priority=9,
        headers={"x-outbox-lane": "0" * 32, "schema-version": 3, "flag": True},
        body=b'{"mmol": 5.1}',
    )

    async with transport.observe(chosen("health.#"), name=NAME, bodies=True) as observation:
        assert await publish(transport, message) == [Outcome.ACKED]
        [copy] = await copies(observation, 1)

    assert copy == Copy(message, size=13, queues=["work"])
    async with transport.subscribe("work", prefetch=1) as subscription:
        [delivery] = await subscription.take(1)
        assert delivery.message.body == message.body
        assert not delivery.redelivered
        await subscription.ack(delivery)


async def test_an_event_that_only_an_observer_would_get_is_unroutable(transport):
    """Otherwise the relay would take it for sent, and delete its row."""
    async with transport.observe(chosen("#"), name=NAME) as observation:
        outcomes = await publish(transport, a_message("payment.made"), a_message())
        found = await copies(observation, 2)

    assert outcomes == [Outcome.RETURNED, Outcome.ACKED]
    assert [copy.queues for copy in found] == [[], ["work"]]


async def test_copies_are_chosen_by_pattern_and_exchange_and_keep_their_order(transport):
    keys = [f"health.{word}.{number}" for number in range(20) for word in ("heart", "sleep")]
    async with transport.observe(chosen("health.sleep.*", "*.heart.7"), name=NAME) as observation:
        await publish(transport, a_message(exchange="", routing_key="work"))
        await publish(transport, *[a_message(key) for key in keys])
        found = await copies(observation, 21)

    wanted = [key for key in keys if "sleep" in key or key == "health.heart.7"]
    assert [copy.message.routing_key for copy in found] == wanted


async def test_the_default_exchange_shows_what_goes_straight_to_a_queue(transport):
    """A retry and a replay do."""
    async with transport.observe(chosen("work", exchange=""), name=NAME) as observation:
        await publish(transport, a_message(), a_message(exchange="", routing_key="work"))
        [copy] = await copies(observation, 1)

    assert (copy.message.exchange, copy.message.routing_key) == ("", "work")


async def test_a_body_is_copied_only_if_it_was_asked_for(transport):
    async with transport.observe(chosen("#"), name=NAME) as observation:
        await publish(transport, a_message(body=b"private"))
        [copy] = await copies(observation, 1)

    assert (copy.message.body, copy.size) == (b"", 7)


async def test_two_observers_get_a_copy_each(transport):
    other = [replace(each, queue="work.watch.2") for each in chosen("#")]
    async with (
        transport.observe(chosen("#"), name=NAME) as first,
        transport.observe(other, name="work.watch.2") as second,
    ):
        await publish(transport, a_message())
        assert await copies(first, 1) == await copies(second, 1)

    assert await transport.depth("work") == QueueDepth(1, 0)


async def test_a_slow_observer_loses_its_oldest_copies_and_says_how_many(transport):
    messages = [a_message(f"health.{number}") for number in range(MOST_COPIES + 50)]
    async with transport.observe(chosen("#"), name=NAME) as observation:
        assert set(await publish(transport, *messages)) == {Outcome.ACKED}

        async def has_dropped() -> bool:
            return observation.missed == 50

        await eventually(has_dropped, message="the observer has lost no copy")
        found = await copies(observation, MOST_COPIES)

    assert [copy.message.routing_key for copy in found] == [
        message.routing_key for message in messages[50:]
    ]


async def test_an_observer_of_an_exchange_that_does_not_exist_is_refused(transport):
    with pytest.raises(TopologyMismatch, match="exchange missing does not exist"):
        async with transport.observe(chosen("#", exchange="missing"), name=NAME):
            pass


async def test_headers_that_no_client_can_read_end_no_observer(transport):
    hostile = a_message(headers={"x-outbox-lane": 7, "x-outbox-attempt": "many", "ü": "\x00" * 9})
    async with transport.observe(chosen("#"), name=NAME) as observation:
        await publish(transport, hostile, a_message())
        found = await copies(observation, 2)

    assert found[0].message.headers == hostile.headers


async def test_nothing_is_left_of_an_observer_whose_lease_has_expired(tmp_path):
    """As after a kill: another process goes on, and the copies hold health data."""
    file = tmp_path / "broker.db"
    transport = SqliteTransport(file, lease=SHORT)
    await transport.declare(TOPOLOGY)
    with closing(sqlite3.connect(file)) as db, db:
        db.execute("INSERT INTO observers (lease_until, bindings, bodies) VALUES (1, '[]', 1)")
        db.execute(
            "INSERT INTO observed (observer, queues, exchange, routing_key, properties, size,"
            " body) VALUES (1, '[]', '', '', '{}', 7, 'private')"
        )

    async with transport.subscribe("work", prefetch=1):

        async def is_gone() -> bool:
            with closing(sqlite3.connect(file)) as db:
                return [
                    db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
                    for table in ("observers", "observed")
                ] == [0, 0]

        await eventually(is_gone, message="the observer is left")


async def test_an_observer_that_lost_its_lease_ends(tmp_path):
    file = tmp_path / "broker.db"
    transport = SqliteTransport(file, lease=SHORT)
    await transport.declare(TOPOLOGY)

    async with transport.observe(chosen("#"), name=NAME) as observation:
        with closing(sqlite3.connect(file)) as db, db:
            db.execute("DELETE FROM observers")
        with pytest.raises(BrokerUnavailable, match="lease"):
            await copies(observation, 1)


async def test_a_file_of_an_earlier_version_gets_the_tables_of_observers(tmp_path):
    file = tmp_path / "broker.db"
    await SqliteTransport(file).declare(TOPOLOGY)
    with closing(sqlite3.connect(file)) as db, db:
        db.execute("DROP TABLE observers")
        db.execute("DROP TABLE observed")

    assert await publish(SqliteTransport(file), a_message()) == [Outcome.ACKED]
    async with SqliteTransport(file).observe(chosen("#"), name=NAME) as observation:
        await publish(SqliteTransport(file), a_message())
        assert len(await copies(observation, 1)) == 1
