"""
The order in which a delivery queue returns messages; it loses none.
"""

import itertools
from collections import Counter
from datetime import timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from consumer import CircuitBreaker, RateLimit
from consumer.batch_sizes import LEAST_MESSAGES, LONGEST_CALLS, BatchSizes
from consumer.dispatch.delivery_queue import DeliveryQueue
from consumer.execution.delivery_batch import DeliveryBatch
from consumer.handler import Handler
from outbox.transports.delivery import Delivery
from outbox.wire.codec import WireMessage

NOON = 43_200.0
PAUSE = 30.0
BREAKER = CircuitBreaker(failures=1, pause=timedelta(seconds=PAUSE))

tags = itertools.count()


def a_delivery(
    event_type: str = "a", *, priority: int | None = None, lane: str | None = None
) -> Delivery:
    message = WireMessage(
        exchange="",
        routing_key="q",
        body=b"",
        type=event_type,
        priority=priority,
        headers={"lane": lane} if lane else {},
    )
    return Delivery(message, next(tags), redelivered=False)


def a_delivery_queue(*, ordered: bool = False, **options: Any) -> DeliveryQueue:
    handlers = {"a": Handler("a", **options), "b": Handler("b")}
    return DeliveryQueue(handlers, lane_of=lane_of if ordered else None)


def lane_of(delivery: Delivery) -> str | None:
    return delivery.message.headers.get("lane")


def taken(delivery_queue: DeliveryQueue, now: float = NOON) -> list[list[Delivery]]:
    """All batches that can be taken now."""
    return [unit.deliveries for unit in iter(lambda: delivery_queue.take(now), None)]


def take(delivery_queue: DeliveryQueue, now: float = NOON) -> DeliveryBatch:
    unit = delivery_queue.take(now)
    assert unit is not None
    return unit


def test_messages_of_all_types_are_handled_in_order_of_arrival():
    delivery_queue, deliveries = (
        a_delivery_queue(),
        [a_delivery(name) for name in ("a", "b", "stranger", "a")],
    )
    delivery_queue.put(deliveries, NOON)

    assert taken(delivery_queue) == [[each] for each in deliveries]


def test_a_message_without_a_handler_is_a_work_unit_without_one():
    delivery_queue = a_delivery_queue()
    delivery_queue.put([a_delivery("stranger"), a_delivery("a")], NOON)

    assert take(delivery_queue).handler is None
    assert take(delivery_queue).handler == Handler("a")


def test_higher_priorities_go_first_and_none_counts_as_normal():
    delivery_queue = a_delivery_queue()
    low, none, normal, high = (
        a_delivery(name, priority=priority)
        for name, priority in (("a", 0), ("b", None), ("a", 4), ("b", 9))
    )
    delivery_queue.put([low, none, normal, high], NOON)

    assert taken(delivery_queue) == [[high], [none], [normal], [low]]


def test_an_ordered_delivery_queue_ignores_priorities():
    delivery_queue = a_delivery_queue(ordered=True)
    first, second = a_delivery(lane="x", priority=0), a_delivery(lane="y", priority=9)
    delivery_queue.put([first, second], NOON)

    assert taken(delivery_queue) == [[first], [second]]


def test_a_batch_holds_all_waiting_messages_up_to_its_size():
    delivery_queue, deliveries = a_delivery_queue(batch_size=3), [a_delivery() for _ in range(4)]
    delivery_queue.put(deliveries[:2], NOON)

    unit = take(delivery_queue)
    assert unit.deliveries == deliveries[:2]

    delivery_queue.put(deliveries[2:], NOON)
    delivery_queue.ended(unit, NOON, failed=False)
    assert taken(delivery_queue) == [deliveries[2:]]


def test_beside_a_batch_only_a_full_one_is_handled():
    delivery_queue = a_delivery_queue(batch_size=3)
    delivery_queue.put([a_delivery()], NOON)
    first = take(delivery_queue)

    delivery_queue.put([a_delivery() for _ in range(5)], NOON)

    assert [len(unit) for unit in taken(delivery_queue)] == [3]
    delivery_queue.ended(first, NOON, failed=False)
    assert taken(delivery_queue) == []


