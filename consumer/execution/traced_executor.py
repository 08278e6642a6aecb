"""
An executor with spans, and handlers with spans for parked messages; see `consumer.tracing`.

They stand between others only if the program traces: without, a delivery does not enter this file.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

from consumer.execution.delivery_batch import BatchExecutor, DeliveryBatch
from consumer.handler import Handler
from consumer.message import Message
from consumer.tracing import Traced, Tracing, current, reason_of
from consumer.verdict import DeadLetter, Verdict, is_failure, status_of
from outbox.errors import UnreadableMessage
from outbox.runtime import spans
from outbox.tracing import SCOPE
from outbox.transports.delivery import Delivery
from outbox.wire import codec

if TYPE_CHECKING:
    from opentelemetry.trace import Span


def traced(executor: BatchExecutor, tracing: Tracing | None) -> BatchExecutor:
    """Return *executor*, with spans if the program traces."""
    return executor if tracing is None else TracedExecutor(executor, tracing)


@dataclass(frozen=True, slots=True)
class TracedExecutor:
    """*executor* with the spans of *tracing*."""

    executor: BatchExecutor
    tracing: Tracing

    async def execute(self, batch: DeliveryBatch) -> list[Verdict]:
        """Like `Executor.execute`."""
        if batch.handler is None:
            return await self.executor.execute(batch)
        attempts = _begun(self.tracing, batch.handler, batch.deliveries)
        with attempts.running():
            handler = attempts.calling(batch.handler)
            verdicts = await self.executor.execute(replace(batch, handler=handler))
            attempts.decided(verdicts)
        return verdicts


@dataclass(frozen=True, slots=True)
class _Attempts:
    """
    The spans of the deliveries of a batch.

    *processing* is in their order: one span each, or one for all. *by_id* has the spans by the id
    of the message, *errors* the classes of the errors of handlers by span.
    """

    tracing: Tracing
    processing: Sequence["Span"]
    by_id: Mapping[UUID | str | None, "Span"]
    errors: dict[int, str] = field(default_factory=dict)

    @contextmanager
    def running(self) -> Iterator[None]:
        """End the spans with the block; a single one is current in it."""
        one = current(self.processing[0]) if len(self.processing) == 1 else nullcontext()
        with spans.ending(*self.processing), one:
            yield

    def calling(self, handler: Handler) -> Handler:
        """Return *handler*, whose calls are children of the spans of their messages."""

        async def call(argument: Any, *session: Any) -> Any:
            first = argument[0] if handler.takes_list else argument
            processing = self.by_id.get(first.id, self.processing[0])
            try:
                with self.tracing.handling(handler, processing):
                    return await handler.call(argument, *session)
            except BaseException as error:
                self.errors[id(processing)] = spans.class_of(error)
                raise

        return handler.called_by(call)

    def decided(self, verdicts: Sequence[Verdict]) -> None:
        """Say in each span how its delivery, or its deliveries, are settled."""
        if len(self.processing) == len(verdicts):
            for span, verdict in zip(self.processing, verdicts, strict=True):
                self._decided(span, [verdict])
        else:
            self._decided(self.processing[0], verdicts)

    def _decided(self, span: "Span", verdicts: Sequence[Verdict]) -> None:
        if not span.is_recording():
            return
        status, *others = {status_of(verdict) for verdict in verdicts}
        span.set_attribute(f"{SCOPE}.status", "mixed" if others else status)
        for verdict in verdicts:
            if is_failure(verdict) or isinstance(verdict, DeadLetter):
                spans.failed(span, self.errors.get(id(span)) or _error_of(verdict))


def _begun(tracing: Tracing, handler: Handler, deliveries: Sequence[Delivery]) -> _Attempts:
    messages = [_traced(delivery) for delivery in deliveries]
    if handler.takes_list and len(messages) > 1:
        return _Attempts(tracing, [tracing.processing_list(handler, messages)], {})
    begun = [tracing.processing(handler, message) for message in messages]
    # Of two copies of a message in a batch the first one is handled.
    pairs = zip(reversed(deliveries), reversed(begun), strict=True)
    return _Attempts(tracing, begun, {_identity(delivery): span for delivery, span in pairs})


def _traced(delivery: Delivery) -> Traced:
    message, headers = delivery.message, delivery.headers
    attributes: dict[str, str | int | float | bool] = {
        **spans.of_message(message.message_id, message.correlation_id, size=len(message.body)),
        f"{SCOPE}.attempt": headers.failed_attempts + 1,
    }
    if headers.replay is not None:
        attributes[f"{SCOPE}.replay"] = str(headers.replay)
    if delivery.redelivered:
        attributes[f"{SCOPE}.redelivered"] = True
    return Traced(message.headers, attributes)


def _identity(delivery: Delivery) -> UUID | str | None:
    try:
        return codec.identity_of(delivery.message.message_id)
    except UnreadableMessage:
        return None


def _error_of(verdict: Verdict) -> str:
    return reason_of(verdict) if isinstance(verdict, DeadLetter) else spans.OTHER_ERROR


def traced_calls(
    handlers: Mapping[str, Handler], tracing: Tracing | None
) -> Mapping[str, Handler]:
    """*handlers* whose calls are attempts with spans of their own, as for parked messages."""
    if tracing is None:
        return handlers
    return {name: _traced_call(handler, tracing) for name, handler in handlers.items()}


def _traced_call(handler: Handler, tracing: Tracing) -> Handler:
    async def call(argument: Any, *session: Any) -> Any:
        message: Message[Any] = argument[0] if handler.takes_list else argument
        attributes = spans.of_message(message.id, message.correlation_id)
        attempt = {f"{SCOPE}.attempt": message.attempt}
        traced = Traced(message.headers, {**attributes, **attempt})
        span = tracing.processing(handler, traced)
        with spans.ending(span), tracing.handling(handler, span):
            return await handler.call(argument, *session)

    return handler.called_by(call)
