"""
The dispatcher, with failing handlers and unavailable servers.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from consumer import CircuitBreaker, RateLimit
from consumer.database_retry import DatabaseRetry
from consumer.dispatch import dispatcher as dispatcher_module
from consumer.dispatch import session as session_module
from consumer.dispatch.delivery_queue import DeliveryQueue
from consumer.dispatch.dispatcher import Dispatcher
from consumer.dispatch.settlement import Settlement
from consumer.dispatch.strikes import Strikes
from consumer.execution.delivery_batch import DeliveryBatch
from consumer.handler import Handler
from consumer.queues import ConsumerQueues
from consumer.storage.begun import identity_of
from consumer.storage.failing import FailedAttempt
from consumer.telemetry import Telemetry
from consumer.verdict import DONE, DUPLICATE, DeadLetter, TryAgain, Verdict, Wait
from outbox.backoff import Exponential
from outbox.errors import DatabaseUnavailable
from outbox.runtime.error_summary import ErrorSummary
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


class UnlimitedSubscription(FakeSubscription):
    """Delivers all at once, so that they are handled in batches."""

    async def take(self, limit: int) -> list[Delivery]:
        return await self.buffer.take(limit)


class FakeBegunDeliveries:
    """Counts in memory."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.failures = 0

    async def strikes(self, messages: Sequence[str]) -> dict[str, int]:
        return {each: self.counts[each] for each in messages if self.counts[each]}

    async def begin(self, messages: Sequence[str]) -> None:
        self.counts.update(messages)

    async def take_back(self, messages: Sequence[str]) -> None:
        self.counts.subtract(messages)

    async def forget(self, messages: Sequence[str]) -> None:
        if self.failures:
            self.failures -= 1
            raise DatabaseUnavailable("unreachable")
        for each in messages:
            del self.counts[each]


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
        starts_slowly: bool = True,
        **options: Any,
    ) -> None:
        it: Any = self
        self.subscription = subscription
        self.stop = asyncio.Event()
        self.execute = make
        self.dead_letters: list[str] = []
        self.database_failures = 0
        self.health = Health()
        telemetry = Telemetry(
            CollectorRegistry(), source="test", queue="q", known=(), health=self.health
        )
        database_retry = database_retry or DatabaseRetry(
            reconnect=Exponential(first=MILLISECOND, cap=MILLISECOND),
            telemetry=telemetry,
            health=Health(),
            jitter=lambda: 0.0,
        )
        self.settlement = Settlement(
            queues=ConsumerQueues("q", bindings=["#"], delays=[SECOND]),
            dead_letter_writer=it,
            recorder=it,
            lanes=None,
            database_retry=database_retry,
            telemetry=telemetry,
        )
        self.delivery_queue = delivery_queue or DeliveryQueue(
            {"a": Handler("a", **options)}, lane_of=lane_of if ordered else None
        )
        self.begun = FakeBegunDeliveries()
        begun: Any = self.begun
        self.dispatcher = Dispatcher(
            delivery_queue=self.delivery_queue,
            executor=it,
            strikes=Strikes(begun, it, database_retry),
            settlement=self.settlement,
            database_retry=database_retry,
            concurrency=concurrency,
            prefetch=10,
            starts_slowly=starts_slowly,
        )

    async def write(self, _message: WireMessage, *, reason: str, **_: Any) -> bool:
        self.dead_letters.append(reason)
        if len(self.dead_letters) <= self.database_failures:
            raise DatabaseUnavailable("unreachable")
        return True

    async def record(self, failed: Sequence[FailedAttempt]) -> None:
        self.subscription.said.append(("record", *(each.attempt for each in failed)))

    async def works(self) -> list[Any]:
        subscription: Any = self.subscription
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            await self.dispatcher.run(subscription, self.stop, group)
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


async def test_a_queue_that_takes_no_copy_is_logged_once_and_the_process_is_not_ready_meanwhile():
    """For instance because the user may not write to the default exchange."""
    fixture, _ = a_fixture_whose_handler_fails(Outcome.NACKED, Outcome.NACKED, Outcome.ACKED)
    missing = []
    replace = fixture.subscription.replace

    async def watching_replace(delivery: Delivery, copy: WireMessage) -> Outcome:
        missing.append(fixture.health.missing)
        return await replace(delivery, copy)

    fixture.subscription.replace = watching_replace  # type: ignore[method-assign]

    with capture_logs() as logs:
        await fixture.works()

    assert missing == [[], ["copies"], ["copies"]]
    assert fixture.health.missing == []
    assert [(each["queue"], each["reason"]) for each in logs if "queue" in each] == [
        ("q.retry.1s", "refused")
    ]


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


async def test_failures_of_a_batch_are_recorded_at_once_after_the_acks_and_before_the_copies():
    summary = ErrorSummary("KeyError", "myapp/etl.py:42 in load")
    failed = TryAgain(1, SECOND, summary=summary)
    early = TryAgain(1, SECOND, failed=False)
    verdicts = [DONE, failed, early, failed]

    async def make(unit: DeliveryBatch) -> list[Verdict]:
        fixture.stop.set()
        return verdicts[: len(unit.deliveries)]

    fixture = DispatcherFixture(
        UnlimitedSubscription(*map(a_delivery, (1, 2, 3, 4))),
        make,
        batch_size=4,
        starts_slowly=False,
    )

    assert await fixture.works() == [
        ("ack", 1),
        ("record", 1, 1),
        *(("replace", tag, "acked") for tag in (2, 3, 4)),
    ]


