"""
Messages that may end their process are held back, and handled alone.
"""

from collections.abc import Sequence

import pytest

from consumer.dispatch.delivery_queue import DeliveryQueue
from consumer.dispatch.suspects import hold_seconds
from consumer.handler import Handler
from outbox.transports.delivery import Delivery
from outbox.wire.codec import WireMessage

NOON = 43_200.0
LIMIT = 20


def a_delivery(tag: int, event_type: str = "a") -> Delivery:
    message = WireMessage(exchange="", routing_key="q", body=b"", type=event_type)
    return Delivery(message, tag, redelivered=True)


def a_queue(**strikes: int) -> DeliveryQueue:
    """A queue of one delivery of each type in *strikes*, with that many strikes."""
    queue = DeliveryQueue({name: Handler(name) for name in strikes}, limit=LIMIT)
    deliveries = [a_delivery(tag, name) for tag, name in enumerate(strikes)]
    queue.put(deliveries, NOON, strikes=dict(enumerate(strikes.values())))
    return queue


def taken(queue: DeliveryQueue, now: float) -> list[str | None]:
    batches = list(iter(lambda: queue.take(now), None))
    return [each.message.type for batch in batches for each in batch.deliveries]


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [
        (20, [1, 2, 4, 8, 16, 32, 64, 128, *[256] * 10]),
        (6, [1.25, 2.5, 5, 10]),
        (3, [10]),
    ],
)
def test_each_strike_doubles_the_time_and_the_last_one_is_never_soon(
    limit: int, seconds: Sequence[float]
):
    assert [hold_seconds(strikes, limit) for strikes in range(2, limit)] == seconds


def test_a_message_with_fewer_than_two_strikes_is_handled_like_any_other():
    assert taken(a_queue(a=0, b=1), NOON) == ["a", "b"]


def test_a_suspect_is_held_back_and_then_handled_alone():
    queue = a_queue(a=0, b=2)
    first = queue.take(NOON)
    assert first is not None
    assert queue.take(NOON) is None
    assert queue.take_at(NOON) == NOON + 1
    queue.put([a_delivery(7)], NOON + 1)

    assert queue.take(NOON + 1) is None  # it waits for the end of the first one, and so do others

    queue.ended(first, NOON + 2, failed=False)
    queue.left(first, opens_lanes=False)
    suspect = queue.take(NOON + 2)
    assert suspect is not None
    assert suspect.deliveries[0].message.type == "b"
    assert taken(queue, NOON + 2) == []

    queue.ended(suspect, NOON + 3, failed=False)
    queue.left(suspect, opens_lanes=False)
    assert taken(queue, NOON + 3) == ["a"]


def test_a_suspect_whose_connection_is_lost_is_held_back_from_its_first_delivery_on():
    """Otherwise it would never be handled if connections end sooner, and its lane would wait."""
    queue = DeliveryQueue({"a": Handler("a")}, limit=LIMIT)
    message = WireMessage(exchange="", routing_key="q", body=b"", type="a", message_id="m")

    for seconds in (0, 100, 200):
        queue.clear()
        queue.put([Delivery(message, 1, redelivered=True)], NOON + seconds, strikes={1: LIMIT - 1})

    assert queue.take_at(NOON + 200) == NOON + 256
    assert taken(queue, NOON + 256) == ["a"]

    queue.put([Delivery(message, 1, redelivered=True)], NOON + 300, strikes={1: LIMIT - 1})

    assert queue.take(NOON + 300) is None


def test_suspects_take_at_most_half_of_the_time():
    queue = a_queue(b=2, c=2, a=0)
    queue.clear()
    queue.put([a_delivery(1, "b"), a_delivery(2, "c")], NOON, strikes={1: 2, 2: 2})
    suspect = queue.take(NOON + 1)
    assert suspect is not None
    queue.put([a_delivery(3, "a")], NOON + 1)
    queue.ended(suspect, NOON + 11, failed=False)
    queue.left(suspect, opens_lanes=False)

    assert taken(queue, NOON + 11) == ["a"]
    assert taken(queue, NOON + 20) == []
    assert queue.take_at(NOON + 20) == NOON + 21


def test_a_message_at_the_limit_is_taken_at_once_to_be_given_up():
    queue = a_queue(a=LIMIT)

    batch = queue.take(NOON)

    assert batch is not None
    assert (batch.handler, batch.queued[0].strikes) == (None, LIMIT)


def test_suspects_go_back_to_the_broker_with_all_others():
    queue = a_queue(a=0, b=2, c=LIMIT)

    assert [each.message.type for each in queue.clear()] == ["a", "b", "c"]
    assert queue.take_at(NOON) is None
