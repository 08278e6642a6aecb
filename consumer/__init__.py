"""
The library with which a service declares its event handlers, and the process that runs them.

    etl = Consumer("etl", bindings=["health.processing.#"])

    @etl.on("health.data.uploaded", model=HealthDataMessage)
    async def load(message: Message[HealthDataMessage], session: AsyncSession) -> None: ...

For a service:

    consumer, handler, message   declare a consumer, its handlers and their options
    signature                    whether a function can be a handler
    outcomes                     exceptions by which a handler retries or rejects its message

For the process `consumer`, in the order in which a delivery meets them:

    settings, cli, assembly      environment, command line, and the choice of adapters
    run, target                  `consumer run`, which imports less; the consumer of a command
    dispatch/                    take deliveries, settle them, publish retries
    execution/                   decode a delivery, call its handler in a transaction
    verdict                      the decision on a delivery after an attempt
    storage/                     every SQL statement
    maintenance/                 the dead queue, the purge of the dedup store, checks of the queue
    queues, message_copies       queues with their arguments; copies for retries and replays
    database_retry, checks       an unavailable database; settings that contradict each other
    telemetry                    all metric names and log events
    status, status_view, replay  the commands `consumer status` and `consumer dead`

May import `outbox`, never `relay`. Only `assembly` names a database or a broker.
"""

import outbox_relay

try:
    from consumer.consumer import Consumer
    from consumer.handler import CircuitBreaker, OnLeaseExpired, RateLimit
    from consumer.message import Message
    from consumer.outcomes import Reject, Retry
    from outbox.backoff import RetrySchedule
except ImportError:
    outbox_relay.explain_import_error("consumer")
    raise

__all__ = [
    "CircuitBreaker",
    "Consumer",
    "Message",
    "OnLeaseExpired",
    "RateLimit",
    "Reject",
    "Retry",
    "RetrySchedule",
]
