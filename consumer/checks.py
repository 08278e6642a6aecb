"""
Checks whether the settings and the registered handlers can work together: pure.
"""

import math
from datetime import timedelta

import sqlalchemy as sa

from consumer import exchanges
from consumer.batch_sizes import MOST_MESSAGES, BatchSizes
from consumer.consumer import Consumer
from consumer.partition_queues import PartitionQueues
from consumer.payload_type import check_defined
from consumer.queues import ConsumerQueues
from consumer.settings import ConsumerSettings
from consumer.signature import globals_of, naming
from consumer.storage.tables import (
    begun_deliveries,
    consumer_generations,
    consumer_members,
    consumer_partitions,
    failing_messages,
    parked_messages,
    processed_messages,
)
from outbox.audit_tables import audit_log
from outbox.backoff import RetrySchedule
from outbox.database.privileges import Rights, together
from outbox.database.processes import RIGHTS_OF_PROCESS
from outbox.database.verification import Expectation
from outbox.dead_letters import maintenance
from outbox.errors import ConfigurationError
from outbox.reply_table import replies
from outbox.tables import dead_letters, outbox, outbox_processes
from outbox.transports.topology import Topology
from outbox.transports.user_topology import with_exchanges

MIN_PREFETCH = 64
UNITS_AHEAD = 3
WITH_PARTITIONS = frozenset({"amqp", "amqps"})


def policies(consumer: Consumer, settings: ConsumerSettings) -> list[RetrySchedule]:
    """The retry policies of all handlers."""
    own = [handler.retry for handler in consumer.handlers.values() if handler.retry is not None]
    return [settings.retry_policy, *own]


def is_partitioned(consumer: Consumer, settings: ConsumerSettings) -> bool:
    """Whether *consumer* reads partitions; the embedded broker has one process that works."""
    return consumer.partitions is not None and settings.brokers[0].scheme in WITH_PARTITIONS


def partition_queues(consumer: Consumer, settings: ConsumerSettings) -> PartitionQueues:
    """The queues of the partitions of *consumer*."""
    return PartitionQueues(
        queues(consumer, settings), settings.main_exchange, settings.dlx_exchange
    )


def queues(consumer: Consumer, settings: ConsumerSettings) -> ConsumerQueues:
    """The names and arguments of all queues of *consumer*."""
    delays = {delay for each in policies(consumer, settings) for delay in each.delays}
    return ConsumerQueues(
        name=_queue_of(consumer, settings),
        bindings=consumer.bindings,
        delays=sorted(delays),
        message_ttl=settings.message_ttl,
        delivery_limit=settings.delivery_limit if settings.is_counted_by_broker else None,
        single_active=consumer.ordered,
        is_partitioned=is_partitioned(consumer, settings),
    )


def _queue_of(consumer: Consumer, settings: ConsumerSettings) -> str:
    if consumer.collects_replies:
        return consumer.queue or settings.reply_queue
    return consumer.queue or f"{settings.processing_queue}.{consumer.name}"


def declared(consumer: Consumer, settings: ConsumerSettings) -> Topology:
    """
    The exchanges, queues and bindings that *consumer* needs in the broker.

    Raises ConfigurationError if its exchanges contradict those of MQ_EXCHANGES.
    """
    main = settings.main_exchange
    base = queues(consumer, settings).topology(
        main_exchange=main, dlx_exchange=settings.dlx_exchange
    )
    return with_exchanges(base, exchanges.declared(consumer, settings), main_exchange=main)


def largest_batch(consumer: Consumer) -> int:
    """The largest batch size that a handler is registered with."""
    return max((handler.batch_size or 1 for handler in consumer.handlers.values()), default=1)


def prefetch(consumer: Consumer, settings: ConsumerSettings) -> int:
    """Messages that the broker delivers ahead: `MQ_PREFETCH`, or enough to keep handlers busy."""
    if settings.prefetch is not None:
        return settings.prefetch
    handlers = consumer.handlers
    may_share = any(map(BatchSizes(handlers).of, handlers.values()))
    return max(
        # One batch is handled while the broker delivers the next one.
        2 * MOST_MESSAGES if may_share else MIN_PREFETCH,
        UNITS_AHEAD * settings.concurrency,
        UNITS_AHEAD * largest_batch(consumer),
    )


def horizon(consumer: Consumer, settings: ConsumerSettings) -> timedelta:
    """
    The longest time after which a recorded message may still be delivered.

    It adds up all retries, the longest stay in the work queue before each of them, and the time
    for a backlog or a replay. A dedup row that is younger must not be purged.
    """
    ttl = settings.message_ttl or timedelta(0)
    ways = (
        policy.longest + (policy.max_retries + 1 + settings.max_requeues) * ttl
        for policy in policies(consumer, settings)
    )
    return max(ways) + settings.replay_window


