"""
Reads the outcomes of a simulation: tables, queues, and the external service.
"""

import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID

from consumer.assembly import queues
from consumer.consumer import Consumer
from consumer.settings import ConsumerSettings
from outbox.wire.codec import WireMessage
from tests.reliability.checker import Finding
from tests.reliability.history import Applied, DeadLettered, Leftover, Record, Waiting, of_kind
from tests.reliability.simulation.broker import Broker
from tests.reliability.simulation.handlers import Handlers


def look(
    at: float,
    *,
    producers: Path,
    consumers: Path,
    broker: Broker,
    declared: dict[str, tuple[Consumer, ConsumerSettings]],
    handlers: Handlers,
) -> list[Record]:
    """The records of everything that exists *at* this time."""
    found: list[Record] = []
    for path in (producers, consumers):
        with closing(sqlite3.connect(path)) as connection:
            found += _tables(connection, at)
    found += [Applied(when, "mail", id_) for when, id_ in handlers.letters.values()]
    found += _queues(broker, declared, at)
    return found


def leases(consumers: Path, at: float) -> list[Record]:
    """Leases that no process has ended."""
    with closing(sqlite3.connect(consumers)) as connection:
        [count] = connection.execute(
            "SELECT count(*) FROM processed_messages WHERE status = 'processing'"
        ).fetchone()
    return [Leftover(at, "leases", count)] if count else []


def set_aside(producers: Path) -> list[str]:
    """The events whose rows the relay could not settle, and leaves alone for a day."""
    with closing(sqlite3.connect(producers)) as connection:
        found = connection.execute("SELECT event_id FROM outbox WHERE last_error = 'unsettled'")
        return [str(UUID(id_)) for (id_,) in found]


def priorities(broker: Broker, wanted: Mapping[str, int]) -> list[Finding]:
    """Messages in queues whose AMQP priority is not the one *wanted* for their event."""
    messages = [message for queue in broker.queues.values() for message in queue.messages]
    found = {(message.message_id or "", _priority(message)) for message in messages}
    wrong = sorted({id_ for id_, priority in found if wanted.get(id_, priority) != priority})
    return [Finding("priority", ", ".join(wrong))] if wrong else []


def _priority(message: WireMessage) -> Any:
    """Copies in retry queues have the same property, and a header remembers theirs."""
    return message.headers.get("x-outbox-priority", message.priority)


def _tables(connection: sqlite3.Connection, at: float) -> Iterator[Record]:
    effects = "SELECT at, consumer, event_id FROM effects ORDER BY id"
    for when, consumer, id_ in connection.execute(effects):
        yield Applied(when, consumer, id_)
    letters = "SELECT source, message_id, reason FROM dead_letters ORDER BY id"
    for source, id_, reason in connection.execute(letters):
        yield DeadLettered(at, source, id_, reason)
    for (id_,) in connection.execute("SELECT event_id FROM outbox ORDER BY id"):
        yield Waiting(at, "outbox", str(UUID(id_)))
    parked = "SELECT consumer, message_id FROM parked_messages ORDER BY id"
    for consumer, id_ in connection.execute(parked):
        yield Waiting(at, consumer, id_)


def _queues(
    broker: Broker, declared: dict[str, tuple[Consumer, ConsumerSettings]], at: float
) -> Iterator[Record]:
    for name, (consumer, settings) in declared.items():
        mine = queues(consumer, settings)
        for queue in (mine.name, mine.dead, *mine.retry_queues.values()):
            if queue in broker.queues:
                for message in broker.queues[queue].messages:
                    yield Waiting(at, name, message.message_id or "")


def dead_lettered_without_cause(
    history: Sequence[Record], reasons: Collection[str], hopeless: Collection[str]
) -> list[Finding]:
    """Dead letters for one of *reasons* whose events are not among the *hopeless*."""
    wrong = sorted(
        {
            each.id
            for each in of_kind(history, DeadLettered)
            if each.reason in reasons and each.id not in hopeless
        }
    )
    return [Finding("for_nothing", ", ".join(wrong))] if wrong else []


def dead_lettered_unbegun(history: Sequence[Record], handlers: Handlers) -> list[Finding]:
    """Dead letters for lost deliveries whose handler was never begun: others were to blame."""
    wrong = sorted(
        {
            each.id
            for each in of_kind(history, DeadLettered)
            if each.reason == "delivery_limit" and not handlers.begun[each.source, each.id]
        }
    )
    return [Finding("unbegun", ", ".join(wrong))] if wrong else []


def effects_of_failures(
    history: Sequence[Record], failing: Collection[str], *, at: float
) -> list[Record]:
    """Effects of the *failing* events, whose handlers raise an error after each effect."""
    count = sum(each.id in failing for each in of_kind(history, Applied))
    return [Leftover(at, "effects of attempts that failed", count)] if count else []
