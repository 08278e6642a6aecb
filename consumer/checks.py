"""
Whether what is set and what is registered can work together: pure.
"""

import math
from datetime import timedelta

import sqlalchemy as sa

from consumer.consumer import Consumer
from consumer.settings import ConsumerSettings
from consumer.storage.tables import parked_messages, processed_messages
from outbox.backoff import RetrySchedule
from outbox.database.privileges import Rights
from outbox.errors import ConfigurationError
from outbox.tables import audit_log, dead_letters

LEAST_PREFETCH = 64
UNITS_AHEAD = 3


def policies(consumer: Consumer, settings: ConsumerSettings) -> list[RetrySchedule]:
    """The retry policies of all handlers."""
    own = [handler.retry for handler in consumer.handlers.values() if handler.retry is not None]
    return [settings.retry_policy, *own]


def largest_batch(consumer: Consumer) -> int:
    """The most messages that a handler takes at once."""
    return max((handler.batch_size for handler in consumer.handlers.values()), default=1)


def prefetch(consumer: Consumer, settings: ConsumerSettings) -> int:
    """How many messages the broker hands out ahead: what is set, or what keeps handlers busy."""
    if settings.prefetch is not None:
        return settings.prefetch
    return max(
        LEAST_PREFETCH, UNITS_AHEAD * settings.concurrency, UNITS_AHEAD * largest_batch(consumer)
    )


def horizon(consumer: Consumer, settings: ConsumerSettings) -> timedelta:
    """
    How long after it was recorded a message may still be delivered.

    All of its retries, its longest stay in the work queue before each of them, and the time for a
    backlog or a replay. A dedup row that is younger must not be forgotten.
    """
    ttl = settings.message_ttl or timedelta(0)
    ways = (
        policy.longest + (policy.max_retries + 1 + settings.max_requeues) * ttl
        for policy in policies(consumer, settings)
    )
    return max(ways) + settings.replay_window


def check_kept(name: str, kept: timedelta, consumer: Consumer, settings: ConsumerSettings) -> None:
    """Raise ConfigurationError, which calls it *name*, if *kept* is below the horizon."""
    needed = horizon(consumer, settings)
    if kept < needed:
        hours = math.ceil(needed / timedelta(hours=0.1)) / 10
        raise ConfigurationError(
            f"{name}: must be at least {hours} hours, the longest that a message can take by "
            "MQ_RETRY_DELAYS, MQ_MAX_RETRIES, MQ_MESSAGE_TTL_SECONDS, MQ_MAX_REQUEUES and "
            "MQ_REPLAY_WINDOW_HOURS"
        )


def check(consumer: Consumer, settings: ConsumerSettings) -> None:
    """Raise ConfigurationError, with a line for each setting that contradicts another one."""
    problems: list[str] = []
    try:
        check_kept("MQ_DEDUPLICATION_RETENTION_HOURS", settings.retention, consumer, settings)
    except ConfigurationError as error:
        problems.append(str(error))
    longest = max(max(policy.delays) for policy in policies(consumer, settings))
    if settings.message_ttl is not None and settings.message_ttl <= longest:
        problems.append(
            "MQ_MESSAGE_TTL_SECONDS: must be above the longest retry delay, "
            f"{longest.total_seconds():g} seconds, or what waits for a retry would outlive it"
        )
    if settings.prefetch is not None and settings.prefetch < largest_batch(consumer):
        problems.append(
            f"MQ_PREFETCH: must not be below the largest batch, {largest_batch(consumer)}"
        )
    if problems:
        raise ConfigurationError("\n".join(problems))


_EVERYTHING = ("SELECT", "INSERT", "UPDATE", "DELETE")


def needed(consumer: Consumer) -> Rights:
    """The rights that a process of *consumer* needs."""
    rights: dict[sa.Table, tuple[str, ...]] = {
        processed_messages: _EVERYTHING,
        dead_letters: ("SELECT", "INSERT"),
        audit_log: ("SELECT",),
    }
    if consumer.ordered:
        rights[parked_messages] = _EVERYTHING
    return rights


def to_look(consumer: Consumer) -> Rights:
    """The rights that a look at *consumer* needs."""
    return {table: ("SELECT",) for table in needed(consumer) if table is not audit_log}
