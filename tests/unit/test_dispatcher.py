"""
The dispatcher, with failing handlers and unavailable servers.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from consumer import CircuitBreaker, RateLimit
from consumer.database_retry import DatabaseRetry
from consumer.dispatch import dispatcher as dispatcher_module
from consumer.dispatch.delivery_queue import DeliveryQueue
from consumer.dispatch.dispatcher import Dispatcher
from consumer.dispatch.settlement import Settlement
from consumer.execution.delivery_batch import DeliveryBatch
from consumer.handler import Handler
from consumer.queues import ConsumerQueues
from consumer.telemetry import Telemetry
from consumer.verdict import DONE, DUPLICATE, DeadLetter, TryAgain, Verdict, Wait
from outbox.backoff import Exponential
from outbox.errors import DatabaseUnavailable
from outbox.runtime.probes import Health
from outbox.transports.base import Outcome
from outbox.transports.delivery import Delivery, DeliveryBuffer
from outbox.wire.codec import WireMessage

SECOND, MILLISECOND = timedelta(seconds=1), timedelta(milliseconds=1)
Execute = Callable[[DeliveryBatch], Awaitable[list[Verdict]]]


def a_delivery(tag: int, *, redelivered: bool = False, lane: str | None = None) -> Delivery:
    headers = {"lane": lane} if lane else {}
    message = WireMessage(exchange="", routing_key="q", body=b"", type="a", headers=headers)
    return Delivery(message, tag, redelivered=redelivered)


def lane_of(delivery: Delivery) -> str | None:
    return delivery.message.headers.get("lane")


class FakeSubscription:
    """
    Delivers *deliveries*, one unsettled at a time until its prefetch is raised.

    Records how they are settled.
    """

    def __init__(self, *deliveries: Delivery, outcomes: Sequence[Outcome] = ()) -> None:
        self.buffer = DeliveryBuffer()
        self.buffer.put(deliveries)
        self.said: list[Any] = []
        self.stopped = asyncio.Event()
        self._outcomes = list(outcomes)
        self._room = asyncio.Semaphore(1)

    async def take(self, _limit: int) -> list[Delivery]:
        await self._room.acquire()
        return await self.buffer.take(1)

    async def raise_prefetch(self, prefetch: int) -> None:
        self.said.append(("raise_prefetch", prefetch))
        self._make_room(prefetch)

    def _make_room(self, count: int) -> None:
        for _ in range(count):
            self._room.release()

    async def stop(self) -> None:
        self.buffer.end()
        self._make_room(1)
        for _ in range(5):  # the broker replies after a while
            await asyncio.sleep(0)
        self.stopped.set()

    async def ack(self, *deliveries: Delivery) -> None:
        self.said += [("ack", each.tag) for each in deliveries]
        self._make_room(len(deliveries))

    async def replace(self, delivery: Delivery, _copy: WireMessage) -> Outcome:
        outcome = self._outcomes.pop(0) if self._outcomes else Outcome.ACKED
        self.said.append(("replace", delivery.tag, outcome.value))
        return outcome

    async def release(self, delivery: Delivery) -> None:
        self.said.append(("release", delivery.tag))


class DispatcherFixture:
    """A dispatcher with its collaborators; *make* stands in for the executor."""

    def __init__(
        self,
        subscription: FakeSubscription,
        make: Execute,
        *,
        database_retry: Any = None,
        ordered: bool = False,
        delivery_queue: DeliveryQueue | None = None,
        concurrency: int = 1,
        **options: Any,
    ) -> None:
        it: Any = self
        self.subscription = subscription
        self.stop = asyncio.Event()
        self.execute = make
        self.dead_letters: list[str] = []
        self.database_failures = 0
        telemetry = Telemetry(CollectorRegistry(), source="test", queue="q", known=())
        database_retry = database_retry or DatabaseRetry(
            reconnect=Exponential(first=MILLISECOND, cap=MILLISECOND),
            telemetry=telemetry,
            health=Health(),
            jitter=lambda: 0.0,
        )
        self.settlement = Settlement(
            queues=ConsumerQueues("q", bindings=["#"], delays=[SECOND]),
            dead_letter_writer=it,
            lanes=None,
            database_retry=database_retry,
            telemetry=telemetry,
        )
        self.delivery_queue = delivery_queue or DeliveryQueue(
            {"a": Handler("a", **options)}, lane_of=lane_of if ordered else None
        )
        self.dispatcher = Dispatcher(
            it.subscription,
            delivery_queue=self.delivery_queue,
            executor=it,
            settlement=self.settlement,
            database_retry=database_retry,
            concurrency=concurrency,
            prefetch=10,
            is_prefetch_raised=False,
        )

    async def write(self, _message: WireMessage, *, reason: str, **_: Any) -> bool:
        self.dead_letters.append(reason)
        if len(self.dead_letters) <= self.database_failures:
            raise DatabaseUnavailable("unreachable")
        return True

    async def works(self) -> list[Any]:
        async with asyncio.timeout(10):
            await self.dispatcher.run(self.stop)
        return self.subscription.said


async def test_deliveries_come_one_at_a_time_until_one_is_fresh():
    subscription = FakeSubscription(
        a_delivery(1, redelivered=True), a_delivery(2, redelivered=True), a_delivery(3)
    )

    async def make(unit: DeliveryBatch) -> list[Verdict]:
        if unit.deliveries[0].tag == 3:
            fixture.stop.set()
        return [DONE]

    fixture = DispatcherFixture(subscription, make)

    assert await fixture.works() == [("ack", 1), ("ack", 2), ("raise_prefetch", 10), ("ack", 3)]


async def test_a_message_that_has_to_wait_does_not_block_the_others():
    subscription = FakeSubscription(a_delivery(1, redelivered=True))
    verdicts: list[Verdict] = [Wait(MILLISECOND), DONE]

    async def make(_unit: DeliveryBatch) -> list[Verdict]:
        if len(verdicts) == 1:
            fixture.stop.set()
        return [verdicts.pop(0)]

    fixture = DispatcherFixture(subscription, make)

    assert await fixture.works() == [("raise_prefetch", 10), ("ack", 1)]


async def test_a_dispatcher_stops_its_subscription_before_it_ends():
    async def make(_unit: DeliveryBatch) -> list[Verdict]:
        fixture.stop.set()
        return [DONE]

    fixture = DispatcherFixture(FakeSubscription(a_delivery(1)), make)

    await fixture.works()

    assert fixture.subscription.stopped.is_set()


async def test_a_stopping_dispatcher_releases_waiting_messages_and_finishes_those_in_flight():
    finish = asyncio.Event()

    async def make(_unit: DeliveryBatch) -> list[Verdict]:
        fixture.stop.set()
        await finish.wait()
        return [DONE]

    fixture = DispatcherFixture(FakeSubscription(a_delivery(1), a_delivery(2)), make)
    fixture.subscription.release = _setting(finish, fixture.subscription.release)  # type: ignore[method-assign]

    assert (await fixture.works())[1:] == [("release", 2), ("ack", 1)]


async def test_a_stopping_dispatcher_releases_all_messages_of_lanes_together():
    """When the subscription ends, the broker requeues them in their order."""
    second_is_here = asyncio.Event()

    async def make(unit: DeliveryBatch) -> list[Verdict]:
        await second_is_here.wait()
        fixture.stop.set()
        await fixture.subscription.stopped.wait()
        return [Wait(SECOND) for _ in unit.deliveries]

    fixture = DispatcherFixture(FakeSubscription(a_delivery(1, lane="x")), make, ordered=True)
    fixture.subscription.buffer.put([a_delivery(2, lane="x")])
    fixture.subscription.raise_prefetch = _setting(
        second_is_here, fixture.subscription.raise_prefetch
    )  # type: ignore[method-assign]

    said = await fixture.works()

    assert [each for each in said if each[0] != "raise_prefetch"] == []
    # The next subscription has other tags: it must not settle deliveries of this one.
    assert fixture.delivery_queue.clear() == []


def _setting(event: asyncio.Event, method: Callable[..., Awaitable[None]]) -> Any:
    async def called(*arguments: Any) -> None:
        await method(*arguments)
        event.set()

    return called


async def test_a_handler_that_cancels_its_own_task_does_not_keep_the_dispatcher_from_ending():
    async def make(_unit: DeliveryBatch) -> list[Verdict]:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)
        return [DONE]

    fixture = DispatcherFixture(FakeSubscription(a_delivery(1)), make)

    assert ("ack", 1) not in await fixture.works()


async def test_a_dispatcher_leaves_a_delivery_queue_that_the_next_one_can_use():
    """The queue is empty, and an open breaker stays open."""

    calls = itertools.count(1)

    async def fail(_unit: DeliveryBatch) -> list[Verdict]:
        if next(calls) == 1:
            return [TryAgain(1, SECOND)]
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)
        return []

    breaker = CircuitBreaker(failures=1, pause=20 * MILLISECOND)
    before = DispatcherFixture(
        FakeSubscription(a_delivery(1)), fail, batch_size=9, circuit_breaker=breaker
    )
    await before.works()
    assert before.delivery_queue.clear() == []
    assert before.delivery_queue.is_breaker_open(Handler("a"))

    async def make(_unit: DeliveryBatch) -> list[Verdict]:
        fixture.stop.set()
        return [DONE]

    fixture = DispatcherFixture(
        FakeSubscription(a_delivery(3)), make, delivery_queue=before.delivery_queue
    )

    assert ("ack", 3) in await fixture.works()


class UnavailableDatabase:
    """A database that stays unavailable until the process stops."""

    is_unavailable = False

    async def run(self, work: Any, _stop: asyncio.Event) -> Any:
        return None if work.func.__name__ == "write" else await work()


async def test_an_unsettled_message_is_redelivered_before_its_successors():
    handled = []

    async def make(unit: DeliveryBatch) -> list[Verdict]:
        handled.append(unit.deliveries[0].tag)
        return [DeadLetter(1, "malformed")]

    deliveries = [a_delivery(number, lane="x") for number in (1, 2)]
    fixture = DispatcherFixture(
        FakeSubscription(*deliveries), make, database_retry=UnavailableDatabase(), ordered=True
    )

    said = await fixture.works()

    assert handled == [1]
    assert ("ack", 1) not in said
    assert fixture.subscription.stopped.is_set()


async def test_an_open_breaker_counts_no_failure_for_a_message():
    given_up = DeadLetter(1, "retries_exhausted")
    verdicts: list[Verdict] = [given_up, TryAgain(1, SECOND), DUPLICATE, DONE]

    async def make(_unit: DeliveryBatch) -> list[Verdict]:
        if len(verdicts) == 1:
            fixture.stop.set()
        return [verdicts.pop(0)]

    breaker = CircuitBreaker(failures=1, pause=MILLISECOND)
    deliveries = [a_delivery(number) for number in (1, 2)]
    fixture = DispatcherFixture(FakeSubscription(*deliveries), make, circuit_breaker=breaker)

    said = [each for each in await fixture.works() if each[0] != "raise_prefetch"]

    assert said == [("ack", 1), ("ack", 2)]


def a_fixture_whose_handler_fails(*outcomes: Outcome) -> tuple[DispatcherFixture, list[int]]:
    """One message, whose retry copies get *outcomes*; stops once the message is settled."""
    calls: list[int] = []
    subscription = FakeSubscription(a_delivery(1), outcomes=outcomes)

    async def make(_unit: DeliveryBatch) -> list[Verdict]:
        calls.append(1)
        return [TryAgain(1, SECOND)]

    fixture = DispatcherFixture(subscription, make)
    replace, ack = subscription.replace, subscription.ack

    async def stopping_replace(delivery: Delivery, copy: WireMessage) -> Outcome:
        outcome = await replace(delivery, copy)
        if outcome is Outcome.ACKED:
            fixture.stop.set()
        return outcome

    async def stopping_ack(*deliveries: Delivery) -> None:
        await ack(*deliveries)
        fixture.stop.set()

    subscription.replace = stopping_replace  # type: ignore[method-assign]
    subscription.ack = stopping_ack  # type: ignore[method-assign]
    return fixture, calls


async def test_only_the_publish_of_a_retry_copy_is_repeated_until_it_is_confirmed():
    fixture, calls = a_fixture_whose_handler_fails(Outcome.UNKNOWN, Outcome.NACKED, Outcome.ACKED)

    said = [each for each in await fixture.works() if each[0] != "raise_prefetch"]

    assert [outcome for *_, outcome in said] == ["unknown", "refused", "acked"]
    assert calls == [1]


async def test_a_copy_that_can_never_be_published_is_dead_lettered_once_the_database_is_back():
    fixture, calls = a_fixture_whose_handler_fails(Outcome.REJECTED)
    fixture.database_failures = 2

    said = [each for each in await fixture.works() if each[0] != "raise_prefetch"]

    assert said == [("replace", 1, "rejected"), ("ack", 1)]
    assert fixture.dead_letters == ["rejected"] * 3
    assert calls == [1]


async def test_a_message_that_waits_too_long_is_requeued_as_a_copy_if_the_broker_takes_it(
    monkeypatch,
):
    monkeypatch.setattr(dispatcher_module, "LONGEST", timedelta(milliseconds=20))
    replaced = asyncio.Event()
    subscription = FakeSubscription(
        a_delivery(1), a_delivery(2), outcomes=[Outcome.NACKED, Outcome.ACKED]
    )

    async def make(_unit: DeliveryBatch) -> list[Verdict]:
        return [DONE]

    fixture = DispatcherFixture(subscription, make, rate_limit=RateLimit(1, timedelta(hours=1)))
    replace = subscription.replace

    async def stopping_replace(delivery: Delivery, copy: WireMessage) -> Outcome:
        outcome = await replace(delivery, copy)
        if outcome is Outcome.ACKED:
            replaced.set()
            fixture.stop.set()
        return outcome

    subscription.replace = stopping_replace  # type: ignore[method-assign]

    said = [each for each in await fixture.works() if each[0] != "raise_prefetch"]

    assert said == [("ack", 1), ("replace", 2, "refused"), ("replace", 2, "acked")]


async def test_a_dispatcher_without_a_startable_message_does_not_poll(monkeypatch):
    """While a breaker probes its handler, only the end of the probe makes messages startable."""
    looks = 0
    calls, probe_ends = itertools.count(1), asyncio.Event()

    async def make(_unit: DeliveryBatch) -> list[Verdict]:
        if next(calls) == 1:
            fixture.subscription.buffer.put([a_delivery(1), a_delivery(2)])
            return [TryAgain(1, SECOND)]
        asyncio.get_running_loop().call_later(0.1, probe_ends.set)
        await probe_ends.wait()
        fixture.stop.set()
        return [DONE]

    breaker = CircuitBreaker(failures=1, pause=MILLISECOND)
    fixture = DispatcherFixture(
        FakeSubscription(a_delivery(0)),
        make,
        circuit_breaker=breaker,
        concurrency=2,
    )
    take = DeliveryQueue.take

    def counted(delivery_queue: DeliveryQueue, now: float) -> DeliveryBatch | None:
        nonlocal looks
        looks += 1
        return take(delivery_queue, now)

    monkeypatch.setattr(DeliveryQueue, "take", counted)

    await fixture.works()

    assert looks < 50


@pytest.mark.parametrize("outcome", [Outcome.NACKED, Outcome.UNKNOWN, Outcome.RETURNED])
async def test_replacing_stale_messages_returns_those_that_were_not_replaced(outcome):
    subscription: Any = FakeSubscription(outcomes=[Outcome.ACKED, outcome])
    fixture = DispatcherFixture(subscription, make=None)  # type: ignore[arg-type]
    first, second = a_delivery(1), a_delivery(2)

    assert await fixture.settlement.retries.renew(subscription, [first, second]) == [second]