async def test_the_neighbours_of_a_message_do_not_wait_until_the_retry_queue_takes_its_copy():
    """Those that are done are acked, those that wait are handled, and lanes go on."""
    verdicts = {1: TryAgain(1, SECOND), 2: DONE, 3: Wait(timedelta(0)), 4: DeadLetter(1, "x")}
    is_free = asyncio.Event()

    async def make(unit: DeliveryBatch) -> list[Verdict]:
        tags = [each.tag for each in unit.deliveries]
        if tags != [1, 2, 3, 4]:
            handled.append(tags)
            if {3, 5} <= {tag for tags in handled for tag in tags}:
                is_free.set()
            return [DONE for _ in tags]
        return [verdicts[tag] for tag in tags]

    handled: list[list[int]] = []
    lanes = {2: "x", 3: "y", 5: "x"}
    deliveries = [a_delivery(tag, lane=lanes.get(tag)) for tag in (1, 2, 3, 4, 5)]
    fixture = DispatcherFixture(
        UnlimitedSubscription(*deliveries),
        make,
        batch_size=4,
        concurrency=2,
        ordered=True,
        starts_slowly=False,
    )
    replace = fixture.subscription.replace

    async def full_queue(delivery: Delivery, copy: WireMessage) -> Outcome:
        await is_free.wait()
        fixture.stop.set()
        return await replace(delivery, copy)

    fixture.subscription.replace = full_queue  # type: ignore[method-assign]

    said = await fixture.works()

    assert said[-1] == ("replace", 1, "acked")
    assert sorted(said[:-1]) == [("ack", tag) for tag in (2, 3, 4, 5)]


async def test_no_ack_waits_until_the_database_takes_the_dead_letter_of_a_neighbour():
    async def make(_unit: DeliveryBatch) -> list[Verdict]:
        return [DeadLetter(1, "x"), DONE]

    class DatabaseUntilTheAck(UnavailableDatabase):
        async def run(self, work: Any, stop: asyncio.Event) -> Any:
            if work.func.__name__ == "write":
                await fixture.stop.wait()
            return await super().run(work, stop)

    fixture = DispatcherFixture(
        UnlimitedSubscription(a_delivery(1), a_delivery(2)),
        make,
        database_retry=DatabaseUntilTheAck(),
        batch_size=2,
        starts_slowly=False,
    )
    fixture.subscription.ack = _setting(fixture.stop, fixture.subscription.ack)  # type: ignore[method-assign]

    assert await fixture.works() == [("ack", 2)]


@pytest.mark.parametrize("outcome", [Outcome.NACKED, Outcome.UNKNOWN, Outcome.RETURNED])
async def test_replacing_stale_messages_returns_those_that_were_not_replaced(outcome):
    subscription: Any = FakeSubscription(outcomes=[Outcome.ACKED, outcome])
    fixture = DispatcherFixture(subscription, make=None)  # type: ignore[arg-type]
    first, second = a_delivery(1), a_delivery(2)

    assert await fixture.settlement.retries.renew(subscription, [first, second]) == [second]


def a_redelivery(tag: int, name: str = "killer") -> Delivery:
    message = WireMessage(exchange="", routing_key="q", body=b"", type="a", message_id=name)
    return Delivery(message, tag, redelivered=True)


async def test_a_redelivery_counts_while_its_handler_works_and_no_longer():
    counts = []

    async def make(_unit: DeliveryBatch) -> list[Verdict]:
        counts.append(fixture.begun.counts.total())
        fixture.stop.set()
        return [TryAgain(1, SECOND)]

    fixture = DispatcherFixture(FakeSubscription(a_redelivery(1)), make)

    await fixture.works()

    assert counts == [1]
    assert fixture.begun.counts.total() == 0


async def test_a_message_is_acked_once_its_count_is_deleted_and_is_not_handled_again():
    calls: list[int] = []

    async def make(_unit: DeliveryBatch) -> list[Verdict]:
        calls.append(fixture.begun.counts.total())
        return [DONE]

    fixture = DispatcherFixture(FakeSubscription(a_redelivery(1)), make)
    fixture.begun.failures = 2

    async def ack(*_deliveries: Delivery) -> None:
        assert fixture.begun.counts.total() == 0
        fixture.stop.set()

    fixture.subscription.ack = ack  # type: ignore[method-assign]
    await fixture.works()

    assert (calls, fixture.begun.failures) == ([1], 0)


async def test_a_handler_that_a_stop_interrupts_counts_not():
    begun = asyncio.Event()

    async def make(_unit: DeliveryBatch) -> list[Verdict]:
        begun.set()
        await asyncio.Event().wait()
        return []

    fixture = DispatcherFixture(FakeSubscription(a_redelivery(1)), make)
    work = asyncio.ensure_future(fixture.works())
    await begun.wait()

    work.cancel()
    await asyncio.wait({work})

    assert fixture.begun.counts.total() == 0


