"""
What is handled next, and that nothing is forgotten.
"""

import itertools
from collections import Counter
from datetime import timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from consumer import CircuitBreaker, RateLimit
from consumer.dispatch.delivery_queue import Board
from consumer.execution.work_unit import Unit
from consumer.handler import Handler
from outbox.transports.base import Delivery
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


def a_board(*, ordered: bool = False, **options: Any) -> Board:
    handlers = {"a": Handler("a", **options), "b": Handler("b")}
    return Board(handlers, lane_of=lane_of if ordered else None)


def lane_of(delivery: Delivery) -> str | None:
    return delivery.message.headers.get("lane")


def taken(board: Board, now: float = NOON) -> list[list[Delivery]]:
    """All units that can be taken now."""
    return [unit.deliveries for unit in iter(lambda: board.take(now), None)]


def take(board: Board, now: float = NOON) -> Unit:
    unit = board.take(now)
    assert unit is not None
    return unit


def test_what_came_first_is_handled_first_whatever_its_type():
    board, deliveries = a_board(), [a_delivery(name) for name in ("a", "b", "stranger", "a")]
    board.put(deliveries, NOON)

    assert taken(board) == [[each] for each in deliveries]


def test_what_has_no_handler_is_a_unit_without_one():
    board = a_board()
    board.put([a_delivery("stranger"), a_delivery("a")], NOON)

    assert take(board).handler is None
    assert take(board).handler == Handler("a")


def test_higher_priorities_go_first_and_none_counts_as_normal():
    board = a_board()
    low, none, normal, high = (
        a_delivery(name, priority=priority)
        for name, priority in (("a", 0), ("b", None), ("a", 4), ("b", 9))
    )
    board.put([low, none, normal, high], NOON)

    assert taken(board) == [[high], [none], [normal], [low]]


def test_an_ordered_board_knows_no_priorities():
    board = a_board(ordered=True)
    first, second = a_delivery(lane="x", priority=0), a_delivery(lane="y", priority=9)
    board.put([first, second], NOON)

    assert taken(board) == [[first], [second]]


def test_a_batch_is_all_that_waits_up_to_its_size():
    board, deliveries = a_board(batch_size=3), [a_delivery() for _ in range(4)]
    board.put(deliveries[:2], NOON)

    unit = take(board)
    assert unit.deliveries == deliveries[:2]

    board.put(deliveries[2:], NOON)
    board.ended(unit, NOON, failed=False)
    assert taken(board) == [deliveries[2:]]


def test_beside_a_batch_only_a_full_one_is_handled():
    board = a_board(batch_size=3)
    board.put([a_delivery()], NOON)
    first = take(board)

    board.put([a_delivery() for _ in range(5)], NOON)

    assert [len(unit) for unit in taken(board)] == [3]
    board.ended(first, NOON, failed=False)
    assert taken(board) == []


def test_beside_a_batch_a_rate_allows_a_full_one_or_none():
    board = a_board(batch_size=3, rate_limit=RateLimit(4))
    board.put([a_delivery()], NOON)
    first = take(board)
    board.put([a_delivery() for _ in range(6)], NOON)
    second = take(board)

    assert [len(unit.deliveries) for unit in (first, second)] == [1, 3]
    assert board.take(NOON) is None
    assert board.take_at() == NOON + 0.75
    board.ended(first, NOON, failed=False)
    board.ended(second, NOON, failed=False)
    assert board.take_at() == NOON + 0.25


def test_a_batch_larger_than_its_rate_is_handled_alone():
    board = a_board(batch_size=3, rate_limit=RateLimit(2))
    board.put([a_delivery() for _ in range(5)], NOON)

    assert len(take(board).deliveries) == 2
    assert board.take(NOON + 9) is None
    assert board.take_at() is None


def test_a_rate_that_is_used_up_holds_up_no_other_handler():
    board = a_board(rate_limit=RateLimit(1))
    first, second, other = a_delivery("a"), a_delivery("a"), a_delivery("b")
    board.put([first, second, other], NOON)

    assert taken(board) == [[first], [other]]
    assert board.take_at() == NOON + 1
    assert taken(board, NOON + 1) == [[second]]


def test_while_a_breaker_is_open_its_handler_gets_nothing_and_then_one_message():
    board = a_board(batch_size=3, circuit_breaker=BREAKER)
    board.put([a_delivery() for _ in range(3)], NOON)
    unit = take(board)
    board.ended(unit, NOON, failed=True)
    board.put([a_delivery() for _ in range(6)], NOON)

    assert board.is_patient(unit.handler)
    assert board.take(NOON) is None
    assert board.take_at() == NOON + PAUSE
    probe = take(board, NOON + PAUSE)
    assert len(probe.deliveries) == 1
    assert board.take(NOON + PAUSE) is None

    board.ended(probe, NOON + PAUSE, failed=False)
    assert not board.is_patient(unit.handler)
    assert len(take(board, NOON + PAUSE).deliveries) == 3


def test_while_only_an_end_can_help_no_time_is_named():
    """Otherwise the desk would look again and again."""
    probing, batching = a_board(circuit_breaker=BREAKER), a_board(batch_size=9)
    probing.put([a_delivery() for _ in range(3)], NOON)
    probing.ended(take(probing), NOON, failed=True)
    take(probing, NOON + PAUSE)
    batching.put([a_delivery()], NOON)
    take(batching)
    batching.put([a_delivery()], NOON)

    assert (probing.take_at(), batching.take_at()) == (None, None)


