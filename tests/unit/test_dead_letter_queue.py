"""
Messages of the dead queue that cannot be requeued, or cannot be read.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from consumer.database_retry import DatabaseRetry
from consumer.maintenance.dead_letter_queue import DeadLetterQueueWorker, RequeuePolicy
from consumer.partition_marker import drain_marker
from consumer.queues import ConsumerQueues
from consumer.telemetry import Telemetry
from outbox.backoff import Exponential
from outbox.errors import BrokerUnavailable, TopologyMismatch
from outbox.runtime.probes import Health
from outbox.transports.base import Outcome, Subscription
from outbox.transports.delivery import Delivery
from outbox.wire.codec import WireMessage

MILLISECOND = timedelta(milliseconds=1)
DEATH = {"queue": "q", "reason": "expired", "exchange": "main", "routing-keys": ["a"]}


class Broker:
    """Returns *outcomes* for the copies; records the calls to broker and database."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.asked: list[str] = []
        self._outcomes = list(outcomes)

    async def replace(self, _delivery: Delivery, _copy: WireMessage) -> Outcome:
        self.asked.append("replace")
        return self._outcomes.pop(0)

    async def ack(self, *_: Delivery) -> None:
        self.asked.append("ack")

    async def write(self, message: WireMessage, *, reason: str, attempts: int) -> bool:
        self.asked.append(f"dead_letter {message.routing_key}: {reason}, {attempts}")
        return True


def a_collector(broker: Any, reconnect: Any, **options: Any) -> DeadLetterQueueWorker:
    telemetry = Telemetry(CollectorRegistry(), source="test", queue="q", known=())
    return DeadLetterQueueWorker(
        transport=broker,
        queues=ConsumerQueues("q", bindings=["#"], delays=[MILLISECOND]),
        policy=RequeuePolicy({"expired"}, max_requeues=1),
        dead_letter_writer=broker,
        database_retry=DatabaseRetry(
            reconnect=reconnect, telemetry=telemetry, health=Health(), jitter=lambda: 0.0
        ),
        telemetry=telemetry,
        **options,
    )


@pytest.mark.parametrize(
    ("outcomes", "asked"),
    [
        ([Outcome.UNKNOWN, Outcome.NACKED, Outcome.ACKED], ["replace"] * 3),
        ([Outcome.REJECTED], ["replace", "dead_letter a: rejected, 0", "ack"]),
    ],
)
async def test_a_copy_is_published_until_the_broker_confirms_it_or_never_can(outcomes, asked):
    broker: Any = Broker(*outcomes)
    collector = a_collector(broker, Exponential(first=MILLISECOND, cap=MILLISECOND))
    dead = WireMessage(exchange="dlx", routing_key="q", body=b"", headers={"x-death": [DEATH]})

    async with asyncio.timeout(10):
        await collector._process(broker, [Delivery(dead, 1, redelivered=False)], asyncio.Event())

    assert broker.asked == asked


async def test_a_drain_marker_that_expired_is_dropped():
    broker: Any = Broker()
    collector = a_collector(broker, Exponential(first=MILLISECOND, cap=MILLISECOND))
    marker = drain_marker("q.g1.0")

    await collector._process(broker, [Delivery(marker, 1, redelivered=False)], asyncio.Event())

    assert broker.asked == ["ack"]


class LosesConnections:
    """A broker whose subscriptions lose their connection *after* so many messages."""

    def __init__(self, *, after: list[int]) -> None:
        self._after = after

    @asynccontextmanager
    async def subscribe(self, _queue: str, **_options: int) -> AsyncIterator[Subscription]:
        yield cast("Any", Short(self._after.pop(0)))


class Short:
    """Delivers *messages* messages, one at a time; then its connection is lost."""

    def __init__(self, messages: int) -> None:
        self._messages = messages

    async def take(self, _limit: int) -> list[Delivery]:
        if not self._messages:
            raise BrokerUnavailable("the connection was lost")
        self._messages -= 1
        return [Delivery(WireMessage(exchange="", routing_key="q", body=b""), 1, redelivered=True)]

    async def ack(self, *_: Delivery) -> None:
        return


class Waits:
    """Records the consecutive failures of each wait; sets *stop* after wait number *last*."""

    def __init__(self, stop: asyncio.Event, *, last: int) -> None:
        self.failures: list[int] = []
        self._stop = stop
        self._last = last

    def delay(self, failures: int, *, jitter: float) -> timedelta:
        del jitter
        self.failures.append(failures)
        if len(self.failures) == self._last:
            self._stop.set()
        return timedelta(0)


async def test_a_message_that_ends_each_connection_is_read_less_and_less_often():
    """A message that the client library cannot read stays in the dead queue."""
    broker: Any = LosesConnections(after=[0, 0, 0, 2, 0, 0])
    broker.write = Broker().write
    stop = asyncio.Event()
    waits = Waits(stop, last=6)

    async with asyncio.timeout(10):
        await a_collector(broker, waits).run(stop)

    assert waits.failures == [1, 2, 3, 1, 2, 3]


async def test_a_subscription_that_lived_long_is_opened_again_soon_though_it_was_empty():
    broker: Any = LosesConnections(after=[0, 0, 0])
    stop = asyncio.Event()
    waits = Waits(stop, last=3)

    async with asyncio.timeout(10):
        await a_collector(broker, waits, stable_after=timedelta(0)).run(stop)

    assert waits.failures == [1, 1, 1]


class RefusesSubscriptions(LosesConnections):
    """A broker that answers the first subscriptions with *errors*."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__(after=[1])
        self._errors = list(errors)

    @asynccontextmanager
    async def subscribe(self, queue: str, **options: int) -> AsyncIterator[Subscription]:
        if self._errors:
            raise self._errors.pop(0)
        async with super().subscribe(queue, **options) as subscription:
            yield subscription


async def test_a_dead_queue_that_is_missing_for_a_while_ends_no_process():
    """The topology monitor reports it, and declares it again."""
    gone = TopologyMismatch("queue q.dead does not exist")
    broker: Any = RefusesSubscriptions(gone, gone)
    broker.write = Broker().write
    stop = asyncio.Event()
    waits = Waits(stop, last=3)

    async with asyncio.timeout(10):
        await a_collector(broker, waits).run(stop)

    assert waits.failures == [1, 2, 1]


async def test_a_dead_queue_that_may_not_be_read_is_logged_once():
    refused = BrokerUnavailable("queue q.dead: the broker's user may not read it", refused=True)
    lost = BrokerUnavailable("the connection was lost")
    broker: Any = RefusesSubscriptions(refused, refused, lost)
    broker.write = Broker().write
    stop = asyncio.Event()

    with capture_logs() as lines:
        async with asyncio.timeout(10):
            await a_collector(broker, Waits(stop, last=4)).run(stop)

    logged = [line for line in lines if line["event"] == "background_work_failed"]
    assert [(line["work"], line["problem"]) for line in logged] == [("dead_queue", str(refused))]
