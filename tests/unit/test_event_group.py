from datetime import timedelta

import pytest

from outbox.transports.routes import RouteState
from relay.advice import advice, binding
from relay.event_group import EventGroup, EventState, RouteCount, bounded, oldest_age
from relay.measured_rows import Measured, Part, groups, state_of

SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)


def a_group(state: EventState, **values) -> EventGroup:
    usual = {"type": "a", "reason": None, "rows": 1, "exact": True, "attempts": 0}
    return EventGroup(state, **{**usual, "oldest_age": SECOND, **values})


def a_route(binding: RouteState = RouteState.UNKNOWN, *, exchange: str = "main") -> RouteCount:
    return RouteCount(exchange, "a.b", 1, binding)


@pytest.mark.parametrize(
    ("part", "facts", "expected"),
    [
        (Part.UNKEYED, {}, ("ready", None)),
        (Part.UNKEYED, {"last_error": "refused"}, ("ready", "refused")),
        (Part.UNKEYED, {"last_error": "Jane Doe"}, ("ready", "other")),
        (Part.UNKEYED, {"is_locked": True}, ("in_flight", None)),
        (Part.KEYED, {}, ("ready", None)),
        (Part.KEYED, {"head_waits": True}, ("blocked", "waiting")),
        (Part.KEYED, {"head_waits": True, "head_error": "refused"}, ("blocked", "refused")),
        (Part.KEYED, {"head_waits": True, "head_error": "Jane"}, ("blocked", "other")),
        (Part.WAITING, {}, ("waiting", None)),
        (Part.WAITING, {"is_due": True}, ("ready", None)),
        (Part.WAITING, {"last_error": "unroutable"}, ("unroutable", "unroutable")),
        (Part.WAITING, {"last_error": "refused", "is_due": True}, ("refused", "refused")),
        (Part.WAITING, {"last_error": "unsettled"}, ("unsettled", "unsettled")),
        (Part.WAITING, {"last_error": "Jane Doe"}, ("waiting", "other")),
    ],
)
def test_a_row_has_one_state_and_a_code_for_its_reason(part, facts, expected):
    assert state_of(Measured(part, "a", 1, **facts)) == expected


def test_rows_of_one_state_type_and_reason_are_one_group():
    found = groups(
        [
            Measured(Part.UNKEYED, "a", 2, oldest_age=SECOND, routing_key="a.b"),
            Measured(Part.KEYED, "a", 3, attempts=4, oldest_age=HOUR, routing_key="a.b"),
            Measured(Part.WAITING, "a", 1, is_due=True, next_in=-SECOND, routing_key="c"),
            Measured(Part.WAITING, "b", 9, next_in=HOUR),
        ],
        limit=100,
    )

    assert found == [
        a_group(
            EventState.READY,
            rows=6,
            attempts=4,
            oldest_age=HOUR,
            next_attempt_in=timedelta(0),
            routes=[RouteCount(None, "a.b", 5), RouteCount(None, "c", 1)],
        ),
        a_group(
            EventState.WAITING,
            type="b",
            rows=9,
            oldest_age=timedelta(0),
            next_attempt_in=HOUR,
            routes=[],
        ),
    ]


def test_a_number_is_exact_unless_rows_of_its_state_may_have_been_left_out():
    """A ready event may be among the rows with a key, of which not all were read."""
    found = groups(
        [
            Measured(Part.UNKEYED, "a", 1),
            Measured(Part.KEYED, "b", 3, head_waits=True, head_error="refused"),
            Measured(Part.WAITING, "c", 2, last_error="refused"),
        ],
        limit=3,
    )

    assert {group.type: group.exact for group in found} == {"a": False, "b": False, "c": True}


