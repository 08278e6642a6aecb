"""
RabbitMQ's publisher beyond the contract of all transports, with both of its methods.

The batch method uses internals of aiormq; these tests fail if a new version changes them.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any
from unittest.mock import AsyncMock
from uuid import uuid4

import aio_pika
import aiormq
import pytest
from aiormq.abc import ChannelFrame
from pamqp.commands import Basic
from structlog.testing import capture_logs
from yarl import URL

from outbox.errors import BrokerUnavailable
from outbox.transports.base import Outcome
from outbox.transports.delivery import Delivery
from outbox.transports.rabbitmq import confirm_channel as rabbitmq_link
from outbox.transports.rabbitmq import connection as rabbitmq_connection
from outbox.transports.rabbitmq import publish_batch as rabbitmq_batch
from outbox.transports.rabbitmq.in_flight import MAX_MESSAGES
from outbox.transports.rabbitmq.publisher import RabbitMQPublisher
from outbox.transports.rabbitmq.transport import RabbitMQTransport
from outbox.transports.topology import Binding, Exchange, Queue, Topology
from outbox.wire.codec import WireMessage
from tests.support.eventually import eventually
from tests.support.proxy import Proxy
from tests.support.servers import RabbitmqServer

EVENTS = "events"
WORK = "work"
FULL = "full"
LONG = timedelta(seconds=60)
SHORT = timedelta(milliseconds=300)
TOPOLOGY = Topology(
    [Exchange(EVENTS, "topic")],
    [
        Queue(WORK, {"x-queue-type": "quorum"}),
        Queue(FULL, {"x-max-length": 1, "x-overflow": "reject-publish"}),
    ],
    [Binding(EVENTS, WORK, "health.#")],
)


@pytest.fixture(params=["batch", "gather"])
def method(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
async def url(rabbitmq_url: str) -> str:
    await a_transport(rabbitmq_url, "gather").declare(TOPOLOGY)
    return rabbitmq_url


@pytest.fixture
async def publisher(url: str, method: str) -> AsyncIterator[RabbitMQPublisher]:
    async with a_publisher(url, method) as publisher:
        yield publisher


def a_transport(url: str, method: str, heartbeat_seconds: int = 10) -> RabbitMQTransport:
    return RabbitMQTransport(
        [URL(url)], heartbeat_seconds=heartbeat_seconds, name="test", publish_method=method
    )


@asynccontextmanager
async def a_publisher(url: str, method: str, **changes: Any) -> AsyncIterator[RabbitMQPublisher]:
    async with a_transport(url, method, **changes).publisher() as publisher:
        await publisher.ready()
        assert publisher._channels._current.method == method
        yield publisher


def a_message(**changes: Any) -> WireMessage:
    values = {
        "exchange": EVENTS,
        "routing_key": "health.uploaded",
        "body": b"{}",
        "message_id": str(uuid4()),
        "type": "health.uploaded",
    }
    return WireMessage(**{**values, **changes})


def a_stranger(**changes: Any) -> WireMessage:
    return a_message(routing_key="nobody.listens", **changes)


def some_messages(count: int) -> list[WireMessage]:
    return [a_message() for _ in range(count)]


def mixed(count: int) -> tuple[list[WireMessage], list[Outcome]]:
    """Messages of which every third is unroutable, and their expected outcomes."""
    messages = [a_message() if number % 3 else a_stranger() for number in range(count)]
    return messages, [Outcome.ACKED if n % 3 else Outcome.RETURNED for n in range(count)]


def channel_of(publisher: RabbitMQPublisher) -> Any:
    return publisher._channels._current._channel


async def until_in_flight(channel: Any, count: int) -> None:
    await eventually(lambda: len(channel.confirmations) == count)


async def test_returns_belong_to_their_messages_in_a_large_batch(publisher):
    messages, expected = mixed(700)

    assert await publisher.publish(messages, within=LONG) == expected
    assert await publisher.publish(messages[::-1], within=LONG) == expected[::-1]


async def test_a_settled_batch_leaves_nothing_in_the_channel(publisher):
    messages, expected = mixed(60)

    assert await publisher.publish(messages, within=LONG) == expected

    channel = channel_of(publisher)
    await eventually(lambda: not channel.confirmations)
    await eventually(lambda: not channel.message_id_delivery_tag)


async def test_returned_messages_without_an_id_are_noticed_too(publisher):
    messages = [a_stranger(message_id=None), a_message(message_id=None), a_stranger(message_id="")]

    assert await publisher.publish(messages, within=LONG) == [
        Outcome.RETURNED,
        Outcome.ACKED,
        Outcome.RETURNED,
    ]


async def test_nacks_of_a_full_queue_are_kept_apart_from_the_acks_of_another(publisher):
    def to(queue: str) -> WireMessage:
        return a_message(exchange="", routing_key=queue)

    assert await publisher.publish([to(FULL)], within=LONG) == [Outcome.ACKED]

    messages = [to(FULL) if number % 2 else to(WORK) for number in range(300)]
    outcomes = await publisher.publish(messages, within=LONG)

    assert outcomes == [Outcome.ACKED, Outcome.NACKED] * 150


@pytest.mark.parametrize("seconds", [0, 60])
async def test_a_channel_with_a_refused_message_is_used_for_a_while_and_then_replaced(
    publisher, monkeypatch, seconds
):
    monkeypatch.setattr(rabbitmq_link, "REFUSED_SECONDS", seconds)
    to_full = [a_message(exchange="", routing_key=FULL) for _ in range(3)]
    before = channel_of(publisher)
    assert Outcome.NACKED in await publisher.publish(to_full, within=LONG)
    assert channel_of(publisher) is before

    assert await publisher.publish(some_messages(3), within=LONG) == [Outcome.ACKED] * 3

    assert (channel_of(publisher) is before) == bool(seconds)


async def test_returned_messages_are_no_reason_for_another_channel(publisher, monkeypatch):
    monkeypatch.setattr(rabbitmq_link, "REFUSED_SECONDS", 0)
    before = channel_of(publisher)

    for _ in range(2):
        assert await publisher.publish([a_stranger()], within=LONG) == [Outcome.RETURNED]

    assert channel_of(publisher) is before


async def test_a_queue_that_stays_full_causes_fewer_and_fewer_connections(publisher, monkeypatch):
    monkeypatch.setattr(rabbitmq_link, "REFUSED_SECONDS", 0.125)
    to_full = [a_message(exchange="", routing_key=FULL) for _ in range(3)]
    kept = []

    async def is_replaced() -> bool:
        before = publisher._channels._current
        await publisher.publish(to_full, within=LONG)
        return publisher._channels._current is not before

    for _ in range(3):
        await eventually(is_replaced)
        kept.append(
            rabbitmq_link.kept_seconds(publisher._channels._current.fruitless_replacements)
        )
    assert kept == [0.25, 0.5, 1]

    monkeypatch.setattr(rabbitmq_link, "REFUSED_SECONDS", 0)  # so that no refusal counts as early
    for _ in range(2):
        await eventually(is_replaced)
    assert publisher._channels._current.fruitless_replacements == 0


def test_no_connection_is_kept_for_more_than_five_minutes_though_it_refuses():
    assert [rabbitmq_link.kept_seconds(n) for n in (0, 1, 2, 6, 10**6)] == [5, 10, 20, 300, 300]


async def test_a_node_that_is_silent_leaves_enough_time_for_the_next_one_of_the_list(
    url, monkeypatch
):
    monkeypatch.setattr(rabbitmq_connection, "CONNECT_SECONDS", 3.0)
    monkeypatch.setattr(rabbitmq_connection, "LEAST_CONNECT_SECONDS", 1.0)
    async with Proxy(url) as silent:
        await silent.drop_all()
        nodes = [URL(silent.url), URL(silent.url), URL(url)]
        transport = RabbitMQTransport(nodes, heartbeat_seconds=10, name="test")
        async with transport.publisher() as publisher:
            outcomes = await publisher.publish(some_messages(3), within=timedelta(seconds=10))

    assert outcomes == [Outcome.ACKED] * 3


async def test_one_ack_may_confirm_several_messages(url, method):
    async with Proxy(url) as proxy, a_publisher(proxy.url, method) as publisher:
        await proxy.drop_all()
        publishing = asyncio.create_task(publisher.publish(some_messages(10), within=LONG))
        channel = channel_of(publisher)
        await until_in_flight(channel, 10)

        await channel._on_confirm_frame(Basic.Ack(delivery_tag=6, multiple=True))
        await channel._on_confirm_frame(Basic.Nack(delivery_tag=7))
        await channel._on_confirm_frame(Basic.Ack(delivery_tag=10))
        await channel._on_confirm_frame(Basic.Nack(delivery_tag=9, multiple=True))

        assert await publishing == [
            *[Outcome.ACKED] * 6,
            *[Outcome.NACKED] * 3,
            Outcome.ACKED,
        ]
        await proxy.cut()  # otherwise closing would wait for a reply


async def test_a_lost_connection_makes_messages_in_flight_unknown_at_once(url, method):
    async with Proxy(url) as proxy, a_publisher(proxy.url, method) as publisher:
        await proxy.drop_all()
        messages = some_messages(200)
        publishing = asyncio.create_task(publisher.publish(messages, within=LONG))
        await until_in_flight(channel_of(publisher), 200)

        await proxy.cut()
        async with asyncio.timeout(5):
            assert await publishing == [Outcome.UNKNOWN] * 200

        await proxy.resume()
        await proxy.restore()
        assert await publisher.publish(messages, within=LONG) == [Outcome.ACKED] * 200


async def test_closing_the_publisher_makes_messages_in_flight_unknown(url, method, monkeypatch):
    monkeypatch.setattr(aiormq.Connection, "READER_CLOSE_TIMEOUT", 0.2)
    async with Proxy(url) as proxy, a_publisher(proxy.url, method) as publisher:
        await proxy.drop_all()
        publishing = asyncio.create_task(publisher.publish(some_messages(3), within=LONG))
        await until_in_flight(channel_of(publisher), 3)

        await publisher.close()

        async with asyncio.timeout(5):
            assert await publishing == [Outcome.UNKNOWN] * 3


@pytest.mark.parametrize("moment", ["connects", "opens its channel"])
async def test_a_publisher_that_is_closed_before_its_channel_is_open_sends_nothing(
    moment, url, method
):
    opening, go_on = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        opening.set()
        await go_on.wait()

    async def connect() -> Any:
        if moment == "connects":
            await wait()
        connection = await aio_pika.connect(url)
        if moment == "opens its channel":
            open_channel = connection.channel

            async def slowly(**options: Any) -> Any:
                await wait()
                return await open_channel(**options)

            connection.channel = slowly  # type: ignore[method-assign]
        made.append(connection)
        return connection

    made: list[Any] = []
    publisher = RabbitMQPublisher(connect, method=method)
    publishing = asyncio.create_task(publisher.publish([a_message()], within=LONG))
    await opening.wait()

    await publisher.close()
    go_on.set()

    assert await publishing == [Outcome.UNKNOWN]
    assert [connection.is_closed for connection in made] == [True]


async def test_nothing_is_sent_when_there_is_no_time_left(publisher):
    assert await publisher.publish([a_message()], within=timedelta(0)) == [Outcome.UNKNOWN]

    assert channel_of(publisher).delivery_tag == 0


async def test_a_batch_of_unwritable_messages_sends_nothing(publisher):
    messages = [a_message(routing_key="k" * 256) for _ in range(3)]

    assert await publisher.publish(messages, within=LONG) == [Outcome.REJECTED] * 3
    assert channel_of(publisher).delivery_tag == 0


async def test_confirms_received_before_the_connection_was_lost_count(url, method):
    async with Proxy(url) as proxy, a_publisher(proxy.url, method) as publisher:
        await proxy.drop_all()
        publishing = asyncio.create_task(publisher.publish(some_messages(3), within=LONG))
        channel = channel_of(publisher)
        await until_in_flight(channel, 3)
        await channel._on_confirm_frame(Basic.Ack(delivery_tag=2))
        await channel._on_confirm_frame(Basic.Nack(delivery_tag=1))

        await proxy.cut()

        assert await publishing == [Outcome.NACKED, Outcome.ACKED, Outcome.UNKNOWN]


async def test_other_publishes_may_use_the_same_channel(publisher):
    channel = channel_of(publisher)

    async def publish_ordinarily(routing_key: str) -> Any:
        return await channel.basic_publish(
            b"{}", exchange=EVENTS, routing_key=routing_key, mandatory=True
        )

    messages, expected = mixed(300)
    *batches, ordinary = await asyncio.gather(
        publisher.publish(messages[:150], within=LONG),
        publisher.publish(messages[150:], within=LONG),
        asyncio.gather(
            *(publish_ordinarily(key) for key in ["health.uploaded", "nobody.listens"] * 20),
            return_exceptions=True,
        ),
    )

    assert [*batches[0], *batches[1]] == expected
    assert [type(answer) for answer in ordinary] == [
        Basic.Ack,
        aiormq.exceptions.PublishError,
    ] * 20


@pytest.mark.parametrize(
    ("culprit", "outcome"),
    [
        ({"exchange": "no-such-exchange"}, Outcome.RETURNED),
        ({"exchange": "internal"}, Outcome.NACKED),
        ({"headers": {"CC": "not a list"}}, Outcome.REJECTED),
        ({"routing_key": "k" * 256}, Outcome.REJECTED),
        ({"headers": {"large": 2**63}}, Outcome.REJECTED),
    ],
)
async def test_a_culprit_gets_its_own_outcome_and_neighbours_get_through(
    url, publisher, culprit, outcome
):
    await declare_internal_exchange(url)
    messages = [*some_messages(20), a_message(**culprit), *some_messages(20), a_stranger()]

    outcomes = await publisher.publish(messages, within=LONG)

    expected = [*[Outcome.ACKED] * 20, outcome, *[Outcome.ACKED] * 20, Outcome.RETURNED]
    assert outcomes == expected
    assert await publisher.publish([a_message()], within=LONG) == [Outcome.ACKED]


async def declare_internal_exchange(url: str) -> None:
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        await channel.declare_exchange("internal", internal=True, durable=True)


async def test_a_batch_is_not_blamed_for_the_culprit_of_another(publisher):
    def batch(number: int) -> list[WireMessage]:
        return [a_message(headers={"CC": "not a list"})] if number % 4 == 0 else some_messages(1)

    outcomes = await asyncio.gather(
        *(publisher.publish(batch(number), within=LONG) for number in range(24))
    )

    assert outcomes == [
        [Outcome.ACKED if number % 4 else Outcome.REJECTED] for number in range(24)
    ]


async def test_two_batches_are_in_flight_at_once(url, method):
    async with Proxy(url) as proxy, a_publisher(proxy.url, method) as publisher:
        await proxy.drop_all()
        channel = channel_of(publisher)
        publishing = [
            asyncio.create_task(publisher.publish(some_messages(count), within=LONG))
            for count in (300, 400)
        ]
        await until_in_flight(channel, 700)

        await channel._on_confirm_frame(Basic.Ack(delivery_tag=700, multiple=True))

        assert await asyncio.gather(*publishing) == [
            [Outcome.ACKED] * 300,
            [Outcome.ACKED] * 400,
        ]
        await proxy.cut()


async def test_a_batch_waits_for_its_ids_to_come_back_but_not_for_ever(url, method):
    async with Proxy(url) as proxy, a_publisher(proxy.url, method) as publisher:
        await proxy.drop_all()
        channel = channel_of(publisher)
        messages = some_messages(10)
        first = asyncio.create_task(publisher.publish(messages, within=LONG))
        await until_in_flight(channel, 10)

        late = await publisher.publish(messages[5:] + some_messages(5), within=SHORT)
        assert late == [Outcome.UNKNOWN] * 10
        assert channel.delivery_tag == 10

        second = asyncio.create_task(publisher.publish(messages[5:], within=LONG))
        await channel._on_confirm_frame(Basic.Ack(delivery_tag=10, multiple=True))
        assert await first == [Outcome.ACKED] * 10
        await until_in_flight(channel, 5)
        await channel._on_confirm_frame(Basic.Ack(delivery_tag=15, multiple=True))
        assert await second == [Outcome.ACKED] * 5
        await proxy.cut()


async def test_confirms_are_not_mixed_up_between_batches_with_common_ids(publisher):
    routable = some_messages(50)
    strangers = [replace(message, routing_key="nobody.listens") for message in routable]

    outcomes = await asyncio.gather(
        *(publisher.publish(batch, within=LONG) for batch in [routable, strangers] * 5)
    )

    assert outcomes == [[Outcome.ACKED] * 50, [Outcome.RETURNED] * 50] * 5


async def test_a_message_that_is_twice_in_a_batch_is_answered_twice(publisher):
    message = a_message()
    stranger = replace(message, routing_key="nobody.listens")

    assert await publisher.publish([message, stranger, message], within=LONG) == [
        Outcome.ACKED,
        Outcome.RETURNED,
        Outcome.ACKED,
    ]


async def test_a_batch_larger_than_the_window_goes_out_in_windows(publisher, method, monkeypatch):
    channel, most = channel_of(publisher), 0
    put = channel.write_queue.put

    async def watched_put(frame: ChannelFrame) -> None:
        nonlocal most
        most = max(most, len(channel.confirmations))
        await put(frame)

    monkeypatch.setattr(channel.write_queue, "put", watched_put)
    messages, expected = mixed(2 * MAX_MESSAGES + 500)

    assert await publisher.publish(messages, within=LONG) == expected
    assert most == MAX_MESSAGES if method == "batch" else most <= MAX_MESSAGES


async def test_a_batch_is_one_write(url, monkeypatch):
    async with a_publisher(url, "batch") as publisher:
        channel = channel_of(publisher)
        frames: list[ChannelFrame] = []
        put = channel.write_queue.put

        async def counted_put(frame: ChannelFrame) -> None:
            frames.append(frame)
            await put(frame)

        monkeypatch.setattr(channel.write_queue, "put", counted_put)

        await publisher.publish(some_messages(500), within=LONG)

        assert len(frames) == 1


async def test_bodies_of_any_size_arrive_intact(url, method, publisher):
    frame_max = channel_of(publisher).connection.connection_tune.frame_max
    sizes = [0, 1, frame_max - 9, frame_max - 8, frame_max - 7, frame_max, 5 * frame_max]
    bodies = [bytes([number]) * size for number, size in enumerate(sizes)]

    outcomes = await publisher.publish([a_message(body=body) for body in bodies], within=LONG)

    assert outcomes == [Outcome.ACKED] * len(bodies)
    deliveries: list[Delivery] = []
    async with a_transport(url, method).subscribe(WORK, prefetch=10) as subscription:
        while len(deliveries) < len(bodies):
            deliveries += await subscription.take(10)
    assert [delivery.message.body for delivery in deliveries] == bodies


async def test_late_answers_are_not_taken_for_those_to_the_next_publish(publisher):
    for _ in range(20):
        stranger = a_stranger()
        first = await publisher.publish([stranger], within=timedelta(milliseconds=1))
        again = replace(stranger, routing_key="health.uploaded")

        assert first[0] in {Outcome.UNKNOWN, Outcome.RETURNED}
        assert await publisher.publish([again], within=LONG) == [Outcome.ACKED]


async def test_a_channel_with_unanswered_publishes_is_not_used_again(url, method):
    async with Proxy(url) as proxy, a_publisher(proxy.url, method) as publisher:
        await proxy.drop_all()
        channel = channel_of(publisher)
        assert await publisher.publish([a_message()], within=SHORT) == [Outcome.UNKNOWN]
        await proxy.resume()

        assert await publisher.publish([a_message()], within=LONG) == [Outcome.ACKED]
        assert channel_of(publisher) is not channel
        assert channel.is_closed


async def test_replacing_a_silent_connection_takes_no_longer_than_the_deadline(url, method):
    async with Proxy(url) as proxy, a_publisher(proxy.url, method) as publisher:
        await proxy.drop_all()
        assert await publisher.publish([a_message()], within=SHORT) == [Outcome.UNKNOWN]

        async with asyncio.timeout(5 * SHORT.total_seconds()):
            assert await publisher.publish([a_message()], within=SHORT) == [Outcome.UNKNOWN]


async def test_the_end_of_a_process_does_not_wait_for_a_silent_broker(url):
    async with Proxy(url) as proxy, a_publisher(proxy.url, "batch") as publisher:
        connection = publisher._channels._current._connection
        await proxy.drop_all()
        closing = rabbitmq_connection.start_closing(connection)
        await asyncio.wait({closing}, timeout=SHORT.total_seconds())
        assert not closing.done()

        # As the end of a loop does, with all tasks: also those that start meanwhile.
        closing.cancel()
        for _ in range(20):
            for task in asyncio.all_tasks() - {asyncio.current_task(), closing}:
                task.cancel()
            await asyncio.sleep(0)

        await asyncio.wait({closing}, timeout=5)
        assert closing.done()


async def test_a_connection_is_closed_without_its_finalizer(url):
    """That one starts a task, whether or not a loop runs when the connection is collected."""
    for _ in range(20):
        async with a_publisher(url, "batch") as publisher:
            connection = publisher._channels._current._connection

        assert connection.is_closed


async def test_a_channel_whose_publish_was_cancelled_is_not_used_again(url, method, caplog):
    async with Proxy(url) as proxy, a_publisher(proxy.url, method) as publisher:
        await proxy.drop_all()
        channel = channel_of(publisher)
        publishing = asyncio.create_task(publisher.publish(some_messages(3), within=LONG))
        await until_in_flight(channel, 3)
        publishing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await publishing
        with caplog.at_level(logging.WARNING):
            await channel._on_confirm_frame(Basic.Ack(delivery_tag=3, multiple=True))
            await eventually(lambda: not channel.confirmations)
        assert not caplog.records
        assert not channel.message_id_delivery_tag
        await proxy.resume()

        assert await publisher.publish([a_message()], within=LONG) == [Outcome.ACKED]
        assert channel_of(publisher) is not channel


async def test_a_batch_that_was_not_written_in_time_leaves_no_trace(url):
    async with a_publisher(url, "batch") as publisher:
        channel = channel_of(publisher)
        await publisher.publish(some_messages(3), within=LONG)
        await eventually(lambda: not channel.confirmations)
        channel.write_queue = asyncio.Queue(maxsize=1)
        channel.write_queue.put_nowait(None)

        assert await publisher.publish(some_messages(3), within=SHORT) == [Outcome.UNKNOWN] * 3

        assert channel.delivery_tag == 3
        assert not channel.confirmations
        assert not channel.message_id_delivery_tag


async def test_a_silent_peer_is_noticed_and_cancels_no_task(url, method, monkeypatch):
    monkeypatch.setattr(aiormq.Connection, "HEARTBEAT_GRACE_MULTIPLIER", 1)
    async with (
        Proxy(url) as proxy,
        a_publisher(proxy.url, method, heartbeat_seconds=1) as publisher,
    ):
        await proxy.drop_all()
        async with asyncio.timeout(10):
            assert await publisher.publish(some_messages(3), within=LONG) == [Outcome.UNKNOWN] * 3
        await proxy.resume()

        assert await publisher.publish([a_message()], within=LONG) == [Outcome.ACKED]


async def test_a_broker_without_memory_is_noticed_and_gets_no_further_copies(
    rabbitmq_server: RabbitmqServer, rabbitmq_vhost, url
):
    """Both methods in one alarm, because an alarm takes seconds."""
    messages = some_messages(50)

    async def is_refused(publisher: RabbitMQPublisher) -> None:
        channel = channel_of(publisher)
        async with asyncio.timeout(3):
            outcomes = await publisher.publish(messages, within=timedelta(seconds=30))
        assert outcomes == [Outcome.UNKNOWN] * 50
        for _ in range(2):
            with pytest.raises(BrokerUnavailable):
                await publisher.ready()
        assert await publisher.publish(messages, within=LONG) == [Outcome.UNKNOWN] * 50
        assert channel_of(publisher) is channel
        assert channel.delivery_tag == 50

    async def is_accepted(publisher: RabbitMQPublisher) -> None:
        channel = channel_of(publisher)

        async def ready() -> bool:
            try:
                await publisher.ready()
            except BrokerUnavailable:
                return False
            return True

        await eventually(ready)
        assert await publisher.publish(messages, within=LONG) == [Outcome.ACKED] * 50
        assert channel_of(publisher) is not channel

    async with a_publisher(url, "batch") as batch, a_publisher(url, "gather") as gather:
        async with rabbitmq_server.memory_alarm():
            await asyncio.gather(is_refused(batch), is_refused(gather))
        await asyncio.gather(is_accepted(batch), is_accepted(gather))

    async def counted() -> bool:
        return (await rabbitmq_server.http.queues(rabbitmq_vhost))[WORK].ready == 200

    await eventually(counted, message="not one copy of before the alarm, and one of after")


async def test_batches_are_gathered_if_the_client_library_is_another(url, monkeypatch):
    class OtherFrame:
        pass

    monkeypatch.setattr(rabbitmq_batch, "ChannelFrame", OtherFrame)
    messages, expected = mixed(100)

    with capture_logs() as logs:
        async with a_transport(url, "batch").publisher() as publisher:
            culprit = a_message(headers={"CC": "not a list"})
            outcomes = await publisher.publish([*messages, culprit], within=LONG)

    assert outcomes == [*expected, Outcome.REJECTED]
    assert Counter(line["event"] for line in logs) == {"batch_publishing_unavailable": 1}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("confirmations", None),
        ("message_id_delivery_tag", []),
        ("write_queue", None),
        ("delivery_tag", "0"),
        ("on_return_raises", False),
        ("_on_confirm_frame", None),
        ("_confirm_delivery", lambda *_: None),
        ("_on_return_frame", AsyncMock()),
    ],
)
async def test_a_client_library_without_the_internals_that_batches_need_is_incompatible(
    url, name, value
):
    async with await aio_pika.connect(url) as connection:
        wrapped = await connection.channel(on_return_raises=True)
        channel = await wrapped.get_underlay_channel()
        assert await rabbitmq_batch.incompatibility(channel) is None
        original = getattr(channel, name)

        setattr(channel, name, value)

        assert await rabbitmq_batch.incompatibility(channel) is not None
        setattr(channel, name, original)
