"""
The spans of the relay: each publish of a batch, and each event that did not leave the outbox.

    publish <exchange>     one for each write to the broker; ends with the last confirm
    retry outbox           the broker did not take the event; it waits for its next attempt
    dead_letter outbox     the event was moved to `dead_letters`

A span of several events links to the spans that created them; that of one event is also a child of
the span that created it. If the producer's trace of no event is recorded, there is no span. The
relay gives no context to an event that came without one.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, assert_never

from outbox.runtime import spans
from outbox.settings import SharedSettings
from outbox.tracing import (
    OUTBOX,
    SCOPE,
    Attributes,
    begun,
    end,
    of_outbox,
    operation,
    tracer_of_program,
)
from outbox.transports.base import Outcome, Publisher
from outbox.wire.codec import WireMessage
from relay.telemetry import Telemetry
from relay.verdict import DeadLetter, Delete, Expire, Leave, Quarantine, Retry, Verdict

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer


def traced(publisher: Publisher, settings: SharedSettings, telemetry: Telemetry) -> Publisher:
    """Return *publisher* with spans, and have *telemetry* make others, if the program traces."""
    tracer = tracer_of_program()
    if tracer is None:
        return publisher
    telemetry.trace_settled = SettledEvents(tracer).trace
    return TracedPublisher(publisher, tracer, spans.of_brokers(settings.brokers))


class TracedPublisher:
    """A *publisher* with a span for each publish to the *broker* that the attributes describe."""

    def __init__(self, publisher: Publisher, tracer: "Tracer", broker: Attributes) -> None:
        self._publisher = publisher
        self._tracer = tracer
        self._broker = broker

    async def ready(self) -> None:
        await self._publisher.ready()

    async def publish(
        self, messages: Sequence[WireMessage], *, within: timedelta
    ) -> list[Outcome]:
        span = self._span(messages)
        if span is None:
            return await self._publisher.publish(messages, within=within)
        with spans.ending(span):
            outcomes = await self._publisher.publish(messages, within=within)
            if error := error_of(outcomes):
                spans.failed(span, error)
        return outcomes

    def _span(self, messages: Sequence[WireMessage]) -> "Span | None":
        """The span of a publish of *messages*; None if their traces are not recorded."""
        from opentelemetry.trace import SpanKind  # noqa: PLC0415

        sampled = [spans.is_sampled(message.headers) for message in messages]
        if all(each is False for each in sampled):
            return None
        linked = [message for message, each in zip(messages, sampled, strict=True) if each]
        links = spans.links_to(message.headers for message in linked[: spans.MOST_LINKS])
        parent = links[0] if links and len(messages) == 1 else None
        attributes = {**self._broker, **_attributes(messages)}
        return begun(
            self._tracer,
            f"publish {attributes.get('messaging.destination.name', '')}".rstrip(),
            context=spans.child_of(parent),
            kind=SpanKind.CLIENT,
            attributes=attributes,
            links=links,
        )


def _attributes(messages: Sequence[WireMessage]) -> Attributes:
    exchange, *others = {message.exchange for message in messages}
    attributes = operation("publish", kind="send", of=exchange)
    if others:
        del attributes["messaging.destination.name"]
    if len(messages) > 1:
        return {**attributes, "messaging.batch.message_count": len(messages)}
    [message] = messages
    return {
        **attributes,
        **spans.of_message(message.message_id, message.correlation_id, size=len(message.body)),
    }


def error_of(outcomes: Iterable[Outcome]) -> str | None:
    """The error type of a publish with these *outcomes*; None if the broker took all messages."""
    errors = {outcome.value for outcome in outcomes if outcome is not Outcome.ACKED}
    return None if not errors else errors.pop() if len(errors) == 1 else spans.OTHER_ERROR


class SettledEvents:
    """Makes the spans of events that did not leave the outbox."""

    def __init__(self, tracer: "Tracer") -> None:
        self._tracer = tracer

    def trace(self, verdicts: Iterable[Verdict]) -> None:
        """Make a span for each of *verdicts* that an operator may look for."""
        for verdict in verdicts:
            match verdict:
                case Retry(row=row, code=code):
                    attributes = {f"{SCOPE}.retry.delay": verdict.delay.total_seconds()}
                    self._trace("retry", row.values, code, attributes)
                case DeadLetter(row=row, code=code):
                    self._trace("dead_letter", row.values, code, {})
                case Delete() | Expire() | Leave() | Quarantine():
                    pass
                case _:
                    assert_never(verdict)

    def _trace(self, name: str, row: Mapping[str, Any], code: str, attributes: Attributes) -> None:
        from opentelemetry.trace import SpanKind  # noqa: PLC0415

        headers = headers_of(row)
        if not spans.is_sampled(headers) or (link := spans.link_to(headers)) is None:
            return
        span = begun(
            self._tracer,
            f"{name} {OUTBOX}",
            context=spans.child_of(link),
            kind=SpanKind.CLIENT,
            attributes={
                **of_outbox(),
                **operation(name, kind="settle", of=OUTBOX),
                **spans.of_message(row["event_id"], row["correlation_id"]),
                f"{SCOPE}.attempt": row["attempts"] + 1,
                **attributes,
            },
            links=[link],
        )
        spans.failed(span, code)
        end(span)


def headers_of(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The headers of an outbox *row*, which any program may have written; empty if unreadable."""
    headers = row.get("headers")
    try:
        read = json.loads(headers) if isinstance(headers, str) else headers
    except (ValueError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}