def an_open_delivery_queue() -> DeliveryQueue:
    """A queue whose handler has short calls, and no batch size."""
    handlers = {"a": Handler("a", batch_size=None)}
    sizes = BatchSizes(handlers)
    for count in (1, LEAST_MESSAGES):
        sizes.called(handlers["a"], dict.fromkeys(map(str, range(count)), timedelta(0)), NOON)
    return DeliveryQueue(handlers, sizes=sizes)


def test_few_messages_in_flight_keep_no_other_one_waiting():
    """As if each had a transaction of its own: without load none waits for another one's end."""
    delivery_queue = an_open_delivery_queue()
    arrived = [a_delivery() for _ in range(LEAST_MESSAGES + 1)]
    started = []
    for each in arrived:
        delivery_queue.put([each], NOON)
        started += taken(delivery_queue)

    assert started == [[each] for each in arrived[:-1]]


def test_beside_many_messages_only_a_full_batch_is_handled_until_their_calls_take_long():
    delivery_queue = an_open_delivery_queue()
    delivery_queue.put([a_delivery() for _ in range(2 * LEAST_MESSAGES)], NOON)
    assert [len(each) for each in taken(delivery_queue)] == [2 * LEAST_MESSAGES]

    delivery_queue.put([a_delivery()], NOON)
    assert taken(delivery_queue) == []
    late = NOON + LONGEST_CALLS.total_seconds()
    assert delivery_queue.take_at(NOON) == late
    assert len(taken(delivery_queue, late)) == 1

    delivery_queue.put([a_delivery() for _ in range(2 * LEAST_MESSAGES)], late)
    assert [len(each) for each in taken(delivery_queue, late)] == [2 * LEAST_MESSAGES]


def test_a_redelivery_shares_no_transaction_because_it_may_end_the_process():
    delivery_queue = an_open_delivery_queue()
    first, again, third, last = (a_delivery() for _ in range(4))
    again.redelivered = True
    delivery_queue.put([first, again, third, last], NOON)

    assert taken(delivery_queue) == [[first], [again], [third, last]]


def test_redeliveries_are_in_a_batch_of_a_given_size():
    delivery_queue, deliveries = a_delivery_queue(batch_size=3), [a_delivery() for _ in range(3)]
    deliveries[1].redelivered = True
    delivery_queue.put(deliveries, NOON)

    assert taken(delivery_queue) == [deliveries]


def test_beside_a_batch_a_rate_allows_a_full_one_or_none():
    delivery_queue = a_delivery_queue(batch_size=3, rate_limit=RateLimit(4))
    delivery_queue.put([a_delivery()], NOON)
    first = take(delivery_queue)
    delivery_queue.put([a_delivery() for _ in range(6)], NOON)
    second = take(delivery_queue)

    assert [len(unit.deliveries) for unit in (first, second)] == [1, 3]
    assert delivery_queue.take(NOON) is None
    assert delivery_queue.take_at(NOON) == NOON + 0.75
    delivery_queue.ended(first, NOON, failed=False)
    delivery_queue.ended(second, NOON, failed=False)
    assert delivery_queue.take_at(NOON) == NOON + 0.25


def test_a_batch_larger_than_its_rate_is_handled_alone():
    delivery_queue = a_delivery_queue(batch_size=3, rate_limit=RateLimit(2))
    delivery_queue.put([a_delivery() for _ in range(5)], NOON)

    assert len(take(delivery_queue).deliveries) == 2
    assert delivery_queue.take(NOON + 9) is None
    assert delivery_queue.take_at(NOON) is None


def test_a_handler_at_its_rate_limit_delays_no_other_handler():
    delivery_queue = a_delivery_queue(rate_limit=RateLimit(1))
    first, second, other = a_delivery("a"), a_delivery("a"), a_delivery("b")
    delivery_queue.put([first, second, other], NOON)

    assert taken(delivery_queue) == [[first], [other]]
    assert delivery_queue.take_at(NOON) == NOON + 1
    assert taken(delivery_queue, NOON + 1) == [[second]]