def test_the_oldest_age_leaves_out_what_waits_as_its_producer_wants():
    found = [
        a_group(EventState.WAITING, oldest_age=9 * HOUR),
        a_group(EventState.BLOCKED, oldest_age=2 * HOUR),
        a_group(EventState.READY, oldest_age=HOUR),
    ]

    assert oldest_age(found) == 2 * HOUR
    assert oldest_age(found, EventState.READY, EventState.IN_FLIGHT) == HOUR
    failed = a_group(EventState.WAITING, reason="other", oldest_age=3 * HOUR)
    assert oldest_age([*found, failed]) == 3 * HOUR
    assert oldest_age([]) == timedelta(0)


def test_groups_are_bounded_to_the_most_frequent_types_and_to_types_that_events_can_have():
    found = [
        *(a_group(EventState.READY, type=f"t.{n}", rows=n) for n in range(1, 6)),
        a_group(EventState.READY, type="Jane Doe", rows=99, exact=False, oldest_age=HOUR),
        a_group(EventState.REFUSED, type="t.1", reason="refused", next_attempt_in=SECOND),
    ]

    few = bounded(found, types=2)

    assert {(group.state.value, group.type): group.rows for group in few} == {
        ("ready", "t.5"): 5,
        ("ready", "t.4"): 4,
        ("ready", "other"): 1 + 2 + 3 + 99,
        ("refused", "other"): 1,
    }
    [other] = [group for group in few if group.rows > 99]
    assert (other.exact, other.oldest_age) == (False, HOUR)


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        (
            a_group(EventState.UNROUTABLE, routes=[a_route(RouteState.NO_QUEUE)]),
            "unroutable: no queue is bound to a.b on exchange main: bind one",
        ),
        (
            a_group(EventState.UNROUTABLE, routes=[a_route(RouteState.NO_EXCHANGE)]),
            "unroutable: exchange main does not exist: `relay topology` declares it",
        ),
        (
            a_group(EventState.READY, routes=[a_route(RouteState.NO_EXCHANGE, exchange="other")]),
            (
                "ready: exchange other does not exist: name it in MQ_EXCHANGES, so that"
                " relays and consumers declare it, and bind a queue"
            ),
        ),
        (
            a_group(
                EventState.UNROUTABLE, next_attempt_in=HOUR, routes=[a_route(RouteState.BOUND)]
            ),
            "unroutable: a queue is bound to a.b on exchange main by now: the next attempt is",
        ),
        (
            a_group(EventState.UNROUTABLE, routes=[a_route()]),
            "unroutable: no queue was bound to a.b on exchange main at the last attempt",
        ),
        (
            a_group(EventState.REFUSED, routes=[a_route(RouteState.BOUND)]),
            "refused: a queue that a.b leads to on exchange main is full, or the relay's user may",
        ),
        (a_group(EventState.UNSETTLED), "unsettled: a trigger or constraint of another program"),
        (
            a_group(EventState.BLOCKED, reason="waiting", next_attempt_in=HOUR),
            "blocked: an earlier event of the same ordering key waits for its time, in 1:00:00",
        ),
        (
            a_group(EventState.BLOCKED, reason="refused"),
            "blocked: an earlier event of the same ordering key has failed (refused)",
        ),
        (a_group(EventState.READY, oldest_age=HOUR), "ready: no relay runs, or it cannot publish"),
    ],
)
def test_each_cause_has_a_line_that_says_what_solves_it(group, expected):
    [line] = advice([group, group], main_exchange="main")

    assert line.startswith(expected)


def test_events_that_need_no_help_have_no_line():
    content = [
        a_group(EventState.READY, routes=[a_route()]),
        a_group(EventState.IN_FLIGHT, oldest_age=HOUR),
        a_group(EventState.WAITING, oldest_age=HOUR, routes=[a_route(RouteState.BOUND)]),
    ]

    assert advice(content, main_exchange="main") == []


def test_the_binding_of_a_group_is_that_of_its_worst_route():
    assert binding([a_route(RouteState.BOUND), a_route(RouteState.NO_QUEUE)]) == "no_queue"
    assert binding([a_route(RouteState.BOUND), a_route()]) == "unknown"
    assert binding([]) is None
