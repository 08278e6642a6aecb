"""
The library with which a service declares its event handlers, and the process that runs them.

    etl = Consumer("etl", bindings=["health.processing.#"])

    @etl.on(HealthDataMessage)
    async def load(message: Message[HealthDataMessage], session: AsyncSession) -> None: ...

For a service:

    consumer, registrations      declare a consumer and its handlers
    handler, message, outcomes   options of a handler, what it gets, how it retries or rejects
    lifespan, middleware, hooks  resources of handlers, functions around them and after them
    signature, payload_type,     what a function says about its arguments: whether it can be a
    handled_event, decorators    handler, of which events and payloads; for type checkers too

For the process `consumer`, in the order in which a delivery meets them:

    settings, cli, assembly      environment, command line, and the choice of adapters
    service                      the queues, tasks and resources of a running consumer
    bound, declared, tasks       functions with their resources; the loops of the process
    run, target                  `consumer run`, which imports less; the consumer of a command
    dispatch/                    take deliveries, settle them, publish retries
    execution/                   decode a delivery, call its handler in a transaction
    replies, reply_report        the consumer that stores replies for the callers of a service
    verdict                      the decision on a delivery after an attempt
    storage/                     every SQL statement
    maintenance/                 the dead queue, the purge of the dedup store, checks of the queue
    partitions/                  the partitions of an ordered consumer, shared by its processes
    queues, message_copies       queues with their arguments; copies for retries and replays
    partition_names,             names of partitions, and their exchanges and queues;
    partition_queues, partition_marker  the message that ends a partition
    database_retry, checks       an unavailable database; settings that contradict each other
    exchanges                    the exchanges that the process declares
    telemetry, delivery_metrics, all log events and metric names: of deliveries, of failed
    failure_metrics, lag_report, attempts, of the stages of a message's way,
    hook_report, copy_report,    of hooks and of copies,
    partition_report             of partitions;
    log_fields                   the log fields of messages
    tracing                      spans, if OpenTelemetry is set up
    status, status_view,         the commands `consumer status`, `consumer failing`
    failing, failing_view, replay  and `consumer dead`
    watched                      the broker, audit log and keys of `consumer watch`
    inspection                   all that `consumer check` looks at
    supervision/, supervised     several processes on one machine, and the end that each has of it
    scale                        the command `consumer scale`
    contract/                    the AsyncAPI document of a consumer, and what it no longer keeps
    contract_commands            the commands that write that document, or compare it

For tests, with the package `outbox_testing` that stands above relay and consumer: `testing`.

May import `outbox`, never `relay`. Only `assembly` and `watched` name a database or a broker.
"""

import outbox_relay

try:
    from consumer.consumer import Consumer
    from consumer.handler import CircuitBreaker, OnLeaseExpired, RateLimit
    from consumer.hooks import DeadLettered, Failure
    from consumer.message import Message
    from consumer.middleware import CallNext, HandlerCall, Middleware
    from consumer.outcomes import Reject, Retry
    from outbox.backoff import RetrySchedule
    from outbox.exchange import Binding, Exchange
    from outbox.runtime.log_context import add_log_context
except ImportError as error:
    outbox_relay.explain_import_error("consumer", error)
    raise

__all__ = [
    "Binding",
    "CallNext",
    "CircuitBreaker",
    "Consumer",
    "DeadLettered",
    "Exchange",
    "Failure",
    "HandlerCall",
    "Message",
    "Middleware",
    "OnLeaseExpired",
    "RateLimit",
    "Reject",
    "Retry",
    "RetrySchedule",
    "add_log_context",
]
