"""
Settings and registrations that contradict each other are refused.
"""

from datetime import timedelta

import pytest

from consumer import Consumer, RateLimit, RetrySchedule
from consumer.checks import check, horizon, prefetch
from consumer.settings import ConsumerSettings
from outbox.errors import ConfigurationError

HOUR = timedelta(hours=1)


async def handle(*_) -> None: ...


def a_consumer(**options) -> Consumer:
    consumer = Consumer("etl", bindings=["#"])
    consumer.on("a", **options)(handle)
    return consumer


def settings(**values) -> ConsumerSettings:
    return ConsumerSettings(_env_file=None, **values)


def test_the_defaults_fit_together():
    check(a_consumer(), settings())


def test_the_horizon_is_the_longest_time_that_a_message_can_travel():
    of = settings(
        retry_delays=(60, 120),
        max_retries=3,
        message_ttl_seconds=3600,
        max_requeues=2,
        replay_window_hours=10,
    )

    waits = timedelta(seconds=60 + 120 + 120)
    assert horizon(a_consumer(), of) == waits + 6 * HOUR + 10 * HOUR
    own = a_consumer(retry=RetrySchedule([HOUR], max_retries=20))
    assert horizon(own, of) == 20 * HOUR + 23 * HOUR + 10 * HOUR
    often = a_consumer(retry=RetrySchedule([timedelta(seconds=1)], max_retries=30))
    assert horizon(often, of) == timedelta(seconds=30) + 33 * HOUR + 10 * HOUR


@pytest.mark.parametrize(
    ("options", "values", "setting"),
    [
        ({}, {"deduplication_retention_hours": 168}, "MQ_DEDUPLICATION_RETENTION_HOURS"),
        ({"retry": RetrySchedule([24 * HOUR], 30)}, {}, "MQ_DEDUPLICATION_RETENTION_HOURS"),
        ({}, {"message_ttl_seconds": 900}, "MQ_MESSAGE_TTL_SECONDS"),
        (
            {"retry": RetrySchedule([HOUR], 1)},
            {"message_ttl_seconds": 1000},
            "MQ_MESSAGE_TTL_SECONDS",
        ),
        ({"batch_size": 100}, {"prefetch": 99}, "MQ_PREFETCH"),
    ],
)
def test_a_contradiction_is_one_line_that_names_the_setting(options, values, setting):
    with pytest.raises(ConfigurationError, match=f"^{setting}: ") as refused:
        check(a_consumer(**options), settings(**values))

    assert len(str(refused.value).splitlines()) == 1


def test_a_parked_message_may_stay_for_longer_than_all_its_retries_take():
    ordered = Consumer("etl", bindings=["#"], ordered=True)
    ordered.on("a", retry=RetrySchedule([HOUR], 24))(handle)

    with pytest.raises(ConfigurationError, match=r"^MQ_PARKED_BODY_RETENTION_DAYS: .* 1\.0 days"):
        check(ordered, settings(parked_body_retention_days=1))

    check(ordered, settings(parked_body_retention_days=2))


def test_the_prefetch_is_enough_for_handlers_and_batches():
    assert prefetch(a_consumer(), settings()) == 128
    assert prefetch(a_consumer(batch_size=1), settings()) == 64
    assert prefetch(a_consumer(rate_limit=RateLimit(9)), settings()) == 64
    assert prefetch(a_consumer(), settings(concurrency=50, database_pool_size=55)) == 150
    assert prefetch(a_consumer(batch_size=500), settings()) == 1500
    assert prefetch(a_consumer(), settings(prefetch=9)) == 9
