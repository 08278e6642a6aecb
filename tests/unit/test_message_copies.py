"""
The properties and headers of copies of delivered messages.
"""

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest

from consumer.message_copies import (
    dead_letter_reason,
    original_message,
    renewed_copy,
    replay_copy,
    requeue_copy,
    retry_copy,
)
from consumer.storage import stored_message
from outbox.event import Priority
from outbox.wire import codec
from outbox.wire.codec import WireMessage
from outbox.wire.headers import (
    ATTEMPT_HEADER,
    EXCHANGE_HEADER,
    NOT_BEFORE_HEADER,
    PRIORITY_HEADER,
    ROUTING_KEY_HEADER,
    Headers,
    parse,
)
from tests.support.builders import an_event, on_the_wire

MAIN = "main"
LANE = "0123456789abcdef" * 2


def headers_of(message: WireMessage) -> Headers:
    return parse(message.headers)


def a_message(**changes) -> WireMessage:
    return replace(on_the_wire(an_event(), exchange=MAIN), **changes)


def test_a_retried_copy_remembers_where_it_came_from_and_counts():
    first = retry_copy(a_message(routing_key="a.b"), queue="q.retry.1s", attempt=1)
    second = retry_copy(replace(first, routing_key="q"), queue="q.retry.5s", attempt=2)

    assert (second.exchange, second.routing_key) == ("", "q.retry.5s")
    assert headers_of(second).failed_attempts == 2
    assert codec.from_wire(second).routing_key == "a.b"
    assert codec.from_wire(second).exchange == "main"


def test_a_retried_copy_stays_in_its_lane_and_as_old_as_it_was():
    headers = {"x-outbox-lane": LANE, "x-outbox-recorded-at": 7}

    copied = retry_copy(a_message(headers=headers), queue="q", attempt=1)

    assert codec.from_wire(copied).lane == LANE
    assert codec.from_wire(copied).recorded_at == datetime(1970, 1, 1, 0, 0, 7, tzinfo=UTC)


@pytest.mark.parametrize("priority", [0, 9, 200])
def test_all_copies_in_a_retry_queue_have_one_priority_and_remember_their_own(priority):
    first = retry_copy(a_message(priority=priority), queue="q.retry.1s", attempt=1)
    second = retry_copy(first, queue="q.retry.5s", attempt=2)

    for copy in (first, second):
        assert (copy.priority, headers_of(copy).priority) == (4, priority)
        assert codec.from_wire(copy).priority is not Priority.NORMAL
    for copy in (
        renewed_copy(second, queue="q"),
        requeue_copy(second, queue="q", requeues=1),
        replay_copy(second, queue="q", run=UUID(int=7)),
    ):
        assert (copy.priority, headers_of(copy).priority) == (priority, None)


@pytest.mark.parametrize("priority", [None, 4])
def test_a_copy_of_normal_priority_needs_no_header_for_it(priority):
    copy = retry_copy(a_message(priority=priority), queue="q", attempt=1)

    assert copy.priority == priority
    assert PRIORITY_HEADER not in copy.headers


@pytest.mark.parametrize("value", [-1, 256, True, "9", None])
def test_a_remembered_priority_that_makes_no_sense_counts_as_absent(value):
    copy = a_message(priority=9, headers={PRIORITY_HEADER: value})

    assert codec.from_wire(copy).priority is Priority.HIGH


def test_a_dead_letter_of_a_waiting_copy_keeps_the_priority():
    columns = stored_message.to_columns(retry_copy(a_message(priority=9), queue="q", attempt=1))

    assert columns["priority"] == "high"
    stored = stored_message.from_columns(columns)
    assert replay_copy(stored, queue="q", run=UUID(int=7)).priority == 9


def test_a_retried_copy_carries_no_header_of_the_broker():
    message = a_message(headers={"x-death": [], "x-first-death-queue": "q", "CC": [], "source": 1})

    copied = retry_copy(message, queue="q", attempt=1).headers

    assert set(copied) == {
        "source",
        "x-outbox-attempt",
        "x-outbox-exchange",
        "x-outbox-routing-key",
    }


