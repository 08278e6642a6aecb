"""
A consumer's dead letters: straight back into its queue, past all other consumers.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from consumer import assembly
from consumer.consumer import Consumer
from consumer.republish import replay_copy
from consumer.settings import ConsumerSettings
from consumer.storage import stored_message
from consumer.storage.completed import CompletedMessages, _key
from outbox.dead_letters.source import DeadLetterSource, allow_configured_headers
from outbox.transports.base import Outcome, Publisher
from outbox.wire.codec import WireMessage

PUBLISHING = timedelta(seconds=10)
"""Time for the broker to confirm a batch; rows are locked meanwhile, on SQLite the whole file."""

NO_IDENTITY = "no_identity"


class ToQueue:
    """Publishes letters to the queue that they came from, or to *queue* if that is not known."""

    def __init__(self, publisher: Publisher, *, queue: str) -> None:
        self._publisher = publisher
        self._queue = queue

    async def ready(self) -> None:
        """Raises BrokerUnavailable if the broker takes no publishes."""
        await self._publisher.ready()

    async def send(
        self, connection: AsyncConnection, kept: Sequence[Any], *, run: UUID
    ) -> list[str | None]:
        """
        What the broker says of each letter that it has not acked.

        Letters without an id are not sent: of two copies nobody could tell that they are one.
        """
        del connection
        readied = [self._copy(letter, run) for letter in kept]
        copies = [copy for copy in readied if isinstance(copy, WireMessage)]
        outcomes = iter(await self._publisher.publish(copies, within=PUBLISHING))
        return [copy if isinstance(copy, str) else _problem(next(outcomes)) for copy in readied]

    def _copy(self, letter: Any, run: UUID) -> WireMessage | str:
        """What is published of *letter*, or a code that says why nothing can be."""
        if _key(letter) is None:
            return NO_IDENTITY
        try:
            message = stored_message.from_columns(letter)
        except (ValueError, AttributeError):
            # Somebody else has written the row: its priority or its headers are none.
            return Outcome.MALFORMED.value
        return replay_copy(message, queue=letter["queue"] or self._queue, run=run)


def dead_letter_source(consumer: Consumer, settings: ConsumerSettings) -> DeadLetterSource:
    """What the commands on the dead letters of *consumer* need."""
    allow_configured_headers(settings)
    queue = assembly.queues(consumer, settings).name

    @asynccontextmanager
    async def to_queue() -> AsyncIterator[ToQueue]:
        async with assembly.broker(consumer, settings).publisher() as publisher:
            yield ToQueue(publisher, queue=queue)

    return DeadLetterSource(
        name=consumer.name,
        database=lambda: assembly.database(consumer, settings),
        destination=to_queue,
        duplicates=CompletedMessages(consumer.name),
    )


def _problem(outcome: Outcome) -> str | None:
    return None if outcome is Outcome.ACKED else outcome.value
