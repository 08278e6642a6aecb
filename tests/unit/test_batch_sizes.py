"""
The number of messages that share a transaction: it follows the calls of the handler.
"""

from datetime import timedelta

import pytest

from consumer.batch_sizes import (
    FIRST_PAUSE,
    LEAST_MESSAGES,
    LONG_CALL,
    LONGEST_CALLS,
    LONGEST_PAUSE,
    MOST_MESSAGES,
    BatchSize,
    BatchSizes,
)
from consumer.handler import CircuitBreaker, Handler, RateLimit

NOON = 43_200.0
SHORT, LONG = LONG_CALL / 2, LONG_CALL * 2
QUICK = LONGEST_CALLS / 2
RATE = RateLimit(1)


def a_size_after(*full_batches: timedelta) -> BatchSize:
    """The size after a short call, and then full batches whose calls took this time each."""
    size = BatchSize()
    size.called(1, SHORT, NOON)
    for took in full_batches:
        count = size.at(NOON)
        size.called(count, took * count, NOON)
    return size


def test_the_first_message_has_a_transaction_of_its_own():
    assert BatchSize().at(NOON) == 1


def test_full_batches_of_short_calls_double_the_size_up_to_the_most():
    sizes = [a_size_after(*[SHORT] * count).at(NOON) for count in range(6)]

    assert sizes == [8, 16, 32, 64, 64, 64]
    assert (sizes[0], sizes[-1]) == (LEAST_MESSAGES, MOST_MESSAGES)


def test_a_batch_that_was_not_full_leaves_the_size():
    size = a_size_after(SHORT)
    size.called(3, SHORT * 3, NOON)

    assert size.at(NOON) == 16


def test_long_calls_halve_the_size_until_each_message_is_alone():
    assert [a_size_after(SHORT, SHORT, *[LONG] * count).at(NOON) for count in range(4)] == [
        32,
        16,
        8,
        1,
    ]


def test_one_long_call_in_a_batch_that_was_not_full_halves_the_size_too():
    size = a_size_after(SHORT)
    size.called(1, LONG_CALL * LEAST_MESSAGES * 1.1, NOON)

    assert size.at(NOON) == 8


def test_a_failure_halves_the_size():
    size = a_size_after(SHORT, SHORT)
    size.failed(QUICK, NOON)

    assert size.at(NOON) == 16


def test_after_a_failure_that_took_long_messages_are_alone_until_a_call_was_short():
    size = a_size_after(SHORT, SHORT, SHORT)
    size.failed(LONGEST_CALLS * 1.1, NOON)
    later = NOON + FIRST_PAUSE.total_seconds()

    assert (size.at(NOON), size.at(later)) == (1, 1)
    size.called(1, SHORT, later)
    assert size.at(later) == LEAST_MESSAGES


def test_messages_are_alone_for_a_pause_that_doubles_up_to_the_longest():
    size, now, pauses = a_size_after(), NOON, []
    for _ in range(8):
        size.failed(QUICK, now)
        pause = next(
            seconds / 10
            for seconds in range(1, 200)
            if size.at(now + seconds / 10) == LEAST_MESSAGES
        )
        pauses.append(pause)
        now += pause

    assert pauses[:3] == [FIRST_PAUSE.total_seconds() * factor for factor in (1, 2, 4)]
    assert pauses[-2:] == [LONGEST_PAUSE.total_seconds()] * 2


def test_failures_of_messages_that_are_alone_already_do_not_prolong_the_pause():
    size = a_size_after()
    size.failed(QUICK, NOON)
    for _ in range(9):
        size.failed(QUICK, NOON + FIRST_PAUSE.total_seconds() / 2)

    assert size.at(NOON + FIRST_PAUSE.total_seconds()) == LEAST_MESSAGES


def test_long_calls_never_share_a_transaction_however_long_ago_they_were():
    size = BatchSize()
    size.called(1, LONG_CALL * LEAST_MESSAGES * 1.1, NOON)

    assert size.at(NOON + 3600) == 1


def test_only_handlers_without_a_batch_size_have_one_that_is_decided():
    given, open_ = Handler("a", batch_size=9), Handler("b", batch_size=None)
    sizes = BatchSizes({"a": given, "b": open_})

    assert sizes.of(given) is None
    assert sizes.of(open_) == BatchSize()


@pytest.mark.parametrize("pace", [{"circuit_breaker": CircuitBreaker()}, {"rate_limit": RATE}])
def test_messages_share_no_transaction_if_each_call_counts(pace):
    handler = Handler("a", batch_size=None, **pace)

    assert BatchSizes({"a": handler}).of(handler) is None