def test_a_retried_copy_omits_headers_that_cannot_be_written():
    message = a_message(headers={"double": 1e300, "bytes": b"\xff", "big": 2**63, "text": "kept"})

    copied = retry_copy(message, queue="q", attempt=1).headers

    assert {"double", "bytes", "big"}.isdisjoint(copied)
    assert copied["text"] == "kept"


def test_a_replayed_copy_resets_its_attempts_and_names_its_run():
    run = UUID("01955000-0000-7000-8000-000000000001")
    message = a_message(headers={**a_message().headers, "x-outbox-attempt": 4, "x-death": "x"})

    copy = replay_copy(retry_copy(message, queue="q", attempt=5), queue="work", run=run)

    assert (copy.exchange, copy.routing_key) == ("", "work")
    assert (copy.message_id, copy.body) == (message.message_id, message.body)
    assert headers_of(copy).failed_attempts == 0
    assert ATTEMPT_HEADER not in copy.headers
    assert "x-death" not in copy.headers
    assert copy.headers[EXCHANGE_HEADER] == "main"
    assert copy.headers[ROUTING_KEY_HEADER] == message.routing_key
    assert headers_of(copy).replay == run
    assert headers_of(retry_copy(copy, queue="q", attempt=1)).replay == run


DEATHS = [
    {"queue": "work", "reason": "expired", "exchange": "main", "routing-keys": ["a.b"]},
    {"queue": "work.retry.1s", "reason": "rejected", "exchange": "", "routing-keys": ["x"]},
]
DEAD = {"exchange": "dlx", "routing_key": "work"}


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"x-death": DEATHS}, "expired"),
        ({"x-death": DEATHS[1:]}, "dead_lettered"),
        ({"x-death": "nonsense"}, "dead_lettered"),
        ({"x-death": [7, {"queue": "work", "reason": "bored"}]}, "dead_lettered"),
        ({"x-last-death-queue": "work", "x-last-death-reason": "maxlen"}, "maxlen"),
        ({"x-last-death-queue": "other", "x-last-death-reason": "maxlen"}, "dead_lettered"),
        ({}, "dead_lettered"),
    ],
)
def test_the_brokers_reason_is_that_of_the_work_queue(headers, reason):
    assert dead_letter_reason(a_message(headers=headers), queue="work") == reason


def test_a_message_from_the_dead_queue_has_its_route_and_no_header_of_the_broker():
    dead = a_message(headers={"x-death": DEATHS, "source": "s"}, **DEAD)

    original = original_message(dead, queue="work")

    assert (original.exchange, original.routing_key) == ("main", "a.b")
    assert original.headers == {"source": "s"}


def test_a_message_without_a_death_header_has_only_its_queue():
    original = original_message(a_message(**DEAD), queue="work")

    assert (original.exchange, original.routing_key) == ("", "work")


def test_a_requeued_copy_counts_its_requeues():
    once = requeue_copy(a_message(), queue="work", requeues=1)
    twice = requeue_copy(once, queue="work", requeues=2)

    assert [headers_of(each).requeues for each in (a_message(), once, twice)] == [0, 1, 2]


def test_a_copy_has_its_not_before_and_the_next_copy_has_none():
    noon = datetime(2026, 1, 2, 12, tzinfo=UTC)
    waiting = retry_copy(a_message(), queue="q", attempt=1, not_before=noon)

    assert headers_of(waiting).not_before == noon
    assert headers_of(retry_copy(waiting, queue="q", attempt=2)).not_before is None


@pytest.mark.parametrize("value", [None, 7, "", "noon", "2026-01-02T12:00:00"])
def test_an_invalid_time_header_is_ignored(value):
    message = a_message(headers={NOT_BEFORE_HEADER: value})

    assert headers_of(message).not_before is None
