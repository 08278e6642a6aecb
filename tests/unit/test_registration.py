"""
Registrations with a consumer, and errors that name the wrong argument.
"""

from datetime import timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

import outbox
from consumer import (
    CircuitBreaker,
    Consumer,
    OnLeaseExpired,
    RateLimit,
    Reject,
    Retry,
    RetrySchedule,
)
from consumer.handler import Handler, Lease
from outbox.errors import ConfigurationError

SECOND = timedelta(seconds=1)
NOTHING = timedelta(0)


async def handle(*_: Any) -> None: ...


def a_consumer(**changes: Any) -> Consumer:
    return Consumer("etl", **{"bindings": ["#"], **changes})


def test_a_handler_is_registered_with_the_given_options():
    consumer = a_consumer()
    limit, breaker, retry = RateLimit(5), CircuitBreaker(), RetrySchedule([SECOND], 1)

    decorated = consumer.on(
        "a", batch_size=9, timeout=SECOND, rate_limit=limit, circuit_breaker=breaker, retry=retry
    )(handle)

    assert decorated is handle
    assert consumer.handlers["a"] == Handler(
        "a",
        function=handle,
        batch_size=9,
        timeout=SECOND,
        rate_limit=limit,
        circuit_breaker=breaker,
        retry=retry,
    )


def test_a_handler_of_batches_takes_lists():
    consumer = a_consumer()

    consumer.on_batch("a", size=9)(handle)

    assert consumer.handlers["a"] == Handler("a", function=handle, batch_size=9, takes_list=True)


def test_a_leased_handler_has_a_lease():
    consumer = a_consumer()

    consumer.on_leased("a", lease=5 * SECOND, on_expired=OnLeaseExpired.DEAD_LETTER)(handle)

    lease = Lease(5 * SECOND, OnLeaseExpired.DEAD_LETTER)
    assert consumer.handlers["a"] == Handler("a", function=handle, lease=lease)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"name": "no spaces"}, "consumer name"),
        ({"name": ""}, "consumer name"),
        ({"bindings": []}, "consumer etl: bindings"),
        ({"name": "relay"}, "consumer name"),
        ({"bindings": "health.#"}, "consumer etl: bindings"),
        ({"bindings": [1]}, "consumer etl: bindings"),
        ({"bindings": ["a" * 256]}, "consumer etl: bindings"),
        ({"bindings": ["\ud800"]}, "consumer etl: bindings"),
        ({"bindings": 5}, "consumer etl: bindings"),
        ({"queue": "my queue"}, "consumer etl: queue"),
        ({"queue": 1}, "consumer etl: queue"),
    ],
)
def test_a_consumer_that_cannot_work_is_refused(changes, named):
    with pytest.raises(ConfigurationError, match=f"^{named}: |^{named} must"):
        Consumer(**{"name": "etl", "bindings": ["#"], **changes})


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 5_001}, "batch_size"),
        ({"timeout": NOTHING}, "timeout"),
        ({"timeout": -SECOND}, "timeout"),
        ({"timeout": 5}, "timeout"),
        ({"batch_size": "9"}, "batch_size"),
        ({"rate_limit": 100}, "rate_limit"),
        ({"circuit_breaker": True}, "circuit_breaker"),
        ({"retry": [SECOND]}, "retry"),
        ({"model": dict}, "model"),
        ({"filter": "kind"}, "filter"),
        ({"filters": handle}, "filters"),
        ({"lease": SECOND}, "lease"),
        ({"on_expired": OnLeaseExpired.RETRY}, "on_expired"),
    ],
)
def test_an_option_that_cannot_work_is_refused_by_its_name(options, named):
    consumer = a_consumer()

    with pytest.raises(ConfigurationError, match=f"^consumer etl: a: {named}: "):
        consumer.on("a", **options)

    assert consumer.handlers == {}


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (partial(RateLimit, 0), "rate_limit"),
        (partial(RateLimit, 1, NOTHING), "rate_limit"),
        (partial(CircuitBreaker, failures=0), "circuit_breaker"),
        (partial(CircuitBreaker, pause=NOTHING), "circuit_breaker"),
        (partial(Lease, timedelta(milliseconds=999), OnLeaseExpired.DEAD_LETTER), "lease"),
    ],
    ids=str,
)
def test_a_value_that_cannot_work_is_refused_where_it_is_made(make, named):
    with pytest.raises(ConfigurationError, match=f"^{named}: "):
        make()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"lease": 30}, "lease"),
        ({"on_expired": "dead_letter"}, "on_expired"),
        ({"batch_size": 2}, "batch_size"),
    ],
)
def test_an_option_of_a_leased_handler_that_cannot_work_is_refused_by_its_name(options, named):
    """A plain string for `on_expired` would leave messages with an expired lease for ever."""
    consumer = a_consumer()

    with pytest.raises(ConfigurationError, match=f"^consumer etl: a: {named}: "):
        consumer.on_leased("a", **options)

    assert consumer.handlers == {}


def test_a_type_has_one_handler_of_any_kind():
    consumer = a_consumer()
    consumer.on("a")(handle)

    for again in (
        lambda: consumer.on("a"),
        lambda: consumer.on_batch("a", size=2),
        lambda: consumer.on_leased("a"),
    ):
        with pytest.raises(ConfigurationError, match=r"^consumer etl: a has a handler already$"):
            again()


@pytest.mark.parametrize("event_type", ["", "no spaces", "a" * 200, "a..b"])
def test_a_type_that_no_event_can_have_is_refused(event_type):
    with pytest.raises(ConfigurationError, match=r"^consumer etl: "):
        a_consumer().on(event_type)


def test_an_ordered_consumer_takes_no_leases_and_no_breakers():
    """While either waits, all later messages of the key would have to wait."""
    consumer = a_consumer(ordered=True)

    consumer.on("a", batch_size=9, rate_limit=RateLimit(1))(handle)
    for refused in (
        lambda: consumer.on("b", circuit_breaker=CircuitBreaker()),
        lambda: consumer.on_batch("b", size=2, circuit_breaker=CircuitBreaker()),
        lambda: consumer.on_leased("b"),
    ):
        with pytest.raises(
            ConfigurationError, match=r"^consumer etl: b: an ordered consumer takes no"
        ):
            refused()
    assert set(consumer.handlers) == {"a"}


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: RateLimit(float("nan")), "rate_limit: messages"),
        (lambda: RateLimit(1, per=1), "rate_limit: per"),
        (lambda: CircuitBreaker("many"), "circuit_breaker: failures"),
        (lambda: CircuitBreaker(1, pause=1), "circuit_breaker: pause"),
        (lambda: Retry(after=5), "after"),
        (lambda: Reject(5), "reason"),
        (lambda: outbox.allow_headers(5), "headers"),
        (lambda: outbox.add(None), "session"),
        (lambda: outbox.insert(SimpleNamespace(to_event=lambda: "no event")), "events"),
    ],
)
def test_an_argument_of_another_type_is_named(make, argument):
    with pytest.raises((ConfigurationError, ValueError), match=f"^{argument}: "):
        make()