def test_a_handler_with_an_open_breaker_gets_no_message_and_then_one():
    delivery_queue = a_delivery_queue(batch_size=3, circuit_breaker=BREAKER)
    delivery_queue.put([a_delivery() for _ in range(3)], NOON)
    unit = take(delivery_queue)
    delivery_queue.ended(unit, NOON, failed=True)
    delivery_queue.put([a_delivery() for _ in range(6)], NOON)

    assert delivery_queue.is_breaker_open(unit.handler)
    assert delivery_queue.take(NOON) is None
    assert delivery_queue.take_at(NOON) == NOON + PAUSE
    probe = take(delivery_queue, NOON + PAUSE)
    assert len(probe.deliveries) == 1
    assert delivery_queue.take(NOON + PAUSE) is None

    delivery_queue.ended(probe, NOON + PAUSE, failed=False)
    assert not delivery_queue.is_breaker_open(unit.handler)
    assert len(take(delivery_queue, NOON + PAUSE).deliveries) == 3


def test_no_next_time_is_named_while_only_a_finished_attempt_can_help():
    """Otherwise the dispatcher would poll in a busy loop."""
    probing, batching = a_delivery_queue(circuit_breaker=BREAKER), a_delivery_queue(batch_size=9)
    probing.put([a_delivery() for _ in range(3)], NOON)
    probing.ended(take(probing), NOON, failed=True)
    take(probing, NOON + PAUSE)
    batching.put([a_delivery()], NOON)
    take(batching)
    batching.put([a_delivery()], NOON)

    assert (probing.take_at(NOON), batching.take_at(NOON)) == (None, None)


def test_a_breaker_probe_that_was_not_handled_makes_room_for_another():
    delivery_queue = a_delivery_queue(circuit_breaker=BREAKER)
    delivery_queue.put([a_delivery() for _ in range(3)], NOON)
    delivery_queue.ended(take(delivery_queue), NOON, failed=True)

    delivery_queue.ended(take(delivery_queue, NOON + PAUSE), NOON + PAUSE, failed=None)

    assert delivery_queue.is_breaker_open(Handler("a", circuit_breaker=BREAKER))
    assert delivery_queue.take(NOON + PAUSE) is not None


def test_messages_of_a_lane_are_handled_one_at_a_time_in_order_of_arrival():
    delivery_queue = a_delivery_queue(ordered=True)
    first, second, third = (a_delivery(name, lane="x") for name in ("a", "b", "a"))
    free = a_delivery()
    delivery_queue.put([first, second, free, third], NOON)

    unit = take(delivery_queue)
    assert unit.deliveries == [first]
    assert taken(delivery_queue) == [[free]]
    delivery_queue.settled(unit.queued[0])
    unit = take(delivery_queue)
    assert unit.deliveries == [second]
    delivery_queue.settled(unit.queued[0])
    assert taken(delivery_queue) == [[third]]


def test_a_batch_has_one_message_of_each_lane():
    delivery_queue = a_delivery_queue(ordered=True, batch_size=9)
    deliveries = [a_delivery(lane=lane) for lane in "xxyyz"]
    delivery_queue.put(deliveries, NOON)

    assert take(delivery_queue).deliveries == [deliveries[0], deliveries[2], deliveries[4]]


def test_a_message_that_is_put_back_keeps_its_lane_and_comes_at_its_time():
    delivery_queue = a_delivery_queue(ordered=True)
    first, second = a_delivery(lane="x"), a_delivery(lane="x")
    delivery_queue.put([first, second], NOON)

    delivery_queue.put_back(take(delivery_queue).queued[0], NOON + 5)

    assert delivery_queue.take(NOON + 4) is None
    assert delivery_queue.take_at(NOON) == NOON + 5
    assert taken(delivery_queue, NOON + 5) == [[first]]


def test_stale_messages_are_found_in_every_handler_queue():
    delivery_queue = a_delivery_queue(rate_limit=RateLimit(1))
    old, put_back, used = a_delivery(), a_delivery("b"), a_delivery()
    delivery_queue.put([used, old, put_back], NOON)
    take(delivery_queue)
    delivery_queue.put_back(take(delivery_queue).queued[0], NOON + 99)
    young = a_delivery()
    delivery_queue.put([young], NOON + 1)

    assert delivery_queue.take_stale(NOON + 1) == [old, put_back]
    assert delivery_queue.take_stale(NOON + 1) == []
    assert taken(delivery_queue, NOON + 99) == [[young]]