def test_a_probe_that_was_not_handled_makes_room_for_another():
    board = a_board(circuit_breaker=BREAKER)
    board.put([a_delivery() for _ in range(3)], NOON)
    board.ended(take(board), NOON, failed=True)

    board.ended(take(board, NOON + PAUSE), NOON + PAUSE, failed=None)

    assert board.is_patient(Handler("a", circuit_breaker=BREAKER))
    assert board.take(NOON + PAUSE) is not None


def test_of_a_lane_one_is_handled_at_a_time_in_the_order_in_which_they_came():
    board = a_board(ordered=True)
    first, second, third = (a_delivery(name, lane="x") for name in ("a", "b", "a"))
    free = a_delivery()
    board.put([first, second, free, third], NOON)

    unit = take(board)
    assert unit.deliveries == [first]
    assert taken(board) == [[free]]
    board.settled(unit.waiting[0])
    unit = take(board)
    assert unit.deliveries == [second]
    board.settled(unit.waiting[0])
    assert taken(board) == [[third]]


def test_a_batch_has_one_of_each_lane():
    board = a_board(ordered=True, batch_size=9)
    deliveries = [a_delivery(lane=lane) for lane in "xxyyz"]
    board.put(deliveries, NOON)

    assert take(board).deliveries == [deliveries[0], deliveries[2], deliveries[4]]


def test_what_is_put_back_keeps_its_lane_and_comes_at_its_time():
    board = a_board(ordered=True)
    first, second = a_delivery(lane="x"), a_delivery(lane="x")
    board.put([first, second], NOON)

    board.put_back(take(board).waiting[0], NOON + 5)

    assert board.take(NOON + 4) is None
    assert board.take_at() == NOON + 5
    assert taken(board, NOON + 5) == [[first]]


def test_stale_is_what_waits_since_before_a_time_wherever_it_waits():
    board = a_board(rate_limit=RateLimit(1))
    old, put_back, used = a_delivery(), a_delivery("b"), a_delivery()
    board.put([used, old, put_back], NOON)
    take(board)
    board.put_back(take(board).waiting[0], NOON + 99)
    young = a_delivery()
    board.put([young], NOON + 1)

    assert board.stale(NOON + 1) == [old, put_back]
    assert board.stale(NOON + 1) == []
    assert taken(board, NOON + 99) == [[young]]


def test_of_an_ordered_board_nothing_is_stale():
    board = a_board(ordered=True)
    board.put([a_delivery(lane="x"), a_delivery()], NOON)

    assert board.stale(NOON + 99) == []


def test_what_is_cleared_is_in_the_order_in_which_it_came():
    board = a_board(ordered=True)
    deliveries = [a_delivery(lane=lane) for lane in ("x", "x", "y", "", "y")]
    board.put(deliveries, NOON)
    board.put_back(take(board).waiting[0], NOON + 9)

    assert board.clear() == deliveries
    assert board.clear() == []


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
def test_what_is_put_is_handled_or_given_back_exactly_once(
    steps, ordered, batch_size, rate_limit, breaker
):
    board = a_board(
        ordered=ordered, batch_size=batch_size, rate_limit=rate_limit, circuit_breaker=breaker
    )
    came, went = Counter[int](), Counter[int]()
    in_flight: list[Unit] = []
    now = NOON
    for step, event_type, lane, number, failed in steps:
        now += number / 10
        match step:
            case "put":
                delivery = a_delivery(event_type, priority=number, lane=lane)
                came[delivery.tag] += 1
                board.put([delivery], now)
            case "take" if unit := board.take(now):
                in_flight.append(unit)
            case "give up":
                went.update(each.tag for each in board.stale(now - number))
            case "end" | "put back" if in_flight:
                unit = in_flight.pop(number % len(in_flight))
                board.ended(unit, now, failed=failed)
                went.update(ended(board, unit, again_at=now + number if step != "end" else None))
        assert not ordered or no_lane_is_twice_in(in_flight)

    went.update(each.tag for unit in in_flight for each in unit.deliveries)
    went.update(each.tag for each in board.clear())

    assert went == came


def ended(board: Board, unit: Unit, *, again_at: float | None) -> list[int]:
    """Settle the deliveries of *unit*, or put them back; returns the tags of those settled."""
    for waiting in unit.waiting:
        if again_at is None:
            board.settled(waiting)
        else:
            board.put_back(waiting, again_at)
    return [each.tag for each in unit.deliveries] if again_at is None else []


def no_lane_is_twice_in(units: list[Unit]) -> bool:
    lanes = [lane_of(each) for unit in units for each in unit.deliveries]
    return max(Counter(filter(None, lanes)).values(), default=1) == 1


@given(steps=steps, batch_size=st.integers(1, 4), rate_limit=st.sampled_from([None, RateLimit(2)]))
def test_who_comes_whenever_it_is_time_handles_everything(steps, batch_size, rate_limit):
    """A unit that is done, or the time that was named: nothing else is needed."""
    board = a_board(batch_size=batch_size, rate_limit=rate_limit, circuit_breaker=BREAKER)
    count = 0
    for step, event_type, _, _, _ in steps:
        if step == "put":
            board.put([a_delivery(event_type)], NOON)
            count += 1

    now, handled, in_flight = NOON, 0, []
    for number in range(10 * count + 10):
        while (unit := board.take(now)) is not None:
            in_flight.append(unit)
        if in_flight:
            unit = in_flight.pop()
            handled += len(unit.deliveries)
            board.ended(unit, now, failed=number % 3 == 0)
        elif (at := board.take_at()) is not None:
            now = max(at, now)

    assert handled == count
