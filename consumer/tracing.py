"""
The spans of a consumer, in the trace of the event that was delivered.

    process <queue>        the attempt at a message, from its decoding to its verdict
    handle <type>          the call of the handler, which is the current span meanwhile: its own
                           spans, and the events that it records, continue the trace
    retry <queue>          a copy of the message waits for its next attempt
    dead_letter <queue>    the message was moved to `dead_letters`

A span of one message is a child of the span that created the event, and links to it. If a handler
takes a list of several messages, one span links to all of them and begins a trace of its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from consumer.handler import Handler
from consumer.telemetry import BY_HANDLER, Telemetry
from consumer.verdict import CODES, DeadLetter, TryAgain, status_of
from outbox.runtime import spans
from outbox.settings import SharedSettings
from outbox.tracing import SCOPE, Attributes, begun, end, operation, tracer_of_program
from outbox.wire.codec import WireMessage

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer


@dataclass(frozen=True, slots=True)
class Tracing:
    """
    Makes the spans of a *consumer* that takes its messages from *queue*.

    *broker* has the attributes of the broker.
    """

    tracer: "Tracer"
    consumer: str
    queue: str
    broker: Attributes

    def processing(self, handler: Handler, message: "Traced") -> "Span":
        """Begin the span of an attempt at *message*, in its trace."""
        return self._begin(
            "process",
            "process",
            [message],
            {f"{SCOPE}.event.type": handler.event_type, **message.attributes},
        )

    def processing_list(self, handler: Handler, messages: Sequence["Traced"]) -> "Span":
        """Begin the span of an attempt at several *messages* that one call handles."""
        attributes: dict[str, str | int | float | bool] = {
            f"{SCOPE}.event.type": handler.event_type,
            "messaging.batch.message_count": len(messages),
        }
        return self._begin("process", "process", messages, attributes)

    @contextmanager
    def handling(self, handler: Handler, processing: "Span") -> Iterator[None]:
        """
        The call of *handler*, in a span that is current in the block.

        If the trace is not recorded, *processing* is current, which says so to the program.
        """
        from opentelemetry.trace import set_span_in_context  # noqa: PLC0415

        if not processing.is_recording():
            with current(processing):
                yield
            return
        span = begun(
            self.tracer,
            f"handle {handler.event_type}",
            context=set_span_in_context(processing),
            attributes={"code.function.name": name_of(handler.function)},
        )
        with spans.ending(span), current(span):
            yield

    def trace_settled(self, message: WireMessage, verdict: TryAgain | DeadLetter) -> None:
        """Make the span of a *message* that was retried or dead-lettered."""
        if not spans.is_sampled(message.headers):
            return
        attributes: dict[str, str | int | float | bool] = {
            **spans.of_message(message.message_id, message.correlation_id),
            f"{SCOPE}.attempt": verdict.attempt,
            f"{SCOPE}.status": status_of(verdict),
        }
        if isinstance(verdict, TryAgain):
            attributes[f"{SCOPE}.retry.delay"] = verdict.delay.total_seconds()
        name = "retry" if isinstance(verdict, TryAgain) else "dead_letter"
        span = self._begin(name, "settle", [Traced(message.headers, attributes)], attributes)
        if isinstance(verdict, DeadLetter):
            spans.failed(span, reason_of(verdict))
        end(span)

    def _begin(
        self, name: str, kind: str, messages: Sequence["Traced"], attributes: Attributes
    ) -> "Span":
        from opentelemetry.trace import SpanKind  # noqa: PLC0415

        links = spans.links_to(each.headers for each in _linked(messages))
        is_alone = len(messages) == 1
        # A child of a span that is not recorded is not recorded either.
        parent = links[0] if links and (is_alone or _is_dropped(messages)) else None
        return begun(
            self.tracer,
            f"{name} {self.queue}",
            context=spans.child_of(parent),
            kind=SpanKind.CONSUMER if kind == "process" else SpanKind.CLIENT,
            attributes={
                **self.broker,
                **operation(name, kind=kind, of=self.queue),
                "messaging.consumer.group.name": self.consumer,
                **attributes,
            },
            links=links,
        )


def reason_of(verdict: DeadLetter) -> str:
    """The reason, as metrics name it: the number of those that handlers choose has no bound."""
    return verdict.code if verdict.code in CODES else BY_HANDLER


@dataclass(frozen=True, slots=True)
class Traced:
    """A message: its *headers*, and its *attributes* in spans."""

    headers: Mapping[str, Any]
    attributes: Attributes


def _linked(messages: Sequence[Traced]) -> Sequence[Traced]:
    """Those of *messages* that a span links to: of several, the ones whose traces are recorded."""
    if len(messages) == 1 or _is_dropped(messages):
        return messages[:1]
    return [each for each in messages if spans.is_sampled(each.headers)][: spans.MOST_LINKS]


def _is_dropped(messages: Sequence[Traced]) -> bool:
    """Whether the trace of each of *messages* is one that is not recorded."""
    return all(spans.is_sampled(each.headers) is False for each in messages)


def tracing_of(
    consumer: str, queue: str, settings: SharedSettings, telemetry: Telemetry
) -> Tracing | None:
    """The tracing of *consumer*, and of its *telemetry*; None unless the program traces."""
    tracer = tracer_of_program()
    if tracer is None:
        return None
    tracing = Tracing(tracer, consumer, queue, spans.of_brokers(settings.brokers))
    telemetry.trace_settled = tracing.trace_settled
    return tracing


@contextmanager
def current(span: "Span") -> Iterator[None]:
    """Make *span* current in the block, and record no exception: its text may have health data."""
    from opentelemetry.trace import use_span  # noqa: PLC0415

    with use_span(span, record_exception=False, set_status_on_exception=False):
        yield


def name_of(function: object) -> str:
    """The name of *function* with its module, as a service has written it."""
    module = getattr(function, "__module__", None)
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{module}.{name}" if module else name