async def test_a_redelivery_that_waits_for_a_lease_keeps_the_strikes_of_ended_processes():
    counts: list[int] = []

    async def make(_unit: DeliveryBatch) -> list[Verdict]:
        counts.append(fixture.begun.counts.total())
        if len(counts) == 2:
            fixture.stop.set()
        return [Wait(timedelta(0))]

    fixture = DispatcherFixture(FakeSubscription(a_redelivery(1)), make)
    fixture.begun.counts[identity_of(a_redelivery(1))] = 1

    await fixture.works()

    assert len(counts) > 1
    assert set(counts) == {2}
    assert fixture.begun.counts.total() == 1


async def test_a_batch_forgets_the_strikes_of_those_that_it_settles_and_takes_others_back():
    async def make(_unit: DeliveryBatch) -> list[Verdict]:
        fixture.stop.set()
        return [DONE, Wait(SECOND), DONE]

    settled, waiting = (a_redelivery(tag, name) for tag, name in ((1, "settled"), (2, "waiting")))
    fixture = DispatcherFixture(
        UnlimitedSubscription(settled, waiting, a_delivery(3)),
        make,
        batch_size=3,
        starts_slowly=False,
    )
    for each in (settled, waiting):
        fixture.begun.counts[identity_of(each) or ""] = 1

    await fixture.works()

    assert fixture.begun.counts == {identity_of(waiting): 1}


async def test_a_message_that_has_ended_too_many_processes_is_given_up_without_a_call():
    async def make(_unit: DeliveryBatch) -> list[Verdict]:
        raise AssertionError

    fixture = DispatcherFixture(FakeSubscription(a_redelivery(1)), make)
    [message] = [identity_of(a_redelivery(1))]
    fixture.begun.counts[message] = 20
    fixture.subscription.ack = _setting(fixture.stop, fixture.subscription.ack)  # type: ignore[method-assign]

    assert await fixture.works() == [("ack", 1)]
    assert fixture.dead_letters == ["delivery_limit"]


async def test_a_subscription_without_deliveries_is_replaced_after_a_while(monkeypatch):
    """RabbitMQ 3.10 gives it none of a queue that was deleted and declared again at once."""
    monkeypatch.setattr(session_module, "IDLE", 20 * MILLISECOND)
    handled = asyncio.Event()

    async def make(_unit: DeliveryBatch) -> list[Verdict]:
        await asyncio.sleep(0.1)  # longer than IDLE: a handler works, so it is not idle
        handled.set()
        return [DONE]

    fixture = DispatcherFixture(FakeSubscription(a_delivery(1)), make)

    await fixture.works()

    assert handled.is_set()
    assert fixture.dispatcher.was_idle
    assert not fixture.stop.is_set()
    assert fixture.subscription.stopped.is_set()


async def test_a_subscription_that_is_lost_at_once_was_not_idle():
    async def make(_unit: DeliveryBatch) -> list[Verdict]:
        raise AssertionError("there is no delivery")

    fixture = DispatcherFixture(FakeSubscription(), make)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(
            fixture.dispatcher.run(fixture.subscription, fixture.stop, group)
        )
        for _ in range(10):  # until all of its tasks wait
            await asyncio.sleep(0)
        fixture.subscription.buffer.fail("the connection was lost")

    assert str(running.result()) == "the connection was lost"
    assert not fixture.dispatcher.was_idle


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize(
    ("verdict", "said"), [(DONE, ("ack", 7)), (TryAgain(1, SECOND), ("replace", 7, "acked"))]
)
async def test_a_redelivery_waits_for_its_handler_from_before_the_loss_and_gets_its_verdict(
    ordered, verdict, said
):
    """Another message is handled meanwhile."""
    started, finish = asyncio.Event(), asyncio.Event()
    calls: list[int] = []

    async def make(unit: DeliveryBatch) -> list[Verdict]:
        tag = unit.deliveries[0].tag
        calls.append(tag)
        if tag == 1:
            started.set()
            await finish.wait()
            return [verdict]
        finish.set()
        return [DONE]

    first = FakeSubscription(a_redelivery(1))
    fixture = DispatcherFixture(first, make, concurrency=2, starts_slowly=False, ordered=ordered)
    # The lane of the fixture is no header of the wire format: without one, messages are lanes.
    other = a_delivery(8)
    second = FakeSubscription(a_redelivery(7), other)
    second._make_room(9)

    dispatcher: Any = fixture.dispatcher
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        running = group.create_task(dispatcher.run(first, fixture.stop, group))
        await started.wait()
        first.buffer.fail("the connection was lost")
        first._make_room(1)
        assert str(await running) == "the connection was lost"
        running = group.create_task(dispatcher.run(second, fixture.stop, group))
        while not any(each[1] == 7 for each in second.said):  # noqa: ASYNC110
            await asyncio.sleep(0)
        fixture.stop.set()

    assert calls == [1, 8]
    assert sorted(second.said) == sorted([("ack", 8), said])
    assert first.said == []