def check_retention(
    name: str, retention: timedelta, consumer: Consumer, settings: ConsumerSettings
) -> None:
    """Raise ConfigurationError, which names the option *name*, if *retention* is too short."""
    shortest = horizon(consumer, settings)
    if retention < shortest:
        hours = math.ceil(shortest / timedelta(hours=0.1)) / 10
        raise ConfigurationError(
            f"{name}: must be at least {hours} hours, the longest that a message can take by "
            "MQ_RETRY_DELAYS, MQ_MAX_RETRIES, MQ_MESSAGE_TTL_SECONDS, MQ_MAX_REQUEUES and "
            "MQ_REPLAY_WINDOW_HOURS"
        )


def check_handlers(consumer: Consumer) -> None:
    """
    Raise ConfigurationError if *consumer* would dead-letter all messages.

    It has no handler, or one whose payload has a type that is not defined.
    """
    if not consumer.handlers:
        raise ConfigurationError(
            f"consumer {consumer.name}: has no handlers: register them in the module of "
            "MODULE:NAME, or in one that it imports"
        )
    for handler in consumer.handlers.values():
        with naming(f"consumer {consumer.name}: {handler.event_type}"):
            check_defined(handler.payload_type, globals_of(handler.function))


def check_all(consumer: Consumer, settings: ConsumerSettings) -> None:
    """Raise ConfigurationError if *consumer* cannot work with its handlers and *settings*."""
    check_handlers(consumer)
    check(consumer, settings)


def check(consumer: Consumer, settings: ConsumerSettings) -> None:
    """Raise ConfigurationError, with a line for each setting that contradicts another one."""
    problems: list[str] = []
    try:
        check_retention("MQ_DEDUPLICATION_RETENTION_HOURS", settings.retention, consumer, settings)
    except ConfigurationError as error:
        problems.append(str(error))
    longest = max(max(policy.delays) for policy in policies(consumer, settings))
    if settings.message_ttl is not None and settings.message_ttl <= longest:
        problems.append(
            "MQ_MESSAGE_TTL_SECONDS: must be above the longest retry delay, "
            f"{longest.total_seconds():g} seconds"
        )
    if settings.prefetch is not None and settings.prefetch < largest_batch(consumer):
        problems.append(
            f"MQ_PREFETCH: must not be below the largest batch, {largest_batch(consumer)}"
        )
    retries = max(policy.longest for policy in policies(consumer, settings))
    kept = settings.parked_body_retention
    if consumer.ordered and kept is not None and kept <= retries:
        problems.append(
            "MQ_PARKED_BODY_RETENTION_DAYS: must be above "
            f"{retries / timedelta(days=1):.1f} days, the longest time of all retries by "
            "MQ_RETRY_DELAYS and MQ_MAX_RETRIES"
        )
    problems += exchanges.problems(consumer, settings)
    if problems:
        raise ConfigurationError("\n".join(problems))


_ALL = ("SELECT", "INSERT", "UPDATE", "DELETE")


def rights_of_process(consumer: Consumer) -> Rights:
    """The rights that a process of *consumer* needs."""
    rights: dict[sa.Table, tuple[str, ...]] = {
        processed_messages: _ALL,
        begun_deliveries: _ALL,
        failing_messages: _ALL,
        dead_letters: ("SELECT", "INSERT"),
        audit_log: ("SELECT",),
        outbox_processes: RIGHTS_OF_PROCESS,
    }
    if consumer.ordered:
        rights[parked_messages] = _ALL
    if consumer.collects_replies:
        rights[replies] = _ALL
    if any(each.answers for each in consumer.handlers.values()):
        rights[outbox] = ("INSERT",)
    if consumer.partitions is not None:
        rights |= dict.fromkeys(
            (consumer_generations, consumer_partitions, consumer_members), _ALL
        )
    elif consumer.ordered:
        rights[consumer_generations] = ("SELECT",)
    return rights


def rights_of_status(consumer: Consumer) -> Rights:
    """The rights that `consumer status` needs."""
    unread = (audit_log, begun_deliveries, outbox, outbox_processes, replies)
    return {table: ("SELECT",) for table in rights_of_process(consumer) if table not in unread}


def rights_of_purge(consumer: Consumer) -> Rights:
    """The rights that `consumer purge` needs; it locks the rows before it deletes them."""
    purged = ("SELECT", "UPDATE", "DELETE")
    rights: dict[sa.Table, tuple[str, ...]] = {
        processed_messages: purged,
        failing_messages: purged,
    }
    if consumer.ordered:
        rights[parked_messages] = ("SELECT",)
    return rights


def expectation(
    consumer: Consumer,
    queue: str,
    *,
    dead_letter_retention: timedelta | None = None,
    dead_letter_body_retention: timedelta | None = None,
) -> Expectation:
    """The database that *consumer* needs if it reads *queue*."""
    of_maintenance = maintenance.rights(dead_letter_retention, dead_letter_body_retention)
    return Expectation(
        rights=together(rights_of_process(consumer), of_maintenance),
        source=consumer.name,
        target=queue,
        refusal=f"consumer {consumer.name}: its dedup rows in this schema belong to the queue"
        " {recorded}, and the messages of two queues would count as duplicates of each other: use"
        " another name, or a schema of its own; to move the consumer to another queue run"
        " `consumer topology --adopt`",
    )
