"""
Names of the documents that a user may bring along: settings, metrics, delays.
"""

from datetime import timedelta

import pytest

from consumer import RetrySchedule
from consumer.settings import ConsumerSettings
from outbox.errors import ConfigurationError
from outbox.settings import load
from tests.reference import metrics

KNOWN = {
    "MQ_MAIN_EXCHANGE": "health_data_exchange",
    "MQ_DLX_EXCHANGE": "health_data_dlx",
    "MQ_PROCESSING_QUEUE": "health_data_processing",
    "MQ_MAX_RETRIES": "3",
    "MQ_RETRY_DELAYS": "[30, 300, 900]",
    "MQ_DEDUPLICATION_RETENTION_HOURS": "720",
    "MQ_MESSAGE_TTL_SECONDS": "1800",
    "MQ_ENABLE_METRICS": "true",
    "MQ_METRICS_PORT": "8001",
}
RENAMED = {
    "MQ_RABBITMQ_URL": "MQ_BROKER_URL",
    "MQ_RABBITMQ_MANAGEMENT_URL": "MQ_MANAGEMENT_URL",
    "MQ_FAILED_QUEUE": "dead_letters",
    "MQ_DEDUPLICATION_DB_PATH": "MQ_DATABASE_URL",
    "MQ_ENABLE_PUBLISHER_CONFIRMS": "remove it",
}
METRICS = [
    "mq_messages_published_total",
    "mq_publish_duration_seconds",
    "mq_messages_processed_total",
    "mq_processing_duration_seconds",
    "mq_retry_attempts_total",
    "mq_retry_scheduled_total",
    "mq_duplicate_messages_total",
    "mq_permanent_failures_total",
    "mq_active_connections",
]


def test_each_documented_setting_is_known_or_refused_with_the_new_one(clean_environment):
    for name, value in KNOWN.items():
        clean_environment.setenv(name, value)
    assert load(ConsumerSettings).retry_delays == (30, 300, 900)

    for name in RENAMED:
        clean_environment.setenv(name, "any")
    with pytest.raises(ConfigurationError) as refused:
        load(ConsumerSettings)

    lines = {line.partition(":")[0]: line for line in str(refused.value).splitlines()}
    assert set(lines) == set(RENAMED)
    for name, remedy in RENAMED.items():
        assert remedy in lines[name]


@pytest.mark.parametrize("name", METRICS)
def test_each_documented_metric_exists(name):
    assert f"`{name}`" in metrics.relay() + metrics.consumer()


def test_the_documented_delays_grow_to_five_minutes_and_no_further():
    schedule = RetrySchedule.exponential(
        timedelta(seconds=1), cap=timedelta(minutes=5), max_retries=12
    )

    seconds = [delay.total_seconds() for delay in schedule.delays]
    assert seconds == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]
