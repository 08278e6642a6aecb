"""
The record of what relay and consumers do: they report it to their telemetry.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry
from sqlalchemy.exc import DBAPIError

import consumer.telemetry
import relay.telemetry
from consumer.execution.reading import IN_CLEAR, Reading
from consumer.hooks import HookFunction, HookOutcome, Hooks
from consumer.message import Message
from consumer.verdict import DeadLetter, Verdict
from outbox import media_type
from outbox.database.errors import is_contention
from outbox.errors import UnreadableMessage
from outbox.runtime.error_summary import ErrorSummary
from outbox.testing import RecordedEvent
from outbox.testing.recorded_event import from_values
from outbox.transports.base import Outcome, Publisher
from outbox.transports.topology import matches
from outbox.wire import codec
from outbox.wire.codec import WireMessage
from outbox.wire.encrypted import is_encrypted
from outbox_testing.drained import Drained, FailedAttempt, SettledMessage, error_of, settled_by
from relay.storage.settlement import SOURCE
from relay.verdict import DeadLetter as DeadEvent
from relay.verdict import Verdict as RelayVerdict

if TYPE_CHECKING:
    from consumer.execution.decryption import Decryption

HELD = (
    "While a session of the test has uncommitted writes, relay and consumer cannot write to its"
    " rows, nor to any row of a SQLite file: commit or close the session before."
)


@dataclass(slots=True)
class Record:
    """
    What was done since the last `take`.

    *bindings* are the patterns on *main_exchange*, of all consumers and exchanges.
    """

    bindings: Collection[str]
    main_exchange: str
    published: list[RecordedEvent] = field(default_factory=list)
    messages: list[SettledMessage] = field(default_factory=list)
    failures: list[FailedAttempt] = field(default_factory=list)

    def take(self) -> Drained:
        """Return the record, and begin another one."""
        taken = Drained(
            published=tuple(self.published),
            unrouted=tuple(filter(self._is_unrouted, self.published)),
            messages=tuple(self.messages),
            failures=tuple(self.failures),
        )
        self.published, self.messages, self.failures = [], [], []
        return taken

    def _is_unrouted(self, event: RecordedEvent) -> bool:
        # The broker returns events of another exchange that no binding takes.
        return event.exchange is None and not any(
            matches(pattern, event.routing_key) for pattern in self.bindings
        )


class _NoLog:
    """A log that keeps nothing: the failures of a test are raised."""

    def __getattr__(self, _level: str) -> Callable[..., None]:
        return lambda *_, **__: None


class ConsumerTelemetry(consumer.telemetry.Telemetry):
    """Adds the events of the consumer *source* to *record*, instead of logging them."""

    def __init__(self, record: Record, *, source: str, queue: str, known: Collection[str]) -> None:
        super().__init__(CollectorRegistry(), source=source, queue=queue, known=known)
        self._log = _NoLog()
        self._record = record
        self._consumer = source

    def call_hooks(
        self, on_failure: Sequence[HookFunction], on_dead_letter: Sequence[HookFunction]
    ) -> Hooks:
        self.hooks = Hooks(on_failure, on_dead_letter, ended=self._hook_ended)
        return self.hooks

    def handler_failed(
        self,
        delivered: WireMessage,
        error: BaseException,
        *,
        summary: ErrorSummary,
        attempt: int,
        message: Message[Any] | None,
    ) -> None:
        super().handler_failed(delivered, error, summary=summary, attempt=attempt, message=message)
        if isinstance(error, DBAPIError) and is_contention(error):
            error.add_note(HELD)
        self._failed(delivered.type, attempt, error, delivered.message_id)

    def settled(self, verdicts: Iterable[tuple[WireMessage, Verdict]]) -> None:
        settled = list(verdicts)
        super().settled(settled)
        for message, verdict in settled:
            reason = verdict.code if isinstance(verdict, DeadLetter) else ""
            self._record.messages.append(
                SettledMessage(
                    self._consumer, message.type, settled_by(verdict), reason, message.message_id
                )
            )
            if isinstance(verdict, DeadLetter) and (error := error_of(verdict)) is not None:
                self._failed(message.type, verdict.attempt, error, message.message_id)

    def _hook_ended(self, hook: str, outcome: HookOutcome, error: BaseException | None) -> None:
        if outcome is not HookOutcome.SUCCEEDED:
            self._failed(hook, 1, error or TimeoutError(f"a call was {outcome.value}"), None)

    def _failed(
        self, type_: str | None, attempt: int, error: BaseException, id_: str | None
    ) -> None:
        failed = FailedAttempt(self._consumer, type_, attempt, error, id_)
        self._record.failures.append(failed)


class RelayTelemetry(relay.telemetry.Telemetry):
    """Adds the events that the relay dead-letters to *record*, instead of counting and logging."""

    def __init__(self, record: Record, *, exchange: str) -> None:
        super().__init__(CollectorRegistry(), exchange=exchange)
        self._log = _NoLog()
        self._record = record

    def settled(self, verdicts: Sequence[RelayVerdict]) -> None:
        for verdict in verdicts:
            if isinstance(verdict, DeadEvent):
                type_, id_ = (verdict.row.values.get(name) for name in ("type", "event_id"))
                error = UnreadableMessage(verdict.code)
                self._record.failures.append(FailedAttempt(SOURCE, type_, 1, error, str(id_)))


@dataclass(frozen=True, slots=True)
class RecordingPublisher:
    """
    *publisher*, which adds the events that the broker has taken to *record*.

    *decryption* reads those that are encrypted; one without a key is recorded as it was sent.
    """

    publisher: Publisher
    record: Record
    decryption: "Decryption | None"

    async def ready(self) -> None:
        await self.publisher.ready()

    async def publish(
        self, messages: Sequence[WireMessage], *, within: timedelta
    ) -> list[Outcome]:
        outcomes = await self.publisher.publish(messages, within=within)
        acked = [
            message
            for message, outcome in zip(messages, outcomes, strict=True)
            if outcome is Outcome.ACKED
        ]
        async with self._reading(acked) as reading:
            self.record.published += [self._event(each, reading) for each in acked]
        return outcomes

    def _event(self, message: WireMessage, reading: Reading) -> RecordedEvent:
        is_main = message.exchange == self.record.main_exchange
        exchange = None if is_main else message.exchange
        return replace(published_event(message, reading), exchange=exchange)

    def _reading(self, messages: Sequence[WireMessage]) -> AbstractAsyncContextManager[Reading]:
        if self.decryption is None:
            return nullcontext(IN_CLEAR)
        return self.decryption.reading(messages)


def published_event(message: WireMessage, reading: Reading = IN_CLEAR) -> RecordedEvent:
    """The event that the relay has published as *message*, whose body is read by *reading*."""
    try:
        envelope = codec.from_wire(message, decrypt=reading.decrypt)
    except UnreadableMessage:
        if not is_encrypted(message.content_encoding):
            raise
        sent = codec.from_wire(message, decrypt=lambda envelope: envelope)
        envelope = replace(sent, content_type=media_type.UNKNOWN)
    return from_values(
        {
            "event_id": envelope.id,
            "ordering_key": None,
            "not_before": None,
            **{name: getattr(envelope, name) for name in _SAME},
        }
    )


_SAME = (
    "type",
    "body",
    "routing_key",
    "idempotency_key",
    "headers",
    "correlation_id",
    "content_type",
    "priority",
    "occurred_at",
)
