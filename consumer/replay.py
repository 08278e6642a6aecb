"""
Replaying dead letters of a consumer: copies go to its own queue, and to no other consumer.
"""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from consumer import assembly
from consumer.consumer import Consumer
from consumer.message_copies import replay_copy
from consumer.settings import ConsumerSettings
from consumer.storage import stored_message
from consumer.storage.completed import CompletedMessages, key_of
from consumer.storage.tables import processed_messages
from outbox.dead_letters.encrypted_letters import letter_keys
from outbox.dead_letters.source import DeadLetterSource
from outbox.errors import UnreadableMessage
from outbox.runtime import process
from outbox.transports.base import Outcome, Publisher
from outbox.wire import codec
from outbox.wire.codec import WireMessage
from outbox.wire.envelope import Envelope

PUBLISHING = timedelta(seconds=10)
"""Time for the broker to confirm a batch; the rows (SQLite: the file) are locked meanwhile."""

_TEXTS = (
    *("queue", "message_id", "type", "exchange", "routing_key", "correlation_id"),
    *("content_type", "content_encoding", "reply_to"),
)

NO_IDENTITY = "no_identity"


class QueueDestination:
    """Publishes dead letters to the queue from which they came; to *queue* if it is unknown."""

    def __init__(self, publisher: Publisher, *, queue: str) -> None:
        self._publisher = publisher
        self._queue = queue

    async def ready(self) -> None:
        """Raises BrokerUnavailable if the broker accepts no publishes."""
        await self._publisher.ready()

    async def send(
        self, connection: AsyncConnection, dead_letters: Sequence[Any], *, run: UUID
    ) -> list[str | None]:
        """
        Publish a copy of each dead letter. Returns None for each that the broker has confirmed.

        For the others it returns a code for the reason. A dead letter without a message id is not
        published: consumers could not recognise two copies of it as duplicates.
        """
        del connection
        copies = [self._copy(dead_letter, run) for dead_letter in dead_letters]
        messages = [copy for copy in copies if isinstance(copy, WireMessage)]
        outcomes = iter(await self._publisher.publish(messages, within=PUBLISHING))
        return [copy if isinstance(copy, str) else _problem(next(outcomes)) for copy in copies]

    def _copy(self, dead_letter: Any, run: UUID) -> WireMessage | str:
        """The copy of *dead_letter*, or a code for the reason why it cannot be published."""
        if key_of(dead_letter) is None:
            return NO_IDENTITY
        try:
            _check_texts(dead_letter)
            message = stored_message.from_columns(dead_letter)
        except (ValueError, TypeError, AttributeError):
            # Another program has written the row: its texts, priority or headers are invalid.
            return Outcome.MALFORMED.value
        return replay_copy(message, queue=dead_letter["queue"] or self._queue, run=run)


def dead_letter_source(consumer: Consumer, settings: ConsumerSettings) -> DeadLetterSource:
    """The dead letters of *consumer*, for the commands `consumer dead`."""
    process.allow_configured_headers(settings)
    queue = assembly.queues(consumer, settings).name

    @asynccontextmanager
    async def to_queue() -> AsyncIterator[QueueDestination]:
        async with assembly.broker(consumer, settings).publisher() as publisher:
            yield QueueDestination(publisher, queue=queue)

    return DeadLetterSource(
        name=consumer.name,
        database=lambda: assembly.database(consumer, settings),
        destination=to_queue,
        envelope_of=_envelope_of,
        keys=lambda: letter_keys(settings, name=process.name(assembly.role(consumer))),
        duplicates=CompletedMessages(consumer.name),
        replay_rights={processed_messages: ("SELECT",)},
        reprocess_rights={processed_messages: ("SELECT", "UPDATE", "DELETE")},
        two_person=settings.two_person,
    )


def _envelope_of(dead_letter: Any) -> Envelope:
    """The envelope of *dead_letter*, as it was sent; raises UnreadableMessage."""
    try:
        message = stored_message.from_columns(dead_letter)
        return codec.from_wire(message, decrypt=lambda envelope: envelope)
    except (ValueError, TypeError, AttributeError):
        raise UnreadableMessage(Outcome.MALFORMED.value) from None


def _check_texts(dead_letter: Any) -> None:
    """Raise TypeError or ValueError if the row has a blob or text that no message can have."""
    for name in _TEXTS:
        if dead_letter[name] is not None:
            str.encode(dead_letter[name])
    json.dumps(dead_letter["headers"], ensure_ascii=False).encode()


def _problem(outcome: Outcome) -> str | None:
    return None if outcome is Outcome.ACKED else outcome.value