def test_an_ordered_delivery_queue_has_no_stale_messages():
    delivery_queue = a_delivery_queue(ordered=True)
    delivery_queue.put([a_delivery(lane="x"), a_delivery()], NOON)

    assert delivery_queue.take_stale(NOON + 99) == []


def test_clearing_the_queue_returns_messages_in_order_of_arrival():
    delivery_queue = a_delivery_queue(ordered=True)
    deliveries = [a_delivery(lane=lane) for lane in ("x", "x", "y", "", "y")]
    delivery_queue.put(deliveries, NOON)
    delivery_queue.put_back(take(delivery_queue).queued[0], NOON + 9)

    assert delivery_queue.clear() == deliveries
    assert delivery_queue.clear() == []


steps = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "take", "take", "end", "put back", "give up"]),
        st.sampled_from(["a", "b", "stranger"]),
        st.sampled_from([None, "x", "y"]),
        st.integers(0, 9),
        st.sampled_from([True, False, None]),
    ),
    max_size=60,
)


@given(
    steps=steps,
    ordered=st.booleans(),
    batch_size=st.integers(1, 4),
    rate_limit=st.sampled_from([None, RateLimit(2)]),
    breaker=st.sampled_from([None, BREAKER]),
)
def test_each_message_is_handled_or_requeued_exactly_once(
    steps, ordered, batch_size, rate_limit, breaker
):
    delivery_queue = a_delivery_queue(
        ordered=ordered, batch_size=batch_size, rate_limit=rate_limit, circuit_breaker=breaker
    )
    came, went = Counter[int](), Counter[int]()
    in_flight: list[DeliveryBatch] = []
    now = NOON
    for step, event_type, lane, number, failed in steps:
        now += number / 10
        match step:
            case "put":
                delivery = a_delivery(event_type, priority=number, lane=lane)
                came[delivery.tag] += 1
                delivery_queue.put([delivery], now)
            case "take" if unit := delivery_queue.take(now):
                in_flight.append(unit)
            case "give up":
                went.update(each.tag for each in delivery_queue.take_stale(now - number))
            case "end" | "put back" if in_flight:
                unit = in_flight.pop(number % len(in_flight))
                delivery_queue.ended(unit, now, failed=failed)
                went.update(
                    ended(delivery_queue, unit, again_at=now + number if step != "end" else None)
                )
        assert not ordered or no_lane_is_twice_in(in_flight)

    went.update(each.tag for unit in in_flight for each in unit.deliveries)
    went.update(each.tag for each in delivery_queue.clear())

    assert went == came


def ended(
    delivery_queue: DeliveryQueue, unit: DeliveryBatch, *, again_at: float | None
) -> list[int]:
    """Settle the deliveries of *unit*, or requeue them; returns the tags of the settled ones."""
    for waiting in unit.queued:
        if again_at is None:
            delivery_queue.settled(waiting)
        else:
            delivery_queue.put_back(waiting, again_at)
    return [each.tag for each in unit.deliveries] if again_at is None else []


def no_lane_is_twice_in(units: list[DeliveryBatch]) -> bool:
    lanes = [lane_of(each) for unit in units for each in unit.deliveries]
    return max(Counter(filter(None, lanes)).values(), default=1) == 1


@given(steps=steps, batch_size=st.integers(1, 4), rate_limit=st.sampled_from([None, RateLimit(2)]))
def test_taking_messages_at_each_named_time_handles_everything(steps, batch_size, rate_limit):
    """The queue is polled only when a batch ends, or at the time that it named."""
    delivery_queue = a_delivery_queue(
        batch_size=batch_size, rate_limit=rate_limit, circuit_breaker=BREAKER
    )
    count = 0
    for step, event_type, _, _, _ in steps:
        if step == "put":
            delivery_queue.put([a_delivery(event_type)], NOON)
            count += 1

    now, handled, in_flight = NOON, 0, []
    for number in range(10 * count + 10):
        while (unit := delivery_queue.take(now)) is not None:
            in_flight.append(unit)
        if in_flight:
            unit = in_flight.pop()
            handled += len(unit.deliveries)
            delivery_queue.ended(unit, now, failed=number % 3 == 0)
        elif (at := delivery_queue.take_at(now)) is not None:
            now = max(at, now)

    assert handled == count
