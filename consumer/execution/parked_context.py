"""
The parts that the transactions of parked messages share, and the result of an attempt.
"""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from consumer.execution.executor import Executor
from consumer.execution.reading import IN_CLEAR, Reading
from consumer.handler import Handler
from consumer.message import Message
from consumer.message_copies import retry_copy
from consumer.storage.begun import BegunDeliveries
from consumer.storage.dead_letters import DeadLetterWriter
from consumer.storage.parked import ParkedMessage, ParkedMessages
from consumer.verdict import Verdict
from outbox.transports.delivery import Delivery

if TYPE_CHECKING:
    from consumer.execution.decryption import Decryption


@dataclass(frozen=True, slots=True)
class ParkedResult:
    """
    The verdict on an attempt; *handler* and *durations* are set if it has succeeded.

    If *body_expired*, the dead letter gets no body.
    """

    verdict: Verdict
    handler: Handler | None = None
    durations: Mapping[str, timedelta] = field(default_factory=dict)
    body_expired: bool = False


@dataclass(frozen=True, slots=True)
class ParkedContext:
    """The parts that the transactions use; the messages came from *queue*."""

    handlers: Mapping[str, Handler]
    queue: str
    executor: Executor
    parked: ParkedMessages
    begun: BegunDeliveries
    dead_letter_writer: DeadLetterWriter
    decryption: "Decryption | None" = None

    def handler_of(self, message: ParkedMessage) -> Handler | None:
        """The handler for the type of *message*."""
        return self.handlers.get(message.message.type or "")

    def reading(self, message: ParkedMessage) -> AbstractAsyncContextManager[Reading]:
        """Hold the keys of *message*, if this consumer decrypts. Raises KeysUnavailable."""
        if self.decryption is None:
            return nullcontext(IN_CLEAR)
        return self.decryption.reading([message.message])

    def failed(
        self, message: ParkedMessage, error: BaseException, read: Message[Any] | None
    ) -> ParkedResult:
        """The result of an attempt at *message* that failed with *error*, once it was *read*."""
        delivery, handler = self.as_delivered(message), self.handler_of(message)
        return ParkedResult(self.executor.after_failure(handler, delivery, error, read))

    def as_delivered(self, message: ParkedMessage) -> Delivery:
        """*message* as the retry queue of an unordered consumer would deliver it."""
        copy = retry_copy(message.message, queue=self.queue, attempt=message.attempts)
        return Delivery(copy, 0, redelivered=True)
